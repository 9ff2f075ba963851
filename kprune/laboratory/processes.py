"""Processes of a batch: papermill on a notebook, locks between runners, errors in a line."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import yaml
from pydantic import BaseModel

FAILED = "failed.ipynb"
CLASH = "Address already in use"  # of a kernel whose ports another took meanwhile
PART, GIVEN = ".part.ipynb", ".parameters.yaml"  # of a notebook that is being run
ASIDE = ".old"  # what ends the name of a file that is out of the way for a while
CHILD = Path(__file__).with_name("child.py")


class Outcome(BaseModel):
    """How a job ended; `error` is one sentence, empty where all went well."""

    name: str
    error: str = ""


def run_notebook(
    notebook: Path,
    out: Path,
    values: dict[str, Any],
    cwd: Path,
    env: dict[str, str],
    lock: int | None = None,
    stop: threading.Event | None = None,
) -> str:
    """Run a notebook; the executed one appears whole. Gives the error in a line, or ""."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part, given = out.with_suffix(PART), out.with_suffix(GIVEN)
    log = out.with_name("log.txt")
    given.write_text(
        yaml.safe_dump(values), encoding="utf-8"
    )  # JSON's 1e-05 would be a string to YAML
    command = [sys.executable, "-m", "papermill", str(notebook), str(part)]
    command += ["-f", str(given), "--kernel", "python3", "--no-progress-bar"]
    code = run_command(command, log, cwd, env, lock, stop)
    given.unlink(missing_ok=True)
    killed = f"ended by {signal.Signals(-code).name}." if code < 0 else ""
    error = "" if code == 0 else _notebook_error(part) or killed or last_line(log)
    if error and CLASH in log.read_text(encoding="utf-8", errors="replace") and CLASH not in error:
        error += f" ({CLASH})"  # what the kernel said before it ended
    if part.is_file():
        part.replace(out.with_name(FAILED) if error else out)
    if not error:
        out.with_name(FAILED).unlink(missing_ok=True)  # of an earlier try
    return error


def run_command(
    command: list[str],
    log: Path,
    cwd: Path,
    env: dict[str, str],
    lock: int | None,
    stop: threading.Event | None,
) -> int:
    """Run a command of Python's to its end; its output goes to a file.

    It holds the lock while it lives, and ends when this process does.
    """
    python, *arguments = command
    command = [python, str(CHILD), *arguments]
    env = env | {"JPY_PARENT_PID": str(os.getpid())}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        streams = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
        held = [] if lock is None else [lock]
        process = subprocess.Popen(command, cwd=cwd, env=env, pass_fds=held, **streams)
        while True:
            try:
                return process.wait(0.5)
            except subprocess.TimeoutExpired:
                if stop and stop.is_set():
                    process.terminate()


def variables(outputs: Path, own: dict[str, str] | None = None) -> dict[str, str]:
    """Environment of a process whose teachers and results are in `outputs`.

    It reads and writes UTF-8 whatever the locale says, and its kernels are of this interpreter.
    """
    places = {"KPRUNE_OUTPUTS": str(outputs), "JUPYTER_PATH": str(CHILD.parent)}
    return os.environ | places | {"PYTHONUTF8": "1"} | (own or {})


@contextmanager
def set_aside(*paths: Path) -> Iterator[None]:
    """Within the block files are out of the way; afterwards they are back, unless one of them, or
    all, came anew.
    """
    places = {path.with_name(f".{path.name}{ASIDE}"): path for path in paths}
    for aside, path in places.items():
        if path.exists():
            path.replace(aside)
    try:
        yield
    finally:
        anew = any(path.exists() for path in paths)
        for aside, path in places.items():
            if anew:
                aside.unlink(missing_ok=True)
            elif aside.exists():
                aside.replace(path)


@contextmanager
def locked(path: Path, stop: threading.Event | None = None) -> Iterator[int]:
    """Hold a file's lock; waits while another process, or a child that outlived it, holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop and stop.wait(0.5):
                    raise InterruptedError("stopped while waiting for another process") from None
                time.sleep(0.5)
        yield stream.fileno()


def cells(path: Path) -> list | None:
    """The cells of an executed notebook; None where it is not there or not whole."""
    try:
        return nbformat.read(path, as_version=4).cells
    except (OSError, ValueError, nbformat.reader.NotJSONError):
        return None


def _notebook_error(path: Path) -> str:
    """The error that ended an executed notebook, in a line; "" where there is none."""
    errors = [
        output
        for cell in cells(path) or []
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]
    return f"{errors[-1]['ename']}: {errors[-1]['evalue']}" if errors else ""


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the process ended without a word."
