"""The end of a pruning: the model as its user gets it, and the report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from kprune.card import origin
from kprune.classes import as_pruned
from kprune.encoders import Encoder
from kprune.families import noted, report_of
from kprune.limits.budget import most
from kprune.limits.latency import latencies
from kprune.report import Report
from kprune.state import Pruned

if TYPE_CHECKING:
    from kprune.pruning import Job

OFF = 0.05  # of the speed-up asked, beyond which the report says so


def finished(job: Job, done: Sequence[Pruned]) -> tuple[PreTrainedModel, Report]:
    """The pruned model, with weights of its own and the class that tells of its units; a report."""
    model, pruned = job.model, job.state.student.model
    pruned.config._attn_implementation = model.config._attn_implementation
    report = _report(job, done)
    _own_weights(pruned, model)
    earlier = report_of(model)
    pruned.report = report.to_dict()  # goes with it into its folder
    pruned.report |= {"earlier": earlier} if "method" in earlier else {}
    pruned.report |= {"pieces": earlier["pieces"]} if "pieces" in earlier else {}
    layers = [report.kept[t : t + 2] for t in range(0, len(report.kept), 2)]
    if pruned.config.num_hidden_layers < len(layers):  # whole ones are gone
        layers = [both for both in layers if any(both)]
    as_pruned(pruned, [own for both in layers for own in both])
    if (kind := job.state.student.kind).name == "embedding":  # of a folder the Hub gives JSON only
        pruned.config.kprune |= {"pooling": kind.pooling, "normalize": kind.normalize}
    return pruned, report


def _report(job: Job, done: Sequence[Pruned]) -> Report:
    options, state, sample, dense = job.options, job.state, job.state.sample, Encoder(job.model)
    shown = ("gamma", "lam", "mu", "precision", "without", "reuse", "multiple")
    length, student = sample.length, state.student
    shown += ("pooling", "normalize") if student.kind.name == "embedding" else ()
    report = Report(
        method=options.method,
        rate=0.0 if job.table else options.rate,
        options={name: getattr(options, name) for name in shown},
        seed=sample.seed,
        tokens=sample.tokens,
        samples=len(sample.examples),
        model=origin(job.model),
        weights=fingerprint(job.model),
        sample=sample.task.name,
        columns=len(sample.task.columns),
        length=length,
        dense_flops=dense.flops(length),
        limit=most(1.0 if job.table else 1 - options.rate, dense, length),
        dense_parameters=job.model.num_parameters(),
        dense_heads=dense.units("MHA"),
        dense_neurons=dense.units("FFN"),
        flops=student.flops(length),
        parameters=student.model.num_parameters(),
        heads=student.units("MHA"),
        neurons=student.units("FFN"),
        kept=[step.keep.nonzero().flatten().tolist() for step in done],
        thresholds=[step.threshold for step in done if step.threshold is not None],
        tuning=[step.tuned[-1] for step in done if step.tuned],
        seconds=state.clock.seconds,
        notes=[*state.notes],
    )
    if earlier := noted(job.model.config).get("kept"):
        # Units keep their first numbers.
        report.kept = [
            [names[unit] for unit in units]
            for names, units in zip(earlier, report.kept, strict=True)
        ]
    if job.table:
        report.speed = _speed(job, report)
    refits = {f"inputs of the {step.name}": step.tuned[:-1] for step in done}
    for what, tuned in {**refits, "head": state.finished}.items():
        report.notes += [f"{what}: {one.trouble}" for one in tuned if one and one.trouble]
    if len(student.model.state_dict()) > len(job.model.state_dict()):
        report.notes.append("layers that shared their weights have weights of their own now")
    report.note_few_tokens()
    return report


def fingerprint(model: PreTrainedModel) -> str:
    """The first 16 digits of a SHA-256 of all weights, wherever they are."""
    whole = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        whole.update(name.encode())
        whole.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()[:16]


def _speed(job: Job, report: Report) -> dict[str, float]:
    options, student = job.options, job.state.student
    asked = {"asked": options.speedup, "batch_size": options.batch_size, "length": options.length}
    models = {"dense": job.model, "pruned": student.model}
    found = latencies(models, options.batch_size, options.length, 15, quiet=True)
    measured = found["dense"] / found["pruned"]
    if abs(measured / options.speedup - 1) > OFF:
        report.notes.append(
            f"{measured:.2f} times as fast is over {OFF:.0%} off the {options.speedup:g} asked: "
            "the machine was busy, or a unit is too large a step; try again, or ask for a bit more"
        )
    predicted = job.table.whole / job.table.predict([sub.units for sub in student.sublayers])
    return asked | {"predicted": predicted, "measured": measured}


def _own_weights(pruned: PreTrainedModel, model: PreTrainedModel) -> None:
    """Weights that were not cut are copied; all can be trained where the model's can."""
    given = dict(model.named_parameters())
    shared = {weight.data_ptr(): weight for weight in given.values()}
    some = any(weight.requires_grad for weight in given.values())
    for name, weight in pruned.named_parameters():
        source = shared.get(weight.data_ptr(), given.get(name))  # layers may have moved down
        if weight.data_ptr() in shared:
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        weight.requires_grad_(some if source is None else source.requires_grad)
    for part in pruned.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.clone())
