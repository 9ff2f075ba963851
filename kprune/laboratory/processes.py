"""Processes of a batch: papermill on a notebook, locks between runners, errors in a line."""

import fcntl
import json
import os
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
    part, given = out.with_suffix(".part.ipynb"), out.with_suffix(".parameters.yaml")
    log = out.with_name("log.txt")
    given.write_text(yaml.safe_dump(values))  # JSON's 1e-05 would be a string to YAML
    command = [sys.executable, "-m", "papermill", str(notebook), str(part)]
    command += ["-f", str(given), "--kernel", "python3", "--no-progress-bar"]
    code = run_command(command, log, cwd, env, lock, stop)
    given.unlink(missing_ok=True)
    error = "" if code == 0 else _notebook_error(part) or last_line(log)
    if part.is_file():
        part.replace(out.with_name(FAILED) if error else out)
    return error


def run_command(
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
    """Environment of a process whose teachers and results are in `outputs`."""
    return os.environ | {"KPRUNE_OUTPUTS": str(outputs)} | (own or {})


@contextmanager
def locked(path: Path, stop: threading.Event | None = None) -> Iterator[int]:
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


def _notebook_error(path: Path) -> str:
    """The error that ended an executed notebook, in a line; "" where there is none."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError, json.JSONDecodeError, nbformat.reader.NotJSONError):
        return ""
    errors = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    return f"{errors[-1]['ename']}: {errors[-1]['evalue']}" if errors else ""


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the process ended without a word."
