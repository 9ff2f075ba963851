"""Texts of one's own, from a file: a text in each line, or the columns of a table."""

import json
import re
import reprlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from kprune.data.checks import first_line
from kprune.data.hub import load_split
from kprune.data.reach import local
from kprune.data.tasks import Task

ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # one's own folder there and its data set
TABLES = dict.fromkeys((".json", ".jsonl", ".ndjson", ".parquet"), "")
TABLES |= {".csv": ",", ".tsv": "\t"}


def read_texts(path: str | Path, columns: Sequence[str] = ()) -> list[str] | list[tuple[str, str]]:
    """The texts of a file, or the pairs of them where two columns are named.

    A .csv, .tsv, .jsonl, .json (a list of records) or .parquet file is a table; where it has one
    column only, that need not be named. Any other holds a text in each line that is not blank. A
    folder, or what is no file but a Hub id, is a data set: the columns of its training split.
    ValueError for a file that is not there or cannot be read, holds no text, or lacks the columns.
    """
    import pandas as pd

    file = local(path)
    if columns and (file.is_dir() or (not file.exists() and ON_HUB.fullmatch(str(path)))):
        rows = load_split(Task(str(path), tuple(columns)), "train", str(path))
        return _texts_of([rows[column][:] for column in columns])
    if not file.is_file():
        what = "; of a data set, which is a folder, name the column" if file.is_dir() else ""
        raise ValueError(f"There is no file of texts {str(path)!r}{what}.")
    try:
        if file.suffix.lower() not in TABLES:
            if columns:
                raise ValueError("is no table, so it has no columns; leave column out")
            # Not splitlines, which parts at signs that stand within a line of text, too.
            lines = file.read_text("utf-8-sig").split("\n")
            if _is_record(lines[0]):
                raise ValueError("holds JSON in its lines; let its name end in .jsonl")
            return _not_empty(lines)
        table = _table(file)
        columns = list(columns or (table.columns if len(table.columns) == 1 else ()))
        known = ", ".join(map(str, table.columns))
        if other := [one for one in columns if one not in table.columns]:
            raise ValueError(f"has no column {other[0]!r}, but {known}")
        if len(columns) not in (1, 2) or len({*columns}) < len(columns):
            raise ValueError(f"has the columns {known}; name one, or the two of a pair")
        if len(table.columns) == 1 and (signs := {*";\t|"} & {*str(columns[0])}):
            raise ValueError(
                f"has one column, {columns[0]!r}, as if its cells were parted by {min(signs)!r}; "
                "part them by commas, or by tabs in a .tsv"
            )
        for one in columns if len(table) else ():
            if not pd.to_numeric(table[one], errors="coerce").isna().any():
                raise ValueError(f"holds numbers in the column {one!r}, and no texts")
        return _texts_of([table[column].tolist() for column in columns])
    except UnicodeDecodeError as error:
        raise ValueError(f"The file {file} is no text in UTF-8; convert it.") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"The file {file} {first_line(error)}.") from error


def _table(file: Path):
    import pandas as pd

    kind = file.suffix.lower()
    try:
        if kind == ".parquet":
            return pd.read_parquet(file)
        if kind in (".json", ".jsonl", ".ndjson"):
            return pd.read_json(file, lines=kind != ".json", dtype=False, convert_dates=False)
        # An empty cell is an empty text, and NA a word. Cells beyond the header's are none of its
        # columns': pandas would leave them out, or take the first of all rows for their names.
        given = {"dtype": str, "keep_default_na": False, "index_col": False}
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(file, sep=TABLES[kind], **given)
        if kind == ".csv":
            return table
        lines = sum(bool(line.strip()) for line in file.read_text("utf-8-sig").split("\n")) - 1
        if lines > len(table):  # raw ones quote nothing, as GLUE's
            raise ValueError(
                f"it has {lines:,} lines and {len(table):,} rows, as a cell that begins with a "
                'quotation mark goes on to the next; double the marks within ("") or take .jsonl'
            )
        return table
    except UnicodeDecodeError:
        raise
    except Exception as error:  # each reader has errors of its own
        reason = first_line(error).rstrip(".")
        cells = "; its cells are to be parted by commas, and quoted where they hold one"
        cells *= kind == ".csv"
        raise ValueError(f"cannot be read as {kind[1:]}: {reason}{cells}") from error


def _is_record(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _texts_of(columns: list[list]) -> list:
    if len(columns) == 2:
        return [*zip(*columns, strict=True)]
    for row, text in enumerate(columns[0]):
        if not isinstance(text, str):
            found = reprlib.repr(text)
            raise ValueError(f"holds {found} in place of a text, in row {row} (from 0)")
    found = _not_empty(columns[0])
    if empty := len(columns[0]) - len(found):
        what = f"{empty:,} of {len(columns[0]):,} texts are empty, and left out."
        warnings.warn(what, stacklevel=4)
    return found


def _not_empty(texts) -> list:
    found = [text for text in texts if not isinstance(text, str) or text.strip()]
    if not found:
        raise ValueError("holds no text")
    return found
