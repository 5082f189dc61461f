"""GAT against dense numpy, a new node, and what happens without torch-geometric."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from systems import GENRES, LABELS, create
from torch_geometric.utils import to_dense_adj

from mmgenre.models.gat import GatConfig, GatTrunk, gat_layer
from mmgenre.models.registry import create_config

NUM_NODES = 7


@pytest.fixture
def adjacency() -> np.ndarray:
    """(7, 7), symmetric, without self-loops; the last node has no neighbour."""
    upper = np.triu(np.random.default_rng(0).random((NUM_NODES, NUM_NODES)) < 0.5, 1)
    upper[:, -1] = False
    return upper | upper.T


def edges_of(adjacency: np.ndarray) -> torch.Tensor:
    """Column (i, j): j attends to i."""
    return torch.from_numpy(np.stack(np.nonzero(adjacency.T)))


def dense_layer(layer, x: np.ndarray, adjacency: np.ndarray, slope: float) -> np.ndarray:
    """Velickovic et al. 2018, eq. 1 to 4, as (nodes, heads, units); row i attends."""
    heads, units = layer.heads, layer.out_channels
    weight = layer.lin.weight.detach().double().numpy()
    to_source, to_own = (p.detach().double().numpy()[0] for p in (layer.att_src, layer.att_dst))
    h = (x @ weight.T).reshape(len(x), heads, units)
    own, source = (h * to_own).sum(-1), (h * to_source).sum(-1)
    scores = own[:, None] + source[None]  # (attending, attended, heads)
    scores = np.where(scores > 0, scores, slope * scores)
    neighbors = adjacency | np.eye(len(x), dtype=bool)
    scores = np.where(neighbors[..., None], scores, -np.inf)
    alpha = np.exp(scores - scores.max(axis=1, keepdims=True))
    alpha /= alpha.sum(axis=1, keepdims=True)
    return np.einsum("ijh,jhu->ihu", alpha, h)


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def test_a_layer_is_the_dense_form_with_self_loops(adjacency) -> None:
    torch.manual_seed(0)
    config = GatConfig(gat_negative_slope=0.3)
    layer = gat_layer(config, 5, 4, heads=3).double().eval()
    torch.nn.init.normal_(layer.bias)
    x = np.random.default_rng(1).standard_normal((NUM_NODES, 5))
    expected = dense_layer(layer, x, adjacency, 0.3).reshape(NUM_NODES, 12)
    got = layer(torch.from_numpy(x), edges_of(adjacency)).detach().numpy()
    np.testing.assert_allclose(got, expected + layer.bias.detach().numpy(), atol=1e-12)


def test_logits_are_the_dense_form_s(adjacency) -> None:
    """Residuals from the second layer on, ELU, heads concatenated, then averaged; eq. 5 and 6."""
    model = create("gat", num_gat_layers=3).double()
    for layer in (*model.trunk.layers, model.classifier):
        torch.nn.init.normal_(layer.bias)
    features = torch.randn(NUM_NODES, 1000, dtype=torch.float64)
    model.set_scale(features[:5])
    x = features.numpy()
    x = (x - x[:5].mean(axis=0)) / x[:5].std(axis=0, ddof=1)
    for i, layer in enumerate(model.trunk.layers):
        new = dense_layer(layer, x, adjacency, 0.1).reshape(NUM_NODES, -1)
        new = new + layer.bias.detach().numpy()
        x = elu(new + x if i else new)
    last = model.classifier
    expected = dense_layer(last, x, adjacency, 0.1).mean(axis=1) + last.bias.detach().numpy()
    expected = expected + x @ last.res.weight.detach().numpy().T
    output = model(node_features=features, edge_index=edges_of(adjacency), output_embedding=True)
    np.testing.assert_allclose(output.logits.detach().numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(output.embedding.detach().numpy(), x, atol=1e-10)


def test_the_published_sizes() -> None:
    config = GatConfig()
    trunk = GatTrunk(config)
    assert [(c.in_channels, c.heads, c.out_channels) for c in trunk.layers] == [
        (1000, 8, 32),
        (256, 8, 32),
        (256, 8, 32),
    ]
    assert all(c.dropout == c.negative_slope == 0.1 and c.add_self_loops for c in trunk.layers)
    assert config.node_embedding_dim == 256
    assert (config.image_architecture, config.graph_roles) == ("efficientnet_b4", ("medium",))


def test_targets_are_rows_of_all_nodes(adjacency) -> None:
    model = create("gat")
    inputs = {"node_features": torch.randn(NUM_NODES, 1000), "edge_index": edges_of(adjacency)}
    everything = model(**inputs).logits
    targets = torch.tensor([4, 1, 4, 6])
    output = model(**inputs, target_nodes=targets, labels=LABELS)
    torch.testing.assert_close(output.logits, everything[targets])
    torch.testing.assert_close(output.loss, model.genre_loss(everything[targets], LABELS))


def test_a_new_movie_is_a_node_with_edges_to_known_ones(adjacency) -> None:
    model = create("gat", num_gat_layers=1)
    known = torch.randn(NUM_NODES, 1000)
    poster = torch.randn(1, 3, 32, 32)
    features = torch.cat([known, model.encode_posters(poster)])
    new = torch.tensor([[0, 2], [NUM_NODES, NUM_NODES]])
    edges = torch.cat([edges_of(adjacency), new, new.flip(0)], dim=1)
    with_friends = model(node_features=features, edge_index=edges).logits
    alone = model(pixel_values=poster).logits
    assert with_friends.shape == (NUM_NODES + 1, len(GENRES))
    assert not torch.allclose(with_friends[-1], alone[0])
    # A movie that shares nobody is what its poster alone gives, and changes no other.
    torch.testing.assert_close(
        model(node_features=features, edge_index=edges_of(adjacency)).logits,
        torch.cat([model(node_features=known, edge_index=edges_of(adjacency)).logits, alone]),
    )


def test_the_poster_encoder_stays_as_it_is_in_training() -> None:
    model = create("gat").train()
    before = {name: value.clone() for name, value in model.image_encoder.state_dict().items()}
    posters = torch.randn(4, 3, 32, 32)
    features = model.encode_posters(posters)
    torch.testing.assert_close(features[:1], model.encode_posters(posters[:1]))
    assert not features.requires_grad
    for name, value in model.image_encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_poster_encoder_that_is_to_learn_is_refused() -> None:
    message = r"trainable_image_layers is \['all'\]; node features are computed once, so the po"
    with pytest.raises(ValueError, match=message):
        create_config("gat", GENRES, {"trainable_image_layers": ["all"]})


def test_edges_reach_the_right_way() -> None:
    """torch-geometric's own dense adjacency of our edges is the transposed one: row i gives."""
    one_way = np.zeros((3, 3), dtype=bool)
    one_way[0, 2] = True  # 0 attends to 2
    assert to_dense_adj(edges_of(one_way), max_num_nodes=3)[0].nonzero().tolist() == [[2, 0]]
    model = create("gat", num_gat_layers=1)
    features = torch.randn(3, 1000)
    logits = model(node_features=features, edge_index=edges_of(one_way)).logits
    features[2] += 1
    moved = model(node_features=features, edge_index=edges_of(one_way)).logits
    assert (moved - logits).abs().amax(dim=1).gt(1e-6).tolist() == [True, False, True]


WITHOUT = """
import sys
sys.modules["torch_geometric"] = None  # an import raises ImportError
from mmgenre.models.registry import SYSTEMS, create_config, load_class, register_auto_classes
register_auto_classes()
for name in ("gat", "mm_gatbt"):
    config = create_config(name, ["drama"], {"image_architecture": "efficientnet_tiny"})
    try:
        load_class(SYSTEMS[name].model)(config)
    except ValueError as error:
        print(error)
"""


def test_without_torch_geometric_the_extra_is_named() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120, check=True
    )
    message = (
        "the systems gat and mm_gatbt need torch-geometric, which is not installed; "
        "pip install 'mmgenre[graph]'"
    )
    assert result.stdout.splitlines() == [message, message]
