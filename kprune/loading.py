"""Open models, configurations and tokenizers without running anything that comes with them."""

from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config


class OwnCodeError(ValueError):
    """A model that can only be opened by running Python from its folder or repository."""


def load_config(source: str | Path, **changes: Any) -> PreTrainedConfig:
    """A model's configuration, from a folder or the Hub.

    Args:
        source: the folder or Hub id.
        changes: fields to set otherwise.

    Raises:
        OwnCodeError: when it names code of its own.
    """
    _refuse_code(PreTrainedConfig.get_config_dict(source)[0], source)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **changes)
    # A configuration can name a kernel on the Hub; None is what the model's class takes by default.
    config._attn_implementation = config._experts_implementation = None
    return config


def load_model(auto: type, source: str | Path, **changes: Any) -> PreTrainedModel:
    """A model, as one of transformers' auto classes loads it; arguments as in `load_config`."""
    config = load_config(source, **changes)
    return auto.from_pretrained(source, config=config, trust_remote_code=False)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """A model's tokenizer; arguments as in `load_config`."""
    _refuse_code(get_tokenizer_config(source), source)
    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _refuse_code(settings: dict, source: str | Path) -> None:
    if settings.get("auto_map"):
        raise OwnCodeError(
            f"{source} names Python code of its own (auto_map), which kprune never runs; take a "
            "model of an architecture that transformers has itself."
        )
