"""Experiments: a parameters YAML becomes runs, each run one folder with one result record."""

import ast
import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from reprlib import repr as shortly
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kprune.data.tasks import get_task, nearest
from kprune.laboratory.records import CHECKOUT, Run, is_plain, output_folder
from kprune.laboratory.yaml_files import read_yaml
from kprune.options import Options

MOST_RUNS = 10_000
# The least and the most of the parameters that are the notebooks' own; `Options` knows the others.
BOUNDS = {
    **dict.fromkeys(("every", "repeats"), (1, 1_000_000)),
    **dict.fromkeys(("samples", "examples", "layers", "width", "length"), (0, 1_000_000_000)),
    **dict.fromkeys(("epochs", "again", "polish"), (0, 1000)),
}
# Parameters without which a notebook is no run, and no report.
OF_RUNS, OF_REPORTS = {"method", "rate", "outputs"}, {"records", "outputs"}


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
    makes no sense, a name that cannot be a folder's, an empty or giant grid, or a run that occurs
    twice.
    """
    path, experiment = Path(path), read_experiment(path)
    if not is_plain(path.stem) or path.stem == "teachers":
        raise ValueError(f"{path}: results go to a folder called {path.stem!r}; rename the file.")
    if experiment.report:
        notebook_parameters(find_notebook(experiment.report), OF_REPORTS, "report")
    if experiment.runs:
        if not is_plain(experiment.runs):
            raise ValueError(f"{path}: runs names a file beside this one; got {experiment.runs!r}.")
        source = path.parent / experiment.runs
        if read_experiment(source).runs:
            raise ValueError(f"{path}: {experiment.runs!r} has no runs of its own.")
        return expand(source, outputs)
    notebook = find_notebook(experiment.notebook)
    defaults = notebook_parameters(notebook, OF_RUNS, "run")
    folder = output_folder(path.stem, outputs)
    runs = [
        Run(name=name, folder=folder / name, notebook=notebook, parameters=values)
        for name, values in _points(path, experiment, defaults)
    ]
    if not runs:
        raise ValueError(f"{path}: exclude leaves nothing of the grid, so there is nothing to run.")
    name, times = Counter(run.name for run in runs).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path}: {times} runs are called {name!r}; each may occur once.")
    alike: dict[str, str] = {}
    for run in runs:
        other = alike.setdefault(json.dumps(run.wanted, sort_keys=True), run.name)
        if other != run.name:
            raise ValueError(f"{path}: {other!r} and {run.name!r} are the same run; leave one out.")
    return runs


def _points(
    path: Path, experiment: Experiment, defaults: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and checked parameters of each point of the grid that is not excluded."""
    count = math.prod(map(len, experiment.grid.values()))
    if count > MOST_RUNS:
        raise ValueError(f"{path}: the grid has {count:,} runs; at most {MOST_RUNS:,} are taken.")
    excluded = [_listed(entry, defaults, f"{path}: exclude") for entry in experiment.exclude]
    unused = list(excluded)
    for entries in itertools.product(*experiment.grid.values()):
        chosen, names = dict(experiment.fixed), []  # of the parameters, axis by axis
        for axis, entry in zip(experiment.grid, entries, strict=True):
            together = entry if isinstance(entry, dict) else {axis: entry}
            if twice := sorted(chosen.keys() & together.keys(), key=str):
                raise ValueError(f"{path}: the parameter {twice[0]!r} is set twice.")
            chosen |= together
            names.append([*together])
        values = defaults | _typed(chosen, defaults, str(path))
        out = [e for e in excluded if all(values[name] in some for name, some in e.items())]
        unused = [entry for entry in unused if entry not in out]
        if out:
            continue
        _sensible(values, str(path))
        parts = (_slug({name: values[name] for name in axis}) for axis in names)
        name = "_".join(itertools.chain(*parts)) or "all"
        if not is_plain(name):
            raise ValueError(f"{path}: a run's folder cannot be called {shortly(name)}.")
        yield name, values
    if unused:
        raise ValueError(f"{path}: the exclude {shortly(unused[0])} is equal to no run.")


