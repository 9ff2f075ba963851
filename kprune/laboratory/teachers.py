"""Fine-tuned models, made once and found again."""

import warnings
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.tasks import Task, get_task
from kprune.engine.files import CONFIG, RECORD, check_target
from kprune.engine.loading import load_model, load_tokenizer
from kprune.engine.progress import quiet
from kprune.laboratory.evaluation import check_outputs
from kprune.laboratory.finetuning import (
    Recipe,
    default_recipe,
    finetune,
    model_class,
    origin,
)
from kprune.laboratory.minilm import PACKAGED, packaged_minilm
from kprune.laboratory.records import output_folder, read_json


def teacher(
    task: str | Task,
    model: str = "bert-base-uncased",
    data: str | Path | None = None,
    folder: str | Path | None = None,
    recipe: Recipe | None = None,
    progress: bool = True,
    stand_in: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict]:
    """A fine-tuned model; made first when it is missing.

    In its default place, a teacher made for another task, model, data set or recipe is made anew,
    with a warning. A model in a folder of your own is taken as it is, whoever made it.

    Args:
        task: a task or its name.
        model: Hub id or folder of a pretrained encoder, or "minilm" (see `find_model`).
        data: Hub id or folder of the data; None takes the task's own.
        folder: where the teacher is, or is to be; by default `outputs/teachers/<task>-<model>`.
            One that holds anything but a teacher is refused before any work.
        recipe: how to fine-tune; by default `default_recipe(model)`.
        progress: whether to show a progress bar.
        stand_in: whether the packaged MiniLM may take the place of a model out of reach.

    Returns:
        The model, its tokenizer and its record: what made it, and its dev scores. The record of a
        model from elsewhere is empty.
    """
    task, recipe = get_task(task), recipe or default_recipe(model)
    if folder is not None and (Path(folder) / CONFIG).is_file():
        return *load_teacher(folder, task), read_record(folder) or {}
    folder = Path(folder or teacher_folder(task.name, model))
    record = read_record(folder)
    differing = _differing(record, task, model, data, recipe, stand_in)
    if differing:
        check_target(folder)
    if record and differing:
        warnings.warn(
            f"The teacher in {folder} was made with another {' and '.join(differing)}; "
            "fine-tuning it anew.",
            stacklevel=2,
        )
    if differing:
        record = finetune(folder, task, model, data, recipe, progress, stand_in)
    return *load_teacher(folder, task), record


def load_teacher(
    folder: str | Path, task: str | Task
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A fine-tuned model and its tokenizer, from a folder or the Hub, in evaluation mode.

    Raises:
        ValueError: when its head does not fit the task, or it names code of its own.
    """
    task = get_task(task)
    with quiet():
        model = load_model(model_class(task), folder).eval()
    saved = model.config.architectures or [type(model).__name__]
    if type(model).__name__ not in saved:  # from_pretrained would have drawn a head at random
        raise ValueError(
            f"The model in {folder} is a {saved[0]}, without the head that {task.name!r} needs; "
            "fine-tune it first."
        )
    check_outputs(model, task, f"The model in {folder}")
    return model, load_tokenizer(folder)


def read_record(folder: str | Path) -> dict | None:
    """The record of the teacher in a folder; None when there is none that can be read."""
    found = read_json(Path(folder) / RECORD)
    return found if isinstance(found, dict) else None


def is_made(
    task: str | Task,
    model: str,
    data: str | Path | None,
    folder: str | Path,
    recipe: Recipe | None = None,
) -> bool:
    """Whether the teacher in a folder is the one that is wanted, and no stand-in for it."""
    recipe = recipe or default_recipe(model)
    task = get_task(task)
    return not _differing(read_record(folder), task, model, data, recipe, stand_in=False)


def teacher_folder(task: str, model: str, outputs: str | Path | None = None) -> Path:
    """Where the teacher of a task and a model is by default (see `records.output_folder`)."""
    return output_folder("teachers", outputs) / f"{task}-{Path(model).name}"


def _differing(
    record: dict | None,
    task: Task,
    model: str,
    data: str | Path | None,
    recipe: Recipe,
    stand_in: bool,
) -> list[str]:
    """What a teacher's record says otherwise than wanted; all of it where there is no record."""
    record, wanted = record or {}, origin(task, model, data, recipe)
    differing = [name for name, value in wanted.items() if record.get(name, ...) != value]
    if not stand_in and model not in PACKAGED and record.get("weights") == packaged_minilm():
        differing.append("weights")
    return differing
