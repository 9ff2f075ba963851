"""Passes over the sample that measure its units: up through the sublayers, and down again.

Backpropagation is spelled out here, because ranking needs little of what autograd does: weights
get no gradient, the target's input gets none, only mask gradients leave, and a classifier's last
layer is differentiated at the first token alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation

from kprune.attention import attend, attention_backward, attention_forward
from kprune.encoders import Encoder, Sublayer
from kprune.sampling import Batch
from kprune.states import give_back_memory
from kprune.tasks import Task
from kprune.workers import Scratch, side_by_side

Take = Callable[[Tensor, Sequence[int]], Tensor]  # memory for a tensor like one, of a shape
SHALLOW = 12  # sublayers of an encoder, up to which a pass keeps all that the way down needs
STRETCH = 4  # sublayers that a deeper one's does; fewer, so that what is pruned has room beside it
GROUP = 4  # batches that pass a stretch of a deeper model in one go: its weights are converted once


@dataclass(frozen=True)
class Measured:
    """What one batch tells about the units of each sublayer passed.

    Attributes:
        logits: of the batch.
        squares: Σ over real tokens of f_k² for each feature k, an input of the output projection;
            one [features] per sublayer.
        gradients: Σ over the sequence's tokens of f_k · ∂loss/∂f_k, one [batch, features] per
            sublayer; empty without a loss.
    """

    logits: Tensor
    squares: list[Tensor]
    gradients: list[Tensor]


class Step:
    """One sublayer in the precision of the pass: up, and down again.

    Args:
        sublayer: the sublayer.
        dtype: of its matrix products; the sum with the input and the norm keep the input's.
        first_only: whether the loss sees only the first token of the output, or for MHA that of
            the layer.
    """

    def __init__(self, sublayer: Sublayer, dtype: torch.dtype | None, first_only: bool):
        dtype = dtype or sublayer.output.weight.dtype
        self.sublayer, self.first_only = sublayer, first_only
        # Each in this precision before they are joined: no whole copy in the model's own.
        self.weight_in = torch.cat([linear.weight.to(dtype) for linear in sublayer.inputs])
        self.bias_in = torch.cat([linear.bias.to(dtype) for linear in sublayer.inputs])
        self.weight_out = sublayer.output.weight.to(dtype)
        self.bias_out = sublayer.output.bias.to(dtype)

    def up(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        real: Tensor,
        differentiate: bool,
        scratch: Scratch,
    ) -> tuple[Tensor, Tensor, Any]:
        """Output, squares of the features, and what `down` needs (None unless `differentiate`).

        Most of what `down` needs stays in the scratch memory.
        """
        first, neurons = self.first_only and differentiate, self.sublayer.kind == "FFN"
        projected = self._project(hidden, scratch)
        summed = scratch.take(hidden, hidden.shape)
        # Computing an FFN's features again on the way down costs less than the memory to keep them.
        with scratch.block() if neurons else nullcontext():
            back = differentiate and not first and not neurons
            features, mix = self._mix(projected, mask, back, scratch)
            with scratch.block():
                squared = torch.mul(features, features, out=scratch.take(features, features.shape))
                squares = (real @ squared.flatten(0, 1))[0]
            if not (first and neurons):
                self._add(hidden, features, summed, scratch)
        if not differentiate:
            return self.sublayer.norm(summed), squares, None
        # Of a first token, keep the way back from there alone. It is little work, and in bfloat16
        # each number of rows would leave kernels of its own behind.
        if first and neurons:
            projected, summed = projected[:, :1].to(hidden.dtype), summed[:, :1]
            with scratch.block():
                features, _ = self._mix(projected, None, False, scratch)
                self._add(hidden[:, :1], features, summed, scratch)
        if first and not neurons:
            features, mix = self._mix(projected.to(hidden.dtype), mask, True, scratch, queries=1)
            out, norm = self.sublayer.norm(summed), _norm(self.sublayer.norm, summed[:, :1])[1]
        else:
            out, norm = _norm(self.sublayer.norm, summed)
        if neurons:
            return out, squares, (partial(self._mix, projected, None, True, scratch), norm)
        return out, squares, (lambda: (features, mix), norm)

    def down(
        self, gradient: Tensor, kept: Any, further: bool, scratch: Scratch
    ) -> tuple[Tensor | None, Tensor]:
        """Gradient at the input (None unless `further`), and mask gradients per sequence."""
        features_again, norm = kept
        features, mix = features_again()
        residual = norm(gradient[:, : features.shape[1]])
        gradient = _product(
            residual.to(features.dtype), self._weight_out(features)[0], scratch.take
        )
        own = torch.mul(gradient, features, out=scratch.take(features, features.shape)).sum(1)
        if not further:
            return None, own
        below, weight_in = mix(gradient, scratch.take), self.weight_in
        if below.shape[1] == 1:  # neurons at the first token, in the model's own precision
            weight_in = torch.cat([linear.weight for linear in self.sublayer.inputs])
        below = _product(below.to(weight_in.dtype), weight_in, scratch.take)
        if below.shape == residual.shape:
            return residual.add_(below), own
        below = below.to(residual.dtype, copy=True)  # out of the scratch memory
        below[:, : residual.shape[1]] += residual
        return below, own

    def _project(self, hidden: Tensor, scratch: Scratch) -> Tensor:
        """The projected input, [batch, length, …]; of neurons, `down` needs it."""
        given = hidden.to(self.weight_in.dtype)
        if self.sublayer.kind == "MHA":
            return F.linear(given, self.weight_in, self.bias_in)
        return _product(given, self.weight_in.T, scratch.take, self.bias_in)

    def _add(self, hidden: Tensor, features: Tensor, summed: Tensor, scratch: Scratch) -> None:
        """X + P·Wᵀ + b, into `summed`."""
        weight, bias = self._weight_out(features)
        with scratch.block():
            out = _product(features, weight.T, scratch.take, bias)
            torch.add(hidden, out, out=summed)

    def _weight_out(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Output projection and its bias in the type of the features."""
        if features.dtype == self.weight_out.dtype:
            return self.weight_out, self.bias_out
        return self.sublayer.output.weight, self.sublayer.output.bias

    def _mix(
        self,
        projected: Tensor,
        mask: Tensor | None,
        differentiate: bool,
        scratch: Scratch,
        queries: int | None = None,
    ) -> tuple[Tensor, Callable[[Tensor, Take], Tensor] | None]:
        """Features from the projected input, and the way back from their gradient to its."""
        sublayer = self.sublayer
        if sublayer.units == 0:
            return projected[:, :queries], lambda gradient, take: projected
        if sublayer.kind == "MHA":
            return _attention(
                projected, sublayer.unit_size, mask, differentiate, scratch.take, queries
            )
        if isinstance(sublayer.activation, GELUActivation):
            return _gelu(projected, scratch.take)
        if not differentiate:
            return sublayer.activation(projected), None
        features, back = _with_graph(sublayer.activation, projected)
        return features, lambda gradient, take: back(gradient)[0]


