"""Tiny models of every family and kind of head, with weights so large that each mask matters."""

import inspect

import torch
import transformers as T

from kprune.data.batching import Batch, collate

HEADS, D_H, NEURONS, LAYERS, VOCABULARY, LABELS = 4, 8, 24, 3, 99, 3
D = HEADS * D_H
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": NEURONS,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "max_relative_positions": -1,
}
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 8, "classifier_pooling": "cls"}
MODERN |= {"cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "bos_token_id": 1}
DISTIL = {"vocab_size": VOCABULARY, "dim": D, "n_layers": LAYERS, "n_heads": HEADS}
FAMILIES = {
    "bert": (T.BertConfig, COMMON),
    "distilbert": (
        T.DistilBertConfig,
        {**DISTIL, "hidden_dim": NEURONS, "max_position_embeddings": 64},
    ),
    "roberta": (T.RobertaConfig, COMMON | {"type_vocab_size": 1}),
    "xlm-roberta": (T.XLMRobertaConfig, COMMON | {"type_vocab_size": 1}),
    "camembert": (T.CamembertConfig, COMMON | {"type_vocab_size": 1}),
    "electra": (T.ElectraConfig, COMMON | {"embedding_size": 16}),
    "mpnet": (T.MPNetConfig, COMMON),
    "deberta": (T.DebertaV2Config, COMMON | DEBERTA | {"share_att_key": True}),
    "deberta, keys apart": (T.DebertaV2Config, COMMON | DEBERTA | {"conv_kernel_size": 3}),
    "albert": (T.AlbertConfig, COMMON | {"num_hidden_groups": LAYERS, "embedding_size": 16}),
    "albert, tied": (T.AlbertConfig, COMMON | {"embedding_size": 16}),
    "modernbert": (T.ModernBertConfig, COMMON | MODERN),
    "modernbert, mean": (T.ModernBertConfig, COMMON | MODERN | {"classifier_pooling": "mean"}),
}
KINDS = {
    "classification": (T.AutoModelForSequenceClassification, {"num_labels": LABELS}),
    "regression": (T.AutoModelForSequenceClassification, {"num_labels": 1}),
    "multilabel": (
        T.AutoModelForSequenceClassification,
        {"num_labels": LABELS, "problem_type": "multi_label_classification"},
    ),
    "span": (T.AutoModelForQuestionAnswering, {"num_labels": 2}),
    "tokens": (T.AutoModelForTokenClassification, {"num_labels": LABELS}),
    "embedding": (T.AutoModel, {}),
}


def model_of(
    family: str, kind: str, seed: int = 0, dtype=torch.float64, **changes
) -> T.PreTrainedModel:
    """A random three-layer encoder whose heads and neurons are visible in its outputs."""
    config, settings = FAMILIES[family]
    auto, head = KINDS[kind]
    torch.manual_seed(seed)
    model = auto.from_config(config(**settings | changes, **head)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name.lower():
                # Default weights (std 0.02) would make attention invisible in the logits.
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model.to(dtype)


def examples(count: int = 40, seed: int = 0, longest: int = 12) -> list[dict[str, list[int]]]:
    """Random token sequences of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest, (count,), generator=generator).tolist()
    return [
        {"input_ids": torch.randint(3, VOCABULARY, (n,), generator=generator).tolist()}
        for n in lengths
    ]


def batch_of(rows: list[dict[str, list[int]]] | None = None) -> Batch:
    """One padded batch."""
    return collate(rows or examples(7))


def forward(model: T.PreTrainedModel, batch: Batch):
    """The Hugging Face model's own forward, whole."""
    inputs = dict(batch.inputs)
    known = inspect.signature(model.forward).parameters
    if "token_type_ids" not in known or getattr(model.config, "type_vocab_size", 2) < 2:
        inputs.pop("token_type_ids", None)
    return model(**inputs, attention_mask=batch.attention_mask)


@torch.no_grad()
def outputs(model: T.PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The Hugging Face model's own output, [real tokens or sequences, outputs]."""
    out, real = forward(model, batch), batch.attention_mask.bool()
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], -1)[real]
    found = out.logits if "logits" in out else out.last_hidden_state
    return found[real] if found.dim() == 3 else found
