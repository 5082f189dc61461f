"""The root of the repository, and a model that trains in a second."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY_MODEL = {
    "image_architecture": "resnet10",
    "image_size": 32,
    "max_length": 16,
    "projection_dim": 32,
    "num_attention_heads": 2,
    "trainable_image_layers": ["layer1"],
    "trainable_text_layers": ["all"],
    "text_config": {
        "vocab_size": 600,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    },
}
