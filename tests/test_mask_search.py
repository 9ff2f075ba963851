"""KPMS stays within the budget and cuts at the smallest threshold that does."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny
from plain import smallest_threshold

from kprune.encoders import Encoder
from kprune.limits.budget import Flops
from kprune.mask_search import kpms, search
from kprune.variations import to_multiple


@pytest.mark.parametrize("seed", range(20))
def test_equals_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 8, (12,), generator=generator).double()  # with ties
    costs = torch.randint(1, 6, (12,), generator=generator).double()
    for budget in (0.0, 0.5, 3.0, 11.0, costs.sum().item() - 1, costs.sum().item()):
        keep, threshold = kpms(scores, costs, budget)
        assert costs[keep].sum() <= budget
        assert keep.equal(smallest_threshold(scores, costs, budget))
        assert keep.equal(scores > threshold)


def test_no_other_mask_of_the_budget_keeps_only_higher_scores():
    """Best of all masks closed upwards: each dropped unit and its equals would break the budget."""
    generator = torch.Generator().manual_seed(1)
    scores, costs = torch.rand(9, generator=generator), torch.rand(9, generator=generator)
    keep, _ = kpms(scores, costs, 2.0)
    best = 0.0
    for choice in itertools.product((False, True), repeat=9):
        mask = torch.tensor(choice)
        closed = not mask.any() or (~mask).sum() == 0 or scores[mask].min() > scores[~mask].max()
        if closed and costs[mask].sum() <= 2.0:
            best = max(best, scores[mask].sum().item())
    assert scores[keep].sum().item() == pytest.approx(best)
    assert 0 < keep.sum() < 9


def test_order_of_the_units_does_not_matter():
    scores = torch.tensor([3.0, 1.0, 1.0, 2.0])
    costs = torch.ones(4)
    keep, _ = kpms(scores, costs, 3)
    assert keep.tolist() == [True, False, False, True]  # equal scores fall together
    order = torch.tensor([2, 0, 3, 1])
    assert kpms(scores[order], costs, 3)[0].equal(keep[order])


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 2 importance scores"):
        kpms(torch.tensor([1.0, float("nan")]), torch.ones(2), 1.0)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("t", [0, 3])
def test_the_search_is_over_all_sublayers_above_by_score_per_flop(family, t):
    encoder, generator = Encoder(tiny(family, "span")), torch.Generator().manual_seed(t)
    above = encoder.sublayers[t:]
    scores = [torch.rand(sub.units, dtype=torch.float64, generator=generator) for sub in above]
    budget = Flops(0.4 * sum(sub.units * sub.unit_flops(9) for sub in above), 9)
    masks, threshold = search(SimpleNamespace(student=encoder), t, scores, budget)
    costs = torch.cat(
        [torch.full_like(s, sub.unit_flops(9)) for s, sub in zip(scores, above, strict=True)]
    )
    expected = smallest_threshold(torch.cat(scores) / costs, costs, budget.left)
    assert torch.cat(masks).equal(expected) and 0 < expected.sum() < len(expected)
    assert expected.equal(torch.cat(scores) / costs > threshold)


@pytest.mark.parametrize(
    ("wanted", "most", "expected"),
    [(0, 9, 0), (1, 9, 0), (3, 9, 4), (5, 9, 4), (7, 9, 8), (7, 7, 4), (10, 10, 10)],
)
def test_neurons_are_rounded_to_a_multiple_that_the_budget_affords(wanted, most, expected):
    scores = torch.tensor([5.0, 1, 9, 3, 8, 2, 7, 4, 6, 0])
    keep = scores > 9 - wanted
    assert keep.sum() == wanted
    found = to_multiple(keep, scores, 4, most)
    assert found.equal(scores > 9 - expected), "the best-scored ones"
    assert to_multiple(keep, scores, 1, most).equal(keep)
