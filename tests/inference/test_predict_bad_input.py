"""What stops `mmgenre predict`, and what only becomes a row's error; each with its sentence."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from posters import png_of_size
from safetensors.torch import save_file
from systems import create

from mmgenre.inference.predict import PredictOptions, predict
from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.utils.errors import UserError


class Case:
    """A model, a folder to put inputs in, and what `predict` is called with."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.model = folder / "model"
        shutil.copytree(run / "checkpoints/best/pretrained_model", self.model)
        self.folder = folder
        self.inputs = [self.write("good.jsonl", '{"plot": "A duel."}\n')]
        self.options: dict[str, Any] = {}

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def config(self, change: Callable[[dict[str, Any]], Any]) -> None:
        path = self.model / "config.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    def table(self, name: str, content: str | bytes) -> None:
        self.inputs = [self.write(name, content)]

    def rows(self, *rows: dict[str, Any]) -> None:
        self.table("movies.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))


class Opens:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def pickled_weights(case: Case, name: str) -> None:
    (case.model / "model.safetensors").unlink()
    (case.model / name).write_bytes(pickle.dumps(Opens(case.folder / "ran")))


def missing_shard(case: Case) -> None:
    (case.model / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": "model-00001.safetensors"}}
    (case.model / "model.safetensors.index.json").write_text(json.dumps(index))


def graph_model(case: Case) -> None:
    shutil.rmtree(case.model)
    model = create("gat")
    model.save_pretrained(case.model)
    MMGenreProcessor.from_config(model.config, None).save_pretrained(case.model)


def existing_output(case: Case) -> None:
    case.options["output"] = Path(case.write("out.jsonl", "kept\n"))


def other_output(case: Case, name: str, content: str) -> None:
    case.options |= {"output": Path(case.write(name, content)), "resume": True}


STOPS: dict[str, tuple[Callable[[Case], Any], str]] = {
    "model folder without config": (
        lambda case: (case.model / "config.json").unlink(),
        "'.*model' is neither a run (it has no config.yaml) nor a saved model (it has no "
        "config.json)",
    ),
    "a config that is no JSON": (
        lambda case: (case.model / "config.json").write_text("{"),
        "'.*model' cannot be loaded as a model: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
    ),
    "a pickle in place of safetensors": (
        lambda case: pickled_weights(case, "model.safetensors"),
        "'.*model' cannot be loaded as a model: Error while deserializing header: .*",
    ),
    "a pickle beside no safetensors": (
        lambda case: pickled_weights(case, "pytorch_model.bin"),
        "'.*model' cannot be loaded as a model: Error no file named model.safetensors found in "
        "directory .*model.",
    ),
    "a shard of the weights that is missing": (
        missing_shard,
        "'.*model' cannot be loaded as a model: .*model-00001.safetensors.*",
    ),
    "no names of labels": (
        lambda case: case.config(lambda values: values.pop("id2label")),
        "'.*model' cannot be loaded as a model: its config.json has no id2label, the genres' "
        'names; add them, such as {"0": "action", "1": "adventure"}, in label order',
    ),
    "a newer version": (
        lambda case: case.config(lambda values: values.update(fusion="deep")),
        "'.*model' cannot be loaded as a model: its config.json has keys that this version of "
        "mmgenre does not know (fusion); a newer version may have saved it: update mmgenre",
    ),
    "a model of another package": (
        lambda case: case.config(lambda values: values.update(model_type="bert")),
        "'.*model' cannot be loaded as a model: the model_type of its config.json is 'bert', which "
        "is no system of this package; they are .*",
    ),
    "weights of another model": (
        lambda case: save_file({}, case.model / "model.safetensors"),
        "'.*model' holds weights that do not fit its config.json: .*",
    ),
    "a graph system": (
        graph_model,
        "mmgenre-gat predicts a movie from its neighbours in the graph of its data set, so it "
        "cannot take movies one by one; use evaluate.py",
    ),
    "no such input": (
        lambda case: case.inputs.append("no.jpg"),
        "no.jpg does not exist; give a poster, a folder, a table or -",
    ),
    "a URL": (
        lambda case: case.inputs.append("https://example.org/a.jpg"),
        "https://example.org/a.jpg is a URL, and nothing is downloaded; give a file",
    ),
    "a folder without posters": (
        lambda case: case.inputs.append(str(case.model)),
        r".*model holds neither posters (.*) nor a table (metadata.jsonl or metadata.csv)",
    ),
    "CSV without header": (
        lambda case: case.table("a.csv", "1,a.jpg,A duel.\n"),
        ".*a.csv: the columns are '1', 'a.jpg', 'A duel.'; needed are poster (or file_name), plot "
        "or both, in a CSV file by a header and separated by commas",
    ),
    "CSV with another delimiter": (
        lambda case: case.table("a.csv", "id;plot\n1;A duel.\n"),
        ".*a.csv: the columns are 'id;plot'; needed are .*",
    ),
    "an empty CSV": (
        lambda case: case.table("a.csv", ""),
        ".*a.csv: the columns are none; needed are .*",
    ),
    "CSV with a quote that is never closed": (
        lambda case: case.table("a.csv", 'plot\n"' + "a\n" * (9 * 1024 * 1024)),
        ".*a.csv line .*: broken CSV: field larger than field limit .*",
    ),
    "UTF-16": (
        lambda case: case.table("a.csv", "plot\nA duel.\n".encode("utf-16")),
        ".*a.csv is not UTF-8 text (.*); save it as UTF-8",
    ),
    "an output that exists": (
        existing_output,
        "output '.*out.jsonl' exists; --resume goes on with it, --overwrite replaces it",
    ),
    "an output that is the input": (
        lambda case: case.options.update(output=Path(case.inputs[0]), overwrite=True),
        "output '.*good.jsonl' is an input; name another file",
    ),
    "an output in no folder": (
        lambda case: case.options.update(output=case.folder / "no" / "out.csv"),
        "output '.*out.csv' cannot be written; '.*no' does not exist or is not writable",
    ),
    "an output of no format": (
        lambda case: case.options.update(output=case.folder / "out.xls"),
        "output '.*out.xls' does not say its format; end it in .jsonl, .csv, .parquet or name one "
        "with --format",
    ),
    "Parquet on standard output": (
        lambda case: case.options.update(format="parquet"),
        "--format parquet needs --output FILE; a Parquet file is no stream",
    ),
    "resuming what is no prediction": (
        lambda case: other_output(case, "out.jsonl", "kept\n"),
        "output '.*out.jsonl' row 1 is no prediction; --overwrite replaces the file",
    ),
    "resuming other movies": (
        lambda case: other_output(case, "out.jsonl", '{"id": "x"}\n'),
        "the output was written for other movies: its row 1 is 'x', and .* has 'line 1' there; "
        "--overwrite starts anew",
    ),
    "resuming another model's CSV": (
        lambda case: other_output(case, "out.csv", "id,genres,error,probability/x\n"),
        "output '.*out.csv' has other columns than this model's predictions; .*",
    ),
    "resuming a Parquet file that is none": (
        lambda case: other_output(case, "out.parquet", "PAR1"),
        "output '.*out.parquet' is no whole Parquet file, so it cannot be resumed; --overwrite "
        "replaces it",
    ),
    "a batch of none": (
        lambda case: case.options.update(batch_size=0),
        "batch_size is 0; it must be 1 at least",
    ),
    "no such device": (
        lambda case: case.options.update(device="gpu"),
        "device 'gpu' cannot be used (.*)",
    ),
    "a plot for several movies": (
        lambda case: case.options.update(plot="A duel."),
        "--plot goes with one poster; several movies need a table",
    ),
}


def as_pattern(sentence: str) -> str:
    return ".*".join(re.escape(part) for part in sentence.split(".*"))


@pytest.fixture
def case(trained_run: Path, tmp_path: Path) -> Case:
    return Case(trained_run, tmp_path)


@pytest.mark.parametrize("name", STOPS)
def test_wrong_input_stops_with_one_sentence(name: str, case: Case) -> None:
    spoil, sentence = STOPS[name]
    spoil(case)
    output = case.options.get("output")
    before = output.read_bytes() if output and output.exists() else None
    with pytest.raises(UserError) as caught:
        predict(str(case.model), case.inputs, PredictOptions(**case.options))
    assert re.fullmatch(as_pattern(sentence), str(caught.value), re.DOTALL), str(caught.value)
    assert not (case.folder / "ran").exists()
    assert before is None or output.read_bytes() == before
    assert not list(case.folder.glob(".*.tmp"))


def test_code_in_a_models_folder_is_not_run(case: Case, capsysbinary: Any) -> None:
    trace = case.folder / "ran"
    for name in ("evil.py", *(path.name for path in case.model.glob("*.py"))):
        (case.model / name).write_text(f"open({str(trace)!r}, 'w')\nclass Evil: ...\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        path = case.model / name
        values = json.loads(path.read_text())
        parts = ("Config", "ModelForSequenceClassification", "Processor", "ImageProcessor")
        values["auto_map"] = {f"Auto{part}": "evil.Evil" for part in parts}
        values["auto_map"]["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
        path.write_text(json.dumps(values))
    predict(str(case.model), case.inputs, PredictOptions())
    assert json.loads(capsysbinary.readouterr().out).keys() == {"id", "genres", "probabilities"}
    assert not trace.exists()


ROWS: dict[str, tuple[Callable[[Case], Any], str]] = {
    "a poster's URL": (
        lambda case: case.rows({"poster": "https://example.org/a.jpg"}),
        "poster 'https://example.org/a.jpg' is a URL, and nothing is downloaded; give a file",
    ),
    "a folder as poster": (
        lambda case: case.rows({"poster": "model"}),
        "poster '.*model' is a folder; give a picture's file",
    ),
    "a poster that is missing": (
        lambda case: case.rows({"poster": "no.jpg"}),
        "poster '.*no.jpg' does not exist; give a picture's file",
    ),
    "a poster with a very long name": (
        lambda case: case.rows({"poster": "a" * 10_000}),
        "poster '.*' cannot be read (File name too long)",
    ),
    "a poster with a null character": (
        lambda case: case.rows({"poster": "a\0.jpg"}),
        r"poster 'a\x00.jpg' must be a relative path to a file inside .*",
    ),
    "a poster that is text": (
        lambda case: case.rows({"poster": "good.jsonl"}),
        "poster '.*good.jsonl' cannot be read (not a picture)",
    ),
    "a bomb": (
        lambda case: case.rows(
            {"poster": Path(case.write("a.png", png_of_size(20_000, 10_000))).name}
        ),
        "poster '.*a.png' cannot be read (Image size (200000000 pixels) exceeds limit of 178956970 "
        "pixels, could be decompression bomb DOS attack.)",
    ),
    "a poster outside the folder": (
        lambda case: case.rows({"poster": "../a.jpg"}),
        "poster '../a.jpg' must be a relative path to a file inside .*",
    ),
    "an absolute path": (
        lambda case: case.rows({"poster": "/etc/passwd"}),
        "poster '/etc/passwd' must be a relative path to a file inside .*",
    ),
    "a link that leads out": (
        lambda case: (
            (case.folder / "l.jpg").symlink_to("/etc/passwd"),
            case.rows({"poster": "l.jpg"}),
        ),
        "poster 'l.jpg' must be a relative path to a file inside .*",
    ),
    "empty plot and no poster": (
        lambda case: case.rows({"plot": " ", "poster": None}),
        "there is no poster and no plot, and the model takes nothing else",
    ),
    "a plot that is a list": (
        lambda case: case.rows({"plot": ["A", "duel"]}),
        "plot must be text, not ['A', 'duel']",
    ),
    "a cell of 10 MB": (
        lambda case: case.table("a.csv", "plot\n" + "a" * 10_000_000 + "\n"),
        "plot has 10,000,000 characters; it can have 1,000,000 at most",
    ),
    "a line of 20 MB": (
        lambda case: case.table("a.jsonl", "[" * 20_000_000 + "\n"),
        "the line has more than 16,777,216 characters",
    ),
    "deep JSON": (
        lambda case: case.table("a.jsonl", "[" * 100_000 + "\n"),
        "broken JSON: .*",
    ),
    "JSON that is no object": (
        lambda case: case.table("a.jsonl", "[1]\n"),
        "must be a JSON object {...}",
    ),
    "other keys": (
        lambda case: case.rows({"text": "A duel."}),
        "the columns are 'text'; needed are poster (or file_name), plot or both, .*",
    ),
    "a row with more fields than the header": (
        lambda case: case.table("a.csv", "id,plot\n1,A duel, at dawn.\n"),
        "the number of fields is not that of the header; put fields that hold a comma in quotes",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_row_says_so_and_the_rest_goes_on(name: str, case: Case, capsysbinary: Any) -> None:
    spoil, sentence = ROWS[name]
    good = case.inputs
    spoil(case)
    predict(str(case.model), [*case.inputs, *good], PredictOptions())
    wrong, right = map(json.loads, capsysbinary.readouterr().out.splitlines())
    assert wrong.keys() == {"id", "error"}
    assert re.fullmatch(as_pattern(sentence), wrong["error"], re.DOTALL), wrong["error"]
    assert right.keys() == {"id", "genres", "probabilities"}
