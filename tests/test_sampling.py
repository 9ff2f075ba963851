"""The sample: its token count, its determinism, its batches."""

import numpy as np
import pytest
import torch
from conftest import examples, tiny, tiny_sample
from datasets import Dataset, DatasetDict

import kprune
from kprune.data import batching
from kprune.data.batching import batch_tokens, batches
from kprune.data.checks import in_order, matched
from kprune.data.tasks import TASKS, Task
from kprune.data.tokens import tokenize
from kprune.laboratory.evaluation import dev_set


def test_token_budget_is_met_and_never_exceeded(tokenizer):
    for tokens in (50, 999, 10_000):
        sample = kprune.sample("opinions", tokenizer, tokens=tokens)
        assert sample.tokens == sum(len(example["input_ids"]) for example in sample.examples)
        assert tokens - 64 < sample.tokens <= tokens


def test_determined_by_the_seed(tokenizer):
    first = kprune.sample("opinions", tokenizer, tokens=3000, seed=7)
    again = kprune.sample("opinions", tokenizer, tokens=3000, seed=7)
    other = kprune.sample("opinions", tokenizer, tokens=3000, seed=8)
    assert first.examples == again.examples
    assert first.examples != other.examples
    longer = kprune.sample("opinions", tokenizer, tokens=6000, seed=7)
    assert longer.examples[: len(first.examples)] == first.examples


def test_without_replacement(tokenizer):
    texts = [f"text number {i}" for i in range(40)]
    with pytest.warns(UserWarning, match="the sample is all of it"):
        sample = kprune.sample(texts, tokenizer)
    drawn = sorted(
        tokenizer.decode(e["input_ids"], skip_special_tokens=True) for e in sample.examples
    )
    assert drawn == sorted(texts)


def test_a_column_is_a_list_of_texts_and_a_sample_is_short_in_print(tokenizer):
    with pytest.warns(UserWarning, match="all of it"):
        sample = kprune.sample(Dataset.from_dict({"text": ["one", "two"]})["text"], tokenizer)
    assert repr(sample) == "Sample(6 tokens in 2 sequences of 'texts', seed 0)"


def test_pairs_of_your_own(tokenizer):
    with pytest.warns(UserWarning, match="all of it"):
        sample = kprune.sample([("one", "two"), ("three", "four")], tokenizer)
    assert sample.examples[0]["token_type_ids"] == [0, 0, 0, 1, 1]
    assert sample.length == 5


def test_texts_are_drawn_apart_for_a_model_that_embeds_them_apart(tokenizer):
    rows = {"a": [f"one {i}" for i in range(40)], "b": [f"two {i}" for i in range(40)]}
    rows = Dataset.from_dict(rows | {"label": [0.5] * 40})
    task = Task("apart", ("a", "b"), kind="embedding")
    with pytest.warns(UserWarning, match="all of it"):
        sample = kprune.sample(task, tokenizer, data=rows)
    texts = [tokenizer.decode(e["input_ids"], skip_special_tokens=True) for e in sample.examples]
    assert sorted(texts) == sorted([*rows["a"], *rows["b"]]) and sample.labels is None
    assert texts[:2] != [rows["a"][0], rows["b"][0]] and texts[0][4:] == texts[1][4:]
    assert len(kprune.sample(task, tokenizer, data=rows, sequences=7).examples) == 7
    broken = Dataset.from_dict({"a": ["x", "y"], "b": ["z", None]})
    with pytest.raises(ValueError, match=r"Row 1 .from 0. of 'b' of 'apart' holds None"):
        kprune.sample(task, tokenizer, data=broken)


def test_flops_length_of_a_benchmark_task_is_the_papers(tokenizer):
    rows = Dataset.from_dict({"sentence": ["a fine film"] * 5, "label": [1] * 5})
    with pytest.warns(UserWarning, match="all of it"):
        assert kprune.sample("sst2", tokenizer, data=rows).length == 25.16


@pytest.mark.parametrize("max_tokens", [1, 20, 64, 10**6])
def test_batches_hold_every_example_once(max_tokens):
    sequences = examples(50)
    seen = []
    for batch in batches(sequences, max_tokens=max_tokens):
        ids, mask = batch.inputs["input_ids"], batch.attention_mask.bool()
        assert ids.numel() <= max_tokens or len(ids) == 1
        for row, i in enumerate(batch.index.tolist()):
            assert ids[row][mask[row]].tolist() == sequences[i]["input_ids"]
            types = batch.inputs["token_type_ids"][row][mask[row]].tolist()
            assert types == sequences[i]["token_type_ids"]
            assert (ids[row][~mask[row]] == 0).all()
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(50))


