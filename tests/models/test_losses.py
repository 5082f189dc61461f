"""The losses against their formulas, written out in numpy float64."""

import numpy as np
import pytest
import torch

from mmgenre.models.losses import (
    LOSSES,
    asymmetric_loss,
    binary_cross_entropy,
    focal_loss,
    genre_loss,
    smooth_labels,
)

OPTIONS = {
    "focal_alpha": 0.3,
    "focal_gamma": 1.5,
    "focal_balanced": True,
    "pos_weight": torch.tensor([1.0, 2.0, 30.0, 0.5, 7.0]),
    "asymmetric_gamma_negative": 3.0,
    "asymmetric_gamma_positive": 2.0,
    "asymmetric_clip": 0.1,
    "label_smoothing": 0.0,
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_bce(x, y, pos_weight=1.0):
    return (-pos_weight * y * np.log(sigmoid(x)) - (1 - y) * np.log(sigmoid(-x))).mean()


def numpy_focal(x, y, alpha, gamma, balanced):
    p = sigmoid(x)
    p_t = p * y + (1 - p) * (1 - y)
    cross_entropy = -y * np.log(p) - (1 - y) * np.log(1 - p)
    weight = alpha * y + (1 - alpha) * (1 - y) if balanced else alpha
    return (weight * (1 - p_t) ** gamma * cross_entropy).mean()


def numpy_asymmetric(x, y, gamma_negative, gamma_positive, clip):
    p = sigmoid(x)
    p_m = np.maximum(p - clip, 0)
    positive = (1 - p) ** gamma_positive * np.log(p)
    negative = p_m**gamma_negative * np.log(1 - p_m)
    return (-y * positive - (1 - y) * negative).mean()


@pytest.fixture(params=[0.0, 0.1], ids=["hard", "smoothed"])
def batch(request):
    """Logits on both sides of the asymmetric clip, and labels: (16, 5) float64."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=4, size=(16, 5))
    labels = (rng.random((16, 5)) < 0.3).astype(float)
    epsilon = request.param
    return logits, labels * (1 - epsilon) + (1 - labels) * epsilon


def tensors(batch):
    return tuple(torch.tensor(array, dtype=torch.float32) for array in batch)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.0), (0.5, 1.5)])
def test_focal_loss_is_its_formula(batch, alpha, gamma, balanced):
    loss = focal_loss(*tensors(batch), alpha, gamma, balanced)
    assert loss.item() == pytest.approx(numpy_focal(*batch, alpha, gamma, balanced), rel=1e-5)


def test_balanced_focal_weighs_a_target_by_alpha_and_the_rest_by_its_complement():
    logits = torch.zeros(1, 1)
    target, rest = torch.ones(1, 1), torch.zeros(1, 1)
    # at p = 0.5 both sides cost 0.25 log 2 before weighting
    unweighted = 0.25 * np.log(2)
    assert focal_loss(logits, target).item() == pytest.approx(0.25 * unweighted)
    assert focal_loss(logits, rest).item() == pytest.approx(0.75 * unweighted)
    for labels in (target, rest):
        printed = focal_loss(logits, labels, balanced=False)
        assert printed.item() == pytest.approx(0.25 * unweighted)


@pytest.mark.parametrize("pos_weight", [None, [1.0, 2.0, 30.0, 0.5, 7.0]])
def test_binary_cross_entropy_is_its_formula(batch, pos_weight):
    weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)
    expected = numpy_bce(*batch, 1.0 if pos_weight is None else np.array(pos_weight))
    assert binary_cross_entropy(*tensors(batch), weight).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("gamma_negative", "gamma_positive", "clip"),
    [(4.0, 1.0, 0.05), (2.5, 0.0, 0.2), (4.0, 1.0, 0.0), (0.0, 1.0, 0.3)],
)
def test_asymmetric_loss_is_its_formula(batch, gamma_negative, gamma_positive, clip):
    options = (gamma_negative, gamma_positive, clip)
    loss = asymmetric_loss(*tensors(batch), *options)
    assert loss.item() == pytest.approx(numpy_asymmetric(*batch, *options), rel=1e-5)


def test_asymmetric_loss_without_focus_and_clip_is_the_cross_entropy(batch):
    loss = asymmetric_loss(*tensors(batch), gamma_negative=0.0, gamma_positive=0.0, clip=0.0)
    assert loss.item() == pytest.approx(numpy_bce(*batch), rel=1e-5)


def test_asymmetric_gradient_is_the_formula_s_slope(batch):
    logits, labels = tensors(batch)
    logits.requires_grad_(True)
    asymmetric_loss(logits, labels).backward()
    options, step = (4.0, 1.0, 0.05), 1e-6
    slope = np.zeros_like(batch[0])
    for index in np.ndindex(slope.shape):
        move = np.zeros_like(slope)
        move[index] = step
        up = numpy_asymmetric(batch[0] + move, batch[1], *options)
        down = numpy_asymmetric(batch[0] - move, batch[1], *options)
        slope[index] = (up - down) / (2 * step)
    np.testing.assert_allclose(logits.grad.numpy(), slope, rtol=1e-3, atol=1e-8)


def test_smoothing_moves_targets_and_the_rest_towards_each_other():
    smoothed = smooth_labels(torch.tensor([[0, 1]]), 0.1)
    assert smoothed.tolist() == [[pytest.approx(0.1), pytest.approx(0.9)]]


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_logits_have_finite_losses_and_gradients(loss, balanced, smoothing, clip):
    logits = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4]] * 2, requires_grad=True)
    labels = torch.tensor([[0.0] * 5, [1.0] * 5])
    defaults = {
        "focal_gamma": 2.0,
        "asymmetric_gamma_negative": 4.0,
        "asymmetric_gamma_positive": 1.0,
    }
    options = OPTIONS | defaults | {"focal_balanced": balanced, "asymmetric_clip": clip}
    value = genre_loss(logits, labels, loss=loss, **options | {"label_smoothing": smoothing})
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    if loss != "asymmetric" or clip == 0:
        # a sure miss costs about its logit, not a clamped logarithm
        assert value.item() > 100


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_logits_are_computed_in_float32(loss):
    logits = torch.linspace(-6, 6, 10).reshape(2, 5).bfloat16()
    labels = (torch.arange(10).reshape(2, 5) % 3 == 0).long()
    value = genre_loss(logits, labels, loss=loss, **OPTIONS)
    assert value.dtype == torch.float32
    assert value.item() == genre_loss(logits.float(), labels, loss=loss, **OPTIONS).item()


def test_genre_loss_passes_every_option_to_the_named_loss(batch):
    hard = (batch[1] > 0.5).astype(float)
    logits, labels = tensors((batch[0], hard))
    smoothed = hard * 0.8 + (1 - hard) * 0.2
    options = OPTIONS | {"label_smoothing": 0.2}
    expected = {
        "focal": numpy_focal(batch[0], smoothed, 0.3, 1.5, True),
        "bce": numpy_bce(batch[0], smoothed, OPTIONS["pos_weight"].double().numpy()),
        "asymmetric": numpy_asymmetric(batch[0], smoothed, 3.0, 2.0, 0.1),
    }
    assert set(expected) == set(LOSSES)
    for loss, value in expected.items():
        assert genre_loss(logits, labels, loss=loss, **options).item() == pytest.approx(
            value, rel=1e-5
        )
    printed = genre_loss(logits, labels, loss="focal", **options | {"focal_balanced": False})
    assert printed.item() == pytest.approx(
        numpy_focal(batch[0], smoothed, 0.3, 1.5, False), rel=1e-5
    )


def test_unknown_loss_names_the_choices():
    with pytest.raises(ValueError, match="loss 'hinge' is unknown; choose one of focal, bce, asym"):
        genre_loss(torch.zeros(1, 5), torch.zeros(1, 5), loss="hinge", **OPTIONS)


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"labels have shape \(1, 4\).*\(2, 4\)"):
        genre_loss(torch.zeros(2, 4), torch.zeros(1, 4), loss="asymmetric", **OPTIONS)
