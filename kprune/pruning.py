"""Sublayer-wise pruning: the loop that ties knowledge, mask search, surgery and tuning together."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kprune import knowledge
from kprune.competitors.kcm import kcm
from kprune.competitors.kwon import kwon
from kprune.competitors.magnitude import magnitude
from kprune.competitors.random import random
from kprune.encoders import Encoder, Sublayer, advance, view
from kprune.mask_search import search
from kprune.progress import bar, timed
from kprune.report import Report
from kprune.sampling import Batch, Sample, on_device
from kprune.sampling import sample as draw
from kprune.states import HiddenStates, give_back_memory
from kprune.surgery import keep_units
from kprune.tasks import Task, nearest
from kprune.weight_tuning import Tuning, gather, kpwt


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
        sample: a `Sample`, or what `kprune.sample` draws one from: a task, its name, or texts.
        rate: compression rate, the share of FLOPs to remove, in (0, 1).
        method: name of the method, one of `METHODS`.
        gamma: temperature γ of predictive knowledge.
        lam: λ, the weight of representational against predictive knowledge.
        mu: μ, the weight of heads against neurons.
        without: for K-prune's ablation, the ingredient to leave out, one of `INGREDIENTS`.
        reuse: K-prune measures all scores anew at every sublayer, which is most of its time. With
            a positive number it keeps them until the student has moved by more: the relative
            output errors that tuning leaves (`Tuning.after`), summed over the sublayers pruned
            since. 0.4 takes about two thirds of the time, `math.inf` a third (two measurements).
        seed: of the draw, when `sample` is not a `Sample` already.
        tokens: size of the draw, likewise.
        tokenizer: the model's; by default the sample's, or the one found beside the model.
        precision: of the passes that only rank units: "bf16", "full" (the model's own), or "auto",
            bf16 where the hardware multiplies it natively.
        progress: whether to show a progress bar.

    Returns:
        The pruned model and a report.

    Raises:
        ValueError: for a rate outside (0, 1) or beyond the method's reach, an unknown method,
            family or precision, bad hyperparameters, weights that are not finite, or a sample
            without labels for a method that needs them.
    """
    check_options(rate, method, gamma, lam, mu, without, reuse)
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise ValueError(f"The model's weight {broken[0]} holds NaN or infinite values.")
    view(model)  # refuses an unknown family before any work is done
    if not isinstance(sample, Sample):
        sample = draw(sample, tokenizer or find_tokenizer(model), tokens, seed)
    student = _sharing_weights(model).eval()
    encoder = view(student)
    dense = encoder.flops(sample.length)
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
        },
        seed=sample.seed,
        tokens=sample.tokens,
        samples=len(sample.examples),
        length=sample.length,
        dense_flops=dense,
        limit=(1 - rate) * dense,
        dense_parameters=student.num_parameters(),
        dense_heads=encoder.units("MHA"),
        dense_neurons=encoder.units("FFN"),
    )
    METHODS[method](view(model), encoder, sample, report, progress)
    if earlier := getattr(model.config, "kprune", None):  # units keep their first numbers
        report.kept = [
            [names[unit] for unit in units]
            for names, units in zip(earlier["kept"], report.kept, strict=True)
        ]
    report.flops = encoder.flops(sample.length)
    report.parameters = student.num_parameters()
    report.heads, report.neurons = encoder.units("MHA"), encoder.units("FFN")
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
) -> None:
    """Raise ValueError, in one sentence, when an argument of `prune` makes no sense."""
    if not 0 < rate < 1:
        raise ValueError(
            f"rate is the share of FLOPs to remove and lies between 0 and 1; got {rate}."
        )
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}; {nearest(method, METHODS)}")
    if not (0 < gamma < math.inf and 0 <= lam < math.inf and 0 < mu < math.inf):
        raise ValueError(
            f"gamma and mu must be positive and lam not negative, all finite; got gamma={gamma}, "
            f"lam={lam}, mu={mu}."
        )
    if without and (method != "kprune" or without not in INGREDIENTS):
        raise ValueError(
            f"without names an ingredient of the method 'kprune', one of {', '.join(INGREDIENTS)}; "
            f"got {without!r} for {method!r}."
        )
    if not reuse >= 0 or (reuse and method != "kprune"):
        raise ValueError(
            "reuse is the error up to which the method 'kprune' keeps its scores, at least 0; got "
            f"{reuse} for {method!r}."
        )


