"""A trimmed vocabulary reads the texts that it was made for as the whole one does."""

import random

import pytest
import torch
from conftest import tiny
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

import kprune
from kprune.data.opinions import opinions

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
TRAINED = {
    "WordPiece": (
        lambda: models.WordPiece(unk_token="[UNK]"),
        pre_tokenizers.BertPreTokenizer(),
        trainers.WordPieceTrainer,
        decoders.WordPiece(),
    ),
    "Unigram": (
        lambda: models.Unigram(),
        pre_tokenizers.Metaspace(),
        trainers.UnigramTrainer,
        decoders.Metaspace(),
    ),
    "BPE": (
        lambda: models.BPE(unk_token="[UNK]"),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        trainers.BpeTrainer,
        decoders.ByteLevel(),
    ),
}


@pytest.fixture(scope="module")
def texts():
    return opinions()["train"]["sentence"][:1500]


def trained(kind, texts):
    """A tokenizer of some 900 pieces."""
    model, before, trainer, decoder = TRAINED[kind]
    found = Tokenizer(model())
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer, found.decoder = before, decoder
    more = {"unk_token": "[UNK]"} if kind == "Unigram" else {}
    special = [*SPECIAL.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "BPE" else []
    found.train_from_iterator(
        texts, trainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet, **more)
    )
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    found.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    return PreTrainedTokenizerFast(tokenizer_object=found, model_max_length=64, **SPECIAL)


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_outputs_on_the_texts_stay(kind, family, texts, tmp_path):
    """Also when pruned, saved and loaded; other texts are read in smaller pieces."""
    tokenizer = trained(kind, texts)
    dense = tiny(family, "classification")
    dense.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
    own = texts[:12]
    model, _ = kprune.prune(
        dense, texts, 0.5, "magnitude", tokenizer=tokenizer, tokens=500, progress=False
    )
    trimmed, fewer, done = kprune.trim(model, own, tokenizer)
    assert done.pieces == len(fewer) < 0.9 * done.dense_pieces == 0.9 * len(tokenizer)
    assert trimmed.num_parameters() < model.num_parameters()
    again = kprune.load(kprune.save(trimmed, tmp_path / "saved", fewer))
    with torch.no_grad():
        for text in own:
            wanted = model(**tokenizer(text, return_tensors="pt")).logits
            for one in (trimmed, again):
                assert one(**fewer(text, return_tensors="pt")).logits.equal(wanted)
    other = "zebra quiz vex"
    assert fewer.unk_token not in fewer.tokenize(other) or kind != "BPE"
    assert fewer.decode(fewer(other)["input_ids"], skip_special_tokens=True).replace(" ", "")


def test_the_share_of_other_texts_is_of_texts_held_out():
    """Every tenth text has a word of its own here, and the others have none."""
    words = "abcdefghij"
    texts = [f"{words[i % 10]}{'xy' * (i % 10 == 0)}" for i in range(100)]
    vocabulary = {**{one: n for n, one in enumerate(SPECIAL.values())}}
    vocabulary |= {
        one: len(vocabulary) + n for n, one in enumerate([*words, "axy", "##x", "##y", "zz"])
    }
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    model = tiny("bert", "classification")
    random.Random(0).shuffle(texts[1:10])
    _, fewer, done = kprune.trim(model, texts, tokenizer)
    assert done.changed == 1.0
    assert "zz" not in fewer.get_vocab() and {"axy", "##x"} <= fewer.get_vocab().keys()
    assert kprune.trim(model, ["a b c"] * 20, tokenizer)[2].changed == 0.0
    pairs = [*zip(["a"] * 100, texts, strict=True)]  # held out with both of its texts
    assert kprune.trim(model, pairs, tokenizer)[2].changed == 1.0


@pytest.mark.parametrize("family", ["modernbert", "roberta"])
def test_padding_at_the_vocabularys_end_keeps_nothing_below_it(family, texts):
    """ModernBERT's is there; RoBERTa's positions are counted from it, so that it cannot move."""
    tokenizer = trained("BPE", texts)
    tokenizer.add_special_tokens({"pad_token": "[END]"})
    pad = tokenizer.pad_token_id
    model = tiny(family, "classification")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = model.get_input_embeddings().padding_idx = pad
    if family == "roberta":
        assert kprune.trim(model, texts[:12], tokenizer)[2].pieces == len(tokenizer)
        return
    trimmed, fewer, done = kprune.trim(model, texts[:12], tokenizer)
    assert done.pieces < 0.9 * done.dense_pieces and fewer.pad_token == "[END]"
    assert trimmed.config.pad_token_id == fewer.pad_token_id < done.pieces
    whole, less = (one(texts[:5], padding=True, return_tensors="pt") for one in (tokenizer, fewer))
    with torch.no_grad():
        assert trimmed(**less).logits.equal(model(**whole).logits)


def test_what_cannot_be_trimmed_is_refused():
    model = tiny("bert", "classification")
    with pytest.raises(ValueError, match="at least one"):
        kprune.trim(model, [], trained("WordPiece", ["a b c"]))
    with pytest.raises(ValueError, match=r"Row 1 .* holds 3 in place of a text"):
        kprune.trim(model, ["a", 3], trained("WordPiece", ["a b c"]))
