"""Passes over the sample that measure its units: up through the sublayers, and down again.

Backpropagation is spelled out here, because ranking needs little of what autograd does: weights
get no gradient, the target's input gets none, only mask gradients leave, and a classifier's last
layer is differentiated at the first token alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kprune.attention import attend, attention_backward, attention_forward
from kprune.encoders import Encoder, Sublayer
from kprune.sampling import Batch


@dataclass(frozen=True)
class Measured:
    """What one batch tells about the units of each sublayer passed.

    Attributes:
        logits: of the batch.
        squares: Σ over real tokens of f_k² for each feature k, one [features] per sublayer.
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
        self, hidden: Tensor, mask: Tensor | None, real: Tensor, differentiate: bool
    ) -> tuple[Tensor, Tensor, Any]:
        """Output, squares of the features, and what `down` needs (None unless `differentiate`)."""
        projected = F.linear(hidden.to(self.weight_in.dtype), self.weight_in, self.bias_in)
        first = self.first_only and differentiate
        features, mix = self._mix(projected, mask, differentiate and not first)
        squares = (real @ (features * features).flatten(0, 1))[0]
        if not differentiate:
            return self.sublayer.norm(hidden + self._output(features)), squares, None
        if not first:
            out, norm = _norm(self.sublayer.norm, hidden + self._output(features))
            return out, squares, (features, mix, norm)
        # The gradient reaches the first token of this output only: keep the way back from there.
        if self.sublayer.kind == "FFN":
            features, mix = self._mix(projected[:, :1], None, True)
            out, norm = _norm(self.sublayer.norm, hidden[:, :1] + self._output(features))
            return out, squares, (features, mix, norm)
        summed = hidden + self._output(features)
        _, norm = _norm(self.sublayer.norm, summed[:, :1].clone())
        features, mix = self._mix(projected, mask, True, queries=1)
        return self.sublayer.norm(summed), squares, (features, mix, norm)

    def down(
        self, gradient: Tensor, kept: Any, sequences: Tensor, further: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Gradient at the input (None unless `further`), and mask gradients per sequence."""
        features, mix, norm = kept
        residual = norm(gradient[:, : features.shape[1]])
        gradient = residual.to(features.dtype) @ self.weight_out
        products = gradient * features
        one = features.shape[1] == 1
        own = products[:, 0] if one else sequences @ products.flatten(0, 1)
        if not further:
            return None, own
        if not self.sublayer.units:
            return residual, own
        below = mix(gradient) @ self.weight_in
        if below.shape == residual.shape:
            return residual.add_(below), own
        below = below.to(residual.dtype)
        below[:, : residual.shape[1]] += residual
        return below, own

    def _output(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight_out, self.bias_out)

    def _mix(
        self,
        projected: Tensor,
        mask: Tensor | None,
        differentiate: bool,
        queries: int | None = None,
    ) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
        """Features from the projected input, and the way back from their gradient to its."""
        sublayer = self.sublayer
        if sublayer.units == 0:
            features = projected[:, :queries, :0]
            return features, lambda gradient: gradient
        if sublayer.kind == "FFN":
            if not differentiate:
                return sublayer.activation(projected), None
            features, back = _with_graph(sublayer.activation, projected)
            return features, lambda gradient: back(gradient)[0]
        return _attention(projected, sublayer.unit_size, mask, differentiate, queries)


def measure(
    encoder: Encoder,
    steps: Sequence[Step],
    hidden: Tensor,
    batch: Batch,
    loss: Callable[[Tensor], Tensor] | None = None,
) -> Measured:
    """One batch up through the steps, and with a loss down again.

    Args:
        encoder: gives the head.
        steps: the sublayers from the target upwards.
        hidden: hidden states at the target's input, [batch, length, d].
        batch: the batch.
        loss: gives one loss per sequence, [batch], from the logits.
    """
    rows, length = hidden.shape[:2]
    dtype, device = steps[0].weight_out.dtype, hidden.device
    mask = torch.ones(rows, length, device=device) if batch.mask is None else batch.mask
    # Sums over tokens as matrix products, which beat reductions by far.
    real = mask.flatten()[None].to(dtype)
    squares, kept = [], []
    with torch.no_grad():
        for step in steps:
            hidden, square, needed = step.up(hidden, batch.mask, real, loss is not None)
            squares.append(square)
            kept.append(needed)
        if loss is None:
            return Measured(encoder.head(hidden), squares, [])
        with torch.enable_grad():
            hidden.requires_grad_()
            logits = encoder.head(hidden)
            (gradient,) = torch.autograd.grad(loss(logits).sum(), hidden)
        sequences = torch.eye(rows, dtype=dtype, device=device).repeat_interleave(length, 1)
        gradients = []
        for number in range(len(steps) - 1, -1, -1):
            gradient, own = steps[number].down(gradient, kept.pop(), sequences, number > 0)
            gradients.append(own)
        return Measured(logits.detach(), squares, gradients[::-1])


def _attention(
    projected: Tensor, d_h: int, mask: Tensor | None, differentiate: bool, queries: int | None
) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
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

        def back(gradient: Tensor) -> Tensor:
            changes = graph(_heads(gradient, d_h))
            return _joined(changes, length)

        return _merged(attended), back
    attended, kept = attention_forward(
        query[:, :, :queries].contiguous(), key.contiguous(), value, mask
    )
    if not differentiate:
        return _merged(attended), None
    return _merged(attended), lambda gradient: _joined(
        attention_backward(_heads(gradient, d_h), mask, *kept), length
    )


def _heads(features: Tensor, d_h: int) -> Tensor:
    return features.unflatten(-1, (-1, d_h)).transpose(1, 2)


def _merged(attended: Tensor) -> Tensor:
    return attended.transpose(1, 2).flatten(-2)


def _joined(changes: Sequence[Tensor], length: int) -> Tensor:
    """Gradients of Q, K, V, each [batch, heads, length, d_h], as [batch, length, 3·heads·d_h]."""
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
