"""Importance is what its formulas say, however the passes are batched and wherever they start."""

import math

import families
import plain
import pytest
import torch
import torch.nn.functional as F
from conftest import pair, state_at, tiny, tiny_sample

from kprune import measuring
from kprune.data import batching
from kprune.encoders import Encoder
from kprune.knowledge import (
    Importance,
    Predictive,
    Representational,
    Weighted,
)
from kprune.measuring import measure
from kprune.outputs import divergence
from kprune.surgery import keep_units

GAMMA, LAM, MU = 2.0, 0.01, 64.0


def importance(gamma=GAMMA, lam=LAM, mu=MU):
    return Importance(Predictive(gamma), Representational, Weighted(lam, mu))


def assert_same(ours, theirs, family="bert"):
    assert len(ours) == len(theirs)
    near = 1e-6 if family == "modernbert" else 1e-8  # it turns queries in float32
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=near, atol=1e-16)


@pytest.mark.parametrize(
    ("family", "kind"),
    [("bert", kind) for kind in families.KINDS]
    + [("distilbert", "classification"), ("modernbert", "span"), ("deberta", "regression")],
)
@pytest.mark.parametrize("t", [1, 4])
def test_scores_equal_their_definition(family, kind, t, monkeypatch):
    """Cached hidden states, length-sorted batches: the scores of a full pass in sampling order."""
    teacher, student = pair(family, kind)
    sample = tiny_sample(kind)
    expected = plain.importance(teacher, student, sample, t, GAMMA, LAM, MU)
    for max_tokens, stretch in ((10**6, None), (40, 1), (1, 2)):
        monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", max_tokens)
        monkeypatch.setattr(measuring, "stretch_of", lambda *_, s=stretch: s)
        found = importance()(state_at(t, teacher, student, sample), t)
        assert len(found) == 6 - t
        assert_same(found, expected, family)
        assert all(score.min() > 0 for score in found)


def test_both_kinds_of_knowledge_count():
    state = state_at(1, *pair("bert", "classification"), tiny_sample())
    whole, without = importance()(state, 1), importance(lam=0.0)(state, 1)
    assert all((a > b).any() for a, b in zip(whole, without, strict=True))
    assert not importance(gamma=8.0, lam=0.0)(state, 1)[-1].allclose(without[-1])
    doubled = importance(mu=2 * MU)(state, 1)
    for t, (one, two) in enumerate(zip(whole, doubled, strict=True), 1):
        torch.testing.assert_close(two, one * (2.0 if t % 2 == 0 else 1.0))


def test_predictive_knowledge_is_zero_at_the_teacher():
    """The known weakness of the method: nothing but representation ranks the first sublayer."""
    encoder = Encoder(tiny("bert", "classification", dtype=torch.float64))
    state = state_at(0, encoder, encoder, tiny_sample())
    expected, state.outputs = state.outputs, []
    assert all(score.max() == 0 for score in importance(lam=0.0)(state, 0))
    for ours, theirs in zip(state.outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    whole = plain.knowledge(encoder, encoder, state.sample, GAMMA)[0]
    assert all(gradient.max() < 1e-25 for gradient in whole), "measuring it would tell no more"
    frozen, batch = encoder.copy(), state.batches[0]
    assert measure(frozen, 0, batch, None).gradients == []


def test_predictive_loss_against_its_formula():
    student, teacher = torch.tensor([[[1.0, 2.0]], [[0.0, -1.0]]], dtype=torch.float64)

    def kl(z_s, z_t):
        p, q = F.softmax(z_t / 3, -1).tolist(), F.softmax(z_s / 3, -1).tolist()
        return 9 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    def lost(kind, z_s, z_t, mask=None):
        return Encoder(tiny("bert", kind)).kind.distance(z_s, z_t, 3.0, mask).tolist()

    expected = kl(student[0], teacher[0])
    assert lost("classification", student, teacher) == pytest.approx([expected])
    # regression: one squared error per sample, no broadcasting of [B, 1] against [B]
    z_s, z_t = torch.tensor([[1.0], [5.0]]), torch.tensor([[0.0], [2.0]])
    assert lost("regression", z_s, z_t) == [1.0, 9.0]
    assert lost("embedding", student, teacher) == [10.0]
    # several labels: each is a yes or a no
    labels = [
        kl(F.pad(s, (0, 1)), F.pad(t, (0, 1))) for s, t in zip(student.T, teacher.T, strict=True)
    ]
    assert lost("multilabel", student, teacher) == pytest.approx([sum(labels)])
    # spans: the mean over starts and ends; tokens: over real tokens
    both = torch.stack([student, student.flip(1)], -1), torch.stack([teacher, teacher], -1)
    ends = (expected + kl(student[0].flip(0), teacher[0])) / 2
    assert lost("span", *both) == pytest.approx([ends])
    each = [kl(s, t) for s, t in zip(both[0][0], both[1][0], strict=True)]
    assert lost("tokens", *both) == pytest.approx([sum(each) / 2])
    mask = torch.tensor([[True, False]])
    assert lost("tokens", *both, mask) == pytest.approx(each[:1])


@pytest.mark.parametrize("kind", ["span", "tokens"])
def test_padding_does_not_change_a_loss(kind):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 5, 2, generator=generator)
    distance = Encoder(tiny("bert", kind)).kind.distance
    padded = [F.pad(student, (0, 0, 0, 3), value=50.0), F.pad(teacher, (0, 0, 0, 3), value=-9.0)]
    padded[0][:, -1, 0] = 9
    mask = torch.arange(8)[None] < 5
    expected = distance(student, teacher, 2.0, None)
    torch.testing.assert_close(distance(*padded, 2.0, mask), expected)
    assert not torch.allclose(distance(*padded, 2.0, None), expected)


def test_half_precision_does_not_overflow_a_loss():
    z = torch.tensor([[300.0, -300.0]], dtype=torch.float16)
    assert divergence(z, -z, 2.0).isfinite().all()
    squares = Encoder(tiny("bert", "regression")).kind.distance(z, -z, 2.0, None)
    assert squares.item() == 2 * 600**2


@pytest.mark.parametrize("family", ["bert", "deberta", "modernbert"])
def test_an_empty_sublayer_passes_the_gradient_on(family):
    """In a model that was pruned before, also where only the first token is read."""
    teacher, student = pair(family, "classification")
    for sublayer in student.sublayers[-2:]:
        keep_units(sublayer, torch.zeros(sublayer.units, dtype=torch.bool))
    found = importance(lam=0.0)(state_at(1, teacher, student, tiny_sample()), 1)
    expected = plain.importance(teacher, student, tiny_sample(), 1, GAMMA, 0.0, MU)
    assert_same(found, expected, family)
    assert found[0].max() > 0 and not len(found[-1])
