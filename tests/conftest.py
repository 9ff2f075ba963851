"""Shared fixtures: tiny random models with weights large enough to matter, and the real MiniLM."""

import fcntl
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may depend on the Hub
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the Trainer would take every GPU there is
# One process per core and one thread each: two processes with two threads each wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
)

import kprune
from kprune import progress
from kprune.finetuning import default_recipe, packaged_minilm
from kprune.sampling import Sample, batches
from kprune.tasks import Task

SHARED = Path(__file__).parents[2] / "shared"
HEADS, D_H, NEURONS, LAYERS, VOCABULARY = 4, 8, 24, 3, 99
OUTPUTS = {"classification": 3, "regression": 1, "span": 2}
KINDS = tuple(OUTPUTS)
TASKS = {
    kind: Task(f"tiny-{kind}", ("text",), kind=kind, labels=labels, minibatch=5)
    for kind, labels in OUTPUTS.items()
}


def tiny(family: str, kind: str, seed: int = 0, dtype: torch.dtype = torch.float32):
    """A random three-layer encoder whose attention is visible in its logits."""
    torch.manual_seed(seed)
    d = HEADS * D_H
    if family == "bert":
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=d,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=NEURONS,
            max_position_embeddings=64,
            num_labels=TASKS[kind].labels,
        )
        classes = (BertForSequenceClassification, BertForQuestionAnswering)
    else:
        config = DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=d,
            n_layers=LAYERS,
            n_heads=HEADS,
            hidden_dim=NEURONS,
            max_position_embeddings=64,
            num_labels=TASKS[kind].labels,
        )
        classes = (DistilBertForSequenceClassification, DistilBertForQuestionAnswering)
    model = classes[kind == "span"](config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name.lower():
                # Default weights (std 0.02) would make attention invisible in the logits.
                weight.normal_(std=0.3)
    return model.to(dtype)


def examples(count: int = 23, seed: int = 0, longest: int = 17) -> list[dict[str, list[int]]]:
    """Random token sequences of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest, (count,), generator=generator).tolist()
    return [
        {
            "input_ids": torch.randint(1, VOCABULARY, (length,), generator=generator).tolist(),
            "token_type_ids": [0] * (length // 2) + [1] * (length - length // 2),
        }
        for length in lengths
    ]


class PadsWithZero:
    """What a sample of ready-made ids needs of a tokenizer."""

    pad_token_id = 0


class Numbers(PadsWithZero):
    """A tokenizer of texts that are ids with blanks between them."""

    model_max_length = 64

    def __call__(self, *columns, **_):
        rows = [[text.split() for text in row] for row in zip(*columns, strict=True)]
        return {
            "input_ids": [[int(word) for part in row for word in part] for row in rows],
            "token_type_ids": [[n for n, part in enumerate(row) for _ in part] for row in rows],
        }


def tiny_sample(kind: str = "classification", count: int = 23) -> Sample:
    """A sample of random tokens for `tiny` models."""
    return Sample(examples(count), TASKS[kind], PadsWithZero())


def batch_of(sample: Sample, **options):
    """All of a sample in one padded batch."""
    (batch,) = batches(sample.examples, max_tokens=10**6, **options)
    return batch


def logits(model, batch):
    """The Hugging Face model's own output; padding cut off from a span model's."""
    inputs = dict(batch.inputs)
    if model.config.model_type == "distilbert":
        inputs.pop("token_type_ids")
    with torch.no_grad():
        out = model(**inputs, attention_mask=batch.attention_mask)
    if "start_logits" in out:
        both = torch.stack([out.start_logits, out.end_logits], -1)
        return both[batch.attention_mask.bool()]
    return out.logits


@pytest.fixture
def counted_clock(monkeypatch):
    """A clock that only products of matrices move, by a nanosecond for each multiplication."""
    now, product = [0.0], torch.nn.functional.linear

    def linear(x, weight, bias=None):
        now[0] += 1e-9 * x.shape[:-1].numel() * weight.numel()
        return product(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of the packaged MiniLM."""
    folder = packaged_minilm()
    assert folder, "the extra 'minilm' must be installed to run the tests"
    return folder


@pytest.fixture(scope="session")
def tokenizer(minilm):
    return AutoTokenizer.from_pretrained(minilm)


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory, minilm, request) -> Path:
    """A quickly fine-tuned MiniLM on the generated task: real weights, real text.

    Made once per run: the first process that needs it makes it, the others wait for it.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if hasattr(request.config, "workerinput") else base  # of all processes
    folder = base / "outputs" / "teachers" / "opinions-minilm"
    recipe = default_recipe("minilm", examples=2000)
    with (base / "teacher.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kprune.teacher("opinions", "minilm", folder=folder, recipe=recipe, progress=False)
    return folder


@pytest.fixture(scope="session")
def teacher(teacher_folder):
    """The quick teacher and its tokenizer."""
    return kprune.load_teacher(teacher_folder, "opinions")


def shared(*parts: str) -> Path:
    """A path in ../shared; the test is skipped where that folder is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {path}, which is not part of the product")
    return path
