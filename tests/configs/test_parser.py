"""One order of precedence, every mistake by its name, and a recipe that is the report's."""

import math
from pathlib import Path

import pytest
import yaml
from torchvision.models import get_model_weights

from mmgenre.configs.arguments import TrainConfig
from mmgenre.configs.parser import (
    RECIPES_DIR,
    flatten,
    load_config,
    parse_evaluation_arguments,
    parse_train_arguments,
    save_config,
)
from mmgenre.data.protocols import PROTOCOLS
from mmgenre.models.base import REPORT_GENRES
from mmgenre.models.registry import SYSTEMS, create_config
from mmgenre.utils.errors import UserError

RECIPES = sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def values(*argv: str) -> dict:
    return flatten(parse_train_arguments(argv))


def test_precedence_of_a_new_run(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "seed: 1\nlearning_rate: 0.5\n")
    assert (values()["seed"], values()["learning_rate"]) == (42, 1e-4)
    both = values("--recipe", recipe, "--seed", "2")
    assert (both["seed"], both["learning_rate"], both["weight_decay"]) == (2, 0.5, 1e-5)


@pytest.mark.parametrize("flag", ["--resume_from_checkpoint", "--resume-from-checkpoint"])
def test_a_resumed_run_keeps_its_own_configuration(tmp_path: Path, flag: str) -> None:
    recipe = write(
        tmp_path / "r.yaml", f"seed: 1\nweight_decay: 0.1\nlogging_steps: 3\noutput_dir: {tmp_path}"
    )
    save_config(
        parse_train_arguments(["--seed", "2", "--weight_decay=0.2"]), tmp_path / "config.yaml"
    )
    resumed = values("--recipe", recipe, flag, "last", "--weight_decay", "0.3")
    # the resumed run's own default comes before a recipe that it was not started with
    assert [resumed[k] for k in ("seed", "weight_decay", "logging_steps")] == [2, 0.3, 50]
    assert values("--recipe", recipe)["seed"] == 1


def test_a_resumed_run_does_not_take_what_it_left_out_from_a_recipe(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "max_grad_norm: 1\nmodel_config: {image_size: 64}")
    save_config(parse_train_arguments(["--model_config", "loss=bce"]), tmp_path / "config.yaml")
    resumed = values(
        "--recipe", recipe, "--output-dir", str(tmp_path), "--resume_from_checkpoint", "auto"
    )
    assert resumed["max_grad_norm"] is None
    assert resumed["model_config"] == {"loss": "bce"}


def test_auto_resume_without_a_run_is_a_new_run(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", f"seed: 1\noutput_dir: {tmp_path / 'none'}")
    assert values("--recipe", recipe, "--resume_from_checkpoint", "auto")["seed"] == 1


def test_model_config_is_merged_key_by_key(tmp_path: Path) -> None:
    recipe = write(
        tmp_path / "r.yaml",
        "model_config: {image_size: 64, loss: bce, focal_gamma: 1e0, "
        "trainable_image_layers: [layer4], text_config: {layer_norm_eps: 1e-12}}",
    )
    argv = ["--model_config", "loss=focal", "focal_alpha=5e-1", "--model_config", "max_length=8"]
    assert values("--recipe", recipe, *argv)["model_config"] == {
        "image_size": 64,
        "loss": "focal",
        "focal_gamma": 1.0,
        "trainable_image_layers": ["layer4"],
        "text_config": {"layer_norm_eps": 1e-12},
        "focal_alpha": 0.5,
        "max_length": 8,
    }


def test_yaml_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "learning_rate: 5e-5\nweight_decay: 0\n")
    assert yaml.safe_load(Path(recipe).read_text())["learning_rate"] == "5e-5"  # the trap
    config = values("--recipe", recipe)
    assert config["learning_rate"] == 5e-5
    assert isinstance(config["learning_rate"], float)
    assert isinstance(config["weight_decay"], float)


