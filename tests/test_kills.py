"""Runner, papermill or kernel killed at seeded moments: nothing lost, repeated, half or left over.

`python tests/test_kills.py FOLDER [KILLS] [SEED]` prints the figures of the long version.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml

import kprune
from kprune.laboratory.experiments import expand
from kprune.laboratory.records import RESULT, read_result, state

PARAMETERS = """method: str = "kprune"
rate: float = 0.6
seed: int = 0
outputs: str = \"\""""
# A run in steps, so that a kill can come at each: a slow write, too, and work after the record.
UNIT = """
import json, time
from pathlib import Path
for _ in range(5):
    time.sleep(0.1)
"""
RECORD = """
report = {"achieved_rate": rate, "parameters": 1, "dense_parameters": 2, "heads": [1],
          "neurons": [2], "dense_heads": [4], "dense_neurons": [8], "seconds": {"tuning": 1.0}}
text = json.dumps({
    "parameters": {"method": method, "rate": rate, "seed": seed}, "metric": "accuracy",
    "scores": {"dense": {"accuracy": 0.95}, "pruned": {"accuracy": 0.9 - rate / 10 - seed / 100}},
    "latency": {"dense": 2.0, "pruned": 1.0}, "report": report, "made": time.time_ns(),
    "environment": {"kprune": VERSION}})
part = Path(outputs) / ".result.part"
with part.open("w") as file:
    for character in text:
        file.write(character)
part.replace(Path(outputs) / "result.json")
with (Path(outputs) / "ends.txt").open("a") as log:
    print("record", file=log)
time.sleep(0.2)
"""
REPORT = """
from pathlib import Path
from kprune.laboratory import tables
table = tables.collect(records)[["run", "state", "score", "dense", "achieved"]]
tables.write(outputs, "table", table, table.astype(str))
"""
GRID = {"method": ["kprune", "random"], "rate": [0.4, 0.8]}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WORDS = {"papermill": "papermill", "kernel": "ipykernel_launcher"}
NOTHING = "nothing"
PATIENCE = 600.0  # seconds until a test gives up; none hangs on how long anything takes


