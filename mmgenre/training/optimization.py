"""The optimizer."""

import torch
from torch import nn

ENCODERS = ("image_encoder.", "text_encoder.")


def create_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    backbone_learning_rate: float | None = None,
) -> torch.optim.AdamW:
    """AdamW over what is trained (report, section 4.5).

    Args:
        backbone_learning_rate: Learning rate of the encoders; None is one group for all, as in the
            report.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if backbone_learning_rate is None:
        return torch.optim.AdamW(
            [p for _, p in named], lr=learning_rate, weight_decay=weight_decay, fused=True
        )
    new = [p for n, p in named if not n.startswith(ENCODERS)]
    backbone = [p for n, p in named if n.startswith(ENCODERS)]
    groups = [
        {"params": new, "lr": learning_rate},
        {"params": backbone, "lr": backbone_learning_rate},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], weight_decay=weight_decay, fused=True
    )
