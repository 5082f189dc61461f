"""What every system of the registry keeps, whatever it computes."""

import copy

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from systems import CASES, GENRES, LABELS, create, create_batch
from torch.utils.data import DataLoader, Dataset

from mmgenre.evaluation.evaluator import Evaluator
from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.models.registry import create_config, load_model, load_processor

CASE = pytest.mark.parametrize("case", CASES)
PLOT = "a war on the moon."
LOOK_AT_NOTHING = ("majority", "label_frequency")


def processor_of(model, tokenizer):
    needs = "text" in model.config.modalities
    return MMGenreProcessor.from_config(model.config, tokenizer if needs else None)


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@CASE
@pytest.mark.parametrize("missing_modality", ["fill", "learned"])
def test_every_trained_parameter_gets_a_gradient(case, missing_modality):
    """Or DistributedDataParallel would wait for it for ever."""
    model = create(case, missing_modality=missing_modality).train()
    batch = create_batch(model)
    if missing_modality == "learned":
        for name in ("image", "text"):
            if model.config.feature_dims or name in model.config.modalities:
                batch[f"{name}_present"] = torch.tensor([True, True, False, True])
    output = model(**batch, labels=LABELS)
    assert output.logits.shape == (4, 4)
    assert torch.isfinite(output.loss)
    output.loss.backward()
    assert {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None} == set()


@CASE
def test_a_saved_model_and_its_processor_load_as_they_were(case, tokenizer, tmp_path):
    model = create(case)
    model.train()(**create_batch(model), labels=LABELS)  # so that batch norms have statistics
    model.eval().save_pretrained(tmp_path)
    processor = processor_of(model, tokenizer)
    processor.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path)).eval()
    assert type(loaded) is type(model)
    state, own = model.state_dict(), loaded.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    batch = create_batch(model)
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(model, batch))
    assert load_processor(str(tmp_path)).to_dict() == processor.to_dict()


@CASE
def test_the_evaluation_s_loss_is_the_classification_s_alone(case, fresh_accelerate):
    model = create(case)
    batch = create_batch(model)

    class Movies(Dataset):
        def __len__(self):
            return len(LABELS)

        def __getitem__(self, index):
            movie = {name: value[index] for name, value in batch.items()}
            return {**movie, "labels": LABELS[index], "index": index}

    accelerator = Accelerator(cpu=True)
    evaluator = Evaluator(accelerator, DataLoader(Movies(), batch_size=3), GENRES)
    expected = model.genre_loss(logits_of(model, batch), LABELS).item()
    assert evaluator.evaluate(model).loss == pytest.approx(expected, rel=1e-5)


@CASE
@pytest.mark.parametrize("missing_modality", ["fill", "learned"])
def test_a_movie_that_lacks_a_modality_is_classified(case, missing_modality, tokenizer):
    model = create(case, missing_modality=missing_modality)
    processor = processor_of(model, tokenizer)
    poster = Image.linear_gradient("L").resize((50, 70)).convert("RGB")
    vectors = {n: torch.ones(dim).numpy() for n, dim in model.config.feature_dims.items()}
    whole = {"images": [poster], "text": [PLOT], "features": [vectors]}
    expected = logits_of(model, processor(**whole))
    for modality, part in (("image", "images"), ("text", "text"), ("features", "features")):
        logits = logits_of(model, processor(**{**whole, part: [None]}))
        assert torch.isfinite(logits).all()
        is_seen = modality in model.config.modalities and case not in LOOK_AT_NOTHING
        assert torch.equal(logits, expected) == (not is_seen)


NO_VECTOR = {
    ("efficientnet", "text"),
    ("bert", "image"),
    # an absent plot is a sequence without words
    ("mmbt", "text"),
    ("refnet", "text"),
    # a node is always there
    ("gat", "text"),
    ("mm_gatbt", "image"),
    ("mm_gatbt", "text"),
    *((case, name) for case in ("tfidf", *LOOK_AT_NOTHING) for name in ("image", "text")),
    ("sign", "image"),
}


@pytest.mark.parametrize(
    ("case", "modality"),
    [(c, m) for c in CASES for m in ("image", "text") if (c, m) not in NO_VECTOR],
)
def test_the_learned_vector_stands_for_what_is_absent(case, modality):
    model = create(case, missing_modality="learned")
    batch = create_batch(model)
    batch[f"{modality}_present"] = torch.tensor([True, False, True, True])
    logits = logits_of(model, batch)
    kind = f"{modality}_features"
    kind = kind if kind in batch else {"image": "pixel_values", "text": "input_ids"}[modality]
    changed = {**batch, kind: batch[kind].clone()}
    changed[kind][1] = changed[kind][1].roll(1, dims=-1)
    torch.testing.assert_close(logits_of(model, changed)[1], logits[1])
    with torch.no_grad():
        model.placeholder[modality].normal_()
    moved = (logits_of(model, batch) - logits).abs().amax(dim=1) > 1e-6
    assert moved.tolist() == [False, True, False, False]


