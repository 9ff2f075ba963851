"""Polishing brings a pruned model nearer to its teacher, and changes nothing else."""

import warnings

import families
import pytest
import torch
from conftest import tiny, tiny_sample, word_tokenizer

import kprune
from kprune.data.batching import batches
from kprune.encoders import Encoder


def apart(model, teacher, sample):
    """K_pred over a sample."""
    student, dense = Encoder(model), Encoder(teacher)
    with torch.no_grad():
        return sum(
            student.kind.distance(student.run(b), dense.run(b), 2.0, b.mask).sum().item()
            for b in batches(sample.examples)
        )


@pytest.mark.parametrize("kind", families.KINDS)
def test_a_polished_model_is_nearer_to_its_teacher(kind):
    teacher, sample = tiny("bert", kind), tiny_sample(kind)
    pruned, _ = kprune.prune(teacher, sample, 0.6, "magnitude", progress=False)
    next(pruned.parameters()).requires_grad_(False)
    before = {name: weight.clone() for name, weight in pruned.state_dict().items()}
    found = kprune.polish(pruned, teacher, sample, passes=10, learning_rate=2e-3, progress=False)
    assert apart(found, teacher, sample) < 0.8 * apart(pruned, teacher, sample)
    assert all(weight.equal(before[name]) for name, weight in pruned.state_dict().items())
    flags = [[w.requires_grad for w in one.parameters()] for one in (found, pruned)]
    assert flags[0] == flags[1] and all(w.grad is None for w in found.parameters())
    assert found.get_input_embeddings().weight.equal(teacher.get_input_embeddings().weight)
    again = kprune.polish(pruned, teacher, sample, passes=10, learning_rate=2e-3, progress=False)
    assert all(w.equal(again.state_dict()[name]) for name, w in found.state_dict().items())


@pytest.mark.parametrize("passes", [1, 2, 10, 11])
def test_few_steps_are_steps(passes):
    """One batch: as many steps as passes; ten divided by zero, and one did next to nothing."""
    teacher, sample = tiny("bert", "classification"), tiny_sample(count=3)
    pruned, _ = kprune.prune(teacher, sample, 0.6, "magnitude", progress=False)
    found = kprune.polish(pruned, teacher, sample, passes, learning_rate=2e-3, progress=False)
    assert apart(found, teacher, sample) < 0.999 * apart(pruned, teacher, sample)


def test_texts_and_exchanged_models_are_refused():
    dense, sample = tiny("bert", "classification"), tiny_sample()
    pruned, _ = kprune.prune(dense, sample, 0.5, progress=False)
    with pytest.raises(ValueError, match="takes the sample itself"):
        kprune.polish(pruned, dense, ["a text"])
    with pytest.raises(ValueError, match="are the two exchanged"):
        kprune.polish(dense, pruned, sample)


def test_a_teacher_is_the_model_that_was_pruned():
    """One of another family was taken, and one of other weights without a word."""
    dense, sample = tiny("bert", "classification"), tiny_sample()
    pruned, _ = kprune.prune(dense, sample, 0.3, progress=False)
    with pytest.raises(ValueError, match="of the family bert and its teacher of roberta"):
        kprune.polish(pruned, tiny("roberta", "classification"), sample, 1, progress=False)
    with pytest.warns(UserWarning, match="not those that the model was pruned from"):
        kprune.polish(pruned, tiny("bert", "classification", 1), sample, 1, progress=False)
    again, _ = kprune.prune(pruned, sample, 0.3, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kprune.polish(again, dense, sample, 1, progress=False)


def test_a_trimmed_model_has_no_teacher_that_reads_its_numbers():
    """All of them exist in the dense model, and name other pieces of words there."""
    dense, texts = tiny("bert", "classification"), [f"w{n} w{n + 1}" for n in range(9)] * 3
    given = {"tokens": 50, "progress": False}
    words = word_tokenizer()
    dense.resize_token_embeddings(len(words), mean_resizing=False)
    pruned, _ = kprune.prune(dense, texts, 0.5, "magnitude", tokenizer=words, **given)
    fewer, tokenizer, _ = kprune.trim(pruned, texts, words)
    sample = kprune.sample(texts, tokenizer, 60)
    with pytest.raises(ValueError, match="polish first, then trim"):
        kprune.polish(fewer, dense, sample, progress=False)


def test_what_does_not_fit_is_refused():
    teacher, sample = tiny("bert", "classification"), tiny_sample()
    for change, words in (
        ({"teacher": tiny("bert", "regression")}, "and the teacher for regression"),
        ({"passes": 0}, "passes must be a whole number of at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"model": tiny("bert", "classification").half()}, "Half precision is too coarse"),
    ):
        given = {"model": teacher, "teacher": teacher, "sample": sample} | change
        with pytest.raises(ValueError, match=words):
            kprune.polish(**given, progress=False)
