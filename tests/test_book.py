"""The course as a site: built from the notebooks as they are saved, whole, without a network."""

import ast
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

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


needs_the_extra = pytest.mark.skipif(
    not find_spec("myst_nb"), reason="the extra `book` is not installed"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def build(source: Path, site: Path, repository: str = "") -> None:
    """A book built of `source`. Warnings are errors: a page in no contents, a link to nowhere."""
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    command += ["--doctree-dir", str(site.with_suffix(".trees"))]
    clean = {name: v for name, v in os.environ.items() if not name.startswith("GITHUB_")}
    done = subprocess.run(
        [*command, str(source), str(site)],
        env=clean | ({"GITHUB_REPOSITORY": repository} if repository else {}),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.fixture(scope="session")
def site(tmp_path_factory, request) -> Path:
    """The built book with its slides: once for all processes, whichever needs it first."""
    base = tmp_path_factory.getbasetemp()
    site = (base.parent if hasattr(request.config, "workerinput") else base) / "book"
    with site.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done := site.with_suffix(".done")).exists():
            build(NOTEBOOKS, site)
            subprocess.run([sys.executable, NOTEBOOKS / "slides.py", site], check=True)
            done.touch()
    return site


@needs_the_extra
def test_the_book_is_whole(site):
    contents = {Path(urlsplit(link).path).stem for link in Page(site / "index.html").links}
    assert contents >= {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert not (found := faults(site)), "\n".join(found)
    script = next(url for url in Page(site / "symbols.html").loads if "tex-svg" in url)
    assert (site / urlsplit(script).path).stat().st_size > 1e6  # MathJax, with its fonts
    lesson = (site / "05_tuning.html").read_text()
    assert {">Solution 1<", ">Solution 2<"} <= {*re.findall(r">Solution \d<", lesson)}
    assert "prev-next" in lesson


@needs_the_extra
@pytest.mark.parametrize("number", [1, 2])
def test_every_notebook_of_a_lecture_is_in_its_deck(site, number):
    """With a figure at least, and not its opening alone."""
    from bs4 import BeautifulSoup

    plan = re.split("^## ", (NOTEBOOKS / "lectures.md").read_text(), flags=re.M)
    (lecture,) = (part for part in plan if part.startswith(f"Lecture {number} "))
    rows = [line for line in lecture.splitlines() if line.startswith("|")]
    named = {*re.findall(r"]\((\d\d_\w+)\.ipynb", "\n".join(rows))}
    page = (site / "slides" / f"lecture-{number}.html").read_text()
    columns = BeautifulSoup(page, "html.parser").select("section[data-lesson]")
    assert named == {column["data-lesson"] for column in columns} and len(named) > 4
    for column in columns:
        assert column.select("img"), column["data-lesson"]


@needs_the_extra
@pytest.mark.skipif(not CHROMIUM, reason="no browser to print with")
def test_the_cheat_sheet_prints_to_one_page(site, tmp_path):
    """Pages are counted in the PDF, where Chromium writes an object for each in plain text."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += ["--virtual-time-budget=8000", f"--print-to-pdf={tmp_path / 'sheet.pdf'}"]
    page = (site / "cheatsheet.html").as_uri()
    subprocess.run([*command, page], capture_output=True, timeout=120, check=True)
    assert len(re.findall(rb"/Type ?/Page\b", (tmp_path / "sheet.pdf").read_bytes())) == 1


def test_no_code_of_the_cheat_sheet_is_cut_in_print():
    """Its columns hold so many letters; what is wider would be cut on paper."""
    text = (NOTEBOOKS / "cheatsheet.md").read_text()
    blocks = re.findall(r"^```\w+\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == 3
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 62


@needs_the_extra
@pytest.mark.parametrize("repository", ["owner/name", ""])
def test_a_public_book_opens_its_lessons_in_colab_and_on_binder(tmp_path, repository):
    """And one without a public address has no button that leads nowhere."""
    (tmp_path / "book").mkdir()
    shutil.copy(NOTEBOOKS / "conf.py", tmp_path / "book")
    shutil.copytree(NOTEBOOKS / "_static", tmp_path / "book" / "_static")
    shutil.copy(NOTEBOOKS / "06_kprune.ipynb", tmp_path / "book" / "a_lesson.ipynb")
    lesson = nbformat.read(tmp_path / "book" / "a_lesson.ipynb", as_version=4)
    lesson.cells = [nbformat.v4.new_markdown_cell("# A lesson"), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(lesson, tmp_path / "book" / "a_lesson.ipynb")
    (tmp_path / "book" / "index.md").write_text("# A book\n")
    (tmp_path / "book" / "_toc.yml").write_text("root: index\nentries:\n- file: a_lesson\n")
    build(tmp_path / "book", tmp_path / "site", repository)
    links = Page(tmp_path / "site" / "a_lesson.html").links
    opened = {
        "https://colab.research.google.com/github/owner/name/blob/main/notebooks/a_lesson.ipynb",
        "https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/notebooks/a_lesson.ipynb",
    }
    assert opened <= {*links} if repository else not [link for link in links if "://" in link]


def test_badges_and_what_installs_the_package_come_by_one_command(tmp_path, monkeypatch):
    """Once, however often it is run; where the package is there, the cell installs nothing."""
    command = [sys.executable, tmp_path / "badges.py"]
    for name in ("badges.py", "02_knowledge.ipynb"):
        shutil.copy(NOTEBOOKS / name, tmp_path)
    before = nbformat.read(tmp_path / "02_knowledge.ipynb", as_version=4).cells
    for words in (["owner/name"], ["else/where", "dev"]):
        subprocess.run([*command, *words], check=True)
    cells = nbformat.read(tmp_path / "02_knowledge.ipynb", as_version=4).cells
    assert [*cells[:1], *cells[3:]] == before
    assert cells[1].source.count("/gh/else/where/dev?") == 1 and "owner/name" not in str(cells)
    assert "/github/else/where/blob/dev/notebooks/02_knowledge.ipynb" in cells[1].source
    code = TransformerManager().transform_cell(cells[2].source)
    asked = []
    shell = types.SimpleNamespace(run_line_magic=lambda *words: asked.append(words))
    exec(code, {"get_ipython": lambda: shell})
    assert not asked
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    exec(code, {"get_ipython": lambda: shell})
    (magic, words), *_ = asked
    assert magic == "pip" and "git+https://github.com/else/where@dev" in words
    bad = subprocess.run([*command, "name"], capture_output=True, text=True)
    assert bad.returncode == 1 and "OWNER/NAME" in bad.stderr


def test_the_first_page_tells_the_lessons_own_time_to_read():
    rows = re.findall(r"\((\w+\.ipynb)\).*?(\d+)&nbsp;min", (NOTEBOOKS / "index.md").read_text())
    assert len(rows) == len([*NOTEBOOKS.glob("*.ipynb")])
    for name, minutes in rows:
        opening = nbformat.read(NOTEBOOKS / name, as_version=4).cells[0].source
        told = re.search(r"(\d+) minutes? to read", opening)
        assert told, f"{name} does not tell how long it takes to read"
        assert told[1] == minutes, f"{name}: {told[0]}, and {minutes} in index.md"


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


def test_the_citation_tells_what_the_package_and_its_references_do():
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [told[name] for name in ("title", "version", "license")] == [
        project[name] for name in ("description", "version", "license")
    ]
    paper = told["preferred-citation"]
    text = (
        (NOTEBOOKS / "references.md").read_text().split("### Park et al. 2024")[1].split("###")[0]
    )
    for author in paper["authors"]:
        assert f"{author['given-names']} {author['family-names']}" in text
    assert f"*{paper['title']}.*" in text and paper["url"] in text
    assert f"ICLR {paper['year']}" in text and paper["conference"]["name"] in text
    assert paper["identifiers"][0]["value"].replace(":", " ") in text
