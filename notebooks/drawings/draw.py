"""Draw the course's pictures: `python notebooks/drawings/draw.py [FOLDER]`, beside this file if none.

Nothing but Python's standard library is needed, and the files come out the same to the byte.
"""

import sys
from pathlib import Path

from algorithm import cycle
from mathematics import projection, tangent, water
from model import encoder, surgery

DRAWINGS = {make.__name__: make for make in (encoder, surgery, cycle, tangent, projection, water)}


def draw(folder: Path) -> None:
    """Write every drawing as NAME.svg."""
    for name, make in DRAWINGS.items():
        (folder / f"{name}.svg").write_text(make().svg(name), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent)
