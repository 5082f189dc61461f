import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from processes import num_lines, wait_for
from systems import CASES, create
from tiny import ROOT

from mmgenre import GenrePipeline, load_model
from mmgenre.data.readers.folder import read_folder
from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.evaluation.predictions import read_predictions
from mmgenre.inference.outputs import open_output
from mmgenre.inference.predict import PredictOptions, predict, write_predictions
from mmgenre.models.pictures import open_poster
from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.training.preemption import Preemption
from mmgenre.utils.errors import PREEMPTION_SIGNALS

Movie = dict[str, Any]


def predicted(output: Path) -> dict[str, Movie]:
    """Id to row, of any of the formats, in their order."""
    if output.suffix == ".jsonl":
        rows = [json.loads(line) for line in output.open()]
        return {row["id"]: {k: v for k, v in row.items() if k != "id"} for row in rows}
    if output.suffix == ".csv":
        table = list(csv.DictReader(output.open()))
    else:
        table = pq.read_table(output).to_pylist()
    rows = {}
    for row in table:
        rows[row.pop("id")] = movie = {}
        genres, error = row.pop("genres"), row.pop("error")
        if error:
            movie["error"] = error
        else:
            movie["genres"] = genres.split("|") if isinstance(genres, str) else genres
            movie["genres"] = [genre for genre in movie["genres"] if genre]
            movie["probabilities"] = {
                name.removeprefix("probability/"): float(value) for name, value in row.items()
            }
    return rows


def assert_same(one: dict[str, Movie], other: dict[str, Movie]) -> None:
    """Up to the digits that another batch's padding changes."""
    assert list(one) == list(other)
    for movie, twin in zip(one.values(), other.values(), strict=True):
        assert movie.get("error") == twin.get("error")
        assert movie.get("genres") == twin.get("genres")
        assert movie.get("probabilities") == pytest.approx(twin.get("probabilities"), abs=2e-6)


