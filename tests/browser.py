"""Pages in Chromium, for tests that are marked `browser`: fixtures, and what can be wrong there."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
PHONE, DESKTOP = 390, 1280  # widths in pixels

# The visible elements with text of their own: the text, its WCAG contrast with what is behind it,
# its height on the screen. Colours are taken to be opaque, as they have to be.
_TEXTS = """() => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const isThere = color => { const n = numbers(color); return n.length < 4 || n[3] > 0; };
  const luminance = color => {
    const [r, g, b] = numbers(color).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement)
      if (isThere(getComputedStyle(e).backgroundColor)) return getComputedStyle(e).backgroundColor;
    return "rgb(255, 255, 255)";
  };
  const texts = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].filter(n => n.nodeType === 3 && n.data.trim());
    if (!own.length || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const svg = element.closest("svg");
    const color = svg ? style.fill : style.color;
    const [a, b] = [luminance(color), luminance(behind(element))].sort((x, y) => y - x);
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    texts.push({
      text: own[0].data.trim().slice(0, 40),
      contrast: (a + 0.05) / (b + 0.05),
      size: parseFloat(style.fontSize) * scale,
    });
  }
  return texts;
}"""
# Pairs of texts of one drawing that lie on each other, by more than a pixel each way.
_OVERLAPS = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
  const boxes = [...svg.querySelectorAll("text")]
    .map(t => [t.textContent, t.getBoundingClientRect()]);
  return boxes.flatMap(([text, a], index) => boxes.slice(index + 1)
    .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
                    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
    .map(([other]) => text + " / " + other));
})"""
# Drawn text that leaves its drawing, by more than a pixel.
_CUT_OFF = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
  const a = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(t => {
    const b = t.getBoundingClientRect();
    return b.left < a.left - 1 || b.right > a.right + 1
        || b.top < a.top - 1 || b.bottom > a.bottom + 1;
  }).map(t => t.textContent);
})"""
_MISSING = """async () => {
  await Promise.all([...document.images].map(i => i.decode().catch(() => {})));
  return [...document.images].filter(i => !i.naturalWidth).map(i => i.alt || i.src.slice(0, 60));
}"""


@dataclass
class Visit:
    """An open page, and what happened while it was open.

    Attributes:
        problems: Errors and warnings of its console, and uncaught exceptions.
        requests: Addresses that it asked for, but for `data:`; the first is its own.
    """

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def note_request(self, request: Any) -> None:
        if not request.url.startswith("data:"):
            self.requests.append(request.url)

    def note_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    @property
    def missing_pictures(self) -> list[str]:
        return self.page.evaluate(_MISSING)

    @property
    def overlapping_labels(self) -> list[str]:
        return self.page.evaluate(_OVERLAPS)

    @property
    def labels_cut_off(self) -> list[str]:
        return self.page.evaluate(_CUT_OFF)

    def hard_to_read(self, contrast: float = 4.5, size: float = 9) -> list[dict[str, Any]]:
        """Texts of less contrast (WCAG 2 AA asks for 4.5) or of fewer pixels."""
        texts = self.page.evaluate(_TEXTS)
        assert texts
        return [text for text in texts if text["contrast"] < contrast or text["size"] < size]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser. Not for the whole session: playwright's event loop would be in others' way."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian, Ubuntu: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[[str, int, str], Visit]]:
    """Open an address in a window of a width, `light` or `dark`."""
    contexts = []

    def open_page(url: str, width: int, color_scheme: str) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=color_scheme
        )
        contexts.append(context)
        visit = Visit(context.new_page())
        visit.page.on("console", visit.note_message)
        visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
        visit.page.on("request", visit.note_request)
        visit.page.goto(url)
        return visit

    yield open_page
    for context in contexts:
        context.close()