@torch.no_grad()
def measurements(
    encoder: Encoder,
    sublayers: Sequence[Sublayer],
    hidden: Iterable[Tensor],
    batches: Sequence[Batch],
    task: Task,
    dtype: torch.dtype | None = None,
    loss: Callable[[int, Tensor], Tensor] | None = None,
) -> Iterator[Measured]:
    """Measure the batches, in their order, in memory that the number of sublayers hardly moves.

    All sublayers of a model of up to `SHALLOW` keep what the way down needs, and weights in the
    precision of the pass. Of a deeper one `STRETCH` do: `GROUP` batches at a time go up stretch by
    stretch and leave only their hidden states at the input of each, and on the way down a lower
    stretch runs again. On a CPU several batches are in work at once (`workers.side_by_side`).

    Args:
        encoder: gives the head.
        sublayers: from the target upwards.
        hidden: hidden states at the target's input, one [batch, length, d] per batch.
        batches: the batches.
        task: gives the kind of prediction.
        dtype: precision of matrix products; None keeps the model's.
        loss: gives one loss per sequence, [batch], from the number of the batch and its logits;
            called from several threads, and for the batches in any order.

    Yields:
        What each batch tells.
    """
    first = first_only(sublayers, task)

    def build(part: slice) -> list[Step]:
        give_back_memory()  # what the last stretch has freed
        return make_steps(sublayers[part], dtype, first[part])

    size = STRETCH if len(encoder.sublayers) > SHALLOW else SHALLOW
    starts = [0, *range(len(sublayers) - size, 0, -size)[::-1]]  # the topmost is a whole one
    stretches = [slice(*ends) for ends in pairwise([*starts, len(sublayers)])]
    shallow = len(stretches) == 1
    steps = build(stretches[0]) if shallow else []
    numbered = enumerate(zip(hidden, batches, strict=True))
    scratch = Scratch()

    def passed(group: list, build: Callable, run: Callable[..., Iterator]) -> list[Measured]:
        losses = loss and [partial(loss, number) for number, _ in group]
        given, parts = zip(*(pair for _, pair in group), strict=True)
        return _measure(encoder, build, stretches, given, parts, losses, scratch, run)

    with side_by_side(encoder.last.weight.device) as run:
        if shallow:
            yield from run(lambda one: passed([one], lambda _: steps, map)[0], numbered)
        while group := list(islice(numbered, GROUP)):
            yield from passed(group, build, run)


