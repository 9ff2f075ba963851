"""Memory of the process: given back, or kept for the next pass."""

import ctypes
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil
import torch

from kprune.engine.attention import takes_ours

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def give_back_memory() -> None:
    """Have glibc return freed pages: batches of many shapes leave it a gigabyte of holes."""
    gc.collect(1)  # not the oldest generation: it holds transformers, and takes a third of a second
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def keep_memory() -> Iterator[None]:
    """Within the block, glibc keeps the pages that are freed, for the next pass to use again.

    By itself it gives them back by what the process did before; getting them again is up to a tenth
    of a dense model's pass and less of a pruned one's, so speed-ups would differ between processes.
    """
    mallopt = None
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it takes, and where it ends by itself
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        if mallopt:
            mallopt(M_TRIM_THRESHOLD, 2**26)  # likewise
            give_back_memory()


def free_memory(device: torch.device) -> int:
    """Bytes that are free where a device keeps its tensors, or that PyTorch keeps for others."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available


DEEP = 8  # layers that a pass on a CPU differentiates in one go, at the most
# Numbers that a token leaves behind in a layer for the way down, per hidden feature: inputs of the
# norms, in the model's type; in that of products Q, K, V, what they attend to, and both sides of an
# activation four times as wide.
IN_NORMS, IN_PRODUCTS = 2, 12


def stretch_of(model, layers: int, batches: Sequence) -> int:
    """How many layers to differentiate in one go: all where memory has the room."""
    if model.device.type != "cuda":
        return layers if layers <= DEEP else DEEP // 2
    most = max(batch.inputs["input_ids"].numel() for batch in batches)
    products = min(weight.dtype.itemsize for weight in model.parameters())
    each = IN_NORMS * model.dtype.itemsize + IN_PRODUCTS * products
    each *= 1 if takes_ours(model) else 3  # DeBERTa keeps matrices of length × length
    fit = int(free_memory(model.device) / 2 // (most * model.config.hidden_size * each))
    return max(1, min(layers, fit))
