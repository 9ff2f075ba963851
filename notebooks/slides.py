"""Two decks for the lectures, made of the book's own pages, by `make book`.

A lesson is a column of slides: its question; then of each section the first words, the formulas,
the prompts to predict, short code with what it prints, and every figure. What is not shown is in
the speaker's notes (press S). reveal.js comes from the package sphinx-revealjs.
"""

import shutil
import sys
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from bs4 import BeautifulSoup, Tag


class Part(NamedTuple):
    """What a lecture shows of a lesson: what opens it, and its sections but these, or these only."""

    but: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


# The lessons that the tables of lectures.md show, and the sections that 90 minutes have time for.
LECTURES = {
    "lecture-1": (
        "What does a unit know, and what does it cost?",
        {
            "00_quickstart": Part(but=("save-and-reload",)),
            "07_finetune": Part(only=("where-is-it-wrong",)),
            "01_sampling": Part(only=("lengths-and-what-a-unit-costs",)),
            "02_knowledge": Part(but=("small-and-yet-it-decides",)),
            "03_mask_search": Part(but=("what-does-the-search-cost",)),
        },
    ),
    "lecture-2": (
        "Take out and make good",
        {
            "04_pruning": Part(but=("the-same-for-every-sublayer", "what-it-buys")),
            "05_tuning": Part(),
            "06_kprune": Part(but=("where-the-time-went",)),
            "25_hundred_lines": Part(only=("the-loop",)),
            "10_accuracy": Part(),
            "13_ablation": Part(),
            "08_beyond": Part(only=("which-units-stay",)),
        },
    ),
}
LEFT_OUT = ("exercises", "questions")
REVEAL = (
    "LICENSE",
    "dist/reveal.css",
    "dist/reveal.js",
    "dist/theme/white.css",
    "dist/theme/fonts/source-sans-pro/*",
    "plugin/notes/*",
)
WORDS, LINES, ROWS = 60, 14, 10  # that a slide holds
MOST_LINES, MOST_ROWS = 22, 18  # of code with nothing else, of a table in small letters
PAGE = """<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<title>K-prune: {title}</title>
<link rel="stylesheet" href="revealjs/dist/reveal.css">
<link rel="stylesheet" href="revealjs/dist/theme/white.css">
<link rel="stylesheet" href="../_static/pygments.css">
<link rel="stylesheet" href="../_static/slides.css">
<script>window.MathJax = {{options: {{enableMenu: false}}}};</script>
<script defer src="../_static/tex-svg-full.js"></script>
</head>
<body>
<div class="reveal"><div class="slides">
<section><h1>{title}</h1><p>{name}</p></section>
{columns}
</div></div>
<script src="revealjs/dist/reveal.js"></script>
<script src="revealjs/plugin/notes/notes.js"></script>
<script>
Reveal.initialize({{width: 1280, height: 720, margin: 0.06, hash: true, center: false,
  slideNumber: true, plugins: [RevealNotes]}});
</script>
</body>
</html>
"""


class Column:
    """The slides of a lesson; each is a list of pieces of HTML, and one of notes."""

    def __init__(self):
        self.slides, self.notes, self.room = [], [], 0

    def new(self, heading: str, *pieces: object, words: int = 0) -> None:
        """Begin a slide, which has room for so many words more."""
        self.slides.append([f"<h3>{escape(heading)}</h3>", *map(str, pieces)])
        self.notes.append([])
        self.room = words

    def text(self, heading: str, piece: Tag, begin: bool) -> None:
        """Put words on this slide, on a new one where `begin`, or into the notes."""
        count = len(piece.get_text().split())
        if begin:
            self.new(heading, piece, words=WORDS - count)
        elif count <= self.room:
            self.slides[-1].append(str(piece))
            self.room -= count
        else:
            self.notes[-1].append(str(piece))

    def show(self, heading: str, *pieces: Tag) -> None:
        """Put code or a table below words that leave room for it, or on a slide of its own."""
        if self.room < WORDS // 3:
            self.new(heading)
        self.slides[-1] += map(str, pieces)
        self.room = 0

    def html(self) -> str:
        slides = zip(self.slides, self.notes, strict=True)
        return "\n".join(
            f'<section>{"".join(pieces)}<aside class="notes">{"".join(notes)}</aside></section>'
            for pieces, notes in slides
        )


