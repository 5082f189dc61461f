"""Experiment trackers, through Accelerate's.

<output_dir>/
  wandb/offline-run-*/     W&B: a folder each time the run starts, all with its one run id
  wandb/tracked.json       W&B: the run id, and how far the rows on each axis go
  <project_name>/          TensorBoard: event files
"""

import json
import logging
import netrc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec
from urllib.parse import urlparse

from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_wandb_available

from mmgenre.checkpoints import find_model
from mmgenre.configs.arguments import TrackingArguments
from mmgenre.constants import TRACKED_FILE
from mmgenre.evaluation.evaluator import Evaluation, Evaluator
from mmgenre.training.agreement import Agreement
from mmgenre.training.examples import example_table, genre_scores
from mmgenre.training.output_dir import History
from mmgenre.training.state import TrainingState
from mmgenre.utils.errors import Preempted, UserError

logger = logging.getLogger(__name__)

STEP, EPOCH = "train/step", "epoch"
# What W&B draws over which axis; a name counts before the pattern that it matches.
_AXES = {
    STEP: None,
    EPOCH: None,
    "train/*": STEP,
    "memory/*": STEP,
    "train/loss": EPOCH,
    "train/skipped_steps": EPOCH,
    "step": EPOCH,
    "learning_rate": EPOCH,
    "learning_rate/*": EPOCH,
    "validation/*": EPOCH,
}
# W&B's own variables, unless they are set: it must neither hold a job up nor write on beside it.
_VARIABLES = {
    "WANDB_INIT_TIMEOUT": "20",
    "WANDB__DISABLE_VIEWER": "true",  # asks who the key belongs to, outside of that time
    "WANDB_FINISH_TIMEOUT": "60",
    "WANDB_MAX_END_OF_RUN_HISTORY_METRICS": "0",
    "WANDB_MAX_END_OF_RUN_SUMMARY_METRICS": "0",
    "WANDB_ERROR_REPORTING": "false",
    # A service that crashed would let every line of the log fail.
    "WANDB_CONSOLE": "off",
    # Seconds until a row is in its file; those that are not when a run is killed are lost.
    "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": "0.1",
}
P = ParamSpec("P")


