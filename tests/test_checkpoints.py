"""A saved model reloads to the bit, in another process; a bad folder is one clear error."""

import dataclasses
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import families
import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import SHARED, TASKS, batch_of, logits, tiny, tiny_sample, word_tokenizer
from huggingface_hub import ModelCard
from transformers import AutoTokenizer
from typer.testing import CliRunner

import kprune
from kprune.__main__ import app
from kprune.data.texts import read_texts
from kprune.encoders import Encoder
from kprune.engine import files
from kprune.engine.files import check_target, write_json, written_whole
from kprune.laboratory import finetuning

READER = """
import sys, safetensors.torch, torch, kprune
from huggingface_hub import ModelCard
from transformers import AutoTokenizer
from typer.testing import CliRunner
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


REAL = {"minilm-sst2": "classification", "minilm-stsb": "regression", "minilm-squad": "span"}
EVERYTHING = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import kprune, safetensors.torch
from families import KINDS, batch_of, outputs
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoTokenizer, pipeline
place, words = Path(sys.argv[2]), ["w1 w2 w3", "w4"]
batch, found = batch_of(json.loads((place / "rows.json").read_text())), {}
def scores(model, kind, tokenizer):
    return pipeline(f"{kind}-classification", model=model, tokenizer=tokenizer)(words)
for path in place.glob("model*"):
    kind, own = path.name.split()[-1], kprune.load(path)
    found[path.name] = outputs(own, batch)
    opened = KINDS[kind][0].from_pretrained(path, dtype="auto").eval()
    assert outputs(opened, batch).equal(found[path.name]), path.name
    name, tokenizer = str(path), AutoTokenizer.from_pretrained(path)
    if kind in ("classification", "tokens"):
        task = "text" if kind == "classification" else "token"
        assert scores(name, task, tokenizer) == scores(own, task, tokenizer), path.name
    if kind in ("regression", "embedding"):
        made = CrossEncoder if kind == "regression" else SentenceTransformer
        one = made(name, device="cpu")
        give = one.encode if kind == "embedding" else lambda words: one.predict([words])
        there = give(words)
        one[0].model = own
        assert (give(words) == there).all(), path.name
safetensors.torch.save_file(found, place / "found.safetensors")
"""


def test_every_family_with_every_head_reloads_to_the_bit_in_a_fresh_process(tmp_path):
    """By our loader, transformers' own, pipelines and sentence-transformers.

    At a high rate, too, where sublayers have no unit; and the real checkpoints, where they are.
    """
    expected, tokenizer = {}, word_tokenizer(95)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # for those without types, too
    for rate, family, kind in itertools.product((0.6, 0.98), families.FAMILIES, families.KINDS):
        if rate == 0.98 and kind not in ("classification", "tokens"):
            continue
        sample, name = tiny_sample(kind, 30), f"model {rate} {family} {kind}"
        smaller, _ = kprune.prune(tiny(family, kind), sample, rate, "magnitude", progress=False)
        kprune.save(smaller, tmp_path / name, tokenizer)
        expected[name] = logits(smaller, batch_of(sample))
        assert expected[name].isfinite().all()
    for folder, kind in REAL.items():
        if (place := SHARED / "checkpoints" / folder).exists():
            model = families.KINDS[kind][0].from_pretrained(place, dtype=torch.float32)
            name = f"model {folder} {kind}"
            task = dataclasses.replace(TASKS[kind], labels=model.config.num_labels)
            real = dataclasses.replace(sample, task=task)
            smaller, _ = kprune.prune(model, real, 0.6, "magnitude", progress=False)
            kprune.save(smaller, tmp_path / name, AutoTokenizer.from_pretrained(place))
            expected[name] = logits(smaller, batch_of(sample))
    write_json(tmp_path / "rows.json", sample.examples)
    here = Path(__file__).parent
    command = [sys.executable, "-c", EVERYTHING, here, tmp_path]
    subprocess.run(command, check=True, timeout=600)
    found = safetensors.torch.load_file(tmp_path / "found.safetensors")
    assert found.keys() == expected.keys() and len(found) >= 8 * len(families.FAMILIES)
    for name, theirs in found.items():
        assert theirs.equal(expected[name]), name


