"""A run as an animated drawing (SVG): units vanish sublayer by sublayer as the budget is spent.

It moves by CSS alone. It stops under the mouse; where nothing can move, or for a reader who wants
no motion, it shows the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from matplotlib.colors import to_hex

from kprune.encoders import name_of
from kprune.laboratory.figures import BLUE, GREEN, ORANGE

if TYPE_CHECKING:
    from kprune.laboratory.lessons.sweep import Frame

COLOURS, TUNED, CUT = (to_hex(BLUE), to_hex(ORANGE)), to_hex(GREEN), "#949494"
INK, LEFT = "#333333", "#dddddd"
SECONDS, FIRST, LAST = 1.0, 1, 4  # of a frame; frames before the first sublayer, after the last
WIDTH, EDGE, TOP, ROW, HEADS, BAR, PLOT = 720, 62, 50, 22, 262, 290, 70  # pixels


def rect(x: float, y: float, width: float, height: float, fill: str, kind: str = "") -> str:
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {size} fill="{fill}" class="{kind}" shape-rendering="crispEdges"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} class="{kind}">{escape(words)}</text>'


def svg(frames: Sequence[Frame], alt: str, start: float | None = None, metric: str = "") -> str:
    """The drawing of a run's frames; `start` is the teacher's score, where there are scores."""
    low = TOP + ROW * -(-len(frames) // 2)
    body, low = [*_encoder(frames, low), *_budget(frames, low + 12)], low + 74
    if errors := [error for f in frames for error in (f.before, f.after) if error is not None]:
        title = "output error of each sublayer: grey as cut, green as tuned"
        series = {"before": CUT, "after": TUNED}
        body += _plot(frames, low, title, series, [0, _up(max(errors) or 0.1, 0.1)])
        low += PLOT + 52
    if scores := [frame.score for frame in frames if frame.score is not None]:
        title = f"{metric} after each sublayer; the line is the teacher's"
        lines = [1 - _up(1.1 - min(scores), 0.2), 1, start]
        body += _plot(frames, low, title, {"score": INK}, lines)
        low += PLOT + 52
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sweep" viewBox="0 0 {WIDTH} {low - 26}" '
        f'style="max-width:{WIDTH}px" role="img" aria-label={quoteattr(alt)} fill="{INK}" '
        f'font-family="sans-serif" font-size="12">{_style(len(frames))}'
        f"{rect(0, 0, WIDTH, low, 'white')}{''.join(body)}</svg>"
    )


def _up(value: float, step: float) -> float:
    return step * -(-value // step)


def _style(count: int) -> str:
    """Of each frame t: what is `gone` or has `come` with it, is `still` there, or `now` alone."""
    whole = FIRST + count + LAST
    rules = [".sweep .now,.sweep .left,.sweep .still{opacity:0}"]
    rules += [".sweep .gone{opacity:.15}.sweep .end{opacity:1}"]
    moves = [".sweep:hover *{animation-play-state:paused}"]
    for t in range(count):
        at, soon, over = (100 * (FIRST + t + more) / whole for more in (0, 0.4, 1))
        until = f"{at - 0.01:.2f}%{{opacity:0}}{at:.2f}%,{over - 0.01:.2f}%{{opacity:1}}"
        courses = {
            "gone": f"0%,{at:.2f}%{{opacity:1}}{soon:.2f}%,100%{{opacity:.15}}",
            "left": f"0%,{at:.2f}%{{opacity:1}}{soon:.2f}%,100%{{opacity:0}}",
            "still": f"0%,{at - 0.01:.2f}%{{opacity:1}}{at:.2f}%,100%{{opacity:0}}",
            "come": f"0%,{at:.2f}%{{opacity:0}}{soon:.2f}%,100%{{opacity:1}}",
            "now": f"0%,{until}{over:.2f}%,100%{{opacity:{int(t == count - 1)}}}",
        }
        for kind, course in courses.items():
            rules.append(f"@keyframes sweep-{count}-{kind}-{t}{{{course}}}")
            move = f"sweep-{count}-{kind}-{t} {SECONDS * whole}s infinite"
            moves.append(f".sweep .{kind}.t{t}{{animation:{move}}}")
    calm = "@media (prefers-reduced-motion:no-preference)"
    return f"<style>{''.join(rules)}{calm}{{{''.join(moves)}}}</style>"


def _encoder(frames: Sequence[Frame], bottom: float) -> list[str]:
    """Layers, the first lowest: a square for each head, a bar as long as the share of neurons."""
    titles = "heads (pale: removed)", "neurons (share of the bar)"
    found = [text(EDGE + HEADS * n, TOP - 6, title) for n, title in enumerate(titles)]
    found.append(text(EDGE, 18, "the teacher: every unit is there", "still t0"))
    for t, frame in enumerate(frames):
        x, y = EDGE + HEADS * (t % 2), bottom - ROW * (t // 2 + 1)
        size, kept = (BAR if t % 2 else HEADS - 84), sum(frame.keep) / max(1, len(frame.keep))
        parts = [(kept, True), (1 - kept, False)] if t % 2 else []
        place, gap = x, 0 if parts else 3
        for share, stays in parts or [(1 / len(frame.keep), stays) for stays in frame.keep]:
            kind = "stays" if stays else f"gone t{t}"
            found.append(rect(place, y + 3, size * share - gap, ROW - 8, COLOURS[t % 2], kind))
            place += size * share
        error = "" if frame.before is None else f", error {frame.before:.0%} → {frame.after:.0%}"
        last = " end" * (t == len(frames) - 1)
        found.append(text(x + size + 6, y + 14, frame.kept, f"come t{t}"))
        found.append(text(EDGE, 18, f"{name_of(t)}: {frame.kept} stay{error}", f"now t{t}{last}"))
        found.append(text(x - 12, y + 14, "▸", f"now t{t}"))
        found += [] if t % 2 else [text(4, y + 14, f"layer {t // 2 + 1}")]
    return found


def _budget(frames: Sequence[Frame], y: float) -> list[str]:
    """The budget as a bar: each sublayer takes what its survivors cost."""
    x, size, found = EDGE, HEADS + BAR, [text(4, y + 12, "budget")]
    for t, frame in enumerate(frames):
        found.append(rect(x, y, size * frame.spent, 16, COLOURS[t % 2], "spent"))
        found.append(rect(x, y, size * frame.spent, 16, LEFT, f"left t{t}"))
        x += size * frame.spent
        last = " end" * (t == len(frames) - 1)
        found.append(text(EDGE + size + 6, y + 12, f"{frame.left:.0%} left", f"now t{t}{last}"))
    return [*found, rect(x, y, max(0.0, EDGE + size - x), 16, LEFT)]


def _plot(
    frames: Sequence[Frame], y: float, title: str, series: dict[str, str], lines: Sequence[float]
) -> list[str]:
    """Attributes of the frames, by colour: bars from zero, else dots; the first lines are ends."""
    wide, found = (WIDTH - EDGE - 8) / len(frames), [text(EDGE, y - 8, title)]
    low, high, *_ = lines

    def at(value: float) -> float:
        return y + PLOT * (high - value) / (high - low)

    for number, value in enumerate(lines):
        found.append(rect(EDGE, at(value), WIDTH - EDGE - 8, 1, LEFT if number < 2 else INK))
        found += [text(EDGE - 6, at(value) + 4, f"{value:.0%}", "", "end")] if number < 2 else []
    for t, frame in enumerate(frames):
        x, come, layer = EDGE + wide * (t + 0.5), f"come t{t}", t // 2 + 1
        name = f"{name_of(t)[:3]} {layer}" if wide > 40 else f"{layer}" * (1 - t % 2)
        found.append(text(x, at(low) + 15, name, "", "middle"))
        for number, (attribute, colour) in enumerate(series.items()):
            if (value := getattr(frame, attribute)) is None:
                continue
            if low:  # a bar from another place than zero would mislead
                found.append(rect(x - 4, at(value) - 4, 8, 8, colour, come))
                words = f"{value:.2f}" * (wide > 40)
                found.append(text(x, at(value) + 17, words, come, "middle"))
            else:
                place, size = x + wide * (number - len(series) / 2) / 3, at(0) - at(value)
                found.append(rect(place, at(value), wide / 3 - 1, size, colour, come))
    return found
