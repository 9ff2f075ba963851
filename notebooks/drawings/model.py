"""Drawings of the model: encoder and surgery."""

from collections.abc import Callable

from primitives import (
    BLUE,
    DARK_ORANGE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    PALE,
    PALE_BLUE,
    PALE_ORANGE,
    RULE,
    WHITE,
    Drawing,
)

HEADS, FEATURES, NEURONS, HIDDEN, TOKENS = 3, 2, 8, 6, 5  # H, d_h, N, d of the drawn model
HEAD, NEURON = 1, 3  # the unit in full colour
CELL, SIDE = 9, 15  # of a matrix, in pixels

Colour = Callable[[int], str]  # of a feature


def of_head(number: int) -> str:
    """The colour of feature `number` of attention."""
    return BLUE if number // FEATURES == HEAD else PALE_BLUE


def of_neuron(number: int) -> str:
    """The colour of feature `number` of an FFN."""
    return ORANGE if number == NEURON else PALE_ORANGE


def encoder() -> Drawing:
    """An encoder as 2L sublayers, and one of each kind from the inside."""
    page = Drawing(
        "An encoder is a stack of 2L sublayers",
        "Left: embedding, sublayers t = 0 to 2L − 1 from the bottom up, attention (MHA) and FFN in "
        "turns, and the task's head. Right: an attention sublayer takes X through the query, key "
        "and value projections to its heads, whose features side by side are P; it puts out the "
        "LayerNorm of X + P·W + b. An FFN sublayer does the same with neurons. One head is d_h "
        "columns of P and d_h rows of W; one neuron is one column and one row.",
        592,
    )
    page.text(106, 48, "An encoder:", bold=True)
    page.text(106, 70, "$2L$ sublayers")
    opened = stack(page)
    for kind, top in (("FFN", 20), ("MHA", 304)):
        low, high = opened[kind]
        page.path(
            [(177, low), (196, top + 8), (196, top + 260), (177, high)],
            None,
            fill=PALE,
            closed=True,
        )
        page.box(196, top, 548, 268, FAINT, RULE, 1.25, radius=10)
        inside(page, kind, top)
    return page


def stack(page: Drawing) -> dict[str, tuple[float, float]]:
    """The whole encoder at the left; gives top and bottom of the two sublayers to be opened."""
    left, width, height, opened = 36, 140, 48, {}
    names = [("0", "1"), ("2", "3"), ("2L−2", "2L−1")]
    layers = ["layer 1", "layer 2", "layer $L$"]
    y = 572.0 - 36
    page.box(left, y, width, 36, FAINT, RULE)
    page.text(left + width / 2, y + 23, "embedding")
    for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
        gap = 46 if number == 2 else 20
        page.path([(left + width / 2, y), (left + width / 2, y - gap)], GREY, arrow=number != 2)
        if number == 2:
            page.box(left + width / 2 - 12, y - 37, 24, 28, WHITE)
            for dot in (-32, -23, -14):
                page.circle(left + width / 2, y + dot, 2, GREY)
            page.path([(left + width / 2, y - 38), (left + width / 2, y - 46)], GREY)
        y -= gap
        for kind, t in zip(("MHA", "FFN"), name, strict=True):
            y -= height
            page.box(left, y, width, height, WHITE, INK if number == 1 else RULE)
            page.text(left + 8, y + 20, kind, 15, "start", bold=True)
            page.text(left + width - 7, y + 20, f"$t = {t}$", 14, "end")
            count = HEADS if kind == "MHA" else NEURONS
            unit = (120 - 4 * (count - 1)) / count
            for place in range(count):
                fill = of_head(place * FEATURES) if kind == "MHA" else of_neuron(place)
                page.box(left + 10 + place * (unit + 4), y + 29, unit, 11, fill, radius=2)
            if number == 1:
                opened[kind] = (y, y + height)
            y -= 4 if kind == "MHA" else 0
        page.text(24, y + height + 2, layer, fill=GREY, turn=-90)
    page.path([(left + width / 2, y), (left + width / 2, y - 20)], GREY, arrow=True)
    page.box(left, y - 56, width, 36, FAINT, RULE)
    page.text(left + width / 2, y - 33, "task’s head")
    return opened


