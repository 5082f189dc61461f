"""What `mmgenre predict` costs beside the model's own forward pass: one table of ratios.

    python benchmarks/inference.py [--parts throughput memory cold_start]

Weights are random; throughput and cold start are of the report's full-size model, memory is of a
small one. Posters are JPEG files of short side 256, as `mmgenre prepare` makes them; plots have 92
words, MM-IMDb's mean.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from PIL import Image

from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.inference.inputs import read_inputs
from mmgenre.inference.outputs import open_output
from mmgenre.inference.pipeline import GenrePipeline
from mmgenre.inference.predict import write_predictions
from mmgenre.models.pictures import open_poster
from mmgenre.models.registry import create_config, get_system, load_class
from mmgenre.utils.logging import set_up_logging

ROOT = Path(__file__).parents[1]
GENRES = ("action", "comedy", "drama")
SMALL = {
    "image_architecture": "resnet10",
    "image_size": 32,
    "max_length": 32,
    "trainable_text_layers": ["all"],
    "projection_dim": 32,
    "text_config": {
        "vocab_size": 2000,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
}
BATCH_SIZE = 16
NUM_POSTERS = 64
WORDS = [f"{start}{end}" for start in "bcdfghklmnprst" for end in ("a", "end", "ing", "or", "us")]
# argv: folder, table, output. The peak of the process in MiB, model and libraries included; that of
# `getrusage` is at least what the process that starts it holds.
PREDICT_ALONE = """
import sys
from pathlib import Path
from mmgenre.inference.predict import PredictOptions, predict
predict(sys.argv[1], [sys.argv[2]], PredictOptions(output=Path(sys.argv[3])))
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""
LOAD_TENSORS = """
import sys, torch
from safetensors.torch import load_file
weights = load_file(sys.argv[1] + "/model.safetensors")
# They are mapped until they are read.
print(sum(tensor.sum() for tensor in weights.values()), flush=True)
"""
LOAD_MODEL = """
import sys
from mmgenre import load_model
print(load_model(sys.argv[1]).config.genres, flush=True)
"""


class Row(NamedTuple):
    what: str
    measured: str
    ratio: float
    limit: str


def make_table(folder: Path, num_movies: int) -> Path:
    """JSON lines of so many movies, which share `NUM_POSTERS` posters."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for i in range(NUM_POSTERS):
        pixels = rng.integers(0, 256, (24, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((256, 384), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i}.jpg", quality=90)
    path = folder / f"{num_movies}.jsonl"
    with path.open("w") as file:
        for i in range(num_movies):
            row = {"poster": f"{i % NUM_POSTERS}.jpg", "plot": " ".join(rng.choice(WORDS, 92))}
            file.write(f"{json.dumps(row)}\n")
    return path


def save_model(folder: Path, model_config: dict[str, Any]) -> Path:
    system = get_system("mmgenre")
    config = create_config("mmgenre", GENRES, model_config)
    torch.manual_seed(0)
    load_class(system.model)(config).save_pretrained(folder)
    tokenizer = train_tokenizer([" ".join(WORDS)])
    load_class(system.processor).from_config(config, tokenizer).save_pretrained(folder)
    return folder


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def run(*arguments: Any) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def until_first_line(*arguments: Any) -> float:
    """Seconds from the start of a process to its first line of output."""
    command = [sys.executable, *map(str, arguments)]
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        return time.perf_counter() - started


def throughput(folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    """From a table to a file, without loading the model, and forward passes over ready inputs."""
    table = make_table(folder / "movies", args.movies)
    pipeline = GenrePipeline.from_pretrained(
        str(save_model(folder / "full", {})), batch_size=BATCH_SIZE
    )
    side = pipeline.model.config.poster_side
    rows = [json.loads(line) for line in table.open()]
    batches = []
    for start in range(0, len(rows), BATCH_SIZE):
        part = rows[start : start + BATCH_SIZE]
        posters = [open_poster(table.parent / row["poster"], side) for row in part]
        inputs = pipeline.processor(images=posters, text=[row["plot"] for row in part])
        batches.append(inputs.to(pipeline.device))

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            pipeline.model(**batch).logits.cpu()

    def ours() -> None:
        output = open_output(folder / "out.jsonl", "jsonl", GENRES, resume=False)
        write_predictions(pipeline, read_inputs([str(table)]), output, is_shown=True)
        output.close()

    bare()
    pairs = [(seconds(bare), seconds(ours)) for _ in range(args.repeats)]
    bare_rate, our_rate = (len(rows) / min(times) for times in zip(*pairs, strict=True))
    yield Row(
        f"full size, batch {BATCH_SIZE}, {pipeline.device}: predict / forward on ready inputs",
        f"{our_rate:.2f} / {bare_rate:.2f} movies a second",
        our_rate / bare_rate,
        ">= 0.9",
    )


def memory(folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    model = save_model(folder / "small", SMALL)
    peaks = {}
    for num_movies in (100, args.rows):
        table = make_table(folder / "movies", num_movies)
        peaks[num_movies] = float(
            run("-c", PREDICT_ALONE, model, table, folder / f"{num_movies}.out.csv")
        )
    yield Row(
        f"peak memory of the process, {args.rows:,} movies / 100",
        f"{peaks[args.rows]:.0f} / {peaks[100]:.0f} MiB",
        peaks[args.rows] / peaks[100],
        "<= 1.05",
    )


def cold_start(folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    model = folder / "full"
    if not model.exists():
        save_model(model, {})
    table = make_table(folder / "movies", 1)
    ways = {
        "predict": ("-m", "mmgenre.cli", "predict", model, table),
        "import torch, read every weight": ("-c", LOAD_TENSORS, model),
        "import torch and transformers, load the model": ("-c", LOAD_MODEL, model),
    }
    for way in ways.values():  # file caches
        until_first_line(*way)
    rounds = [[until_first_line(*way) for way in ways.values()] for _ in range(args.repeats)]
    ours, *others = (min(times) for times in zip(*rounds, strict=True))
    for name, other in zip(list(ways)[1:], others, strict=True):
        yield Row(
            f"cold start, full size, to the first of one movie: predict / {name}",
            f"{ours:.2f} / {other:.2f} s",
            ours / other,
            "<= 1.3",
        )


PARTS = {"throughput": throughput, "memory": memory, "cold_start": cold_start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--movies", type=int, default=64, help="of throughput")
    parser.add_argument("--rows", type=int, default=100_000, help="of memory")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print("| what | measured | ratio | limit |")
    print("|---|---:|---:|---|")
    set_up_logging()
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts:
            for row in PARTS[part](Path(folder), args):
                print(
                    f"| {row.what} | {row.measured} | {row.ratio:.3f} | {row.limit} |", flush=True
                )


if __name__ == "__main__":
    main()
