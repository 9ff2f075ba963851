"""A saved model reloads to the bit, in another process; a bad folder is one clear error."""

import subprocess
import sys

import pytest
import safetensors.torch
import torch
from conftest import batch_of, logits
from transformers import AutoTokenizer

import kprune
from kprune.checkpoints import write_json, written_whole
from kprune.encoders import view

READER = """
import sys, safetensors.torch, torch, kprune
from transformers import AutoTokenizer
model, tokenizer = kprune.load(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer(["It is anything but dull.", "No."], padding=True, return_tensors="pt")
with torch.no_grad():
    safetensors.torch.save_file({"logits": model(**inputs).logits}, sys.argv[2])
"""


@pytest.fixture(scope="module")
def pruned(teacher):
    model, tokenizer = teacher
    sample = kprune.sample("opinions", tokenizer, tokens=1000)
    return kprune.prune(model, sample, rate=0.7, progress=False)[0]


@pytest.fixture
def saved(pruned, tmp_path):
    return kprune.save(pruned, tmp_path / "pruned")


def test_reloads_to_the_bit_in_a_fresh_process(pruned, teacher, saved, tmp_path):
    out = tmp_path / "logits.safetensors"
    subprocess.run([sys.executable, "-c", READER, saved, out], check=True, timeout=300)
    tokenizer = teacher[1]
    inputs = tokenizer(["It is anything but dull.", "No."], padding=True, return_tensors="pt")
    with torch.no_grad():
        ours, dense = pruned(**inputs).logits, teacher[0](**inputs).logits
    theirs = safetensors.torch.load_file(out)["logits"]
    assert theirs.equal(ours)
    assert not theirs.allclose(dense, atol=1e-3)
    size = sum(path.stat().st_size for path in saved.iterdir())
    assert size < 4 * teacher[0].num_parameters(), "the file must be smaller than the dense model"


def test_reloads_on_every_shape(pruned, saved):
    again = kprune.load(saved)
    assert not again.training
    assert [s.units for s in view(again).sublayers] == [s.units for s in view(pruned).sublayers]
    assert again.config.kprune["kept"] == pruned.config.kprune["kept"]
    for (name, ours), (other, theirs) in zip(
        pruned.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other and ours.equal(theirs) and ours.dtype == theirs.dtype


def test_the_random_state_is_left_alone(saved):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    kprune.load(saved)
    assert torch.rand(3).equal(expected)


def test_a_pruned_model_can_be_pruned_and_saved_again(saved, tmp_path):
    model, tokenizer = kprune.load(saved), AutoTokenizer.from_pretrained(saved)
    sample = kprune.sample("opinions", tokenizer, tokens=1000)
    smaller, _ = kprune.prune(model, sample, rate=0.5, progress=False)
    again = kprune.load(kprune.save(smaller, tmp_path / "smaller"))
    batch = batch_of(sample)
    assert logits(again, batch).equal(logits(smaller, batch))
    for few, many in zip(again.config.kprune["kept"], model.config.kprune["kept"], strict=True):
        assert set(few) <= set(many), "units keep the numbers that they have in the teacher"


def test_saving_replaces_a_folder_whole(pruned, saved):
    (saved / "stale.txt").write_text("from before")
    kprune.save(pruned, saved)
    assert not (saved / "stale.txt").exists()
    assert "kprune.load" in (saved / "README.md").read_text()
    assert [path.name for path in saved.parent.iterdir()] == ["pruned"]


def test_nothing_is_half_written(tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "old").touch()
    with pytest.raises(RuntimeError), written_whole(tmp_path / "result") as part:
        (part / "new").touch()
        raise RuntimeError("interrupted")
    assert [path.name for path in tmp_path.rglob("*")] == ["result", "old"]
    write_json(tmp_path / "a.json", {"γ": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "γ": 2\n}\n'


def test_bad_folders_are_refused(pruned, teacher, teacher_folder, saved, tmp_path):
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        kprune.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="kprune did not prune; load it with from_pretrained"):
        kprune.load(teacher_folder)
    with pytest.raises(ValueError, match="takes a pruned model"):
        kprune.save(teacher[0], tmp_path / "dense")
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:-4]):
        weights.write_bytes(damage)
        with pytest.raises(ValueError, match="is damaged"):
            kprune.load(saved)
    weights.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        kprune.load(saved)
    weights.write_bytes(whole)
    config = saved / "config.json"
    text = config.read_text()
    config.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="damaged"):
        kprune.load(saved)
    config.write_text(text)
    kprune.load(saved)
