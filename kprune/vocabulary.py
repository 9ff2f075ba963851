"""The pieces of words that texts use: the others leave the embedding and the tokenizer."""

import copy
import json
import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.checks import check_model
from kprune.data.checks import check_texts
from kprune.families import report_of
from kprune.inputs import check_match
from kprune.sampling import find_tokenizer, own_texts
from kprune.sentences import opened

HELD_OUT = 10  # one text in so many tells what others would lose
BLANKS = ("##", "▁", "Ġ", "</w>")  # how pieces say where in a word they stand
BYTE = re.compile("<0x[0-9A-F]{2}>")
IDS = ("pad", "bos", "eos", "cls", "sep", "mask", "decoder_start")


@dataclass(frozen=True)
class Trimmed:
    """What trimming did."""

    pieces: int  # that are left
    dense_pieces: int  # there were
    changed: float  # share of texts that are read otherwise when their own pieces are not known


def trim(
    model: PreTrainedModel,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Trimmed]:
    """A copy of a model, and of its tokenizer, that knows the pieces of words in some texts only.

    On those texts the outputs are the same; all special tokens and single characters stay, so that
    no other text is lost either: its words fall into smaller pieces. Prune first, or afterwards.

    Args:
        model: pruned or dense, or a SentenceTransformer or CrossEncoder with one inside, which is
            given back as the same object; it is not changed.
        texts: as many as there are, of the kind that the model will see; or pairs of texts.
        tokenizer: the model's own, by default the one that travels with it.

    Gives the model, its tokenizer (`kprune.save` saves both), and what was done. ValueError for a
    tokenizer without a fast backend.
    """
    if inside := opened(model, {}):
        words = tokenizer or inside.tokenizer
        read = texts if inside.pairs else inside.variants(texts)  # of pairs only the words count
        smaller, fewer, done = trim(inside.model, read, words)
        return inside.around(smaller, fewer), fewer, done
    check_model(model, empty=True)
    check_match(model, tokenizer := tokenizer or find_tokenizer(model))
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"A {type(tokenizer).__name__} has no tokenizer.json, which is trimmed.")
    rows = [one if isinstance(one, (tuple, list)) else [one] for one in own_texts(texts)]
    flat = [side for row in rows for side in row]
    check_texts("the texts", flat, range(len(flat)), words=False)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    read = tokenizer(flat, truncation=False, verbose=False)["input_ids"]
    sides = iter(read)
    used = [{*chain.from_iterable(islice(sides, len(row)))} for row in rows]
    always = _always(model, tokenizer.pad_token_id)
    kept = _kept(backend, always.union(*used))
    new = {number: place for place, number in enumerate(kept)}
    fewer = _rewritten(backend, tokenizer, new)
    again = fewer(flat, truncation=False, verbose=False)["input_ids"]
    if again != [[new[number] for number in ids] for ids in read]:
        raise ValueError(f"A {type(tokenizer).__name__} reads the texts otherwise when trimmed.")
    rest = set().union(*(ids for n, ids in enumerate(used) if n % HELD_OUT))
    known = {*_kept(backend, always | rest)}
    apart = used[::HELD_OUT]
    changed = sum(not ids <= known for ids in apart) / len(apart)
    trimmed = _with_rows(model, new)
    trimmed.tokenizer = fewer
    now = {"parameters": trimmed.num_parameters(), "pieces": len(kept)}
    trimmed.report = report_of(model) | now
    return trimmed, fewer, Trimmed(len(kept), len(tokenizer), changed)


def _always(model: PreTrainedModel, pad: int) -> set[int]:
    """The padding's id; and those below it, where positions are counted from it, as in RoBERTa."""
    words = model.get_input_embeddings()
    others = (part for part in model.modules() if isinstance(part, nn.Embedding))
    counted = any(part.padding_idx is not None for part in others if part is not words)
    return {*range(pad + 1)} if counted else {pad}


