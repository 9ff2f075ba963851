"""What pruning and the pruned model cost on this machine: time, memory, and the limit by count."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kprune.data.tasks import Task
from kprune.engine.memory import give_back_memory
from kprune.limits.latency import seconds_in_turns
from kprune.sampling import Sample

HEAD_SIZE = 32  # of small encoders; from base size on, 64
VOCABULARY = 1000  # of random sequences


def random_encoder(
    layers: int, width: int, seed: int = 0, vocabulary: int = VOCABULARY
) -> PreTrainedModel:
    """A random BERT classifier for timings, of 4 · width neurons.

    Its heads have 32 features, or 64 from BERT-base's width, 768, on.
    """
    if layers < 1 or width < HEAD_SIZE or width % HEAD_SIZE:
        raise ValueError(
            f"A random encoder needs at least one layer and a width that is a multiple of "
            f"{HEAD_SIZE}; got {layers} layers of width {width}."
        )
    head_size = 2 * HEAD_SIZE if width >= 768 and width % 64 == 0 else HEAD_SIZE
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // head_size,
        intermediate_size=4 * width,
        # Larger than usual: with small weights all heads of a random model look alike.
        initializer_range=1.5 / width**0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForSequenceClassification(config).eval()


def random_sample(
    length: int, tokens: int, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> Sample:
    """Sequences of `length` random tokens, as many as `tokens` holds, for a random encoder."""
    if length < 1:
        raise ValueError(f"Random sequences need a positive length; got {length}.")
    count = max(1, tokens // length)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (count, length), generator=generator).tolist()
    task = Task("random", ("text",), average_length=float(length), max_length=length)
    return Sample([{"input_ids": row} for row in ids], task, tokenizer, seed)


def passes_needed(sublayers: int) -> int:
    """Whole passes over the sample that K-prune's mathematics needs, forward and backward: 2L + 1.

    Each of the 2L measurements runs the sublayers from the target upwards, forward, and from the
    second on backward as well: (2L + 1) / 2 and (2L − 1) / 2 passes. The teacher runs once. What
    is already pruned is not counted, nor what runs again to save memory.
    """
    return sublayers + 1


@torch.no_grad()
def product_rate(dtype: torch.dtype, device: torch.device, width: int = 384) -> float:
    """FLOPs per second of the feed-forward projection, [1024, width] × [width, 4 · width]."""
    rows, products = (1024, 1) if device.type == "cpu" else (16384, 50)
    x = torch.randn(rows, width, device=device).to(dtype)
    weight = torch.randn(width, 4 * width, device=device).to(dtype)

    def call() -> None:
        for _ in range(products):  # many for one wait: a GPU takes as long to be asked as to answer
            x @ weight

    return 8 * rows * width**2 * products / seconds_in_turns({"": call}, 50, device=device)[""]


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Within the block, watch how far memory rises above what it was before.

    Gives a dict that receives `peak` in MB: allocated memory of the GPU, else resident memory of
    the process (NaN where the system does not tell its peak).
    """
    found = {"peak": float("nan")}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        give_back_memory()  # what earlier steps have freed must not hide what this one takes
        before = psutil.Process().memory_info().rss
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    yield found
    if device.type == "cuda":
        found["peak"] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    elif sys.platform == "linux":
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        found["peak"] = int(status.split()[0]) / 1024 - before / 2**20
