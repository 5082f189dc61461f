"""`mmgenre export`: a model for ONNX Runtime or torch.export, compared with the one it comes from.

FOLDER/
  model.onnx         or model.pt2; inputs as the processor names them, output `logits`
  model_int8.onnx    the encoders' linear layers in 8 bits, where asked for
  config.json        labels, thresholds and preprocessing
  export.json        what was compared, on how many movies
  and what AutoProcessor takes, with its code, for where mmgenre is not installed
"""

import inspect
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mmgenre.constants import EXPORT_FILE, INT8_FILE, ONNX_FILE, TORCH_FILE
from mmgenre.evaluation.metrics import compute_metrics
from mmgenre.models.base import GenrePreTrainedModel
from mmgenre.utils.errors import UserError
from mmgenre.utils.logging import log_progress

logger = logging.getLogger(__name__)

Format = Literal["onnx", "torch"]
Inputs = Mapping[str, torch.Tensor]
Run = Callable[[Inputs], torch.Tensor]

# A probability may differ by so much: float32's rounding, through a hundred layers.
TOLERANCE = 1e-4
# What 8 bits may cost in macro F1 before a warning.
INT8_TOLERANCE = 0.005
_TOKENS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Comparison:
    """An exported model against the original, on the same movies.

    Attributes:
        difference: The largest between two probabilities.
        f1_macro, f1_micro: At the model's thresholds.
        f1_macro_lost: The original's macro F1 less this one's.
    """

    difference: float
    f1_macro: float
    f1_micro: float
    f1_macro_lost: float


def check_exportable(model: GenrePreTrainedModel, folder: Path, format: Format, int8: bool) -> None:
    """See what would stop an export, before movies are read.

    Raises:
        UserError: The model needs a movie graph, `folder` is there already, a package is missing,
            or `format` has no 8 bits.
    """
    if hasattr(model.config, "graph_roles"):
        raise UserError(
            f"{model.config.model_type} cannot be exported: it needs the graph of its data set, "
            "which no file for one movie holds"
        )
    if folder.exists():
        raise UserError(f"folder {str(folder)!r} exists; name a new one")
    if format == "torch" and int8:
        raise UserError("--int8 needs --format onnx; torch.export quantises nothing")
    for package in ("onnxruntime", "onnxscript") if format == "onnx" else ():
        if find_spec(package) is None:
            raise UserError(f"exporting to ONNX needs {package}; pip install 'mmgenre[onnx]'")


