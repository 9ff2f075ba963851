"""`17_mask_search`: the time of the mask search."""

import pandas as pd
from matplotlib.figure import Figure

from kprune.laboratory.figures import points


def draw_search_time(runs: pd.DataFrame) -> Figure:
    """Milliseconds of the mask search of each method, one point per run."""
    done = runs[(runs["state"] == "done") & (runs["search"] > 0)]
    figure = points(done.assign(milliseconds=1000 * done["search"]), "milliseconds")
    figure.axes[0].set(
        xscale="log",
        title="How long the mask search takes",
        xlabel="all mask searches of a run (ms)",
    )
    return figure
