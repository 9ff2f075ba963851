"""One file for each report notebook: its tables and, called `draw_…`, its figures.

Where nothing else is said, `runs` is what `tables.collect` gave; runs that are not done leave gaps.
"""

import re
from collections.abc import Callable

import pandas as pd

from kprune.laboratory.records import short
from kprune.laboratory.tables import GAP, by_model, called, few, named_by

FEW = 10  # runs that are named each
STOPPED = re.compile(r"rescaling stopped at the \w+ of layer (\d+)")  # a note of Kwon et al.


def told(runs: pd.DataFrame, say: Callable[[pd.DataFrame], str]) -> str:
    """What is said of the runs, of each model apart where a task has several."""
    parts = [(suffix[1:], say(part)) for suffix, part in by_model(runs)]
    return "\n\n".join(f"*{model}*\n\n{text}" if model else text for model, text in parts)


def made(runs: pd.DataFrame) -> str:
    """By which version and commits finished runs were made and on what, as their records say."""
    done = runs[runs["state"] == "done"].drop_duplicates("run")
    counts: dict[tuple[str, str, str, int], int] = {}
    for _, run in done.iterrows():
        version = str(run["extra"]["environment"].get("kprune"))
        key = version, short(run["commit"]), str(run["device"]), int(run["threads"])
        counts[key] = counts.get(key, 0) + 1
    return "\n".join(
        f"{count} {'run' if count == 1 else 'runs'} by version {version} at commit {commit}: "
        f"{device}, {threads} {'thread' if threads == 1 else 'threads'}"
        for (version, commit, device, threads), count in counts.items()
    )


def sampled(runs: pd.DataFrame) -> str:
    """Of how many tokens the samples are, and of which seeds."""
    tokens, seeds = (sorted({int(x) for x in runs[name]}) for name in ("tokens", "seed"))
    sizes = few((f"{size:,}" for size in tokens), 9)
    named = "seed" if len(seeds) == 1 else "seeds"
    return f"samples of {sizes} tokens, {named} {few(map(str, seeds), 9)}"


def seen(table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """A table as a page shows it: without the columns and rows that nothing was run for.

    Its first `rows` columns name a row. What it is written to files as keeps them.
    """
    there = ~table.isin([GAP, ""])
    kept = table.loc[there.iloc[:, rows:].any(axis=1), there.any()]
    return kept.reset_index(drop=True)


def single(table: pd.DataFrame) -> pd.DataFrame:
    """A table as a page shows it: without the numbers of seeds, where each of them is one."""
    ends = table.astype(str).map(lambda cell: "".join(re.findall(r" \(\d+(?: of \d+)?\)$", cell)))
    if {*ends.to_numpy().ravel()} - {""} != {" (1)"}:
        return table
    return table.map(lambda cell: cell.removesuffix(" (1)") if isinstance(cell, str) else cell)


def one_machine(runs: pd.DataFrame, say: Callable[[str], object] = print) -> pd.DataFrame:
    """The runs, but the finished ones of another device or number of threads than most.

    `say` is told of how many those are.
    """
    done = runs[runs["state"] == "done"]
    machine = done["device"].fillna("").astype(str) + done["threads"].astype(str)
    other = machine.index[~machine.isin(machine.mode()[:1])]
    if len(other):
        say(
            f"{len(other)} runs on another device or number of threads are left out: times do not "
            "compare"
        )
    return runs.drop(index=other).reset_index(drop=True)


def comparable(runs: pd.DataFrame, cells: list[str], of: list[str]) -> pd.DataFrame:
    """The finished runs whose `of` (tasks, seeds) all methods of a cell have done.

    So that their means compare; where methods share none, all that are done.
    """
    done = runs[runs["state"] == "done"]
    parts = [done[:0]]
    for _, some in done.groupby(cells, sort=False):
        places = some[of].apply(tuple, axis=1)
        shared = set.intersection(*places.groupby(some["label"]).agg(set))
        parts.append(some[places.map(shared.__contains__)] if shared else some)
    return pd.concat(parts)


def stopped(runs: pd.DataFrame) -> pd.Series:
    """The layer, from 1, at which the rescaling of Kwon et al. gave up; NaN where it went through.

    By their own rule it ends where a scale leaves ±10, and all that follows keeps scale 1.
    """

    def layer(extra: dict) -> float:
        found = map(STOPPED.match, extra["report"].get("notes", []))
        return next((float(match[1]) for match in found if match), float("nan"))

    return runs["extra"].map(layer, na_action="ignore").astype(float)


def cut_short(runs: pd.DataFrame) -> str:
    """The runs of Kwon et al. that gave up below the last layer, in words; empty without any."""
    runs, words = runs.assign(at=stopped(runs)).dropna(subset="at"), []
    runs = runs[runs["at"] < runs["dense_heads"].map(len)]
    for (*model, task, rate), some in runs.groupby([*named_by(runs), "task", "rate"], sort=False):
        layers = " and ".join(f"{at:.0f}" for at in sorted({*some["at"]}))
        where = f"layer{'s' * (some['at'].nunique() > 1)} {layers}"
        where += f" of {len(some['dense_heads'].iloc[0])}"
        where += f", in {len(some)} runs" if len(some) > 1 else ""
        words.append(" ".join([*model, f"{called([task])[0]} at {rate:.0%} ({where})"]))
    if not words:
        return ""
    text = "- Kwon et al.'s rescaling gave up, by their own rule (a scale beyond ±10), on "
    return f"{text}{few(words, 99)}: scores and passes there are of runs cut short."


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
