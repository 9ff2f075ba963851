"""The course as a site: built from the notebooks as they are saved, whole, without a network."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
FETCHED = re.compile(r"(?:https?:)?//")
IN_CSS = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//")
IN_SCRIPT = re.compile(r"<script[^>]*>(?:(?!</script>).)*\bimport\b[^;]*https?://", re.S)


class Page(HTMLParser):
    """What a page links to, loads and shows, and the anchors that it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links, self.loads, self.images = {"", "top"}, [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if (source := found.get(LOADED.get(tag, ""))) and found.get("rel") not in ("next", "prev"):
            self.loads.append(source)
        if tag == "img":
            self.images.append((found.get("src"), found.get("alt") or ""))


def faults(site: Path) -> list[str]:
    """Links and files of a site that lead nowhere, or to a network, and pictures without words."""
    ours = (path for path in site.rglob("*.html") if not {"_static", "revealjs"} & {*path.parts})
    pages = {path: Page(path) for path in ours}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name} fetches {url}" for url in page.loads if FETCHED.match(url)]
        found += [f"{name} imports over a network"] * bool(IN_SCRIPT.search(path.read_text()))
        for url in page.links + page.loads:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not goal.is_file():
                found.append(f"{name} links to {url}, which is not there")
            elif goal in pages and unquote(parts.fragment) not in pages[goal].anchors:
                found.append(f"{name} links to {url}, which has no such place")
        for source, words in page.images:
            if not words or words.endswith(Path(source).suffix):
                found.append(f"{name}: {source} says nothing to who cannot see it")
    for sheet in site.rglob("*.css"):
        found += [f"{sheet.name} fetches"] * bool(IN_CSS.search(sheet.read_text()))
    return found


@pytest.mark.skipif(not find_spec("myst_nb"), reason="the extra `book` is not installed")
def test_the_book_is_whole(tmp_path):
    """Warnings are errors: a page in no table of contents, a link or drawing that is not there."""
    site = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    command += ["--doctree-dir", str(tmp_path / "trees")]
    done = subprocess.run(
        [*command, str(NOTEBOOKS), str(site)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-5000:]
    subprocess.run([sys.executable, NOTEBOOKS / "slides.py", site], check=True)
    contents = {Path(urlsplit(link).path).stem for link in Page(site / "index.html").links}
    assert contents >= {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert not (found := faults(site)), "\n".join(found)
    script = next(url for url in Page(site / "symbols.html").loads if "tex-svg" in url)
    assert (site / urlsplit(script).path).stat().st_size > 1e6  # MathJax, with its fonts
    lesson = (site / "05_tuning.html").read_text()
    assert lesson.count(">Solution<") >= 2 and "prev-next" in lesson


def test_the_first_page_tells_the_lessons_own_time_to_read():
    rows = re.findall(r"\((\w+\.ipynb)\).*?(\d+)&nbsp;min", (NOTEBOOKS / "index.md").read_text())
    assert len(rows) == len([*NOTEBOOKS.glob("*.ipynb")])
    for name, minutes in rows:
        opening = nbformat.read(NOTEBOOKS / name, as_version=4).cells[0].source
        told = re.search(r"(\d+) minutes? to read", opening)
        assert not told or told[1] == minutes, f"{name}: {told[0]}, and {minutes} in index.md"


def said() -> list[str]:
    """All texts in the package, with … where a value stands, and messages over several lines."""
    found = []
    for path in (ROOT / "kprune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", None) for part in node.values)
                found.append("".join(part if isinstance(part, str) else "…" for part in parts))
    return found


def test_troubleshooting_quotes_messages_that_exist():
    lines = (NOTEBOOKS / "troubleshooting.md").read_text().split("\n")
    texts = said()
    quoted = [line.removeprefix("> ") for line in lines if line.startswith("> ")]
    assert len(quoted) > 30
    for message in quoted:
        for piece in filter(None, (part.strip(" .") for part in message.split("…"))):
            assert any(piece in text for text in texts), f"{piece!r} of {message!r}"
