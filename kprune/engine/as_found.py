"""What the caller has set for the whole process changes nothing here, and is left as it was."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import numpy as np
import torch


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Within the block, tensors are what they are by themselves, whatever the caller has set.

    Those of inference mode could not be differentiated, nor trained later, and autocast rounds
    products, as does a process whose matrix products may be of fewer digits. Threads that were
    taken for batches side by side are given back, also where Ctrl-C ends it.
    """
    own, threads = torch.get_default_device().type == "cpu", torch.get_num_threads()
    products = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    coarse = [one.fp32_precision for one in products]
    # A device of the caller's is a mode, which slows every call down.
    with ExitStack() as plain:
        plain.enter_context(torch.inference_mode(False))
        plain.enter_context(nullcontext() if own else torch.device("cpu"))
        for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
            plain.enter_context(torch.autocast(kind, enabled=False))
        try:
            for one in products:
                one.fp32_precision = "ieee"
            yield
        finally:
            for one, found in zip(products, coarse, strict=True):
                one.fp32_precision = found
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Within the block seeds may be set; afterwards the process draws on as if they were not."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