def laboratory(folder: Path, grid: dict = GRID) -> Path:
    """A folder with two quick notebooks; gives the experiment on them."""
    (folder / "notebooks").mkdir(parents=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    record = RECORD.replace("VERSION", repr(kprune.__version__))
    report = 'records: str = ""\noutputs: str = ""'
    for name, sources in (("unit", (PARAMETERS, UNIT, record)), ("draw", (report, REPORT))):
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        cells[0].metadata["tags"] = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    path = folder / "trial.yaml"
    content = {"title": "t", "notebook": "unit", "report": "draw", "grid": grid}
    path.write_text(yaml.safe_dump(content))
    return path


def start(folder: Path) -> subprocess.Popen:
    """The runner, in a group of its own, listening to Ctrl-C."""
    command = "import signal, sys; signal.signal(2, signal.default_int_handler);"
    command += "from kprune.__main__ import app; app(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", command, "reproduce", "trial.yaml", "--workers", "2"],
        cwd=folder,
        env=os.environ | {"KPRUNE_OUTPUTS": str(folder / "outputs"), "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def children(folder: Path) -> list[psutil.Process]:
    """Papermills, kernels and the like that work for a folder's experiment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("KPRUNE_OUTPUTS") == str(folder / "outputs"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.05)


def records(folder: Path) -> dict[str, str]:
    """The records that count as done, by their runs' names."""
    place = folder / "outputs" / "trial"
    return {path.parent.name: path.read_text() for path in place.glob(f"*/{RESULT}")}


def killed(folder: Path, victim: str, number: int, moment: int) -> str:
    """Start the runner, kill the victim at a moment, and see what is left; gives what was hit.

    The moment is the number of looks at the processes after the first kernel is there.
    """
    before = records(folder)
    runner = start(folder)
    try:
        until(lambda: runner.poll() is not None or kernels(folder), "a kernel")
        for _ in range(moment):
            children(folder)
            time.sleep(0.05)
        targets = [runner.pid] if victim == "runner" and runner.poll() is None else []
        if victim in WORDS:
            targets = [p.pid for p in children(folder) if WORDS[victim] in " ".join(line(p))]
        for target in targets[:1]:
            with contextlib.suppress(ProcessLookupError):  # it may just have ended
                os.kill(target, number)
        hit = f"{victim} {signal.Signals(number).name}" if targets else NOTHING
        if victim != "runner" or targets:  # where it lives it finishes what it can
            runner.wait(PATIENCE)
        until(lambda: not children(folder), f"the end of all after {hit}")
    finally:
        runner.kill()
        runner.wait()
    after = records(folder)
    for name, content in before.items():
        assert after[name] == content, f"{name} was lost or repeated after {hit}"
    for path in (folder / "outputs" / "trial").glob(f"*/{RESULT}"):
        assert read_result(path), f"{path} is half a record after {hit}"
    return hit


def line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def kernels(folder: Path) -> bool:
    return any("ipykernel_launcher" in " ".join(line(p)) for p in children(folder))


def kills(folder: Path, count: int, seed: int = 0, grid: dict = GRID) -> Counter:
    """So many kills, over as many small experiments as it takes; gives what was hit how often.

    After every experiment the tables are those of an undisturbed one, byte by byte.
    """
    draw, hits, done = random.Random(seed), Counter(), 0
    undisturbed = folder / "undisturbed"
    laboratory(undisturbed, grid)
    assert start(undisturbed).wait(PATIENCE) == 0
    while done < count:
        place = folder / f"after-{hits.total()}"
        path, torn = laboratory(place, grid), 0
        for _ in range(draw.randint(1, 4)):
            if done == count:
                break
            victim = ("runner", "papermill", "kernel")[done % 3]
            hit = killed(place, victim, SIGNALS[done // 3 % 3], draw.randrange(30))
            hits[hit] += 1
            done += hit != NOTHING  # what had ended before is tried again
            torn += hit.startswith(("runner", "papermill"))
            print(done, dict(hits), flush=True)
        until(lambda place=place: start(place).wait(PATIENCE) == 0, "the end")
        check_end(path, place, undisturbed, torn)
    return hits


def check_end(path: Path, place: Path, undisturbed: Path, torn: int) -> None:
    """A kill may tear the notebook that papermill is writing, never the record: so many lack it."""
    with contextlib.chdir(place):
        runs = expand(path, place / "outputs")
    assert {state(run) for run in runs} == {"done"}
    for run in runs:
        left = {p.name for p in run.folder.iterdir()} - {"run.ipynb"}
        assert left == {"result.json", "log.txt", "ends.txt", ".lock"}, left
        assert len((run.folder / "ends.txt").read_text().splitlines()) == 1
    notebooks = [run.folder / "run.ipynb" for run in runs]
    whole = [path for path in notebooks if path.exists()]
    assert len(whole) >= len(notebooks) - torn
    assert all(nbformat.read(path, as_version=4).cells for path in whole)
    for suffix in ("csv", "md", "tex"):
        ours, wanted = (
            home / "outputs" / "trial" / f"table.{suffix}" for home in (place, undisturbed)
        )
        assert ours.read_bytes() == wanted.read_bytes()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KPRUNE_OUTPUTS", raising=False)
    return tmp_path


def test_three_kills_cost_nothing(here):
    grid = {"method": ["kprune"], "rate": [0.4, 0.8]}
    assert kills(here, 3, seed=5, grid=grid).total() >= 3  # in one experiment


@pytest.mark.long
def test_fifty_kills_cost_nothing(here):
    hits = kills(here, 50)
    assert len(hits - Counter([NOTHING] * 999)) == 9


if __name__ == "__main__":
    place, count, seed = Path(sys.argv[1]), *(int(n) for n in [*sys.argv[2:], 50, 0][:2])
    place.mkdir(parents=True)
    os.chdir(place)
    print(json.dumps(kills(place.resolve(), count, seed), indent=2))
