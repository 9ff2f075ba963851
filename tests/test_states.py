"""Cached hidden states come back as they went in, wherever they are kept."""

import sys

import psutil
import pytest
import torch
from conftest import tiny, tiny_sample

import kprune
from kprune.data.batching import batches
from kprune.engine import states
from kprune.engine.memory import DEEP, keep_memory, stretch_of
from kprune.engine.states import HiddenStates, place_for

CPU = torch.device("cpu")


@pytest.mark.parametrize("place", ["device", "host", "disk"])
def test_states_come_back(place, monkeypatch):
    monkeypatch.setattr(states, "place_for", lambda size, device: place)
    parts = batches(tiny_sample().examples, max_tokens=40)
    hidden = HiddenStates(parts, 8, CPU, torch.float64)
    wanted = [
        torch.randn(*part.inputs["input_ids"].shape, 8, dtype=torch.float64) for part in parts
    ]
    for number, value in enumerate(wanted):
        hidden[number] = value
    assert len(hidden) == len(parts) > 3
    assert all(torch.equal(a, b) for a, b in zip(hidden, wanted, strict=True))


def test_half_precision_rounds_by_less_than_a_thousandth():
    parts = batches(tiny_sample().examples)
    hidden = HiddenStates(parts, 8, CPU, torch.float32, stored=torch.float16)
    value = torch.randn(*parts[0].inputs["input_ids"].shape, 8)
    hidden[0] = value
    assert hidden[0].dtype == torch.float32
    torch.testing.assert_close(hidden[0], value, rtol=5e-4, atol=1e-7)
    assert not torch.equal(hidden[0], value)


@pytest.mark.parametrize("method", ["kprune", "kprune+"])
def test_states_beyond_what_half_precision_holds_are_refused(method):
    """A residual stream that nothing norms may grow; the first sublayer's input is small here."""
    model, sample = tiny("modernbert", "classification"), tiny_sample()
    with torch.no_grad():
        model.model.layers[1].mlp.Wo.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r'beyond 65,504, .* precision="full"'):
        kprune.prune(model, sample, 0.3, method, precision="bf16", progress=False)
    kprune.prune(model, sample, 0.3, method, precision="full", progress=False)


def test_the_place_follows_from_what_is_free():
    assert place_for(1000, CPU) == "device"
    assert place_for(10**15, CPU) == "disk"


def test_pruning_from_disk_gives_the_same_model(monkeypatch):
    model, sample = tiny("bert", "classification"), tiny_sample()
    in_memory, report = kprune.prune(model, sample, 0.5, progress=False)
    monkeypatch.setattr(states, "place_for", lambda size, device: "disk")
    from_disk, again = kprune.prune(model, sample, 0.5, progress=False)
    assert again.kept == report.kept
    for ours, theirs in zip(from_disk.parameters(), in_memory.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is meant")
def test_freed_memory_is_kept_within_the_block_and_given_back_after():
    def resident():
        return psutil.Process().memory_info().rss / 2**20

    with keep_memory():
        pieces = [torch.ones(6 * 2**20) for _ in range(5)]  # 24 MB each
        full = resident()
        del pieces
        assert resident() > full - 8
    assert resident() < full - 16  # some may lie among what others hold
    with pytest.raises(RuntimeError), keep_memory():
        raise RuntimeError


def test_deep_models_pass_in_stretches():
    model, parts = tiny("bert", "span"), batches(tiny_sample().examples)
    assert [stretch_of(model, layers, parts) for layers in (1, DEEP)] == [1, DEEP]
    assert stretch_of(model, DEEP + 1, parts) == stretch_of(model, 99, parts) == DEEP // 2
