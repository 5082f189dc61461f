"""ReFNet's refiner: its losses by loops, and that it is gone at inference."""

import math

import numpy as np
import pytest
import torch
from systems import LABELS, create, create_batch

from mmgenre.models.losses import genre_overlap, multi_similarity_loss
from mmgenre.models.registry import load_model


def overlap(a, b):
    """Jaccard index of two lists of 0 and 1; 0 where both are empty."""
    a, b = {i for i, v in enumerate(a) if v}, {i for i, v in enumerate(b) if v}
    return len(a & b) / len(a | b) if a | b else 0.0


def loop_loss(embeddings, labels, scale_positive, scale_negative, threshold, margin, min_overlap):
    """Wang et al. 2019, section 4.2 and equation 11, pair by pair."""
    total = 0.0
    for i, anchor in enumerate(embeddings):
        similar = {
            k: float(anchor @ other / np.linalg.norm(anchor) / np.linalg.norm(other))
            for k, other in enumerate(embeddings)
            if k != i
        }
        positives = [k for k in similar if overlap(labels[i], labels[k]) >= min_overlap]
        negatives = [k for k in similar if overlap(labels[i], labels[k]) == 0]
        if not positives or not negatives:
            continue
        weakest = min(similar[k] for k in positives)
        strongest = max(similar[k] for k in negatives)
        hard_positives = [k for k in positives if similar[k] - margin < strongest]
        hard_negatives = [k for k in negatives if similar[k] + margin > weakest]
        pull = sum(math.exp(-scale_positive * (similar[k] - threshold)) for k in hard_positives)
        push = sum(math.exp(scale_negative * (similar[k] - threshold)) for k in hard_negatives)
        total += math.log(1 + pull) / scale_positive + math.log(1 + push) / scale_negative
    return total / len(embeddings)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "options", [(2.0, 50.0, 0.5, 0.1, 0.5), (4.0, 10.0, 0.2, 0.5, 1.0), (2.0, 50.0, 0.5, 0.0, 0.3)]
)
def test_multi_similarity_is_the_loop_over_pairs(seed, options):
    rng = np.random.default_rng(seed)
    labels = (rng.random((12, 5)) < 0.3).astype(int)  # some movies without a genre
    embeddings = rng.normal(size=(12, 6)) + 0.5
    names = ("scale_positive", "scale_negative", "threshold", "margin", "min_overlap")
    expected = loop_loss(embeddings, labels, *options)
    assert expected > 0
    got = multi_similarity_loss(
        torch.tensor(embeddings), torch.tensor(labels), **dict(zip(names, options, strict=True))
    )
    assert got.item() == pytest.approx(expected, rel=1e-4)


def test_genre_overlap_is_the_jaccard_index():
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    expected = [[overlap(a, b) for b in labels.tolist()] for a in labels.tolist()]
    torch.testing.assert_close(genre_overlap(labels), torch.tensor(expected))


@pytest.mark.parametrize("labels", [LABELS[:1], LABELS[[0, 0]], torch.zeros(3, 4)])
def test_without_pairs_of_both_kinds_it_is_zero_and_so_is_its_gradient(labels):
    embeddings = torch.randn(len(labels), 6, requires_grad=True)
    loss = multi_similarity_loss(embeddings, labels)
    loss.backward()
    assert loss.item() == 0
    assert not embeddings.grad.any()


def test_the_loss_is_classification_reconstruction_and_similarity():
    model = create("refnet", reconstruction_weight=0.3, similarity_weight=0.7)
    batch = create_batch(model)
    states = []
    layers = model.text_encoder.encoder.layer
    layers[-2].register_forward_hook(
        lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out)
    )
    output = model(**batch, labels=LABELS)
    hidden, words = states[0], batch["attention_mask"].sum(dim=1) - 2
    fused = torch.stack([h[: 3 + n].mean(dim=0) for h, n in zip(hidden, words, strict=True)])
    means = {
        "image": hidden[:, 1],
        "text": torch.stack([h[3 : 3 + n].mean(dim=0) for h, n in zip(hidden, words, strict=True)]),
    }
    expected = model.genre_loss(output.logits, LABELS) + 0.7 * multi_similarity_loss(fused, LABELS)
    for name, mean in means.items():
        distances = 1 - torch.cosine_similarity(model.decoders[name](fused), mean)
        expected = expected + 0.3 * distances.mean()
    torch.testing.assert_close(output.loss, expected)


def test_a_modality_that_a_movie_lacks_is_not_reconstructed():
    model = create("refnet", missing_modality="learned", similarity_weight=0.0)
    batch = create_batch(model)
    batch["image_present"] = torch.zeros(4, dtype=torch.bool)
    batch["attention_mask"] = torch.zeros_like(batch["attention_mask"])
    batch["attention_mask"][:, :2] = 1  # [CLS] and [SEP]
    output = model(**batch, labels=LABELS)
    torch.testing.assert_close(output.loss, model.genre_loss(output.logits, LABELS))


def test_decoders_are_trained_and_gone_at_inference(tmp_path):
    model = create("refnet")
    batch = create_batch(model)
    decoders = {name for name, _ in model.named_parameters() if name.startswith("decoders.")}
    assert {name.split(".")[1] for name in decoders} == {"image", "text"}
    model.train()(**batch, labels=LABELS).loss.backward()
    parameters = dict(model.named_parameters())
    assert all(parameters[name].grad.any() for name in decoders)

    logits = model.eval()(**batch).logits
    model.remove_refiner()
    assert torch.equal(model(**batch).logits, logits)
    output = model(**batch, labels=LABELS)
    torch.testing.assert_close(output.loss, model.genre_loss(logits, LABELS))
    model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path)).eval()
    assert not any("decoder" in name for name in loaded.state_dict())
    torch.testing.assert_close(loaded(**batch).logits, logits)


def test_no_decoder_runs_without_labels():
    model = create("refnet")
    for decoder in model.decoders.values():
        decoder.forward = None
    assert model(**create_batch(model)).logits.shape == (4, 4)
