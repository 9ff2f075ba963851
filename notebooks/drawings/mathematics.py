"""Drawings of the mathematics: tangent, projection, water."""

import math
from collections.abc import Callable

from primitives import (
    BLUE,
    DARK_GREEN,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE_BLUE,
    PALE_ORANGE,
    RULE,
    WHITE,
    Drawing,
    Point,
)

WATER, WAVES = "#dde9ec", "#6f8f9b"


def tangent() -> Drawing:
    """K_pred over one unit's mask: flat where the student is the teacher, else with a slope."""
    page = Drawing(
        "K_pred is flat at the teacher",
        "Two curves of K_pred over the mask value m of one unit, 0 where the unit is removed and 1 "
        "where it is whole. Left, at t = 0, the student is still the teacher: at m = 1 the curve "
        "touches zero, its tangent is flat and the unit's score is 0, although removing the unit "
        "would cost something. Right, other units are gone: at m = 1 the curve stands above zero, "
        "its tangent has the slope g, and the score is above zero, too.",
        428,
    )
    plot(page, 46, lambda m: 0.62 * (1 - m) ** 2, GREEN)
    plot(page, 428, lambda m: 0.19 + 0.33 * (1.43 - m) ** 2, INK)
    page.text(34, 40, "$t = 0$: student = teacher", 18, anchor="start", bold=True)
    page.text(416, 40, "$t > 0$: other units are gone", 18, anchor="start", bold=True)
    page.text(346, 90, "score $½ · 0^2 = 0$", 18, anchor="end", fill=DARK_GREEN)
    page.text(728, 90, "score $½ · g^2 > 0$", 18, anchor="end")
    page.lines(254, 262, ["tangent is flat:", "gradient $= 0$"], 22, fill=DARK_GREEN)
    page.lines(676, 226, ["tangent has", "a slope $g$"], 22)
    note = (
        "$m$: mask value of one unit, the others as they are; at $t = 0$ it is flat for every unit"
    )
    page.text(380, 404, note, fill=GREY)
    return page


def plot(page: Drawing, left: float, curve: Callable[[float], float], colour: str) -> None:
    """Axes with one curve of K_pred over m, its tangent at m = 1, and what removing costs."""
    bottom, unit, high = 320, 184, 215

    def at(m: float, value: float) -> Point:
        return left + 22 + unit * m, bottom - high * value

    page.path([(left, bottom), (left + 304, bottom)], arrow=True)
    page.path([(left, bottom), (left, 70)], arrow=True)
    page.text(left + 10, 82, "$K_{pred}$", anchor="start")
    page.text(left + 296, bottom + 24, "$m$")
    for m, label in ((0, "removed"), (1, "whole")):
        x, _ = at(m, 0)
        page.path([(x, bottom), (x, bottom + 6)])
        page.text(x, bottom + 25, f"${m}$")
        page.text(x, bottom + 46, label, fill=GREY)
    page.path([at(step / 50, curve(step / 50)) for step in range(73)], RULE, 3)
    if curve(1) > 0:
        page.path([at(0, curve(1)), at(1, curve(1))], GREY, 1.25, "4 4")
    x, y = at(0, curve(0))
    page.path([at(0, curve(1)), (x, y + 7)], GREY, 1.5, arrow=True)
    page.circle(x, y, 6, GREY)
    page.text(x + 16, y - 2, "lost by removing it", anchor="start", fill=GREY)
    grade = (curve(1.001) - curve(0.999)) / 0.002
    page.path([at(1 + side, curve(1) + grade * side) for side in (-0.4, 0.4)], colour, 3.5)
    page.circle(*at(1, curve(1)), 7, colour)


