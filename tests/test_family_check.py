"""Wrong names of a family are found, and the field at fault is said."""

import re
from dataclasses import replace
from pathlib import Path

import families
import pytest
import transformers
from families import model_of

from kprune.families import ALBERT, BERT, DEBERTA, DISTILBERT, FAMILIES, MODERNBERT, MPNET
from kprune.family_check import check_family

PAGE = (Path(__file__).parents[1] / "notebooks" / "inside.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_names_of_every_family_are_right(family):
    check_family(model_of(family, "classification"))


@pytest.mark.parametrize(
    ("family", "wrong", "field"),
    [
        ("bert", replace(BERT, layers="encoder.layers"), "layers"),
        ("bert", replace(BERT, heads_in=("attention.self.querry",)), "heads_in"),
        ("bert", replace(BERT, heads_in=BERT.heads_in[:2]), "heads_in"),
        ("bert", replace(BERT, sums=("", "")), "sums"),
        ("bert", replace(BERT, sums=("intermediate", "output.LayerNorm")), "sums"),
        ("distilbert", replace(DISTILBERT, neurons_out="ffn.lin3"), "neurons_out"),
        ("mpnet", replace(MPNET, after=BERT.after), "after"),
        ("deberta", replace(DEBERTA, after=BERT.after), "after"),
        ("deberta, keys apart", replace(DEBERTA, others=()), "others"),
        ("albert", replace(ALBERT, sums=BERT.sums), "sums"),
        ("modernbert", replace(MODERNBERT, sums=("mlp", "")), "sums"),
        ("modernbert", replace(MODERNBERT, blocks=(1, 1)), "does not fit together"),
    ],
)
def test_a_wrong_name_is_found_and_its_field_said(family, wrong, field, monkeypatch):
    model = model_of(family, "classification")
    monkeypatch.setitem(FAMILIES, model.config.model_type, wrong)
    with pytest.raises(ValueError, match=field):
        check_family(model)


def test_a_family_that_is_built_like_bert_takes_its_names(monkeypatch):
    """As the page's own example does it."""
    model = transformers.ErnieModel(transformers.ErnieConfig(**families.COMMON))
    with pytest.raises(ValueError, match="to add it"):
        check_family(model)
    monkeypatch.setitem(FAMILIES, "ernie", MODERNBERT)
    (script,) = [one for one in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "ernie" in one]
    exec(compile(script, "inside.md", "exec"), {})
    assert FAMILIES["ernie"] is BERT


@pytest.mark.parametrize("name", ["layoutlm", "rembert", "lilt"])
def test_a_family_built_otherwise_than_its_names_say_is_one_sentence(name, monkeypatch):
    """KeyError and torch's words about shapes."""
    monkeypatch.setitem(FAMILIES, name, BERT)
    small = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "vocab_size": 99}
    model = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(name, intermediate_size=64, **small)
    )
    with pytest.raises(ValueError, match=r"Names|leads|there is no"):
        check_family(model)
