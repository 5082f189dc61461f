"""Pretrained encoders: taken over bit for bit, or refused with what does not fit."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import ResNet18_Weights, resnet18
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

from mmgenre.models.backbones import read_text_config
from mmgenre.models.modeling_mmgenre import MMGenreForSequenceClassification


@pytest.fixture
def build(tiny_config):
    """`from_backbones` with a text-only config, or with `changes`."""

    def build(image_backbone=None, text_backbone=None, **changes):
        torch.manual_seed(0)
        config = tiny_config(**{"modalities": ["text"]} | changes)
        # paths too
        sources = [None if s is None else str(s) for s in (image_backbone, text_backbone)]
        return MMGenreForSequenceClassification.from_backbones(config, *sources)

    return build


IMAGE = {"modalities": ["image"], "image_architecture": "resnet18"}


def randomised(module):
    """Weights and statistics that no initialisation gives."""
    generator = torch.Generator().manual_seed(1)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        else:
            value.fill_(7)
    return module


def assert_equal_states(encoder, expected):
    own = encoder.state_dict()
    assert own.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(own[name], value), name


# --- image


@pytest.fixture(scope="module")
def resnet_state():
    return randomised(resnet18(weights=None)).state_dict()


def without_head(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("where", ["safetensors", "pth", "folder", "folder_with_bin"])
def test_a_torchvision_file_is_taken_over_bit_for_bit(build, resnet_state, tmp_path, where):
    if where == "safetensors":
        source = tmp_path / "resnet.safetensors"
        save_file(resnet_state, source)
    elif where == "pth":
        source = tmp_path / "resnet.pth"
        torch.save(without_head(resnet_state), source)
    elif where == "folder":
        source = tmp_path
        save_file(resnet_state, tmp_path / "model.safetensors")
    else:
        source = tmp_path
        torch.save(resnet_state, tmp_path / "pytorch_model.bin")
    model = build(source, **IMAGE)
    assert_equal_states(model.image_encoder, without_head(resnet_state))
    trained = {n for n, p in model.image_encoder.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.image_encoder.named_parameters() if "layer4" in n}


def test_an_encoder_computes_what_torchvision_s_network_does(build, tmp_path):
    torch.manual_seed(3)
    network = resnet18(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    network.fc = torch.nn.Identity()
    encoder = build(tmp_path, **IMAGE).eval().image_encoder
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.pool(encoder(pixels)), network(pixels))


def test_old_files_without_batch_counters_fit(build, resnet_state, tmp_path):
    state = {n: v for n, v in resnet_state.items() if not n.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "model.safetensors")
    encoder = build(tmp_path, **IMAGE).image_encoder
    assert torch.equal(encoder.bn1.running_var, state["bn1.running_var"])


def test_a_torchvision_weight_name_is_looked_up_for_the_architecture(
    build, resnet_state, monkeypatch
):
    asked = []

    def get_state_dict(weights, *args, **kwargs):
        asked.append(weights)
        return resnet_state

    # the download alone is replaced
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", get_state_dict)
    model = build("IMAGENET1K_V1", **IMAGE)
    assert asked == [ResNet18_Weights.IMAGENET1K_V1]
    assert_equal_states(model.image_encoder, without_head(resnet_state))


def test_another_architecture_s_file_is_refused_with_its_keys(build, resnet_state, tmp_path):
    save_file(resnet_state, tmp_path / "model.safetensors")
    message = (
        r"image_backbone '.*' does not fit the config's ResNetEncoder "
        r"\(unknown: layer1\.1\.bn1\.num_batches_tracked, .* and \d+ more\)$"
    )
    with pytest.raises(ValueError, match=message):
        build(tmp_path, modalities=["image"])  # resnet10


def test_missing_and_misshapen_keys_are_listed(build, resnet_state, tmp_path):
    state = resnet_state | {"bn1.bias": torch.zeros(3)}
    del state["layer4.1.conv2.weight"]
    save_file(state, tmp_path / "model.safetensors")
    message = r"\(missing: layer4\.1\.conv2\.weight; size: bn1\.bias \(3,\) in place of \(64,\)\)$"
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **IMAGE)


class Attack:
    """Unpickling this would run a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("extra", [{}, {"weight": torch.zeros(2)}])
