"""What people hold goes in and comes out: the manual's scripts, run on small models."""

import copy
import itertools
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from conftest import TASKS, tiny, word_tokenizer
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)
from typer.testing import CliRunner

import kprune
from kprune.__main__ import app
from kprune.card import with_section
from kprune.encoders import Encoder
from kprune.sentences import opened

sentence_transformers = pytest.importorskip("sentence_transformers")
MANUAL = (Path(__file__).parents[1] / "notebooks" / "manual.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```python\n(.*?)```", MANUAL.split("## By kind of model")[1], re.S)
TEXTS = [" ".join(f"w{(7 * i + k) % 80}" for k in range(3 + i % 9)) for i in range(300)]
PAIRS = list(itertools.pairwise(TEXTS))
KIND = {0: "embedding", 1: "regression", 2: "tokens", 3: "multilabel", 4: "classification"}
pytestmark = pytest.mark.filterwarnings("ignore:The data of 'texts'")


def folder_of(model, where: Path) -> Path:
    model.save_pretrained(where)
    word_tokenizer().save_pretrained(where)
    return where


def sentence_model(folder: Path, **modules):
    parts = sentence_transformers.sentence_transformer.modules
    inner = sentence_transformers.base.modules.Transformer(str(folder))
    pooling = parts.Pooling(families.D, **{"pooling_mode": "mean"} | modules)
    return [inner, pooling]


@pytest.fixture
def embedder(tmp_path):
    def make(*more, family: str = "bert", **modules):
        folder = folder_of(tiny(family, "embedding"), tmp_path / family)
        parts = [*sentence_model(folder, **modules), *more]
        return sentence_transformers.SentenceTransformer(modules=parts, device="cpu")

    return make


def test_the_readme_has_a_script_of_ten_lines_for_each_kind():
    own = SCRIPTS[: len(KIND)]
    assert len(own) == 5 and all("kprune.prune(" in script for script in own)
    assert all(len([line for line in s.splitlines() if line]) <= 10 for s in own)


@pytest.mark.parametrize("number", KIND, ids=KIND.values())
def test_a_script_of_the_readme_runs_as_it_stands(number, tmp_path, monkeypatch):
    """Save and reload included; what is loaded gives what was saved, to the bit."""
    monkeypatch.chdir(tmp_path)
    family = "roberta" if number == 4 else "bert"
    place = folder_of(tiny(family, KIND[number]), tmp_path / "given")
    name = r'"(path/to/your/model|[\w-]+/[\w-]+L6[\w-]*|roberta-base)"'
    script = re.sub(name, repr(str(place)), SCRIPTS[number])
    found = {"texts": TEXTS, "pairs": PAIRS}
    exec(compile(script, "manual.md", "exec"), found)
    assert found["report"].flops <= found["report"].limit
    pruned = found["pruned"]
    if number == 0:
        assert type(pruned) is type(found["model"])
        assert np.array_equal(pruned.encode(TEXTS[:8]), found["embeddings"])
    elif number == 1:
        assert np.array_equal(pruned.predict(PAIRS[:8]), found["scores"])
    elif number == 2:
        again = pipeline("token-classification", model=pruned, tokenizer=word_tokenizer())
        assert again(TEXTS[:8]) == found["entities"] != []
    else:
        inputs = word_tokenizer()(TEXTS[:8], padding=True, return_tensors="pt")
        inputs.pop("token_type_ids" if number == 4 else "", None)
        with torch.no_grad():
            assert torch.equal(found["model"].eval()(**inputs).logits, pruned(**inputs).logits)


@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("normalized", [True, False])
def test_an_embedding_model_is_pruned_as_its_backbone_with_its_pooling(embedder, mode, normalized):
    more = [sentence_transformers.base.modules.Normalize()] if normalized else []
    model = embedder(*more, pooling_mode=mode)
    options = {"rate": 0.5, "tokens": 1000, "progress": False}
    smaller, report = kprune.prune(model, TEXTS, **options)
    inner, own = kprune.prune(
        model[0].auto_model,
        TEXTS,
        tokenizer=model.tokenizer,
        pooling=mode,
        normalize=normalized,
        **options,
    )
    assert report.kept == own.kept
    assert all(
        weight.equal(inner.state_dict()[name])
        for name, weight in smaller[0].auto_model.state_dict().items()
    )
    assert model[0].auto_model.config.model_type == "bert", "the given object is as it was"
    with pytest.raises(ValueError, match="itself says how it pools; leave out normalize="):
        kprune.prune(model, TEXTS, normalize=not normalized, **options)