def test_sorting_by_length_saves_padding():
    sequences = examples(200)

    def cells(**options):
        return sum(
            b.inputs["input_ids"].numel() for b in batches(sequences, max_tokens=120, **options)
        )

    tokens = sum(len(example["input_ids"]) for example in sequences)
    assert tokens <= cells() < 1.15 * tokens < cells(by_length=False)


def test_a_batch_without_padding_has_no_mask():
    (batch,) = batches([{"input_ids": [1, 2]}, {"input_ids": [3, 4]}])
    assert batch.mask is None
    assert batch.attention_mask.tolist() == [[1, 1], [1, 1]]


SPANS = Task(
    "spans", ("question", "context"), kind="span", max_length=24, stride=8, label="answers"
)


def test_long_contexts_become_overlapping_windows(tokenizer):
    context = " ".join(f"word{i}" for i in range(40))
    rows = {"question": ["which word", "short"], "context": [context, "a short one"]}
    found = tokenize(SPANS, tokenizer, rows)
    assert found["row"][-1] == 1 and found["row"].count(0) > 2
    covered = set()
    for row, ids, offsets in zip(
        found["row"], found["input_ids"], found["offset_mapping"], strict=True
    ):
        assert len(ids) <= 24
        assert offsets[0] is None, (
            "the question and the special tokens have no place in the context"
        )
        if row == 0:
            covered |= {i for span in offsets if span for i in range(*span)}
    assert covered >= {i for i, letter in enumerate(context) if letter != " "}


def test_bad_samples_are_refused(tokenizer):
    rows = Dataset.from_dict({"text": ["a"]})
    with pytest.raises(ValueError, match=r"tokens, .* must be a whole number of at least 1; got 0"):
        kprune.sample("opinions", tokenizer, tokens=0)
    with pytest.raises(ValueError, match="does not hold one sequence"):
        kprune.sample("opinions", tokenizer, tokens=2)
    with pytest.raises(ValueError, match="lacks the column 'sentence'; it has text"):
        kprune.sample("sst2", tokenizer, data=rows)
    with pytest.raises(ValueError, match="is empty"):
        kprune.sample("sst2", tokenizer, data=Dataset.from_dict({"sentence": []}))
    with pytest.raises(ValueError, match="a list of texts or of pairs of texts, and at least"):
        kprune.sample([], tokenizer)
    for wrong in ([("a", "b", "c")], [{"a": 1, "b": 2}], [None, "a"]):
        with pytest.raises(ValueError, match=r"Row 0 .from 0. of the"):
            kprune.sample(wrong, tokenizer)
    for table in (rows, rows.to_pandas()):
        with pytest.raises(ValueError, match=r"not a .*; pass its column of texts"):
            kprune.sample(table, tokenizer)
    with pytest.raises(ValueError, match="are empty"):
        kprune.sample(["", " "], tokenizer)
    with pytest.raises(ValueError, match=r"one loaded split .* got a DatasetDict"):
        kprune.sample("sst2", tokenizer, data=DatasetDict(train=rows))
    with pytest.raises(ValueError, match="lacks the label column 'label'"):
        dev_set("sst2", tokenizer, Dataset.from_dict({"sentence": ["a"]}))


def test_masks_are_boolean():
    assert batches(examples(9))[0].mask.dtype == torch.bool


def test_few_shapes_occur():
    """Kernels are prepared per shape, so lengths are rounded, by less than a quarter."""
    sequences = [{"input_ids": [1] * length} for length in range(1, 385)]
    parts = batches(sequences, max_tokens=1024)
    assert len({tuple(part.inputs["input_ids"].shape) for part in parts}) <= 30
    assert max(part.inputs["input_ids"].shape[1] for part in parts) == 384
    for part in parts:
        longest = max(len(sequences[i]["input_ids"]) for i in part.index.tolist())
        assert longest <= part.inputs["input_ids"].shape[1] <= 1.25 * longest


