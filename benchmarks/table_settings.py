"""What `table.py` gives to `train.py` for each system, in three sizes.

`demo` and `small` train small encoders of posters from random weights, so that they need no GPU;
`published` is each system's recipe.
"""

from collections.abc import Sequence

# Systems of two stages: the flag that takes the first, and which that is.
STAGE_ONE = {
    "mm_gatbt": ("--graph_backbone", "gat"),
    "mm_gatbt without edges": ("--graph_backbone", "gat without edges"),
    "plus": ("--text_backbone", "plus_plots"),
}
FUSION = ("mmgenre", "gmu", "centralnet", "mmbt", "mfm", "refnet", "mm_gatbt")
FLOORS = {name: ["--recipe", name] for name in ("majority", "label_frequency", "tfidf")}

_RESNET = ["--model_config", "image_size=64", "image_resize=null", "image_architecture=resnet10"]
_EFFICIENTNET = [*_RESNET[:-1], "image_architecture=efficientnet_tiny"]
_BOTH = ["--model_config", "modalities=[image,text]"]
_SCHEDULE = (
    "--learning_rate 1e-3 --max_grad_norm 1 --lr_scheduler_type linear --warmup_ratio 0.1 "
    "--positive_weight_power 0.5 --per_device_eval_batch_size 64"
).split()
_PLUS = {name: ["--recipe", name] for name in ("plus_plots", "plus")}


def _systems(
    text: list[str], roles: Sequence[str], image_epochs: int, text_epochs: int
) -> dict[str, list[str]]:
    """The floors and the systems with small encoders of posters.

    Args:
        text: Flags of the encoder of plots.
        roles: People who make edges, and words for TF-IDF.
    """
    posters = [*_SCHEDULE, "--num_train_epochs", str(image_epochs)]
    text = [*_SCHEDULE, "--num_train_epochs", str(text_epochs), *text]
    graph = [f"graph_roles=[{','.join(roles)}]"]
    gat = ["--recipe", "gat_quickstart", "--model_config"]
    fusion = [*text, *_RESNET]
    mm_gatbt = ["--model", "mm_gatbt", "--graph_neighbors", "200", *text]
    return {
        **FLOORS,
        "tfidf with credits": [
            *(*FLOORS["tfidf"], "--model_config", f"credit_roles=[{','.join(roles)}]")
        ],
        "efficientnet": ["--model", "efficientnet", *posters, *_EFFICIENTNET],
        "bert": ["--model", "bert", *text],
        "gmu": ["--model", "gmu", *fusion, *_BOTH, "hidden_size=128"],
        "centralnet": ["--model", "centralnet", *fusion, *_BOTH, "hidden_size=128"],
        **{name: ["--model", name, *fusion] for name in ("mmbt", "mfm", "refnet")},
        "gat": [*gat, *graph],
        "gat without edges": [*gat, "graph_roles=[]"],
        "mm_gatbt": mm_gatbt,
        "mm_gatbt without edges": mm_gatbt,
    }


def demo() -> dict[str, list[str]]:
    """Everything from random weights, the tokenizer trained on the plots."""
    bert = (
        "text_config={vocab_size: 2000, hidden_size: 128, num_hidden_layers: 2, "
        "num_attention_heads: 4, intermediate_size: 256, max_position_embeddings: 128}"
    )
    text = ["--tokenizer", "train", "--model_config", bert, "max_length=96"]
    systems = _systems(text, ["sparse"], image_epochs=15, text_epochs=15)
    return systems | {"mmgenre": ["--recipe", "quickstart"]}


def small(text_backbone: str, roles: Sequence[str]) -> dict[str, list[str]]:
    """A pretrained encoder of plots that is fine-tuned for a few epochs: some thousand movies."""
    # the rates of the recipe `folder`; at 2e-4 BERT's pooled output learns nothing
    rates = "--learning_rate 3e-4 --backbone_learning_rate 1e-4 --group_by_length".split()
    text = [*rates, "--text_backbone", text_backbone, "--model_config", "max_length=128"]
    systems = _systems(text, roles, image_epochs=15, text_epochs=4)
    systems["mmgenre"] = [
        *("--recipe", "folder", *_SCHEDULE, "--num_train_epochs", "4", *text, *_RESNET, *_BOTH),
        "trainable_image_layers=[all]",
    ]
    systems["plus_plots"] = [*_PLUS["plus_plots"], "--text_backbone", text_backbone]
    systems["plus"] = _PLUS["plus"]
    return {name: [*flags, "--unknown_genres", "drop"] for name, flags in systems.items()}


def published() -> dict[str, list[str]]:
    """The recipes, with the credits that Seo et al. (2022) call medium."""
    pretrained = ["--image_backbone", "IMAGENET1K_V2", "--text_backbone", "bert-base-uncased"]
    systems = {name: ["--recipe", name] for name in demo() if " " not in name}
    systems["tfidf with credits"] = [*FLOORS["tfidf"], "--model_config", "credit_roles=[medium]"]
    systems["mmgenre"] = ["--recipe", "report"]
    for name in ("gmu", "centralnet"):
        systems[name] = ["--recipe", name, *_BOTH, *pretrained]
    return systems
