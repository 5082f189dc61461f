"""The loop: the same training however a step is laid out, and where it ends."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import create_trainer, fit

from mmgenre.evaluation.evaluator import Evaluation
from mmgenre.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def parameters(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# 40 movies are five full steps of 8; 37 end in a step of 5 and 33 in one of a single movie
@pytest.mark.parametrize("num_movies", [40, 37, 33])
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_layouts_of_a_step_train_alike(
    tmp_path: Path, num_movies: int, max_grad_norm: float | None
) -> None:
    kwargs = {"num_movies": num_movies, "max_grad_norm": max_grad_norm, "num_train_epochs": 1}
    expected, history = fit(tmp_path / "8x1", batch_size=8, accumulation=1, **kwargs)
    for batch_size, accumulation in [(4, 2), (2, 4), (1, 8)]:
        folder = tmp_path / f"{batch_size}x{accumulation}"
        got, own_history = fit(folder, batch_size=batch_size, accumulation=accumulation, **kwargs)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
        assert own_history == [pytest.approx(line, abs=1e-6) for line in history]
        assert own_history[0]["step"] == math.ceil(num_movies / 8)


def test_a_step_is_that_of_plain_torch(tmp_path: Path) -> None:
    kwargs = {"learning_rate": 0.5, "num_train_epochs": 1}
    trainer = create_trainer(tmp_path, batch_size=2, accumulation=4, **kwargs)
    twin = create_trainer(tmp_path, **kwargs).model
    for step in range(5):
        movies = torch.from_numpy(trainer.sampler.step_movies(step))
        logits = twin(trainer.dataset.features[movies]).logits
        loss = twin.genre_loss(logits, trainer.dataset.labels[movies])
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    trainer.fit()
    torch.testing.assert_close(parameters(trainer.model), parameters(twin), atol=1e-6, rtol=0)


def test_history_and_state(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path, num_movies=37, num_train_epochs=3)
    state = trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").open()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 5), (2, 10), (3, 15)]
    assert (state.epoch, state.step, state.num_samples) == (3, 15, 111)
    scores = [line["validation/f1_macro"] for line in lines]
    assert (state.best_metric, state.best_epoch) == (max(scores), scores.index(max(scores)) + 1)
    again = trainer.evaluator.evaluate(trainer.model)
    assert again.loss == lines[-1]["validation/loss"]
    assert {f"validation/{k}": v for k, v in again.metrics.items()}.items() <= lines[-1].items()


def test_each_epoch_has_its_own_order(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path, num_train_epochs=3)
    trainer.fit()
    seen = trainer.dataset.seen
    assert {epoch: sorted(movies) for epoch, movies in seen.items()} == {
        epoch: list(range(40)) for epoch in range(3)
    }
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_early_stopping_ends_training_and_stays_so(tmp_path: Path) -> None:
    kwargs = {"learning_rate": 1e-9, "patience": 2, "num_train_epochs": 9}
    assert create_trainer(tmp_path, **kwargs).fit().epoch == 3
    resumed = create_trainer(tmp_path, **kwargs)
    resumed.resume("last")
    assert resumed.fit().epoch == 3


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path, learning_rate=1e38, num_train_epochs=5)
    with pytest.raises(UserError, match="lower learning_rate"):
        trainer.fit()


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_resuming_is_as_if_never_interrupted(tmp_path: Path, optimizer: str) -> None:
    kwargs = {"optimizer": optimizer, "learning_rate": 0.05, "num_movies": 37, "batch_size": 4}
    expected, history = fit(tmp_path / "straight", num_train_epochs=6, **kwargs)
    folder = tmp_path / "resumed"
    for epoch in (2, 3, 6):
        trainer = create_trainer(folder, num_train_epochs=epoch, **kwargs)
        trainer.resume("auto")
        state = trainer.fit()
    assert torch.equal(parameters(trainer.model), expected)
    assert [json.loads(line) for line in (folder / "history.jsonl").open()] == history
    assert (state.epoch, state.step) == (6, history[-1]["step"])


class ScriptedEvaluator:
    """Gives the macro F1 that a test needs for each epoch."""

    def __init__(self, *scores: float) -> None:
        self.scores = iter(scores)

    def evaluate(self, model: torch.nn.Module, before_batch: object = None) -> Evaluation:
        metrics = {"f1_macro": next(self.scores), "f1_micro": 0.0}
        return Evaluation(0.0, metrics, np.zeros((1, 1)), np.zeros((1, 1)))


def test_resuming_from_an_earlier_epoch_takes_back_what_came_after(tmp_path: Path) -> None:
    trainer = create_trainer(tmp_path, num_train_epochs=3, save_total_limit=9)
    trainer.evaluator = ScriptedEvaluator(0.5, 0.4, 0.6)
    trainer.fit()
    assert (tmp_path / "checkpoints" / "best").resolve().name == "epoch_0003"

    trainer = create_trainer(tmp_path, num_train_epochs=2, save_total_limit=2)
    trainer.evaluator = ScriptedEvaluator(0.4)
    trainer.resume("epoch_0001")
    state = trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").open()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert state.best_epoch == 1
    links = {name: (tmp_path / "checkpoints" / name).resolve().name for name in ("best", "last")}
    assert links == {"best": "epoch_0001", "last": "epoch_0002"}
    assert (tmp_path / "checkpoints" / "best" / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["last", "best", "epoch_0001"])
def test_resuming_needs_a_checkpoint(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"no checkpoint '{name}' in .*; there is none"):
        create_trainer(tmp_path).resume(name)
