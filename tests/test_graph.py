"""ONNX: the graph gives what the model gives, for every family and head, whatever was cut."""

import subprocess
import sys

import families
import numpy as np
import pytest
import torch
import transformers
from conftest import batch_of, cut, shared, tiny, tiny_sample, word_tokenizer
from scipy.stats import spearmanr
from transformers import AutoConfig, AutoModelForSequenceClassification

import kprune
from kprune import graph
from kprune.data.hub import load_split
from kprune.encoders import Encoder

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def run(folder, batch):
    session = onnxruntime.InferenceSession(folder / graph.GRAPH)
    given = batch.inputs | {"attention_mask": batch.attention_mask}
    names = {one.name for one in session.get_inputs()}
    assert names >= {"input_ids", "attention_mask"}
    return session.run(None, {name: given[name].numpy() for name in names})


def same(found, model, batch):
    encoder = Encoder(model)
    with torch.no_grad():
        wanted = encoder.run(batch)
    if encoder.kind.name == "span":
        found = [np.stack(found, -1)]
    np.testing.assert_allclose(found[-1], wanted.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family(family, tmp_path):
    model, batch = cut(family, "classification"), batch_of(tiny_sample())
    folder = kprune.export(model, tmp_path / "graph", word_tokenizer(95))
    same(run(folder, batch), model, batch)


@pytest.mark.parametrize("rate", [0.6, 0.9])
@pytest.mark.parametrize("kind", families.KINDS)
def test_every_head(kind, rate, tmp_path):
    model, report = kprune.prune(tiny("bert", kind), tiny_sample(kind), rate, progress=False)
    assert rate < 0.9 or not all(report.heads), "there are sublayers without units"
    batch = batch_of(tiny_sample())
    folder = kprune.export(model, tmp_path / "graph", word_tokenizer(95))
    same(run(folder, batch), model, batch)
    assert AutoConfig.from_pretrained(folder).model_type == "bert", "as others open it"


def test_the_mask_may_be_given_where_no_attention_is_left(tmp_path):
    """Its input was no part of the graph, and onnxruntime refused it."""
    model, _ = kprune.prune(tiny("bert", "classification"), tiny_sample(), 0.97, progress=False)
    assert not any(Encoder(model).units("MHA"))
    batch = batch_of(tiny_sample())
    same(run(kprune.export(model, tmp_path / "graph", word_tokenizer(95)), batch), model, batch)


def test_the_card_shows_pairs_and_names_of_labels(tmp_path):
    """As the sample and the configuration have them."""
    model, tokenizer = tiny("bert", "tokens"), word_tokenizer(95)
    model.config.id2label = {0: "O", 1: "B-person", 2: "I-person"}
    page = kprune.export(model, tmp_path / "a", tokenizer) / "README.md"
    assert "the labels O, B-person, I-person, in this order" in page.read_text()
    pairs = [("w1 w2", f"w{n} w3") for n in range(40)]
    sample = kprune.sample(pairs, tokenizer, 200)
    pruned, _ = kprune.prune(tiny("bert", "classification"), sample, progress=False)
    page = kprune.export(pruned, tmp_path / "b", tokenizer) / "README.md"
    assert '("a question", "its passage")' in page.read_text() and "labels" not in page.read_text()


@pytest.mark.parametrize("kind", ["classification", "span", "embedding"])
def test_the_card_runs_it_without_pytorch(kind, tmp_path):
    model, tokenizer = cut("bert", kind), word_tokenizer(95)
    folder = kprune.export(model, tmp_path / "graph", tokenizer)
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {"span": "start_logits, end_logits", "embedding": "sentence_embedding"}
    code += "\nimport sys\nassert 'torch' not in sys.modules"
    code += f"\nnp.save('z', [{names.get(kind, 'logits')}])"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    texts = [("a question", "its passage")] if kind == "span" else ["a text", "another one"]
    given = tokenizer(texts, return_tensors="pt", padding=True)
    rows = [
        {name: given[name][i].tolist() for name in ("input_ids", "token_type_ids")}
        for i in range(len(texts))
    ]
    same([*np.load(folder / "z.npy")], model, families.batch_of(rows))


def test_int8_is_smaller_and_near(tmp_path):
    model, batch = cut("distilbert", "regression"), batch_of(tiny_sample())
    whole, small = (
        kprune.export(model, tmp_path / f"weights {name}", word_tokenizer(95), quantize=name)
        for name in ("", "int8")
    )
    whole, small = (run(folder, batch)[0] for folder in (whole, small))
    off = np.abs(whole - small).max()
    assert 0 < off < 0.1 * np.abs(whole).max()


def test_a_graph_that_gives_something_else_is_not_written(tmp_path, monkeypatch):
    write, other = graph.Graph.write, graph.Graph(tiny("bert", "classification", seed=1))
    monkeypatch.setattr(graph.Graph, "write", lambda _, path: write(other, path))
    with pytest.raises(ValueError, match=r"gives other logits .* was not written"):
        kprune.export(cut("bert", "classification"), tmp_path / "graph", word_tokenizer(95))
    assert not [*tmp_path.iterdir()]


def test_a_graph_never_takes_the_place_of_weights_nor_weights_that_of_a_graph(tmp_path):
    """`export p --out p` left no model."""
    model, tokenizer = cut("bert", "classification"), word_tokenizer(95)
    saved = kprune.save(model, tmp_path / "saved", tokenizer)
    exported = kprune.export(model, tmp_path / "graph", tokenizer)
    kprune.export(model, exported, tokenizer)  # one graph may take another's place
    with pytest.raises(ValueError, match="holds a model's weights, which would be lost"):
        kprune.export(model, saved, tokenizer)
    with pytest.raises(ValueError, match="holds a graph, which would be lost"):
        kprune.save(model, exported, tokenizer)
    with pytest.raises(ValueError, match="holds an exported graph"):
        kprune.load(exported)
    kprune.load(saved)


def test_a_trimmed_model_is_not_written_with_the_old_tokenizer(tmp_path):
    """Ids beyond its embedding came later, as errors of libraries."""
    model, old = tiny("bert", "classification"), word_tokenizer(400)
    model.resize_token_embeddings(len(old), mean_resizing=False)
    pruned, _ = kprune.prune(
        model, ["w1 w2 w3"] * 40, 0.5, tokenizer=old, tokens=150, progress=False
    )
    trimmed, fewer, _ = kprune.trim(pruned, ["w1 w2"] * 20, old)
    for write in (kprune.save, kprune.export):
        with pytest.raises(
            ValueError, match=r"trimmed to .* pieces of words, and the tokenizer has 404"
        ):
            write(trimmed, tmp_path / write.__name__, old)
        write(trimmed, tmp_path / write.__name__, fewer)
    assert "pieces of words" in (tmp_path / "save" / "README.md").read_text()
    with pytest.raises(ValueError, match="not a str"):
        kprune.trim(pruned, "texts.txt", old)


def test_what_cannot_be_exported_is_refused(tmp_path):
    model, tokenizer = cut("bert", "classification"), word_tokenizer(95)
    (tmp_path / "mine").write_text("x")
    for change, words in (
        ({"quantize": "int4"}, "quantize is"),
        ({"folder": tmp_path}, "holds mine, which kprune did not write"),
        ({"model": torch.nn.Linear(2, 2)}, "takes a loaded transformers model"),
    ):
        with pytest.raises(ValueError, match=words):
            kprune.export(
                **{"model": model, "folder": tmp_path / "g", "tokenizer": tokenizer} | change
            )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_torch_export_and_compile_run_on_a_pruned_model():
    model, batch = cut("bert", "classification"), batch_of(tiny_sample())
    given = {"input_ids": batch.inputs["input_ids"], "attention_mask": batch.attention_mask}
    with torch.no_grad():
        wanted = model(**given).logits
        exported = torch.export.export(model, (), given, strict=False).module()
        compiled = torch.compile(model, backend="aot_eager")
        for found in (exported(**given).logits, compiled(**given).logits):
            torch.testing.assert_close(found, wanted)


def test_the_trainer_goes_on_with_a_pruned_model_where_it_was_stopped(tmp_path):
    """From a checkpoint, in a model opened anew, it ends as it does when it is not stopped."""
    model = cut("bert", "classification")
    kprune.save(model, tmp_path / "pruned", word_tokenizer(95))
    rows = [row | {"labels": n % 3} for n, row in enumerate(tiny_sample().examples)]
    collator = transformers.DataCollatorWithPadding(word_tokenizer(95))

    def trained(resume: str | None) -> dict[str, torch.Tensor]:
        arguments = transformers.TrainingArguments(
            tmp_path / "run", max_steps=4, save_steps=2, use_cpu=True, report_to="none", seed=0
        )
        opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
        trainer = transformers.Trainer(
            opened, arguments, train_dataset=rows, data_collator=collator
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = trained(None)
    found = trained(str(tmp_path / "run" / "checkpoint-2"))
    assert whole.keys() == found.keys()
    assert all(found[name].equal(weight) for name, weight in whole.items())
    checkpoint = kprune.load(tmp_path / "run" / "checkpoint-4").state_dict()
    assert all(checkpoint[name].equal(weight) for name, weight in whole.items())


def test_int8_costs_a_pruned_model_no_more_than_the_dense_one(real, tmp_path):
    """On real weights and data (P13): with one scale for a matrix it cost seven points at 90%."""
    dense, tokenizer, sample, rows = real
    pruned, _ = kprune.prune(dense, sample, 0.8, progress=False)
    pairs, gold = [rows["sentence1"], rows["sentence2"]], rows["label"]
    lost = {}
    for name, model in (("dense", dense), ("pruned", pruned)):
        found = []
        for bits in ("", "int8"):
            folder = kprune.export(model, tmp_path / f"{name} {bits}", tokenizer, bits)
            session = onnxruntime.InferenceSession(folder / graph.GRAPH)
            z = []
            for start in range(0, len(gold), 50):
                some = [side[start : start + 50] for side in pairs]
                given = tokenizer(*some, return_tensors="np", padding=True)
                z += session.run(None, {one.name: given[one.name] for one in session.get_inputs()})
            found.append(spearmanr(np.concatenate(z)[:, 0], gold).statistic)
        lost[name] = found[0] - found[1]
    assert lost["pruned"] < max(lost["dense"], 0) + 0.01


@pytest.fixture
def real():
    """The STS-B teacher, its tokenizer, a sample, and some rows of the dev set."""
    data = str(shared("data", "glue"))
    dense, tokenizer = kprune.load_teacher(shared("checkpoints", "minilm-stsb"), "stsb")
    sample = kprune.sample("stsb", tokenizer, 4000, data=data)
    return dense, tokenizer, sample, load_split("stsb", "validation", data)[::3]
