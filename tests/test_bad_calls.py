"""Bad calls: each is refused in a sentence of ours, before any work."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import families
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import tiny, word_tokenizer
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

import kprune
from kprune.encoders import Encoder
from kprune.laboratory.evaluation import evaluate
from kprune.mask_search import kpms

NAN, INF = float("nan"), float("inf")
OURS = Path(kprune.__file__).parent
TWO = kprune.Task("two", ("text",), labels=2)
PAIRS = kprune.Task("pairs", ("text", "pair"), labels=2)
STARS = kprune.Task("stars", ("text",), kind="regression", labels=1)
MANY = kprune.Task("many", ("text",), kind="multilabel", labels=3)
SPAN = kprune.Task("span", ("question", "context"), kind="span", label="answers", max_length=40)
WORDS = kprune.Task("words", ("words",), kind="tokens", labels=3)
GOOD = {"text": ["w1", "w2"]}
ANSWER = {"text": ["w2"], "answer_start": [3]}


def rows(label=(0, 1), **columns) -> Dataset:
    """Two rows, with labels."""
    return Dataset.from_dict({**(columns or GOOD), "label": list(label)})


def spans(answers, question=("w1", "w2")) -> Dataset:
    contexts = {"context": ["w1 w2", "w3 w2"]}
    return Dataset.from_dict({"question": list(question), **contexts, "answers": answers})


def tokens_of(ids, types=None, count: int = 5) -> kprune.Sample:
    """A sample of ready-made ids."""
    row = {"input_ids": ids} | ({"token_type_ids": types} if types else {})
    return kprune.Sample([row] * count, replace(TWO, labels=3), word_tokenizer())


def labelled(labels) -> kprune.Sample:
    """A sample with labels of one's own."""
    return kprune.Sample(families.examples(4), replace(TWO, labels=3), word_tokenizer(), 0, labels)


def weight_as(change) -> Callable:
    """A model with one weight changed."""
    model = tiny("bert", "classification")
    linear = model.bert.encoder.layer[1].output.dense
    linear.weight = torch.nn.Parameter(change(linear.weight.data), False)
    return model


def with_nan(model):
    with torch.no_grad():
        model.base_model.encoder.layer[1].output.dense.weight[0, 0] = NAN
    return model


@pytest.fixture(scope="module")
def x(tmp_path_factory) -> SimpleNamespace:
    """What the calls take: good models, samples and folders."""
    folder = tmp_path_factory.mktemp("bad")
    tokenizer = word_tokenizer()
    model = tiny("bert", "classification")
    kinds = {kind: tiny("bert", kind) for kind in ("regression", "span", "tokens", "embedding")}
    dense = folder / "dense"
    model.save_pretrained(dense)
    tokenizer.save_pretrained(dense)
    bare = folder / "bare"
    tiny("bert", "embedding").save_pretrained(bare)
    untokenised = folder / "untokenised"
    model.save_pretrained(untokenised)
    (folder / "file").write_text("x")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "empty").mkdir()
    sample = kprune.Sample(families.examples(), replace(TWO, labels=3), tokenizer)
    dev = kprune.dev_set(replace(TWO, labels=3), tokenizer, rows())
    return SimpleNamespace(
        **kinds, model=model, tokenizer=tokenizer, folder=folder, sample=sample, dev=dev
    )


def tuned(x, task=TWO, data=None, recipe=None, model="dense", to="new"):
    data = rows() if data is None else data
    source = x.folder / "data"
    if isinstance(data, Dataset):
        source.mkdir(exist_ok=True)
        for split in ("train", "validation"):
            data.to_parquet(source / f"{split}.parquet")
        data = source
    model = str(x.folder / model) if isinstance(model, str) else model
    to = x.folder / to if isinstance(to, str) else to
    return kprune.finetune(to, task, model, data, recipe, progress=False)


def prune(x, sample=None, model=None, **options):
    sample = x.sample if sample is None else sample
    return kprune.prune(model or x.model, sample, progress=False, **options)


