"""Batches side by side: on a CPU, threads do more on batches of their own than all on one."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from queue import SimpleQueue
from typing import TypeVar

import torch

from kprune.engine.memory import keep_memory

MOST = 4  # batches in work at once, which bounds their memory; more threads share them
Tools, Item, Result = TypeVar("Tools"), TypeVar("Item"), TypeVar("Result")
Over = Callable[[Callable[[Tools, Item], Result], Iterable[Item]], Iterator[Result]]


@contextmanager
def side_by_side(device: torch.device, make: Callable[[], Tools]) -> Iterator[Over]:
    """Within the block, a `map` that works on several items at once, without gradients.

    Small operations leave a second thread idle: on a CPU each of up to `MOST` workers takes an item
    of its own and its share of PyTorch's threads; elsewhere there is one worker. Results come in
    order, and few items are taken ahead of them, so only a few are in memory. `make` gives what one
    worker needs for itself (copies of models, so that hooks do not meet); the `map` takes a
    function of those tools and an item, and the items.
    """
    threads = torch.get_num_threads()
    workers = min(threads, MOST) if device.type == "cpu" else 1
    tools: SimpleQueue = SimpleQueue()
    for _ in range(workers):
        tools.put(make())

    def work(function: Callable, item: Item) -> Result:
        own = tools.get()
        try:
            # Each thread has modes of its own; the caller's autocast would round what is measured.
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                return function(own, item)
        finally:
            tools.put(own)

    if workers == 1:
        yield lambda function, items: map(partial(work, function), items)
        return
    # The workers start with what is set here. So does this thread's work on their results: with
    # more threads, those would busily wait for its next operation on the workers' cores.
    torch.set_num_threads(threads // workers)
    pool = _pool(workers, threads // workers)
    try:
        with keep_memory():
            yield lambda function, items: _in_order(pool, workers, partial(work, function), items)
    finally:
        torch.set_num_threads(threads)


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones would each leave their memory in another part of the heap."""
    return ThreadPoolExecutor(workers, f"kprune-{threads}")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has no threads but its own


def _in_order(
    pool: ThreadPoolExecutor, ahead: int, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)
