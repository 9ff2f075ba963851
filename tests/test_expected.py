"""What the engine before this one kept is kept: see `expected/make.py`."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kprune
from kprune.plus import fisher

HERE = Path(__file__).parent / "expected"
sys.path.insert(0, str(HERE))

import make  # noqa: E402

EXPECTED = json.loads((HERE / "expected.json").read_text())
LOGITS = load_file(HERE / "expected.safetensors")
CLOSE = {"kwon": 1e-6, "kcm": 1e-6}  # their scales were rounded to float32
SUMMED_IN_FLOAT32 = 1e-5  # K-prune+'s thresholds


def signs_by_batch(state, seed):
    """The probes' signs as they were drawn then: of a batch, not of each sequence."""
    found = []
    for number, (batch, then) in enumerate(zip(state.batches, EXPECTED["batches"], strict=True)):
        assert batch.index.tolist() == then["index"]
        generator = torch.Generator().manual_seed(fisher.SEEDS * seed + number)
        shape = (len(batch.index), state.kind.outputs)
        if state.kind.name == "span":
            shape = (*shape, then["width"])
        signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
        if state.kind.name == "regression":
            signs = torch.ones_like(signs)
        found.append(signs.transpose(1, 2) if signs.dim() == 3 else signs)
    return found


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


@pytest.mark.parametrize("name", [name for name in make.CASES if name not in make.UNSTABLE])
def test_the_same_units_are_kept_and_the_same_outputs_given(name, monkeypatch):
    monkeypatch.setattr(fisher, "draw_signs", signs_by_batch)
    case, expected = make.CASES[name], EXPECTED["cases"][name]
    options = make.OPTIONS | case.options
    model, sample = make.tiny(case.family, case.kind), make.sample(case.kind)
    smaller, report = kprune.prune(model, sample, case.rate, case.method, **options)
    assert report.kept == expected["kept"]
    assert report.flops == expected["flops"]
    thresholds = [float(threshold) for threshold in expected["thresholds"]]
    near = SUMMED_IN_FLOAT32 if case.method == "kprune+" else 1e-9
    assert report.thresholds == pytest.approx(thresholds, rel=near, abs=0)
    assert_near(make.logits(smaller), LOGITS[name], CLOSE.get(case.method, 1e-9))
