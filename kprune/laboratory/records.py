"""Runs and what they leave: a folder each, with one record, and whether it is done."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.reach import local
from kprune.engine.devices import BF16_UNITS
from kprune.engine.files import RECORD, plain, sign, write_json, written_whole
from kprune.engine.progress import quiet

PACKAGES = ("kprune", "torch", "transformers", "datasets")
RESULT, FAILURE, EXPECTED = "result.json", "failure.json", "experiment.json"
# Parameters that say where things go and what is shown or timed, not what comes out.
INCIDENTAL = ("outputs", "exercises", "keep", "timed")
# Parameters that a teacher and its score depend on; by how much that moves with the device.
OF_TEACHERS = ("task", "model", "data", "teacher", "examples", "epochs", "every")
ROUNDING = 0.003
CHECKOUT = Path(__file__).resolve().parents[2]
# What the notebooks of this package record besides what every run does.
NEEDED = {
    "06_kprune": {"latency", "pass_seconds", "peak"},
    "09_benchmark": {"pass_seconds", "peak_above", "limit", "gains", "inference"},
}
State = Literal["done", "missing", "failed", "damaged", "outdated"]


Counts = Annotated[list[NonNegativeInt], Field(min_length=1)]  # of each layer
Amount = Annotated[FiniteFloat, Field(ge=0)]
Duration = Annotated[FiniteFloat, Field(gt=0)]


class Numbers(BaseModel):
    """The part of a report that tables are drawn from; of each layer where it lists numbers."""

    model_config = ConfigDict(extra="allow", strict=True)

    achieved_rate: Annotated[FiniteFloat, Field(le=1)]
    parameters: PositiveInt
    dense_parameters: PositiveInt
    heads: Counts
    neurons: Counts
    dense_heads: Counts
    dense_neurons: Counts
    seconds: dict[str, Amount]

    @model_validator(mode="after")
    def _same_layers(self) -> Self:
        each = self.heads, self.neurons, self.dense_heads, self.dense_neurons
        if len({*map(len, each)}) > 1:
            raise ValueError("the numbers of layers differ")
        return self


class Limit(BaseModel):
    """What a benchmark's limit follows from."""

    passes: Duration
    operations: Duration
    rate: Duration


class Record(BaseModel):
    """The part of a run's result that tables are drawn from, named as in its file."""

    model_config = ConfigDict(extra="allow", strict=True)

    parameters: dict[str, Any]
    metric: str
    scores: dict[Literal["dense", "pruned"], dict[str, FiniteFloat]]
    latency: dict[Literal["dense", "pruned"], Duration]
    report: Numbers
    environment: dict[str, Any]
    # What only some notebooks record.
    pass_seconds: Duration | None = Field(None, alias="pass seconds")
    dev_examples: PositiveInt | None = Field(None, alias="dev examples")
    peak: Amount | None = Field(None, alias="peak memory (MB)")
    # NaN where the system does not tell it.
    peak_above: FiniteFloat | Literal["NaN"] | None = Field(None, alias="peak above the model (MB)")
    limit: Limit | None = None
    gains: dict[str, FiniteFloat] | None = None
    kept: list[list[NonNegativeInt]] | None = None
    inference: list[dict[str, FiniteFloat]] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for both in (self.scores, self.latency):
            if len(both) == 1:
                raise ValueError("one of the two models is missing")
        if any(self.metric not in score for score in self.scores.values()):
            raise ValueError("a score is missing")
        if self.limit and None in (self.pass_seconds, self.peak_above, self.gains, self.inference):
            raise ValueError("a part of the benchmark is missing")
        return self


def read_result(path: Path) -> Record | None:
    """A run's record; None where it is damaged."""
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


class Run(BaseModel):
    """One run of a notebook: the folder of its record, and all parameters, defaults filled in."""

    name: str
    folder: Path
    notebook: Path
    parameters: dict[str, Any]

    @property
    def wanted(self) -> dict[str, Any]:
        """The parameters that its result depends on."""
        return {name: v for name, v in self.parameters.items() if name not in INCIDENTAL}


