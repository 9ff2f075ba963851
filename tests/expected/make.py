"""What kprune gave at commit 293f284: makes expected.json and expected.safetensors beside it.

The engine was rewritten after that commit, and the tests hold the new one to what the old one kept.
The files were made by this script on the package *as it was*, in float64 and on one thread; to make
them again:

    git worktree add ../base 293f284
    cd ../base
    PYTHONPATH=$PWD ../main/.venv/bin/python ../main/tests/expected/make.py

(`../main` is this checkout, with its environment.) It takes a quarter of a minute, gives the same
bytes each time on one machine, and refuses to run on a package without the old engine,
`kprune.passes`.

`expected.json`, one line per case under "cases":

- "kept": the surviving units of each sublayer from the bottom, as `Report.kept`;
- "thresholds": ν of each mask search, as `Report.thresholds`, with "-inf" for minus infinity;
- "flops": `Report.flops`;

and, the same for all cases, "labels" of the sample, by kind, to tell whether those of `labels` are
still the same.

`expected.safetensors`, float64: the pruned model's logits by the case's name, and those of the
dense models as "dense/FAMILY/KIND": where these differ, the models do, not the pruning. All are of
the sample in one padded batch through the Hugging Face model itself (`logits`): [60, labels], or of
span models [real tokens, 2], start and end.

How closely they can be met, by the old package itself with other batches, two threads, or weights
that differ in their thirteenth digit: what is kept is the same, thresholds agree to 1e-10, and so
do logits, relative to the largest, except that Kwon's and KCM's owe up to 1e-7 to scales that were
rounded to float32.

One thing is not as the package was. Kwon's and KCM's scales came from `scipy.sparse.linalg.lsmr`,
which stopped at as many steps as there are scales, where rounding had grown, up to 4e-1 of the
logits from the solution. Here it runs until it has converged: to 1e-13 what `numpy.linalg.lstsq`
and the eigenvalues of the normal equations give.

K-prune+ is not among the cases: it has other ingredients since.

Tests import from here what defines the cases (nothing of kprune is imported before it is needed):
`CASES`, `OPTIONS`, `tiny`, `sample`, `labels` and `logits`.
"""

import functools
import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

COMMIT = "293f284"
HERE = Path(__file__).parent
HEADS, D_H, NEURONS, LAYERS, VOCABULARY = 4, 8, 24, 3, 99
FAMILIES = ("bert", "distilbert")
OUTPUTS = {"classification": 3, "regression": 1, "span": 2}  # of each kind
COUNT, SHORTEST, LONGEST, MINIBATCH = 60, 3, 16, 5  # of the sample
INGREDIENTS = ("predictive", "representational", "sublayerwise", "tuning")  # of K-prune
KCM_RATE = 0.2  # the heads, which KCM keeps, are three quarters of the FLOPs
OPTIONS = {"precision": "full", "progress": False}  # of `kprune.prune`, in every case


