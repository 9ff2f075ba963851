"""Sublayer-wise pruning: the loop that ties knowledge, mask search, surgery and tuning together."""

import copy
import ctypes
import difflib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kprune import knowledge
from kprune.encoders import Encoder, view
from kprune.mask_search import kpms
from kprune.progress import bar
from kprune.sampling import Batch, Sample, batches
from kprune.sampling import sample as draw
from kprune.surgery import keep_units
from kprune.tasks import Task
from kprune.weight_tuning import NormalEquations, Tuning, kpwt


@dataclass
class Report:
    """What pruning did, in plain numbers.

    Attributes:
        method: the method's name.
        rate: the compression rate asked for, the share of FLOPs to remove.
        options: the method's hyperparameters.
        seed, tokens, samples: of the sample dataset.
        length: tokens per sequence that FLOPs are counted at.
        dense_flops, flops, limit: FLOPs per sequence before and after, and the most allowed.
        dense_parameters, parameters: of the whole model, embeddings included.
        heads, neurons: surviving units of each layer.
        kept: numbers of the surviving units of each sublayer, from 0, as in the dense model.
        thresholds: ν of the mask search at each target sublayer.
        tuning: what weight-tuning did at each sublayer.
        seconds: wall-clock time of each step.
    """

    method: str
    rate: float
    options: dict[str, Any]
    seed: int
    tokens: int
    samples: int
    length: float
    dense_flops: float
    limit: float
    dense_parameters: int
    flops: float = 0.0
    parameters: int = 0
    heads: list[int] = field(default_factory=list)
    neurons: list[int] = field(default_factory=list)
    kept: list[list[int]] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)
    tuning: list[Tuning] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def achieved_rate(self) -> float:
        """The share of FLOPs that is gone; at least `rate`."""
        return 1 - self.flops / self.dense_flops

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {**asdict(self), "achieved_rate": self.achieved_rate}

    def __str__(self) -> str:
        lines = [
            f"{self.method} at rate {self.rate:g}: {self.flops / 1e6:,.1f} of "
            f"{self.dense_flops / 1e6:,.1f} MFLOPs per sequence left "
            f"({self.achieved_rate:.1%} gone), {self.parameters / 1e6:.1f}M of "
            f"{self.dense_parameters / 1e6:.1f}M parameters",
            f"surviving heads per layer:   {self.heads}",
            f"surviving neurons per layer: {self.neurons}",
            "seconds: " + ", ".join(f"{step} {spent:.1f}" for step, spent in self.seconds.items()),
        ]
        lines += [
            f"sublayer {t + 1}: the least-squares system was ill-conditioned; {tuned.status} "
            f"(ridge {tuned.ridge:g})"
            for t, tuned in enumerate(self.tuning)
            if tuned.status in ("stiffened", "untuned")
        ]
        return "\n".join(lines)


