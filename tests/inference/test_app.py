"""The app in a real browser: `python -m pytest -m browser`."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import DESKTOP, PHONE, Visit
from posters import png_of_size
from tiny import ROOT

pytest.importorskip("gradio", reason="needs pip install 'mmgenre[app]'")
pytestmark = pytest.mark.browser

# Of Gradio's own page.
IGNORED = "Method not implemented."
SECONDS = 120_000
HOSTILE = "</p></iframe><img src=x onerror=console.error(1)>"


@pytest.fixture(scope="module")
def train_data(demo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Movies whose titles are no plain text."""
    folder = shutil.copytree(demo_dir, tmp_path_factory.mktemp("data") / "movies")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").open()]
    with (folder / "metadata.jsonl").open("w") as file:
        file.writelines(f"{json.dumps(row | {'title': HOSTILE})}\n" for row in rows)
    return folder


@pytest.fixture(scope="module")
def address(trained_run: Path, train_data: Path, tmp_path_factory) -> Iterator[str]:
    """A running app; its process is ended by Ctrl-C."""
    log = tmp_path_factory.mktemp("app") / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mmgenre.cli", "app", trained_run, "--train_data", train_data]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*map(str, command), "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        assert process.stdout is not None
        running = any("Running on local URL" in line for line in process.stdout)
        assert running, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture
def poster(demo_dir: Path) -> str:
    return str(sorted((demo_dir / "posters").glob("*.jpg"))[1])


def open_app(visit: Any, address: str, width: int = DESKTOP) -> Visit:
    opened = visit(address, width, "light")
    opened.page.set_default_timeout(SECONDS)
    opened.page.get_by_role("button", name="Predict").wait_for()
    return opened


def upload(opened: Visit, path: str) -> None:
    with opened.page.expect_response(lambda response: "/upload?" in response.url):
        opened.page.locator("input[type=file]").first.set_input_files(path)


def predict(opened: Visit) -> None:
    opened.page.get_by_role("button", name="Predict").click()


def error_of(opened: Visit) -> str:
    return opened.page.locator("[data-testid=toast-body]").inner_text()


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_poster_and_a_plot_give_genres_an_explanation_and_similar_movies(
    visit, address, width, poster, pipeline
):
    opened = open_app(visit, address, width)
    upload(opened, poster)
    opened.page.get_by_label("Plot").fill("A duel at dawn.")
    opened.page.locator(f"img[src*={Path(poster).stem}]").first.wait_for()
    predict(opened)
    rows = opened.page.locator(".genres div")
    rows.first.wait_for()
    shown = {}
    for row in rows.all():
        genre, p, threshold = row.inner_text().split("\n")
        assert threshold == "needs 0.50"
        shown[genre.strip()] = float(p)
    expected = pipeline({"poster": poster, "plot": "A duel at dawn."})["probabilities"]
    assert shown == pytest.approx(expected, abs=0.006)
    frame = opened.page.frame_locator("iframe.explanation")
    frame.locator("h2").first.wait_for()
    assert frame.locator("img").first.get_attribute("src").startswith("data:")
    assert "duel" in frame.locator(".plot").first.inner_text()
    assert opened.page.locator(".similar b").all_inner_texts() == [HOSTILE] * 6
    assert opened.overflow == 0
    assert not [url for url in opened.requests if not url.startswith((address, "blob:"))]
    assert not [problem for problem in opened.problems if problem != IGNORED]


def test_an_example_is_filled_in(visit, address):
    opened = open_app(visit, address)
    opened.page.locator("tbody tr").first.click()
    opened.page.locator("button[aria-label='Clear'], img[src*='posters']").first.wait_for()
    predict(opened)
    opened.page.locator("p[role=status]").wait_for()


BAD = {
    "no picture": (b"<html>404</html>", r"poster 'bad.jpg' cannot be read \(not a picture\)"),
    "a bomb": (png_of_size(20_000, 10_000), "poster 'bad.jpg' cannot be read .*decompression bomb"),
    "50 MB": (bytes(50 * 1024 * 1024), "exceed the maximum allowed size of 20.0 Mb"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence(visit, address, name, tmp_path):
    content, message = BAD[name]
    (tmp_path / "bad.jpg").write_bytes(content)
    opened = open_app(visit, address)
    if name == "50 MB":
        opened.page.locator("input[type=file]").first.set_input_files(tmp_path / "bad.jpg")
    else:
        upload(opened, str(tmp_path / "bad.jpg"))
        opened.page.get_by_label("Plot").fill("A duel.")
        opened.page.locator("img[src*='bad.jpg']").first.wait_for(state="attached")
        predict(opened)
    opened.page.locator("[data-testid=toast-body]").wait_for()
    assert re.search(message, error_of(opened))


def test_nothing_at_all_is_one_sentence(visit, address):
    opened = open_app(visit, address)
    predict(opened)
    opened.page.locator("[data-testid=toast-body]").wait_for()
    assert "there is no poster and no plot" in error_of(opened)


def test_html_in_a_plot_is_text(visit, address):
    opened = open_app(visit, address)
    opened.page.get_by_label("Plot").fill(HOSTILE)
    predict(opened)
    frame = opened.page.frame_locator("iframe.explanation")
    assert frame.locator(".plot").first.inner_text() == HOSTILE
    assert not [problem for problem in opened.problems if problem != IGNORED]


def test_two_users_at_once_get_their_own(visit, address, pipeline):
    plots = ["A duel at dawn.", "Two dogs run a bar on the moon."]
    opened = [open_app(visit, address) for _ in plots]
    for visitor, plot in zip(opened, plots, strict=True):
        visitor.page.get_by_label("Plot").fill(plot)
    for visitor in opened:
        predict(visitor)
    for visitor, plot in zip(opened, plots, strict=True):
        frame = visitor.page.frame_locator("iframe.explanation")
        assert frame.locator(".plot").first.inner_text() == plot
        best = max(pipeline({"plot": plot})["probabilities"].values())
        shown = visitor.page.locator(".genres div span").first.inner_text()
        assert float(shown) == pytest.approx(best, abs=0.006)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "{run}/config.yaml"])
def test_files_of_this_machine_are_not_served(address, path, trained_run):
    url = f"{address}/gradio_api/file={path.format(run=trained_run)}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=60)
    assert refused.value.code in (403, 404)


def test_only_this_machine_is_listened_to(address):
    port = int(address.rpartition(":")[2])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    hosts = {row[1].split(":")[0] for row in listening if row[1].endswith(f":{port:04X}")}
    assert hosts == {"0100007F"}
