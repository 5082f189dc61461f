"""All systems and the floors on one data set, under one evaluation: the results table.

    python benchmarks/table.py [--dataset demo] [--seeds 1 2 3]
    python benchmarks/table.py --dataset data/mmimdb -- --protocol mmbt

Selection on validation, figures on the split that is asked for. On the demo the systems are small
and start from random weights, and what is expected of them there is printed below the table;
elsewhere they are those of their recipes, and the literature's figures stand apart. What follows
`--` goes to every training. The same call goes on where it was stopped.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mmgenre.data.demo import write_demo_movies
from mmgenre.evaluation.runs import HALF, System, check_comparable, read_run
from mmgenre.evaluation.table import compare, to_markdown
from mmgenre.sweep import Runner
from mmgenre.utils.logging import set_up_logging

ROOT = Path(__file__).parents[1]

# --- the demo: small, from scratch

_BERT = (
    "text_config={vocab_size: 2000, hidden_size: 128, num_hidden_layers: 2, "
    "num_attention_heads: 4, intermediate_size: 256, max_position_embeddings: 128}"
)
_TEXT = ["--tokenizer", "train", "--model_config", _BERT, "max_length=96"]
_RESNET = ["--model_config", "image_size=64", "image_resize=null", "image_architecture=resnet10"]
_TRAINING = (
    "--num_train_epochs 15 --learning_rate 1e-3 --max_grad_norm 1 --lr_scheduler_type linear "
    "--warmup_ratio 0.1 --positive_weight_power 0.5 --early_stopping_patience 15 "
    "--per_device_eval_batch_size 64"
)
_BOTH = [*_TEXT, *_RESNET, *_TRAINING.split()]
_END_TO_END = [*_BOTH, "--model_config", "modalities=[image,text]", "hidden_size=128"]
_GAT = ["--recipe", "gat_quickstart"]

DEMO: dict[str, list[str]] = {
    "majority": ["--recipe", "majority"],
    "label_frequency": ["--recipe", "label_frequency"],
    "tfidf": ["--recipe", "tfidf"],
    "tfidf with credits": ["--recipe", "tfidf", "--model_config", "credit_roles=[sparse]"],
    "efficientnet": [
        *("--model", "efficientnet", "--model_config", "image_architecture=efficientnet_tiny"),
        *("image_size=64", "image_resize=null", *_TRAINING.split()),
    ],
    "bert": ["--model", "bert", *_TEXT, *_TRAINING.split()],
    "mmgenre": ["--recipe", "quickstart"],
    "gmu": ["--model", "gmu", *_END_TO_END],
    "centralnet": ["--model", "centralnet", *_END_TO_END],
    "mmbt": ["--model", "mmbt", *_BOTH],
    "mfm": ["--model", "mfm", *_BOTH],
    "refnet": ["--model", "refnet", *_BOTH],
    "gat": _GAT,
    "gat without edges": [*_GAT, "--model_config", "graph_roles=[]"],
    "mm_gatbt": ["--model", "mm_gatbt", "--graph_neighbors", "200", *_TEXT, *_TRAINING.split()],
}
DEMO["mm_gatbt without edges"] = DEMO["mm_gatbt"]

# --- elsewhere: the recipes

_PRETRAINED = ["--image_backbone", "IMAGENET1K_V2", "--text_backbone", "bert-base-uncased"]
PUBLISHED = {name: ["--recipe", name] for name in DEMO if " " not in name}
PUBLISHED |= {
    "tfidf with credits": ["--recipe", "tfidf", "--model_config", "credit_roles=[medium]"],
    "mmgenre": ["--recipe", "report"],
    **{
        name: ["--recipe", name, "--model_config", "modalities=[image,text]", *_PRETRAINED]
        for name in ("gmu", "centralnet")
    },
}

# The gat that an mm_gatbt is built on.
STAGE_ONE = {"mm_gatbt": "gat", "mm_gatbt without edges": "gat without edges"}
FUSION = ("mmgenre", "gmu", "centralnet", "mmbt", "mfm", "refnet", "mm_gatbt")
EXPECTED = [
    *((name, "majority") for name in DEMO if name not in ("majority", "label_frequency")),
    *((name, other) for name in FUSION for other in ("efficientnet", "bert")),
    *((name, f"{name} without edges") for name in ("gat", "mm_gatbt")),
]


def train(
    folder: Path, name: str, flags: Sequence[str], seeds: Sequence[int], split: str
) -> list[str]:
    """Train and evaluate a system with each seed; what failed."""
    failed = []
    for seed in seeds:
        command = [sys.executable, str(ROOT / "train.py"), *flags]
        if name in STAGE_ONE:
            stage_one = run_folder(folder, STAGE_ONE[name]) / f"seed{seed}"
            command += ["--graph_backbone", str(stage_one)]
        runner = Runner(command, ROOT / "evaluate.py")
        runs = runner.train(run_folder(folder, name), {}, [seed])
        failed += runner.failed
        if runs and not (Path(runs[0].folder) / "reports" / split / "metrics.json").is_file():
            evaluate = [sys.executable, str(ROOT / "evaluate.py"), runs[0].folder, "--split", split]
            subprocess.run(evaluate, check=True, stdout=subprocess.DEVNULL)
    return failed


def run_folder(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "_")


def print_expected(systems: dict[str, System]) -> None:
    print("\n| macro F1 of | figure | must be above that of | figure | holds |")
    print("|---|---:|---|---:|---|")
    for name, other in EXPECTED:
        if name in systems and other in systems:
            figure, limit = (systems[n].mean("f1_macro", HALF) for n in (name, other))
            holds = "yes" if figure > limit else "NO"
            print(f"| {name} | {figure:.3f} | {other} | {limit:.3f} | {holds} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="demo", help="demo, or as train.py takes it")
    parser.add_argument("--systems", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--split", default="test")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/table"))
    parser.add_argument("flags", nargs="*", metavar="-- FLAGS", help="for every training")
    args = parser.parse_args()

    set_up_logging()
    is_demo = args.dataset == "demo"
    settings = DEMO if is_demo else PUBLISHED
    if is_demo:
        args.dataset = str(write_demo_movies(args.output_dir / "demo_movies"))
    common = ["--dataset", args.dataset, "--report_to", "none", *args.flags]
    systems, failed = {}, []
    for name in args.systems or settings:
        failed += train(args.output_dir, name, [*settings[name], *common], args.seeds, args.split)
        folders = [run_folder(args.output_dir, name) / f"seed{seed}" for seed in args.seeds]
        runs = [read_run(f, args.split) for f in folders if (f / "reports" / args.split).is_dir()]
        if runs:
            systems[name] = System(name, runs)
    check_comparable([run for system in systems.values() for run in system.runs])
    print(to_markdown(compare(list(systems.values()), literature=not is_demo)), end="")
    if is_demo:
        print_expected(systems)
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
