"""KPWT is the least-squares optimum, and never worse than the weights it starts from."""

import numpy as np
import pytest
import torch
from conftest import KINDS, pair, state_at, tiny_sample
from families import LAYERS
from plain import seen, system

from kprune.data import batching
from kprune.engine.least_squares import HELD_OUT, RIDGE, NormalEquations, choose_ridge
from kprune.plus.refits import TuneHead, TuneInputs
from kprune.surgery import feature_mask, keep_units
from kprune.weight_tuning import TuneOutput, gather_output, kpwt


def streamed(features, target, parts=7):
    equations = NormalEquations.zeros(features.shape[1], target.shape[1])
    for p, y in zip(features.chunk(parts), target.chunk(parts), strict=True):
        equations.add(p, y)
    return equations


def random_system(tokens=300, features=12, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    P = torch.randn(tokens, features, dtype=torch.float64, generator=generator)
    Y = torch.randn(tokens, d, dtype=torch.float64, generator=generator)
    W = torch.randn(features, d, dtype=torch.float64, generator=generator)
    return P, Y, W


def test_equals_lstsq_on_the_explicit_matrices():
    P, Y, W = random_system()
    tuned, result = kpwt(streamed(P, Y), W)
    expected = np.linalg.lstsq(P.numpy(), Y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(tuned.numpy(), expected, atol=1e-6)
    assert result.status == "tuned"
    explicit = (Y - P @ tuned).square().sum() / Y.square().sum()
    assert result.after == pytest.approx(explicit.item(), rel=1e-9)
    assert result.before == pytest.approx(
        ((Y - P @ W).square().sum() / Y.square().sum()).item(), rel=1e-9
    )
    assert result.after < 0.5 * result.before


def test_the_gradient_vanishes_at_the_optimum():
    P, Y, W = random_system(seed=1)
    tuned = kpwt(streamed(P, Y), W)[0].requires_grad_()
    (Y - P @ tuned).square().sum().backward()
    assert tuned.grad.abs().max() < 1e-3 * (P.T @ Y).abs().max()


@pytest.fixture(params=[(f, t) for f in ("bert", "distilbert") for t in (2, 3)], ids=str)
def distorted(request, monkeypatch):
    """A student whose sublayers 0 and t are pruned, where pruning stands at t; and t's mask."""
    monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", 64)
    family, t = request.param
    teacher, student = pair(family, "classification")
    state = state_at(t, teacher, student, tiny_sample(count=60))
    keep = torch.arange(student.sublayers[t].units) % 2 == 0
    keep_units(student.sublayers[t], keep)
    return state, t, keep


def explicit(state, t):
    """P and the teacher's output less X_S, row by row over real tokens."""
    return system(state.teacher, state.student, t, state.sample.examples)


def fitted(P, Y):
    """The least-squares fit of Y by [P, 1]. Normed rows add up to a constant: only it is unique."""
    P = np.hstack([P.numpy(), np.ones((len(P), 1))])
    return P @ np.linalg.lstsq(P, Y.numpy(), rcond=None)[0]


def test_a_sublayer_is_tuned_to_the_teachers_output(distorted):
    """On a distorted, pruned student: lstsq on explicitly gathered matrices."""
    state, t, keep = distorted
    output = state.student.sublayers[t].output
    P, Y = explicit(state, t)
    before, bias = output.weight.clone(), output.bias.clone()
    result = TuneOutput()(state, t, keep)
    expected = np.linalg.lstsq(P.numpy(), (Y - bias).detach().numpy(), rcond=None)[0]
    np.testing.assert_allclose(output.weight.detach().T.numpy(), expected, atol=1e-4)
    assert result.after < result.before
    assert not output.weight.allclose(before)
    assert output.bias.equal(bias)


def test_the_bias_is_refit_with_the_weights(distorted):
    state, t, keep = distorted
    output = state.student.sublayers[t].output
    P, Y = explicit(state, t)
    bias = output.bias.clone()
    result = TuneOutput(bias=True)(state, t, keep)
    np.testing.assert_allclose(output(P).detach().numpy(), fitted(P, Y), atol=1e-4)
    assert result.after < result.before
    assert not output.bias.allclose(bias)


def test_an_empty_sublayer_keeps_the_teachers_mean_where_the_bias_is_refit(distorted):
    state, t, keep = distorted
    target = state.student.sublayers[t]
    keep_units(target, torch.zeros(target.units, dtype=torch.bool))
    _, Y = explicit(state, t)
    TuneOutput(bias=True)(state, t, keep)
    torch.testing.assert_close(target.output.bias.detach(), Y.mean(0))


def test_units_get_the_inputs_that_the_teachers_get(distorted):
    """Lstsq from [X_S, 1] to the teacher's input projections."""
    state, t, keep = distorted
    source, target = state.teacher.sublayers[t], state.student.sublayers[t]
    X_T, X_S = (
        seen(encoder.model, sub.inputs[0], state.sample.examples)
        for encoder, sub in ((state.teacher, source), (state.student, target))
    )
    old = [linear.weight.clone() for linear in target.inputs]
    result = TuneInputs()(state, t, keep)
    with torch.no_grad():
        for theirs, ours, before in zip(source.inputs, target.inputs, old, strict=True):
            expected = fitted(X_S, theirs(X_T)[:, feature_mask(source, keep)])
            np.testing.assert_allclose(ours(X_S).numpy(), expected, atol=1e-4)
            assert not ours.weight.allclose(before)
    assert result.after < result.before


@pytest.mark.parametrize("family", ["modernbert", "modernbert, mean"])
@pytest.mark.parametrize("t", [2, 3])
def test_fused_and_gated_projections_without_biases_are_tuned_alike(family, t):
    """Each side of a gate, and each of queries, keys and values, gets what the teacher's gets."""
    teacher, student = pair(family, "classification")
    state = state_at(t, teacher, student, tiny_sample(count=60))
    source, target = teacher.sublayers[t], student.sublayers[t]
    keep = torch.arange(source.units) % 2 == 0
    keep_units(target, keep)
    rows = state.sample.examples
    X_T, X_S = (seen(e.model, e.sublayers[t].inputs[0], rows) for e in (teacher, student))
    with torch.no_grad():
        wanted = source.inputs[0](X_T).unflatten(1, (source.blocks, -1))
        wanted = wanted[..., feature_mask(source, keep)].flatten(1)
    TuneInputs()(state, t, keep)
    expected = X_S @ torch.linalg.lstsq(X_S, wanted).solution
    torch.testing.assert_close(target.inputs[0](X_S).detach(), expected, atol=1e-4, rtol=1e-4)
    before = gather_output(state, t).error(target.output.weight.T)
    result = TuneOutput(bias=True)(state, t, keep)  # there is none to refit
    assert result.after < result.before == pytest.approx(before)


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, kind) for family in ("bert", "distilbert") for kind in KINDS]
    + [("roberta", "multilabel"), ("deberta", "tokens"), ("modernbert", "classification")],
)
def test_the_head_is_refit_to_the_teachers_outputs(family, kind):
    """Lstsq from what the last projection is given to the teacher's outputs."""
    teacher, student = pair(family, kind)
    state = state_at(2 * LAYERS, teacher, student, tiny_sample(kind, 300))
    reads = [encoder.last for encoder in (teacher, student)]
    rows = state.sample.examples
    given = [seen(e.model, e.last, rows) for e in (teacher, student)]
    Z = reads[0](given[0]).detach()
    result = TuneHead()(state)
    least = np.square(fitted(given[1], Z) - Z.numpy()).sum() / Z.square().sum().item()
    assert result.after == pytest.approx(least, rel=1e-3)  # features of tanh are hardly independent
    assert result.after < 0.9 * result.before
    Z_S = reads[1](given[1]).detach()
    assert ((Z_S - Z).square().sum() / Z.square().sum()).item() == pytest.approx(least, rel=1e-3)


