"""Attention by plain products is softmax attention, there and back."""

import families
import pytest
import torch
import torch.nn.functional as F
from conftest import batch_of, tiny, tiny_sample

from kprune.encoders import Encoder
from kprune.engine.attention import attend, safe_score


def parts(scale: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    query, key, value = scale * torch.randn(3, 2, 3, 7, 4, dtype=torch.float64, generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    return query, key, value, mask


def by_definition(query, key, value, mask):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
    return F.softmax(scores, -1) @ value


@pytest.mark.parametrize("scale", [1.0, 20.0], ids=["usual", "beyond the range of exp"])
@pytest.mark.parametrize("padded", [False, True])
def test_values_and_gradients(scale, padded):
    query, key, value, mask = parts(scale)
    mask = mask if padded else None
    leaves = [part.clone().requires_grad_() for part in (query, key, value)]
    expected = by_definition(*leaves, mask)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * weights).sum(), leaves)
    if scale > 1:
        assert (query @ key.transpose(-1, -2) / 2).abs().max() > safe_score(query.dtype)
    through = attend(*leaves, mask if mask is None else mask[:, None, None])
    torch.testing.assert_close(through, expected)
    for ours, theirs in zip(
        torch.autograd.grad((through * weights).sum(), leaves), wanted, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scores_beyond_the_range_of_exp_stay_finite_in_every_type(dtype):
    *exact, mask = parts(6.0)
    query, key, value = (part.to(dtype) for part in exact)
    found = attend(query, key, value, mask[:, None, None])
    exact = by_definition(query.double(), key.double(), value.double(), mask)
    near = {torch.float16: 0.02, torch.bfloat16: 0.15, torch.float32: 1e-4}[dtype]
    torch.testing.assert_close(found.double(), exact, atol=6 * near, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("score", [9.9, -9.9, 69, -69])
def test_many_keys_of_one_score_do_not_add_up_to_infinity(dtype, score):
    """Also where exp of each is finite."""
    query, value = torch.full((1, 1, 40, 4), 2.0, dtype=dtype), torch.full((1, 1, 40, 4), 9.0)
    found = attend(query, torch.full_like(query, score / 4), value.to(dtype))
    torch.testing.assert_close(found.float(), value, rtol=0.01, atol=0)


def test_a_mask_of_pairs():
    """What is no mask of keys, such as a local window, goes to PyTorch's own attention."""
    query, key, value, _ = parts()
    window = (torch.arange(7)[:, None] - torch.arange(7)).abs() <= 2
    scores = (query @ key.transpose(-1, -2) / 2).masked_fill(~window, -torch.inf)
    found = attend(query, key, value, window.expand(2, 1, 7, 7))
    torch.testing.assert_close(found, F.softmax(scores, -1) @ value)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_families_take_it_or_keep_their_own(family):
    """Where transformers lets them: not DeBERTa and MPNet, whose scores have a position's share."""
    model = tiny(family, "classification", dtype=torch.float64)
    encoder, batch = Encoder(model).copy(), batch_of(tiny_sample())
    takes = encoder.model.config._attn_implementation == "kprune"
    assert takes == (not family.startswith(("deberta", "mpnet")))
    assert model.config._attn_implementation != "kprune"
    torch.testing.assert_close(encoder.run(batch), families.outputs(model, batch))


def test_padding_matters_to_this_test():
    query, key, value, mask = parts()
    assert not torch.allclose(
        by_definition(query, key, value, mask), by_definition(query, key, value, None)
    )
