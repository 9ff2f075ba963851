"""What each idea brings that makes pruning fast: measured alone, on the engine itself."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kprune.data.batching import Batch, batches, on_device
from kprune.encoders import Encoder
from kprune.engine.attention import NAME
from kprune.engine.memory import stretch_of
from kprune.engine.workers import MOST, side_by_side
from kprune.limits.latency import seconds_in_turns
from kprune.measuring import measure
from kprune.sampling import Sample
from kprune.sublayerwise import State
from kprune.weight_tuning import gather_output, kpwt

Work = Callable[[Encoder, int], object]  # of an encoder and the number of a batch


@torch.no_grad()
def gains(
    model: PreTrainedModel, sample: Sample, dtype: torch.dtype | None = None, tokens: int = 2000
) -> dict[str, float]:
    """How many times as long pruning's parts take without each of the things that make them fast.

    Each is left out alone, on the first `tokens` of the sample, with passes in `dtype`; a
    measurement is one of all sublayers, forward and back:

    - "batches by length": a measurement, against one of batches as drawn;
    - "batches side by side": against one batch at a time on all threads (CPU with several threads);
    - "products in bf16": against the model's own precision (where `dtype` is not None);
    - "attention by products": against PyTorch's fused attention (CPU only);
    - "cached hidden states": a measurement at the middle layer, against one that runs the lower
      layers again;
    - "teacher's logits kept": the same, against one that runs the teacher again;
    - "normal equations": weight-tuning of the first feed-forward sublayer, against least squares on
      the explicit matrices.
    """
    lengths = torch.tensor([len(example["input_ids"]) for example in sample.examples])
    count = max(1, int((lengths.cumsum(0) <= tokens).sum()))
    some = replace(sample, examples=sample.examples[:count], labels=None)
    encoder, device = Encoder(model), model.device
    grouped, layer = on_device(some, device), len(encoder.layers) // 2
    largest = max(batch.inputs["input_ids"].numel() for batch in grouped)
    drawn = batches(some.examples, sample.tokenizer.pad_token_id, largest, by_length=False)
    as_drawn = [batch.to(device) for batch in drawn]
    ours, full = _workers(encoder, dtype), _workers(encoder, None)
    hidden = [ours[0].run(batch, stop=2 * layer) for batch in grouped]

    def loss(outputs: Tensor) -> Tensor:
        return outputs.flatten(1).square().sum(1)

    def measuring(parts: Sequence[Batch], start: int = 0, first: Work | None = None) -> Work:
        stretch = stretch_of(model, len(encoder.layers) - start, parts)

        def work(own: Encoder, number: int) -> None:
            if first:
                first(own, number)
            x = hidden[number] if start else None
            measure(own, 2 * start, parts[number], x, loss, stretch)

        return work

    def over(work: Work, workers: Sequence[Encoder] = ours, count: int = len(grouped)):
        def run() -> None:
            with side_by_side(device, iter(workers).__next__) as each:
                deque(each(work, range(count)), maxlen=0)

        return run

    whole, upper = measuring(grouped), measuring(grouped, layer)
    below = measuring(grouped, layer, lambda own, n: own.run(grouped[n], stop=2 * layer))
    teacher = measuring(grouped, layer, lambda own, n: own.run(grouped[n]))
    pairs = {
        "batches by length": (over(measuring(as_drawn), count=len(as_drawn)), over(whole)),
        "cached hidden states": (over(below), over(upper)),
        "teacher's logits kept": (over(teacher), over(upper)),
        "normal equations": _tuning(State(encoder, encoder.copy(), some)),
    }
    if device.type == "cpu" and torch.get_num_threads() > 1:
        numbers = range(len(grouped))
        pairs["batches side by side"] = (lambda: [whole(ours[0], n) for n in numbers], over(whole))
    if dtype:
        pairs["products in bf16"] = (over(whole, full), over(whole))
    if device.type == "cpu" and ours[0].model.config._attn_implementation == NAME:
        fused = _workers(encoder, dtype, "sdpa")
        pairs["attention by products"] = (over(whole, fused), over(whole))
    found = {}
    for name, (without, given) in pairs.items():
        seconds = seconds_in_turns({"without": without, "with": given}, 3, device=device)
        found[name] = seconds["without"] / seconds["with"]
    return found


def _workers(encoder: Encoder, dtype: torch.dtype | None, attention: str = "") -> list[Encoder]:
    """What each worker needs: a copy of its own, as pruning makes them."""
    first = encoder.copy(dtype)
    workers = [first, *(first.copy() for _ in range(MOST - 1))]
    for worker in workers if attention else ():
        worker.model.config._attn_implementation = attention
    return workers


def _tuning(state: State, t: int = 1) -> tuple[Callable[[], None], Callable[[], None]]:
    """Tuning of a sublayer by least squares on explicit matrices, and by normal equations."""
    for below in range(t):
        state.advance(below)
    weight = state.student.sublayers[t].output.weight.T

    def rows(encoders: tuple[Encoder, Encoder], number: int) -> tuple[Tensor, Tensor]:
        batch, real = state.batches[number], state.batches[number].attention_mask.bool()
        _, wanted = encoders[0].passing(batch, state.teacher_hidden[number], t)
        P, total = encoders[1].passing(batch, state.student_hidden[number], t)
        return P[real], (wanted - total + P @ weight)[real]

    def explicit() -> None:
        P, Y = (torch.cat(part) for part in zip(*state.each(rows), strict=True))
        torch.linalg.lstsq(P, Y, driver="gelsd" if P.device.type == "cpu" else "gels")

    return explicit, lambda: kpwt(gather_output(state, t), weight)
