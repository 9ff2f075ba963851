"""What a model can be given: tokens it has embeddings and positions for, and labels it can have."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Integral

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.data.batching import Batch, collate
from kprune.data.checks import as_numbers, check_labels, in_order, matched
from kprune.data.tokens import Example, check_tokenizer
from kprune.families import report_of
from kprune.outputs import Kind
from kprune.sampling import Sample

SPARE = 0.04  # share of an embedding's rows that may be without a word, as of some published ones


def longest(model: PreTrainedModel) -> int | None:
    """Tokens of the longest sequence that a model has positions for; None where any length fits."""
    for name, module in model.base_model.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and hasattr(module, "num_embeddings"):
            # RoBERTa and MPNet count positions from the one after padding's.
            padding = getattr(module, "padding_idx", None)
            return module.num_embeddings - (0 if padding is None else padding + 1)
    return None


def made_up(model: PreTrainedModel, sequences: int, tokens: int) -> Batch:
    """Sequences of words that a model has, of two parts each; the last of several is a third
    shorter, and padded.
    """
    words = 5 + torch.arange(sequences * tokens) % (model.get_input_embeddings().num_embeddings - 5)
    rows = words.view(sequences, tokens).tolist()
    if sequences > 1:
        rows[-1] = rows[-1][: -(tokens // 3)]
    parts = [[int(place >= tokens // 2) for place in range(len(row))] for row in rows]
    examples = [
        {"input_ids": row, "token_type_ids": part} for row, part in zip(rows, parts, strict=True)
    ]
    return collate(examples, getattr(model.config, "pad_token_id", None) or 0).to(model.device)


def check_inputs(model: PreTrainedModel, examples: Iterable[Example], what: str) -> None:
    """Raise ValueError, naming the sequence, for tokens that the model has no embedding for."""
    number, most, types = -1, longest(model), getattr(model.config, "type_vocab_size", 0)
    limits = {"input_ids": model.get_input_embeddings().num_embeddings}
    limits |= {"token_type_ids": types} if types > 1 else {}
    first: Iterable[str] = ()
    for number, example in enumerate(examples):
        where = f"Sequence {number} (from 0) of {what}"
        ids = example.get("input_ids") if isinstance(example, Mapping) else None
        if not isinstance(ids, list) or not ids:
            raise ValueError(f"{where} is not a dict with a list of input_ids, and at least one.")
        first = first or example.keys()
        if example.keys() != first:
            raise ValueError(f"{where} has {', '.join(example)}, and the first {', '.join(first)}.")
        if most and len(ids) > most:
            raise ValueError(
                f"{where} has {len(ids)} tokens, and the model positions for {most}; cut texts "
                f"there, by the tokenizer's model_max_length or a task's max_length of {most}."
            )
        if odd := [name for name, values in example.items() if not isinstance(values, list)]:
            raise ValueError(f"{where} has {odd[0]} that are no list; leave them out, or tokenise.")
        if other := example.keys() & {"position_ids", "inputs_embeds", "head_mask"}:
            raise ValueError(f"{where} has {min(other)}, which no pass here would read.")
        if len(example.get("attention_mask", ids)) != len(ids):
            raise ValueError(f"{where} has an attention_mask of another length than its tokens.")
        if 0 in example.get("attention_mask", ()):
            raise ValueError(f"{where} holds padding, by its attention_mask; leave it out there.")
        for name, count in limits.items():
            values = example.get(name, [0] * len(ids))
            wrong = [
                one
                for one in values
                if not isinstance(one, Integral) or isinstance(one, bool) or not 0 <= one < count
            ]
            if wrong or len(values) != len(ids):
                found = f"{wrong[0]!r}" if wrong else f"{len(values)} of them for {len(ids)} tokens"
                raise ValueError(
                    f"{where} has {name} that the model cannot take: {found}, where it knows 0 to "
                    f"{count - 1}; use the model's own tokenizer."
                )
    if number < 0:
        raise ValueError(f"There are no sequences in {what}.")


def check_match(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, whole: bool = False
) -> None:
    """ValueError for a tokenizer without words; a warning where it is seen to be another model's,
    and where it would go along as a `whole`, ValueError for another than a trimmed model's.

    Embeddings may be some rows more than there are words, and a tokenizer's added words may be
    without; words that do occur are looked at by `check_inputs`.
    """
    check_tokenizer(tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    rows, words = model.get_input_embeddings().num_embeddings, len(tokenizer)
    if not (isinstance(pad := tokenizer.pad_token_id, int) and 0 <= pad < rows):
        raise ValueError(
            f"The tokenizer pads with the id {pad!r}, which the model has no embedding for; set "
            "its pad_token to one of its words, or resize the model's embeddings."
        )
    if whole and words > rows and "pieces" in report_of(model):
        raise ValueError(
            f"The model was trimmed to {rows:,} pieces of words, and the tokenizer has {words:,}; "
            "pass the one that trim gave."
        )
    found, padding = [], getattr(model.config, "pad_token_id", None)
    if not words <= rows <= words + max(128, SPARE * rows):
        found = [f"{words:,} words and the model embeddings for {rows:,}"]
    if padding not in (None, tokenizer.pad_token_id):
        found += [f"the padding token {tokenizer.pad_token_id} and the model {padding}"]
    if found:
        warnings.warn(
            f"The tokenizer has {' and '.join(found)}, so it seems to be another model's; results "
            "would mean nothing then.",
            stacklevel=3,
        )


def checked(sample: Sample, model: PreTrainedModel, kind: Kind, labels: bool) -> Sample:
    """The sample, when the model can take it; its labels, where they are needed, by the model's
    numbers of classes. ValueError names what does not fit.
    """
    check_match(model, sample.tokenizer)
    check_inputs(model, sample.examples, "the sample")
    if not labels:
        return sample
    count = len(sample.examples)
    if kind.loss is None or sample.labels is None:
        why = "A method that needs labels finds none; draw a sample from a task, such as 'sst2'."
        raise ValueError(sample.unlabelled or why)
    if len(sample.labels) != count:
        raise ValueError(f"The sample has {len(sample.labels)} labels for {count} sequences.")
    ids = [example["input_ids"] for example in sample.examples]
    check_labels(sample.task, sample.labels, range(count), ids)
    order = matched(sample.classes, model.config, "the sample")
    labels = in_order(as_numbers(sample.task, sample.labels), order, sample.task.kind)
    # Their numbers are the model's now: names of the data's would turn them once more.
    return replace(sample, labels=labels, classes=None if order else sample.classes)
