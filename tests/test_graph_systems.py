"""gat and mm_gatbt through the scripts: what the graph may see, two stages, what does not fit."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from launching import launch
from PIL import Image
from safetensors.torch import load_file
from systems import CASES
from tiny import ROOT, TINY_MODEL

from mmgenre.data.graph import build_graph, load_graph, save_graph
from mmgenre.data.neighborhoods import edges
from mmgenre.data.readers import read_movies
from mmgenre.data.records import MovieRecord
from mmgenre.models.registry import load_model
from mmgenre.utils.errors import UserError

CPU = {"ACCELERATE_USE_CPU": "true"}
Recipe = Callable[..., Path]


@pytest.fixture
def recipe_of(tmp_path: Path, demo_dir: Path) -> Recipe:
    """Writes a recipe of two epochs."""

    def write(system: str = "gat", dataset: Path = demo_dir, **changes: Any) -> Path:
        model_config = dict(CASES[system][1])
        if "text_config" in model_config:
            model_config["text_config"] = TINY_MODEL["text_config"]
            changes.setdefault("tokenizer", "train")
        values = {
            "dataset": str(dataset),
            "output_dir": str(tmp_path / "run"),
            "model": system,
            "model_config": model_config | changes.pop("model_config", {}),
            "num_train_epochs": 2,
            "per_device_train_batch_size": 20,
            "learning_rate": 1e-2,
            "warmup_epochs": 0,
            "dataloader_num_workers": 0,
            "report_to": "none",
            **changes,
        }
        path = tmp_path / f"{system}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def changed_copy(demo_dir: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The demo with every movie changed that is not for training."""
    shutil.copytree(demo_dir, folder)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").open()]
    for row in rows:
        if row["split"] != "train":
            change(row)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def trained(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "pretrained_model" / "model.safetensors")


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# --- what the graph may see


def other_genres(row: dict[str, Any]) -> None:
    row["genres"] = random.Random(row["id"]).sample(["Comedy", "Drama", "Horror", "Sci-Fi"], 2)


def other_credits(row: dict[str, Any]) -> None:
    row["director"] = row["producer"] = row["writer"] = ["One and the Same"]


@pytest.mark.parametrize(
    ("system", "change", "setting", "neighbors", "is_seen"),
    [
        ("gat", other_genres, "transductive", [], False),
        ("gat", other_genres, "transductive", [4, 4], False),
        ("gat", other_genres, "inductive", [], False),
        ("gat", other_credits, "inductive", [], False),
        ("gat", other_credits, "inductive", [4, 4], False),
        ("gat", other_credits, "transductive", [], True),
        ("sign", other_genres, "transductive", [], False),
        ("sign", other_credits, "inductive", [], False),
        ("sign", other_credits, "transductive", [], True),
    ],
)
def test_held_out_labels_change_nothing_and_movies_only_a_transductive_graph(
    system, change, setting, neighbors, is_seen, recipe_of, run_main, demo_dir, tmp_path
) -> None:
    options = {"graph_setting": setting, "graph_neighbors": neighbors}
    # the learning rate does not follow the validation metric
    options |= {"plateau_patience": 99}
    run_main("train", "--recipe", recipe_of(system, **options))
    other = changed_copy(demo_dir, tmp_path / "other", change)
    run = tmp_path / "changed"
    recipe = recipe_of(system, dataset=other, output_dir=str(run), **options)
    run_main("train", "--recipe", recipe)
    assert are_equal(trained(run), trained(tmp_path / "run")) == (not is_seen)


def test_an_inductive_model_is_evaluated_on_movies_that_it_never_saw(
    recipe_of, run_main, tmp_path, demo_dir
) -> None:
    """Their edges to training movies count: without them the outputs are others."""
    run = tmp_path / "run"
    run_main("train", "--recipe", recipe_of(graph_setting="inductive"))
    run_main("evaluate", run, "--split", "test")
    lonely = changed_copy(demo_dir, tmp_path / "lonely", other_credits)
    run_main(
        "evaluate", run, "--split", "test", "--dataset", lonely, "--report_dir", tmp_path / "r"
    )
    losses = [
        json.loads((folder / "metrics.json").read_text())["overall"]["loss"]
        for folder in (run / "reports" / "test", tmp_path / "r")
    ]
    assert losses[0] != pytest.approx(losses[1], abs=1e-6)


def test_a_movie_that_is_not_in_the_data_set_is_classified_by_adding_its_node(
    recipe_of, run_main, tmp_path, demo_dir
) -> None:
    run_main("train", "--recipe", recipe_of(graph_setting="inductive"))
    folder = str(tmp_path / "run" / "checkpoints" / "last" / "pretrained_model")
    model = load_model(folder).eval()
    known = [r for r in read_movies(str(demo_dir), "folder") if r.split == "train"][:5]
    new = MovieRecord("new", None, (), None, credits=known[2].credits)
    graph = build_graph([*known, new], model.config.graph_roles)
    features = torch.randn(6, 1000)
    edge_index = torch.from_numpy(edges(graph.adjacency))
    with torch.no_grad():
        logits = model(node_features=features, edge_index=edge_index).logits
        features[2] += 1  # a movie of the same people
        moved = model(node_features=features, edge_index=edge_index).logits
    assert logits.shape[0] == 6
    assert not torch.allclose(moved[-1], logits[-1])


