"""Runs and their reports, read back to be compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmgenre.configs.parser import flatten, load_config
from mmgenre.constants import (
    CHECKPOINTS_DIR,
    CONFIG_FILE,
    DEMO_DATA_DIR,
    LAST_CHECKPOINT,
    METRICS_FILE,
    PREDICTIONS_FILE,
    REPORTS_DIR,
)
from mmgenre.evaluation.metrics import movie_counts
from mmgenre.evaluation.predictions import Predictions, read_predictions
from mmgenre.utils.errors import UserError

HALF = "0.5"
# Keys that cannot change a figure, or that say nothing of the system.
_NOT_SYSTEM = (
    "seed",
    "output_dir",
    "run_name",
    "project_name",
    "report_to",
    "run_group",
    "run_tags",
    "num_examples",
    "log_model",
    "logging_steps",
    "save_total_limit",
    "dataloader_num_workers",
    "per_device_eval_batch_size",
)
# Arguments that can name a run, which then counts as its own configuration does: not by its seed.
_STAGES = ("text_backbone", "graph_backbone")
_NAMES_IN_MESSAGE = 3


@dataclass(frozen=True)
class Run:
    """A run's report on one split.

    Attributes:
        config: Flat, of what makes its system; a first stage's within it.
        selection: How its checkpoint was chosen.
        metrics: Kind of threshold to metrics; `0.5` always, the model's own where it has one.
    """

    folder: str
    config: dict[str, Any]
    selection: str
    predictions: Predictions
    metrics: dict[str, dict[str, float]]

    def counts(self, threshold: str) -> NDArray[np.float64]:
        """`movie_counts` at a kind of threshold."""
        cuts = 0.5 if threshold == HALF else np.array(self.predictions.cuts)
        return movie_counts(self.predictions.probabilities > cuts, self.predictions.labels == 1)


@dataclass(frozen=True)
class System:
    """Runs that differ in their seed alone."""

    name: str
    runs: list[Run]

    @property
    def recipe(self) -> str:
        return str(self.runs[0].config["recipe"])

    @property
    def thresholds(self) -> list[str]:
        """Kinds of threshold that all its runs have figures for."""
        kinds = self.runs[0].metrics
        return [kind for kind in kinds if all(kind in run.metrics for run in self.runs)]

    def mean(self, metric: str, threshold: str) -> float:
        """A metric's mean over the runs."""
        return float(np.mean([run.metrics[threshold][metric] for run in self.runs]))

    def counts(self, threshold: str) -> NDArray[np.float64]:
        """Each movie's `movie_counts`, means over the runs."""
        return np.mean([run.counts(threshold) for run in self.runs], axis=0)

    def includes(self, folder: Path) -> bool:
        """Whether `folder` is one of the runs."""
        return any(folder.resolve() == Path(run.folder).resolve() for run in self.runs)


