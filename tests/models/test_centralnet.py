"""CentralNet's fusion and its sum of losses against numpy."""

import numpy as np
import pytest
import torch
from systems import LABELS, create, create_batch

WEIGHTS = {"image_loss_weight": 0.5, "text_loss_weight": 3.0}


def reference(model, batch):
    """Central vector, then central, image and text logits, layer by layer."""
    w = {n: v.detach().numpy() for n, v in model.state_dict().items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def relu(x):
        return np.maximum(x, 0)

    h = {}
    for m in ("image", "text"):
        x, norm = batch[f"{m}_features"].numpy(), f"{m}_norm"
        x = (x - w[f"{norm}.running_mean"]) / np.sqrt(w[f"{norm}.running_var"] + 1e-5)
        h[m] = x * w[f"{norm}.weight"] + w[f"{norm}.bias"]
    for level in range(model.config.num_levels):
        for m in h.keys() & {"image", "text"}:
            h[m] = relu(linear(h[m], f"levels.{level}.{m}.0"))
        a = w[f"levels.{level}.weights"]
        fused = a[0] * h["image"] + a[1] * h["text"]
        if "central" in h:
            fused = fused + a[2] * h["central"]
        h["central"] = relu(linear(fused, f"levels.{level}.central.0"))
    heads = {m: linear(h[m], f"{m}_classifier") for m in ("image", "text")}
    return h["central"], linear(h["central"], "classifier"), heads["image"], heads["text"]


def cross_entropy(logits):
    p, y = 1 / (1 + np.exp(-logits)), LABELS.numpy()
    return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()


@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_the_model_is_the_paper_s(num_levels):
    model = create("centralnet", num_levels=num_levels, **WEIGHTS).double()
    with torch.no_grad():
        for level in model.levels:
            level.weights.copy_(torch.rand(level.weights.shape) + 0.5)
    batch = {name: value.double() for name, value in create_batch(model).items()}
    central, logits, image, text = reference(model, batch)
    output = model(**batch, labels=LABELS, output_embedding=True)
    np.testing.assert_allclose(output.embedding.detach().numpy(), central, atol=1e-10)
    np.testing.assert_allclose(output.logits.detach().numpy(), logits, atol=1e-10)
    expected = cross_entropy(logits) + 0.5 * cross_entropy(image) + 3.0 * cross_entropy(text)
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)


def test_scalars_start_as_documented_and_learn():
    model = create("centralnet").train()
    assert [level.weights.tolist() for level in model.levels] == [[0.5, 0.5], [0.5, 0.5, 1.0]]
    model(**create_batch(model), labels=LABELS).loss.backward()
    assert all((level.weights.grad != 0).all() for level in model.levels)
