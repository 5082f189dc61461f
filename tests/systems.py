"""Every system at its smallest, by name and variant, with a batch that it takes.

As a script it trains each for two steps.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mmgenre.models.registry import SYSTEMS, create_config, load_class
from mmgenre.training.accelerator import create_accelerator

GENRES = ["drama", "comedy", "war", "sci-fi"]
BERT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
TEXT = {"text_config": BERT, "max_length": 16}
IMAGE = {"image_size": 32, "image_resize": 40}
BOTH = {**TEXT, **IMAGE, "image_architecture": "resnet10"}
FEATURES = {"image_feature_dim": 12, "text_feature_dim": 7, "hidden_size": 16}
ENCODERS = {**BOTH, "modalities": ["image", "text"], "hidden_size": 16}
GRAPH = {
    "image_architecture": "efficientnet_tiny",
    "gat_hidden_size": 4,
    "num_gat_heads": 2,
    "graph_roles": ["sparse"],
}

# Name of the case: system and model_config.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mmgenre": (
        "mmgenre",
        {
            **BOTH,
            "projection_dim": 16,
            "num_attention_heads": 2,
            "fusion_tokens": "grid",
            "trainable_image_layers": ["all"],
            "trainable_text_layers": ["all"],
        },
    ),
    "efficientnet": ("efficientnet", {**IMAGE, "image_architecture": "efficientnet_tiny"}),
    "bert": ("bert", TEXT),
    "gmu": ("gmu", FEATURES),
    "gmu end to end": ("gmu", ENCODERS),
    "centralnet": ("centralnet", FEATURES),
    "centralnet end to end": ("centralnet", ENCODERS),
    "mmbt": ("mmbt", BOTH),
    "mfm": ("mfm", {**BOTH, "hidden_size": 16}),
    "refnet": ("refnet", BOTH),
    "gat": ("gat", {**IMAGE, **GRAPH}),
    "mm_gatbt": ("mm_gatbt", {**TEXT, **IMAGE, **GRAPH}),
    "tfidf": ("tfidf", {"vocab_size": 100}),
    "majority": ("majority", {}),
    "label_frequency": ("label_frequency", {}),
    "sign": (
        "sign",
        {**TEXT, "projection_dim": 16, "graph_relations": [["director"], ["sparse"]]},
    ),
}
assert {system for system, _ in CASES.values()} == set(SYSTEMS)


def create(case: str, **changes: Any) -> Any:
    """The model of a case, in eval mode; all of it is trained."""
    system, model_config = CASES[case]
    torch.manual_seed(0)
    config = create_config(system, GENRES, {**model_config, **changes})
    return load_class(SYSTEMS[system].model)(config).eval()


def create_batch(model: Any, size: int = 4) -> dict[str, torch.Tensor]:
    """Random inputs for a model; the second and third plots are padded."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    batch: dict[str, torch.Tensor] = {}
    if "image" in config.modalities:
        side = config.image_size
        batch["pixel_values"] = torch.randn(size, 3, side, side, generator=generator)
    if "text" in config.modalities:
        mask = torch.ones(size, 9, dtype=torch.long)
        mask[1, 6:] = mask[2, 3:] = 0
        batch["input_ids"] = torch.randint(5, 100, (size, 9), generator=generator) * mask
        batch["attention_mask"] = mask
    for name, dim in config.feature_dims.items():
        batch[name] = torch.randn(size, dim, generator=generator)
    return batch


LABELS = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1]])


def main(folder: Path) -> None:
    """In every process: two steps of each case, and a file that names those that came through.

    A parameter without gradient in the first makes DistributedDataParallel raise in the second.
    """
    accelerator = create_accelerator()
    trained = []
    for case in CASES:
        model = create(case)
        batch = create_batch(model)
        prepared = accelerator.prepare(model).train()
        for _ in range(2):
            accelerator.backward(prepared(**batch, labels=LABELS).loss)
        trained.append(case)
    (folder / f"rank{accelerator.process_index}.json").write_text(json.dumps(trained))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
