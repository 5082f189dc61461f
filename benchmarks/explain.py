"""Whether an explanation finds what a model looks at: probability lost by taking it away.

    python benchmarks/explain.py RUN [--dataset FOLDER] [--num_movies 100] [--share 0.2]

Of each movie's most probable genre: a share of the plot's words is cut out of the text, or of the
poster's regions painted in the mean colour; those ranked highest, against as many at random (mean
of `--draws`). The interval is of the mean difference over movies, at 95 % (normal).
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mmgenre.configs.arguments import DataArguments
from mmgenre.configs.parser import load_config
from mmgenre.constants import CONFIG_FILE
from mmgenre.data.movies import load_movies
from mmgenre.inference.explain import REGIONS, Explainer, Word
from mmgenre.inference.pipeline import GenrePipeline


def without_words(plot: str, words: Sequence[Word]) -> str:
    """The plot without these words."""
    for word in sorted(words, key=lambda word: -word.start):
        plot = plot[: word.start] + plot[word.end :]
    return plot


def without_regions(pixels: torch.Tensor, regions: Sequence[int]) -> torch.Tensor:
    """Posters (1, 3, height, width) with regions, counted by rows, in the mean colour."""
    mask = torch.zeros(1, 1, REGIONS, REGIONS)
    mask.view(-1)[list(regions)] = 1
    return pixels * (1 - torch.nn.functional.interpolate(mask, pixels.shape[-2:]))


@torch.inference_mode()
def probability(pipeline: GenrePipeline, images: Any, plot: str | None, column: int) -> float:
    inputs = {**images, **pipeline.processor.encode_text([plot])}
    return pipeline.model(**inputs).logits[0, column].sigmoid().item()


def drops(
    explainer: Explainer, movie: Any, share: float, draws: int, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """`words` and `regions` to the probability lost by the highest-ranked and by random ones."""
    pipeline = explainer.pipeline
    best = pipeline(movie)["probabilities"]
    genre = max(best, key=lambda name: best[name])
    (explained,) = explainer(movie, [genre]).genres
    encoded = pipeline.encode(movie)
    column = pipeline.genres.index(genre)
    lost: dict[str, tuple[float, float]] = {}

    def measure(kind: str, scores: np.ndarray, remove: Any) -> None:
        number = max(1, round(share * len(scores)))
        highest = np.argsort(-scores, kind="stable")[:number]
        random = [rng.choice(len(scores), number, replace=False) for _ in range(draws)]
        values = [best[genre] - remove(chosen) for chosen in [highest, *random]]
        lost[kind] = values[0], float(np.mean(values[1:]))

    words = explained.words
    if len(words) > 1:
        measure(
            "words",
            np.array([word.score for word in words]),
            lambda chosen: probability(
                pipeline,
                encoded.images,
                without_words(encoded.plot, [words[index] for index in chosen]),
                column,
            ),
        )
    if explained.regions is not None:
        measure(
            "regions",
            explained.regions.ravel(),
            lambda chosen: probability(
                pipeline,
                {
                    **encoded.images,
                    "pixel_values": without_regions(encoded.images["pixel_values"], chosen),
                },
                encoded.plot,
                column,
            ),
        )
    return lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--dataset")
    parser.add_argument("--num_movies", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    from pathlib import Path

    run = load_config(Path(args.run) / CONFIG_FILE)
    data = run.data if args.dataset is None else replace(DataArguments(), dataset=args.dataset)
    explainer = Explainer(GenrePipeline.from_pretrained(args.run))
    data = replace(data, unknown_genres="drop")
    records = load_movies(data, run.training.seed, explainer.pipeline.genres).split("validation")
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, float]]] = {"words": [], "regions": []}
    for record in records[: args.num_movies]:
        try:
            movie = {"poster": record.poster, "plot": record.plot}
            lost = drops(explainer, movie, args.share, args.draws, rng)
        except (OSError, ValueError):
            continue  # a broken poster
        for kind, values in lost.items():
            rows[kind].append(values)
    print("| removed | movies | lost, ranked highest | lost, random | difference (95 %) | limit |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind, values in rows.items():
        if values:
            ranked, random = np.array(values).T
            difference = ranked - random
            half = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
            mean = difference.mean()
            print(
                f"| {args.share:.0%} of {kind} | {len(values)} | {ranked.mean():.3f} | "
                f"{random.mean():.3f} | {mean:.3f} ({mean - half:.3f} to {mean + half:.3f}) | > 0 |"
            )


if __name__ == "__main__":
    main()
