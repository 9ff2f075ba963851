"""A folder saved with standalone=True opens where kprune is not; with it, no code is run."""

import json
import subprocess
import sys

import families
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import batch_of, cut, logits, tiny, tiny_sample, word_tokenizer
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification

import kprune
from kprune.families import BERT
from kprune.families import FAMILIES as NAMES

ALONE = """
import json, sys
from pathlib import Path
sys.modules["kprune"] = None  # as where it is not installed
import safetensors.torch, torch, transformers
from transformers import AutoConfig, AutoTokenizer, pipeline
place, found = Path(sys.argv[1]), {}
given = safetensors.torch.load_file(place / "batch.safetensors")
for path in sorted(place.glob("model*")):
    kind = json.loads((path / "config.json").read_text())["auto_map"]
    for auto in kind.keys() - {"AutoConfig"}:
        if not path.name.endswith(auto):
            continue
        opened = getattr(transformers, auto).from_pretrained(path, trust_remote_code=True)
        batch = dict(given)
        if "modern" in path.name or getattr(opened.config, "type_vocab_size", 0) < 2:
            batch.pop("token_type_ids")
        with torch.no_grad():
            found[path.name] = opened.eval()(**batch)[0].contiguous()
        if path.name == sys.argv[2]:
            made = pipeline("text-classification", model=str(path), trust_remote_code=True)
            made(["w1 w2"])
            opened.save_pretrained(place / "again")
            words = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
            words.save_pretrained(place / "again")
            again = getattr(transformers, auto).from_pretrained(
                place / "again", trust_remote_code=True
            )
            with torch.no_grad():
                found["again"] = again.eval()(**batch)[0]
safetensors.torch.save_file(found, place / "found.safetensors")
"""
AUTO = {kind: auto.__name__ for kind, (auto, _) in families.KINDS.items()}


def test_every_family_opens_in_transformers_alone(tmp_path, monkeypatch):
    """Sublayers without units among them; whatever head, and as a backbone."""
    batch, models, tokenizer = batch_of(tiny_sample()), {}, word_tokenizer(95)
    pairs = [(family, "classification") for family in families.FAMILIES]
    pairs += [("bert", kind) for kind in ("regression", "span", "tokens", "embedding")]
    for family, kind in pairs:
        model = cut(family, kind)
        name = f"model {family} {kind} {AUTO[kind]}"
        folder = kprune.save(model, tmp_path / name, tokenizer, standalone=True)
        models[name] = logits(model, batch)
        again = kprune.load(folder)
        assert logits(again, batch).equal(models[name])
        # Saved once more, without the file, nothing names it.
        kprune.save(again, folder, tokenizer)
        assert "auto_map" not in json.loads((folder / "config.json").read_text())
        assert not (folder / "modeling_kprune.py").exists()
        kprune.save(again, folder, tokenizer, standalone=True)
    given = batch.inputs | {"attention_mask": batch.attention_mask}
    safetensors.torch.save_file(given, tmp_path / "batch.safetensors")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    first = f"model bert classification {AUTO['classification']}"
    subprocess.run([sys.executable, "-c", ALONE, tmp_path, first], check=True, timeout=300)
    found = safetensors.torch.load_file(tmp_path / "found.safetensors")
    assert found.pop("again").equal(found[first])
    again = kprune.load(tmp_path / "again")  # what was saved, or trained on, without kprune
    assert logits(again, batch).equal(models[first])
    assert found.keys() == models.keys()
    for name, theirs in found.items():
        if theirs.dim() == 3:
            theirs = theirs[batch.attention_mask.bool()]
        elif "span" in name:  # the starts; the ends come apart
            theirs, models[name] = theirs[batch.attention_mask.bool()], models[name][:, 0]
        torch.testing.assert_close(theirs, models[name], rtol=1e-5, atol=1e-5, msg=name)


def test_with_kprune_nothing_of_it_is_run(tokenizer, tmp_path, monkeypatch):
    """Neither by our loader nor, without a yes, by transformers'; other code is refused."""
    model = cut("bert", "classification")
    folder = kprune.save(model, tmp_path / "model", tokenizer, standalone=True)
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    compile((folder / "modeling_kprune.py").read_text(), "modeling_kprune.py", "exec")
    asked = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    smaller, _ = kprune.prune(asked, tiny_sample(), 0.5, progress=False)  # opened by that file
    assert type(kprune.load(kprune.save(smaller, tmp_path / "less", tokenizer))) is type(smaller)
    (folder / "modeling_kprune.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    batch = batch_of(tiny_sample())
    opened = AutoModelForSequenceClassification.from_pretrained(folder)
    for one in (kprune.load(folder), opened):
        assert logits(one.eval(), batch).equal(logits(model, batch))
    opened.save_pretrained(tmp_path / "again")
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())
    assert not (tmp_path / "ran").exists()
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    for other in ({"AutoConfig": "trap.Config"}, {"AutoConfig": ["modeling_kprune.A", None]}, "a"):
        path.write_text(json.dumps(settings | {"auto_map": other}))
        with pytest.raises(ValueError, match="code of its own"):
            kprune.load(folder)
    path.write_text(json.dumps(settings | {"model_type": "bert"}))
    with pytest.raises(ValueError, match="code of its own"):
        kprune.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_family_of_ones_own_is_refused(tokenizer, tmp_path, monkeypatch):
    """Its code is not here to write down."""
    monkeypatch.setitem(NAMES, "ernie", BERT)
    model = cut("bert", "classification")
    model.config.kprune["family"] = "ernie"
    with pytest.raises(ValueError, match="'ernie' is one of your own"):
        kprune.save(model, tmp_path / "model", tokenizer, standalone=True)
    assert not (tmp_path / "model").exists()


def card_of(folder):
    return ModelCard.load(folder / "README.md")


def test_scores_are_on_the_card(tokenizer, tmp_path):
    """In a table; a model that is loaded, and perhaps trained on, does not claim them."""
    dense = tiny("bert", "classification")
    pruned, _ = kprune.prune(dense, tiny_sample(), 0.5, progress=False)
    scores = {"accuracy": 0.875, "f1": np.float32(0.5)}
    folder = kprune.save(pruned, tmp_path / "model", tokenizer, scores=scores)
    page = card_of(folder)
    assert "| accuracy | 0.8750 |" in page.text
    assert page.data.eval_results is None, "which data they are of, this package does not know"
    assert json.loads((folder / "kprune.json").read_text())["scores"] == scores
    again = kprune.save(kprune.load(folder), tmp_path / "again")
    assert "accuracy" not in card_of(again).text
    polished = kprune.polish(pruned, dense, tiny_sample(), passes=2, progress=False)
    page = card_of(kprune.save(polished, tmp_path / "polished", tokenizer))
    assert "Then it was trained: distilled from the model before, in 2 passes" in page.text
    for bad in ("0.9", {"accuracy": "0.9"}, {"accuracy": float("nan")}, {"accuracy": True}, 0.9):
        with pytest.raises(ValueError, match="score"):
            kprune.save(pruned, tmp_path / "bad", tokenizer, scores=bad)
    with pytest.raises(ValueError, match="standalone is True or False; got 'no'"):
        kprune.save(pruned, tmp_path / "bad", tokenizer, standalone="no")
