"""Checkpoints: bit for bit, whole or not there, and never the wrong one deleted."""

import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import create_trainer

from mmgenre.checkpoints import find_checkpoint
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


def tensors(trainer) -> list[torch.Tensor]:
    """Weights and AdamW's state."""
    state = trainer.optimizer.state_dict()["state"]
    moments = [v for parameter in state.values() for _, v in sorted(parameter.items())]
    return [value.clone() for value in [*trainer.model.state_dict().values(), *moments]]


def names(folder: Path) -> dict[str, str]:
    """Everything in the checkpoints' folder, links with what they point to."""
    return {path.name: path.resolve().name for path in folder.iterdir()}


def save(trainer, name: str, best: str) -> None:
    parts = (trainer.model, trainer.processor, trainer.optimizer)
    trainer.checkpointer.save(name, *parts, trainer.state_dict(), best)


def test_weights_and_optimizer_come_back(tmp_path: Path) -> None:
    kwargs = {"optimizer": "AdamW", "learning_rate": 0.01, "num_train_epochs": 1}
    trainer = create_trainer(tmp_path, **kwargs)
    trainer.fit()
    expected = tensors(trainer)
    assert len(expected) == 4 + 4 * 3

    other = create_trainer(tmp_path, **{**kwargs, "num_train_epochs": 2})
    other.resume("last")
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
        "training_state/optimizer.safetensors",
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
        save(trainer, f"epoch_{epoch:04d}", f"epoch_{best_epoch:04d}")
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
    "training_state/optimizer.safetensors",
    "training_state/loop_state.json",
]


@pytest.mark.parametrize("file", FILES)
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path: Path, file: str) -> None:
    trainer = create_trainer(tmp_path)
    save(trainer, "epoch_0001", "epoch_0001")
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
    save(trainer, "epoch_0001", "epoch_0001")
    (tmp_path / "checkpoints" / "epoch_0001" / "manifest.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"not whole: manifest\.json cannot be read"):
        find_checkpoint(tmp_path / "checkpoints", "last")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    create_trainer(tmp_path, num_train_epochs=1).fit()
    with pytest.raises(UserError, match="epoch_0001 cannot be loaded") as caught:
        create_trainer(tmp_path, hidden=7).resume("last")
    assert "\n" not in str(caught.value)


def test_an_unknown_checkpoint_names_those_there_are(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path)
    save(trainer, "epoch_0001", "epoch_0001")
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
    save(trainer, "epoch_0001", "epoch_0001")
    half = tmp_path / "checkpoints" / ".epoch_0002.tmp" / "pretrained_model"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (half / "left_over.bin").write_bytes(b"half")
    assert find_checkpoint(tmp_path / "checkpoints", "last").name == "epoch_0001"
    save(trainer, "epoch_0002", "epoch_0002")
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


class Intruder:
    """A pickle that leaves a file behind if it is ever loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickle_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path, optimizer="AdamW", num_train_epochs=1)
    trainer.fit()
    state = tmp_path / "checkpoints" / "epoch_0001" / "training_state"
    payload = pickle.dumps(Intruder(tmp_path / "ran"))
    for name in ("optimizer.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl", "scaler.pt"):
        (state / name).write_bytes(payload)
    trainer.resume("last")
    (state / "optimizer.safetensors").write_bytes(payload)
    with pytest.raises(UserError, match="epoch_0001 cannot be loaded") as caught:
        trainer.checkpointer.load(state.parent, trainer.model, trainer.optimizer)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    pickle.loads(payload)  # it would have
    assert (tmp_path / "ran").exists()


def damage(checkpoint: Path, kind: str) -> None:
    weights = checkpoint / "pretrained_model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    if kind == "bit":
        weights.write_bytes(content)
    elif kind == "cut":
        weights.write_bytes(content[:-4])
    elif kind == "missing":
        weights.unlink()
    else:
        (checkpoint / "manifest.json").write_text("{")


DEFECTS = {
    "bit": "model.safetensors has changed since it was written",
    "cut": "model.safetensors has 504 bytes in place of 508",
    "missing": "model.safetensors is missing",
    "manifest": "manifest.json cannot be read",
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_auto_passes_over_what_is_not_whole(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = create_trainer(tmp_path, num_train_epochs=2, save_steps=3, save_total_limit=9)
    trainer.fit()
    folder = tmp_path / "checkpoints"
    written = ["step_00000003", "epoch_0001", "step_00000006", "step_00000009", "epoch_0002"]
    assert sorted(written) == sorted(path.name for path in folder.glob("*_*"))
    for whole, broken in zip(reversed(written[:-1]), reversed(written), strict=False):
        damage(folder / broken, kind)
        caplog.clear()
        caplog.set_level("INFO", logger="mmgenre")
        trainer.resume("auto")
        assert f"resumed from {folder / whole}," in caplog.text
        assert f"passed over checkpoint {folder / broken}, which is not whole" in caplog.text
        assert DEFECTS[kind] in caplog.text
        with pytest.raises(UserError, match=DEFECTS[kind]):
            trainer.resume(broken)
    damage(folder / written[0], kind)
    with pytest.raises(UserError, match="no checkpoint in .* is whole .*step_00000003: "):
        trainer.resume("auto")


def test_the_newest_is_the_last_one_written(tmp_path: Path) -> None:
    create_trainer(tmp_path, num_train_epochs=3, save_total_limit=9).fit()
    trainer = create_trainer(tmp_path, num_train_epochs=2, save_total_limit=9)
    trainer.resume("epoch_0001")
    trainer.fit()
    trainer.resume("auto")
    assert trainer.state.epoch == 2


def test_checkpoints_within_an_epoch_go_first(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path, num_train_epochs=3, save_steps=2, save_total_limit=4)
    trainer.fit()
    kept = {path.name for path in (tmp_path / "checkpoints").glob("*_*")}
    assert {"epoch_0001", "epoch_0002", "epoch_0003"} <= kept
    assert len(kept) <= 4


def test_left_overs_are_removed_on_resume(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path, num_train_epochs=1)
    trainer.fit()
    folder = tmp_path / "checkpoints"
    (folder / ".step_00000009.tmp" / "pretrained_model").mkdir(parents=True)
    (folder / ".last.tmp").symlink_to("gone")
    trainer.resume("auto")
    assert names(folder) == dict.fromkeys(("epoch_0001", "best", "last"), "epoch_0001")


def test_history_without_an_unfinished_line(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.path.write_text('{"epoch": 1}\n{"epo')
    history.truncate(1)
    assert history.path.read_text() == '{"epoch": 1}\n'
