#!/usr/bin/env python
"""Evaluate a training run or a saved model: `python evaluate.py RUN_OR_MODEL`."""

import sys

if __name__ == "evaluate":
    # Imported, not run: a library that does `import evaluate` with this folder on the path means
    # Hugging Face's evaluate, so hand over to it.
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from pathlib import Path

    here = Path(__file__).resolve().parent
    spec = PathFinder.find_spec(__name__, [p for p in sys.path if Path(p).resolve() != here])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("the library evaluate is not installed", name=__name__)
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])


def main() -> None:
    from mmgenre.configs.parser import parse_evaluation_arguments

    run_or_model, args = parse_evaluation_arguments()

    from mmgenre.constants import REPORT_FILE
    from mmgenre.data.movies import load_movies
    from mmgenre.evaluation.metrics import per_genre_metrics
    from mmgenre.evaluation.report import write_report
    from mmgenre.training.accelerator import create_accelerator
    from mmgenre.training.components import create_evaluator, create_split
    from mmgenre.training.graph_nodes import create_nodes
    from mmgenre.training.saved import open_saved
    from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    accelerator = create_accelerator()
    saved = open_saved(run_or_model, args)
    movies = load_movies(saved.data, saved.seed, genres=saved.model.config.genres)
    nodes = create_nodes(
        accelerator,
        saved.model,
        saved.processor,
        movies,
        saved.data,
        saved.batch_size,
        saved.run_dir,
    )
    dataset = create_split(movies, args.split, saved.model, saved.processor, saved.data, nodes)
    evaluator = create_evaluator(
        accelerator,
        dataset,
        saved.model.config,
        saved.processor,
        saved.batch_size,
        saved.data.dataloader_num_workers,
    )
    evaluation = evaluator.evaluate(accelerator.prepare(saved.model))
    if accelerator.is_main_process:
        genres = saved.model.config.genres
        write_report(
            saved.report_dir,
            metrics={"loss": evaluation.loss, **evaluation.metrics},
            per_genre=per_genre_metrics(
                evaluation.probabilities, evaluation.labels, genres, evaluator.thresholds
            ),
            ids=[record.id for record in dataset.records],
            probabilities=evaluation.probabilities,
            labels=evaluation.labels,
            genres=genres,
            context=saved.context(args.split, len(dataset), accelerator.mixed_precision),
        )
        print((saved.report_dir / REPORT_FILE).read_text(encoding="utf-8"))
    accelerator.end_training()


if __name__ == "__main__":
    from mmgenre.utils.errors import exit_on_user_error

    with exit_on_user_error("evaluate.py"):
        main()
