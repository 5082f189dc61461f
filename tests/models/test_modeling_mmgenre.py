"""The report's model: its size, what learns, its fusion, missing modalities, saving."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmgenre.models.configuration_mmgenre import MMGenreConfig
from mmgenre.models.losses import genre_loss
from mmgenre.models.modeling_mmgenre import MMGenreForSequenceClassification
from mmgenre.models.processing_mmgenre import MMGenreProcessor

FUSIONS = ("fused", "modality", "grid")
MODALITIES = ("image", "text")


def logits_of(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def in_float64(model, batch):
    """So that the small effect of a word in a random model stands out from rounding."""
    return model.double(), batch | {"pixel_values": batch["pixel_values"].double()}


def train_step(model, batch, labels):
    """Forward, backward and one step that is large enough to see."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    model(**batch, labels=labels).loss.backward()
    optimizer.step()


def captured_inputs(module):
    """The positional arguments that `module` is called with from now on, call by call."""
    calls = []
    module.register_forward_pre_hook(lambda _, args: calls.append(args))
    return calls


# --- size


def linear(n_in, n_out):
    return n_in * n_out + n_out


def swiglu(n_in, n_out):
    hidden = 8 * n_in // 3
    return 2 * linear(n_in, hidden) + linear(hidden, n_out)


def resnet50_stage(n_in, width, blocks):
    """1x1, 3x3 and 1x1 convolutions without biases, each with a batch norm of two vectors."""
    n_out = 4 * width
    total = n_in * n_out + 2 * n_out  # the first block's projection shortcut
    for _ in range(blocks):
        total += n_in * width + 2 * width + 9 * width * width + 2 * width + width * n_out
        total += 2 * n_out
        n_in = n_out
    return total


def test_the_default_config_has_the_report_s_parameter_counts():
    layer4 = resnet50_stage(1024, 512, 3)
    resnet50 = 3 * 64 * 7 * 7 + 2 * 64 + layer4
    resnet50 += resnet50_stage(64, 64, 3) + resnet50_stage(256, 128, 4)
    resnet50 += resnet50_stage(512, 256, 6)
    embeddings = (30522 + 512 + 2) * 768 + 2 * 768
    bert_layer = 4 * linear(768, 768) + linear(768, 3072) + linear(3072, 768) + 2 * 2 * 768
    pooler = linear(768, 768)
    bert = embeddings + 12 * bert_layer + pooler
    fused = 2 * 512
    new = swiglu(2048, 512) + swiglu(768, 512)
    new += 4 * linear(fused, fused) + 2 * fused  # attention and its norm
    new += 2 * fused + swiglu(fused, fused // 2) + linear(fused // 2, 26)
    total, trained = resnet50 + bert + new, layer4 + embeddings + 2 * bert_layer + pooler + new
    assert (total, trained) == (173_575_512, 94_153_496)

    with torch.device("meta"):
        model = MMGenreForSequenceClassification(MMGenreConfig())
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


# --- freezing

TRAINED_BY_DEFAULT = (
    "image_encoder.layer4.",
    "text_encoder.embeddings.",
    "text_encoder.encoder.layer.1.",
    "text_encoder.encoder.layer.2.",
    "text_encoder.pooler.",
    "image_projection.",
    "text_projection.",
    "attention.",
    "attention_norm.",
    "classifier_norm.",
    "classifier_ffn.",
    "classifier.",
)


def assert_trains_exactly(model, prefixes):
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if not n.startswith(prefixes)}
    assert frozen


def test_the_report_s_layers_learn_and_only_they_after_loading_too(tiny_model, tmp_path):
    model = tiny_model()
    assert_trains_exactly(model, TRAINED_BY_DEFAULT)
    model.save_pretrained(tmp_path)
    loaded = MMGenreForSequenceClassification.from_pretrained(tmp_path)
    assert_trains_exactly(loaded, TRAINED_BY_DEFAULT)


