"""What the engine before this one kept is kept: see `expected/make.py`."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kprune

HERE = Path(__file__).parent / "expected"
sys.path.insert(0, str(HERE))

import make  # noqa: E402

EXPECTED = json.loads((HERE / "expected.json").read_text())
LOGITS = load_file(HERE / "expected.safetensors")
CLOSE = {"kwon": 1e-6, "kcm": 1e-6}  # their scales were rounded to float32


def assert_near(ours, theirs, share):
    """Equal up to a share of the largest."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=share * float(theirs.abs().max()))


@pytest.mark.parametrize("family", make.FAMILIES)
@pytest.mark.parametrize("kind", make.OUTPUTS)
def test_the_models_are_the_same(family, kind):
    assert make.labels(kind) == [
        tuple(label) if isinstance(label, list) else label for label in EXPECTED["labels"][kind]
    ]
    assert_near(make.logits(make.tiny(family, kind)), LOGITS[f"dense/{family}/{kind}"], 1e-12)


@pytest.mark.parametrize("name", make.CASES)
def test_the_same_units_are_kept_and_the_same_outputs_given(name):
    case, expected = make.CASES[name], EXPECTED["cases"][name]
    options = make.OPTIONS | case.options
    model, sample = make.tiny(case.family, case.kind), make.sample(case.kind)
    smaller, report = kprune.prune(model, sample, case.rate, case.method, **options)
    assert report.kept == expected["kept"]
    assert report.flops == expected["flops"]
    thresholds = [float(threshold) for threshold in expected["thresholds"]]
    assert report.thresholds == pytest.approx(thresholds, rel=1e-9, abs=0)
    assert_near(make.logits(smaller), LOGITS[name], CLOSE.get(case.method, 1e-9))
