"""Which parameters are trained, and at which rate."""

import pytest
import torch
from torch import nn

from mmgenre.training.optimization import create_optimizer


@pytest.fixture
def model() -> nn.ModuleDict:
    names = ("image_encoder", "text_encoder", "classifier")
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in names})
    model["image_encoder"].weight.requires_grad_(False)
    return model


def test_one_group_of_what_is_trained(model: nn.ModuleDict) -> None:
    optimizer = create_optimizer(model, 1e-4, 1e-5)
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-5)
    assert len(group["params"]) == 5
    assert all(p.requires_grad for p in group["params"])


def test_encoders_can_have_their_own_rate(model: nn.ModuleDict) -> None:
    new, backbone = create_optimizer(model, 1e-3, 1e-5, backbone_learning_rate=1e-5).param_groups
    assert (new["lr"], new["weight_decay"]) == (1e-3, 1e-5)
    assert (backbone["lr"], backbone["weight_decay"]) == (1e-5, 1e-5)
    ids = {id(p) for p in model["classifier"].parameters()}
    assert {id(p) for p in new["params"]} == ids
    assert len(backbone["params"]) == 3
