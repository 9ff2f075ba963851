"""Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers"."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from kprune.encoders import Encoder
from kprune.engine.least_squares import NormalEquations
from kprune.knowledge import GradientSums, by_unit
from kprune.limits.budget import Budget
from kprune.measuring import measured
from kprune.state import Pruned, State
from kprune.sublayerwise import all_at_once
from kprune.surgery import cut
from kprune.weight_tuning import gather_output

DAMP = 1.0
LARGEST_SCALE = 10.0


@torch.no_grad()
def kwon(state: State, budget: Budget) -> Iterator[Pruned]:
    """Fisher mask search, rearrangement within each sublayer, rescaling of the survivors.

    The one method here that needs labels (`inputs.checked` sees to them): the Fisher information is
    of the task's loss. The paper's setting is a sample of 2,048 sequences.
    """
    length, dense = state.sample.length, state.teacher.flops(state.sample.length)
    with state.clock.step("knowledge", "Fisher information"):
        gradients = label_gradients(state)
    with state.clock.step("mask search"):
        scores = [gradient.double().square().sum(0) for gradient in gradients]
        wide = fisher_search(state.student, scores, math.sqrt(budget.left * dense), length)
        narrow = fisher_search(state.student, scores, budget.left, length)
        narrow = [rearrange(*both) for both in zip(narrow, gradients, strict=True)]
    yield from rescaled(state, wide, narrow)


def label_gradients(state: State) -> list[Tensor]:
    """Mask gradients of each minibatch's mean task loss, [minibatches, units] for each sublayer."""
    labels = _padded_labels(state)

    def loss(number: int, outputs: Tensor) -> Tensor:
        return state.kind.loss(outputs, labels[number], state.batches[number].mask)

    sums = GradientSums(state, 0)
    for batch, found in zip(state.batches, measured(state, 0, loss), strict=True):
        sums.add(batch, found)
    return [by_unit(sub, total) for sub, total in zip(sums.sublayers, sums.sums, strict=True)]


def _padded_labels(state: State) -> list[Tensor]:
    """The labels of each batch; those of tokens are padded with −100, which no loss counts."""
    found = []
    for batch in state.batches:
        rows = [state.sample.labels[i] for i in batch.index.tolist()]
        if state.kind.name == "tokens":
            width = batch.inputs["input_ids"].shape[1]
            rows = [[*row, *[-100] * (width - len(row))] for row in rows]
        found.append(torch.tensor(rows, device=state.student.device))
    return found


def fisher_search(
    encoder: Encoder, scores: list[Tensor], budget: float, length: float
) -> list[Tensor]:
    """The best heads and the best neurons, ranked apart over the whole model.

    For every number of heads from 1 up, the rest of the budget (FLOPs at `length` tokens, never
    exceeded) goes to the best neurons; the split with the largest total score is taken.
    """
    orders, costs, gains = [], [], []
    for parity in (0, 1):  # attention, then feed-forward sublayers
        pooled, order = torch.cat(scores[parity::2]).cpu().sort(descending=True)
        orders.append(order)
        costs.append(encoder.sublayers[parity].unit_flops(length))
        gains.append(torch.cat([pooled.new_zeros(1), pooled.cumsum(0)]))
    heads = torch.arange(1, len(gains[0]), device=order.device)  # products of whole numbers and
    costs = torch.tensor(costs, dtype=torch.float64, device=order.device)  # floats take its type
    heads = heads[heads * costs[0] <= budget]
    if len(heads) == 0:
        heads = torch.zeros(1, dtype=torch.int64, device=order.device)
    neurons = ((budget - heads * costs[0]) / costs[1]).long().clamp(max=len(gains[1]) - 1)
    best = int((gains[0][heads] + gains[1][neurons]).argmax())
    masks = list(scores)
    for parity, number in enumerate((heads[best], neurons[best])):
        mask = torch.zeros(len(orders[parity]), dtype=torch.bool, device=order.device)
        mask[orders[parity][: int(number)]] = True
        masks[parity::2] = mask.split([len(score) for score in scores[parity::2]])
    return [mask.to(score.device) for mask, score in zip(masks, scores, strict=True)]


