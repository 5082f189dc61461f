import json
import pickle
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub import serve
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from mmgenre.configs.parser import flatten, parse_train_arguments
from mmgenre.inference.card import create_card, training_command
from mmgenre.inference.push import prepare_upload
from mmgenre.utils.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]
REPO = "me/movies"
TOKEN = "hf_" + "x" * 34


@pytest.fixture(scope="module")
def evaluated(trained_run: Path, run_script: Run, tmp_path_factory: Any) -> Path:
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained_run, run, symlinks=True)
    result = run_script("evaluate.py", run, "--split", "test")
    assert result.returncode == 0, result.stderr
    return run


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    return shutil.copytree(evaluated, tmp_path / "run", symlinks=True)


def model_of(run: Path) -> Path:
    return run / "checkpoints" / "best" / "pretrained_model"


def change(run: Path, name: str, content: str | bytes) -> None:
    """Of a file that no manifest knows, as a checkpoint that changed is refused before."""
    path = model_of(run) / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_the_card_says_what_the_report_says_and_the_hubs_parser_reads_it(evaluated: Path) -> None:
    report = json.loads((evaluated / "reports/test/metrics.json").read_text())
    card = ModelCard(str(create_card(evaluated, model_of(evaluated).resolve(), REPO, "CC0-1.0")))
    results = {result.metric_name: result for result in card.data.eval_results}
    assert results["macro F1"].metric_value == report["overall"]["f1_macro"]
    assert results["mean average precision"].metric_value == report["overall"]["map_macro"]
    assert {result.dataset_split for result in results.values()} == {"test"}
    assert {result.dataset_name for result in results.values()} == {"demo"}
    assert card.data.library_name == "transformers"
    low, high = report["intervals"]["f1_macro"]
    assert f"| {low:.4f} | {high:.4f} |" in card.text
    for row in report["per_genre"]:
        assert f"| {row['genre']} | {row['precision']:.4f} | {row['recall']:.4f} |" in card.text
    assert "| licence | CC0-1.0 |" in card.text


def test_a_licence_that_nobody_named_is_unknown(evaluated: Path) -> None:
    assert "| licence | unknown |" in str(
        create_card(evaluated, model_of(evaluated).resolve(), REPO)
    )


def test_the_command_on_the_card_gives_the_same_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flags = (
        "--recipe quickstart --seed 3 --learning_rate 1e-3 --genres drama film-noir --model_config "
        "image_size=32 trainable_text_layers=[embeddings,pooler] missing_plot='a b'"
    )
    config = parse_train_arguments(shlex.split(flags))
    command = training_command(config)
    assert command.startswith("accelerate launch train.py --recipe quickstart ")
    again = parse_train_arguments(shlex.split(command)[3:])
    assert flatten(again) == flatten(config)


def test_the_code_on_the_card_runs(evaluated: Path, demo_dir: Path, tmp_path: Path) -> None:
    model = model_of(evaluated).resolve()
    card = str(create_card(evaluated, model, str(model)))
    ours, theirs = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    poster = str(demo_dir / "posters/demo0001.jpg")
    for code in (ours, theirs):
        exec(code.replace("poster.jpg", poster), {})


@pytest.mark.parametrize("split", ["no", "other"])
def test_a_run_without_a_report_of_this_checkpoint_is_refused(split: str, run: Path) -> None:
    if split == "no":
        shutil.rmtree(run / "reports")
        message = f"{run} has no report; make one by evaluate.py {run} --split test"
    else:
        path = run / "reports/test/metrics.json"
        report = json.loads(path.read_text())
        report["context"]["model"] = "run/checkpoints/epoch_0009/pretrained_model"
        path.write_text(json.dumps(report))
        message = (
            f"{path} is of checkpoint epoch_0009 with thresholds 0.5, and the model is "
            f"{model_of(run).resolve().parent.name} with 0.5; evaluate it again"
        )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        prepare_upload(str(run), REPO)


def test_exactly_the_models_files_are_uploaded(run: Path) -> None:
    change(run, "notes.txt", "for me alone")
    upload = prepare_upload(str(run), REPO)
    assert {"config.json", "model.safetensors", "processor_config.json"} <= upload.files.keys()
    assert "modeling_mmgenre.py" in upload.files
    assert upload.left_out == ["notes.txt"]
    assert set(upload.files) | {"notes.txt"} == {path.name for path in model_of(run).iterdir()}


