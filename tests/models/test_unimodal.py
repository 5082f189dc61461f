"""The poster-only and the plot-only system: their encoders' own forward pass and weights."""

import pytest
import torch
from safetensors.torch import save_file
from systems import CASES, GENRES, create, create_batch
from torchvision.models import efficientnet_b0

from mmgenre.models.bert import BertGenreForSequenceClassification
from mmgenre.models.efficientnet import (
    EFFICIENTNETS,
    EfficientNetEncoder,
    EfficientNetGenreForSequenceClassification,
)
from mmgenre.models.registry import create_config


def test_the_poster_s_features_are_torchvision_s(tmp_path):
    torch.manual_seed(0)
    network = efficientnet_b0(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "b0.safetensors")
    config = create_config("efficientnet", GENRES, {"image_architecture": "efficientnet_b0"})
    model = EfficientNetGenreForSequenceClassification.from_backbones(
        config, str(tmp_path / "b0.safetensors")
    ).eval()
    pixels = torch.randn(2, 3, 64, 64)
    network.classifier = torch.nn.Identity()
    output = model(pixels, output_embedding=True)
    torch.testing.assert_close(output.embedding, network(pixels))
    torch.testing.assert_close(output.logits, model.classifier(output.embedding))


@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_all_sizes_are_torchvision_s(name):
    with torch.device("meta"):
        encoder = EfficientNetEncoder(name)
    widths = [1280, 1280, 1408, 1536, 1792, 2048, 2304, 2560]
    sizes = {f"efficientnet_b{i}": width for i, width in enumerate(widths)}
    assert encoder.feature_dim == {**sizes, "efficientnet_tiny": 64}[name]


def test_a_backbone_that_does_not_fit_is_refused(tmp_path):
    save_file(efficientnet_b0(weights=None).state_dict(), tmp_path / "b0.safetensors")
    config = create("efficientnet").config
    with pytest.raises(ValueError, match="does not fit the config's EfficientNetEncoder"):
        EfficientNetGenreForSequenceClassification.from_backbones(
            config, str(tmp_path / "b0.safetensors")
        )


def test_the_plot_s_genres_come_from_bert_s_pooled_output(tmp_path):
    source = create("bert")
    with torch.no_grad():
        for value in source.text_encoder.parameters():
            value.add_(torch.randn_like(value) / 10)
    source.text_encoder.save_pretrained(tmp_path)
    config = create_config("bert", GENRES, CASES["bert"][1])
    model = BertGenreForSequenceClassification.from_backbones(config, None, str(tmp_path)).eval()
    batch = create_batch(model)
    output = model(**batch, output_embedding=True)
    pooled = source.text_encoder(**batch).pooler_output
    torch.testing.assert_close(output.embedding, pooled)
    torch.testing.assert_close(output.logits, model.classifier(pooled))
    assert not model.classifier.bias.any()
    assert model.classifier.weight.std() < 0.04  # BERT's 0.02, not torch's 0.1
