"""A run drawn as it goes up the sublayers: whole, and as the report has it."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from conftest import tiny, tiny_sample

import kprune
from kprune.finishing import finished
from kprune.laboratory.lessons import animation
from kprune.laboratory.lessons.sweep import Sweep
from kprune.methods import METHODS
from kprune.pruning import prepared

RATE = 0.6
SCORES = [0.9, 0.85, 0.8, 0.82, 0.7, 0.71]


def swept(scores=(), method="kprune", rate=RATE):
    model, sample = tiny("bert", "classification"), tiny_sample(count=60)
    sample = replace(sample, labels=[0, 1] * 30)
    job = prepared(model, sample, kprune.Options(rate, method, precision="full"), progress=False)
    sweep = Sweep((1 - rate) * kprune.flops(model, sample.length), 0.95 if scores else None)
    done = []
    for step in job.run():
        done.append(step)
        sweep.add(step, scores[step.t] if scores else None)
    return sweep, *finished(job, done), (model, sample)


def shown(sweep) -> list[tuple[str, set[str], dict[str, str]]]:
    """Name, classes and attributes of all that is drawn; fails where it is not well-formed."""
    root = ElementTree.fromstring(sweep._repr_html_())
    return [(x.tag.split("}")[1], {*x.get("class", "").split()}, x.attrib) for x in root.iter()]


def test_there_is_a_frame_for_each_sublayer():
    sweep, _, report, _ = swept(SCORES)
    drawn = shown(sweep)
    count = len(report.kept)
    assert len(sweep.frames) == count == 6
    for kind in ("now", "come", "left"):
        of = {c for _, classes, _ in drawn if kind in classes for c in classes if c[0] == "t"}
        assert of == {f"t{t}" for t in range(count)}, kind
    style = ElementTree.fromstring(sweep._repr_html_())[0].text
    assert style.count("@keyframes") == 5 * count
    assert not {"script", "animate", "image", "use"} & {name for name, *_ in drawn}


@pytest.mark.parametrize("scores", [SCORES, ()])
def test_what_stays_is_what_the_report_says(scores):
    sweep, _, report, _ = swept(scores)
    units = [(classes, one) for _, classes, one in shown(sweep) if classes & {"stays", "gone"}]
    lines = sorted({float(one["y"]) for _, one in units}, reverse=True)  # layer 1 is the lowest
    heads, neurons = ([x for x in units if x[1]["fill"] == hue] for hue in animation.COLOURS)
    assert len(heads) == sum(report.dense_heads)
    for layer, y in enumerate(lines):
        here = [one for classes, one in heads if "stays" in classes and float(one["y"]) == y]
        assert len(here) == report.heads[layer]
        share = report.neurons[layer] / report.dense_neurons[layer]
        (bar,) = (o for classes, o in neurons if "stays" in classes and float(o["y"]) == y)
        assert float(bar["width"]) == pytest.approx(animation.BAR * share, abs=0.06)


def test_the_budget_is_spent_as_the_report_says():
    sweep, _, report, _ = swept()
    spent = [frame.spent for frame in sweep.frames]
    assert sum(spent) == pytest.approx(report.flops / report.limit)
    assert sweep.frames[-1].left == pytest.approx(1 - sum(spent))
    assert [(frame.before, frame.after) for frame in sweep.frames] == [
        (tuned.before, tuned.after) for tuned in report.tuning
    ]


def test_stepping_by_hand_gives_what_prune_gives():
    sweep, pruned, report, (model, sample) = swept()
    theirs, told = kprune.prune(model, sample, RATE, precision="full", progress=False)
    mine, other = report.to_dict(), told.to_dict()
    assert mine.pop("seconds").keys() == other.pop("seconds").keys()
    assert mine == other
    for one, another in zip(pruned.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, another)
    assert [sum(frame.keep) for frame in sweep.frames] == [*map(len, told.kept)]


def test_a_line_says_what_became_of_a_sublayer():
    sweep, _, report, _ = swept(SCORES)
    assert sweep.header.split()[-1] == "score"
    line = str(sweep.frames[1])
    assert line.startswith("FFN of layer 1") and line.endswith("0.850")
    assert f"{report.neurons[0]} of {report.dense_neurons[0]}" in line
    assert f"{report.tuning[1].before:.1%} → {report.tuning[1].after:.1%}" in line
    assert len(line) == len(sweep.header)
    assert f"{report.heads} heads" in repr(sweep)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_drawn(method):
    sweep, _, report, _ = swept(method=method, rate=0.2)
    assert [sum(frame.keep) for frame in sweep.frames] == [*map(len, report.kept)]
    assert sum(f.spent for f in sweep.frames) == pytest.approx(report.flops / report.limit)
    assert shown(sweep)
