"""Posters and plots of every kind, alone and through a whole training data set to model inputs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from posters import BROKEN, ODD
from tiny import TINY_MODEL

from mmgenre.data.collator import GenreCollator
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.data.transforms import HostAugmentation
from mmgenre.models.pictures import open_poster, poster_size
from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.models.registry import create_config
from mmgenre.training.components import create_dataset
from mmgenre.utils.errors import UserError

VOCABULARY = GenreVocabulary(("drama", "war"))
CONFIG = create_config("mmgenre", VOCABULARY.genres, TINY_MODEL)
MIN_SIDE = 2 * CONFIG.image_size


@pytest.fixture(scope="module")
def processor() -> MMGenreProcessor:
    tokenizer = train_tokenizer(["a clockmaker robs a bank.", "No plot found."], vocab_size=100)
    return MMGenreProcessor.from_config(CONFIG, tokenizer)


def movie(case: str, folder: Path) -> MovieRecord:
    """A movie with the poster of a case, in a file called .jpg whatever it is."""
    make, *_ = {**ODD, **BROKEN}[case]
    path = folder / f"{case}.jpg"
    path.write_bytes(make())
    return MovieRecord(case, "A plot.", ("war",), FilePoster(path))


def is_reason(expected: str, found: str) -> bool:
    return re.fullmatch(re.escape(expected).replace(r"\#", r"\d+"), found) is not None


@pytest.mark.parametrize("min_side", [None, MIN_SIDE])
@pytest.mark.parametrize("case", ODD)
def test_odd_posters_come_out_as_upright_rgb(
    case: str, min_side: int | None, tmp_path: Path
) -> None:
    _, size, color = ODD[case]
    picture = open_poster(movie(case, tmp_path).poster.path, min_side)
    assert (picture.mode, picture.size) == ("RGB", size)
    assert np.abs(np.subtract(picture.getpixel((0, 0)), color)).max() <= 1


@pytest.mark.parametrize("case", BROKEN)
def test_broken_posters_say_why(case: str, tmp_path: Path, processor: MMGenreProcessor) -> None:
    _, reason = BROKEN[case]
    record = movie(case, tmp_path)
    path = record.poster.path
    for min_side in (None, MIN_SIDE):
        with pytest.raises(OSError, match=".") as caught:
            open_poster(path, min_side)
        assert is_reason(reason, str(caught.value))
    with pytest.raises(UserError) as caught:
        create_dataset([record], VOCABULARY, CONFIG, processor, "error")
    sentence = (
        f"the poster {path} of movie {case!r} cannot be used ({reason}); --broken_posters count "
        "would go on without it"
    )
    assert is_reason(sentence, str(caught.value))


def test_a_header_gives_the_size_and_what_is_no_picture(tmp_path: Path) -> None:
    for case in ODD:
        stored = (48, 32) if case == "rotated" else ODD[case][1]
        assert poster_size(movie(case, tmp_path).poster.path) == stored
    with_header = {"truncated JPEG", "truncated PNG", "175 million pixels promised"}
    for case in BROKEN.keys() - with_header:
        with pytest.raises(OSError, match=".") as caught:
            poster_size(movie(case, tmp_path).poster.path)
        assert str(caught.value) == BROKEN[case][1]


def test_a_training_data_set_of_them_all(
    tmp_path: Path, processor: MMGenreProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    records = [movie(case, tmp_path) for case in (*BROKEN, *ODD)]
    dataset = create_dataset(
        records, VOCABULARY, CONFIG, processor, "count", HostAugmentation(CONFIG.image_size), seed=3
    )
    assert len(dataset) == len(records)
    assert [(item.id, item.poster) for item in dataset.rejected] == [
        (case, str(tmp_path / f"{case}.jpg")) for case in BROKEN
    ]
    for item in dataset.rejected:
        assert is_reason(BROKEN[item.id][1], item.reason)
    start = f"{len(BROKEN)} broken posters count as missing: truncated JPEG (image file is trunc"
    assert any(message.startswith(start) for message in caplog.messages)

    batch = GenreCollator(processor)([dataset[index] for index in range(len(dataset))])
    pixels = batch["pixel_values"]
    assert pixels.shape == (len(records), 3, CONFIG.image_size, CONFIG.image_size)
    assert torch.isfinite(pixels).all()
    has_poster = pixels.flatten(1).any(dim=1).tolist()
    assert has_poster == [False] * len(BROKEN) + [True] * len(ODD)


# Case: the plot, and the text that the tokenizer must have been given.
PLOTS = {
    "null": (None, "No plot found."),
    "empty": ("", "No plot found."),
    "30,000 characters": ("robs a bank " * 2500, "robs a bank " * 2500),
    "one word of 30,000 characters": ("a" * 30_000, "a" * 30_000),
    "HTML": ("<p>He&nbsp;robs<br/></p>", "<p>He&nbsp;robs<br/></p>"),
    "emoji": ("🎬🏦 robs 👩‍🚀", "🎬🏦 robs 👩‍🚀"),
    "control characters": ("a\x00b\u200b\u2028robs\ufffd", "a\x00b\u200b\u2028robs\ufffd"),
    "right to left": ("سرقة بنك", "سرقة بنك"),
}


@pytest.mark.parametrize("case", PLOTS)
def test_plots_reach_the_model_as_token_numbers(case: str, processor: MMGenreProcessor) -> None:
    plot, text = PLOTS[case]
    records = [MovieRecord("m", plot, ("war",), None), MovieRecord("n", "a bank", ("war",), None)]
    dataset = create_dataset(records, VOCABULARY, CONFIG, processor, "count")
    batch = GenreCollator(processor)([dataset[0], dataset[1]])
    ids = processor.tokenizer(text, verbose=False)["input_ids"]
    if len(ids) > CONFIG.max_length:
        ids = [*ids[: CONFIG.max_length - 1], processor.tokenizer.sep_token_id]
    length = -8 * (-max(len(ids), 4) // 8)  # [CLS] a bank [SEP], to a multiple of 8
    assert batch["input_ids"].shape == (2, length)
    assert batch["input_ids"][0, : len(ids)].tolist() == ids
    assert batch["attention_mask"][0].tolist() == [1] * len(ids) + [0] * (length - len(ids))
