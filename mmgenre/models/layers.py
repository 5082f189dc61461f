"""Blocks that two systems or more are built from."""

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

# torchvision's residual networks as (block, blocks per stage); resnet10 is its smallest regular
# sibling, for training from scratch on small data. torchvision has no pretrained weights for it.
RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}


class ResNetEncoder(ResNet):
    """A torchvision ResNet without its classifier, under torchvision's own parameter names.

    Maps posters (batch, 3, height, width) to regions (batch, feature_dim, height / 32,
    width / 32); `pool` averages them to (batch, feature_dim), what torchvision's `fc` sees.
    """

    def __init__(self, name: str) -> None:
        super().__init__(*RESNETS[name])
        self.feature_dim: int = self.fc.in_features
        del self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def pool(self, regions: torch.Tensor) -> torch.Tensor:
        return self.avgpool(regions).flatten(1)


class SwiGLU(nn.Module):
    """Gated feed-forward layer, (SiLU(x W1) * (x W3)) W2 (report, eq. 1; Shazeer 2020, eq. 6).

    All three linear maps have biases. Input (..., in_features), output (..., out_features).

    Args:
        expansion: Hidden size as a multiple of `in_features`, rounded down.
    """

    def __init__(self, in_features: int, out_features: int, expansion: float = 8 / 3) -> None:
        super().__init__()
        hidden = int(in_features * expansion)
        self.w1 = nn.Linear(in_features, hidden)
        self.w3 = nn.Linear(in_features, hidden)
        self.w2 = nn.Linear(hidden, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class Maxout(nn.Module):
    """The largest of `pieces` linear maps, unit by unit (Goodfellow et al. 2013, arXiv 1302.4389).

    Input (..., in_features), output (..., out_features).
    """

    def __init__(self, in_features: int, out_features: int, pieces: int = 2) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(in_features, out_features * pieces)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).unflatten(-1, (-1, self.pieces)).amax(dim=-1)


class MovieBatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes its running statistics where a batch is a single movie.

    Input and output (batch, num_features). torch refuses such a batch in training, and the last
    step of an epoch can have one.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) == 1:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


def mean_of_words(words: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The mean (batch, dim) of words (batch, length, dim) where `attention_mask` is 1."""
    weights = attention_mask[..., None].to(words)
    return (words * weights).sum(dim=1) / weights.sum(dim=1)
