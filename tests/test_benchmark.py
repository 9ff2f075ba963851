"""What is measured is what is meant."""

import pytest
import torch

from kprune.encoders import Encoder
from kprune.laboratory import benchmark

CPU = torch.device("cpu")


def test_random_encoders_have_the_shape_asked_for():
    encoder = Encoder(benchmark.random_encoder(3, 64))
    assert encoder.units("MHA") == [2, 2, 2] and encoder.units("FFN") == [256] * 3
    embeddings = benchmark.random_encoder(1, 32, vocabulary=77).get_input_embeddings()
    assert embeddings.num_embeddings == 77
    assert Encoder(benchmark.random_encoder(1, 768)).units("MHA") == [12]  # as BERT-base
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


def test_products_are_timed():
    assert benchmark.product_rate(torch.float32, CPU) > 0
