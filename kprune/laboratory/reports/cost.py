"""`12_cost`: the time that pruning takes."""

import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import points


def draw_cost(runs: pd.DataFrame) -> Figure:
    """Time of pruning of each method, one point per run."""
    figure = points(runs[runs["state"] == "done"], "passes")
    figure.axes[0].set(
        title="What pruning costs",
        xlabel="time of pruning (F: plain forward passes over the sample)",
    )
    return figure
