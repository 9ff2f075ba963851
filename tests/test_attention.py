"""Attention by plain products is softmax attention, there and back."""

import pytest
import torch
import torch.nn.functional as F

from kprune.attention import SAFE, attend, attention_backward, attention_forward


def parts(scale: float = 1.0, queries: int = 7):
    generator = torch.Generator().manual_seed(0)
    query, key, value = scale * torch.randn(3, 2, 3, 7, 4, dtype=torch.float64, generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    return query[:, :, :queries], key, value, mask


def by_definition(query, key, value, mask):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
    return F.softmax(scores, -1) @ value


@pytest.mark.parametrize("scale", [1.0, 20.0], ids=["usual", "beyond the range of exp"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("queries", [7, 1])
def test_values_and_gradients(scale, padded, queries):
    query, key, value, mask = parts(scale, queries)
    mask = mask if padded else None
    leaves = [part.clone().requires_grad_() for part in (query, key, value)]
    expected = by_definition(*leaves, mask)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * weights).sum(), leaves)
    if scale > 1:
        assert (query @ key.transpose(-1, -2) / 2).abs().max() > SAFE
    found, kept = attention_forward(query, key, value, mask)
    torch.testing.assert_close(found, expected.detach())
    for ours, theirs in zip(attention_backward(weights, mask, *kept), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    through = attend(*leaves, mask)
    torch.testing.assert_close(through, expected)
    for ours, theirs in zip(
        torch.autograd.grad((through * weights).sum(), leaves), wanted, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_padding_matters_to_this_test():
    query, key, value, mask = parts()
    assert not torch.allclose(
        by_definition(query, key, value, mask), by_definition(query, key, value, None)
    )