def test_code_in_a_pickle_is_not_run(build, tmp_path, extra):
    source, trace = tmp_path / "resnet.pth", tmp_path / "executed"
    torch.save(extra | {"attack": Attack(trace)}, source)
    with pytest.raises(ValueError, match=r"resnet\.pth' is not a weight file") as error:
        build(source, **IMAGE)
    assert not trace.exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.pth", lambda p: p.write_bytes(b"nothing"), "is not a weight file"),
        ("a.safetensors", lambda p: p.write_bytes(b"nothing"), "is not a weight file"),
        ("a.pth", lambda p: torch.save([torch.ones(1)], p), "not hold a plain mapping of names to"),
        ("a.pth", lambda p: torch.save({"state_dict": {}}, p), "not hold a plain mapping of names"),
    ],
)
def test_a_file_of_another_content_is_refused(build, tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}' .*{message}"):
        build(tmp_path / name, **IMAGE)


@pytest.mark.parametrize(
    ("source", "architecture", "message"),
    [
        ("IMAGENET1K_V9", "resnet18", r"'IMAGENET1K_V9' is neither .* for resnet18: IMAGENET1K_V1"),
        ("IMAGENET1K_V1", "resnet10", r"'IMAGENET1K_V1' .* for resnet10: it has none"),
        ("nothing.pth", "resnet18", r"image_backbone 'nothing\.pth' does not exist"),
        ("./nothing", "resnet18", r"image_backbone '\./nothing' does not exist"),
        ("{tmp}/nothing", "resnet18", r"/nothing' does not exist"),
        ("{tmp}", "resnet18", r"image_backbone folder '.*' holds no model\.safetensors"),
    ],
)
def test_a_source_that_is_not_there_is_named(build, tmp_path, source, architecture, message):
    source = source.replace("{tmp}", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        build(source, modalities=["image"], image_architecture=architecture)


# --- text


@pytest.fixture
def text_config(tiny_config) -> BertConfig:
    return tiny_config().text_config


def test_a_bert_folder_is_taken_over_bit_for_bit(build, text_config, tmp_path):
    bert = randomised(BertModel(text_config))
    bert.save_pretrained(tmp_path)
    model = build(text_backbone=tmp_path)
    assert_equal_states(model.text_encoder, bert.state_dict())
    frozen = {n for n, p in model.text_encoder.named_parameters() if not p.requires_grad}
    assert frozen == {n for n in bert.state_dict() if n.startswith("encoder.layer.0.")}


def test_a_checkpoint_s_own_heads_are_left_out(build, text_config, tmp_path):
    bert = randomised(BertForPreTraining(text_config))
    bert.save_pretrained(tmp_path)
    assert any(name.startswith("cls.") for name in load_file(tmp_path / "model.safetensors"))
    assert_equal_states(build(text_backbone=tmp_path).text_encoder, bert.bert.state_dict())


def test_half_precision_weights_become_float32(build, text_config, tmp_path):
    bert = randomised(BertModel(text_config)).half()
    bert.save_pretrained(tmp_path)
    expected = {name: value.float() for name, value in bert.state_dict().items()}
    encoder = build(text_backbone=tmp_path).text_encoder
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert_equal_states(encoder, expected)


def test_both_backbones_enter_and_the_rest_keeps_its_initial_weights(
    build, tiny_config, text_config, resnet_state, tmp_path
):
    bert = randomised(BertModel(text_config))
    bert.save_pretrained(tmp_path / "bert")
    save_file(resnet_state, tmp_path / "resnet.safetensors")
    changes = {"modalities": ["image", "text"], "image_architecture": "resnet18"}
    model = build(tmp_path / "resnet.safetensors", tmp_path / "bert", **changes)
    assert_equal_states(model.image_encoder, without_head(resnet_state))
    assert_equal_states(model.text_encoder, bert.state_dict())
    fresh = build(**changes).state_dict()
    encoders = ("image_encoder.", "text_encoder.")
    for name, value in model.state_dict().items():
        if not name.startswith(encoders):
            assert torch.equal(value, fresh[name]), name


def test_a_backbone_of_a_modality_that_the_model_lacks_is_not_read(build):
    assert build("nothing.pth", None, modalities=["text"]).image_encoder is None


def test_a_folder_without_a_pooler_is_refused(build, text_config, tmp_path):
    BertForMaskedLM(text_config).save_pretrained(tmp_path)
    message = r"text_backbone '.*' .*\(missing: pooler\.dense\.bias, pooler\.dense\.weight\)$"
    with pytest.raises(ValueError, match=message):
        build(text_backbone=tmp_path)


def change_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def drop_two(state):
    del state["encoder.layer.0.output.dense.bias"], state["embeddings.word_embeddings.weight"]


def add_one(state):
    state["adapter.weight"] = torch.zeros(2)


def cut_one(state):
    state["pooler.dense.bias"] = torch.zeros(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            drop_two,
            r"missing: embeddings\.word_embeddings\.weight, encoder\.layer\.0\.output\.dense\.bias",
        ),
        (add_one, r"unknown: adapter\.weight"),
        (cut_one, r"size: pooler\.dense\.bias"),
    ],
)
def test_keys_of_a_partly_matching_folder_are_listed(build, text_config, tmp_path, change, message):
    BertModel(text_config).save_pretrained(tmp_path)
    change_weights(tmp_path, change)
    with pytest.raises(ValueError, match=rf"text_backbone '.*' does not fit .*\({message}"):
        build(text_backbone=tmp_path)


