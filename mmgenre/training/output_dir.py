"""The folder of a run.

<output_dir>/
  config.yaml              the resolved configuration
  history.jsonl            a line per epoch
  rejected_posters.jsonl   posters that could not be used, with the reason
  checkpoints/             see checkpointing.py
  reports/<split>/         see evaluation/report.py
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmgenre.configs.arguments import TrainConfig, TrainingArguments
from mmgenre.configs.parser import save_config
from mmgenre.constants import (
    CHECKPOINTS_DIR,
    CONFIG_FILE,
    HISTORY_FILE,
    REJECTED_POSTERS_FILE,
    REPORTS_DIR,
)
from mmgenre.data.dataset import RejectedPoster, write_rejected
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import replace_file


def check_output_dir(args: TrainingArguments) -> Path:
    """See that a run can be written to `output_dir`, without writing anything of it.

    Raises:
        UserError: The folder holds a run that is neither to be resumed nor overwritten, holds other
            files, or cannot be written to.
    """
    folder = Path(args.output_dir)
    if args.overwrite_output_dir and args.resume_from_checkpoint:
        raise UserError("overwrite_output_dir and resume_from_checkpoint exclude each other")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CONFIG_FILE).exists():
            if not (args.overwrite_output_dir or args.resume_from_checkpoint):
                raise UserError(
                    f"output_dir {str(folder)!r} already holds a run; --resume_from_checkpoint "
                    "last continues it, --overwrite_output_dir deletes it"
                )
        elif args.resume_from_checkpoint not in (None, "auto"):
            raise UserError(f"output_dir {str(folder)!r} holds no run to resume")
    except OSError as error:
        raise UserError(f"output_dir {str(folder)!r} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"output_dir {str(folder)!r} is not writable")
    return folder


def open_run(
    folder: Path, config: TrainConfig, rejected: Sequence[RejectedPoster], overwrite: bool
) -> None:
    """Write what stands in a run before its first epoch. For the main process only.

    Args:
        overwrite: Delete the run that the folder holds: its own files and nothing else there.

    Raises:
        UserError: The disk is full.
    """
    try:
        if overwrite:
            _delete_run(folder)
        save_config(config, folder / CONFIG_FILE)
        write_rejected(folder / REJECTED_POSTERS_FILE, rejected)
    except OSError as error:
        raise UserError(f"{str(folder)!r} cannot be written to: {error.strerror}") from error


def _delete_run(folder: Path) -> None:
    for name in (CHECKPOINTS_DIR, REPORTS_DIR):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (CONFIG_FILE, HISTORY_FILE, REJECTED_POSTERS_FILE):
        (folder / name).unlink(missing_ok=True)


class History:
    """`history.jsonl`: a line per epoch, on disk as soon as it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """What the lines hold; none where there is no file."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A process that is killed can leave its last line unfinished.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def truncate(self, num_epochs: int) -> None:
        """Keep the first epochs only, as a resumed run must not write a line twice."""
        if self.path.exists():
            kept = [entry for entry in self.entries() if entry["epoch"] <= num_epochs]
            replace_file(self.path, "".join(map(_line, kept)).encode())

    def entry(self, epoch: int) -> dict[str, Any]:
        """The line of an epoch; empty where there is none."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        entries = (json.loads(line) for line in lines)
        return next((entry for entry in entries if entry["epoch"] == epoch), {})

    def append(self, entry: dict[str, Any]) -> None:
        """Write a line.

        Raises:
            UserError: The disk is full or the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from error


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