Call = Callable[[SimpleNamespace], object]
TEXTS = {
    "None": [None, "w1"],
    "NaN": ["w1", NAN],
    "number": ["w1", 5],
    "bool": [True, "w1"],
    "bytes": [b"w1", b"w2"],
    "dict": [{"text": "w1"}],
    "surrogate": ["w1", "a\ud800b"],
    "pair with None": [("w1", "w2"), ("w1", None)],
    "pair with number": [("w1", 2.0)],
    "triple": [("w1", "w2", "w3")],
    "text after pairs": [("w1", "w2"), "w1"],
    "pair after texts": ["w1", ("w1", "w2")],
    "nested": [["w1", ["w2"]]],
    "nothing": [],
    "blanks": ["", " "],
    "dict of columns": {"text": ["w1"], "label": [0]},
    "dataset": rows(),
    "slice": rows()[:1],
    "set": {"w1", "w2"},
    "splits": DatasetDict(train=rows()),
    "frame": rows().to_pandas(),
    "arrays of numbers": np.zeros((3, 2)),
    "tensor": torch.zeros(3),
    "whole": 5,
    "nothing at all": None,
    "encodings": [word_tokenizer()("w1")],
    "ids": [[2, 5, 3]],
    "series with a gap": pd.Series(["w1", None]),
    "column with a gap": rows(text=["w1", None])["text"],
    "rows": list(rows()),
    "arrays of pairs": np.array([["w1", "w2"], ["w3", "w4"]]),
    "encoding": word_tokenizer()(["w1", "w2"]),
    "bytes alone": b"w1 w2",
    "path": Path("texts.txt"),
}
LABELS = {
    "NaN": [0.0, NAN],
    "None": [0, None],
    "minus one": [0, -1],
    "unlabelled": [0, -100],
    "too large": [0, 7],
    "half": [0.5, 1],
    "text": ["0", "1"],
    "one-hot": [[0, 1], [1, 0]],
}
NUMBERS = {"NaN": [0.0, NAN], "infinite": [0.0, INF], "None": [0.0, None], "text": ["0", "1"]}
NUMBERS |= {"list": [[0.0], [1.0]], "all alike": [-1.0, -1.0]}
ANSWERS = {
    "records": [[ANSWER], [ANSWER]],
    "text": ["w2", "w2"],
    "None": [None, ANSWER],
    "no answer": [ANSWER, {"text": [], "answer_start": []}],
    "text alone": [{"text": ["w2"]}] * 2,
    "beyond": [ANSWER, {"text": ["w2"], "answer_start": [99]}],
    "lengths": [ANSWER, {"text": ["w2"], "answer_start": [3, 4]}],
}
OPTIONS = {
    "rate": (0, 1, -0.1, 1.5, NAN, INF, "0.5", None, True),
    "method": ("k-prune", "", None, 3),
    "gamma": (0, NAN, INF, "2"),
    "lam": (-1, NAN),
    "mu": (0, INF),
    "without": ("everything", 3, None),
    "reuse": (-1, NAN, "yes"),
    "multiple": (-3, 1.5, 1000),
    "speedup": (0.5, NAN, INF, -2),
    "batch_size": (0, 2.5),
    "length": (0,),
    "seed": (-1, 0.5, None, 2**40),
    "tokens": (0, 1e5),
    "precision": ("fp4", None),
    "pooling": ("max",),
    "normalize": (1, "no"),
    "rates": (0.5,),
}
TASKS = {
    "kind": ("classify", None, 3),
    "metric": ("accuracy_score", "spearman", None),
    "labels": (0, 1, -2, 2.5, NAN, True, "2"),
    "max_length": (0, 1, -5, 12.5, INF, None),
    "average_length": (0, -5, NAN, INF, "25", True),
    "minibatch": (0, 1.5),
    "columns": ((), ("a", "b", "c"), (1,), ("a", "a"), None),
    "name": ("", 3, None),
    "label": ("", None),
    "stride": (-1, 0.5),
    "unanswerable": ("no", None),
    "scale": ((5, 0), (NAN, 1), "05", None),
}
RECIPES = {
    "epochs": (0, -1, NAN, INF, "3", None),
    "learning_rate": (0, -1e-5, NAN, INF, "5e-5"),
    "batch_size": (0, 2.5, None),
    "examples": (0, -3, 1.5),
    "seed": (-1, 0.5, 2**40),
    "precision": ("fp4", None),
    "freeze_embeddings": (None, "no"),
}
CALLS: dict[str, Call] = {
    **{f"sample {k}": lambda x, v=v: kprune.sample(v, x.tokenizer) for k, v in TEXTS.items()},
    **{f"prune with {k}": lambda x, v=v: prune(x, v, tokenizer=x.tokenizer)
       for k, v in TEXTS.items() if v is not None},
    **{f"{name}={value!r}": lambda x, name=name, value=value: prune(x, **{name: value})
       for name, values in OPTIONS.items() for value in values},
    **{f"task {name}={value!r}":
       lambda x, n=name, v=value: kprune.Task(**{"name": "t", "columns": ("a",), n: v})
       for name, values in TASKS.items() for value in values},
    **{f"recipe {name}={value!r}": lambda x, n=name, v=value: kprune.Recipe(**{n: v})
       for name, values in RECIPES.items() for value in values},
    **{f"dev {k}": lambda x, v=v: kprune.dev_set(TWO, x.tokenizer, rows(v))
       for k, v in LABELS.items()},
    **{f"fine-tune on {k}": lambda x, v=v: tuned(x, TWO, rows(v)) for k, v in LABELS.items()},
    **{f"Kwon with {k}": lambda x, v=v: prune(x, labelled([2, 2, *v]), method="kwon")
       for k, v in LABELS.items()},
    **{f"Kwon drawn with {k}": lambda x, v=v: prune(
        x, kprune.sample(replace(TWO, labels=3), x.tokenizer, 8, data=rows(v)), method="kwon")
       for k, v in LABELS.items()},
    **{f"dev stars {k}": lambda x, v=v: kprune.dev_set(STARS, x.tokenizer, rows(v))
       for k, v in NUMBERS.items()},
    **{f"fine-tune on stars {k}": lambda x, v=v: tuned(x, STARS, rows(v))
       for k, v in NUMBERS.items() if k != "all alike"},
    **{f"dev answers {k}": lambda x, v=v: kprune.dev_set(SPAN, x.tokenizer, spans(v))
       for k, v in ANSWERS.items()},
    **{f"fine-tune on answers {k}": lambda x, v=v: tuned(x, SPAN, spans(v))
       for k, v in ANSWERS.items()},
    "several labels, too few": lambda x: kprune.dev_set(MANY, x.tokenizer, rows([[0, 1], [1, 0]])),
    "several labels, whole": lambda x: kprune.dev_set(MANY, x.tokenizer, rows([1, 0])),
    "several labels, NaN": lambda x: tuned(x, MANY, rows([[0, 1, NAN], [1.0, 0, 0]])),
    "several labels, 7": lambda x: tuned(x, MANY, rows([[0, 1, 7], [1, 0, 0]])),
    "words, too few labels": lambda x: kprune.dev_set(
        WORDS, x.tokenizer, rows([[0], [1]], words=[["w1", "w2"], ["w1"]])),
    "words, label 3": lambda x: tuned(x, WORDS, rows([[0, 3], [1]], words=[["w1", "w2"], ["w1"]])),
    "words, a text": lambda x: kprune.dev_set(
        WORDS, x.tokenizer, rows([[0], [1]], words=["w", "v"])),
    "words, two columns": lambda x: kprune.dev_set(
        replace(WORDS, columns=("words", "more")), x.tokenizer,
        rows([[0], [1]], words=[["w1"], ["w1"]], more=[["w1"], ["w1"]])),
    "words, None": lambda x: kprune.dev_set(
        WORDS, x.tokenizer, rows([[0, 1], [1]], words=[["w1", None], ["w1"]])),
    "dev with an empty cell": lambda x: kprune.dev_set(TWO, x.tokenizer, rows(text=["w1", None])),
    "dev with numbers": lambda x: kprune.dev_set(TWO, x.tokenizer, rows(text=[1.5, 2.5])),
    "pairs with an empty cell": lambda x: kprune.dev_set(
        PAIRS, x.tokenizer, rows(text=["w1", "w2"], pair=["w1", None])),
    "sample with an empty cell": lambda x: kprune.sample(
        TWO, x.tokenizer, data=rows(text=[None, "w1"])),
    "fine-tune on an empty cell": lambda x: tuned(x, data=rows(text=["w1", None])),
    "no question": lambda x: kprune.dev_set(
        SPAN, x.tokenizer, spans([ANSWER] * 2, question=["w1", None])),
    "dev every=0": lambda x: kprune.dev_set(TWO, x.tokenizer, rows(), every=0),
    "dev every=-1": lambda x: kprune.dev_set(TWO, x.tokenizer, rows(), every=-1),
    "dev every=1.5": lambda x: kprune.dev_set(TWO, x.tokenizer, rows(), every=1.5),
    "dev without labels": lambda x: kprune.dev_set(TWO, x.tokenizer, Dataset.from_dict(GOOD)),
    "dev of one row of stars": lambda x: kprune.dev_set(
        STARS, x.tokenizer, rows([1.0], text=["w"])),
    "dev data is a stream": lambda x: kprune.dev_set(
        TWO, x.tokenizer, rows().to_iterable_dataset()),
    "dev data is nothing": lambda x: kprune.dev_set(TWO, x.tokenizer, ""),
    "sample longest=3": lambda x: kprune.sample(["w1"], x.tokenizer, longest=3),
    "dev without rows": lambda x: kprune.dev_set(TWO, x.tokenizer, rows([], text=[])),
    "dev without tokenizer": lambda x: kprune.dev_set(TWO, None, rows()),
    "dev with a name for a tokenizer": lambda x: kprune.dev_set(TWO, "bert", rows()),
    "dev without padding": lambda x: kprune.dev_set(TWO, word_tokenizer(pad=False), rows()),
    "dev of texts": lambda x: kprune.dev_set(["w1"], x.tokenizer, rows()),
    "dev of no task": lambda x: kprune.dev_set(None, x.tokenizer, rows()),
    "dev of an unknown task": lambda x: kprune.dev_set("sst-2", x.tokenizer, rows()),
    "dev data is a list": lambda x: kprune.dev_set(TWO, x.tokenizer, ["w1"]),
    "dev data is a dict": lambda x: kprune.dev_set(TWO, x.tokenizer, {"text": ["w1"]}),
    "dev data is nowhere": lambda x: kprune.dev_set(TWO, x.tokenizer, x.folder / "nowhere"),
    "dev data is a file": lambda x: kprune.dev_set(TWO, x.tokenizer, x.folder / "file"),
    "dev data is empty": lambda x: kprune.dev_set(TWO, x.tokenizer, x.folder / "empty"),
    "sample tokens=0": lambda x: kprune.sample(TWO, x.tokenizer, 0, data=rows()),
    "sample tokens=1.5": lambda x: kprune.sample(TWO, x.tokenizer, 1.5, data=rows()),
    "sample tokens=NaN": lambda x: kprune.sample(TWO, x.tokenizer, NAN, data=rows()),
    "sample tokens=text": lambda x: kprune.sample(TWO, x.tokenizer, "9", data=rows()),
    "sample tokens=2": lambda x: kprune.sample(TWO, x.tokenizer, 2, data=rows()),
    "sample sequences=1.5": lambda x: kprune.sample(TWO, x.tokenizer, sequences=1.5, data=rows()),
    "sample sequences=0": lambda x: kprune.sample(TWO, x.tokenizer, sequences=0, data=rows()),
    "sample sequences=True": lambda x: kprune.sample(TWO, x.tokenizer, sequences=True, data=rows()),
    "sample sequences=text": lambda x: kprune.sample(TWO, x.tokenizer, sequences="3", data=rows()),
    "sample seed=-1": lambda x: kprune.sample(TWO, x.tokenizer, seed=-1, sequences=1, data=rows()),
    "sample seed=None": lambda x: kprune.sample(TWO, x.tokenizer, seed=None, data=rows()),
    "sample seed=0.5": lambda x: kprune.sample(TWO, x.tokenizer, seed=0.5, data=rows()),
    "sample without tokenizer": lambda x: kprune.sample(TWO, None, data=rows()),
    "sample with a model for a tokenizer": lambda x: kprune.sample(TWO, x.model, data=rows()),
    "sample without padding": lambda x: kprune.sample(
        TWO, word_tokenizer(pad=False), 8, data=rows()),
    "sample without a vocabulary": lambda x: kprune.sample(TWO, word_tokenizer(0), 8, data=rows()),
    "sample of a sentence": lambda x: kprune.sample("a fine film", x.tokenizer),
    "sample of a missing column": lambda x: kprune.sample(
        TWO, x.tokenizer, data=Dataset.from_dict({"txt": ["w1"]})),
    "sample of brackets": lambda x: kprune.sample(TWO, x.tokenizer, data=_brackets(x)),
    "prune nothing": lambda x: kprune.prune(None, x.sample),
    "prune a folder": lambda x: kprune.prune(str(x.folder / "dense"), x.sample),
    "prune a tokenizer": lambda x: kprune.prune(x.tokenizer, x.sample),
    "prune a bare module": lambda x: kprune.prune(torch.nn.Linear(2, 2), x.sample),
    "prune in the wrong order": lambda x: kprune.prune(x.sample, x.model),
    "prune without a tokenizer": lambda x: prune(x, ["w1 w2"]),
    "prune NaN weights": lambda x: prune(x, model=with_nan(tiny("bert", "classification"))),
    "prune with two classes of data": lambda x: prune(x, replace(x.sample, task=TWO)),
    "prune with stars": lambda x: prune(x, replace(x.sample, task=STARS)),
    "prune with spans": lambda x: prune(x, replace(x.sample, task=SPAN)),
    "prune with words": lambda x: prune(x, replace(x.sample, task=WORDS)),
    "prune with many": lambda x: prune(x, replace(x.sample, task=MANY)),
    "prune stars with classes": lambda x: prune(x, model=x.regression),
    "prune spans with classes": lambda x: prune(x, model=x.span),
    "prune words with classes": lambda x: prune(x, model=x.tokens),
    "prune spans with texts": lambda x: prune(x, ["w1"], x.span, tokenizer=x.tokenizer),
    "prune stars with squad": lambda x: prune(x, "squad", x.regression, tokenizer=x.tokenizer),
    "prune classes with stsb": lambda x: prune(x, "stsb", tokenizer=x.tokenizer),
    "prune with an unknown task": lambda x: prune(x, "sst-2", tokenizer=x.tokenizer),
    "prune on no sequences": lambda x: prune(x, tokens_of([2, 3], count=0)),
    "prune on an empty sequence": lambda x: prune(x, tokens_of([])),
    "prune on ids beyond": lambda x: prune(x, tokens_of([2, 99, 3])),
    "prune on negative ids": lambda x: prune(x, tokens_of([2, -1, 3])),
    "prune on ids that are texts": lambda x: prune(x, tokens_of(["w1", "w2"])),
    "prune on halves": lambda x: prune(x, tokens_of([2, 0.5, 3])),
    "prune on sequences beyond": lambda x: prune(x, tokens_of([5] * 65)),
    "prune on types beyond": lambda x: prune(x, tokens_of([2, 4, 3], [0, 1, 2])),
    "prune on types of another length": lambda x: prune(x, tokens_of([2, 4, 3], [0, 1])),
    "prune on types here and there": lambda x: prune(x, kprune.Sample(
        [{"input_ids": [2]}, {"input_ids": [2], "token_type_ids": [0]}], TWO, x.tokenizer)),
    "prune on a text": lambda x: prune(x, kprune.Sample("w1", x.dev.task, x.tokenizer)),
    "prune on tensors": lambda x: prune(x, kprune.Sample(
        [{"input_ids": torch.tensor([2, 5])}], x.dev.task, x.tokenizer)),
    "prune on an unknown task's sample": lambda x: kprune.Sample([], "sst-2", x.tokenizer),
    "Kwon with places beyond": lambda x: prune(
        x, replace(labelled([(0, 99)] * 4), task=SPAN), x.span, method="kwon"),
    "Kwon with tensors": lambda x: prune(x, labelled(torch.zeros(4)), method="kwon"),
    "Kwon with a label for all words": lambda x: prune(
        x, replace(labelled([[0]] * 4), task=WORDS), x.tokens, method="kwon"),
    "prune with five words": lambda x: prune(x, ["w1"], tokenizer=word_tokenizer(0)),
    "prune with a tokenizer of two tokens": lambda x: prune(
        x, ["w1"], tokenizer=_at_most(2)),
    "prune with a tokenizer of no length": lambda x: prune(x, ["w1"], tokenizer=_at_most(None)),
    "prune with types of None": lambda x: prune(x, kprune.Sample(
        [{"input_ids": [2, 5], "token_type_ids": None}], x.dev.task, x.tokenizer)),
    "prune float8": lambda x: prune(
        x, model=weight_as(lambda weight: weight.to(torch.float8_e4m3fn))),
    "prune sparse weights": lambda x: prune(x, model=weight_as(torch.Tensor.to_sparse)),
    "prune at a batch beyond memory": lambda x: prune(
        x, speedup=2.0, batch_size=10**9, length=8),
    "draw with a tokenizer of one token": lambda x: kprune.sample(
        TWO, _at_most(1), 8, data=rows()),
    "prune without padding": lambda x: prune(x, ["w1"], tokenizer=word_tokenizer(pad=False)),
    "prune with a tokenizer beyond": lambda x: prune(
        x, ["w200", "w201"], tokenizer=word_tokenizer(300)),
    "prune with a name for a tokenizer": lambda x: prune(x, ["w1"], tokenizer="bert"),
    "Kwon without labels": lambda x: prune(x, method="kwon"),
    "Kwon with too few labels": lambda x: prune(x, labelled([0, 1]), method="kwon"),
    "Kwon on embeddings": lambda x: prune(x, labelled([0, 1, 0, 1]), x.embedding, method="kwon"),
    "Kwon with other names": lambda x: prune(_named(x, "joy", "anger", "fear"), kprune.sample(
        replace(TWO, labels=3), x.tokenizer, 8, data=_verdicts()), method="kwon"),
    "steps with a rate of 2": lambda x: list(kprune.steps(x.model, x.sample, rate=2)),
    "steps on nothing": lambda x: list(kprune.steps(x.model, None)),
    "evaluate nothing": lambda x: kprune.evaluate(None, x.dev),
    "evaluate a folder": lambda x: kprune.evaluate(str(x.folder), x.dev),
    "evaluate on a task": lambda x: kprune.evaluate(x.model, "sst2"),
    "evaluate on rows": lambda x: kprune.evaluate(x.model, rows()),
    "evaluate on a sample": lambda x: kprune.evaluate(x.model, x.sample),
    "evaluate two classes": lambda x: kprune.evaluate(
        x.model, kprune.dev_set(TWO, x.tokenizer, rows())),
    "evaluate stars": lambda x: kprune.evaluate(x.regression, x.dev),
    "evaluate spans": lambda x: kprune.evaluate(x.span, x.dev),
    "evaluate words": lambda x: kprune.evaluate(x.tokens, x.dev),
    "evaluate embeddings": lambda x: kprune.evaluate(x.embedding, x.dev),
    "evaluate other names": lambda x: kprune.evaluate(
        _named(x, "joy", "anger", "fear").model,
        kprune.dev_set(replace(TWO, labels=3), x.tokenizer, _verdicts())),
    "evaluate with other ids": lambda x: kprune.evaluate(
        x.model, kprune.dev_set(x.dev.task, word_tokenizer(300), rows(text=["w200", "w1"]))),
    "evaluate sequences beyond": lambda x: kprune.evaluate(x.model, kprune.dev_set(
        x.dev.task, _endless(), rows(text=["w1 " * 70, "w2"]))),
    "evaluate labels put in later": lambda x: kprune.evaluate(
        x.model, replace(x.dev, rows=rows([0, 9]))),
    "latency of nothing": lambda x: kprune.latency(None),
    "latency of a folder": lambda x: kprune.latency("bert"),
    "latency of no sequences": lambda x: kprune.latency(x.model, 0, 8),
    "latency of halves": lambda x: kprune.latency(x.model, 1.5, 8),
    "latency of no tokens": lambda x: kprune.latency(x.model, 1, 0),
    "latency beyond the positions": lambda x: kprune.latency(x.model, 1, 65),
    "latency of a batch beyond memory": lambda x: kprune.latency(x.model, 10**9, 8),
    "latency without repeats": lambda x: kprune.latency(x.model, 1, 8, 0),
    "latencies of no models": lambda x: kprune.latencies({}, 1, 8),
    "latencies of a list": lambda x: kprune.latencies([x.model], 1, 8),
    "save nothing": lambda x: kprune.save(None, x.folder / "new"),
    "save a dense model": lambda x: kprune.save(x.model, x.folder / "new"),
    "save over a file": lambda x: kprune.save(_pruned(x), x.folder / "file"),
    "save over others' files": lambda x: kprune.save(_pruned(x), x.folder / "full"),
    "save without a tokenizer": lambda x: kprune.save(_pruned(x), x.folder / "new"),
    "save to nowhere": lambda x: kprune.save(_pruned(x), None, x.tokenizer),
    "save with a name for a tokenizer": lambda x: kprune.save(_pruned(x), x.folder / "new", "bert"),
    "load nothing": lambda x: kprune.load(None),
    "load a number": lambda x: kprune.load(3),
    "load nowhere": lambda x: kprune.load(x.folder / "nowhere"),
    "load a file": lambda x: kprune.load(x.folder / "file"),
    "load an empty folder": lambda x: kprune.load(x.folder / "empty"),
    "load a dense model": lambda x: kprune.load(x.folder / "dense"),
    "load teacher from nowhere": lambda x: kprune.load_teacher(x.folder / "nowhere", TWO),
    "load teacher from a file": lambda x: kprune.load_teacher(x.folder / "file", TWO),
    "load teacher from an empty folder": lambda x: kprune.load_teacher(x.folder / "empty", TWO),
    "load teacher of no task": lambda x: kprune.load_teacher(x.folder / "dense", None),
    "load teacher of an unknown task": lambda x: kprune.load_teacher(x.folder / "dense", "sst-2"),
    "load teacher with two classes": lambda x: kprune.load_teacher(x.folder / "dense", TWO),
    "load teacher for spans": lambda x: kprune.load_teacher(x.folder / "dense", SPAN),
    "load teacher without a head": lambda x: kprune.load_teacher(x.folder / "bare", TWO),
    "load teacher without tokenizer": lambda x: kprune.load_teacher(
        x.folder / "untokenised", x.dev.task),
    "teacher of no task": lambda x: kprune.teacher(None, str(x.folder / "dense")),
    "teacher in a full folder": lambda x: kprune.teacher(
        TWO, str(x.folder / "dense"), folder=x.folder / "full"),
    "teacher with another head": lambda x: kprune.teacher(TWO, folder=x.folder / "dense"),
    "fine-tune nothing": lambda x: tuned(x, model=None),
    "fine-tune a model": lambda x: tuned(x, model=x.model),
    "fine-tune an empty folder": lambda x: tuned(x, model="empty"),
    "fine-tune into a full folder": lambda x: tuned(x, to="full"),
    "fine-tune into a file": lambda x: tuned(x, to="file"),
    "fine-tune without tokenizer": lambda x: tuned(x, model="untokenised"),
    "fine-tune with a dict for a recipe": lambda x: tuned(x, recipe={"epochs": 1}),
    "fine-tune on embeddings": lambda x: tuned(x, replace(TWO, kind="embedding", metric="")),
    "fine-tune on no data": lambda x: tuned(x, data=x.folder / "nowhere"),
    "kpms of NaN": lambda x: kpms(torch.tensor([1.0, NAN]), torch.ones(2), 1.0),
    "flops of nothing": lambda x: kprune.flops(None, 10),
    "flops of no length": lambda x: kprune.flops(x.model, -5),
    "encoder of nothing": lambda x: Encoder(None),
    "encoder of a module": lambda x: Encoder(torch.nn.Linear(2, 2)),
}  # fmt: skip


