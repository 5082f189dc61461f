"""Which parameters are trained, at which rate, with which decay, and from which epoch on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import launch_two
from safetensors.torch import load_file
from torch import nn

from mmgenre.training.optimization import LateEncoders, create_optimizer
from mmgenre.utils.errors import UserError


@pytest.fixture
def model() -> nn.ModuleDict:
    names = ("image_encoder", "text_encoder", "classifier")
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in names})
    model["norm"] = nn.LayerNorm(2)
    model["image_encoder"].weight.requires_grad_(False)
    return model


def groups(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple]:
    """Name of each group to its rate, its decay and its parameters' names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["name"]: (group["lr"], group["weight_decay"], {names[id(p)] for p in group["params"]})
        for group in optimizer.param_groups
    }


TEXT = {"text_encoder.weight", "text_encoder.bias"}
NORM = {"norm.weight", "norm.bias"}


def test_one_group_of_what_is_trained(model: nn.ModuleDict) -> None:
    optimizer = create_optimizer(model, 1e-4, 1e-5)
    assert isinstance(optimizer, torch.optim.AdamW)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert groups(optimizer, model) == {"all": (1e-4, 1e-5, trained)}


def test_encoders_can_have_their_own_rate(model: nn.ModuleDict) -> None:
    optimizer = create_optimizer(model, 1e-3, 1e-5, backbone_learning_rate=1e-5)
    assert groups(optimizer, model) == {
        "new": (1e-3, 1e-5, {"classifier.weight", "classifier.bias"} | NORM),
        "backbone": (1e-5, 1e-5, {"image_encoder.bias"} | TEXT),
    }
    assert [group["name"] for group in optimizer.param_groups] == ["new", "backbone"]


def test_biases_and_norms_can_go_without_decay(model: nn.ModuleDict) -> None:
    optimizer = create_optimizer(model, 1e-3, 1e-5, 1e-4, decay_bias_and_norm=False)
    assert groups(optimizer, model) == {
        "new": (1e-3, 1e-5, {"classifier.weight"}),
        "new_no_decay": (1e-3, 0.0, {"classifier.bias"} | NORM),
        "backbone": (1e-4, 1e-5, {"text_encoder.weight"}),
        "backbone_no_decay": (1e-4, 0.0, {"text_encoder.bias", "image_encoder.bias"}),
    }


@pytest.mark.parametrize("frozen", [{"audio": 1}, {"image": 1}], ids=str)
def test_an_encoder_that_waits_must_be_there_and_trained(frozen: dict[str, int]) -> None:
    model = nn.Module()
    model.image_encoder = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UserError, match=r"frozen_\w+_epochs is 1, but the model has no \w+ enc"):
        LateEncoders(model, frozen)


def test_a_parameter_that_waits_keeps_value_and_moments(model: nn.ModuleDict) -> None:
    late = LateEncoders(model, {"text": 2})
    optimizer = create_optimizer(model, 0.1, 0.1)
    waiting = list(model["text_encoder"].parameters())
    before = [parameter.clone() for parameter in waiting]
    for epoch in range(3):
        x = torch.ones(1, 2)
        for layer in model.values():
            x = layer(x)
        x[0, 0].backward()
        late.drop_gradients(epoch)
        optimizer.step()
        optimizer.zero_grad()
        same = [torch.equal(*pair) for pair in zip(before, waiting, strict=True)]
        assert same == [epoch < 2] * 2
        assert [parameter in optimizer.state for parameter in waiting] == [epoch == 2] * 2
    # so the bias corrections of its first step are those of a first step
    assert {float(optimizer.state[parameter]["step"]) for parameter in waiting} == {1.0}


def weights(run: Path, epoch: int) -> dict[str, torch.Tensor]:
    return load_file(
        run / "checkpoints" / f"epoch_{epoch:04d}" / "pretrained_model" / "model.safetensors"
    )


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_waiting_is_as_if_not_trained(
    recipe: str, run_main: Any, tmp_path: Path, processes: int
) -> None:
    # All of the image encoder learns, so its batch normalisation would move; a gradient norm that
    # counted the waiting encoders would change the other parameters' steps.
    flags = ["--recipe", recipe, "--max_grad_norm", "0.05", "--warmup_epochs", "0"]
    flags += ["--lr_scheduler_type", "linear", "--weight_decay", "0.1", "--save_total_limit", "9"]
    flags += ["--num_train_epochs", "2", "--per_device_train_batch_size", str(8 // processes)]
    flags += ["--model_config"]

    def train(name: str, *arguments: str) -> Path:
        everything = [*flags, *arguments, "--output_dir", tmp_path / name]
        if processes == 1:
            run_main("train", *everything)
        else:
            launch_two("train.py", *everything)
        return tmp_path / name

    late = train(
        "late",
        "trainable_image_layers=[all]",
        *("--frozen_image_epochs", "1", "--frozen_text_epochs", "2"),
    )
    frozen = train("frozen", "trainable_image_layers=[]", "trainable_text_layers=[]")
    first, second, expected = weights(late, 1), weights(late, 2), weights(frozen, 1)
    for name, value in expected.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=0 if processes == 1 else 1e-6)
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert {name.split(".")[0] for name in moved} >= {"image_encoder", "classifier"}
    assert any("running_mean" in name for name in moved)  # once it learns, so do its statistics
    assert not any(name.startswith("text_encoder") for name in moved)
    # ten steps in all, of which an epoch's last is named; the same for any number of processes
    history = [json.loads(line) for line in (late / "history.jsonl").open()]
    assert [line["learning_rate"] for line in history] == pytest.approx([6e-4, 1e-4], rel=1e-12)
