"""A limit in time: the table adds up, the search keeps within it, the model gets faster."""

from functools import partial

import pytest
import torch
from conftest import tiny, tiny_sample

import kprune
from kprune import benchmark, progress, pruning
from kprune.encoders import view
from kprune.mask_search import search, unit_seconds
from kprune.speed import LatencyTable, measure_candidate, measure_latencies


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
    encoder = view(tiny("bert", "classification"))
    times = table(encoder, seed)
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(sublayer.units, generator=generator) for sublayer in encoder.sublayers]
    for speedup in (1.2, 2.0, 5.0):
        budget = times.budget(speedup)
        masks, threshold = search(encoder.sublayers, scores, budget, 8, times.sublayers)
        units = [int(mask.sum()) for mask in masks]
        assert times.predict(units) <= times.whole / speedup + 1e-9
        # With the unit at the threshold back, the time would be over.
        back = [int((score >= threshold).sum()) for score in scores]
        assert sum(back) == sum(units) + 1
        assert times.predict(back) > times.whole / speedup - 1e-9


def test_all_units_take_the_whole_time_and_none_what_is_fixed():
    encoder = view(tiny("bert", "classification"))
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
    with pytest.raises(ValueError, match="1 to 512 tokens; got 4 × 600"):
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
    monkeypatch.setattr(pruning, "latencies", lambda *_, **__: {"dense": 3.0, "pruned": 1.0})
    model, times = tiny("bert", "classification"), []

    def measured(*_, **__):
        times.append(table(view(model)))
        return times[-1]

    monkeypatch.setattr(pruning, "measure_latencies", measured)
    _, report = kprune.prune(
        model, tiny_sample(), speedup=1.5, batch_size=2, length=16, progress=False
    )
    assert times and report.speed["measured"] == 3.0
    assert any("3.00 times as fast is more than 5% off the 1.5 asked" in n for n in report.notes)


def test_quiet_timings_go_on_until_the_two_shortest_agree(monkeypatch):
    """A clock that only the calls move: two warm-ups, then busy rounds and a lucky one."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    passed = {"a": [], "b": []}
    takes = {"a": [9, 9, 1.5, 1.0, 1.3, 1.2, 1.005, 1.0], "b": [9, 9, *[2.0] * 6]}

    def call(name):
        now[0] += takes[name][len(passed[name])]
        passed[name].append(now[0])

    calls = {name: partial(call, name) for name in takes}
    found = progress.seconds_in_turns(calls, 3, quiet=True)
    assert found == pytest.approx({"a": 1.0, "b": 2.0}) and len(passed["a"]) == 7
    for name in takes:  # the median asks for no more rounds
        passed[name].clear()
    assert progress.seconds_in_turns(calls, 3) == pytest.approx({"a": 1.3, "b": 2.0})
    assert len(passed["a"]) == 5
    # A machine that never settles ends it, too.
    takes["a"] = [9, 9, *(1 + 1 / (n + 1) for n in range(20))]
    passed["a"].clear()
    passed["b"].clear()
    takes["b"] += [2.0] * 20
    monkeypatch.setattr(progress, "AGREE", 1e-6)
    progress.seconds_in_turns(calls, 3, quiet=True)
    assert len(passed["a"]) == 2 + 3 * progress.MOST


@pytest.mark.parametrize("slower", [0.8, 1.0, 1.5])
def test_a_timed_candidate_corrects_the_budget(slower):
    """On a machine where units take `slower` times what the table says, one timing finds it out."""
    encoder = view(tiny("bert", "classification"))
    times = table(encoder)

    def real(units):
        return times.fixed + slower * (times.predict(units) - times.fixed)

    scores = [torch.rand(sublayer.units) for sublayer in encoder.sublayers]
    masks, _ = search(encoder.sublayers, scores, times.budget(2.0), 8, times.sublayers)
    units = [int(mask.sum()) for mask in masks]
    factor = times.factor(times.whole / real(units), units)
    assert factor == pytest.approx(slower)
    budget = times.left(2.0, factor, [])
    assert slower * budget == pytest.approx(times.whole / 2 - times.fixed)
    # What is pruned already is taken off.
    left = times.left(2.0, factor, units[:1])
    assert left == pytest.approx(budget - times.sublayers[0][units[0]].item())


def test_a_candidate_is_the_model_that_the_masks_will_give():
    model = tiny("bert", "classification")
    encoder = view(model)
    times = table(encoder)
    masks = [torch.arange(s.units) < 1 for s in encoder.sublayers[1:]]
    speed, units = measure_candidate(times, model, model, masks, repeats=1)
    assert units == [encoder.sublayers[0].units, *[1] * len(masks)] and speed > 0
    assert [s.units for s in view(model).sublayers] == [s.units for s in encoder.sublayers]


def test_only_k_prune_takes_a_speed():
    model, sample = tiny("bert", "classification"), tiny_sample()
    with pytest.raises(ValueError, match="takes a rate"):
        kprune.prune(model, sample, method="random", speedup=2.0)
    with pytest.raises(ValueError, match="how many times as fast"):
        kprune.prune(model, sample, speedup=0.5, length=8, progress=False)
