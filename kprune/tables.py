"""Result records into tables: CSV, Markdown and LaTeX."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from kprune.experiments import EXPECTED, FAILURE, RESULT, Record, output_folder

GAP = "—"
MEASURED = (
    *("metric", "dense", "score", "achieved", "speedup", "seconds", "passes", "memory"),
    *("heads", "neurons", "steps", "search"),
)
FOUND = ("parameters_left", "dense_heads", "dense_neurons", "device", "threads", "commit", "extra")
HEADINGS = {"task": "task", "label": "method", "model": "model", "parameter": "hyperparameter"}
NAMES = {
    "kprune": "K-prune",
    "kprune+": "K-prune+",
    "kwon": "Kwon et al.",
    "kcm": "KCM",
    "magnitude": "magnitude",
    "random": "random",
}
TASK_NAMES = {
    "sst2": "SST-2",
    "stsb": "STS-B",
    "mrpc": "MRPC",
    "mnli": "MNLI",
    "qqp": "QQP",
    "qnli": "QNLI",
    "squad": "SQuAD v1.1",
    "squad_v2": "SQuAD v2.0",
}


def collect(records: str | Path) -> pd.DataFrame:
    """One row for each run that an experiment expects, finished or not.

    Args:
        records: the experiment's folder, with `experiment.json` and one folder per run.

    Returns:
        The runs in their order. Columns: `run`; `state` ("done", "failed", "missing" or "damaged");
        every parameter; and, of finished runs, `metric`, `dense` and `score` (0 to 1), `achieved`
        (share of FLOPs gone), `speedup` (dense over pruned latency), `parameters_left` (share),
        `seconds` (of pruning), `passes` (the same in F), `memory` (MB), `heads`, `neurons`
        and `dense_heads`, `dense_neurons` (per layer), `steps` (seconds of each), `search` (seconds
        of the mask search), `device`, `threads`, `commit`, and `extra`, what only some notebooks
        record.
        `label` names the method as tables do.

    Raises:
        ValueError: when the folder holds no experiment, or none of its runs is done.
    """
    records = Path(records)
    if not (records / EXPECTED).is_file():
        raise ValueError(f"{records} holds no {EXPECTED}; run `kprune reproduce` first.")
    rows = []
    for run in json.loads((records / EXPECTED).read_text())["runs"]:
        row = {"run": run["name"], "state": "missing", **run["parameters"]}
        path = records / run["name"] / RESULT
        if path.is_file():
            row |= _numbers(path, run["parameters"])
        elif (records / run["name"] / FAILURE).is_file():
            row["state"] = "failed"
        rows.append(row)
    table = pd.DataFrame(rows)
    for name in MEASURED:
        if name not in table:
            table[name] = None
    table["label"] = [_label(row) for row in rows]
    if not (table["state"] == "done").any():
        raise ValueError(f"None of the {len(table)} runs in {records} is done: nothing to draw.")
    return table


def one_machine(runs: pd.DataFrame) -> pd.DataFrame:
    """What `collect` gave, without the runs whose seconds do not compare with most others'.

    Returns:
        All runs that are not done, and of the finished ones those on the device, and with the
        number of threads, that most of them had.
    """
    done = runs[runs["state"] == "done"]
    same = done.groupby(["device", "threads"], dropna=False)["run"].transform("count")
    return runs.drop(index=same.index[same < same.max()]).reset_index(drop=True)


def performance(records: str | Path) -> pd.DataFrame:
    """One row for each run of `09_benchmark` that an experiment expects, finished or not.

    Returns:
        The runs in their order. Columns: `run`, `state` and every parameter, as in `collect`; and,
        of finished runs, `F` (time of pruning in plain forward passes over the sample), `seconds`,
        `limit` (F that the matrix products of the faithful method alone would take; none where
        scores are kept), `memory` (MB above the loaded model),
        `score` and `dense` (of a real task), `steps` (F of each), `gains` (how many times as long
        without each idea), `kept` (unit numbers of each sublayer, of a real task) and `inference`
        (a list of batch size, length, and seconds of both models).
    """
    table = collect(records)
    for number, row in table[table["state"] == "done"].iterrows():
        extra = row["extra"]
        limit, one_pass = extra["limit"], extra["pass seconds"]
        found = {
            "F": row["passes"],
            "limit": None
            if row["reuse"]
            else limit["passes"] * limit["operations"] / limit["rate"] / one_pass,
            "memory": extra["peak above the model (MB)"],
            "steps": {step: spent / one_pass for step, spent in row["steps"].items()},
            "gains": extra["gains"],
            "kept": extra.get("kept"),
            "inference": extra["inference"],
        }
        for name, value in found.items():
            if name not in table:
                table[name] = None
                table[name] = table[name].astype(object)
            table.at[number, name] = value
    return table


def growth(runs: pd.DataFrame) -> pd.DataFrame:
    """Time and memory along one axis at a time, from what `performance` gave.

    Returns:
        Rows `axis` ("tokens", "layers", "width", "length"), `value`, `seconds`, `F` and `memory`
        (MB). Tokens vary on the real task that has most sizes of sample; the shape with random
        weights, around the shape that the runs share most.
    """
    done = runs[runs["state"] == "done"]
    real, shaped = done[done["layers"] == 0], done[done["layers"] > 0]
    parts = []
    real = real[(real["reuse"] == 0) & (real["multiple"] == 1) & (real["precision"] == "auto")]
    if len(real):
        groups = [some for _, some in real.groupby(["task", "rate"], sort=False)]
        most = max(groups, key=lambda some: some["tokens"].nunique())
        if most["tokens"].nunique() > 1:
            parts.append(most.assign(axis="tokens", value=most["tokens"]))
    if len(shaped):
        axes = ["layers", "width", "length"]
        varied = one_at_a_time(shaped, axes).rename(columns={"parameter": "axis"})
        # A length of 0 stands for those of the task's own sequences.
        parts.append(varied[(varied["axis"] != "length") | (varied["value"] > 0)])
    kept = ["axis", "value", "seconds", "F", "memory"]
    table = pd.concat(parts)[kept].astype(dict.fromkeys(kept[1:], float))
    order = {name: place for place, name in enumerate(("tokens", "layers", "width", "length"))}
    by = table.assign(order=table["axis"].map(order)).sort_values(["order", "value"])
    return by[kept].reset_index(drop=True)


def gains(runs: pd.DataFrame) -> pd.DataFrame:
    """How many times as long pruning's parts take without each idea: `idea`, `task`, `ratio`."""
    rows = [
        {"idea": idea, "task": run["task"], "ratio": ratio}
        for _, run in runs.iterrows()
        for idea, ratio in run["gains"].items()
    ]
    return pd.DataFrame(rows, columns=["idea", "task", "ratio"])


