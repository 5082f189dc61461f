"""What `train.py` builds its parts from, and the sentence where the data cannot give them."""

from pathlib import Path

import pytest
from mmimdb import write_hdf5
from tiny import TINY_MODEL

from mmgenre.configs.arguments import ModelArguments
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.records import MovieRecord
from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.training.components import create_model
from mmgenre.utils.errors import UserError

VOCABULARY = GenreVocabulary(("drama", "war"))
RECORDS = [MovieRecord(f"{i}", "A war.", ("war",) if i else ("drama",), None) for i in range(4)]


def arguments(**model_config: object) -> ModelArguments:
    return ModelArguments(tokenizer="train", model_config={**TINY_MODEL, **model_config})


def test_positive_weights_are_in_the_model_s_config() -> None:
    """And so in the checkpoint: one genre is on 1 movie of 4, the other on 3."""
    model, _ = create_model(arguments(loss="bce"), VOCABULARY, RECORDS, 1.0)
    assert model.config.pos_weight == pytest.approx([4, 4 / 3])


def test_positive_weights_need_their_loss() -> None:
    with pytest.raises(UserError) as caught:
        create_model(arguments(), VOCABULARY, RECORDS, 1.0)
    assert str(caught.value) == "positive_weight_power needs model_config loss=bce, not focal"


FEATURES_ALONE = {
    "tokenizer from the plots": (
        ["--tokenizer", "train"],
        "tokenizer 'train' needs plots, and no training movie has one",
    ),
    "tokenizer given": (
        ["--tokenizer", "{tokenizer}"],
        "no training movie has what the model learns from (image, text); give a data set with "
        "posters or plots",
    ),
    "posters alone": (
        ["--tokenizer", "{tokenizer}", "--model_config", "modalities=[image]"],
        "no training movie has what the model learns from (image); give a data set with posters "
        "or plots",
    ),
}


@pytest.mark.parametrize("case", FEATURES_ALONE)
def test_the_hdf5_file_has_nothing_for_a_model_of_posters_and_plots(
    case: str, recipe: str, run_main, tmp_path: Path
) -> None:
    flags, expected = FEATURES_ALONE[case]
    file = write_hdf5(tmp_path / "multimodal_imdb.hdf5")
    train_tokenizer(["A war."]).save_pretrained(tmp_path / "tokenizer")
    flags = [flag.format(tokenizer=tmp_path / "tokenizer") for flag in flags]
    data = ["--dataset", file, "--protocol", "arevalo", "--output_dir", tmp_path / "run"]
    with pytest.raises(UserError) as caught:
        run_main("train", "--recipe", recipe, *data, *flags)
    assert str(caught.value) == expected
    assert not list((tmp_path / "run").iterdir())
