"""K-prune+: each ingredient is what it says, against its definition."""

import pytest
import torch
import torch.nn.functional as F
from conftest import KINDS, TASKS, batch_of, logits, tiny, tiny_sample

import kprune
from kprune import beyond
from kprune.encoders import view
from kprune.knowledge import predictive_loss
from kprune.pruning import INGREDIENTS


@pytest.mark.parametrize("kind", KINDS)
def test_probes_average_to_the_curvature_of_the_loss(kind):
    """E[u·uᵀ] is the Hessian of K_pred where the student equals the teacher; half of it for MSE."""
    generator = torch.Generator().manual_seed(0)
    shape = {"classification": (1, 3), "regression": (1, 1), "span": (1, 4, 2)}[kind]
    z = 2 * torch.randn(shape, dtype=torch.float64, generator=generator)
    hessian = torch.autograd.functional.hessian(
        lambda student: predictive_loss(student, z, kind, 2.0).sum(), z
    ).reshape(z.numel(), -1)
    count = 20_000
    leaves = z.expand(count, *shape[1:]).clone().requires_grad_()
    probed = beyond.fisher_probe(leaves, z.expand_as(leaves), kind, 2.0, None, generator)
    (directions,) = torch.autograd.grad(probed.sum(), leaves)
    directions = directions.flatten(1)
    second = directions.T @ directions / count
    if kind == "span":  # start and end are summed, so they are correlated; each alone is right
        start = torch.arange(0, z.numel(), 2)
        second, hessian = second[start][:, start], hessian[start][:, start]
    factor = 0.5 if kind == "regression" else 1.0
    torch.testing.assert_close(second, factor * hessian, atol=0.01, rtol=0.05)
    assert hessian.abs().max() > 0.05


def least_squares_error(gram, weight, kept):
    """min over W′ of ‖P·W − P_kept·W′‖², by the explicit normal equations."""
    target = weight.T @ gram @ weight
    if not len(kept):
        return target.trace()
    moment = gram[kept] @ weight
    return (target - moment.T @ torch.linalg.solve(gram[kept][:, kept], moment)).trace()


@pytest.mark.parametrize("unit_size", [1, 3])
def test_elimination_is_greedy_and_its_errors_are_those_of_least_squares(unit_size, monkeypatch):
    monkeypatch.setattr(beyond, "RIDGE", 0.0)
    monkeypatch.setattr(beyond, "CHUNK", 10**6)  # one at a time
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(9, 9, dtype=torch.float64, generator=generator)
    rows = torch.randn(40, 9, dtype=torch.float64, generator=generator) @ mixing
    gram, weight = rows.T @ rows, torch.randn(9, 4, dtype=torch.float64, generator=generator)
    found = beyond.eliminate(gram, weight, unit_size)
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
    found = beyond.eliminate(rows.T @ rows, weight, 1)
    assert sorted(found[:2] > found[2:].max()) == [False, True]


def test_few_first_tokens_are_not_enough_to_judge_by():
    """With fewer sequences than features, the last layer's errors are over all tokens."""
    encoder, batch = view(tiny("bert", "classification")), batch_of(tiny_sample(count=20))
    with torch.no_grad():
        embedded = encoder.embed(batch.inputs)
    few, spans = (
        beyond.elimination_errors(encoder, [embedded], [batch], TASKS[kind])
        for kind in ("classification", "span")
    )
    assert encoder.sublayers[-1].output.in_features > 20
    assert all(ours.equal(theirs) for ours, theirs in zip(few, spans, strict=True))


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifiers_last_layer_is_judged_by_its_first_token(kind):
    """The errors of all units add up to ‖P·W‖² where the head reads, in units of its variance."""
    encoder, batch = view(tiny("bert", kind)), batch_of(tiny_sample(kind, 60))
    real = batch.mask.clone()
    with torch.no_grad():
        x = embedded = encoder.embed(batch.inputs)
        for sublayer in encoder.sublayers[:-1]:
            x = sublayer(x, batch.mask)
        out = encoder.sublayers[-1].output
        lost = out(encoder.sublayers[-1].features(x, batch.mask)) - out.bias
        found = beyond.elimination_errors(encoder, [embedded], [batch], TASKS[kind])[-1]
    if kind != "span":
        real[:, 1:] = False
    summed = x + lost + out.bias
    expected = lost[real].square().sum() / summed[real].var(-1).sum()
    assert found.sum().item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("ingredient", INGREDIENTS["kprune+"])
def test_each_ingredient_changes_the_result(ingredient):
    def outputs(without):
        # Many sequences: with few, the head does best as it is.
        model, sample = tiny("bert", "classification"), tiny_sample(count=400)
        smaller, report = kprune.prune(
            model, sample, 0.5, "kprune+", lam=0.01, without=without, progress=False
        )
        assert report.flops <= report.limit
        return logits(smaller, batch_of(sample))

    assert not torch.equal(outputs(""), outputs(ingredient))


def test_the_first_sublayer_has_predictive_knowledge():
    """Weak point 1 is mended: its gradient is zero in the paper's method, not here."""
    model, sample = tiny("bert", "classification"), tiny_sample(count=60)
    encoder, batch = view(model), batch_of(sample)
    with torch.no_grad():
        hidden = encoder.embed(batch.inputs)
    found = beyond.Importance(without=["elimination"]).knowledge(
        encoder, 0, [hidden], [batch], [], TASKS["classification"], None, lambda: None
    )[0]
    assert all((score > 0).all() for score in found)
    p = F.softmax(logits(model, batch) / 2, -1)
    assert p.min() > 0  # and the teacher is not certain, or its information would be zero


def test_several_ingredients_can_be_left_out_and_no_unknown_one():
    model, sample = tiny("bert", "classification"), tiny_sample(count=60)
    without = "fisher, elimination"
    report = kprune.prune(model, sample, 0.5, "kprune+", without=without, progress=False)[1]
    assert report.flops <= report.limit
    for method in ("kprune", "kprune+", "random"):
        with pytest.raises(ValueError, match="'fishing' is not among those"):
            kprune.prune(model, sample, 0.5, method, without="fishing")
