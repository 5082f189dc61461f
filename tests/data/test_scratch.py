"""Prepared data on a node's own disk."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmgenre.data.prepare import PrepareOptions, prepare_movies
from mmgenre.data.readers import read_movies
from mmgenre.data.readers.prepared import Manifest, read_manifest, shard_file
from mmgenre.data.scratch import copy_to_scratch
from mmgenre.models.pictures import open_poster
from mmgenre.utils.errors import UserError


@pytest.fixture(scope="module")
def prepared(demo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("prepared") / "data"
    options = PrepareOptions(poster_size=32)
    return folder, prepare_movies(str(demo_dir), folder, open_poster, options, num_workers=1)


def test_a_copy_has_the_same_movies_and_is_made_once(
    prepared: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = prepared
    copy = copy_to_scratch(folder, manifest, tmp_path / "scratch")
    assert copy.parent == tmp_path / "scratch"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700  # others' scratch disk as well
    posters = [
        [movie.poster.read() for movie in read_movies(str(path), "prepared") if movie.poster]
        for path in (folder, copy)
    ]
    assert posters[0] == posters[1] != []
    assert read_manifest(copy) == manifest

    before = shard_file(copy, 0).stat().st_mtime_ns
    assert copy_to_scratch(folder, manifest, tmp_path / "scratch") == copy
    assert shard_file(copy, 0).stat().st_mtime_ns == before
    shard_file(copy, 0).unlink()  # as systems do that clear their scratch disks
    assert copy_to_scratch(folder, manifest, tmp_path / "scratch") == copy
    assert shard_file(copy, 0).read_bytes() == shard_file(folder, 0).read_bytes()


def test_processes_of_a_node_copy_once(prepared: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, _ = prepared
    code = (
        "import logging, pathlib, sys\n"
        "from mmgenre.data.readers.prepared import read_manifest\n"
        "from mmgenre.data.scratch import copy_to_scratch\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "folder, scratch = map(pathlib.Path, sys.argv[1:])\n"
        "copy_to_scratch(folder, read_manifest(folder), scratch)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert sum("copying" in text for text in errors) == 1


def test_a_damaged_file_is_not_copied(prepared: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder = shutil.copytree(prepared[0], tmp_path / "data")
    content = bytearray(shard_file(folder, 0).read_bytes())
    content[len(content) // 2] ^= 1
    shard_file(folder, 0).write_bytes(content)
    with pytest.raises(UserError) as caught:
        copy_to_scratch(folder, prepared[1], tmp_path / "scratch")
    assert str(caught.value) == (
        f"{shard_file(folder, 0)} is damaged: its SHA-256 is not the manifest's; `mmgenre prepare "
        f"SOURCE {folder} --overwrite` makes the folder anew"
    )


def test_a_scratch_disk_that_cannot_be_written_to(
    prepared: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = prepared
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        copy_to_scratch(folder, manifest, tmp_path / "file")
    size = sum(shard.size for shard in manifest.shards) / 1e6
    assert str(caught.value) == (
        f"prepared data ({size:.1f} MB) cannot be copied to scratch_dir "
        f"'{tmp_path / 'file'}' ({os.strerror(20)}); name another, or leave it out"
    )


def test_training_reads_the_copy_and_does_not_note_it(
    prepared: tuple[Path, Manifest], recipe: str, run_main, tmp_path: Path
) -> None:
    flags = ["--recipe", recipe, "--dataset", prepared[0], "--num_train_epochs", "1"]
    scratch = tmp_path / "scratch"
    run_main("train", *flags, "--output_dir", tmp_path / "run", "--scratch_dir", scratch)
    assert len(list(scratch.glob("*/prepared.json"))) == 1
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["dataset"] == str(prepared[0])
    assert "scratch_dir" not in config
