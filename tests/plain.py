"""K-prune as the paper tells it: explicit masks, whole passes, lstsq; nothing is cached or shared.

Of the package it takes the names of a model's parts, what a head predicts, and surgery.
"""

import copy
from contextlib import ExitStack

import numpy as np
import torch
from families import batch_of, forward
from torch import Tensor, nn

from kprune.encoders import Encoder
from kprune.surgery import keep_units


@torch.no_grad()
def seen(model: nn.Module, module: nn.Module, rows: list[dict]) -> Tensor:
    """What a module is given at all real tokens, or of all sequences: [rows, features]."""
    found, batch = [], batch_of(rows)
    hook = module.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    forward(model, batch)
    hook.remove()
    return found[0][batch.attention_mask.bool()] if found[0].dim() == 3 else found[0]


def norms(encoder: Encoder) -> list[nn.LayerNorm]:
    """The norms that BERT and DistilBERT give each X + Sub(X) to, from the bottom."""
    return [
        module
        for name, module in encoder.model.base_model.named_modules()
        if ".layer." in name and isinstance(module, nn.LayerNorm)
    ]


def system(teacher: Encoder, student: Encoder, t: int, rows: list[dict]) -> tuple[Tensor, Tensor]:
    """P, the features of the student's sublayer, and X_T + Sub_T(X_T) − X_S, its target with b."""
    totals = [seen(e.model, norms(e)[t], rows) for e in (teacher, student)]
    output = student.sublayers[t].output
    P = seen(student.model, output, rows)
    with torch.no_grad():
        return P, totals[0] - (totals[1] - output(P))


def knowledge(teacher: Encoder, student: Encoder, sample, gamma: float):
    """Of every feature: half the squared mask gradients a sample, and the mean square a token."""
    masks = [
        torch.ones(sub.output.in_features, dtype=torch.float64, requires_grad=True)
        for sub in student.sublayers
    ]
    squares = [torch.zeros_like(mask) for mask in masks]
    gradients = [torch.zeros_like(mask) for mask in masks]
    rows, size = sample.examples, sample.task.minibatch
    for first in range(0, len(rows), size):
        batch = batch_of(rows[first : first + size])
        real = batch.attention_mask.bool()

        def mask(t, given, real=real):
            squares[t] += given[0].detach()[real].square().sum(0)
            return (given[0] * masks[t],)

        with ExitStack() as stack:
            for t, sub in enumerate(student.sublayers):
                hook = sub.output.register_forward_pre_hook(lambda _, given, t=t: mask(t, given))
                stack.callback(hook.remove)
            ours = student.kind.read(forward(student.model, batch), batch.mask)
        with torch.no_grad():
            theirs = teacher.kind.read(forward(teacher.model, batch), batch.mask)
        loss = student.kind.distance(ours, theirs, gamma, batch.mask).mean()
        for total, gradient in zip(gradients, torch.autograd.grad(loss, masks), strict=True):
            total += gradient.square() / 2 / len(rows)
    return gradients, [total / sample.tokens for total in squares]


def importance(teacher: Encoder, student: Encoder, sample, t: int, gamma, lam, mu) -> list[Tensor]:
    """Of every unit of sublayer `t` and those above; no gradient counts at the first."""
    found = []
    for sub, predictive, square in list(
        zip(student.sublayers, *knowledge(teacher, student, sample, gamma), strict=True)
    )[t:]:
        each = (t > 0) * predictive + lam * square * sub.output.weight.detach().square().mean(0)
        found.append(each.unflatten(0, (-1, sub.unit_size)).mean(1) * (1, mu)[sub.kind == "MHA"])
    return found


def smallest_threshold(scores: Tensor, costs: Tensor, budget: float) -> Tensor:
    """The mask of the smallest threshold that fits, by trying each."""
    for threshold in [float("-inf"), *sorted(set(scores.tolist()))]:
        keep = scores > threshold
        if costs[keep].sum() <= budget:
            return keep
    raise AssertionError("no threshold fits")


def kprune(model, sample, rate: float, gamma: float, lam: float, mu: float):
    """The pruned model, and the units that each sublayer keeps."""
    teacher, student = Encoder(model), Encoder(copy.deepcopy(model))
    budget, kept = (1 - rate) * teacher.flops(sample.length) * (1 + 1e-12), []
    for t, target in enumerate(student.sublayers):
        scores = importance(teacher, student, sample, t, gamma, lam, mu)
        flops = [
            torch.full_like(score, sub.unit_flops(sample.length))
            for sub, score in zip(student.sublayers[t:], scores, strict=True)
        ]
        costs = torch.cat(flops)
        keep = smallest_threshold(torch.cat(scores) / costs, costs, budget)[: target.units]
        kept.append(keep.nonzero().flatten().tolist())
        keep_units(target, keep)
        budget -= target.units * target.unit_flops(sample.length)
        P, Y = system(teacher, student, t, sample.examples)
        if target.units:
            Y = (Y - target.output.bias.detach()).numpy()
            fit = np.linalg.lstsq(P.numpy(), Y, rcond=None)[0]
            with torch.no_grad():
                target.output.weight.copy_(torch.from_numpy(fit).T)
    return student.model, kept
