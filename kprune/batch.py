"""Run an experiment: one papermill process per run, from a local pool or a Dask cluster."""

import fcntl
import functools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import torch
import yaml
from pydantic import BaseModel

from kprune.checkpoints import write_json
from kprune.experiments import (
    EXPECTED,
    FAILURE,
    RESULT,
    Run,
    expand,
    find_notebook,
    output_folder,
    read_experiment,
    state,
)
from kprune.finetuning import Recipe, is_made, teacher_folder, wanted_recipe
from kprune.progress import bar

EXECUTED, FAILED, REPORT, LOG = "run.ipynb", "failed.ipynb", "report.ipynb", "log.txt"
PORT_CLASH = "Address already in use"


class Teacher(BaseModel):
    """A teacher that runs share and that is fine-tuned before them."""

    task: str
    model: str
    data: str
    examples: int
    epochs: float
    folder: Path

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"teacher {self.folder.name}"

    @property
    def recipe(self) -> Recipe:
        """How it is made."""
        return wanted_recipe(self.model, self.examples, self.epochs)


class Outcome(BaseModel):
    """How a job ended; `error` is one sentence, empty where all went well."""

    name: str
    error: str = ""
    seconds: float = 0.0


def reproduce(
    path: str | Path,
    outputs: str | Path | None = None,
    force: bool = False,
    workers: int = 0,
    scheduler: str = "",
    say: Callable[[str], object] = print,
) -> list[Outcome]:
    """Make an experiment's missing teachers, runs and report; what is finished is left alone.

    Can be stopped at any moment and started again: records appear whole or not at all, and a run
    that another process still works on is waited for, not repeated.

    Args:
        path: the experiment's YAML file.
        outputs: another place for all results (see `experiments.output_folder`).
        force: repeat finished runs, too.
        workers: runs at a time on this machine; 0 takes one per GPU, or one without a GPU, since a
            run uses every core. More of them share the cores evenly.
        scheduler: address of a Dask scheduler, or a YAML file for dask-jobqueue (see `cluster`).
        say: receives lines of text.

    Returns:
        The outcomes of the jobs that failed.

    Raises:
        ValueError: before anything runs, when the experiment or the scheduler makes no sense.
    """
    path, experiment = Path(path), read_experiment(path)
    runs = expand(path, outputs)
    report = find_notebook(experiment.report) if experiment.report else None
    needed_teachers(runs)
    home = output_folder(path.stem, outputs)
    states = {run.name: state(run) for run in runs}
    for run in runs:
        if states[run.name] == "damaged":
            say(f"The record of {run.name} is damaged and will be made again.")
    todo = [run for run in runs if force or states[run.name] != "done"]
    check_folders(todo)
    expected = {"runs": [{"name": run.name, "parameters": run.wanted} for run in runs]}
    source = runs[0].folder.parent
    if _read_json(source / EXPECTED) != expected:
        write_json(source / EXPECTED, expected)
    failed: list[Outcome] = []
    if todo:
        with _executor(workers, scheduler, say) as (pool, stop):
            failed = _all_done(pool, todo, stop, say, force)
    drawn = home / REPORT
    made = [source / EXPECTED, *source.glob(f"*/{RESULT}"), *([report] if report else [])]
    newest = max(path.stat().st_mtime for path in made)
    if report and (todo or not drawn.is_file() or drawn.stat().st_mtime < newest):
        values = {"records": str(source), "outputs": str(home)}
        env = _environment(home.parent)
        error = _papermill(report, drawn, values, home / LOG, Path.cwd(), env)
        if error:
            failed.append(Outcome(name=report.stem, error=error))
    return failed


