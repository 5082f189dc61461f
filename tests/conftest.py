"""What several test files share: demo movies, a tiny recipe, the scripts and one trained run."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Before torch and the Hub's client are imported; processes that are started inherit it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import yaml
from tiny import ROOT, TINY_MODEL

pytest_plugins = ["browser"]

os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
)


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 movies in format D: 40 to train, 10 to validation, 10 to test."""
    from mmgenre.data.demo import write_demo_movies

    return write_demo_movies(tmp_path_factory.mktemp("data") / "demo", num_movies=60, seed=0)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, demo_dir: Path) -> str:
    """A recipe that trains for two epochs in a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    values = {
        "dataset": str(demo_dir),
        "tokenizer": "train",
        "model_config": TINY_MODEL,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "warmup_epochs": 1,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_script() -> Run:
    """Start `python ARGUMENTS` at the repository's root, with changes to the environment."""

    def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, recipe: str, run_script: Run) -> Path:
    """The folder of a finished run; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    result = run_script("train.py", "--recipe", recipe, "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def run_copy(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be spoiled; weights are hard links, to be deleted at most."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)

    return shutil.copytree(trained_run, tmp_path / "run", symlinks=True, copy_function=copy)


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps its state for the life of a process; forget it before and after a test."""
    from accelerate.state import AcceleratorState, GradientState

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    yield
    forget()


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, fresh_accelerate: None) -> Callable[..., None]:
    """Call a script's `main` in this process; a `UserError` comes out as it is."""

    def run(script: str, *arguments: str | Path) -> None:
        spec = importlib.util.spec_from_file_location(f"script_{script}", ROOT / f"{script}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        module.main()

    return run
