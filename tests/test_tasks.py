"""The tasks of the paper, their data by id or folder, and one clear sentence for each mistake."""

import hashlib
import json
import re

import pytest
from conftest import shared
from datasets import ClassLabel, Dataset, Features, Value

import kprune
from kprune.data.hub import classes_of, load_split
from kprune.data.opinions import TOPICS, opinions, ratings, topics, words
from kprune.data.tasks import TASKS, Task, get_task

PAPER = ("mrpc", "qqp", "sst2", "stsb", "mnli", "qnli", "squad", "squad_v2")


def write(folder, config, columns, split="train"):
    """A data folder laid out like a Hub repository."""
    (folder / config).mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns).to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n"
        f"  - split: {split}\n    path: {config}/{split}-*\n---\n"
    )
    return folder


def test_all_tasks_of_the_paper_are_there():
    assert set(PAPER) <= set(TASKS)
    assert {"rte", "cola"} <= set(TASKS)
    assert TASKS["stsb"].metric == "spearman" and TASKS["cola"].metric == "matthews"
    assert {TASKS[name].dataset for name in PAPER} == {
        "nyu-mll/glue",
        "rajpurkar/squad",
        "rajpurkar/squad_v2",
    }
    assert [TASKS[name].average_length for name in PAPER] == [
        53.24, 30.55, 25.16, 31.47, 39.05, 50.97, 170, 170,
    ]  # fmt: skip


def test_a_local_folder_stands_in_for_the_hub(tmp_path, tokenizer):
    folder = write(tmp_path / "glue", "sst2", {"sentence": ["good", "bad"], "label": [1, 0]})
    assert load_split("sst2", "train", folder)["sentence"][:] == ["good", "bad"]
    with pytest.warns(UserWarning, match="all of it"):
        assert len(kprune.sample("sst2", tokenizer, data=folder).examples) == 2


def test_folders_of_one_name_are_told_apart(tmp_path):
    """`datasets` alone would give the first folder's rows for the second and the changed one."""
    for name in "ab":
        folder = write(tmp_path / name / "glue", "sst2", {"sentence": [name], "label": [1]})
        assert load_split("sst2", "train", folder)["sentence"][:] == [name]
    write(folder, "sst2", {"sentence": ["changed"], "label": [1]})
    assert load_split("sst2", "train", folder)["sentence"][:] == ["changed"]


def test_mistakes_get_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match="no task 'sst-2'; did you mean 'sst2'"):
        get_task("sst-2")
    with pytest.raises(ValueError, match="no task 'xyz'; choose one of mrpc"):
        get_task("xyz")
    with pytest.raises(ValueError, match="pass texts of your own as a list"):
        get_task("A nice film.")
    with pytest.raises(ConnectionError, match=r"Hub cannot be reached .* pass data=<folder"):
        load_split("sst2", "train")
    with pytest.raises(ValueError, match="There is no data folder /nowhere/glue"):
        load_split("sst2", "train", "/nowhere/glue")
    folder = write(tmp_path / "glue", "sst2", {"text": ["good"], "label": [1]})
    with pytest.raises(ValueError, match="lacks the column 'sentence'; it has text, label"):
        load_split("sst2", "train", folder)
    with pytest.raises(ValueError, match="no split 'validation'; it has train"):
        load_split("sst2", "validation", folder)
    with pytest.raises(ValueError, match="does not hold 'mrpc' as the Hub lays it out"):
        load_split("mrpc", "train", folder)
    with pytest.raises(ValueError, match="names no data set"):
        load_split(kprune.Task("mine", ("text",)), "train")


SENTENCES = "459bfff438155e1def2ae1b7c195c88a82ab27420859c91b7f54afec1851f9fd"
STARS = "06002bf3ecca6f1989c5e6e126eadad5a618ffaa13c37829722fc89f09eadd92"


@pytest.mark.parametrize(("make", "digest"), [(opinions, SENTENCES), (ratings, STARS)])
def test_the_generated_data_is_the_same_to_the_byte(make, digest):
    """Teachers and records of these tasks hang on every sentence."""
    splits = make()
    text = json.dumps({name: splits[name].to_dict() for name in ("train", "validation")})
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_opinions_are_determined_by_the_seed():
    one, two, other = opinions(50, 20), opinions(50, 20), opinions(50, 20, seed=1)
    assert one["train"][:] == two["train"][:]
    assert one["train"]["sentence"][:] != other["train"]["sentence"][:]
    assert len(one["train"]) == 50 and len(one["validation"]) == 20
    with pytest.raises(ValueError):
        opinions(0, 10)


