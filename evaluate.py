#!/usr/bin/env python
"""Evaluate a training run or a saved model: `python evaluate.py RUN_OR_MODEL`."""

import sys

if __name__ == "evaluate":
    # Imported, not run: a library that does `import evaluate` with this folder on the path means
    # Hugging Face's evaluate, so hand over to it, and to no other checkout's file of this name.
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from pathlib import Path

    packages = [p for p in sys.path if (Path(p) / "evaluate" / "__init__.py").is_file()]
    spec = PathFinder.find_spec(__name__, packages)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("the library evaluate is not installed", name=__name__)
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])


def main() -> None:
    from mmgenre.configs.parser import parse_evaluation_arguments

    run_or_model, args = parse_evaluation_arguments()

    from mmgenre.constants import REPORT_FILE
    from mmgenre.data.movies import load_movies
    from mmgenre.evaluation.ablations import ablate
    from mmgenre.evaluation.analysis import analyse
    from mmgenre.evaluation.mistakes import find_mistakes
    from mmgenre.evaluation.report import write_report
    from mmgenre.evaluation.thresholds import fit_thresholds
    from mmgenre.models.pictures import open_poster
    from mmgenre.training.accelerator import create_accelerator
    from mmgenre.training.components import create_split
    from mmgenre.training.graph_nodes import create_nodes
    from mmgenre.training.saved import open_saved
    from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    accelerator = create_accelerator()
    saved = open_saved(run_or_model, args)
    config = saved.model.config
    movies = load_movies(saved.data, saved.seed, genres=config.genres)
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
    model = accelerator.prepare(saved.model)
    evaluation = saved.evaluate(accelerator, model, dataset)
    if args.fit_thresholds is not None:
        config.thresholds = fit_thresholds(
            evaluation.probabilities, evaluation.labels, config.genres, args.fit_thresholds
        )
    ablations = []
    if args.ablations:
        for ablation in ablate(dataset.records, saved.processor.modalities, saved.seed):
            changed = dataset.with_records(ablation.records)
            ablations.append((ablation, saved.evaluate(accelerator, model, changed)))

    if accelerator.is_main_process:
        if args.fit_thresholds is not None:
            saved.store_thresholds()
        genres = config.genres if args.dataset is None else movies.shared_genres()
        predictions = saved.predictions(evaluation, dataset, args.split).select(genres)
        figures = analyse(predictions)
        figures["overall"]["loss"] = evaluation.loss
        figures["ablations"] = [
            ablation.row(saved.predictions(changed, dataset, args.split).select(genres))
            for ablation, changed in ablations
        ]
        context = saved.context(args.split, len(dataset), accelerator.mixed_precision)
        write_report(
            saved.report_dir,
            predictions,
            figures,
            context | movies.dropped_genres(genres),
            find_mistakes(predictions, dataset.records, open_poster),
            saved.curves,
        )
        print((saved.report_dir / REPORT_FILE).read_text(encoding="utf-8"))
    accelerator.end_training()


if __name__ == "__main__":
    from mmgenre.utils.errors import exit_on_user_error

    with exit_on_user_error("evaluate.py"):
        main()