def precision(runs: pd.DataFrame) -> pd.DataFrame:
    """What low precision of the ranking passes changes, from what `performance` gave.

    Returns:
        A row for each run in full precision that has a counterpart: `task`, `tokens`, `rate`; `F`
        and `score` of both, the full one's with the suffix " (full)"; and, of the units that the
        full one keeps, the shares that the other keeps, too, `same heads` and `same neurons`.
    """
    alike = ["task", "rate", "tokens", "reuse", "multiple"]
    done = runs[(runs["state"] == "done") & (runs["layers"] == 0)]
    full, low = (done[done["precision"] == name] for name in ("full", "auto"))
    both = low.merge(full, on=alike, suffixes=("", " (full)"))
    for name, first in (("heads", 0), ("neurons", 1)):
        both[f"same {name}"] = [
            _in_common(one[first::2], other[first::2])
            for one, other in zip(both["kept (full)"], both["kept"], strict=True)
        ]
    shown = ["F (full)", "F", "score (full)", "score", "same heads", "same neurons"]
    return both[["task", "tokens", "rate", *shown]].astype(dict.fromkeys(shown, float))


def inference(runs: pd.DataFrame) -> pd.DataFrame:
    """Speed-up of pruned models by batch size and length, mean over runs of `performance`."""
    rows = [
        {
            "rate": run["rate"],
            "multiple": run["multiple"],
            "length": int(work["length"]),
            "batch size": int(work["batch size"]),
            "speed-up": work["dense"] / work["pruned"],
        }
        for _, run in runs.iterrows()
        for work in run["inference"]
    ]
    keys = ["rate", "multiple", "length", "batch size"]
    return pd.DataFrame(rows).groupby(keys, as_index=False)["speed-up"].mean()


