"""K-prune: accurate retraining-free pruning for pretrained encoder-based language models."""

import sys
from importlib import import_module
from pathlib import Path

__version__ = "0.2.0"

# Transformers knows pruned models from here on; but a command says its --help without it.
if sys.orig_argv[1:3] != ["-m", "kprune"] and Path("".join(sys.argv[:1])).stem != "kprune":
    import_module("kprune.engine.opener")

# Rooms open when they are first asked for: a model's code takes transformers seconds to load, and
# the laboratory is slower still.
ROOMS = {
    "checkpoints": ("load", "save"),
    "data.tasks": ("TASKS", "Task"),
    "encoders": ("Encoder", "flops", "tapped"),
    "engine.devices": ("device",),
    "graph": ("export",),
    "laboratory.evaluation": ("DevSet", "dev_set", "evaluate"),
    "laboratory.finetuning": ("finetune",),
    "laboratory.teachers": ("load_teacher", "teacher"),
    "laboratory.training": ("Recipe",),
    "limits.latency": ("latencies", "latency"),
    "methods": ("INGREDIENTS", "METHODS"),
    "options": ("Options",),
    "polishing": ("polish",),
    "pruning": ("prune", "steps"),
    "report": ("Report",),
    "sampling": ("Sample", "sample"),
    "vocabulary": ("trim",),
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
