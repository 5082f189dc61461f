"""Our metrics as a metric of the Hugging Face evaluate library.

In a file of its own, as importing that library takes seconds.
"""

from collections.abc import Sequence

from datasets import Features, Value
from datasets import Sequence as SequenceFeature

# Sub-modules: a type checker would look for the package's own names in our script evaluate.py.
from evaluate.info import MetricInfo
from evaluate.module import Metric
from numpy.typing import ArrayLike

from mmgenre.evaluation.metrics import compute_metrics


class GenreMetrics(Metric):
    """`compute_metrics` behind `add_batch` and `compute`.

    A subclass, as `evaluate.load` fetches a metric's script from the Hub at run time, and a compute
    node has no network. Predictions are probabilities, references 0 or 1, both
    (batch, num_labels); `compute` takes `thresholds` too. It computes what its own process was
    given: gather first. Nothing is written to disk, so processes cannot meet in a file.
    """

    def __init__(self, genres: Sequence[str]) -> None:
        """Keep what is added in memory.

        Args:
            genres: Names of the columns.
        """
        self.genres = tuple(genres)
        super().__init__(keep_in_memory=True)

    def _info(self) -> MetricInfo:
        return MetricInfo(
            description="F1 (micro, macro, weighted, samples) and mean average precision of genres",
            citation="",
            features=Features(
                {
                    "predictions": SequenceFeature(Value("float64")),
                    "references": SequenceFeature(Value("int8")),
                }
            ),
        )

    def _build_data_dir(self) -> str:
        # The base class makes a cache folder in the home directory even if all is kept in memory.
        return ""

    def _compute(
        self,
        *,
        predictions: ArrayLike,
        references: ArrayLike,
        thresholds: float | Sequence[float] = 0.5,
    ) -> dict[str, float]:
        return compute_metrics(predictions, references, self.genres, thresholds)
