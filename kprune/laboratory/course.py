"""What the lessons share: their set-up, a toy that fits a screen, readings and exercises."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from kprune.engine.devices import device
from kprune.laboratory import figures
from kprune.laboratory.finetuning import default_recipe
from kprune.laboratory.records import environment, short
from kprune.laboratory.teachers import teacher as get_teacher
from kprune.sampling import Sample, sample

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "not", "very", "so", "good", "bad", "dull"]
WORDS += ["film", "book", "song"]
TEXTS = [
    f"{degree} {verdict} {thing}"
    for degree in ("a", "not", "very", "so")
    for verdict in ("good", "bad", "dull")
    for thing in ("film", "book", "song")
]


@dataclass(frozen=True)
class Start:
    """What a lesson begins with."""

    teacher: PreTrainedModel  # fine-tuned, in evaluation mode, frozen, on the device
    tokenizer: PreTrainedTokenizerBase
    sample: Sample
    device: torch.device


def start(
    task: str,
    model: str,
    data: str = "",
    teacher: str = "",
    tokens: int = 12_000,
    seed: int = 0,
    examples: int = 0,
) -> Start:
    """Teacher and sample of a lesson, made or found; prints what the run depends on.

    Arguments are the lesson's parameters: `teacher` is a folder, or empty to fine-tune one (on so
    many `examples`, 0 for all), which is kept in `outputs/teachers`.
    """
    figures.look()
    place = device()
    recipe = default_recipe(model, examples=examples or None)
    dense, tokenizer, _ = get_teacher(task, model, data or None, teacher or None, recipe)
    dense.to(place).requires_grad_(False)
    drawn = sample(task, tokenizer, tokens, seed, data or None)
    print(footer(place))
    return Start(dense, tokenizer, drawn, place)


def footer(place: torch.device | str = "cpu") -> str:
    """What outputs depend on, in a line: versions, commit, device, threads."""
    found = environment(place)
    commit = f"{'commit ' * bool(found['commit'])}{short(found['commit'], 8)}"
    packages = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers"))
    threads = f"{found['threads']} thread{'s' * (found['threads'] > 1)}"
    return f"kprune {found['kprune']} ({commit}), {packages}, on {found['device']}, {threads}"


def toy(seed: int = 0) -> tuple[BertForSequenceClassification, Sample]:
    """A BERT of one layer, two heads and four neurons, in float64, and 36 texts of five tokens.

    Random weights, large enough that each unit moves the output; hidden size 4, two classes.
    """
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special, model_max_length=8)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=4,
        max_position_embeddings=8,
        pad_token_id=0,
    )
    generator = torch.Generator().manual_seed(seed)
    bert = BertForSequenceClassification(config).double().eval().requires_grad_(False)
    for name, weight in bert.named_parameters():
        if "LayerNorm" not in name:
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return bert, sample(TEXTS, tokenizer, 5 * len(TEXTS))


def holds(reading: str, so: object) -> None:
    """Print what is to be read off an output, and whether it holds there.

    The prose around it may say so, since a test finds a committed notebook where it does not.
    """
    print(f"{'✓' if so else '✗ not in this run:'} {reading}")


def tried(check: Callable, answer: Callable) -> None:
    """Check a reader's answer to an exercise, once there is one.

    A scaffold that is still to be filled in raises NotImplementedError; `check` takes the answer
    and asserts that it is right.
    """
    try:
        check(answer)
    except NotImplementedError:
        print("Not written yet: fill in the cell above, and run both again.")
    else:
        print("Right.")
