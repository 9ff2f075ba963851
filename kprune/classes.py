"""The classes of pruned models: transformers' own, cut to the units that a configuration names.

After `import kprune`, `AutoModel….from_pretrained`, pipelines, the Trainer and
sentence-transformers open a pruned model's folder, and `save_pretrained` writes one.
"""

import re
from functools import cache
from threading import RLock
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kprune.checks import check_weights
from kprune.data.reach import local
from kprune.encoders import Encoder
from kprune.engine.files import told_of
from kprune.engine.loading import check_files, check_labels, of_backbone
from kprune.engine.opener import CODE, MODEL_TYPE
from kprune.families import FAMILIES, family_of, noted
from kprune.surgery import keep_numbered

AUTO = {
    transformers.AutoModel: modeling_auto.MODEL_MAPPING,
    transformers.AutoModelForSequenceClassification: (
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    ),
    transformers.AutoModelForQuestionAnswering: modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    transformers.AutoModelForTokenClassification: (
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    ),
}
ALIGNED = 64  # bytes: a file's tensors start anywhere, and products of such ones round otherwise
# A list of numbers, as JSON; or a text, which is left alone.
LISTS = re.compile(r'"(?:[^"\\]|\\.)*"|\[[\d,\s]*\]')
MAKING = RLock()  # one class of a name
Kept = list[list[int]]  # numbers of the units that are left of each sublayer, in order


def as_pruned(model: PreTrainedModel, kept: Kept) -> PreTrainedModel:
    """A model that was cut takes the class that opens it again; gives the same object."""
    family, config = family_of(model.config), model.config
    with MAKING:
        config.__class__ = _pruned_config(dense_class(type(config)))
        model.__class__ = _pruned_class(dense_class(type(model)), type(config))
    bare = {} if getattr(model, "pooler", model) else {"pooler": False}
    config.kprune = noted(config) | {"family": family, "kept": kept} | bare
    return model


def cut_as(model: PreTrainedModel, kept: Kept) -> PreTrainedModel:
    """A whole model, cut in place to the units of each sublayer; ValueError for others' numbers."""
    for sublayer, units in zip(Encoder(model).sublayers, kept, strict=True):
        if units != sorted({*units}) or not all(0 <= unit < sublayer.units for unit in units):
            raise ValueError(f"the units of the {sublayer.name} are not numbers of its units")
        with torch.device("cpu"):
            keep_numbered(sublayer, torch.tensor(units, dtype=torch.int64))
    if noted(model.config).get("pooler") is False:
        unpooled(model)
    return model


def unpooled(model: PreTrainedModel) -> None:
    """Take a backbone's pooler away, as `add_pooling_layer=False` does, of which no file tells."""
    for part in {"pooler", "pooler_activation"} & {*dict(model.named_children())}:
        setattr(model, part, None)


def checked_kept(kept: Any, config: PreTrainedConfig) -> Kept:
    """What a configuration names, when it is a list of numbers for each sublayer."""
    if not (
        isinstance(kept, list)
        and len(kept) == 2 * getattr(config, "num_hidden_layers", 0)
        and all(isinstance(own, list) and {type(unit) for unit in own} <= {int} for own in kept)
    ):
        raise ValueError("the configuration lists no units for each sublayer")
    return kept


def config_class(saved: dict[str, Any]) -> type[PreTrainedConfig]:
    """The class of a pruned model's configuration, as saved; ValueError without a known family."""
    found = saved.get("kprune")
    family = found.get("family") if isinstance(found, dict) else None
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(
            f"config.json is of a model pruned by kprune, and its family is {family!r}, not one "
            f"of {', '.join(FAMILIES)}; a family of your own is to be put in FAMILIES first; else "
            "the folder is damaged, or a later kprune wrote it."
        )
    check_labels(saved, "config.json")
    with MAKING:
        return _pruned_config(CONFIG_MAPPING[family])


def _in_a_line(text: str) -> str:
    return text if text[0] == '"' else re.sub(r"\s+", "", text).replace(",", ", ")


@cache
def _pruned_config(base: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    def to_json_string(self, use_diff: bool = True) -> str:
        text = base.to_json_string(self, use_diff)  # which gives each number a line of its own
        return LISTS.sub(lambda found: _in_a_line(found[0]), text)

    own = {"model_type": MODEL_TYPE, "to_json_string": to_json_string, "__module__": __name__}
    made = type(base.__name__, (base,), own)
    for auto, classes in AUTO.items():
        if base in classes:
            auto.register(made, _pruned_class(classes[base], made), exist_ok=True)
    return made


@cache
def _pruned_class(
    base: type[PreTrainedModel], config: type[PreTrainedConfig]
) -> type[PreTrainedModel]:
    def __init__(self, config: PreTrainedConfig, *given, **named):
        kept = checked_kept(noted(config).get("kept"), config)
        base.__init__(self, config, *given, **named)
        cut_as(self, kept)

    def from_pretrained(
        cls, source, *given, **named
    ) -> PreTrainedModel | tuple[PreTrainedModel, dict]:
        folder = local(source or "") / named.get("subfolder", "")
        if source and folder.is_dir():
            config = named.get("config")
            if not isinstance(config, PreTrainedConfig):
                config = cls.config_class.from_pretrained(config or folder)
            check_files(cls, config, folder)
        told = named.pop("output_loading_info", False)
        named["output_loading_info"] = True
        model, info = super(made, cls).from_pretrained(source, *given, **named)
        missing = of_backbone(model, info["missing_keys"])
        if missing := {key for key in missing if "pooler." not in key}:
            raise ValueError(
                f"{source} lacks {len(missing)} weights of the encoder ({min(missing)}, …), which "
                "would be random: the folder is damaged, or of another model."
            )
        check_weights(model)
        for weight in model.parameters():
            if weight.data_ptr() % ALIGNED:
                weight.data = weight.data.clone()
        model.report = told_of(folder)
        return (model, info) if told else model

    own = {"config_class": config, "__init__": __init__, "__module__": __name__}
    made = type(base.__name__, (base,), own | {"from_pretrained": classmethod(from_pretrained)})
    return made


def dense_class(kind: type) -> type:
    """The class that was made smaller, or the class itself."""
    ours = kind.__module__ == __name__ or kind.__module__.endswith(f".{CODE}")
    return kind.__mro__[1] if ours else kind


def is_own(kind: type) -> bool:
    """Whether a class, or the one that it was made smaller from, is transformers' own."""
    return getattr(transformers, kind.__name__, None) is dense_class(kind)


def __getattr__(name: str) -> type:
    """A class by its name, as pickle asks for it in another process."""
    base = getattr(transformers, name, None)
    if not isinstance(base, type) or not issubclass(base, (PreTrainedModel, PreTrainedConfig)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with MAKING:
        if issubclass(base, PreTrainedConfig):
            return _pruned_config(base)
        return _pruned_class(base, _pruned_config(base.config_class))