def inside(page: Drawing, kind: str, top: float) -> None:
    """One sublayer, from X to LayerNorm(X + P·W + b), with one unit in full colour."""
    heads, middle, below = kind == "MHA", top + 138, top + 212
    count, colour, solid = (
        (HEADS * FEATURES, of_head, BLUE) if heads else (NEURONS, of_neuron, ORANGE)
    )
    name = "Attention sublayer (MHA)" if heads else "Feed-forward sublayer (FFN)"
    page.text(212, top + 27, name, anchor="start", bold=True)
    page.text(732, top + 27, "$LayerNorm(X + P·W + b)$", anchor="end")
    # X, and the way around everything to the sum
    around = [(248, middle - 24), (248, middle - 76), (648, middle - 76), (648, middle - 13)]
    page.path(around, arrow=True)
    page.cells(212, middle - 22.5, TOKENS, HIDDEN, CELL, RULE)
    page.text(228, middle - 31, "$X$")
    page.lines(239, below, ["tokens", "$× d$"], 19, fill=GREY)
    # the units
    (attention if heads else feed_forward)(page, middle, below)
    # P·W + b
    right, high = 456 + count * CELL, count * CELL / 2
    page.cells(456, middle - 22.5, TOKENS, count, CELL, lambda row, column: colour(column))
    page.text((456 + right) / 2, middle - 31, "$P$")
    page.lines(
        (456 + right) / 2, below, ["tokens", "$× H·d_h$" if heads else "$× N$"], 19, fill=GREY
    )
    page.circle((right + 546) / 2, middle, 2.5)
    page.cells(546, middle - high, count, HIDDEN, CELL, lambda row, column: colour(row))
    page.text(573, middle - high - 9, "$W$")
    page.text(536, middle + high + 21, "+", 18)
    page.cells(546, middle + high + 10, 1, HIDDEN, CELL, RULE)
    page.text(612, middle + high + 20, "$b$")
    # the sum and the norm
    page.path([(602, middle), (636, middle)], arrow=True)
    page.circle(648, middle, 12, WHITE, INK)
    page.text(648, middle + 6, "+", 18)
    page.path([(660, middle), (681, middle)], arrow=True)
    page.box(681, middle - 52, 28, 104, WHITE, INK)
    page.text(700.5, middle, "LayerNorm", turn=-90)
    page.path([(709, middle), (738, middle)], arrow=True)
    # what one unit is
    page.box(212, top + 243, 14, 14, solid, radius=3)
    one = (
        "head is $d_h$ columns of $P$ and $d_h$ rows"
        if heads
        else "neuron is a column of $P$ and a row"
    )
    page.text(234, top + 255, f"One {one} of $W$.", anchor="start")


def attention(page: Drawing, middle: float, below: float) -> None:
    """From X to the heads' features: Q, K, V and three heads."""
    for place, letter in enumerate("QKV"):
        y = middle + 40 * (place - 1)
        page.path([(268, middle + 9 * (place - 1)), (298, y)], arrow=True)
        page.box(298, y - 16, 48, 32, WHITE, RULE, radius=3)
        for band in range(HEADS):
            page.box(329, y - 14 + band * 9.5, 14, 8.5, of_head(band * FEATURES), radius=1)
        page.text(314, y + 6, f"${letter}$")
        page.path([(346, y), (376, middle + 8 * (place - 1))], arrow=True)
    for place in range(HEADS):
        y = middle + 38 * (place - 1)
        page.box(376, y - 15, 52, 30, of_head(place * FEATURES), radius=8)
    page.text(402, middle + 5, "head", fill=WHITE, bold=True)
    page.path([(428, middle), (455, middle)], arrow=True)
    page.lines(322, below, ["input", "weights"], 19, fill=GREY)
    page.text(402, below, "$H$ heads", fill=GREY)


def feed_forward(page: Drawing, middle: float, below: float) -> None:
    """From X to the neurons' features."""
    page.path([(268, middle), (298, middle)], arrow=True)
    page.box(298, middle - 47, 48, 94, WHITE, RULE, radius=3)
    for band in range(NEURONS):
        page.box(301, middle - 44 + band * 11.1, 42, 9.8, of_neuron(band), radius=1)
    for place in range(NEURONS):
        y = middle + 12.6 * (place - NEURON)
        page.circle(402, y, 5.5, of_neuron(place), ORANGE)
    page.path([(347, middle), (393, middle)], arrow=True)
    page.path([(411, middle), (455, middle)], arrow=True)
    page.lines(322, below, ["input", "weight"], 19, fill=GREY)
    page.text(402, below, "$N$ neurons", fill=GREY)