def check_folders(runs: Sequence[Run]) -> None:
    """Raise ValueError when a run's own teacher, or a folder of data, is not there."""
    for run in runs:
        teacher, data = (run.parameters.get(name, "") for name in ("teacher", "data"))
        if teacher and not (Path(teacher) / "config.json").is_file():
            raise ValueError(
                f"{run.name}: there is no model in the folder {teacher} (relative folders start "
                f"from {Path.cwd()}); leave `teacher` out to have one fine-tuned."
            )
        if data.startswith((".", "/", "~")) and not Path(data).is_dir():
            raise ValueError(
                f"{run.name}: there is no data folder {data} (relative folders start from "
                f"{Path.cwd()})."
            )


def needed_teachers(runs: Sequence[Run]) -> list[Teacher]:
    """The teachers in their default places that runs share, made or not, each once.

    Raises:
        ValueError: when two runs want different teachers in one place.
    """
    found: dict[Path, Teacher] = {}
    for teacher in filter(None, map(teacher_of, runs)):
        if found.setdefault(teacher.folder, teacher) != teacher:
            raise ValueError(
                f"Two runs want different teachers in {teacher.folder}; they must agree on model, "
                "data, examples and epochs."
            )
    return list(found.values())


def teacher_of(run: Run) -> Teacher | None:
    """The teacher in its default place that a run takes; None for one from a folder of its own."""
    values = run.parameters
    names = ("task", "model", "data", "examples", "epochs")
    if not {*names, "teacher"} <= values.keys() or values["teacher"]:
        return None
    folder = teacher_folder(values["task"], values["model"], run.folder.parents[1])
    return Teacher(folder=folder, **{name: values[name] for name in names})


def make_teacher(
    teacher: Teacher, cwd: Path, own: dict[str, str] | None = None, stop=None
) -> Outcome:
    """Fine-tune a teacher in a process of its own, unless it is there."""
    started = time.monotonic()
    command = [sys.executable, "-m", "kprune", "teacher", teacher.task, "--model", teacher.model]
    command += ["--data", teacher.data] if teacher.data else []
    command += ["--examples", str(teacher.examples), "--epochs", str(teacher.epochs)]
    log = teacher.folder.with_name(f"{teacher.folder.name}.log")
    env = _environment(teacher.folder.parents[1], own)
    with _locked(teacher.folder.with_name(f".{teacher.folder.name}.lock"), stop) as lock:
        code = _process(command, log, cwd, env, lock, stop)
    error = "" if code == 0 else _last_line(log)
    return Outcome(name=teacher.name, error=error, seconds=time.monotonic() - started)