@pytest.fixture(scope="session")
def movies(demo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Format D with movies of every kind, one of them with a broken poster."""
    folder = tmp_path_factory.mktemp("movies")
    shutil.copytree(demo_dir / "posters", folder / "posters")
    rows = [json.loads(line) for line in (demo_dir / "metadata.jsonl").open()][:30]
    (folder / "posters" / "broken.jpg").write_bytes(b"no picture")
    rows[7]["file_name"] = "posters/broken.jpg"
    del rows[3]["file_name"], rows[5]["plot"]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def expected(movies: Path, trained_run: Path, tmp_path_factory: Any) -> dict[str, Movie]:
    output = tmp_path_factory.mktemp("expected") / "all.jsonl"
    predict(str(trained_run), [str(movies)], PredictOptions(output=output))
    return predicted(output)


def test_the_same_probabilities_as_in_evaluation(
    trained_run: Path, demo_dir: Path, run_copy: Path, run_main: Callable[..., None], tmp_path: Path
) -> None:
    run_main("evaluate", run_copy, "--split", "test")
    evaluated = read_predictions(run_copy / "reports/test/predictions.parquet")
    output = tmp_path / "all.parquet"
    predict(str(trained_run), [str(demo_dir)], PredictOptions(output=output))
    rows = predicted(output)
    assert len(rows) == 60
    for movie_id, probabilities in zip(evaluated.ids, evaluated.probabilities, strict=True):
        by_genre = dict(zip(evaluated.genres, probabilities, strict=True))
        assert rows[movie_id]["probabilities"] == pytest.approx(by_genre, abs=1e-6)


def test_a_row_for_every_movie_and_an_error_for_the_broken_one(
    expected: dict[str, Movie], movies: Path
) -> None:
    records = list(read_folder(str(movies)))
    assert list(expected) == [record.id for record in records]
    poster = movies / "posters/broken.jpg"
    error = {"error": f"poster '{poster}' cannot be read (not a picture)"}
    assert expected[records[7].id] == error
    assert sum("probabilities" in movie for movie in expected.values()) == 28  # demo draws one too


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_the_formats_say_the_same(
    name: str, expected: dict[str, Movie], movies: Path, trained_run: Path, tmp_path: Path
) -> None:
    predict(str(trained_run), [str(movies)], PredictOptions(output=tmp_path / name))
    assert_same(predicted(tmp_path / name), expected)


def as_csv(movies: Path) -> str:
    rows = [json.loads(line) for line in (movies / "metadata.jsonl").open()]
    with (movies / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "poster", "plot"])
        writer.writeheader()
        for row in rows:
            poster = row.get("file_name", "")
            writer.writerow({"id": row["id"], "poster": poster, "plot": row.get("plot", "")})
    return str(movies / "table.csv")


def test_a_csv_file_as_good_as_the_folder(
    expected: dict[str, Movie], movies: Path, trained_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    predict(str(trained_run), [as_csv(movies)], PredictOptions(output=output))
    assert predicted(output) == expected


def test_posters_by_themselves_and_in_a_folder(
    movies: Path, trained_run: Path, tmp_path: Path
) -> None:
    posters = sorted((movies / "posters").glob("demo000*.jpg"))
    (tmp_path / "some").mkdir()
    for poster in posters:
        shutil.copy(poster, tmp_path / "some")
    (tmp_path / "some" / "notes.txt").touch()
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    predict(str(trained_run), list(map(str, posters)), PredictOptions(output=one))
    predict(str(trained_run), [str(tmp_path / "some")], PredictOptions(output=other))
    by_name = {Path(movie_id).name: movie for movie_id, movie in predicted(one).items()}
    assert len(by_name) == 9
    assert by_name == predicted(other)


def test_a_plot_for_a_poster(
    trained_run: Path, movies: Path, pipeline: GenrePipeline, capsysbinary: Any
) -> None:
    poster = str(movies / "posters/demo0001.jpg")
    predict(str(trained_run), [poster], PredictOptions(plot="A duel at dawn."))
    row = json.loads(capsysbinary.readouterr().out)
    movie = pipeline({"poster": poster, "plot": "A duel at dawn."})
    assert row["id"] == poster
    assert row["probabilities"] == pytest.approx(movie["probabilities"], abs=1e-6)


def test_no_cell_of_csv_is_a_formula_and_ids_come_back(trained_run: Path, tmp_path: Path) -> None:
    ids = ["=1+1", "+1", "-1", "@sum(A1)", "\t=1", "'=1", "'Round Midnight", "two\nlines", "1"]
    table, output = tmp_path / "table.jsonl", tmp_path / "out.csv"
    table.write_text("".join(f"{json.dumps({'id': i, 'plot': 'A duel.'})}\n" for i in ids))
    predict(str(trained_run), [str(table)], PredictOptions(output=output))
    cells = ["'=1+1", "'+1", "'-1", "'@sum(A1)", "'\t=1", "''=1", "''Round Midnight", "two lines"]
    assert list(predicted(output)) == [*cells, "1"]
    before = output.read_bytes()
    predict(str(trained_run), [str(table)], PredictOptions(output=output, resume=True))
    assert output.read_bytes() == before


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("kept", [0, 5, 40, 3000])
def test_a_killed_run_goes_on_from_any_byte(
    suffix: str,
    kept: int,
    expected: dict[str, Movie],
    movies: Path,
    trained_run: Path,
    tmp_path: Path,
    capsysbinary: Any,
) -> None:
    predict(str(trained_run), [str(movies)], PredictOptions(format=suffix))
    output = tmp_path / f"out.{suffix}"
    output.write_bytes(capsysbinary.readouterr().out[:kept])
    before = output.read_bytes()
    predict(str(trained_run), [str(movies)], PredictOptions(output=output, resume=True))
    whole = before[: before.rfind(b"\n") + 1]
    assert output.read_bytes().startswith(whole)
    assert_same(predicted(output), expected)


def test_a_parquet_file_goes_on_after_an_error(
    expected: dict[str, Movie], movies: Path, trained_run: Path, tmp_path: Path
) -> None:
    table, output = movies / "table.jsonl", tmp_path / "out.parquet"
    lines = (movies / "metadata.jsonl").read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(lines[:20]) + b"\xff\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        predict(str(trained_run), [str(table)], PredictOptions(output=output, batch_size=2))
    some = len(predicted(output))
    assert 0 < some <= 20
    table.write_bytes(b"".join(lines))
    predict(str(trained_run), [str(table)], PredictOptions(output=output, resume=True))
    assert_same(predicted(output), expected)


def start(*arguments: Any, **options: Any) -> subprocess.Popen[Any]:
    command = [sys.executable, "-m", "mmgenre.cli", "predict", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ}, **options
    )


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 75, "stopped by SIGTERM; start it again")],
)
def test_after_a_signal_what_is_written_is_whole_and_goes_on(
    name: str,
    status: int,
    said: str,
    expected: dict[str, Movie],
    movies: Path,
    trained_run: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out.jsonl"
    rows = (movies / "metadata.jsonl").read_bytes().splitlines(keepends=True)
    arguments = [trained_run, "-", "--output", output, "--batch_size", "2"]
    process = start(*arguments, stdin=subprocess.PIPE)
    assert process.stdin is not None
    for row in rows[:20]:  # its posters are not in the folder that it is started in
        process.stdin.write(row)
    process.stdin.flush()  # and left open: it waits for more
    wait_for(lambda: num_lines(output) >= 4, process)
    process.send_signal(getattr(signal, name))
    assert process.wait(timeout=30) == status
    errors = process.communicate()[1].decode()
    assert errors.splitlines()[-1] == (
        f"mmgenre: {said}; what is in {output} is whole, and --resume goes on"
    )
    written = predicted(output)
    assert list(written) == list(expected)[: len(written)]
    predict(
        str(trained_run),
        [str(movies)],
        PredictOptions(output=output, resume=True),
    )
    assert list(predicted(output)) == list(expected)


class PressesCtrlC:
    """As it is finalized, where Python drops the exception."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_python_drops_is_heard_before_the_next_movie(
    pipeline: GenrePipeline, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for number in PREEMPTION_SIGNALS:
        request.addfinalizer(partial(signal.signal, number, signal.getsignal(number)))
    preemption = Preemption()
    preemption.listen()

    def movies() -> Iterator[tuple[str, Movie]]:
        for number, movie in enumerate(endless([])):
            if number == 20:
                PressesCtrlC()
            yield str(number), movie

    output = open_output(tmp_path / "out.jsonl", "jsonl", pipeline.genres, resume=False)
    with pytest.raises(KeyboardInterrupt), closing(output):
        write_predictions(pipeline, movies(), output, False, preemption.check)
    written = list(predicted(tmp_path / "out.jsonl"))
    assert written == [str(number) for number in range(13)]  # as reading is ahead of writing


def test_a_reader_that_has_enough_ends_it_in_silence(movies: Path, trained_run: Path) -> None:
    process = start(trained_run, movies, "--batch_size", "1", stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["id"] == "demo0001"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == -signal.SIGPIPE


def endless(consumed: list[int]) -> Iterator[Movie]:
    for number in count():
        consumed.append(number)
        yield {"plot": f"A duel, the {number}th."}


def test_input_is_never_read_far_ahead(pipeline: GenrePipeline) -> None:
    consumed: list[int] = []
    predictions = pipeline.stream(endless(consumed))
    for number in range(50):
        next(predictions)
        assert len(consumed) <= number + 4 * pipeline.batch_size


def test_the_pipeline_computes_what_the_model_does(
    pipeline: GenrePipeline, trained_run: Path, movies: Path
) -> None:
    model = load_model(str(trained_run / "checkpoints/best/pretrained_model")).eval()
    poster = movies / "posters/demo0001.jpg"
    inputs = pipeline.processor(images=poster, text="A duel.")
    with torch.no_grad():
        alone = model(**inputs).logits.sigmoid()[0].tolist()
    for given in (poster, str(poster), open_poster(poster), poster.open("rb")):
        prediction = pipeline({"poster": given, "plot": "A duel."})
        assert list(prediction["probabilities"].values()) == pytest.approx(alone, abs=1e-6)


def test_genres_are_those_above_the_models_own_thresholds(
    pipeline: GenrePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    movie = {"plot": "A duel at dawn."}
    probabilities = pipeline(movie)["probabilities"]
    falling = sorted(probabilities, key=lambda genre: -probabilities[genre])
    cuts = dict(probabilities)  # at its threshold a genre is not predicted
    for genre in falling[1:4]:
        cuts[genre] -= 1e-9
    model = pipeline.model
    monkeypatch.setattr(model.config, "thresholds", list(cuts.values()))
    assert GenrePipeline(model, pipeline.processor)(movie)["genres"] == falling[1:4]


def test_the_pipeline_raises_with_the_movies_place(pipeline: GenrePipeline) -> None:
    with pytest.raises(ValueError, match="^movie 1: poster 'no.jpg' does not exist; give"):
        pipeline([{"plot": "A duel."}, {"poster": "no.jpg"}])
    with pytest.raises(ValueError, match="^movie 0: 'title' is unknown; a movie can have poster"):
        pipeline({"title": "Duel"})


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("gat", "mm_gatbt")])
def test_every_system_without_a_graph_predicts(case: str) -> None:
    model = create(case)
    tokenizer = None
    if "text" in model.config.modalities:
        tokenizer = train_tokenizer(["A duel at dawn."], vocab_size=60)
    processor = MMGenreProcessor.from_config(model.config, tokenizer)
    picture = Image.new("RGB", (40, 60), "red")
    features = {name: torch.ones(dim) for name, dim in model.config.feature_dims.items()}
    movie = {"poster": picture, "plot": "A duel at dawn.", "features": features or None}
    inputs = processor(images=picture, text="A duel at dawn.", features=[features or None])
    with torch.no_grad():
        expected = model(**inputs).logits.sigmoid()[0].tolist()
    prediction = GenrePipeline(model, processor)(movie)
    assert list(prediction["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
    (wrong,) = GenrePipeline(model, processor).stream([{}])
    assert wrong["error"].startswith("there is no ")
