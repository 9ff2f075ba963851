"""`24_retraining`: pruning without retraining against pruning with it."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from kprune.laboratory.figures import WIDTH, below, panels, room, share_legend, styles, teacher_line
from kprune.laboratory.reports import comparable
from kprune.laboratory.tables import NAMES, called, named_by

SERIES = "series"
OWN = NAMES["kprune"], NAMES["kprune+"]


def trained(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `series`, their method and what it is trained on afterwards.

    Their `label` says for how many epochs, too, and `passes` are in the median pass of each model
    and task on a machine: their samples are of one size, and one slow pass would make its run look
    quick.
    """
    own = runs["extra"].map(lambda extra: extra["pass seconds"], na_action="ignore").astype(float)
    alike = ["model", "task", "tokens", "device", "threads"]
    usual = own.groupby([runs[name] for name in alike]).transform("median")
    runs = runs.assign(passes=runs["seconds"].astype(float) / usual)
    rows = runs.to_dict("records")
    series = [_series(row) for row in rows]
    labels = [
        f"{name}, {row['again']:g} {'epoch' if row['again'] == 1 else 'epochs'}"
        if row["again"]
        else name
        for name, row in zip(series, rows, strict=True)
    ]
    return runs.assign(**{SERIES: series, "label": labels})


def _series(row: dict) -> str:
    name = NAMES.get(row["method"], row["method"])
    if row["again"]:
        return f"{name}, {'distilled' if row['distil'] else 'fine-tuned'}"
    return f"{name}, polished" if row["polish"] else name


def _look(series: str) -> dict:
    """Of its method; open and broken where the teacher's outputs are learnt."""
    method, _, how = series.partition(", ")
    learns = how in ("distilled", "polished")
    more = {"linestyle": "--", "markerfacecolor": "white"} if learns else {}
    return {**styles([method])[method], "markersize": 7, **more}


def against(runs: pd.DataFrame) -> pd.DataFrame:
    """K-prune and K-prune+ beside what was trained with labels, from runs of `trained`.

    For each task, rate and method that are done: its score (× 100) and passes, and those of
    the cheapest `trained` run that is as good; of the best one where none `caught up`.
    """
    keys, rows = named_by(runs, "task", "rate"), []
    done = comparable(runs, keys, ["seed"]).astype({"score": float, "passes": float})
    for names, some in done.groupby(keys, sort=False):
        means = some.groupby("label", sort=False)[["score", "passes", "again"]].mean()
        others = means[means["again"] > 0]
        for own in OWN if len(others) else ():
            if own not in means.index:
                continue
            ours = means.loc[own]
            good = others[others["score"] >= ours["score"]]
            best = good.nsmallest(1, "passes") if len(good) else others.nlargest(1, "score")
            best, caught = best.iloc[0], bool(len(good))
            row = {**dict(zip(keys, names, strict=True)), "untrained": own}
            row |= {"score": 100 * ours["score"], "passes": ours["passes"], "trained": best.name}
            row |= {"its score": 100 * best["score"], "its passes": best["passes"]}
            rows.append(row | {"caught up": caught})
    names = ["untrained", "score", "passes", "trained", "its score", "its passes", "caught up"]
    return pd.DataFrame(rows, columns=[*keys, *names])


def answer(found: pd.DataFrame) -> str:
    """How often training caught up and at what cost, in words, from what `against` gave."""
    lines = []
    for own, some in found.groupby("untrained", sort=False):
        names = zip(called(some["task"]), some["rate"], strict=True)
        some = some.assign(
            place=[f"{name} at {rate:.0%}" for name, rate in names],
            behind=some["score"] - some["its score"],
            times=some["its passes"] / some["passes"],
        )
        caught, not_yet = some[some["caught up"]], some[~some["caught up"]]
        text = f"- {own}: training with all labels caught up in {len(caught)} of {len(some)} pairs "
        text += "of task and rate"
        each = (
            f"{row['place']} in {row['times']:.1f} times the time" for _, row in caught.iterrows()
        )
        text += f": {', '.join(each)}" if len(caught) else ""
        if len(not_yet):
            least, most = (not_yet.loc[not_yet["behind"].agg(end)] for end in ("idxmin", "idxmax"))
            text += f". {'Elsewhere the' if len(caught) else 'The'} best of what was trained is "
            text += f"{least['behind']:.1f}"
            text += f" ({least['place']}) to {most['behind']:.1f}" if len(not_yet) > 1 else ""
            text += f" points behind ({most['place']}), after "
            low, high = (f"{not_yet['times'].agg(end):.1f}" for end in ("min", "max"))
            text += f"{low if low == high else f'{low} to {high}'} times its time"
        lines.append(text + ".")
    return "\n".join(lines)


def draw_frontier(runs: pd.DataFrame) -> Figure:
    """Score against the passes that pruning and training take, a panel for each task and rate.

    Runs of `trained`; lines join the same method after more and more passes over the training set,
    where it was trained for three numbers of them. A panel without a run says so.
    """
    done = runs[runs["state"] == "done"].astype({"score": float, "dense": float, "passes": float})
    tasks, series = (list(dict.fromkeys(done[name])) for name in ("task", SERIES))
    # Where layers alone were tried there is nothing to compare them with.
    several = done.groupby("rate")["method"].nunique() > 1
    rates = [*several.index[several]] or [*several.index]
    size = 1.25 * WIDTH, 2.6
    figure, axes = panels(len(tasks) * len(rates), len(rates), size, more=1.2, sharex=True)
    looks = {name: _look(name) for name in series}
    for line, (task, name) in enumerate(zip(tasks, called(tasks), strict=True)):
        for column, rate in enumerate(rates):
            axis = axes[line, column]
            axis.set_title(f"{name}, {rate:.0%} of the FLOPs removed", fontsize="medium")
            here = done[(done["task"] == task) & (done["rate"] == rate)]
            axis.set(xscale="log", ylabel="score × 100" if len(here) else "")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
            axis.margins(x=0.08, y=0.12)
            if here.empty:
                axis.annotate("not run", (0.5, 0.5), xycoords="axes fraction", ha="center")
                axis.set_yticks([])
                continue
            for one, some in here.groupby(SERIES, sort=False):
                means = some.groupby("again")[["passes", "score"]].mean()
                style = looks[one] if len(means) > 2 else looks[one] | {"linestyle": ""}
                axis.plot(means["passes"], 100 * means["score"], label=one, zorder=3, **style)
            teacher_line(axis, here)
            room(axis)
    below(axes, "time (passes over the sample)")
    share_legend(figure, 3)
    found = against(runs)
    for own, some in found[found["untrained"] == OWN[1]].groupby("untrained"):
        words = f"Training with all labels catches up with {own} in {some['caught up'].sum()} "
        figure.legends[0].set_title(f"{words}of {len(some)} panels", {"weight": "bold"})
    return figure
