"""The data behind a task: from the Hub, a folder laid out like it, or a generator."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from huggingface_hub.errors import HfHubHTTPError

from kprune.data.checks import check_texts, class_names, first_line
from kprune.data.reach import hub, local
from kprune.data.tasks import GENERATED, Task, get_task

if TYPE_CHECKING:
    from datasets import Dataset


def load_split(
    task: str | Task,
    split: Literal["train", "validation"],
    data: str | Path | Dataset | None = None,
) -> Dataset:
    """One split of a task's data, with the task's columns; "validation" is the split that it is
    scored on.

    `data` is a Hub id or a local folder laid out like the Hub's repository; None takes the task's
    own Hub id, or generates the data for the tasks in `GENERATED`. A loaded split is checked and
    given back. ValueError when a split, a configuration or a column is missing, ConnectionError
    when the data is neither local nor within reach on the Hub.
    """
    import datasets
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetsError

    task = get_task(task)
    if not (data is None or isinstance(data, (str, Path, Dataset))):
        raise ValueError(
            f"The data of {task.name!r} must be a Hub id, a folder or one loaded split (a Dataset, "
            f"such as load_dataset(…, split='train')); got a {type(data).__name__}."
        )
    name = task.validation if split == "validation" else split
    files: dict[str, list[str]] = {}
    if isinstance(data, Dataset):
        found = {name: data}
    elif task.dataset is None and not data:
        if task.name not in GENERATED:
            raise ValueError(f"The task {task.name!r} names no data set; pass data=<id or folder>.")
        found = GENERATED[task.name]()
    else:
        source = str(data or task.dataset)
        folder = local(source)
        if data and not folder.is_dir() and (folder.is_absolute() or folder.exists()):
            raise ValueError(f"There is no data folder {source}.")
        if folder.is_dir() and glob.has_magic(str(folder.resolve())):
            raise ValueError(
                f"The data folder {folder} has one of [ ] * ? in its path, which `datasets` takes "
                "for a pattern; rename it."
            )
        try:
            # The whole path: "csv" alone would be a builder of `datasets`.
            source = str(folder.absolute()) if folder.is_dir() else source
            cache = None
            if folder.is_dir():
                digest, files = content(folder.absolute(), task.config)
                cache = str(Path(datasets.config.HF_DATASETS_CACHE) / f"kprune-{digest}")
            with hub(source, "data set"):
                found = load_dataset(source, task.config, cache_dir=cache)
        except (ValueError, OSError, RuntimeError, DatasetsError) as error:  # the third for scripts
            raise _explained(error, source, task) from error
    for file in files.get(name, ()) if name in found else ():
        _check_names(Path(file), found[name], task)
    if name not in found:
        raise ValueError(
            f"The data for {task.name!r} has no split {name!r}; it has {', '.join(found)}."
        )
    rows = found[name]
    missing = [column for column in task.columns if column not in rows.column_names]
    if missing:
        raise ValueError(
            f"The data for {task.name!r} lacks the column {missing[0]!r}; it has "
            f"{', '.join(rows.column_names)}."
        )
    if rows.format["type"] == "custom":
        raise ValueError(
            f"The data of {task.name!r} has a transform (set_transform), which is made at each "
            "look; make it once, with Dataset.map."
        )
    rows = rows.with_format(None)  # plain values, where it was told to give tensors
    return _yes_as_one(rows, task) if task.yes and task.label in rows.column_names else rows


def training_texts(task: str | Task, data: str | Path | Dataset | None = None) -> list[str]:
    """The texts of a task's training split, of all columns; lists of words are put together."""
    rows, task = load_split(task, "train", data), get_task(task)
    columns = [rows[column][:] for column in task.columns]
    for name, texts in zip(task.columns, columns, strict=True):
        words = bool(texts) and isinstance(texts[0], list)
        check_texts(f"{name!r} of {task.name!r}", texts, range(len(texts)), words)
    return [one if isinstance(one, str) else " ".join(one) for texts in columns for one in texts]


def classes_of(rows: Dataset, task: Task) -> tuple[str, ...] | None:
    """The names of the classes that a task's labels number, or tick, where they are known.

    ValueError where the data names classes and the task has none, or another number of them.
    """
    names = _numbered(rows, task)
    if names and task.kind in ("classification", "tokens", "regression"):
        classes = task.labels if task.kind != "regression" else 0
        if len(names) != classes:
            raise ValueError(
                f"The data of {task.name!r} has {len(names)} classes, {', '.join(names)}, and the "
                f"task, of the kind {task.kind}, {classes or 'none'}; take a task that fits."
            )
    if task.kind not in ("classification", "tokens", "multilabel"):
        return None
    return class_names((task.kind != "multilabel" and names) or task.names)