@pytest.mark.parametrize(
    ("names", "frozen"),
    [
        (["all"], []),
        ([], ["embeddings", "encoder.layer.0", "encoder.layer.1", "encoder.layer.2", "pooler"]),
        (["encoder.layer.-1"], ["embeddings", "encoder.layer.0", "encoder.layer.1", "pooler"]),
        (["-1", "encoder.layer.-3"], ["embeddings", "encoder.layer.1", "encoder.layer.2"]),
        (["encoder"], ["embeddings", "pooler"]),
    ],
)
def test_named_layers_learn_counted_from_the_end_too(tiny_model, names, frozen):
    encoder = tiny_model(modalities=["text"], trainable_text_layers=names).text_encoder
    prefixes = tuple(f"{name}." for name in frozen)
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad != name.startswith(prefixes), name


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("image", "layer5", r"names 'layer5', which ResNetEncoder .* conv1, .*layer4, avgpool"),
        ("text", "encoder.layer.3", r"names 'encoder\.layer\.3'.* at '3' .* one of 0, 1, 2$"),
        ("text", "encoder.layer.-4", r"names 'encoder\.layer\.-4'.* at '-4' .* one of 0, 1, 2$"),
    ],
)
def test_an_unknown_layer_name_is_refused_with_the_choices(tiny_model, field, name, message):
    with pytest.raises(ValueError, match=f"trainable_{field}_layers {message}"):
        tiny_model(**{f"trainable_{field}_layers": [name]})


@pytest.mark.parametrize("freeze_batch_norm", [True, False])
def test_statistics_of_frozen_batch_norms_move_only_when_asked(
    tiny_model, batch, labels, freeze_batch_norm
):
    model = tiny_model(freeze_batch_norm=freeze_batch_norm)
    before = copy.deepcopy(model.state_dict())
    train_step(model, batch, labels)
    after = model.state_dict()
    names = [n for n in before if n.endswith(("running_mean", "running_var"))]
    moved = {n for n in names if not torch.equal(before[n], after[n])}
    learning = {n for n in names if n.startswith("image_encoder.layer4.")}
    assert moved == (learning if freeze_batch_norm else set(names))
    assert learning < set(names)
    frozen = "image_encoder.conv1.weight"
    assert torch.equal(before[frozen], after[frozen])


# --- fusion


@pytest.mark.parametrize("fusion_tokens", FUSIONS)
def test_queries_and_keys_learn_unless_attention_runs_over_one_token(
    tiny_model, batch, labels, fusion_tokens
):
    model = tiny_model(fusion_tokens=fusion_tokens).train()
    model(**batch, labels=labels).loss.backward()
    query, key, value = model.attention.in_proj_weight.grad.chunk(3)
    assert value.abs().max() > 0
    if fusion_tokens == "fused":
        assert not query.any()
        assert not key.any()
    else:
        assert query.abs().max() > 0
        assert key.abs().max() > 0


def test_fused_attention_is_a_linear_map(tiny_model, batch):
    model = tiny_model()
    calls = captured_inputs(model.attention)
    with torch.no_grad():
        embedding = model(**batch, output_embedding=True).embedding
        x = calls[0][0].squeeze(1)
        size = x.shape[1]
        v_weight = model.attention.in_proj_weight[2 * size :]
        v_bias = model.attention.in_proj_bias[2 * size :]
        attended = model.attention.out_proj(x @ v_weight.T + v_bias)
        expected = torch.nn.functional.layer_norm(x + attended, [size])
    assert torch.equal(calls[0][0], calls[0][1])
    assert torch.equal(calls[0][0], calls[0][2])
    torch.testing.assert_close(embedding, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("fusion_tokens", FUSIONS)
def test_padding_and_masked_words_do_not_matter_and_real_words_do(tiny_model, batch, fusion_tokens):
    model, batch = in_float64(tiny_model(fusion_tokens=fusion_tokens), batch)
    logits = logits_of(model, batch)

    more = torch.full((3, 5), 7)
    padded = batch | {
        "input_ids": torch.cat([batch["input_ids"], more], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros_like(more)], dim=1),
    }
    torch.testing.assert_close(logits_of(model, padded), logits, atol=1e-10, rtol=0)

    changed = batch | {"input_ids": batch["input_ids"].clone()}
    changed["input_ids"][1, 6:] = 42
    torch.testing.assert_close(logits_of(model, changed), logits, atol=1e-10, rtol=0)
    changed["input_ids"][1, 5] = 4
    difference = (logits_of(model, changed) - logits).abs().amax(dim=1)
    assert difference[1] > 1e-7
    assert difference[[0, 2]].max() <= 1e-10