def rearrange(mask: Tensor, gradients: Tensor) -> Tensor:
    """Exchange pruned for kept units of one sublayer where that lowers ‖Σ pruned gradients‖².

    `gradients` are [minibatches, units]. Starts from the lowest-scored units; each further unit, in
    ascending order, joins the pruned set, and the one whose return leaves the smallest norm leaves
    it.
    """
    gone = int((~mask).sum())
    if gone in (0, len(mask)):
        return mask
    vectors = gradients.T.double().cpu()  # one unit at a time: a GPU would mostly wait
    order = vectors.square().sum(1).argsort()
    pruned, total = order[:gone].clone(), vectors[order[:gone]].sum(0)
    for unit in order[gone:]:
        candidates = torch.cat([pruned, unit[None]])
        total = total + vectors[unit]
        # ‖total − g‖² of each candidate g, up to the common ‖total‖²
        members = vectors[candidates]
        back = (members.square().sum(1) - 2 * members @ total).argmin()
        total = total - members[back]
        pruned = candidates[torch.arange(gone + 1) != back]
    keep = torch.ones(len(mask), dtype=torch.bool)
    keep[pruned] = False
    return keep.to(mask.device)


@torch.no_grad()
def rescaled(
    state: State, wide: list[Tensor], narrow: list[Tensor], threshold: float | None = None
) -> Iterator[Pruned]:
    """Cut the student and fit one scale per survivor, sublayer by sublayer from the bottom.

    Each sublayer's output is fitted to that of a *half-way* teacher, the model cut at √(remaining
    share), over the first token where the head reads no other. The first attention sublayer is
    skipped, and all that follows a sublayer whose scales fail keeps scale 1.
    """
    halfway = state.student.copy()
    cut(halfway, wide)
    state.teach_by(halfway)
    steps = list(all_at_once(state, narrow, threshold))
    last, stopped = len(steps) - 1, False
    for t, target in enumerate(state.student.sublayers):
        with state.clock.step("rescaling", "rescaling"):
            if t and target.units and not stopped:
                first = state.kind.first_only and t == last
                equations = gather_output(state, t, first_only=first, move=True)
                scales = solve_scales(equations, target.output.weight.T, target.unit_size)
                if stopped := scales is None:
                    state.notes.append(f"rescaling stopped at the {target.name}: a scale left ±10")
                else:
                    scales = scales.to(target.output.weight)
                    target.output.weight.mul_(scales.repeat_interleave(target.unit_size))
            if not stopped:
                state.advance(t)
        yield steps[t]


def solve_scales(equations: NormalEquations, weight: Tensor, unit_size: int) -> Tensor | None:
    """Damped least squares around 1 for one scale per unit: min_s ‖Y − Σ_i s_i · P_i·W_i‖²_F.

    As in the authors' code: with A and b the sums over the sample, min_δ ‖A·δ − (b − A·1)‖² + ‖δ‖²,
    by the eigenvalues of A. None when a scale is not finite or leaves [−10, 10].
    """
    weight, blocks = weight.double(), (-1, unit_size)
    gram = equations.gram * (weight @ weight.T)
    gram = gram.unflatten(0, blocks).sum(1).unflatten(1, blocks).sum(2)
    moment = (equations.moment * weight).sum(1).unflatten(0, blocks).sum(1)
    if not (gram.isfinite().all() and moment.isfinite().all()):
        return None
    values, vectors = torch.linalg.eigh(gram)
    change = vectors @ (values / (values.square() + DAMP**2) * (vectors.T @ (moment - gram.sum(1))))
    scales = 1 + change
    return scales if scales.isfinite().all() and scales.abs().max() <= LARGEST_SCALE else None
