"""`19_embeddings`: what is left of the dense score, beside whole layers at the same FLOPs."""

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from kprune.laboratory.figures import GREY, WIDTH, styles
from kprune.laboratory.reports.noise import of_score

STEP = 1.3  # per cent of the FLOPs between two methods that stand side by side
LAYERS = ("first-layers", "spaced-layers")


def kept(runs: pd.DataFrame) -> pd.DataFrame:
    """The finished runs with `kept`, the share of the dense score, and `gone`, that of FLOPs, in
    per cent.
    """
    done = runs[runs["state"] == "done"]
    shares = {"kept": done["score"] / done["dense"], "gone": done["achieved"]}
    return done.assign(**{name: 100 * share.astype(float) for name, share in shares.items()})


def beside_layers(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    """For each number of layers that were left, the best score of any, and what a method keeps of
    the same FLOPs or fewer.

    Columns `layers`, `which` was best of how many `tried`, `gone` and `kept` (per cent), and of the
    method `its gone` and `its kept`: its mean at the least rate that is no lower; empty where none
    is.
    """
    shares = kept(runs)
    ours = shares[shares["method"] == method].groupby("rate")[["gone", "kept"]].mean()
    rows = []
    whole = shares[shares["method"].isin(LAYERS)]
    whole = whole.assign(layers=whole["neurons"].map(lambda widths: sum(map(bool, widths))))
    means = whole.groupby(["layers", "label"])[["gone", "kept"]].mean().reset_index()
    for layers, some in reversed([*means.groupby("layers")]):
        best = some.loc[some["kept"].idxmax()]
        row = {"layers": layers, "which": best["label"], "tried": len(some)}
        row |= {name: best[name] for name in ("gone", "kept")}
        harder = ours[ours["gone"] >= best["gone"] - 1e-6]
        its = harder.iloc[0] if len(harder) else {}
        rows.append(row | {f"its {name}": its.get(name) for name in ("gone", "kept")})
    return pd.DataFrame(rows)


def answer(runs: pd.DataFrame) -> str:
    """What each method keeps of the dense score, in words; whole layers apart."""
    shares = kept(runs[~runs["method"].isin(LAYERS)])
    found = []
    for label, some in shares.groupby("label", sort=False):
        means = some.groupby("rate")["kept"].mean()
        gone, left = ([f"{100 * one:.0f}" for one in some] for some in (means.index, means / 100))
        found.append(f"- {label} keeps {_and(left)}%, with {_and(gone)}% of the FLOPs removed.")
    return "\n".join(found)


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if words[1:] else words[0]


def answer_beside(beside: pd.DataFrame, label: str) -> str:
    """A method against whole layers, in words, from what `beside_layers` gave.

    Where one choice of layers alone was run it is told apart: a better one may not have been.
    """
    both, found = beside.dropna(), []
    for several, some in both.groupby(both["tried"] > 1, sort=False):
        ahead, count = some["its kept"] - some["kept"], len(some)
        names = _and([f"*{which}*" for which in dict.fromkeys(some["which"])])
        numbers = _and([str(layers) for layers in some["layers"]])
        text = f"- Against {names} ({numbers} of them"
        text += "" if several else ", where nothing else was run"
        text += f") {label} keeps more in {(ahead > 0).sum()} of {count}, with no more FLOPs"
        if (ahead > 0).all():
            text += f": by {ahead.min():.1f} to {ahead.max():.1f} points of the dense score's 100"
        found.append((not several, text + "."))
    return "\n".join(text for _, text in sorted(found))


def draw_kept(runs: pd.DataFrame, least: float = 0.0) -> Figure:
    """Share of the dense score against the share of FLOPs removed, a line for each method.

    Bars are one standard deviation over seeds, the grey band is one standard error of the dev set;
    what keeps less than `least` per cent is below the axis. Methods stand side by side at a rate,
    so that none hides another; two points are not joined.
    """
    shares = kept(runs)
    means = shares.groupby(["label", "rate"], sort=False)[["gone", "kept"]].agg(["mean", "std"])
    lanes = means.groupby(level="rate").cumcount()
    beside = means.groupby(level="rate")["kept"].transform("size")
    means["place"] = means["gone", "mean"] + STEP * (lanes - (beside - 1) / 2)
    figure, axes = plt.subplots(figsize=(1.2 * WIDTH, 3.8))
    for label, look in styles(shares["label"]).items():
        some = means.loc[label].sort_index()
        style = {"label": label, "linestyle": "-" if len(some) > 2 else "", **look}
        if some["kept", "std"].notna().any():
            style |= {"yerr": some["kept", "std"].fillna(0), "capsize": 2}
        (axes.errorbar if "yerr" in style else axes.plot)(
            some["place"], some["kept", "mean"], **style
        )
    axes.axhline(100, color=GREY, linestyle="--", label="dense")
    error, dense = of_score(runs, "dense"), 100 * shares["dense"].astype(float).mean()
    if error > 0:
        band = 100 * error / dense
        axes.axhspan(100 - band, 100 + band, color=GREY, alpha=0.35, linewidth=0)
    hardest = shares["rate"].max()
    best = means.xs(hardest, level="rate")["kept", "mean"]
    title = f"{best.idxmax()} keeps {best.max():.0f}% with {hardest:.0%} of the FLOPs removed"
    axes.set_title(title, fontsize="medium")
    axes.set(xlabel="FLOPs removed (%)", ylabel="of the dense score (%)", ylim=(least, None))
    axes.legend(title=None, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
