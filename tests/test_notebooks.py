"""Every notebook runs through papermill at a small size, from another working directory."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

import kprune
from kprune.data.hub import load_split

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OTHERS = "21_ship", "23_retrain", "25_hundred_lines", "26_refits", "27_seconds"  # not reports
LESSONS = [path for path in NOTEBOOKS if path.stem < "10" or path.stem in OTHERS]
STEPS = [path for path in LESSONS if path.stem != "06_kprune"]
REPORTS = [path for path in NOTEBOOKS if path not in LESSONS]
TABLES = (".csv", ".md", ".tex")
SMALL = {"tokens": 500, "examples": 64, "every": 20, "rates": [0.5, 0.8], "epochs": 1.0}
SMALL["repeats"] = 2
SMALLER = {"27_seconds": {"batch_size": 4, "length": 32}, "09_benchmark": {"repeats": 1}}
SMALLER["08_beyond"] = {"few": 300}
FINE_TUNES = "07_finetune"  # the packaged MiniLM: on few rows; the others take a small teacher


def parameters(notebook: Path) -> dict:
    """Names and defaults of a notebook's parameters cell."""
    cells = nbformat.read(notebook, as_version=4).cells
    (source,) = (c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    found: dict = {}
    exec(source, {}, found)
    found.pop("__annotations__", None)
    return found


def run(notebook: Path, folder: Path, values: dict) -> nbformat.NotebookNode:
    """Run a notebook as a batch does: papermill in a process of its own."""
    out = folder / notebook.name
    (folder / "values.yaml").write_text(json.dumps(values))
    command = ["papermill", str(notebook), str(out), "--kernel", "python3", "--no-progress-bar"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "-f", "values.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return nbformat.read(out, as_version=4)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Results go to a temporary folder; the kernel and the notebook see no other place."""
    monkeypatch.setenv("KPRUNE_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS][:8] == [f"0{i}" for i in range(8)]


@pytest.fixture
def few_rows(tmp_path) -> str:
    """A folder with some of the generated task, laid out like the Hub's."""
    (tmp_path / "rows").mkdir()
    for split in ("train", "validation"):
        rows = load_split("opinions", split).select(range(200))
        rows.to_parquet(tmp_path / "rows" / f"{split}.parquet")
    return str(tmp_path / "rows")


@pytest.mark.parametrize("notebook", STEPS, ids=lambda path: path.stem)
def test_runs_at_a_small_size(notebook, elsewhere, small_teacher, few_rows):
    small = SMALL | SMALLER.get(notebook.stem, {}) | {"teacher": small_teacher}
    if notebook.stem == FINE_TUNES:
        small["data"] = few_rows
    values = {name: value for name, value in small.items() if name in parameters(notebook)}
    check_it_ran(run(notebook, elsewhere, values))


def check_it_ran(done: nbformat.NotebookNode) -> None:
    """Every cell ran, in order, and something was drawn."""
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    images = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert images, "every notebook shows at least one figure"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_reads_well(notebook):
    """The parts that every notebook has, and cells short enough to take in."""
    cells = nbformat.read(notebook, as_version=4).cells
    opening, text = cells[0].source, "\n".join(c.source for c in cells if c.cell_type == "markdown")
    for part in ("# ", "**Question.**", "**You will see**", "**Paper.**", "**Cost.**"):
        assert part in opening, part
    for part in ("## Summary", "## Exercises", "redict"):
        assert part in text, part
    solutions = [c for c in cells if "solution" in c.metadata.get("tags", [])]
    exercises = text[text.index("## Exercises") :].split("\n")
    assert len(solutions) == sum(line[:2] in ("1.", "2.", "3.", "4.") for line in exercises)
    assert all(c.outputs for c in cells if "image" in c.source and c.cell_type == "code")
    for cell in cells:
        if cell.cell_type == "code":
            assert len(cell.source.split("\n")) <= 30, cell.source[:200]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_typed_and_explained(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    (source,) = (c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    for line in source.split("\n"):
        name = line.split(":")[0]
        assert ": " in line and " = " in line and "  # " in line, (
            f"{name} lacks a type or a comment"
        )


def test_one_run_leaves_its_record(elsewhere, teacher_folder):
    """06_kprune, the notebook that batches run: with its exercises, and its record."""
    values = {"tokens": 500, "every": 20, "repeats": 2, "rate": 0.7, "seed": 2}
    values["teacher"] = str(teacher_folder)
    here = elsewhere / "run"
    notebook = ROOT / "notebooks" / "06_kprune.ipynb"
    check_it_ran(run(notebook, elsewhere, {**values, "outputs": str(here)}))
    record = json.loads((here / "result.json").read_text())
    assert "kept" not in record["report"]
    assert record["parameters"] | values == record["parameters"]
    assert record["report"]["flops"] <= record["report"]["limit"]
    assert record["environment"]["kprune"] == kprune.__version__
    assert set(record["scores"]) == {"dense", "pruned"}
    model = kprune.load(here / "pruned")
    assert model.num_parameters() == record["report"]["parameters"]


def test_the_committed_tables_are_redrawn_byte_for_byte(elsewhere):
    """From the committed records alone; the numbers of a figure are those of its table.

    All reports in one kernel, cleared for each: to open its libraries takes longer than to draw.
    """
    redrawn, cells = {path: elsewhere / path.stem for path in REPORTS}, []
    for path, folder in redrawn.items():
        source = ROOT / "outputs" / parameters(path)["records"]
        values = {"records": str(source), "outputs": str(folder)}
        report = parameterize_notebook(load_notebook_node(str(path)), values)
        cells += [nbformat.v4.new_code_cell("%reset -f"), *report.cells]
    report.cells = cells
    (elsewhere / "reports").mkdir()
    nbformat.write(report, elsewhere / "reports" / "all.ipynb")
    run(elsewhere / "reports" / "all.ipynb", elsewhere, {})
    for path, folder in redrawn.items():
        home = ROOT / "outputs" / f"{path.stem[3:]}-laptop"
        tables = {file.name for file in folder.iterdir() if file.suffix in TABLES}
        assert len(tables) >= 3, path.stem
        for name in tables:
            assert (folder / name).read_bytes() == (home / name).read_bytes(), (path.stem, name)
        assert {file.suffix for file in folder.iterdir()} >= {".png", ".svg"}, path.stem