def state(run: Run) -> State:
    """Whether a run is done: a whole record of these very parameters and this package version.

    "damaged" is a record that cannot be read or lacks something, "outdated" one of other parameters
    or of another version; "failed" is a run that ended in an error.
    """
    path = run.folder / RESULT
    if not path.is_file():
        return "failed" if (run.folder / FAILURE).is_file() else "missing"
    record = read_result(path)
    needed = NEEDED.get(run.notebook.stem, set())
    if not run.parameters.get("timed", True):
        needed = needed - {"latency", "pass_seconds"}
    if record is None or any(getattr(record, name) in (None, {}) for name in needed):
        return "damaged"
    same = plain(record.parameters) == plain(run.wanted)
    return "done" if same and of_this_version(record.environment) else "outdated"


def of_this_version(made: dict[str, Any]) -> bool:
    """Whether a record's environment is of this version of the package."""
    return made.get("kprune") == version("kprune")


def of_one_version(rows: list[dict]) -> list[dict]:
    """The rows of `tables.collect`; without the numbers of other versions, if some are of this."""
    made = {row["run"]: row["extra"] for row in rows if row["state"] == "done"}
    other = {name for name, extra in made.items() if not of_this_version(extra["environment"])}
    if len(other) == len(made):
        return rows
    return [
        {"run": row["run"], "state": "outdated", **row["extra"]["parameters"]}
        if row["run"] in other
        else row
        for row in rows
    ]


def check_start(rows: Sequence[dict[str, Any]], source: Path) -> None:
    """Raise ValueError where finished runs of the same teacher and dev set score it differently, or
    its weights have not the same fingerprint.

    One of them then had other weights or other data in the folders of these names. `rows` are those
    of `tables.collect`.
    """
    known: dict[tuple, dict] = {}
    for row in rows:
        if row["state"] == "done" and row["dense"] is not None:
            first = known.setdefault(tuple(row.get(name) for name in OF_TEACHERS), row)
            prints = {one["extra"]["report"].get("weights") for one in (first, row)} - {None, ""}
            if len(prints) > 1 or not abs(row["dense"] - first["dense"]) <= ROUNDING:
                raise ValueError(
                    f"In {source} the teacher of {first['run']} scores {first['dense']:.3f} and "
                    f"that of {row['run']} {row['dense']:.3f}, and both should be the same: its "
                    "weights or the dev set changed in between. Make the older runs again (delete "
                    "their folders, then `kprune reproduce`)."
                )


def save_teacher(
    folder: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, record: dict
) -> None:
    """A teacher's folder, all at once: model, tokenizer and the record of how it was made."""
    with quiet(), written_whole(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_json(part / RECORD, record)
        sign(part)


def output_folder(name: str = "", outputs: str | Path | None = None) -> Path:
    """The folder for results of one kind, the same from any working directory.

    It is in `outputs`, or where that is not given in the environment's KPRUNE_OUTPUTS; without both
    in `outputs/` of the checkout that the package runs from, or of the current directory where it
    is installed elsewhere.
    """
    outputs = outputs or os.environ.get("KPRUNE_OUTPUTS")
    if outputs:
        return local(outputs).resolve() / name
    home = CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path.cwd()
    return home / "outputs" / name


def is_plain(name: str) -> bool:
    """Whether a name can be that of a file or folder, stays in its place and is not hidden."""
    short = 0 < len(name.encode(errors="replace")) <= 200
    return short and Path(name).name == name and name.isprintable() and name[0] != "."


def environment(device: torch.device | str = "cpu") -> dict[str, str | int | None]:
    """What a result depends on besides its parameters: versions, commit, device."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "device": _device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def short(commit: Any, size: int = 7) -> str:
    """A commit as people name it; with its plus sign, where files had changed since."""
    if not isinstance(commit, str):
        return "no commit"
    return f"{commit[:size]}{'+' * commit.endswith('+')}"


def _device_name(device: torch.device) -> str:
    """A GPU's name, or the processor's and what it multiplies bfloat16 with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    known = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", known.read_text() if known.is_file() else "")
    units = [unit for unit in BF16_UNITS if torch.cpu.get_capabilities().get(unit)]
    return ", ".join([named[1] if named else platform.processor() or "cpu", *units[:1]])


def _commit() -> str | None:
    """The checkout's commit, with a plus sign where files have changed since; None outside one."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    here = Path(__file__).resolve().parent
    try:
        return subprocess.check_output(
            command, cwd=here, text=True, timeout=10, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None
