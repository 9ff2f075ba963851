"""How long models take on this machine: forward passes, timed in turns."""

import math
import statistics
from collections.abc import Callable
from functools import partial

import torch
from transformers import PreTrainedModel

from kprune.data.batching import collate
from kprune.data.checks import number
from kprune.encoders import Encoder
from kprune.engine.as_found import plain_tensors
from kprune.engine.memory import free_memory, keep_memory
from kprune.engine.progress import bar, timed
from kprune.engine.sharing import sharing_weights
from kprune.families import names_of
from kprune.inputs import longest
from kprune.sampling import Sample

AGREE, MOST = 0.01, 4  # when timings of a quiet machine count as such
PASSING = 8  # numbers of a token, per hidden feature, that a pass holds at once, at the least


@torch.no_grad()
def latency(
    model: PreTrainedModel, batch_size: int = 32, length: int = 128, repeats: int = 5
) -> float:
    """Median seconds of one forward pass over random tokens, on the device that the model is on.

    A batch is `batch_size` sequences of `length` tokens; `repeats` are timed, after two others.
    ValueError for a batch that is empty or too long.
    """
    return latencies({"model": model}, batch_size, length, repeats)["model"]


@plain_tensors()
@torch.no_grad()
def latencies(
    models: dict[str, PreTrainedModel],
    batch_size: int = 32,
    length: int = 128,
    repeats: int = 5,
    progress: bool = False,
    quiet: bool = False,
) -> dict[str, float]:
    """`latency` of several `models`, in turns: what else the machine does then meets all alike.

    Gives seconds by name: the median, or with `quiet` those of a quiet machine
    (`seconds_in_turns`). Memory that a pass frees stays with the process meanwhile; `progress`
    shows a bar.
    """
    if not isinstance(models, dict) or not models:
        kind = type(models).__name__
        raise ValueError(f"latencies takes models by name, in a dict; got a {kind}.")
    for model in models.values():
        batch_size, length = checked_batch(model, batch_size, length)
    if len(places := sorted({str(model.device) for model in models.values()})) > 1:
        raise ValueError(f"Models are timed on one device; these are on {' and '.join(places)}.")
    repeats = number("repeats", repeats, 1)
    generator, calls = torch.Generator().manual_seed(0), {}
    for name, model in models.items():
        words = model.get_input_embeddings().num_embeddings
        ids = torch.randint(1, words, (batch_size, length), generator=generator)
        ids = ids.to(model.device)
        own = sharing_weights(model)  # in evaluation mode
        calls[name] = partial(own, input_ids=ids, attention_mask=torch.ones_like(ids))
    with keep_memory():
        return seconds_in_turns(calls, repeats, progress, quiet, own.device)


def checked_batch(model: PreTrainedModel, batch_size: int, length: int) -> tuple[int, int]:
    """Sequences and their tokens, which the model can take; ValueError where it cannot."""
    names_of(model)
    batch_size = number("batch_size, in sequences,", batch_size, 1)
    length = number("length, in the model's tokens,", length, 1, longest(model) or math.inf)
    needs = batch_size * length * model.config.hidden_size * PASSING * model.dtype.itemsize
    if needs > (free := free_memory(model.device)):
        raise ValueError(
            f"A batch of {batch_size} sequences of {length} tokens needs {needs / 2**30:,.0f} GB at"
            f" least, and {free / 2**30:,.1f} are free; take a smaller batch_size or length."
        )
    return batch_size, length


@torch.inference_mode()
def pass_seconds(model: PreTrainedModel, sample: Sample) -> float:
    """Seconds of one pass over a sample in minibatches as drawn, what pruning is timed in."""
    model, size = sharing_weights(model), sample.task.minibatch
    encoder, seconds = Encoder(model), {}
    with timed(seconds, "pass", model.device):
        for first in range(0, len(sample.examples), size):
            batch = collate(sample.examples[first : first + size]).to(model.device)
            encoder.run(batch)
    return seconds["pass"]


def seconds_in_turns(
    calls: dict[str, Callable[[], object]],
    repeats: int,
    show: bool = False,
    quiet: bool = False,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Seconds of each call, timed in turns after two uncounted rounds: the median or the shortest.

    With `quiet`, the shortest round, which is the time of a quiet machine: whatever else runs can
    only add to it. One may be chance, so rounds go on, up to `MOST` times as many, until the two
    shortest of each agree within 1% (`AGREE`); a single round stays single.
    """
    rounds: list[dict[str, float]] = []

    def of(name: str) -> list[float]:
        return sorted(seconds[name] for seconds in rounds[2:])

    def settled() -> bool:
        return all(of(name)[1] <= (1 + AGREE) * of(name)[0] for name in calls)

    with bar((repeats + 2) * len(calls), "timing", show) as steps:
        most = repeats * (MOST if quiet and repeats > 1 else 1) + 2
        while len(rounds) < repeats + 2 or (len(rounds) < most and not settled()):
            rounds.append({})
            steps.total = max(steps.total, len(rounds) * len(calls))
            for name, call in calls.items():
                with timed(rounds[-1], name, device):
                    call()
                steps.update()
    return {name: of(name)[0] if quiet else statistics.median(of(name)) for name in calls}
