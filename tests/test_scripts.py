"""The two scripts as a user meets them: help, a whole run, and every mistake in one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import ROOT, TINY_MODEL
from transformers import BertConfig

from mmgenre.data.prepare import PrepareOptions, prepare_movies
from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.models.pictures import open_poster
from mmgenre.models.registry import create_config, load_class, load_processor
from mmgenre.utils.errors import UserError

CHECKPOINT_FILES = {
    "manifest.json",
    "pretrained_model/config.json",
    "pretrained_model/model.safetensors",
    "pretrained_model/processor_config.json",
    "pretrained_model/tokenizer.json",
    "pretrained_model/tokenizer_config.json",
    "training_state/loop_state.json",
    "training_state/optimizer.safetensors",
    # the model's code, for environments without this package
    *(
        f"pretrained_model/{name}.py"
        for name in (
            *("configuration_mmgenre", "modeling_mmgenre", "processing_mmgenre", "base"),
            *("backbones", "layers", "losses", "pictures"),
        )
    ),
}


def read_history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "history.jsonl").open()]


def read_overall(report_dir: Path) -> dict[str, float]:
    return json.loads((report_dir / "metrics.json").read_text())["overall"]


def validation_numbers(line: dict[str, float]) -> dict[str, float]:
    prefix = "validation/"
    return {k.removeprefix(prefix): v for k, v in line.items() if k.startswith(prefix)}


# --- help


@pytest.mark.parametrize(
    ("script", "groups"),
    [
        ("train.py", ["training:", "data:", "model:", "optimization:", "tracking:"]),
        ("evaluate.py", ["positional arguments:", "evaluation:"]),
    ],
)
def test_help_is_grouped(run_script, script: str, groups: list[str]) -> None:
    result = run_script(script, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    places = [lines.index(group) for group in groups]
    assert places == sorted(places)


# --- a whole run


def test_files_of_a_run(trained_run: Path) -> None:
    files = {
        str(path.relative_to(trained_run)) for path in trained_run.rglob("*") if path.is_file()
    }
    # `rglob` does not follow the links best and last
    expected = {"config.yaml", "history.jsonl", "rejected_posters.jsonl"}
    for epoch in ("epoch_0001", "epoch_0002"):
        expected |= {f"checkpoints/{epoch}/{file}" for file in CHECKPOINT_FILES}
    assert {file for file in files if not file.startswith("reports/")} == expected
    scores = [line["validation/f1_macro"] for line in read_history(trained_run)]
    best = 1 + scores.index(max(scores))
    for link, epoch in (("last", 2), ("best", best)):
        path = trained_run / "checkpoints" / link
        assert path.is_symlink()
        assert path.readlink() == Path(f"epoch_{epoch:04d}")  # relative: a run can be moved


def test_what_a_run_writes_down(trained_run: Path, recipe: str) -> None:
    config = yaml.safe_load((trained_run / "config.yaml").read_text())
    given = yaml.safe_load(Path(recipe).read_text())
    assert config == {**config, **given, "recipe": recipe, "output_dir": str(trained_run)}
    assert config["seed"] == 42
    history = read_history(trained_run)
    assert [line["epoch"] for line in history] == [1, 2]
    assert [line["step"] for line in history] == [5, 10]
    assert [line["learning_rate"] for line in history] == pytest.approx([1e-5, 1e-3])
    lines = (trained_run / "rejected_posters.jsonl").read_text().splitlines()
    rejected = [json.loads(line) for line in lines]
    assert len(rejected) == 4  # three of the training movies, one of validation
    assert all(item.keys() == {"id", "poster", "reason"} for item in rejected)


def test_evaluate_gives_the_trainer_s_own_numbers(trained_run: Path, run_script) -> None:
    result = run_script("evaluate.py", trained_run, "--checkpoint", "last")
    assert result.returncode == 0, result.stderr
    folder = trained_run / "reports" / "validation"
    assert read_overall(folder) == validation_numbers(read_history(trained_run)[-1])
    assert result.stdout.strip() == (folder / "report.md").read_text().strip()
    assert str(trained_run / "checkpoints" / "epoch_0002") in result.stdout


def test_training_from_prepared_data(
    trained_run: Path, recipe: str, demo_dir: Path, run_main, tmp_path: Path, caplog
) -> None:
    run, folder = tmp_path / "run", tmp_path / "prepared"
    arguments = ["--recipe", recipe, "--output_dir", run, "--prepared_dir", folder]
    run_main("train", *arguments)
    manifest = json.loads((folder / "prepared.json").read_text())
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["content_hash"] == manifest["content_hash"] is not None
    names = ("rejected_posters.jsonl", "history.jsonl")
    rejected, history = ((run / name).read_text() for name in names)
    assert rejected == (trained_run / "rejected_posters.jsonl").read_text()
    assert len(history.splitlines()) == 2

    run_main("evaluate", run, "--checkpoint", "last")
    expected = validation_numbers(read_history(run)[-1])
    assert read_overall(run / "reports" / "validation") == pytest.approx(expected, abs=1e-6)
    assert str(folder) in (run / "reports" / "validation" / "report.md").read_text()

    options = PrepareOptions(poster_size=16)
    changed = prepare_movies(str(demo_dir), folder, open_poster, options, overwrite=True)
    with pytest.raises(UserError) as caught:
        run_main("train", "--output_dir", run, "--resume_from_checkpoint", "last")
    assert str(caught.value) == (
        f"{folder} has the content hash {changed.content_hash}, and the run began with "
        f"{manifest['content_hash']}; give the data of before, or begin a new run"
    )
    with pytest.raises(UserError) as caught:
        run_main("train", *arguments, "--dataset", tmp_path, "--overwrite_output_dir")
    assert str(caught.value) == (
        f"{folder} was prepared from {demo_dir}, not from {tmp_path}; name another prepared_dir"
    )
    arguments = ["--recipe", recipe, "--dataset", folder, "--num_train_epochs", "1"]
    run_main("train", *arguments, "--output_dir", tmp_path / "small")
    assert (
        "prepared posters have 16 pixels and are enlarged to the model's 32; "
        "`mmgenre prepare --poster_size 32` keeps more of them"
    ) in caplog.text


def test_evaluate_a_bare_model(trained_run: Path, demo_dir: Path, run_main, tmp_path: Path) -> None:
    model = shutil.copytree(
        trained_run / "checkpoints" / "last" / "pretrained_model", tmp_path / "model"
    )
    arguments = ["--dataset", demo_dir, "--report_dir", tmp_path / "report"]
    run_main("evaluate", model, *arguments, "--per_device_eval_batch_size", "3")
    expected = validation_numbers(read_history(trained_run)[-1])
    assert read_overall(tmp_path / "report") == pytest.approx(expected, abs=1e-6)
    table = pq.read_table(tmp_path / "report" / "predictions.parquet").to_pandas()
    assert list(table["id"]) == [f"demo{i:04d}" for i in range(41, 51)]


def test_evaluate_another_split(trained_run: Path, run_main, tmp_path: Path) -> None:
    run_main("evaluate", trained_run, "--split", "test", "--report_dir", tmp_path)
    table = pq.read_table(tmp_path / "predictions.parquet").to_pandas()
    assert list(table["id"]) == [f"demo{i:04d}" for i in range(51, 61)]


FRESH = """
import json, sys
from mmgenre import MMGenreForSequenceClassification, MMGenreProcessor
model = MMGenreForSequenceClassification.from_pretrained(sys.argv[1])
processor = MMGenreProcessor.from_pretrained(sys.argv[1])
logits = model(**processor(text=["An alien robot.", None])).logits
print(json.dumps([model.training, model.config.genres, logits.tolist()]))
"""


def test_a_saved_model_loads_in_a_fresh_process(trained_run: Path, run_script) -> None:
    folder = trained_run / "checkpoints" / "last" / "pretrained_model"
    result = run_script("-c", FRESH, folder)
    assert result.returncode == 0, result.stderr
    training, genres, logits = json.loads(result.stdout)
    assert not training
    assert genres[:3] == ["action", "adventure", "animation"]

    config = create_config("mmgenre", genres, TINY_MODEL)
    model = load_class("modeling_mmgenre:MMGenreForSequenceClassification")(config).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.no_grad():
        expected = model(**load_processor(str(folder))(text=["An alien robot.", None])).logits
    torch.testing.assert_close(torch.tensor(logits), expected, atol=1e-6, rtol=0)


def test_resuming_is_as_if_never_interrupted(
    run_copy: Path, recipe: str, run_main, tmp_path: Path
) -> None:
    epochs = ("--num_train_epochs", "3")
    run_main("train", "--output_dir", run_copy, "--resume_from_checkpoint", "last", *epochs)
    run_main("train", "--recipe", recipe, "--output_dir", tmp_path / "straight", *epochs)
    runs = [run_copy, tmp_path / "straight"]
    resumed, straight = (read_history(run) for run in runs)
    assert [line["epoch"] for line in straight] == [1, 2, 3]
    assert resumed == straight
    folders = [run / "checkpoints" / "last" / "pretrained_model" for run in runs]
    resumed, straight = (load_file(folder / "model.safetensors") for folder in folders)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_augmentation_on_the_accelerator_resumes_alike(
    trained_run: Path, recipe: str, run_main, tmp_path: Path
) -> None:
    arguments = ("--recipe", recipe, "--augmentation_device", "accelerator")
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    run_main("train", *arguments, "--output_dir", straight)
    run_main("train", *arguments, "--output_dir", stopped, "--num_train_epochs", "1")
    resume = ("--resume_from_checkpoint", "last", "--num_train_epochs", "2")
    run_main("train", "--output_dir", stopped, *resume)
    assert read_history(stopped) == read_history(straight)
    on_host = read_history(trained_run)[0]["train/loss"]
    assert read_history(straight)[0]["train/loss"] == pytest.approx(on_host, abs=0.02)
    assert read_history(straight)[0]["train/loss"] != on_host


def test_overwriting_starts_anew_and_leaves_other_files(run_copy: Path, run_main) -> None:
    (run_copy / "notes.txt").write_text("mine")
    (run_copy / "reports" / "validation").mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load((run_copy / "config.yaml").read_text())["recipe"]
    arguments = ("--overwrite_output_dir", "--num_train_epochs", "1")
    run_main("train", "--recipe", recipe, "--output_dir", run_copy, *arguments)
    assert [line["epoch"] for line in read_history(run_copy)] == [1]
    assert {path.name for path in (run_copy / "checkpoints").iterdir()} == {
        "epoch_0001",
        "best",
        "last",
    }
    assert (run_copy / "notes.txt").read_text() == "mine"
    assert not (run_copy / "reports").exists()


# --- two packages called evaluate


def test_import_evaluate_is_the_library_under_pytest() -> None:
    import evaluate

    assert Path(evaluate.__file__).resolve() != ROOT / "evaluate.py"
    assert evaluate.Metric.__module__ == "evaluate.module"


def test_import_evaluate_is_the_library_at_the_root(run_script, tmp_path) -> None:
    shutil.copy(ROOT / "evaluate.py", tmp_path)  # another checkout on the path
    code = "import evaluate; from evaluate import Metric; print(evaluate.Metric is Metric)"
    result = run_script("-c", code, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert result.stdout == "True\n", result.stderr


# --- mistakes: exit status and standard error


def test_a_mistyped_flag(run_script) -> None:
    result = run_script("train.py", "--learning_rat", "1")
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("train.py: error: unknown argument '--learning_rat'; did you mean")


def test_a_run_is_not_overwritten(trained_run: Path, recipe: str, run_script) -> None:
    def snapshot() -> dict[Path, tuple[int, int]]:
        files = (path for path in trained_run.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = snapshot()
    result = run_script("train.py", "--recipe", recipe, "--output_dir", trained_run)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "already holds a run" in line
    assert "--resume_from_checkpoint" in line
    assert "--overwrite_output_dir" in line
    assert snapshot() == before


def test_evaluating_nothing(tmp_path: Path, run_script) -> None:
    result = run_script("evaluate.py", tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("evaluate.py: error: ")
    assert "neither a run (it has no config.yaml) nor a saved model" in line


# --- mistakes in what is read; each changes a good data set


def change(folder: Path, edit: Callable[[dict, int], dict | None]) -> None:
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    rows = [edit(json.loads(line), number) for number, line in enumerate(lines)]
    text = "".join(json.dumps(row) + "\n" for row in rows if row is not None)
    (folder / "metadata.jsonl").write_text(text)


def drop_metadata(folder: Path) -> None:
    (folder / "metadata.jsonl").unlink()


def drop_column(folder: Path) -> None:
    change(folder, lambda row, _: {k: v for k, v in row.items() if k != "genres"})


def drop_all_rows(folder: Path) -> None:
    change(folder, lambda row, _: None)


def drop_all_genres(folder: Path) -> None:
    change(folder, lambda row, _: {**row, "genres": []})


def drop_validation_split_of_one(folder: Path) -> None:
    change(folder, lambda row, n: {**row, "split": None} if n == 3 else row)


def add_genre_to_validation(folder: Path) -> None:
    change(folder, lambda row, n: {**row, "genres": ["Musical"]} if n == 45 else row)


def break_json(folder: Path) -> None:
    path = folder / "metadata.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[4][:20], *lines[5:]]))


def drop(column: str) -> Callable[[Path], None]:
    return lambda folder: change(folder, lambda row, _: {**row, column: None})


def leave_folder(folder: Path) -> None:
    change(folder, lambda row, n: {**row, "file_name": "../secret.jpg"} if n == 6 else row)


def only(content: bytes | None) -> Callable[[Path], None]:
    """Two movies a split, and one of their posters with another content or none."""

    def edit(folder: Path) -> None:
        good = next(folder.glob("posters/*.png"))
        names = ["good.png", "good.png", "bad.png"]
        for row, name in enumerate(names):
            shutil.copy(good, folder / "posters" / name)
            names[row] = f"posters/{name}"
        if content is None:
            (folder / "posters" / "bad.png").unlink()
        else:
            whole = good.read_bytes()
            (folder / "posters" / "bad.png").write_bytes(content or whole[: len(whole) // 2])
        splits = ["train", "validation", "train"]
        change(
            folder,
            lambda row, n: (
                {**row, "genres": ["Drama"], "split": splits[n], "file_name": names[n]}
                if n < 3
                else None
            ),
        )

    return edit


BAD_DATA = {
    "no metadata": (drop_metadata, [], ["metadata.jsonl or metadata.csv"]),
    "no column genres": (drop_column, [], ["metadata.jsonl line 1", "genres"]),
    "empty": (drop_all_rows, [], ["no movies"]),
    "no genres": (drop_all_genres, [], ["none of the 60 movies has a genre"]),
    "split of some": (drop_validation_split_of_one, [], ["demo0004", "give all movies a split"]),
    "unseen genre": (
        add_genre_to_validation,
        [],
        ["validation", "musical", "demo0046", "--unknown_genres drop"],
    ),
    "broken line": (break_json, [], ["metadata.jsonl line 5", "broken JSON"]),
    "no poster at all": (drop("file_name"), [], ["modality 'image'", "modalities=[...]"]),
    "no plot at all": (drop("plot"), [], ["modality 'text'", "modalities=[...]"]),
    "outside": (leave_folder, [], ["metadata.jsonl line 7", "../secret.jpg"]),
    "missing poster": (only(None), ["error"], ["bad.png", "file is missing"]),
    "truncated poster": (only(b""), ["error"], ["bad.png", "truncated"]),
    "text as poster": (only(b"404"), ["error"], ["bad.png", "not a picture"]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_mistakes_in_data(case: str, demo_dir: Path, recipe: str, run_main, tmp_path: Path) -> None:
    edit, broken_posters, words = BAD_DATA[case]
    data = shutil.copytree(demo_dir, tmp_path / "data")
    edit(data)
    arguments = ["--dataset", data, "--output_dir", tmp_path / "run"]
    if broken_posters:
        arguments += ["--broken_posters", *broken_posters]
    fails(run_main, "train", ["--recipe", recipe, *arguments], words)
    assert not list((tmp_path / "run").rglob("*"))


def fails(run_main, script: str, arguments: list, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        run_main(script, *arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


BAD_FLAGS = {
    "no data set": (["--dataset", "none"], ["dataset is missing", "--dataset"]),
    "data set": (["--dataset", "no_such_folder"], ["no_such_folder does not exist"]),
    "model": (["--model", "mmgenr"], ["'mmgenr' is unknown", "did you mean 'mmgenre'?"]),
    "key": (["--model_config", "focal_gama=1"], ["'focal_gama'", "did you mean 'focal_gamma'?"]),
    "type": (["--model_config", "image_size=big"], ["image_size", "big"]),
    "choice": (["--model_config", "loss=hinge"], ["loss", "hinge"]),
    "layer": (["--model_config", "trainable_image_layers=[layer9]"], ["layer9", "layer4"]),
    "no tokenizer": (["--tokenizer", "none"], ["tokenizer is missing", "--tokenizer train"]),
    "tokenizer": (["--tokenizer", "no_such_folder"], ["no_such_folder", "cannot be loaded"]),
    "backbone": (["--image_backbone", "no.pth"], ["no.pth", "does not exist"]),
    "max_length": (["--model_config", "max_length=99"], ["max_length is 99", "32 positions"]),
    "fraction": (["--validation_fraction", "2"], ["validation_fraction is 2.0"]),
    "resume": (["--resume_from_checkpoint", "last"], ["holds no run to resume"]),
    "contradiction": (
        ["--resume_from_checkpoint", "last", "--overwrite_output_dir"],
        ["exclude each other"],
    ),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_mistakes_in_flags(case: str, recipe: str, run_main, tmp_path: Path) -> None:
    flags, words = BAD_FLAGS[case]
    fails(run_main, "train", ["--recipe", recipe, "--output_dir", tmp_path / "run", *flags], words)
    assert not list((tmp_path / "run").rglob("*"))


def test_a_tokenizer_that_does_not_fit(recipe: str, run_main, tmp_path: Path) -> None:
    words = [f"{a}{b}" for a in "bcdfghjklm" for b in "aeiouy"]
    tokenizer = train_tokenizer([" ".join(words)], vocab_size=200)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = yaml.safe_load(Path(recipe).read_text())
    config["model_config"]["text_config"]["vocab_size"] = 10
    config["tokenizer"] = str(tmp_path / "tokenizer")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config))
    arguments = ["--recipe", tmp_path / "recipe.yaml", "--output_dir", tmp_path / "run"]
    fails(run_main, "train", arguments, [f"{len(tokenizer)} tokens", "embeddings for 10"])


def test_a_text_backbone_without_its_tokenizer_s_files(
    recipe: str, run_main, tmp_path: Path
) -> None:
    BertConfig(**TINY_MODEL["text_config"]).save_pretrained(tmp_path / "backbone")
    arguments = ["--recipe", recipe, "--output_dir", tmp_path / "run"]
    arguments += ["--tokenizer", tmp_path / "backbone"]
    fails(run_main, "train", arguments, ["backbone' has no tokens", "vocab.txt is missing"])


@pytest.mark.parametrize("below", ["", "run"])
def test_a_folder_that_cannot_be_made(below: str, recipe: str, run_main, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / below
    fails(run_main, "train", ["--recipe", recipe, "--output_dir", folder], [f"'{folder}'"])
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(recipe: str, run_main, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    arguments = ["--recipe", recipe, "--output_dir", tmp_path / "run"]
    fails(run_main, "train", arguments, ["is not writable"])


def test_accumulation_that_contradicts_the_launcher_s(
    recipe: str, run_main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    arguments = ["--recipe", recipe, "--output_dir", tmp_path / "run"]
    words = ["gradient_accumulation_steps is 4 in Accelerate's configuration and 2 here"]
    fails(run_main, "train", [*arguments, "--gradient_accumulation_steps", "2"], words)


@pytest.mark.parametrize("file", sorted(CHECKPOINT_FILES))
def test_a_checkpoint_that_misses_a_file(file: str, run_copy: Path, run_main) -> None:
    (run_copy / "checkpoints" / "epoch_0002" / file).unlink()
    words = ["epoch_0002", "not whole", file]
    resume = ["--output_dir", run_copy, "--resume_from_checkpoint", "last"]
    history = (run_copy / "history.jsonl").read_bytes()
    fails(run_main, "train", [*resume, "--num_train_epochs", "3"], words)
    assert (run_copy / "history.jsonl").read_bytes() == history
    fails(run_main, "evaluate", [run_copy, "--checkpoint", "last"], words)


MODEL_FILES = ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"]


@pytest.mark.parametrize("file", MODEL_FILES)
@pytest.mark.parametrize("broken", [False, True], ids=["missing", "broken"])
def test_a_bare_model_that_is_not_whole(
    file: str, broken: bool, run_copy: Path, demo_dir: Path, run_main
) -> None:
    model = run_copy / "checkpoints" / "epoch_0002" / "pretrained_model"
    (model / file).unlink()
    if broken:
        (model / file).write_bytes(b"{")
    arguments = [model, "--dataset", demo_dir, "--report_dir", run_copy / "report"]
    fails(run_main, "evaluate", arguments, [str(model)])
    assert not (run_copy / "report").exists()


BAD_EVALUATIONS = {
    "checkpoint": (["--checkpoint", "epoch_0009"], ["epoch_0009", "best, epoch_0001, epoch_0002"]),
    "data set": (["--dataset", "no_such_folder"], ["no_such_folder does not exist"]),
}


@pytest.mark.parametrize("case", BAD_EVALUATIONS)
def test_mistakes_in_evaluation(case: str, trained_run: Path, run_main, tmp_path: Path) -> None:
    flags, words = BAD_EVALUATIONS[case]
    fails(run_main, "evaluate", [trained_run, "--report_dir", tmp_path / "r", *flags], words)
    assert not (tmp_path / "r").exists()


def test_a_bare_model_needs_a_data_set(trained_run: Path, run_main) -> None:
    model = trained_run / "checkpoints" / "last" / "pretrained_model"
    fails(run_main, "evaluate", [model], ["a model without a run", "--dataset"])


def test_genres_that_the_model_does_not_know(
    trained_run: Path, demo_dir: Path, run_main, tmp_path: Path
) -> None:
    data = shutil.copytree(demo_dir, tmp_path / "data")
    add_genre_to_validation(data)
    arguments = [trained_run, "--dataset", data, "--report_dir", tmp_path / "report"]
    fails(run_main, "evaluate", arguments, ["musical", "--unknown_genres drop"])
    run_main("evaluate", *arguments, "--unknown_genres", "drop")
    assert len(pq.read_table(tmp_path / "report" / "predictions.parquet")) == 10


def test_a_split_that_is_not_there(
    trained_run: Path, demo_dir: Path, run_main, tmp_path: Path
) -> None:
    data = shutil.copytree(demo_dir, tmp_path / "data")
    change(data, lambda row, _: None if row["split"] == "test" else row)
    arguments = [trained_run, "--dataset", data, "--split", "test"]
    fails(run_main, "evaluate", arguments, ["no movies in the split 'test'", "train, validation"])
