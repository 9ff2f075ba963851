"""On a GPU everything stays there, nothing waits in loops over batches, and results are the CPU's.

A pretend one stands in (`pretend_gpu`), but for `CUDA_VISIBLE_DEVICES=0` where there is one.
"""

from contextlib import ExitStack
from dataclasses import replace
from itertools import repeat
from unittest.mock import patch

import pytest
import torch
from datasets import Dataset
from families import LABELS, examples, model_of
from pretend_gpu import REAL, Mixed, Waits, each, gpu, inner
from transformers import AutoTokenizer

import kprune
from kprune import finishing, knowledge, mask_search, measuring, weight_tuning
from kprune.competitors import kwon
from kprune.data.batching import BATCH_TOKENS, Batch
from kprune.data.tasks import Task
from kprune.encoders import Encoder
from kprune.engine import attention
from kprune.engine.least_squares import NormalEquations
from kprune.engine.states import HiddenStates
from kprune.laboratory import benchmark
from kprune.laboratory.evaluation import DevSet, evaluate
from kprune.limits import latency, table
from kprune.plus import curvature, probes
from kprune.sampling import Sample

COUNT = 16
GOLD = {"classification": 1, "regression": 0.5, "multilabel": [1.0, 0.0, 1.0], "span": (0, 1)}
OUTPUTS = {"regression": 1, "span": 2, "embedding": 32}
NO_FREE_MEMORY = {"memory": 0}  # hidden states on the host, one layer at a time
SUITS = {  # method, device and options
    "kprune": {},
    "kprune, small batches": {"tokens": 40},
    "kprune, little memory": NO_FREE_MEMORY,
    "kprune, in bf16": {"precision": "bf16"},
    "kprune, reuse": {"reuse": 0.1, "multiple": 4},
    "kprune, in time": {"speedup": 1.5, "batch_size": 2, "length": 16},
    "kprune, without predictive": {"without": "predictive,tuning"},
    "kprune, without sublayerwise": {"without": "sublayerwise"},
    "kprune+": {"tokens": 40},
    "kprune+, little memory": NO_FREE_MEMORY,
    "kprune+, without": {"without": "metric,elimination,weights,ridge,bias,inputs,head"},
    "kwon": {"close": 1e-4},
    "kcm": {"rate": 0.15, "close": 1e-4},
    "magnitude": {},
    "random": {},
    "first-layers": {},
    "spaced-layers": {},
}
RUNS = [
    *zip(repeat("bert"), repeat("classification"), SUITS),
    *(("distilbert", "span", suit) for suit in ("kprune", "kprune+, little memory", "kwon")),
    *(("bert", kind, "kprune+") for kind in ("multilabel", "embedding")),
    *(("bert", kind, "kwon") for kind in ("regression", "tokens")),
    *((family, "tokens", "kprune, in bf16") for family in ("distilbert", "mpnet")),
    *zip(
        ("roberta", "mpnet", "deberta", "modernbert", "albert, tied"),
        repeat("classification"),
        repeat("kprune+, little memory"),
    ),
]


class Pads:
    """What a sample of ready-made ids needs of a tokenizer."""

    pad_token_id = 0


def task_of(kind: str) -> Task:
    columns = ("text", "pair") if kind == "span" else ("text",)
    return Task("tiny", columns, kind=kind, labels=OUTPUTS.get(kind, LABELS), minibatch=5)


def steady(models, *_, **__):
    """Latencies that follow from the units alone."""
    return {
        name: 1 + sum(sub.units * sub.unit_size for sub in Encoder(model).sublayers)
        for name, model in models.items()
    }


def prune(family, kind, suit, device):
    """A tiny model pruned on a device."""
    rows = examples(COUNT)
    gold = GOLD.get(kind)
    labels = [[1] * len(row["input_ids"]) if kind == "tokens" else gold for row in rows]
    limit = {} if "speedup" in SUITS[suit] else {"rate": 0.5}
    options = {**limit, "precision": "full", "progress": False, **SUITS[suit]}
    tokens = options.pop("tokens", 15360)
    for name in ("memory", "close"):
        options.pop(name, None)
    exact = options["precision"] == "full"
    model = model_of(family, kind, dtype=torch.float64 if exact else torch.float32).to(device)
    sample = Sample(rows, task_of(kind), Pads(), labels=labels)
    with ExitStack() as stack:
        for module in (table, finishing):
            stack.enter_context(patch.object(module, "latencies", steady))
        stack.enter_context(patch.dict(BATCH_TOKENS, cpu=tokens, other=tokens))
        return kprune.prune(model, sample, method=suit.split(",")[0], **options)


