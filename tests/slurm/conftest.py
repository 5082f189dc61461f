"""A cluster for the tests of this folder, and a run to compare with."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import Checkout
from cluster import CannotStart, Cluster
from processes import read_lines
from tiny import TINY_MODEL

NUM_EPOCHS = 16


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One for each process that runs tests."""
    # Not a folder of pytest's: the path of a socket must be short, and others must not write here.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        cluster = Cluster(Path(folder), first_job=100 * worker + 1)
        try:
            cluster.start()
        except CannotStart as reason:
            pytest.skip(str(reason))
        yield cluster
        cluster.stop()


@pytest.fixture
def checkout(tmp_path: Path, cluster: Cluster) -> Iterator[Checkout]:
    (tmp_path / "checkout").mkdir()
    yield Checkout(tmp_path / "checkout", cluster)
    cluster.cancel_jobs()  # of a test that failed


@pytest.fixture(scope="session")
def text_recipe(tmp_path_factory: pytest.TempPathFactory, demo_dir: Path) -> str:
    """A model of plots, without batch statistics, so that layouts differ by rounding alone."""
    path = tmp_path_factory.mktemp("recipe") / "text.yaml"
    values = {
        "dataset": str(demo_dir),
        "tokenizer": "train",
        "model_config": {**TINY_MODEL, "modalities": ["text"]},
        "num_train_epochs": NUM_EPOCHS,
        "early_stopping_patience": NUM_EPOCHS,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_epochs": 1,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory, text_recipe: str, run_script) -> list[Any]:
    """The history of a run that nothing interrupts, without Slurm."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    result = run_script("train.py", "--recipe", text_recipe, "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    return read_lines(folder / "history.jsonl")