def test_a_backbone_of_other_sizes_is_refused(build, text_config, tmp_path):
    BertModel(text_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has vocab_size 100, num_hidden_layers 3, which the con"):
        build(text_backbone=tmp_path, text_config={"vocab_size": 90, "num_hidden_layers": 2})


@pytest.mark.parametrize("changed", ["intermediate_size", "max_position_embeddings"])
def test_other_inner_sizes_are_refused_too(build, text_config, tmp_path, changed):
    BertModel(text_config).save_pretrained(tmp_path)
    message = r"text_backbone '.*' does not fit the config's text_config \(size: "
    with pytest.raises(ValueError, match=message):
        build(text_backbone=tmp_path, text_config={changed: 48})


def test_a_text_backbone_that_is_not_bert_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "distilbert"}))
    with pytest.raises(ValueError, match=r"is a distilbert model; "):
        read_text_config(str(tmp_path))


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_a_folder_without_a_readable_config_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"\Atext_backbone '.*' is neither a folder with a conf"):
        read_text_config(str(tmp_path))


def test_a_text_backbone_that_is_not_there_is_named(build, tmp_path):
    with pytest.raises(ValueError, match=r"text_backbone '.*nothing' is neither a folder with a"):
        build(text_backbone=tmp_path / "nothing")


def test_a_text_folder_without_weights_is_refused(build, text_config, tmp_path):
    text_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"text_backbone '.*' cannot be loaded \(.*safetensors"):
        build(text_backbone=tmp_path)


def test_broken_text_weights_are_refused(build, text_config, tmp_path):
    text_config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"text_backbone '.*' cannot be loaded"):
        build(text_backbone=tmp_path)


def test_code_in_a_text_backbone_s_pickle_is_not_run(build, text_config, tmp_path):
    text_config.save_pretrained(tmp_path)
    trace = tmp_path / "executed"
    torch.save({"attack": Attack(trace)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"text_backbone '.*' cannot be loaded"):
        build(text_backbone=tmp_path)
    assert not trace.exists()


def test_a_backbones_path_is_saved_with_no_model(tmp_path):
    BertConfig(hidden_size=12).save_pretrained(tmp_path)
    config = read_text_config(str(tmp_path))
    assert config.hidden_size == 12
    assert str(tmp_path) not in config.to_json_string()
