"""`prune` and `steps`: a method, a limit and a sample, put together and run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.checks import check_model
from kprune.classes import is_own
from kprune.data.tasks import Task, get_task
from kprune.data.tokens import check_same_words, check_tokenizer
from kprune.description import check_described
from kprune.encoders import Encoder
from kprune.engine.as_found import plain_tensors
from kprune.engine.devices import ranking_dtype
from kprune.engine.progress import Clock, bar
from kprune.engine.sharing import sharing_weights
from kprune.families import BUILT_IN, family_of
from kprune.family_check import check_class, check_family
from kprune.finishing import finished
from kprune.inputs import checked, longest
from kprune.limits.budget import Budget, Flops, Seconds, most
from kprune.limits.table import LatencyTable, measure_latencies
from kprune.measuring import BACK_TOO
from kprune.methods import LABELS_NEEDED, METHODS, copies
from kprune.options import Options, known_options
from kprune.outputs import pooled
from kprune.report import Report
from kprune.sampling import Sample, find_tokenizer, fitted
from kprune.sampling import sample as draw
from kprune.sentences import opened
from kprune.state import Pruned, State

Drawn = Sample | Task | str | Sequence[str] | Sequence[tuple[str, str]]
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
        count, method = len(self.state.student.sublayers), self.options.method
        clock.allot(work(0, count, method) * batches)
        for step in METHODS[method](self.options, self.state, self.budget):
            clock.allot(work(step.t + 1, count, method) * batches)
            yield step
        clock.allot(0)

    def close(self) -> None:
        """Let go of the hidden states: steps and state refer to one another, so that they would
        stay until Python looks for such circles.
        """
        self.state.teacher_hidden = self.state.student_hidden = ()


def work(t: int, count: int, method: str) -> float:
    """Work on a batch at sublayer `t` of `count`, for the bar: measuring, then a few passes.

    Units are measured at the first sublayer, by K-prune at all.
    """
    measuring = BACK_TOO * (count - t) if t == 0 or method == "kprune" else 0
    return measuring + 4 if t < count else 1


def prepared(
    model: PreTrainedModel,
    sample: Drawn,
    options: Options,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool = True,
) -> Job:
    """Check model, sample and options against each other, and set out; arguments as in `prune`."""
    check_model(model)
    own = is_own(type(model))
    if family_of(model.config) not in BUILT_IN:
        check_family(model)
    elif not own:
        check_class(model)
    teacher = Encoder(sharing_weights(model), options.pooling, options.normalize)
    kind = teacher.kind, type(model).__name__
    if isinstance(sample, (str, Task)):
        sample = fitted(get_task(sample), *kind)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    if isinstance(sample, Sample) and tokenizer:
        check_same_words(sample.tokenizer, tokenizer)
    if not isinstance(sample, Sample):
        tokenizer = tokenizer or find_tokenizer(model)
        sample = draw(sample, tokenizer, options.tokens, options.seed, longest=longest(model))
    sample = replace(sample, task=fitted(sample.task, *kind))
    sample = checked(sample, model, teacher.kind, options.method in LABELS_NEEDED)
    options = replace(options, seed=sample.seed)  # one for all that is random, in the report, too
    widest = max(teacher.units("FFN"))
    multiple = options.multiple or (TILE if options.speedup and widest > TILE else 1)
    if multiple > 1 and multiple > widest:
        raise ValueError(f"multiple is {multiple}, and the widest layer has {widest} neurons.")
    options, table = replace(options, multiple=multiple), None
    budget: Budget = Flops(most(1 - options.rate, teacher, sample.length), sample.length)
    if options.speedup:
        table = measure_latencies(model, options.batch_size, options.length, progress=progress)
        budget = Seconds(table, options.speedup, multiple)
    if not own or model.dtype in (torch.float16, torch.bfloat16):  # `to` rounds too much at times
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
    total = sum(work(t, count, options.method) for t in range(count + 1)) * len(state.batches)
    state.clock = Clock(teacher.device, bar(total, "pruning", progress))
    return Job(options, model, state, budget, table)


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
    options = pooled(model) | options
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
    rate: float | Sequence[float] = Options.rate,
    method: str = Options.method,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool = True,
    **options,
) -> tuple[PreTrainedModel, Report] | list[tuple[PreTrainedModel, Report]]:
    """Prune a fine-tuned encoder to a FLOPs limit without retraining.

    The work happens on the device that the model is on.

    Args:
        model: the fine-tuned model (the teacher), or a SentenceTransformer or CrossEncoder with one
            inside; it is not changed.
        sample: a `Sample`, or what `kprune.sample` draws one from: a task, its name, or texts.
        rate: compression rate, the share of FLOPs to remove, in (0, 1); or a list of rates, for a
            family of models, whose units K-prune+ ranks once.
        method: name of the method, one of `METHODS`.
        tokenizer: the model's; by default the sample's, or the one found beside the model.
        progress: whether to show a progress bar.
        options: the other fields of `Options`.

    Returns:
        The pruned model, an object like the one given, and a report; for a list of rates a list of
        such pairs.

    Raises:
        ValueError: for what cannot be pruned, or not like this; the message says why.
    """
    known_options(options)
    if inside := opened(model, options):
        model, sample, tokenizer, options = inside.given(sample, tokenizer, options)
    options = pooled(model) | options
    several = isinstance(rate, list | tuple)
    if several and not rate:
        raise ValueError("rate is a share of FLOPs (60%: 0.6), or a list of them; got none.")
    made, rankings = [], {}
    rates = rate if several else [rate]
    for chosen in [Options(rate=one, method=method, **options) for one in rates]:
        with plain_tensors():
            job = prepared(model, sample, chosen, tokenizer, progress)
            job.state.rankings = rankings  # the same for every rate
            with job.state.clock.steps:
                done = list(job.run())
            pruned, report = finished(job, done)
            pruned.tokenizer = tokenizer or job.state.sample.tokenizer
        sample = job.state.sample  # drawn once
        job.close()
        made.append((inside.around(pruned) if inside else pruned, report))
    return made if several else made[0]