def _brackets(x) -> Path:
    folder = x.folder / "a[b]"
    folder.mkdir(exist_ok=True)
    rows().to_parquet(folder / "train.parquet")
    return folder


def _verdicts() -> Dataset:
    features = Features(text=Value("string"), label=ClassLabel(names=["bad", "fair", "good"]))
    return Dataset.from_dict({"text": ["w1", "w2"], "label": [0, 2]}, features=features)


def _named(x, *names) -> SimpleNamespace:
    model = tiny("bert", "classification")
    model.config.id2label = dict(enumerate(names))
    return SimpleNamespace(model=model, sample=x.sample)


def _endless():
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 10**30
    return tokenizer


def _at_most(tokens):
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = tokens
    return tokenizer


def _pruned(x):
    model = tiny("bert", "classification")
    model.config.kprune = {"kept": []}
    return model


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """A call that begins to work fails in another way than by a sentence."""

    def work(*_, **__):
        raise AssertionError("work has begun")

    monkeypatch.setattr(Encoder, "run", work)
    monkeypatch.setattr(transformers.Trainer, "train", work)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_is_refused_in_a_sentence(name, x):
    with pytest.raises((ValueError, OSError)) as caught:
        CALLS[name](x)
    message, frames = str(caught.value), list(caught.traceback)
    assert OURS in Path(frames[-1].path).parents, f"raised in {frames[-1].path}: {message}"
    assert 15 < len(message) < 420 and "\n" not in message, message
    assert len(re.findall(r"[.?!](?=\s|$)", message)) <= 2, message
    assert not (x.folder / "new").exists()


def test_there_are_many_and_the_same_calls_done_right_pass(x, monkeypatch):
    monkeypatch.undo()
    assert len(CALLS) >= 150
    assert evaluate(x.model, x.dev)["accuracy"] in (0, 0.5, 1)
    assert prune(x, rate=np.float32(0.5), multiple=np.int64(2))[1].rate == 0.5