def surgery() -> Drawing:
    """What leaves with a head, and what with a neuron."""
    page = Drawing(
        "What leaves with a head, and what with a neuron",
        "Weights as torch keeps them, outputs by inputs. With head h leave its d_h rows of the "
        "query, key and value weights, with their biases, and its d_h columns of the output "
        "weight. With a neuron leave one row of the input weight, with its bias, and one column "
        "of the output weight. The output bias and the hidden size d stay as they are.",
        612,
    )
    page.text(24, 40, "A head leaves", anchor="start", bold=True, size=18, fill=BLUE)
    page.text(736, 40, "weights as torch keeps them: [outputs, inputs]", anchor="end", fill=GREY)
    for x, name in ((84, "query"), (238, "key"), (392, "value")):
        input_weight(page, x, 98, name, HEADS * FEATURES, of_head)
    page.measure((68, 98), (68, 188), "$H·d_h$", (-30, 5))
    page.text(300, 284, "with $d_h$ rows of each")
    output_weight(page, 566, 98, HEADS * FEATURES, of_head, "$H·d_h$")
    page.text(630, 284, "and $d_h$ columns")
    page.path([(24, 306), (736, 306)], PALE)
    page.text(24, 344, "A neuron leaves", anchor="start", bold=True, size=18, fill=DARK_ORANGE)
    input_weight(page, 84, 400, "input", NEURONS, of_neuron)
    page.measure((68, 400), (68, 520), "$N$", (-18, 5))
    page.text(150, 586, "with one row")
    output_weight(page, 536, 400, NEURONS, of_neuron, "$N$")
    page.text(596, 586, "and one column")
    page.box(266, 386, 218, 140, FAINT, RULE, 1.25, radius=10)
    page.text(284, 412, "What stays", anchor="start", bold=True)
    staying = [
        "the output bias $b$",
        "the hidden size $d$, so",
        "that every sublayer",
        "fits its neighbours",
    ]
    page.lines(284, 438, staying, 23, anchor="start")
    return page


def input_weight(page: Drawing, x: float, y: float, name: str, rows: int, colour: Colour) -> None:
    """[rows, d], and its bias at the right; the rows of one unit step aside."""
    gone = [row for row in range(rows) if colour(row) in (BLUE, ORANGE)]
    page.text(x + 45, y - 12, name, bold=True)
    page.text(x + 102, y - 12, "bias", fill=GREY)
    for columns, left in ((HIDDEN, x), (1, x + 95)):
        page.cells(
            left, y, rows, columns, SIDE, lambda row, column: None if row in gone else colour(row)
        )
        page.cells(left + 22, y + gone[0] * SIDE, len(gone), columns, SIDE, colour(gone[0]))
    middle = y + (gone[0] + len(gone) / 2) * SIDE
    page.path([(x + 133, middle), (x + 147, middle)], colour(gone[0]), arrow=True)
    page.measure((x, y + rows * SIDE + 14), (x + 90, y + rows * SIDE + 14), "$d$", (0, 20))


def output_weight(
    page: Drawing, x: float, y: float, columns: int, colour: Colour, width: str
) -> None:
    """[d, columns], and its bias at the right; the columns of one unit step down, the bias stays."""
    gone = [column for column in range(columns) if colour(column) in (BLUE, ORANGE)]
    right, high = x + columns * SIDE + 8, HIDDEN * SIDE
    page.text(x + columns * SIDE / 2, y - 12, "output $W^⊤$", bold=True)
    page.text(right + 7, y - 12, "$b$")
    page.cells(
        x, y, HIDDEN, columns, SIDE, lambda row, column: None if column in gone else colour(column)
    )
    page.cells(x + gone[0] * SIDE, y + 22, HIDDEN, len(gone), SIDE, colour(gone[0]))
    page.cells(right, y, HIDDEN, 1, SIDE, RULE)
    middle = x + (gone[0] + len(gone) / 2) * SIDE
    page.path([(middle, y + high + 25), (middle, y + high + 39)], colour(gone[0]), arrow=True)
    page.measure((right + 30, y), (right + 30, y + high), "$d$", (15, 5))
    page.measure((x, y + high + 48), (right - 8, y + high + 48), width, (0, 21))
    page.text(right + 8, y + high + 22, "stays")
