"""Experiments: a parameters YAML becomes runs, each run one folder with one result record."""

import ast
import itertools
import math
from collections import Counter
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kprune.data.tasks import get_task, nearest
from kprune.laboratory.records import CHECKOUT, Run, output_folder, read_yaml
from kprune.pruning import Options

# The least value of parameters for which any number would pass as its type.
LEAST = {"tokens": 1, "every": 1, "repeats": 1, "samples": 0, "examples": 0, "epochs": 0, "seed": 0}


class Experiment(BaseModel):
    """One experiment, as its YAML file says it."""

    model_config = ConfigDict(extra="forbid")

    title: str  # what it shows, in a line
    notebook: str = "06_kprune"  # that is one run
    report: str = ""  # the notebook that draws the table from the records; none where empty
    fixed: dict[str, Any] = {}  # parameters that all runs share
    # Axes, whose product the runs are. An entry of an axis is a value of the parameter that the
    # axis is named after, or a mapping that sets several parameters together.
    grid: dict[str, list[Any]] = {}
    # Runs to leave out: those whose parameters equal all of an entry's, or where the entry lists
    # several, one of them.
    exclude: list[dict[str, Any]] = []
    # Another experiment's file, beside this one, whose runs and records this one reports on; it
    # then has no fixed parameters and no grid of its own.
    runs: str = ""


def read_experiment(path: str | Path) -> Experiment:
    """The experiment in a YAML file; a ValueError says in a sentence what is wrong with it."""
    raw = read_yaml(Path(path), "experiment")
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must hold a mapping of keys such as title, fixed and grid.")
    try:
        experiment = Experiment.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            hint = nearest(place, sorted(Experiment.model_fields))
            raise ValueError(f"{path}: there is no key {place!r}; {hint}") from error
        if first["type"] == "missing":
            raise ValueError(f"{path}: the key {place!r} is missing.") from error
        raise ValueError(f"{path}: {place}: {first['msg']}.") from error
    if experiment.runs and (experiment.fixed or experiment.grid or experiment.exclude):
        raise ValueError(
            f"{path}: an experiment that reports on the runs of {experiment.runs!r} has no fixed, "
            "grid or exclude of its own."
        )
    if not experiment.runs and (not experiment.grid or not all(experiment.grid.values())):
        raise ValueError(f"{path}: the grid is empty, so there is nothing to run.")
    return experiment


def expand(path: str | Path, outputs: str | Path | None = None) -> list[Run]:
    """The runs of an experiment, every parameter checked before anything starts.

    The YAML file's name is that of the folder in `outputs` (see `output_folder`). ValueError in one
    sentence, for an unknown parameter (with the nearest known one), a wrong type, a value that
    makes no sense, an empty grid or two runs of one name.
    """
    path, experiment = Path(path), read_experiment(path)
    if experiment.report:
        find_notebook(experiment.report)
    if experiment.runs:
        source = path.parent / experiment.runs
        if read_experiment(source).runs:
            raise ValueError(f"{path}: {experiment.runs!r} has no runs of its own.")
        return expand(source, outputs)
    notebook = find_notebook(experiment.notebook)
    defaults = notebook_parameters(notebook)
    excluded = [
        _check(dict(zip(entry, values, strict=True)), defaults, f"{path}: exclude")
        for entry in experiment.exclude
        for values in itertools.product(
            *(value if isinstance(value, list) else [value] for value in entry.values())
        )
    ]
    runs = []
    for entries in itertools.product(*experiment.grid.values()):
        chosen, names = dict(experiment.fixed), []
        for axis, entry in zip(experiment.grid, entries, strict=True):
            together = entry if isinstance(entry, dict) else {axis: entry}
            if twice := sorted(chosen.keys() & together.keys()):
                raise ValueError(f"{path}: the parameter {twice[0]!r} is set twice.")
            chosen |= together
            names += _slug(together)
        values = defaults | _check(chosen, defaults, str(path))
        if any(entry.items() <= values.items() for entry in excluded):
            continue
        name = "_".join(names) or "all"
        folder = output_folder(path.stem, outputs) / name
        runs.append(Run(name=name, folder=folder, notebook=notebook, parameters=values))
    if not runs:
        raise ValueError(f"{path}: exclude leaves nothing of the grid, so there is nothing to run.")
    name, times = Counter(run.name for run in runs).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path}: {times} runs are called {name!r}; each may occur once.")
    return runs


def find_notebook(name: str) -> Path:
    """A notebook's file by its name, of the checkout or the current directory, or a ValueError."""
    for home in (CHECKOUT, Path.cwd()):
        if (path := home / "notebooks" / f"{name}.ipynb").is_file():
            return path
    known = [path.stem for path in (CHECKOUT / "notebooks").glob("*.ipynb")]
    raise ValueError(f"There is no notebook {name!r} in notebooks/; {nearest(name, sorted(known))}")


def notebook_parameters(notebook: str | Path) -> dict[str, Any]:
    """Names and defaults of a notebook's parameters cell, which must be literals."""
    import papermill  # slow to import, and only the batch runner needs it

    found = {}
    for name, about in papermill.inspect_notebook(str(notebook)).items():
        try:
            found[name] = ast.literal_eval(about["default"])
        except (ValueError, SyntaxError) as error:
            default = f"the default of the parameter {name!r}, {about['default']},"
            raise ValueError(f"{notebook}: {default} must be a literal.") from error
    return found


def _check(values: dict[str, Any], defaults: dict[str, Any], where: str) -> dict[str, Any]:
    """The values, in the types of the notebook's defaults; ValueError where one does not fit."""
    checked = {}
    for name, value in values.items():
        if name not in defaults:
            hint = nearest(name, sorted(defaults))
            raise ValueError(f"{where}: there is no parameter {name!r}; {hint}")
        wanted = type(defaults[name])
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            got = f"{value!r}, a {type(value).__name__}"
            with suppress(ValueError):
                if wanted is float and isinstance(value, str) and not math.isnan(float(value)):
                    got += f" (for YAML a number has a point: write {float(value):.1e})"
            raise ValueError(f"{where}: {name} is of type {wanted.__name__}; got {got}.")
        if name in LEAST and value < LEAST[name]:
            raise ValueError(f"{where}: {name} is at least {LEAST[name]}; got {value}.")
        checked[name] = value
    options = {field.name for field in fields(Options)} & checked.keys()
    if "speedup" not in defaults:  # the size of batch that it holds at; here these mean another one
        options -= {"batch_size", "length"}
    try:
        Options(**{name: checked[name] for name in options})
        if "task" in checked:
            get_task(checked["task"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return checked


def _slug(values: dict[str, Any]) -> list[str]:
    """Parts of a run's name: words, and numbers with their parameter; places are left out."""
    named = {k: v for k, v in values.items() if k not in ("data", "teacher")}
    words = [Path(v).name for v in named.values() if isinstance(v, str) and v]
    numbers = [f"{k}{v}" for k, v in values.items() if not isinstance(v, str)]
    return words + numbers
