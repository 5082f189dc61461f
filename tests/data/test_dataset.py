"""Samples that depend on nothing but seed, epoch and movie; broken posters; batches."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mmgenre.data.collator import GenreCollator
from mmgenre.data.dataset import MovieDataset, drop_broken_posters, sample_seed, write_rejected
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.loaders import GlobalBatchSampler, create_eval_loader, create_train_loader
from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.data.transforms import CropForDevice, HostAugmentation, pad_posters
from mmgenre.models.pictures import open_poster
from mmgenre.utils.errors import UserError

VOCABULARY = GenreVocabulary(("comedy", "drama", "horror"))


@pytest.fixture
def records(tmp_path: Path) -> list[MovieRecord]:
    """Five movies; m3 has no poster and m4 no plot."""
    rng = np.random.default_rng(0)
    movies = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(path)
        movies.append(
            MovieRecord(
                id=f"m{i}",
                plot=None if i == 4 else f"plot {i}",
                genres=(VOCABULARY.genres[i % 3],),
                poster=None if i == 3 else FilePoster(path),
            )
        )
    return movies


def create_dataset(records: list[MovieRecord], **kwargs) -> MovieDataset:
    kwargs = {"augment": HostAugmentation(16), **kwargs}
    return MovieDataset(records, VOCABULARY, open_poster, 16, **kwargs)


def pixels(sample: dict) -> np.ndarray:
    return np.asarray(sample["image"])


def encode_images(posters: list) -> dict[str, torch.Tensor]:
    """Stands for a processor's."""
    blank = np.zeros((16, 16, 3), dtype=np.uint8)
    return {"pixel_values": torch.tensor(np.stack([blank if i is None else i for i in posters]))}


def encode_text(plots: list) -> dict[str, torch.Tensor]:
    return {"has_plot": torch.tensor([bool(plot) for plot in plots])}


def encode_features(features: list) -> dict[str, torch.Tensor]:
    return {"has_features": torch.tensor([movie is not None for movie in features])}


PROCESSOR = SimpleNamespace(
    encode_images=encode_images, encode_text=encode_text, encode_features=encode_features
)


def encode_crops(crops: list) -> dict[str, torch.Tensor]:
    """`pad_posters`, with what it leaves undefined set to 0."""
    batch = pad_posters(crops)
    for poster, (height, width) in zip(batch["posters"], batch["poster_sizes"], strict=True):
        poster[height:] = 0
        poster[:, width:] = 0
    return batch


def test_samples(records: list[MovieRecord]) -> None:
    dataset = create_dataset(records)
    assert len(dataset) == 5
    assert dataset[1]["labels"].tolist() == [0.0, 1.0, 0.0]
    assert (dataset[1]["plot"], dataset[1]["index"]) == ("plot 1", 1)
    assert dataset[1]["image"].size == (16, 16)
    assert dataset[3]["image"] is None
    assert dataset[4]["plot"] is None
    without_posters = MovieDataset(records, VOCABULARY, None, 16)
    assert without_posters[1]["image"] is None


def test_features_are_read_where_they_are_asked_for(records: list[MovieRecord]) -> None:
    vector = np.arange(3.0)
    features = SimpleNamespace(read=lambda: {"image_features": vector})
    records[1] = replace(records[1], features=features)
    assert MovieDataset(records, VOCABULARY, None, 16)[1]["features"] is None
    dataset = MovieDataset(records, VOCABULARY, None, 16, use_features=True)
    assert dataset[0]["features"] is None
    assert dataset[1]["features"]["image_features"] is vector
    batch = GenreCollator(PROCESSOR)([dataset[0], dataset[1]])
    assert batch["has_features"].tolist() == [False, True]


