"""MM-GATBT: MMBT's sequence with the node as its one image token, over a GAT that stays fixed."""

import copy

import pytest
import torch
from systems import LABELS, create, create_batch

from mmgenre.models.mm_gatbt import MmGatbtConfig, graph_fields


def test_the_node_stands_where_mmbt_has_an_image_token() -> None:
    model = create("mm_gatbt")
    mmbt = create("mmbt", num_image_tokens=1)
    mmbt.text_encoder.load_state_dict(model.text_encoder.state_dict())
    mmbt.classifier.load_state_dict(model.classifier.state_dict())
    batch = create_batch(model)
    token = model.node_projection(batch.pop("node_embedding"))[:, None]
    mmbt.image_tokens = lambda *args: token
    expected = mmbt(**batch)
    batch["node_embedding"] = create_batch(model)["node_embedding"]
    torch.testing.assert_close(model(**batch).logits, expected.logits)


def test_node_embeddings_are_tanh_of_the_gat_s_vectors_without_dropout() -> None:
    gat, model = create("gat"), create("mm_gatbt")
    gat.set_scale(torch.randn(20, 1000))
    model.take_graph(gat, "graph")
    features, edges = torch.randn(5, 1000), torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    expected = gat(node_features=features, edge_index=edges, output_embedding=True).embedding
    got = model.train().embed_nodes(features, edges)
    torch.testing.assert_close(got, expected.tanh())
    assert not got.requires_grad


@pytest.mark.parametrize("missing_modality", ["fill", "learned"])
def test_nothing_of_the_graph_learns(missing_modality) -> None:
    model = create("mm_gatbt", missing_modality=missing_modality).train()
    before = copy.deepcopy(model.state_dict())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model(**create_batch(model), labels=LABELS).loss.backward()
    optimizer.step()
    kept = {n.split(".")[0] for n, v in model.state_dict().items() if torch.equal(v, before[n])}
    moved = {n.split(".")[0] for n, v in model.state_dict().items()} - kept
    assert {"image_encoder", "trunk", "feature_mean", "feature_std"} <= kept
    assert {"node_projection", "classifier"} <= moved


def test_a_gat_of_other_sizes_is_refused() -> None:
    gat = create("gat", gat_hidden_size=8)
    message = r"graph_backbone 'x' does not fit the config's GatTrunk \(size: layers.0.att_src"
    with pytest.raises(ValueError, match=message):
        create("mm_gatbt").take_graph(gat, "graph_backbone 'x'")


def test_the_graph_s_fields_are_the_gat_s() -> None:
    gat = create("gat", gat_hidden_size=8, num_gat_layers=1, missing_modality="learned")
    fields = graph_fields(gat.config)
    config = MmGatbtConfig(**fields)
    for name in ("gat_hidden_size", "num_gat_layers", "missing_modality", "image_size"):
        assert getattr(config, name) == getattr(gat.config, name)
    assert config.image_architecture == "efficientnet_tiny"
    assert list(config.graph_roles) == ["sparse"]
