"""What pruning and the pruned model cost on this machine: time, memory, and the limit by count."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kprune.attention import attend, attention_backward, attention_forward
from kprune.encoders import Encoder, Sublayer, view
from kprune.evaluation import latencies
from kprune.passes import Step, first_only, make_steps, measure
from kprune.progress import seconds_in_turns
from kprune.sampling import Batch, Sample, batches, on_device
from kprune.states import give_back_memory
from kprune.surgery import sharing_weights
from kprune.tasks import Task
from kprune.weight_tuning import gather, kpwt
from kprune.workers import Scratch, side_by_side

HEAD_SIZE = 32
VOCABULARY = 1000  # of random sequences


def random_encoder(
    layers: int, width: int, seed: int = 0, vocabulary: int = VOCABULARY
) -> PreTrainedModel:
    """A BERT classifier with random weights, for timings: heads of 32 features, 4 · width neurons.

    Args:
        layers: number of layers.
        width: hidden size, a multiple of 32.
        seed: of the weights.
        vocabulary: number of token ids that it embeds.

    Raises:
        ValueError: when the width is no multiple of 32, or there is no layer.
    """
    if layers < 1 or width < HEAD_SIZE or width % HEAD_SIZE:
        raise ValueError(
            f"A random encoder needs at least one layer and a width that is a multiple of "
            f"{HEAD_SIZE}; got {layers} layers of width {width}."
        )
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_SIZE,
        intermediate_size=4 * width,
        # Larger than usual: with small weights all heads of a random model look alike.
        initializer_range=1.5 / width**0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(config).eval()


def random_sample(
    length: int, tokens: int, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> Sample:
    """Sequences of `length` random tokens, as many as `tokens` holds, for a random encoder.

    Raises:
        ValueError: when the length is not positive.
    """
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
    is already pruned is not counted, nor what a model of more than `passes.SHALLOW` sublayers runs
    again to save memory.
    """
    return sublayers + 1


def pass_operations(encoder: Encoder, sample: Sample) -> float:
    """FLOPs of one pass of the encoder's sublayers over a sample, padding not counted."""
    lengths = [len(example["input_ids"]) for example in sample.examples]
    return sum(encoder.flops(length) for length in lengths)


@torch.inference_mode()
def product_rate(dtype: torch.dtype, device: torch.device, width: int = 384) -> float:
    """FLOPs per second of the feed-forward projection, [1024, width] × [width, 4 · width]."""
    rows = 1024 if device.type == "cpu" else 16384
    x = torch.randn(rows, width, device=device).to(dtype)
    weight = torch.randn(width, 4 * width, device=device).to(dtype)
    return 2 * rows * width * 4 * width / seconds_in_turns({"": lambda: x @ weight}, 50)[""]