def test_what_an_object_puts_before_texts_is_sampled_with_them(embedder, tmp_path):
    model = embedder()
    model.prompts, model.default_prompt_name = {"query": "w1 w2 "}, "query"
    inside = opened(model, {})
    assert inside.texts(["w3", "w4 w5"]) == ["w1 w2 w3", "w1 w2 w4 w5"]
    first = next(kprune.steps(model, TEXTS, tokens=500)).state.sample.examples[0]["input_ids"]
    assert first[:3] == word_tokenizer()("w1 w2")["input_ids"][:3]
    page = (kprune.export(model, tmp_path / "graph") / "README.md").read_text(encoding="utf-8")
    assert 'encode_batch(["w1 w2 a text", "w1 w2 another one"])' in page
    assert "Put `w1 w2 ` before each text" in page


def test_objects_that_do_more_are_refused_in_a_sentence(embedder):
    options = {"rate": 0.5, "progress": False}
    modules = sentence_transformers.base.modules
    for model, named in {
        embedder(pooling_mode="max"): "Pooling of 'max'",
        embedder(modules.Dense(families.D, 8)): "Dense",
        embedder(pooling_mode=("mean", "cls")): r"\('mean', 'cls'\)",
    }.items():
        with pytest.raises(ValueError, match=f"kprune prunes a SentenceTransformer of .*{named}"):
            kprune.prune(model, TEXTS, **options)


@pytest.mark.parametrize("family", ["bert", "mpnet", "albert, tied", "modernbert"])
def test_save_pretrained_writes_what_from_pretrained_opens(family, tmp_path):
    """To the bit, again and again; `test_checkpoints` opens every family and kind."""
    sample = kprune.Sample(families.examples(20), TASKS["tokens"], word_tokenizer())
    batch, options = families.batch_of(sample.examples), {"method": "magnitude", "progress": False}
    smaller, _ = kprune.prune(tiny(family, "tokens"), sample, 0.6, **options)
    for model in (smaller, copy.deepcopy(smaller), pickle.loads(pickle.dumps(smaller))):
        model.save_pretrained(tmp_path)
        again = AutoModelForTokenClassification.from_pretrained(tmp_path, dtype="auto").eval()
        assert type(again) is type(smaller) and isinstance(again, type(tiny(family, "tokens")))
        found = families.outputs(again, batch)
        assert found.equal(families.outputs(smaller, batch))
        assert families.outputs(kprune.load(tmp_path), batch).equal(found)
    least, _ = kprune.prune(again, sample, 0.5, **options)
    least.save_pretrained(tmp_path)
    last = AutoModelForTokenClassification.from_pretrained(tmp_path, dtype="auto").eval()
    assert families.outputs(last, batch).equal(families.outputs(least, batch))
    units = [sub.units for sub in Encoder(least).sublayers]
    assert [sub.units for sub in Encoder(last).sublayers] == units


def test_a_damaged_description_is_one_sentence(tmp_path):
    sample = kprune.Sample(families.examples(20), TASKS["classification"], word_tokenizer())
    smaller, _ = kprune.prune(
        tiny("bert", "classification"), sample, 0.5, "magnitude", progress=False
    )
    for noted, said in {
        None: "its family is None",
        "family": "its family is 'gpt'",
        "kept": "lists no units for each sublayer",
    }.items():
        smaller.save_pretrained(tmp_path)
        change(tmp_path / "config.json", noted)
        with pytest.raises(ValueError, match=said):
            AutoModelForSequenceClassification.from_pretrained(tmp_path)


def change(path: Path, what: str | None) -> None:
    found = json.loads(path.read_text())
    if what is None:
        del found["kprune"]
    else:
        found["kprune"][what] = {"family": "gpt", "kept": [[0]]}[what]
    path.write_text(json.dumps(found))


def test_without_kprune_the_folder_names_what_is_missing(tmp_path):
    sample = kprune.Sample(families.examples(20), TASKS["classification"], word_tokenizer())
    smaller, _ = kprune.prune(
        tiny("bert", "classification"), sample, 0.5, "magnitude", progress=False
    )
    smaller.save_pretrained(tmp_path)
    code = f"from transformers import AutoModel; AutoModel.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "model type `kprune`" in done.stderr
    assert AutoConfig.from_pretrained(tmp_path).kprune["family"] == "bert"


def test_a_bare_module_and_a_prompt_that_would_be_left_out_are_refused(embedder):
    model = embedder()
    for part in model:
        if not hasattr(part, "auto_model"):
            with pytest.raises(ValueError, match="this Pooling is Pooling"):
                kprune.prune(part, TEXTS, rate=0.5)
    model.prompts, model.default_prompt_name = {"query": "w1 w2 "}, "query"
    for sample in ("sts", kprune.TASKS["sts"]):
        with pytest.raises(ValueError, match="puts 'w1 w2 ' before each text; pass the texts"):
            kprune.prune(model, sample, rate=0.5)


