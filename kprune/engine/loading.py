"""Open models, configurations and tokenizers without running anything that comes with them."""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from kprune.data.reach import hub, local
from kprune.engine.files import GRAPH
from kprune.engine.opener import CODE, MODEL_TYPE  # which transformers knows from here on

NEW_HEAD = 2**24  # weights, at most, that a head may have beyond the files
MOST_LABELS = 10**6
# What comes of a configuration's values that are of other types or sizes than it takes.
SENSELESS = (
    *(TypeError, LookupError, AttributeError),
    *(ArithmeticError, AssertionError, RuntimeError),
)
LAYER = re.compile(r"\blayers?\.\d+\.")  # in the name of a weight
ADAPTER = "adapter_config.json"  # of peft, whose weights lie beside the model's
STORED = ("F16", "BF16", "F32", "F64")  # types of numbers that are weights as they stand


class OwnCodeError(ValueError):
    """A model that can only be opened by running Python from its folder or repository."""


def load_config(source: str | Path, **changes: Any) -> PreTrainedConfig:
    """A model's configuration, from a folder or the Hub, with fields to set otherwise.

    ValueError where a path holds none, or one that names code.
    """
    place = local(source)
    if (place.exists() or place.is_absolute()) and not (place / "config.json").is_file():
        raise ValueError(f"{source} is no folder of a model: it has no config.json.")
    with hub(source, "model"):
        settings = PreTrainedConfig.get_config_dict(str(place))[0]
        if not isinstance(settings, dict):
            raise ValueError(f"The config.json of {source} is no mapping of names to values.")
        _refuse_code(settings, source)
        check_labels(settings, source)
        with _sensible(source):
            config = AutoConfig.from_pretrained(str(place), trust_remote_code=False, **changes)
    # A configuration can name a kernel on the Hub; None is what the model's class takes by default.
    config._attn_implementation = config._experts_implementation = None
    return config


def check_labels(settings: dict[str, Any], source: str | Path) -> None:
    """Raise ValueError for labels without number: each would get a name."""
    labels = settings.get("num_labels", 0)
    if not isinstance(labels, int) or labels > MOST_LABELS:
        raise ValueError(f"{source} asks for {labels!r} labels; {MOST_LABELS:,} is the most.")


@contextmanager
def _sensible(source: str | Path) -> Iterator[None]:
    """Within the block, what a configuration's values break ends in one sentence."""
    try:
        yield
    except (*SENSELESS, StrictDataclassError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"The config.json of {source} makes no sense: {type(error).__name__} {reason}"
        ) from error


def load_model(
    auto: type, source: str | Path, new_head: bool = False, **changes: Any
) -> PreTrainedModel:
    """A model, as one of transformers' auto classes loads it; arguments as in `load_config`.

    ValueError where its files lack weights of the model, hold others, or are of other shapes; with
    `new_head` those of the head may be.
    """
    config = load_config(source, **changes)
    if getattr(config, "kprune", None):
        raise ValueError(f"{source} holds a model that kprune pruned; open it with kprune.load.")
    if ((place := local(source)) / ADAPTER).is_file():
        raise ValueError(f"{source} holds an adapter; merge it into the model first (peft).")
    try:
        if place.is_dir():
            check_files(auto, config, place)
        with hub(source, "model"):
            model, found = auto.from_pretrained(
                str(place),
                config=config,
                trust_remote_code=False,
                use_safetensors=True,  # other formats can run code
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
    except safetensors.SafetensorError as error:
        raise ValueError(f"{source} is damaged, its files of weights: {error}.") from error
    missing, others, shapes = (
        {key if isinstance(key, str) else key[0] for key in found[f"{what}_keys"]}
        for what in ("missing", "unexpected", "mismatched")
    )
    backbone = model.base_model is model
    # Many a published model for spans or tokens holds a pooler, and an old one its positions.
    others = {k for k in others if "pooler." not in k and not k.endswith("position_ids")}
    if new_head or backbone:  # poolers are of the head, and others' heads are left out
        missing = {key for key in missing if "pooler." not in key}
        others = {key for key in others if LAYER.search(key)}
    if new_head:
        missing, shapes = (of_backbone(model, keys) for keys in (missing, shapes))
    whats = (
        ("are missing", missing),
        ("do not belong to it", others),
        ("are of other sizes", shapes),
    )
    for what, keys in whats:
        if keys:
            some = ", ".join(sorted(keys)[:3]) + (", …" if len(keys) > 3 else "")
            name = f"{type(model).__name__} as its config.json describes it"
            headless = keys is missing and not of_backbone(model, keys)
            advice = "; its head is missing, so fine-tune it first" if headless else ""
            raise ValueError(f"{source} is no {name}: {len(keys)} weights {what} ({some}){advice}.")
    return model


def of_backbone(model: PreTrainedModel, keys: Iterable[str]) -> set[str]:
    """Those names of weights that are not of a model's head; all, where it has none."""
    inside = "" if model.base_model is model else f"{model.base_model_prefix}."
    return {key for key in keys if key.startswith(inside)}


def check_files(auto: type, config: PreTrainedConfig, folder: Path) -> None:
    """Raise ValueError, before memory is taken, where files cannot hold what a model needs.

    `auto` is a class of models, or one of transformers' that choose it.
    """
    files = [*folder.glob("*.safetensors")]
    if not files:
        what = "holds no weights in safetensors files, the only ones opened"
        if (folder / GRAPH).is_file():
            what = "holds an exported graph; take the model that it was made from"
        raise ValueError(f"{folder} {what}.")
    room, size = sum(file.stat().st_size for file in files), math.inf
    if config.num_hidden_layers <= sum(map(_weights, files)) and config.hidden_size <= room:
        with torch.device("meta"), torch.random.fork_rng(devices=[]), _sensible(folder):
            # A model's own class is called; code of the folder's own is refused above.
            size = getattr(auto, "from_config", auto)(config).num_parameters()
    if size > room + NEW_HEAD:
        raise ValueError(f"{folder}/config.json asks for more weights than its files can hold.")


def _weights(file: Path) -> int:
    with safetensors.safe_open(file, "pt") as opened:
        check_stored(opened)
        return len(opened.keys())


def check_stored(file: safetensors.safe_open) -> None:
    """Raise ValueError for weights that a file holds quantized: read as numbers, they mean others.

    Whole numbers that are no weights, such as positions, may be there.
    """
    for name in file.keys():  # noqa: SIM118
        stored = file.get_slice(name).get_dtype()
        if name.endswith((".weight", ".bias")) and stored not in STORED:
            raise ValueError(
                f"The weight {name} is stored quantized, as {stored}; take the model before that."
            )


def load_tokenizer(source: str | Path, **changes: Any) -> Tokenizer:
    """A model's tokenizer, likewise, with `changes` of its settings."""
    place = str(local(source))
    with hub(source, "tokenizer"):
        _refuse_code(get_tokenizer_config(place), source)
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, **changes)


def _refuse_code(settings: dict, source: str | Path) -> None:
    if (named := settings.get("auto_map")) and not _is_ours(named, settings):
        raise OwnCodeError(f"{source} names Python code of its own, which kprune never runs.")


def _is_ours(named: Any, settings: dict) -> bool:
    """Whether code is named for others' sake, by `save`; here it is known, and never run."""
    names = named.values() if isinstance(named, dict) else [None]
    ours = all(isinstance(name, str) and name.startswith(f"{CODE}.") for name in names)
    return ours and settings.get("model_type") == MODEL_TYPE
