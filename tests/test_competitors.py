"""The other methods: faithful to their descriptions, within the limit, folded into the weights."""

import copy
import dataclasses
import itertools
from contextlib import ExitStack

import families
import numpy as np
import plain
import pytest
import torch
from conftest import batch_of, logits, tiny, tiny_sample

import kprune
from kprune.competitors import kcm as kcm_module
from kprune.competitors import kwon as kwon_module
from kprune.competitors.floors import squared_weights
from kprune.competitors.kcm import data_driven, representative
from kprune.competitors.kwon import fisher_search, label_gradients, rearrange, solve_scales
from kprune.competitors.layers import spaced_out
from kprune.data import batching
from kprune.encoders import Encoder
from kprune.engine.least_squares import NormalEquations
from kprune.knowledge import Importance
from kprune.state import State
from kprune.surgery import masked

LABELS = {
    "classification": lambda i, row: i % 3,
    "regression": lambda i, row: i / 8,
    "multilabel": lambda i, row: [i % 2, i % 3 > 0, 1],
    "span": lambda i, row: (i % 2, 2),
    # Where a token has no label, there stands -100.
    "tokens": lambda i, row: [-100, *((i + n) % 3 for n in range(1, len(row["input_ids"])))],
}
OTHERS = [name for name in kprune.METHODS if name != "kprune"]


def labelled(kind: str) -> kprune.Sample:
    sample = tiny_sample(kind, 60)
    labels = [LABELS[kind](i, row) for i, row in enumerate(sample.examples)]
    return dataclasses.replace(sample, labels=labels)


def state_of(sample: kprune.Sample, kind: str = "classification", family: str = "bert") -> State:
    encoder = Encoder(tiny(family, kind, dtype=torch.float64))
    return State(encoder, encoder.copy(), sample)


def pruned(method, family="bert", kind="classification", rate=0.6, **options):
    rate = min(rate, 0.2) if method == "kcm" else rate
    options = {"precision": "full", "progress": False} | options
    return kprune.prune(tiny(family, kind), labelled(kind), rate, method, **options)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", "classification"),
        ("distilbert", "regression"),
        ("deberta", "multilabel"),
        ("mpnet", "span"),
        ("modernbert", "tokens"),
    ],
)
@pytest.mark.parametrize("method", OTHERS)
def test_every_method_gives_a_smaller_model_within_the_limit(method, family, kind):
    smaller, report = pruned(method, family, kind)
    assert report.flops <= report.limit
    assert report.limit - report.flops < 0.1 * report.dense_flops
    assert smaller.num_parameters() == report.parameters < report.dense_parameters
    assert [len(kept) for kept in report.kept[0::2]] == report.heads
    assert logits(smaller, batch_of(labelled(kind))).isfinite().all()
    _, again = pruned(method, family, kind)
    assert again.kept == report.kept


@pytest.mark.parametrize("method", OTHERS)
def test_a_pruned_model_is_saved_and_loaded(method, tmp_path, tokenizer):
    smaller, _ = pruned(method)
    kprune.save(smaller, tmp_path / "pruned", tokenizer)
    batch = batch_of(tiny_sample())
    assert torch.equal(logits(kprune.load(tmp_path / "pruned"), batch), logits(smaller, batch))


