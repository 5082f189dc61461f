"""The one writer of checkpoints; `mmgenre/checkpoints.py` finds them.

checkpoints/
  epoch_0003/             at an epoch's end; step_00000123 within one
    pretrained_model/     config.json model.safetensors processor: what `from_pretrained` takes
    training_state/       optimizer.safetensors, loop_state.json
    manifest.json         every file's size and hash, and how many were written before; written last
  last -> epoch_0003
  best -> epoch_0002
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from mmgenre.checkpoints import (
    STEP_PREFIX,
    all_checkpoints,
    checkpoint_number,
    find_checkpoint,
    find_newest_checkpoint,
    first_line,
    write_manifest,
)
from mmgenre.constants import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    LOOP_STATE_FILE,
    OPTIMIZER_FILE,
    PRETRAINED_MODEL_DIR,
    TRAINING_STATE_DIR,
)
from mmgenre.training.agreement import Agreement
from mmgenre.training.optimizer_state import load_optimizer_tensors, optimizer_tensors
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import sync


class Checkpointer:
    """Writes, finds and loads the checkpoints of a run.

    Args:
        folder: The run's `checkpoints` folder.
        save_total_limit: Checkpoints kept; best and last are never deleted.
    """

    def __init__(
        self, accelerator: Accelerator, agreement: Agreement, folder: Path, save_total_limit: int
    ) -> None:
        self.accelerator = accelerator
        self.agreement = agreement
        self.folder = folder
        self.save_total_limit = save_total_limit

    def save(
        self,
        name: str,
        model: nn.Module,
        processor: Any,
        optimizer: torch.optim.Optimizer,
        loop_state: dict[str, Any],
        best: str,
    ) -> None:
        """Write a checkpoint. Called by all processes.

        It is written beside, synced and renamed, so that a checkpoint is whole or not there.

        Args:
            best: Name of the best so far: `name`, or an earlier one that still stands.

        Raises:
            UserError: The disk is full or the folder cannot be written; older checkpoints stand.
        """
        weights = self.accelerator.get_state_dict(model)
        tensors = optimizer_tensors(optimizer)  # a collective under FSDP, as the line above
        unwrapped = self.accelerator.unwrap_model(model, keep_torch_compile=False)

        def write() -> None:
            temporary = self.folder / f".{name}.tmp"
            try:
                shutil.rmtree(temporary, ignore_errors=True)
                target = temporary / PRETRAINED_MODEL_DIR
                target.mkdir(parents=True)
                unwrapped.save_pretrained(target, state_dict=weights)
                processor.save_pretrained(target)
                target = temporary / TRAINING_STATE_DIR
                target.mkdir()
                save_file(tensors, target / OPTIMIZER_FILE)
                (target / LOOP_STATE_FILE).write_text(json.dumps(loop_state, indent=1))
                self._publish(temporary, name, best)
            except (OSError, SafetensorError) as error:
                shutil.rmtree(temporary, ignore_errors=True)
                raise UserError(
                    f"checkpoint {self.folder / name} cannot be written ({first_line(error)}); "
                    "the checkpoints before it stand"
                ) from error

        self.agreement.main_does(write)

    def find(self, name: str) -> Path | None:
        """The checkpoint to resume from, whole. Called by all processes.

        Args:
            name: As in `find_checkpoint`; `auto` is the newest whole one, or None without any.

        Raises:
            UserError: It does not exist or is not whole.
        """

        def find() -> Path | None:
            if self.folder.is_dir():
                for leftover in self.folder.glob(".*.tmp"):
                    _remove(leftover)
            return (
                find_newest_checkpoint(self.folder)
                if name == "auto"
                else find_checkpoint(self.folder, name)
            )

        return self.agreement.main_does(find)

    def load(
        self, checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        """Put weights and optimizer back. Called by all processes.

        Returns:
            What `save` was given as `loop_state`.

        Raises:
            UserError: The checkpoint is not of this model.
        """
        try:
            folder = checkpoint / PRETRAINED_MODEL_DIR
            weights: dict[str, Any] = load_file(folder / "model.safetensors")
            # Into the parameters that are there: others can lie elsewhere in memory, and some
            # kernels then differ in the last bit.
            set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
            tensors = load_file(checkpoint / TRAINING_STATE_DIR / OPTIMIZER_FILE)
            load_optimizer_tensors(optimizer, {k: v.clone() for k, v in tensors.items()})
            text = (checkpoint / TRAINING_STATE_DIR / LOOP_STATE_FILE).read_text(encoding="utf-8")
            return json.loads(text)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise UserError(
                f"checkpoint {checkpoint} cannot be loaded ({first_line(error)})"
            ) from error

    def _publish(self, temporary: Path, name: str, best: str) -> None:
        write_manifest(temporary, 1 + max(map(checkpoint_number, self._all()), default=0))
        target, former = self.folder / name, self.folder / f".{name}.former.tmp"
        if target.exists():  # left by a run that was resumed from an earlier checkpoint
            target.rename(former)
        temporary.rename(target)
        _link(self.folder / LAST_CHECKPOINT, name)
        # Always, as a run that was resumed from an earlier epoch can find a later one's link here.
        if (self.folder / best).is_dir():
            _link(self.folder / BEST_CHECKPOINT, best)
        sync(self.folder)
        shutil.rmtree(former, ignore_errors=True)
        self._prune()

    def _prune(self) -> None:
        """Delete what is too much: first within epochs, then the oldest."""
        links = (LAST_CHECKPOINT, BEST_CHECKPOINT)
        kept = {(self.folder / link).resolve().name for link in links}
        others = [path for path in self._all() if path.name not in kept]
        others.sort(
            key=lambda path: (not path.name.startswith(STEP_PREFIX), checkpoint_number(path))
        )
        for path in others[: max(0, len(others) + len(kept) - self.save_total_limit)]:
            shutil.rmtree(path)

    def _all(self) -> list[Path]:
        return all_checkpoints(self.folder)


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
