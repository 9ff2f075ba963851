"""The house: pruning never meets the laboratory, and no file is longer than one can take in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kprune"
FILES = sorted(PACKAGE.rglob("*.py"))
FACES = ("__init__.py", "__main__.py")  # they open the laboratory when asked to
BELOW = {
    "data": ("kprune.data",),
    "engine": ("kprune.engine", "kprune.data.batching", "kprune.data.reach"),
}
HEAVY = {"sklearn", "scipy", "seaborn", "matplotlib", "pandas", "papermill", "pydantic"}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def imported(path: Path) -> set[str]:
    """All modules that a file names in its imports, those within functions, too."""
    found = set()
    for node in ast.walk(parsed(path)):
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


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("kprune.__version__", {"scipy", "accelerate"}),
        ("kprune.prune, kprune.sample, kprune.save", set()),  # scipy comes with transformers
    ],
)
def test_to_prune_is_not_to_import_the_laboratory(code, without):
    code = f"import sys, kprune; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"sklearn", "seaborn", "pandas", "papermill", "datasets", *without}
    assert "kprune.laboratory" not in done.stdout


def test_a_command_says_its_help_without_torch():
    """Which takes seconds to load (P15)."""
    code = "import sys, runpy; sys.argv = ['kprune', '--help']; sys.modules['torch'] = None; "
    code += "runpy.run_module('kprune', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "reproduce" in done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_others_stand_on_stands_alone(path):
    """data/ and engine/ import nothing from the rooms above, but for the names of types."""
    if (room := path.relative_to(PACKAGE).parts[0]) not in BELOW:
        return
    for node in parsed(path).body:  # `if TYPE_CHECKING:` is deeper
        if isinstance(node, ast.ImportFrom) and node.module.startswith("kprune"):
            assert node.module.startswith(BELOW[room]), node.module


def test_the_loop_fits_a_glance_and_a_family_a_paragraph():
    (loop,) = (
        node
        for node in parsed(PACKAGE / "sublayerwise.py").body
        if isinstance(node, ast.FunctionDef) and node.name == "sublayerwise"
    )
    assert lines(loop) < 35
    families = parsed(PACKAGE / "families.py").body
    records = [
        node
        for node in families
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and node.value.func.id in ("Names", "replace")
    ]
    quirks = [node for node in families if getattr(node, "name", "").startswith("_")]
    assert len(records) >= 6 and len(quirks) >= 4
    assert all(lines(node) <= 15 for node in [*records, *quirks])
