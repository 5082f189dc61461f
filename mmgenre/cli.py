"""The command `mmgenre`: what is done with movies and models beside training and evaluation."""

import argparse
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from mmgenre import __version__
from mmgenre.configs.arguments import DataFormat
from mmgenre.utils.errors import exit_on_user_error

_Commands = argparse._SubParsersAction  # without a public name


def main() -> None:
    """Run a subcommand; each imports what it needs only when it is called."""
    parser = argparse.ArgumentParser(prog="mmgenre", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mmgenre {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    for add in (
        _add_demo,
        _add_prepare,
        _add_predict,
        _add_push,
        _add_table,
        _add_sweep,
        _add_graph,
        _add_export,
        _add_explain,
        _add_app,
        _add_stats,
        _add_doctor,
    ):
        add(commands)

    args, rest = parser.parse_known_args()
    if rest and args.run not in (_stats, _doctor):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with exit_on_user_error("mmgenre"):
        args.run(args)


def _add_demo(commands: _Commands) -> None:
    parser = commands.add_parser("demo", help="draw the demo movies into a folder")
    parser.add_argument("folder", type=Path, help="folder to write metadata.jsonl and posters/ to")
    parser.add_argument("--num_movies", type=int, default=1200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> None:
    from mmgenre.data.demo import write_demo_movies

    print(write_demo_movies(args.folder, num_movies=args.num_movies, seed=args.seed))


def _add_stats(commands: _Commands) -> None:
    parser = commands.add_parser("stats", help="count what a data set holds", add_help=False)
    parser.set_defaults(run=_stats)


def _stats(_: argparse.Namespace) -> None:
    from mmgenre.configs.parser import parse_stats_arguments

    movies_args, args = parse_stats_arguments(sys.argv[2:])

    # After the arguments, so that --help and a mistyped flag do not wait for these.
    from mmgenre.constants import DEMO_DATA_DIR
    from mmgenre.data.demo import write_demo_movies
    from mmgenre.data.movies import load_movies
    from mmgenre.data.stats import compute_stats, count_words, token_counter
    from mmgenre.data.stats_report import make_folder, print_stats, write_stats
    from mmgenre.data.tokenizer import load_tokenizer
    from mmgenre.models.pictures import poster_size
    from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    folder = make_folder(args.output)
    if movies_args.dataset == "demo":
        movies_args.dataset = str(write_demo_movies(folder / DEMO_DATA_DIR))
    if args.tokenizer is not None:
        unit, count_lengths = "tokens", token_counter(load_tokenizer(args.tokenizer))
    else:
        unit, count_lengths = "words", count_words
    movies = load_movies(movies_args, args.seed)
    stats = {
        **vars(movies_args),
        **vars(args),
        "length_unit": unit,
        **compute_stats(movies, poster_size, args.max_length, count_lengths),
    }
    print_stats(stats)
    write_stats(stats, folder)


def _add_doctor(commands: _Commands) -> None:
    parser = commands.add_parser(
        "doctor", help="check that a training can run here, before it costs hours", add_help=False
    )
    parser.set_defaults(run=_doctor)


def _doctor(_: argparse.Namespace) -> None:
    from mmgenre.doctor import examine

    examine(sys.argv[2:])


def _add_prepare(commands: _Commands) -> None:
    parser = commands.add_parser(
        "prepare", help="shrink posters and tokenise plots once, into a folder for training"
    )
    parser.add_argument("source", help="folder, HDF5 file or Hub name of the movies")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument(
        "--data_format",
        choices=get_args(DataFormat),
        default="auto",
        help="format of SOURCE; default: found from the path",
    )
    parser.add_argument(
        "--tokenizer", help="store the plots' token ids too: the tokenizer's folder or Hub name"
    )
    parser.add_argument(
        "--max_length", type=int, default=512, help="cut plots to so many tokens; default: 512"
    )
    parser.add_argument(
        "--poster_size",
        type=int,
        default=256,
        help="pixels of the shorter side that posters are shrunk to; default: 256",
    )
    parser.add_argument(
        "--num_workers", type=int, help="processes that decode posters; default: one for each core"
    )
    parser.add_argument(
        "--broken_posters",
        choices=("count", "error"),
        default="count",
        help="a poster that cannot be decoded: list it and go on, or stop; default: count",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete what FOLDER holds prepared, and start anew"
    )
    parser.set_defaults(run=_prepare)


def _prepare(args: argparse.Namespace) -> None:
    from mmgenre.data.prepare import PrepareOptions, prepare_movies
    from mmgenre.models.pictures import open_poster
    from mmgenre.training.preemption import Preemption
    from mmgenre.utils.logging import set_up_logging

    preemption = Preemption()
    preemption.listen()
    set_up_logging()
    prepare_movies(
        args.source,
        args.folder,
        open_poster,
        PrepareOptions(args.poster_size, args.tokenizer, args.max_length),
        data_format=args.data_format,
        broken_posters=args.broken_posters,
        num_workers=args.num_workers,
        overwrite=args.overwrite,
        check_signals=preemption.check,
    )


@contextmanager
def _importing() -> Iterator[None]:
    """Import without the garbage collector.

    torch and transformers make a million objects that stay. Looking through them again and again is
    a quarter of their import's time, and at the process's end as much again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def _add_predict(commands: _Commands) -> None:
    parser = commands.add_parser("predict", help="predict genres of posters and plots")
    parser.add_argument("model", help="folder of a run or a model, or a model's Hub name")
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="a poster, a folder of posters or movies, a CSV file, JSON lines, or - for a table on "
        "standard input",
    )
    parser.add_argument("--plot", help="plot of the one poster that is given")
    parser.add_argument("--output", type=Path, help="file to write; default: standard output")
    parser.add_argument(
        "--format",
        choices=("jsonl", "csv", "parquet"),
        help="default: by the suffix of --output, or jsonl",
    )
    parser.add_argument(
        "--batch_size", type=int, default=16, help="movies at once; default: %(default)s"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1; default: a GPU if there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file")
    parser.add_argument(
        "--resume", action="store_true", help="go on behind the rows that the output file has"
    )
    parser.set_defaults(run=_predict)


def _predict(args: argparse.Namespace) -> None:
    from mmgenre.training.preemption import Preemption

    preemption = Preemption()
    preemption.listen()
    with _importing():
        from mmgenre.inference.predict import PredictOptions, predict
        from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    predict(
        args.model,
        args.inputs,
        PredictOptions(
            output=args.output,
            format=args.format,
            plot=args.plot,
            batch_size=args.batch_size,
            device=args.device,
            overwrite=args.overwrite,
            resume=args.resume,
        ),
        preemption.check,
    )


def _add_push(commands: _Commands) -> None:
    parser = commands.add_parser("push", help="share a run's best model on the Hugging Face Hub")
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run that was evaluated")
    parser.add_argument("repo", help="name on the Hub, such as owner/name")
    parser.add_argument(
        "--dry_run", action="store_true", help="show what would be uploaded, and upload nothing"
    )
    parser.add_argument("--public", action="store_true", help="for everybody; default: private")
    parser.add_argument("--data_license", help="licence of the movies, for the card")
    parser.set_defaults(run=_push)


def _push(args: argparse.Namespace) -> None:
    from mmgenre.inference.push import push

    push(
        args.run_folder,
        args.repo,
        dry_run=args.dry_run,
        public=args.public,
        data_license=args.data_license,
    )


def _add_table(commands: _Commands) -> None:
    parser = commands.add_parser("table", help="compare runs by their reports")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run")
    parser.add_argument("--split", default="test", help="report to compare; default: %(default)s")
    parser.add_argument("--baseline", help="one of the runs; the others are tested against it")
    parser.add_argument(
        "--metric",
        default="f1_macro",
        choices=["f1_micro", "f1_macro", "f1_weighted", "f1_samples"],
        help="what is tested; default: %(default)s",
    )
    parser.add_argument(
        "--format",
        default="markdown",
        choices=["markdown", "latex", "csv", "json"],
        help="default: %(default)s",
    )
    parser.add_argument(
        "--no_literature",
        dest="literature",
        action="store_false",
        help="leave out the columns of what the literature reports",
    )
    parser.set_defaults(run=_table)


def _table(args: argparse.Namespace) -> None:
    from mmgenre.evaluation.runs import check_comparable, group_runs, read_run
    from mmgenre.evaluation.table import FORMATS, compare

    runs = [read_run(folder, args.split) for folder in args.runs]
    check_comparable(runs)
    rows = compare(group_runs(runs), args.baseline, args.metric, args.literature)
    print(FORMATS[args.format](rows), end="")


def _add_sweep(commands: _Commands) -> None:
    parser = commands.add_parser(
        "sweep",
        help="train over several seeds, and search over settings, on validation",
        usage="%(prog)s [--flag value ...] -- COMMAND",
    )
    parser.add_argument(
        "command",
        metavar="COMMAND",
        nargs="+",
        help="what trains one run, without its seed and folder: accelerate launch train.py ...",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("runs/sweep"),
        help="folder of the runs; what is finished there is not done again; default: %(default)s",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[42], help="a run for each; default: 42"
    )
    parser.add_argument(
        "--search",
        nargs="+",
        default=[],
        metavar="KEY=VALUES",
        help="flags or fields of the model's config: KEY=A,B,..., KEY=log:LOW:HIGH, "
        "KEY=uniform:LOW:HIGH, KEY=int:LOW:HIGH",
    )
    parser.add_argument("--trials", type=int, default=20, help="settings; default: %(default)s")
    parser.add_argument(
        "--sampler", choices=["random", "tpe"], default="tpe", help="default: %(default)s"
    )
    parser.add_argument(
        "--metric",
        default="f1_macro",
        choices=["f1_micro", "f1_macro", "f1_weighted", "f1_samples", "map_macro"],
        help="what is searched for, on validation; default: %(default)s",
    )
    parser.set_defaults(run=_sweep)


def _sweep(args: argparse.Namespace) -> None:
    from mmgenre.sweep import sweep
    from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    sweep(
        args.command,
        args.output_dir,
        args.seeds,
        args.search,
        args.trials,
        args.sampler,
        args.metric,
    )


def _add_graph(commands: _Commands) -> None:
    parser = commands.add_parser("graph", help="join movies that share people in their credits")
    parser.add_argument("dataset", help="folder, HDF5 file or Hub name of the movies, or 'demo'")
    parser.add_argument(
        "--roles",
        nargs="+",
        default=["medium"],
        help="people who count: sparse, medium, dense, or roles by name; default: medium",
    )
    parser.add_argument(
        "--max_movies", type=int, help="leave people out who have more movies; default: nobody"
    )
    parser.add_argument(
        "--data_format",
        choices=get_args(DataFormat),
        default="auto",
        help="format of DATASET; default: found from the path",
    )
    parser.add_argument(
        "--output",
        default="runs/graph",
        help="folder to write the graph and its figures to; default: %(default)s",
    )
    parser.set_defaults(run=_graph)


def _graph(args: argparse.Namespace) -> None:
    from mmgenre.constants import DEMO_DATA_DIR
    from mmgenre.data.demo import write_demo_movies
    from mmgenre.data.graph import build_graph, save_graph
    from mmgenre.data.graph_report import print_graph_stats, write_graph_stats
    from mmgenre.data.graph_stats import compute_graph_stats
    from mmgenre.data.readers import read_movies
    from mmgenre.data.stats_report import make_folder
    from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    folder = make_folder(args.output)
    if args.dataset == "demo":
        args.dataset = str(write_demo_movies(folder / DEMO_DATA_DIR))
    records = list(read_movies(args.dataset, args.data_format))
    graph = build_graph(records, args.roles, args.max_movies)
    save_graph(graph, folder)
    stats = {"dataset": args.dataset, **compute_graph_stats(graph, records)}
    print_graph_stats(stats)
    write_graph_stats(stats, folder)


def _add_export(commands: _Commands) -> None:
    parser = commands.add_parser("export", help="write a model for ONNX Runtime or torch.export")
    parser.add_argument("model", help="a run's folder, a saved model's folder or its Hub name")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument(
        "--format", choices=("onnx", "torch"), default="onnx", help="default: %(default)s"
    )
    parser.add_argument(
        "--int8", action="store_true", help="also with the encoders' linear layers in 8 bits"
    )
    parser.add_argument(
        "--dataset",
        help="movies to compare the exported model on, or 'demo'; default: the run's own",
    )
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="validation",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--max_movies", type=int, default=500, help="of the split; default: %(default)s"
    )
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    from tempfile import TemporaryDirectory

    from mmgenre.configs.arguments import EvaluationArguments
    from mmgenre.data.collator import GenreCollator
    from mmgenre.data.demo import write_demo_movies
    from mmgenre.data.loaders import create_eval_loader
    from mmgenre.data.movies import load_movies
    from mmgenre.inference.export import check_exportable, comparison_table, export_model
    from mmgenre.training.components import create_split
    from mmgenre.training.saved import open_saved
    from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    with TemporaryDirectory() as scratch:
        if args.dataset == "demo":
            args.dataset = str(write_demo_movies(Path(scratch)))
        options = EvaluationArguments(dataset=args.dataset, split=args.split, unknown_genres="drop")
        saved = open_saved(args.model, options)
        check_exportable(saved.model, args.folder, args.format, args.int8)
        movies = load_movies(saved.data, saved.seed, genres=saved.model.config.genres)
        movies.splits[args.split] = movies.split(args.split)[: args.max_movies]
        data = create_split(movies, args.split, saved.model, saved.processor, saved.data)
        comparisons = export_model(
            saved.model,
            saved.processor,
            create_eval_loader(data, 16, GenreCollator(saved.processor), num_workers=0),
            len(data),
            args.folder,
            args.format,
            args.int8,
        )
    print(comparison_table(comparisons))


def _add_explain(commands: _Commands) -> None:
    parser = commands.add_parser("explain", help="show which words and regions make the genres")
    parser.add_argument("model", help="a run's folder, a saved model's folder or its Hub name")
    parser.add_argument("--poster", help="picture file")
    parser.add_argument("--plot", help="text")
    parser.add_argument(
        "--genres", nargs="+", default=[], help="to explain; default: those that are predicted"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.set_defaults(run=_explain)


def _explain(args: argparse.Namespace) -> None:
    from mmgenre.inference.explain import Explainer
    from mmgenre.inference.explanation_page import write_explanation
    from mmgenre.inference.pipeline import GenrePipeline
    from mmgenre.utils.errors import UserError
    from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    explainer = Explainer(GenrePipeline.from_pretrained(args.model))
    try:
        explanation = explainer({"poster": args.poster, "plot": args.plot}, args.genres)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    write_explanation(explanation, args.output)
    for explained in explanation.genres:
        parts = [f"{name} {value:+.3f}" for name, value in explained.contributions.items()]
        print(f"{explained.genre} {explained.probability:.3f}: {', '.join(parts)}")
    print(args.output)


def _add_app(commands: _Commands) -> None:
    parser = commands.add_parser("app", help="try a model in a browser")
    parser.add_argument("model", help="a run's folder, a saved model's folder or its Hub name")
    parser.add_argument("--train_data", help="movies of which similar ones are shown")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; default: %(default)s, which is this machine alone",
    )
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    parser.set_defaults(run=_app)


def _app(args: argparse.Namespace) -> None:
    from mmgenre.constants import SIMILAR_FILE
    from mmgenre.inference.app import run_app
    from mmgenre.inference.pipeline import GenrePipeline
    from mmgenre.utils.errors import UserError
    from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    folder = Path(args.model)
    index = folder / SIMILAR_FILE if folder.is_dir() else None
    try:
        pipeline = GenrePipeline.from_pretrained(args.model)
        run_app(pipeline, args.train_data, index, args.host, args.port)
    except OSError as error:
        raise UserError(
            f"the app cannot listen on {args.host}:{args.port} ({error}); name another --port"
        ) from error


if __name__ == "__main__":
    main()
