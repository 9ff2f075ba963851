"""How far chance alone moves a score: the standard error of its dev set."""

import pandas as pd

from kprune.laboratory.figures import standard_error

# Rows of dev sets, for records of versions that did not write how many they scored.
ROWS = {"sst2": 872, "stsb": 1500, "sts": 1500, "mrpc": 408, "mnli": 9815, "opinions": 1000}


def of_score(runs: pd.DataFrame, value: str = "score") -> float:
    """One standard error of the dev set, in points, of a score's mean over runs of one dev set.

    NaN where it is not known: of F1, or of a dev set whose number of rows is not.
    """
    done = runs[runs["state"] == "done"]
    if done.empty:
        return float("nan")
    first = done.iloc[0]
    every = first.get("every", 1)
    rows = ROWS.get(first["task"], 0) // (1 if pd.isna(every) else max(1, int(every)))
    examples = first["extra"].get("dev examples") or rows
    score = done[value].astype(float).mean()
    error = standard_error(score, examples, first["metric"]) if examples else 0.0
    return 100 * error or float("nan")