def find_notebook(name: str) -> Path:
    """A notebook's file by its name, of the checkout or the current directory, or a ValueError."""
    for home in (CHECKOUT, Path.cwd()):
        if is_plain(name) and (path := home / "notebooks" / f"{name}.ipynb").is_file():
            return path
    known = [path.stem for path in (CHECKOUT / "notebooks").glob("*.ipynb")]
    hint = nearest(name, sorted(known))
    raise ValueError(f"There is no notebook {shortly(name)} in notebooks/; {hint}")


def notebook_parameters(
    notebook: str | Path, needed: Collection[str] = (), what: str = ""
) -> dict[str, Any]:
    """Names and defaults of a notebook's parameters cell, which must be literals.

    ValueError where it lacks one that is `needed` for `what` it is to be, "run" or "report".
    """
    import papermill  # slow to import, and only the batch runner needs it

    found = {}
    for name, about in papermill.inspect_notebook(str(notebook)).items():
        try:
            found[name] = ast.literal_eval(about["default"])
        except (ValueError, SyntaxError) as error:
            default = f"the default of the parameter {name!r}, {about['default']},"
            raise ValueError(f"{notebook}: {default} must be a literal.") from error
    if lacking := sorted(set(needed) - found.keys()):
        raise ValueError(
            f"The notebook {Path(notebook).stem!r} is no {what}: it has no parameter {lacking[0]!r}"
        )
    return found


def _listed(entry: dict[str, Any], defaults: dict[str, Any], where: str) -> dict[str, list]:
    """The values that an entry of exclude lists of each parameter."""
    if not entry:
        raise ValueError(f"{where}: an entry is empty.")
    return {
        name: [
            _typed({name: one}, defaults, where)[name]
            for one in (value if isinstance(value, list) else [value])
        ]
        for name, value in entry.items()
    }


def _typed(values: dict[str, Any], defaults: dict[str, Any], where: str) -> dict[str, Any]:
    """The values, in the types of the notebook's defaults; ValueError where one does not fit."""
    checked = {}
    for name, value in values.items():
        if name not in defaults:
            hint = nearest(str(name), sorted(defaults))
            raise ValueError(f"{where}: there is no parameter {shortly(name)}; {hint}")
        if name == "outputs":
            raise ValueError(f"{where}: outputs is where the runner puts a run; leave it out.")
        wanted = type(defaults[name])
        if wanted is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) is not wanted:
            got = f"{shortly(value)}, a {type(value).__name__}"
            with suppress(ValueError):
                if isinstance(value, str) and math.isfinite(number := float(value)):
                    plain = f"{number:.0f}" if wanted is int else f"{number:.1e}"
                    got += f" (YAML reads that as text: write {plain})"
            raise ValueError(f"{where}: {name} is of type {wanted.__name__}; got {got}.")
        if wanted is str and (not value.isprintable() or value != value.strip()):
            raise ValueError(
                f"{where}: {name} has blanks around it or characters that cannot be printed; got "
                f"{shortly(value)}."
            )
        if wanted is float and not math.isfinite(value) and name != "reuse":
            raise ValueError(f"{where}: {name} is a finite number; got {value}.")
        if name in BOUNDS and not BOUNDS[name][0] <= value <= BOUNDS[name][1]:
            least, most = BOUNDS[name]
            raise ValueError(f"{where}: {name} is between {least} and {most:,}; got {value}.")
        checked[name] = value
    return checked


def _sensible(values: dict[str, Any], where: str) -> None:
    """Raise ValueError where options or a task make no sense, or a model has no name."""
    options = {field.name for field in fields(Options)} & values.keys()
    options -= {"batch_size", "length"}  # which mean another thing in notebooks
    try:
        Options(**{name: values[name] for name in options})
        if "task" in values:
            get_task(values["task"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if "model" in values and not is_plain(Path(values["model"]).name):
        raise ValueError(f"{where}: model is a folder or a Hub id; got {shortly(values['model'])}.")


def _slug(values: dict[str, Any]) -> list[str]:
    """Parts of a run's name: words, and numbers with their parameter; places are left out."""
    named = {k: v for k, v in values.items() if k not in ("data", "teacher")}
    words = [Path(v).name for v in named.values() if isinstance(v, str) and v]
    numbers = [f"{k}{v}" for k, v in values.items() if not isinstance(v, str)]
    return words + numbers