def test_a_number_of_sequences_is_drawn_as_the_authors_draw(tokenizer):
    """np.random.choice after np.random.seed, with replacement."""
    rows = Dataset.from_dict({"sentence": [f"film {i}" for i in range(300)], "label": [0, 1] * 150})
    drawn = np.random.RandomState(7).choice(300, 400).tolist()
    task = Task("films", ("sentence",))
    wanted = [tokenizer(f"film {i}")["input_ids"] for i in drawn]
    again = kprune.sample(task, tokenizer, seed=7, data=rows, sequences=400)
    assert [example["input_ids"] for example in again.examples] == wanted
    assert again.labels == [i % 2 for i in drawn]
    assert len({tuple(ids) for ids in wanted}) < 300  # some come twice, others never


def test_a_sample_knows_its_labels(tokenizer):
    opinions = kprune.sample("opinions", tokenizer, tokens=500)
    assert set(opinions.labels) == {0, 1} and len(opinions.labels) == len(opinions.examples)
    assert kprune.sample(["a text", "and another"], tokenizer, tokens=5).labels is None
    answers = {"text": ["blue whale"], "answer_start": [4]}
    rows = {"question": ["what?"], "context": ["the blue whale sings"], "answers": [answers]}
    squad = kprune.sample("squad", tokenizer, data=Dataset.from_dict(rows), sequences=1)
    ((first, last),) = squad.labels
    words = tokenizer.convert_ids_to_tokens(squad.examples[0]["input_ids"])
    assert words[first : last + 1] == ["blue", "whale"]


@pytest.mark.parametrize("sequences", [0, -3])
def test_sequences_must_be_positive(sequences, tokenizer):
    with pytest.raises(ValueError, match=r"sequences, .* a whole number of at least 1"):
        kprune.sample("opinions", tokenizer, sequences=sequences)


def test_batches_have_a_size_that_suits_the_device(monkeypatch):
    sample = tiny_sample(count=60)
    longest = max(len(example["input_ids"]) for example in sample.examples)
    for wanted, most in ((120, 120), (longest // 2, longest)):  # a long one on its own
        monkeypatch.setitem(batching.BATCH_TOKENS, "cpu", wanted)
        parts = batching.on_device(sample, torch.device("cpu"))
        assert sum(len(part.index) for part in parts) == 60
        assert most / 2 <= max(part.inputs["input_ids"].numel() for part in parts) <= most
        assert (len(parts[0].index) > 1) == (wanted > longest)


def test_off_the_cpu_batches_are_large_and_of_like_lengths():
    assert batch_tokens(torch.device("cpu")) == 480
    for kind in ("cuda", "mps", "xpu"):
        assert batch_tokens(torch.device(kind)) == 15_360
    sequences = examples(400, longest=90)
    parts = batching.suited(sequences, 0, torch.device("cuda"))
    assert sorted(i for part in parts for i in part.index.tolist()) == list(range(400))
    padded = sum(part.inputs["input_ids"].numel() for part in parts)
    real = sum(len(example["input_ids"]) for example in sequences)
    assert padded < 1.08 * real
    plain = batches(sequences, max_tokens=15_360)
    assert padded < 0.9 * sum(part.inputs["input_ids"].numel() for part in plain)


def test_labels_of_a_multilabel_sample_are_yes_or_no_to_each_class(tokenizer):
    sample = kprune.sample("topics", tokenizer, tokens=500)
    assert sample.classes == TASKS["topics"].names
    assert all(len(row) == 6 and sum(row[:5]) == 1 for row in sample.labels)
    model = tiny("bert", "multilabel")
    names = [*reversed(sample.classes)]
    model.config.id2label = dict(enumerate(names))
    order = matched(sample.classes, model.config, "the sample")
    assert in_order(sample.labels, order, "multilabel") == [row[::-1] for row in sample.labels]


def test_words_are_labelled_at_their_first_token(tokenizer):
    """As transformers' own example does."""
    task = Task("names", ("tokens",), kind="tokens", labels=3, label="tags", max_length=12)
    rows = {"tokens": [["Eiffelturm", "in", "Paris"]], "tags": [[1, 0, 2]]}
    found = tokenize(task, tokenizer, rows, labels=True)
    pieces = tokenizer.convert_ids_to_tokens(found["input_ids"][0])
    at = [i for i, label in enumerate(found["labels"][0]) if label != -100]
    assert [pieces[i][0] for i in at] == ["e", "i", "p"] and len(pieces) > 5
    assert [found["labels"][0][i] for i in at] == [1, 0, 2]
