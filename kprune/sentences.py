"""Objects of sentence-transformers: the model inside to prune, and the same object around it."""

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.checks import check_texts
from kprune.data.tasks import Task, get_task
from kprune.options import WORDS
from kprune.sampling import Sample, own_texts


@dataclass(frozen=True)
class Inside:
    """What a SentenceTransformer or a CrossEncoder is made of."""

    whole: Any
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    options: dict[str, Any]  # how the object makes an embedding of what the model gives
    prompt: str = ""  # that it puts before each text
    pairs: bool = False  # whether it reads pairs of them
    prompts: tuple[str, ...] = ()  # others, that it puts there when asked

    def texts(self, sample: Any) -> Any:
        """The sample as the object would read it; ValueError where it would read others."""
        if isinstance(sample, str):
            sample = get_task(sample)
        task = sample.task if isinstance(sample, Sample) else sample
        if isinstance(task, Task):
            single = len(task.columns) == 1
        else:
            sample = own_texts(sample)
            single = isinstance(sample[0], str)
        if single and self.pairs:
            raise ValueError("A CrossEncoder reads pairs of texts, and the sample has single ones.")
        if not self.prompt:
            return sample
        if isinstance(sample, (Task, Sample)) or not isinstance(sample, Iterable):
            name = type(self.whole).__name__
            raise ValueError(f"This {name} puts {self.prompt!r} before each text; pass the texts.")
        return [self.prompt + one if isinstance(one, str) else one for one in sample]

    def variants(self, texts: Any) -> list[tuple[str, ...]]:
        """Each text as the object would read it, by its default and with each of its prompts."""
        texts = own_texts(texts)
        check_texts("the texts", texts, range(len(texts)), words=False)
        both = zip(texts, self.texts(texts), strict=True)
        return [(one, *(prompt + text for prompt in self.prompts)) for text, one in both]

    def given(
        self, sample: Any, tokenizer: PreTrainedTokenizerBase | None, options: dict[str, Any]
    ) -> tuple:
        """Model, sample, tokenizer and options as pruning takes them."""
        if self.prompts:
            names = ", ".join(map(repr, self.prompts))
            warnings.warn(
                f"This {type(self.whole).__name__} may put {names} before a text, and the sample "
                "is read without; pass texts that begin as those do that it will be given.",
                stacklevel=3,
            )
        texts, tokenizer = self.texts(sample), tokenizer or self.tokenizer
        return self.model, texts, tokenizer, options | self.options

    def around(
        self, smaller: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Any:
        """A copy of the object with another model, and perhaps tokenizer, in place of its own."""
        given = {id(self.model): smaller}
        given |= {} if tokenizer is None else {id(self.tokenizer): tokenizer}
        return copy.deepcopy(self.whole, given)


def opened(model: Any, given: dict[str, Any]) -> Inside | None:
    """What is inside an object of sentence-transformers; None for what is none.

    ValueError for one that does more than a pruned model could stand for, or where `given` options
    contradict it.
    """
    name = type(model).__name__
    mro = [one for one in type(model).__mro__ if one.__module__.startswith("sentence_transformers")]
    if isinstance(model, PreTrainedModel) or not mro:
        return None
    first, *others = model if isinstance(model, nn.Sequential) else [model]
    inner = getattr(first, "auto_model", None)
    steps = [type(one).__name__ for one in others]
    prompts = getattr(model, "prompts", None) or {}
    prompt = prompts.get(getattr(model, "default_prompt_name", None)) or ""
    options: dict[str, Any] = {}
    if mro[0].__name__ == "SentenceTransformer" and steps[:1] == ["Pooling"]:
        mode = others[0].pooling_mode
        known = mode in WORDS["pooling"] and steps[1:] in ([], ["Normalize"])
        known = known and (others[0].include_prompt or not prompt)
        options = {"pooling": mode, "normalize": len(steps) == 2}
        steps[0] += f" of {mode!r}"
    else:
        known = mro[0].__name__ == "CrossEncoder" and not steps and not prompt
    said = getattr(first, "processing_kwargs", None) or {}
    if odd := {key for part in said.values() for key in part} - {"padding", "return_tensors"}:
        raise ValueError(
            f"This {name} reads its texts by processing_kwargs of its own ({', '.join(sorted(odd))}"
            "), which a sample would not; set them on the tokenizer, or leave them out."
        )
    if not known or not isinstance(inner, PreTrainedModel):
        raise ValueError(
            f"kprune prunes a SentenceTransformer of Transformer, Pooling (mean or cls, prompts "
            f"included) and Normalize, and a CrossEncoder of a Transformer alone; this {name} is "
            f"{', '.join([type(first).__name__, *steps])}. Prune the model inside, "
            "`[0].auto_model`, and see what its output then is good for."
        )
    if length := getattr(model, "truncate_dim", None):
        raise ValueError(
            f"This {name} cuts its embeddings to {length} numbers (truncate_dim), and kprune looks "
            "at all of them; set truncate_dim to None, and cut afterwards."
        )
    if other := [f"{k}={given[k]!r}" for k in options if given.get(k, options[k]) != options[k]]:
        raise ValueError(f"This {name} itself says how it pools; leave out {', '.join(other)}.")
    pairs = mro[0].__name__ == "CrossEncoder"
    others = tuple(sorted({one for one in prompts.values() if one and one != prompt}))
    return Inside(model, inner, first.tokenizer, options, prompt, pairs, others)
