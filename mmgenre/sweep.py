"""Repeats over seeds, and a search over settings, by whatever command trains.

<output_dir>/
  sweep.json             command and search space, which stay what they are
  search.log             optuna's journal of the search
  seed1/ seed2/ ...      runs; with a search in trial0000/, trial0001/, ...

Runs are trained one after another, and evaluated on validation; nothing here looks at test movies.
"""

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from mmgenre.configs.parser import is_flag, parse_train_arguments
from mmgenre.constants import METRICS_FILE, REPORTS_DIR, SEARCH_FILE, SWEEP_FILE
from mmgenre.data.records import VALIDATION
from mmgenre.evaluation.runs import HALF, Run, check_comparable, group_runs, read_run
from mmgenre.evaluation.table import compare, to_markdown
from mmgenre.utils.errors import (
    PREEMPTED_STATUS,
    PREEMPTION_SIGNALS,
    Preempted,
    RunError,
    UserError,
)

logger = logging.getLogger(__name__)

_OWN_FLAGS = ("seed", "output_dir", "resume_from_checkpoint", "overwrite_output_dir")
_SPECS = "KEY=A,B,..., KEY=log:LOW:HIGH, KEY=uniform:LOW:HIGH or KEY=int:LOW:HIGH"

Settings = Mapping[str, Any]


def sweep(
    command: Sequence[str],
    folder: Path,
    seeds: Sequence[int],
    search: Sequence[str] = (),
    num_trials: int = 20,
    sampler: str = "tpe",
    metric: str = "f1_macro",
) -> None:
    """Train every setting with every seed, as far as that is not done already.

    Prints the runs as a table, the best setting first.

    Args:
        command: Starts `train.py`, by whatever launcher.
        folder: Where the runs go; the same call on it goes on where it was stopped.
        search: Keys and their values (see `parse_space`); none trains the command as it is.
        num_trials: Settings that are tried.
        sampler: `random`, or `tpe` (tree-structured Parzen estimator).
        metric: On validation at 0.5, the mean over seeds; the search maximises it.

    Raises:
        UserError: Command, search space or folder do not fit.
        RunError: Runs failed; all others are trained and in the table.
        Preempted: A signal came.
    """
    runner = Runner(command, find_script(command, "evaluate.py"))
    space = parse_space(search)
    check_settings(command, space)
    what = {"command": list(command), "search": list(search), "sampler": sampler, "metric": metric}
    _check_same(folder, what if search else {"command": list(command)})
    if search:
        _search(runner, folder, space, seeds, num_trials, sampler, metric)
    else:
        runner.train(folder, {}, seeds)
    if runner.runs:
        check_comparable(runner.runs)
        systems = group_runs(runner.runs)
        systems.sort(key=lambda system: -system.mean(metric, HALF))
        print(to_markdown(compare(systems, literature=False)), end="", flush=True)
    if runner.failed:
        raise RunError(
            f"{len(runner.failed)} of {len(runner.failed) + len(runner.runs)} runs failed: "
            f"{'; '.join(runner.failed)}; the same command tries them again"
        )


@dataclass
class Runner:
    """Trains and evaluates runs in processes of their own, and passes on that it is to stop.

    Attributes:
        evaluation: Flags for `evaluate.py`, beside the split.
        runs: Those that are finished.
        failed: The others, and what their process ended with.
    """

    command: Sequence[str]
    evaluate: Path
    evaluation: Sequence[str] = ()
    runs: list[Run] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def train(self, folder: Path, settings: Settings, seeds: Sequence[int]) -> list[Run]:
        """The finished runs of a setting; one that fails is noted, and the others go on.

        Raises:
            Preempted: A signal came.
        """
        runs = []
        for seed in seeds:
            run = folder / f"seed{seed}"
            own = ["--seed", seed, "--output_dir", run, "--resume_from_checkpoint", "auto"]
            status = 0
            if not (run / REPORTS_DIR / VALIDATION / METRICS_FILE).is_file():
                logger.info("training %s", run)
                status = self._call([*self.command, *flags(settings), *map(str, own)])
                if not status:
                    words = [
                        sys.executable,
                        self.evaluate,
                        run,
                        "--split",
                        VALIDATION,
                        *self.evaluation,
                    ]
                    status = self._call(list(map(str, words)), stdout=subprocess.DEVNULL)
            if status:
                self.failed.append(f"{run} (status {status})")
                logger.error("%s failed with status %d", run, status)
            else:
                runs.append(read_run(run, VALIDATION))
        self.runs += runs
        return runs

    def _call(self, command: Sequence[str], stdout: int | None = None) -> int:
        handlers = {number: signal.signal(number, self._stop) for number in PREEMPTION_SIGNALS}
        try:
            self._process = subprocess.Popen(command, stdout=stdout)
            if self._is_stopped:
                self._process.terminate()
            status = self._process.wait()
        except OSError as error:
            raise UserError(f"{command[0]!r} cannot be started: {error.strerror}") from error
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._is_stopped or status == PREEMPTED_STATUS:
            raise Preempted("stopped as asked; the same command goes on from here")
        return status

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._is_stopped = True
        # A terminal sends Ctrl-C to both, and SIGTERM is what launchers pass on.
        if self._process is not None and number != signal.SIGINT:
            self._process.terminate()


