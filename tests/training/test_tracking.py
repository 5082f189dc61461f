"""Where a run is tracked and what W&B's own reader finds there; and that tracking harms nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from processes import TOY, run, start, wait_for
from tiny import ROOT
from toy import ToyTrainer, create_trainer, fit
from wandb.util import get_core_path

from mmgenre.configs.arguments import TrackingArguments
from mmgenre.data.records import MovieRecord
from mmgenre.evaluation.evaluator import Evaluation
from mmgenre.training.examples import example_table
from mmgenre.training.tracking import (
    choose_tracker,
    is_logged_in_to_wandb,
    tracker_config,
    wandb_settings,
)
from mmgenre.utils.errors import UserError

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder in which nobody is logged in, and no variable of W&B."""

    def forget() -> None:
        for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
            os.environ.pop(name, None)

    forget()
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()  # its session would remember the variables
    forget()


# --- which tracker


def write_netrc(path: Path, machine: str = "api.wandb.ai") -> None:
    path.write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
    path.chmod(0o600)


def test_nobody_is_logged_in() -> None:
    assert not is_logged_in_to_wandb()
    assert choose_tracker("auto") is None
    assert choose_tracker("none") is None


def test_a_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
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


def test_wandb_mode_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert choose_tracker("auto") == "wandb"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_settings(TrackingArguments(), Path("runs/a"), "1")["mode"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert choose_tracker("auto") == "wandb"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_tracker("auto") is None


def test_wandb_goes_offline_rather_than_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_tracker("wandb") == "wandb"
    settings = wandb_settings(TrackingArguments(), Path("runs/a"), "1")
    assert (settings["mode"], settings["name"]) == ("offline", "a")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    settings = wandb_settings(TrackingArguments(run_name="b"), Path("runs/a"), "1")
    assert (settings["mode"], settings["name"]) == ("online", "b")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for package in ("tensorboard", "tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)  # how Python itself marks it as absent
    with pytest.raises(UserError, match=f"{name} is not installed"):
        choose_tracker(name)


def test_a_configuration_under_flat_names() -> None:
    config = {"seed": 1, "genres": [], "model_config": {"loss": "bce", "text_config": {"a": 2}}}
    assert tracker_config(config) == {
        "seed": 1,
        "genres": [],
        "model_config/loss": "bce",
        "model_config/text_config/a": 2,
    }


NOT_LOGGED_IN = (
    "WANDB_MODE is 'online', but nobody is logged in to W&B; set WANDB_API_KEY or run `wandb "
    "login`, or set WANDB_MODE to 'offline'"
)
CONTRADICTIONS = {
    "unknown": (
        "auto",
        {"WANDB_MODE": "ofline"},
        "WANDB_MODE is 'ofline'; it can be online, offline or disabled",
    ),
    "disabled": (
        "wandb",
        {"WANDB_MODE": "disabled", "WANDB_API_KEY": KEY},
        "report_to is 'wandb', but WANDB_MODE is 'disabled'; unset WANDB_MODE, or give --report_to "
        "none",
    ),
    "no login": ("wandb", {"WANDB_MODE": "online"}, NOT_LOGGED_IN),
    "no login, auto": ("auto", {"WANDB_MODE": "online"}, NOT_LOGGED_IN),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_what_contradicts_wandb_mode(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    report_to, env, sentence = CONTRADICTIONS[case]
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        choose_tracker(report_to)
    assert str(caught.value) == sentence
    assert choose_tracker("none") is None


REFUSED = {
    "malformed key": (
        {"WANDB_API_KEY": "short", "WANDB_MODE": "online"},
        "W&B does not take its key or settings (WANDB_API_KEY invalid: API key must have 40+ "
        "characters, has 5.); correct them, or give --report_to none",
    ),
    "malformed host": (
        {"WANDB_BASE_URL": "nonsense"},
        "W&B does not take its key or settings (1 validation error for Settings base_url Input",
    ),
}


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("case", REFUSED)
def test_what_wandb_itself_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    env, sentence = REFUSED[case]
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        fit(tmp_path / "run", report_to="wandb")
    assert str(caught.value).startswith(sentence)
    assert not (tmp_path / "run" / "history.jsonl").exists()


# --- what is tracked, by W&B's own reader


def inspect(log: Path, *flags: str) -> str:
    """`wandb leet inspect --json`, without starting Python for it."""
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", *flags]
    command += ["--run-file", str(log), str(log.parents[1])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Part:
    """One start of a run: what W&B wrote of it."""

    def __init__(self, log: Path) -> None:
        self.folder = log.parent
        records = [json.loads(line) for line in inspect(log).splitlines()]
        self.metrics = [record["metric"] for record in records if record["type"] == "metric"]
        self.artifacts = [record["artifact"] for record in records if record["type"] == "artifact"]
        self.rows = [record["history"]["item"] for record in records if record["type"] == "history"]
        (self.run,) = [record["run"] for record in records if record["type"] == "run"]
        state = json.loads(inspect(log, "--summary"))
        self.config, self.summary = state["config"], without_internals(state["summary"])


def without_internals(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def read_parts(folder: Path) -> list[Part]:
    return [Part(log) for log in sorted(folder.glob("wandb/*run-2*/run-*.wandb"))]


def axis(parts: list[Part], name: str) -> list[int]:
    return [row[name] for part in parts for row in part.rows if name in row]


def read_history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").open()]


def kill_at_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Kill a run that has tracked a step, once W&B's service has written what it got so far."""

    def last_tracked() -> int:
        try:
            return json.loads((folder / "wandb" / "tracked.json").read_text())["train/step"]
        except (OSError, ValueError, KeyError):  # not there, or being written
            return 0

    wait_for(lambda: last_tracked() >= step, process)
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: axis(read_parts(folder), "train/step")[-1:] >= [last_tracked()], process)
    process.kill()
    process.communicate()


def assert_is_one_run(parts: list[Part], folder: Path) -> None:
    """One run, in which no step is missing, comes twice or goes backwards; of all that it did."""
    history = read_history(folder)
    state = json.loads((folder / "checkpoints/last/training_state/loop_state.json").read_text())
    assert {part.run["run_id"] for part in parts} == {state["training"]["run_id"]}
    assert axis(parts, "train/step") == list(range(1, history[-1]["step"] + 1))
    assert axis(parts, "epoch") == [line["epoch"] for line in history]
    for part in parts:
        assert [row["_step"] for row in part.rows] == list(range(len(part.rows)))
    epochs = [row for part in parts for row in part.rows if "epoch" in row]
    for line, row in zip(history, epochs, strict=True):
        assert line.items() <= row.items()
    best = max(history, key=lambda line: line["validation/f1_macro"])
    assert best != history[-1]
    assert best.items() <= parts[-1].summary.items()
    assert not any(name.startswith(("train/step", "memory/")) for name in parts[-1].summary)


def test_a_run_that_is_killed_and_resumed(recipe: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ["--recipe", recipe, "--output_dir", folder, "--resume_from_checkpoint", "auto"]
    arguments += ["--report_to", "wandb", "--run_name", "offline test", "--run_group", "seeds"]
    arguments += ["--run_tags", "a", "b", "--num_examples", "4", "--log_model", "true"]
    arguments += ["--num_train_epochs", "3", "--logging_steps", "1", "--save_steps", "3"]
    env = {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}
    (process,) = start(1, ROOT / "train.py", *arguments, stderr=subprocess.DEVNULL, **env)
    kill_at_step(process, folder, 8)
    run(1, ROOT / "train.py", *arguments, **env)

    killed, resumed = parts = read_parts(folder)
    assert_is_one_run(parts, folder)
    expected = tracker_config(yaml.safe_load((folder / "config.yaml").read_text()))
    for part in parts:
        assert part.config == expected
        assert (part.run["display_name"], part.run["run_group"]) == ("offline test", "seeds")
        assert part.run["tags"] == ["a", "b"]
    for row in (row for part in parts for row in part.rows if "epoch" in row):
        scores = [value for name, value in row.items() if name.startswith("validation/f1/")]
        assert len(scores) == 10
        assert np.mean(scores) == pytest.approx(row["validation/f1_macro"])

    for table in folder.glob("wandb/*run-2*/files/media/html/validation/*.html"):
        content = table.read_text()
        assert re.findall(r"<td>(demo\d+)", content) == [f"demo00{i}" for i in (41, 44, 47, 50)]
        assert content.count("data:image/jpeg;base64,") == 3  # the poster of demo0044 is broken
        assert len(content) < 4 * 8_000
    assert table.is_relative_to(killed.folder.parent)
    (model,) = resumed.artifacts
    files = {entry["path"]: Path(entry["local_path"]) for entry in model["manifest"]["contents"]}
    best = (folder / "checkpoints" / "best").resolve() / "pretrained_model"
    assert files["model.safetensors"] == best / "model.safetensors"
    assert "best" in model["aliases"]
    assert_has_no_key(folder)


def assert_has_no_key(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_table_of_examples_is_text_and_nothing_else() -> None:
    records = [MovieRecord("<b>", "<script>" + 1000 * "x", (), None)]
    evaluator: Any = SimpleNamespace(
        metrics=SimpleNamespace(genres=["R&B", "war", "film"]),
        thresholds=0.5,
        dataset=SimpleNamespace(records=records),
    )
    evaluation = Evaluation(0.0, {}, np.array([[0.7, 0.2, 0.9]]), np.array([[1, 1, 0]]))
    assert example_table(evaluator, evaluation, 4) == (
        '<meta charset="utf-8"><table><tr><th>id<th>poster<th>plot<th>true<th>predicted'
        f"<tr><td>&lt;b&gt;<td><td>&lt;script&gt;{492 * 'x'}<td>R&amp;B, war<td>film 0.90, "
        "R&amp;B 0.70</table>"
    )


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_that_goes_on_from_an_earlier_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kwargs = {"report_to": "wandb", "save_total_limit": 9, "learning_rate": 8.0}
    fit(folder, num_train_epochs=3, **kwargs)
    fit(folder, num_train_epochs=4, resume="epoch_0001", **kwargs)
    assert_is_one_run(read_parts(folder), folder)


@pytest.mark.usefixtures("fresh_accelerate")
def test_rows_and_their_axes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _, history = fit(folder, report_to="wandb")
    (part,) = read_parts(folder)
    axes = {m.get("name") or m["glob_name"]: m.get("step_metric") for m in part.metrics}
    rows = [without_internals(row) for row in part.rows]
    steps = [row for row in rows if "train/step" in row]
    assert len(steps) == 10
    for row in steps:
        assert row.keys() == {
            "train/step",
            "train/step_loss",
            "train/grad_norm",
            "train/learning_rate/all",
            "train/samples_per_second",
            "train/data_wait_share",
            "memory/host_mib",
        }
        assert row["train/grad_norm"] > 0
        assert row["train/samples_per_second"] > 0
        assert 0 < row["train/data_wait_share"] < 1
    resident = psutil.Process().memory_info().rss / 2**20
    assert steps[-1]["memory/host_mib"] == pytest.approx(resident, rel=0.2)
    # Every name is drawn over its row's own axis; a pattern counts where the name is not defined.
    for row in rows:
        own = "train/step" if "train/step" in row else "epoch"
        for name in row.keys() - {own}:
            pattern = name.rpartition("/")[0] + "/*"
            pattern = pattern if pattern in axes else name.partition("/")[0] + "/*"
            assert axes.get(name, axes.get(pattern)) == own, name
    assert [row["epoch"] for row in rows if "epoch" in row] == [line["epoch"] for line in history]


@pytest.mark.slow
def test_many_processes_are_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(2, TOY, json.dumps([[str(folder), {"report_to": "wandb"}]]), WANDB_MODE="offline")
    (part,) = read_parts(folder)
    assert axis([part], "train/step") == list(range(1, len(read_history(folder)) * 3 + 1))
    assert axis([part], "epoch") == [1, 2]


# --- what goes wrong


def no_network(trainer: ToyTrainer, folder: Path) -> None:
    os.environ.update(WANDB_API_KEY=KEY, WANDB_MODE="online", WANDB_INIT_TIMEOUT="1")
    os.environ["WANDB_BASE_URL"] = "http://127.0.0.1:9"  # where nobody listens


def no_folder(trainer: ToyTrainer, folder: Path) -> None:
    (folder / "wandb").touch()


def full_disk(trainer: ToyTrainer, folder: Path) -> None:
    (folder / "wandb").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder / "wandb")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")


def killed_service(trainer: ToyTrainer, folder: Path) -> None:
    start_epoch = trainer.start_epoch

    def kill() -> None:
        if trainer.state.epoch == 1:
            services = psutil.Process().children(recursive=True)
            services = [child for child in services if child.name().startswith("wandb")]
            assert services
            for service in services:
                service.kill()
            psutil.wait_procs(services, timeout=60)
        start_epoch()

    trainer.start_epoch = kill  # type: ignore[method-assign]


GONE = "the run is no longer tracked, and training goes on: "
FAILURES: dict[str, tuple[Callable[[ToyTrainer, Path], None], str, int]] = {
    "no network": (no_network, "W&B cannot be reached (Failed to get resume status", 3),
    "no folder": (no_folder, f"{GONE}[Errno 20] Not a directory", 0),
    "full disk": (full_disk, f"{GONE}the disk of", 0),
    "killed service": (killed_service, GONE, 0),
}


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_ends_the_tracking_and_not_the_training(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    prepare, warning, num_epochs = FAILURES[case]
    folder = tmp_path / "run"
    trainer = create_trainer(folder, report_to="wandb", num_train_epochs=3)
    prepare(trainer, folder)
    try:
        with trainer.tracker.track({}, trainer.state, trainer.history):
            trainer.fit()
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert record.getMessage().startswith(warning)
        if num_epochs:
            assert axis(read_parts(folder), "epoch")[:num_epochs] == list(range(1, num_epochs + 1))
    finally:
        if case == "full disk":
            subprocess.run(["umount", "--lazy", str(folder / "wandb")], check=True)
    output = "".join(capfd.readouterr())
    assert "Traceback" not in output
    assert KEY not in output + caplog.text
    assert_has_no_key(folder)
    _, expected = fit(tmp_path / "untracked", num_train_epochs=3)
    assert read_history(folder) == expected


class Server(ThreadingHTTPServer):
    """As much of W&B's as a run needs to begin."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["Content-Length"] or 0))
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
        data: dict[str, Any] = {"model": None}
        if b"upsertBucket" in request:
            name = json.loads(request)["variables"]["name"]
            data = {"upsertBucket": {"bucket": {"id": "r", "name": name, "project": project}}}
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_network_that_is_lost_on_the_way(tmp_path: Path) -> None:
    server = Server()
    os.environ.update(WANDB_API_KEY=KEY, WANDB_MODE="online", WANDB_FINISH_TIMEOUT="1")
    os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{server.server_port}"
    folder = tmp_path / "run"
    trainer = create_trainer(folder, report_to="wandb", num_train_epochs=3)
    with trainer.tracker.track({}, trainer.state, trainer.history):
        assert not trainer.tracker.run.offline
        server.stop()
        trainer.fit()
        ended = time.monotonic()
    assert time.monotonic() - ended < 15
    # Nothing is lost: `wandb sync` uploads it.
    assert axis(read_parts(folder), "epoch") == [1, 2, 3]


# --- TensorBoard


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_of_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    fit(folder, report_to="tensorboard", save_steps=3, save_total_limit=9, stop_after=8)
    fit(folder, report_to="tensorboard", resume="step_00000006")
    events = EventAccumulator(str(folder / "mmgenre"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/grad_norm")] == list(range(1, 11))
    scores = {event.step: event.value for event in events.Scalars("validation/f1_macro")}
    history = read_history(folder)
    assert scores == pytest.approx({line["step"]: line["validation/f1_macro"] for line in history})
