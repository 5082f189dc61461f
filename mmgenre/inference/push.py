"""`mmgenre push`: a run's best model to the Hugging Face Hub, after a look at every file."""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from mmgenre.checkpoints import find_model
from mmgenre.constants import CONFIG_FILE
from mmgenre.inference.card import create_card
from mmgenre.utils.errors import UserError

CARD_FILE = "README.md"
# What `from_pretrained` reads, and the code that comes with it.
_ALLOWED = (
    *("config.json", "model*.safetensors", "model.safetensors.index.json", "*.py"),
    *("processor_config.json", "preprocessor_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib")
_PATH = "a path of this machine"
_PATTERNS = {
    "a token of the Hugging Face Hub": r"hf_[A-Za-z0-9]{20,}",
    "a key of W&B": r"wandb_v1_\w{20,}|(?i:wandb\w*key)\W{1,5}[0-9a-f]{40}",
    "a key of AWS": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "a key of Google": r"\bAIza[\w-]{35}",
    "a token of Slack": r"\bxox[abprs]-[\w-]{10,}",
    "an API key": r"\bsk-[\w-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password": r"(?i:password|passwd|secret|api_?key|access_?token)[\"']?\s*[:=]\s*[\"']?"
    r"[\w+/-]{16,}",
    _PATH: r"(?<![\w.:/])/(home|root|Users|tmp|mnt|scratch|work|var|opt|srv|data"
    r"|gpfs|lustre|workspace|private)/[\w.-]+|\b[A-Za-z]:\\+Users\\",
}


class Upload(NamedTuple):
    """What would be uploaded.

    Attributes:
        files: Name in the repository to the file; the card is none of them.
        left_out: Names in the model's folder that stay here.
    """

    repo: str
    card: str
    files: dict[str, Path]
    left_out: list[str]

    def __str__(self) -> str:
        sizes = {CARD_FILE: len(self.card.encode())}
        sizes |= {name: path.stat().st_size for name, path in self.files.items()}
        lines = [f"{size:>13,}  {name}" for name, size in sizes.items()]
        lines.append(f"{sum(sizes.values()):>13,}  bytes in {len(sizes)} files")
        if self.left_out:
            lines.append(f"left out: {', '.join(self.left_out)}")
        return "\n".join(lines)


def prepare_upload(run: str, repo: str, data_license: str | None = None) -> Upload:
    """The files of a run's best checkpoint and its card, each looked at.

    Raises:
        UserError: It is no run, has no report, or a file holds a pickle, a secret or a path of
            this machine; names the file and the line.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"repo {repo!r} is no Hub name; it must be such as owner/name")
    if not (Path(run) / CONFIG_FILE).is_file():
        raise UserError(f"{run!r} is no run (it has no {CONFIG_FILE}); a card is made from a run")
    model = Path(find_model(run))
    files, left_out = {}, []
    for path in sorted(model.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in _PICKLES):
            raise UserError(f"{path} can be a pickle, which runs code when it is loaded; remove it")
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _ALLOWED):
            files[path.name] = path
        else:
            left_out.append(path.name)
    card = str(create_card(Path(run), model, repo, data_license))
    folders = [Path.home(), Path.cwd(), Path(run).resolve()]
    own = [re.escape(str(folder)) for folder in folders if len(folder.parts) > 2]
    patterns = _PATTERNS | {_PATH: "|".join([_PATTERNS[_PATH], *own])}
    _check_text(CARD_FILE, card.splitlines(), patterns)
    for path in files.values():
        _check_text(str(path), _lines(path), patterns)
    return Upload(repo, card, files, left_out)


def push(run: str, repo: str, *, dry_run: bool, public: bool, data_license: str | None) -> None:
    """Show what would be uploaded, and upload it unless `dry_run`.

    Args:
        public: Otherwise the repository is made private.

    Raises:
        UserError: As `prepare_upload`; or the Hub cannot be reached or refuses.
    """
    upload = prepare_upload(run, repo, data_license)
    print(f"{repo}, {'public' if public else 'private'}:\n{upload}")
    if dry_run:
        print(f"\n{CARD_FILE}:\n\n{upload.card}\nnothing was uploaded (--dry_run)")
        return
    print(f"uploaded to {_upload(upload, public)}")


def _upload(upload: Upload, public: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # of the client that it uses, of which there are two
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    api = HfApi()
    try:
        url = api.create_repo(upload.repo, private=not public, exist_ok=True)
        if not public and not api.repo_info(upload.repo).private:
            raise UserError(
                f"{upload.repo} is there and public; --public says that this is meant, or choose "
                "another name"
            )
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / CARD_FILE).write_text(upload.card, encoding="utf-8")
            for name, path in upload.files.items():
                (Path(folder) / name).symlink_to(path.resolve())
            names = [CARD_FILE, *upload.files]
            api.upload_folder(repo_id=upload.repo, folder_path=folder, allow_patterns=names)
    except LocalTokenNotFoundError as error:
        raise UserError("you are not logged in to the Hub; run: hf auth login") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        hint = "; log in by: hf auth login" if status == 401 else ""
        raise UserError(f"the Hub refused {upload.repo} ({status}){hint}") from error
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the Hub cannot be reached ({reason}); nothing was shared") from error
    return str(url)


def _lines(path: Path) -> Iterator[str]:
    """A text file's lines, or what a safetensors file says besides numbers."""
    if path.suffix != ".safetensors":
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
        return
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > path.stat().st_size:
            raise UserError(f"{path} is no safetensors file; save the model again")
        header = json.loads(stream.read(size))
    yield json.dumps(header.get("__metadata__", {}))


def _check_text(name: str, lines: Iterable[str], patterns: Mapping[str, str]) -> None:
    for number, line in enumerate(lines, start=1):
        for what, pattern in patterns.items():
            if re.search(pattern, line):
                # Not what was found: a secret is no more for a log than for the Hub.
                raise UserError(
                    f"{name} line {number} holds {what}; take it out before the model is shared"
                )