def test_every_region_of_the_grid_is_attended_to(tiny_model, batch):
    model = tiny_model(fusion_tokens="grid")
    calls = captured_inputs(model.attention)
    logits_of(model, batch)
    query, keys, _ = calls[0]
    # the poster's and the plot's token, 64 / 32 squared regions, 9 words
    assert query.shape == (3, 2, 16)
    assert keys.shape == (3, 2 + 4 + 9, 16)


@pytest.mark.parametrize("fusion_tokens", FUSIONS)
def test_the_embedding_is_what_the_classifier_sees(tiny_model, batch, fusion_tokens):
    model = tiny_model(fusion_tokens=fusion_tokens)
    calls = captured_inputs(model.classifier_norm)
    output = model(**batch, output_embedding=True)
    assert output.embedding.shape == (3, 2 * 16)
    assert torch.equal(output.embedding, calls[0][0])
    assert model(**batch).embedding is None


def test_the_plot_s_vector_is_the_mean_of_its_real_words_on_request(tiny_model, batch):
    model = tiny_model(text_pooling="mean", trainable_text_layers=["all"])
    calls = captured_inputs(model.text_projection)
    logits_of(model, batch)
    words = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        vectors = model.text_encoder(**words).last_hidden_state
    expected = [
        v[mask.bool()].mean(dim=0) for v, mask in zip(vectors, words["attention_mask"], strict=True)
    ]
    torch.testing.assert_close(calls[0][0], torch.stack(expected))
    assert model.text_encoder.pooler is None


def test_a_missing_attention_mask_means_that_all_words_are_real(tiny_model, batch):
    model = tiny_model(fusion_tokens="grid")
    del batch["attention_mask"]
    explicit = batch | {"attention_mask": torch.ones_like(batch["input_ids"])}
    assert torch.equal(logits_of(model, batch), logits_of(model, explicit))


# --- missing modalities


def test_only_learned_replacements_have_parameters(tiny_model):
    def placeholders(model):
        return {name for name, _ in model.named_parameters() if "placeholder" in name}

    assert placeholders(tiny_model(missing_modality="fill")) == set()
    learned = tiny_model(missing_modality="learned")
    assert placeholders(learned) == {"placeholder.image", "placeholder.text"}
    assert learned.placeholder["image"].std() > 0


@pytest.mark.parametrize("name", MODALITIES)
def test_filled_models_refuse_to_do_without_a_modality(tiny_model, batch, name):
    del batch[{"image": "pixel_values", "text": "input_ids"}[name]]
    with pytest.raises(ValueError, match=f"needs the modality '{name}' of every movie"):
        tiny_model()(**batch)


def test_a_model_without_any_input_is_refused(tiny_model):
    model = tiny_model(missing_modality="learned")
    with pytest.raises(ValueError, match="give one of the modalities image, text at least"):
        model(labels=torch.zeros(3, 4))


