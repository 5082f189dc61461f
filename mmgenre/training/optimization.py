"""The optimizer, and encoders that start to learn later."""

from collections.abc import Mapping

import torch
from torch import nn

from mmgenre.utils.errors import UserError

ENCODERS = ("image_encoder.", "text_encoder.")
NO_DECAY = "_no_decay"


def create_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    backbone_learning_rate: float | None = None,
    decay_bias_and_norm: bool = True,
) -> torch.optim.AdamW:
    """AdamW over what is trained (report, section 4.5).

    Its groups are called `all`, or `new` and `backbone` where the encoders have a rate of their
    own; those without weight decay have `_no_decay` added to the name.

    Args:
        backbone_learning_rate: Learning rate of the encoders; None is `learning_rate`, as in the
            report.
        decay_bias_and_norm: Whether weight decay also acts on biases and on the weights of
            normalisation layers, which are the parameters of one dimension; in the report it does.
    """
    rates = {"all": learning_rate}
    if backbone_learning_rate is not None:
        rates = {"new": learning_rate, "backbone": backbone_learning_rate}
    parts: dict[str, list[nn.Parameter]] = {
        name + suffix: [] for name in rates for suffix in ("", NO_DECAY)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = "all" if len(rates) == 1 else "backbone" if name.startswith(ENCODERS) else "new"
            decays = decay_bias_and_norm or parameter.ndim > 1
            parts[rate if decays else rate + NO_DECAY].append(parameter)
    groups = [
        {
            "name": name,
            "params": parameters,
            "lr": rates[name.removesuffix(NO_DECAY)],
            "weight_decay": 0.0 if name.endswith(NO_DECAY) else weight_decay,
        }
        for name, parameters in parts.items()
        if parameters
    ]
    return torch.optim.AdamW(groups, fused=True)


class LateEncoders:
    """Encoders that do not learn in a run's first epochs (MMBT: image 3, text 5).

    They keep `requires_grad` and their backward pass, so that DistributedDataParallel, which
    settles at the start which gradients it waits for, stays right; their gradients are dropped
    before the gradient's norm and the step. AdamW leaves a parameter without gradient alone, its
    moments and weight decay included. Their batch normalisation stays in eval mode, as that of
    layers that the config freezes (`freeze_batch_norm`); dropout stays on, also as there.

    Args:
        frozen_epochs: By `image` and `text`, how many epochs the encoder waits.

    Raises:
        UserError: An encoder is to wait that the model does not have or does not train.
    """

    def __init__(self, model: nn.Module, frozen_epochs: Mapping[str, int]) -> None:
        self.encoders: list[tuple[nn.Module, int]] = []
        for kind, epochs in frozen_epochs.items():
            if not epochs:
                continue
            encoder = getattr(model, f"{kind}_encoder", None)
            if encoder is None or not any(p.requires_grad for p in encoder.parameters()):
                raise UserError(
                    f"frozen_{kind}_epochs is {epochs}, but the model has no {kind} encoder that "
                    f"is trained; leave it out or name layers in trainable_{kind}_layers"
                )
            self.encoders.append((encoder, epochs))

    def hold_statistics(self, epoch: int) -> None:
        """After `model.train()`: keep the batch normalisation of waiting encoders still."""
        for module in (m for encoder in self._waiting(epoch) for m in encoder.modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def drop_gradients(self, epoch: int) -> None:
        """After the backward pass, before the gradient's norm. Epochs count from 0."""
        for encoder in self._waiting(epoch):
            for parameter in encoder.parameters():
                parameter.grad = None

    def _waiting(self, epoch: int) -> list[nn.Module]:
        return [encoder for encoder, epochs in self.encoders if epoch < epochs]
