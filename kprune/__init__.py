"""K-prune: accurate retraining-free pruning for pretrained encoder-based language models."""

from importlib import import_module

from kprune.checkpoints import load, save
from kprune.data.tasks import TASKS, Task
from kprune.encoders import Encoder, flops, tapped
from kprune.engine.devices import device
from kprune.limits.latency import latencies, latency
from kprune.methods import INGREDIENTS, METHODS
from kprune.options import Options
from kprune.pruning import prune, steps
from kprune.report import Report
from kprune.sampling import Sample, sample

__version__ = "0.1.0"

# The laboratory scores, fine-tunes and reports; it is slow to import, and pruning needs none of it.
LABORATORY = {
    "DevSet": "evaluation",
    "dev_set": "evaluation",
    "evaluate": "evaluation",
    "Recipe": "finetuning",
    "finetune": "finetuning",
    "load_teacher": "teachers",
    "teacher": "teachers",
}


def __getattr__(name: str):
    if name in LABORATORY:
        return getattr(import_module(f"kprune.laboratory.{LABORATORY[name]}"), name)
    raise AttributeError(f"module 'kprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "INGREDIENTS",
    "METHODS",
    "TASKS",
    "DevSet",
    "Encoder",
    "Options",
    "Recipe",
    "Report",
    "Sample",
    "Task",
    "dev_set",
    "device",
    "evaluate",
    "finetune",
    "flops",
    "latencies",
    "latency",
    "load",
    "load_teacher",
    "prune",
    "sample",
    "save",
    "steps",
    "tapped",
    "teacher",
]
