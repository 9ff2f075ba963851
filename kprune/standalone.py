"""The file of Python that opens a pruned model's folder in transformers alone.

It is put together from the package's own code: what cuts a model, and what its family needs.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from inspect import getsource, isfunction

from transformers import PreTrainedModel

from kprune import families, surgery
from kprune.classes import AUTO, dense_class
from kprune.engine import empty
from kprune.engine.opener import CODE, MODEL_TYPE
from kprune.families import BUILT_IN, FAMILIES, Names, family_of

HEAD = '''"""Opens the pruned model in this folder where transformers is and kprune is not.

    AutoModelFor….from_pretrained(folder, trust_remote_code=True)

Written by `kprune.save(…, standalone=True)`. Where kprune is imported it opens the folder itself,
and nothing of this is run.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
import transformers
from torch import Tensor, nn
'''
CUT = '''
COUNTS = {"num_attention_heads": 0, "num_heads": 0, "n_heads": 0, "all_head_size": 1, "dim": 1}


def cut(model):
    """Take out of a whole model the units that its configuration does not list."""
    layers = model.base_model.get_submodule(NAMES.layers)
    for place, kept in enumerate(model.config.kprune["kept"]):
        layer, heads = layers[place // 2], place % 2 == 0
        here = dict(layer.named_modules())
        output = NAMES.heads_out if heads else NAMES.neurons_out
        inputs = (*NAMES.heads_in, *NAMES.others) if heads else (NAMES.neurons_in,)
        features = here[output].in_features
        units = model.config.num_attention_heads if heads else features
        sublayer = SimpleNamespace(
            kind="MHA" if heads else "FFN",
            part=layer,
            names=NAMES,
            output=here[output],
            output_path=output,
            units=units,
            unit_size=features // units,
            blocks=NAMES.blocks[place % 2],
            projections={path: here[path] for path in (*inputs, output) if path in here},
        )
        with torch.device("cpu"):  # while the weights are still to come
            keep_numbered(sublayer, torch.tensor(kept, dtype=torch.int64))
        if heads:  # which attention counts by itself in transformers 4
            for name, size in COUNTS.items():
                for part in layer.get_submodule(NAMES.attention).modules():
                    if name in vars(part):
                        setattr(part, name, len(kept) * (sublayer.unit_size if size else 1))
'''
CLASS = """
class {name}(transformers.{name}):
    config_class = PrunedConfig

    def __init__(self, config, *given, **named):
        super().__init__(config, *given, **named)
        cut(self)
"""
PARTS = (
    *(empty.home, empty.NoUnits, empty.NoHeads),
    *(surgery.keep_numbered, surgery.stand_in, surgery.set_weight),
)


def check_standalone(model: PreTrainedModel) -> None:
    """Raise ValueError for a family whose code is not this package's own."""
    if (family := family_of(model.config)) not in BUILT_IN:
        raise ValueError(
            f"The family {family!r} is one of your own, and its code is elsewhere; save the model "
            "without standalone=True."
        )


def code_of(model: PreTrainedModel) -> tuple[str, dict[str, str]]:
    """The text of the file, and the `auto_map` of a configuration that names its classes."""
    names, config = FAMILIES[family_of(model.config)], dense_class(type(model.config))
    opened = {auto.__name__: all_[config].__name__ for auto, all_ in AUTO.items() if config in all_}
    values = {field.name: getattr(names, field.name) for field in fields(Names)}
    told = [f"{key}={value!r}," for key, value in values.items() if not callable(value)]
    after = getattr(names.after, "__name__", "<lambda>")
    told.append("after=lambda *given: None," if after == "<lambda>" else f"after={after},")
    told.append(f"attention={names.attention!r},")
    listed = "".join(f"    {line}\n" for line in told)
    parts = [
        *map(getsource, (*PARTS, *_functions(names.after))),
        f"NAMES = SimpleNamespace(\n{listed})\n{CUT}",
        f"class PrunedConfig(transformers.{config.__name__}):\n    model_type = {MODEL_TYPE!r}\n",
        *(CLASS.format(name=name).strip() + "\n" for name in sorted({*opened.values()})),
    ]
    classes = {"AutoConfig": "PrunedConfig"} | opened
    return "\n\n".join([HEAD, *parts]), {key: f"{CODE}.{to}" for key, to in classes.items()}


def _functions(after: Callable) -> Iterator[Callable]:
    """A family's own function, behind those of its module that it calls."""
    if after.__name__ != "<lambda>":
        for name in after.__code__.co_names:
            found = vars(families).get(name)
            if isfunction(found) and found.__module__ == families.__name__:
                yield found
        yield after
