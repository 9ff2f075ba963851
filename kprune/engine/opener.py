"""Makes transformers know the configurations of pruned models, without loading what opens them."""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

MODEL_TYPE = "kprune"  # in a saved configuration: without this package, it names what is missing
CODE = "modeling_kprune"  # the module that `save(…, standalone=True)` puts beside it


class Opener(PreTrainedConfig):
    """What reads such a configuration: it becomes one of its family's class."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **others) -> PreTrainedConfig:
        own = {key: value for key, value in config_dict.items() if key != "auto_map"}
        return import_module("kprune.classes").config_class(own).from_dict(own, **others)


AutoConfig.register(MODEL_TYPE, Opener, exist_ok=True)
