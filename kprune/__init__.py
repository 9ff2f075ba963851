"""K-prune: accurate retraining-free pruning for pretrained encoder-based language models."""

from importlib import import_module

import kprune.engine.opener  # noqa: F401  (transformers knows pruned models from here on)

__version__ = "0.1.0"

# Rooms open when they are first asked for: `kprune.engine.opener` costs little beyond torch, but
# loading a model's code takes transformers seconds, and the laboratory is slower still.
ROOMS = {
    "checkpoints": ("load", "save"),
    "data.tasks": ("TASKS", "Task"),
    "encoders": ("Encoder", "flops", "tapped"),
    "engine.devices": ("device",),
    "laboratory.evaluation": ("DevSet", "dev_set", "evaluate"),
    "laboratory.finetuning": ("Recipe", "finetune"),
    "laboratory.teachers": ("load_teacher", "teacher"),
    "limits.latency": ("latencies", "latency"),
    "methods": ("INGREDIENTS", "METHODS"),
    "options": ("Options",),
    "pruning": ("prune", "steps"),
    "report": ("Report",),
    "sampling": ("Sample", "sample"),
}
_ROOM_OF = {name: room for room, names in ROOMS.items() for name in names}


def __getattr__(name: str):
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'kprune' has no attribute {name!r}")
    found = getattr(import_module(f"kprune.{_ROOM_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOM_OF})


__all__ = ["__version__", *sorted(_ROOM_OF)]
