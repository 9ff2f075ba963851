"""One progress bar for notebooks, terminals and log files alike."""

import io
import sys

from tqdm import tqdm

TERMINAL_SECONDS, LOG_SECONDS = 0.2, 15.0


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
