"""K-prune+: each ingredient is what it says, against its definition."""

import copy
import itertools
from functools import cache

import families
import plain
import pytest
import torch
import torch.nn.functional as F
from conftest import KINDS, batch_of, logits, pair, state_at, tiny, tiny_sample

import kprune
from kprune.data import batching
from kprune.encoders import Encoder
from kprune.knowledge import Importance
from kprune.plus import elimination
from kprune.plus.elimination import eliminate, elimination_errors
from kprune.plus.fisher import Fisher, draw_signs
from kprune.state import State


@pytest.mark.parametrize("kind", families.KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_probes_average_to_the_curvature_of_the_loss(kind, padded):
    """E[u·uᵀ] is the Hessian of K_pred where the student equals the teacher; half of it of squares.

    Exactly: the mean over all signs that can be drawn.
    """
    record = Encoder(tiny("bert", kind)).kind
    shape = {"span": (4, 2), "tokens": (3, 3), "embedding": (5,)}.get(kind, (record.outputs,))
    mask = torch.arange(shape[0])[None] < 2 if padded and len(shape) == 2 else None
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(1, *shape, dtype=torch.float64, generator=generator)
    hessian = torch.autograd.functional.hessian(
        lambda student: record.distance(student, z, 2.0, mask).sum(), z
    ).reshape(z.numel(), -1)
    signs = torch.tensor([*itertools.product((-1, 1), repeat=z.numel())]).view(-1, *shape)
    leaves = z.expand(len(signs), *shape).clone().requires_grad_()
    probed = record.probe(leaves, z.expand_as(leaves), 2.0, mask, signs)
    (directions,) = torch.autograd.grad(probed.sum(), leaves)
    second = directions.flatten(1).T @ directions.flatten(1) / len(signs)
    factor = 0.5 if kind in ("regression", "embedding") else 1.0
    torch.testing.assert_close(second, factor * hessian)
    assert hessian.abs().max() > 0.02


@pytest.mark.parametrize("kind", families.KINDS)
def test_a_sequence_has_the_same_signs_in_every_batch(kind, monkeypatch):
    def drawn(max_tokens, seed=0):
        monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", max_tokens)
        encoder = Encoder(tiny("bert", kind))
        state = State(encoder, encoder, tiny_sample(kind))
        found = {}
        for batch, signs in zip(state.batches, draw_signs(state, seed), strict=True):
            assert signs.shape == encoder.run(batch).shape and signs.abs().min() == 1
            for index, real, own in zip(
                batch.index.tolist(), batch.attention_mask.bool(), signs, strict=True
            ):
                found[index] = (own[real] if own.dim() == 2 else own).flatten().tolist()
        return [found[index] for index in range(23)]

    one, few, all_at_once = (drawn(max_tokens) for max_tokens in (1, 40, 10**6))
    assert one == few == all_at_once != drawn(40, seed=1)
    assert 0.3 < sum(x > 0 for signs in one for x in signs) / sum(map(len, one)) < 0.7


def least_squares_error(gram, weight, kept):
    """min over W′ of ‖P·W − P_kept·W′‖², by the explicit normal equations."""
    target = weight.T @ gram @ weight
    if not len(kept):
        return target.trace()
    moment = gram[kept] @ weight
    return (target - moment.T @ torch.linalg.solve(gram[kept][:, kept], moment)).trace()


@pytest.mark.parametrize("unit_size", [1, 3])
def test_elimination_is_greedy_and_its_errors_are_those_of_least_squares(unit_size, monkeypatch):
    monkeypatch.setattr(elimination, "RIDGE", 0.0)
    monkeypatch.setattr(elimination, "CHUNK", 10**6)  # one at a time
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(9, 9, dtype=torch.float64, generator=generator)
    rows = torch.randn(40, 9, dtype=torch.float64, generator=generator) @ mixing
    gram, weight = rows.T @ rows, torch.randn(9, 4, dtype=torch.float64, generator=generator)
    found = eliminate(gram, weight, unit_size)
    units = torch.arange(9).view(-1, unit_size)
    alive, order, error = list(range(len(units))), found.argsort().tolist(), 0.0
    for unit in order:
        growth = {
            other: least_squares_error(
                gram, weight, units[[u for u in alive if u != other]].flatten()
            )
            for other in alive
        }
        assert min(growth, key=growth.get) == unit
        alive.remove(unit)
        assert found[unit] == pytest.approx(float(growth[unit] - error), rel=1e-6) or (
            found[unit] >= growth[unit] - error
        )
        error = growth[unit]
    assert found.sum() >= (weight.T @ gram @ weight).trace() * (1 - 1e-9)


def test_units_that_others_can_replace_cost_nothing():
    """Two equal features: one of them is free, and neither is where the paper's score is high."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 3, dtype=torch.float64, generator=generator)
    rows = torch.cat([5 * rows[:, :1], 5 * rows[:, :1], rows[:, 1:]], 1)
    weight = torch.ones(4, 2, dtype=torch.float64)
    found = eliminate(rows.T @ rows, weight, 1)
    assert sorted(found[:2] > found[2:].max()) == [False, True]


def errors_of(family, kind, count, first_only=None):
    """The errors of all sublayers, and the dense model's state."""
    encoder = Encoder(tiny(family, kind, dtype=torch.float64))
    state = State(encoder, encoder, tiny_sample(kind, count))
    if first_only is not None:
        state.kind = copy.copy(state.kind)
        state.kind.first_only = first_only
    with torch.no_grad():
        return elimination_errors(state), state


def test_few_first_tokens_are_not_enough_to_judge_by():
    """With fewer sequences than features, the last layer's errors are over all tokens."""
    few, state = errors_of("bert", "classification", 20)
    everywhere, _ = errors_of("bert", "classification", 20, first_only=False)
    assert state.kind.first_only and state.student.sublayers[-1].output.in_features > 20
    assert all(ours.equal(theirs) for ours, theirs in zip(few, everywhere, strict=True))


@pytest.mark.parametrize("max_tokens", [40, 10**6])
@pytest.mark.parametrize("kind", ["classification", "tokens"])
def test_the_last_layer_is_judged_by_the_tokens_that_are_read(kind, max_tokens, monkeypatch):
    """The errors of all units add up to ‖P·W‖² where the head reads, in units of its variance."""
    monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", max_tokens)
    found, state = errors_of("bert", kind, 60)
    for t, sub in enumerate(state.student.sublayers):
        rows = state.sample.examples
        P, total = (
            plain.seen(state.student.model, module, rows)
            for module in (sub.output, plain.norms(state.student)[t])
        )
        if kind == "classification" and sub.layer == families.LAYERS - 1:
            lengths = torch.tensor([len(row["input_ids"]) for row in rows])
            first = lengths.cumsum(0) - lengths
            P, total = P[first], total[first]
        lost = (P @ sub.output.weight.detach().T).square().sum()
        expected = lost / total.var(-1).sum()
        assert found[t].sum().item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("kind", KINDS)
def test_prunes_to_the_limit(family, kind):
    model, sample = tiny(family, kind), tiny_sample(kind, 60)
    smaller, report = kprune.prune(model, sample, 0.5, "kprune+", progress=False)
    assert report.flops <= report.limit
    assert all(tuning.after <= tuning.before for tuning in report.tuning)
    batch = batch_of(sample)
    assert not torch.equal(logits(smaller, batch), logits(model, batch))
    assert report.kept != kprune.prune(model, sample, 0.5, progress=False)[1].kept


@cache
def outputs_without(ingredient):
    # Many sequences: with few, the head does best as it is.
    model, sample = tiny("bert", "classification"), tiny_sample(count=300)
    options = {"lam": 0.01, "without": ingredient, "progress": False}
    smaller, report = kprune.prune(model, sample, 0.5, "kprune+", **options)
    assert report.flops <= report.limit
    return logits(smaller, batch_of(sample))


@pytest.mark.parametrize("ingredient", kprune.INGREDIENTS["kprune+"])
def test_each_ingredient_changes_the_result(ingredient):
    assert not torch.equal(outputs_without(""), outputs_without(ingredient))


def test_the_first_sublayer_has_predictive_knowledge():
    """Weak point 1 is mended: its gradient is zero in the paper's method, not here."""
    encoder = Encoder(tiny("bert", "classification"))
    state = State(encoder, encoder, tiny_sample(count=60))
    found = Importance(Fisher(), None, lambda sublayers, ours, theirs: ours)(state, 0)
    assert all((score > 0).all() for score in found)
    p = F.softmax(logits(encoder.model, batch_of(state.sample)) / 2, -1)
    assert p.min() > 0  # and the teacher is not certain, or its information would be zero


@pytest.mark.parametrize("kind", families.KINDS)
def test_fisher_information_is_that_of_each_mask_by_hand(kind, monkeypatch):
    """Half the mean square of each unit's mask gradient of the probe, one sequence at a time."""
    monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", 60)
    state = state_at(1, *pair("bert", kind), tiny_sample(kind))
    found = Importance(Fisher(), None, lambda sublayers, ours, theirs: ours)(state, 1)
    totals = [torch.zeros_like(score) for score in found]
    model, above = state.student.model, state.student.sublayers[1:]
    signs = {
        index: own
        for batch, drawn in zip(state.batches, draw_signs(state, 0), strict=True)
        for index, own in zip(batch.index.tolist(), drawn, strict=True)
    }
    for index, row in enumerate(state.sample.examples):
        batch, length = families.batch_of([row]), len(row["input_ids"])
        masks = [torch.ones(sub.units, dtype=torch.float64, requires_grad=True) for sub in above]
        hooks = [
            sub.output.register_forward_pre_hook(
                lambda _, given, m=m, n=sub.unit_size: (given[0] * m.repeat_interleave(n),)
            )
            for sub, m in zip(above, masks, strict=True)
        ]
        ours = state.kind.read(families.forward(model, batch), None)
        for hook in hooks:
            hook.remove()
        theirs = state.kind.read(families.forward(state.teacher.model, batch), None).detach()
        own = signs[index][:length] if ours.dim() == 3 else signs[index]
        probe = state.kind.probe(ours, theirs, 2.0, None, own[None])
        for total, gradient in zip(totals, torch.autograd.grad(probe.sum(), masks), strict=True):
            total += gradient.square() / 2 / len(state.sample.examples)
    for ours, theirs in zip(found, totals, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_several_ingredients_can_be_left_out_and_no_unknown_one():
    model, sample = tiny("bert", "classification"), tiny_sample(count=60)
    without = "fisher, elimination"
    report = kprune.prune(model, sample, 0.5, "kprune+", without=without, progress=False)[1]
    assert report.flops <= report.limit
    for method in ("kprune", "kprune+", "random"):
        with pytest.raises(ValueError, match="'fishing' is not among those"):
            kprune.prune(model, sample, 0.5, method, without="fishing")
