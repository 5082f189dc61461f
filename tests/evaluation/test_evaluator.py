"""The evaluation loop against a plain forward of all movies and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from tiny import TINY_MODEL
from torch.utils.data import DataLoader

from mmgenre.configs.arguments import DataArguments, ModelArguments
from mmgenre.data.movies import load_movies
from mmgenre.evaluation.evaluator import Evaluator
from mmgenre.training.accelerator import create_accelerator
from mmgenre.training.components import create_dataset, create_evaluator
from mmgenre.training.new_model import create_model
from mmgenre.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
THRESHOLDS = np.linspace(0.35, 0.55, 10).tolist()


@pytest.fixture
def setting(demo_dir: Path):
    """Accelerator, model, processor and the ten validation movies, of which one has no poster."""
    movies = load_movies(DataArguments(dataset=str(demo_dir)), seed=0)
    torch.manual_seed(0)
    args = ModelArguments(tokenizer="train", model_config=TINY_MODEL)
    model, processor = create_model(args, movies.vocabulary, movies.split("train"))
    dataset = create_dataset(
        movies.split("validation"), movies.vocabulary, model.config, processor, "count"
    )
    return create_accelerator(), model, processor, dataset


@pytest.mark.parametrize("batch_size", [1, 3, 10, 32])
@pytest.mark.parametrize("thresholds", [None, THRESHOLDS], ids=["half", "per_genre"])
def test_evaluation_is_that_of_a_plain_forward(setting, batch_size, thresholds) -> None:
    accelerator, model, processor, dataset = setting
    model.config.thresholds = thresholds
    evaluator = create_evaluator(accelerator, dataset, model.config, processor, batch_size, 0)
    model.train()
    evaluation = evaluator.evaluate(accelerator.prepare(model))

    samples = [dataset[i] for i in range(len(dataset))]
    inputs = processor(images=[s["image"] for s in samples], text=[s["plot"] for s in samples])
    labels = torch.stack([s["labels"] for s in samples])
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    probabilities = logits.double().sigmoid().numpy()
    # focal loss by its formula, on hard labels: smoothing is training's
    p_t = torch.where(labels == 1, logits.sigmoid(), 1 - logits.sigmoid())
    alpha_t = torch.where(labels == 1, 0.25, 0.75)
    loss = (-alpha_t * (1 - p_t) ** 2 * p_t.log()).mean().item()

    np.testing.assert_allclose(evaluation.probabilities, probabilities, atol=1e-6)
    np.testing.assert_array_equal(evaluation.labels, labels.numpy())
    assert evaluation.loss == pytest.approx(loss, abs=1e-6)
    predicted = probabilities > np.array(thresholds or 0.5)
    assert 0 < predicted.mean() < 1
    expected = {
        f"f1_{average}": f1_score(labels, predicted, average=average, zero_division=0)
        for average in ("micro", "macro", "weighted", "samples")
    }
    there = labels.numpy().any(axis=0)
    for average, columns in (("macro", there), ("micro", slice(None))):
        expected[f"map_{average}"] = average_precision_score(
            labels[:, columns], probabilities[:, columns], average=average
        )
    assert evaluation.metrics == pytest.approx(expected, abs=1e-9)


def test_evaluation_leaves_weights_and_random_numbers_alone(setting) -> None:
    accelerator, model, processor, dataset = setting
    evaluator = create_evaluator(accelerator, dataset, model.config, processor, 4, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = evaluator.evaluate(model)
    second = evaluator.evaluate(model)
    assert first.metrics == second.metrics
    assert first.loss == second.loss
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_stop(setting, value: float) -> None:
    accelerator, model, processor, dataset = setting
    evaluator = create_evaluator(accelerator, dataset, model.config, processor, 4, 0)
    with torch.no_grad():
        model.classifier.bias[3] = value
    with pytest.raises(UserError, match="not finite; lower learning_rate"):
        evaluator.evaluate(model)


@pytest.mark.parametrize("order", [[0, 1, 3, 2], [0, 1, 1, 3]])
def test_movies_out_of_order_or_twice_are_our_own_error(setting, order: list[int]) -> None:
    accelerator, model, processor, dataset = setting
    dataset.records = dataset.records[:4]
    loader = create_evaluator(accelerator, dataset, model.config, processor, 4, 0).loader
    shuffled = DataLoader(dataset, batch_size=4, sampler=order, collate_fn=loader.collate_fn)
    with pytest.raises(AssertionError, match="every movie exactly once"):
        Evaluator(accelerator, shuffled, model.config.genres).evaluate(model)