@pytest.mark.parametrize("fusion_tokens", FUSIONS)
def test_an_absent_poster_s_pixels_do_not_matter(tiny_model, batch, fusion_tokens):
    model = tiny_model(missing_modality="learned", fusion_tokens=fusion_tokens)
    model, batch = in_float64(model, batch)
    present = torch.tensor([True, False, True])
    logits = logits_of(model, batch | {"image_present": present})
    pixels = torch.flip(batch["pixel_values"], [-1]) * 3
    other = logits_of(model, batch | {"image_present": present, "pixel_values": pixels})
    torch.testing.assert_close(other[1], logits[1], atol=1e-10, rtol=0)
    assert ((other - logits)[[0, 2]].abs().amax(dim=1) > 1e-7).all()
    all_there = batch | {"image_present": torch.ones(3, dtype=torch.bool)}
    torch.testing.assert_close(logits_of(model, all_there), logits_of(model, batch))


@pytest.mark.parametrize("fusion_tokens", FUSIONS)
@pytest.mark.parametrize("name", MODALITIES)
def test_leaving_a_modality_out_is_declaring_all_of_it_absent(
    tiny_model, batch, fusion_tokens, name
):
    model = tiny_model(missing_modality="learned", fusion_tokens=fusion_tokens)
    model, batch = in_float64(model, batch)
    declared = logits_of(model, batch | {f"{name}_present": torch.zeros(3, dtype=torch.bool)})
    assert (declared - logits_of(model, batch)).abs().max() > 1e-7
    for key in {"image": ["pixel_values"], "text": ["input_ids", "attention_mask"]}[name]:
        del batch[key]
    torch.testing.assert_close(logits_of(model, batch), declared, atol=1e-10, rtol=0)


@pytest.mark.parametrize("left_out", [True, False])
def test_the_learned_replacement_learns(tiny_model, batch, labels, left_out):
    model = tiny_model(missing_modality="learned").train()
    if left_out:
        del batch["pixel_values"]
    else:
        batch["image_present"] = torch.tensor([True, True, False])
    model(**batch, labels=labels).loss.backward()
    assert model.placeholder["image"].grad.abs().max() > 0
    unused = model.placeholder["text"].grad
    assert unused is None or not unused.any()


def replaced(model, batch):
    """(batch, 2) booleans: where the image's and the text's replacement goes into the fusion."""
    calls = captured_inputs(model.attention)
    logits_of(model, batch)
    placeholders = torch.stack([model.placeholder["image"], model.placeholder["text"]])
    return (calls[0][0] == placeholders).all(dim=-1)


def many(batch, copies):
    return {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in batch.items()}


@pytest.fixture
def dropping_model(tiny_model):
    return tiny_model(missing_modality="learned", modality_dropout=1.0, fusion_tokens="modality")


def test_modality_dropout_takes_one_of_two_in_training_only(dropping_model, batch):
    batch = many(batch, 8)
    assert not replaced(dropping_model, batch).any()
    dropped = replaced(dropping_model.train(), batch)
    assert (dropped.sum(dim=1) == 1).all()
    assert dropped.any(dim=0).all()


@pytest.mark.parametrize("absent", [0, 1])
def test_modality_dropout_leaves_movies_that_have_one_modality_alone(dropping_model, batch, absent):
    batch = many(batch, 8)
    present = torch.arange(24) % 2 == 0
    dropping_model.train()
    dropped = replaced(dropping_model, batch | {f"{MODALITIES[absent]}_present": present})
    assert (dropped.sum(dim=1) == 1).all()
    assert dropped[~present, absent].all()
    for key in (["pixel_values"], ["input_ids", "attention_mask"])[absent]:
        del batch[key]
    dropped = replaced(dropping_model, batch)
    assert dropped[:, absent].all()
    assert not dropped[:, 1 - absent].any()


