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

    args = parser.parse_args()
    with exit_on_user_error("mmgenre"):
        args.run(args)


def _demo(args: argparse.Namespace) -> None:
    from mmgenre.data.demo import write_demo_movies

    print(write_demo_movies(args.folder, num_movies=args.num_movies, seed=args.seed))


if __name__ == "__main__":
    main()
