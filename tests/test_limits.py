"""A limit in time: the table adds up, the search keeps within it, the model gets faster."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny, tiny_sample

import kprune
from kprune import finishing, pruning
from kprune.encoders import Encoder
from kprune.laboratory import benchmark
from kprune.limits import budget as budgets
from kprune.limits import latency
from kprune.limits.budget import Seconds
from kprune.limits.latency import seconds_in_turns
from kprune.limits.table import (
    LatencyTable,
    _cut_to,
    measure_candidate,
    measure_latencies,
    unit_seconds,
)
from kprune.mask_search import pooled, search
from kprune.surgery import keep_units


def table(encoder, seed=0, fixed=0.5):
    """Steps and slopes at random, never falling, as a machine might have them."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for sublayer in encoder.sublayers:
        steps = torch.rand(sublayer.units, generator=generator, dtype=torch.float64)
        steps *= torch.rand(sublayer.units, generator=generator) < 0.5  # some units are free
        rows.append(torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)]))
    whole = fixed + sum(row[-1].item() for row in rows)
    return LatencyTable(1, 8, whole, tuple(rows))


def test_units_cost_what_their_leaving_saves():
    seconds = torch.tensor([0.0, 3.0, 4.0, 9.0])
    costs = unit_seconds(seconds, torch.tensor([0.5, 0.1, 0.7]))
    # 0.1 goes first and saves 9 − 4, then 0.5 saves 4 − 3, then 0.7 the rest.
    assert costs.tolist() == [1.0, 5.0, 3.0]


@pytest.mark.parametrize("seed", range(10))
def test_the_mask_takes_no_longer_than_the_budget_and_the_next_one_does(seed):
    encoder = Encoder(tiny("bert", "classification"))
    times = table(encoder, seed)
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(sublayer.units, generator=generator) for sublayer in encoder.sublayers]
    for speedup in (1.2, 2.0, 5.0):
        masks, threshold = pooled(encoder.sublayers, scores, Seconds(times, speedup))
        units = [int(mask.sum()) for mask in masks]
        assert times.predict(units) <= times.whole / speedup + 1e-9
        # With the unit at the threshold back, the time would be over.
        back = [int((score >= threshold).sum()) for score in scores]
        assert sum(back) == sum(units) + 1
        assert times.predict(back) > times.whole / speedup - 1e-9


def test_all_units_take_the_whole_time_and_none_what_is_fixed():
    encoder = Encoder(tiny("bert", "classification"))
    times = table(encoder)
    assert times.predict([s.units for s in encoder.sublayers]) == pytest.approx(times.whole)
    assert times.predict([0] * len(encoder.sublayers)) == pytest.approx(times.fixed)
    for speedup in (1.0, 0.5, float("nan"), 1.01 * times.whole / times.fixed):
        with pytest.raises(ValueError, match="how many times as fast"):
            times.budget(speedup)


def test_a_measured_table_fits_its_model(counted_clock):
    model = benchmark.random_encoder(3, 128)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    times = measure_latencies(model, batch_size=4, length=32, repeats=3, progress=False)
    assert [len(row) for row in times.sublayers] == [4 + 1, 512 + 1] * 3
    assert all((row.diff() >= 0).all() and row[0] == 0 for row in times.sublayers)
    assert 0 < times.fixed < times.whole
    # Each unit takes what its products do: three projections and one back, or one and one back.
    head, neuron = (1e-9 * 4 * 32 * 128 * n for n in (4 * 32, 2))
    assert times.per_unit(0) == pytest.approx(head) and times.per_unit(1) == pytest.approx(neuron)
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    with pytest.raises(ValueError, match=r"length, .* at most 512; got 600"):
        measure_latencies(model, batch_size=4, length=600)


def test_pruned_to_a_speed(counted_clock):
    model = benchmark.random_encoder(3, 128)
    sample = benchmark.random_sample(16, 2000, tiny_sample().tokenizer)
    smaller, report = kprune.prune(
        model, sample, speedup=1.5, batch_size=8, length=64, progress=False
    )
    assert report.speed["measured"] == pytest.approx(1.5, rel=0.05) and report.seconds["timing"] > 0
    assert 0 < report.achieved_rate < 1 and "1.5× asked" in str(report)
    assert report.options["multiple"] == 16 and all(n % 16 == 0 for n in report.neurons)
    assert smaller.num_parameters() < model.num_parameters()
    assert report.to_dict()["speed"]["batch_size"] == 8


def test_a_speed_that_was_missed_is_said(monkeypatch):
    monkeypatch.setattr(finishing, "latencies", lambda *_, **__: {"dense": 3.0, "pruned": 1.0})
    model, times = tiny("bert", "classification"), []

    def measured(*_, **__):
        times.append(table(Encoder(model)))
        return times[-1]

    monkeypatch.setattr(pruning, "measure_latencies", measured)
    _, report = kprune.prune(
        model, tiny_sample(), speedup=1.5, batch_size=2, length=16, progress=False
    )
    assert times and report.speed["measured"] == 3.0
    assert "3.00 times as fast is over 5% off the 1.5 asked" in str(report)


