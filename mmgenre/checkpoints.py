"""The folders of saved models: a run's checkpoints, each whole by its manifest or not there.

See `training/checkpointing.py`, which writes them.
"""

import json
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash

from mmgenre.constants import (
    BEST_CHECKPOINT,
    CHECKPOINTS_DIR,
    CONFIG_FILE,
    MANIFEST_FILE,
    PRETRAINED_MODEL_DIR,
)
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import replace_file, sync

logger = logging.getLogger(__name__)

EPOCH_PREFIX, STEP_PREFIX = "epoch_", "step_"


def epoch_checkpoint(epoch: int) -> str:
    """Name of the checkpoint after a finished epoch, counted from 1."""
    return f"{EPOCH_PREFIX}{epoch:04d}"


def step_checkpoint(step: int) -> str:
    """Name of a checkpoint within an epoch, after so many optimizer steps in all."""
    return f"{STEP_PREFIX}{step:08d}"


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
        UserError: There is no such checkpoint, it is not whole, or the folder is neither a run nor
            a saved model.
    """
    folder = Path(run_or_model)
    if (folder / CONFIG_FILE).is_file():
        best = folder / CHECKPOINTS_DIR / BEST_CHECKPOINT
        if checkpoint == BEST_CHECKPOINT and not best.exists():
            raise UserError(
                f"{run_or_model!r} never finished an epoch; there is no best checkpoint"
            )
        return str(find_checkpoint(folder / CHECKPOINTS_DIR, checkpoint) / PRETRAINED_MODEL_DIR)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(
            f"{run_or_model!r} is neither a run (it has no {CONFIG_FILE}) nor a saved model "
            "(it has no config.json)"
        )
    return run_or_model


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
            f"thresholds cannot be stored in {config} ({first_line(error)}); they need a whole "
            "model in a folder that can be written to"
        ) from error


def find_newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; those passed over are named in the log.

    Raises:
        UserError: There are checkpoints, and none is whole.
    """
    defects = []
    for checkpoint in sorted(all_checkpoints(folder), key=checkpoint_number, reverse=True):
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


def all_checkpoints(folder: Path) -> list[Path]:
    return [*folder.glob(f"{EPOCH_PREFIX}*"), *folder.glob(f"{STEP_PREFIX}*")]


def checkpoint_number(checkpoint: Path) -> float:
    """How many checkpoints of the run were written before; infinite where nobody can tell."""
    try:
        return json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))["number"]
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def write_manifest(folder: Path, number: float) -> None:
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


def _manifest_json(entries: dict[str, Any]) -> bytes:
    return json.dumps(entries, indent=1).encode()


def _manifest_entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "xxh3": _hash(path)}


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
        return f"{MANIFEST_FILE} cannot be read ({first_line(error)})"
    return None


def _hash(path: Path) -> str:
    """Against decay of the disk, not against a forger."""
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
