"""KPWT is the least-squares optimum, and never worse than the weights it starts from."""

import numpy as np
import pytest
import torch
from conftest import tiny, tiny_sample

from kprune.encoders import view
from kprune.pruning import tune
from kprune.sampling import batches
from kprune.surgery import keep_units
from kprune.weight_tuning import NormalEquations, kpwt


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


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("t", [2, 3])
def test_a_sublayer_is_tuned_to_the_teachers_output(family, t):
    """`tune` on a distorted, pruned student equals lstsq on explicitly gathered matrices."""
    teacher = view(tiny(family, "classification", dtype=torch.float64))
    student = view(tiny(family, "classification", dtype=torch.float64))
    sample = tiny_sample(count=60)
    parts = batches(sample.examples, max_tokens=64)
    keep_units(student.sublayers[0], torch.tensor([True, False, True, False]))  # distorts the input
    hidden = {}
    with torch.no_grad():
        for encoder in (teacher, student):
            hidden[encoder.model] = []
            for part in parts:
                x = encoder.embed(part.inputs)
                for sublayer in encoder.sublayers[:t]:
                    x = sublayer.finish(x, sublayer.features(x, part.mask))
                hidden[encoder.model].append(x)
    target = student.sublayers[t]
    keep = torch.arange(target.units) % 2 == 0
    keep_units(target, keep)
    rows, wanted = [], []
    with torch.no_grad():
        for part, x_t, x_s in zip(parts, hidden[teacher.model], hidden[student.model], strict=True):
            real = part.attention_mask.bool()
            full = teacher.sublayers[t].output(teacher.sublayers[t].features(x_t, part.mask))
            rows.append(target.features(x_s, part.mask)[real])
            wanted.append((x_t + full - x_s - target.output.bias)[real])
    P, Y = torch.cat(rows), torch.cat(wanted)
    before, bias = target.output.weight.clone(), target.output.bias.clone()
    result = tune(
        teacher.sublayers[t],
        student.sublayers[t],
        hidden[teacher.model],
        hidden[student.model],
        parts,
    )
    expected = np.linalg.lstsq(P.numpy(), Y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(target.output.weight.detach().T.numpy(), expected, atol=1e-4)
    assert result.after < result.before
    assert not target.output.weight.allclose(before)
    assert target.output.bias.equal(bias)


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