def test_modality_dropout_is_a_share_of_the_movies(dropping_model):
    model = dropping_model.train()
    model.config.modality_dropout = 0.2
    nothing = torch.zeros(20_000, 0)
    torch.manual_seed(0)
    present = model._drop_modalities(
        {"image": None, "text": None}, {"image": nothing, "text": nothing}
    )
    # 0.1 of 20000 each; four standard deviations are 170
    for name in MODALITIES:
        assert (~present[name]).sum().item() == pytest.approx(2000, abs=170)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality_dropout": 0.1}, "modality_dropout needs missing_modality 'learned' and both"),
        (
            {"modality_dropout": 0.1, "missing_modality": "learned", "modalities": ["text"]},
            "modality_dropout needs missing_modality 'learned' and both",
        ),
        (
            {"modality_dropout": 1.5, "missing_modality": "learned"},
            "modality_dropout is 1.5; it can be 0 to 1",
        ),
        ({"modalities": []}, r"modalities is \[\]; it can be \[image, text\], \[image\] or"),
        ({"modalities": ["audio"]}, r"modalities is \['audio'\]; it can be"),
        ({"image_architecture": "resnet11"}, "image_architecture is 'resnet11'; it can be resnet1"),
        ({"thresholds": [0.5]}, "thresholds has 1 values; it needs one for each of the 4 genres"),
        ({"pos_weight": [1.0] * 5}, "pos_weight has 5 values; it needs one for each of the 4"),
    ],
)
def test_values_that_do_not_fit_are_refused(tiny_config, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


@pytest.mark.parametrize("fusion_tokens", FUSIONS)
@pytest.mark.parametrize("name", MODALITIES)
def test_a_model_of_one_modality_has_nothing_of_the_other(
    tiny_model, batch, labels, name, fusion_tokens
):
    other = {"image": "text", "text": "image"}[name]
    model = tiny_model(modalities=[name], fusion_tokens=fusion_tokens)
    assert not [n for n, _ in model.named_parameters() if other in n]
    del batch[{"image": "input_ids", "text": "pixel_values"}[name]]
    train_step(model, batch, labels)
    assert logits_of(model.eval(), batch).isfinite().all()


# --- loss


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "focal", "focal_alpha": 0.4, "focal_gamma": 1.5, "focal_balanced": False},
        {"loss": "bce", "pos_weight": [1.0, 2.0, 3.0, 4.0]},
        {
            "loss": "asymmetric",
            "asymmetric_gamma_negative": 3.0,
            "asymmetric_gamma_positive": 2.0,
            "asymmetric_clip": 0.1,
        },
    ],
    ids=lambda options: options["loss"],
)
def test_the_loss_is_the_config_s_smoothed_in_training_only(tiny_model, batch, labels, options):
    model = tiny_model(modalities=["text"], label_smoothing=0.2, **options)
    del batch["pixel_values"]
    everything = {
        "focal_alpha": 0.25,
        "focal_gamma": 2.0,
        "focal_balanced": True,
        "pos_weight": None,
        "asymmetric_gamma_negative": 4.0,
        "asymmetric_gamma_positive": 1.0,
        "asymmetric_clip": 0.05,
    } | options
    if everything["pos_weight"] is not None:
        everything["pos_weight"] = torch.tensor(everything["pos_weight"])
    for training, smoothing in ((True, 0.2), (False, 0.0)):
        output = model.train(training)(**batch, labels=labels)
        expected = genre_loss(output.logits, labels, **everything, label_smoothing=smoothing)
        torch.testing.assert_close(output.loss, expected, rtol=0, atol=0)
    assert model(**batch).loss is None


@pytest.mark.parametrize("fusion_tokens", FUSIONS)
def test_forward_leaves_its_inputs_alone(tiny_model, batch, labels, fusion_tokens):
    model = tiny_model(
        missing_modality="learned", modality_dropout=0.5, fusion_tokens=fusion_tokens
    ).train()
    batch["labels"] = labels
    batch["image_present"] = torch.tensor([True, False, True])
    batch["text_present"] = torch.tensor([True, True, False])
    before = {name: value.clone() for name, value in batch.items()}
    model(**batch)
    assert batch.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(batch[name], value), name


# --- saving


def saved_and_loaded(model, folder: Path):
    model.save_pretrained(folder)
    return MMGenreForSequenceClassification.from_pretrained(folder).eval()