def is_logged_in_to_wandb() -> bool:
    """Whether W&B has a key, looked up where W&B itself does, without importing or asking it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return bool(host and netrc.netrc(str(file)).authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def choose_tracker(report_to: str) -> str | None:
    """The tracker for `Accelerator(log_with=...)`.

    `auto` is W&B where somebody is logged in or `WANDB_MODE` asks for it, and otherwise none.

    Raises:
        UserError: The tracker is not installed, which Accelerate would pass over in silence; or
            `WANDB_MODE` is unknown, or contradicts `report_to` or the login.
    """
    if report_to in ("auto", "wandb"):
        report_to = _choose_wandb(report_to, os.environ.get("WANDB_MODE") or None)
    if report_to == "none":
        return None
    is_available = {"wandb": is_wandb_available, "tensorboard": is_tensorboard_available}
    if not is_available[report_to]():
        raise UserError(f"report_to is {report_to!r}, but {report_to} is not installed")
    return report_to


def _choose_wandb(report_to: str, mode: str | None) -> str:
    if mode not in (None, "online", "offline", "disabled"):
        raise UserError(f"WANDB_MODE is {mode!r}; it can be online, offline or disabled")
    if mode == "disabled" and report_to == "wandb":
        raise UserError(
            "report_to is 'wandb', but WANDB_MODE is 'disabled'; unset WANDB_MODE, or give "
            "--report_to none"
        )
    if mode == "online" and not is_logged_in_to_wandb():
        raise UserError(
            "WANDB_MODE is 'online', but nobody is logged in to W&B; set WANDB_API_KEY or run "
            "`wandb login`, or set WANDB_MODE to 'offline'"
        )
    wanted = report_to == "wandb" or mode is not None or is_logged_in_to_wandb()
    return "wandb" if wanted and mode != "disabled" else "none"


def tracker_config(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The run's configuration under flat names (`model_config/loss`), to filter and group by."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat.update(tracker_config(value, f"{prefix}{name}/"))
        else:
            flat[prefix + name] = value
    return flat


def wandb_settings(args: TrackingArguments, output_dir: Path, run_id: str) -> dict[str, Any]:
    """Arguments of `wandb.init`.

    W&B goes offline rather than ask for a key, which would hang a batch job.

    Args:
        run_id: A resumed run goes on under the id that it had.
    """
    return {
        "id": run_id,
        "resume": "allow",
        "name": args.run_name or output_dir.name,
        "group": args.run_group,
        "tags": args.run_tags or None,
        "dir": str(output_dir),
        "mode": os.environ.get("WANDB_MODE")
        or ("online" if is_logged_in_to_wandb() else "offline"),
    }


def _harmless(
    method: Callable[Concatenate["Tracker", P], None],
) -> Callable[Concatenate["Tracker", P], None]:
    """Nothing happens where nothing is tracked; a failure ends the tracking, not the training."""

    @wraps(method)
    def call(self: "Tracker", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if not self.is_on:
            return
        try:
            method(self, *args, **kwargs)
        except UserError:
            raise
        except Exception as error:
            logger.warning("the run is no longer tracked, and training goes on: %s", _line(error))
            self._give_up()

    return call


class Tracker:
    """What a run tells W&B or TensorBoard. Only the main process's does anything.

    A row is of an optimizer step or of an epoch, and drawn over it. W&B's own step stays W&B's: it
    drops a row whose step is not above the last, as after a restart. A row that was tracked before
    the restart is not tracked again, so that neither axis goes backwards; TensorBoard takes back
    what lies behind the checkpoint.

    Args:
        evaluator: Of the validation movies.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        agreement: Agreement,
        args: TrackingArguments,
        output_dir: Path,
        evaluator: Evaluator,
    ) -> None:
        self.accelerator = accelerator
        self.agreement = agreement
        self.args = args
        self.output_dir = output_dir
        self.evaluator = evaluator
        self.is_on = False
        self.run: Any = None  # W&B's
        self.tracked: dict[str, Any] = {}

    @contextmanager
    def track(
        self, config: dict[str, Any], state: TrainingState, history: History
    ) -> Iterator[None]:
        """Track what the block does. Called by all processes.

        Args:
            config: Flag to value.
            state: Where the run stands.
            history: Its epochs so far.

        Raises:
            UserError: W&B does not take the key or the settings that it was given.
        """
        if self.accelerator.log_with:
            self.agreement.main_does(lambda: self._start(config, state, history))
        exit_code = 1
        try:
            yield
            exit_code = 0
        except Preempted:
            exit_code = 0
            raise
        finally:
            self._finish(exit_code)

    @_harmless
    def log_step(self, step: int, values: dict[str, float]) -> None:
        """Values of an optimizer step."""
        self._log(STEP, {STEP: step, **values}, step)

    @_harmless
    def log_epoch(self, entry: dict[str, Any], evaluation: Evaluation, is_best: bool) -> None:
        """Values of an epoch.

        Args:
            entry: The epoch's line of the history.
            is_best: It is the best so far; W&B's summary and table of examples are of the best.
        """
        row = {**entry, **genre_scores(self.evaluator, evaluation)}
        if self.run is not None and is_best:
            self.run.summary.update(row)
            if self.args.num_examples:
                import wandb

                # Not W&B's own table: that is an artifact, for which training would wait until
                # W&B has answered, or 20 s where the network is lost.
                table = example_table(self.evaluator, evaluation, self.args.num_examples)
                row["validation/examples"] = wandb.Html(table, inject=False)
        self._log(EPOCH, row, entry["step"])

    @_harmless
    def log_model(self) -> None:
        """Keep the best model as an artifact of W&B."""
        if self.run is None:
            return
        import wandb

        artifact = wandb.Artifact(f"model-{self.run.id}", type="model")
        # Not copied first: the best checkpoint is never deleted.
        artifact.add_dir(find_model(str(self.output_dir)), policy="immutable", skip_cache=True)
        self.run.log_artifact(artifact, aliases=["best"])

    def _log(self, axis: str, row: dict[str, Any], step: int) -> None:
        if self.run is None:
            self.accelerator.log(row, step=step)
        elif row[axis] > self.tracked.get(axis, 0):
            folder = self._tracked_file.parent
            if not shutil.disk_usage(folder).free:  # which W&B would not say
                raise OSError(f"the disk of {folder} is full")
            self.run.log(row)
            self.tracked[axis] = row[axis]
            self._tracked_file.write_text(json.dumps(self.tracked), encoding="utf-8")

    def _start(self, config: dict[str, Any], state: TrainingState, history: History) -> None:
        self.is_on = True
        if str(self.accelerator.log_with[0]) == "wandb":
            self._start_wandb(config, state, history)
        else:
            self._start_tensorboard(config, state)

    @_harmless
    def _start_tensorboard(self, config: dict[str, Any], state: TrainingState) -> None:
        text = {
            k: v if isinstance(v, (int, float, str)) else json.dumps(v)
            for k, v in tracker_config(config).items()
        }
        settings = {"purge_step": state.step + 1} if state.step else {}
        self.accelerator.init_trackers(self.args.project_name, text, {"tensorboard": settings})

    @_harmless
    def _start_wandb(self, config: dict[str, Any], state: TrainingState, history: History) -> None:
        settings = wandb_settings(self.args, self.output_dir, state.run_id)
        try:
            self._init_wandb(config, settings)
        except Exception as error:
            import wandb

            self._give_up()
            if isinstance(error, (wandb.errors.AuthenticationError, ValueError)):
                raise UserError(
                    f"W&B does not take its key or settings ({_line(error)}); correct them, or "
                    "give --report_to none"
                ) from error
            if settings["mode"] == "offline":
                raise
            logger.warning(
                "W&B cannot be reached (%s); the run is tracked offline, and `wandb sync` in %s "
                "uploads it",
                _line(error),
                self.output_dir,
            )
            self._init_wandb(config, {**settings, "mode": "offline"})
            self.is_on = True
        self.run = self.accelerator.get_tracker("wandb", unwrap=True)
        for name, axis in _AXES.items():
            self.run.define_metric(name, step_metric=axis, summary="none")
        self._tracked_file.parent.mkdir(exist_ok=True)
        self.tracked = self._read_tracked(state.run_id)
        self.run.summary.update(history.entry(state.best_epoch))

    def _init_wandb(self, config: dict[str, Any], settings: dict[str, Any]) -> None:
        for name, value in _VARIABLES.items():
            os.environ.setdefault(name, value)
        self.accelerator.init_trackers(
            self.args.project_name, tracker_config(config), {"wandb": settings}
        )

    def _read_tracked(self, run_id: str) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            tracked = json.loads(self._tracked_file.read_text(encoding="utf-8"))
            if tracked["run_id"] == run_id:
                return tracked
        return {"run_id": run_id}

    @property
    def _tracked_file(self) -> Path:
        return self.output_dir / "wandb" / TRACKED_FILE

    @_harmless
    def _finish(self, exit_code: int) -> None:
        self.is_on = False
        if self.run is None:
            self.accelerator.trackers[0].finish()
        else:
            self.run.finish(exit_code)
        self.accelerator.trackers.clear()

    def _give_up(self) -> None:
        self.is_on = False
        with suppress(Exception):
            for tracker in self.accelerator.trackers:
                tracker.finish()
        self.accelerator.trackers.clear()
        if (wandb := sys.modules.get("wandb")) is not None:
            with suppress(Exception):
                wandb.teardown()  # or it would try again, and fail, when Python ends


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
