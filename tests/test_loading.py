"""Nothing that lies in a model's folder runs, whoever answers on standard input."""

import io
import json
import shutil

import pytest
import torch
from conftest import tiny, tiny_sample
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import kprune
from kprune.engine.loading import load_config, load_model, load_tokenizer
from kprune.laboratory.finetuning import find_model
from kprune.sampling import find_tokenizer

# What transformers runs when somebody says yes.
TRAP = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

class Config(BertConfig):
    model_type = {family!r}

class Model(BertForSequenceClassification):
    config_class = Config

class Tokenizer(BertTokenizer):
    pass
"""


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A tiny model and its tokenizer."""
    tiny("bert", "classification").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def set_trap(folder, file, family):
    """Let a file of the folder name Python code beside it; gives what that code would create."""
    marker = folder.parent / "it ran"
    (folder / "trap.py").write_text(TRAP.format(marker=str(marker), family=family))
    names = {"AutoConfig": "trap.Config", "AutoTokenizer": ["trap.Tokenizer", None]}
    names["AutoModelForSequenceClassification"] = names["AutoModel"] = "trap.Model"
    change(folder / file, auto_map=names)
    if file == "config.json":
        change(folder / file, model_type=family)
    else:
        change(folder / file, tokenizer_class="TrapTokenizer")
    return marker


@pytest.fixture
def yes(monkeypatch):
    """Whoever asks hears yes, again and again."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))


def test_the_trap_works(folder, yes, monkeypatch, tmp_path):
    """Without this package's care a yes runs the code."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.syspath_prepend(str(tmp_path / "m"))
    marker = set_trap(folder, "config.json", "trap")
    AutoModelForSequenceClassification.from_pretrained(folder)
    assert marker.exists()


@pytest.mark.parametrize("family", ["trap", "bert"])
def test_a_model_with_code_of_its_own_is_refused(family, folder, yes):
    change(folder / "config.json", kprune={"kept": []})
    marker = set_trap(folder, "config.json", family)
    for open_it in (
        kprune.load,
        load_config,
        lambda path: kprune.load_teacher(path, "mnli"),
        lambda path: kprune.teacher("mnli", folder=path),
        lambda path: kprune.finetune(path.parent / "new", "opinions", str(path)),
    ):
        with pytest.raises(ValueError, match="model names Python code of its own") as caught:
            open_it(folder)
        assert len(str(caught.value).splitlines()) == 1
    assert not marker.exists() and not (folder.parent / "new").exists()


def test_a_tokenizer_with_code_of_its_own_is_refused(folder, yes):
    marker = set_trap(folder, "tokenizer_config.json", "trap")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for open_it in (
        load_tokenizer,
        lambda path: kprune.load_teacher(path, "mnli"),
        lambda path: find_tokenizer(model),
        lambda path: kprune.prune(model, ["a text"]),
    ):
        with pytest.raises(ValueError, match="model names Python code of its own"):
            open_it(folder)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:The tokenizer has 30,522 words")  # the model knows 99
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("name", ["user/kernel", "flash_attention_2", "eager"])
def test_a_folder_does_not_choose_its_attention(key, name, folder, monkeypatch):
    """Least of all a kernel on the Hub; the weights and their type are the folder's."""

    def fetched(*_, **__):
        raise AssertionError("a kernel was asked for")

    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", fetched)
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", fetched)
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    change(folder / "config.json", **{key: name, "experts_implementation": "user/experts"})
    model = load_model(AutoModelForSequenceClassification, folder)
    again, tokenizer = kprune.load_teacher(folder, "mnli")
    assert model.config._attn_implementation == again.config._attn_implementation == "sdpa"
    assert model.name_or_path == str(folder) == find_model(str(folder))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert ours.equal(theirs) and ours.dtype == theirs.dtype == torch.float32
    smaller, _ = kprune.prune(model, tiny_sample(), 0.4, progress=False)
    saved = kprune.save(smaller, folder.parent / "smaller", tokenizer)
    change(saved / "config.json", **{key: name})
    assert kprune.load(saved).config._attn_implementation == "sdpa"


def test_the_folder_s_type_is_kept(folder):
    half = tiny("bert", "classification").half()
    half.save_pretrained(folder)
    expected = AutoModelForSequenceClassification.from_pretrained(folder).dtype
    assert load_model(AutoModelForSequenceClassification, folder).dtype == expected


def test_a_folder_without_code_is_opened_as_transformers_opens_it(folder):
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(theirs) and ours.get_vocab() == theirs.get_vocab()
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"model is no folder of a model: it has no config.json"):
        load_config(folder)
