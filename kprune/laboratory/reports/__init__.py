"""One file for each report notebook: its tables and, called `draw_…`, its figures.

Where nothing else is said, `runs` is what `tables.collect` gave; runs that are not done leave gaps.
"""

from collections.abc import Callable

import pandas as pd

from kprune.laboratory.tables import by_model


def told(runs: pd.DataFrame, say: Callable[[pd.DataFrame], str]) -> str:
    """What is said of the runs, of each model apart where a task has several."""
    parts = [(suffix[1:], say(part)) for suffix, part in by_model(runs)]
    return "\n\n".join(f"*{model}*\n\n{text}" if model else text for model, text in parts)
