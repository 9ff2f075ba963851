"""The house: pruning never meets the laboratory, and no file is longer than one can take in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kprune"
FILES = sorted(PACKAGE.rglob("*.py"))
FACES = ("__init__.py", "__main__.py")  # they open the laboratory when asked to
HEAVY = {"sklearn", "scipy", "seaborn", "matplotlib", "pandas", "papermill", "pydantic"}


def imported(path: Path) -> set[str]:
    """All modules that a file names in its imports, those within functions, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_laboratory_knows_the_laboratory(path):
    room = path.relative_to(PACKAGE).parts[0]
    if room == "laboratory" or room in FACES:
        return
    names = imported(path)
    assert not [name for name in names if name.startswith("kprune.laboratory")]
    assert not {name.split(".")[0] for name in names} & HEAVY


def test_to_prune_is_not_to_import_the_laboratory():
    code = "import sys, kprune; kprune.prune, kprune.sample; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"sklearn", "seaborn", "pandas", "papermill", "datasets"}
    assert "kprune.laboratory" not in done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