def test_what_may_be_left_out_can_be_taken_back(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", "dataset: demo\nmax_grad_norm: 1\nrun_name: null\n")
    config = values("--recipe", recipe, "--max_grad_norm", "none", "--dataset=none")
    assert [config[name] for name in ("max_grad_norm", "dataset", "run_name")] == [None] * 3


MISTAKES_IN_FLAGS = {
    "unknown flag": (["--learning_rat", "1"], "'--learning_rat'", "did you mean 'learning_rate'?"),
    "abbreviated flag": (["--learn=1"], "'--learn=1'", "unknown"),
    "stray word": (["demo"], "'demo'", "flags start with --"),
    "unknown recipe": (["--recipe", "quickstar"], "'quickstar'", "did you mean 'quickstart'?"),
    "missing recipe file": (["--recipe", "no/r.yaml"], "'no/r.yaml'", "does not exist"),
    "recipe without a name": (["--recipe"], "--recipe", "expected one argument"),
    "not a number": (["--seed", "x"], "--seed", "'x'"),
    "not a choice": (["--report_to", "wandbb"], "'wandbb'", "'wandb'"),
    "no equals sign": (["--model_config", "loss"], "KEY=VALUE", "'loss'"),
    "broken value": (["--model_config", "loss=[1"], "loss=[1", "YAML"),
    "zero": (["--num_train_epochs", "0"], "num_train_epochs is 0", "above 0"),
    "negative rate": (["--learning_rate=-1"], "learning_rate is -1.0", "above 0"),
    "NaN": (["--learning_rate", "nan"], "learning_rate is nan", "above 0"),
    "zero clipping": (["--max_grad_norm", "0"], "max_grad_norm is 0.0", "above 0"),
    "negative workers": (["--dataloader_num_workers=-1"], "is -1", "0 or above"),
    "fraction": (["--validation_fraction", "1"], "is 1.0", "between 0 and 1"),
}


@pytest.mark.parametrize("case", MISTAKES_IN_FLAGS)
def test_mistakes_in_flags(case: str) -> None:
    argv, *words = MISTAKES_IN_FLAGS[case]
    with pytest.raises(UserError) as caught:
        parse_train_arguments(argv)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


MISTAKES_IN_RECIPES = {
    "unknown key": ("learning_rat: 1", "'learning_rat'", "did you mean 'learning_rate'?"),
    "wrong type": ("learning_rate: fast", "--learning_rate", "'fast'"),
    "a float for an integer": ("seed: 1.5", "--seed", "'1.5'"),
    "nothing for a number": ("seed: null", "--seed"),
    "a list for a number": ("seed: [1, 2]", "seed", "[1, 2]"),
    "a mapping for a name": ("dataset: {a: 1}", "dataset", "{'a': 1}"),
    "not a choice": ("unknown_genres: keep", "--unknown_genres", "'keep'"),
    "model_config": ("model_config: 3", "model_config", "3"),
    "list": ("- seed", "mapping"),
    "broken YAML": ("seed: [1", "YAML"),
    "a Python object": ("seed: !!python/object/apply:os.getpid []", "YAML", "python/object"),
}


@pytest.mark.parametrize("case", MISTAKES_IN_RECIPES)
def test_mistakes_in_recipes_name_the_file(tmp_path: Path, case: str) -> None:
    text, *words = MISTAKES_IN_RECIPES[case]
    recipe = write(tmp_path / "bad.yaml", text)
    with pytest.raises(UserError) as caught:
        parse_train_arguments(["--recipe", recipe])
    assert all(word in str(caught.value) for word in (recipe, *words)), caught.value
    assert "\n" not in str(caught.value)


def test_recipe_that_is_no_text(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="bad.yaml cannot be read as YAML"):
        parse_train_arguments(["--recipe", str(recipe)])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "--checkpont", "x"], "did you mean 'checkpoint'?"),
        (["run", "--split", "dev"], "'validation'"),
        ([], "RUN_OR_MODEL"),
        (["run", "--per_device_eval_batch_size", "0"], "per_device_eval_batch_size is 0"),
        (["run", "--dataloader_num_workers=-1"], "dataloader_num_workers is -1"),
    ],
)
def test_mistakes_in_evaluation_flags(argv: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_evaluation_arguments(argv)
    assert words in str(caught.value)


def test_an_args_file_beside_the_script_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "train.args", "--seed 7")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "train.py")])
    assert parse_train_arguments().training.seed == 42


