"""SIGN over plots: its inputs, what is fixed, and what a movie without neighbours gets."""

import copy

import numpy as np
import pytest
import torch
from systems import GENRES, LABELS, create, create_batch

from mmgenre.models.layers import mean_of_words
from mmgenre.models.registry import create_config


def test_the_mean_of_words_leaves_padding_out() -> None:
    words = torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    expected = [words[0].mean(dim=0), words[1, :2].mean(dim=0), words[2, 0]]
    torch.testing.assert_close(mean_of_words(words, mask), torch.stack(expected))


def test_logits_are_those_of_scaled_vectors_each_through_a_network_of_its_own() -> None:
    model = create("sign").double()
    known = torch.randn(20, 32, dtype=torch.float64) * 3 + 1
    model.set_scale(known)
    vectors = torch.randn(4, 3, 32, dtype=torch.float64)
    x = (vectors.numpy() - known.numpy().mean(axis=0)) / known.numpy().std(axis=0, ddof=1)

    def linear(layer, x):
        return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    def swiglu(block, x):
        gate = linear(block.w1, x)
        return linear(block.w2, gate / (1 + np.exp(-gate)) * linear(block.w3, x))

    joined = np.concatenate([swiglu(p, x[:, i]) for i, p in enumerate(model.projections)], axis=1)
    centred = joined - joined.mean(axis=1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    expected = linear(model.classifier, swiglu(model.classifier_ffn, normed))
    output = model(node_vectors=vectors)
    np.testing.assert_allclose(output.logits.detach().numpy(), expected, atol=1e-10)


def test_a_movie_that_shares_nobody_is_its_plot_alone() -> None:
    model = create("sign")
    batch = create_batch(model)
    own = model.train().encode_plots(**batch)
    assert not own.requires_grad
    vectors = own[:, None].expand(-1, 3, -1)
    model.eval()
    torch.testing.assert_close(model(**batch).logits, model(node_vectors=vectors).logits)


def test_the_plot_encoder_stays_as_it_is_in_training() -> None:
    model = create("sign").train()
    before = copy.deepcopy(model.text_encoder.state_dict())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    model(**create_batch(model), labels=LABELS).loss.backward()
    optimizer.step()
    assert all(torch.equal(v, before[n]) for n, v in model.text_encoder.state_dict().items())


def test_a_plot_encoder_that_is_to_learn_is_refused() -> None:
    message = r"trainable_text_layers is \['all'\]; plots are encoded once, so the plot encoder"
    with pytest.raises(ValueError, match=message):
        create_config("sign", GENRES, {"trainable_text_layers": ["all"]})
