"""Save and load pruned models (safetensors and JSON), and write folders all at once."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kprune.encoders import NAME_MAPS, view
from kprune.loading import OwnCodeError, load_config
from kprune.pruning import find_tokenizer
from kprune.surgery import keep_units

CONFIG, WEIGHTS, CARD, RECORD = "config.json", "model.safetensors", "README.md", "teacher.json"
# What a folder of ours may hold: these, and what tokenizers save of theirs.
OURS = {
    *(CONFIG, WEIGHTS, CARD, RECORD),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    "chat_template.jinja",
}
NOTE = """# A model pruned by kprune

Open it with `kprune.load("this folder")`. `from_pretrained` cannot: the layers are smaller than
config.json's sizes, and `ignore_mismatched_sizes=True` would replace them with random ones.
`config.json` lists the surviving units of each sublayer under `kprune`.
"""


def save(
    model: PreTrainedModel, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """Save a pruned model with its tokenizer; `load` reads it back to the bit.

    The folder appears whole or not at all. A model that this package has written there before is
    replaced; anything else is left alone and refused (see `check_target`).

    Args:
        model: what `kprune.prune` returned.
        folder: where to.
        tokenizer: by default the one that drew the sample.

    Returns:
        The folder.

    Raises:
        ValueError: when the model was not pruned by this package, or has no tokenizer, or the
            folder holds what this package did not write.
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
        # safetensors makes files that nobody else may read.
        (part / WEIGHTS).chmod((part / CARD).stat().st_mode)
    return Path(folder)


def load(folder: str | Path) -> PreTrainedModel:
    """Load a model that `save` wrote: same outputs to the bit, on the CPU, in evaluation mode.

    Its tokenizer is in the same folder: `AutoTokenizer.from_pretrained(folder)`.

    Raises:
        ValueError: when the folder is missing, is not of a pruned model, is damaged, or names code
            of its own.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model saved by kprune.save: it has no config.json.")
    try:
        config = load_config(folder)
        name = config.architectures[0]
        kept = config.kprune["kept"]
        names = NAME_MAPS[config.model_type].heads
    except OwnCodeError:
        raise
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{folder} holds a model that kprune did not prune; load it with from_pretrained."
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}/config.json cannot be read; the folder is damaged.") from error
    if name not in names:
        raise ValueError(f"{folder} names the model class {name!r}, which kprune does not know.")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten below
        model = getattr(transformers, name)(config).eval()
    try:
        for sublayer, units in zip(view(model).sublayers, kept, strict=True):
            keep = torch.zeros(sublayer.units, dtype=torch.bool)
            keep[units] = True
            keep_units(sublayer, keep)
        state = safetensors.torch.load_file(folder / WEIGHTS)
        model.load_state_dict(state, assign=True)
    except (OSError, safetensors.SafetensorError, RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{folder} is damaged: {WEIGHTS} is missing, cut short or does not fit config.json "
            f"({str(error).splitlines()[0]})."
        ) from error
    return model


def check_target(path: str | Path) -> None:
    """Raise ValueError where a folder that is to be written would cost files of someone else.

    It may be missing, or empty, or hold a model that this package wrote and nothing else.

    Args:
        path: the folder.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        what = "link" if path.is_symlink() else "file"
        raise ValueError(f"{path} is a {what}, and a model needs a folder; choose another place.")
    entries = sorted(path.iterdir()) if path.is_dir() else []
    made = _is_json(path / RECORD, "task", "recipe")
    pruned = _is_json(path / CONFIG, "kprune") and _text(path / CARD) == NOTE
    for entry in entries:
        known = (made or pruned) and entry.name in OURS and entry.is_file()
        edited = entry.name == CARD and _text(entry) != NOTE
        if not known or edited or entry.is_symlink():
            raise ValueError(
                f"{path} holds {entry.name}, which kprune did not write; choose another folder, or "
                "move what is in this one away."
            )


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the name `path` when the block ends without an error.

    Args:
        path: the folder to create or replace.

    Raises:
        ValueError: when it holds what this package did not write (`check_target`), before the block
            or at its end.
    """
    path = Path(path)
    check_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield part
        part.chmod(0o755)
        check_target(path)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            path.rename(old / path.name)
            part.rename(path)
            shutil.rmtree(old)
        else:
            part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: str | Path, record: dict) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    part.replace(path)


def _text(path: Path) -> str | None:
    """A text file's content; None where there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _is_json(path: Path, *keys: str) -> bool:
    """Whether a file holds a JSON object with all of these keys."""
    try:
        found = json.loads(_text(path) or "")
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() >= {*keys}
