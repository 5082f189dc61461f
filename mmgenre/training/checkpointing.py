"""The one writer and reader of checkpoints.

checkpoints/
  epoch_0003/             at an epoch's end; step_00000123 within one
    pretrained_model/     config.json model.safetensors processor: what `from_pretrained` takes
    training_state/       optimizer.safetensors, loop_state.json
    manifest.json         every file's size and hash, and how many were written before; written last
  last -> epoch_0003
  best -> epoch_0002
"""

import json
import logging
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import xxhash
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from mmgenre.constants import (
    BEST_CHECKPOINT,
    CHECKPOINTS_DIR,
    CONFIG_FILE,
    LAST_CHECKPOINT,
    LOOP_STATE_FILE,
    MANIFEST_FILE,
    OPTIMIZER_FILE,
    PRETRAINED_MODEL_DIR,
    TRAINING_STATE_DIR,
)
from mmgenre.training.agreement import Agreement
from mmgenre.training.optimizer_state import load_optimizer_tensors, optimizer_tensors
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import replace_file, sync

logger = logging.getLogger(__name__)

_EPOCH, _STEP = "epoch_", "step_"


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
                    f"checkpoint {self.folder / name} cannot be written ({_first_line(error)}); "
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
                f"checkpoint {checkpoint} cannot be loaded ({_first_line(error)})"
            ) from error

    def _publish(self, temporary: Path, name: str, best: str) -> None:
        _write_manifest(temporary, 1 + max(map(_number, self._all()), default=0))
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
        others.sort(key=lambda path: (not path.name.startswith(_STEP), _number(path)))
        for path in others[: max(0, len(others) + len(kept) - self.save_total_limit)]:
            shutil.rmtree(path)

    def _all(self) -> list[Path]:
        return _all_checkpoints(self.folder)


def epoch_checkpoint(epoch: int) -> str:
    """Name of the checkpoint after a finished epoch, counted from 1."""
    return f"{_EPOCH}{epoch:04d}"


def step_checkpoint(step: int) -> str:
    """Name of a checkpoint within an epoch, after so many optimizer steps in all."""
    return f"{_STEP}{step:08d}"


def find_checkpoint(folder: Path, name: str) -> Path:
    """A whole checkpoint of a run.

    Args:
        folder: The run's `checkpoints` folder.
        name: `best`, `last`, or a checkpoint's own name.

    Raises:
        UserError: It does not exist, misses a file, or a file is not what was written.
    """
    checkpoint = folder / name
    if not checkpoint.is_dir():
        there = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
        raise UserError(
            f"there is no checkpoint {name!r} in {folder}; there is {', '.join(there) or 'none'}"
        )
    checkpoint = folder / checkpoint.resolve().name  # not a link that moves on
    defect = _defect(checkpoint)
    if defect is not None:
        raise UserError(f"checkpoint {checkpoint} is not whole: {defect}")
    return checkpoint


def find_model(run_or_model: str, checkpoint: str = BEST_CHECKPOINT) -> str:
    """Where the model is: in a checkpoint of a run, or what was given itself.

    Raises:
        UserError: There is no such checkpoint, or it is not whole.
    """
    folder = Path(run_or_model)
    if not (folder / CONFIG_FILE).is_file():
        return run_or_model
    best = folder / CHECKPOINTS_DIR / BEST_CHECKPOINT
    if checkpoint == BEST_CHECKPOINT and not best.exists():
        raise UserError(f"{run_or_model!r} never finished an epoch; there is no best checkpoint")
    return str(find_checkpoint(folder / CHECKPOINTS_DIR, checkpoint) / PRETRAINED_MODEL_DIR)


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
            replace_file(config, text.encode())
            return
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        name = str(config.relative_to(manifest.parent))
        del entries["files"][name]
        replace_file(manifest, _manifest_json(entries))
        replace_file(config, text.encode())
        entries["files"][name] = _manifest_entry(config)
        replace_file(manifest, _manifest_json(entries))
    except (OSError, ValueError, KeyError) as error:  # a broken manifest raises the last two
        raise UserError(
            f"thresholds cannot be stored in {config} ({_first_line(error)}); they need a whole "
            "model in a folder that can be written to"
        ) from error


def _manifest_json(entries: dict[str, Any]) -> bytes:
    return json.dumps(entries, indent=1).encode()


def _manifest_entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "xxh3": _hash(path)}


def find_newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; those passed over are named in the log.

    Raises:
        UserError: There are checkpoints, and none is whole.
    """
    defects = []
    for checkpoint in sorted(_all_checkpoints(folder), key=_number, reverse=True):
        defect = _defect(checkpoint)
        if defect is None:
            return checkpoint
        defects.append(f"{checkpoint.name}: {defect}")
        logger.warning("passed over checkpoint %s, which is not whole: %s", checkpoint, defect)
    if defects:
        raise UserError(
            f"no checkpoint in {folder} is whole ({'; '.join(defects)}); --overwrite_output_dir "
            "starts anew"
        )
    return None


def _all_checkpoints(folder: Path) -> list[Path]:
    return [*folder.glob(f"{_EPOCH}*"), *folder.glob(f"{_STEP}*")]


def _defect(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files."""
    try:
        files = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        for file, expected in files.items():
            path = checkpoint / file
            if not path.is_file():
                return f"{file} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{file} has {path.stat().st_size} bytes in place of {expected['bytes']}"
            if _hash(path) != expected["xxh3"]:
                return f"{file} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST_FILE} cannot be read ({_first_line(error)})"
    return None


def _write_manifest(folder: Path, number: float) -> None:
    """Sync a checkpoint's files and write down what they are.

    Args:
        number: Orders a run's checkpoints by their writing.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    # The disk writes while the hashes are computed.
    with ThreadPoolExecutor(1) as pool:
        synced = pool.map(sync, files)
        entries = {str(path.relative_to(folder)): _manifest_entry(path) for path in files}
        list(synced)
    manifest = folder / MANIFEST_FILE
    manifest.write_bytes(_manifest_json({"number": number, "files": entries}))
    for path in (manifest, *{path.parent for path in files}, folder):
        sync(path)


def _number(checkpoint: Path) -> float:
    """How many checkpoints of the run were written before; infinite where nobody can tell."""
    try:
        return json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))["number"]
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def _hash(path: Path) -> str:
    """Against decay of the disk, not against a forger."""
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
