"""Softmax(Q·Kᵀ/√d_h)·V by what suits the device, plugged into the models through transformers.

On a CPU the fused kernel and the softmax along short rows take several times as long as the matrix
products around them. There, exp replaces the softmax, one more column of V sums its rows, and
padding is a zero row of V: nothing but exp touches the length × length matrix on the way forward,
and two products on the way back. Elsewhere, and for masks that are not of keys (the local windows
of ModernBERT), it is PyTorch's scaled dot-product attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "kprune"  # of the implementation, in transformers' two registers
ADDED = "kprune, added"  # of a mask for families that have an attention of their own


def safe_score(dtype: torch.dtype) -> float:
    """Beyond it exp could overflow or a row vanish: each row's largest score is taken off."""
    return 0.0 if dtype == torch.float16 else 70.0


class Products(torch.autograd.Function):
    """Attention by plain matrix products; the mask is of keys, bool [batch, length], or None."""

    @staticmethod
    def forward(ctx, query, key, value, mask, scaling):
        batch, heads, length, d_h = query.shape
        scaled, key = (query * scaling).flatten(0, 1), key.flatten(0, 1)
        # One more column of V, of ones: weights @ value then ends in the sum of each row.
        wider = value.new_empty(*value.shape[:-1], d_h + 1)
        if mask is None:
            wider[..., :d_h], wider[..., d_h] = value, 1.0
        else:
            real = mask[:, None, :, None].to(value.dtype)
            torch.mul(value, real, out=wider[..., :d_h])
            wider[..., d_h:] = real
        value = wider.flatten(0, 1)
        scores = torch.bmm(scaled, key.transpose(1, 2))
        low, high = torch.aminmax(scores)
        safe = safe_score(scores.dtype)
        if not (low > -safe and high < safe):
            if mask is not None:
                masked = ~mask[:, None, None, :].expand(-1, heads, 1, -1).flatten(0, 1)
                scores.masked_fill_(masked, torch.finfo(scores.dtype).min)
            scores.sub_(scores.amax(-1, keepdim=True))
        weights = scores.exp_()
        attended, total = torch.bmm(weights, value).unflatten(0, (batch, heads)).split([d_h, 1], -1)
        # Laid out as the output projection takes it: putting heads side by side copies nothing.
        merged = query.new_empty(batch, length, heads, d_h).transpose(1, 2)
        torch.div(attended, total, out=merged)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(scaled, key, value, weights, merged, total.clone())
            ctx.mask, ctx.scaling = mask, scaling
        return merged

    @staticmethod
    def backward(ctx, gradient):
        # With P the softmax and G the gradient: dS = P ∘ (G·Vᵀ − rowsum(G ∘ P·V)); the column of
        # ones takes the second term, and the zero rows of V keep padding out.
        query, key, value, weights, attended, total = ctx.saved_tensors
        batch, heads, _, d_h = gradient.shape
        own = gradient / total
        both = torch.cat([own, -(own * attended).sum(-1, keepdim=True)], -1).flatten(0, 1)
        d_value = torch.bmm(weights.transpose(1, 2), both).unflatten(0, (batch, heads))[..., :d_h]
        if ctx.mask is not None:
            d_value = d_value * ctx.mask[:, None, :, None].to(d_value.dtype)
        change = torch.bmm(both, value.transpose(1, 2)).mul_(weights)
        d_key = torch.bmm(change.transpose(1, 2), query).unflatten(0, (batch, heads))
        d_query = torch.bmm(change, key).mul_(ctx.scaling).unflatten(0, (batch, heads))
        return d_query, d_key, d_value, None, None


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, scaling: float = 0.0
) -> Tensor:
    """Scaled dot-product attention of query, key and value, [batch, heads, length, d_h] each.

    `mask` is True where a query may look: bool [batch, 1, 1, length] for a mask of keys, [batch, 1,
    length, length] in general, None where nothing is masked. A `scaling` of 0 takes 1/√d_h.
    """
    scaling = scaling or query.shape[-1] ** -0.5
    if query.device.type == "cpu" and (mask is None or mask.shape[2] == 1):
        keys = None if mask is None else mask[:, 0, 0]
        return Products.apply(query, key, value, keys, scaling)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def plug_in(model: PreTrainedModel) -> None:
    """Have a model use `attend`, or our mask alone where its family keeps to its own attention.

    ValueError where it has an attention of the user's, which this would replace.
    """
    name = model.config._attn_implementation
    own = ALL_ATTENTION_FUNCTIONS.get(name)
    if own and own.__module__.partition(".")[0] not in ("transformers", "kprune"):
        raise ValueError(
            f"The model's attention {name!r} is not transformers' own, and only that can be "
            "measured and saved; load the model with attn_implementation='sdpa'."
        )
    model.config._attn_implementation = NAME if takes_ours(model) else ADDED


def takes_ours(model: PreTrainedModel) -> bool:
    """Whether a model's family takes an attention from outside."""
    return getattr(model, "_supports_attention_backend", False)


def _attention(module, query, key, value, attention_mask, scaling=None, **_):
    """`attend` as transformers calls it: gives [batch, length, heads, d_h], and no weights."""
    attended = attend(query, key, value, attention_mask, scaling or 0.0)
    return attended.transpose(1, 2), None


def _mask(mask_function, attention_mask=None, **others) -> Tensor | None:
    """The mask as `attend` takes it, from transformers' description of it; never waits."""
    if mask_function is bidirectional_mask_function:
        return None if attention_mask is None else attention_mask.bool()[:, None, None, :]
    others["allow_is_bidirectional_skip"] = False
    return sdpa_mask(mask_function=mask_function, attention_mask=attention_mask, **others)


def _added(*given, dtype: torch.dtype = torch.float32, **others) -> Tensor | None:
    """The mask to add to scores; of two bytes, since a wider one would widen scores in bf16."""
    mask, dtype = _mask(*given, **others), dtype if dtype.itemsize == 2 else torch.bfloat16
    if mask is None:
        return None
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
AttentionMaskInterface.register(ADDED, _added)
