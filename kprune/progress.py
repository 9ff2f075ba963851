"""One progress bar for notebooks, terminals and log files alike."""

import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import datasets
import torch
from tqdm import tqdm
from transformers.utils import logging

TERMINAL_SECONDS, LOG_SECONDS = 0.2, 15.0
AGREE, MOST = 0.01, 4  # when timings of a quiet machine count as such


def bar(total: float, what: str, show: bool = True, unit: str = "step") -> tqdm:
    """A progress bar that says what it does and how long remains.

    In a notebook it is one output that is replaced, not a line per step; in a log file it writes a
    line every few seconds.

    Args:
        total: the amount of work, in any unit.
        what: what is being done.
        show: False for silence.
        unit: what one unit of the work is called.
    """
    notebook, terminal = "ipykernel" in sys.modules, sys.stderr.isatty()
    return (_NotebookBar if notebook else tqdm)(
        total=total,
        desc=what,
        unit=unit,
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
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Add the wall-clock time of the block to `seconds[step]`."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - start


def seconds_in_turns(
    calls: dict[str, Callable[[], object]],
    repeats: int,
    show: bool = False,
    quiet: bool = False,
) -> dict[str, float]:
    """Seconds of each call, timed in turns after two uncounted rounds: the median or the shortest.

    Args:
        calls: the calls by name.
        repeats: timed rounds.
        show: whether to show a progress bar.
        quiet: take the shortest round of each, which is the time of a quiet machine: whatever else
            runs can only add to it. One short round may be chance, so rounds go on, up to four
            times as many (`MOST`), until the two shortest of each agree within 1% (`AGREE`). A
            single round stays single.

    Returns:
        Seconds by name.
    """
    rounds: list[dict[str, float]] = []

    def of(name: str) -> list[float]:
        return sorted(seconds[name] for seconds in rounds[2:])

    def settled() -> bool:
        return all(of(name)[1] <= (1 + AGREE) * of(name)[0] for name in calls)

    with bar((repeats + 2) * len(calls), "timing", show) as steps:
        most = repeats * (MOST if quiet and repeats > 1 else 1) + 2
        while len(rounds) < repeats + 2 or (len(rounds) < most and not settled()):
            rounds.append({})
            steps.total = max(steps.total, len(rounds) * len(calls))
            for name, call in calls.items():
                with timed(rounds[-1], name):
                    call()
                steps.update()
    return {name: of(name)[0] if quiet else statistics.median(of(name)) for name in calls}
