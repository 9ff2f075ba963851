"""K-prune+: each ingredient is what it says, against its definition."""

import dataclasses
import itertools
from functools import cache, partial

import families
import pytest
import torch
from conftest import KINDS, batch_of, logits, pair, state_at, tiny, tiny_sample

import kprune
from kprune import weight_tuning
from kprune.data import batching
from kprune.data.batching import on_device
from kprune.encoders import Encoder
from kprune.plus import copies, curvature, elimination, refits
from kprune.plus.copies import Copies
from kprune.plus.curvature import Curvature
from kprune.plus.elimination import Elimination, eliminate, inverted
from kprune.plus.probes import draw_signs
from kprune.state import State
from kprune.weight_tuning import gather


def test_sums_that_rounding_has_bent_still_rank():
    """Features of a large common mean, whose PᵀP lost more to rounding than the ridge adds."""
    generator = torch.Generator().manual_seed(0)
    rows = 1 + 0.01 * torch.randn(50, 12, dtype=torch.float64, generator=generator)
    bent = torch.randn(12, 12, dtype=torch.float64, generator=generator)
    gram = rows.T @ rows + 0.02 * (bent + bent.T)
    assert torch.linalg.cholesky_ex(gram + 1e-4 * gram.diagonal().diag()).info
    weight = torch.randn(12, 5, dtype=torch.float64, generator=generator)
    inverse, sound = inverted(gram), inverted(rows.T @ rows)
    assert (torch.linalg.eigvalsh(inverse) > 0).all()
    ridge = 1e-4 * (rows.T @ rows).diagonal().diag()
    torch.testing.assert_close(sound @ (rows.T @ rows + ridge), torch.eye(12).double())
    found = eliminate(gram, weight, 1)
    assert found.isfinite().all() and (found > 0).all()
    assert eliminate(gram.fill_(torch.nan), weight, 1).isnan().all()  # which KPMS refuses


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
        found, all_signs = {}, draw_signs(encoder.kind, state.batches, seed)
        for batch, signs in zip(state.batches, all_signs, strict=True):
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


def dense_state(kind, count=23, family="bert"):
    encoder = Encoder(tiny(family, kind, dtype=torch.float64))
    return State(encoder, encoder, tiny_sample(kind, count))


def slopes_by_hand(state, gamma, chosen):
    """Of the sequences `chosen`, one at a time: P and the probe's gradient g at each sublayer."""
    model, subs = state.student.model, state.student.sublayers
    some = dataclasses.replace(
        state.sample, examples=[state.sample.examples[i] for i in chosen], labels=None
    )
    parts = on_device(some, torch.device("cpu"))
    signs = {
        index: own
        for batch, drawn in zip(parts, draw_signs(state.kind, parts, 0), strict=True)
        for index, own in zip(batch.index.tolist(), drawn, strict=True)
    }
    found = []
    for number, row in enumerate(some.examples):
        batch, kept = families.batch_of([row]), [None] * len(subs)

        def take(place, kept, _, given, out):
            kept[place] = given[0], out

        hooks = [sub.output.register_forward_hook(partial(take, sub.place, kept)) for sub in subs]
        z = state.kind.read(families.forward(model.requires_grad_(True), batch), None)
        for one in hooks:
            one.remove()
        own = signs[number][: len(row["input_ids"])] if z.dim() == 3 else signs[number]
        probe = state.kind.probe(z, z.detach(), gamma, None, own[None]).sum()
        slopes = torch.autograd.grad(probe, [out for _, out in kept])
        pairs = zip(kept, slopes, strict=True)
        found.append([(P[0].detach(), slope[0]) for (P, _), slope in pairs])
    return found


