"""All systems learn: on a part of the demo, each beats the floor that looks at nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from systems import CASES

from mmgenre.data.demo import write_demo_movies

# A case for each system, with posters and plots for inputs, or one of them.
LEARNERS = [
    case
    for case, (system, config) in CASES.items()
    if system not in ("majority", "label_frequency", "tfidf") and "image_feature_dim" not in config
]
BERT = {
    "vocab_size": 800,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
METRICS = ("f1_macro", "map_macro")


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 movies to train, 40 to validation."""
    return write_demo_movies(tmp_path_factory.mktemp("data") / "demo", num_movies=240)


@pytest.fixture
def best(run_main: Callable[..., None], movies: Path, tmp_path: Path):
    """Trains a system; its highest validation metrics."""

    def train(system: str, num_train_epochs: int, **model_config: Any) -> dict[str, float]:
        values = {
            "dataset": str(movies),
            "output_dir": str(tmp_path / system),
            "augmentation": "none",
            "model": system,
            "model_config": model_config,
            "num_train_epochs": num_train_epochs,
            "per_device_train_batch_size": 8,
            "learning_rate": 3e-3,
            "max_grad_norm": 1.0,
            "positive_weight_power": 1.0,
            "warmup_epochs": 0,
            "lr_scheduler_type": "cosine",
            "save_total_limit": 1,
            "dataloader_num_workers": 0,
            "report_to": "none",
        }
        if "text_config" in model_config:
            values["tokenizer"] = "train"
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        run_main("train", "--recipe", tmp_path / "recipe.yaml")
        lines = [json.loads(line) for line in (tmp_path / system / "history.jsonl").open()]
        return {name: max(line[f"validation/{name}"] for line in lines) for name in METRICS}

    return train


@pytest.mark.parametrize("case", LEARNERS)
def test_a_system_beats_the_majority(case: str, best) -> None:
    system, config = CASES[case]
    changes: dict[str, Any] = {"loss": "bce"}
    if "image_size" in config:
        changes["image_resize"] = None
    if "text_config" in config:
        changes |= {"text_config": BERT, "max_length": 48}
    found, floor = best(system, 5, **{**config, **changes}), best("majority", 1)
    # with these weights of positives any guess has some F1; mean average precision has to be learnt
    assert all(found[name] > floor[name] + 0.05 for name in METRICS), (found, floor)
