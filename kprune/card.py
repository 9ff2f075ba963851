"""The page that a saved model carries: what was pruned from what, how, and how to open it."""

import re
from contextlib import suppress
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from kprune.data.checks import number
from kprune.data.reach import HUB_ID, local
from kprune.encoders import Encoder
from kprune.engine.files import CARD
from kprune.families import noted, report_of
from kprune.methods import HYPERPARAMETERS, METHODS

# What the Hub calls a kind of prediction.
TASKS = {
    "classification": "text-classification",
    "multilabel": "text-classification",
    "regression": "text-classification",
    "span": "question-answering",
    "tokens": "token-classification",
    "embedding": "feature-extraction",
}
SECTION = "# Pruned by kprune"
OPENS = "It opens as before, where `import kprune` was run first."  # the section's last line
EARLIER = re.compile(rf"^{SECTION}\n.*?(^{re.escape(OPENS)}\n?|(?=^# )|\Z)", re.M | re.S)
DISTILLED = (
    "trained: distilled from the model before, in {} passes over the same sample, without labels"
)
OPEN = """## Open it

```python
import kprune
from transformers import AutoTokenizer

model = kprune.load("this folder")
tokenizer = AutoTokenizer.from_pretrained("this folder")
```

After `import kprune`, transformers' own `AutoModel….from_pretrained` and `pipeline` open it, too.
`config.json` lists the surviving units of each sublayer under `kprune`; its sizes are those of the
model before. `kprune.json` is the whole report.
"""

ALONE = """
Where there is no kprune, transformers opens it by running `modeling_kprune.py`, which lies in the
folder:

```python
from transformers import AutoTokenizer, {auto}

model = {auto}.from_pretrained("this folder", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("this folder", trust_remote_code=True)
```
"""


def card(
    model: PreTrainedModel,
    report: dict[str, Any],
    how: str = OPEN,
    library: str = "transformers",
    scores: dict[str, float] | None = None,
) -> str:
    """The page's text, with the Hub's metadata; without a `report` it says less.

    `how` to open the folder is a part of it, and so are the `scores`; the Hub shows the `library`.
    """
    encoder, name, cut = Encoder(model), origin(model), "kept" in noted(model.config)
    licence, source = None, local(model.config.name_or_path or "") / CARD
    if model.config.name_or_path and source.is_file():
        with suppress(Exception):  # another's page may hold anything
            licence = ModelCard.load(source).data.license
    data = ModelCardData(
        library_name=library,
        license=licence,
        base_model=name if "/" in name else None,
        pipeline_tag=TASKS[encoder.kind.name],
        tags=["kprune", "pruning"] if cut else ["kprune"],
    )
    told = _told(model, report) if cut else [f"`{name}`, a {type(model).__name__}."]
    title = f"# {name}, pruned" if cut else f"# {name}"
    if scores:
        rows = "\n".join(f"| {metric} | {value:.4f} |" for metric, value in scores.items())
        told.insert(1, f"| score | |\n|---|---|\n{rows}")
    parts = [f"---\n{data.to_yaml()}\n---", title, *told, how.strip()]
    parts += [] if licence else ["The licence is that of the model that it was made from."]
    return "\n\n".join(parts) + "\n"


def with_section(page: str, model: PreTrainedModel, report: dict[str, Any]) -> str:
    """A page of another's making with what there is to say of a pruning, in place of what it said
    of one before.
    """
    others = EARLIER.sub("", page).rstrip("\n")
    return "\n\n".join([others, SECTION, *_told(model, report), OPENS]) + "\n"


def _told(model: PreTrainedModel, report: dict[str, Any]) -> list[str]:
    encoder, name = Encoder(model), origin(model)
    try:
        return [_what(model, name, report), _units(encoder, report)]
    except (LookupError, TypeError, ValueError, AttributeError):  # a report that somebody changed
        return [_what(model, name, {}), _units(encoder, {})]


def checked_scores(scores: dict[str, float] | None) -> dict[str, float]:
    """The scores as plain numbers; ValueError for what is no number for each metric."""
    if scores is not None and not isinstance(scores, dict):
        raise ValueError(f"scores= is what kprune.evaluate gives, by metric; got {scores!r}.")
    return {
        str(metric): number(f"The score {metric!r}", value, whole=False)
        for metric, value in (scores or {}).items()
    }


def origin(model: PreTrainedModel) -> str:
    """What the dense model is called: its name on the Hub, or that of its folder, or its class."""
    if found := report_of(model).get("model"):  # it was pruned before
        return str(found)
    source = str(model.config.name_or_path or "")
    if HUB_ID.fullmatch(source) and not local(source).exists():
        return source
    return local(source).resolve().name if source else type(model).__name__


def _what(model: PreTrainedModel, name: str, report: dict[str, Any]) -> str:
    """What was done to which model, in sentences."""
    text = f"`{name}`, a {type(model).__name__}, made smaller by kprune without retraining."
    before = report.get("earlier")
    if passes := report.get("polished"):
        text += f" Then it was {DISTILLED.format(passes)}."
    elif not _polished(report):
        text += " Of training afterwards this page knows nothing."
    if not report:
        return text
    if before:
        text += f" It had been pruned before, by {before['method']}, "
        text += f"{before['achieved_rate']:.1%} of its FLOPs"
        if passes := _polished(before):
            text += f", and then it was {DISTILLED.format(passes)}"
        text += "; what follows is of what was left."
    if report.get("pieces"):
        text += f" Its vocabulary was cut to {report['pieces']:,} pieces of words."
    options = ", ".join(
        f"{key} {value}"
        for key, value in report["options"].items()
        if value and report["method"] in HYPERPARAMETERS.get(key, METHODS)
    )
    return (
        f"{text} {report['achieved_rate']:.1%} of the FLOPs of its heads and neurons are gone "
        f"({report['dense_flops'] / 1e6:,.1f} to {report['flops'] / 1e6:,.1f} million for a "
        f"sequence of {report['length']:.1f} tokens), and {report['dense_parameters'] / 1e6:.1f} "
        f"million parameters are {report['parameters'] / 1e6:.1f}.\n\n"
        f"Method: {report['method']} ({options}). Sample: {report['tokens']:,} tokens in "
        f"{report['samples']:,} sequences of {report['sample']!r}, seed {report['seed']}."
    )


def _polished(report: dict[str, Any]) -> int:
    """In how many passes a model, or one that it was pruned from, was distilled."""
    before = report.get("earlier")
    return report.get("polished", 0) + (_polished(before) if before else 0)


def _units(encoder: Encoder, report: dict[str, Any]) -> str:
    """A table of what is left in each layer, and was there before."""
    left = zip(encoder.units("MHA"), encoder.units("FFN"), strict=True)
    rows = [(layer + 1, *units) for layer, units in enumerate(left)]
    if report and len(report["dense_heads"]) == len(rows):  # else whole layers went
        before = zip(report["dense_heads"], report["dense_neurons"], strict=True)
        rows = [
            (layer, f"{heads} of {all_heads}", f"{neurons} of {all_neurons}")
            for (layer, heads, neurons), (all_heads, all_neurons) in zip(rows, before, strict=True)
        ]
    head = "| layer | heads | neurons |\n|---|---|---|"
    return "\n".join([head, *(f"| {' | '.join(map(str, row))} |" for row in rows)])
