"""Makes transformers know the configurations of pruned models, without loading what opens them."""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

MODEL_TYPE = "kprune"  # in a saved configuration: without this package, it names what is missing


class Opener(PreTrainedConfig):
    """What reads such a configuration: it becomes one of its family's class."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **others) -> PreTrainedConfig:
        return (
            import_module("kprune.classes")
            .config_class(config_dict)
            .from_dict(config_dict, **others)
        )


AutoConfig.register(MODEL_TYPE, Opener, exist_ok=True)