def read_run(folder: Path, split: str) -> Run:
    """Read a run's report.

    Raises:
        UserError: It is no run, has no report on the split, or its files are broken.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{str(folder)!r} is not a run: it has no {CONFIG_FILE}")
    report = folder / REPORTS_DIR / split
    if not (report / PREDICTIONS_FILE).is_file():
        if not (folder / CHECKPOINTS_DIR / LAST_CHECKPOINT).exists():
            raise UserError(f"{str(folder)!r} never finished an epoch; there is nothing to compare")
        raise UserError(
            f"{str(folder)!r} has no report on the split {split!r}; "
            f"`python evaluate.py {folder} --split {split}` writes it"
        )
    predictions = read_predictions(report / PREDICTIONS_FILE)
    try:
        written = json.loads((report / METRICS_FILE).read_text(encoding="utf-8"))
        metrics = {HALF: written["overall_at_0.5"]}
        if predictions.thresholds is not None:
            kind = "global" if len(set(predictions.thresholds)) == 1 else "per genre"
            # on the movies that they were fitted on, figures are too good
            where = "these movies" if predictions.split == "validation" else "validation"
            metrics[f"{kind}, fitted on {where}"] = written["overall"]
        selection = written["context"]["selection"]
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{report / METRICS_FILE} cannot be read ({reason})") from error
    return Run(
        folder=str(folder),
        config=_system_config(folder),
        selection=selection,
        predictions=predictions,
        metrics=metrics,
    )


def _system_config(folder: Path) -> dict[str, Any]:
    config = flatten(load_config(folder / CONFIG_FILE))
    if Path(str(config["dataset"])) == Path(config["output_dir"]) / DEMO_DATA_DIR:
        config["dataset"] = "demo"  # drawn into each run's own folder
    for name in _STAGES:
        if config[name] is not None and (Path(config[name]) / CONFIG_FILE).is_file():
            config[name] = _system_config(Path(config[name]))
    return {key: value for key, value in config.items() if key not in _NOT_SYSTEM}


def check_comparable(runs: Sequence[Run]) -> None:
    """See that all runs are different ones, on the same movies with the same labels.

    Raises:
        UserError: A run is there twice, or two runs differ in their label sets, movies or labels;
            the message says in which.
    """
    folders = [Path(run.folder).resolve() for run in runs]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            raise UserError(f"{runs[index].folder} is given twice; give every run once")
    first = runs[0]
    for run in runs[1:]:
        for what, one, other in (
            ("genre", first.predictions.genres, run.predictions.genres),
            ("movie", first.predictions.ids, run.predictions.ids),
        ):
            if one != other:
                raise UserError(
                    f"{first.folder} and {run.folder} cannot be compared: "
                    f"{_difference(what, first.folder, one, run.folder, other)}"
                )
        unequal = np.argwhere(first.predictions.labels != run.predictions.labels)
        if len(unequal):
            movie, genre = unequal[0]
            raise UserError(
                f"{first.folder} and {run.folder} cannot be compared: their labels differ for "
                f"{len(set(unequal[:, 0]))} movies, such as movie {first.predictions.ids[movie]!r} "
                f"in genre {first.predictions.genres[genre]!r}"
            )


def group_runs(runs: Sequence[Run]) -> list[System]:
    """Runs of the same configuration together.

    A system is named by its recipe, or model, and by what sets it apart from the others of these.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.config, sort_keys=True), []).append(run)
    configs = [members[0].config for members in groups.values()]
    titles = [Path(c["recipe"]).stem if c["recipe"] else c["model"] for c in configs]
    flat = [_flat(config) for config in configs]
    systems = []
    for title, config, members in zip(titles, flat, groups.values(), strict=True):
        alike = [c for other, c in zip(titles, flat, strict=True) if other == title]
        apart = [
            f"{key}={value}"
            for key, value in config.items()
            if any(other.get(key) != value for other in alike)
        ]
        systems.append(System(" ".join([title, *apart]), members))
    return systems


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Every value by its name, `model_config`'s and a first stage's too; without the recipe's."""
    flat = {**config, **config["model_config"]}
    for name in ("recipe", "model_config"):
        del flat[name]
    for name in _STAGES:
        if isinstance(flat[name], dict):
            flat |= {f"{name}.{key}": value for key, value in _flat(flat.pop(name)).items()}
    return flat


def _difference(
    what: str, folder: str, one: Sequence[str], other_folder: str, other: Sequence[str]
) -> str:
    parts = []
    for where, mine, theirs in ((folder, one, other), (other_folder, other, one)):
        only = [name for name in mine if name not in set(theirs)]
        if only:
            more = (
                f" and {len(only) - _NAMES_IN_MESSAGE} more"
                if len(only) > _NAMES_IN_MESSAGE
                else ""
            )
            shown = ", ".join(only[:_NAMES_IN_MESSAGE])
            parts.append(f"only {where} has the {what} {shown}{more}")
    return "; ".join(parts) or f"the {what}s are in another order"
