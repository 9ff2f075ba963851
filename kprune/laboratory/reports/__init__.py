"""One file for each report notebook: its tables and, called `draw_…`, its figures.

Where nothing else is said, `runs` is what `tables.collect` gave; runs that are not done leave gaps.
"""

from collections.abc import Callable

import pandas as pd

from kprune.laboratory.tables import by_model

FEW = 10  # runs that are named each


def told(runs: pd.DataFrame, say: Callable[[pd.DataFrame], str]) -> str:
    """What is said of the runs, of each model apart where a task has several."""
    parts = [(suffix[1:], say(part)) for suffix, part in by_model(runs)]
    return "\n\n".join(f"*{model}*\n\n{text}" if model else text for model, text in parts)


def standing(runs: pd.DataFrame) -> str:
    """How many runs are done, and which are not: each by name, or where they are many by task."""
    absent = runs[runs["state"] != "done"]
    lines = [*(absent["run"] + ": " + absent["state"])]
    if len(lines) > FEW:
        lines = []
        for (task, rate), some in absent.groupby(["task", "rate"], sort=False):
            counts = some["state"].value_counts(sort=False)
            told_of = ", ".join(f"{count} {state}" for state, count in counts.items())
            lines.append(f"{task} at {rate:.0%}: {told_of}")
    return "\n".join([f"{len(runs) - len(absent)} of {len(runs)} runs are done", *lines])
