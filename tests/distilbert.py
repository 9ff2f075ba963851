"""The packaged MiniLM as a DistilBERT: real weights for the other family of the paper."""

import transformers
from transformers import DistilBertConfig, PreTrainedModel

# What both configurations call the same.
ALIKE = ("vocab_size", "max_position_embeddings", "pad_token_id")
ALIKE += ("id2label", "label2id", "problem_type")
# BERT's names below the backbone, and DistilBERT's; the longer ones first.
RENAMED = {
    "encoder.layer": "transformer.layer",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def pour_into_distilbert(model: PreTrainedModel) -> PreTrainedModel:
    """A DistilBERT with the weights of a BERT that has a head: same layers, the first token type in
    the positions. A classifier's head is new in the result, because DistilBERT has no pooler.
    """
    bert = model.config
    config = DistilBertConfig(
        n_layers=bert.num_hidden_layers,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        hidden_dim=bert.intermediate_size,
        dropout=bert.hidden_dropout_prob,
        attention_dropout=bert.attention_probs_dropout_prob,
        activation=bert.hidden_act,
        **{name: getattr(bert, name) for name in ALIKE},
    )
    distilbert = getattr(transformers, f"Distil{type(model).__name__}")(config)
    weights = {}
    for name, weight in model.base_model.state_dict().items():
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours)
        weights[name] = weight
    first_type = weights["embeddings.token_type_embeddings.weight"][0]
    positions = "embeddings.position_embeddings.weight"
    weights[positions] = weights[positions] + first_type
    wanted = distilbert.base_model.state_dict()
    distilbert.base_model.load_state_dict({name: weights[name] for name in wanted})
    return distilbert