@torch.no_grad()
def measure(
    encoder: Encoder,
    steps: Sequence[Step],
    hidden: Tensor,
    batch: Batch,
    loss: Callable[[Tensor], Tensor] | None = None,
    scratch: Scratch | None = None,
) -> Measured:
    """One batch up through the steps, and with a loss down again.

    Args:
        encoder: gives the head.
        steps: the sublayers from the target upwards.
        hidden: hidden states at the target's input, [batch, length, d].
        batch: the batch.
        loss: gives one loss per sequence, [batch], from the logits.
        scratch: memory that one call leaves to the next.
    """
    (found,) = _measure(
        encoder,
        lambda _: steps,
        [slice(None)],
        [hidden],
        [batch],
        loss and [loss],
        scratch or Scratch(),
    )
    return found


def _measure(
    encoder: Encoder,
    build: Callable[[slice], Sequence[Step]],
    stretches: Sequence[slice],
    hidden: Sequence[Tensor],
    batches: Sequence[Batch],
    losses: Sequence[Callable[[Tensor], Tensor]] | None,
    scratch: Scratch,
    run: Callable[..., Iterator] = map,
) -> list[Measured]:
    """A group of batches up through the stretches, which `build` makes, and down again.

    `run` maps a function over the numbers of the batches.
    """
    count, steps = range(len(batches)), None
    at, logits, slopes = [list(hidden)], [None for _ in count], [None for _ in count]
    squares, gradients = [[] for _ in count], [[] for _ in count]

    def up(i: int) -> Tensor:
        out, own, _ = _up(steps, at[-1][i], batches[i], False, scratch)
        if not losses:
            squares[i] += own
        return out

    def there_and_back(i: int) -> None:
        with scratch.block():
            out, own, kept = _up(steps, given[i], batches[i], True, scratch)
            squares[i] = own + squares[i]
            if slopes[i] is None:
                logits[i], slopes[i] = _turn(encoder, out, losses[i])
            slopes[i], own = _down(steps, slopes[i], kept, number > 0, scratch)
            gradients[i] = own + gradients[i]

    for stretch in stretches[:-1] if losses else stretches:
        steps = build(stretch)
        at.append(list(run(up, count)))
        steps = None  # before the next ones are made
    if not losses:
        return [
            Measured(encoder.head(out), own, []) for out, own in zip(at[-1], squares, strict=True)
        ]
    for number in reversed(range(len(stretches))):
        steps, given = build(stretches[number]), at.pop()
        list(run(there_and_back, count))
        steps = None
    return [Measured(*found) for found in zip(logits, squares, gradients, strict=True)]


def _up(
    steps: Sequence[Step], hidden: Tensor, batch: Batch, differentiate: bool, scratch: Scratch
) -> tuple[Tensor, list[Tensor], list[Any]]:
    """Hidden states above the steps, and of each step the squares and what `_down` needs."""
    rows, length = hidden.shape[:2]
    mask = torch.ones(rows, length, device=hidden.device) if batch.mask is None else batch.mask
    # A sum over real tokens as a matrix product.
    real = mask.flatten()[None].to(steps[0].weight_out.dtype)
    squares, kept = [], []
    for step in steps:
        with nullcontext() if differentiate else scratch.block():
            hidden, own, needed = step.up(hidden, batch.mask, real, differentiate, scratch)
        squares.append(own)
        kept.append(needed)
    return hidden, squares, kept


