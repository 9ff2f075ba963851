"""Sublayer-wise pruning: the loop that ties knowledge, mask search, surgery and tuning together."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune import beyond, knowledge
from kprune.competitors.kcm import kcm
from kprune.competitors.kwon import kwon
from kprune.competitors.magnitude import magnitude
from kprune.competitors.random import random
from kprune.encoders import Encoder, Sublayer, advance, view
from kprune.evaluation import fitted, latencies
from kprune.loading import OwnCodeError, load_tokenizer
from kprune.mask_search import search, to_multiple
from kprune.progress import bar, timed
from kprune.report import Report
from kprune.sampling import Batch, Sample, on_device
from kprune.sampling import sample as draw
from kprune.speed import LatencyTable, measure_candidate, measure_latencies
from kprune.states import HiddenStates, give_back_memory
from kprune.surgery import feature_mask, keep_units, sharing_weights
from kprune.tasks import Task, get_task, nearest
from kprune.weight_tuning import NormalEquations, Tuning, gather, gather_head, gather_inputs, kpwt

CORRECTIONS = 3  # candidates timed before the first sublayer is pruned; then one per layer
ENOUGH = 10  # tokens per neuron of the widest layer; with fewer, tuning fits chance
OFF = 0.05  # of the speed-up asked, beyond which the report says so
RECENT = 5  # latest candidates, whose timings correct the budget
FORWARD, BACK_TOO, TUNING = 1, 3, 2  # work on one batch of a sublayer, for the progress bar
TILE = 16  # neurons: products of other widths take longer, and no table foresees by how much


def prune(
    model: PreTrainedModel,
    sample: Sample | Task | str | Sequence[str] | Sequence[tuple[str, str]],
    rate: float = 0.6,
    method: str = "kprune",
    *,
    gamma: float = 2.0,
    lam: float = 0.00025,
    mu: float = 64.0,
    without: str = "",
    reuse: float = 0.0,
    multiple: int | None = None,
    speedup: float | None = None,
    batch_size: int = 32,
    length: int = 128,
    seed: int = 0,
    tokens: int = 100_000,
    tokenizer: PreTrainedTokenizerBase | None = None,
    precision: str = "auto",
    progress: bool = True,
) -> tuple[PreTrainedModel, Report]:
    """Prune a fine-tuned encoder to a FLOPs limit without retraining.

    The work happens on the device that the model is on.

    Args:
        model: the fine-tuned model (the teacher); it is not changed.
        sample: a `Sample`, or what `kprune.sample` draws one from: a task, its name, or texts (for
            a span model pairs of question and context). A task must fit the model's head.
        rate: compression rate, the share of FLOPs to remove, in (0, 1).
        method: name of the method, one of `METHODS`.
        gamma: temperature γ of predictive knowledge.
        lam: λ, the weight of representational against predictive knowledge.
        mu: μ, the weight of heads against neurons.
        without: for an ablation, the ingredients to leave out, of `INGREDIENTS[method]`, with
            commas between them.
        reuse: K-prune measures all scores anew at every sublayer, which is most of its time. With
            a positive number it keeps them until the student has moved by more: the relative
            output errors that tuning leaves (`Tuning.after`), summed over the sublayers pruned
            since. 0.4 takes about two thirds of the time, `math.inf` a third (two measurements).
        multiple: K-prune and K-prune+ keep a multiple of so many neurons in each layer that loses
            any, as matrix units like it; what rounding frees or takes, the layers above get or
            give. None means 16 with `speedup` and 1, no rounding, without.
        speedup: a limit in time in place of `rate`: how many times as fast as the model the pruned
            one shall be on this machine. Latency is measured first (`speed.measure_latencies`),
            at batches of `batch_size` sequences of `length` tokens, again with a candidate of
            each layer, to correct the budget, and at the end.
        batch_size, length: where `speedup` shall hold.
        seed: of the draw, when `sample` is not a `Sample` already.
        tokens: size of the draw, likewise.
        tokenizer: the model's; by default the sample's, or the one found beside the model.
        precision: of the passes that only rank units: "bf16", "full" (the model's own), or "auto",
            bf16 where the hardware multiplies it natively.
        progress: whether to show a progress bar.

    Returns:
        The pruned model and a report.

    Raises:
        ValueError: for a rate outside (0, 1) or a speed-up beyond reach, an unknown method, family
            or precision, bad hyperparameters, weights that are not finite, a task that does not fit
            the model's head, or a sample without labels for a method that needs them.
    """
    check_options(rate, method, gamma, lam, mu, without, reuse, 1 if multiple is None else multiple)
    if speedup is not None and method not in INGREDIENTS:
        raise ValueError(
            f"speedup is a limit for the methods {', '.join(INGREDIENTS)}; {method!r} takes a rate."
        )
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"prune takes a loaded model, then a sample; got a {type(model).__name__} in place of "
            "the model."
        )
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise ValueError(
            f"The model's weight {broken[0]} holds NaN or infinite values; load or fine-tune the "
            "model again."
        )
    view(model)  # refuses an unknown family before any work is done
    if isinstance(sample, (str, Task)):
        sample = fitted(get_task(sample), model)
    if not isinstance(sample, Sample):
        sample = draw(sample, tokenizer or find_tokenizer(model), tokens, seed)
    sample = replace(sample, task=fitted(sample.task, model))
    student = sharing_weights(model).eval()
    encoder = view(student)
    widest = max(encoder.units("FFN"))
    if multiple is None:
        multiple = TILE if speedup is not None and widest > TILE else 1
    if multiple > 1 and multiple > widest:
        raise ValueError(f"multiple is {multiple}, and the widest layer has {widest} neurons.")
    dense = encoder.flops(sample.length)
    table = None
    if speedup is not None:
        table = measure_latencies(model, batch_size, length, progress=progress)
        table.budget(speedup)  # refuses what is beyond reach
        rate = 0.0
    report = Report(
        method=method,
        rate=rate,
        options={
            "gamma": gamma,
            "lam": lam,
            "mu": mu,
            "precision": precision,
            "without": without,
            "reuse": reuse,
            "multiple": multiple,
        },
        seed=sample.seed,
        tokens=sample.tokens,
        samples=len(sample.examples),
        length=sample.length,
        dense_flops=dense,
        limit=(1 - rate) * dense * (1 + 1e-12),  # sums of many units round; an exact fit fits
        dense_parameters=student.num_parameters(),
        dense_heads=encoder.units("MHA"),
        dense_neurons=encoder.units("FFN"),
    )
    if table is None:
        METHODS[method](view(model), encoder, sample, report, progress)
    else:
        report.speed = {"asked": speedup, "batch_size": batch_size, "length": length}
        METHODS[method](view(model), encoder, sample, report, progress, table)
        report.speed["predicted"] = table.whole / table.predict(
            [s.units for s in encoder.sublayers]
        )
        found = latencies({"dense": model, "pruned": student}, batch_size, length, 15, quiet=True)
        report.speed["measured"] = found["dense"] / found["pruned"]
        if abs(report.speed["measured"] / speedup - 1) > OFF:
            report.notes.append(
                f"{report.speed['measured']:.2f} times as fast is more than {OFF:.0%} off the "
                f"{speedup:g} asked: candidates were timed on a busy machine, or what is left to "
                "choose from takes too large steps; try again, or ask for a little more or less"
            )
    if earlier := getattr(model.config, "kprune", None):  # units keep their first numbers
        report.kept = [
            [names[unit] for unit in units]
            for names, units in zip(earlier["kept"], report.kept, strict=True)
        ]
    report.flops = encoder.flops(sample.length)
    report.parameters = student.num_parameters()
    report.heads, report.neurons = encoder.units("MHA"), encoder.units("FFN")
    if report.tuning and sample.tokens < ENOUGH * max(report.neurons):
        report.notes.append(
            f"{sample.tokens:,} tokens are fewer than {ENOUGH} for each of the "
            f"{max(report.neurons):,} neurons left in the widest layer: tuning may fit chance; "
            "take a larger sample"
        )
    for pruned, original in zip(student.parameters(), model.parameters(), strict=True):
        if pruned.data_ptr() == original.data_ptr():
            pruned.data = pruned.data.clone()
        pruned.requires_grad_(original.requires_grad)
    student.tokenizer = tokenizer or sample.tokenizer
    student.config.kprune = {"kept": report.kept}
    return student, report


def check_options(
    rate: float = 0.6,
    method: str = "kprune",
    gamma: float = 2.0,
    lam: float = 0.00025,
    mu: float = 64.0,
    without: str = "",
    reuse: float = 0.0,
    multiple: int = 1,
) -> None:
    """Raise ValueError, in one sentence, when an argument of `prune` makes no sense."""
    if isinstance(rate, str) or not 0 < rate < 1:
        raise ValueError(
            f"rate is the share of FLOPs to remove (60% is 0.6) and lies between 0 and 1; got "
            f"{rate!r}."
        )
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}; {nearest(method, METHODS)}")
    if not (0 < gamma < math.inf and 0 <= lam < math.inf and 0 < mu < math.inf):
        raise ValueError(
            f"gamma and mu must be positive and lam not negative, all finite; got gamma={gamma}, "
            f"lam={lam}, mu={mu}."
        )
    known = INGREDIENTS.get(method, ())
    if without and not {name.strip() for name in without.split(",")} <= {*known}:
        raise ValueError(
            f"without names ingredients of the method, with commas between them: {without!r} is "
            f"not among those of {method!r} ({', '.join(known) or 'it has none'})."
        )
    if not reuse >= 0 or (reuse and not known):
        raise ValueError(
            f"reuse is the error up to which the methods {', '.join(INGREDIENTS)} keep their "
            f"scores, at least 0; got {reuse} for {method!r}."
        )
    if reuse and "tuning" in without:
        raise ValueError(
            "reuse goes by the errors that tuning leaves; leave it out where without names tuning."
        )
    if multiple != int(multiple) or multiple < 1 or (multiple > 1 and not known):
        raise ValueError(
            f"multiple is the number of neurons to round to, a whole number of at least 1, for the "
            f"methods {', '.join(INGREDIENTS)}; got {multiple} for {method!r}."
        )


@torch.no_grad()
def kprune(
    teacher: Encoder,
    student: Encoder,
    sample: Sample,
    report: Report,
    progress: bool = True,
    table: LatencyTable | None = None,
) -> None:
    """K-prune, as the paper has it: measure, search, prune and tune, one sublayer after the other.

    Hidden states of teacher and student are kept at the target sublayer only, so that no lower
    sublayer runs twice and nothing grows with their number. Where the ranking passes run in
    bfloat16, so do the teacher's; the student's features, the sums and the solves do not.

    Faithful to the paper's weakness, too: at the first sublayer the student still is the teacher,
    so its predictive score is exactly zero and representational knowledge alone ranks (see
    `knowledge.importance`).

    For the ablation, the option `without` leaves one ingredient out. Without "sublayerwise" all
    masks come from one search at the first sublayer, where representational knowledge alone ranks.

    Args:
        teacher: the uncompressed model.
        student: a copy of it, pruned in place.
        sample: the sample dataset.
        report: gives the limit and the hyperparameters; receives what was kept and how it went.
        progress: whether to show a progress bar.
        table: for a limit in seconds, `report.speed["asked"]`, in place of FLOPs.
    """
    options = {name: report.options[name] for name in ("gamma", "lam", "mu")}
    without = left_out(report)
    if "representational" in without:
        options["lam"] = 0.0
    _sublayerwise(
        teacher,
        student,
        sample,
        report,
        progress,
        table,
        partial(knowledge.importance, **options, predictive="predictive" not in without),
        first=FORWARD,  # needs no gradient
        refit=(),
    )


@torch.no_grad()
def kprune_plus(
    teacher: Encoder,
    student: Encoder,
    sample: Sample,
    report: Report,
    progress: bool = True,
    table: LatencyTable | None = None,
) -> None:
    """K-prune+: K-prune's loop with `beyond.Importance` and more refits; arguments as in `kprune`.

    No hyperparameter is left to tune: γ softens the teacher's distribution as in the paper, λ and μ
    are used only where the option `without` leaves "scale" out.
    """
    options = {name: report.options[name] for name in ("gamma", "lam", "mu")}
    without = left_out(report)
    _sublayerwise(
        teacher,
        student,
        sample,
        report,
        progress,
        table,
        beyond.Importance(**options, without=without, seed=report.seed),
        first=BACK_TOO * (1 if "elimination" in without else 2),
        refit=[name for name in beyond.REFIT if name not in without],
    )


def left_out(report: Report) -> list[str]:
    """The ingredients that the option `without` names."""
    return [name.strip() for name in report.options["without"].split(",") if name.strip()]


def _sublayerwise(
    teacher: Encoder,
    student: Encoder,
    sample: Sample,
    report: Report,
    progress: bool,
    table: LatencyTable | None,
    importance: Callable[..., list[Tensor]],
    first: int,
    refit: Sequence[str],
) -> None:
    """The loop of both methods, with the scores of either; tuning's `refit` of `beyond.REFIT`.

    `first` is the work of the first measurement, per sublayer and batch, for the progress bar.
    """
    without, reuse, multiple = left_out(report), report.options["reuse"], report.options["multiple"]
    dtype = knowledge.ranking_dtype(report.options["precision"], student.model)
    parts = on_device(sample, student.model.device)
    student_hidden, teacher_hidden = (
        HiddenStates(
            parts,
            student.model.config.hidden_size,
            student.model.device,
            student.model.dtype,
            stored=torch.float16 if dtype else None,
        )
        for _ in range(2)
    )
    for number, batch in enumerate(parts):
        student_hidden[number] = teacher_hidden[number] = student.embed(batch.inputs)
    teacher_logits: list[Tensor] = []
    budget, count = report.limit, len(student.sublayers)
    if table:
        budget = table.budget(report.speed["asked"])
    work = [(BACK_TOO if t else first) * (count - t) for t in range(count)]
    steps = bar((sum(work) + TUNING * count) * len(parts), "pruning", progress)
    masks: list[Tensor] = []
    scores: list[Tensor] = []
    moved = 0.0  # since the scores were measured
    factors: list[float] = []  # by which timed candidates were slower than the table's sums
    with steps:
        for t, target in enumerate(student.sublayers):
            where = f"{target.kind} of layer {target.layer + 1}"
            # Without reuse always, even where tuning left no error or was left out. At the second
            # sublayer, too: the teacher's own gradient is zero, and not worth keeping.
            stale = reuse == 0 or t == 1 or moved > reuse
            again = t == 0 or ("sublayerwise" not in without and stale)
            if again:
                steps.set_postfix_str(f"{where}: measuring")
                with timed(report.seconds, "knowledge"):
                    scores = importance(
                        student,
                        t,
                        student_hidden,
                        parts,
                        teacher_logits,
                        sample.task,
                        sample.length,
                        dtype=dtype,
                        tick=lambda share=1.0, t=t: steps.update(share * work[t]),
                    )
                if table:  # per second in place of per FLOP
                    scores = [
                        score * (sublayer.unit_flops(sample.length) / table.per_unit(place))
                        for place, (sublayer, score) in enumerate(
                            zip(student.sublayers[t:], scores, strict=True), t
                        )
                    ]
                moved = 0.0
            else:
                steps.update(work[t] * len(parts))
            if t == 0 or "sublayerwise" not in without:
                with timed(report.seconds, "mask search"):
                    find = partial(search, student.sublayers[t:], scores, length=sample.length)
                    masks, threshold = find(budget, seconds=table and table.sublayers[t:])
                if table and (t == 0 or target.kind == "FFN"):
                    steps.set_postfix_str(f"{where}: timing")
                    with timed(report.seconds, "timing"):
                        for _ in range(CORRECTIONS if t == 0 else 1):
                            speed = measure_candidate(
                                table, teacher.model, student.model, masks, multiple
                            )
                            factors.append(table.factor(*speed))
                            # Timings scatter: a median does less. Those of long ago were of
                            # other shapes, and of a machine that was busy otherwise.
                            budget = table.left(
                                report.speed["asked"],
                                statistics.median(factors[-RECENT:]),
                                [sublayer.units for sublayer in student.sublayers[:t]],
                            )
                            masks, threshold = find(budget, seconds=table.sublayers[t:])
            keep, *masks = masks
            if target.kind == "FFN":
                cost = target.unit_flops(sample.length)
                most = int((table.sublayers[t] <= budget).sum()) - 1 if table else budget // cost
                if "sublayerwise" in without:  # what is left is promised to the layers above
                    most = keep.sum()
                keep = to_multiple(keep, scores[0], multiple, int(most))
            scores = scores[1:]
            report.kept.append(keep.nonzero().flatten().tolist())
            report.thresholds.append(threshold)
            keep_units(target, keep)
            if table:
                budget -= table.sublayers[t][target.units].item()
            else:
                budget -= target.units * target.unit_flops(sample.length)
            if "tuning" not in without:
                steps.set_postfix_str(f"{where}: tuning")
                with timed(report.seconds, "tuning"):
                    source, states = teacher.sublayers[t], (teacher_hidden, student_hidden)
                    # At the first sublayer the student's inputs still are the teacher's.
                    if "inputs" in refit and t and target.units:
                        found = tune_inputs(source, target, keep, *states, parts, "ridge" in refit)
                        note_trouble(report, f"inputs of the {where}", found)
                    tuned = tune(source.cast(dtype), target, *states, parts, refit)
                    report.tuning.append(tuned)
                    moved += tuned.after
            with timed(report.seconds, "advancing"):
                advance(target, student_hidden, parts)
            steps.update(TUNING * len(parts))
            give_back_memory()
        if "head" in refit and "tuning" not in without:
            with timed(report.seconds, "tuning"):
                found = tune_head(student, teacher_logits, student_hidden, parts, "ridge" in refit)
                note_trouble(report, "head", found)


@torch.no_grad()
def tune(
    source: Sublayer,
    target: Sublayer,
    teacher_hidden: HiddenStates | list[Tensor],
    student_hidden: Sequence[Tensor],
    parts: Sequence[Batch],
    refit: Sequence[str] = (),
) -> Tuning:
    """KPWT of one pruned sublayer: match the uncompressed model's output at this place.

    Args:
        source: the uncompressed sublayer.
        target: the one that has just been pruned; its projection is replaced.
        teacher_hidden: the teacher's hidden states at the sublayer's input, one per batch; replaced
            by those at its output.
        student_hidden: the student's.
        parts: the batches.
        refit: what goes beyond the paper: "bias" refits the projection's bias as well, "ridge"
            chooses the regularisation on held-out sequences.

    Returns:
        What tuning did.
    """
    bias = "bias" in refit
    equations = gather(
        source,
        target,
        teacher_hidden,
        student_hidden,
        parts,
        bias=bias,
        hold_out="ridge" in refit,
    )
    output = target.output
    if bias:
        return _refit([output], equations)
    tuned, result = kpwt(equations, output.weight.T)
    output.weight.copy_(tuned.T)
    return result


@torch.no_grad()
def tune_inputs(
    source: Sublayer,
    target: Sublayer,
    keep: Tensor,
    teacher_hidden: Sequence[Tensor],
    student_hidden: Sequence[Tensor],
    parts: Sequence[Batch],
    hold_out: bool = False,
) -> Tuning:
    """Refit a pruned sublayer's input projections, so that its units see what the teacher's see.

    The student's hidden states differ from the teacher's by what the sublayers below have lost; the
    part of it that is linear is made up for here, by the least squares of KPWT.

    Args:
        source, target, teacher_hidden, student_hidden, parts: as in `tune`; the teacher stays.
        keep: True at the units that survive in `target`, bool [units of `source`].
        hold_out: choose the regularisation on held-out sequences.

    Returns:
        What tuning did.
    """
    equations = gather_inputs(
        source, target, feature_mask(source, keep), teacher_hidden, student_hidden, parts, hold_out
    )
    return _refit(target.inputs, equations)


@torch.no_grad()
def tune_head(
    student: Encoder,
    teacher_logits: Sequence[Tensor],
    student_hidden: Sequence[Tensor],
    parts: Sequence[Batch],
    hold_out: bool = False,
) -> Tuning:
    """Refit the last projection of a pruned model's head to the teacher's logits.

    Args:
        student: the pruned encoder.
        teacher_logits: of each batch.
        student_hidden: hidden states at the student's head.
        parts: the batches.
        hold_out: choose the regularisation on held-out sequences.

    Returns:
        What tuning did.
    """
    equations = gather_head(student, teacher_logits, student_hidden, parts, hold_out)
    return _refit([student.last], equations)


def _refit(linears: Sequence[nn.Linear], equations: NormalEquations) -> Tuning:
    """KPWT of projections that share their input, side by side and with their biases."""
    tuned, result = kpwt(equations, torch.cat([_with_bias(linear) for linear in linears], 1))
    for linear, part in zip(linears, tuned.chunk(len(linears), 1), strict=True):
        # New ones, since the student's head still is the teacher's own; in the layout that they
        # will have when reloaded, since products of another one differ in their last bits.
        linear.weight = nn.Parameter(part[:-1].T.contiguous(), requires_grad=False)
        linear.bias = nn.Parameter(part[-1].clone(), requires_grad=False)
    return result


def note_trouble(report: Report, what: str, tuned: Tuning) -> None:
    """Say in the report where a refit took more than the usual ridge, or gave up."""
    if tuned.trouble:
        report.notes.append(f"{what}: {tuned.trouble}")


def _with_bias(linear: nn.Linear) -> Tensor:
    """Weights and bias as least squares has them: [features + 1, outputs]."""
    return torch.cat([linear.weight.T, linear.bias[None]])


METHODS: dict[str, Callable[[Encoder, Encoder, Sample, Report, bool], None]] = {
    "kprune": kprune,
    "kprune+": kprune_plus,
    "kwon": kwon,
    "kcm": kcm,
    "magnitude": magnitude,
    "random": random,
}
# What a method can do without, for an ablation; these methods take a limit in time, too.
INGREDIENTS = {
    "kprune": ("predictive", "representational", "sublayerwise", "tuning"),
    "kprune+": (*beyond.INGREDIENTS, *beyond.REFIT, "sublayerwise", "tuning"),
}


def find_tokenizer(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer that travels with a model: its own attribute, or the one beside its weights.

    Raises:
        ValueError: when there is none.
    """
    if getattr(model, "tokenizer", None) is not None:
        return model.tokenizer
    try:
        return load_tokenizer(model.name_or_path)
    except OwnCodeError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"No tokenizer found beside the model ({model.name_or_path or 'no name'}); pass "
            "tokenizer=AutoTokenizer.from_pretrained(...)."
        ) from error