def test_quiet_timings_go_on_until_the_two_shortest_agree(monkeypatch):
    """A clock that only the calls move: two warm-ups, then busy rounds and a lucky one."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    passed = {"a": [], "b": []}
    takes = {"a": [9, 9, 1.5, 1.0, 1.3, 1.2, 1.005, 1.0], "b": [9, 9, *[2.0] * 6]}

    def call(name):
        now[0] += takes[name][len(passed[name])]
        passed[name].append(now[0])

    calls = {name: partial(call, name) for name in takes}
    found = seconds_in_turns(calls, 3, quiet=True)
    assert found == pytest.approx({"a": 1.0, "b": 2.0}) and len(passed["a"]) == 7
    for name in takes:  # the median asks for no more rounds
        passed[name].clear()
    assert seconds_in_turns(calls, 3) == pytest.approx({"a": 1.3, "b": 2.0})
    assert len(passed["a"]) == 5
    # A machine that never settles ends it, too.
    takes["a"] = [9, 9, *(1 + 1 / (n + 1) for n in range(20))]
    passed["a"].clear()
    passed["b"].clear()
    takes["b"] += [2.0] * 20
    monkeypatch.setattr(latency, "AGREE", 1e-6)
    seconds_in_turns(calls, 3, quiet=True)
    assert len(passed["a"]) == 2 + 3 * latency.MOST


@pytest.mark.parametrize("slower", [0.8, 1.0, 1.5])
def test_a_timed_candidate_corrects_the_budget(slower):
    """On a machine where units take `slower` times what the table says, one timing finds it out."""
    encoder = Encoder(tiny("bert", "classification"))
    times = table(encoder)

    def real(units):
        return times.fixed + slower * (times.predict(units) - times.fixed)

    scores = [torch.rand(sublayer.units) for sublayer in encoder.sublayers]
    masks, _ = pooled(encoder.sublayers, scores, Seconds(times, 2.0))
    units = [int(mask.sum()) for mask in masks]
    factor = times.factor(times.whole / real(units), units)
    assert factor == pytest.approx(slower)
    budget = times.left(2.0, factor, [])
    assert slower * budget == pytest.approx(times.whole / 2 - times.fixed)
    # What is pruned already is taken off.
    left = times.left(2.0, factor, units[:1])
    assert left == pytest.approx(budget - times.sublayers[0][units[0]].item())


def test_candidates_are_timed_thrice_before_the_first_sublayer_and_once_in_a_layer(monkeypatch):
    """On a machine where units take half as long again, what is left comes out smaller."""
    encoder = Encoder(tiny("bert", "classification"))
    times, timed = table(encoder), []

    def candidate(given, dense, student, masks, multiple):
        units = [sub.units for sub in student.sublayers[: 6 - len(masks)]]
        units += [int(mask.sum()) for mask in masks]
        timed.append(len(masks))
        real = times.fixed + 1.5 * (times.predict(units) - times.fixed)
        return times.whole / real, units

    monkeypatch.setattr(budgets, "measure_candidate", candidate)
    limit, state = Seconds(times, 2.0), SimpleNamespace(student=encoder, teacher=encoder)
    generator = torch.Generator().manual_seed(0)
    for t, sub in enumerate(encoder.sublayers):
        scores = [torch.rand(other.units, generator=generator) for other in encoder.sublayers[t:]]
        (keep, *_), _ = search(state, t, scores, limit)
        keep_units(sub, keep)
        limit.spend(sub)
    assert timed == [6] * 3 + [5, 3, 1]
    assert limit.factors == pytest.approx([1.5] * 6)
    units = [sub.units for sub in encoder.sublayers]
    real = times.fixed + 1.5 * (times.predict(units) - times.fixed)
    assert 0.9 * times.whole / 2 < real <= times.whole / 2 + 1e-9


def test_a_candidate_is_the_model_that_the_masks_will_give():
    encoder = Encoder(tiny("bert", "classification"))
    before = [s.units for s in encoder.sublayers]
    masks = [torch.arange(s.units) < 1 for s in encoder.sublayers[1:]]
    speed, units = measure_candidate(table(encoder), encoder, encoder, masks, repeats=1)
    assert units == [before[0], *[1] * len(masks)] and speed > 0
    assert [s.units for s in Encoder(encoder.model).sublayers] == before


def test_only_k_prune_takes_a_speed():
    model, sample = tiny("bert", "classification"), tiny_sample()
    for options in ({"method": "random", "speedup": 2.0}, {"speedup": 0.5, "length": 8}):
        with pytest.raises(ValueError, match="how many times as fast"):
            kprune.prune(model, sample, progress=False, **options)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_what_is_timed_for_a_table_is_cut(family):
    """ALBERT's layers share their weights: a copy of a copy was cut, and the whole model timed."""
    model = tiny(family, "classification")
    cut = Encoder(_cut_to(model, "FFN", 0.5))
    whole = Encoder(model)
    assert cut.units("FFN") == [round(count / 2) for count in whole.units("FFN")]
    assert cut.units("MHA") == [0] * len(whole.units("MHA"))


def test_models_on_two_devices_are_not_timed_together():
    """Only the last one's device was waited for."""
    models = {
        "one": tiny("bert", "classification"),
        "two": tiny("bert", "classification").to("meta"),
    }
    with pytest.raises(ValueError, match="timed on one device; these are on cpu and meta"):
        kprune.latencies(models, 1, 4)
