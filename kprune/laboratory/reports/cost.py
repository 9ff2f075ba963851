"""`12_cost`: what each method takes in time and memory, and what of it the mask search."""

from collections.abc import Sequence

import pandas as pd


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Median seconds and passes and the largest peak (MB) of each method at each rate.

    Over the tasks that are done, of runs of `09_benchmark` as `tables.collect` gives them.
    """
    done = runs[runs["state"] == "done"].astype({"seconds": float, "passes": float})
    peaks = done["extra"].map(lambda extra: float(extra["peak above the model (MB)"]))
    each = done.assign(method=done["label"], peak=peaks).groupby(["method", "rate"], sort=False)
    medians = {name: (name, "median") for name in ("seconds", "passes")}
    found = each.agg(tasks=("task", "nunique"), **medians, peak=("peak", "max")).reset_index()
    return found.rename(columns={"peak": "peak (MB)"}).sort_values("rate", kind="stable")


def answer(each: pd.DataFrame, search: pd.DataFrame, rows: Sequence[str]) -> str:
    """K-prune's passes beside the others', and its search beside theirs, in words.

    `each` is from `summary`; `search` the milliseconds of all searches of a run, as
    `tables.summarise` gives them, with the columns `rows` that name a row.
    """
    passes = each.pivot(index="rate", columns="method", values="passes")
    found = []
    for rate, row in passes.dropna(subset="K-prune").iterrows():
        others = [
            f"{row['K-prune'] / value:.1f} times that of {name} ({value:.1f})"
            for name, value in row.drop("K-prune").items()
            if value >= 0.1
        ]
        text = f"- With {rate:.0%} of the FLOPs removed K-prune takes {row['K-prune']:.1f} passes"
        found.append(", ".join([text, *others]) + ".")
    times = search.pivot_table(index=[*rows], columns="label", values="mean")
    ours = times["K-prune"]
    text = f"- All searches of K-prune together take {ours.min():.0f} to {ours.max():.0f} ms"
    for name in times.columns.drop("K-prune"):
        ratio = (times[name] / ours).dropna()
        text += f"; those of {name} {ratio.min():.1f} to {ratio.max():.1f} times as long"
    return "\n".join([*found, text + "."])
