"""Which movies each process sees: the same in each step, whatever the layout."""

from dataclasses import replace

import numpy as np
import pytest

from mmgenre.data.loaders import GlobalBatchSampler, text_lengths
from mmgenre.data.records import MovieRecord

# (processes, accumulation): always 4 micro-batches of 2 movies in a step
LAYOUTS = [(1, 4), (2, 2), (4, 1)]
SIZES = [1, 3, 8, 16, 17, 19, 21, 23]  # a step takes 8


def create_samplers(size: int, processes: int, accumulation: int, **kwargs) -> list:
    return [
        GlobalBatchSampler(
            size,
            global_batch_size=2 * accumulation * processes,
            batch_size=2,
            num_processes=processes,
            process_index=rank,
            **kwargs,
        )
        for rank in range(processes)
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("processes", "accumulation"), LAYOUTS)
def test_micro_batches_share_out_each_step(size: int, processes: int, accumulation: int) -> None:
    reference = create_samplers(size, 1, 4, drop_last=False)[0]
    samplers = create_samplers(size, processes, accumulation, drop_last=False)
    assert {sampler.num_steps for sampler in samplers} == {-(-size // 8)}
    for epoch in (0, 1):
        for sampler in (reference, *samplers):
            sampler.set_epoch(epoch)
        for step in range(reference.num_steps):
            parts = [sampler.micro_batches(step) for sampler in samplers]
            assert len({len(rounds) for rounds in parts}) == 1  # all processes run each round
            flat = [movies for rounds in parts for movies in rounds]
            assert sorted(sum(flat, [])) == sorted(reference.step_movies(step).tolist())
            sizes = [len(movies) for movies in flat]
            assert max(sizes) <= 2
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("size", SIZES)
def test_an_epoch_is_a_permutation(size: int) -> None:
    sampler = create_samplers(size, 1, 4, drop_last=False)[0]
    assert sorted(movie for batch in sampler for movie in batch) == list(range(size))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = create_samplers(64, 1, 4, seed=seed)[0]
        sampler.set_epoch(epoch)
        return sum(sampler, [])

    np.random.seed(1)
    first = order(0, 0)
    np.random.seed(2)
    assert order(0, 0) == first
    assert order(0, 1) != first
    assert order(1, 0) != first


@pytest.mark.parametrize(("size", "steps"), [(5, 1), (8, 1), (15, 1), (16, 2), (23, 2)])
def test_drop_last_leaves_out_a_smaller_last_step(size: int, steps: int) -> None:
    sampler = create_samplers(size, 1, 4, drop_last=True)[0]
    assert sampler.num_steps == steps
    assert sum(len(batch) for batch in sampler) == min(size, 8 * steps)


def test_a_process_without_movies_runs_a_stand_in() -> None:
    samplers = create_samplers(17, 4, 1, drop_last=False)
    movie = samplers[0].step_movies(2).tolist()
    assert [sampler.micro_batches(2) for sampler in samplers] == [[movie], [[]], [[]], [[]]]
    assert [list(sampler)[2] for sampler in samplers] == [movie] * 4


LENGTHS = np.random.default_rng(5).lognormal(4, 0.6, 5003).astype(int)  # 625 steps of 8 and a rest


def grouped(processes: int = 1, accumulation: int = 4, seed: int = 0, epoch: int = 0) -> list:
    samplers = create_samplers(
        len(LENGTHS), processes, accumulation, drop_last=False, lengths=LENGTHS, seed=seed
    )
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers


@pytest.mark.parametrize(("processes", "accumulation"), LAYOUTS)
def test_grouping_is_the_same_in_every_layout(processes: int, accumulation: int) -> None:
    samplers = grouped(processes, accumulation)
    reference = create_samplers(len(LENGTHS), 1, 4, drop_last=False, lengths=LENGTHS)[0]
    seen: list[int] = []
    for step in range(reference.num_steps):
        movies = [m for s in samplers for part in s.micro_batches(step) for m in part]
        assert sorted(movies) == sorted(reference.step_movies(step).tolist())
        seen += movies
    assert sorted(seen) == list(range(len(LENGTHS)))


def test_grouped_steps_are_of_close_lengths_and_in_no_order() -> None:
    def steps(sampler: GlobalBatchSampler) -> np.ndarray:
        return LENGTHS[sampler._order[: 625 * 8]].reshape(625, 8)

    mixed, close = steps(create_samplers(len(LENGTHS), 1, 4)[0]), steps(grouped()[0])
    assert np.ptp(close, axis=1).mean() < 0.15 * np.ptp(mixed, axis=1).mean()
    # padding to the longest of a step
    waste = [(s.max(axis=1) * 8).sum() / s.sum() for s in (mixed, close)]
    assert waste[1] < 1.1 < 1.8 < waste[0]
    # longest or shortest first would show as correlation with time, over the epoch or in a pool
    means, time = close.mean(axis=1), np.arange(625)
    for position in (time, time % 50):
        assert abs(np.corrcoef(means, position)[0, 1]) < 0.1  # 2.5 standard errors
    # each fifth of the epoch has the distribution of all
    for fifth in close.reshape(5, -1):
        ours, all_ = (np.percentile(x, [10, 50, 90]) for x in (fifth, LENGTHS))
        assert np.abs(ours / all_ - 1).max() < 0.1


def test_grouping_changes_with_the_epoch_and_leaves_the_last_step_to_chance() -> None:
    whole = len(LENGTHS) - len(LENGTHS) % 8
    rest = []
    companions = []
    for epoch in range(200):
        sampler = grouped(epoch=epoch)[0]
        rest.append(LENGTHS[sampler._order[whole:]].mean())
        step = next(s for s in range(626) if 7 in sampler.step_movies(s))
        companions.append(set(sampler.step_movies(step)))
    error = LENGTHS.std() / np.sqrt(3 * 200)
    assert abs(np.mean(rest) - LENGTHS.mean()) < 3 * error
    assert len(set.union(*companions)) > 200  # a movie meets others each time


class StoredTokens:
    def read(self) -> np.ndarray:
        return np.arange(7)


def test_lengths_are_stored_tokens_or_words() -> None:
    movie = MovieRecord("m", "A sheriff rides.", (), None)
    records = [movie, replace(movie, tokens=StoredTokens()), replace(movie, plot=None)]
    assert text_lengths(records) == [3, 7, 0]
