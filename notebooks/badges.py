"""Badges for Colab and Binder in every notebook, for whoever has this in a public repository:

    .venv/bin/python notebooks/badges.py OWNER/NAME [BRANCH]

With them comes a cell that installs the package where it is missing, as in Colab. Once more, with
another name or branch, replaces both. Afterwards `make notebooks` numbers the cells anew.
"""

import sys
from pathlib import Path

import nbformat

COLAB = "https://colab.research.google.com/github/{name}/blob/{branch}/notebooks/{page}"
BINDER = "https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/notebooks/{page}"
BADGES = (
    f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({COLAB}) "
    f"[![Open on Binder](https://mybinder.org/badge_logo.svg)]({BINDER})"
)
INSTALL = """\
from importlib.util import find_spec

if not find_spec("kprune"):  # in Colab; Binder has it
    %pip install --quiet "kprune[laboratory,minilm] @ git+https://github.com/{name}@{branch}\""""
FOLDED = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}


def add(path: Path, name: str, branch: str = "main") -> None:
    """Put both cells below a notebook's opening; `name` is owner/name."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.id not in ("badges", "install")]
    place = {"name": name, "branch": branch, "page": path.name}
    badges = nbformat.v4.new_markdown_cell(BADGES.format(**place), id="badges")
    install = nbformat.v4.new_code_cell(INSTALL.format(**place), id="install", metadata=FOLDED)
    notebook.cells = [cells[0], badges, install, *cells[1:]]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or sys.argv[1].count("/") != 1:
        sys.exit(__doc__)
    for one in sorted(Path(__file__).parent.glob("*.ipynb")):
        add(one, *sys.argv[1:])
