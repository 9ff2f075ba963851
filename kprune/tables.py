"""Result records into tables: CSV, Markdown and LaTeX."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from kprune.experiments import EXPECTED, FAILURE, RESULT, Record

GAP = "—"
NAMES = {
    "kprune": "K-prune",
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
        `seconds` (of pruning), `passes` (the same in F), `memory` (MB), `heads`, `neurons`,
        `search` (seconds of the mask search) and `commit`.

    Raises:
        ValueError: when the folder holds no experiment.
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
    for name in ("metric", "dense", "score", "speedup", "achieved", "seconds", "passes", "memory"):
        if name not in table:
            table[name] = None
    table["label"] = [_label(row) for row in rows]
    return table


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
    report, extra = record.report, record.model_extra or {}
    seconds = sum(report["seconds"].values())
    return {
        "state": "done",
        "metric": record.metric,
        "dense": record.scores["dense"][record.metric],
        "score": record.scores["pruned"][record.metric],
        "achieved": report["achieved_rate"],
        "parameters_left": report["parameters"] / report["dense_parameters"],
        "speedup": record.latency["dense"] / record.latency["pruned"],
        "seconds": seconds,
        "passes": seconds / extra["pass seconds"] if extra.get("pass seconds") else None,
        "memory": extra.get("peak memory (MB)"),
        "heads": report["heads"],
        "neurons": report["neurons"],
        "search": report["seconds"].get("mask search", 0.0),
        "device": record.environment.get("device"),
        "commit": record.environment.get("commit"),
    }


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