def make_run(
    run: Run, cwd: Path, own: dict[str, str] | None = None, stop=None, force: bool = False
) -> Outcome:
    """Run a notebook through papermill in a process of its own, unless its record is there.

    A clash of kernel ports is tried once more. A failure leaves `failure.json` beside the executed
    notebook; a success leaves the record.

    Args:
        run: what to run.
        cwd: the directory that relative folders among the parameters start from.
        own: variables of the process's environment: which GPU or how many cores are its own.
        stop: a threading.Event that ends the process when it is set.
        force: repeat it, even if its record is there.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with _locked(run.folder / ".lock", stop) as lock:
        if state(run) == "done" and not force:  # someone else finished it meanwhile
            return Outcome(name=run.name)
        (run.folder / RESULT).unlink(missing_ok=True)  # damaged, outdated or to be repeated
        values = {**run.parameters, "outputs": str(run.folder)}
        out, log = run.folder / EXECUTED, run.folder / LOG
        env = _environment(run.folder.parents[1], own)
        for _ in range(2):
            error = _papermill(run.notebook, out, values, log, cwd, env, lock, stop)
            if PORT_CLASH not in error:
                break
        found = state(run)
        if not error and found != "done":
            error = f"the notebook ended without a record of these parameters ({found})."
        if error and not (stop and stop.is_set()):
            write_json(run.folder / FAILURE, {"error": error, "parameters": run.wanted})
        elif not error:
            for stale in (run.folder / FAILURE, run.folder / FAILED):
                stale.unlink(missing_ok=True)
    return Outcome(name=run.name, error=error, seconds=time.monotonic() - started)


@contextmanager
def cluster(path: str | Path) -> Iterator[str]:
    """Start a dask-jobqueue cluster from a YAML file; gives its scheduler's address.

    The file names the `cluster` (SLURM, PBS, Local, …: dask-jobqueue's class without "Cluster"),
    the number of `jobs` and the `options` of the class, such as queue, cores, memory, walltime.

    Raises:
        ValueError: when the file says something else.
    """
    import dask_jobqueue
    from dask_jobqueue.local import LocalCluster

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict) or not {"cluster", "jobs"} <= settings.keys() <= {
        "cluster",
        "jobs",
        "options",
    }:
        raise ValueError(f"{path} must name cluster and jobs, and may give options.")
    known = {**vars(dask_jobqueue), "LocalCluster": LocalCluster}  # that one runs jobs right here
    made = known.get(f"{settings['cluster']}Cluster")
    if made is None:
        raise ValueError(f"dask-jobqueue has no cluster {settings['cluster']!r}.")
    with made(**(settings.get("options") or {})) as started:
        started.scale(jobs=settings["jobs"])
        yield started.scheduler_address


def _all_done(
    pool: Executor,
    todo: Sequence[Run],
    stop: threading.Event | None,
    say: Callable,
    force: bool = False,
) -> list[Outcome]:
    """Teachers first, then runs; failures are collected, never raised."""
    makers = [
        teacher
        for teacher in needed_teachers(todo)
        if not is_made(
            teacher.task, teacher.model, teacher.data or None, teacher.folder, teacher.recipe
        )
    ]
    for teacher in makers:
        say(f"Fine-tuning {teacher.name} first: it is missing, or was made otherwise.")
    failed = _work(pool, make_teacher, makers, "teachers", stop)
    # A run would make its teacher itself, and might take the packaged stand-in for it.
    without = {outcome.name: outcome.error for outcome in failed}
    ready = []
    for run in todo:
        teacher = teacher_of(run)
        if teacher is None or teacher.name not in without:
            ready.append(run)
            continue
        error = f"its {teacher.name} could not be made: {without[teacher.name]}"
        write_json(run.folder / FAILURE, {"error": error, "parameters": run.wanted})
        failed.append(Outcome(name=run.name, error=error))
    make = functools.partial(make_run, force=True) if force else make_run
    return failed + _work(pool, make, ready, "runs", stop)


def _work(
    pool: Executor,
    make: Callable,
    jobs: Sequence[Run | Teacher],
    what: str,
    stop: threading.Event | None,
) -> list[Outcome]:
    """Have a pool do jobs of one kind; gives the outcomes that failed."""
    failed: list[Outcome] = []
    if not jobs:
        return failed
    futures: dict[Future, str] = {pool.submit(make, job, Path.cwd()): job.name for job in jobs}
    with bar(len(jobs), what) as steps:
        steps.set_postfix_str(f"0 of {len(jobs)}")
        try:
            for number, future in enumerate(as_completed(futures), 1):
                problem, name = future.exception(), futures[future]
                if problem:
                    outcome = Outcome(name=name, error=f"{type(problem).__name__}: {problem}")
                else:
                    outcome = future.result()
                if outcome.error:
                    failed.append(outcome)
                    steps.write(f"failed: {outcome.name}: {outcome.error}", file=sys.stderr)
                note = f", {len(failed)} failed" if failed else ""
                steps.set_postfix_str(f"{number} of {len(jobs)}{note}", refresh=False)
                steps.update()
        except KeyboardInterrupt:
            for future in futures:
                future.cancel()
            if stop:
                stop.set()
            raise
    return failed


@contextmanager
def _executor(
    workers: int, scheduler: str, say: Callable
) -> Iterator[tuple[Executor, threading.Event | None]]:
    """Where jobs run: a pool of threads that wait for processes, or Dask's workers."""
    if not scheduler:
        with _Local(workers) as pool:
            yield pool, pool.stop
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(
            "--scheduler needs the optional extra: pip install 'kprune[cluster]'."
        ) from error
    if scheduler.endswith((".yaml", ".yml")):
        if not Path(scheduler).is_file():
            raise ValueError(f"There is no cluster file {scheduler}.")
        with cluster(scheduler) as address, _executor(0, address, say) as found:
            yield found
        return
    if "://" not in scheduler:
        raise ValueError(
            f"{scheduler!r} is neither an address such as tcp://host:8786 nor a YAML file."
        )
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No Dask scheduler answers at {scheduler}; start one with `dask scheduler`."
        ) from error
    with client:
        say(f"Dask at {scheduler}: {len(client.scheduler_info()['workers'])} workers.")
        yield client.get_executor(pure=False), None


