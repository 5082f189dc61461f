"""All systems and the floors on one data set, under one evaluation: the results table.

    python benchmarks/table.py [--dataset demo] [--seeds 1 2 3]
    python benchmarks/table.py --dataset data/mmimdb -- --protocol mmbt
    python benchmarks/table.py --dataset FOLDER --size small --roles director --split validation

Selection on validation, figures on the split that is asked for. What is expected of the demo is
printed below its table. What follows `--` goes to every training. The same call goes on where it
was stopped.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from table_settings import FUSION, STAGE_ONE, demo, published, small

from mmgenre.data.demo import write_demo_movies
from mmgenre.evaluation.runs import HALF, System, check_comparable, read_run
from mmgenre.evaluation.table import compare, to_markdown
from mmgenre.sweep import Runner
from mmgenre.utils.logging import set_up_logging

ROOT = Path(__file__).parents[1]

EXPECTED = [
    *((name, "majority") for name in demo() if name not in ("majority", "label_frequency")),
    *((name, other) for name in FUSION for other in ("efficientnet", "bert")),
    *((name, f"{name} without edges") for name in ("gat", "mm_gatbt")),
]


def train(folder: Path, name: str, flags: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Train and evaluate a system with each seed; what failed."""
    fit = ["--fit_thresholds", args.fit_thresholds] if args.fit_thresholds else []
    failed = []
    for seed in args.seeds:
        command = [sys.executable, str(ROOT / "train.py"), *flags]
        if name in STAGE_ONE:
            flag, stage_one = STAGE_ONE[name]
            command += [flag, str(run_folder(folder, stage_one) / f"seed{seed}")]
        runner = Runner(command, ROOT / "evaluate.py", fit)
        runs = runner.train(run_folder(folder, name), {}, [seed])
        failed += runner.failed
        if runs and not (Path(runs[0].folder) / "reports" / args.split / "metrics.json").is_file():
            words = [sys.executable, ROOT / "evaluate.py", runs[0].folder, "--split", args.split]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
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
    parser.add_argument("--size", choices=("small", "published"), default="published")
    parser.add_argument("--text_backbone", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument(
        "--roles", nargs="+", default=["sparse"], help="credits that size small uses"
    )
    parser.add_argument("--systems", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--split", default="test")
    parser.add_argument("--fit_thresholds", choices=("global", "per_genre"), help="on validation")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/table"))
    parser.add_argument("flags", nargs="*", metavar="-- FLAGS", help="for every training")
    args = parser.parse_args()

    set_up_logging()
    is_demo = args.dataset == "demo"
    if is_demo:
        settings = demo()
        args.dataset = str(write_demo_movies(args.output_dir / "demo_movies"))
    elif args.size == "small":
        settings = small(args.text_backbone, args.roles)
    else:
        settings = published()
    for name in args.systems or ():
        if name not in settings:
            parser.error(f"there is no system {name!r}; there are {', '.join(settings)}")
    common = ["--dataset", args.dataset, "--report_to", "none", *args.flags]
    systems, failed = {}, []
    for name in args.systems or settings:
        failed += train(args.output_dir, name, [*settings[name], *common], args)
        folders = [run_folder(args.output_dir, name) / f"seed{seed}" for seed in args.seeds]
        runs = [read_run(f, args.split) for f in folders if (f / "reports" / args.split).is_dir()]
        if runs:
            systems[name] = System(name, runs)
    if systems:
        check_comparable([run for system in systems.values() for run in system.runs])
        print(to_markdown(compare(list(systems.values()), literature=not is_demo)), end="")
        if is_demo:
            print_expected(systems)
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