def _turn(
    encoder: Encoder, hidden: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The logits, and the gradient of the summed loss at the hidden states that gave them."""
    with torch.enable_grad():
        hidden = hidden.detach().requires_grad_()
        logits = encoder.head(hidden)
        (gradient,) = torch.autograd.grad(loss(logits).sum(), hidden)
    return logits.detach(), gradient


def _down(
    steps: Sequence[Step], gradient: Tensor, kept: list[Any], further: bool, scratch: Scratch
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradient below the steps (None unless `further`), and mask gradients; uses up `kept`."""
    gradients = []
    for number in range(len(steps) - 1, -1, -1):
        with scratch.block():
            gradient, own = steps[number].down(gradient, kept.pop(), further or number > 0, scratch)
        gradients.append(own)
    return gradient, gradients[::-1]


def make_steps(
    sublayers: Sequence[Sublayer], dtype: torch.dtype | None, first: Sequence[bool]
) -> list[Step]:
    """A step for each sublayer, all in one precision."""
    return [Step(sublayer, dtype, only) for sublayer, only in zip(sublayers, first, strict=True)]


def first_only(sublayers: Sequence[Sublayer], task: Task) -> list[bool]:
    """Whether the head reads only the first token of each one's layer: a classifier's last."""
    last = max(sublayer.layer for sublayer in sublayers)
    return [task.kind != "span" and sublayer.layer == last for sublayer in sublayers]


def _attention(
    projected: Tensor,
    d_h: int,
    mask: Tensor | None,
    differentiate: bool,
    take: Take,
    queries: int | None,
) -> tuple[Tensor, Callable[[Tensor, Take], Tensor] | None]:
    """Attention of [batch, length, 3 · heads · d_h]: features, and the way back."""
    length = projected.shape[1]
    # [3, batch, heads, length, d_h]
    query, key, value = projected.unflatten(-1, (3, -1, d_h)).permute(2, 0, 3, 1, 4)
    if projected.device.type != "cpu":

        def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return attend(query, key, value, mask)

        if not differentiate:
            return _merged(run(query, key, value)), None
        attended, graph = _with_graph(run, query[:, :, :queries], key, value)
        return _merged(attended), lambda gradient, take: _joined(
            graph(_heads(gradient, d_h)), length
        )
    attended, kept = attention_forward(query[:, :, :queries], key, value, mask, take)
    return _merged(attended), lambda gradient, take: _joined(
        attention_backward(_heads(gradient, d_h), mask, *kept, take), length
    )


def _gelu(projected: Tensor, take: Take) -> tuple[Tensor, Callable[[Tensor, Take], Tensor]]:
    """The usual activation without autograd's bookkeeping: features, and the way back."""
    rows = projected.flatten(0, 1)  # kernels are prepared for each number of dimensions, too
    features = torch.ops.aten.gelu.out(rows, out=take(rows, rows.shape))

    def back(gradient: Tensor, take: Take) -> Tensor:
        changes = torch.ops.aten.gelu_backward.grad_input(
            gradient.flatten(0, 1), rows, grad_input=take(rows, rows.shape)
        )
        return changes.view(projected.shape)

    return features.view(projected.shape), back


def _product(rows: Tensor, weight: Tensor, take: Take, bias: Tensor | None = None) -> Tensor:
    """[batch, length, in] times [in, out], and a bias, in memory that `take` gives."""
    out = take(rows, (*rows.shape[:2], weight.shape[1]))
    factors = rows.flatten(0, 1), weight
    if bias is None:
        torch.mm(*factors, out=out.flatten(0, 1))
    else:
        torch.addmm(bias, *factors, out=out.flatten(0, 1))
    return out


def _heads(features: Tensor, d_h: int) -> Tensor:
    return features.unflatten(-1, (-1, d_h)).transpose(1, 2)


def _merged(attended: Tensor) -> Tensor:
    return attended.transpose(1, 2).flatten(-2)


def _joined(changes: Sequence[Tensor], length: int) -> Tensor:
    """Gradients of Q, K, V as one, [batch, length, 3·heads·d_h]; Q may have fewer rows."""
    query, key, value = changes
    query = F.pad(query, (0, 0, 0, length - query.shape[2]))
    return torch.stack([query, key, value]).permute(1, 3, 0, 2, 4).flatten(2)


def _norm(norm: nn.LayerNorm, summed: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A LayerNorm's output, and the way back, which keeps its input but not its output."""
    shape, affine = norm.normalized_shape, (norm.weight, norm.bias)
    out, *moments = torch.native_layer_norm(summed, shape, *affine, norm.eps)

    def back(gradient: Tensor) -> Tensor:
        return torch.ops.aten.native_layer_norm_backward(
            gradient, summed, shape, *moments, *affine, [True, False, False]
        )[0]

    return out, back


def _with_graph(
    function: Callable[..., Tensor], *inputs: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """A function's value, and the way back from its gradient to those of its inputs."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = function(*leaves)
    return out.detach(), lambda gradient: torch.autograd.grad(out, leaves, gradient)
