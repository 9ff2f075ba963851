"""Draw a batch's report from its records, when they are others than it was drawn from."""

import hashlib
from importlib.metadata import version
from pathlib import Path

from kprune.engine.files import read_json, write_json
from kprune.laboratory.processes import locked, run_notebook, variables
from kprune.laboratory.records import EXPECTED, RESULT

REPORT, DRAWN = "report.ipynb", "drawn.json"


def draw(report: Path, source: Path, home: Path, force: bool = False) -> str:
    """Draw a report from the records in `source`, unless it was drawn from just these.

    Gives the error in a line, or "". Two that reach it at once take turns.
    """

    def there() -> dict[str, int]:
        files = (path for path in home.glob("[!.]*") if path.is_file())
        return {path.name: path.stat().st_mtime_ns for path in files}

    with locked(home / ".report.lock") as lock:
        made_of = [report, source / EXPECTED, *sorted(source.glob(f"*/{RESULT}"))]
        content = hashlib.sha256(version("kprune").encode())
        for path in made_of:
            content.update(f"{path.parent.name}/{path.name}".encode() + path.read_bytes())
        before = read_json(home / DRAWN)
        whole = all((home / name).is_file() for name in before.get("drawn", ()))
        if not force and before.get("content") == content.hexdigest() and whole:
            return ""
        (home / DRAWN).unlink(missing_ok=True)
        old = there()
        values = {"records": str(source), "outputs": str(home)}
        env = variables(home.parent)
        error = run_notebook(report, home / REPORT, values, Path.cwd(), env, lock)
        if not error:
            drawn = sorted(name for name, time in there().items() if old.get(name) != time)
            for name in {*before.get("drawn", ())} - {*drawn}:  # of other records
                (home / name).unlink(missing_ok=True)
            write_json(home / DRAWN, {"content": content.hexdigest(), "drawn": drawn})
        return error
