"""The floors: equal to scikit-learn's own pipeline, fitted once, on training movies alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from processes import run as run_processes
from safetensors.torch import load_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tiny import ROOT

from mmgenre.data.credits import plot_with_credits
from mmgenre.data.readers import read_movies
from mmgenre.data.records import MovieRecord
from mmgenre.data.tokenizer import create_word_tokenizer
from mmgenre.models.registry import load_model, load_processor
from mmgenre.utils.errors import UserError

ROLES = ("director", "producer")


@pytest.fixture
def recipe_of(tmp_path: Path, demo_dir: Path) -> Callable[..., Path]:
    def write(model: str, dataset: Path = demo_dir, **changes: Any) -> Path:
        values = {
            "dataset": str(dataset),
            "output_dir": str(tmp_path / "run"),
            "model": model,
            "num_train_epochs": 1,
            "dataloader_num_workers": 0,
            "report_to": "none",
            **changes,
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "recipe.yaml"

    return write


def load(run: Path) -> tuple[Any, Any]:
    path = str(run / "checkpoints" / "best" / "pretrained_model")
    return load_model(path).eval(), load_processor(path)


def splits_of(folder: Path) -> tuple[list[MovieRecord], list[MovieRecord]]:
    movies = list(read_movies(str(folder), "folder"))
    return [m for m in movies if m.split == "train"], [m for m in movies if m.split == "test"]


def labels_of(movies: list[MovieRecord], genres: list[str]) -> np.ndarray:
    return np.array([[genre in movie.genres for genre in genres] for movie in movies])


# --- the same numbers as scikit-learn


@pytest.mark.parametrize(
    ("min_df", "sublinear_tf", "C", "class_weight", "roles"),
    [
        (1, False, 1.0, None, ()),
        (2, True, 1.0, "balanced", ()),
        (2, False, 10.0, "balanced", ROLES),
        (3, True, 0.1, None, ROLES),
    ],
)
def test_tfidf_is_scikit_learns_pipeline(
    min_df, sublinear_tf, C, class_weight, roles, recipe_of, run_main, demo_dir, tmp_path
) -> None:
    options = {"sublinear_tf": sublinear_tf, "C": C, "class_weight": class_weight}
    options |= {"min_df": min_df, "credit_roles": list(roles)}
    run_main("train", "--recipe", recipe_of("tfidf", model_config=options))
    model, processor = load(tmp_path / "run")
    train, test = splits_of(demo_dir)
    assert any(movie.plot is None for movie in train)

    # one more, with words that no training movie has and in other letters
    test = [*test, MovieRecord("new", "ZYZZYVA zyzzyva " + train[0].plot.upper(), (), None)]
    texts = [[plot_with_credits(m, roles) or "" for m in movies] for movies in (train, test)]
    vectorizer = TfidfVectorizer(min_df=min_df, sublinear_tf=sublinear_tf)
    inputs, held_out = vectorizer.fit_transform(texts[0]), vectorizer.transform(texts[1])
    truth = labels_of(train, model.config.genres)
    expected = np.stack(
        [
            LogisticRegression(C=C, class_weight=class_weight, max_iter=1000)
            .fit(inputs, column)
            .decision_function(held_out)
            for column in truth.T
        ],
        axis=1,
    )
    with torch.no_grad():
        logits = model(**processor(text=texts[1])).logits
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)


PLOTS = [
    "Don't x_y naïve café-owner №5 ½ x² 1990s",
    "Über-straße STRASSE İstanbul Ünïcödé 東京 film — a 10-year-old",
    "<b>HTML</b> &amp; emoji 🎬🎬 हिन्दी ไทย русский Ж",
    "e\u0301toile n\u0303andu zero\u200bwidth non\u00a0breaking",
    "",
]


@pytest.mark.parametrize("plot", PLOTS)
def test_words_are_those_that_scikit_learn_counts(plot: str) -> None:
    analyze = TfidfVectorizer().build_analyzer()
    words = sorted({word for other in PLOTS for word in analyze(other)})
    tokenizer = create_word_tokenizer(PLOTS, min_df=1)
    assert tokenizer.convert_ids_to_tokens(range(2, len(tokenizer))) == words
    assert tokenizer.tokenize(plot) == analyze(plot)


@pytest.mark.parametrize("model", ["majority", "label_frequency"])
def test_a_system_that_looks_at_nothing(model, recipe_of, run_main, demo_dir, tmp_path) -> None:
    run_main("train", "--recipe", recipe_of(model))
    loaded, processor = load(tmp_path / "run")
    train, _ = splits_of(demo_dir)
    shares = labels_of(train, loaded.config.genres).mean(axis=0)
    with torch.no_grad():
        logits = loaded(**processor(text=["a war on the moon", None])).logits
    if model == "label_frequency":
        np.testing.assert_allclose(logits.sigmoid().numpy(), [shares, shares], atol=1e-6)
    else:
        np.testing.assert_array_equal(logits.numpy() > 0, [shares == shares.max()] * 2)


@pytest.mark.parametrize("model", ["tfidf", "label_frequency"])
def test_a_genre_that_no_training_movie_has(model, recipe_of, run_main, tmp_path) -> None:
    """Its probability is that of half a movie, not 0, whose logit is not finite."""
    genres = [*"action adventure comedy crime drama horror romance sci-fi war western".split()]
    options = {"genres": [*genres, "sport"], "unknown_genres": "drop"}
    run_main("train", "--recipe", recipe_of(model, **options))
    loaded, processor = load(tmp_path / "run")
    with torch.no_grad():
        probability = loaded(**processor(text="a war")).logits.sigmoid()[0, -1].item()
    assert probability == pytest.approx(0.5 / 40)


def test_a_person_is_a_word_of_their_own() -> None:
    credits = {"director": ("Ann Lee",), "writer": (" ANN  LEE", "Jean-Luc O'Neil"), "cast": ("X",)}
    movie = MovieRecord("a", "A plot.", (), None, credits=credits)
    text = "A plot. credit_ann_lee credit_jean_luc_o_neil"
    assert plot_with_credits(movie, ["director", "writer"]) == text
    assert TfidfVectorizer().build_analyzer()(text)[1:] == text.split()[2:]
    assert plot_with_credits(movie, ["producer"]) == "A plot."
    assert plot_with_credits(MovieRecord("b", None, (), None), ["writer"]) is None


# --- a run like any other


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "pretrained_model" / "model.safetensors")


def test_held_out_labels_change_nothing(recipe_of, run_main, demo_dir, tmp_path) -> None:
    run_main("train", "--recipe", recipe_of("tfidf"))
    other = shutil.copytree(demo_dir, tmp_path / "other")
    rows = [json.loads(line) for line in (other / "metadata.jsonl").open()]
    for row in rows:
        if row["split"] != "train":
            row["genres"] = ["Comedy"]
    (other / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = tmp_path / "changed"
    run_main("train", "--recipe", recipe_of("tfidf", dataset=other, output_dir=str(changed)))
    weights = weights_of(tmp_path / "run")
    assert all(torch.equal(weights_of(changed)[name], value) for name, value in weights.items())


def test_a_finished_run_is_resumed_without_another_fit(recipe_of, run_main, tmp_path) -> None:
    run_main("train", "--recipe", recipe_of("tfidf"))
    run = tmp_path / "run"
    checkpoint = (run / "checkpoints" / "last").resolve()
    written = checkpoint.stat().st_mtime_ns
    run_main("train", "--output_dir", run, "--resume_from_checkpoint", "auto")
    assert checkpoint.stat().st_mtime_ns == written
    assert len((run / "history.jsonl").read_text().splitlines()) == 1


def test_two_processes_have_the_weights_of_one(recipe_of, run_main, tmp_path) -> None:
    one = tmp_path / "one"
    run_main("train", "--recipe", recipe_of("tfidf", output_dir=str(one)))
    run_processes(2, ROOT / "train.py", "--recipe", recipe_of("tfidf"))
    lines = [json.loads((run / "history.jsonl").read_text()) for run in (one, tmp_path / "run")]
    assert lines[0] == pytest.approx(lines[1], abs=1e-6)
    weights = weights_of(one)
    other = weights_of(tmp_path / "run")
    assert all(torch.equal(other[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_train_epochs": 3},
            "num_train_epochs is 3, and this system is fitted once; it must be 1",
        ),
        (
            {"tokenizer": "some/folder"},
            "tokenizer is 'some/folder', and model 'tfidf' makes its own of the training plots; "
            "leave --tokenizer out",
        ),
        (
            {"model_config": {"min_df": 1000}},
            "no word is in 1000 training plots or more, as min_df asks; lower it with "
            "--model_config min_df=1",
        ),
        (
            {"model_config": {"credit_roles": ["cast"]}},
            "no training movie has a cast, which credit_roles asks for; leave it out or name roles "
            "that the data set has",
        ),
        (
            {"model_config": {"credit_roles": ["actor"]}},
            "role 'actor' is unknown; it can be sparse, medium, dense, director, producer, writer, "
            "cinematographer, art director, assistant director, editor, cast, production_company",
        ),
    ],
)
def test_what_does_not_fit(changes, message, recipe_of, run_main) -> None:
    with pytest.raises(UserError) as caught:
        run_main("train", "--recipe", recipe_of("tfidf", **changes))
    assert str(caught.value) == message
