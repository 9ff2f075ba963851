"""The batch runner, on a notebook that takes a moment, and once on the real one."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
import yaml
from distributed import Client
from typer.testing import CliRunner

import kprune
from kprune.__main__ import app
from kprune.laboratory import batch, pools, tables
from kprune.laboratory.experiments import expand
from kprune.laboratory.records import FAILURE, RESULT, state
from kprune.laboratory.reports import standing

UNIT = """
import json, os, time
from pathlib import Path
time.sleep(seconds)
if fails and rate == 0.8:
    raise RuntimeError("out of luck")
parameters = {"task": task, "method": method, "rate": rate, "seed": seed, "seconds": seconds}
score = {"kprune": 0.9, "random": 0.5}.get(method, 0.7) - 0.1 * rate
content = {
    "parameters": {**parameters, "fails": fails},
    "metric": "accuracy",
    "scores": {"dense": {"accuracy": 0.95}, "pruned": {"accuracy": score}},
    "latency": {"dense": 2.0, "pruned": 1.0},
    "report": {
        "achieved_rate": rate, "parameters": 1, "dense_parameters": 2, "seconds": {"tuning": 1.0},
        "heads": [1], "neurons": [2], "dense_heads": [4], "dense_neurons": [8],
    },
    "environment": {"kprune": VERSION},
}
folder = Path(outputs)
with (folder / "times.txt").open("a") as log:
    log.write("ran\\n")
(folder / "result.part").write_text(json.dumps(content))
(folder / "result.part").replace(folder / "result.json")
"""
PARAMETERS = """task: str = "opinions"  # a task
method: str = "kprune"  # a method
rate: float = 0.6  # a rate
seed: int = 0  # a seed
seconds: float = 0.0  # how long it takes
fails: bool = False  # whether the rate of 0.8 fails
outputs: str = ""  # where to"""
GRID = {"method": ["kprune", "random"], "rate": [0.4, 0.8]}
WHOLE = """,run,state,score,dense,achieved
0,kprune_rate0.4,done,0.86,0.95,0.4
1,kprune_rate0.8,done,0.82,0.95,0.8
2,random_rate0.4,done,0.46,0.95,0.4
3,random_rate0.8,done,0.42,0.95,0.8
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A directory with a quick notebook and an experiment on it; results go there, too."""
    cells = [nbformat.v4.new_code_cell(PARAMETERS), nbformat.v4.new_code_cell(UNIT)]
    cells[1].source = UNIT.replace("VERSION", repr(kprune.__version__))
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    notebook.metadata["language_info"] = {"name": "python"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "unit.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPRUNE_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")

    def write(grid=GRID, **fixed) -> Path:
        content = {"title": "trial", "notebook": "unit", "fixed": fixed, "grid": grid}
        path = tmp_path / "trial.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def command(path, *options) -> list[str]:
    return [sys.executable, "-m", "kprune", "reproduce", str(path), *options]


def call(path, *options) -> subprocess.CompletedProcess:
    """The command, in this process: a new one takes ten seconds for its imports."""
    done = CliRunner().invoke(app, ["reproduce", str(path), *options], catch_exceptions=False)
    return subprocess.CompletedProcess(options, done.exit_code, done.stdout, done.stderr)


def call_while(action, path, *options) -> subprocess.CompletedProcess:
    """The command, in this process, while a thread does something to its children."""
    with ThreadPoolExecutor() as side:
        other = side.submit(action)
        done = call(path, *options)
    other.result()
    return done


def times(path) -> dict[str, int]:
    """How often each run came to its end."""
    return {
        run.name: len((run.folder / "times.txt").read_text().splitlines())
        for run in expand(path)
        if (run.folder / "times.txt").is_file()
    }


def wait_for(condition, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)


