"""Blocks that several systems share, against numpy."""

import numpy as np
import pytest
import torch

from mmgenre.models.layers import Maxout, MovieBatchNorm


@pytest.mark.parametrize("pieces", [2, 5])
def test_maxout_is_the_largest_of_its_linear_maps(pieces):
    torch.manual_seed(0)
    layer = Maxout(4, 3, pieces)
    x = torch.randn(6, 4)
    weight = layer.linear.weight.detach().numpy()
    bias = layer.linear.bias.detach().numpy()
    expected = np.empty((6, 3))
    for unit in range(3):
        maps = slice(unit * pieces, (unit + 1) * pieces)
        expected[:, unit] = (x.numpy() @ weight[maps].T + bias[maps]).max(axis=1)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-6)


def test_a_batch_of_one_movie_is_normalised_by_running_statistics():
    torch.manual_seed(0)
    norm = MovieBatchNorm(3)
    several = torch.randn(8, 3) * 2 + 1
    expected = (several - several.mean(0)) / (several.var(0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(norm(several), expected)
    statistics = norm.running_mean.clone(), norm.running_var.clone()
    one = torch.randn(1, 3)
    expected = (one - statistics[0]) / (statistics[1] + norm.eps).sqrt()
    torch.testing.assert_close(norm(one), expected)
    assert torch.equal(norm.running_mean, statistics[0])
    assert torch.equal(norm.running_var, statistics[1])
