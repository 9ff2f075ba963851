"""Batches side by side: on a CPU, threads do more on batches of their own than all on one."""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from kprune.states import keep_memory

MOST = 4  # batches in work at once, which bounds their memory; more threads share them
ALIGNED = 64  # bytes: a cache line
PIECE = 2**26  # bytes that scratch memory grows by at least; what is never touched costs none
Item, Result = TypeVar("Item"), TypeVar("Result")


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Callable[..., Iterator]]:
    """Within the block, a `map` that works on several items at once, without gradients.

    Small operations leave a second thread idle, or wait for it: on a CPU each of up to `MOST`
    workers takes an item of its own and its share of PyTorch's threads. Elsewhere, and with one
    thread, it is Python's own `map`. Results come in the order of the items, and no more items are
    taken ahead of them than there are workers, so only a few are in memory.

    Args:
        device: where the work happens.

    Yields:
        The `map`, of a function and one iterable.
    """
    threads = torch.get_num_threads()
    workers = min(threads, MOST) if device.type == "cpu" else 1
    if workers == 1:
        yield map
        return
    # The workers start with what is set here. So does this thread's work on their results: with
    # more threads, those would busily wait for its next operation on the workers' cores.
    torch.set_num_threads(threads // workers)
    try:
        with keep_memory():
            yield partial(_in_order, _pool(workers, threads // workers), workers)
    finally:
        torch.set_num_threads(threads)


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones would each time leave their memory in another part of the heap.

    `threads` of PyTorch is what each of them has started with.
    """
    return ThreadPoolExecutor(workers, f"kprune-{threads}")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has no threads but its own


def _in_order(
    pool: ThreadPoolExecutor,
    ahead: int,
    function: Callable[[Item], Result],
    items: Iterable[Item],
) -> Iterator[Result]:
    waiting: deque[Future] = deque()
    work = torch.no_grad()(function)  # each thread has a grad mode of its own
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


class Scratch(threading.local):
    """Memory for one batch's intermediate results, taken and given back like a stack's.

    From the system's allocator, batches of many shapes leave hundreds of MB of holes, and the pages
    that it gives back and fetches again take a tenth of a pass. Each thread has its own. (Off the
    CPU it passes requests on: PyTorch's own allocators do this already.)
    """

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []
        self._number, self._top = -1, 0  # of the piece in use, and how far it is used

    def take(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """An uninitialised tensor of this shape, in the type and on the device of `like`."""
        if like.device.type != "cpu":
            return like.new_empty(shape)
        size = math.prod(shape) * like.element_size()
        room = -(-size // ALIGNED) * ALIGNED
        while self._number < 0 or self._top + room > len(self._pieces[self._number]):
            self._number, self._top = self._number + 1, 0
            if self._number == len(self._pieces):
                self._pieces.append(torch.empty(max(room, PIECE), dtype=torch.uint8))
        start = self._top
        self._top += room
        return self._pieces[self._number][start : start + size].view(like.dtype).view(shape)

    @contextmanager
    def block(self) -> Iterator[None]:
        """What is taken within the block is given back at its end."""
        before = self._number, self._top
        try:
            yield
        finally:
            self._number, self._top = before
