"""Softmax(Q·Kᵀ/√d_h)·V by what suits the device: a fused kernel, or plain matrix products.

On a CPU the fused kernel and the softmax along short rows take several times as long as the matrix
products around them. There, exp replaces the softmax, one more column of V sums its rows, and
padding is a zero row of V: nothing but exp touches the length × length matrix on the way forward,
and two products on the way back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Beyond this, exp could overflow or a row vanish, and the largest score of each row is subtracted.
SAFE = 70.0


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention.

    Args:
        query, key, value: [batch, heads, length, d_h].
        mask: True at real tokens, bool [batch, length]; None where nothing is padded.

    Returns:
        [batch, heads, length, d_h].
    """
    if query.device.type == "cpu" and not torch.is_grad_enabled():
        return attention_forward(query, key, value, mask)[0]
    mask = None if mask is None else mask[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attention_forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Attention on a CPU, as in `attend`, and what `attention_backward` needs."""
    query = query * query.shape[-1] ** -0.5
    scores = query @ key.transpose(-1, -2)
    low, high = torch.aminmax(scores)
    if not (low > -SAFE and high < SAFE):
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        scores = scores - scores.amax(-1, keepdim=True)
    weights = scores.exp_()
    # One more column, of ones: weights @ value then ends in the sum of each row.
    value = F.pad(value, (0, 1), value=1.0)
    if mask is not None:
        value *= mask[:, None, :, None].to(value.dtype)
    attended, total = (weights @ value).split([query.shape[-1], 1], -1)
    # Laid out as the output projection takes it, so that putting heads side by side copies nothing.
    merged = torch.empty_like(attended.transpose(1, 2), memory_format=torch.contiguous_format)
    attended = torch.div(attended, total, out=merged.transpose(1, 2))
    return attended, (query, key, value, weights, attended, total.clone())


def attention_backward(
    gradient: Tensor,
    mask: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: Tensor,
    attended: Tensor,
    total: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; overwrites the kept `weights`."""
    gradient = gradient / total
    d_value = weights.transpose(-1, -2) @ gradient
    if mask is not None:
        d_value *= mask[:, None, :, None].to(d_value.dtype)
    # With P the softmax and G the gradient: dS = P ∘ (G·Vᵀ − rowsum(G ∘ P·V)); the column of ones
    # takes the second term, and the zero rows of V keep padding out.
    both = torch.cat([gradient, -(gradient * attended).sum(-1, keepdim=True)], -1)
    change = weights.mul_(both @ value.transpose(-1, -2))
    d_query = (change @ key).mul_(query.shape[-1] ** -0.5)
    return d_query, change.transpose(-1, -2) @ query, d_value
