"""One progress bar for notebooks, terminals and log files alike."""

import sys

from tqdm import tqdm

TERMINAL_SECONDS, LOG_SECONDS = 0.2, 15.0


def bar(total: float, what: str, show: bool = True, unit: str = "step") -> tqdm:
    """A progress bar that says what it does and how long remains.

    In a log file it writes a line every few seconds instead of redrawing one.

    Args:
        total: the amount of work, in any unit.
        what: what is being done.
        show: False for silence.
        unit: what one unit of the work is called.
    """
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=not show,
        file=sys.stderr,
        dynamic_ncols=sys.stderr.isatty(),
        mininterval=TERMINAL_SECONDS if live else LOG_SECONDS,
        bar_format="{desc}: {percentage:3.0f}%|{bar:25}| {elapsed} < {remaining}{postfix}",
    )
