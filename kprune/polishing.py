"""Beyond pruning: a pruned model learns, without labels, to give what its teacher gives."""

import copy
import random
import warnings

import torch
from transformers import PreTrainedModel

from kprune.checks import check_model
from kprune.data.batching import batches
from kprune.data.checks import number
from kprune.encoders import Encoder
from kprune.engine.as_found import plain_tensors
from kprune.engine.progress import bar
from kprune.engine.sharing import sharing_weights
from kprune.families import family_of, report_of
from kprune.finishing import fingerprint
from kprune.inputs import checked
from kprune.options import Options
from kprune.outputs import pooled
from kprune.sampling import Sample

TOKENS = 480  # of a step, padding included
WARM = 0.1  # share of the steps in which the rate rises


@plain_tensors()
def polish(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    sample: Sample,
    passes: int = 3,
    learning_rate: float = 2e-4,
    progress: bool = True,
) -> PreTrainedModel:
    """Distil a teacher into a copy of its pruned model, on the sample that it was pruned with.

    This *is* training, of the layers' weights and of the head's last projection, and no part of the
    paper: what comes of it is not to be called retraining-free. It asks for no label: the loss is
    predictive knowledge.

    Args:
        model: a pruned model, in float32 or wider; it is not changed.
        teacher: the model that it was pruned from, of the same kind.
        sample: of tokens that both read, as `kprune.sample` draws it.
        passes: over the sample.
        learning_rate: the peak of AdamW's, from where it falls to 0.

    ValueError where model, teacher and sample do not fit each other.
    """
    if not isinstance(sample, Sample):
        raise ValueError("polish takes the sample itself, as kprune.sample draws it from texts.")
    passes = number("passes", passes, 1)
    learning_rate = number("learning_rate", learning_rate, above=0, whole=False)
    for one in (model, teacher):
        check_model(one)
    if any(weight.dtype.itemsize < 4 for weight in model.parameters()):
        raise ValueError("Half precision is too coarse to train in; take model.float() first.")
    how = pooled(model)
    Options(**how)  # whose check says what they can be
    student = Encoder(copy.deepcopy(model).eval(), **how)  # without dropout, like its aims
    dense = Encoder(sharing_weights(teacher), **how)
    if (student.kind.name, student.kind.outputs) != (dense.kind.name, dense.kind.outputs):
        raise ValueError(
            f"The model is for {student.kind.name} with {student.kind.outputs} outputs, and the "
            f"teacher for {dense.kind.name} with {dense.kind.outputs}."
        )
    if model.device != teacher.device:
        raise ValueError(
            f"The model is on {model.device}, and its teacher on {teacher.device}; move one "
            "of them."
        )
    families = [family_of(one.config) for one in (model, teacher)]
    if families[0] != families[1]:
        raise ValueError(
            f"The model is of the family {families[0]} and its teacher of {families[1]}; the "
            "teacher is the model that it was pruned from."
        )
    report, before = report_of(model), set()
    while report:  # of each pruning, the last first
        before, report = before | {report.get("weights")}, report.get("earlier")
    if (known := before - {None, ""}) and fingerprint(teacher) not in known:
        warnings.warn(
            "The teacher's weights are not those that the model was pruned from, by the "
            "fingerprint in its report: it learns from another model.",
            stacklevel=2,
        )
    words = [one.get_input_embeddings().num_embeddings for one in (model, teacher)]
    if words[0] != words[1]:
        raise ValueError(
            f"The model knows {words[0]:,} pieces of words and its teacher {words[1]:,}, so "
            "numbers of pieces name others there; polish first, then trim."
        )
    if student.flops(sample.length) > dense.flops(sample.length):
        raise ValueError("The model has more units than its teacher; are the two exchanged?")
    checked(sample, model, student.kind, labels=False)
    pad = sample.tokenizer.pad_token_id
    given = [one.to(student.device) for one in batches(sample.examples, pad, TOKENS)]
    with torch.no_grad():
        aims = [dense.run(batch) for batch in given]
    weights = [weight for weight in student.layers.parameters() if weight.is_floating_point()]
    weights += [] if student.last is None else [*student.last.parameters()]
    total = passes * len(given)
    optimizer = torch.optim.AdamW(weights, learning_rate, weight_decay=0.0)
    length = max(total, 3)  # of the slope, whose rise is a step at the least
    slope = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        learning_rate,
        total_steps=length,
        pct_start=max(WARM, 1.5 / length),
        anneal_strategy="linear",
    )
    order = random.Random(sample.seed)
    with bar(total, "polishing", progress) as steps, torch.enable_grad():
        student.model.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        for _ in range(passes):
            for n in order.sample(range(len(given)), len(given)):
                z = student.run(given[n])
                lost = student.kind.distance(z, aims[n], Options.gamma, given[n].mask).mean()
                optimizer.zero_grad()
                lost.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                slope.step()
                steps.update()
    optimizer.zero_grad()
    for weight, own in zip(student.model.parameters(), model.parameters(), strict=True):
        weight.requires_grad_(own.requires_grad)
    earlier = report_of(model)
    student.model.report = earlier | {"polished": earlier.get("polished", 0) + passes}
    return student.model
