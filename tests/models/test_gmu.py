"""GMU's gate and head against numpy."""

import numpy as np
import torch
from systems import create, create_batch

from mmgenre.models.gmu import GatedMultimodalUnit


def arrays(module):
    return {n: v.detach().double().numpy() for n, v in module.state_dict().items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gate(weight, image, text):
    """Equations 1 to 5 of the paper, unit by unit, with the projections given."""
    both = np.concatenate([image, text], axis=1)
    out = np.empty_like(image)
    for movie in range(len(image)):
        for unit in range(image.shape[1]):
            z = sigmoid(weight[unit] @ both[movie])
            out[movie, unit] = z * np.tanh(image[movie, unit])
            out[movie, unit] += (1 - z) * np.tanh(text[movie, unit])
    return out


def test_the_gate_sees_the_projections_before_their_tanh():
    torch.manual_seed(0)
    unit = GatedMultimodalUnit(5)
    assert unit.gate.bias is None
    image, text = torch.randn(2, 4, 5, dtype=torch.float64) * 3
    expected = gate(unit.gate.weight.detach().double().numpy(), image.numpy(), text.numpy())
    out = unit.double()(image, text).detach().numpy()
    np.testing.assert_allclose(out, expected, atol=1e-12)


def test_the_whole_model_is_the_paper_s():
    model = create("gmu")
    with torch.no_grad():  # statistics and scales other than the initial ones
        for value in model.state_dict().values():
            if value.is_floating_point() and value.ndim == 1:
                value.copy_(torch.rand(value.shape) + 0.5)
    model = model.double()
    batch = {name: value.double() for name, value in create_batch(model).items()}
    w = arrays(model)

    def batch_norm(x, name):
        x = (x - w[f"{name}.running_mean"]) / np.sqrt(w[f"{name}.running_var"] + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def maxout(x, name):
        x = x @ w[f"{name}.linear.weight"].T + w[f"{name}.linear.bias"]
        return np.maximum(x[:, 0::2], x[:, 1::2])

    image, text = (
        batch_norm(batch[f"{m}_features"].numpy(), f"{m}_projection.0")
        @ w[f"{m}_projection.2.weight"].T
        for m in ("image", "text")
    )
    fused = gate(w["gmu.gate.weight"], image, text)
    hidden = maxout(batch_norm(fused, "head.0"), "head.2")
    hidden = batch_norm(maxout(batch_norm(hidden, "head.3"), "head.5"), "head.6")
    logits = hidden @ w["classifier.weight"].T + w["classifier.bias"]

    output = model(**batch, output_embedding=True)
    np.testing.assert_allclose(output.embedding.detach().numpy(), fused, atol=1e-10)
    np.testing.assert_allclose(output.logits.detach().numpy(), logits, atol=1e-10)
    assert "image_projection.2.bias" not in w