@pytest.mark.parametrize("ranked", [10**6, 60])
@pytest.mark.parametrize("kind", families.KINDS)
def test_the_curvature_is_that_of_each_token_by_hand(kind, ranked, monkeypatch):
    """PᵀP, Σ g·gᵀ and what tokens weigh, of all sequences or of every so-many-th."""
    monkeypatch.setattr(curvature, "RANKED", ranked)
    monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", 60)
    state = dense_state(kind)
    count = len(state.sample.examples)
    chosen = range(0, count, -(-state.sample.tokens // ranked))
    seen = Curvature(state, 2.0, 0)
    assert seen.samples == len(chosen) and (len(chosen) < count) == (ranked == 60)
    expected = slopes_by_hand(state, 2.0, chosen)
    assert seen.tokens == sum(len(one[0][0]) for one in expected)
    for t in range(len(state.student.sublayers)):
        P, g = (torch.cat([one[t][k] for one in expected]) for k in (0, 1))
        torch.testing.assert_close(seen.grams[t], P.T @ P)
        scale = 1.0
        if kind == "embedding":  # a mean over tokens, whose errors add up
            whole = sum((one[t][0].T @ one[t][1]).square().sum() for one in expected)
            scale = whole * len(P) / (P.square().sum() * g.square().sum())
            assert abs(scale - 1) > 0.01
        torch.testing.assert_close(seen.slopes[t], scale * g.T @ g)
        assert g.abs().max() > 1e-6
        mean = g.norm(dim=1)[g.norm(dim=1) > 0].mean()
        for batch in state.batches:
            weights = seen.weights(t, batch)
            assert weights.shape == batch.inputs["input_ids"].shape
            for index, own in zip(batch.index.tolist(), weights, strict=True):
                length = len(state.sample.examples[index]["input_ids"])
                wanted = torch.ones(length, dtype=torch.float64)
                if index in chosen:
                    wanted = 0.5 + 0.5 * expected[chosen.index(index)][t][1].norm(dim=1) / mean
                torch.testing.assert_close(own[:length], wanted)


def test_errors_that_add_up_in_a_mean_over_tokens_cost_what_they_do():
    """The last output's scale turns K_pred by so much: taken for independent, tokens' errors that
    go together cost a fraction of it (an eighth, in the last heads of all-MiniLM-L6-v2).
    """
    state = dense_state("embedding", 60)
    assert Encoder(state.student.model, "cls").kind.pools is False is not state.kind.pools
    for pooling in ("cls", "mean"):
        head = tiny("modernbert", "classification")
        head.config.classifier_pooling = pooling
        assert Encoder(head).kind.pools == (pooling == "mean")
    seen = Curvature(state, 2.0, 0)
    expected = slopes_by_hand(state, 2.0, range(len(state.sample.examples)))
    for t, (gram, slopes) in enumerate(zip(seen.grams, seen.slopes, strict=True)):
        exact = sum((one[t][0].T @ one[t][1]).square().sum() for one in expected)
        torch.testing.assert_close(gram.trace() * slopes.trace() / seen.tokens, exact)


@pytest.mark.parametrize("kind", ["classification", "tokens", "embedding"])
def test_scores_are_of_k_pred_by_its_second_order(kind):
    """All units of a sublayer together cost ½·tr(Wᵀ·A·W·G) a sequence, whatever the order."""
    state = dense_state(kind, 60)
    seen, scores = Curvature(state, 2.0, 0), Elimination()(state, 0)
    sequences = len(state.sample.examples)
    for sub, gram, slopes, score in zip(
        state.student.sublayers, seen.grams, seen.slopes, scores, strict=True
    ):
        W = sub.output.weight.detach().T
        whole = (W.T @ gram @ W @ slopes).trace() / (2 * state.sample.tokens * sequences)
        assert score.sum().item() == pytest.approx(whole.item(), rel=0.02) and (score >= 0).all()
    for without in ({"metric": False}, {"repaired": False}):
        others = Elimination(**without)(state, 0)
        assert any(
            one.argsort().ne(two.argsort()).any() for one, two in zip(scores, others, strict=True)
        )
    assert all((score > 0).all() for score in scores)  # the paper's are zero at the first sublayer


@pytest.mark.parametrize("place", [None, 1, 4])
def test_tuning_weighs_rows_by_their_tokens(place):
    """The sums are of √w·P and √w·Y, with w of the sublayer where the tokens come from."""
    state = dense_state("span", 60)
    state.weights = Curvature(state, 2.0, 0).weights
    draw = torch.Generator().manual_seed(0)
    P, Y = (
        [
            torch.randn(*b.inputs["input_ids"].shape, d, generator=draw).double()
            for b in state.batches
        ]
        for d in (5, 3)
    )
    found = gather(state, lambda _, __, number: (P[number], Y[number]), 5, 3, place=place)
    gram, moment = torch.zeros(5, 5, dtype=torch.float64), torch.zeros(5, 3, dtype=torch.float64)
    for batch, ours, theirs in zip(state.batches, P, Y, strict=True):
        real = batch.attention_mask.bool()
        w = 1 if place is None else state.weights(place, batch)[real][:, None]
        gram += ours[real].T @ (w * ours[real])
        moment += ours[real].T @ (w * theirs[real])
    torch.testing.assert_close(found.gram, gram)
    torch.testing.assert_close(found.moment, moment)


def test_what_heads_are_given_weighs_what_it_did_below(monkeypatch):
    """Those of neurons, and all outputs, weigh as the sublayer itself does."""
    places = []
    for module in (weight_tuning, refits):
        whole = module.gather

        def seen(*given, whole=whole, **named):
            places.append(named.get("place", given[6] if len(given) > 6 else None))
            return whole(*given, **named)

        monkeypatch.setattr(module, "gather", seen)
    kprune.prune(tiny("bert", "span"), tiny_sample("span", 60), 0.3, "kprune+", progress=False)
    assert places == [0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5, None]


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
    options = {"without": ingredient, "progress": False}
    smaller, report = kprune.prune(model, sample, 0.5, "kprune+", **options)
    assert report.flops <= report.limit
    return logits(smaller, batch_of(sample))


def test_copies_are_of_the_sample_s_words_and_at_most_one_of_each_sequence():
    sample, noise = tiny_sample(count=300), {}
    own = [token for example in sample.examples for token in example["input_ids"]]
    words = {*own} - {own[0]}
    sample.tokenizer.all_special_ids = [own[0]]
    for seed in (0, 0, 1):
        found = Copies(seed)(sample)
        assert found == noise.setdefault(seed, found)
        assert len(found) == len(sample.examples)
        pairs = [
            pair
            for example, copy in zip(sample.examples, found, strict=True)
            for pair in zip(example["input_ids"], copy["input_ids"], strict=True)
        ]
        assert all(one == other or {one, other} <= words for one, other in pairs)
        assert 0.1 < sum(one != other for one, other in pairs) / len(pairs) < 0.2
        parts = [example["token_type_ids"] for example in found]
        assert parts == [example["token_type_ids"] for example in sample.examples]
    assert noise[0] != noise[1] and sample.examples == tiny_sample(count=300).examples
    most = sample.tokens + sum(len(copy["input_ids"]) for copy in found[:7])
    for least, count in ((most, 7), (most - 1, 6), (sample.tokens, 0), (1, 0)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(copies, "LEAST", least)
            assert Copies(1)(sample) == found[:count]
    empty = dataclasses.replace(sample, examples=[{"input_ids": own[:1]}])
    assert Copies()(empty) == []


def test_copies_are_seen_and_not_counted():
    """What a report tells, and a limit in FLOPs, is of the sample that was given."""
    sample = tiny_sample(count=30)
    found = {}
    for step in kprune.steps(tiny("bert", "classification"), sample, method="kprune+", rate=0.5):
        found = step.state
    assert sum(len(batch.index) for batch in found.batches) == 60 and found.sample == sample
    held = [batch.index[some] for batch, some in zip(found.batches, found.held_out, strict=True)]
    assert sorted(torch.cat(held).tolist()) == [0, 10, 20, 30, 40, 50]
    report = kprune.prune(tiny("bert", "classification"), sample, method="kprune+")[1]
    alone = kprune.prune(tiny("bert", "classification"), sample, method="kprune")[1]
    for what in ("tokens", "samples", "length", "limit"):
        assert getattr(report, what) == getattr(alone, what)


@pytest.mark.parametrize("ingredient", kprune.INGREDIENTS["kprune+"])
def test_each_ingredient_changes_the_result(ingredient):
    assert not torch.equal(outputs_without(""), outputs_without(ingredient))


def test_several_ingredients_can_be_left_out_and_no_unknown_one():
    model, sample = tiny("bert", "classification"), tiny_sample(count=60)
    without = "metric, elimination"
    report = kprune.prune(model, sample, 0.5, "kprune+", without=without, progress=False)[1]
    assert report.flops <= report.limit
    for method in ("kprune", "kprune+", "random"):
        with pytest.raises(ValueError, match="'fishing' is not among those"):
            kprune.prune(model, sample, 0.5, method, without="fishing")


@pytest.mark.parametrize("method", ["kprune+", "kprune"])
def test_a_family_is_each_rate_s_own_model(method, monkeypatch):
    """To the bit; and K-prune+ measures for all of them once."""
    model, sample = tiny("bert", "classification"), tiny_sample(count=60)
    alone = [kprune.prune(model, sample, rate, method, progress=False) for rate in (0.4, 0.7)]
    measured, passes = [], curvature.passes
    monkeypatch.setattr(
        curvature, "passes", lambda *given: measured.append(given) or passes(*given)
    )
    family = kprune.prune(model, sample, [0.4, 0.7], method, progress=False)
    assert len(measured) == (method == "kprune+")
    assert [report.rate for _, report in family] == [0.4, 0.7]
    for (one, report), (other, own) in zip(family, alone, strict=True):
        assert report.kept == own.kept and report.flops <= report.limit
        assert logits(one, batch_of(sample)).equal(logits(other, batch_of(sample)))
    with pytest.raises(ValueError, match="between 0 and 1; got 7"):
        kprune.prune(model, sample, [0.4, 7.0], method)
    with pytest.raises(ValueError, match="got none"):
        kprune.prune(model, sample, [], method)
    assert len(measured) == (method == "kprune+"), "nothing was begun"


def test_projections_that_serve_distances_too_are_not_refit():
    """DeBERTa's queries and keys project its table of distances, which nothing would hold."""
    for family, refitted in (("deberta", False), ("deberta, keys apart", True)):
        teacher, student = pair(family, "classification")
        state = state_at(2, teacher, student, tiny_sample())
        keep = torch.ones(student.sublayers[2].units, dtype=torch.bool)
        assert (refits.TuneInputs()(state, 2, keep) is not None) == refitted, family
