"""The model's own forward, entered and left at layers; what is cut equals what is masked."""

import copy

import pytest
import torch
from conftest import tiny_sample
from families import D_H, FAMILIES, HEADS, KINDS, LAYERS, NEURONS, batch_of, model_of, outputs
from transformers import BertForMaskedLM, BertForMultipleChoice, GPT2Config, GPT2LMHeadModel

import kprune
from kprune.encoders import Encoder, tapped
from kprune.measuring import measure
from kprune.state import State
from kprune.surgery import keep_units, masked

EXACT = {"rtol": 1e-9, "atol": 1e-9}
EVERY = pytest.mark.parametrize("family", FAMILIES)


def squares(z):
    """Some loss of each sample, which a normalised output does not make constant."""
    weights = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    return (z.square() * weights).flatten(1).sum(1)


@EVERY
@pytest.mark.parametrize("kind", KINDS)
def test_entered_in_the_middle_equals_the_whole_forward(family, kind):
    """Outputs and mask gradients, from every sublayer up; also in stretches of one layer."""
    model, batch = model_of(family, kind), batch_of()
    encoder = Encoder(model).copy()
    assert encoder.kind.name == kind
    real = batch.attention_mask.bool()
    whole = encoder.run(batch)
    if kind != "embedding":
        own = whole[real] if whole.dim() == 3 else whole
        torch.testing.assert_close(own, outputs(model, batch), **EXACT)
    real_outputs = real[..., None] if whole.dim() == 3 else 1

    def loss(z):
        return squares(z * real_outputs)

    everything = measure(encoder, 0, batch, None, loss)
    torch.testing.assert_close(everything.outputs, whole, **EXACT)
    State(encoder, encoder, tiny_sample(kind))  # which sees what the head reads
    pooled = kind in ("classification", "regression", "multilabel") and "mean" not in family
    assert encoder.kind.first_only == pooled
    for t in range(2 * LAYERS):
        hidden = encoder.run(batch, stop=t)
        assert hidden.shape == (*real.shape, HEADS * D_H)
        for stretch in (None, 1):
            found = measure(encoder, t, batch, hidden, loss, stretch)
            torch.testing.assert_close(found.outputs, whole, **EXACT)
            for one, other in zip(found.gradients, everything.gradients[t:], strict=True):
                torch.testing.assert_close(one, other, **EXACT)
                assert one.abs().max() > 1e-6, "a mask that does not matter tests nothing"
            for one, other in zip(found.squares, everything.squares[t:], strict=True):
                torch.testing.assert_close(one, other, **EXACT)
    top = encoder.run(batch, stop=2 * LAYERS)
    torch.testing.assert_close(encoder.run(batch, top, 2 * LAYERS), whole, **EXACT)


@EVERY
def test_mask_gradients_are_those_of_mask_variables(family):
    """Against finite differences of the masked model."""
    encoder, batch = Encoder(model_of(family, "classification")).copy(), batch_of()
    found = measure(encoder, 0, batch, None, squares)
    for t, sublayer in enumerate(encoder.sublayers):
        ends, step = [], 1e-3  # ModernBERT turns queries in float32, whatever its type
        for change in (step, -step):
            mask = torch.ones(sublayer.units, dtype=torch.float64)
            mask[1] += change
            with masked(sublayer, mask):
                ends.append(squares(encoder.run(batch)))
        slope = (ends[0] - ends[1]) / (2 * step)
        own = found.gradients[t].unflatten(-1, (-1, sublayer.unit_size)).sum(-1)[:, 1]
        torch.testing.assert_close(own, slope, rtol=1e-3, atol=1e-3)


def kept(which: str, units: int, t: int) -> torch.Tensor:
    """Which units a test keeps in sublayer t."""
    none = torch.zeros(units, dtype=torch.bool)
    if which == "nothing left" or which == ("no heads", "no neurons")[t % 2]:
        return none
    if which == "two heads" and t % 2 == 0:
        return torch.tensor([True, False, False, True])
    keep = torch.arange(units) % (2 + t % 3) == 0
    keep[-1] = t == 1
    return keep


@EVERY
@pytest.mark.parametrize("kind", ["classification", "span", "embedding"])
@pytest.mark.parametrize("which", ["two heads", "no heads", "no neurons", "nothing left"])
def test_cut_equals_masked(family, kind, which):
    """Removing units gives the Hugging Face model the outputs that silencing them gives."""
    batch = batch_of()
    encoder, smaller = (Encoder(model_of(family, kind)) for _ in range(2))
    before = outputs(encoder.model, batch)
    keeps = [kept(which, sub.units, t) for t, sub in enumerate(encoder.sublayers)]
    contexts = [masked(s, k.double()) for s, k in zip(encoder.sublayers, keeps, strict=True)]
    for context in contexts:
        context.__enter__()
    silenced = outputs(encoder.model, batch)
    for context in contexts:
        context.__exit__(None, None, None)
    for sublayer, keep in zip(smaller.sublayers, keeps, strict=True):
        keep_units(sublayer, keep)
    assert [sub.units for sub in smaller.sublayers] == [int(keep.sum()) for keep in keeps]
    assert all(weight.numel() for weight in smaller.model.state_dict().values())
    torch.testing.assert_close(outputs(smaller.model, batch), silenced, **EXACT)
    torch.testing.assert_close(outputs(copy.deepcopy(smaller.model), batch), silenced, **EXACT)
    assert (silenced - before).abs().max() > 0.01, "the masks must matter"
    torch.testing.assert_close(outputs(encoder.model, batch), before)  # masks are off again