def records_folder(records: str | Path) -> Path:
    """An experiment's folder, by its path or by its name in `outputs`."""
    return Path(records) if Path(records).is_dir() else output_folder(str(records))


def named_by(runs: pd.DataFrame, *names: str) -> list[str]:
    """The columns that name a row: these, after the model where a task has several of them."""
    several = runs.groupby("task")["model"].nunique().max() > 1
    return ["model", *names] if several else [*names]


def by_model(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs of each model, for figures, with a suffix for their files.

    Where no task has several models, they are all one part, and the suffix is empty.
    """
    if named_by(runs) == []:
        return [("", runs)]
    return [(f"-{Path(model).name}", part) for model, part in runs.groupby("model", sort=False)]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table with tasks and columns called as people call them; what is missing is a gap."""
    table = table.copy()
    if "model" in table:
        table["model"] = [Path(model).name for model in table["model"]]
    if "task" in table:
        table["task"] = [TASK_NAMES.get(task, task) for task in table["task"]]
    names = {
        column: f"{column:.0%}" if isinstance(column, float) else HEADINGS.get(column, column)
        for column in table.columns
    }
    table = table.rename(columns=names | TASK_NAMES).rename_axis(columns=None)
    return table.astype(object).where(table.notna(), GAP)


def with_dense(
    table: pd.DataFrame, runs: pd.DataFrame, rows: Sequence[str], digits: int = 1
) -> pd.DataFrame:
    """The table with the teacher's score in a column of its own, after those that name a row."""
    dense = runs.groupby([*rows], sort=False)["dense"].mean()
    keys = [tuple(row) if len(rows) > 1 else row[0] for row in table[[*rows]].itertuples(False)]
    values = [dense.get(key) for key in keys]
    shown = [GAP if pd.isna(value) else f"{100 * value:.{digits}f}" for value in values]
    table = table.copy()
    table.insert(len(rows), "teacher", shown)
    return table


def lead(runs: pd.DataFrame) -> pd.DataFrame:
    """Points by which K-prune is above the best other method, for each task and rate."""
    rows = named_by(runs, "task")
    whole = (runs["method"] != "kprune") | (runs["label"] == NAMES["kprune"])
    means = summarise(runs[whole], "score", [*rows, "label"], "rate", scale=100)
    ours = means["label"] == NAMES["kprune"]
    keys = [*rows, "rate"]
    best = means[~ours].dropna(subset="mean").sort_values("mean").groupby(keys, sort=False).last()
    joined = means[ours].set_index(keys)[["mean"]].join(best[["mean", "label"]], rsuffix=" of it")
    joined["lead"] = joined["mean"] - joined["mean of it"]
    joined = joined.rename(columns={"mean": NAMES["kprune"], "label": "best other"})
    joined = joined.drop(columns="mean of it").reset_index()
    return joined.assign(rate=[f"{rate:.0%}" for rate in joined["rate"]])


def losses(runs: pd.DataFrame) -> pd.DataFrame:
    """Points that each variant of a method loses against the whole method, seed by seed.

    Args:
        runs: what `collect` gave, of one method.

    Returns:
        The runs of the variants, with `loss` (points; none where either is not done).
    """
    whole = runs["without"] == ""
    return runs[~whole].assign(loss=-_ahead(runs[~whole], runs[whole]))


def alone(runs: pd.DataFrame, ingredients: Sequence[str]) -> pd.DataFrame:
    """Points that each ingredient of K-prune+ brings by itself over K-prune, seed by seed.

    Args:
        runs: what `collect` gave.
        ingredients: all that a run can leave out.

    Returns:
        The runs that leave out all ingredients but one, with that `ingredient` and its `gain`
        (points; none where either run is not done).
    """
    left = [{*ingredients} - {*without.split(",")} for without in runs["without"]]
    some = pd.Series([len(names) == 1 for names in left], index=runs.index)
    some &= runs["method"] == "kprune+"
    plain = runs[(runs["method"] == "kprune") & (runs["without"] == "")]
    names = [min(names) for names, chosen in zip(left, some, strict=True) if chosen]
    return runs[some].assign(ingredient=names, gain=_ahead(runs[some], plain))


def _ahead(runs: pd.DataFrame, others: pd.DataFrame) -> pd.Series:
    """Points by which each run is ahead of the other one of its model, task, rate and seed."""
    keys = ["model", "task", "rate", "seed"]
    ours, theirs = (
        pd.to_numeric(some["score"], errors="coerce").where(some["state"] == "done")
        for some in (runs, others)
    )
    by = theirs.set_axis(pd.MultiIndex.from_frame(others[keys]))
    return 100 * (ours - by.reindex(pd.MultiIndex.from_frame(runs[keys])).to_numpy())


def recovered(runs: pd.DataFrame) -> pd.DataFrame:
    """The share of K-prune's loss that K-prune+ recovers, from the seeds that both have done.

    Returns:
        For each task and rate `seeds`, the mean `teacher`, `K-prune` and `K-prune+` (× 100) and
        `recovered` (%), empty where K-prune loses less than a point: a share of so little is noise.
    """
    rows = named_by(runs, "task", "rate")
    whole = runs[(runs["without"] == "") & (runs["state"] == "done")]
    whole = whole.astype({"score": float, "dense": float})
    names = [NAMES["kprune"], NAMES["kprune+"]]
    found = whole.pivot_table(index=[*rows, "seed"], columns="label", values="score")
    found = found.reindex(columns=names).dropna()
    found = 100 * found.join(whole.groupby([*rows, "seed"])["dense"].mean().rename("teacher"))
    groups = found.groupby(level=rows, sort=False)
    means = groups.mean().assign(seeds=groups.size())[["seeds", "teacher", *names]]
    lost = means["teacher"] - means[names[0]]
    gained = means[names[1]] - means[names[0]]
    means["recovered (%)"] = (100 * gained / lost).where(lost >= 1)
    return means.reset_index()


def fastest(runs: pd.DataFrame, rows: Sequence[str], allowed: float) -> pd.DataFrame:
    """The largest mean speed-up of each row among the rates that lose at most so many points.

    Args:
        runs: what `collect` gave.
        rows: the columns that name a row.
        allowed: points that the mean score may lose.

    Returns:
        `rows`, `rate`, `loss` (points) and `speedup`, empty where no rate stays within the limit;
        and `runs`, the number of runs that are done.
    """
    found = []
    for names, group in runs.groupby([*rows], sort=False):
        group = group[group["state"] == "done"]
        columns = {"score": "mean", "dense": "mean", "speedup": "mean"}
        rates = group.groupby("rate").agg(columns).astype(float)
        rates["loss"] = 100 * (rates["dense"] - rates["score"])
        within = rates[rates["loss"] <= allowed]
        row = dict(zip(rows, names, strict=True)) | {"runs": len(group)}
        row |= {"rate": None, "loss": None, "speedup": None}
        if len(within):
            rate = within["speedup"].idxmax()
            row |= {"rate": rate, **within.loc[rate, ["loss", "speedup"]].to_dict()}
        found.append(row)
    return pd.DataFrame(found).astype({"rate": float, "loss": float, "speedup": float})


def one_at_a_time(runs: pd.DataFrame, parameters: Sequence[str]) -> pd.DataFrame:
    """Runs that differ from a common centre in one parameter, once for each parameter they vary.

    The centre is the most frequent value of every parameter.

    Returns:
        The runs with `parameter`, its `value`, and whether it is the `centre`. The centre's own
        runs occur once for each parameter.
    """
    centre = {name: runs[name].mode()[0] for name in parameters}
    parts = []
    for name in parameters:
        others = [other for other in parameters if other != name]
        near = runs[(runs[others] == pd.Series(centre)[others]).all(axis=1)]
        if near[name].nunique() > 1:
            here = near.assign(parameter=name, value=near[name].astype(float))
            parts.append(here.assign(centre=here["value"] == float(centre[name])))
    if not parts:
        raise ValueError(f"None of {', '.join(parameters)} varies alone; there is nothing to draw.")
    return pd.concat(parts).sort_values(["parameter", "value"], kind="stable", ignore_index=True)


def units(runs: pd.DataFrame) -> pd.DataFrame:
    """Surviving heads and neurons of every layer: mean number and share over seeds."""
    rows = [
        {
            **{name: run[name] for name in ("model", "task", "label", "rate")},
            "kind": kind,
            "layer": layer,
            "kept": kept,
            "share": kept / dense,
        }
        for _, run in runs[runs["state"] == "done"].iterrows()
        for kind in ("heads", "neurons")
        for layer, (kept, dense) in enumerate(zip(run[kind], run[f"dense_{kind}"], strict=True), 1)
    ]
    if not rows:
        raise ValueError("None of these runs is done: there are no units to count.")
    keys = [*named_by(runs), "task", "label", "rate", "kind", "layer"]
    return pd.DataFrame(rows).groupby(keys, sort=False, as_index=False)[["kept", "share"]].mean()


def summarise(
    table: pd.DataFrame, value: str, rows: Sequence[str], column: str, scale: float = 1.0
) -> pd.DataFrame:
    """Mean, standard deviation and number of seeds of each cell.

    Args:
        table: what `collect` gave.
        value: the column to summarise.
        rows: the columns that name a row of the result.
        column: the column whose values become columns.
        scale: factor of the values, 100 for per cent.

    Returns:
        A long table: `rows`, `column`, `mean`, `std` (empty for one seed), `seeds` that are done
        and `expected`. A cell without a finished run has an empty mean: it is never filled in.
    """
    groups = table.groupby([*rows, column], sort=False, dropna=False)
    found = []
    for names, group in groups:
        if "seed" in group and group["seed"].duplicated().any():
            known = {"run", "seed", "state", *MEASURED, *FOUND}
            parameters = [name for name in group if name not in known]
            apart = [name for name in parameters if group[name].astype(str).nunique() > 1]
            raise ValueError(
                f"Several runs of one seed fall into the cell {names}: they differ in "
                f"{', '.join(apart) or 'nothing'}, which this table does not tell apart."
            )
        values = scale * pd.to_numeric(group[value], errors="coerce").dropna()
        found.append(
            {
                **dict(zip([*rows, column], names, strict=True)),
                "mean": values.mean() if len(values) else None,
                "std": values.std() if len(values) > 1 else None,
                "seeds": len(values),
                "expected": len(group),
            }
        )
    return pd.DataFrame(found)


def wide(summary: pd.DataFrame, rows: Sequence[str], column: str, digits: int = 1) -> pd.DataFrame:
    """The table as people read it: "85.2 ± 0.4 (5)", with the number of seeds in each cell.

    A cell with fewer finished runs than expected says so ("85.2 ± 0.4 (3 of 5)"); one without any
    is a gap.
    """

    def cell(row: pd.Series) -> str:
        if not row["seeds"]:
            return GAP
        spread = "" if pd.isna(row["std"]) else f" ± {row['std']:.{digits}f}"
        missing = "" if row["seeds"] == row["expected"] else f" of {row['expected']}"
        return f"{row['mean']:.{digits}f}{spread} ({row['seeds']}{missing})"

    cells = summary.assign(cell=summary.apply(cell, axis=1))
    order = list(dict.fromkeys(cells[column]))
    if pd.api.types.is_numeric_dtype(cells[column]):
        order.sort()
    result = cells.pivot_table(
        index=list(rows), columns=column, values="cell", aggfunc="first", sort=False
    )
    return result.reindex(columns=order).fillna("").reset_index()


def write(folder: str | Path, name: str, long: pd.DataFrame, table: pd.DataFrame) -> None:
    """Write a table in three forms: all numbers as CSV, the readable one as Markdown and LaTeX.

    Args:
        folder: where to.
        name: of the files, without suffix.
        long: the numbers (six decimals are written).
        table: the readable table.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    columns = [str(column) for column in table.columns]
    shown = table.set_axis(columns, axis=1)
    latex = shown.map(_latex).set_axis([_latex(column) for column in columns], axis=1)
    for suffix, text in (
        ("csv", long.to_csv(index=False, float_format="%.6f")),
        ("md", shown.to_markdown(index=False, disable_numparse=True) + "\n"),
        ("tex", latex.to_latex(index=False)),
    ):
        part = folder / f".{name}.{suffix}.part"
        part.write_text(text)
        part.replace(folder / f"{name}.{suffix}")


def gaps(table: pd.DataFrame) -> list[str]:
    """What is missing from a table, a line for each run that is not done."""
    absent = table[table["state"] != "done"]
    return [f"{row['run']}: {row['state']}" for _, row in absent.iterrows()]


def _numbers(path: Path, parameters: dict) -> dict:
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (ValidationError, UnicodeDecodeError):
        return {"state": "damaged"}
    if record.parameters != parameters:
        return {"state": "missing"}
    report, extra, latency = record.report, record.model_extra or {}, record.latency
    seconds = sum(report["seconds"].values())
    return {
        "state": "done",
        "metric": record.metric,
        "dense": record.scores.get("dense", {}).get(record.metric),
        "score": record.scores.get("pruned", {}).get(record.metric),
        "achieved": report["achieved_rate"],
        "parameters_left": report["parameters"] / report["dense_parameters"],
        "speedup": latency["dense"] / latency["pruned"] if latency else None,
        "seconds": seconds,
        "passes": seconds / extra["pass seconds"] if extra.get("pass seconds") else None,
        "memory": extra.get("peak memory (MB)"),
        "heads": report["heads"],
        "neurons": report["neurons"],
        "dense_heads": report["dense_heads"],
        "dense_neurons": report["dense_neurons"],
        "steps": report["seconds"],
        "search": report["seconds"].get("mask search", 0.0),
        "device": record.environment.get("device"),
        "threads": record.environment.get("threads"),
        "commit": record.environment.get("commit"),
        "extra": extra,
    }


def _in_common(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """Share of the units in `one` that are in `other`, too, over all sublayers."""
    shared = sum(len({*mine} & {*theirs}) for mine, theirs in zip(one, other, strict=True))
    return shared / max(1, sum(map(len, one)))


def _label(row: dict) -> str:
    """A method's name in a table, with what sets it apart."""
    name = NAMES.get(row.get("method", ""), row.get("method", ""))
    if row.get("without"):
        return f"{name} without {row['without']}"
    if row.get("method") == "kprune" and row.get("lam") == 0:
        return f"{name}, λ = 0"
    return name


def _latex(text: object) -> str:
    text = str(text)
    for sign, code in (
        ("%", r"\%"),
        ("_", r"\_"),
        ("±", r"$\pm$"),
        ("λ", r"$\lambda$"),
        ("γ", r"$\gamma$"),
        ("μ", r"$\mu$"),
        ("×", r"$\times$"),
        (GAP, "---"),
    ):
        text = text.replace(sign, code)
    return text
