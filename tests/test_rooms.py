"""The house: pruning never meets the laboratory, and no file is longer than one can take in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny, word_tokenizer

PACKAGE = Path(__file__).parents[1] / "kprune"
FILES = sorted(PACKAGE.rglob("*.py"))
FACES = ("__init__.py", "__main__.py")  # they open the laboratory when asked to
BELOW = {
    "data": ("kprune.data",),
    "engine": ("kprune.engine", "kprune.data.batching", "kprune.data.reach"),
}
HEAVY = {"sklearn", "scipy", "seaborn", "matplotlib", "papermill", "pydantic"}


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


THIN = """
import json, re, sys, tomllib
from pathlib import Path
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BROUGHT = {"jinja2", "pydantic"}  # by torch and by typer
names = [re.split("[<>=]", line)[0].replace("-", "_") for line in extra["laboratory"]]
for name in {*names, "sklearn", "matplotlib", "IPython"} - BROUGHT:
    sys.modules[name] = None  # as where it is not installed
from typer.testing import CliRunner
from kprune.__main__ import app
def run(*command):
    done = CliRunner().invoke(app, [*map(str, command)])
    print(done.output, done.exception)
    return done
(folder / "texts.csv").write_text("text\\n" + "".join(f"w{i} w{i + 1}\\n" for i in range(60)))
out = folder / "pruned"
prune = ("prune", folder / "model", "--texts", folder / "texts.csv", "--out", out, "--trim")
assert run(*prune, "--export", "onnx").exit_code == 0
assert run("info", out).exit_code == 0
import kprune
kprune.load(out)
for command in (("evaluate", out, "--task", "sst2"), ("reproduce", "a.yaml"), ("teacher", "sst2")):
    done = run(*command)
    assert done.exit_code == 2 and "pip install 'kprune[laboratory]'" in done.output
try:
    kprune.evaluate
except ImportError as error:
    assert "extra `laboratory`" in str(error)
"""


def test_a_base_install_prunes_loads_and_exports(tmp_path):
    """Without what the extra `laboratory` brings; who needs that is told so."""
    tiny("bert", "classification").save_pretrained(tmp_path / "model")
    word_tokenizer(95).save_pretrained(tmp_path / "model")
    command = [sys.executable, "-c", THIN, PACKAGE.parent, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