@pytest.mark.parametrize("family", ["bert", "mpnet", "deberta", "albert, tied", "modernbert"])
@pytest.mark.parametrize("method", ["kprune", "kprune+", "kwon"])
def test_what_pruning_gives_reloads_and_can_be_pruned_and_trained_on(
    family, method, tokenizer, tmp_path
):
    sample = dataclasses.replace(tiny_sample(count=30), labels=[i % 3 for i in range(30)])
    smaller, _ = kprune.prune(tiny(family, "classification"), sample, 0.5, method, progress=False)
    again = kprune.load(kprune.save(smaller, tmp_path / "model", tokenizer))
    batch = batch_of(sample)
    assert logits(again, batch).equal(logits(smaller, batch))
    least, report = kprune.prune(again, sample, 0.5, method, progress=False)
    assert report.flops <= report.limit
    both = zip(least.config.kprune["kept"], again.config.kprune["kept"], strict=True)
    assert all(set(few) <= set(many) for few, many in both)
    last = kprune.load(kprune.save(least, tmp_path / "model", tokenizer))
    assert logits(last, batch).equal(logits(least, batch))
    families.forward(least.train(), batch).logits.sum().backward()
    assert all(weight.grad is not None for weight in least.parameters() if weight.numel())


def test_reloads_on_every_shape(pruned, saved):
    again = kprune.load(saved)
    assert not again.training
    assert [s.units for s in Encoder(again).sublayers] == [
        s.units for s in Encoder(pruned).sublayers
    ]
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
    card = (tmp_path / "smaller" / "README.md").read_text()
    assert "It had been pruned before, by kprune, " in card
    assert again.report["earlier"]["heads"] == model.report["heads"]
    batch = batch_of(sample)
    assert logits(again, batch).equal(logits(smaller, batch))
    for few, many in zip(again.config.kprune["kept"], model.config.kprune["kept"], strict=True):
        assert set(few) <= set(many), "units keep the numbers that they have in the teacher"


def test_saving_replaces_a_model_of_ours_whole(pruned, saved):
    inode = saved.stat().st_ino
    kprune.save(pruned, saved)
    assert saved.stat().st_ino != inode
    # What a version before wrote: a card of its own, and no list of files.
    (saved / "kprune.json").unlink()
    (saved / "README.md").write_text(EARLIER_CARD)
    (saved / "vocab.txt").write_text("from before")
    kprune.save(pruned, saved)
    assert not (saved / "vocab.txt").exists()
    assert "kprune.load" in (saved / "README.md").read_text()
    assert [path.name for path in saved.parent.iterdir()] == ["pruned"]


def test_the_folder_says_what_was_done_and_by_how_much(pruned, saved, tmp_path):
    """A page with the Hub's metadata, the report, and the kept units in few lines (P12)."""
    page = ModelCard.load(saved / "README.md")
    assert page.data.library_name == "transformers" and "kprune" in page.data.tags
    assert page.data.pipeline_tag == "text-classification" and page.data.base_model is None
    report = pruned.report
    assert f"{report['achieved_rate']:.1%} of the FLOPs" in page.text
    for layer, (heads, neurons) in enumerate(zip(report["heads"], report["neurons"], strict=True)):
        assert f"| {layer + 1} | {heads} of 12 | {neurons} of 1536 |" in page.text
    assert str(saved.parent) not in page.text and Path(pruned.name_or_path).name in page.text
    assert json.loads((saved / "kprune.json").read_text())["report"] == report
    assert len((saved / "config.json").read_text().splitlines()) < 100
    again = kprune.save(kprune.load(saved), tmp_path / "again")
    assert (again / "README.md").read_text() == (saved / "README.md").read_text()


def test_a_page_knows_the_hubs_name_and_the_licence_of_the_original(tokenizer, tmp_path):
    model = tiny("bert", "tokens")
    model.config.name_or_path = "someone/their-model"
    pruned, _ = kprune.prune(model, tiny_sample("tokens"), 0.5, progress=False)
    folder = kprune.save(pruned, tmp_path / "pruned", tokenizer)
    data = ModelCard.load(folder / "README.md").data
    assert data.base_model == "someone/their-model" and data.license is None
    assert data.pipeline_tag == "token-classification"
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    pruned.config.name_or_path = str(tmp_path / "original")
    for changed in ({"options": "?"}, None):  # by somebody
        pruned.report = changed
        folder = kprune.save(pruned, tmp_path / "pruned", tokenizer)
        page = ModelCard.load(folder / "README.md")
        assert page.data.license == "apache-2.0" and "| 1 |" in page.text