# --- two stages


def test_two_stages(recipe_of, run_main, tmp_path, caplog) -> None:
    gat, run = tmp_path / "gat", tmp_path / "run"
    run_main("train", "--recipe", recipe_of(output_dir=str(gat)))
    (features,) = gat.glob("node_features_*.npy")
    assert np.load(features).shape == (60, 1000)

    changes = {"graph_roles": ["medium"], "gat_hidden_size": 4}
    # given by the GAT, unless they are named
    recipe = recipe_of("mm_gatbt", model_config={**changes, "image_size": 32}, image_backbone=None)
    run_main("train", "--recipe", recipe, "--graph_backbone", gat)
    weights = trained(run)
    best = gat / "checkpoints" / "best" / "pretrained_model" / "model.safetensors"
    shared = {n: v for n, v in load_file(best).items() if not n.startswith("classifier.")}
    assert all(torch.equal(weights[name], value) for name, value in shared.items())

    caplog.set_level("INFO")
    run_main("evaluate", run)
    assert any("node features are read from" in message for message in caplog.messages)
    last = [json.loads(line) for line in (run / "history.jsonl").open()]
    overall = json.loads((run / "reports" / "validation" / "metrics.json").read_text())["overall"]
    best_line = max(last, key=lambda line: line["validation/f1_macro"])
    for name, value in overall.items():
        assert value == pytest.approx(best_line[f"validation/{name}"], abs=1e-6), name


def test_sign_takes_the_plot_encoder_of_a_run(recipe_of, run_main, tmp_path, caplog) -> None:
    plots = tmp_path / "plots"
    run_main("train", "--recipe", recipe_of("bert", output_dir=str(plots), num_train_epochs=1))
    recipe = recipe_of("sign", tokenizer=None)
    run_main("train", "--recipe", recipe, "--text_backbone", plots)
    best = plots / "checkpoints" / "best" / "pretrained_model" / "model.safetensors"
    encoder = {n: v for n, v in load_file(best).items() if n.startswith("text_encoder.")}
    weights = trained(tmp_path / "run")
    assert all(torch.equal(weights[n], v) for n, v in encoder.items() if "pooler" not in n)
    (features,) = (tmp_path / "run").glob("node_features_*.npy")
    assert np.load(features).shape == (60, TINY_MODEL["text_config"]["hidden_size"])
    caplog.set_level("INFO")
    run_main("evaluate", tmp_path / "run")
    assert any("node features are read from" in message for message in caplog.messages)


def test_sign_makes_its_graphs_itself(recipe_of, run_main, tmp_path) -> None:
    message = fails(run_main, "--recipe", recipe_of("sign"), "--graph", tmp_path)
    assert message == (
        "graph and graph_neighbors are for gat and mm_gatbt; sign makes its graphs of the credits "
        "and takes the mean of all neighbours"
    )


@pytest.mark.parametrize(("system", "neighbors"), [("gat", []), ("gat", [3, 3]), ("sign", [])])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    system, neighbors, recipe_of, run_main, tmp_path
) -> None:
    run_main("train", "--recipe", recipe_of(system, graph_neighbors=neighbors))
    whole = trained(tmp_path / "run")
    run = tmp_path / "parts"
    recipe = recipe_of(system, graph_neighbors=neighbors, output_dir=str(run))
    run_main("train", "--recipe", recipe, "--num_train_epochs", "1")
    arguments = ["--resume_from_checkpoint", "last", "--num_train_epochs", "2"]
    run_main("train", "--output_dir", run, *arguments)
    assert are_equal(trained(run), whole)


