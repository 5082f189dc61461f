"""MFM's attention by class activation maps against numpy, and its three losses."""

import numpy as np
import pytest
import torch
from systems import LABELS, create, create_batch

from mmgenre.models.mfm import ActivationMapAttention


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_regions_are_weighted_by_what_the_classifier_sees_in_them():
    torch.manual_seed(0)
    attention = ActivationMapAttention(dim=5, num_labels=3).double()
    regions = torch.randn(2, 5, 2, 4, dtype=torch.float64)
    weight = attention.classifier.weight.detach().numpy()
    bias = attention.classifier.bias.detach().numpy()
    vector, logits = (value.detach().numpy() for value in attention(regions))
    for movie, features in enumerate(regions.numpy()):
        maps = np.array([(w[:, None, None] * features).sum(axis=0) for w in weight])
        genre_logits = maps.mean(axis=(1, 2)) + bias
        np.testing.assert_allclose(logits[movie], genre_logits, atol=1e-12)
        weights = sigmoid((sigmoid(genre_logits)[:, None, None] * maps).sum(axis=0))
        np.testing.assert_allclose(
            vector[movie], (weights * features).mean(axis=(1, 2)), atol=1e-12
        )


def test_the_loss_is_the_sum_of_three():
    model = create("mfm", image_loss_weight=0.5, text_loss_weight=3.0)
    calls = {}
    for name in ("image_attention", "text_classifier"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, __, out, name=name: calls.__setitem__(name, out))
    output = model(**create_batch(model), labels=LABELS)
    parts = [output.logits, calls["image_attention"][1], calls["text_classifier"]]
    losses = [model.genre_loss(logits, LABELS).item() for logits in parts]
    assert output.loss.item() == pytest.approx(losses[0] + 0.5 * losses[1] + 3.0 * losses[2])
