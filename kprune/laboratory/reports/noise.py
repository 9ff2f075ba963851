"""How far chance alone moves a score: the standard error of its dev set."""

import numpy as np
import pandas as pd

from kprune.laboratory.figures import standard_error

# Rows of dev sets, for records of versions that did not write how many they scored.
ROWS = {"sst2": 872, "stsb": 1500, "sts": 1500, "mrpc": 408, "mnli": 9815, "opinions": 1000}
ROWS |= {"squad": 10570, "squad_v2": 11873}

UNKNOWN = 0.5  # points, taken where the dev set's standard error is not known


def bar(error: float) -> float:
    """Points that a difference of two scores on a dev set must exceed to be told from chance.

    Twice its standard error, which is √2 times that of one score (`error`) at the most: on the same
    rows the two go up and down together.
    """
    return 2 * 2**0.5 * (UNKNOWN if np.isnan(error) else error)


def clear(differences: pd.Series, error: float) -> bool:
    """Whether differences, one for each seed, are told from chance.

    Their mean exceeds the `bar`, and all of them are on one side of zero.
    """
    mean = differences.mean()
    return bool(abs(mean) > bar(error) and (differences * mean > 0).all())


def of_score(runs: pd.DataFrame, value: str = "score") -> float:
    """One standard error of the dev set, in points, of a score's mean over runs of one dev set.

    NaN where it is not known: of F1, or of a dev set whose number of rows is not.
    """
    done = runs[runs["state"] == "done"]
    if done.empty:
        return float("nan")
    score, metric = done[value].astype(float).mean(), done["metric"].iloc[0]
    error = standard_error(score, examples, metric) if (examples := _examples(done)) else 0.0
    return 100 * error or float("nan")


def at_most(runs: pd.DataFrame, value: str = "score") -> float:
    """The same where it is known; of F1 over questions the most that it can be, of an accuracy.

    Each question has an F1 from 0 to 1, whose spread is largest where all of them are 0 or 1.
    """
    of_questions = runs["task"].isin(["squad", "squad_v2"]) & (runs["metric"] == "f1")
    return of_score(runs.assign(metric=runs["metric"].mask(of_questions, "accuracy")), value)


def _examples(done: pd.DataFrame) -> int:
    """How many rows of the dev set were scored; 0 where nobody knows."""
    first = done.iloc[0]
    every = first.get("every", 1)
    rows = ROWS.get(first["task"], 0) // (1 if pd.isna(every) else max(1, int(every)))
    return first["extra"].get("dev examples") or rows