def test_without_a_head_there_is_nothing_to_refit():
    state = state_at(2 * LAYERS, *pair("bert", "embedding"), tiny_sample("embedding"))
    assert TuneHead()(state) is None


def held_out_system(noise, tokens=40, features=30):
    """Equations of P and Y = P·W + noise, one token a sequence; also P, Y and a W next to it."""
    P, E, W = random_system(tokens, features, seed=3)
    Y = P @ W + noise * E
    return held_out(P, Y), P, Y, W + 0.1 * random_system(tokens, features, seed=4)[2]


def held_out(P, Y):
    equations = NormalEquations.zeros(P.shape[1], Y.shape[1], hold_out=True)
    equations.add(P, Y)
    equations.held_out.add(P[::HELD_OUT], Y[::HELD_OUT])
    return equations


@pytest.mark.parametrize("max_tokens", [1, 64, 10**6])
def test_every_tenth_sequence_is_held_out_whatever_the_batches(max_tokens, monkeypatch):
    monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", max_tokens)
    teacher, student = pair("bert", "classification")
    state = state_at(2, teacher, student, tiny_sample(count=60))
    equations = gather_output(state, 2, bias=True, hold_out=True)
    for sums, every in ((equations, 1), (equations.held_out, HELD_OUT)):
        rows = range(0, 60, every)
        P, Y = system(teacher, student, 2, [state.sample.examples[i] for i in rows])
        P = torch.cat([P, torch.ones(len(P), 1)], 1)
        torch.testing.assert_close(sums.gram, P.T @ P)
        torch.testing.assert_close(sums.moment, P.T @ Y)
        torch.testing.assert_close(sums.target, Y.square().sum())


