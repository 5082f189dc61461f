"""Checkpoints: bit for bit, whole or not there, and never the wrong one deleted."""

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy import ToyProcessor, create_trainer

from mmgenre.training.checkpointing import Checkpointer, find_checkpoint
from mmgenre.training.output_dir import History
from mmgenre.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond this: the system's own error, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), torch.rand(1).item()]


def tensors(trainer) -> list[torch.Tensor]:
    """Weights and AdamW's state."""
    state = trainer.optimizer.state_dict()["state"]
    moments = [value for parameter in state.values() for value in parameter.values()]
    return [value.clone() for value in [*trainer.model.state_dict().values(), *moments]]


def names(folder: Path) -> dict[str, str]:
    """Everything in the checkpoints' folder, links with what they point to."""
    return {path.name: path.resolve().name for path in folder.iterdir()}


def save(checkpointer: Checkpointer, model: torch.nn.Module, epoch: int, best_epoch: int) -> None:
    checkpointer.save(epoch, model, ToyProcessor(), {"epoch": epoch}, best_epoch)


def test_weights_optimizer_and_random_numbers_come_back(tmp_path: Path) -> None:
    kwargs = {"optimizer": "AdamW", "learning_rate": 0.01, "num_train_epochs": 1}
    trainer = create_trainer(tmp_path, **kwargs)
    trainer.fit()
    expected, drawn = tensors(trainer), draw()
    assert len(expected) == 4 + 4 * 3

    other = create_trainer(tmp_path, **{**kwargs, "num_train_epochs": 2})
    draw()
    other.resume("last")
    assert draw() == drawn
    for got, value in zip(tensors(other), expected, strict=True):
        assert torch.equal(got, value)
    assert other.state_dict() == trainer.state_dict()


def test_files_of_a_checkpoint(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path, num_train_epochs=1, optimizer="AdamW")
    trainer.fit()
    folder = tmp_path / "checkpoints"
    assert names(folder) == dict.fromkeys(("epoch_0001", "best", "last"), "epoch_0001")
    assert {str(p.relative_to(folder / "last")) for p in (folder / "last").rglob("*.*")} == {
        "manifest.json",
        "pretrained_model/model.safetensors",
        "pretrained_model/processor.json",
        "training_state/loop_state.json",
        "training_state/optimizer.bin",
        "training_state/random_states_0.pkl",
    }
    weights = load_file(folder / "last" / "pretrained_model" / "model.safetensors")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(weights[name], value)


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (1, [1, 2, 3, 4], [4]),
        (1, [1, 1, 1, 1], [1, 4]),
        (2, [1, 2, 3, 4], [3, 4]),
        (2, [1, 1, 1, 1], [1, 4]),
        (3, [1, 2, 2, 2], [2, 3, 4]),
        (9, [1, 1, 3, 3], [1, 2, 3, 4]),
    ],
)
def test_best_and_last_are_never_deleted(
    tmp_path: Path, limit: int, best: list[int], kept: list[int]
) -> None:
    trainer = create_trainer(tmp_path, save_total_limit=limit)
    for epoch, best_epoch in enumerate(best, start=1):
        save(trainer.checkpointer, trainer.model, epoch, best_epoch)
        for link, target in (("last", epoch), ("best", best_epoch)):
            path = find_checkpoint(trainer.checkpointer.folder, link)
            assert path.name == f"epoch_{target:04d}"
    links = {"best": f"epoch_{best[-1]:04d}", "last": "epoch_0004"}
    assert names(trainer.checkpointer.folder) == {
        **{f"epoch_{epoch:04d}": f"epoch_{epoch:04d}" for epoch in kept},
        **links,
    }


FILES = [
    "pretrained_model/model.safetensors",
    "pretrained_model/processor.json",
    "training_state/optimizer.bin",
    "training_state/random_states_0.pkl",
    "training_state/loop_state.json",
]


@pytest.mark.parametrize("file", FILES)
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path: Path, file: str) -> None:
    trainer = create_trainer(tmp_path)
    save(trainer.checkpointer, trainer.model, 1, 1)
    before = trainer.model.state_dict()["layers.0.weight"].clone()
    path = tmp_path / "checkpoints" / "epoch_0001" / file
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{file} has {size - 1} bytes in place of {size}"):
        trainer.resume("last")
    path.unlink()
    with pytest.raises(UserError, match=f"epoch_0001 is not whole: {file} is missing"):
        trainer.resume("last")
    assert torch.equal(trainer.model.state_dict()["layers.0.weight"], before)


def test_a_checkpoint_without_manifest_is_refused(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path)
    save(trainer.checkpointer, trainer.model, 1, 1)
    (tmp_path / "checkpoints" / "epoch_0001" / "manifest.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"not whole: no manifest\.json"):
        find_checkpoint(tmp_path / "checkpoints", "last")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    create_trainer(tmp_path, num_train_epochs=1).fit()
    with pytest.raises(UserError, match="epoch_0001 cannot be loaded") as caught:
        create_trainer(tmp_path, hidden=7).resume("last")
    assert "\n" not in str(caught.value)


def test_an_unknown_checkpoint_names_those_there_are(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path)
    save(trainer.checkpointer, trainer.model, 1, 1)
    with pytest.raises(UserError, match="no checkpoint 'epoch_0009' .* best, epoch_0001, last"):
        find_checkpoint(tmp_path / "checkpoints", "epoch_0009")


# The weights take some 40 kB, AdamW's two moments of each some 80 kB.
@pytest.mark.parametrize("limit", [10_000, 60_000], ids=["weights", "optimizer"])
def test_a_full_disk_leaves_the_checkpoints_before_it(tmp_path: Path, limit: int) -> None:
    kwargs = {"optimizer": "AdamW", "learning_rate": 0.01, "hidden": 1000, "num_train_epochs": 1}
    trainer = create_trainer(tmp_path, **kwargs)
    trainer.fit()
    expected = tensors(trainer)
    trainer.num_train_epochs = 2
    with file_size_limit(limit), pytest.raises(UserError) as caught:
        trainer.fit()
    assert "epoch_0002 cannot be written" in str(caught.value)
    assert "the checkpoints before it stand" in str(caught.value)
    assert "\n" not in str(caught.value)

    folder = tmp_path / "checkpoints"
    assert names(folder) == dict.fromkeys(("epoch_0001", "best", "last"), "epoch_0001")
    other = create_trainer(tmp_path, **kwargs)
    other.resume("last")
    for got, value in zip(tensors(other), expected, strict=True):
        assert torch.equal(got, value)


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path)
    save(trainer.checkpointer, trainer.model, 1, 1)
    half = tmp_path / "checkpoints" / ".epoch_0002.tmp" / "pretrained_model"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (half / "left_over.bin").write_bytes(b"half")
    assert find_checkpoint(tmp_path / "checkpoints", "last").name == "epoch_0001"
    save(trainer.checkpointer, trainer.model, 2, 2)
    assert not list((tmp_path / "checkpoints").rglob("left_over.bin"))
    assert find_checkpoint(tmp_path / "checkpoints", "last").name == "epoch_0002"


def test_a_full_disk_under_the_history(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.append({"epoch": 1})
    with file_size_limit(20), pytest.raises(UserError, match=r"history\.jsonl cannot be written"):
        history.append({"epoch": 2})


def test_history_is_cut_back_on_resume(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.truncate(3)  # of a run that has none yet
    for epoch in (1, 2, 3):
        history.append({"epoch": epoch})
    history.truncate(2)
    assert history.path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