def find_script(command: Sequence[str], name: str) -> Path:
    """The script that lies beside the `train.py` of a command.

    Raises:
        UserError: The command has none, or has flags that are the sweep's.
    """
    places = [i for i, word in enumerate(command) if Path(word).name == "train.py"]
    if not places or not Path(command[places[0]]).with_name(name).is_file():
        raise UserError(
            f"the command {' '.join(command)!r} has no train.py with {name} beside it; give it "
            "after --, such as -- accelerate launch train.py --recipe quickstart"
        )
    for word in command[places[0] :]:
        flag = word.partition("=")[0].lstrip("-").replace("-", "_")
        if word.startswith("--") and flag in _OWN_FLAGS:
            raise UserError(f"--{flag} is set for each run; leave it out of the command")
    return Path(command[places[0]]).with_name(name)


def parse_space(search: Sequence[str]) -> dict[str, Any]:
    """optuna's distribution of each key.

    Args:
        search: `KEY=A,B,...` for one of several values (YAML), or a number from `log:LOW:HIGH`,
            `uniform:LOW:HIGH` or `int:LOW:HIGH`. A key is a flag or a field of the model's config.

    Raises:
        UserError: One is none of these, or optuna is not installed.
    """
    if not search:
        return {}
    try:
        from optuna import distributions
    except ImportError as error:
        raise UserError('a search needs optuna: pip install -e ".[search]"') from error
    space: dict[str, Any] = {}
    for item in search:
        key, _, spec = item.partition("=")
        kind, *ends = spec.split(":")
        try:
            if kind in ("log", "uniform"):
                start, end = map(float, ends)
                space[key] = distributions.FloatDistribution(start, end, log=kind == "log")
            elif kind == "int":
                low, high = map(int, ends)
                space[key] = distributions.IntDistribution(low, high)
            else:
                values = yaml.safe_load(f"[{spec}]")
                # text, as optuna keeps no lists
                texts = [v if isinstance(v, str) else json.dumps(v) for v in values]
                space[key] = distributions.CategoricalDistribution(texts)
        except (ValueError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"search {item!r} is not understood; it can be {_SPECS}") from error
    return space


def check_settings(command: Sequence[str], space: Mapping[str, Any]) -> None:
    """See that training would take the command, with the ends of each range.

    Raises:
        UserError: It would not.
    """
    from mmgenre.models.registry import create_config

    start = next(i for i, word in enumerate(command) if Path(word).name == "train.py")
    ends = {key: getattr(d, "choices", None) or (d.low, d.high) for key, d in space.items()}
    for settings in ({}, *({key: value} for key, values in ends.items() for value in values)):
        model = parse_train_arguments([*command[start + 1 :], *flags(settings)]).model
        try:
            create_config(model.model, ["a genre"], model.model_config)
        except ValueError as error:
            raise UserError(str(error)) from error


def flags(settings: Settings) -> list[str]:
    """Settings as arguments of `train.py`."""
    words = []
    for key, value in settings.items():
        words += [f"--{key}", str(value)] if is_flag(key) else ["--model_config", f"{key}={value}"]
    return words


def _search(
    runner: Runner,
    folder: Path,
    space: Mapping[str, Any],
    seeds: Sequence[int],
    num_trials: int,
    sampler: str,
    metric: str,
) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / SEARCH_FILE))),
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
    )
    for number in range(num_trials):
        if number == len(study.trials):
            # A seed for each trial, so that a search that was stopped goes on as it would have.
            study.sampler = samplers[sampler](seed=number)
            study.ask(dict(space))
        trial = study.trials[number]
        runs = runner.train(folder / f"trial{number:04d}", trial.params, seeds)
        # A trial that failed stays open, so that the next call tries it again.
        if len(runs) == len(seeds) and not trial.state.is_finished():
            score = sum(run.metrics[HALF][metric] for run in runs) / len(runs)
            study.tell(number, score)


def _check_same(folder: Path, what: Mapping[str, Any]) -> None:
    """Write down what is swept, or see that it is what it was."""
    path = folder / SWEEP_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            path.write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written and read: {error}") from error
    if there != what:
        raise UserError(f"{folder} holds another sweep ({json.dumps(there)}); give another folder")