EARLIER_CARD = """# A model pruned by kprune

Open it with `kprune.load("this folder")`, or after `import kprune` with transformers' own
`AutoModel….from_pretrained`. `config.json` lists the surviving units of each sublayer under
`kprune`; its sizes are those of the model before.
"""


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


def user_words(folder):
    (folder / "vocab.txt").write_text("mine")


def user_weights(folder):
    """What was trained on, and saved by transformers' own means."""
    path = folder / "model.safetensors"
    found = safetensors.torch.load_file(path) if path.exists() else {"a": torch.ones(1)}
    safetensors.torch.save_file({k: 2 * w for k, w in found.items()}, path, {"format": "pt"})


def user_card(folder):
    (folder / "README.md").write_text("# My model card")


USERS = {
    "thesis.txt": user_file,
    "adapter": user_folder,
    "config.json": user_model,
    "teacher.json": user_record,
    "tokenizer.json": user_link,
    "README.md": user_card,
    "vocab.txt": user_words,
    "model.safetensors": user_weights,
}
AMONG_OURS = [name for name in USERS if name != "config.json"]


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
    monkeypatch.setattr(finetuning, "labelled_rows", lambda *_: worked.append(1))
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


def test_a_teacher_is_not_replaced_by_what_is_pruned_from_it(teacher_folder, pruned, tmp_path):
    folder = tmp_path / "teacher"
    shutil.copytree(teacher_folder, folder)
    before = contents(folder)
    with pytest.raises(ValueError, match="holds a teacher; choose another folder"):
        kprune.save(pruned, folder)
    (tmp_path / "t.txt").write_text("Good.\n" * 9)
    given = ["prune", str(folder), "--out", str(folder), "--texts", str(tmp_path / "t.txt")]
    assert CliRunner().invoke(app, given).exit_code == 2
    with pytest.raises(ValueError, match="holds the model to start from"):
        kprune.finetune(folder, "opinions", str(folder))
    assert contents(folder) == before


def test_a_folder_keeps_its_mode_and_a_new_one_has_the_umasks(pruned, saved, tmp_path):
    saved.chmod(0o700)
    kprune.save(pruned, saved)
    assert saved.stat().st_mode & 0o777 == 0o700
    before = os.umask(0o027)
    try:
        assert kprune.save(pruned, tmp_path / "new").stat().st_mode & 0o777 == 0o750
    finally:
        os.umask(before)


def test_a_mount_point_is_refused_before_any_work(monkeypatch, tmp_path):
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    with pytest.raises(ValueError, match="volume is a mount point"):
        check_target(tmp_path / "volume")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "latin.txt"])
def test_the_command_line_takes_texts_in_utf_8(name, saved, tmp_path):
    (tmp_path / name).write_bytes('{"text": "caf\u00e9"}\n'.encode("latin-1") * 9)
    given = ["prune", str(saved), "--out", str(tmp_path / "o"), "--texts", str(tmp_path / name)]
    found = CliRunner().invoke(app, given)
    assert found.exit_code == 2 and name in found.output and not (tmp_path / "o").exists()


