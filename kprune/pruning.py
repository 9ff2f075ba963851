"""`prune` and `steps`: a method, a limit and a sample, put together and run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.card import origin
from kprune.checks import check_model
from kprune.classes import as_pruned
from kprune.data.tasks import Task, get_task
from kprune.data.tokens import check_same_words, check_tokenizer
from kprune.description import check_described
from kprune.encoders import Encoder
from kprune.engine.as_found import plain_tensors
from kprune.engine.devices import ranking_dtype
from kprune.engine.progress import Clock, bar
from kprune.engine.sharing import sharing_weights
from kprune.families import BUILT_IN, family_of, noted
from kprune.family_check import check_family
from kprune.inputs import checked, longest
from kprune.limits.budget import Budget, Flops, Seconds
from kprune.limits.latency import latencies
from kprune.limits.table import LatencyTable, measure_latencies
from kprune.measuring import BACK_TOO
from kprune.methods import LABELS_NEEDED, METHODS, copies
from kprune.options import Options, known_options
from kprune.report import Report
from kprune.sampling import Sample, find_tokenizer, fitted
from kprune.sampling import sample as draw
from kprune.sentences import opened
from kprune.state import Pruned, State

Drawn = Sample | Task | str | Sequence[str] | Sequence[tuple[str, str]]
OFF = 0.05  # of the speed-up asked, beyond which the report says so
TILE = 16  # neurons: products of other widths take longer, and no table foresees by how much


def _documented(function: Callable) -> Callable:
    """Show the options, one by one, where a signature is shown."""
    given = inspect.signature(function)
    own = {n: p for n, p in given.parameters.items() if p.kind is not p.VAR_KEYWORD}
    rest = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default)
        for f in fields(Options)
        if f.name not in own
    ]
    function.__signature__ = given.replace(parameters=[*own.values(), *rest])
    return function


@dataclass
class Job:
    """One pruning, checked and ready to run."""

    options: Options
    model: PreTrainedModel
    state: State
    budget: Budget
    table: LatencyTable | None = None

    def run(self) -> Iterator[Pruned]:
        """The steps; the bar and the clocks go along."""
        clock, batches = self.state.clock, len(self.state.batches)
        if self.table:
            self.budget.corrected = clock.step("timing", "timing")(self.budget.corrected)
        self.state.advance = clock.step("advancing")(self.state.advance)
        count = len(self.state.student.sublayers)
        clock.allot(work(0, count) * batches)
        for step in METHODS[self.options.method](self.options, self.state, self.budget):
            clock.allot(work(step.t + 1, count) * batches)
            yield step
        clock.allot(0)


def work(t: int, count: int) -> float:
    """Work on a batch at sublayer `t` of `count`, for the bar: measuring, then a few passes."""
    return BACK_TOO * (count - t) + 4 if t < count else 1


def prepared(
    model: PreTrainedModel,
    sample: Drawn,
    options: Options,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool = True,
) -> Job:
    """Check model, sample and options against each other, and set out; arguments as in `prune`."""
    check_model(model)
    if family_of(model.config) not in BUILT_IN:
        check_family(model)
    teacher = Encoder(sharing_weights(model), options.pooling, options.normalize)
    own = teacher.kind, type(model).__name__
    if isinstance(sample, (str, Task)):
        sample = fitted(get_task(sample), *own)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    if isinstance(sample, Sample) and tokenizer:
        check_same_words(sample.tokenizer, tokenizer)
    if not isinstance(sample, Sample):
        tokenizer = tokenizer or find_tokenizer(model)
        sample = draw(sample, tokenizer, options.tokens, options.seed, longest=longest(model))
    sample = replace(sample, task=fitted(sample.task, *own))
    sample = checked(sample, model, teacher.kind, options.method in LABELS_NEEDED)
    widest = max(teacher.units("FFN"))
    multiple = options.multiple or (TILE if options.speedup and widest > TILE else 1)
    if multiple > 1 and multiple > widest:
        raise ValueError(f"multiple is {multiple}, and the widest layer has {widest} neurons.")
    options, table = replace(options, multiple=multiple), None
    budget: Budget = Flops(most(1 - options.rate, teacher, sample.length), sample.length)
    if options.speedup:
        table = measure_latencies(model, options.batch_size, options.length, progress=progress)
        budget = Seconds(table, options.speedup, multiple)
    if model.dtype in (torch.float16, torch.bfloat16):  # `to` rounds what it should not, too
        try:
            check_described(model, model.state_dict())
        except ValueError as error:
            warnings.warn(f"What is pruned from it could not be saved: {error}", stacklevel=2)
    if model.device.type == "cpu" and model.dtype == torch.float16:
        warnings.warn(
            "The model is in float16, which a CPU works in ten times as slowly; load it with "
            "dtype=torch.float32, or bfloat16.",
            stacklevel=2,
        )
    dtype = ranking_dtype(options.precision, teacher.model)
    state = State(teacher, teacher.copy(), sample, dtype, copies(options, sample))
    count = len(teacher.sublayers)
    total = sum(work(t, count) for t in range(count + 1)) * len(state.batches)
    state.clock = Clock(teacher.device, bar(total, "pruning", progress))
    return Job(options, model, state, budget, table)


def most(share: float, encoder: Encoder, length: float) -> float:
    """A share of all FLOPs, as a limit: sums of many units round, and an exact fit fits."""
    return share * encoder.flops(length) * (1 + 1e-12)


@_documented
def steps(
    model: PreTrainedModel,
    sample: Drawn,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool = False,
    **options,
) -> Iterator[Pruned]:
    """Prune step by step: what `prune` does, one sublayer at a time, with all that there is to see.

    Yields what happened at each sublayer; `step.state.student` is the half-pruned encoder.
    """
    known_options(options)
    if inside := opened(model, options):
        model, sample, tokenizer, options = inside.given(sample, tokenizer, options)
    with plain_tensors():
        job = prepared(model, sample, Options(**options), tokenizer, progress).run()
    while True:
        with plain_tensors():
            if (step := next(job, None)) is None:
                return
        yield step


@_documented
def prune(
    model: PreTrainedModel,
    sample: Drawn,
    rate: float = Options.rate,
    method: str = Options.method,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool = True,
    **options,
) -> tuple[PreTrainedModel, Report]:
    """Prune a fine-tuned encoder to a FLOPs limit without retraining.

    The work happens on the device that the model is on.

    Args:
        model: the fine-tuned model (the teacher), or a SentenceTransformer or CrossEncoder with one
            inside; it is not changed.
        sample: a `Sample`, or what `kprune.sample` draws one from: a task, its name, or texts.
        rate: compression rate, the share of FLOPs to remove, in (0, 1).
        method: name of the method, one of `METHODS`.
        tokenizer: the model's; by default the sample's, or the one found beside the model.
        progress: whether to show a progress bar.
        options: the other fields of `Options`.

    Returns:
        The pruned model, an object like the one given, and a report.

    Raises:
        ValueError: for what cannot be pruned, or not like this; the message says why.
    """
    known_options(options)
    if inside := opened(model, options):
        model, sample, tokenizer, options = inside.given(sample, tokenizer, options)
    chosen = Options(rate=rate, method=method, **options)
    with plain_tensors():
        job = prepared(model, sample, chosen, tokenizer, progress)
        with job.state.clock.steps:
            done = list(job.run())
        pruned = job.state.student.model
        pruned.config._attn_implementation = model.config._attn_implementation
        report = _report(job, done)
        _own_weights(pruned, model)
        pruned.tokenizer = tokenizer or job.state.sample.tokenizer
        earlier = getattr(model, "report", None) or {}
        pruned.report = report.to_dict()  # goes with it into its folder
        pruned.report |= {"earlier": earlier} if "method" in earlier else {}
        pruned.report |= {"pieces": earlier["pieces"]} if "pieces" in earlier else {}
        layers = [report.kept[t : t + 2] for t in range(0, len(report.kept), 2)]
        if pruned.config.num_hidden_layers < len(layers):  # whole ones are gone
            layers = [both for both in layers if any(both)]
        as_pruned(pruned, [own for both in layers for own in both])
    return inside.around(pruned) if inside else pruned, report


def _report(job: Job, done: Sequence[Pruned]) -> Report:
    options, state, sample, dense = job.options, job.state, job.state.sample, Encoder(job.model)
    shown = ("gamma", "lam", "mu", "precision", "without", "reuse", "multiple")
    length, student = sample.length, state.student
    report = Report(
        method=options.method,
        rate=0.0 if job.table else options.rate,
        options={name: getattr(options, name) for name in shown},
        seed=sample.seed,
        tokens=sample.tokens,
        samples=len(sample.examples),
        model=origin(job.model),
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