# Kwon et al.


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("max_tokens", [30, 10**6])
def test_mask_gradients_are_those_of_the_minibatch_loss(kind, max_tokens, monkeypatch):
    """Against mask variables on the Hugging Face model's own loss, whatever the batches."""
    monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", max_tokens)
    sample = labelled(kind)
    if kind in ("span", "tokens"):  # the model's own loss is over all places of a minibatch
        rows = [{name: (2 * ids)[:5] for name, ids in row.items()} for row in sample.examples]
        labels = [LABELS[kind](i, row) for i, row in enumerate(rows)]
        sample = dataclasses.replace(sample, examples=rows, labels=labels)
    state, size = state_of(sample, kind), sample.task.minibatch
    found = label_gradients(state)
    model = state.teacher.model
    dtype = torch.float64 if kind in ("regression", "multilabel") else torch.int64
    if kind == "regression":
        model.config.problem_type = "regression"
    masks = [torch.ones(s.units, dtype=torch.float64) for s in state.teacher.sublayers]
    masks = [mask.requires_grad_() for mask in masks]
    for number in range(60 // size):
        some = slice(number * size, number * size + size)
        batch, labels = families.batch_of(sample.examples[some]), sample.labels[some]
        labels = torch.tensor(labels, dtype=dtype)
        wanted = {"labels": labels}
        if kind == "span":
            wanted = {"start_positions": labels[:, 0], "end_positions": labels[:, 1]}
        with ExitStack() as stack:
            for sub, mask in zip(state.teacher.sublayers, masks, strict=True):
                stack.enter_context(masked(sub, mask))
            loss = model(**batch.inputs, attention_mask=batch.attention_mask, **wanted).loss
        for mine, theirs in zip(found, torch.autograd.grad(loss, masks), strict=True):
            torch.testing.assert_close(mine[number], theirs)
    assert all(gradient.shape[0] == 60 // size for gradient in found)


def test_the_fisher_search_takes_the_best_split():
    encoder = Encoder(tiny("bert", "classification"))
    generator = torch.Generator().manual_seed(3)
    scores = [torch.rand(s.units, generator=generator).double() for s in encoder.sublayers]
    length, budget = 10.0, 0.4 * encoder.flops(10.0)
    masks = fisher_search(encoder, scores, budget, length)
    cost = [
        int(m.sum()) * s.unit_flops(length) for m, s in zip(masks, encoder.sublayers, strict=True)
    ]
    assert sum(cost) <= budget
    heads = torch.cat(scores[0::2]).sort(descending=True).values
    neurons = torch.cat(scores[1::2]).sort(descending=True).values
    head, neuron = (encoder.sublayers[i].unit_flops(length) for i in (0, 1))
    best = max(
        float(heads[:h].sum() + neurons[: int((budget - h * head) / neuron)].sum())
        for h in range(1, len(heads) + 1)
        if h * head <= budget
    )
    total = sum(float(score[m].sum()) for score, m in zip(scores, masks, strict=True))
    assert total == pytest.approx(best)


def test_rearrangement_follows_the_greedy_exchange():
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(6, 9, generator=generator)
    scores = gradients.square().sum(0)
    start = torch.ones(9, dtype=torch.bool)
    start[scores.argsort()[:5]] = False
    pruned_set = scores.argsort()[:5].tolist()
    for unit in scores.argsort()[5:].tolist():  # as the paper words it
        pruned_set.append(unit)
        left = {
            out: gradients[:, [u for u in pruned_set if u != out]].sum(1).square().sum()
            for out in pruned_set
        }
        pruned_set.remove(min(left, key=left.get))
    keep = rearrange(start, gradients)
    assert sorted((~keep).nonzero().flatten().tolist()) == sorted(pruned_set)

    def lost(mask):
        return float(gradients[:, ~mask].sum(1).square().sum())

    assert lost(keep) < lost(start)
    for nothing in (torch.ones(9, dtype=torch.bool), torch.zeros(9, dtype=torch.bool)):
        assert rearrange(nothing, gradients) is nothing


@pytest.mark.parametrize("unit_size", [1, 4])
def test_scales_solve_the_least_squares_problem(unit_size):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 12, generator=generator, dtype=torch.float64)
    weight = torch.randn(12, 7, generator=generator, dtype=torch.float64)
    units = 12 // unit_size
    wanted = torch.linspace(0.5, 2, units, dtype=torch.float64)
    target = features @ (wanted.repeat_interleave(unit_size)[:, None] * weight)
    target += torch.randn(200, 7, generator=generator, dtype=torch.float64)
    columns = [
        (
            features[:, u * unit_size : (u + 1) * unit_size]
            @ weight[u * unit_size : (u + 1) * unit_size]
        )
        for u in range(units)
    ]
    matrix = torch.stack([column.flatten() for column in columns], 1).numpy()
    explicit = np.linalg.lstsq(matrix, target.flatten().numpy(), rcond=None)[0]
    equations = NormalEquations.zeros(12, 7)
    equations.add(features, target)
    scales = solve_scales(equations, weight, unit_size)  # damped, which is hardly felt
    np.testing.assert_allclose(scales.numpy(), explicit, rtol=1e-3)
    equations.moment *= 1e3  # scales beyond 10 are refused
    assert solve_scales(equations, weight, unit_size) is None


def test_scales_are_folded_into_the_weights(monkeypatch):
    """The smaller model equals the dense one under real-valued masks."""
    factors = []

    def solve(equations, weight, unit_size):
        scales = torch.linspace(0.5, 1.5, len(weight) // unit_size)
        factors.append(scales)
        return scales

    monkeypatch.setattr(kwon_module, "solve_scales", solve)
    smaller, report = pruned("kwon")
    dense, rest = tiny("bert", "classification"), iter(factors)
    batch = batch_of(tiny_sample())
    masks = []
    for t, (sub, kept) in enumerate(zip(Encoder(dense).sublayers, report.kept, strict=True)):
        mask = torch.zeros(sub.units)
        if kept:
            mask[kept] = 1.0 if t == 0 else next(rest)  # the first attention is never rescaled
        masks.append(masked(sub, mask))
    with masks[0], masks[1], masks[2], masks[3], masks[4], masks[5]:
        torch.testing.assert_close(logits(smaller, batch), logits(dense, batch))


def test_rescaling_that_fails_stops_and_says_so(monkeypatch):
    monkeypatch.setattr(kwon_module, "solve_scales", lambda *_: None)
    smaller, report = pruned("kwon")
    assert "rescaling stopped at the FFN of layer 1" in str(report)
    dense = Encoder(tiny("bert", "classification")).sublayers
    kept = Encoder(smaller).sublayers
    for sub, old, units in zip(kept[1::2], dense[1::2], report.kept[1::2], strict=True):
        assert torch.equal(sub.output.weight, old.output.weight[:, units])


def test_kwon_needs_labels():
    with pytest.raises(ValueError, match="needs labels"):
        kprune.prune(tiny("bert", "span"), tiny_sample("span"), 0.5, "kwon", progress=False)


# KCM


def test_kcm_leaves_the_heads_and_says_what_is_out_of_reach():
    _, report = pruned("kcm")
    assert report.heads == report.dense_heads
    with pytest.raises(ValueError, match=r"neurons only.*at most 0\.2\d\d"):
        kprune.prune(tiny("bert", "classification"), tiny_sample(), 0.6, "kcm", progress=False)


def test_twins_are_less_representative_than_a_unit_of_its_own_kind():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 16, generator=generator)
    weight[1:4] = weight[0]
    score = representative(weight, tolerance=1e-6)
    assert score[:4].max() < 0.5 * score[4:].min()
    assert torch.allclose(score[:4], score[:1].expand(4))
    assert torch.allclose(representative(10 * weight, tolerance=1e-6), score)  # scale-free


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("max_tokens", [30, 10**6])
def test_activity_is_the_mean_over_real_tokens_whatever_the_batches(
    family, max_tokens, monkeypatch
):
    monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", max_tokens)
    state = state_of(labelled("classification"), family=family)
    neurons = [sub for sub in state.student.sublayers if sub.kind == "FFN"]
    for sub, active in zip(neurons, data_driven(state, neurons), strict=True):
        mean = plain.seen(state.student.model, sub.output, state.sample.examples).mean(0)
        torch.testing.assert_close(active, mean / mean.norm())


def test_kcm_ranks_by_both(monkeypatch):
    _, report = pruned("kcm")
    monkeypatch.setattr(kcm_module, "representative", lambda w: torch.arange(len(w)).exp())
    _, without = pruned("kcm")
    assert report.kept != without.kept


# Floors


def test_magnitude_keeps_the_largest_weights():
    model = tiny("bert", "classification")
    target = Encoder(model).sublayers[3]
    with torch.no_grad():
        target.output.weight[:, 5] *= 20
        target.inputs[0].weight[7] *= 1e-3
        target.output.weight[:, 7] *= 1e-3
    _, report = kprune.prune(model, tiny_sample(), 0.5, "magnitude", progress=False)
    assert 5 in report.kept[3] and 7 not in report.kept[3]
    model.requires_grad_(False)
    head = Encoder(model).sublayers[0]
    rows = sum(linear.weight[:8].square().sum() for linear in head.inputs)
    assert float(squared_weights(head)[0]) == pytest.approx(
        float(rows + head.output.weight[:, :8].square().sum()), rel=1e-5
    )


def test_random_depends_on_the_seed_only():
    sample = tiny_sample()
    kept = [
        kprune.prune(
            tiny("bert", "classification", seed=model),
            dataclasses.replace(sample, seed=seed),
            0.5,
            "random",
            progress=False,
        )[1].kept
        for model, seed in itertools.product((0, 1), (0, 1))
    ]
    assert kept[0] == kept[2] and kept[1] == kept[3] and kept[0] != kept[1]


# Whole layers


@pytest.mark.parametrize(
    ("method", "chosen"), [("first-layers", [0, 1, 2]), ("spaced-layers", [0, 3, 5])]
)
@pytest.mark.parametrize("family", families.FAMILIES)
def test_whole_layers_leave_a_plain_model(family, method, chosen, tmp_path, tokenizer):
    """To the bit the model that is built of these layers by hand; transformers opens it."""
    depth = {"n_layers" if family == "distilbert" else "num_hidden_layers": 6}
    groups = {"num_hidden_groups": 6} if family == "albert" else {}
    model, sample = families.model_of(family, "span", **depth, **groups), tiny_sample("span")
    smaller, report = kprune.prune(model, sample, 0.45, method, progress=False)
    batch, encoder = batch_of(sample), Encoder(model)
    found = logits(smaller, batch)
    assert report.flops == pytest.approx(report.dense_flops / 2)
    assert report.heads == [families.HEADS * (n in chosen) for n in range(6)]
    assert report.neurons == [families.NEURONS * (n in chosen) for n in range(6)]
    assert report.parameters == smaller.num_parameters()
    kprune.save(smaller, tmp_path / "saved", tokenizer)
    assert torch.equal(logits(kprune.load(tmp_path / "saved"), batch), found)
    opened = type(smaller).from_pretrained(tmp_path / "saved")
    assert isinstance(smaller, type(model)) and type(smaller) is type(opened)
    assert len(Encoder(opened).layers) == opened.config.num_hidden_layers == len(chosen)
    own = {**smaller.state_dict()}
    assert all(torch.equal(own.pop(name), w) for name, w in opened.state_dict().items()) and not own
    layers = torch.nn.ModuleList(encoder.layers[n] for n in chosen)
    encoder.model.base_model.set_submodule(encoder.names.layers, layers)
    encoder.model.config.num_hidden_layers = len(chosen)
    if family.startswith("albert"):
        encoder.model.config.num_hidden_groups = len(chosen)
    assert torch.equal(logits(encoder.model, batch), found)


def test_layers_go_of_what_lost_layers_before_and_units_after_that():
    model = families.model_of("bert", "classification", num_hidden_layers=6)
    options, batch = {"sample": tiny_sample(), "progress": False}, batch_of(tiny_sample())
    three, _ = kprune.prune(model, rate=0.5, method="spaced-layers", **options)
    two, _ = kprune.prune(three, rate=0.3, method="spaced-layers", **options)
    assert len(Encoder(two).layers) == 2
    at_once, _ = kprune.prune(model, rate=0.65, method="spaced-layers", **options)
    assert torch.equal(logits(two, batch), logits(at_once, batch))
    smaller, report = kprune.prune(two, rate=0.5, **options)
    assert len(report.kept) == 4 and report.flops <= report.limit
    for method in ("first-layers", "spaced-layers"):
        with pytest.raises(ValueError, match="of a model that was not pruned"):
            kprune.prune(smaller, rate=0.5, method=method, **options)
        with pytest.raises(ValueError, match=r"Not one of 6 layers fits; .* at most 0\.833"):
            kprune.prune(model, rate=0.9, method=method, **options)


def test_spaced_layers_are_distinct_from_the_first_to_the_last():
    assert [spaced_out(count, 6) for count in (1, 2, 4)] == [[0], [0, 5], [0, 2, 3, 5]]
    for layers in range(1, 30):
        for count in range(1, layers + 1):
            chosen = spaced_out(count, layers)
            assert chosen == sorted({*chosen}) and len(chosen) == count and chosen[0] == 0
            assert count == 1 or chosen[-1] == layers - 1
            gaps = np.diff(chosen)
            assert count == 1 or gaps.max() - gaps.min() <= 1


# K-prune's own ablation


def test_without_tuning_the_projections_stay():
    smaller, report = pruned("kprune", without="tuning")
    assert report.tuning == []
    dense = Encoder(tiny("bert", "classification")).sublayers
    for sub, old, units in zip(Encoder(smaller).sublayers, dense, report.kept, strict=True):
        features = [u * sub.unit_size + i for u in units for i in range(sub.unit_size)]
        assert torch.equal(sub.output.weight, old.output.weight[:, features])


def test_without_tuning_every_sublayer_is_measured(monkeypatch):
    """Leaving one ingredient out leaves the others in."""
    measured, whole = [], Importance.__call__

    def counting(self, state, t):
        measured.append(t)
        return whole(self, state, t)

    monkeypatch.setattr(Importance, "__call__", counting)
    pruned("kprune", without="tuning")
    assert measured == list(range(6))
    measured.clear()
    pruned("kprune", without="sublayerwise")
    assert measured == [0]


def test_without_one_kind_of_knowledge_the_other_ranks():
    whole = pruned("kprune")[1]
    no_rep = pruned("kprune", without="representational")[1]
    assert no_rep.kept == pruned("kprune", lam=0.0)[1].kept != whole.kept
    no_pred = pruned("kprune", without="predictive")[1]
    assert no_pred.kept == pruned("kprune", lam=1e12)[1].kept != whole.kept


def test_without_sublayerwise_there_is_one_search():
    smaller, report = pruned("kprune", without="sublayerwise")
    assert len(set(report.thresholds)) == 1 and len(report.tuning) == 6
    assert report.flops <= report.limit
    assert len(set(pruned("kprune")[1].thresholds)) > 1
    assert report.heads == [s.units for s in Encoder(smaller).sublayers[0::2]]


@pytest.mark.parametrize(("method", "without"), [("kprune", "nothing"), ("kwon", "tuning")])
def test_unknown_ingredients_are_refused(method, without):
    with pytest.raises(ValueError, match="without names ingredients"):
        pruned(method, without=without)


def test_the_teacher_is_not_changed():
    for method in OTHERS:
        model = tiny("bert", "classification")
        before = copy.deepcopy(model.state_dict())
        rate = 0.2 if method == "kcm" else 0.6
        kprune.prune(model, labelled("classification"), rate, method, progress=False)
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, before[name]), (method, name)
