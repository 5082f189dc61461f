"""`mmgenre app`: a page to try a model in a browser.

It asks for nothing from outside, and tells nobody anything: no analytics, no shared link, fonts of
the reader's own system. It listens on this machine alone unless it is told another address.
"""

import html
import io
import os
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

# Read when they are imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

try:
    import gradio as gr
except ImportError as error:
    from mmgenre.utils.errors import UserError

    raise UserError("the app needs gradio; pip install 'mmgenre[app]'") from error

from mmgenre.data.demo import write_demo_movies
from mmgenre.data.readers import read_movies
from mmgenre.data.records import MovieRecord
from mmgenre.inference.explain import Explainer
from mmgenre.inference.explanation_page import render_page
from mmgenre.inference.pipeline import GenrePipeline, Movie, Prediction
from mmgenre.inference.similar import SimilarMovies
from mmgenre.models.pictures import open_poster

MAX_POSTER_MEGABYTES = 20
MAX_PLOT_CHARACTERS = 20_000
_NUM_SIMILAR = 6
_EXAMPLES = 3
_THUMBNAIL = (200, 300)
_WAITING = 32  # people in the queue

_CSS = """
.genres { display: grid; gap: 6px; margin: 0; }
.genres div {
  display: grid; grid-template-columns: 7em 1fr 3em 7em; align-items: center; gap: 8px;
}
.genres .is-predicted { font-weight: 600; }
.genres meter { width: 100%; height: 14px; }
.genres span { text-align: right; font-variant-numeric: tabular-nums; }
.similar {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 14px;
  list-style: none; padding: 0; margin: 0;
}
.similar li { margin: 0; font-size: 14px; line-height: 1.35; overflow-wrap: anywhere; }
.similar img, .similar .missing {
  display: block; width: 100%; aspect-ratio: 2 / 3; object-fit: cover; border-radius: 6px;
  background: #8884; margin: 0 0 6px;
}
iframe.explanation { width: 100%; height: 640px; border: 0; }
"""
_TEMPLATES = Environment(autoescape=True)  # genres and titles are other people's text
_GENRES = _TEMPLATES.from_string(
    """<p role="status">{% if genres %}Genres: {{ genres | join(", ") }}
{%- else %}No genre is probable enough.{% endif %}</p>
<div class="genres">
{% for genre, p, threshold in rows %}
<div{% if p > threshold %} class="is-predicted"{% endif %}>{{ genre }}
  <meter min="0" max="1" value="{{ p }}" aria-label="{{ genre }}"></meter>
  <span>{{ "%.2f" | format(p) }}</span><span>needs {{ "%.2f" | format(threshold) }}</span></div>
{% endfor %}
</div>
"""
)
_SIMILAR = _TEMPLATES.from_string(
    """<h3>Similar movies of the training set</h3>
<ul class="similar">
{% for record, cosine, poster in movies %}
<li>{% if poster %}<img src="{{ poster }}" alt="">{% else %}<div class="missing"></div>{% endif %}
  <b>{{ record.title or record.id }}</b>{% if record.year %} ({{ record.year }}){% endif %}<br>
  {{ record.genres | join(", ") }}<br>similarity {{ "%.2f" | format(cosine) }}</li>
{% endfor %}
</ul>
"""
)


def create_app(
    pipeline: GenrePipeline, similar: SimilarMovies | None, examples: Sequence[Sequence[Any]]
) -> gr.Blocks:
    """The page.

    Args:
        similar: Movies to show the nearest of; None leaves that part out.
        examples: Poster files and plots.
    """
    explainer = Explainer(pipeline)

    def predict(poster: str | None, plot: str | None) -> Iterator[tuple[str, str, str]]:
        """Genres and similar movies at once, the explanation when it is there."""
        movie = {"poster": poster, "plot": plot}
        prediction = next(pipeline.stream([movie]))
        if "error" in prediction:
            message = prediction["error"].replace(str(poster), Path(str(poster)).name)
            raise gr.Error(html.escape(message), duration=None, print_exception=False)
        table = _table(pipeline, prediction)
        others = "" if similar is None else _others(similar, movie)
        yield table, others, "<p>Explaining ...</p>"
        page = render_page(explainer(movie))
        frame = f'srcdoc="{html.escape(page)}" sandbox="" title="Explanation"'
        yield table, others, f'<iframe class="explanation" {frame}></iframe>'

    with gr.Blocks(title="mmgenre", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        gr.Markdown("# Genres of a movie\nFrom its poster, its plot, or both.")
        with gr.Row():
            with gr.Column():
                poster = gr.Image(
                    label="Poster",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=360,
                    buttons=[],
                )
                # Gradio's own would decode the file, without the pipeline's limits and sentences.
                poster.preprocess = lambda payload: payload and payload.path
                plot = gr.Textbox(label="Plot", lines=6, max_length=MAX_PLOT_CHARACTERS)
                button = gr.Button("Predict", variant="primary")
            with gr.Column():
                genres = gr.HTML(label="Genres")
                others = gr.HTML(label="Similar movies")
        explanation = gr.HTML(label="Explanation")
        gr.Examples([list(example) for example in examples], [poster, plot])
        button.click(
            predict,
            [poster, plot],
            [genres, others, explanation],
            # One at a time: explaining puts other word embeddings into the model meanwhile.
            concurrency_limit=1,
            api_visibility="private",
        )
    return app.queue(max_size=_WAITING)


def run_app(
    pipeline: GenrePipeline,
    train_data: str | None,
    index: Path | None,
    host: str,
    port: int,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        train_data: Data set whose training movies are looked for similar ones.
        index: File to keep their embeddings in.

    Raises:
        UserError: The data set cannot be read.
        OSError: The port is taken.
    """
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["GRADIO_TEMP_DIR"] = scratch
        similar = None
        if train_data is not None:
            records = [r for r in read_movies(train_data) if r.split in (None, "train")]
            similar = SimilarMovies.build(pipeline, records, index)
        examples = _examples(Path(scratch) / "examples")
        create_app(pipeline, similar, examples).launch(
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=MAX_POSTER_MEGABYTES * 1024 * 1024,
            ssr_mode=False,
            footer_links=[],
            enable_monitoring=False,
            theme=gr.themes.Base(
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=_CSS,
        )


def _table(pipeline: GenrePipeline, prediction: Prediction) -> str:
    rows = zip(
        pipeline.genres, prediction["probabilities"].values(), pipeline.thresholds, strict=True
    )
    return _GENRES.render(rows=sorted(rows, key=lambda row: -row[1]), genres=prediction["genres"])


def _others(similar: SimilarMovies, movie: Movie) -> str:
    nearest = similar.nearest(similar.pipeline.encode(movie), _NUM_SIMILAR)
    return _SIMILAR.render(movies=[(r, cosine, _thumbnail(r)) for r, cosine in nearest])


def _thumbnail(record: MovieRecord) -> str | None:
    """A small JPEG as a `data:` address; None where there is no poster that decodes."""
    if record.poster is None:
        return None
    try:
        picture = open_poster(io.BytesIO(record.poster.read()), min(_THUMBNAIL))
    except OSError:
        return None
    picture.thumbnail(_THUMBNAIL)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def _examples(folder: Path) -> list[tuple[str, str]]:
    """Movies that are drawn here, so that nobody's are shown."""
    movies = read_movies(str(write_demo_movies(folder, num_movies=60)), "folder")
    whole = [m for m in movies if m.plot and m.poster is not None]
    return [(str(m.poster.name), m.plot) for m in whole[:_EXAMPLES] if m.poster and m.plot]