def prune(
    model: PreTrainedModel,
    sample: Sample | Task | str | Sequence[str] | Sequence[tuple[str, str]],
    rate: float = 0.6,
    method: str = "kprune",
    *,
    gamma: float = 2.0,
    lam: float = 0.00025,
    mu: float = 64.0,
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
        seed: of the draw, when `sample` is not a `Sample` already.
        tokens: size of the draw, likewise.
        tokenizer: the model's; by default the sample's, or the one found beside the model.
        precision: of the passes that only rank units: "bf16", "full" (the model's own), or "auto",
            bf16 where the hardware multiplies it natively.
        progress: whether to show a progress bar.

    Returns:
        The pruned model and a report.

    Raises:
        ValueError: for a rate outside (0, 1), an unknown method, family or precision, bad
            hyperparameters, or weights that are not finite.
    """
    if not 0 < rate < 1:
        raise ValueError(
            f"rate is the share of FLOPs to remove and lies between 0 and 1; got {rate}."
        )
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1) or sorted(METHODS)
        raise ValueError(f"There is no method {method!r}; did you mean {near[0]!r}?")
    if not (0 < gamma < math.inf and 0 <= lam < math.inf and 0 < mu < math.inf):
        raise ValueError(
            f"gamma and mu must be positive and lam not negative, all finite; got gamma={gamma}, "
            f"lam={lam}, mu={mu}."
        )
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise ValueError(f"The model's weight {broken[0]} holds NaN or infinite values.")
    view(model)  # refuses an unknown family before any work is done
    if not isinstance(sample, Sample):
        sample = draw(sample, tokenizer or find_tokenizer(model), tokens, seed)
    student = copy.deepcopy(model).eval().requires_grad_(False)
    encoder = view(student)
    dense = encoder.flops(sample.length)
    report = Report(
        method=method,
        rate=rate,
        options={"gamma": gamma, "lam": lam, "mu": mu, "precision": precision},
        seed=sample.seed,
        tokens=sample.tokens,
        samples=len(sample.examples),
        length=sample.length,
        dense_flops=dense,
        limit=(1 - rate) * dense,
        dense_parameters=student.num_parameters(),
    )
    METHODS[method](view(model), encoder, sample, report, progress)
    if earlier := getattr(model.config, "kprune", None):  # units keep their first numbers
        report.kept = [
            [names[unit] for unit in units]
            for names, units in zip(earlier["kept"], report.kept, strict=True)
        ]
    report.flops = encoder.flops(sample.length)
    report.parameters = student.num_parameters()
    report.heads = [sub.units for sub in encoder.sublayers if sub.kind == "MHA"]
    report.neurons = [sub.units for sub in encoder.sublayers if sub.kind == "FFN"]
    for pruned, original in zip(student.parameters(), model.parameters(), strict=True):
        pruned.requires_grad_(original.requires_grad)
    student.tokenizer = tokenizer or sample.tokenizer
    student.config.kprune = {"kept": report.kept}
    return student, report


@torch.no_grad()
def kprune(
    teacher: Encoder, student: Encoder, sample: Sample, report: Report, progress: bool = True
) -> None:
    """K-prune, as the paper has it: measure, search, prune and tune, one sublayer after the other.

    Hidden states of teacher and student are kept at the target sublayer only, so that no lower
    sublayer runs twice and nothing grows with their number.

    Faithful to the paper's weakness, too: at the first sublayer the student still is the teacher,
    so its predictive score is exactly zero and representational knowledge alone ranks (see
    `knowledge.importance`).

    Args:
        teacher: the uncompressed model.
        student: a copy of it, pruned in place.
        sample: the sample dataset.
        report: gives the limit and the hyperparameters; receives what was kept and how it went.
        progress: whether to show a progress bar.
    """
    device = student.model.device
    options = {name: report.options[name] for name in ("gamma", "lam", "mu")}
    dtype = ranking_dtype(report.options["precision"], student.model)
    size = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    parts = [
        batch.to(device)
        for batch in batches(sample.examples, sample.tokenizer.pad_token_id, max_tokens=size)
    ]
    student_hidden = [student.embed(batch.inputs) for batch in parts]
    teacher_hidden = list(student_hidden)
    teacher_logits: list[Tensor] = []
    budget, count = report.limit, len(student.sublayers)
    # Units of work per batch: a sublayer forward 1, forward and backward 3, tuning 2. The first
    # pass needs no gradient.
    work = [(3 if t else 1) * (count - t) for t in range(count)]
    steps = bar((sum(work) + 2 * count) * len(parts), "pruning", progress)
    with steps:
        for t in range(count):
            target = student.sublayers[t]
            steps.set_postfix_str(f"{target.kind} of layer {target.layer + 1}: measuring")
            with _timed(report.seconds, "knowledge"):
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
                )
            with _timed(report.seconds, "mask search"):
                keep, threshold = search(student, t, scores, budget, sample.length)
            report.kept.append(keep.nonzero().flatten().tolist())
            report.thresholds.append(threshold)
            keep_units(target, keep)
            budget -= target.units * target.unit_flops(sample.length)
            steps.set_postfix_str(f"{target.kind} of layer {target.layer + 1}: tuning")
            with _timed(report.seconds, "tuning"):
                report.tuning.append(
                    tune(teacher, student, t, teacher_hidden, student_hidden, parts)
                )
            with _timed(report.seconds, "advancing"):
                for number, batch in enumerate(parts):
                    for encoder, hidden in ((teacher, teacher_hidden), (student, student_hidden)):
                        x, sublayer = hidden[number], encoder.sublayers[t]
                        hidden[number] = sublayer.finish(x, sublayer.features(x, batch.mask))
                    steps.update(2)
            _give_back_memory()


# Tokens per batch: enough to keep the device busy, few enough that activations stay small.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}

METHODS: dict[str, Callable[[Encoder, Encoder, Sample, Report, bool], None]] = {"kprune": kprune}


def search(
    encoder: Encoder, start: int, scores: Sequence[Tensor], budget: float, length: float
) -> tuple[Tensor, float]:
    """KPMS over sublayer `start` and all above it, of which only the target's mask is returned.

    Args:
        encoder: the student.
        start: number of the target sublayer, from 0.
        scores: importance of the units of each sublayer from the target up.
        budget: FLOPs left for them.
        length: tokens per sequence that FLOPs are counted at.

    Returns:
        The target's mask, bool [units], and the threshold ν.
    """
    costs = [
        torch.full_like(score, sublayer.unit_flops(length))
        for score, sublayer in zip(scores, encoder.sublayers[start:], strict=True)
    ]
    mask, threshold = kpms(torch.cat(list(scores)), torch.cat(costs), budget)
    return mask[: len(scores[0])], threshold


@torch.no_grad()
def tune(
    teacher: Encoder,
    student: Encoder,
    t: int,
    teacher_hidden: Sequence[Tensor],
    student_hidden: Sequence[Tensor],
    parts: Sequence[Batch],
) -> Tuning:
    """KPWT of one sublayer: match the uncompressed model's output X_T + Sub_T(X_T) at this place.

    The target of the least squares is Y = X_T + Sub_T(X_T) − X_S − b over real tokens; the bias b
    stays as it is (equations 10 and 11 of the paper).

    Args:
        teacher: the uncompressed model.
        student: the model whose sublayer `t` has just been pruned; its projection is replaced.
        t: number of the sublayer, from 0.
        teacher_hidden: the teacher's hidden states at the sublayer's input, one per batch.
        student_hidden: the student's.
        parts: the batches.

    Returns:
        What tuning did.
    """
    source, target = teacher.sublayers[t], student.sublayers[t]
    equations = NormalEquations.zeros(
        target.output.in_features, target.output.out_features, target.output.weight.device
    )
    for x_teacher, x_student, batch in zip(teacher_hidden, student_hidden, parts, strict=True):
        full = x_teacher + source.output(source.features(x_teacher, batch.mask))
        wanted = full - x_student - target.output.bias
        features = target.features(x_student, batch.mask)
        real = slice(None) if batch.mask is None else batch.mask.flatten()
        equations.add(features.flatten(0, 1)[real], wanted.flatten(0, 1)[real])
    tuned, result = kpwt(equations, target.output.weight.T)
    target.output.weight.copy_(tuned.T)
    return result


def ranking_dtype(precision: str, model: PreTrainedModel) -> torch.dtype | None:
    """The autocast type of the passes that only rank units; None for the model's own.

    Raises:
        ValueError: for another word than "auto", "bf16" or "full".
    """
    if precision not in ("auto", "bf16", "full"):
        raise ValueError(f'precision is "auto", "bf16" or "full"; got {precision!r}.')
    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if model.device.type == "cuda"
            else torch.cpu.get_capabilities().get("amx_bf16", False)
        )
        precision = "bf16" if native and model.dtype == torch.float32 else "full"
    return torch.bfloat16 if precision == "bf16" else None


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


def _give_back_memory() -> None:
    """Have glibc return freed pages: batches of many shapes leave it a gigabyte of holes."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - start
