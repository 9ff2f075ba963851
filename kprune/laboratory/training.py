"""Training by transformers' Trainer, of labels and, where one is given, of a teacher."""

import copy
import math
import tempfile
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.batching import Batch
from kprune.data.checks import in_order, number
from kprune.data.hub import load_split
from kprune.data.tasks import Task
from kprune.data.tokens import as_examples, tokenize
from kprune.encoders import Encoder
from kprune.engine.devices import device, native_bf16
from kprune.engine.progress import bar, quiet
from kprune.inputs import check_inputs
from kprune.options import WORDS, Options

PLACE = "row of the training set, from 0"  # a column beside those of drawn rows


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


def trained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    training: Dataset,
    recipe: Recipe,
    progress: bool = True,
    teacher: Encoder | None = None,
) -> tuple[PreTrainedModel, float]:
    """Train a model in place, on a `training_set`; gives it, in evaluation mode, and the seconds.

    With a `teacher` the loss on the labels is joined by predictive knowledge, K_pred with γ = 2.
    ValueError, naming the row, for what does not fit the model.
    """
    if getattr(model.config, "type_vocab_size", 2) < 2:  # as in RoBERTa: one type says nothing
        names = [name for name in training.column_names if name != "token_type_ids"]
        training = training.select_columns(names)
    parts = map(as_examples, training.iter(1000))
    check_inputs(model, chain.from_iterable(parts), f"the training set of {task.name!r}")
    where = device()  # that the Trainer trains on: the model comes there only later
    if recipe.freeze_embeddings:
        model.base_model.embeddings.requires_grad_(False)
    auto = recipe.precision == "auto" and native_bf16(where)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            output_dir=scratch,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.batch_size,
            warmup_steps=0.1,
            seed=recipe.seed,
            bf16=recipe.precision == "bf16" or auto,
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
        trainer = _Trainer(
            model,
            arguments,
            train_dataset=training,
            data_collator=collator(padder),
            callbacks=[_Bar(f"fine-tuning on {task.name}", progress)],
        )
        trainer.teacher = teacher
        trainer.remove_callback(transformers.PrinterCallback)
        outcome = trainer.train()
    model = trainer.model.eval().requires_grad_(True)
    for name in ("forward", "_original_forward"):  # the Trainer's, which would score in bf16
        vars(model).pop(name, None)
    return model, outcome.metrics["train_runtime"]


class _Trainer(transformers.Trainer):
    """The Trainer, whose model may learn from a teacher besides the labels."""

    teacher: Encoder | None = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.teacher is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        names = ("input_ids", "token_type_ids")
        mask, kind = inputs["attention_mask"].bool(), self.teacher.kind
        batch = Batch(None, {n: inputs[n] for n in names if n in inputs}, mask, 0)
        with torch.no_grad():
            aims = self.teacher.run(batch)
        loss = loss + kind.distance(kind.read(outputs, mask), aims, Options.gamma, mask).mean()
        return (loss, outputs) if return_outputs else loss


def labelled_rows(task: Task, data: str | Path | None, recipe: Recipe) -> Dataset:
    """The rows of the training set that a recipe takes; ValueError where no label is to be had."""
    if task.kind in ("embedding", ""):
        raise ValueError(f"There is no label to fine-tune on in the task {task.name!r}.")
    rows = load_split(task, "train", data)
    if recipe.examples is None:
        return rows
    # Drawn, not the first ones: data sets may be sorted by label. Messages name a row by its own
    # place.
    rows = rows.add_column(PLACE, [*range(len(rows))])
    return rows.shuffle(recipe.seed).select(range(min(recipe.examples, len(rows))))


def training_set(
    task: Task, tokenizer: PreTrainedTokenizerBase, rows: Dataset, order: list[int] | None = None
) -> Dataset:
    """Tokenised rows with their labels, as the Trainer takes them; classes numbered by `order`."""
    if task.label not in rows.column_names:
        raise ValueError(f"The training set of {task.name!r} lacks the column {task.label!r}.")

    def encode(chunk: dict[str, list], numbers: list[int]) -> dict[str, list]:
        numbers = chunk.get(PLACE, numbers)
        found = tokenize(task, tokenizer, chunk, labels=True, numbers=numbers)
        if task.kind in ("classification", "tokens", "multilabel"):
            found["labels"] = in_order(found["labels"], order, task.kind)
        return {k: v for k, v in found.items() if k not in ("row", "offset_mapping")}

    with quiet():
        return rows.map(
            encode,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            load_from_cache_file=False,  # which would be of an earlier version's encode
        )


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
