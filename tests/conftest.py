"""Shared fixtures: tiny random models with weights large enough to matter, and the real MiniLM."""

import fcntl
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may depend on the Hub
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the Trainer would take every GPU there is
# One process per core and one thread each: two processes with two threads each wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import families
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

import kprune
from kprune.classes import as_pruned
from kprune.data.batching import Batch
from kprune.data.tasks import Task
from kprune.encoders import Encoder
from kprune.laboratory.benchmark import random_encoder
from kprune.laboratory.finetuning import default_recipe
from kprune.laboratory.packaged import packaged_minilm
from kprune.state import State
from kprune.surgery import keep_units

SLOW = ("test_batch", "test_finetuning", "test_notebooks")  # they start processes, or train
SHARED = Path(__file__).parents[2] / "shared"
KINDS = ("classification", "regression", "span")  # of the paper's tasks; `families.KINDS` are all
TASKS = {
    kind: Task(
        f"tiny-{kind}",
        ("text", "pair") if kind == "span" else ("text",),
        kind=kind,
        labels=head["num_labels"],
        minibatch=5,
    )
    for kind, (_, head) in families.KINDS.items()
    if head
}
TASKS["embedding"] = Task(
    "tiny-embedding", ("text",), kind="embedding", labels=families.D, minibatch=5
)
logits = families.outputs


def tiny(
    family: str, kind: str, seed: int = 0, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """`families.model_of`, in float32."""
    return families.model_of(family, kind, seed, dtype)


def examples(count: int = 23, seed: int = 0, longest: int = 17) -> list[dict[str, list[int]]]:
    """Random token sequences of different lengths, each of two parts."""
    rows = families.examples(count, seed, longest)
    halves = [divmod(len(row["input_ids"]), 2) for row in rows]
    return [
        row | {"token_type_ids": [0] * half + [1] * (half + odd)}
        for row, (half, odd) in zip(rows, halves, strict=True)
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


def word_tokenizer(words: int = 90, pad: bool = True) -> PreTrainedTokenizerFast:
    """BERT's special tokens around words w0, w1, …"""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    vocabulary |= {f"w{i}": 4 + i for i in range(words)}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    inner.post_processor = processors.TemplateProcessing(single, pair, ends)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names |= {"pad_token": "[PAD]"} if pad else {}
    types = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=64, model_input_names=types, **names
    )


def cut(family: str, kind: str) -> PreTrainedModel:
    """A pruned model with a layer without heads and one without neurons."""
    encoder, kept = Encoder(tiny(family, kind)), []
    for sublayer in encoder.sublayers:
        keep = torch.arange(sublayer.units) % 2 == 0
        keep &= sublayer.place not in (0, 3)
        keep_units(sublayer, keep)
        kept.append(keep.nonzero().flatten().tolist())
    return as_pruned(encoder.model, kept)


def tiny_sample(kind: str = "classification", count: int = 23) -> kprune.Sample:
    """A sample of random tokens for `tiny` models."""
    return kprune.Sample(examples(count), TASKS[kind], PadsWithZero())


def batch_of(sample: kprune.Sample) -> Batch:
    """All of a sample in one padded batch, in its order."""
    return families.batch_of(sample.examples)


def pair(family: str, kind: str) -> tuple[Encoder, Encoder]:
    """A teacher, and a student of it whose first sublayer is pruned, in float64."""
    teacher, student = (Encoder(tiny(family, kind, dtype=torch.float64)) for _ in range(2))
    keep_units(student.sublayers[0], torch.tensor([True, False, False, True]))
    return teacher, student


@torch.no_grad()
def state_at(t: int, teacher: Encoder, student: Encoder, sample: kprune.Sample) -> State:
    """Where pruning stands at sublayer `t` of such a student."""
    state = State(teacher, student, sample)
    state.outputs = [teacher.run(batch) for batch in state.batches]
    for below in range(t):
        state.advance(below)
    return state


def pytest_collection_modifyitems(config, items):
    """Slow tests come first, for all processes to end together; one makes the teacher meanwhile."""
    count = getattr(config, "workerinput", {}).get("workercount", 1)  # xdist deals in equal runs
    groups = [[], [], []]
    for item in items:
        first = "teacher_folder" in item.fixturenames
        groups[0 if first else 1 if item.path.stem in SLOW else 2].append(item)
    slow, quick = groups[0] + groups[1], groups[2]
    share = [
        some[n * len(some) // count : (n + 1) * len(some) // count]
        for n in range(count)
        for some in (slow, quick)
    ]
    items[:] = [item for some in share for item in some]


def whole_record(run, **changes) -> dict:
    """The record of a whole run of an experiment, as a notebook writes it."""
    return {
        "parameters": run.wanted,
        "metric": "accuracy",
        "scores": {"dense": {"accuracy": 0.9}, "pruned": {"accuracy": 0.8}},
        "latency": {"dense": 2.0, "pruned": 1.0},
        "report": {
            **{"achieved_rate": 0.5, "parameters": 5, "dense_parameters": 10},
            **{"heads": [1, 0], "neurons": [5, 10], "dense_heads": [2, 2]},
            **{"dense_neurons": [10, 10], "seconds": {"tuning": 1.0}},
        },
        "pass seconds": 4.0,
        "peak memory (MB)": 100.0,
        "environment": {"kprune": kprune.__version__},
    } | changes


@pytest.fixture
def counted_clock(monkeypatch):
    """A clock that only products of matrices move, by a nanosecond for each multiplication."""
    now, product = [0.0], torch.nn.functional.linear

    def linear(x, weight, bias=None):
        now[0] += 1e-9 * x.shape[:-1].numel() * weight.numel()
        return product(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])


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
def small_teacher(tmp_path_factory, tokenizer) -> str:
    """The folder of a random model as deep as MiniLM, with a sixth of its width, for real text."""
    folder = tmp_path_factory.mktemp("small")
    for part in (random_encoder(6, 64, vocabulary=len(tokenizer)), tokenizer):
        part.save_pretrained(folder)
    return str(folder)


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