def export_model(
    model: GenrePreTrainedModel,
    processor: Any,
    batches: Iterable[dict[str, torch.Tensor]],
    num_movies: int,
    folder: Path,
    format: Format = "onnx",
    int8: bool = False,
) -> dict[str, Comparison]:
    """Write `folder`, unless what was exported gives other genres than the model.

    Args:
        batches: Movies to compare on, as `GenreCollator` makes them.
        num_movies: In all batches, for the progress.
        int8: Quantise too; for ONNX.

    Returns:
        File name to comparison.

    Raises:
        UserError: As `check_exportable`, the folder cannot be written, or a probability differs by
            more than `TOLERANCE`; then no folder is left.
    """
    check_exportable(model, folder, format, int8)
    model.eval().cpu()
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        model.config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        names = input_names(model, processor)
        program = _capture(model, processor, names)
        runs = {"original": lambda inputs: model(**inputs).logits}
        if format == "onnx":
            runs |= _write_onnx(program, names, temporary, int8)
        else:
            runs |= _write_torch(program, names, temporary)
        comparisons = _compare(runs, names, model, batches, num_movies)
        figures = {name: vars(comparison) for name, comparison in comparisons.items()}
        text = json.dumps({"movies": num_movies, "comparisons": figures}, indent=2)
        (temporary / EXPORT_FILE).write_text(text + "\n", encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"folder {str(folder)!r} cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return comparisons


def input_names(model: GenrePreTrainedModel, processor: Any) -> list[str]:
    """What the processor makes for the model, in the order of its `forward`."""
    made = _example(processor)
    return [name for name in inspect.signature(model.forward).parameters if name in made]


def _example(processor: Any) -> dict[str, torch.Tensor]:
    # Movies and tokens differ in number, or torch.export takes them for one dimension.
    return dict(processor(text=["a plot of some words"] * 3))


class _Logits(nn.Module):
    """A model as a function of tensors in a fixed order, which is what is exported."""

    def __init__(self, model: GenrePreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def _capture(
    model: GenrePreTrainedModel, processor: Any, names: Sequence[str]
) -> torch.export.ExportedProgram:
    """The model's graph for any number of movies, and of tokens where it takes plots."""
    example = _example(processor)
    free = torch.export.Dim.DYNAMIC
    shapes = tuple({0: free, 1: free} if name in _TOKENS else {0: free} for name in names)
    with torch.no_grad():
        return torch.export.export(
            _Logits(model, names).eval(),
            tuple(example[name] for name in names),
            dynamic_shapes=(shapes,),
        )


def _write_onnx(
    program: torch.export.ExportedProgram, names: Sequence[str], folder: Path, int8: bool
) -> dict[str, Run]:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path, small = folder / ONNX_FILE, folder / INT8_FILE
    with _quiet():
        exported = torch.onnx.export(
            program, input_names=list(names), output_names=["logits"], verbose=False
        )
        assert exported is not None
        exported.save(path)
        if int8:
            # Convolutions in 8 bits need calibration, for little time saved. Linear layers over one
            # vector a movie are Gemm, and stay: inputs have one scale a batch, and where SwiGLU
            # makes one movie's 200 times as large as others', nothing is left of those. A model of
            # Gemm alone is quantised all the same.
            quantize_dynamic(
                path,
                small,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=[n.name for n in exported.model.graph if n.op_type == "MatMul"],
            )

    def run(file: Path) -> Run:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        taken = [argument.name for argument in session.get_inputs()]
        return lambda inputs: torch.from_numpy(
            session.run(["logits"], {name: inputs[name].numpy() for name in taken})[0]
        )

    return {file.name: run(file) for file in (path, small) if file.exists()}


def _write_torch(
    program: torch.export.ExportedProgram, names: Sequence[str], folder: Path
) -> dict[str, Run]:
    path = folder / TORCH_FILE
    torch.export.save(program, path)
    module = torch.export.load(path).module()
    return {path.name: lambda inputs: module(*(inputs[name] for name in names))}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own lines, which tell a user nothing to do."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@torch.inference_mode()
def _compare(
    runs: Mapping[str, Run],
    names: Sequence[str],
    model: GenrePreTrainedModel,
    batches: Iterable[dict[str, torch.Tensor]],
    num_movies: int,
) -> dict[str, Comparison]:
    """All but the first of `runs` against the first.

    Raises:
        UserError: One in full precision gives another probability.
    """
    rows: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    labels = []
    with log_progress(logger, "compared", num_movies, "movies") as advance:
        for batch in batches:
            inputs = {name: batch[name] for name in names}
            for name, run in runs.items():
                rows[name].append(run(inputs).double().sigmoid().numpy())
            labels.append(batch["labels"].numpy())
            advance(len(labels[-1]))
    probabilities = {name: np.concatenate(parts) for name, parts in rows.items()}
    config = model.config
    metrics = {
        name: compute_metrics(
            values, np.concatenate(labels), config.genres, config.thresholds or 0.5
        )
        for name, values in probabilities.items()
    }
    original, *exported = runs
    comparisons = {
        name: Comparison(
            float(np.abs(probabilities[name] - probabilities[original]).max()),
            metrics[name]["f1_macro"],
            metrics[name]["f1_micro"],
            metrics[original]["f1_macro"] - metrics[name]["f1_macro"],
        )
        for name in exported
    }
    for name, comparison in comparisons.items():
        if name != INT8_FILE and not comparison.difference <= TOLERANCE:
            raise UserError(
                f"{name} gives probabilities that differ from the model's by up to "
                f"{comparison.difference:.1e}; {TOLERANCE:.0e} is allowed, so nothing is written"
            )
        if name == INT8_FILE and comparison.f1_macro_lost > INT8_TOLERANCE:
            logger.warning(
                "%s loses %.4f of macro F1; %s has full precision",
                name,
                comparison.f1_macro_lost,
                ONNX_FILE,
            )
    return comparisons


def comparison_table(comparisons: Mapping[str, Comparison]) -> str:
    """In Markdown."""
    lines = [
        "| file | largest difference of a probability | macro F1 | micro F1 | macro F1 lost |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, c in comparisons.items():
        lines.append(
            f"| {name} | {c.difference:.1e} | {c.f1_macro:.3f} | {c.f1_micro:.3f} | "
            f"{c.f1_macro_lost:.4f} |"
        )
    return "\n".join(lines)
