"""K-prune+: what makes K-prune more accurate without a hyperparameter to tune.

Each ingredient can be left out (see `08_beyond`). Three choose units (`INGREDIENTS`), here:

- "fisher": predictive knowledge as Fisher information, which is not zero where the student still
  equals the teacher;
- "elimination": representational knowledge as the error that remains *after* weight-tuning;
- "scale": both on one scale, shares of their total, in place of λ and μ.

Four tune what is left (`REFIT`), in `pruning.tune`, `tune_inputs` and `tune_head`:

- "ridge": the least squares' regularisation, chosen on held-out sequences of the sample;
- "bias", "inputs", "head": the bias of the output projection, the input projections and the head's
  last projection are refit as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from kprune.encoders import Encoder, Sublayer
from kprune.knowledge import Sums, by_unit, predictive_loss
from kprune.passes import first_only, measurements
from kprune.sampling import Batch
from kprune.tasks import Task

INGREDIENTS = ("fisher", "elimination", "scale")
REFIT = ("ridge", "bias", "inputs", "head")
RIDGE = 1e-4  # of PᵀP's diagonal: which unit goes next must not hang on rounding
CHUNK = 16  # a sixteenth of the neurons that are left goes at a time
SEEDS = 1_000_003  # batches, at most, between the probes of one seed and those of the next


def fisher_probe(
    logits: Tensor,
    teacher: Tensor,
    kind: str,
    gamma: float,
    mask: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """A random direction in the outputs whose squared gradients average to Fisher information.

    With p = softmax(z_T/γ) and signs ε = ±1 the direction is √p·ε − p·(√p·ε), whose second moment
    is diag(p) − p·pᵀ: the curvature of γ² · KL(p ‖ softmax(z/γ)) at z = z_T. One pass back gives
    every sample's information, whatever the number of classes, and it is not zero there, as the
    gradient of KL itself is. Start and end of a span are two such distributions, the output of a
    regression is its own direction.

    Args:
        logits: outputs z, [batch, labels], or [batch, length, 2] for spans; differentiated.
        teacher: outputs z_T of the teacher, of the same shape.
        kind: "classification", "regression" or "span".
        gamma: temperature γ.
        mask: True at real tokens, bool [batch, length]; used for spans only.
        generator: of the signs, on the CPU.

    Returns:
        One number per sample, [batch], linear in `logits`.
    """
    if kind == "regression":
        return logits.flatten(1).sum(1)
    if kind == "span":
        if mask is not None:
            teacher = teacher.masked_fill(~mask[..., None], -1e4)
        logits, teacher = logits.transpose(1, 2), teacher.transpose(1, 2)  # [batch, 2, length]
    p = torch.softmax(teacher / gamma, -1)
    signs = torch.randint(0, 2, p.shape, generator=generator).to(p) * 2 - 1
    root = p.sqrt() * signs
    direction = root - p * root.sum(-1, keepdim=True)
    probed = (direction * logits).sum(-1)  # [batch] or [batch, 2]
    return probed.sum(1) / 2**0.5 if kind == "span" else probed


@torch.no_grad()
def elimination_errors(
    encoder: Encoder,
    embedded: Sequence[Tensor],
    batches: Sequence[Batch],
    task: Task,
    tick: Callable[[], object] = lambda: None,
) -> list[Tensor]:
    """What each unit of a model still costs when the units left make up for it as well as they can.

    For every sublayer, backward elimination on its output: the unit goes whose loss the others can
    best replace by least squares, and its score is by how much the error has grown. Errors are
    relative to the variance of X + P·W, which the LayerNorm divides by, so that those of all
    sublayers compare. The sums PᵀP are of the model as it is, in one pass; of a classifier's last
    layer, over the first token of each sequence, which is all that the head reads, where there are
    more sequences than features. (Tuning fits all tokens there, too.)

    Args:
        encoder: the dense model.
        embedded: hidden states at the input of the first sublayer, one [batch, length, d] per
            batch.
        batches: the sample's batches.
        task: gives the kind of prediction.
        tick: called after each batch.

    Returns:
        Error of each unit, float64 [units], for each sublayer.
    """
    outputs = [sublayer.output for sublayer in encoder.sublayers]
    kept = [
        torch.zeros(out.in_features, out.in_features, device=out.weight.device) for out in outputs
    ]
    variance = [torch.zeros((), device=out.weight.device) for out in outputs]
    sequences = sum(len(batch.index) for batch in batches)
    read = [
        slice(1) if first and sequences > out.in_features else slice(None)
        for first, out in zip(first_only(encoder.sublayers, task), outputs, strict=True)
    ]
    for x, batch in zip(embedded, batches, strict=True):
        real = x.new_ones(x.shape[:2]) if batch.mask is None else batch.mask.to(x.dtype)
        for sublayer, some, gram, total in zip(
            encoder.sublayers, read, kept, variance, strict=True
        ):
            features = sublayer.features(x, batch.mask)
            summed = x + sublayer.output(features)
            rows = (features[:, some] * real[:, some, None]).flatten(0, 1)
            gram += rows.T @ rows
            total += (summed[:, some].var(-1) * real[:, some]).sum()
            x = sublayer.norm(summed)
        tick()
    errors = []
    for sublayer, total in zip(encoder.sublayers, variance, strict=True):
        weight = sublayer.output.weight.T.double()
        errors.append(eliminate(kept.pop(0).double(), weight, sublayer.unit_size) / total)
    return errors


def eliminate(gram: Tensor, weight: Tensor, unit_size: int) -> Tensor:
    """Backward elimination of a least-squares problem, all units to the end.

    With C = (PᵀP)⁻¹, dropping the features u and refitting the others raises ‖P·W − P′·W′‖² by
    tr(W_uᵀ C_uu⁻¹ W_u), changes W by −C_·u C_uu⁻¹ W_u, and C by −C_·u C_uu⁻¹ C_u·. Heads go one by
    one. Neurons go by sixteenths of those left, which is several times as fast and not exact: two
    that could replace each other may leave in the same step, and share its growth.

    Args:
        gram: PᵀP, float64 [features, features].
        weight: W, float64 [features, d].
        unit_size: features of a unit.

    Returns:
        The growth of the squared error with each unit, float64 [units]; of units that go later,
        never less than the mean of an earlier step.
    """
    units = len(gram) // unit_size
    found = gram.new_zeros(units)
    if not units:
        return found
    diagonal = gram.diagonal()
    scale = diagonal.clamp(min=1e-9 * diagonal.mean()).clamp(min=1e-30)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + (RIDGE * scale).diag()))
    alive = torch.arange(units, device=gram.device)
    own, least = torch.arange(unit_size, device=gram.device), 0.0
    while len(alive):
        # What is gone is cut off: later steps are smaller.
        blocks = inverse.unflatten(0, (-1, unit_size)).unflatten(2, (-1, unit_size))
        blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # C_uu of each unit
        rows = weight.unflatten(0, (-1, unit_size))
        growth = (torch.linalg.solve(blocks, rows) * rows).sum((1, 2))
        count = 1 if unit_size > 1 else -(-len(alive) // CHUNK)
        first = growth.topk(count, largest=False).indices
        gone = (first[:, None] * unit_size + own).flatten()
        change = torch.linalg.solve(inverse[gone][:, gone], weight[gone])
        # Units that go together: their joint growth, shared out as their own ones are.
        joint = (change * weight[gone]).sum().item()
        shares = growth[first] / growth[first].sum().clamp(min=1e-300) * joint
        found[alive[first]] = shares.clamp(min=least)
        least = max(least, joint / count)
        stay = torch.ones(len(alive), dtype=torch.bool, device=gram.device)
        stay[first] = False
        left = stay.repeat_interleave(unit_size)
        across = inverse[left][:, gone]
        weight = weight[left] - across @ change
        solved = torch.linalg.solve(inverse[gone][:, gone], across.T)
        inverse = inverse[left][:, left] - across @ solved
        alive = alive[stay]
    return found


@dataclass
class Importance:
    """Importance per FLOP of every unit in a sublayer and above, as K-prune+ has it.

    S = (F / ΣF + E / ΣE) / FLOPs of the unit: F is the Fisher information of its mask variable (per
    sample, under the teacher's distribution), E its error after tuning, both as shares of what all
    units that still compete have together. A head is one unit, its features' gradients summed.

    Attributes:
        gamma: temperature γ of the teacher's distribution.
        lam, mu: λ and μ of the paper, used only without "scale".
        without: ingredients to leave out. Without "fisher" the paper's gradients of K_pred stand in
            (nothing at the first sublayer), without "elimination" its S_rep.
        seed: of the probes' signs.
        errors: E of every sublayer, found in the dense model at the first call.
    """

    gamma: float = 2.0
    lam: float = 0.00025
    mu: float = 64.0
    without: Sequence[str] = ()
    seed: int = 0
    errors: list[Tensor] = field(default_factory=list)

    def __call__(
        self,
        encoder: Encoder,
        start: int,
        hidden: Sequence[Tensor],
        batches: Sequence[Batch],
        teacher: list[Tensor],
        task: Task,
        length: float,
        dtype: torch.dtype | None = None,
        tick: Callable[..., object] = lambda share=1.0: None,
    ) -> list[Tensor]:
        """Scores [units] of sublayers `start` … 2L − 1; arguments as in `knowledge.importance`.

        The first call, with `teacher` empty, is at the first sublayer: it fills `teacher`. `tick`
        is called after each batch, with the share of the work on it that is done.
        """
        sublayers = encoder.sublayers[start:]
        if not teacher and "elimination" not in self.without:
            tick = partial(tick, 0.5)
            self.errors = elimination_errors(encoder, hidden, batches, task, tick)
        predictive, energies = self.knowledge(
            encoder, start, hidden, batches, teacher, task, dtype, tick
        )
        representational = energies if "elimination" in self.without else self.errors[start:]
        weights = self._weights(sublayers, predictive, representational)
        return [
            (weight * lost + other * error) / sublayer.unit_flops(length)
            for sublayer, (weight, other), lost, error in zip(
                sublayers, weights, predictive, representational, strict=True
            )
        ]

    def _weights(
        self, sublayers: Sequence[Sublayer], *parts: Sequence[Tensor]
    ) -> list[tuple[float | Tensor, ...]]:
        """Factors of the two scores in each sublayer."""
        if "scale" in self.without:  # the paper's: means over a head's features, λ and μ
            kinds = [(self.mu if s.kind == "MHA" else 1.0) / s.unit_size for s in sublayers]
            return [(kind, self.lam * kind) for kind in kinds]
        totals = [sum(score.sum() for score in part) for part in parts]
        return [tuple(1 / total.clamp(min=1e-300) for total in totals)] * len(sublayers)

    def knowledge(
        self,
        encoder: Encoder,
        start: int,
        hidden: Sequence[Tensor],
        batches: Sequence[Batch],
        teacher: list[Tensor],
        task: Task,
        dtype: torch.dtype | None = None,
        tick: Callable[[], object] = lambda: None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """F of the units from sublayer `start` up, and the paper's S_rep summed over a unit."""
        same, sublayers = not teacher, encoder.sublayers[start:]
        sums = Sums(sublayers, batches, task.minibatch)
        fisher = [
            squares.new_zeros(sublayer.units)
            for sublayer, squares in zip(sublayers, sums.squares, strict=True)
        ]
        if same:
            teacher.extend(torch.empty(0) for _ in batches)

        def loss(number: int, logits: Tensor) -> Tensor:
            # Batches are in work side by side: nothing here may depend on which comes first.
            if same:
                teacher[number] = logits.detach()
            options = task.kind, self.gamma, batches[number].mask
            if "fisher" in self.without:
                return predictive_loss(logits, teacher[number], *options)
            generator = torch.Generator().manual_seed(SEEDS * self.seed + number)
            return fisher_probe(logits, teacher[number], *options, generator)

        passes = measurements(encoder, sublayers, hidden, batches, task, dtype, loss)
        for batch, found in zip(batches, passes, strict=True):
            sums.add(batch, found)
            for total, sublayer, own in zip(fisher, sublayers, found.gradients, strict=True):
                total += by_unit(sublayer, own.double()).square().sum(0)
            tick()
        if "fisher" in self.without:
            predictive = _summed(sublayers, sums.predictive())
        else:
            predictive = [total / (2 * sums.samples) for total in fisher]
        return predictive, _summed(sublayers, sums.representational())


def _summed(sublayers: Sequence[Sublayer], means: Sequence[Tensor]) -> list[Tensor]:
    """Scores that are means over a unit's features, as sums over them."""
    return [sub.unit_size * mean for sub, mean in zip(sublayers, means, strict=True)]
