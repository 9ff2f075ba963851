"""What pruning without retraining is measured against: a pruned model, trained again."""

import copy
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.checks import matched
from kprune.data.hub import classes_of
from kprune.data.tasks import Task, get_task
from kprune.encoders import Encoder
from kprune.engine.as_found import random_states_kept
from kprune.engine.sharing import sharing_weights
from kprune.laboratory.training import Recipe, labelled_rows, trained, training_set
from kprune.sampling import fitted


@random_states_kept()
def retrain(
    model: PreTrainedModel,
    task: str | Task,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    data: str | Path | None = None,
    teacher: PreTrainedModel | None = None,
    progress: bool = True,
) -> tuple[PreTrainedModel, float]:
    """Train a pruned model again on the task's training set, with its labels.

    Args:
        model: it is not changed.
        task, data: as in `kprune.finetune`.
        tokenizer: the model's.
        recipe: how; the learning rate's peak is after a tenth of the steps.
        teacher: the model that it was pruned from, whose outputs are learnt besides the labels.
        progress: whether to show a progress bar.

    Gives a trained copy, and the seconds of training. ValueError for rows that do not fit.
    """
    task = get_task(task)
    rows = labelled_rows(task, data, recipe)
    fitted(task, Encoder(sharing_weights(model)).kind, type(model).__name__)
    order = matched(classes_of(rows, task), model.config, f"the data of {task.name!r}")
    student = copy.deepcopy(model)
    training = training_set(task, tokenizer, rows, order)
    dense = Encoder(sharing_weights(teacher)) if teacher else None
    return trained(student, tokenizer, task, training, recipe, progress, dense)
