"""What is measured is what is meant."""

import pytest
import torch
from conftest import tiny, tiny_sample

from kprune import benchmark
from kprune.encoders import view

CPU = torch.device("cpu")


def test_random_encoders_have_the_shape_asked_for():
    encoder = view(benchmark.random_encoder(3, 64))
    assert encoder.units("MHA") == [2, 2, 2] and encoder.units("FFN") == [256] * 3
    embeddings = benchmark.random_encoder(1, 32, vocabulary=77).get_input_embeddings()
    assert embeddings.num_embeddings == 77
    with pytest.raises(ValueError, match="multiple of 32"):
        benchmark.random_encoder(2, 50)


def test_random_samples_hold_the_tokens_asked_for():
    sample = benchmark.random_sample(16, 1000, tokenizer=None)
    assert sample.tokens == 992 and sample.length == 16
    with pytest.raises(ValueError, match="positive length"):
        benchmark.random_sample(0, 1000, tokenizer=None)


def test_passes_are_counted():
    # Two sublayers: up both, up one, down one, and the teacher.
    assert benchmark.passes_needed(2) == (2 + 1) / 2 + 1 / 2 + 1
    up, down = sum(range(1, 25)), sum(range(1, 24))
    assert benchmark.passes_needed(24) == (up + down) / 24 + 1


def test_the_peak_of_memory_is_seen():
    with benchmark.peak_memory(CPU) as idle:
        pass
    with benchmark.peak_memory(CPU) as found:
        torch.ones(50_000_000).sum()
    assert 150 < found["peak"] < 400 and idle["peak"] < 50


def test_inference_is_timed_for_each_size(counted_clock):
    dense, pruned = benchmark.random_encoder(4, 128), benchmark.random_encoder(1, 32)
    rows = benchmark.inference(dense, pruned, (1, 2), (8, 600), repeats=2)
    assert [(row["batch size"], row["length"]) for row in rows] == [(1, 8), (2, 8)]
    assert all(row["dense"] > row["pruned"] > 0 for row in rows)


def test_products_are_timed():
    assert benchmark.product_rate(torch.float32, CPU) > 0


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_each_gain_is_measured_alone(dtype):
    sample = tiny_sample()
    found = benchmark.gains(tiny("bert", "classification"), sample, dtype, tokens=200)
    expected = {
        "batches by length",
        "passes spelled out",
        "cached hidden states",
        "teacher's logits kept",
        "normal equations",
        "first token only",
        "attention by products",
    }
    if torch.get_num_threads() > 1:
        expected.add("batches side by side")
    assert set(found) == expected | ({"products in bf16"} if dtype else set())
    assert all(ratio > 0 for ratio in found.values())
    # Spans are read off all tokens.
    spans = benchmark.gains(tiny("bert", "span"), tiny_sample("span"), dtype, tokens=200)
    assert "first token only" not in spans