def _kept(backend: dict[str, Any], used: set[int]) -> list[int]:
    """Ids that stay: those used, of special tokens, of single characters, and what makes them."""
    vocabulary = _vocabulary(backend)
    kept = used | {one["id"] for one in backend["added_tokens"]}
    for piece, number in vocabulary.items():
        bare = piece
        for blank in BLANKS:
            bare = bare.replace(blank, "")
        if len(bare) <= 1 or BYTE.fullmatch(piece):
            kept.add(number)
    if backend["model"]["type"] == "BPE":
        names = {number: piece for piece, number in vocabulary.items()}
        ranks = {tuple(pair): rank for rank, pair in enumerate(_merges(backend))}
        for number in [one for one in kept if one in names]:
            kept |= {vocabulary[part] for part in _parts(names[number], ranks)}
    return sorted(kept)


def _vocabulary(backend: dict[str, Any]) -> dict[str, int]:
    found = backend["model"]["vocab"]
    return found if isinstance(found, dict) else {one: n for n, (one, _) in enumerate(found)}


def _merges(backend: dict[str, Any]) -> list[list[str]]:
    merges = backend["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def _parts(piece: str, ranks: dict[tuple[str, str], int]) -> set[str]:
    """What is made on the way from characters to a piece, by merges in the order of their ranks."""
    parts, made = [*piece], set()
    while True:
        pairs = [*pairwise(parts)]
        best = min(pairs, key=lambda pair: ranks.get(pair, math.inf), default=None)
        if best not in ranks:
            return made
        place = pairs.index(best)
        parts[place : place + 2] = ["".join(best)]
        made.add(parts[place])


def _rewritten(
    backend: dict[str, Any], tokenizer: PreTrainedTokenizerBase, new: dict[int, int]
) -> PreTrainedTokenizerBase:
    """The tokenizer with the ids that have a new number, and no others."""
    backend = copy.deepcopy(backend)
    model, names = (
        backend["model"],
        {piece for piece, n in _vocabulary(backend).items() if n in new},
    )
    if isinstance(model["vocab"], dict):
        model["vocab"] = {piece: new[n] for piece, n in model["vocab"].items() if n in new}
    else:
        model["vocab"] = [one for n, one in enumerate(model["vocab"]) if n in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    if model["type"] == "BPE":
        fine = (pair for pair in _merges(backend) if {*pair, "".join(pair)} <= names)
        model["merges"] = [list(pair) for pair in fine]
    for one in backend["added_tokens"]:
        one["id"] = new[one["id"]]
    backend["post_processor"] = _renumbered(backend["post_processor"], new)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        Path(scratch, "tokenizer.json").write_text(json.dumps(backend), encoding="utf-8")
        fewer = type(tokenizer).from_pretrained(scratch)
    fewer.name_or_path = tokenizer.name_or_path
    return fewer


def _renumbered(part: Any, new: dict[int, int]) -> Any:
    """What puts special tokens around texts, which names them by their ids, too."""
    if isinstance(part, dict):
        return {
            key: [new[n] for n in value] if key == "ids" else _renumbered(value, new)
            for key, value in part.items()
        }
    if isinstance(part, list) and len(part) == 2 and isinstance(part[1], int):
        return [part[0], new[part[1]]]
    return [_renumbered(one, new) for one in part] if isinstance(part, list) else part


def _with_rows(model: PreTrainedModel, new: dict[int, int]) -> PreTrainedModel:
    """A copy of a model that keeps those rows of its embedding that have a new number."""
    twin = copy.deepcopy(model)
    old = twin.get_input_embeddings()
    rows = torch.tensor([one for one in new if one < old.num_embeddings], device=old.weight.device)
    fewer = nn.Embedding(
        len(rows), old.embedding_dim, new.get(old.padding_idx), _weight=old.weight.detach()[rows]
    )
    fewer.weight.requires_grad_(old.weight.requires_grad)
    twin.set_input_embeddings(fewer)
    twin.config.vocab_size = len(rows)
    for name in IDS:
        if (number := getattr(twin.config, f"{name}_token_id", None)) in new:
            setattr(twin.config, f"{name}_token_id", new[number])
    return twin