@pytest.mark.slow
def test_two_processes_compute_node_features_together(recipe_of, run_main, tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "run"
    run_main("train", "--recipe", recipe_of(output_dir=str(one), num_train_epochs=1))
    arguments = ["--per_device_train_batch_size", "10", "--num_train_epochs", "1"]
    launch("cpu_2proc", ROOT / "train.py", "--recipe", recipe_of(), *arguments, **CPU)
    features = [np.load(next(run.glob("node_features_*.npy"))) for run in (one, two)]
    np.testing.assert_allclose(*features, atol=1e-6)


# --- what does not fit


def fails(run_main, *arguments: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        run_main("train", *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def bert_run(recipe_of, run_main, tmp_path) -> Path:
    recipe = recipe_of("bert", output_dir=str(tmp_path / "bert"), num_train_epochs=1)
    run_main("train", "--recipe", recipe)
    return tmp_path / "bert"


def test_a_run_of_another_system_is_no_graph(bert_run, recipe_of, run_main) -> None:
    message = fails(run_main, "--recipe", recipe_of("mm_gatbt"), "--graph_backbone", bert_run)
    assert message == (
        f"graph_backbone {str(bert_run)!r} is a mmgenre-bert model; mmgenre-gat is needed"
    )


def test_a_graph_backbone_for_another_system(bert_run, recipe_of, run_main) -> None:
    message = fails(run_main, "--recipe", recipe_of("gat"), "--graph_backbone", bert_run)
    assert message.startswith("graph_backbone is for model 'mm_gatbt' without an image_backbone;")


def test_a_graph_backbone_that_does_not_exist(recipe_of, run_main) -> None:
    message = fails(run_main, "--recipe", recipe_of("mm_gatbt"), "--graph_backbone", "no/where")
    assert message == (
        "graph_backbone 'no/where' is neither a folder nor a model on the Hub, as far as it can be "
        "reached"
    )


def test_no_credits(recipe_of, run_main, demo_dir, tmp_path) -> None:
    folder = shutil.copytree(demo_dir, tmp_path / "without")
    roles = ("director", "producer", "writer", "cinematographer", "art director", "editor")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").open()]
    kept = [{k: v for k, v in row.items() if k not in roles} for row in rows]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert fails(run_main, "--recipe", recipe_of("gat", dataset=folder)) == (
        "no movie of the data set has a director, producer or writer, so there is no movie graph "
        "(it has no credits at all); gat, mm_gatbt and sign cannot run on it, the other systems can"
    )


def test_a_stored_graph(recipe_of, run_main, demo_dir, tmp_path) -> None:
    records = list(read_movies(str(demo_dir), "folder"))
    for name, movies, roles in (
        ("same", records[::-1], ["sparse"]),
        ("part", records[:-2], ["sparse"]),
        ("dense", records, ["dense"]),
    ):
        (tmp_path / name).mkdir()
        save_graph(build_graph(movies, roles), tmp_path / name)
    recipe = recipe_of(num_train_epochs=1)
    assert fails(run_main, "--recipe", recipe, "--graph", tmp_path / "part") == (
        "the movie graph misses 2 of the data set's 60 movies: demo0059, demo0060; make it again "
        "with `mmgenre graph`"
    )
    message = fails(run_main, "--recipe", recipe, "--graph", tmp_path / "dense")
    assert "has the roles director, producer, writer, cinematographer, art director, " in message
    assert message.endswith("config has director, producer, writer and None")
    run_main("train", "--recipe", recipe, "--graph", tmp_path / "same")
    again = recipe_of(num_train_epochs=1, output_dir=str(tmp_path / "again"))
    run_main("train", "--recipe", again)
    assert are_equal(trained(tmp_path / "run"), trained(tmp_path / "again"))


def test_node_features_cannot_be_ablated(recipe_of, run_main, tmp_path) -> None:
    run_main("train", "--recipe", recipe_of(num_train_epochs=1))
    with pytest.raises(UserError, match="posters cannot be taken away for ablations"):
        run_main("evaluate", tmp_path / "run", "--ablations")


# --- the command


def test_the_command_writes_graph_and_figures(run_script, demo_dir, tmp_path) -> None:
    command = ["-m", "mmgenre.cli", "graph", demo_dir, "--output", tmp_path / "graph"]
    result = run_script(*command, "--roles", "sparse", "--max_movies", "8", COLUMNS="100")
    assert result.returncode == 0, result.stderr
    rows = [line.split("  ") for line in result.stdout.splitlines()]
    table = {row[1].strip(): row[-2].strip() or row[-3].strip() for row in rows if len(row) > 3}
    graph = load_graph(tmp_path / "graph")
    stats = json.loads((tmp_path / "graph" / "graph_stats.json").read_text())
    assert table["movies"] == str(stats["nodes"]) == "60"
    assert stats["edges"] == graph.adjacency.nnz // 2
    assert table["edges"] == f"{stats['edges']:,}"
    assert graph.max_movies == 8
    with Image.open(tmp_path / "graph" / "graph_stats.png") as figure:
        assert figure.format == "PNG"


# --- what the graph is good for


@pytest.mark.slow
def test_gat_beats_its_twin_without_a_graph(run_main, tmp_path) -> None:
    """On the demo, where directors, producers and writers have favourite genres."""
    scores = {}
    for name, roles in (("graph", ["sparse"]), ("twin", [])):
        run_main(
            "train", "--recipe", "gat_quickstart", "--output_dir", tmp_path / name,
            "--model_config", f"graph_roles={roles}",
        )  # fmt: skip
        lines = [json.loads(line) for line in (tmp_path / name / "history.jsonl").open()]
        scores[name] = max(line["validation/f1_macro"] for line in lines)
    assert scores["graph"] > scores["twin"] + 0.08
