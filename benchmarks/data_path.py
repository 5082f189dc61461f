"""What a training sample costs the host, and what `mmgenre prepare` costs once: one table.

    python benchmarks/data_path.py [--num_posters 100] [--num_movies 1000 30000] [--rounds 5]

Movies are made by code in the sizes of MM-IMDb: posters 1 : 1.48, of which 96 % are of log-normal
width (median 1000 pixels, sigma 0.3) and 4 % of 2500 to 4000 pixels evenly; soft colours, edges and
grain saved as JPEG of quality 84 at about 350 KB in the mean (the table's first line says it
exactly); plots of 92 words, MM-IMDb's mean. Posters of the data sets of `--num_movies` are hard
links to the same files.

All times are of this machine in this run; ratios are what can be compared. Seconds a sample are the
least of `--rounds` passes over all posters, the rows taking turns, with files in the page cache.
"The report's way" is its own code: decode at full size, five steps of PIL, `ToTensor`, `Normalize`,
tokenise. `mmgenre prepare` is timed as a command, its start included, against the same shrinking of
posters alone that are decoded at full size.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import psutil
import torch
from PIL import Image, ImageChops
from torch.utils.data import default_collate
from torchvision import transforms

from mmgenre.configs.arguments import DataArguments
from mmgenre.data.collator import GenreCollator
from mmgenre.data.dataset import MovieDataset
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.loaders import GlobalBatchSampler, create_train_loader
from mmgenre.data.readers import read_movies
from mmgenre.data.records import MovieRecord
from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.models.registry import create_config, get_system, load_class
from mmgenre.training.components import create_augmentation, create_dataset

BATCH_SIZE = 32
GENRES = ("comedy", "drama", "horror")
LARGE_POSTER = (12000, 8000)
JPEG_QUALITY = 84
MIB = 2**20


# --- movies


def poster_sizes(num_posters: int) -> Iterator[tuple[int, int]]:
    for i in range(num_posters):
        quantile = (i + 0.5) / num_posters
        if quantile < 0.96:
            width = 1000 * np.exp(0.3 * NormalDist().inv_cdf(quantile / 0.96))
        else:
            width = 2500 + 1500 * (quantile - 0.96) / 0.04
        yield round(width), round(1.48 * width)


def draw_poster(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    picture = Image.new("RGB", (width, height), (128, 128, 128))
    for cells, contrast in ((4, 90), (16, 50), (64, 35), (256, 20)):
        values = rng.integers(
            128 - contrast, 128 + contrast, (cells * 3 // 2, cells, 3), dtype=np.uint8
        )
        layer = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
        picture = ImageChops.add(picture, layer, 1, -128)
    grain = rng.normal(128, 2, (512, 512)).astype(np.uint8)
    grain = np.tile(grain, (-(-height // 512), -(-width // 512)))[:height, :width]
    return ImageChops.add(picture, Image.merge("RGB", [Image.fromarray(grain)] * 3), 1, -128)


def write_movies(folder: Path, posters: list[Path], plots: list[str], num_movies: int) -> Path:
    """A data set of format `folder`, whose posters are links."""
    (folder / "posters").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", encoding="utf-8") as file:
        file.write("id,file_name,plot,genres,split\n")
        for i in range(num_movies):
            os.link(posters[i % len(posters)], folder / "posters" / f"{i}.jpg")
            plot = plots[i % len(plots)]
            file.write(f"m{i},posters/{i}.jpg,{plot},{GENRES[i % len(GENRES)]},train\n")
    return folder


# --- the report's way (its sections 4.2 and 4.3)


def report_way(records: list[MovieRecord], tokenizer: Any) -> Callable[[], None]:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.7, 1.0)),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ColorJitter(0.3, 0.3, 0.3, 0.15),
            transforms.RandomRotation(20),
            transforms.RandomAffine(degrees=0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=10),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    def sample(record: MovieRecord) -> dict[str, torch.Tensor]:
        tokens = tokenizer(
            record.plot, padding="max_length", truncation=True, max_length=128, return_tensors="pt"
        )
        picture = Image.open(io.BytesIO(record.poster.read())).convert("RGB")
        return {
            "input_ids": tokens.input_ids.squeeze(),
            "attention_mask": tokens.attention_mask.squeeze(),
            "image": transform(picture),
        }

    def run() -> None:
        for start in range(0, len(records), BATCH_SIZE):
            default_collate([sample(r) for r in records[start : start + BATCH_SIZE]])

    return run


# --- mmgenre's way


def create_loading(
    records: list[MovieRecord], config: Any, processor: Any, device: str
) -> tuple[MovieDataset, GenreCollator]:
    augmentation = create_augmentation(DataArguments(augmentation_device=device), config, processor)
    dataset = create_dataset(
        records, GenreVocabulary(GENRES), config, processor, "error", augmentation.augment
    )
    return dataset, GenreCollator(processor, augmentation.encode_images)


def batches(dataset: MovieDataset, collator: GenreCollator) -> Callable[[], None]:
    def run() -> None:
        for start in range(0, len(dataset), BATCH_SIZE):
            stop = min(start + BATCH_SIZE, len(dataset))
            collator([dataset[i] for i in range(start, stop)])

    return run


def shrink_all(files: list[bytes], folder: Path) -> Callable[[], None]:
    """What `prepare` does to a poster, but decoded at full size."""

    def run() -> None:
        for content in files:
            picture = Image.open(io.BytesIO(content)).convert("RGB")
            size = tuple(round(256 / min(picture.size) * side) for side in picture.size)
            picture = picture.resize(size, Image.Resampling.LANCZOS)
            picture.save(folder / "shrunk.jpg", quality=90)

    return run


def decode_all(files: list[bytes]) -> Callable[[], None]:
    def run() -> None:
        for content in files:
            Image.open(io.BytesIO(content)).load()

    return run


def images_per_second(dataset: MovieDataset, collator: GenreCollator) -> float:
    """Of a loader with 2 workers whose batches nobody waits for, from the second batch on."""
    sampler = GlobalBatchSampler(len(dataset), batch_size=BATCH_SIZE)
    loader = iter(create_train_loader(dataset, sampler, collator, num_workers=2))
    next(loader)
    started = time.perf_counter()
    num_images = sum(len(batch["index"]) for batch in loader)
    return num_images / (time.perf_counter() - started)


def prepare(source: Path, folder: Path, *flags: str) -> psutil.Popen:
    command = [sys.executable, "-m", "mmgenre.cli", "prepare", source, folder, *flags]
    return psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait(process: psutil.Popen) -> float:
    """Seconds until it ends."""
    started = time.perf_counter()
    if process.wait():
        raise RuntimeError(f"{process.args} failed")
    return time.perf_counter() - started


def wait_for_peak(process: psutil.Popen) -> int:
    """Bytes that it and its children hold at once at most, shared pages counted once."""
    peak = 0
    while process.poll() is None:
        total = 0
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += member.memory_full_info().pss
        peak = max(peak, total)
        time.sleep(0.02)
    wait(process)
    return peak


def least_seconds(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    seconds = dict.fromkeys(runs, float("inf"))
    for name, run in list(runs.items()) * rounds:
        started = time.perf_counter()
        run()
        seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_posters", type=int, default=100)
    parser.add_argument("--num_movies", type=int, nargs="+", default=[1000, 30000])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, measured, asked, limit in measure(Path(folder), args):
            print(f"| {name} | {measured} | {asked} | {limit} |", flush=True)


def measure(folder: Path, args: argparse.Namespace) -> Iterator[tuple[str, str, str, str]]:
    """The rows of the table: what, measured, asked for, the limit."""
    rng = np.random.default_rng(0)
    posters, sizes = [], list(poster_sizes(args.num_posters))
    for i, size in enumerate(sizes):
        posters.append(folder / f"{i}.jpg")
        draw_poster(*size, rng).save(posters[-1], quality=JPEG_QUALITY)
    words = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in "klmnrst"]
    plots = [" ".join(rng.choice(words, 92)) for _ in range(args.num_posters)]
    tokenizer = train_tokenizer(plots)
    tokenizer.save_pretrained(folder / "tokenizer")
    yield "", "measured", "asked", "limit"
    yield "---", "---:", "---:", "---"
    yield (
        "posters: mean file; mean and largest size",
        f"{mean(p.stat().st_size for p in posters) / 1e3:.0f} KB; "
        f"{mean(w * h for w, h in sizes) / 1e6:.1f} and {sizes[-1][0] * sizes[-1][1] / 1e6:.0f} "
        "megapixels",
        "350 KB",
        "",
    )

    with_tokens = ("--tokenizer", str(folder / "tokenizer"))
    raw = write_movies(folder / "raw", posters, plots, args.num_posters)
    wait(prepare(raw, folder / "prepared", *with_tokens))
    shrink = yield from sample_rows(folder, args, tokenizer)

    # Enough that the command's start weighs little, as in a real data set.
    num_movies = 4 * args.num_movies[0]
    raw = write_movies(folder / "raw_alone", posters, plots, num_movies)
    alone = prepare(raw, folder / "alone", *with_tokens, "--num_workers", "1")
    each = wait(alone) / num_movies * 1e3
    yield (
        f"prepare {num_movies:,} movies, 1 process",
        f"{each:.2f} ms a movie: {shrink / each:.1f} times as fast as at full size",
        "2.5 times",
        f"{shrink:.2f} ms, shrinking at full size",
    )

    first = None
    for num_movies in args.num_movies:
        raw = write_movies(folder / f"raw{num_movies}", posters, plots, num_movies)
        prepared = folder / f"prepared{num_movies}"
        seconds = wait(prepare(raw, prepared, *with_tokens))
        each = seconds / num_movies * 1e3
        first = first or each
        yield (
            f"prepare {num_movies:,} movies, all cores",
            f"{seconds:.1f} s, {each:.2f} ms a movie",
            "linear",
            f"{first:.2f} ms a movie of the smallest",
        )
        started = time.perf_counter()
        list(read_movies(str(prepared)))
        yield (
            f"open {num_movies:,} prepared movies",
            f"{time.perf_counter() - started:.2f} s",
            "< 1 s for 26,000",
            "",
        )

    raw = write_movies(folder / "large", posters, plots, args.num_posters)
    large = raw / "posters" / "0.jpg"
    large.unlink()  # a link
    draw_poster(*LARGE_POSTER, rng).save(large, quality=JPEG_QUALITY)
    peak = wait_for_peak(prepare(raw, folder / "large_prepared", *with_tokens))
    yield (
        f"prepare: peak memory with a poster of {LARGE_POSTER[0]} x {LARGE_POSTER[1]}, all cores",
        f"{peak / MIB:.0f} MiB",
        "< 1024 MiB",
        f"{3 * LARGE_POSTER[0] * LARGE_POSTER[1] / MIB:.0f} MiB, its pixels at full size",
    )


def sample_rows(
    folder: Path, args: argparse.Namespace, tokenizer: Any
) -> Generator[tuple[str, str, str, str], None, float]:
    """The rows about a sample; gives back the milliseconds of shrinking a poster."""
    raw = list(read_movies(str(folder / "raw")))
    prepared = list(read_movies(str(folder / "prepared")))
    config = create_config("mmgenre", GENRES, {"text_config": {"vocab_size": len(tokenizer)}})
    processor = load_class(get_system("mmgenre").processor).from_config(config, tokenizer)
    raw_files = [record.poster.read() for record in raw]
    files = [record.poster.read() for record in prepared]
    runs = {
        "report": report_way(raw, tokenizer),
        "device": batches(*create_loading(prepared, config, processor, "accelerator")),
        "host": batches(*create_loading(prepared, config, processor, "host")),
        "bare": decode_all(files),
        "full": decode_all(raw_files),
        "shrink": shrink_all(raw_files, folder),
    }
    seconds = least_seconds(runs, args.rounds)
    each = {name: value / args.num_posters * 1e3 for name, value in seconds.items()}
    report, bare = each["report"], each["bare"]
    bare_limit = f"{bare:.2f} ms, the prepared JPEG's bare decode"
    yield "sample, the report's way", f"{report:.2f} ms", "", f"{each['full']:.2f} ms, its decode"
    yield (
        "sample, prepared, augmented on the device",
        f"{each['device']:.2f} ms: 1/{report / each['device']:.1f} of the report's, "
        f"{each['device'] / bare:.2f} x the bare decode",
        "1/20; 2 x",
        bare_limit,
    )
    yield (
        "sample, prepared, augmented on the host",
        f"{each['host']:.2f} ms: 1/{report / each['host']:.1f} of the report's",
        "1/5",
        bare_limit,
    )
    repeated = create_loading(
        prepared * (6400 // args.num_posters), config, processor, "accelerator"
    )
    yield (
        "loader, 2 workers, augmented on the device",
        f"{images_per_second(*repeated):.0f} images/s",
        "1000 images/s",
        f"{2e3 / bare:.0f} images/s, two cores that only decode",
    )
    return each["shrink"]


if __name__ == "__main__":
    main()
