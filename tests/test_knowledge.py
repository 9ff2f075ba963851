"""Importance is what its formulas say, however the passes are batched and wherever they start."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from conftest import KINDS, TASKS, tiny, tiny_sample

from kprune import passes
from kprune.encoders import forward, view
from kprune.knowledge import importance, predictive_loss, representational_loss
from kprune.sampling import batches, collate
from kprune.surgery import keep_units

GAMMA, LAM, MU, LENGTH = 2.0, 0.01, 64.0, 9.0


def pair(family, kind):
    """A teacher and a student of it whose first sublayer is pruned, in float64."""
    teacher = view(tiny(family, kind, dtype=torch.float64))
    student = view(tiny(family, kind, dtype=torch.float64))
    keep_units(student.sublayers[0], torch.tensor([True, False, False, True]))
    for encoder in (teacher, student):
        encoder.model.requires_grad_(False)
    return teacher, student


def run_to(encoder, parts, start):
    """Hidden states at the input of sublayer `start`, and the logits."""
    hidden, out = [], []
    with torch.no_grad():
        for part in parts:
            x = encoder.embed(part.inputs)
            for sublayer in encoder.sublayers[:start]:
                x = sublayer.finish(x, sublayer.features(x, part.mask))
            hidden.append(x)
            out.append(forward(encoder, part.inputs, part.mask))
    return hidden, out


def measured(family, kind, start, max_tokens):
    teacher, student = pair(family, kind)
    sample = tiny_sample(kind)
    parts = batches(sample.examples, max_tokens=max_tokens)
    hidden, _ = run_to(student, parts, start)
    _, wanted = run_to(teacher, parts, 0)
    return importance(student, start, hidden, parts, wanted, TASKS[kind], LENGTH, GAMMA, LAM, MU)


def by_definition(family, kind, start):
    """The same scores by explicit mask variables, whole minibatches and no caching."""
    teacher, student = pair(family, kind)
    sample, size = tiny_sample(kind), TASKS[kind].minibatch
    masks = [
        torch.ones(sub.output.in_features, dtype=torch.float64, requires_grad=True)
        for sub in student.sublayers
    ]
    squares = [torch.zeros_like(mask) for mask in masks]
    gradients = [torch.zeros_like(mask) for mask in masks]
    for first in range(0, len(sample.examples), size):
        part = collate(sample.examples[first : first + size])
        x = student.embed(part.inputs)
        for i, sublayer in enumerate(student.sublayers):
            features = sublayer.features(x, part.mask) * masks[i]
            squares[i] += features.detach()[part.attention_mask.bool()].square().sum(0)
            x = sublayer.finish(x, features)
        loss = predictive_loss(
            student.head(x), forward(teacher, part.inputs, part.mask), kind, GAMMA, part.mask
        ).mean()
        for total, gradient in zip(gradients, torch.autograd.grad(loss, masks), strict=True):
            total += gradient.square()
    scores = []
    for i, sublayer in enumerate(student.sublayers[start:], start):
        predictive = gradients[i] / 2 / len(sample.examples)
        weight = sublayer.output.weight.square().mean(0)
        score = (predictive + LAM * squares[i] / sample.tokens * weight).unflatten(
            0, (-1, sublayer.unit_size)
        )
        factor = MU if sublayer.kind == "MHA" else 1.0
        scores.append(score.mean(1) * factor / sublayer.unit_flops(LENGTH))
    return scores


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [1, 4])
def test_scores_equal_their_definition(family, kind, start):
    """Cached hidden states, length-sorted batches: the scores of a full pass in sampling order."""
    expected = by_definition(family, kind, start)
    for max_tokens in (10**6, 40, 1):
        found = measured(family, kind, start, max_tokens)
        assert len(found) == 6 - start
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-16)
            assert ours.min() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stretch", [1, 2, 4])
def test_deep_models_pass_in_stretches_with_the_same_scores(kind, stretch, monkeypatch):
    expected = measured("bert", kind, 1, 40)
    alive = []
    make = passes.make_steps

    def watched(*arguments):
        alive.append(len([step for step in made if step() is not None]))
        steps = make(*arguments)
        made.extend(map(weakref.ref, steps))
        return steps

    made = []
    monkeypatch.setattr(passes, "make_steps", watched)
    monkeypatch.setattr(passes, "SHALLOW", 3)
    monkeypatch.setattr(passes, "STRETCH", stretch)
    monkeypatch.setattr(passes, "GROUP", 2)
    found = measured("bert", kind, 1, 40)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert max(alive) == 0 and len(alive) > 2  # one stretch's weights at a time
    # The first measurement takes no gradient, and gives the teacher's logits.
    encoder = view(tiny("bert", kind, dtype=torch.float64))
    parts = batches(tiny_sample(kind).examples, max_tokens=40)
    hidden, logits = run_to(encoder, parts, 0)
    filled = []
    importance(encoder, 0, hidden, parts, filled, TASKS[kind], LENGTH)
    for ours, theirs in zip(filled, logits, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_both_kinds_of_knowledge_count():
    teacher, student = pair("bert", "classification")
    parts = batches(tiny_sample().examples)
    hidden, _ = run_to(student, parts, 1)
    _, wanted = run_to(teacher, parts, 0)
    arguments = (student, 1, hidden, parts, wanted, TASKS["classification"], LENGTH)
    whole = importance(*arguments, gamma=GAMMA, lam=LAM, mu=MU)
    without = importance(*arguments, gamma=GAMMA, lam=0.0, mu=MU)
    assert all((a > b).any() for a, b in zip(whole, without, strict=True))
    hotter = importance(*arguments, gamma=8.0, lam=0.0, mu=MU)
    assert not hotter[-1].allclose(without[-1])
    doubled = importance(*arguments, gamma=GAMMA, lam=LAM, mu=2 * MU)
    for t, (one, two) in enumerate(zip(whole, doubled, strict=True), 1):
        torch.testing.assert_close(two, one * (2.0 if t % 2 == 0 else 1.0))


def test_predictive_knowledge_is_zero_at_the_teacher():
    """The known weakness of the method: nothing but representation ranks the first sublayer."""
    encoder = view(tiny("bert", "classification", dtype=torch.float64))
    encoder.model.requires_grad_(False)
    parts = batches(tiny_sample().examples)
    hidden, wanted = run_to(encoder, parts, 0)
    arguments = (encoder, 0, hidden, parts)
    task = TASKS["classification"]
    filled = []
    with_gradient = importance(*arguments, wanted, task, LENGTH, GAMMA, 0.0, MU)
    without = importance(*arguments, filled, task, LENGTH, GAMMA, 0.0, MU)
    assert all(score.max() < 1e-25 for score in with_gradient)
    assert all(score.max() == 0 for score in without)
    for ours, theirs in zip(filled, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_predictive_loss_against_its_formula():
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, -1.0]])
    p, q = F.softmax(teacher / 3, 1)[0], F.softmax(student / 3, 1)[0]
    expected = 9 * sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    assert predictive_loss(student, teacher, "classification", 3.0).item() == pytest.approx(
        expected
    )
    # regression: one squared error per sample, no broadcasting of [B, 1] against [B]
    z_s, z_t = torch.tensor([[1.0], [5.0]]), torch.tensor([[0.0], [2.0]])
    assert predictive_loss(z_s, z_t, "regression").tolist() == [1.0, 9.0]


def test_padding_does_not_change_a_spans_loss():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 5, 2, generator=generator)
    plain = predictive_loss(student, teacher, "span")
    padded = [F.pad(z, (0, 0, 0, 3), value=50.0) for z in (student, teacher)]
    mask = torch.arange(8)[None] < 5
    torch.testing.assert_close(predictive_loss(*padded, "span", mask=mask), plain)
    assert not torch.allclose(predictive_loss(*padded, "span"), plain)


def test_representational_loss_ignores_padding():
    teacher, student = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])
    assert representational_loss(teacher, student).item() == 167.0
    mask = torch.tensor([[True, True, False]])
    assert representational_loss(teacher, student, mask).item() == 5.0


def test_an_empty_sublayer_passes_the_gradient_on(monkeypatch):
    """In a model that was pruned before, also where only the first token is differentiated."""
    teacher, student = pair("bert", "classification")
    for sublayer in student.sublayers[-2:]:
        keep_units(sublayer, torch.zeros(sublayer.units, dtype=torch.bool))
    parts = batches(tiny_sample().examples, max_tokens=40)
    hidden, _ = run_to(student, parts, 1)
    _, wanted = run_to(teacher, parts, 0)
    arguments = (student, 1, hidden, parts, wanted, TASKS["classification"], LENGTH)
    found = importance(*arguments, lam=0.0)
    monkeypatch.setattr(passes, "first_only", lambda sublayers, task: [False] * len(sublayers))
    for ours, theirs in zip(found, importance(*arguments, lam=0.0), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert found[0].max() > 0