def processes(word: str) -> list[int]:
    """Processes with a word in their command line and this test's results in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = os.environ["KPRUNE_OUTPUTS"].encode() in (entry / "environ").read_bytes()
        except (OSError, UnicodeDecodeError):
            continue
        if word in line and place:
            found.append(int(entry.name))
    return found


def table(path) -> str:
    runs = tables.collect(expand(path)[0].folder.parent)
    return runs[["run", "state", "score", "dense", "achieved"]].to_csv(float_format="%.2g")


def test_runs_once_and_then_does_nothing(lab):
    path = lab(grid={"rate": [0.4, 0.8]})
    done = call(path, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert times(path) == {"rate0.4": 1, "rate0.8": 1}
    folder = expand(path)[0].folder
    assert {p.name for p in folder.iterdir()} >= {"result.json", "run.ipynb", "log.txt"}
    assert not list(folder.glob("*.part*")) and not (folder / "run.parameters.json").exists()
    assert "100%" in done.stderr and "2 of 2" in done.stderr
    assert call(path).returncode == 0
    assert set(times(path).values()) == {1}
    assert "2 of 2 runs are done" in call(path, "--list").stdout


def test_a_damaged_record_is_noticed_and_made_again(lab):
    path = lab(grid={"rate": [0.4, 0.8]})
    assert batch.reproduce(path, say=lambda _: None) == []
    one, other = expand(path)
    (one.folder / RESULT).write_text((one.folder / RESULT).read_text()[:-40])
    said = []
    assert batch.reproduce(path, say=said.append) == []
    assert "rate0.4 is damaged" in said[0]
    assert times(path) == {one.name: 2, other.name: 1} and state(one) == "done"


def test_force_repeats(lab):
    path = lab(grid={"rate": [0.4]})
    for _ in range(2):
        assert batch.reproduce(path, force=True, say=lambda _: None) == []
    assert times(path) == {"rate0.4": 2}


def test_a_finished_record_outlives_a_repeat_that_fails(lab, monkeypatch):
    path = lab(grid={"rate": [0.4]})
    assert batch.reproduce(path, say=lambda _: None) == []
    (run,) = expand(path)
    before = (run.folder / RESULT).read_bytes()
    monkeypatch.setattr(batch, "run_notebook", lambda *_: "out of luck")
    (failed,) = batch.reproduce(path, force=True, say=lambda _: None)
    assert failed.error == "out of luck" and (run.folder / RESULT).read_bytes() == before
    assert (run.folder / "run.ipynb").is_file() and not list(run.folder.glob(".*.old"))
    assert state(run) == "done"


def test_what_was_set_aside_comes_back_or_goes(lab, monkeypatch):
    """A kill left a record out of the way for ever, or lost it to the next try."""
    path = lab(grid={"rate": [0.4]})
    assert batch.reproduce(path, say=lambda _: None) == []
    (run,) = expand(path)
    result, aside = run.folder / RESULT, run.folder / f".{RESULT}.old"
    aside.write_bytes(result.read_bytes())  # killed when the new one was there already
    assert batch.reproduce(path, say=lambda _: None) == [] and not aside.exists()
    before = result.read_bytes()
    result.replace(aside)  # killed before
    monkeypatch.setattr(batch, "run_notebook", lambda *_: "out of luck")
    batch.reproduce(path, say=lambda _: None)
    assert result.read_bytes() == before and not aside.exists()


def test_a_failed_run_is_listed_and_the_rest_goes_on(lab):
    path = lab(fails=True, grid={"rate": [0.8, 0.4, 0.6]})
    done = call(path)
    assert done.returncode == 1
    assert "1 failed:\n  rate0.8: RuntimeError: out of luck" in done.stderr
    runs = {run.name: run for run in expand(path)}
    states = {name: state(run) for name, run in runs.items()}
    assert states == {"rate0.8": "failed", "rate0.4": "done", "rate0.6": "done"}
    assert json.loads((runs["rate0.8"].folder / FAILURE).read_text())["error"].endswith("luck")
    found = tables.collect(runs["rate0.8"].folder.parent)
    assert standing(found).splitlines()[1:] == ["rate0.8: failed"]
    wide = tables.wide(tables.summarise(found, "score", ["label"], "rate"), ["label"], "rate")
    assert wide.loc[0, 0.8] == tables.GAP


def test_killed_in_the_middle_the_same_command_goes_on(lab):
    """kill -9 of the runner and of a kernel: no finished run is repeated, the table is whole."""
    path = lab(seconds=2.0)
    runner = subprocess.Popen(command(path, "--workers", "2"), stderr=subprocess.DEVNULL)
    results = Path("outputs/trial")
    wait_for(lambda: len(list(results.glob(f"*/{RESULT}"))) >= 1)
    wait_for(lambda: processes("ipykernel_launcher"))
    kernels = processes("ipykernel_launcher")
    runner.kill()
    runner.wait()
    with suppress(ProcessLookupError):
        os.kill(kernels[-1], signal.SIGKILL)
    before = {p: p.stat().st_mtime_ns for p in results.glob(f"*/{RESULT}")}
    assert 1 <= len(before) < 4
    again = call(path, "--workers", "2")
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert set(times(path).values()) == {1} and len(times(path)) == 4
    assert table(path) == WHOLE


def test_a_killed_kernel_fails_its_run_only(lab):
    path = lab(seconds=2.0, grid={"rate": [0.4, 0.8]})

    def kill():
        wait_for(lambda: processes("ipykernel_launcher"))
        os.kill(processes("ipykernel_launcher")[0], signal.SIGKILL)

    done = call_while(kill, path)
    assert done.returncode == 1 and "Kernel died" in done.stderr
    assert sorted(state(run) for run in expand(path)) == ["done", "failed"]
    assert batch.reproduce(path, say=lambda _: None) == []
    assert table(path).count("done") == 2


def test_interrupted_it_stops_its_children(lab):
    path = lab(seconds=60.0, grid={"rate": [0.4, 0.8]})
    # Where the suite itself runs in the background, its children would ignore Ctrl-C.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    runner = subprocess.Popen(command(path), stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    wait_for(lambda: processes("ipykernel_launcher"))
    runner.send_signal(signal.SIGINT)
    stderr = runner.communicate(timeout=240)[1]
    assert runner.returncode == 130 and "goes on where this left off" in stderr
    wait_for(lambda: not processes("ipykernel_launcher") and not processes("papermill"))
    assert {state(run) for run in expand(path)} == {"missing"}


def test_a_run_of_another_process_is_waited_for(lab):
    path = lab(seconds=3.0, grid={"rate": [0.4]})
    first = subprocess.Popen(command(path), stderr=subprocess.DEVNULL)
    wait_for(lambda: processes("papermill"))
    second = call(path)
    assert first.wait(240) == second.returncode == 0
    assert times(path) == {"rate0.4": 1}


def test_a_clash_of_ports_is_tried_once_more(lab, monkeypatch):
    (run,) = expand(lab(grid={"rate": [0.4]}))
    real, tries = batch.run_notebook, []

    def clash(*arguments):
        tries.append(1)
        if len(tries) <= clashes:
            return "ZMQError: Address already in use (addr='tcp://127.0.0.1:4711')"
        return real(*arguments)

    monkeypatch.setattr(batch, "run_notebook", clash)
    clashes = 1
    assert batch.make_run(run, Path.cwd()).error == "" and len(tries) == 2
    (run.folder / RESULT).unlink()
    clashes = 9
    assert "Address already in use" in batch.make_run(run, Path.cwd()).error
    assert len(tries) == 4


def test_bad_commands_say_what_is_wrong(lab, monkeypatch):
    # A Client tries for as long as it is given, although the port refuses it at once.
    monkeypatch.setattr("distributed.Client", lambda address, timeout: Client(address, timeout=1))
    done = call(lab(grid={"rate": [1.2]}))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "got 1.2" in done.stderr
    done = call(lab(grid={"rate": [0.4]}), "--scheduler", "tcp://127.0.0.1:1")
    assert done.returncode == 2 and "No Dask scheduler answers" in done.stderr
    done = call(lab(grid={"rate": [0.4]}), "--scheduler", "garbage")
    assert done.returncode == 2 and "neither an address" in done.stderr
    done = call(lab(grid={"rate": [0.4]}), "--scheduler", "nowhere.yaml")
    assert done.returncode == 2 and "no cluster file nowhere.yaml" in done.stderr
    assert not Path("outputs/trial/rate0.4/result.json").exists()


def test_a_missing_teacher_is_made_once_and_shared(lab, monkeypatch):
    made = []

    def process(arguments, log, cwd, env, lock, stop):
        made.append(arguments[3:])
        log.write_text("Error: no such luck")
        return 2

    monkeypatch.setattr(batch, "run_command", process)
    teacher = batch.Teacher(
        task="sst2",
        model="minilm",
        data="d",
        examples=9,
        epochs=0.0,
        folder=Path("outputs/teachers/x").resolve(),
    )
    outcome = batch.make_teacher(teacher, Path.cwd())
    assert outcome.error == "Error: no such luck" and outcome.name == "teacher x"
    assert made == [
        [
            "teacher",
            "sst2",
            "--model",
            "minilm",
            "--data",
            "d",
            "--examples",
            "9",
            "--epochs",
            "0.0",
        ]
    ]


def test_runs_without_their_teacher_fail(lab):
    """A model that is nowhere: no run may go on with another one under its name."""
    grid = {"rate": [0.4], "method": ["kprune", "random"]}
    path = Path("nowhere.yaml")
    fixed = {"model": "no-such/encoder", "exercises": False, "keep": False}
    path.write_text(yaml.safe_dump({"title": "t", "fixed": fixed, "grid": grid}))
    done = call(path)
    assert done.returncode == 1
    assert "The model 'no-such/encoder' is not in a local folder" in done.stderr
    for run in expand(path):
        assert state(run) == "failed" and not (run.folder / "run.ipynb").exists()


def dask(*arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("workers", "gpus", "expected"),
    [
        (1, 0, [{}]),
        (0, 0, [{}]),
        (2, 0, [{"OMP_NUM_THREADS": "4"}] * 2),
        (0, 2, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        (3, 1, [{"CUDA_VISIBLE_DEVICES": "0"}] * 3),
    ],
)
def test_parallel_runs_share_cores_and_gpus(workers, gpus, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pools.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(pools.torch.cuda, "device_count", lambda: gpus)
    with pools.Local(workers) as pool:
        assert [pool.slots.get_nowait() for _ in expected] == expected
        assert pool.slots.empty()


def test_dask_completes_the_table_when_a_worker_is_killed(lab, tmp_path):
    path, file = lab(seconds=1.0), tmp_path / "scheduler.json"
    local = ("--host", "127.0.0.1", "--scheduler-file", str(file), "--no-dashboard")
    started = [dask("dask_scheduler", "--port", "0", *local)]
    try:
        wait_for(file.is_file)
        address = json.loads(file.read_text())["address"]
        options = ("--nworkers", "1", "--nthreads", "1", "--no-nanny", "--no-dashboard")
        started += [dask("dask_worker", address, "--host", "127.0.0.1", *options) for _ in "ab"]

        def kill():
            wait_for(lambda: list(tmp_path.glob(f"outputs/trial/*/{RESULT}")), 240)
            started[1].kill()

        done = call_while(kill, path, "--scheduler", address)
        assert done.returncode == 0, done.stderr
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()
    assert table(path) == WHOLE


def test_a_jobqueue_file_starts_a_cluster(lab, tmp_path):
    """dask-jobqueue's own local class stands in for SLURM."""
    path = lab(grid={"rate": [0.4]})
    settings = {"cores": 1, "processes": 1, "memory": "1GB", "python": sys.executable}
    settings |= {"interface": "lo", "scheduler_options": {"dashboard_address": None}}
    content = {"cluster": "Local", "jobs": 1, "options": settings}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(content))
    done = call(path, "--scheduler", "cluster.yaml")
    assert done.returncode == 0, done.stderr
    assert times(path) == {"rate0.4": 1}
    (tmp_path / "cluster.yaml").write_text("cluster: SLURM")
    done = call(path, "--force", "--scheduler", "cluster.yaml")
    assert done.returncode == 2 and "must name cluster and jobs" in done.stderr


