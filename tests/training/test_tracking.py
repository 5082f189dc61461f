"""Where a run is tracked: W&B only where somebody is logged in, and never a question."""

import json
import os
import sys
from pathlib import Path

import pytest

from mmgenre.configs.arguments import TrackingArguments
from mmgenre.training.tracking import choose_tracker, is_logged_in_to_wandb, tracker_settings
from mmgenre.utils.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder in which nobody is logged in."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write_netrc(path: Path, machine: str = "api.wandb.ai") -> None:
    path.write_text(f"machine {machine}\n  login user\n  password {'0' * 40}\n")
    path.chmod(0o600)


def test_nobody_is_logged_in() -> None:
    assert not is_logged_in_to_wandb()
    assert choose_tracker("auto") is None
    assert choose_tracker("none") is None


def test_a_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert choose_tracker("auto") == "wandb"
    assert choose_tracker("none") is None


def test_a_key_in_netrc(home: Path) -> None:
    write_netrc(home / ".netrc", "example.org")
    assert choose_tracker("auto") is None
    write_netrc(home / ".netrc")
    assert choose_tracker("auto") == "wandb"


def test_a_key_in_a_netrc_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_netrc(home / "keys")
    monkeypatch.setenv("NETRC", str(home / "keys"))
    assert choose_tracker("auto") == "wandb"


def test_a_server_of_ones_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example.org:8080")
    write_netrc(home / ".netrc")
    assert choose_tracker("auto") is None
    write_netrc(home / ".netrc", "wandb.example.org:8080")
    assert choose_tracker("auto") == "wandb"


def test_a_broken_netrc_is_no_login(home: Path) -> None:
    (home / ".netrc").write_text("machine")
    assert choose_tracker("auto") is None


@pytest.mark.parametrize(
    ("mode", "auto"), [("offline", "wandb"), ("online", "wandb"), ("disabled", None)]
)
def test_wandb_mode_is_heeded(monkeypatch: pytest.MonkeyPatch, mode: str, auto: str | None) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert choose_tracker("auto") == auto
    assert tracker_settings(TrackingArguments(), Path("runs/a"), "1")["wandb"]["mode"] == mode


def test_wandb_goes_offline_rather_than_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_tracker("wandb") == "wandb"
    settings = tracker_settings(TrackingArguments(), Path("runs/a"), "1")["wandb"]
    own = {"id": "1", "resume": "allow", "dir": "runs/a"}
    assert settings == {**own, "name": "a", "mode": "offline"}
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    settings = tracker_settings(TrackingArguments(run_name="b"), Path("runs/a"), "1")["wandb"]
    assert settings == {**own, "name": "b", "mode": "online"}


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for package in ("tensorboard", "tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)  # how Python itself marks it as absent
    with pytest.raises(UserError, match=f"{name} is not installed"):
        choose_tracker(name)


# A closed port in place of a proxy: any attempt to reach the network fails.
NO_NETWORK = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}


@pytest.mark.slow
def test_an_offline_run_of_wandb(run_script, recipe: str, home: Path) -> None:
    run = home / "run"
    arguments = ["--num_train_epochs", "1", "--report_to", "wandb", "--run_name", "offline test"]
    result = run_script(
        "train.py", "--recipe", recipe, "--output_dir", run, *arguments, **NO_NETWORK
    )
    assert result.returncode == 0, result.stderr
    (log,) = run.glob("wandb/offline-run-*/run-*.wandb")
    history = json.loads((run / "history.jsonl").read_text())
    content = log.read_bytes()
    for name in ("offline test", "validation/f1_macro", "per_device_train_batch_size", "resnet10"):
        assert name.encode() in content
    assert repr(history["validation/f1_macro"]).encode() in content


def test_a_run_of_tensorboard(run_script, recipe: str, home: Path) -> None:
    pytest.importorskip("tensorboard")
    run = home / "run"
    arguments = ["--num_train_epochs", "1", "--report_to", "tensorboard"]
    result = run_script("train.py", "--recipe", recipe, "--output_dir", run, *arguments)
    assert result.returncode == 0, result.stderr
    content = b"".join(log.read_bytes() for log in run.rglob("events.out.tfevents.*"))
    assert b"validation/f1_macro" in content
    assert b"per_device_train_batch_size" in content
