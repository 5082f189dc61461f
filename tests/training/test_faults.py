"""What breaks on the way: one sentence, the right exit status, and the last checkpoint stands."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import TOY, finish, start, wait_for
from toy import create_trainer

from mmgenre.checkpoints import find_checkpoint
from mmgenre.training.memory import find_batch_size
from mmgenre.utils.errors import FAILURE_STATUS, USER_ERROR_STATUS, Preempted, UserError

ENDLESS: dict[str, Any] = {"batch_size": 4, "num_train_epochs": 100_000, "save_steps": 5}


def last_line(errors: str) -> str:
    assert "Traceback" not in errors, errors
    return errors.splitlines()[-1]


# --- a gradient that is not finite


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_step_that_is_skipped_is_as_if_it_was_not_there(tmp_path: Path) -> None:
    twin = create_trainer(tmp_path / "twin", optimizer="AdamW")
    bad = twin.sampler.step_movies(2)[3]
    trainer = create_trainer(tmp_path, poisoned=[bad], optimizer="AdamW", num_train_epochs=1)
    for step in range(5):
        if step != 2:
            movies = torch.from_numpy(trainer.sampler.step_movies(step))
            logits = twin.model(twin.dataset.features[movies]).logits
            twin.model.genre_loss(logits, twin.dataset.labels[movies]).backward()
            twin.optimizer.step()
            twin.optimizer.zero_grad()
    state = trainer.fit()
    for got, expected in zip(trainer.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert (state.step, trainer.skipped_steps.total, trainer.skipped_steps.in_a_row) == (5, 1, 0)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("limit", [0, 3])
def test_too_many_skipped_steps_end_the_run(tmp_path: Path, limit: int) -> None:
    trainer = create_trainer(tmp_path, poisoned=range(40), max_nonfinite_steps=limit)
    before = [p.clone() for p in trainer.model.parameters()]
    movies = ", ".join(f"toy{i}" for i in trainer.sampler.step_movies(limit)[:5])
    with pytest.raises(UserError, match=f"step {limit + 1} is not finite.*movies: {movies}\\)"):
        trainer.fit()
    assert all(map(torch.equal, before, trainer.model.parameters()))


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_count_survives_a_restart(tmp_path: Path) -> None:
    kwargs = {"poisoned": range(40), "max_nonfinite_steps": 6}
    with pytest.raises(Preempted):
        create_trainer(tmp_path, **kwargs, stop_after=4).fit()
    trainer = create_trainer(tmp_path, **kwargs)
    trainer.resume("auto")
    with pytest.raises(UserError, match="the training loss of epoch 1 is nan"):
        trainer.fit()
    assert trainer.skipped_steps.in_a_row == 5


# --- memory


@pytest.mark.usefixtures("fresh_accelerate")
def test_out_of_memory_names_what_to_lower(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        create_trainer(tmp_path, max_movies=7).fit()
    assert str(caught.value) == (
        "out of memory in step 1 (CUDA out of memory. Tried to allocate 1 GiB.); lower "
        "per_device_train_batch_size below 8 and raise gradient_accumulation_steps as much, or set "
        "auto_find_batch_size"
    )


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_batch_size_is_halved_until_it_fits(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path, max_movies=3)
    trainer.model.register_buffer("mean", torch.zeros(1))

    def count(*_: Any) -> None:
        trainer.model.mean += 1

    trainer.model.layers.register_forward_hook(count)
    find_batch_size(trainer)
    assert (trainer.sampler.batch_size, trainer.sampler.global_batch_size) == (2, 8)
    assert trainer.model.mean.item() == 0  # as BatchNorm's statistics
    assert all(p.grad is None for p in trainer.model.parameters())
    with pytest.raises(UserError, match="a single movie"):
        find_batch_size(create_trainer(tmp_path, max_movies=0))


# --- processes


def test_a_process_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    processes = start(2, TOY, json.dumps([[str(tmp_path), ENDLESS]]))
    wait_for((tmp_path / "checkpoints" / "last").exists, processes[0])
    processes[1].kill()
    (status, errors), _ = finish(processes)
    assert status == FAILURE_STATUS, errors
    assert "toy.py: error: another process of the run was lost" in last_line(errors)
    assert "--resume_from_checkpoint auto goes on" in last_line(errors)
    find_checkpoint(tmp_path / "checkpoints", "last")


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_in_time(tmp_path: Path) -> None:
    kwargs = {**ENDLESS, "ddp_timeout": 5}
    processes = start(2, TOY, json.dumps([[str(tmp_path), kwargs]]))
    wait_for((tmp_path / "checkpoints" / "last").exists, processes[0])
    processes[1].send_signal(signal.SIGSTOP)
    try:
        _, errors = processes[0].communicate(timeout=60)
    finally:
        processes[1].kill()
    assert processes[0].returncode == FAILURE_STATUS, errors
    assert "did not answer within ddp_timeout" in last_line(errors)


def test_a_loader_process_that_is_killed(tmp_path: Path) -> None:
    (process,) = start(1, TOY, json.dumps([[str(tmp_path), {**ENDLESS, "num_workers": 1}]]))
    wait_for((tmp_path / "checkpoints" / "last").exists, process)
    # Again and again: between two epochs nobody misses a loader process that has done its work.
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
    ((status, errors),) = finish([process])
    assert status == FAILURE_STATUS, errors
    # torch's own handler of the death can fall into a destructor, whose trace Python prints
    assert "a loader process was lost" in errors.splitlines()[-1]
    find_checkpoint(tmp_path / "checkpoints", "last")


def test_a_full_disk_stops_all_processes(tmp_path: Path) -> None:
    kwargs = {"batch_size": 4, "hidden": 1000, "num_train_epochs": 1}
    job = {**kwargs, "num_train_epochs": 2, "resume": "auto", "file_size_limit": 20_000}
    jobs = [[str(tmp_path), kwargs], [str(tmp_path), job]]
    for status, errors in finish(start(2, TOY, json.dumps(jobs))):
        assert status == USER_ERROR_STATUS, errors
        assert "epoch_0002 cannot be written" in last_line(errors)
        assert "the checkpoints before it stand" in last_line(errors)
    checkpoints = tmp_path / "checkpoints"
    assert find_checkpoint(checkpoints, "last").name == "epoch_0001"
    assert {p.name for p in checkpoints.iterdir()} == {"epoch_0001", "best", "last"}
