"""`report.html`: one file that shows a report in a browser, without a script or another file."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmgenre.evaluation.mistakes import Mistake
from mmgenre.evaluation.plots import PALETTE, Plot, TrainingCurves
from mmgenre.evaluation.sections import Section, format_cell

_HEADLINES = {
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "f1_weighted": "weighted F1",
    "map_macro": "mAP",
}


def render_page(
    figures: Mapping[str, Any],
    context: Mapping[str, str | int | float],
    sections: Sequence[Section],
    plots: Mapping[str, Plot],
    mistakes: Mapping[str, Sequence[Mistake]] | None,
    curves: TrainingCurves | None,
    notes: Mapping[str, str],
) -> str:
    """The page.

    Args:
        figures: From `analyse`.
        context: What was evaluated.
        plots: From `draw_plots`.
        mistakes: From `find_mistakes`; without them the page has no section on them.
        notes: Name of a plot that is not there to a sentence in its place.
    """
    environment = Environment(
        loader=PackageLoader("mmgenre.evaluation", "."),
        # Titles, plots and genres are other people's text.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = format_cell
    return environment.get_template("report.html.jinja").render(
        palette=PALETTE,
        headlines=_HEADLINES,
        figures=figures,
        context=context,
        sections={section.title: section for section in sections},
        # matplotlib's XML, in which text is escaped already.
        plots={name: [Markup(svg) for svg in plot.svgs] for name, plot in plots.items()},
        mistakes=mistakes,
        curves=curves,
        notes=notes,
    )
