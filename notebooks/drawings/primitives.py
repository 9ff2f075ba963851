"""What the course's drawings are made of: a page of SVG, its colours, and text with mathematics."""

import math
import re
from collections.abc import Callable, Iterable
from html import escape

WIDTH = 760  # of a drawing, in pixels: one column of a page
BLUE, ORANGE, GREEN = "#0173b2", "#de8f05", "#029e73"  # seaborn's "colorblind", as in the figures
PALE_BLUE, PALE_ORANGE, PALE_GREEN = "#cfe4f1", "#fae7c6", "#d3efe6"
DARK_ORANGE, DARK_GREEN = "#985f00", "#017556"  # the same, for text: legible on white
INK, GREY, RULE, PALE, FAINT = "#20262e", "#5b6470", "#a3abb5", "#e3e7ec", "#f4f6f8"
WHITE = "#ffffff"
SANS = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
SERIF = "'STIX Two Text', Cambria, 'Times New Roman', 'Liberation Serif', 'DejaVu Serif', serif"
SIZE, SMALLEST = 16, 12  # of text, in pixels

Point = tuple[float, float]


def number(value: float) -> str:
    """Two decimals at most, so that the files are the same on every machine."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def spans(label: str, size: float, bold: bool = False) -> str:
    r"""Text as tspans: what stands between `$`s is mathematics, with `_{…}` and `^{…}`.

    Single letters are italic there, words and digits upright: `$S_{pred}$`, `$d_h$`, `$2L − 1$`.
    """
    made, level = "", 0.0
    for place, part in enumerate(label.split("$")):
        if place % 2 == 0:
            pieces = [(part, 0, False, False)] if part else []
        else:
            pieces = list(mathematics(part))
        for text, shift, italic, serif in pieces:
            small = max(SMALLEST, 0.75 * size)
            scale = small if shift else 1.1 * size if serif else size
            wanted = -shift * (0.22 if shift < 0 else 0.38) * size
            style = {"dy": wanted - level} if wanted != level else {}
            style |= {"font-size": scale} if scale != size else {}
            style |= {"font-family": SERIF} if serif else {}
            style |= {"font-weight": "normal"} if serif and bold else {}
            style |= {"font-style": "italic"} if italic else {}
            made += element("tspan", escape(text, quote=False), **style)
            level = wanted
    return made


def mathematics(formula: str) -> Iterable[tuple[str, int, bool, bool]]:
    """Pieces of a formula: text, −1 for a subscript or 1 for a superscript, italic, serif."""
    for mark, inner, one, rest in re.findall(r"([_^])(?:\{([^}]*)\}|(.))|([^_^]+)", formula):
        shift = {"_": -1, "^": 1}.get(mark, 0)
        for piece in re.findall(r"[^\W\d_]+|[\W\d_]+", inner or one or rest):
            yield piece, shift, piece.isalpha() and len(piece) == 1, True


def element(tag: str, content: str = "", **attributes: object) -> str:
    """One element; `font_size` becomes `font-size`, and what is None is left out."""
    written = ""
    for name, value in attributes.items():
        if value is not None:
            value = number(value) if isinstance(value, int | float) else escape(str(value))
            written += f' {name.replace("_", "-")}="{value}"'
    return f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>"


class Drawing:
    """A page: white with round corners, so that it can be read on a dark one, too."""

    def __init__(self, title: str, description: str, height: float):
        self.title, self.description, self.height = title, description, height
        self.elements = []

    def add(self, tag: str, content: str = "", **attributes: object) -> None:
        self.elements.append(element(tag, content, **attributes))

    def svg(self, name: str) -> str:
        """The file's text; `name` makes its identifiers unique on a page with several drawings."""
        page = {"width": WIDTH, "height": self.height}
        head = [
            element("title", escape(self.title), id=f"{name}-title"),
            element("desc", escape(self.description), id=f"{name}-desc"),
            element("rect", x=0.5, y=0.5, width=WIDTH - 1, height=self.height - 1, rx=12).replace(
                "/>", f' fill="{WHITE}" stroke="{PALE}"/>'
            ),
        ]
        return (
            element(
                "svg",
                "\n" + "\n".join(head + self.elements) + "\n",
                xmlns="http://www.w3.org/2000/svg",
                **page,
                viewBox=f"0 0 {WIDTH} {number(self.height)}",
                role="img",
                aria_labelledby=f"{name}-title {name}-desc",
                font_family=SANS,
                font_size=SIZE,
            )
            + "\n"
        )

    def text(
        self,
        x: float,
        y: float,
        label: str,
        size: float = SIZE,
        anchor: str = "middle",
        fill: str = INK,
        bold: bool = False,
        turn: float = 0,
    ) -> None:
        """A line of text, with its baseline at `y`; `turn` in degrees about (x, y)."""
        self.add(
            "text",
            spans(label, size, bold),
            x=x,
            y=y,
            font_size=size,
            text_anchor=None if anchor == "start" else anchor,
            fill=fill,
            font_weight="bold" if bold else None,
            transform=f"rotate({number(turn)} {number(x)} {number(y)})" if turn else None,
        )

    def lines(self, x: float, y: float, labels: Iterable[str], leading: float = 20, **how) -> None:
        """Lines of text below one another; `how` as for `text`."""
        for place, label in enumerate(labels):
            self.text(x, y + leading * place, label, **how)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str = WHITE,
        stroke: str | None = None,
        thick: float = 1.5,
        radius: float = 6,
        dash: str | None = None,
    ) -> None:
        self.add(
            "rect",
            x=x,
            y=y,
            width=width,
            height=height,
            rx=radius or None,
            fill=fill,
            stroke=stroke,
            stroke_width=thick if stroke else None,
            stroke_dasharray=dash,
        )

    def circle(self, x: float, y: float, r: float, fill: str = INK, stroke: str = WHITE) -> None:
        self.add("circle", cx=x, cy=y, r=r, fill=fill, stroke=stroke, stroke_width=1.5)

    def path(
        self,
        points: Iterable[Point],
        stroke: str | None = INK,
        thick: float = 1.75,
        dash: str | None = None,
        fill: str = "none",
        arrow: bool = False,
        closed: bool = False,
    ) -> None:
        """A line through points, or an area where `closed`; `arrow` puts a head at its end."""
        points = list(points)
        if arrow:
            *points, tip = points
            points.append(self.arrowhead(points[-1], tip, stroke, 7 + 1.5 * thick))
        drawn = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self.add(
            "polygon" if closed else "polyline",
            points=drawn,
            fill=fill,
            stroke=stroke,
            stroke_width=thick if stroke else None,
            stroke_dasharray=dash,
            stroke_linejoin="round",
            stroke_linecap=None if dash or arrow else "round",
        )

    def arrowhead(self, start: Point, tip: Point, fill: str, size: float) -> Point:
        """A filled triangle that ends in `tip`; gives the middle of its base."""
        far = math.dist(start, tip)
        along = ((tip[0] - start[0]) / far, (tip[1] - start[1]) / far)
        base = (tip[0] - size * along[0], tip[1] - size * along[1])
        side = (-0.42 * size * along[1], 0.42 * size * along[0])
        corners = [
            tip,
            (base[0] + side[0], base[1] + side[1]),
            (base[0] - side[0], base[1] - side[1]),
        ]
        self.path(corners, None, fill=fill, closed=True)
        return base[0] + along[0], base[1] + along[1]

    def cells(
        self,
        x: float,
        y: float,
        rows: int,
        columns: int,
        size: float,
        colour: str | Callable[[int, int], str | None],
    ) -> None:
        """A matrix as a grid of squares; `colour`, or that of (row, column), None leaves one out."""
        for row in range(rows):
            for column in range(columns):
                fill = colour if isinstance(colour, str) else colour(row, column)
                if fill:
                    self.box(
                        x + column * size, y + row * size, size, size, fill, WHITE, 1.25, radius=0
                    )

    def measure(self, start: Point, end: Point, label: str, beside: Point, **how) -> None:
        """A dimension line between two points with its ends marked, and a label `beside` its middle."""
        upright = start[0] == end[0]
        for x, y in (start, end):
            self.path([(x - 4, y), (x + 4, y)] if upright else [(x, y - 4), (x, y + 4)], GREY, 1.25)
        self.path([start, end], GREY, 1.25)
        x, y = (start[0] + end[0]) / 2 + beside[0], (start[1] + end[1]) / 2 + beside[1]
        self.text(x, y, label, fill=GREY, **how)
