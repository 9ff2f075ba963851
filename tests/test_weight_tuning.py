"""KPWT is the least-squares optimum, and never worse than the weights it starts from."""

import numpy as np
import pytest
import torch
from conftest import KINDS, tiny, tiny_sample

from kprune.encoders import forward, view
from kprune.pruning import tune, tune_head, tune_inputs
from kprune.sampling import batches, collate
from kprune.surgery import feature_mask, keep_units
from kprune.weight_tuning import HELD_OUT, RIDGE, NormalEquations, choose_ridge, kpwt


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
def distorted(request):
    """A teacher's sublayer, a student's half of it, hidden states of both, and the batches."""
    family, t = request.param
    teacher, student = (view(tiny(family, "classification", dtype=torch.float64)) for _ in "ts")
    parts = batches(tiny_sample(count=60).examples, max_tokens=64)
    keep_units(student.sublayers[0], torch.tensor([True, False, True, False]))  # distorts the input
    hidden = []
    with torch.no_grad():
        for encoder in (teacher, student):
            hidden.append([])
            for part in parts:
                x = encoder.embed(part.inputs)
                for sublayer in encoder.sublayers[:t]:
                    x = sublayer.finish(x, sublayer.features(x, part.mask))
                hidden[-1].append(x)
    source, target = teacher.sublayers[t], student.sublayers[t]
    keep = torch.arange(target.units) % 2 == 0
    keep_units(target, keep)
    return source, target, keep, *hidden, parts


def explicit(source, target, teacher_hidden, student_hidden, parts):
    """P and the teacher's output less X_S, row by row over real tokens."""
    rows, wanted = [], []
    with torch.no_grad():
        for part, x_t, x_s in zip(parts, teacher_hidden, student_hidden, strict=True):
            real = part.attention_mask.bool()
            full = source.output(source.features(x_t, part.mask))
            rows.append(target.features(x_s, part.mask)[real])
            wanted.append((x_t + full - x_s)[real])
    return torch.cat(rows), torch.cat(wanted)


def fitted(P, Y):
    """The least-squares fit of Y by [P, 1]. Normed rows add up to a constant: only it is unique."""
    P = np.hstack([P.numpy(), np.ones((len(P), 1))])
    return P @ np.linalg.lstsq(P, Y.numpy(), rcond=None)[0]


def test_a_sublayer_is_tuned_to_the_teachers_output(distorted):
    """`tune` on a distorted, pruned student equals lstsq on explicitly gathered matrices."""
    source, target, _, *rest = distorted
    P, Y = explicit(source, target, *rest)
    before, bias = target.output.weight.clone(), target.output.bias.clone()
    result = tune(source, target, *rest)
    expected = np.linalg.lstsq(P.numpy(), (Y - bias).detach().numpy(), rcond=None)[0]
    np.testing.assert_allclose(target.output.weight.detach().T.numpy(), expected, atol=1e-4)
    assert result.after < result.before
    assert not target.output.weight.allclose(before)
    assert target.output.bias.equal(bias)


def test_the_bias_is_refit_with_the_weights(distorted):
    source, target, _, *rest = distorted
    P, Y = explicit(source, target, *rest)
    bias = target.output.bias.clone()
    result = tune(source, target, *rest, refit=["bias"])
    np.testing.assert_allclose(target.output(P).detach().numpy(), fitted(P, Y), atol=1e-4)
    assert result.after < result.before
    assert not target.output.bias.allclose(bias)


def test_an_empty_sublayer_keeps_the_teachers_mean_where_the_bias_is_refit(distorted):
    source, target, keep, *rest = distorted
    keep_units(target, torch.zeros(int(keep.sum()), dtype=torch.bool))
    _, Y = explicit(source, target, *rest)
    tune(source, target, *rest, refit=["bias"])
    torch.testing.assert_close(target.output.bias, Y.mean(0))


def test_units_get_the_inputs_that_the_teachers_get(distorted):
    """`tune_inputs` equals lstsq from [X_S, 1] to the teacher's input projections."""
    source, target, keep, teacher_hidden, student_hidden, parts = distorted
    kept = feature_mask(source, keep)
    real = [part.attention_mask.bool() for part in parts]
    X_T, X_S = (
        torch.cat([x[r] for x, r in zip(hidden, real, strict=True)])
        for hidden in (teacher_hidden, student_hidden)
    )
    old = [linear.weight.clone() for linear in target.inputs]
    result = tune_inputs(source, target, keep, teacher_hidden, student_hidden, parts)
    with torch.no_grad():
        for theirs, ours, before in zip(source.inputs, target.inputs, old, strict=True):
            expected = fitted(X_S, theirs(X_T)[:, kept])
            np.testing.assert_allclose(ours(X_S).numpy(), expected, atol=1e-4)
            assert not ours.weight.allclose(before)
    assert result.after < result.before


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_head_is_refit_to_the_teachers_logits(family, kind):
    """`tune_head` equals lstsq from what the last projection is given to the teacher's logits."""
    teacher, student = (view(tiny(family, kind, dtype=torch.float64)) for _ in "ts")
    parts = batches(tiny_sample(kind, 400).examples, max_tokens=64)
    keep_units(student.sublayers[0], torch.tensor([True, False, True, False]))
    wanted, hidden, rows = [], [], []
    with torch.no_grad():
        for part in parts:
            wanted.append(forward(teacher, part.inputs, part.mask))
            x = student.embed(part.inputs)
            for sublayer in student.sublayers:
                x = sublayer(x, part.mask)
            hidden.append(x)
            rows.append(student.readout(x))
    if kind == "span":
        real = [part.attention_mask.bool() for part in parts]
        P, Z = (torch.cat([x[r] for x, r in zip(xs, real, strict=True)]) for xs in (rows, wanted))
    else:
        P, Z = torch.cat(rows), torch.cat(wanted)
    result = tune_head(student, wanted, hidden, parts)
    least = np.square(fitted(P, Z) - Z.numpy()).sum() / Z.square().sum().item()
    assert result.after == pytest.approx(least, rel=1e-3)  # features of tanh are hardly independent
    assert result.after < 0.9 * result.before


def held_out_system(noise, tokens=40, features=30):
    """Equations of P and Y = P·W + noise, one token a sequence; also P, Y and a W next to it."""
    P, E, W = random_system(tokens, features, seed=3)
    Y = P @ W + noise * E
    equations = NormalEquations.zeros(features, W.shape[1], hold_out=True)
    lengths = collate([{"input_ids": [1]}] * tokens)
    equations.add_batch(P[:, None], Y[:, None], lengths)
    return equations, P, Y, W + 0.1 * random_system(tokens, features, seed=4)[2]


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
    noisy = NormalEquations.zeros(38, Y.shape[1], hold_out=True)
    E = 3 * random_system(40, 38, seed=5)[1]
    noisy.add_batch(P[:, None], (Y + E)[:, None], collate([{"input_ids": [1]}] * 40))
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