def test_saved_configuration_comes_back(tmp_path: Path) -> None:
    argv = ["--genres", "drama", "film-noir", "--model_config", "loss=bce", "pos_weight=[1.0, 2]"]
    argv += ["--learning_rate", "3e-7", "--run_name", "a: b", "--max_grad_norm", "0.5"]
    config = parse_train_arguments([*argv, "--overwrite_output_dir"])
    save_config(config, tmp_path / "config.yaml")
    loaded = load_config(tmp_path / "config.yaml")
    assert config.training.overwrite_output_dir
    # what a run does once is not inherited
    assert not loaded.training.overwrite_output_dir
    loaded.training.overwrite_output_dir = True
    assert loaded == config


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        load_config(tmp_path / "config.yaml")


REPORT_4_5 = {
    "learning_rate": 1e-4,
    "backbone_learning_rate": None,
    "weight_decay": 1e-5,
    "max_grad_norm": None,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 20,
    "warmup_epochs": 3,
    "plateau_factor": 0.2,
    "plateau_patience": 2,
    "metric_for_best_model": "f1_macro",
    "early_stopping_patience": 5,
    "early_stopping_min_delta": 0.001,
    "seed": 42,
    "validation_fraction": 0.15,
    "augmentation": "report",
    "image_backbone": "IMAGENET1K_V2",
    "text_backbone": "bert-base-uncased",
}
REPORT_MODEL = {
    "image_architecture": "resnet50",
    "projection_dim": 512,
    "expansion": 8 / 3,
    "num_attention_heads": 8,
    "classifier_dropout": 0.3,
    "fusion_tokens": "fused",
    "trainable_image_layers": ["layer4"],
    "trainable_text_layers": ["embeddings", "encoder.layer.-2", "encoder.layer.-1", "pooler"],
    "loss": "focal",
    "focal_alpha": 0.25,
    "focal_gamma": 2.0,
    "label_smoothing": 0.1,
    "image_size": 224,
    "max_length": 128,
    "missing_plot": "No plot found.",
}


def test_recipe_report_is_the_report() -> None:
    config = parse_train_arguments(["--recipe", "report"])
    flat = flatten(config)
    assert {name: flat[name] for name in REPORT_4_5} == REPORT_4_5
    assert config.data.protocol == "report"
    assert list(PROTOCOLS["report"].genres) == REPORT_GENRES
    model_config = create_config("mmgenre", REPORT_GENRES, config.model.model_config)
    assert {name: getattr(model_config, name) for name in REPORT_MODEL} == REPORT_MODEL


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_their_configs(name: str) -> None:
    config: TrainConfig = parse_train_arguments(["--recipe", name])
    args = config.model
    model_config = create_config(args.model, ["drama", "comedy"], args.model_config)
    assert model_config.genres == ["drama", "comedy"]
    for key, value in args.model_config.items():
        own = getattr(model_config, key)
        if key == "text_config":
            assert {k: getattr(own, k) for k in value} == value
        elif isinstance(value, float):
            assert math.isclose(own, value)
        else:
            assert own == value


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_s_poster_encoder_has_the_weights_that_it_names(name: str) -> None:
    args = parse_train_arguments(["--recipe", name]).model
    if args.image_backbone is not None:
        config = create_config(args.model, ["drama"], args.model_config)
        weights = get_model_weights(config.image_architecture)
        assert args.image_backbone in weights.__members__


def test_every_system_has_a_recipe() -> None:
    systems = {parse_train_arguments(["--recipe", name]).model.model for name in RECIPES}
    assert systems == set(SYSTEMS)
