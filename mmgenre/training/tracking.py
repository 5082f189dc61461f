"""Experiment trackers, through Accelerate's."""

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mmgenre.configs.arguments import TrackingArguments


def is_logged_in_to_wandb() -> bool:
    """Whether W&B has a key, looked up where W&B itself does, without importing or asking it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return bool(host and netrc.netrc().authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def choose_tracker(report_to: str) -> str | None:
    """The tracker for `Accelerator(log_with=...)`.

    `auto` is W&B where somebody is logged in or `WANDB_MODE` asks for it, and otherwise none.
    """
    if report_to == "auto":
        wanted = is_logged_in_to_wandb() or os.environ.get("WANDB_MODE") in ("online", "offline")
        report_to = "wandb" if wanted else "none"
    return None if report_to == "none" else report_to


def tracker_settings(args: TrackingArguments, output_dir: Path) -> dict[str, dict[str, Any]]:
    """Arguments of the tracker's own start, for `accelerator.init_trackers(init_kwargs=...)`.

    W&B goes offline rather than ask for a key, which would hang a batch job.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if is_logged_in_to_wandb() else "offline")
    return {
        "wandb": {
            "name": args.run_name or output_dir.name,
            "dir": str(output_dir),
            "mode": mode,
        }
    }