def test_a_cross_encoder_takes_pairs_however_they_come(tmp_path):
    """Single texts out of a generator, a task or a sample were read as they are."""
    folder = folder_of(tiny("bert", "regression"), tmp_path / "given")
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    single = kprune.Task("single", ("text",), kind="regression", labels=1)
    drawn = kprune.sample(TEXTS, word_tokenizer(), 500)
    array, values = np.array(TEXTS), dict(enumerate(TEXTS)).values()
    for texts in (TEXTS, iter(TEXTS), array, values, single, "ratings", drawn):
        with pytest.raises(ValueError, match="CrossEncoder reads pairs of texts, and the sample"):
            kprune.prune(model, texts, progress=False)

    class Own(sentence_transformers.CrossEncoder):
        pass

    with pytest.raises(ValueError, match="reads pairs of texts"):
        kprune.prune(Own(str(folder), device="cpu"), TEXTS, progress=False)
    fewer, tokenizer, _ = kprune.trim(model, TEXTS[:9])  # which reads words, and no pairs
    assert type(fewer) is type(model) and len(tokenizer) < len(model.tokenizer)
    wanted = kprune.prune(model, PAIRS, tokens=500, progress=False)[1].kept
    assert kprune.prune(model, iter(PAIRS), tokens=500, progress=False)[1].kept == wanted


def test_an_embedder_that_reads_its_texts_otherwise_is_refused(embedder):
    """Its sample had special tokens, and lengths, which it would not have read."""
    model = embedder()
    model[0].processing_kwargs = {"text": {"max_length": 8, "padding": True}}
    with pytest.raises(ValueError, match=r"processing_kwargs of its own \(max_length\)"):
        kprune.prune(model, TEXTS, rate=0.5, progress=False)


def test_an_object_is_trimmed_as_what_is_inside(embedder, tmp_path):
    """With its tokenizer: the same embeddings before and after saving."""
    whole = embedder()
    texts = TEXTS[:9]
    fewer, _, done = kprune.trim(whole, texts)
    assert done.pieces < done.dense_pieces and type(fewer) is type(whole)
    assert (fewer.encode(texts) == whole.encode(texts)).all()
    assert len(fewer.tokenizer) == done.pieces < len(whole.tokenizer)
    pruned, _ = kprune.prune(fewer, texts * 9, 0.5, progress=False, tokens=500)
    pruned.save_pretrained(str(tmp_path / "small"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "small"), device="cpu")
    assert (again.encode(texts) == pruned.encode(texts)).all()


def test_the_command_line_opens_and_saves_objects(embedder, tmp_path):
    """What is pruned, trimmed, exported and told is the whole object."""
    embedder(sentence_transformers.sentence_transformer.modules.Normalize()).save_pretrained(
        str(tmp_path / "dense")
    )
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    out = tmp_path / "small"

    def run(*words):
        return CliRunner().invoke(app, [*map(str, words)])

    words = ("prune", tmp_path / "dense", "--texts", tmp_path / "texts.txt", "--out", out)
    done = run(*words, "-o", "tokens=500", "--trim", "--export", "onnx")
    assert done.exit_code == 0 and f"SentenceTransformer('{out}')" in done.output, done.output
    again = sentence_transformers.SentenceTransformer(str(out), device="cpu")
    assert np.allclose(np.linalg.norm(again.encode(TEXTS[:3]), axis=1), 1, atol=1e-6)
    assert (tmp_path / "small-onnx" / "model.onnx").is_file()
    said = run("info", out)
    assert said.exit_code == 0 and "pruned by kprune on" in said.output, said.output
    embedder(pooling_mode="cls").save_pretrained(str(tmp_path / "first"))  # defaults are no wish
    other = ("prune", tmp_path / "first", *words[2:4], "--out", tmp_path / "other")
    done = run(*other, "-o", "tokens=500", "--rate", "0.5")
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    config["num_hidden_layers"] -= 1  # what sentence-transformers opens without a word
    (tmp_path / "first" / "config.json").write_text(json.dumps(config))
    bad = run(*other, "-o", "tokens=500")
    assert bad.exit_code == 2 and "weights do not belong to it" in bad.output, bad.output
    again = run(*words, "-o", "tokens=500")  # an object has folders within, which are ours, too
    assert again.exit_code == 0, again.output
    pooling = next(out.glob("*Pooling")) / "notes.txt"
    pooling.write_text("mine")
    bad = run(*words, "-o", "tokens=500")
    assert bad.exit_code == 2 and "notes.txt, which kprune did not write; choose" in bad.output
    pooling.unlink()
    description = out / "config_sentence_transformers.json"
    description.write_text(description.read_text().replace("SentenceTransformer", "os.system"))
    bad = run("info", out)
    assert bad.exit_code == 2 and "is a os.system; kprune opens" in bad.output


