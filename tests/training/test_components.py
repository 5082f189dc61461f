"""What `train.py` builds its parts from, and the sentence where the data cannot give them."""

from pathlib import Path

import pytest
from mmimdb import write_hdf5
from tiny import TINY_MODEL

from mmgenre.configs.arguments import ModelArguments
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.training.new_model import create_model
from mmgenre.utils.errors import UserError

VOCABULARY = GenreVocabulary(("drama", "war"))
POSTER = FilePoster(Path("poster.jpg"))
RECORDS = [MovieRecord(f"{i}", "A war.", ("war",) if i else ("drama",), POSTER) for i in range(4)]


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


@pytest.mark.parametrize("modalities", ["image,text", "image", "text"])
def test_the_hdf5_file_has_nothing_for_a_model_of_posters_and_plots(
    modalities: str, recipe: str, run_main, tmp_path: Path
) -> None:
    file = write_hdf5(tmp_path / "multimodal_imdb.hdf5")
    data = ["--dataset", file, "--protocol", "arevalo", "--output_dir", tmp_path / "run"]
    flags = ["--model_config", f"modalities=[{modalities}]"]
    with pytest.raises(UserError) as caught:
        run_main("train", "--recipe", recipe, *data, *flags)
    assert str(caught.value) == (
        f"the model takes the modality {modalities.split(',')[0]!r}, which none of the movies has "
        "(they have features); give another data set, a --model that takes these, or "
        "--model_config modalities=[...] where the model has that option"
    )
    assert not list((tmp_path / "run").iterdir())
