"""Fine-tuned models, made once and found again."""

import warnings
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.tasks import Task, get_task
from kprune.engine.files import CONFIG, RECORD, check_target
from kprune.engine.loading import load_model, load_tokenizer
from kprune.engine.progress import quiet
from kprune.inputs import check_match
from kprune.laboratory.evaluation import check_outputs
from kprune.laboratory.finetuning import Recipe, default_recipe, finetune, model_class, origin
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
    """A fine-tuned model, made first when it is missing; with its tokenizer and its record.

    In its default place, `outputs/teachers/<task>-<model>`, a teacher made for another task, model,
    data set or recipe is made anew, with a warning. A model in a `folder` of your own is taken as
    it is, whoever made it, and its record may be empty; one that holds anything else is refused
    before any work. Arguments as in `finetune`.
    """
    task, recipe = get_task(task), recipe or default_recipe(model)
    if folder is not None and (Path(folder) / CONFIG).is_file():
        return *load_teacher(folder, task), read_record(folder) or {}
    folder = Path(folder or teacher_folder(task.name, model))
    record = read_record(folder)
    if other := differing(record, origin(task, model, data, recipe), stand_in):
        check_target(folder)
        if record:
            other = " and ".join(other)
            message = f"The teacher in {folder} was made with another {other}; fine-tuning it anew."
            warnings.warn(message, stacklevel=2)
        record = finetune(folder, task, model, data, recipe, progress, stand_in)
    return *load_teacher(folder, task), record


def load_teacher(
    folder: str | Path, task: str | Task
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A teacher, in evaluation mode, and its tokenizer; ValueError for code or the wrong head."""
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
    tokenizer = load_tokenizer(folder)
    check_match(model, tokenizer)
    return model, tokenizer


def read_record(folder: str | Path) -> dict | None:
    """The record of the teacher in a folder; None when there is none that can be read."""
    found = read_json(Path(folder) / RECORD)
    return found if isinstance(found, dict) else None


def teacher_folder(task: str, model: str, outputs: str | Path | None = None) -> Path:
    """Where the teacher of a task and a model is by default (see `records.output_folder`)."""
    return output_folder("teachers", outputs) / f"{task}-{Path(model).name}"


def differing(record: dict | None, wanted: dict, stand_in: bool) -> list[str]:
    """What a teacher's record says otherwise than wanted; all of it where there is no record."""
    record = record or {}
    other = [name for name, value in wanted.items() if record.get(name, ...) != value]
    lent = wanted["model"] not in PACKAGED and record.get("weights") == packaged_minilm()
    return [*other, "weights"] if lent and not stand_in else other
