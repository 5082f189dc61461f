"""The results table of the literature, as reported; nothing of it was measured here.

Figures are those of the table that the report compares itself with (Seo et al. 2022, table 1, for
the rows it takes from others). Rows differ in label set, split, threshold and selection, so small
differences between them mean little. None: not reported, or not known.
"""

from typing import NamedTuple


class Reported(NamedTuple):
    """A row as reported.

    Attributes:
        system: The paper's name for it.
        source: Where the figures are from.
        split: What they are of.
        threshold: Decision threshold, where the paper or its public code names one.
    """

    system: str
    f1_micro: float
    f1_macro: float
    f1_weighted: float | None
    source: str
    split: str
    threshold: str | None


_TEST = "MM-IMDb test"

# By the recipe that reproduces the row.
LITERATURE = {
    "report": Reported(
        "ResNet50 + BERT, SwiGLU fusion",
        0.639,
        0.523,
        None,
        "the report",
        "MM-IMDb, held-out 15 % of training",
        "0.5",
    ),
    "efficientnet": Reported("EfficientNet", 0.395, 0.314, 0.457, "Seo et al. 2022", _TEST, None),
    "bert": Reported("BERT", 0.645, 0.587, 0.645, "Seo et al. 2022", _TEST, "0.5"),
    "gmu": Reported("GMU", 0.630, 0.541, 0.617, "Arevalo et al. 2017", _TEST, "0.5"),
    # 0.3 is the same group's later public code, not the paper
    "centralnet": Reported("CentralNet", 0.639, 0.561, 0.631, "Vielzeuf et al. 2018", _TEST, None),
    "mmbt": Reported("MMBT", 0.669, 0.618, None, "Kiela et al. 2020", _TEST, "0.5"),
    "mfm": Reported("MFM", 0.675, 0.616, None, "Braz et al. 2021", _TEST, None),
    "refnet": Reported("ReFNet", 0.680, 0.587, None, "Sankaran et al. 2022", _TEST, None),
    # its public code keeps the checkpoint that is best on the test set
    "gat": Reported(
        "GAT with EfficientNet",
        0.500,
        0.394,
        0.506,
        "Seo et al. 2022",
        "MM-IMDb test, also selected on it",
        "0.25",
    ),
    "mm_gatbt": Reported("MM-GATBT", 0.685, 0.645, 0.683, "Seo et al. 2022", _TEST, "0.5"),
}