def test_the_real_notebook_and_its_report(lab, small_teacher):
    """One command, a small table; a second call leaves all of it alone."""
    small = {"tokens": 500, "every": 20, "timed": False, "keep": False, "exercises": False}
    path = Path("real.yaml")
    content = {
        "title": "real",
        "report": "10_accuracy",
        "fixed": {**small, "teacher": small_teacher},
        "grid": {"method": ["kprune", "magnitude"], "rate": [0.5]},
    }
    path.write_text(yaml.safe_dump(content))
    done = call(path)
    assert done.returncode == 0, done.stderr
    folder = Path("outputs/real")
    written = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    names = {p.name for p in written}
    assert names >= {f"accuracy.{suffix}" for suffix in ("csv", "md", "tex", "png", "svg")}
    record = json.loads((folder / "kprune_rate0.5" / RESULT).read_text())
    assert record["report"]["flops"] <= record["report"]["limit"]
    assert record["latency"] == {} and "pass seconds" not in record
    assert "magnitude" in (folder / "accuracy.md").read_text()
    started = time.monotonic()
    assert call(path).returncode == 0
    assert time.monotonic() - started < 60
    experiment = folder / "experiment.json"
    unchanged = {p: t for p, t in written.items() if p != experiment}
    assert {p: p.stat().st_mtime_ns for p in unchanged} == unchanged


@pytest.mark.parametrize("name", ["experiment.json", "result.json"])
def test_files_of_others_are_left_alone(name, lab):
    """Hidden folders in a run's folder went, a .git among them; others' files were overwritten."""
    path = lab({"rate": [0.4]})
    runs = expand(path)
    home = runs[0].folder.parent
    (runs[0].folder / ".git").mkdir(parents=True)
    (runs[0].folder / ".git" / "HEAD").write_text("mine")
    place = home / name if name == "experiment.json" else runs[0].folder / name
    place.write_text('{"my": "own"}')
    with pytest.raises(ValueError, match=rf"{name} is no file of kprune's"):
        batch.reproduce(path, say=str)
    assert place.read_text() == '{"my": "own"}'
    place.unlink()
    assert batch.reproduce(path, say=str) == []
    assert (runs[0].folder / ".git" / "HEAD").read_text() == "mine"
