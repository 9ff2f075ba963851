"""What the lessons share: the toy, readings, exercises."""

import re

import pytest
import torch

import kprune
from kprune.laboratory import course


def test_the_toy_has_one_layer_two_heads_four_neurons_and_five_tokens():
    bert, sample = course.toy()
    attention, ffn = kprune.Encoder(bert).sublayers
    assert (attention.units, ffn.units, bert.dtype) == (2, 4, torch.float64)
    assert {len(example["input_ids"]) for example in sample.examples} == {5}
    words = sample.tokenizer.convert_ids_to_tokens(sample.examples[0]["input_ids"])
    assert (words[0], words[-1]) == ("[CLS]", "[SEP]") and "[UNK]" not in words
    again, _ = course.toy()
    for one, other in zip(bert.parameters(), again.parameters(), strict=True):
        assert one.equal(other)


def test_every_unit_of_the_toy_counts():
    bert, sample = course.toy()
    encoder = kprune.Encoder(bert)
    batch = kprune.data.batching.batches(sample.examples)[0]
    whole = encoder.run(batch)
    for sublayer in encoder.sublayers:
        for unit in range(sublayer.units):
            keep = torch.arange(sublayer.units) != unit
            with kprune.surgery.masked(sublayer, keep):
                assert (encoder.run(batch) - whole).abs().max() > 1e-3


def test_a_reading_says_whether_it_holds(capsys):
    course.holds("one is less than two", torch.tensor(1) < 2)
    course.holds("two is less than one", 2 < 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["✓ one is less than two", "✗ not in this run: two is less than one"]


def test_the_footer_tells_versions_commit_device_and_threads():
    footer = course.footer()
    assert re.fullmatch(r"kprune \S+ \([^)]+\), torch \S+, transformers \S+, on .+", footer)
    assert re.search(rf", {torch.get_num_threads()} threads?$", footer)


def test_an_answer_is_checked_once_there_is_one(capsys):
    def check(double):
        assert double(2) == 4

    def scaffold(x):
        raise NotImplementedError

    course.tried(check, scaffold)
    assert "Not written yet" in capsys.readouterr().out
    course.tried(check, lambda x: 2 * x)
    assert capsys.readouterr().out == "Right.\n"
    with pytest.raises(AssertionError):
        course.tried(check, lambda x: x)