@CASE
def test_masks_without_a_learned_vector_are_refused(case):
    model = create(case)
    mask = "text_present" if model.config.modalities == ("text",) else "image_present"
    with pytest.raises(ValueError, match="need missing_modality 'learned'"):
        model(**create_batch(model), **{mask: torch.ones(4, dtype=torch.bool)})


@CASE
def test_a_missing_input_is_refused(case):
    with pytest.raises(ValueError, match="needs the modality '(image|text)' of every movie"):
        create(case)()


@CASE
def test_the_embedding_is_given_on_request(case):
    model = create(case)
    batch = create_batch(model)
    embedding = model(**batch, output_embedding=True).embedding
    assert embedding.shape[0] == 4
    assert embedding.ndim == 2
    assert model(**batch).embedding is None


@CASE
def test_frozen_encoders_stay_and_the_rest_learns(case):
    model = create(case, trainable_image_layers=[], trainable_text_layers=[]).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**create_batch(model), labels=LABELS).loss.backward()
    optimizer.step()
    encoders = ("image_encoder.", "text_encoder.")
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert any(name.startswith("classifier") for name in moved)
    assert not {name for name in moved if name.startswith(encoders)}


@CASE
def test_gradient_checkpointing_changes_no_gradient(case):
    model = create(case)
    if getattr(model, "text_encoder", None) is None:
        with pytest.raises(ValueError, match="checkpointing"):
            model.gradient_checkpointing_enable()
        return
    # Dropout off in training mode, in which alone activations are computed again.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if isinstance(getattr(model, "attention", None), torch.nn.MultiheadAttention):
        model.attention.dropout = 0.0
    model.set_attn_implementation("eager")
    for layer in model.text_encoder.encoder.layer:
        layer.attention.self.dropout.p = 0.0
    gradients = []
    for _ in range(2):
        model.train().zero_grad()
        model(**create_batch(model), labels=LABELS).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        model.gradient_checkpointing_enable()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize(
    ("system", "option", "nearest"),
    [
        ("efficientnet", "fusion_tokens", None),
        ("efficientnet", "num_image_tokens", None),
        ("bert", "image_architecture", None),
        ("gmu", "modality", "modalities"),
        ("centralnet", "fusion_dropout", "dropout"),
        ("mmbt", "projection_dim", None),
        ("mmbt", "reconstruction_weight", None),
        ("mfm", "num_levels", None),
        ("refnet", "num_image_token", "num_image_tokens"),
        ("majority", "class_weight", None),
    ],
)
def test_an_option_of_another_system_is_refused(system, option, nearest):
    hint = f"did you mean '{nearest}'" if nearest else "(did you mean|it has)"
    message = rf"model_config key '{option}' is unknown to model '{system}'; {hint}"
    with pytest.raises(ValueError, match=message):
        create_config(system, GENRES, {option: 1})


@pytest.mark.parametrize(
    ("system", "model_config", "message"),
    [
        ("efficientnet", {"image_architecture": "resnet50"}, "it can be efficientnet_tiny, "),
        ("mmbt", {"image_architecture": "efficientnet_b4"}, "it can be resnet10, "),
        ("mmbt", {"num_image_tokens": 10}, r"num_image_tokens is 10; it can be 1, 2, .*, 9\Z"),
        ("mmbt", {"image_resize": 100}, "the square of image_size 224 does not fit into that"),
        ("gmu", {"modalities": ["text"]}, r"it can be \[features\] or \[image, text\]"),
        ("centralnet", {"num_levels": 0}, "it must be 1 or more"),
        ("tfidf", {"min_df": 0}, "min_df is 0; it must be 1 or more"),
        ("tfidf", {"C": 0}, "C is 0.0; it must be above 0"),
        ("tfidf", {"class_weight": "none"}, "class_weight"),
    ],
)
def test_a_value_that_a_system_cannot_have_is_named(system, model_config, message):
    with pytest.raises(ValueError, match=message):
        create_config(system, GENRES, model_config)


def test_a_checkpoint_of_one_system_is_not_another_s(tmp_path):
    create("mmbt").save_pretrained(tmp_path)
    create("mfm").config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights that do not fit its config.json"):
        load_model(str(tmp_path))