@dataclass(frozen=True)
class Case:
    """One run: `kprune.prune(tiny(family, kind), sample(kind), rate, method, **options)`.

    `OPTIONS` are not among its own `options`.
    """

    method: str
    family: str
    kind: str
    rate: float
    options: dict[str, float | str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Such as "kprune/bert/span/0.8/reuse10" or "kprune/bert/classification/0.6/multiple4"."""
        words = [
            f"{name}-{value}" if isinstance(value, str) else f"{name}{value:g}"
            for name, value in self.options.items()
        ]
        parts = [self.method, self.family, self.kind, f"{self.rate:g}", "+".join(words)]
        return "/".join(part for part in parts if part)


def _cases() -> list[Case]:
    everywhere = [(family, kind) for family in FAMILIES for kind in OUTPUTS]
    one = ("bert", "classification")
    found = [
        Case("kprune", *which, rate, {"reuse": reuse})
        for which in everywhere
        for rate in (0.4, 0.8)
        for reuse in (0, 10)
    ]
    variants = [
        {"multiple": 4},
        *({"without": name} for name in INGREDIENTS),
        {"without": "sublayerwise", "multiple": 4},
    ]
    found += [Case("kprune", *one, 0.6, options) for options in variants]
    for method in ("kwon", "kcm", "magnitude", "random"):
        rate = KCM_RATE if method == "kcm" else 0.6
        found += [Case(method, *which, rate) for which in everywhere]
    return found


CASES = {case.name: case for case in _cases()}


def tiny(family: str, kind: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A random three-layer encoder whose attention is visible in its logits."""
    common = {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "num_labels": OUTPUTS[kind]}
    if family == "bert":
        config = BertConfig(
            hidden_size=HEADS * D_H,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=NEURONS,
            **common,
        )
        classes = (BertForSequenceClassification, BertForQuestionAnswering)
    else:
        config = DistilBertConfig(
            dim=HEADS * D_H, n_layers=LAYERS, n_heads=HEADS, hidden_dim=NEURONS, **common
        )
        classes = (DistilBertForSequenceClassification, DistilBertForQuestionAnswering)
    model = classes[kind == "span"](config).eval()
    # A stream of its own: the weights do not hang on how many numbers the constructor draws.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name.lower():
                weight.normal_(std=0.3, generator=generator)
    return model.to(dtype)


def examples(count: int = COUNT) -> list[dict[str, list[int]]]:
    """Random token sequences of different lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=generator).tolist()
    return [
        {
            "input_ids": torch.randint(1, VOCABULARY, (length,), generator=generator).tolist(),
            "token_type_ids": [0] * (length // 2) + [1] * (length - length // 2),
        }
        for length in lengths
    ]


def labels(kind: str) -> list:
    """Random labels of the examples; for spans a pair of first and last token."""
    generator = torch.Generator().manual_seed(1)
    if kind == "classification":
        return torch.randint(0, OUTPUTS[kind], (COUNT,), generator=generator).tolist()
    if kind == "regression":
        return torch.randn(COUNT, generator=generator).tolist()
    lengths = torch.tensor([len(example["input_ids"]) for example in examples()])
    drawn = torch.rand(COUNT, 2, generator=generator) * lengths[:, None]
    return [tuple(pair) for pair in drawn.long().sort(1).values.tolist()]


class PadsWithZero:
    """What a sample of ready-made ids needs of a tokenizer."""

    pad_token_id = 0


def sample(kind: str):
    """The `kprune.Sample` of the examples, labelled, with minibatches of `MINIBATCH`."""
    import kprune

    columns = ("question", "context") if kind == "span" else ("text",)
    task = kprune.Task(
        f"tiny-{kind}", columns, kind=kind, labels=OUTPUTS[kind], minibatch=MINIBATCH
    )
    return kprune.Sample(examples(), task, PadsWithZero(), labels=labels(kind))


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    """The Hugging Face model's own output on all examples in one padded batch.

    [examples, labels]; of a span model start and end of the real tokens, [tokens, 2].
    """
    rows = examples()
    longest = max(len(row["input_ids"]) for row in rows)
    inputs = {
        name: torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in rows])
        for name in ("input_ids", "token_type_ids")
    }
    mask = inputs["input_ids"].ne(PadsWithZero.pad_token_id)  # no real token has this id
    if model.config.model_type == "distilbert":
        inputs.pop("token_type_ids")
    out = model(**inputs, attention_mask=mask.long())
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], -1)[mask]
    return out.logits


def main() -> None:
    """Prune every case with the old package and write both files."""
    if importlib.util.find_spec("kprune") is None or not importlib.util.find_spec("kprune.passes"):
        sys.exit(f"This is not the package at commit {COMMIT}: kprune.passes is missing.")
    import kprune
    from kprune.competitors import kwon

    torch.set_num_threads(1)
    kwon.lsmr = functools.partial(kwon.lsmr, atol=1e-15, btol=1e-15, conlim=0, maxiter=10**6)
    found = {
        f"dense/{family}/{kind}": logits(tiny(family, kind))
        for family in FAMILIES
        for kind in OUTPUTS
    }
    lines = []
    for name, case in CASES.items():
        smaller, report = kprune.prune(
            tiny(case.family, case.kind),
            sample(case.kind),
            case.rate,
            case.method,
            **OPTIONS,
            **case.options,
        )
        found[name] = logits(smaller)
        assert found[name].dtype == torch.float64
        assert found[name].isfinite().all()
        values = {
            "kept": report.kept,
            "thresholds": ["-inf" if nu == float("-inf") else nu for nu in report.thresholds],
            "flops": report.flops,
        }
        lines.append(f"{_json(name)}: {_json(values)}")
    parts = {
        "commit": _json(COMMIT),
        "torch": _json(torch.__version__),
        "labels": _json({kind: labels(kind) for kind in OUTPUTS}),
        "cases": "{\n" + ",\n".join(lines) + "\n}",
    }
    text = ",\n".join(f"{_json(name)}: {value}" for name, value in parts.items())
    (HERE / "expected.json").write_text("{\n" + text + "\n}\n")
    save_file(
        {name: value.contiguous() for name, value in found.items()}, HERE / "expected.safetensors"
    )
    print(f"{len(lines)} cases of {Path(kprune.__file__).parent}")


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


if __name__ == "__main__":
    main()
