"""Explanations against an independent computation, and by taking away what they rank highest."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from posters import png_of_size
from systems import create
from tiny import ROOT

from mmgenre import cli
from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.inference import explain
from mmgenre.inference.explain import (
    Explainer,
    Explanation,
    GenreExplanation,
    Word,
    fusion_shares,
    sum_regions,
)
from mmgenre.inference.explanation_page import render_page, write_explanation
from mmgenre.inference.pipeline import GenrePipeline
from mmgenre.models.processing_mmgenre import MMGenreProcessor

PLOT = "Two dogs run a bar on the moon. A war breaks out."
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8))
SYSTEMS = [
    "mmgenre",
    "efficientnet",
    "bert",
    "gmu end to end",
    "centralnet end to end",
    "mmbt",
    "mfm",
    "refnet",
]


def pipeline_of(case: str, **changes: Any) -> GenrePipeline:
    model = create(case, **changes)
    tokenizer = (
        train_tokenizer([PLOT], vocab_size=90) if model.config.modalities != ("image",) else None
    )
    return GenrePipeline(model, MMGenreProcessor.from_config(model.config, tokenizer))


@torch.no_grad()
def _let_words_count(model: Any) -> None:
    """In an untrained text encoder they say next to nothing."""
    model.get_input_embeddings().weight.mul_(20)
    for weight in model.text_encoder.encoder.parameters():
        if weight.ndim == 2:
            weight.mul_(5)


@pytest.mark.parametrize("missing", ["fill", "learned"])
@pytest.mark.parametrize("case", SYSTEMS)
def test_scores_add_up_to_what_the_logit_gains(case, missing, monkeypatch):
    monkeypatch.setattr(explain, "_STEPS", 256)
    pipeline = pipeline_of(case, missing_modality=missing)
    if case != "efficientnet":
        _let_words_count(pipeline.model)
    explained = Explainer(pipeline)({"poster": PICTURE, "plot": PLOT}, ["war"]).genres[0]
    inputs = dict(pipeline.processor(images=PICTURE, text=PLOT))
    if "input_ids" in inputs:  # without padding
        length = inputs["attention_mask"].sum()
        inputs |= {name: inputs[name][:, :length] for name in ("input_ids", "attention_mask")}
    start = dict(inputs)
    total = 0.0
    if "pixel_values" in inputs:
        start["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
        total += explained.regions.sum()
    if "input_ids" in inputs:
        start["input_ids"] = inputs["input_ids"].clone()
        start["input_ids"][:, 1:-1] = pipeline.processor.tokenizer.pad_token_id
        total += sum(word.score for word in explained.words)
    column = pipeline.genres.index("war")
    with torch.no_grad():
        end, begin = (pipeline.model(**x).logits[0, column].item() for x in (inputs, start))
    assert end != pytest.approx(begin, abs=1e-4)
    assert total == pytest.approx(end - begin, rel=0.03)


def test_words_are_those_of_the_plot_that_the_model_sees():
    pipeline = pipeline_of("bert")
    plot = PLOT + " Nobody knows why." * 5
    words = Explainer(pipeline)({"plot": plot}, ["war"]).genres[0].words
    texts = [plot[word.start : word.end] for word in words]
    assert texts[:5] == ["Two", "dogs", "run", "a", "bar"]
    assert "".join(texts) == plot[: words[-1].end].replace(" ", "")
    assert words[-1].end < len(plot)


@pytest.mark.parametrize("missing", ["fill", "learned"])
def test_contributions_are_shapley_s(missing):
    pipeline = pipeline_of("gmu end to end", missing_modality=missing)
    explained = Explainer(pipeline)({"poster": PICTURE, "plot": PLOT}, ["sci-fi"]).genres[0]

    def probability(posters: list[Any], plots: list[Any]) -> float:
        with torch.no_grad():
            logits = pipeline.model(**pipeline.processor(posters, plots)).logits
        return logits[0, pipeline.genres.index("sci-fi")].sigmoid().item()

    both, poster = probability([PICTURE], [PLOT]), probability([PICTURE], [None])
    plot, nothing = probability([None], [PLOT]), probability([None], [None])
    assert explained.probability == pytest.approx(both, abs=1e-6)
    assert explained.prior == pytest.approx(nothing, abs=1e-6)
    assert explained.contributions == pytest.approx(
        {
            "poster": (poster - nothing + both - plot) / 2,
            "plot": (plot - nothing + both - poster) / 2,
        },
        abs=1e-6,
    )


def test_what_a_movie_does_not_have_is_not_explained():
    explanation = Explainer(pipeline_of("mmgenre"))({"plot": PLOT})
    (explained,) = explanation.genres
    assert explanation.picture is None
    assert explained.regions is None
    assert list(explained.contributions) == ["plot"]
    total = explained.prior + explained.contributions["plot"]
    assert total == pytest.approx(explained.probability, abs=1e-6)


def test_genres_explained_are_those_predicted_or_the_most_probable(pipeline):
    movie = {"plot": PLOT}
    probabilities = pipeline(movie)["probabilities"]
    best = max(probabilities, key=lambda genre: probabilities[genre])
    predicted = pipeline(movie)["genres"]
    names = [explained.genre for explained in Explainer(pipeline)(movie).genres]
    assert set(names) == (set(predicted) or {best})


def test_the_fusion_s_share_of_the_poster():
    gmu = pipeline_of("gmu end to end")
    inputs = dict(gmu.processor(images=PICTURE, text=PLOT))
    with torch.no_grad():
        model = gmu.model
        image = model.image_encoder.pool(model.image_encoder(inputs["pixel_values"]))
        text = model.text_encoder(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        both = torch.cat([model.image_projection(image), model.text_projection(text)], dim=-1)
        expected = torch.sigmoid(both @ model.gmu.gate.weight.T).mean().item()
    shares = fusion_shares(model, inputs)
    assert shares == {"gate, mean over its units": pytest.approx(expected)}

    grid = pipeline_of("mmgenre", image_size=64, image_resize=None)
    inputs = dict(grid.processor(images=PICTURE, text=PLOT))
    with torch.no_grad():
        grid.model.attention.in_proj_weight[:32].zero_()  # queries and keys: all attention is equal
        grid.model.attention.in_proj_bias[:32].zero_()
    tokens, regions = inputs["input_ids"].shape[1], 4
    expected = (1 + regions) / (2 + regions + tokens)
    assert fusion_shares(grid.model, inputs) == {
        "attention of the poster": pytest.approx(expected),
        "attention of the plot": pytest.approx(expected),
    }
    assert fusion_shares(pipeline_of("mmgenre", fusion_tokens="fused").model, inputs) == {}


@pytest.mark.parametrize("sides", [(8, 8), (64, 64), (225, 30)])
def test_regions_add_up_every_pixel_once(sides):
    pixels = np.random.default_rng(0).normal(size=sides)
    regions = sum_regions(pixels)
    assert regions.shape == (8, 8)
    assert regions.sum() == pytest.approx(pixels.sum())
    assert regions[0, 0] == pytest.approx(pixels[: sides[0] // 8, : sides[1] // 8].sum())


def test_other_people_s_text_stays_text(tmp_path):
    plot = "</p><script>alert(1)</script> costs $5 and $6_"
    explained = GenreExplanation(
        genre="<b>$x_$",
        probability=0.7,
        threshold=0.5,
        words=(Word(0, 4, 1.0), Word(30, len(plot), -2.0)),
        regions=np.zeros((8, 8)),
        prior=0.1,
        contributions={"poster": 0.2, "plot": 0.4},
    )
    write_explanation(Explanation(plot, PICTURE, (explained,), {}), tmp_path / "new")
    page = (tmp_path / "new/explanation.html").read_text()
    assert page == render_page(Explanation(plot, PICTURE, (explained,), {}))
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;/p&gt;" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    figure = Image.open(tmp_path / "new/explanation.png")
    assert figure.size[0] > 500
    values = json.loads((tmp_path / "new/explanation.json").read_text())
    assert values["genres"][0]["contributions"] == {"poster": 0.2, "plot": 0.4}


LONG = "x" * 1_000_001
BAD = {
    "a genre that is none": (["--plot", PLOT, "--genres", "opera"], "genre 'opera' is unknown; "),
    "neither poster nor plot": ([], "there is no poster and no plot"),
    "a blank plot": (["--plot", " "], "there is no poster and no plot"),
    "a plot without end": (["--plot", LONG], "plot has 1,000,001 characters; it can have "),
    "a poster that is not there": (["--poster", "gone.jpg"], "poster 'gone.jpg' does not exist"),
    "a folder": (["--poster", "."], "poster '.' is a folder"),
    "a URL": (["--poster", "http://127.0.0.1/x.jpg"], "is a URL, and nothing is downloaded"),
    "no picture": (["--poster", "broken.jpg"], "poster 'broken.jpg' cannot be read .not a picture"),
    "a bomb": (["--poster", "bomb.png"], "could be decompression bomb"),
    "output is a file": (["--plot", PLOT, "--output", "broken.jpg"], "output 'broken.jpg' cannot"),
    "no package": (["--plot", PLOT], r"explaining needs captum; pip install 'mmgenre\[explain\]'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name, trained_run, tmp_path, monkeypatch, capsys):
    arguments, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    Path("broken.jpg").write_bytes(b"<html>404 not found</html>")
    Path("bomb.png").write_bytes(png_of_size(20_000, 10_000))
    if name == "no package":
        monkeypatch.setitem(sys.modules, "captum.attr", None)
    output = [] if "--output" in arguments else ["--output", "why"]
    monkeypatch.setattr(sys, "argv", ["mmgenre", "explain", str(trained_run), *arguments, *output])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(f"mmgenre: error: .*{message}", error)
    assert not Path("why").exists()


def test_ready_made_vectors_are_refused():
    from mmgenre.utils.errors import UserError

    with pytest.raises(UserError, match="takes ready-made vectors, which have neither words nor"):
        Explainer(pipeline_of("gmu"))


@pytest.mark.slow
def test_removing_what_ranks_highest_costs_more_than_chance(tmp_path):
    def run(*arguments: Any) -> str:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    folder = tmp_path / "run"
    run("train.py", "--recipe", "quickstart", "--num_train_epochs", 5, "--output_dir", folder)
    table = run("benchmarks/explain.py", folder, "--num_movies", 40)
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| 20% of words", "| 20% of regions"]
    for row in rows:
        assert float(row[4].partition("(")[2].split()[0]) > 0, table
