"""The view computes what the Hugging Face model computes, and surgery what masking computes."""

import pytest
import torch
from conftest import KINDS, LAYERS, batch_of, logits, tiny, tiny_sample
from transformers import GPT2Config, GPT2LMHeadModel

import kprune
from kprune.encoders import forward, view
from kprune.surgery import keep_units, masked

FAMILIES = ("bert", "distilbert")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_view_equals_the_model(family, kind):
    model, batch = tiny(family, kind), batch_of(tiny_sample(kind))
    ours = forward(view(model), batch.inputs, batch.mask)
    ours = ours[batch.mask] if kind == "span" else ours
    torch.testing.assert_close(ours, logits(model, batch), atol=1e-5, rtol=1e-5)


def masks(name: str, units: int, t: int) -> torch.Tensor:
    """Which units a test keeps in sublayer t."""
    if name == "all dropped":
        return torch.zeros(units, dtype=torch.bool)
    if (name == "no heads" and t % 2 == 0) or (name == "no neurons" and t % 2 == 1):
        return torch.zeros(units, dtype=torch.bool)
    keep = torch.arange(units) % (2 + t % 3) == 0
    keep[-1] = t == 1
    return keep


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["some", "no heads", "no neurons", "all dropped"])
def test_pruned_equals_masked_in_the_real_model(family, kind, which):
    """Removing units gives the Hugging Face model the logits that silencing them gives."""
    batch = batch_of(tiny_sample(kind))
    model, pruned = tiny(family, kind), tiny(family, kind)
    before = logits(model, batch)
    keeps = [masks(which, sub.units, t) for t, sub in enumerate(view(model).sublayers)]
    contexts = [
        masked(sub, keep.float()) for sub, keep in zip(view(model).sublayers, keeps, strict=True)
    ]
    for context in contexts:
        context.__enter__()
    silenced = logits(model, batch)
    for context in contexts:
        context.__exit__(None, None, None)
    for sub, keep in zip(view(pruned).sublayers, keeps, strict=True):
        keep_units(sub, keep)
    assert [sub.units for sub in view(pruned).sublayers] == [int(keep.sum()) for keep in keeps]
    removed = logits(pruned, batch)
    torch.testing.assert_close(removed, silenced, atol=2e-5, rtol=1e-4)
    through_view = forward(view(pruned), batch.inputs, batch.mask)
    through_view = through_view[batch.mask] if kind == "span" else through_view
    torch.testing.assert_close(through_view, silenced, atol=2e-5, rtol=1e-4)
    assert (silenced - before).abs().max() > 0.1, "the masks must matter for this test to mean much"
    torch.testing.assert_close(logits(model, batch), before)  # masks are off again


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_equals_masked_on_each_sublayer_alone(family):
    batch = batch_of(tiny_sample())
    for t in range(2 * LAYERS):
        model, pruned = tiny(family, "classification"), tiny(family, "classification")
        keep = masks("some", view(model).sublayers[t].units, t)
        with masked(view(model).sublayers[t], keep):
            silenced = logits(model, batch)
        keep_units(view(pruned).sublayers[t], keep)
        torch.testing.assert_close(logits(pruned, batch), silenced, atol=1e-5, rtol=1e-4)
        assert (silenced - logits(model, batch)).abs().max() > 1e-3


def test_pruned_equals_masked_on_real_weights(teacher):
    model, tokenizer = teacher
    sample = kprune.sample("opinions", tokenizer, tokens=2000)
    batch = batch_of(sample)
    import copy

    pruned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    contexts = []
    for ours, theirs in zip(view(model).sublayers, view(pruned).sublayers, strict=True):
        keep = torch.rand(ours.units, generator=generator) < 0.6
        contexts.append(masked(ours, keep))
        keep_units(theirs, keep)
    for context in contexts:
        context.__enter__()
    silenced = logits(model, batch)
    for context in contexts:
        context.__exit__(None, None, None)
    torch.testing.assert_close(logits(pruned, batch), silenced, atol=1e-4, rtol=1e-4)
    assert (silenced - logits(model, batch)).abs().max() > 0.1


def test_flops_agree_with_a_second_count():
    """The paper's formula against torch's own counter, on the encoder's matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny("bert", "span")
    encoder, length = view(model), 12
    hidden = torch.randn(1, length, model.config.hidden_size)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.bert.encoder(hidden)
    assert counter.get_total_flops() == encoder.flops(length)


def test_a_mask_of_the_wrong_shape_is_refused():
    sublayer = view(tiny("bert", "span")).sublayers[1]
    with pytest.raises(ValueError, match="must hold 24 booleans"):
        keep_units(sublayer, torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="booleans"):
        keep_units(sublayer, torch.ones(24))


def test_an_unknown_family_is_refused():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=9, n_positions=8))
    with pytest.raises(ValueError, match=r"the architectures bert, distilbert, and this .* 'gpt2'"):
        view(model)
    with pytest.raises(ValueError, match="open a BertModel; load the model as one of BertFor"):
        view(tiny("bert", "span").bert)
    with pytest.raises(ValueError, match="cannot open a GPT2LMHeadModel"):
        kprune.prune(model, tiny_sample(), rate=0.5)
