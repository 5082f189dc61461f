"""The model card of a run: what the model is, what it is worth, and by what."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mmgenre import __version__
from mmgenre.configs.arguments import TrainConfig
from mmgenre.configs.parser import RECIPES_DIR, flatten, load_config, parse_train_arguments
from mmgenre.constants import CONFIG_FILE, METRICS_FILE, REPORTS_DIR
from mmgenre.evaluation.report import format_table
from mmgenre.evaluation.thresholds import describe_thresholds
from mmgenre.utils.errors import UserError

_SPLITS = ("test", "validation")
_METRICS = {
    "f1_macro": ("f1", "macro F1"),
    "f1_micro": ("f1", "micro F1"),
    "f1_weighted": ("f1", "weighted F1"),
    "f1_samples": ("f1", "samples F1"),
    "map_macro": ("map", "mean average precision"),
}
_GENRE_COLUMNS = ("genre", "precision", "recall", "f1", "f1_low", "f1_high", "threshold", "support")
_FEW = 20  # positives, at which a 95 % interval of F1 is about 0.4 wide
_INPUTS = {"image": "poster", "text": "plot", "features": "features"}
_TASKS: dict[tuple[str, ...], str] = {
    ("image",): "image-classification",
    ("text",): "text-classification",
}
# Where a run was and what it logged, which say nothing about the model.
_NOT_SHOWN = (
    *("recipe", "output_dir", "report_to", "project_name", "run_name", "content_hash"),
    *("logging_steps", "dataloader_num_workers"),
)


def create_card(run: Path, model: Path, repo: str, data_license: str | None = None) -> ModelCard:
    """The card of a run's model, with the Hub's metadata.

    Args:
        model: The folder of the checkpoint that is shared.
        repo: The name that the model is to have on the Hub.
        data_license: Of the movies; None is unknown.

    Raises:
        UserError: The run has no report, or one of another checkpoint or other thresholds.
    """
    config = load_config(run / CONFIG_FILE)
    values = json.loads((model / "config.json").read_text(encoding="utf-8"))
    report = _read_report(run, model, values.get("thresholds"))
    modalities = _modalities(model)
    data = ModelCardData(
        library_name="transformers",
        tags=["mmgenre", "movie-genres", "multi-label-classification", *modalities],
        pipeline_tag=_TASKS.get(tuple(modalities)),
        metrics=["f1"],
        model_name=repo.rpartition("/")[2],
        eval_results=_eval_results(report, modalities),
    )
    text = "\n".join(_text(config, values, report, modalities, repo, data_license))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def training_command(config: TrainConfig) -> str:
    """What `train.py` is called with to train such a model: the recipe, and what differs from it.

    Of a path only the last part is told, as the folders of this machine are nobody's business.
    """
    flags = []
    recipe = config.training.recipe
    if recipe is not None and (RECIPES_DIR / f"{recipe}.yaml").is_file():
        flags = ["--recipe", recipe]
    plain = flatten(parse_train_arguments(flags))
    given = flatten(config)
    for name, value in given.items():
        if name in _NOT_SHOWN or value == plain[name]:
            continue
        if isinstance(value, Mapping):
            pairs = [(k, v) for k, v in value.items() if plain[name].get(k) != v]
            flags += [f"--{name}", *(f"{k}={_quoted(json.dumps(v))}" for k, v in pairs)]
        elif value is not None:
            items = value if isinstance(value, list) else [value]
            flags += [f"--{name}", *(_quoted(_without_folder(str(item))) for item in items)]
    return " ".join(["accelerate launch train.py", *flags])


def _read_report(run: Path, model: Path, thresholds: list[float] | None) -> dict[str, Any]:
    paths = [run / REPORTS_DIR / split / METRICS_FILE for split in _SPLITS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{run} has no report; make one by evaluate.py {run} --split test")
    report = json.loads(path.read_text(encoding="utf-8"))
    was = (Path(report["context"]["model"]).parent.name, report["context"]["threshold"])
    now = (model.parent.name, describe_thresholds(thresholds))
    if was != now:
        raise UserError(
            f"{path} is of checkpoint {was[0]} with thresholds {was[1]}, and the model is {now[0]} "
            f"with {now[1]}; evaluate it again"
        )
    return report


def _modalities(model: Path) -> list[str]:
    processor = json.loads((model / "processor_config.json").read_text(encoding="utf-8"))
    return processor["modalities"]


def _eval_results(report: Mapping[str, Any], modalities: list[str]) -> list[EvalResult]:
    context = report["context"]
    name = _without_folder(context["dataset"])
    return [
        EvalResult(
            task_type=_TASKS.get(tuple(modalities), "text-classification"),
            task_name="Multi-label movie genre classification",
            dataset_type=name,
            dataset_name=name,
            dataset_split=context["split"],
            metric_type=kind,
            metric_name=title,
            metric_value=report["overall"][key],
        )
        for key, (kind, title) in _METRICS.items()
    ]


def _text(
    config: TrainConfig,
    values: Mapping[str, Any],
    report: Mapping[str, Any],
    modalities: list[str],
    repo: str,
    data_license: str | None,
) -> Iterator[str]:
    context, data, training = report["context"], config.data, config.training
    inputs = " and ".join(_INPUTS[modality] for modality in modalities)
    genres = [row["genre"] for row in report["per_genre"]]
    yield f"# {repo.rpartition('/')[2]}\n"
    yield (
        f"Predicts a movie's genres from its {inputs}: `{values['architectures'][0]}`, trained by "
        f"mmgenre {__version__}.\n"
    )
    yield "## Use\n"
    yield _snippet(repo, values, modalities)
    yield "## Results\n"
    yield (
        f"On {context['movies']} movies of the {context['split']} split; checkpoint: "
        f"{context['selection']}; threshold: {context['threshold']}; precision: "
        f"{context['precision']}. Intervals are of 95 %, over movies.\n"
    )
    rows = [
        (title, report["overall"][key], *report["intervals"][key], report["overall_at_0.5"][key])
        for key, (_, title) in _METRICS.items()
    ]
    yield format_table(rows, ("metric", "value", "low", "high", "at threshold 0.5"))
    by_support = sorted(report["per_genre"], key=lambda row: (-row["support"], row["genre"]))
    yield format_table([[row[c] for c in _GENRE_COLUMNS] for row in by_support], _GENRE_COLUMNS)
    yield "## Data\n"
    yield format_table(
        [
            ("data set", _without_folder(context["dataset"])),
            ("protocol", data.protocol or "the data set's own genres and movies"),
            ("splits", f"the data set's own, or {data.split_method} with seed {training.seed}"),
            ("genres", ", ".join(genres)),
            ("licence", data_license or "unknown"),
        ],
        ("what", "value"),
    )
    yield "## Training\n"
    yield f"```bash\n{training_command(config)}\n```\n"
    yield "## Intended use\n"
    yield (
        "To propose genres for movies like those of the data set, for search, for filling gaps in "
        "a catalogue, and as a baseline in research. A person should look at what matters.\n"
    )
    yield "## Limits\n"
    yield f"- It knows {len(genres)} genres, and finds some even for what is no movie."
    yield (
        "- The figures are of this data set's movies and its idea of genres; movies of other "
        "years, countries or languages can come out worse, and were not measured."
    )
    if "text" in modalities:
        yield f"- Plots are read up to {values['max_length']} tokens; the rest is cut."
    rare = [row["genre"] for row in by_support if row["support"] < _FEW]
    if rare:
        yield f"- Fewer than {_FEW} movies were tested of: {', '.join(rare)}."
    yield (
        "- What posters and plots show, such as looks, names and places, goes into the prediction; "
        "whether groups of people are treated alike was not measured."
    )


def _snippet(repo: str, values: Mapping[str, Any], modalities: list[str]) -> str:
    if "graph_roles" in values:
        return (
            "It predicts movies of a data set with credits, from its movie graph:\n\n"
            f"```bash\npython evaluate.py {repo} --dataset FOLDER\n```\n"
        )
    examples = {
        "image": ("images", '"poster.jpg"'),
        "text": ("text", '"A sheriff rides into town."'),
        "features": ("features", '{"image_features": ..., "text_features": ...}'),
    }
    movie = ", ".join(f'"{_INPUTS[name]}": {examples[name][1]}' for name in modalities)
    snippet = f"""With mmgenre:

```python
from mmgenre import GenrePipeline

pipeline = GenrePipeline.from_pretrained("{repo}")
print(pipeline({{{movie}}}))
```
"""
    if "auto_map" not in values or "features" in modalities:
        return snippet
    arguments = ", ".join(f"{examples[name][0]}={examples[name][1]}" for name in modalities)
    return f"""{snippet}
Without it, by the code that comes with the model:

```python
from transformers import AutoModelForSequenceClassification, AutoProcessor

path = "{repo}"
model = AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
inputs = processor({arguments})
probabilities = model(**inputs).logits.sigmoid()[0]
thresholds = model.config.thresholds or [0.5] * len(probabilities)
print([g for g, p, t in zip(model.config.genres, probabilities, thresholds) if p > t])
```
"""


def _without_folder(value: str) -> str:
    """A Hub's name as it is; of a path the last part."""
    is_path = Path(value).exists() or Path(value).is_absolute() or value.count("/") > 1
    return Path(value).name if is_path else value


def _quoted(text: str) -> str:
    return f"'{text}'" if set(text) & set(' "[]{}*$') else text
