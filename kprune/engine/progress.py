"""One progress bar for notebooks, terminals and log files alike."""

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm
from transformers.utils import logging

from kprune.engine.devices import synchronize

TERMINAL_SECONDS, LOG_SECONDS = 0.2, 15.0


def bar(total: float, what: str, show: bool = True) -> tqdm:
    """A progress bar of the `total` work that says `what` it does and how long remains.

    In a notebook it is one output that is replaced, not a line per step; in a log file it writes a
    line every few seconds. `show` of False is silence.
    """
    notebook, terminal = bool(sys.modules.get("ipykernel")), sys.stderr.isatty()
    return (_NotebookBar if notebook else tqdm)(
        total=total,
        desc=what,
        disable=not show,
        file=io.StringIO() if notebook else sys.stderr,
        dynamic_ncols=terminal,
        ncols=None if terminal else 100,
        mininterval=TERMINAL_SECONDS if notebook or terminal else LOG_SECONDS,
        bar_format="{desc}: {percentage:3.0f}%|{bar:25}| {elapsed} < {remaining}{postfix}",
    )


class _NotebookBar(tqdm):
    """Draws into one output of the cell, so that a saved notebook holds the last state only."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        from IPython.display import display

        text = {"text/plain": msg or str(self)}
        if getattr(self, "handle", None) is None:
            self.handle = display(text, raw=True, display_id=True)
        else:
            self.handle.update(text, raw=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, transformers and datasets draw no bars and report no new heads."""
    import datasets  # slow, and only what loads data needs it

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    mapping = datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not mapping:
            datasets.enable_progress_bars()


@contextmanager
def timed(
    seconds: dict[str, float], step: str, device: torch.device | None = None
) -> Iterator[None]:
    """Add the wall-clock time of the block, and of the device, to `seconds[step]`."""
    start = time.perf_counter()
    yield
    synchronize(device)
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - start


class Clock:
    """Seconds of each step, less those of steps inside it, and a bar that moves with the work."""

    def __init__(self, device: torch.device | None = None, steps: tqdm | None = None):
        self.device, self.steps = device, steps if steps is not None else bar(1, "", show=False)
        self.seconds: dict[str, float] = {}  # of each step
        self._inside = [0.0]  # seconds of steps inside those that are open
        self._reached, self._allotted = 0.0, 0.0

    @contextmanager
    def step(self, name: str, verb: str = "") -> Iterator[None]:
        """Time the block, or each call of what it decorates, as `name`.

        `verb` stands beside the bar meanwhile.
        """
        if verb:
            self.steps.set_postfix_str(verb, refresh=False)
        own: dict[str, float] = {}
        self._inside.append(0.0)
        try:
            with timed(own, name, self.device):
                yield
        finally:
            spent, inside = own.get(name, 0.0), self._inside.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - inside
            self._inside[-1] += spent

    def allot(self, work: float) -> None:
        """Begin a stretch of the bar; what is missing of the last one is made up for."""
        self.steps.update(self._allotted - self._reached)
        self._reached, self._allotted = 0.0, work

    def tick(self, work: float) -> None:
        """Move on by an amount of work, within what is allotted."""
        step = min(work, self._allotted - self._reached)
        self._reached += step
        self.steps.update(step)