def with_metadata(run: Path) -> None:
    weights = load_file(model_of(run) / "model.safetensors")
    save_file(weights, model_of(run) / "model-2.safetensors", {"path": "/home/me/weights"})


SECRETS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "token": (lambda run: change(run, "vocab.txt", f"a\n{TOKEN}\n"), "line 2 holds a token of the"),
    "wandb": (
        lambda run: change(run, "a.py", f"WANDB_API_KEY={'0a' * 20}\n"),
        "line 1 holds a key of W&B",
    ),
    "aws": (lambda run: change(run, "a.py", "\n\nAKIA" + "A" * 16), "line 3 holds a key of AWS"),
    "github": (lambda run: change(run, "a.py", "ghp_" + "a" * 36), "holds a token of GitHub"),
    "key": (
        lambda run: change(run, "a.py", "-----BEGIN RSA PRIVATE KEY-----"),
        "holds a private key",
    ),
    "password": (
        lambda run: change(run, "a.py", 'password = "correcthorsebattery"'),
        "line 1 holds a password",
    ),
    "path": (
        lambda run: change(run, "vocab.txt", "/home/me/movies\n"),
        "line 1 holds a path of this machine",
    ),
    "path in weights": (with_metadata, "line 1 holds a path of this machine"),
    "pickle": (
        lambda run: change(run, "pytorch_model.bin", pickle.dumps({})),
        "can be a pickle, which runs code when it is loaded; remove it",
    ),
}


@pytest.mark.parametrize("case", SECRETS)
def test_secrets_paths_and_pickles_stay_here(case: str, run: Path) -> None:
    spoil, message = SECRETS[case]
    spoil(run)
    with pytest.raises(UserError) as caught:
        prepare_upload(str(run), REPO)
    assert message in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_path_in_this_users_home_stays_here(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/cluster/me")
    change(run, "vocab.txt", "/cluster/me/movies\n")
    with pytest.raises(UserError, match="line 1 holds a path of this machine"):
        prepare_upload(str(run), REPO)


def push(run_script: Run, run: Path, *flags: str, url: str) -> subprocess.CompletedProcess[str]:
    environment = {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(run / "home")}
    return run_script("-m", "mmgenre.cli", "push", run, REPO, *flags, **environment)


def test_a_dry_run_shows_files_and_card_and_says_nothing_to_the_hub(
    evaluated: Path, run_script: Run
) -> None:
    with serve(TOKEN) as hub:
        result = push(run_script, evaluated, "--dry_run", url=hub.url)
    assert result.returncode == 0, result.stderr
    assert hub.requests == []
    size = (model_of(evaluated) / "model.safetensors").stat().st_size
    assert re.search(rf"^ +{size:,}  model.safetensors$", result.stdout, re.MULTILINE)
    assert str(create_card(evaluated, model_of(evaluated).resolve(), REPO)) in result.stdout


def test_a_push_makes_a_private_repository_of_the_files(evaluated: Path, run_script: Run) -> None:
    with serve(TOKEN) as hub:
        result = push(run_script, evaluated, url=hub.url)
    assert result.returncode == 0, result.stderr
    assert hub.is_private is True
    upload = prepare_upload(str(evaluated), REPO)
    assert hub.files == {
        "README.md": upload.card.encode(),
        **{name: path.read_bytes() for name, path in upload.files.items()},
    }


def test_a_public_repository_is_not_filled_unasked(evaluated: Path, run_script: Run) -> None:
    with serve(TOKEN, is_private=False) as hub:
        result = push(run_script, evaluated, url=hub.url)
    assert result.returncode == 2
    assert hub.files == {}
    assert result.stderr.splitlines() == [
        "mmgenre: error: me/movies is there and public; --public says that this is meant, or "
        "choose another name"
    ]


def test_without_login_or_network_one_sentence(evaluated: Path, run_script: Run) -> None:
    with serve("another") as hub:
        refused = push(run_script, evaluated, url=hub.url)
    unreachable = push(run_script, evaluated, url=hub.url)
    assert refused.returncode == unreachable.returncode == 2
    assert refused.stderr.splitlines() == [
        "mmgenre: error: the Hub refused me/movies (401); log in by: hf auth login"
    ]
    (line,) = unreachable.stderr.splitlines()
    assert line.startswith("mmgenre: error: the Hub cannot be reached (")
