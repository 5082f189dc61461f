"""The one writer and reader of checkpoints.

checkpoints/
  epoch_0003/
    pretrained_model/   config.json model.safetensors processor: what `from_pretrained` takes
    training_state/     optimizer and random numbers (accelerate), loop_state.json
    manifest.json       every file's size; written last
  last -> epoch_0003
  best -> epoch_0002
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mmgenre.constants import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    LOOP_STATE_FILE,
    MANIFEST_FILE,
    PRETRAINED_MODEL_DIR,
    TRAINING_STATE_DIR,
)
from mmgenre.utils.errors import UserError


class Checkpointer:
    """Writes, finds and loads the checkpoints of a run.

    Args:
        folder: The run's `checkpoints` folder.
        save_total_limit: Checkpoints kept; best and last are never deleted.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, save_total_limit: int) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.save_total_limit = save_total_limit
        # Weights are in pretrained_model already; accelerate would write and read them once more.
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())

    def has_any(self) -> bool:
        """Whether the run has a checkpoint at all."""
        return (self.folder / LAST_CHECKPOINT).exists()

    def save(
        self,
        epoch: int,
        model: nn.Module,
        processor: Any,
        loop_state: dict[str, Any],
        best_epoch: int,
    ) -> None:
        """Write the checkpoint of a finished epoch. Called by all processes.

        It is written beside, synced and renamed, so that a checkpoint is whole or not there.

        Args:
            best_epoch: The best so far: `epoch`, or an earlier one whose checkpoint still stands.

        Raises:
            UserError: The disk is full or the folder cannot be written; older checkpoints stand.
        """
        name = _name(epoch)
        temporary = self.folder / f".{name}.tmp"
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            state_dict = self.accelerator.get_state_dict(model)
            if self.accelerator.is_main_process:
                target = temporary / PRETRAINED_MODEL_DIR
                unwrapped = self.accelerator.unwrap_model(model, keep_torch_compile=False)
                unwrapped.save_pretrained(target, state_dict=state_dict)
                processor.save_pretrained(target)
            self.accelerator.save_state(str(temporary / TRAINING_STATE_DIR))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                loop_file = temporary / TRAINING_STATE_DIR / LOOP_STATE_FILE
                loop_file.write_text(json.dumps(loop_state, indent=1), encoding="utf-8")
                self._publish(temporary, name, _name(best_epoch))
        # torch raises RuntimeError where its zip writer cannot write
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(
                f"checkpoint {self.folder / name} cannot be written ({_first_line(error)}); "
                "the checkpoints before it stand"
            ) from error
        self.accelerator.wait_for_everyone()

    def load(self, checkpoint: Path, model: nn.Module) -> dict[str, Any]:
        """Put weights, optimizer and random numbers back. Called by all processes.

        Returns:
            What `save` was given as `loop_state`.

        Raises:
            UserError: The checkpoint is not whole or not of this model.
        """
        try:
            weights = load_file(checkpoint / PRETRAINED_MODEL_DIR / "model.safetensors")
            self.accelerator.unwrap_model(model).load_state_dict(weights)
            self.accelerator.load_state(str(checkpoint / TRAINING_STATE_DIR))
            text = (checkpoint / TRAINING_STATE_DIR / LOOP_STATE_FILE).read_text(encoding="utf-8")
            return json.loads(text)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise UserError(
                f"checkpoint {checkpoint} cannot be loaded ({_first_line(error)})"
            ) from error

    def _publish(self, temporary: Path, name: str, best: str) -> None:
        files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
        manifest = temporary / MANIFEST_FILE
        _write_manifest(
            manifest, {str(path.relative_to(temporary)): _manifest_entry(path) for path in files}
        )
        for path in [*files, manifest, *{path.parent for path in files}, temporary]:
            _sync(path)
        target = self.folder / name
        if target.exists():  # left by a run that was resumed from an earlier epoch
            shutil.rmtree(target)
        temporary.rename(target)
        _link(self.folder / LAST_CHECKPOINT, name)
        # Always, as a run that was resumed from an earlier epoch can find a later one's link here.
        if (self.folder / best).is_dir():
            _link(self.folder / BEST_CHECKPOINT, best)
        _sync(self.folder)
        self._prune()

    def _prune(self) -> None:
        kept = {(self.folder / link).resolve().name for link in (LAST_CHECKPOINT, BEST_CHECKPOINT)}
        others = [path for path in sorted(self.folder.glob("epoch_*")) if path.name not in kept]
        for path in others[: max(0, len(others) + len(kept) - self.save_total_limit)]:
            shutil.rmtree(path)


def find_checkpoint(folder: Path, name: str) -> Path:
    """A whole checkpoint of a run.

    Args:
        folder: The run's `checkpoints` folder.
        name: `best`, `last`, or a checkpoint's own name.

    Raises:
        UserError: It does not exist, or misses a file.
    """
    checkpoint = folder / name
    if not checkpoint.is_dir():
        there = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
        raise UserError(
            f"there is no checkpoint {name!r} in {folder}; there is {', '.join(there) or 'none'}"
        )
    checkpoint = folder / checkpoint.resolve().name  # not a link that moves on
    try:
        sizes = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {checkpoint} is not whole: no {MANIFEST_FILE}") from error
    for file, size in sizes.items():
        path = checkpoint / file
        if not path.is_file():
            raise UserError(f"checkpoint {checkpoint} is not whole: {file} is missing")
        if path.stat().st_size != size:
            raise UserError(
                f"checkpoint {checkpoint} is not whole: {file} has {path.stat().st_size} bytes "
                f"in place of {size}"
            )
    return checkpoint


def store_thresholds(model: Path, thresholds: list[float] | None) -> None:
    """Write decision thresholds into a saved model's config, in a checkpoint or by itself.

    Files are written beside and renamed. A checkpoint stays whole at every moment: its manifest
    leaves the config out while the config changes.

    Args:
        model: The folder that `from_pretrained` takes.

    Raises:
        UserError: The folder does not exist or cannot be written to.
    """
    config, manifest = model / "config.json", model.parent / MANIFEST_FILE
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        text = json.dumps(content | {"thresholds": thresholds}, indent=2, sort_keys=True) + "\n"
        if not manifest.is_file():
            _replace(config, text)
            return
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        name = str(config.relative_to(manifest.parent))
        _write_manifest(manifest, {k: v for k, v in entries.items() if k != name})
        _replace(config, text)
        _write_manifest(manifest, entries | {name: _manifest_entry(config)})
    except (OSError, ValueError) as error:  # a manifest that is no JSON raises ValueError
        raise UserError(
            f"thresholds cannot be stored in {config} ({_first_line(error)}); they need a whole "
            "model in a folder that can be written to"
        ) from error


def _write_manifest(path: Path, entries: dict[str, int]) -> None:
    _replace(path, json.dumps(entries, indent=1))


def _manifest_entry(path: Path) -> int:
    return path.stat().st_size


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    _sync(temporary)
    temporary.replace(path)


def _name(epoch: int) -> str:
    return f"epoch_{epoch:04d}"


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
