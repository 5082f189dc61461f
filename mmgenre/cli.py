"""The command `mmgenre`: what is done with movies and models beside training and evaluation."""

import argparse
from pathlib import Path

from mmgenre import __version__
from mmgenre.utils.errors import exit_on_user_error


def main() -> None:
    """Run a subcommand; each imports what it needs only when it is called."""
    parser = argparse.ArgumentParser(prog="mmgenre", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mmgenre {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="draw the demo movies into a folder")
    demo.add_argument("folder", type=Path, help="folder to write metadata.jsonl and posters/ to")
    demo.add_argument("--num_movies", type=int, default=1200, help="default: %(default)s")
    demo.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demo.set_defaults(run=_demo)

    table = commands.add_parser("table", help="compare runs by their reports")
    table.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run")
    table.add_argument("--split", default="test", help="report to compare; default: %(default)s")
    table.add_argument("--baseline", help="one of the runs; the others are tested against it")
    table.add_argument(
        "--metric",
        default="f1_macro",
        choices=["f1_micro", "f1_macro", "f1_weighted", "f1_samples"],
        help="what is tested; default: %(default)s",
    )
    table.add_argument(
        "--format",
        default="markdown",
        choices=["markdown", "latex", "csv", "json"],
        help="default: %(default)s",
    )
    table.add_argument(
        "--no_literature",
        dest="literature",
        action="store_false",
        help="leave out the columns of what the literature reports",
    )
    table.set_defaults(run=_table)

    args = parser.parse_args()
    with exit_on_user_error("mmgenre"):
        args.run(args)


def _demo(args: argparse.Namespace) -> None:
    from mmgenre.data.demo import write_demo_movies

    print(write_demo_movies(args.folder, num_movies=args.num_movies, seed=args.seed))


def _table(args: argparse.Namespace) -> None:
    from mmgenre.evaluation.runs import check_comparable, group_runs, read_run
    from mmgenre.evaluation.table import FORMATS, compare

    runs = [read_run(folder, args.split) for folder in args.runs]
    check_comparable(runs)
    rows = compare(group_runs(runs), args.baseline, args.metric, args.literature)
    print(FORMATS[args.format](rows), end="")


if __name__ == "__main__":
    main()
