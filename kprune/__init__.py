"""K-prune: accurate retraining-free pruning for pretrained encoder-based language models."""

from kprune.checkpoints import load, save
from kprune.encoders import forward, view
from kprune.evaluation import DevSet, dev_set, evaluate, flops, latencies, latency
from kprune.finetuning import Recipe, finetune, load_teacher, teacher
from kprune.pruning import INGREDIENTS, METHODS, prune
from kprune.report import Report
from kprune.sampling import Sample, sample
from kprune.tasks import TASKS, Task

__version__ = "0.1.0"

__all__ = [
    "INGREDIENTS",
    "METHODS",
    "TASKS",
    "DevSet",
    "Recipe",
    "Report",
    "Sample",
    "Task",
    "dev_set",
    "evaluate",
    "finetune",
    "flops",
    "forward",
    "latencies",
    "latency",
    "load",
    "load_teacher",
    "prune",
    "sample",
    "save",
    "teacher",
    "view",
]
