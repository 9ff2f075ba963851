"""Result records into tables: CSV, Markdown and LaTeX."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kprune.engine.files import read_json
from kprune.laboratory.records import (
    EXPECTED,
    FAILURE,
    RESULT,
    check_start,
    of_one_version,
    output_folder,
    read_result,
    short,
)

GAP = "—"
MEASURED = [  # the columns of `collect` that are no parameters
    *("run", "seed", "state", "metric", "dense", "score", "achieved", "speedup", "seconds"),
    *("passes", "memory", "heads", "neurons", "steps", "search", "parameters_left", "extra"),
    *("dense_heads", "dense_neurons", "device", "threads", "commit"),
]
# Of columns, methods and tasks, where they are called something else.
HEADINGS = {"label": "method", "parameter": "hyperparameter"}
NAMES = {"kprune": "K-prune", "kprune+": "K-prune+", "kwon": "Kwon et al.", "kcm": "KCM"}
NAMES |= {"first-layers": "first layers", "spaced-layers": "spaced layers"}
TASK_NAMES = {name: name.upper() for name in ("mrpc", "mnli", "qqp", "qnli")}
TASK_NAMES |= {"sst2": "SST-2", "stsb": "STS-B", "squad": "SQuAD v1.1", "squad_v2": "SQuAD v2.0"}
TASK_NAMES |= {"wnut_17": "WNUT 17"}
LATEX = {
    **{sign: rf"\{sign}" for sign in "%_&#${}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "},
    **{"±": r"$\pm$", "×": r"$\times$", GAP: "---"},
    **{"λ": r"$\lambda$", "γ": r"$\gamma$", "μ": r"$\mu$"},
}
MARKDOWN = {
    **{sign: rf"\{sign}" for sign in r"\`*_[]|~"},
    **{"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "},
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of one


def collect(records: str | Path) -> pd.DataFrame:
    """One row for each run that an experiment's folder expects, finished or not, in their order.

    Columns: `run`, `state` (see `records.state`; "outdated" only beside runs of this version, since
    versions are never mixed), every parameter, `label` (the method's name); and of finished runs
    `metric`, `dense` and `score` (0 to 1), `achieved` (share of FLOPs gone), `parameters_left`
    (share), `speedup` (dense over pruned latency), `seconds` of pruning, `passes` (that, in
    passes), `memory` (MB), `heads`, `neurons`, `dense_heads` and `dense_neurons` (per layer),
    `steps` (seconds of each), `search` (seconds of the mask search), `device`, `threads`, `commit`,
    and `extra`, what only some notebooks record.
    ValueError where there is no experiment, no run is done, or runs start from unlike teachers.
    """
    records = Path(records)
    if not (records / EXPECTED).is_file():
        raise ValueError(f"{records} holds no {EXPECTED}; run `kprune reproduce` first.")
    rows = []
    runs = read_json(records / EXPECTED).get("runs")
    if not (isinstance(runs, list) and runs and all(map(_is_run, runs))):
        raise ValueError(f"{records / EXPECTED} is damaged; run `kprune reproduce` again.")
    for run in runs:
        row = {"run": run["name"], "state": "missing", **run["parameters"]}
        path = records / run["name"] / RESULT
        if path.is_file():
            row |= _numbers(path, run["parameters"])
        elif (records / run["name"] / FAILURE).is_file():
            row["state"] = "failed"
        rows.append(row)
    rows = of_one_version(rows)
    check_start(rows, records)
    table = pd.DataFrame(rows)
    table.attrs["experiment"] = records.name
    table["label"] = [_label(row) for row in rows]
    if not (table["state"] == "done").any():
        raise ValueError(f"None of the {len(table)} runs in {records} is done: nothing to draw.")
    return table


def source(runs: pd.DataFrame) -> str:
    """Where the numbers of runs of `collect` are from: command, commits, machine, days."""
    done = runs[runs["state"] == "done"]
    environments = [extra["environment"] for extra in done["extra"]]
    commits = dict.fromkeys(map(short, done["commit"]))
    threads = sorted({int(count) for count in done["threads"].dropna()})
    several = "thread" if threads == [1] else "threads"
    days = sorted({one["date"] for one in environments if "date" in one})
    parts = [
        f"kprune reproduce params/{runs.attrs.get('experiment', '…')}.yaml",
        f"{len(done)} runs at {few(commits)}",
        f"{few(sorted(set(done['device'].dropna())))}, {few(map(str, threads))} {several}",
        *([days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"] if days else []),
    ]
    return " · ".join(parts)


def few(names: Iterable[str], most: int = 3) -> str:
    """Names in a line, the first of them where there are many."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def records_folder(records: str | Path) -> Path:
    """An experiment's folder, by its path or by its name in `outputs`."""
    return Path(records) if Path(records).is_dir() else output_folder(str(records))


def named_by(runs: pd.DataFrame, *names: str) -> list[str]:
    """The columns that name a row: these, after the model where a task has several of them."""
    several = runs.groupby("task")["model"].nunique().max() > 1
    return ["model", *names] if several else [*names]


def by_model(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs of each model with a suffix for its figures; one part where no task has several."""
    if not named_by(runs):
        return [("", runs)]
    return [(f"-{Path(model).name}", part) for model, part in runs.groupby("model", sort=False)]


def called(tasks: Iterable[str]) -> list[str]:
    """What people call tasks."""
    return [TASK_NAMES.get(task, task) for task in tasks]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table with tasks and columns called as people call them; what is missing is a gap."""
    table = table.copy()
    if "model" in table:
        table["model"] = [Path(model).name for model in table["model"]]
    if "task" in table:
        table["task"] = called(table["task"])
    if "rate" in table and pd.api.types.is_float_dtype(table["rate"]):
        table["rate"] = table["rate"].map("{:.0%}".format, na_action="ignore")
    names = {
        column: f"{column:.0%}" if isinstance(column, float) else HEADINGS.get(column, column)
        for column in table.columns
    }
    table = table.rename(columns=names | TASK_NAMES).rename_axis(columns=None)
    return table.astype(object).where(table.notna(), GAP)


def one_at_a_time(runs: pd.DataFrame, parameters: Sequence[str]) -> pd.DataFrame:
    """Runs that differ in one parameter from the centre, the most frequent value of every
    parameter.

    They occur once for each `parameter` that they vary, the centre's own for each, with its `value`
    and whether it is the `centre`; in the order of `parameters`, then of values.
    """
    centre = runs[[*parameters]].mode().iloc[0]
    at_centre, parts = runs[[*parameters]] == centre, []
    for name in parameters:
        near = runs[at_centre.drop(columns=name).all(axis=1)]
        if near[name].nunique() > 1:
            values = near[name].astype(float)
            near = near.assign(parameter=name, value=values, centre=values == centre[name])
            parts.append(near.sort_values("value", kind="stable"))
    if not parts:
        raise ValueError(f"None of {', '.join(parameters)} varies alone; there is nothing to draw.")
    return pd.concat(parts, ignore_index=True)


def summarise(
    table: pd.DataFrame, value: str, rows: Sequence[str], column: str, scale: float = 1.0
) -> pd.DataFrame:
    """Mean, standard deviation and number of seeds of each cell of a table of runs.

    The columns `rows` name a row, the values of `column` become columns; `scale` is 100 for per
    cent. Gives a long table: these, `mean`, `std` (empty for one seed), `seeds` that are done and
    `expected`. A cell without a finished run has an empty mean: it is never filled in.
    """
    keys = [*rows, column]
    for names, group in table.groupby(keys, sort=False, dropna=False):
        if "seed" in group and group["seed"].duplicated().any():
            parameters = group.drop(columns=MEASURED, errors="ignore").astype(str)
            apart = parameters.columns[parameters.nunique() > 1]
            raise ValueError(
                f"Several runs of one seed fall into the cell {names}: they differ in "
                f"{', '.join(apart) or 'nothing'}, which this table does not tell apart."
            )
    numbers = scale * pd.to_numeric(table[value], errors="coerce")
    cells = numbers.groupby([table[key] for key in keys], sort=False, dropna=False)
    return cells.agg(mean="mean", std="std", seeds="count", expected="size").reset_index()


def wide(summary: pd.DataFrame, rows: Sequence[str], column: str, digits: int = 1) -> pd.DataFrame:
    """The table as people read it: "85.2 ± 0.4 (5)", with the number of seeds in each cell.

    A cell with fewer finished runs than expected says so ("(3 of 5)"); one without any is a gap.
    """

    def cell(row: pd.Series) -> str:
        if not row["seeds"]:
            return GAP
        spread = "" if pd.isna(row["std"]) else f" ± {row['std']:.{digits}f}"
        missing = "" if row["seeds"] == row["expected"] else f" of {row['expected']:.0f}"
        return f"{row['mean']:.{digits}f}{spread} ({row['seeds']:.0f}{missing})"

    cells = summary.assign(cell=summary.apply(cell, axis=1))
    order = list(dict.fromkeys(cells[column]))
    if pd.api.types.is_numeric_dtype(cells[column]):
        order.sort()
    result = cells.pivot_table("cell", [*rows], column, aggfunc="first", sort=False)
    return result.reindex(columns=order).fillna("").reset_index()


def write(folder: str | Path, name: str, long: pd.DataFrame, table: pd.DataFrame) -> None:
    """Write a table: its numbers as CSV (six decimals), the readable one as Markdown and LaTeX."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shown = table.rename(columns=str)
    long = long.map(
        lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
    )
    for suffix, text in (
        ("csv", long.to_csv(index=False, float_format="%.6f")),
        ("md", markdown(shown, disable_numparse=True) + "\n"),
        ("tex", _escaped(shown.map(str), LATEX).to_latex(index=False)),
    ):
        part = folder / f".{name}.{suffix}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / f"{name}.{suffix}")


def markdown(table: pd.DataFrame, **options: Any) -> str:
    """A table in Markdown, its names taken by the letter; options of `tabulate`."""
    return _escaped(table, MARKDOWN).to_markdown(index=False, **options)


def _escaped(table: pd.DataFrame, signs: dict[str, str]) -> pd.DataFrame:
    """A table whose texts, headings too, hold no signs of a language."""
    signs = str.maketrans(signs)

    def escape(cell: Any) -> Any:
        return cell.translate(signs) if isinstance(cell, str) else cell

    return table.map(escape).rename(columns=escape)


def _is_run(run: Any) -> bool:
    return (
        isinstance(run, dict)
        and isinstance(run.get("name"), str)
        and isinstance(run.get("parameters"), dict)
    )


def _numbers(path: Path, parameters: dict) -> dict:
    record = read_result(path)
    if record is None:
        return {"state": "damaged"}
    extra = record.model_dump(by_alias=True)
    if extra["parameters"] != parameters:
        return {"state": "missing"}
    report, latency = extra["report"], record.latency
    seconds = sum(report["seconds"].values())
    return {
        "state": "done",
        **{name: report[name] for name in ("heads", "neurons", "dense_heads", "dense_neurons")},
        **{name: record.environment.get(name) for name in ("device", "threads", "commit")},
        "metric": record.metric,
        "dense": record.scores.get("dense", {}).get(record.metric),
        "score": record.scores.get("pruned", {}).get(record.metric),
        "achieved": report["achieved_rate"],
        "parameters_left": report["parameters"] / report["dense_parameters"],
        "speedup": latency["dense"] / latency["pruned"] if latency else None,
        "seconds": seconds,
        "passes": seconds / extra["pass seconds"] if extra.get("pass seconds") else None,
        "memory": extra.get("peak memory (MB)"),
        "steps": report["seconds"],
        "search": report["seconds"].get("mask search", 0.0),
        "extra": extra,
    }


def _label(row: dict) -> str:
    """A method's name in a table, with what sets it apart."""
    name = NAMES.get(row.get("method", ""), row.get("method", ""))
    if row.get("without"):
        return f"{name} without {row['without']}"
    if row.get("method") == "kprune" and row.get("lam") == 0:
        return f"{name}, λ = 0"
    return name