def projection() -> Drawing:
    """Least squares: Y, the plane of all P·W, and the foot that tuning moves to."""
    page = Drawing(
        "Tuning is a projection",
        "A plane through the origin, spanned by the features of two surviving neurons, holds every "
        "output P·W that they can put out. The target Y stands above it. P·W before tuning lies "
        "in the plane, far from Y; tuning moves it to P·W*, the foot of the perpendicular from Y, "
        "where the residual is shortest and at a right angle to the plane.",
        490,
    )
    corner, along, back = (36, 360), (434, 36), (254, -120)

    def at(a: float, b: float) -> Point:
        return tuple(corner[i] + a * along[i] + b * back[i] for i in (0, 1))

    origin, foot, before = at(0.18, 0.25), at(0.63, 0.57), at(0.73, 0.12)
    target = (foot[0], 66)
    page.path([at(0, 0), at(1, 0), at(1, 1), at(0, 1)], RULE, 1.5, fill=FAINT, closed=True)
    for tip, number, x, y in ((at(0.47, 0.25), 1, 4, 22), (at(0.18, 0.64), 2, -2, -10)):
        page.path([origin, tip], ORANGE, 3, arrow=True)
        page.text(tip[0] + x, tip[1] + y, f"$f_{number}$", 18)
    # the right angle at the foot, then the residuals
    side = tuple(0.07 * (origin[i] - foot[i]) for i in (0, 1))
    mark = [
        (foot[0] + side[0], foot[1] + side[1]),
        (foot[0] + side[0], foot[1] + side[1] - 18),
        (foot[0], foot[1] - 18),
    ]
    page.path(mark, GREY, 1.25)
    page.path([target, before], GREY, 2, "2 5")
    page.path([target, foot], INK, 2.25, "2 5")
    page.path([origin, target], GREEN, 3.5)
    page.path([origin, foot], GREEN, 2)
    page.path([before, (foot[0] - 5, foot[1] + 7)], DARK_GREEN, 2.5, arrow=True)
    page.circle(*origin, 5)
    page.circle(*before, 7, GREY)
    page.circle(*foot, 7, GREEN)
    page.circle(*target, 7, GREEN)
    page.text(target[0] + 18, 62, "target $Y =$", 18, anchor="start", fill=DARK_GREEN)
    page.text(target[0] + 18, 88, "$X_T + Sub_T(X_T) − (X_S + b)$", anchor="start", fill=DARK_GREEN)
    page.text(target[0] + 14, 186, "residual $Y − P·W^*$", anchor="start")
    page.text(target[0] + 14, 208, "at a right angle: the shortest", anchor="start", fill=GREY)
    page.text(foot[0] + 16, foot[1] + 8, "$P·W^*$", 18, anchor="start", fill=DARK_GREEN)
    page.text(before[0] + 70, before[1] - 20, "tuning", anchor="start", fill=DARK_GREEN)
    page.text(before[0] - 20, 412, "$P·W$ before tuning")
    page.lines(
        736,
        376,
        ["the plane of all $P·W$ that", "the survivors can put out"],
        22,
        anchor="end",
        fill=GREY,
    )
    note = [
        "$f_1, f_2$: features of two surviving neurons (columns of $P$);",
        "drawn for one output and three tokens",
    ]
    page.lines(24, 446, note, 22, anchor="start", fill=GREY)
    return page


def water() -> Drawing:
    """Algorithm 1: units sorted, ν as the level of water, the budget as the width above it."""
    page = Drawing(
        "Mask search: the water stands at ν",
        "Units as bars, sorted by importance per FLOP from left to right; a bar is as wide as its "
        "unit costs, so that a head (blue) is much wider than a neuron (orange). Bars that rise "
        "above the water at the threshold ν stay; together they are no wider than the budget. The "
        "first bar that is covered would no longer fit.",
        440,
    )
    left, bottom, tall, budget = 70, 340, 270, 444
    bars, x = [], left
    for place, kind in enumerate("nnhnnnhnnnnhnnnhnnnnnh"):  # heads and neurons
        width = 76 if kind == "h" else 15
        bars.append((x, width, tall * (0.93 * math.exp(-0.082 * place) + 0.07), kind))
        x += width
    kept = [bar for bar in bars if bar[0] + bar[1] <= left + budget]
    covered = bars[len(kept)]  # the first
    level, end, room = bottom - covered[2], kept[-1][0] + kept[-1][1], left + budget
    wave = [(left + step, level + 2.5 * math.sin(step / 9)) for step in range(0, x - left + 19, 3)]
    page.path([*wave, (wave[-1][0], bottom), (left, bottom)], None, fill=WATER, closed=True)
    for start, width, height, kind in bars:
        pale, dark = (PALE_BLUE, BLUE) if kind == "h" else (PALE_ORANGE, ORANGE)
        fill = dark if bottom - height < level else pale
        page.box(start, bottom - height, width, height, fill, WHITE, 1.25, 0)
    page.path(wave, WAVES, 2.5)
    page.text(wave[-1][0] + 8, level + 6, "$ν$", 20, anchor="start")
    page.path([(left, bottom), (wave[-1][0] + 12, bottom)], arrow=True)
    page.path([(left, bottom), (left, 40)], arrow=True)
    page.text(48, 190, "importance per FLOP", turn=-90)
    page.text(x + 18, bottom + 22, "FLOPs, added up", anchor="end")
    # what the widths add up to
    page.box(end, bottom + 36, room - end, 18, WHITE, INK, 1.5, 0, "4 3")
    page.box(left, bottom + 36, end - left, 18, GREY, radius=0)
    page.path([(room, bottom + 62), (room, bottom + 4)], INK, 1.5)
    page.text((left + end) / 2, bottom + 78, "all that stays fits the budget $τ$")
    page.lines(
        room + 10,
        bottom + 56,
        ["the next unit would not,", "and its height is $ν$"],
        22,
        anchor="start",
    )
    # what is what
    for y, fill, width, text in (
        (46, BLUE, 40, "a head: costs much, so it is wide"),
        (78, ORANGE, 12, "a neuron: costs little"),
    ):
        page.box(340, y, width, 20, fill, radius=0)
        page.text(392, y + 16, text, anchor="start")
    page.text(end - 130, 150, "above the water: stays", anchor="start", bold=True)
    page.text(end + 26, level - 14, "under water: leaves", anchor="start", bold=True, fill=GREY)
    return page
