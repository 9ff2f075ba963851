"""Run an experiment: one papermill process per run, from a local pool or a Dask cluster."""

import functools
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from kprune.data.reach import local
from kprune.data.tasks import get_task
from kprune.engine.files import CONFIG, plain, read_json, write_json
from kprune.engine.progress import bar
from kprune.laboratory.drawing import draw
from kprune.laboratory.experiments import expand, find_notebook, read_experiment
from kprune.laboratory.finetuning import wanted_recipe
from kprune.laboratory.origin import origin
from kprune.laboratory.pools import executor
from kprune.laboratory.processes import (
    ASIDE,
    CLASH,
    FAILED,
    GIVEN,
    PART,
    Outcome,
    cells,
    last_line,
    locked,
    run_command,
    run_notebook,
    set_aside,
    variables,
)
from kprune.laboratory.records import (
    EXPECTED,
    FAILURE,
    RESULT,
    Run,
    output_folder,
    state,
)
from kprune.laboratory.teachers import teacher_folder, why_anew

LOCAL = (".", "/", "~")  # what a folder begins with, and no Hub id does
EXECUTED, LOCK = "run.ipynb", ".lock"
# Files, figures and models that were being written, and what was set aside meanwhile.
HALF = (".*.part", ".*.part.*", ".pruned-*", f".*{ASIDE}")


class Teacher(BaseModel):
    """A teacher that runs share and that is fine-tuned before them, in a process of its own."""

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
    def fault(self) -> str:
        """Why it is not what is wanted, and whole; "" where it is."""
        recipe = wanted_recipe(self.model, self.examples, self.epochs)
        wanted = origin(get_task(self.task), self.model, self.data or None, recipe)
        return why_anew(self.folder, wanted)


def reproduce(
    path: str | Path,
    force: bool = False,
    workers: int = 0,
    scheduler: str = "",
    say: Callable[[str], object] = print,
) -> list[Outcome]:
    """Make an experiment's missing teachers, runs and report; what is finished is left alone.

    Can be stopped at any moment and started again: records appear whole or not at all, and a run
    that another process still works on is waited for, not repeated. Results go where
    `records.output_folder` says. So many `workers` run at a time on this machine and share its
    cores evenly; 0 takes one per GPU, or one without a GPU, since a run uses every core.
    `scheduler` is the address of a Dask scheduler, or a YAML file for dask-jobqueue (see
    `pools.cluster`); `say` receives lines of text.

    Gives the outcomes of the jobs that failed; ValueError before anything runs, when the experiment
    or the scheduler makes no sense.
    """
    path, experiment = Path(path), read_experiment(path)
    runs = expand(path)
    report = find_notebook(experiment.report) if experiment.report else None
    needed_teachers(runs)
    home = output_folder(path.stem)
    states = [state(run) for run in runs]
    at_once = threading.Event()  # what another process still works on is its to tidy
    at_once.set()
    for run, now in zip(runs, states, strict=True):
        if now == "damaged":
            say(f"The record of {run.name} is damaged and will be made again.")
        elif now == "done" and _leftovers(run):
            with suppress(InterruptedError), locked(run.folder / LOCK, at_once):
                _tidy(run)
    todo = [run for run, now in zip(runs, states, strict=True) if force or now != "done"]
    source = runs[0].folder.parent
    _check_ours(source, todo)
    check_folders(todo)
    expected = plain({"runs": [{"name": run.name, "parameters": run.wanted} for run in runs]})
    if read_json(source / EXPECTED) != expected:
        write_json(source / EXPECTED, expected)
    failed: list[Outcome] = []
    if todo:
        with executor(workers, scheduler, say) as pool:
            failed = _all_done(pool, todo, say, force)
    if report and (error := draw(report, source, home, force)):
        failed.append(Outcome(name=report.stem, error=error))
    return failed


def check_folders(runs: Sequence[Run]) -> None:
    """Raise ValueError when a run's own teacher, or a folder of a model or data, is not there."""
    here = f"(relative folders start from {Path.cwd()})"
    for run in runs:
        teacher, model, data = (run.parameters.get(n, "") for n in ("teacher", "model", "data"))
        for folder in filter(None, (teacher, model if model.startswith(LOCAL) else "")):
            if not (local(folder) / CONFIG).is_file():
                raise ValueError(
                    f"{run.name}: there is no model in the folder {folder} {here}; leave `teacher` "
                    "out to have one fine-tuned."
                )
        if data.startswith(LOCAL) and not local(data).is_dir():
            raise ValueError(f"{run.name}: there is no data folder {data} {here}.")


