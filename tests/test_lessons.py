"""The core course keeps what it promises: short lessons, a drawing first, readings that hold."""

import re
import statistics
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# The core course is what the first page says it is.
LISTED = (FOLDER / "index.md").read_text().split("## Core course")[1].split("\n## ")[0]
CORE = [FOLDER / name for name in re.findall(r"]\((\d\d_\w+\.ipynb)\)", LISTED)]
# All but reports, which compute nothing: they draw records, of whatever commits these are.
RUN = [p for p in NOTEBOOKS if p.stem[:2] < "10" or p.stem[:2] in ("21", "23", "25", "26", "27")]
# A whole implementation is what 25 is there to show, so its code may be long.
WITH_LONG_CODE = ("25_hundred_lines",)
GRADES = "derive", "write", "explore"
PRIVATE = re.compile(r"/(?:home|root|tmp|work|Users|mnt)/\S+|\b[A-Z]:\\\S+|\w*Warning\b")


def cells(path: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def lines(cell: nbformat.NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def lesson(path: Path) -> list[nbformat.NotebookNode]:
    """A lesson's cells up to its exercises, and that cell without them."""
    found = []
    for cell in cells(path):
        before, exercises, _ = cell.source.partition("## Exercises")
        found.append(nbformat.from_dict({**cell, "source": before}))
        if exercises:
            return found
    raise AssertionError(f"{path.stem} has no exercises")


def texts(found: list[nbformat.NotebookNode]) -> str:
    return "\n".join(cell.source for cell in found if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_a_core_lesson_is_short(path):
    """Words and lines that a reader sees: what is folded, and the parameters, are apart."""
    found = lesson(path)
    words = re.sub(r"!\[[^]]*]", "", texts(found)).split()
    assert len(words) <= 700, len(words)
    if path.stem in WITH_LONG_CODE:
        return
    code = [cell for cell in found if cell.cell_type == "code"]
    seen = [lines(cell) for cell in code if not {"parameters", "hide-input"} & {*tags(cell)}]
    assert sum(seen) <= 60 and statistics.median(seen) <= 8 and max(seen) <= 20, seen


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_a_drawing_comes_before_the_first_formula(path):
    text = texts(lesson(path))
    drawing, formula = text.find("](drawings/"), text.find("$$")
    assert drawing >= 0 or formula < 0, "a formula without a drawing"
    assert formula < 0 or drawing < formula
    for name in re.findall(r"]\((drawings/[^)]+)\)", text):
        assert (path.parent / name).is_file(), name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_and_set_up_are_folded(path):
    code = [cell for cell in cells(path) if cell.cell_type == "code"]
    assert "parameters" in tags(code[0])
    assert "import " in code[1].source
    for cell in code[:2]:
        assert "hide-input" in tags(cell) and cell.metadata["jupyter"]["source_hidden"]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_a_core_lesson_shows_no_imports(path):
    code = [cell for cell in cells(path) if cell.cell_type == "code"]
    shown = [cell for cell in code[2:] if not {"hide-input", "solution"} & {*tags(cell)}]
    for cell in shown:
        assert not re.search(r"^(import|from) ", cell.source, re.M), cell.source[:80]


@pytest.mark.parametrize("path", sorted({*CORE, *RUN}), ids=lambda path: path.stem)
def test_exercises_are_of_three_grades_with_scaffold_check_and_folded_solution(path):
    found = cells(path)
    text = texts(found).partition("## Exercises")[2]
    grades = re.findall(r"^\d\. \((\w+)\)", text, re.M)
    assert {*grades} == {*GRADES}
    assert len(grades) == len(re.findall(r"^\d\. ", text, re.M))
    scaffolds = [number for number, cell in enumerate(found) if "scaffold" in tags(cell)]
    assert len(scaffolds) == grades.count("write")
    for number in scaffolds:
        assert "raise NotImplementedError" in found[number].source
        name = re.findall(r"^def (\w+)\(", found[number].source, re.M)[-1]
        assert re.search(rf"tried\(\w+, {name}\)", found[number + 1].source)
    assert "## Questions" in text and text.count("<details>") == len(re.findall(r"\*\*Q\d", text))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_reading_holds_where_it_is_read(path):
    """What `course.holds` printed in the outputs that are committed."""
    for cell in cells(path):
        for output in cell.get("outputs", []):
            assert "✗" not in output.get("text", ""), output["text"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_hold_no_machine_s_path_and_no_warning(path):
    for cell in cells(path):
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr" and output.output_type != "error", output
            for kind, text in {"text": output.get("text", ""), **output.get("data", {})}.items():
                if kind != "image/png":
                    found = PRIVATE.findall(text if isinstance(text, str) else str(text))
                    assert not found, (cell.source[:80], found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lessons_are_linked_and_not_named(path):
    names = {other.stem for other in NOTEBOOKS} - {path.stem}
    for cell in cells(path):
        if cell.cell_type == "markdown":
            named = {*re.findall(r"`(\d\d_\w+)`", cell.source)} & names
            assert not named, f"name without a link: {named}"
            for target in re.findall(r"]\((\w+\.(?:ipynb|md))(?:#[\w-]+)?\)", cell.source):
                assert (path.parent / target).is_file(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_is_told_in_words(path):
    for cell in cells(path):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            if "solution" in tags(cell):
                continue
            assert cell.metadata.get("mystnb", {}).get("image", {}).get("alt"), cell.source[:80]


def told(path: Path) -> str:
    """What a notebook printed."""
    outputs = [output for cell in cells(path) for output in cell.get("outputs", [])]
    parts = [part for o in outputs for part in (o.get("text"), o.get("data", {}).get("text/plain"))]
    return "\n".join(filter(None, parts))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_has_a_grade_and_what_is_folded_is_folded_everywhere(path):
    """As the first page says of all. Jupyter folds by one mark, the book by another."""
    found = cells(path)
    text = texts(found).partition("## Exercises")[2]
    graded = re.findall(rf"^\d\. \((?:{'|'.join(GRADES)})\)", text, re.M)
    assert len(graded) == len(re.findall(r"^\d\. ", text, re.M)) > 0
    for cell in found:
        if "solution" in tags(cell):
            assert "hide-cell" in tags(cell), cell.source[:80]
        if {"solution", "hide-input"} & {*tags(cell)}:
            assert cell.metadata.get("jupyter", {}).get("source_hidden") is True, cell.source[:80]


@pytest.mark.parametrize("path", sorted({*CORE} & {*RUN}), ids=lambda path: path.stem)
def test_the_outputs_are_there(path):
    """Readings are printed."""
    assert "✓ " in told(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_outputs_are_of_one_run_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in cells(path) if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]


def footers(path: Path) -> list[str]:
    """The commits that `course.footer` told, all of them with the number of threads."""
    return re.findall(r"^kprune .*\(([^)]*)\), torch .* \d+ threads?$", told(path), re.M)


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_a_notebook_that_computes_tells_one_clean_commit(path):
    """No file was changed since, which a plus sign would tell."""
    (commit,) = footers(path)
    assert re.fullmatch("commit [0-9a-f]{8}", commit), commit


def test_all_of_them_are_of_one_commit():
    assert len(found := {commit for path in RUN for commit in footers(path)}) == 1, found
