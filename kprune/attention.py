"""Softmax(Q·Kᵀ/√d_h)·V by what suits the device: a fused kernel, or plain matrix products.

On a CPU the fused kernel and the softmax along short rows take several times as long as the matrix
products around them. There, exp replaces the softmax, one more column of V sums its rows, and
padding is a zero row of V: nothing but exp touches the length × length matrix on the way forward,
and two products on the way back.
"""

from collections.abc import Callable

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
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    take: Callable[..., Tensor] = Tensor.new_empty,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Attention on a CPU, as in `attend`, and what `attention_backward` needs.

    `take(like, shape)` gives the memory for it, in the type of `like`.
    """
    batch, heads, queries, d_h = query.shape
    length = key.shape[2]
    scaled = torch.mul(query, d_h**-0.5, out=take(query, query.shape)).flatten(0, 1)
    key = take(key, key.shape).copy_(key).flatten(0, 1)
    # One more column of V, of ones: weights @ value then ends in the sum of each row.
    wider = take(value, (batch, heads, length, d_h + 1))
    if mask is None:
        wider[..., :d_h], wider[..., d_h] = value, 1.0
    else:
        real = mask[:, None, :, None].to(value.dtype)
        torch.mul(value, real, out=wider[..., :d_h])
        wider[..., d_h:] = real
    value = wider.flatten(0, 1)
    scores = torch.bmm(
        scaled, key.transpose(1, 2), out=take(query, (batch * heads, queries, length))
    )
    low, high = torch.aminmax(scores)
    if not (low > -SAFE and high < SAFE):
        if mask is not None:
            masked = ~mask[:, None, None, :].expand(-1, heads, 1, -1).flatten(0, 1)
            scores.masked_fill_(masked, torch.finfo(scores.dtype).min)
        scores.sub_(scores.amax(-1, keepdim=True))
    weights = scores.exp_()
    sums = torch.bmm(weights, value).unflatten(0, (batch, heads))
    attended, total = sums.split([d_h, 1], -1)
    # Laid out as the output projection takes it, so that putting heads side by side copies nothing.
    merged = take(query, (batch, queries, heads, d_h)).transpose(1, 2)
    torch.div(attended, total, out=merged)
    return merged, (scaled, key, value, weights, merged, total.clone())


def attention_backward(
    gradient: Tensor,
    mask: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: Tensor,
    attended: Tensor,
    total: Tensor,
    take: Callable[..., Tensor] = Tensor.new_empty,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; overwrites the kept `weights` and `query`."""
    batch, heads, queries, d_h = gradient.shape
    length = key.shape[1]
    # With P the softmax and G the gradient: dS = P ∘ (G·Vᵀ − rowsum(G ∘ P·V)); the column of ones
    # takes the second term, and the zero rows of V keep padding out.
    both = take(gradient, (batch, heads, queries, d_h + 1))
    own = torch.div(gradient, total, out=both[..., :d_h])
    torch.sum(own * attended, -1, keepdim=True, out=both[..., d_h:]).neg_()
    both = both.flatten(0, 1)
    d_value = torch.bmm(
        weights.transpose(1, 2), both, out=take(gradient, (batch * heads, length, d_h + 1))
    ).unflatten(0, (batch, heads))[..., :d_h]
    if mask is not None:
        d_value *= mask[:, None, :, None].to(d_value.dtype)
    change = torch.bmm(both, value.transpose(1, 2), out=take(gradient, weights.shape))
    weights.mul_(change)
    d_key = torch.bmm(weights.transpose(1, 2), query, out=take(gradient, key.shape))
    d_query = torch.bmm(weights, key, out=query).mul_(d_h**-0.5)
    return *(part.unflatten(0, (batch, heads)) for part in (d_query, d_key)), d_value
