"""Save and load pruned models (safetensors and JSON)."""

from pathlib import Path

import safetensors.torch
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.encoders import Encoder
from kprune.engine.files import CARD, NOTE, WEIGHTS, check_target, written_whole
from kprune.engine.loading import OwnCodeError, load_config
from kprune.families import FAMILIES
from kprune.sampling import find_tokenizer
from kprune.surgery import keep_units


def save(
    model: PreTrainedModel, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """Save a pruned model with its tokenizer; `load` reads it back to the bit.

    The folder appears whole or not at all. A model that this package has written there before is
    replaced; anything else is left alone and refused.

    Args:
        model: what `kprune.prune` returned; anything else, or one without a tokenizer, is refused.
        folder: where to; it is given back.
        tokenizer: by default the one that drew the sample.
    """
    if getattr(model.config, "kprune", None) is None:
        raise ValueError("kprune.save takes a pruned model; use save_pretrained for a dense one.")
    check_target(folder)
    tokenizer = tokenizer or find_tokenizer(model)
    model.config.architectures = [type(model).__name__]
    with written_whole(folder) as part:
        model.config.save_pretrained(part)
        tokenizer.save_pretrained(part)
        state = {name: weight.contiguous() for name, weight in model.state_dict().items()}
        (part / CARD).write_text(NOTE, encoding="utf-8")
        safetensors.torch.save_file(state, part / WEIGHTS, metadata={"format": "pt"})
        (part / WEIGHTS).chmod((part / CARD).stat().st_mode)  # others may read it, too
    return Path(folder)


def load(folder: str | Path) -> PreTrainedModel:
    """Load a model that `save` wrote: same outputs to the bit, on the CPU, in evaluation mode.

    Its tokenizer is in the same `folder`: `AutoTokenizer.from_pretrained(folder)`. ValueError when
    the folder is missing, is not of a pruned model, is damaged, or names code of its own.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model saved by kprune.save: it has no config.json.")
    try:
        config = load_config(folder)
        name = config.architectures[0]
        kept = config.kprune["kept"]
        known = config.model_type in FAMILIES and hasattr(transformers, name)
    except OwnCodeError:
        raise
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        reason = "which kprune did not prune; load it with from_pretrained"
        raise ValueError(f"{folder} holds a model {reason}.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}/config.json cannot be read; the folder is damaged.") from error
    if not known:
        raise ValueError(f"{folder} names the model class {name!r}, which kprune does not know.")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten below
        model = getattr(transformers, name)(config).eval()
    try:
        for sublayer, units in zip(Encoder(model).sublayers, kept, strict=True):
            keep = torch.zeros(sublayer.units, dtype=torch.bool)
            keep[units] = True
            keep_units(sublayer, keep)
        state = safetensors.torch.load_file(folder / WEIGHTS)
        # A file's tensors start anywhere, and products of such ones may round otherwise.
        state = {name: weight.clone() for name, weight in state.items() if weight.numel()}
        model.load_state_dict(state, assign=True)
    except (OSError, safetensors.SafetensorError, RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder} is damaged, its {WEIGHTS} or config.json: {reason}") from error
    return model
