"""A saved model reloads to the bit, in another process; a bad folder is one clear error."""

import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from conftest import batch_of, logits
from transformers import AutoTokenizer

import kprune
from kprune import finetuning
from kprune.checkpoints import check_target, write_json, written_whole
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


def test_saving_replaces_a_model_of_ours_whole(pruned, saved):
    (saved / "vocab.txt").write_text("from before")
    kprune.save(pruned, saved)
    assert not (saved / "vocab.txt").exists()
    assert "kprune.load" in (saved / "README.md").read_text()
    assert [path.name for path in saved.parent.iterdir()] == ["pruned"]


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def user_file(folder):
    (folder / "thesis.txt").write_text("years of work")


def user_folder(folder):
    (folder / "adapter").mkdir()


def user_model(folder):
    (folder / "config.json").write_text('{"model_type": "bert"}')


def user_record(folder):
    (folder / "teacher.json").write_text('{"name": "Ms Frizzle"}')


def user_link(folder):
    target = folder.parent / "elsewhere.json"
    target.write_text("{}")
    (folder / "tokenizer.json").unlink(missing_ok=True)
    (folder / "tokenizer.json").symlink_to(target)


def user_card(folder):
    (folder / "README.md").write_text("# My model card")


USERS = {
    "thesis.txt": user_file,
    "adapter": user_folder,
    "config.json": user_model,
    "teacher.json": user_record,
    "tokenizer.json": user_link,
    "README.md": user_card,
}
AMONG_OURS = [name for name in USERS if name not in ("config.json", "teacher.json")]


@pytest.mark.parametrize(
    ("name", "among_ours"),
    [*((name, False) for name in USERS), *((name, True) for name in AMONG_OURS)],
)
def test_what_others_wrote_is_never_lost(name, among_ours, pruned, tmp_path, monkeypatch):
    """Refused before any work, by name; and not a byte of it changes."""
    folder = tmp_path / "work" / "model"
    if among_ours:
        kprune.save(pruned, folder)
    else:
        folder.mkdir(parents=True)
    USERS[name](folder)
    before = contents(tmp_path)
    worked = []
    monkeypatch.setattr(finetuning, "load_split", lambda *_: worked.append(1))
    message = rf"model holds {name}, which kprune did not write; choose another folder"
    with pytest.raises(ValueError, match=message):
        kprune.save(pruned, folder)
    with pytest.raises(ValueError, match=message):
        kprune.finetune(folder, "opinions", "minilm")
    if not (folder / "config.json").exists():  # which is a model to take as it is
        with pytest.raises(ValueError, match=message):
            kprune.teacher("opinions", "minilm", folder=folder)
    assert contents(tmp_path) == before and not worked


def test_a_file_or_a_link_is_no_place_for_a_model(pruned, tmp_path):
    file, link, dangling = tmp_path / "notes", tmp_path / "link", tmp_path / "dangling"
    file.write_text("mine")
    (tmp_path / "empty").mkdir()
    link.symlink_to(tmp_path / "empty")
    dangling.symlink_to(tmp_path / "nowhere")
    before = contents(tmp_path)
    for path, what in ((file, "file"), (link, "link"), (dangling, "link")):
        with pytest.raises(ValueError, match=f"{path.name} is a {what}, and a model needs a fold"):
            kprune.save(pruned, path)
        with pytest.raises(ValueError, match=f"{path.name} is a {what}"):
            kprune.teacher("opinions", "minilm", folder=path)
    assert contents(tmp_path) == before
    kprune.save(pruned, tmp_path / "empty")
    assert kprune.load(link).config.kprune == pruned.config.kprune


def test_a_teacher_may_be_made_anew(teacher_folder, tmp_path):
    """Its folder is one of ours, whatever the tokenizer wrote; a moment later it may not be."""
    folder = tmp_path / "teacher"
    shutil.copytree(teacher_folder, folder)
    check_target(folder)
    with pytest.raises(ValueError, match=r"holds late\.txt"), written_whole(folder) as part:
        (part / "new").touch()
        (folder / "late.txt").write_text("put there meanwhile")
    assert {*contents(tmp_path)} == {folder, folder / "late.txt"} | {
        folder / path.name for path in teacher_folder.iterdir()
    }


def test_nothing_is_half_written(tmp_path):
    with pytest.raises(RuntimeError), written_whole(tmp_path / "result") as part:
        (part / "new").touch()
        raise RuntimeError("interrupted")
    assert not [*tmp_path.iterdir()]
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