def needed_teachers(runs: Sequence[Run]) -> list[Teacher]:
    """The teachers in default places that runs share, each once; ValueError where two differ."""
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
    command = [sys.executable, "-m", "kprune", "teacher", teacher.task, "--model", teacher.model]
    command += ["--data", teacher.data] if teacher.data else []
    command += ["--examples", str(teacher.examples), "--epochs", str(teacher.epochs)]
    log = teacher.folder.with_name(f"{teacher.folder.name}.log")
    env = variables(teacher.folder.parents[1], own)
    with locked(teacher.folder.with_name(f".{teacher.folder.name}.lock"), stop) as lock:
        code = run_command(command, log, cwd, env, lock, stop)
    return Outcome(name=teacher.name, error="" if code == 0 else last_line(log))


def make_run(
    run: Run, cwd: Path, own: dict[str, str] | None = None, stop=None, force: bool = False
) -> Outcome:
    """Run a notebook through papermill in a process of its own, unless its record is there.

    Relative folders among its parameters start from `cwd`; `own` is which GPU or how many cores are
    its own, as variables of the environment; `stop` ends it when set. A clash of kernel ports is
    tried once more. A failure leaves `failure.json` beside the executed notebook, and an earlier
    record where it was; a success leaves the record.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with locked(run.folder / LOCK, stop) as lock:
        if state(run) == "done" and not force:  # someone else finished it meanwhile
            _tidy(run)
            return Outcome(name=run.name)
        for old in _leftovers(run):
            if old.suffix != ASIDE:  # which comes back if this fails, too
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        values = {**run.parameters, "outputs": str(run.folder)}
        out, env = run.folder / EXECUTED, variables(run.folder.parents[1], own)
        with set_aside(run.folder / RESULT, out):
            for _ in range(2):
                error = run_notebook(run.notebook, out, values, cwd, env, lock, stop)
                if CLASH not in error:
                    break
            found = state(run)
        if found == "done":  # whatever became of its process afterwards
            error = ""
            _tidy(run)
        else:
            error = error or f"the notebook ended without a record of these parameters ({found})."
            if not (stop and stop.is_set()):
                _failed(run, error)
    return Outcome(name=run.name, error=error)


def _check_ours(source: Path, runs: Sequence[Run]) -> None:
    """Raise ValueError where someone else's file has the place of one that would be written."""
    known = {source / EXPECTED: {"runs"}}
    known |= {run.folder / RESULT: {"parameters", "scores", "report"} for run in runs}
    for path, keys in known.items():
        if (found := read_json(path)) and not found.keys() & keys:
            raise ValueError(f"{path} is no file of kprune's; move it, or take other outputs.")


def _leftovers(run: Run) -> list[Path]:
    """What a failed try, or a process that was killed, leaves in a run's folder."""
    out = run.folder / EXECUTED
    notes = [run.folder / FAILED, run.folder / FAILURE, *map(out.with_suffix, (PART, GIVEN))]
    hidden = [p for pattern in HALF for p in run.folder.glob(pattern)]
    return [path for path in [*notes, *hidden] if path.exists()]


def _tidy(run: Run) -> None:
    """Leave the record of a run that is done, and its notebook as far as that came."""
    out = run.folder / EXECUTED
    for path in _leftovers(run):
        if path.suffix == ".ipynb" and cells(path) and not out.exists():
            path.replace(out)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _failed(run: Run, error: str) -> Outcome:
    """Leave a note of an error in a run's folder."""
    write_json(run.folder / FAILURE, {"error": error, "parameters": run.wanted})
    return Outcome(name=run.name, error=error)


def _all_done(pool: Executor, todo: Sequence[Run], say: Callable, force: bool) -> list[Outcome]:
    """Teachers first, then runs; failures are collected, never raised."""
    makers = [teacher for teacher in needed_teachers(todo) if teacher.fault]
    for teacher in makers:
        say(f"Fine-tuning {teacher.name} first: it {teacher.fault}.")
    failed = _work(pool, make_teacher, makers, "teachers")
    # A run would try to make its teacher itself, too.
    without = {outcome.name: outcome.error for outcome in failed}
    ready = []
    for run in todo:
        teacher = teacher_of(run)
        if teacher and teacher.name in without:
            error = f"its {teacher.name} could not be made: {without[teacher.name]}"
            failed.append(_failed(run, error))
        else:
            ready.append(run)
    make = functools.partial(make_run, force=True) if force else make_run
    return failed + _work(pool, make, ready, "runs")


def _work(
    pool: Executor, make: Callable, jobs: Sequence[Run | Teacher], what: str
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
                if problem := future.exception():
                    error = f"{type(problem).__name__}: {problem}"
                    outcome = Outcome(name=futures[future], error=error)
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
            if stop := getattr(pool, "stop", None):  # of this machine's processes
                stop.set()
            raise
    return failed