def test_a_loaded_model_is_the_saved_one(tiny_model, batch, labels, tmp_path):
    model = tiny_model(
        fusion_tokens="grid",
        missing_modality="learned",
        thresholds=[0.1, 0.2, 0.3, 0.4],
        image_mean=[0.1, 0.2, 0.3],
        missing_plot="nothing",
    )
    train_step(model, batch, labels)
    batch["image_present"] = torch.tensor([True, False, True])
    logits = logits_of(model.eval(), batch)
    loaded = saved_and_loaded(model, tmp_path)

    assert torch.equal(logits_of(loaded, batch), logits)
    own, theirs = model.state_dict(), loaded.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert not torch.equal(theirs["image_encoder.layer4.0.bn1.running_mean"], torch.zeros(512))
    fields = ("thresholds", "image_mean", "image_std", "image_size", "max_length", "missing_plot")
    for field in fields:
        assert list(_items(getattr(loaded.config, field))) == list(
            _items(getattr(model.config, field))
        )
    assert loaded.config.id2label == {0: "drama", 1: "comedy", 2: "war", 3: "sci-fi"}
    assert loaded.config.label2id == {"drama": 0, "comedy": 1, "war": 2, "sci-fi": 3}
    assert loaded.config.genres == ["drama", "comedy", "war", "sci-fi"]
    assert loaded.config.problem_type == "multi_label_classification"


def _items(value):
    return value if isinstance(value, (list, tuple)) else [value]


def test_label_order_survives_saving_past_ten_labels(tiny_config, tmp_path):
    names = [f"genre{i}" for i in range(12)]
    tiny_config(id2label=dict(enumerate(names))).save_pretrained(tmp_path)
    assert MMGenreConfig.from_pretrained(tmp_path).genres == names


@pytest.mark.parametrize("fusion_tokens", FUSIONS)
def test_a_bfloat16_step_leaves_a_float32_file(tiny_model, batch, labels, tmp_path, fusion_tokens):
    model = tiny_model(missing_modality="learned", fusion_tokens=fusion_tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train_step(model, batch | {"image_present": torch.tensor([True, False, True])}, labels)
        # a whole modality left out meets the other's features in another precision
        alone = {"pixel_values": batch["pixel_values"]}
        assert logits_of(model.eval(), alone).isfinite().all()
    loaded = saved_and_loaded(model, tmp_path)
    assert torch.equal(logits_of(loaded, batch), logits_of(model, batch))
    assert not list(tmp_path.glob("*.bin"))
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert {value.dtype for value in saved.values()} == {torch.float32, torch.int64}


def test_a_compiled_model_is_saved_under_its_own_names(tiny_model, batch, labels, tmp_path):
    model = tiny_model()
    names = set(model.state_dict())
    model.compile(backend="eager")
    train_step(model, batch, labels)
    model.eval()
    loaded = saved_and_loaded(model, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == names
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(model, batch))


AUTO_CLASSES = """
import json, sys
import numpy as np, torch
from transformers import AutoModelForSequenceClassification, AutoProcessor
import mmgenre

mmgenre.register_auto_classes()
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1])
inputs = processor(images=np.load(sys.argv[2]), text="a war on the moon.")
with torch.no_grad():
    logits = model(**inputs).logits
print(json.dumps([type(model).__name__, type(processor).__name__, logits[0].tolist()]))
"""


def test_auto_classes_load_a_saved_model_in_a_fresh_process(
    tiny_model, tokenizer, picture, run_script, tmp_path
):
    model = tiny_model()
    processor = MMGenreProcessor.from_config(model.config, tokenizer)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    np.save(tmp_path / "poster.npy", np.array(picture))
    result = run_script("-c", AUTO_CLASSES, tmp_path, tmp_path / "poster.npy")
    assert result.returncode == 0, result.stderr
    model_class, processor_class, logits = json.loads(result.stdout.splitlines()[-1])
    assert (model_class, processor_class) == (type(model).__name__, "MMGenreProcessor")
    inputs = processor(images=np.array(picture), text="a war on the moon.")
    torch.testing.assert_close(torch.tensor(logits), logits_of(model, inputs)[0])