class _Local(ThreadPoolExecutor):
    """Threads that each wait for one process; each process has a GPU of its own, or some cores."""

    def __init__(self, workers: int):
        gpus = [str(number) for number in range(torch.cuda.device_count())]
        if gpus and (visible := os.environ.get("CUDA_VISIBLE_DEVICES")):
            gpus = visible.split(",")[: len(gpus)]
        workers = workers or max(1, len(gpus))
        self.stop, self.slots = threading.Event(), queue.SimpleQueue()
        for number in range(workers):
            own = {}
            if gpus:
                own["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            elif workers > 1:  # processes whose threads share cores wait for each other
                own["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // workers))
            self.slots.put(own)
        super().__init__(workers)

    def submit(self, make: Callable, job: Any, cwd: Path) -> Future:
        def work() -> Outcome:
            slot = self.slots.get()
            try:
                return make(job, cwd, slot, self.stop)
            finally:
                self.slots.put(slot)

        return super().submit(work)


def _papermill(
    notebook: Path,
    out: Path,
    values: dict[str, Any],
    log: Path,
    cwd: Path,
    env: dict[str, str],
    lock: int | None = None,
    stop: threading.Event | None = None,
) -> str:
    """Run a notebook; the executed one appears whole. Gives the error in a line, or ""."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part, given = out.with_suffix(".part.ipynb"), out.with_suffix(".parameters.yaml")
    given.write_text(yaml.safe_dump(values))  # JSON's 1e-05 would be a string to YAML
    command = [sys.executable, "-m", "papermill", str(notebook), str(part)]
    command += ["-f", str(given), "--kernel", "python3", "--no-progress-bar"]
    code = _process(command, log, cwd, env, lock, stop)
    given.unlink(missing_ok=True)
    error = "" if code == 0 else _notebook_error(part) or _last_line(log)
    if part.is_file():
        part.replace(out.with_name(FAILED) if error else out)
    return error


def _process(
    command: list[str],
    log: Path,
    cwd: Path,
    env: dict[str, str],
    lock: int | None,
    stop: threading.Event | None,
) -> int:
    """Run a command to its end; its output goes to a file. It holds the lock while it lives."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=[] if lock is None else [lock],
        )
        while True:
            try:
                return process.wait(0.5)
            except subprocess.TimeoutExpired:
                if stop and stop.is_set():
                    process.terminate()


def _environment(outputs: Path, own: dict[str, str] | None = None) -> dict[str, str]:
    """Environment of a process whose teachers and results are in `outputs`."""
    return os.environ | {"KPRUNE_OUTPUTS": str(outputs)} | (own or {})


@contextmanager
def _locked(path: Path, stop: threading.Event | None = None) -> Iterator[int]:
    """Hold a file's lock; waits while another process, or a child that outlived it, holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop and stop.wait(0.5):
                    raise InterruptedError("stopped while waiting for another process") from None
                time.sleep(0.5)
        yield stream.fileno()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _notebook_error(path: Path) -> str:
    """The error that ended an executed notebook, in a line; "" where there is none."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError, json.JSONDecodeError, nbformat.reader.NotJSONError):
        return ""
    errors = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    return f"{errors[-1]['ename']}: {errors[-1]['evalue']}" if errors else ""


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the process ended without a word."
