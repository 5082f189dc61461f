"""What an exported model costs at batch 1, on one core: processor seconds against torch's.

    python benchmarks/export.py [MODEL] [--rounds 20]

Without MODEL the report's full-size model with random weights, 224 pixels and 128 tokens. F1 is not
in the table: `mmgenre export RUN FOLDER --int8` measures it on a data set.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from mmgenre.checkpoints import find_model
from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.inference.export import export_model, input_names
from mmgenre.models.configuration_mmgenre import MMGenreConfig
from mmgenre.models.modeling_mmgenre import MMGenreForSequenceClassification
from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.models.registry import load_model, load_processor

PLOT = "Two dogs run a bar on the moon until a war breaks out. " * 40


def load(path: str | None) -> tuple[Any, Any]:
    if path is not None:
        path = find_model(path)
        return load_model(path), load_processor(path)
    torch.manual_seed(0)
    model = MMGenreForSequenceClassification(MMGenreConfig())
    return model, MMGenreProcessor.from_config(model.config, train_tokenizer([PLOT], 200))


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    model, processor = load(args.model)
    model.eval()
    poster = np.random.default_rng(0).integers(0, 256, (3, 400, 270), dtype=np.uint8)
    inputs = dict(processor(images=[poster], text=[PLOT]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "exported"
        labels = torch.zeros(1, len(model.config.genres))
        batch = {**inputs, "labels": labels}
        export_model(model, processor, [batch], 1, folder, int8=True)
        sessions = {"ONNX Runtime": "model.onnx", "ONNX Runtime, int8": "model_int8.onnx"}
        runs: dict[str, Any] = {"torch": lambda: model(**inputs)}
        for name, file in sessions.items():
            opened = session(folder / file)
            feed = {n: inputs[n].numpy() for n in input_names(model, processor)}
            runs[name] = lambda opened=opened, feed=feed: opened.run(["logits"], feed)
        sizes = {name: (folder / file).stat().st_size for name, file in sessions.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        with torch.inference_mode():
            for number in range(args.rounds + 2):
                for name, run in runs.items():
                    started = time.thread_time()
                    run()
                    if number > 1:
                        seconds[name].append(time.thread_time() - started)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    limits = {"torch": "", "ONNX Runtime": ">= 1 x torch", "ONNX Runtime, int8": ">= 1.5 x torch"}
    print("| a movie at a time | ms | x torch | x ONNX Runtime | limit | MB |")
    print("|---|---:|---:|---:|---|---:|")
    for name, median in medians.items():
        size = f"{sizes[name] / 1e6:.0f}" if name in sizes else ""
        ratios = [f"{medians[other] / median:.2f}" for other in ("torch", "ONNX Runtime")]
        print(f"| {name} | {1000 * median:.1f} | {' | '.join(ratios)} | {limits[name]} | {size} |")


if __name__ == "__main__":
    main()