def test_the_ridge_is_that_of_the_least_error_on_held_out_sequences():
    equations, P, Y, start = held_out_system(noise=0.03)
    held = torch.arange(len(P)) % HELD_OUT == 0
    assert equations.held_out.gram.allclose(P[held].T @ P[held])
    errors = {}
    for power in range(-7, 1):
        gram = P[~held].T @ P[~held]
        stiff = gram + 10.0**power * gram.diagonal().diag()
        tuned = start + torch.linalg.solve(stiff, P[~held].T @ (Y[~held] - P[~held] @ start))
        errors[power] = (Y[held] - P[held] @ tuned).square().sum().item()
    best = min(errors, key=errors.get)
    assert choose_ridge(equations, start) == pytest.approx(10.0**best)
    assert kpwt(equations, start)[1].ridge == pytest.approx(10.0**best)
    assert -7 < best < 0, "noise wants some ridge, and not all of it"


def test_weights_stay_where_held_out_sequences_want_no_change():
    """All noise: every fit of the others is worse on what is held out than the weights it had."""
    _, P, Y, _ = held_out_system(noise=0.0, tokens=40, features=38)
    truth = torch.linalg.lstsq(P, Y).solution
    noisy = held_out(P, Y + 3 * random_system(40, 38, seed=5)[1])
    assert choose_ridge(noisy, truth) == float("inf")
    kept, result = kpwt(noisy, truth)
    assert kept.equal(truth) and result.status == "kept" and result.after == result.before


def test_without_noise_or_without_held_out_rows_the_ridge_is_small():
    equations, *_, start = held_out_system(noise=0.0)
    assert choose_ridge(equations, start) == RIDGE
    P, Y, W = random_system()
    assert choose_ridge(streamed(P, Y), W) == RIDGE


@pytest.mark.parametrize("case", ["duplicate", "dead", "fewer tokens than features", "huge"])
def test_an_ill_conditioned_system_is_finite_and_no_worse(case):
    P, Y, W = random_system(tokens=8 if case.startswith("fewer") else 300, seed=2)
    if case == "duplicate":
        P[:, 1] = P[:, 0]
    elif case == "dead":
        P[:, 3] = 0
    elif case == "huge":
        P[:, 0] *= 1e12
    P, Y, W = P.float(), Y.float(), W.float()
    tuned, result = kpwt(streamed(P, Y, 2), W)
    assert tuned.isfinite().all()
    assert result.after <= result.before
    assert result.status in ("tuned", "stiffened", "untuned")
    if case == "dead":
        assert tuned[3].equal(W[3]), "what the sample says nothing about stays as it was"


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_system_that_is_not_finite_leaves_the_weights(poison):
    P, Y, W = random_system()
    P[5, 2] = poison
    tuned, result = kpwt(streamed(P, Y), W)
    assert tuned.equal(W)
    assert result.status == "untuned"


def test_an_exact_fit_is_kept():
    P, _, W = random_system()
    tuned, result = kpwt(streamed(P, P @ W), W)
    torch.testing.assert_close(tuned, W)
    assert result.after <= result.before + 1e-12


def test_no_features_leave_nothing_to_tune():
    _, Y, _ = random_system()
    tuned, result = kpwt(streamed(torch.empty(300, 0).double(), Y), torch.empty(0, 5).double())
    assert tuned.shape == (0, 5)
    assert result.status == "empty"
    assert result.before == result.after == 1.0
