"""What a pass over the sample tells: each unit's features and, with a loss, their gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

import torch
from torch import Tensor

from kprune.data.batching import Batch
from kprune.encoders import Encoder, projected, tapped
from kprune.engine.least_squares import wide
from kprune.engine.memory import stretch_of
from kprune.engine.workers import Result, side_by_side
from kprune.state import State

Loss = Callable[[int, Tensor], Tensor]  # of the number of a batch and its outputs, one per sample
FORWARD, BACK_TOO = 1, 3  # work on one batch of a sublayer, for the progress bar


@dataclass(frozen=True)
class Measured:
    """What one batch tells about the units of each sublayer passed, by feature k of each."""

    outputs: Tensor  # the model's
    squares: list[Tensor]  # Σ f_k² over real tokens, [features]
    gradients: list[Tensor]  # with a loss, Σ f_k · ∂loss/∂f_k over each sequence [batch, features]


@dataclass(frozen=True)
class Slopes:
    """What one batch leaves behind in neighbouring sublayers, on the way up and down."""

    outputs: Tensor | None  # the model's, with the highest of them
    features: list[Tensor]  # P of each, [batch, length, features]
    points: list[Tensor]  # where the loss was differentiated, such as at P, [batch, length, ...]
    slopes: list[Tensor]  # ∂loss/∂points; of the first tokens alone where no others are read


def measure(
    encoder: Encoder,
    t: int,
    batch: Batch,
    hidden: Tensor | None,
    loss: Callable[[Tensor], Tensor] | None = None,
    stretch: int | None = None,
) -> Measured:
    """One batch up from sublayer `t`, and with a loss down again, by the model's own forward.

    Arguments as in `differentiated`; without a loss nothing is.
    """
    if loss is None:
        with tapped(encoder.sublayers[t:]) as features:
            outputs = encoder.run(batch, hidden, t)
        return Measured(outputs, [squared_sum(f, batch) for f in features], [])
    outputs, squares, gradients = None, [], []
    for part in differentiated(encoder, t, batch, hidden, loss, stretch):
        outputs = part.outputs if outputs is None else outputs
        squares = [squared_sum(f, batch) for f in part.features] + squares
        pairs = zip(part.points, part.slopes, strict=True)
        gradients = [(f * slope).sum(1, dtype=wide(f.dtype)) for f, slope in pairs] + gradients
    return Measured(outputs, squares, gradients)


def differentiated(
    encoder: Encoder,
    t: int,
    batch: Batch,
    hidden: Tensor | None,
    loss: Callable[[Tensor], Tensor],
    stretch: int | None = None,
    at_outputs: bool = False,
) -> Iterator[Slopes]:
    """One batch up from sublayer `t` and down again: some sublayers at a time, the highest first.

    `encoder` has frozen weights (`Encoder.copy`); `hidden`, [batch, length, d], is at the input of
    the sublayer, None starts at the embedding; `loss` gives one number per sample from the outputs.
    `stretch` layers are differentiated in one go (None: all): between stretches the hidden states
    are kept, and a lower one runs again on the way down. The loss is differentiated at the features
    of the units or, with `at_outputs`, at what the output projections give.
    """
    top = len(encoder.sublayers)
    ends = [t, *range(t // 2 * 2, top, 2 * stretch if stretch else top)[1:], top]
    inputs = [hidden]
    for low, high in pairwise(ends[:-1]):
        inputs.append(encoder.run(batch, inputs[-1], low, high))
    slope = None
    for low, high in reversed([*pairwise(ends)]):
        entry = inputs.pop()
        below = [entry.detach().requires_grad_()] if low > t else []
        with torch.enable_grad():
            entry = below[0] if below else entry
            found, features, points = _stretch(encoder, batch, entry, low, high, at_outputs)
            goal = loss(found).sum() if high == top else found
        slopes = list(torch.autograd.grad(goal, [*points, *below], slope))
        slope = slopes.pop() if below else None
        outputs = found.detach() if high == top else None
        features, points = ([tensor.detach() for tensor in some] for some in (features, points))
        yield Slopes(outputs, features, points, slopes)


def _stretch(
    encoder: Encoder, batch: Batch, entry: Tensor | None, low: int, high: int, at_outputs: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Up from sublayer `low` to `high`: what comes out, features, and where to differentiate."""
    some, top = encoder.sublayers[low:high], len(encoder.sublayers)

    def at(sublayers: list, features: list[Tensor]) -> AbstractContextManager[list[Tensor]]:
        return projected(sublayers) if at_outputs else nullcontext(features)

    # In one layer alone, DeBERTa's convolution mixes tokens after it.
    first = encoder.kind.first_only and high == top > 2
    whole, features, points = some[:-1] if first else some, [], []
    if whole:
        with tapped(whole) as features, at(whole, features) as points:
            stop = top - 1 if first else high if high < top else None
            entry = encoder.run(batch, entry, low, stop)
    if not first:
        return entry, features, points
    # The head reads the first token only: so does the last FFN, but for its squares.
    with torch.no_grad():
        P = encoder.reaching(some[-1].output, batch, entry, top - 1)
    with tapped(some[-1:]) as last, at(some[-1:], last) as own:
        found = encoder.run(batch.first_tokens(), entry[:, :1], top - 1)
    return found, [*features, P], points + own


def measured(state: State, t: int, loss: Loss | None = None) -> Iterator[Measured]:
    """Measure the batches of a sample from sublayer `t` of the student up, in their order.

    Products are in the state's ranking precision. On a CPU the loss is called from several threads.
    """
    state.check_place(t)

    def one(encoder: Encoder, number: int, stretch: int) -> Measured:
        own = loss and partial(loss, number)
        hidden = state.student_hidden[number]
        return measure(encoder, t, state.batches[number], hidden, own, stretch)

    yield from over_batches(state, t, state.batches, one, BACK_TOO if loss else FORWARD)


def over_batches(
    state: State,
    t: int,
    batches: Sequence[Batch],
    one: Callable[[Encoder, int, int], Result],
    work: int,
) -> Iterator[Result]:
    """What `one` makes of each batch, in order, with the student in ranking precision.

    It takes an encoder of its own worker, the number of the batch, and how many layers to
    differentiate in one go; `work` on a sublayer, of those from `t` up, is for the bar.
    """
    student = state.student.copy(state.dtype)
    stretch = stretch_of(student.model, len(student.layers) - t // 2, batches)

    def at_once(encoder: Encoder, number: int) -> Result:
        return one(encoder, number, stretch)

    copies = chain([student], iter(student.copy, None))  # one for each worker
    with side_by_side(student.device, copies.__next__) as over:
        for found in over(at_once, range(len(batches))):
            yield found
            state.clock.tick(work * (len(student.sublayers) - t))


def squared_sum(features: Tensor, batch: Batch) -> Tensor:
    """Σ f² over the real tokens of a batch, in float32 or wider: [features]."""
    squares = features.detach().to(wide(features.dtype)).square().flatten(0, 1)
    if batch.mask is None:
        return squares.sum(0)
    return (batch.mask.flatten()[None].to(squares) @ squares)[0]