def test_opinions_cannot_be_told_by_their_words():
    """A bag of words stays far below what an encoder reaches: the task needs composition."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    data = opinions()
    train, validation = data["train"], data["validation"]
    assert not set(train["sentence"]) & set(validation["sentence"])
    assert 0.45 < sum(train["label"]) / len(train) < 0.55
    words = CountVectorizer().fit(train["sentence"][:])
    model = LogisticRegression(max_iter=2000)
    model.fit(words.transform(train["sentence"][:]), train["label"][:])
    assert model.score(words.transform(validation["sentence"][:]), validation["label"][:]) < 0.75


def test_topics_are_the_domain_and_the_verdict_of_the_same_sentences():
    several, one = topics(300, 40), opinions(300, 40)
    for split, rows in several.items():
        assert rows["sentence"][:] == one[split]["sentence"][:]
        for sentence, ticks, verdict in zip(*rows[:].values(), one[split]["label"], strict=True):
            assert len(ticks) == len(TOPICS) == TASKS["topics"].labels and ticks[-1] == verdict
            (domain,) = (n for n, tick in enumerate(ticks[:-1]) if tick)
            things = words()["domains"][domain]["things"]
            assert any(thing in sentence.lower() for thing in things)
    for name, domain in zip(TOPICS, words()["domains"], strict=False):
        assert any(name in thing for thing in domain["things"])
    assert classes_of(several["train"], TASKS["topics"]) == TOPICS


def test_names_of_labels_are_as_many_as_they():
    for names in (("a", "b"), ("a", "b", "a"), ("a", "b", "c", "a")):
        with pytest.raises(ValueError, match=r"of the task 'm' are 3, one for each label; got"):
            Task("m", ("text",), kind="multilabel", labels=3, names=names)


QNLI = Features(question=Value("string"), sentence=Value("string"))
ANSWERS = {"question": ["Who?"] * 3, "sentence": ["Ada did.", "Blue.", "Eve did."]}


def with_labels(labels, feature):
    return Dataset.from_dict(
        ANSWERS | {"label": labels}, features=Features(QNLI | {"label": feature})
    )


def test_relevance_is_one_where_the_sentence_holds_the_answer():
    for names in (["entailment", "not_entailment"], ["not_entailment", "entailment"]):
        feature = ClassLabel(names=names)
        rows = with_labels([names.index("entailment"), names.index("not_entailment"), -1], feature)
        found = load_split("relevance", "train", rows)
        assert found["label"][:] == [1.0, 0.0, -1.0], "a hidden label is not taken for a 0"
        assert load_split("relevance", "train", found)["label"][:] == found["label"][:]
        assert load_split("qnli", "train", rows)["label"][:] == rows["label"][:]
    with pytest.raises(ValueError, match="no class 'entailment'; they are yes, no"):
        load_split("relevance", "train", with_labels([0, 1, 1], ClassLabel(names=["yes", "no"])))
    with pytest.raises(ValueError, match="which of them is 'entailment' is not known"):
        load_split("relevance", "train", with_labels([0, 1, 1], Value("int64")))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Dataset scripts are no longer supported, but found wnut_17.py"),
        ValueError("BuilderConfig 'all' not found. Available: ['wnut_17']"),
        PermissionError(13, "Permission denied", "/home/me/.cache/lock"),
    ],
)
def test_what_is_wrong_with_a_data_set_of_the_hub_is_said(error, monkeypatch):
    """It was told as a Hub that cannot be reached, whatever it was."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("datasets.load_dataset", refuse)
    said = re.escape(str(error))
    with pytest.raises(ValueError, match=f"cannot be loaded: {said}; .* in Parquet"):
        load_split("wnut_17", "train")


REAL = ["sst2", "mrpc", "stsb", "mnli", "squad", "squad_v2"]
REAL += ["qqp", "qnli", "sts", "relevance", "wnut_17"]


@pytest.mark.parametrize("name", REAL)
def test_real_data_is_sampled(name, tokenizer):
    own = name.startswith("squad") or name == "wnut_17"
    folder = shared("data", name if own else "glue")
    sample = kprune.sample(name, tokenizer, tokens=5000, data=folder)
    longest = TASKS[name].max_length
    assert 5000 - longest < sample.tokens <= 5000
    assert max(len(example["input_ids"]) for example in sample.examples) <= longest
    dev = kprune.dev_set(name, tokenizer, folder, every=400)
    assert len(dev.columns["input_ids"]) >= len(dev.rows) > 0


@pytest.mark.parametrize(
    "name, every, one_answer",  # as 10_accuracy (SQuAD v2.0 at 40: 18_beyond) tells its reader
    [
        ("qqp", 1, 62),
        ("mrpc", 1, 68),
        ("qnli", 5, 52),
        ("sst2", 1, 51),
        ("mnli", 10, 37),
        ("squad_v2", 20, 48),
        ("squad_v2", 40, 49),
    ],
)
def test_what_one_answer_throughout_would_score(name, every, one_answer):
    data = shared("data", name if name == "squad_v2" else "glue")
    rows = load_split(name, "validation", data)
    labels = rows[TASKS[name].label][::every]
    if name == "squad_v2":
        labels = ["" if not any(label["text"]) else "an answer" for label in labels]
        most = labels.count("")
    else:
        most = max(map(labels.count, {*labels}))
    assert round(100 * most / len(labels)) == one_answer