def test_save_writes_an_object_whole_or_not_at_all(embedder, tmp_path):
    whole = embedder()
    with pytest.raises(ValueError, match="use save_pretrained for a dense model"):
        kprune.save(whole, tmp_path / "dense")
    pruned, _ = kprune.prune(whole, TEXTS, 0.5, progress=False, tokens=500)
    for wrong in ({"standalone": True}, {"scores": {"spearman": 0.8}}):
        with pytest.raises(ValueError, match="is saved by its own means"):
            kprune.save(pruned, tmp_path / "pruned", **wrong)
    folder = kprune.save(pruned, tmp_path / "pruned")
    page = (folder / "README.md").read_text()
    assert page.startswith("---") and "# Pruned by kprune" in page and "| 1 |" in page
    again = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    assert (again.encode(TEXTS[:5]) == pruned.encode(TEXTS[:5])).all()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("a")
    with pytest.raises(ValueError, match=r"notes\.txt, which kprune did not write"):
        kprune.save(pruned, tmp_path / "mine")


def test_an_object_that_cuts_its_embeddings_is_refused(embedder):
    model = embedder()
    model.truncate_dim = 8
    with pytest.raises(ValueError, match="cuts its embeddings to 8 numbers"):
        kprune.prune(model, TEXTS, 0.5, progress=False, tokens=500)


def test_objects_are_scored_as_what_is_inside(embedder):
    """On the pooling that they have; one that reads its texts otherwise is refused."""
    task = kprune.Task("pairs", ("a", "b"), kind="embedding", labels=families.D)
    rows = {"a": TEXTS[:20], "b": TEXTS[20:40], "label": [float(n % 5) for n in range(20)]}
    rows = Dataset.from_dict(rows)
    whole = embedder(pooling_mode="cls")
    dev = kprune.dev_set(task, whole.tokenizer, rows)
    inner = whole[0].auto_model
    assert kprune.evaluate(whole, dev) == kprune.evaluate(inner, dev, pooling="cls")
    assert kprune.evaluate(whole, dev) != kprune.evaluate(inner, dev)
    whole.prompts, whole.default_prompt_name = {"query": "q: "}, "query"
    with pytest.raises(ValueError, match="puts 'q: ' before"):
        kprune.evaluate(whole, dev)


def test_trimming_knows_the_pieces_of_every_prompt(embedder):
    """Those of a query's or a document's were cut out, since only the default one was looked at."""
    whole = embedder()
    whole.prompts = {"query": "w85 w86 ", "document": "w87 "}
    texts = TEXTS[:60]
    small, _, done = kprune.trim(whole, texts)
    for way in ("encode", "encode_query", "encode_document"):
        assert (getattr(whole, way)(texts) == getattr(small, way)(texts)).all(), way
    _, _, alone = kprune.trim(embedder(), texts)
    assert done.pieces == alone.pieces + 3 and done.changed == alone.changed
    with pytest.warns(UserWarning, match="may put 'w85 w86 ', 'w87 ' before a text"):
        kprune.prune(whole, texts, 0.5, progress=False)
    with pytest.raises(ValueError, match=r"Row 1 .* holds 5 in place of a text"):
        kprune.trim(whole, ["w1", 5])


def test_an_objects_page_tells_of_the_last_pruning_alone(embedder, tmp_path):
    pruned, _ = kprune.prune(embedder(), TEXTS, 0.5, progress=False, tokens=500)
    kprune.save(pruned, tmp_path / "p")
    page = tmp_path / "p" / "README.md"
    below = "\n## Evaluated\n\n```python\n# first\nprint(1)\n```\n"
    mine = page.read_text() + below + "\n# My own words\n\nMine.\n"
    inner = pruned[0].auto_model
    more = with_section(mine, inner, inner.report)
    assert more.count("# Pruned by kprune") == 1 and "# My own words\n\nMine.\n" in more
    assert below in more
    for rate in (None, 0.6):
        again = sentence_transformers.SentenceTransformer(str(tmp_path / "p"), device="cpu")
        if rate:
            again, report = kprune.prune(again, TEXTS, rate, progress=False, tokens=500)
        kprune.save(again, tmp_path / "p")
        text = page.read_text()
        assert text.count("# Pruned by kprune") == 1
    assert f"{report.achieved_rate:.1%} of the FLOPs" in text