def test_texts_are_read_from_lines_and_from_columns_of_tables(tmp_path):
    """Whatever the table's format; NA is a word, and a blank in a line ends nothing."""
    rows = [{"a": "one, two", "b": "NA", "n": 3}, {"a": "tr\u00e8s", "b": "1", "n": 4}]
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    table.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    table.to_json(tmp_path / "t.json", orient="records")
    table.to_parquet(tmp_path / "t.parquet")
    for kind in ("csv", "tsv", "jsonl", "json", "parquet"):
        file = tmp_path / f"t.{kind}"
        assert read_texts(file, ["b"]) == ["NA", "1"]
        assert read_texts(file, ["a", "b"]) == [("one, two", "NA"), ("tr\u00e8s", "1")]
        with pytest.raises(ValueError, match=r"has the columns a, b, n; name one"):
            read_texts(file)
        with pytest.raises(ValueError, match="name one, or the two of a pair"):
            read_texts(file, ["a", "a"])
        with pytest.raises(ValueError, match=r"has no column 'c', but a, b, n"):
            read_texts(file, ["c"])
        with pytest.raises(ValueError, match=r"holds numbers in the column 'n'"):
            read_texts(file, ["a", "n"])
    for text, wanted in (
        (
            "text;label\nGut;1\nSchlecht;0\n",
            "one column, 'text;label', as if its cells were parted",
        ),
        ("text\n", "holds no text"),
    ):
        (tmp_path / "one.csv").write_text(text)
        with pytest.raises(ValueError, match=wanted):
            read_texts(tmp_path / "one.csv")
    (tmp_path / "raw.tsv").write_text('a\tb\n"one\t1\ntwo\t2\nthree"\t3\n\n')  # a row, not three
    with pytest.raises(
        ValueError, match="3 lines and 1 rows, as a cell that begins with a quotation"
    ):
        read_texts(tmp_path / "raw.tsv", ["a"])
    (tmp_path / "t.txt").write_text("one\u2028two\r\n\n \nthree\x0cfour\n", encoding="utf-8")
    assert read_texts(tmp_path / "t.txt") == ["one\u2028two", "three\x0cfour"]
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train-0.parquet")
    assert read_texts(tmp_path / "set", ["b"]) == ["NA", "1"]
    assert read_texts(tmp_path / "set", ["a", "b"])[0] == ("one, two", "NA")
    with pytest.raises(ValueError, match="lacks the column 'c'"):
        read_texts(tmp_path / "set", ["c"])
    (tmp_path / "one.csv").write_text("only\nx\ny\n")
    assert read_texts(tmp_path / "one.csv") == ["x", "y"]
    (tmp_path / "broken.jsonl").write_text("{")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "semi.csv").write_text("a;b\n1,2;x\n1,2,3;y\n")
    # Half of each text would be taken for the rows' names, or left out.
    (tmp_path / "comma.csv").write_text("text\nI liked it, really\nSo bad, truly\n")
    (tmp_path / "first.csv").write_text("text,label\nI liked it, really,1\nBad,0\n")
    (tmp_path / "t.ndjson").write_text('{"b": "x"}\n{"b": ""}\n')
    with pytest.warns(UserWarning, match="1 of 2 texts are empty, and left out"):
        assert read_texts(tmp_path / "t.ndjson", ["b"]) == ["x"]
    (tmp_path / "json.txt").write_text('{"b": "x"}\n')
    (tmp_path / "no.parquet").write_text("x")
    for name, words in {
        "broken.jsonl": "cannot be read as jsonl",
        "empty.csv": "cannot be read as csv",
        "no.parquet": "cannot be read as parquet",
        "semi.csv": "cells are to be parted by commas",
        "comma.csv": "and quoted where they hold one",
        "first.csv": "and quoted where they hold one",
        "json.txt": "holds JSON in its lines; let its name end in .jsonl",
        "none.txt": "There is no file of texts",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            read_texts(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="is no table"):
        read_texts(tmp_path / "t.txt", ["a"])


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
    # What a killed process has left goes; what a living one is about to write stays.
    node = platform.node()
    killed, living = (tmp_path / f".result-{node}-{pid}-x" for pid in (2**22 + 1, os.getpid()))
    for folder in (killed, living):
        folder.mkdir()
        (folder / "model.safetensors").touch()
    with written_whole(tmp_path / "result"):
        assert not killed.exists()
    assert {*tmp_path.iterdir()} == {living, tmp_path / "result"}
    shutil.rmtree(living)
    (tmp_path / "result").rmdir()
    write_json(tmp_path / "a.json", {"γ": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "γ": 2\n}\n'


@pytest.mark.parametrize("exchange", [True, False])
def test_replacing_shows_the_old_folder_or_the_new_one(exchange, pruned, saved, monkeypatch):
    """In one step where the system can, and where it cannot."""
    monkeypatch.setattr(files, "_exchanged", files._exchanged if exchange else lambda *_: False)
    before = saved.stat().st_ino
    kprune.save(pruned, saved)
    assert saved.stat().st_ino != before and [*saved.parent.glob(f".{saved.name}-*")] == []
    assert kprune.load(saved).config.kprune == pruned.config.kprune


def test_bad_folders_are_refused(pruned, teacher, teacher_folder, saved, tmp_path):
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        kprune.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="kprune did not prune; load it with from_pretrained"):
        kprune.load(teacher_folder)
    with pytest.raises(ValueError, match=r"takes what kprune\.prune gave"):
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


def test_the_command_line_prunes_and_saves(tmp_path, tokenizer, capsys):
    """Its options are those of `Options`; what makes no sense is one sentence."""

    model, texts = tmp_path / "model", tmp_path / "texts.txt"
    dense = tiny("bert", "regression")
    dense.resize_token_embeddings(len(tokenizer))
    dense.save_pretrained(model)
    tokenizer.save_pretrained(model)
    texts.write_text("a first text\n\nand a second one\n" * 20)
    words = ["prune", str(model), "--out", str(tmp_path / "out"), "--texts", str(texts)]
    bad = CliRunner().invoke(app, [*words, "-o", "rat=0.5"])
    assert bad.exit_code == 2 and "There is no option 'rat'; did you mean 'rate'?" in bad.output
    bad = CliRunner().invoke(app, [*words, "-o", "rate=half"])
    assert bad.exit_code == 2 and "rate is of type float; got 'half'" in bad.output
    (tmp_path / "empty.txt").write_text("\n \n")
    for more, said in (
        (["--texts", str(tmp_path / "no.txt")], "There is no file of texts"),
        (["--texts", str(tmp_path / "empty.txt")], "holds no text"),
        (["--texts", str(texts), "--column", "a"], "is no table"),
        (["--texts", str(texts), "--data", "x"], "--data of a task"),
        (["--task", "no"], "There is no task 'no'"),
        (["--task", "sst2", "--texts", str(texts)], "the name of a --task; got both"),
        (["--task", "sst2", "--column", "a"], "--column is of a file"),
        (["--task", "sst2", "--data", "/no/such"], "There is no data folder /no/such"),
        ([], "the name of a --task; got neither"),
        (["--task", "sst2", "-o", "tokens"], "Write the option tokens with its value"),
        (["--texts", str(texts), "--export", "pdf"], "--export is onnx or int8"),
        (["--texts", str(texts), "--rate", ".5", "--speedup", "2"], "give one"),
        (["--texts", str(tmp_path)], "which is a folder, name the column"),
        (["--texts", "someone/their-texts", "--column", "a"], "Hub cannot be reached"),
        (["--texts", str(texts), "--out", str(model)], "is the folder that the model is in"),
    ):
        bad = CliRunner().invoke(app, [*words[:4], *more])
        assert bad.exit_code == 2 and said in bad.output, bad.output
    assert not (tmp_path / "out").exists()
    more = ["--rate", ".5", "-o", "tokens=150", "--trim", "--export", "int8"]
    done = CliRunner().invoke(app, [*words, *more])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out-int8" / "model.onnx").is_file()
    assert "pieces of words are left; 0.0% of texts held out" in done.output
    assert kprune.load(tmp_path / "out").config.vocab_size < dense.config.vocab_size
    said = CliRunner().invoke(app, ["info", str(tmp_path / "out")])
    assert "pruned by kprune on" in said.output and "regression, 1 outputs" in said.output
    assert "heads per layer:   [4, 4, 4]" in CliRunner().invoke(app, ["info", str(model)]).output
    given = ["export", str(model), "--out", str(tmp_path / "graph")]
    assert CliRunner().invoke(app, given).exit_code == 0
    scored = CliRunner().invoke(app, ["evaluate", str(model), "--task", "ratings", "--every", "9"])
    assert re.search(r"spearman -?0\.\d{4}\n", scored.output), scored.output
    assert kprune.load(tmp_path / "out").config.kprune
    assert re.search(r"5\d\.\d% gone", done.output)


def test_push_to_hub_pushes_what_opens_again(pruned, tmp_path, monkeypatch):
    """By transformers' own means, up to the network: what it would commit is a pruned model."""

    class Api:
        def create_repo(self, repo_id, **_):
            return SimpleNamespace(repo_id=repo_id)

        def create_commit(self, repo_id, operations, **_):
            for one in operations:
                shutil.copy(one.path_or_fileobj, tmp_path / one.path_in_repo)

    monkeypatch.setattr("transformers.utils.hub.hf_api", Api)
    page = lambda *_, **__: ModelCard("---\ntags: [a]\n---\n")  # noqa: E731
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", page)
    pruned.push_to_hub("me/mine")
    again = kprune.load(tmp_path)
    for (name, ours), theirs in zip(
        pruned.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert ours.equal(theirs), name