def test_augmentation_depends_on_seed_epoch_and_movie_alone(records: list[MovieRecord]) -> None:
    dataset = create_dataset(records, seed=1)
    first = pixels(dataset[2])
    torch.manual_seed(5)
    dataset[0]
    np.testing.assert_array_equal(pixels(dataset[2]), first)
    np.testing.assert_array_equal(pixels(create_dataset(records[2:], seed=1)[0]), first)

    assert (pixels(create_dataset(records, seed=2)[2]) != first).any()
    dataset.epoch = 1
    assert (pixels(dataset[2]) != first).any()
    twin = replace(records[2], id="other")
    assert (pixels(create_dataset([twin], seed=1)[0]) != first).any()


def test_a_sample_draws_nothing_from_the_global_generator(records: list[MovieRecord]) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    create_dataset(records)[0]
    assert torch.equal(torch.rand(3), expected)


def test_seeds_of_neighbours_differ() -> None:
    seeds = {sample_seed(s, e, f"{m}") for s in range(10) for e in range(10) for m in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("augment", "encode", "changing"),
    [
        (HostAugmentation(16), encode_images, "pixel_values"),
        (CropForDevice(16), encode_crops, "augmentation"),
    ],
    ids=["host", "device"],
)
def test_batches_do_not_depend_on_workers_and_follow_the_epoch(
    records: list[MovieRecord], augment, encode, changing: str
) -> None:
    def epochs(num_workers: int) -> list[dict[str, torch.Tensor]]:
        dataset = create_dataset(records, augment=augment)
        sampler = GlobalBatchSampler(5, global_batch_size=2, batch_size=2, drop_last=False)
        loader = create_train_loader(
            dataset, sampler, GenreCollator(PROCESSOR, encode), num_workers
        )
        batches = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            dataset.epoch = epoch
            batches += list(loader)
        return batches

    alone, with_workers = epochs(0), epochs(2)
    assert len(alone) == len(with_workers) == 6
    for one, other in zip(alone, with_workers, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    by_movie = [
        {int(i): p for batch in epoch for i, p in zip(batch["index"], batch[changing], strict=True)}
        for epoch in (with_workers[:3], with_workers[3:])
    ]
    assert (by_movie[0][0] != by_movie[1][0]).any()


def test_evaluation_batches_hold_all_movies_in_order(records: list[MovieRecord]) -> None:
    dataset = MovieDataset(records, VOCABULARY, None, 16)
    batches = list(create_eval_loader(dataset, 2, GenreCollator(PROCESSOR), 0))
    assert [len(batch["index"]) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(torch.cat([batch["labels"] for batch in batches]), dataset.labels)
    assert torch.cat([batch["has_plot"] for batch in batches]).tolist() == [True] * 4 + [False]


@pytest.fixture
def broken(records: list[MovieRecord]) -> list[MovieRecord]:
    """m0 is truncated, m1 is text, m2 is missing."""
    paths = [record.poster.path for record in records[:3]]
    paths[0].write_bytes(paths[0].read_bytes()[:200])
    paths[1].write_text("404")
    paths[2].unlink()
    return records


def test_broken_posters_are_counted_and_named(
    broken: list[MovieRecord], tmp_path: Path, caplog
) -> None:
    kept, rejected = drop_broken_posters(broken, open_poster, 16, "count")
    assert [(r.id, r.genres, r.plot) for r in kept] == [(r.id, r.genres, r.plot) for r in broken]
    assert [record.id for record in kept if record.poster is not None] == ["m4"]
    write_rejected(tmp_path / "rejected.jsonl", rejected)
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").open()]
    assert [line["id"] for line in lines] == ["m0", "m1", "m2"]
    assert [line["poster"] for line in lines] == [str(tmp_path / f"{i}.png") for i in range(3)]
    assert "truncated" in lines[0]["reason"]
    assert [line["reason"] for line in lines[1:]] == ["not a picture", "file is missing"]
    assert "3 broken posters count as missing: m0" in caplog.text


def test_a_broken_poster_can_stop(broken: list[MovieRecord]) -> None:
    with pytest.raises(UserError) as caught:
        drop_broken_posters(broken[1:], open_poster, 16, "error")
    for word in ("1.png", "'m1'", "not a picture", "--broken_posters count"):
        assert word in str(caught.value)