@EVERY
def test_cut_twice_equals_cut_once(family):
    batch = batch_of()
    twice, once = (Encoder(model_of(family, "classification")) for _ in range(2))
    for t, sublayer in enumerate(twice.sublayers):
        keep = torch.arange(sublayer.units) % 4 != 1
        keep_units(sublayer, keep)
        again = torch.arange(int(keep.sum())) != 0
        keep_units(Encoder(twice.model).sublayers[t], again)
        final = torch.zeros(len(keep), dtype=torch.bool)
        final[keep.nonzero().flatten()[again]] = True
        keep_units(once.sublayers[t], final)
    torch.testing.assert_close(outputs(twice.model, batch), outputs(once.model, batch), **EXACT)


@EVERY
def test_what_passes_by_is_the_sublayer(family):
    """Features times the output projection, and X, make X + Sub(X); the next layer's input."""
    encoder, batch = Encoder(model_of(family, "classification")).copy(), batch_of()
    hidden = encoder.run(batch, stop=2)
    totals = []
    with encoder.sublayers[3].total(totals.append), tapped([encoder.sublayers[2]]) as features:
        encoder.run(batch, hidden, 2, 4)
    P, total = encoder.passing(batch, hidden, 2)
    torch.testing.assert_close(P, features[0])
    torch.testing.assert_close(total - encoder.sublayers[2].output(P), hidden, **EXACT)
    torch.testing.assert_close(encoder.passing(batch, total, 3)[1], totals[0])


def test_flops_of_bert_are_the_papers():
    encoder, s, d = Encoder(model_of("bert", "classification")), 25.16, HEADS * D_H
    head, neuron = (sub.unit_flops(s) for sub in encoder.sublayers[:2])
    assert head == pytest.approx(3 * 2 * s * d * D_H + 2 * 2 * s**2 * D_H + 2 * s * D_H * d)
    assert neuron == pytest.approx(2 * 2 * s * d)
    assert encoder.flops(s) == pytest.approx(LAYERS * (HEADS * head + NEURONS * neuron))
    gated = Encoder(model_of("modernbert", "classification")).sublayers
    assert gated[1].unit_flops(s) == pytest.approx(1.5 * neuron)
    assert gated[0].unit_flops(s) == pytest.approx(head)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_flops_agree_with_a_second_count(family):
    """Torch's own counter, on the matrix products of a whole run without the head."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    encoder = Encoder(model_of(family, "span"))
    batch = batch_of([{"input_ids": list(range(3, 10))}])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        encoder.model.base_model(**batch.inputs)
    assert counter.get_total_flops() == encoder.flops(7)


def test_a_mask_of_the_wrong_shape_is_refused():
    sublayer = Encoder(model_of("bert", "span")).sublayers[1]
    with pytest.raises(ValueError, match="FFN of layer 1 must hold 24 booleans"):
        keep_units(sublayer, torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="booleans"):
        keep_units(sublayer, torch.ones(24))


def test_what_is_not_known_is_refused():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=9, n_positions=8))
    with pytest.raises(ValueError, match=r"the families bert, .* 'gpt2'; to add it"):
        Encoder(model)
    config = model_of("bert", "span").config
    for other in (BertForMaskedLM, BertForMultipleChoice):
        with pytest.raises(ValueError, match=f"cannot open a {other.__name__}: it knows models"):
            Encoder(other(config))
    config.chunk_size_feed_forward = 4
    with pytest.raises(ValueError, match="chunks"):
        Encoder(BertForMaskedLM(config))
    with pytest.raises(ValueError, match="cannot open a GPT2LMHeadModel"):
        kprune.prune(model, ["a text"])
    with pytest.raises(ValueError, match=r"got a str .*a path; load it first"):
        kprune.prune("some/folder", ["a text"])


def test_an_encoder_and_a_step_say_what_they_are():
    model = model_of("bert", "classification")
    assert repr(Encoder(model)).startswith("Encoder(BertForSequenceClassification, heads [4, 4")
    assert Encoder(model).sublayers[3].name == "FFN of layer 2"


def test_a_tied_albert_stays_tied_in_the_users_hands():
    model = model_of("albert, tied", "classification")
    before = list(model.state_dict())
    encoder = Encoder(model)
    assert len(encoder.layers) == LAYERS and encoder.model is not model
    assert list(model.state_dict()) == before and model.config.num_hidden_groups == 1