def _numbered(rows: Dataset, task: Task) -> list[str] | None:
    """The names that the labels, or lists of them, are numbers of, as `datasets` read them."""
    feature = rows.features.get(task.label)
    return getattr(getattr(feature, "feature", feature), "names", None)


def _yes_as_one(rows: Dataset, task: Task) -> Dataset:
    """The rows with 1.0 for the class `task.yes` and 0.0 for the others, in place of classes."""
    from datasets import ClassLabel, Value

    feature = rows.features[task.label]
    if not isinstance(feature, ClassLabel):
        if str(getattr(feature, "dtype", "")).startswith("float"):
            return rows
        raise ValueError(
            f"The labels of {task.name!r} are no classes with names, so which of them is "
            f"{task.yes!r} is not known; name them (datasets' ClassLabel), or give numbers (float)."
        )
    if task.yes not in feature.names:
        raise ValueError(
            f"The labels of {task.name!r} have no class {task.yes!r}; they are "
            f"{', '.join(feature.names)}."
        )
    yes, known = feature.str2int(task.yes), range(feature.num_classes)
    # A label that is no class, such as a hidden one, stays what it is, and is refused where read.
    labels = [float(one == yes) if one in known else one for one in rows[task.label][:]]
    return rows.remove_columns(task.label).add_column(task.label, labels, feature=Value("float32"))


def _check_names(file: Path, rows: Dataset, task: Task) -> None:
    """Raise ValueError where a Parquet file names its classes otherwise than they were read.

    `datasets` gives the names of a data set's first file to the numbers of all others.
    """
    import pyarrow.parquet

    if file.suffix != ".parquet" or not file.is_file():
        return
    said = (pyarrow.parquet.read_schema(file).metadata or {}).get(b"huggingface", b"{}")
    feature = json.loads(said).get("info", {}).get("features", {}).get(task.label) or {}
    while isinstance(feature, dict) and "feature" in feature:  # of a list
        feature = feature["feature"]
    names, read = feature.get("names"), _numbered(rows, task)
    if names and names != read:
        raise ValueError(
            f"{file} names its classes {', '.join(names)}, and another split of the same data "
            f"{', '.join(read or ['not at all'])}; write all splits with the same names in one "
            "order, or pass one loaded split."
        )


def content(folder: Path, config: str | None) -> tuple[str, dict[str, list[str]]]:
    """A name for what is in a local folder of data, and the files of each split.

    By it each content gets a cache of its own: `datasets` tells files apart by their paths and
    times only, which links and copies keep.
    """
    import datasets

    with tempfile.TemporaryDirectory() as scratch:
        builder = datasets.load_dataset_builder(str(folder), config, cache_dir=scratch)
    splits = {str(name): list(some) for name, some in (builder.config.data_files or {}).items()}
    files = [Path(file) for some in splits.values() for file in some]
    # Named within the folder: what was moved is the same data.
    names = [os.path.relpath(file, folder) for file in files]
    digest = hashlib.sha256(repr(names).encode())
    for path in (folder / "README.md", *files):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16], splits


def _explained(error: Exception, source: str, task: Task) -> Exception:
    said = first_line(error)
    if Path(source).is_dir():
        layout = f" as the Hub lays it out ({task.dataset}, configuration {task.config!r})"
        return ValueError(
            f"The folder {source} does not hold {task.name!r}{layout if task.dataset else ''}: "
            f"{said}"
        )
    far = isinstance(error, (ConnectionError, FileNotFoundError, HfHubHTTPError))
    if not (far or said.startswith("Couldn't find cache")):  # of a Hub that is not asked
        return ValueError(
            f"The data set {source!r} ({task.config}) cannot be loaded: {said}; pass "
            "data=<folder laid out like the Hub repository, with its files in Parquet>."
        )
    return ConnectionError(
        f"The data set {source!r} ({task.config}) is not in a local folder of that name and the "
        "Hub cannot be reached or does not have it; check the network, or pass data=<folder laid "
        "out like the Hub repository>."
    )
