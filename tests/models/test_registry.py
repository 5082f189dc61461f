"""The table of systems: what is in it resolves, and what a user gets wrong is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.models.registry import (
    SYSTEMS,
    create_config,
    get_system,
    load_class,
    load_model,
    load_processor,
    model_type,
)

GENRES = ["war", "drama"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_resolves_to_classes_that_fit(name):
    config, model, processor = (load_class(reference) for reference in SYSTEMS[name])
    assert config.model_type == model_type(name)
    assert config.model_type not in CONFIG_MAPPING_NAMES
    assert model.config_class is config
    assert issubclass(config, PreTrainedConfig)
    assert issubclass(model, PreTrainedModel)
    assert issubclass(processor, ProcessorMixin)
    assert model.__name__.endswith("ForSequenceClassification")


def test_an_unknown_model_names_the_nearest_and_all():
    message = r"model 'mmgenres' is unknown; did you mean 'mmgenre'\? the models are .*mmgenre"
    with pytest.raises(ValueError, match=message):
        get_system("mmgenres")
    with pytest.raises(ValueError, match="model 'xyz' is unknown; the models are .*mmgenre"):
        get_system("xyz")


def test_a_config_takes_genres_in_order_and_the_recipe_s_values():
    config = create_config("mmgenre", GENRES, {"projection_dim": 64, "max_length": 32})
    assert config.genres == GENRES
    assert config.label2id == {"war": 0, "drama": 1}
    assert config.num_labels == 2
    assert (config.projection_dim, config.max_length) == (64, 32)
    assert config.image_size == 224


def test_a_whole_number_is_a_float_where_one_is_needed():
    config = create_config("mmgenre", GENRES, {"expansion": 4, "focal_gamma": 0})
    assert (config.expansion, config.focal_gamma) == (4.0, 0.0)
    assert type(config.expansion) is float


@pytest.mark.parametrize(
    ("model_config", "message"),
    [
        (
            {"projection_dims": 3},
            r"model_config key 'projection_dims' is unknown to model 'mmgenre'; "
            r"did you mean 'projection_dim'\?",
        ),
        ({"zzzzz": 3}, "key 'zzzzz' is unknown .*; it has thresholds, .*modality_dropout"),
        # fields of transformers' own, which the data or the code decides
        ({"id2label": {}}, "key 'id2label' is unknown"),
        ({"num_labels": 3}, "key 'num_labels' is unknown"),
        ({"projection_dim": "wide"}, "model_config: .*projection_dim.*"),
        ({"projection_dim": 1.5}, "model_config: .*projection_dim.*"),
        ({"label_smoothing": "0.1"}, "model_config: .*label_smoothing.*"),
        ({"fusion_tokens": "words"}, "model_config: .*fusion_tokens.*"),
        ({"trainable_text_layers": "all"}, "model_config: .*trainable_text_layers.*"),
        ({"thresholds": [0.5]}, "thresholds has 1 values; it needs one for each of the 2 genres"),
        ({"text_config": {"hidden_size": "x"}}, "hidden_size"),
    ],
)
def test_a_key_or_value_that_does_not_fit_is_named(model_config, message):
    with pytest.raises(ValueError, match=rf"\A.*{message}.*\Z"):
        create_config("mmgenre", GENRES, model_config)


def test_text_config_comes_from_the_backbone_unless_given(tiny_config, tmp_path):
    tiny_config().text_config.save_pretrained(tmp_path)
    assert create_config("mmgenre", GENRES, {}, str(tmp_path)).text_config.hidden_size == 32
    given = create_config("mmgenre", GENRES, {"text_config": {"hidden_size": 48}}, str(tmp_path))
    assert given.text_config.hidden_size == 48
    assert create_config("mmgenre", GENRES, {}).text_config.vocab_size == 30522


# --- loading


@pytest.fixture(scope="module")
def saved_once(tiny_model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model(modalities=["text"])
    model.save_pretrained(folder)
    MMGenreProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(saved_once, tmp_path):
    return shutil.copytree(saved_once, tmp_path / "saved")


def test_model_and_processor_are_loaded_by_what_the_config_says(saved, tiny_model):
    model, processor = load_model(str(saved)), load_processor(str(saved))
    expected = tiny_model(modalities=["text"])
    inputs = processor(text="a war on the moon.")
    # Not bit for bit: memory-mapped weights are aligned otherwise, and some kernels mind.
    torch.testing.assert_close(model.eval()(**inputs).logits, expected(**inputs).logits)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.state_dict().items())
    assert isinstance(processor, MMGenreProcessor)


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "not a saved model: .*config.json is m"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded as a model: "),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot be loaded as a model: "),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded"),
        (lambda folder: change_config(folder, model_type="bert"), "'bert', which is no system"),
        (lambda folder: change_config(folder, model_type=None), "'None', which is no system"),
        (lambda folder: change_config(folder, projection_dim="x"), "projection_dim"),
        (
            lambda folder: change_config(folder, projection_dim=32),
            "do not fit .* attention.in_proj",
        ),
    ],
    ids=[
        "no_config",
        "broken_json",
        "no_mapping",
        "no_weights",
        "broken_weights",
        "other_type",
        "no_type",
        "bad_value",
        "other_sizes",
    ],
)
def test_a_spoiled_folder_is_a_value_error_of_one_line(saved, spoil, message):
    spoil(saved)
    with pytest.raises(ValueError, match=message) as error:
        load_model(str(saved))
    assert str(error.value).startswith(repr(str(saved)))
    assert "\n" not in str(error.value)


def test_weights_that_lack_a_tensor_are_refused(saved):
    state = load_file(saved / "model.safetensors")
    del state["classifier.weight"]
    save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
    message = r"do not fit its config\.json: 1 are missing, .* such as classifier\.weight$"
    with pytest.raises(ValueError, match=message):
        load_model(str(saved))


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing.* cannot be loaded as a model"):
        load_model(str(tmp_path / "nothing"))


def test_a_folder_without_a_processor_is_refused(saved):
    for file in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (saved / file).unlink()
    with pytest.raises(ValueError, match=r"saved' cannot be loaded"):
        load_processor(str(saved))
