"""Cached hidden states: at one sublayer's input only, in the memory that holds them."""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from kprune.data.batching import Batch
from kprune.engine.memory import free_memory

Place = Literal["device", "host", "disk"]


class HiddenStates(Sequence):
    """Hidden states of a sample, one [batch, length, d] per batch, in one buffer that is reused.

    Indexing gives a batch's on `device` in `dtype`; assigning stores them in `stored`, by default
    the same (float16 errs a sixteenth as much as bfloat16 products). They are on the "device", in
    the "host"'s memory, or on "disk" in a temporary file: the first `place` with room to spare.
    """

    def __init__(
        self,
        parts: Sequence[Batch],
        d: int,
        device: torch.device,
        dtype: torch.dtype,
        stored: torch.dtype | None = None,
    ):
        self.device, self.dtype, stored = device, dtype, stored or dtype
        self._beyond: Tensor | None = None  # whether any was out of the stored type's range
        shapes = [(*part.inputs["input_ids"].shape, d) for part in parts]
        sizes = [math.prod(shape) for shape in shapes]
        self.place = place_for(sum(sizes) * stored.itemsize, device)
        if self.place == "disk":
            with tempfile.TemporaryDirectory(prefix="kprune-", ignore_cleanup_errors=True) as home:
                # Removing the name of an open file keeps its contents until the last user is gone.
                file, count = f"{home}/hidden", sum(sizes)
                reserve(file, count * stored.itemsize)
                buffer = torch.from_file(file, shared=True, size=count, dtype=stored)
        else:
            where = device if self.place == "device" else "cpu"
            # Pinned, so that copies to a GPU need not wait.
            pinned = self.place == "host" and device.type == "cuda"
            buffer = torch.empty(sum(sizes), dtype=stored, device=where, pin_memory=pinned)
        self._views = [
            view.view(shape) for view, shape in zip(buffer.split(sizes), shapes, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, number: int) -> Tensor:
        return self._views[number].to(self.device, non_blocking=True).to(self.dtype)

    def __setitem__(self, number: int, hidden: Tensor) -> None:
        view = self._views[number]
        view.copy_(hidden)
        if view.dtype != self.dtype:
            lost = view.isinf().any()  # a tensor, not to wait for a GPU at each batch
            self._beyond = lost if self._beyond is None else self._beyond | lost

    def check_range(self) -> None:
        """Raise ValueError if any that was assigned is beyond what `stored` holds."""
        if self._beyond is not None and self._beyond:
            most = torch.finfo(self._views[0].dtype).max
            raise ValueError(
                f"Hidden states of this model go beyond {most:,.0f}, the most that float16 holds, "
                'in which ranking in bf16 keeps them; take precision="full".'
            )


def reserve(path: str, size: int) -> None:
    """Make a file of so many bytes that are the disk's own; OSError in a sentence without room.

    A file that only claims its size would end the process when the disk is full, by a bus error.
    """
    try:
        with Path(path).open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, max(1, size))
            else:
                file.truncate(max(1, size))
    except OSError as error:
        raise OSError(
            f"Hidden states need {size / 2**20:,.0f} MB of temporary files, and {Path(path).parent}"
            f" has no room for them ({error.strerror}); set TMPDIR to a larger place, or take a "
            "smaller sample."
        ) from error


def place_for(size: int, device: torch.device) -> Place:
    """The nearest memory of which `size` bytes take at most a quarter of what is free."""
    if device.type == "cuda" and size <= free_memory(device) / 4:
        return "device"
    if size <= free_memory(torch.device("cpu")) / 4:
        return "device" if device.type == "cpu" else "host"
    return "disk"
