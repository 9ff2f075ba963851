"""The course's drawings: as their code draws them, and such that everyone can read them."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks" / "drawings"
NAMES = ("encoder", "surgery", "cycle", "tangent", "projection", "water")
SVG = "{http://www.w3.org/2000/svg}"
TAGS = {"svg", "title", "desc", "rect", "circle", "polyline", "polygon", "text", "tspan"}
SMALLEST = 12  # pixels of text, at the natural width


def parsed(name: str) -> ElementTree.Element:
    return ElementTree.parse(FOLDER / f"{name}.svg").getroot()


def test_the_committed_drawings_are_what_the_code_draws(tmp_path):
    """Byte for byte, and by the standard library alone: -S leaves out what is installed."""
    command = [sys.executable, "-B", "-S", FOLDER / "draw.py", tmp_path]
    subprocess.run(command, check=True)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in FOLDER.glob("*.svg")}
    assert drawn.keys() == {f"{name}.svg" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_says_what_it_shows(name):
    root = parsed(name)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title.text and len(description.text) > 100
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_scales_and_needs_nothing_from_elsewhere(name):
    root = parsed(name)
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= TAGS
    text = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert "href" not in text and "url(" not in text


@pytest.mark.parametrize("name", NAMES)
def test_no_text_of_a_drawing_is_too_small(name):
    sizes = [element.get("font-size") for element in parsed(name).iter()]
    assert min(float(size) for size in sizes if size) >= SMALLEST
    assert not any("scale" in element.get("transform", "") for element in parsed(name).iter())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_the_code_of_the_drawings_stays_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
