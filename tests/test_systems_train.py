"""Every system through the scripts: on posters and plots, and on published features."""

import json
from pathlib import Path

import pytest
import yaml
from mmimdb import write_hdf5
from systems import CASES
from tiny import TINY_MODEL

from mmgenre.utils.errors import UserError


@pytest.fixture(scope="module")
def hdf5_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hdf5(tmp_path_factory.mktemp("hdf5") / "multimodal_imdb.hdf5", (24, 8, 8))


@pytest.fixture
def recipe_of(tmp_path: Path, demo_dir: Path, hdf5_file: Path):
    """Writes a recipe that trains a case for an epoch; features come from the HDF5 file."""

    def write(case: str, dataset: Path | None = None, **changes) -> Path:
        system, model_config = CASES[case]
        model_config = dict(model_config)
        if "text_config" in model_config:
            model_config["text_config"] = TINY_MODEL["text_config"]
        own = demo_dir
        if "image_feature_dim" in model_config:
            own = hdf5_file
            model_config |= {"image_feature_dim": 4096, "text_feature_dim": 300}
        values = {
            "dataset": str(dataset or own),
            "output_dir": str(tmp_path / "run"),
            "model": system,
            "model_config": model_config | changes,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 8,
            "warmup_epochs": 0,
            "dataloader_num_workers": 0,
            "report_to": "none",
        }
        if "text_config" in model_config:
            values["tokenizer"] = "train"
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "recipe.yaml"

    return write


@pytest.mark.parametrize("case", CASES)
def test_a_system_trains_and_evaluates_as_it_did_in_training(
    case: str, recipe_of, run_main, tmp_path: Path
) -> None:
    run_main("train", "--recipe", recipe_of(case))
    run = tmp_path / "run"
    (line,) = [json.loads(line) for line in (run / "history.jsonl").open()]
    run_main("evaluate", run)
    overall = json.loads((run / "reports" / "validation" / "metrics.json").read_text())["overall"]
    for name, value in overall.items():
        assert value == pytest.approx(line[f"validation/{name}"], abs=1e-6), name


@pytest.mark.parametrize("case", ["efficientnet", "gmu"])
def test_a_model_without_plots_has_no_tokenizer(
    case: str, recipe_of, run_main, tmp_path: Path
) -> None:
    run_main("train", "--recipe", recipe_of(case))
    folder = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    files = {path.name for path in folder.iterdir() if path.suffix != ".py"}
    assert files == {"config.json", "model.safetensors", "processor_config.json"}


def fails(run_main, script: str, *arguments: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        run_main(script, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_features_of_another_size(recipe_of, run_main) -> None:
    message = fails(run_main, "train", "--recipe", recipe_of("gmu", image_feature_dim=2048))
    assert message == (
        "image_features of the data set are vectors of 4096 numbers, and the model takes 2048; "
        "give features of that size, or a new model with --model_config image_feature_dim=4096"
    )


def test_a_system_of_features_on_posters_and_plots(recipe_of, run_main, demo_dir: Path) -> None:
    message = fails(run_main, "train", "--recipe", recipe_of("centralnet", dataset=demo_dir))
    assert message == (
        "the model takes the modality 'features', which none of the movies has (they have image "
        "and text); give another data set, a --model that takes these, or --model_config "
        "modalities=[...] where the model has that option"
    )


@pytest.mark.parametrize("case", ["efficientnet", "bert", "mmbt", "gmu end to end"])
def test_a_system_of_posters_or_plots_on_features(
    case: str, recipe_of, run_main, hdf5_file: Path
) -> None:
    message = fails(run_main, "train", "--recipe", recipe_of(case, dataset=hdf5_file))
    modality = "text" if case == "bert" else "image"
    expected = f"the modality '{modality}', which none of the movies has (they have features);"
    assert expected in message


def test_a_trained_model_on_features_of_another_size(
    recipe_of, run_main, tmp_path: Path, hdf5_file: Path
) -> None:
    run_main("train", "--recipe", recipe_of("gmu"))
    import h5py

    other = tmp_path / "other.hdf5"
    other.write_bytes(hdf5_file.read_bytes())
    with h5py.File(other, "a") as handle:
        del handle["features"]
        handle["features"] = [[0.0] * 200] * 40
    message = fails(run_main, "evaluate", tmp_path / "run", "--dataset", other)
    assert message.startswith("text_features of the data set are vectors of 200 numbers")
