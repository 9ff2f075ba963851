"""Metrics against cases worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny, tiny_sample
from datasets import Dataset
from transformers import AutoModel

from kprune.data.tasks import TASKS, Task
from kprune.encoders import Encoder
from kprune.laboratory.evaluation import DevSet, check_dev, dev_set, evaluate, predict, scores
from kprune.laboratory.metrics import normalise, spans, squad_scores, token_scores
from kprune.limits.latency import latency, pass_seconds
from kprune.surgery import keep_units


def test_squad_scores_by_hand():
    # "the cat sat" against "Cat!": 1 common word, precision 1/2, recall 1/1 -> F1 2/3
    assert squad_scores(["the cat sat"], [["Cat!"]]) == {
        "f1": pytest.approx(2 / 3),
        "exact_match": 0,
    }
    # the best of several gold answers counts
    assert squad_scores(["in 1912"], [["1911", "in  1912."]]) == {"f1": 1, "exact_match": 1}
    # repeated words count as often as both have them: 1 common of 2 and 1
    assert squad_scores(["new new"], [["new"]])["f1"] == pytest.approx(2 / 3)
    # unanswerable: right exactly when nothing is predicted
    assert squad_scores(["", "x"], [[], []]) == {"f1": 0.5, "exact_match": 0.5}
    # answerable, nothing predicted
    assert squad_scores([""], [["x"]]) == {"f1": 0, "exact_match": 0}
    # no word in common
    assert squad_scores(["dog"], [["cat"]]) == {"f1": 0, "exact_match": 0}


def test_normalise():
    assert normalise("The  Eiffel-Tower, (an) 'Icon'!") == "eiffeltower icon"
    assert normalise("another theory") == "another theory"  # articles are whole words


def span_set(task: str, contexts: list[str], windows: list[tuple[int, list]]) -> DevSet:
    """Windows as (row, offsets), with no need of a tokenizer."""
    rows = Dataset.from_dict(
        {
            "question": ["?"] * len(contexts),
            "context": contexts,
            "answers": [{"text": [], "answer_start": []}] * len(contexts),
        }
    )
    columns = {"row": [row for row, _ in windows], "offset_mapping": [o for _, o in windows]}
    return DevSet(TASKS[task], rows, columns, 0)


OFFSETS = [None, None, (0, 3), (4, 7), (8, 11), None]  # [CLS] ? one two six [SEP]


def ends(start, end):
    return torch.tensor([start, end], dtype=torch.float32).T


def test_best_span_by_hand():
    dev = span_set("squad", ["one two six"], [(0, OFFSETS)])
    # start peaks after end: the best ordered pair is (two, two) with 3 + 4
    logits = ends([9, 9, 0, 3, 5, 9], [9, 9, 1, 4, 0, 9])
    assert spans(dev, [logits]) == ["two"]
    # ordered, two tokens long: start of "one", end of "two"
    assert spans(dev, [ends([0, 0, 6, 3, 0, 0], [0, 0, 1, 4, 0, 0])]) == ["one two"]
    # nothing longer than allowed
    assert spans(dev, [ends([0, 0, 6, 3, 0, 0], [0, 0, 1, 4, 0, 0])], longest=1) != ["one two"]


def test_best_span_equals_brute_force():
    generator = torch.Generator().manual_seed(0)
    context = " ".join(f"{i:02d}" for i in range(20))
    offsets = [None] * 3 + [(3 * i, 3 * i + 2) for i in range(20)] + [None]
    dev = span_set("squad", [context], [(0, offsets)])
    for longest in (1, 4, 30):
        for _ in range(20):
            logits = torch.randn(24, 2, generator=generator)
            start, end = logits.T.tolist()
            value, i, j = max(
                (start[i] + end[j], i, j)
                for i in range(3, 23)
                for j in range(i, min(i + longest, 23))
            )
            assert math.isfinite(value)
            assert spans(dev, [logits], longest) == [context[offsets[i][0] : offsets[j][1]]]


def test_best_window_wins():
    dev = span_set("squad", ["one two six"], [(0, OFFSETS), (0, OFFSETS)])
    weak = ends([0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0])
    strong = ends([0, 0, 0, 0, 5, 0], [0, 0, 0, 0, 5, 0])
    assert spans(dev, [weak, strong]) == spans(dev, [strong, weak]) == ["six"]


def test_unanswerable_questions():
    dev = span_set("squad_v2", ["one two six"], [(0, OFFSETS), (0, OFFSETS)])
    yes = ends([0, 0, 3, 0, 0, 0], [0, 0, 3, 0, 0, 0])
    no = ends([5, 0, 3, 0, 0, 0], [5, 0, 3, 0, 0, 0])
    assert spans(dev, [no, no]) == [""]
    assert spans(dev, [yes, no]) == ["one"], "one window that sees an answer is enough"
    v1 = span_set("squad", ["one two six"], [(0, OFFSETS)])
    assert spans(v1, [no]) == ["one"], "SQuAD v1.1 always has an answer"


@pytest.mark.parametrize(
    ("metric", "logits", "labels", "expected"),
    [
        ("accuracy", [[0, 1], [1, 0], [0, 1], [0, 1]], [1, 0, 0, 1], 0.75),
        # confusion: TP 2, TN 1, FP 1, FN 0 -> (2·1 − 1·0) / √(3·2·2·1)
        ("matthews", [[0, 1], [1, 0], [0, 1], [0, 1]], [1, 0, 0, 1], 2 / math.sqrt(12)),
        # ranks 1 2 3 4 against 1 3 2 4: 1 − 6·2 / (4·15)
        ("spearman", [[0.1], [0.2], [0.3], [0.4]], [0.0, 3.0, 2.0, 5.0], 0.8),
        ("spearman", [[1.0]] * 4, [0.0, 3.0, 2.0, 5.0], 0.0),
        # from the highest: right, wrong, right, wrong -> (1/1 + 2/3) / 2
        ("average_precision", [[9.0], [0.2], [-1.0], [0.1]], [1.0, 0.0, 0.0, 1.0], 5 / 6),
    ],
)
@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_metrics_by_hand(metric, logits, labels, expected):
    kind = "classification" if metric in ("accuracy", "matthews") else "regression"
    task = Task("case", ("text",), kind, metric, len(logits[0]))
    rows = Dataset.from_dict({"text": ["x"] * 4, "label": labels})
    predictions = [torch.tensor(z, dtype=torch.float32) for z in logits]
    found = scores(DevSet(task, rows, {}, 0), predictions)
    assert found == {metric: pytest.approx(expected)}


def test_several_labels_by_hand():
    task = Task("case", ("text",), kind="multilabel", metric="f1_micro", labels=2)
    rows = Dataset.from_dict({"text": ["x"] * 2, "label": [[1, 0], [1, 1]]})
    predictions = [torch.tensor([2.0, -1.0]), torch.tensor([-1.0, 3.0])]
    # TP 2, FP 0, FN 1; the first label's F1 is 2/3, the second's 1; one text has just its labels
    found = scores(DevSet(task, rows, {}, 0), predictions)
    assert found == {"f1_micro": 0.8, "f1_macro": pytest.approx(5 / 6), "accuracy": 0.5}
    # the data's first label is the model's second output
    swapped = scores(DevSet(task, rows, {}, 0), [z.flip(0) for z in predictions], order=[1, 0])
    assert swapped == found


def test_entities_by_hand():
    names = dict(enumerate(["O", "B-P", "I-P", "B-L", "I-L"]))
    gold = [[-100, 1, 2, 0, 3, -100], [4, 4, 1, 0]]  # P, L; L (begun with I-), P
    mine = [[3, 1, 2, 2, 3, 3], [4, 4, 1, 2]]  # P one too long, L; L, P one too long
    found = token_scores(mine, gold, names)
    assert found == {"accuracy": 6 / 8, "f1": pytest.approx(2 * 2 / 8)}
    assert token_scores([[1]], [[1]], {0: "NOUN", 1: "VERB"}) == {"accuracy": 1.0}
    assert token_scores([[0]], [[0]], names)["f1"] == 0, "without a warning"


def test_f1_of_entities_needs_their_names(tokenizer):
    """Before any pass, or an epoch of fine-tuning."""
    task = Task("names", ("words",), kind="tokens", metric="f1", labels=3)
    rows = {"words": [["a", "b"], ["c"]], "label": [[0, 1], [2]]}
    dev = dev_set(task, tokenizer, Dataset.from_dict(rows))
    model = tiny("bert", "tokens")
    with pytest.raises(ValueError, match=r"'names' have no names of entities, .* metric accuracy"):
        check_dev(model, dev)
    model.config.id2label = {0: "O", 1: "B-x", 2: "I-x"}
    assert check_dev(model, dev) == (None, ("O", "B-x", "I-x"))


def test_average_precision_is_of_yes_and_no(tokenizer):
    task = Task("r", ("text",), kind="regression", metric="average_precision", labels=1)
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0.5, 1.0]})
    with pytest.raises(ValueError, match="labels that are 0 or 1, and 'r' has others"):
        dev_set(task, tokenizer, rows)


def test_labels_and_heads_must_fit_the_task(teacher):
    model, tokenizer = teacher
    texts = ["good", "bad", "fine"]
    for labels, named in (([1, 2, 1], "Row 1 .* 2"), (["pos", "neg", "pos"], "Row 0 .* 'pos'")):
        rows = Dataset.from_dict({"text": texts, "label": labels})
        with pytest.raises(ValueError, match=f"{named}; .* a whole number from 0 to 1"):
            dev_set(Task("mine", ("text",)), tokenizer, rows)
    with pytest.raises(ValueError, match="lacks the column 'txt'; it has text, label"):
        dev_set(Task("mine", "txt"), tokenizer, rows)
    rows = Dataset.from_dict({"text": texts, "label": [0, 1, 2]})
    three = dev_set(Task("mine", ("text"), labels=3), tokenizer, rows)
    with pytest.raises(ValueError, match="model has 2 outputs, and the task 'mine' needs 3"):
        evaluate(model, three)
    with pytest.raises(ValueError, match=r"head for classification, .* 'mine' is of kind"):
        evaluate(model, replace(three, task=Task("mine", ("text",), kind="multilabel")))


def test_the_model_is_left_in_its_mode(teacher):
    model, tokenizer = teacher
    rows = Dataset.from_dict({"sentence": ["good", "bad"], "label": [1, 0]})
    dev = dev_set("opinions", tokenizer, rows)
    wanted = evaluate(model, dev)
    model.train()
    model.dropout.eval()
    try:
        assert evaluate(model, dev) == wanted
        assert model.training and model.base_model.training and not model.dropout.training
    finally:
        model.eval()


def test_embeddings_are_scored_by_the_cosine_of_a_pair(minilm, tokenizer):
    model = AutoModel.from_pretrained(minilm)
    task = Task("pairs", ("a", "b"), kind="regression", metric="spearman", labels=1)
    columns = {
        "a": ["a man eats"] * 3,
        "b": ["a man is eating", "a dog barks at a man", "stocks fell"],
        "label": [5.0, 2.0, 0.0],
    }
    rows = Dataset.from_dict(columns)
    dev = dev_set(task, tokenizer, rows)
    assert evaluate(model, dev) == {"spearman": 1.0}
    ids = [[tokenizer(t, return_tensors="pt") for t in columns[side]] for side in "ab"]
    with torch.no_grad():
        first = [torch.cat([model(**i).last_hidden_state[:, 0] for i in side]) for side in ids]
    found = torch.cat(predict(model, dev, pooling="cls"))
    torch.testing.assert_close(found, torch.cosine_similarity(*first), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="pooling is"):
        evaluate(model, dev, pooling="max")
    apart = Task("pairs", ("a", "b"), kind="embedding")  # which says so, and nothing else
    assert evaluate(model, dev_set(apart, tokenizer, rows)) == {"spearman": 1.0}
    wrong = rows.remove_columns("label").add_column("label", ["x", "y", "z"])
    with pytest.raises(ValueError, match=r"Row 0 .* has the label 'x'; .* finite"):
        dev_set(apart, tokenizer, wrong)
    hidden = {"sentence1": ["a"], "sentence2": ["b"], "label": [-1.0]}
    with pytest.raises(ValueError, match=r"Row 0 .* of 'sts' has the label -1.0; .* task's scale"):
        dev_set("sts", tokenizer, Dataset.from_dict(hidden))
    with pytest.raises(ValueError, match=r"no head, .* 'pairs' is of kind 'classification'"):
        evaluate(model, replace(dev, task=Task("pairs", ("a", "b"))))


def test_scores_on_real_text(teacher):
    model, tokenizer = teacher
    dev = dev_set("opinions", tokenizer)
    quick = dev_set("opinions", tokenizer, every=10)
    assert len(quick.rows) == 100
    score = evaluate(model, dev)["accuracy"]
    assert 0.6 < score <= 1
    wrong = sum(
        model(**{k: torch.tensor([v]) for k, v in tokenizer(row["sentence"]).items()})
        .logits.argmax()
        .item()
        != row["label"]
        for row in quick.rows
    )
    assert evaluate(model, quick)["accuracy"] == pytest.approx(1 - wrong / 100, abs=0.011)


def test_flops_and_latency_fall_with_the_units():
    model = tiny("bert", "classification")
    before = Encoder(model).flops(10)
    keep_units(Encoder(model).sublayers[1], torch.arange(24) < 6)
    assert before - Encoder(model).flops(10) == 18 * 4 * 10 * 32
    assert latency(model, batch_size=2, length=5, repeats=3) > 0
    assert pass_seconds(model, tiny_sample()) > 0
