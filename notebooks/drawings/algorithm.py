"""Drawing of the algorithm: cycle."""

import math

from primitives import (
    BLUE,
    DARK_GREEN,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PALE_BLUE,
    PALE_GREEN,
    PALE_ORANGE,
    RULE,
    WHITE,
    Drawing,
    Point,
)

STEPS = (
    ("measure", "all units from $t$ up"),
    ("search", "a mask that fits $τ$"),
    ("cut", "units of $t$; $τ$ shrinks"),
    ("tune", "fit $W$ to the teacher"),
    ("advance", "$t ← t + 1$"),
)


def cycle() -> Drawing:
    """The algorithm as a cycle, once round for each sublayer, and the student half-way up."""
    page = Drawing(
        "K-prune goes once round for each sublayer",
        "Left: the five steps measure, search, cut, tune and advance in a circle. In its middle the "
        "hidden states of teacher and student, kept at the target sublayer's input, so that no "
        "lower sublayer runs again. Right: the student at t = 2. The sublayers below are cut and "
        "tuned, those above still whole, and the budget that is left shrinks as t goes up.",
        526,
    )
    ring(page)
    progress(page)
    return page


def ring(page: Drawing) -> None:
    """The five steps, clockwise from the top, and what they work on in the middle."""
    across, down, x, y, half = 160, 186, 246, 264, (74, 33)

    def at(turns: float) -> Point:
        angle = math.tau * (turns / len(STEPS) - 0.25)
        return x + across * math.cos(angle), y + down * math.sin(angle)

    def clear(point: Point, place: int) -> bool:
        """Whether a point is outside the box of a step, with room for an arrow's end."""
        centre = at(place)
        return any(abs(point[side] - centre[side]) > half[side] + 4 for side in (0, 1))

    for place, (name, what) in enumerate(STEPS):
        way = [at(place + step / 100) for step in range(101)]
        if name == "cut":  # straight, along the bottom
            way = [(x, way[0][1]) for x, _ in way]
        way = [point for point in way if clear(point, place) and clear(point, place + 1)]
        page.path([*way[:-6], way[-1]], GREY, 2.5, arrow=True)
        left, top = at(place)[0] - half[0], at(place)[1] - half[1]
        green = name == "tune"
        page.box(
            left,
            top,
            2 * half[0],
            2 * half[1],
            PALE_GREEN if green else FAINT,
            GREEN if green else GREY,
            radius=12,
        )
        page.text(left + half[0], top + 27, f"{place + 1} {name}", size=18, bold=True)
        page.text(left + half[0], top + 51, what, size=14)
    page.lines(x, y - 52, ["hidden states kept", "at the input of $t$"], size=15)
    for side, name, who, fill, dark in (
        (-38, "T", "teacher", GREEN, DARK_GREEN),
        (38, "S", "student", GREY, INK),
    ):
        page.cells(x + side - 22, y - 14, 4, 4, 11, fill)
        page.text(x + side, y + 50, f"$X_{name}$", fill=dark)
        page.text(x + side, y + 70, who, size=15, fill=dark)


def progress(page: Drawing) -> None:
    """The student at t = 2: what each sublayer keeps, and the budget left when its turn comes."""
    kept, left = (0.5, 0.42, 1, 1, 1, 1), (1, 0.79, 0.62, 0.46, 0.31, 0.15)
    page.text(595, 46, "student", bold=True)
    page.text(595, 68, "target $t = 2$")
    page.text(704, 46, "budget", bold=True)
    page.text(704, 68, "$τ$ left")
    page.box(490, 300, 258, 42, PALE, radius=8)
    for t, (share, budget) in enumerate(zip(kept, left, strict=True)):
        y, (pale, dark) = 426 - 60 * t, ((PALE_BLUE, BLUE), (PALE_ORANGE, ORANGE))[t % 2]
        page.path([(595, y), (595, y - 28)], GREY, arrow=True)
        page.text(536, y + 21, f"$t = {t}$", anchor="end")
        page.box(546, y, 98, 32, WHITE, RULE, 1.25, dash="3 3")
        page.box(595 - 49 * share, y, 98 * share, 32, pale, dark)
        page.text(595, y + 21, ("MHA", "FFN")[t % 2], size=15)
        page.box(668, y + 8, 72, 16, WHITE, RULE, 1.25, 2, "3 3")
        page.box(
            668,
            y + 8,
            72 * budget,
            16,
            GREY if t <= 2 else PALE,
            GREY if t <= 2 else RULE,
            radius=2,
        )
    for x, name, fill, dark in ((581, "T", GREEN, DARK_GREEN), (609, "S", GREY, INK)):
        page.circle(x, 354, 5.5, fill)
        page.text(x + (x - 595) * 1.7, 359, f"$X_{name}$", fill=dark)
    page.path([(595, 486), (595, 460)], GREY, arrow=True)
    page.text(595, 504, "embedding")
    page.text(246, 498, "dashed: cut units, spent budget; pale: still to come", size=15, fill=GREY)