@torch.no_grad()
def kprune(
    teacher: Encoder, student: Encoder, sample: Sample, report: Report, progress: bool = True
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
    """
    options = {name: report.options[name] for name in ("gamma", "lam", "mu")}
    without, reuse = report.options["without"], report.options["reuse"]
    if without == "representational":
        options["lam"] = 0.0
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
    # Units of work per batch: a sublayer forward 1, forward and backward 3, tuning 2. The first
    # pass needs no gradient.
    work = [(3 if t else 1) * (count - t) for t in range(count)]
    steps = bar((sum(work) + 2 * count) * len(parts), "pruning", progress)
    masks: list[Tensor] = []
    scores: list[Tensor] = []
    moved = math.inf  # since the scores were measured
    with steps:
        for t, target in enumerate(student.sublayers):
            where = f"{target.kind} of layer {target.layer + 1}"
            again = t == 0 or (without != "sublayerwise" and moved > reuse)
            if again:
                steps.set_postfix_str(f"{where}: measuring")
                with timed(report.seconds, "knowledge"):
                    scores = knowledge.importance(
                        student,
                        t,
                        student_hidden,
                        parts,
                        teacher_logits,
                        sample.task,
                        sample.length,
                        **options,
                        dtype=dtype,
                        tick=lambda t=t: steps.update(work[t]),
                        predictive=without != "predictive",
                    )
                # The teacher's own gradient is zero: what comes from it is not worth keeping.
                moved = 0.0 if t else math.inf
            else:
                steps.update(work[t] * len(parts))
            if t == 0 or without != "sublayerwise":
                with timed(report.seconds, "mask search"):
                    masks, threshold = search(student.sublayers[t:], scores, budget, sample.length)
            keep, *masks = masks
            scores = scores[1:]
            report.kept.append(keep.nonzero().flatten().tolist())
            report.thresholds.append(threshold)
            keep_units(target, keep)
            budget -= target.units * target.unit_flops(sample.length)
            if without != "tuning":
                steps.set_postfix_str(f"{where}: tuning")
                with timed(report.seconds, "tuning"):
                    tuned = tune(
                        teacher.sublayers[t].cast(dtype),
                        target,
                        teacher_hidden,
                        student_hidden,
                        parts,
                    )
                    report.tuning.append(tuned)
                    moved += tuned.after
            with timed(report.seconds, "advancing"):
                advance(target, student_hidden, parts)
            steps.update(2 * len(parts))
            give_back_memory()


@torch.no_grad()
def tune(
    source: Sublayer,
    target: Sublayer,
    teacher_hidden: HiddenStates | list[Tensor],
    student_hidden: Sequence[Tensor],
    parts: Sequence[Batch],
) -> Tuning:
    """KPWT of one pruned sublayer: match the uncompressed model's output at this place.

    Args:
        source: the uncompressed sublayer.
        target: the one that has just been pruned; its projection is replaced.
        teacher_hidden: the teacher's hidden states at the sublayer's input, one per batch; replaced
            by those at its output.
        student_hidden: the student's.
        parts: the batches.

    Returns:
        What tuning did.
    """
    equations = gather(source, target, teacher_hidden, student_hidden, parts)
    tuned, result = kpwt(equations, target.output.weight.T)
    target.output.weight.copy_(tuned.T)
    return result


METHODS: dict[str, Callable[[Encoder, Encoder, Sample, Report, bool], None]] = {
    "kprune": kprune,
    "kwon": kwon,
    "kcm": kcm,
    "magnitude": magnitude,
    "random": random,
}
# What K-prune can do without, for the paper's ablation.
INGREDIENTS = ("predictive", "representational", "sublayerwise", "tuning")


def find_tokenizer(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer that travels with a model: its own attribute, or the one beside its weights.

    Raises:
        ValueError: when there is none.
    """
    if getattr(model, "tokenizer", None) is not None:
        return model.tokenizer
    try:
        return AutoTokenizer.from_pretrained(model.name_or_path)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"No tokenizer found beside the model ({model.name_or_path or 'no name'}); pass "
            "tokenizer=AutoTokenizer.from_pretrained(...)."
        ) from error


def _sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose parameters are frozen views of the model's; surgery puts new ones in place."""
    shared = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=False)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, shared)
