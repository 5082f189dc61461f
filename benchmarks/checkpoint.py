"""How long a checkpoint of the report's full-size model stops training, in one table.

    python benchmarks/checkpoint.py [folder on the disk to measure]

The limit is 1.5 times what writing as many bytes in one piece, with fsync, takes on the same disk.
"""

import os
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from mmgenre.configs.arguments import ModelArguments
from mmgenre.models.registry import create_config, load_class
from mmgenre.training.accelerator import create_accelerator
from mmgenre.training.agreement import Agreement
from mmgenre.training.checkpointing import Checkpointer
from mmgenre.training.optimization import create_optimizer

RUNS = 5


class NoProcessor:
    def save_pretrained(self, folder: Path) -> None:
        """A real one adds files of some kB."""


def write_bytes(path: Path, num_bytes: int) -> float:
    content = memoryview(os.urandom(1 << 24))
    os.sync()  # what others left to write
    started = time.perf_counter()
    with path.open("wb") as file:
        left = num_bytes
        while left:
            left -= file.write(content[: min(left, len(content))])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def main() -> None:
    disable_progress_bar()
    accelerator = create_accelerator()
    config = create_config(ModelArguments().model, [f"genre {i}" for i in range(26)], {}, None)
    model = load_class("modeling_mmgenre:MMGenreForSequenceClassification")(config)
    optimizer = create_optimizer(model, 1e-4, 1e-5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad()
    parts: Any = accelerator.prepare(model, optimizer)
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as temporary:
        folder = Path(temporary)
        checkpointer = Checkpointer(
            accelerator, Agreement(accelerator, timedelta(minutes=1)), folder, 2
        )
        pauses, writes = [], []
        for run in range(RUNS):
            name = f"epoch_{run:04d}"
            os.sync()
            started = time.perf_counter()
            checkpointer.save(name, parts[0], NoProcessor(), parts[1], {}, name)
            pauses.append(time.perf_counter() - started)
            files = (folder / name).rglob("*")
            size = sum(path.stat().st_size for path in files if path.is_file())
            writes.append(write_bytes(folder / "bytes", size))
    pause, write = statistics.median(pauses), statistics.median(writes)
    print("| GB | checkpoint, s | writing as many bytes, s | ratio | limit |")
    print("|---:|---:|---:|---:|---:|")
    print(f"| {size / 1e9:.2f} | {pause:.2f} | {write:.2f} | {pause / write:.2f} | 1.5 |")


if __name__ == "__main__":
    main()
