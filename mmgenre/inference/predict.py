"""`mmgenre predict`: movies in, genres out, as a stream."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain, islice, tee
from pathlib import Path

from mmgenre.inference.inputs import NamedMovie, read_inputs
from mmgenre.inference.outputs import Output, check_output, find_format, open_output
from mmgenre.inference.pipeline import GenrePipeline
from mmgenre.utils.errors import Preempted, UserError
from mmgenre.utils.logging import log_progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictOptions:
    """Where predictions go, and how they are made.

    Attributes:
        output: None is standard output.
        format: One of `outputs.FORMATS`; None is that of the output's suffix, or JSON lines.
        plot: As in `read_inputs`.
        resume: Go on behind the rows that are in the output.
    """

    output: Path | None = None
    format: str | None = None
    plot: str | None = None
    batch_size: int = 16
    device: str | None = None
    overwrite: bool = False
    resume: bool = False


def predict(
    model: str,
    inputs: list[str],
    options: PredictOptions,
    check_signals: Callable[[], None] = lambda: None,
) -> None:
    """Predict the movies of `inputs` (see `read_inputs`), a row a movie, in their order.

    Args:
        check_signals: Raises where a signal asked to stop; called between movies.

    Raises:
        UserError: The model, an input or the output cannot be used; rows before it are written.
        KeyboardInterrupt, Preempted: A signal came; says where the rows before it are.
    """
    path = options.output
    file_format = find_format(path, options.format)
    if path is not None:
        check_output(path, inputs, options.overwrite, options.resume)
    elif options.resume:
        raise UserError("--resume needs the --output FILE that it goes on with")
    read = read_inputs(inputs, options.plot)
    named = ((" ".join(name.splitlines()), movie) for name, movie in read)  # ids are a line in CSV
    # A table that is none is known before the model is loaded.
    movies = chain(list(islice(named, 1)), named)
    pipeline = GenrePipeline.from_pretrained(model, options.device, options.batch_size)
    hint = "" if path is None else f"; what is in {path} is whole, and --resume goes on"
    output = open_output(path, file_format, pipeline.genres, options.resume)
    try:
        with closing(output):
            if options.resume:
                _skip_written(movies, output, inputs)
            write_predictions(pipeline, movies, output, path is not None, check_signals)
    except BrokenPipeError:
        # As of other Unix tools: whoever reads has enough, as `head` does.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    except OSError as error:
        raise UserError(f"the output cannot be written ({error.strerror}){hint}") from error
    except (KeyboardInterrupt, Preempted) as stop:
        raise type(stop)(f"{stop}{hint}") from None


def _skip_written(movies: Iterator[NamedMovie], output: Output, inputs: list[str]) -> None:
    """Take the movies from `movies` that the output has."""
    count = 0
    for written in output.written():
        count += 1
        movie_id, _ = next(movies, (None, {}))
        if movie_id != written:
            raise UserError(
                f"the output was written for other movies: its row {count} is {written!r}, and "
                f"{' '.join(inputs)} has {movie_id!r} there; --overwrite starts anew"
            )
    logger.info("%d movies are in the output already", count)


def write_predictions(
    pipeline: GenrePipeline,
    movies: Iterator[NamedMovie],
    output: Output,
    is_shown: bool,
    check_signals: Callable[[], None] = lambda: None,
) -> None:
    """Predict movies and write them down, and say how far it is.

    Args:
        is_shown: Also where standard output is a terminal, whose rows would tear a bar.
        check_signals: As in `predict`.

    Raises:
        OSError: The output cannot be written.
    """
    named, given = tee(movies)
    number = failures = 0
    is_shown = is_shown or not sys.stdout.isatty()
    progress = log_progress(logger, "predicted", None, "movies") if is_shown else nullcontext()
    with progress as advance, closing(pipeline.stream(movie for _, movie in given)) as predictions:
        for movie_id, _ in named:
            check_signals()
            prediction = next(predictions)
            number += 1
            output.write(movie_id, prediction)
            failures += "error" in prediction
            if advance is not None:
                advance(1)
    if is_shown:
        logger.info("predicted %d movies", number - failures)
    if failures:
        logger.warning("%d of %d movies could not be predicted; see error", failures, number)
