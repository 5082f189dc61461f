#!/usr/bin/env python
"""Train a system: `python train.py --recipe NAME` or `accelerate launch train.py --recipe NAME`."""

import logging
from contextlib import suppress

from mmgenre.configs.parser import flatten, parse_train_arguments
from mmgenre.training.preemption import Preemption
from mmgenre.utils.errors import Preempted, exit_on_user_error


def main() -> None:
    config = parse_train_arguments()
    preemption = Preemption()
    preemption.listen()

    # After the arguments, so that --help and a mistyped flag do not wait for torch.
    from mmgenre.data.movies import load_movies
    from mmgenre.training.accelerator import create_accelerator, main_process_first
    from mmgenre.training.components import create_trainer, provide_data
    from mmgenre.training.memory import find_batch_size
    from mmgenre.training.output_dir import check_output_dir, open_run
    from mmgenre.training.tracking import choose_tracker
    from mmgenre.utils.logging import set_up_logging

    set_up_logging()
    training = config.training
    accelerator = create_accelerator(
        training.gradient_accumulation_steps,
        choose_tracker(config.tracking.report_to),
        training.output_dir,
        training.ddp_timeout,
    )
    output_dir = check_output_dir(training)
    with main_process_first(accelerator):
        provide_data(config, output_dir)

    movies = load_movies(config.data, training.seed, scratch_dir=config.data.scratch_dir)
    if movies.manifest is not None:
        config.data.content_hash = movies.manifest.content_hash
    trainer = create_trainer(config, accelerator, movies, output_dir, preemption)
    trainer.resume(training.resume_from_checkpoint)
    if training.auto_find_batch_size:
        find_batch_size(trainer)

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        rejected = [*trainer.dataset.rejected, *trainer.evaluator.dataset.rejected]
        open_run(output_dir, config, rejected, training.overwrite_output_dir)
    try:
        with trainer.tracker.track(flatten(config), trainer.state, trainer.history):
            state = trainer.fit()
            if config.tracking.log_model:
                trainer.tracker.log_model()
    except Preempted:
        # A batch system's SIGTERM goes to W&B's own process as well, which is then gone.
        with suppress(Exception):
            accelerator.end_training()
        raise
    accelerator.end_training()
    logging.getLogger("mmgenre").info(
        "best %s %.4f in epoch %d; `python evaluate.py %s` reports on it",
        training.metric_for_best_model,
        state.best_metric,
        state.best_epoch,
        output_dir,
    )


if __name__ == "__main__":
    with exit_on_user_error("train.py"):
        main()
