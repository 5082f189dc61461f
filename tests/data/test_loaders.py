"""Which movies each process sees: the same in each step, whatever the layout."""

import numpy as np
import pytest

from mmgenre.data.loaders import GlobalBatchSampler

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
