"""Experiment trackers, through Accelerate's."""

import json
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from accelerate.utils import is_tensorboard_available, is_wandb_available

from mmgenre.configs.arguments import TrackingArguments
from mmgenre.utils.errors import UserError


def is_logged_in_to_wandb() -> bool:
    """Whether W&B has a key, looked up where W&B itself does, without importing or asking it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return bool(host and netrc.netrc(str(file)).authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def choose_tracker(report_to: str) -> str | None:
    """The tracker for `Accelerator(log_with=...)`.

    `auto` is W&B where somebody is logged in or `WANDB_MODE` asks for it, and otherwise none.

    Raises:
        UserError: The tracker is not installed, which Accelerate would pass over in silence.
    """
    if report_to == "auto":
        wanted = is_logged_in_to_wandb() or os.environ.get("WANDB_MODE") in ("online", "offline")
        report_to = "wandb" if wanted else "none"
    if report_to == "none":
        return None
    is_available = {"wandb": is_wandb_available, "tensorboard": is_tensorboard_available}
    if not is_available[report_to]():
        raise UserError(f"report_to is {report_to!r}, but {report_to} is not installed")
    return report_to


def tracker_config(values: dict[str, Any], tracker: str | None) -> dict[str, Any]:
    """The run's configuration as the tracker takes it: TensorBoard only numbers and text."""
    if tracker != "tensorboard":
        return values
    return {k: v if isinstance(v, (int, float, str)) else json.dumps(v) for k, v in values.items()}


def tracker_settings(
    args: TrackingArguments, output_dir: Path, run_id: str
) -> dict[str, dict[str, Any]]:
    """Arguments of the tracker's own start, for `accelerator.init_trackers(init_kwargs=...)`.

    W&B goes offline rather than ask for a key, which would hang a batch job.

    Args:
        run_id: A resumed run goes on under the id that it had.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if is_logged_in_to_wandb() else "offline")
    return {
        "wandb": {
            "id": run_id,
            "resume": "allow",
            "name": args.run_name or output_dir.name,
            "dir": str(output_dir),
            "mode": mode,
        }
    }