@torch.no_grad()
def gains(
    model: PreTrainedModel, sample: Sample, dtype: torch.dtype | None = None, tokens: int = 2000
) -> dict[str, float]:
    """How many times as long pruning's parts take without each of the things that make them fast.

    Each is measured alone, on the first sequences of the sample, against the same work with it:

    - "batches by length": a measurement of all sublayers, against batches as drawn;
    - "batches side by side": against one at a time on all threads (CPU with several threads only);
    - "products in bf16": against the model's own precision (where `dtype` is not None);
    - "passes spelled out": against autograd through the same sublayers;
    - "first token only": against differentiating all tokens in a classifier's last layer;
    - "attention by products": attention there and back, against the fused kernel (CPU only);
    - "cached hidden states": a measurement at the middle sublayer, against one that runs the lower
      sublayers again;
    - "teacher's logits kept": the same, against one that runs the teacher again;
    - "normal equations": weight-tuning of the first feed-forward sublayer, against least squares on
      the explicit matrices.

    Args:
        model: the dense model.
        sample: the sample.
        dtype: precision of the passes that rank.
        tokens: of the slice.
    """
    lengths = torch.tensor([len(example["input_ids"]) for example in sample.examples])
    count = max(1, int((lengths.cumsum(0) <= tokens).sum()))
    some = replace(sample, examples=sample.examples[:count], labels=None)
    encoder, task = view(sharing_weights(model)), sample.task
    sublayers, half = encoder.sublayers, len(encoder.sublayers) // 2
    parts = on_device(some, model.device)
    largest = max(part.inputs["input_ids"].numel() for part in parts)
    as_drawn = [
        part.to(model.device)
        for part in batches(some.examples, sample.tokenizer.pad_token_id, largest, by_length=False)
    ]

    def loss(logits: Tensor) -> Tensor:
        return logits.flatten(1).square().sum(1)

    def measuring(
        steps: Sequence[Step],
        parts: Sequence[Batch] = parts,
        lower: Sequence[Sublayer] = (),
        teacher: Sequence[Step] = (),
        together: bool = False,
    ) -> Callable[[], None]:
        def one(part: Batch) -> None:
            x = encoder.embed(part.inputs)
            if teacher:
                measure(encoder, teacher, x, part, None, scratch)
            for sublayer in lower:
                x = sublayer(x, part.mask)
            measure(encoder, steps, x, part, loss, scratch)

        def run() -> None:
            with side_by_side(model.device) if together else nullcontext(map) as over:
                deque(over(one, parts), maxlen=0)

        scratch = Scratch()
        return run

    def with_autograd() -> None:
        cast = [sublayer.cast(dtype) for sublayer in sublayers]
        for part in parts:
            x, kept = encoder.embed(part.inputs), []
            with torch.enable_grad():
                for sublayer in cast:
                    features = sublayer.features(x, part.mask)
                    if not features.requires_grad:
                        features.requires_grad_()
                    kept.append(features)
                    x = sublayer.finish(x, features)
                torch.autograd.grad(loss(encoder.head(x)).sum(), kept)

    source = next(sublayer for sublayer in sublayers if sublayer.kind == "FFN")
    hidden = [encoder.embed(part.inputs) for part in parts]

    def normal_equations() -> None:
        kpwt(gather(source, source, list(hidden), hidden, parts), source.output.weight.T)

    def explicit() -> None:
        rows = [source.features(x, part.mask) for x, part in zip(hidden, parts, strict=True)]
        real = [part.attention_mask.bool() for part in parts]
        features = torch.cat([row[mask] for row, mask in zip(rows, real, strict=True)])
        driver = "gelsd" if features.device.type == "cpu" else "gels"
        torch.linalg.lstsq(features, source.output(features), driver=driver)

    first = first_only(sublayers, task)
    steps = make_steps(sublayers, dtype, first)
    upper = steps[half:]
    pairs = {
        "batches by length": (measuring(steps, as_drawn), measuring(steps)),
        "passes spelled out": (with_autograd, measuring(steps)),
        "cached hidden states": (
            measuring(upper, lower=sublayers[:half]),
            measuring(upper),
        ),
        "teacher's logits kept": (measuring(upper, teacher=steps), measuring(upper)),
        "normal equations": (explicit, normal_equations),
    }
    if model.device.type == "cpu" and torch.get_num_threads() > 1:
        pairs["batches side by side"] = (measuring(steps), measuring(steps, together=True))
    if dtype:
        pairs["products in bf16"] = (
            measuring(make_steps(sublayers, None, first)),
            measuring(steps),
        )
    if any(first):
        everywhere = make_steps(sublayers, dtype, [False] * len(sublayers))
        pairs["first token only"] = (measuring(everywhere), measuring(steps))
    if model.device.type == "cpu":
        pairs["attention by products"] = _attention_pair(sublayers[0], parts, dtype)
    found = {}
    for name, (without, given) in pairs.items():
        seconds = seconds_in_turns({"without": without, "with": given}, 3)
        found[name] = seconds["without"] / seconds["with"]
    return found


def _attention_pair(
    sublayer: Sublayer, parts: Sequence[Batch], dtype: torch.dtype | None
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Attention of all batches there and back: fused kernel with autograd, and plain products."""
    inputs = []
    for part in parts:
        rows, length = part.inputs["input_ids"].shape
        shape = (3, rows, sublayer.units, length, sublayer.unit_size)
        inputs.append((torch.randn(shape, dtype=dtype or torch.float32), part.mask))

    def fused() -> None:
        for given, mask in inputs:
            with torch.enable_grad():
                given = given.clone().requires_grad_()
                torch.autograd.grad(attend(*given, mask).sum(), given)

    def products() -> None:
        for given, mask in inputs:
            attended, kept = attention_forward(*given, mask)
            attention_backward(torch.ones_like(attended), mask, *kept)

    return fused, products


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Within the block, watch how far memory rises above what it was before.

    Yields:
        A dict that receives `peak` in MB: allocated memory of the GPU, else resident memory of the
        process (NaN where the system does not tell its peak).
    """
    found = {"peak": float("nan")}
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        give_back_memory()  # what earlier steps have freed must not hide what this one takes
        before = psutil.Process().memory_info().rss
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    yield found
    if device.type == "cuda":
        found["peak"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    elif sys.platform == "linux":
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        found["peak"] = int(status.split()[0]) / 1024 - before / 2**20


def inference(
    dense: PreTrainedModel,
    pruned: PreTrainedModel,
    batch_sizes: Sequence[int] = (1, 8, 32, 128),
    lengths: Sequence[int] = (32, 128),
    repeats: int = 5,
) -> list[dict[str, float]]:
    """Median seconds of one forward pass of both models, for each batch size and length."""
    longest = view(dense).model.config.max_position_embeddings
    return [
        {
            "batch size": size,
            "length": length,
            **latencies({"dense": dense, "pruned": pruned}, size, length, repeats),
        }
        for length in lengths
        if length <= longest
        for size in batch_sizes
    ]