def figure(column: Column, heading: str, image: Tag) -> None:
    shown = f'<img class="r-stretch" src="../{image["src"]}" alt="{escape(image["alt"])}">'
    column.new(heading, shown)


def cell(column: Column, heading: str, block: Tag) -> None:
    """Code that fits, with what it prints; tables that fit; all figures."""
    code = block.select_one("div.cell_input pre")
    printed = block.select("div.cell_output pre")
    hidden = block.find("details") or "tag_parameters" in block["class"]
    lines = sum(len(pre.get_text().strip().split("\n")) for pre in [code, *printed] if pre)
    if code and not hidden and lines <= LINES:
        column.show(heading, code.parent.parent, *printed)
    elif code and not hidden and lines <= MOST_LINES:
        column.new(heading, code.parent.parent, *printed)
    for shown in block.select("div.cell_output :is(table, img, svg)"):
        if shown.find_parent(["details", "svg"]):
            continue
        if shown.name == "img":
            figure(column, heading, shown)
        elif (rows := len(shown.select("tr"))) <= MOST_ROWS:
            whole = shown.parent if shown.name == "svg" else shown
            column.new(heading, f'<div class="long">{whole}</div>' if rows > ROWS else whole)


def section_of(column: Column, section: Tag, heading: str) -> None:
    """The slides of a section, and of those within it."""
    begin = True
    for block in section.find_all(True, recursive=False):
        if block.name == "section":
            name = block.find(["h2", "h3"])
            name.find("a", class_="headerlink").decompose()
            section_of(column, block, name.get_text())
        elif (
            image := block.name in ("p", "img", "figure")
            and block.parent
            and (block if block.name == "img" else block.find("img"))
        ):
            figure(column, heading, image)
        elif block.name == "p" and block.strong and "redict" in block.strong.get_text():
            column.new(heading, f'<div class="predict">{block}</div>')
        elif "cell" in block.get("class", []):
            cell(column, heading, block)
        elif (shown := block.find(["pre", "table"])) and block.name == "div":
            column.show(heading, shown)
        elif block.name in ("p", "ul", "ol") or "math" in block.get("class", []):
            column.text(heading, block, begin)
            begin = False


def deck(site: Path, name: str) -> str:
    title, lessons = LECTURES[name]
    columns = []
    for lesson, part in lessons.items():
        page = BeautifulSoup((site / f"{lesson}.html").read_text(), "html.parser")
        section = page.select_one("article.bd-article > section")
        for link in section.select("a[href]"):
            if ":" not in link["href"]:
                own = f"{lesson}.html" if link["href"].startswith("#") else ""
                link["href"] = f"../{own}{link['href']}"
        heading = section.h1.extract()
        heading.find("a", class_="headerlink").decompose()
        sections = {one["id"]: one for one in section.find_all("section", recursive=False)}
        if unknown := {*part.but, *part.only} - sections.keys():
            raise ValueError(f"slides.py names {unknown}, which {lesson} does not have.")
        for one in (part.only and sections.keys() - {*part.only}) or (*part.but, *LEFT_OUT):
            if one in sections:
                sections[one].decompose()
        column = Column()
        section_of(column, section, heading.get_text())
        columns.append(f'<section data-lesson="{lesson}">{column.html()}</section>')
    columns = "\n".join(columns)
    return PAGE.format(title=title, name=name.replace("-", " ").capitalize(), columns=columns)


def main(site: Path) -> None:
    folder = site / "slides"
    reveal = Path(find_spec("sphinx_revealjs").origin).parent / "_static" / "revealjs"
    for part in REVEAL:
        for file in reveal.glob(part):
            goal = folder / "revealjs" / file.relative_to(reveal)
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, goal)
    for name in LECTURES:
        (folder / f"{name}.html").write_text(deck(site, name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