@pytest.mark.parametrize(("family", "kind", "suit"), RUNS)
def test_the_gpu_prunes_as_the_cpu_does(family, kind, suit):
    expected, wanted = prune(family, kind, suit, "cpu")
    waits = family == "deberta"  # in transformers' own code
    with gpu(bf16=True, memory=SUITS[suit].get("memory", 2**34), waits=waits):
        pruned, report = prune(family, kind, suit, "cuda")
        tensors = {**dict(pruned.named_parameters()), **dict(pruned.named_buffers())}
        assert not [name for name, x in tensors.items() if x.device.type != "cuda"]
        ids = torch.ones(2, 5, dtype=torch.int64, device="cuda")
        assert pruned(input_ids=ids)[0].device.type == "cuda"
        found = {name: inner(weight) for name, weight in pruned.named_parameters()}
    if SUITS[suit].get("precision") == "bf16":
        return  # rounds as the device does
    assert report.kept == wanted.kept
    close = SUITS[suit].get("close", 1e-6)
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(found[name], weight.detach(), atol=close, rtol=close)


def test_models_on_the_gpu_are_scored_timed_saved_and_loaded(tmp_path, minilm):
    task = replace(task_of("classification"), label="label")
    rows = examples(COUNT)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    dev = DevSet(
        task, Dataset.from_dict({"text": ["a"] * COUNT, "label": [1] * COUNT}), columns, 0, Pads()
    )
    with gpu(bf16=True):
        assert kprune.device().type == "cuda"
        pruned, _ = prune("bert", "classification", "magnitude", "cuda")
        scores = evaluate(pruned, dev), evaluate(pruned.float(), dev)
        assert all(0 <= score["accuracy"] <= 1 for score in scores)
        assert kprune.latency(pruned, 2, 16, 1) > 0
        assert latency.pass_seconds(pruned, Sample(rows, task, Pads())) > 0
        benchmark.product_rate(torch.float32, pruned.device, 8)
        with benchmark.peak_memory(pruned.device) as peak:
            pruned.to("cuda")
        assert peak["peak"] >= 0
        kprune.save(pruned, tmp_path / "saved", AutoTokenizer.from_pretrained(minilm))
        loaded = kprune.load(tmp_path / "saved")
        assert loaded.device.type == "cpu"
        for ours, theirs in zip(loaded.parameters(), pruned.parameters(), strict=True):
            assert ours.equal(inner(theirs))


def left(function):
    """A fault: what the function gives stays on the CPU."""
    return lambda *args, **named: each(
        lambda x: x.cpu() if isinstance(x, torch.Tensor) else x, function(*args, **named)
    )


def reads(function):
    """A fault: the host looks at what the function gives."""

    def faulty(*args, **named):
        found = function(*args, **named)
        (found.outputs if isinstance(found, measuring.Measured) else found).sum().item()
        return found

    return faulty


def reads_parts(function):
    """A fault: the host looks at slopes as they come."""

    def faulty(*args, **named):
        for part in function(*args, **named):
            part.slopes[0].sum().item()
            yield part

    return faulty


def part_left(*names):
    """A fault: parts of a batch stay on the CPU."""
    return lambda to: (
        lambda batch, device: replace(
            to(batch, device), **{name: getattr(batch, name) for name in names}
        )
    )


def numpy(function):
    """A fault: NumPy is given a tensor of the GPU."""
    return lambda scores, *args: (scores.numpy(), function(scores, *args))[1]


def bias_left(function):
    """A fault: a tuned bias stays on the CPU."""
    return lambda linear, weight, bias: function(
        linear, weight, bias if bias is None else bias.cpu()
    )


def equations_left(function):
    """A fault: sums made without a device."""
    return staticmethod(lambda features, d, device, *held: function(features, d, "cpu", *held))


FAULTS = [  # where, which, what is wrong, in which suit
    (probes, "draw_signs", left, "kprune+"),
    (knowledge, "zeros", left, "kprune"),
    (curvature, "zeros", left, "kprune+"),
    (kwon, "_padded_labels", left, "kwon"),
    (HiddenStates, "__getitem__", left, "kprune"),
    (Batch, "to", part_left("mask"), "kprune"),
    (Batch, "to", part_left("index"), "kprune"),
    (Batch, "to", part_left("inputs"), "kprune"),
    (NormalEquations, "zeros", equations_left, "kprune"),
    (weight_tuning, "set_weight", bias_left, "kprune+"),
    (mask_search, "kpms", numpy, "kprune"),
    (measuring, "measure", reads, "kprune"),
    (measuring, "squared_sum", reads, "kprune"),
    (attention, "attend", reads, "kprune"),
    (curvature, "differentiated", reads_parts, "kprune+"),
    (Encoder, "run", reads, "kwon"),
]


@pytest.mark.skipif(REAL, reason="the pretend GPU is what is tested")
@pytest.mark.parametrize(("owner", "name", "fault", "suit"), FAULTS)
def test_planted_faults_are_caught(owner, name, fault, suit):
    faulty = patch.object(owner, name, fault(getattr(owner, name)))
    with gpu(), faulty, pytest.raises((Mixed, Waits, TypeError)):
        prune("bert", "classification", suit, "cuda")
