"""Records into tables: what is missing shows, and the same records give the same bytes."""

import json
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

import kprune
from kprune.laboratory import figures, tables
from kprune.laboratory.reports import (
    ablation,
    accuracy,
    base_size,
    beyond,
    comparable,
    cost,
    cut_short,
    embeddings,
    made,
    one_machine,
    performance,
    retraining,
    sampled,
    seen,
    sensitivity,
    single,
    speed,
    standing,
    stopped,
    units,
)
from kprune.laboratory.reports.noise import at_most, of_score

matplotlib.use("agg")
ROOT = Path(__file__).parents[1]


def write(folder, name, score=None, dense=0.9, seconds=2.0, **parameters):
    """One expected run; without a score its record is missing."""
    here = folder / name
    here.mkdir(parents=True)
    parameters = {"task": "sst2", "model": "minilm", "method": "kprune", "rate": 0.5} | parameters
    if score is not None:
        report = {
            "achieved_rate": 0.501,
            "parameters": 5,
            "dense_parameters": 10,
            "seconds": {"knowledge": seconds, "mask search": 0.001},
            "heads": [1, 0],
            "neurons": [5, 10],
            "dense_heads": [2, 2],
            "dense_neurons": [10, 10],
        }
        record = {
            "parameters": parameters,
            "metric": "accuracy",
            "scores": {"dense": {"accuracy": dense}, "pruned": {"accuracy": score}},
            "latency": {"dense": 3.0, "pruned": 1.5},
            "report": report,
            "pass seconds": 4.0,
            "peak memory (MB)": 100.0,
            "environment": {"kprune": kprune.__version__},
        }
        (here / "result.json").write_text(json.dumps(record))
    return {"name": name, "parameters": parameters}


@pytest.fixture
def records(tmp_path):
    runs = [
        write(tmp_path, "a", 0.80, seed=0),
        write(tmp_path, "b", 0.90, seed=1),
        write(tmp_path, "c", None, seed=2),
        write(tmp_path, "d", 0.70, seed=0, method="kwon"),
        write(tmp_path, "e", None, seed=0, rate=0.8),
        write(tmp_path, "f", 0.88, seed=0, rate=0.8, method="kwon"),
    ]
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    return tmp_path


def test_every_expected_run_has_a_row(records):
    (records / "c" / "failure.json").write_text("{}")
    (records / "f" / "result.json").write_text("{")
    runs = tables.collect(records)
    assert runs["state"].tolist() == ["done", "done", "failed", "done", "missing", "damaged"]
    absent = ["c: failed", "e: missing", "f: damaged"]
    assert standing(runs).splitlines() == ["3 of 6 runs are done", *absent]
    assert standing(runs[runs["state"] == "done"]) == "3 of 3 runs are done"
    many = pd.concat([runs[runs["state"] != "done"]] * 4)
    assert standing(many).splitlines() == [
        "0 of 12 runs are done",
        "sst2 at 50%: 4 failed",
        "sst2 at 80%: 4 missing, 4 damaged",
    ]
    assert runs.loc[0, "passes"] == pytest.approx(2.001 / 4) and runs.loc[0, "speedup"] == 2.0
    with pytest.raises(ValueError, match=r"holds no experiment\.json"):
        tables.collect(records / "a")


def test_a_record_of_other_parameters_is_not_counted(records):
    path = records / "a" / "result.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
    assert tables.collect(records).loc[0, "state"] == "missing"


def test_runs_of_two_teachers_in_one_folder_are_refused(records):
    """The folder of a teacher or of data held something else when a batch was resumed."""
    path = records / "b" / "result.json"
    whole = path.read_text()
    for dense, apart in (("0.902", False), ("0.92", True)):  # rounding of a device; another teacher
        path.write_text(
            whole.replace('"dense": {"accuracy": 0.9}', f'"dense": {{"accuracy": {dense}}}')
        )
        if apart:
            with pytest.raises(
                ValueError, match=r"teacher of a scores 0\.900 and that of b 0\.920"
            ):
                tables.collect(records)
        else:
            assert tables.collect(records).loc[1, "dense"] == 0.902
    other = json.loads((records / "experiment.json").read_text())
    other["runs"][1]["parameters"]["model"] = "large"  # has a teacher of its own
    (records / "experiment.json").write_text(json.dumps(other))
    path.write_text(path.read_text().replace("minilm", "large"))
    assert tables.collect(records).loc[1, "dense"] == 0.92


def test_teachers_of_one_name_are_told_apart_by_their_weights(records):
    """Two may score alike to a third of a point."""
    for name, weights in (("a", "0123"), ("b", "0123"), ("f", "")):  # earlier records have none
        path = records / name / "result.json"
        record = json.loads(path.read_text())
        record["report"]["weights"] = weights
        path.write_text(json.dumps(record))
    assert (tables.collect(records)["state"] == "done").sum() == 4
    record["report"]["weights"] = "4567"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"of f 0\.900, and both should be the same: its weights"):
        tables.collect(records)


def test_a_gap_is_visible_and_never_averaged_away(records):
    runs = tables.collect(records)
    long = tables.summarise(runs, "score", ["label"], "rate", scale=100)
    first = long.iloc[0]
    assert (first["mean"], first["seeds"], first["expected"]) == (pytest.approx(85.0), 2, 3)
    assert first["std"] == pytest.approx(pd.Series([80.0, 90.0]).std())
    wide = tables.wide(long, ["label"], "rate").set_index("label")
    assert wide.loc["K-prune", 0.5] == "85.0 ± 7.1 (2 of 3)"
    assert wide.loc["K-prune", 0.8] == tables.GAP
    assert wide.loc["Kwon et al.", 0.8] == "88.0 (1)"


def test_the_lead_compares_what_is_there(records):
    runs = tables.collect(records)
    lead = accuracy.lead(runs).set_index("rate")
    assert lead.loc["50%", "lead"] == pytest.approx(10.0), "of the one seed that both have done"
    assert lead.loc["50%", "best other"] == "Kwon et al."
    assert pd.isna(lead.loc["80%", "lead"])


def test_k_prune_plus_is_no_competitor_of_k_prune(tmp_path):
    runs = [
        write(tmp_path, f"{task}{method}", score, task=task, method=method, seed=0)
        for task, scores in {"sst2": (0.8, 0.85, 0.7), "mrpc": (0.8, 0.82, 0.75)}.items()
        for method, score in zip(("kprune", "kprune+", "kwon"), scores, strict=True)
    ]
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    found = tables.collect(tmp_path)
    assert accuracy.lead(found)["lead"].tolist() == pytest.approx([10, 5])
    assert accuracy.gained(found) == (
        "- With 50% removed K-prune+ is 3.5 points above K-prune in the mean over 2 tasks, from "
        "2.0 to 5.0."
    )
    assert accuracy.gained(found[found["method"] != "kprune+"]) == ""


def test_methods_compare_on_what_both_have_done(tmp_path):
    """A mean over other seeds or tasks would turn the order round."""
    runs = [
        write(
            tmp_path,
            f"{method}{task}{seed}",
            score,
            0.9,
            seconds,
            method=method,
            task=task,
            seed=seed,
        )
        for method, task, seed, score, seconds in [
            ("kprune", "sst2", 0, 0.80, 8.0),
            ("kprune", "sst2", 1, 0.86, 8.0),
            ("kprune", "sst2", 2, 0.86, 8.0),
            ("kwon", "sst2", 0, 0.82, 6.0),
            ("kprune+", "sst2", 0, 0.82, 4.0),
            ("kprune", "sts", 0, 0.80, 40.0),
        ]
    ]
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    found = tables.collect(tmp_path)
    (first, _) = accuracy.lead(found).to_dict("records")
    assert first["lead"] == pytest.approx(-2) and first["K-prune"] == pytest.approx(80)
    assert "K-prune+ is 2.0 points above K-prune in the mean over 1 tasks" in accuracy.gained(found)
    same = comparable(found, ["rate"], ["task", "seed"])
    assert [*same["run"]] == ["kprunesst20", "kwonsst20", "kprune+sst20"]
    costs = base_size.cost(found.assign(threads=1)).set_index("label")["passes"]
    assert costs.round(1).to_dict() == {"K-prune": 2.0, "Kwon et al.": 1.5, "K-prune+": 1.0}
    alone = comparable(found[found["run"].isin(["kprunests0", "kwonsst20"])], ["rate"], ["task"])
    assert len(alone) == 2, "nothing in common: all there is"


def test_versions_are_never_mixed(records):
    """A run that fails anew after an upgrade is no longer done, and its number is not shown."""
    for name in ("a", "b", "d", "f"):
        path = records / name / "result.json"
        path.write_text(path.read_text().replace(kprune.__version__, "0.0.1"))
    assert tables.collect(records)["state"].tolist().count("done") == 4, "all of one version"
    path.write_text(path.read_text().replace("0.0.1", kprune.__version__))
    runs = tables.collect(records).set_index("run")
    assert runs["state"].to_dict() | {"c": "", "e": ""} == {
        **dict.fromkeys("abd", "outdated"),
        **dict.fromkeys("ce", ""),
        "f": "done",
    }
    assert runs["score"].notna().sum() == 1 and runs.loc["b", "seed"] == 1
    assert "b: outdated" in standing(runs.reset_index())


def test_speed_and_cost_of_what_is_there(records):
    """The fastest rate within the loss at each size of batch; runs without a record stay out."""
    for name, seconds in (("a", 3.0), ("b", 2.0), ("d", 4.0), ("f", 5.0)):
        path = records / name / "result.json"
        record = json.loads(path.read_text())
        record["peak above the model (MB)"] = 10 * seconds
        record["inference"] = [
            {"batch size": size, "length": 8, "dense": 6.0, "pruned": seconds} for size in (1, 32)
        ]
        record["inference"][1]["pruned"] /= 2
        path.write_text(json.dumps(record))
    runs = tables.collect(records)
    work = speed.measured(runs)
    assert len(work) == 8 and work["share"].iloc[0] == pytest.approx(2 * (1 - 0.501))
    best = speed.fastest(work, ["task", "label", "batch size"], allowed=6.0)
    best = best.set_index(["label", "batch size"])
    # K-prune loses ten and no points with its two seeds, five in the mean.
    assert best.loc[("K-prune", 1), "speedup"] == pytest.approx((2 + 3) / 2)
    assert best.loc[("K-prune", 32), "loss"] == pytest.approx(5)
    assert best.loc[("Kwon et al.", 32), ["rate", "speedup"]].tolist() == [0.8, 2.4]
    none = speed.fastest(work, ["task", "label"], allowed=3.0).set_index("label")
    assert pd.isna(none.loc["K-prune", "speedup"]) and none.loc["Kwon et al.", "rate"] == 0.8
    at_one = work[work["batch size"] == 1]
    assert speed.answer_batches(work[work["label"] != "K-prune"]) == ""
    assert speed.answer_batches(work).endswith(
        "1.25 of the ideal in batches of 1, 2.50 in batches of 32."
    )
    figures.look()
    assert len(speed.draw_rates(at_one).axes) == 1 and speed.draw_fastest(none.reset_index()).axes

    each = cost.summary(runs).set_index(["method", "rate"])
    assert each.loc[("K-prune", 0.5), "seconds"] == pytest.approx(2.001)
    assert each.loc[("Kwon et al.", 0.8), ["tasks", "peak (MB)"]].tolist() == [1, 50]
    search = tables.summarise(runs, "search", ["rate", "task"], "label", scale=1000)
    first, last, peaks = cost.answer(runs, search, ["rate", "task"]).splitlines()
    assert first == (
        "- With 50% of the FLOPs removed K-prune takes 0.5 passes, 1.0 times that of Kwon et al. "
        "(0.5)."
    )
    assert last == (
        "- All searches of K-prune together take 1 to 1 ms, 0.05 to 0.05% of its time; those of "
        "Kwon et al. 1.0 to 1.0 times as long."
    )
    assert peaks == "- The largest peaks above the model: Kwon et al. 50 MB, K-prune 30 MB."


def test_what_gave_up_is_told(records):
    """Kwon et al.'s rescaling ends by its own rule; a run that it leaves at the top is whole."""
    runs = tables.collect(records)
    assert stopped(runs).isna().all() and cut_short(runs) == ""
    for name, layer in (("d", 2), ("f", 1)):
        path = records / name / "result.json"
        record = json.loads(path.read_text())
        note = f"rescaling stopped at the FFN of layer {layer}: a scale left ±10"
        record["report"]["notes"] = ["of something else", note]
        path.write_text(json.dumps(record))
    runs = tables.collect(records)
    assert stopped(runs).dropna().tolist() == [2, 1]
    assert cut_short(runs) == (
        "- Kwon et al.'s rescaling gave up, by their own rule (a scale beyond ±10), on SST-2 at "
        "80% (layer 1 of 2): scores and passes there are of runs cut short."
    )
    more = pd.concat([runs, runs.assign(seed=7), runs.assign(seed=8)])
    assert "SST-2 at 80% (layer 1 of 2, in 3 runs): scores" in cut_short(more)


def test_one_parameter_at_a_time(tmp_path):
    at = [(2.0, 0.1), (1.0, 0.1), (4.0, 0.1), (2.0, 0.0)]
    runs = [write(tmp_path, f"r{i}", 0.8, gamma=g, lam=lam) for i, (g, lam) in enumerate(at)]
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    found = tables.one_at_a_time(tables.collect(tmp_path), ("gamma", "lam"))
    assert found[found["parameter"] == "gamma"]["value"].tolist() == [1.0, 2.0, 4.0]
    assert found[found["parameter"] == "lam"]["value"].tolist() == [0.0, 0.1]
    assert found["centre"].sum() == 2


def test_models_are_never_averaged(tmp_path):
    """Two models on one task: rows, curves and units of their own."""
    scores = {("small", 0.5): 0.6, ("a/large", 0.5): 0.8}
    runs = [
        write(tmp_path, f"r{i}", score, model=model, rate=rate, seed=0)
        for i, ((model, rate), score) in enumerate(scores.items())
    ]
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    found = tables.collect(tmp_path)
    rows = tables.named_by(found, "task", "label")
    assert rows == ["model", "task", "label"]
    assert tables.summarise(found, "score", rows, "rate")["mean"].tolist() == [0.6, 0.8]
    assert [suffix for suffix, _ in tables.by_model(found)] == ["-small", "-large"]
    assert set(units.surviving(found)["model"]) == {"small", "a/large"}
    with pytest.raises(ValueError, match="they differ in model"):
        tables.summarise(found, "score", ["task"], "rate")


def test_the_lead_is_over_other_methods_only(tmp_path):
    runs = [
        write(tmp_path, "a", 0.9, lam=0.1, seed=0),
        write(tmp_path, "b", 0.89, lam=0.0, seed=0),
        write(tmp_path, "c", 0.6, lam=0.1, seed=0, method="kwon"),
    ]
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    assert accuracy.lead(tables.collect(tmp_path))["lead"].tolist() == [pytest.approx(30.0)]


def test_nothing_done_is_nothing_to_draw(tmp_path):
    runs = [write(tmp_path, "a")]
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    with pytest.raises(ValueError, match=r"None of the 1 runs .* is done"):
        tables.collect(tmp_path)


def test_units_are_means_over_seeds(records):
    left = units.surviving(tables.collect(records))
    first = left[(left["label"] == "K-prune") & (left["kind"] == "neurons")]
    assert first["kept"].tolist() == [5, 10] and first["share"].tolist() == [0.5, 1.0]


def test_tables_and_figures_are_the_same_bytes_each_time(records, tmp_path):
    figures.look()
    found = []
    for name in ("one", "two"):
        runs = tables.collect(records)
        long = tables.summarise(runs, "score", ["task", "label"], "rate", scale=100)
        table = tables.wide(long, ["task", "label"], "rate")
        table = tables.readable(accuracy.with_dense(table, runs, ["task", "label"]))
        folder = tmp_path / name
        tables.write(folder, "table", long, table)
        figures.save(accuracy.draw_curves(runs), folder, "table")
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]
    assert set(found[0]) == {f"table.{s}" for s in ("csv", "md", "tex", "png", "svg")}
    latex = found[0]["table.tex"].decode()
    assert r"\toprule" in latex and r"$\pm$" in latex and r"80\%" in latex and "---" in latex
    assert "| SST-2  | K-prune" in found[0]["table.md"].decode()
    assert found[0]["table.csv"].decode().startswith("task,label,rate,mean,std,seeds,expected\n")


def test_figures_draw_formulas(tmp_path):
    """Powers of ten and LaTeX are drawn, not written."""
    figures.look()
    drawn, axes = plt.subplots()
    axes.set(xscale="log", xlabel="$K_{pred}$")
    with plt.rc_context({"svg.fonttype": "none"}):
        drawn.savefig(tmp_path / "a.svg")
    shown = re.sub("<!--.*?-->", "", (tmp_path / "a.svg").read_text(encoding="utf-8"))
    assert "mathdefault" not in shown and "pred}$" not in shown
    plt.close(drawn)


def test_seconds_of_another_machine_stay_out(tmp_path):
    runs = [write(tmp_path, f"r{i}", 0.8, seed=i) for i in range(4)]
    runs.append(write(tmp_path, "gone", None, seed=4))
    for i, threads in enumerate([2, 1, 2, 2]):
        path = tmp_path / f"r{i}" / "result.json"
        record = json.loads(path.read_text())
        record["environment"] |= {"device": "cpu", "threads": threads}
        path.write_text(json.dumps(record))
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    found = tables.collect(tmp_path)
    assert one_machine(found)["run"].tolist() == ["r0", "r2", "r3", "gone"]
    even = one_machine(found[found["run"] != "r3"][1:])  # one run on each
    assert len(even) == 2 and even["run"].tolist()[1] == "gone"


def test_time_and_memory_of_a_benchmark(tmp_path):
    """Real runs and random shapes side by side; what is missing stays out of the curves."""
    shape = {"layers": 0, "width": 0, "length": 0, "reuse": 0.0, "rate": 0.8, "tokens": 1000}
    shape |= {"multiple": 1, "precision": "auto", "seed": 0}
    cases = [
        shape,
        shape | {"tokens": 2000},
        shape | {"reuse": 10.0},
        shape | {"layers": 2, "width": 32},
        shape | {"layers": 4, "width": 32},
        shape | {"layers": 2, "width": 64},
        shape | {"multiple": 16, "tokens": 4000},
        shape | {"layers": 2, "width": 32, "length": 8},
        shape | {"precision": "full"},
    ]
    runs = [write(tmp_path, f"r{i}", 0.8, seconds=2.0 + i, **c) for i, c in enumerate(cases)]
    runs.append(write(tmp_path, "gone", None, **shape | {"layers": 2, "width": 32, "length": 16}))
    for i in range(len(cases)):
        path = tmp_path / f"r{i}" / "result.json"
        extra = {
            "limit": {"passes": 3.0, "operations": 8e9, "rate": 1e9},
            "peak above the model (MB)": 100.0 + i,
            "gains": {"batches by length": 2.0, "products in bf16": 0.5} if i < 2 else {},
            "inference": [{"batch size": 1, "length": 8, "dense": 4.0, "pruned": 2.0}],
        }
        extra["kept"] = [[0, 1], [2, 3, 4], [], [1]] if i else [[0, 2], [3, 4], [0], [1]]
        path.write_text(json.dumps(json.loads(path.read_text()) | extra))
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    table = performance.performance(tmp_path)
    assert table.loc[0, "F"] == pytest.approx(2.001 / 4) and table.loc[0, "limit"] == 6.0
    assert table.loc[0, "steps"]["knowledge"] == 0.5 and table.loc[9, "state"] == "missing"
    growth = performance.growth(table)
    found = {axis: list(part["value"]) for axis, part in growth.groupby("axis")}
    assert found.pop("length") == [8.0]
    assert found == {"tokens": [1000.0, 2000.0], "layers": [2.0, 4.0], "width": [32.0, 64.0]}
    assert list(growth["axis"].unique()) == ["tokens", "layers", "width", "length"]
    (beside,) = performance.precision(table).to_dict("records")
    assert beside["tokens"] == 1000 and beside["F"] == pytest.approx(2.001 / 4)
    assert beside["F (full)"] == pytest.approx(10.001 / 4)
    assert beside["same heads"] == 1 / 2 and beside["same neurons"] == 3 / 4
    assert performance.but_for(table.loc[[0, 2, 6, 8]]) == [
        *("", "scores kept", "neurons in 16s", "in fp32")
    ]
    with_layers = performance.grown(growth).split("; ")[1]
    assert with_layers == "with layers (×2, 2 to 4): time ×1.2, memory ×1"
    assert len(performance.alike(table)) == len(table), "rounded on a sample of its own"
    assert performance.alike(table.assign(tokens=1000))["multiple"].nunique() == 2
    faster = performance.inference(table[table["state"] == "done"])
    assert faster.to_dict("records") == [
        {"rate": 0.8, "multiple": multiple, "length": 8, "batch size": 1, "speed-up": 2.0}
        for multiple in (1, 16)
    ]
    brings = performance.gains(table[table["state"] == "done"])
    assert brings["ratio"].tolist() == [2.0, 0.5] * 2 and performance.draw_gains(brings).axes
    assert len(performance.draw_growth(growth).axes) == 8
    assert len(performance.draw_steps(table.loc[:2]).axes) == 1
    assert performance.draw_inference(faster).axes


def test_what_k_prune_plus_recovers_counts_seeds_that_both_have(tmp_path):
    figures.look()  # titles to the left, whichever test this process ran before
    plain, better = {"without": ""}, {"without": "", "method": "kprune+"}
    runs = [
        write(tmp_path, "a", 0.80, seed=0, **plain),
        write(tmp_path, "b", 0.70, seed=1, **plain),  # without a counterpart
        write(tmp_path, "c", 0.85, seed=0, **better),
        write(tmp_path, "d", None, seed=1, **better),
        write(tmp_path, "e", 0.20, seed=0, **better | {"without": "metric"}),
        write(tmp_path, "f", 0.92, seed=0, rate=0.3, **plain),  # better than the teacher
        write(tmp_path, "g", 0.93, seed=0, rate=0.3, **better),
        write(tmp_path, "h", 0.895, seed=0, rate=0.2, **plain),  # half a point lost
        write(tmp_path, "i", 0.93, seed=0, rate=0.2, **better),
        write(tmp_path, "j", 0.70, seed=0, rate=0.1, **plain),
        write(
            tmp_path, "k", 0.93, seed=0, rate=0.1, every=2, dense=0.95, **better
        ),  # another dev set
    ]
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    found = beyond.recovered(tables.collect(tmp_path)).set_index("rate")
    assert found["seeds"].to_dict() == {0.5: 1, 0.3: 1, 0.2: 1}
    assert found.loc[0.5, "recovered (%)"] == pytest.approx(50)
    assert found.loc[[0.3, 0.2], "recovered (%)"].isna().all()
    table = tables.collect(tmp_path)
    titles = [axis.get_title("left") for axis in beyond.draw_beside(table).axes]
    assert titles == ["SST-2"]
    one = "wins back 50% on SST-2, the one task where that is more than noise."
    assert one in beyond.answer(found.reset_index())
    assert "compare no mean" not in beyond.answer(found.reset_index())
    other = found.reset_index().replace({"rate": {0.2: 0.3}})
    other["task"] = ["sst2", "sst2", "mrpc"]
    assert beyond.answer(other).endswith("compare no mean across rates.")
    lost = ablation.losses(table[table["method"] == "kprune+"])
    assert lost["loss"].round(6).tolist() == [65.0]  # 0.85 less 0.20, of the same seed and rate
    assert len(ablation.draw_ingredients(lost).axes) == 1


def test_teachers_of_two_experiments_are_told_apart(tmp_path):
    found = []
    for name, dense, examples, every in (("one", 0.9, 6000.0, 2), ("other", 0.92, 0.0, 1)):
        (tmp_path / name).mkdir()
        more = {"examples": examples, "every": every, "epochs": 4.0, "seed": 0}
        runs = [write(tmp_path / name, "a", 0.8, dense=dense, **more)]
        runs.append(write(tmp_path / name, "b", 0.8, task="mrpc", **more))
        (tmp_path / name / "experiment.json").write_text(json.dumps({"runs": runs}))
        found.append(tables.collect(tmp_path / name))
    assert beyond.unlike(*found) == (
        "- SST-2: 90.0 here, 92.0 there (training rows: 6,000, not all; rows of the dev set: one "
        "in 2, not all)."
    )
    assert beyond.unlike(found[0], found[0]) == ""


def test_a_page_leaves_out_what_nothing_was_run_for():
    table = pd.DataFrame({"method": ["a", "b", "c"], "x": ["1 (1)", "—", ""], "y": ["—", "", "—"]})
    assert seen(table, 1).to_dict("list") == {"method": ["a"], "x": ["1 (1)"]}


def test_a_page_counts_seeds_only_where_there_are_several():
    table = pd.DataFrame({"method": ["a", "b"], "x": ["1.0 (1)", "—"], "y": ["2.0 (1)", ""]})
    assert single(table)["y"].tolist() == ["2.0", ""] and single(table)["x"].tolist() == [
        "1.0",
        "—",
    ]
    for cell in ("1.0 ± 0.1 (2)", "1.0 (1 of 2)"):
        more = table.assign(y=["2.0 (1)", cell])
        assert single(more).equals(more), cell


def test_answers_say_what_the_numbers_say():
    """Sentences of the reports follow from their tables: who leads, by how much, what is noise."""
    ahead = pd.DataFrame(
        {
            "task": ["sst2", "qqp", "mrpc"],
            "rate": ["60%", "60%", "80%"],
            "K-prune": [88.0, 80.3, 80.0],
            "best other": ["Kwon et al."] * 3,
            "lead": [1.5, 0.0, 7.25],
            "beyond noise": ["no", "no", "yes"],
        }
    )
    lines = accuracy.answer(ahead).splitlines()
    assert "60% of the FLOPs removed" in lines[0] and "1 of 2 tasks, by 1.5 (SST-2)" in lines[0]
    assert lines[0].endswith("on 0 of them by more than noise.")
    assert "1 of 1 tasks, by 7.2 (MRPC)" in lines[1]
    assert lines[1].endswith("on 1 of them by more than noise.")
    assert lines[2:] == ["- Level on QQP at 60%: 80.3 each."]
    more = ahead.assign(task="sst2", rate=["60%", "70%", "80%"], lead=[-1.5, 3.0, 2.0])
    *_, behind, larger = accuracy.answer(more).splitlines()
    assert behind == "- Not on SST-2 at 60%: Kwon et al. has 89.5 there, K-prune 88.0."
    assert larger == "- The lead is larger at 80% than at 60% on 1 of 1 tasks."

    best = pd.DataFrame(
        {
            "label": ["K-prune", "K-prune", "KCM"],
            "task": ["sst2", "mrpc", "sst2"],
            "rate": [0.6, 0.8, None],
            "speedup": [2.0, 4.0, None],
        }
    )
    first, second = speed.answer(best, 3.0).splitlines()
    assert "2 of 2 tasks within 3 points, up to 4.00× (MRPC, 80% gone)" in first
    assert "a median of 80%" in first and second == "- KCM: 0 of 1 tasks within 3 points."

    losses = pd.DataFrame(
        {
            "task": ["sst2"] * 3,
            "rate": [0.8] * 3,
            "without": ["tuning", "predictive", "representational"],
            "loss": [6.5, 0.4, -4.0],
            "noise": [1.2] * 3,  # so that a difference of 3.4 points is more than chance
            "seed": [0] * 3,
        }
    )
    (line,) = ablation.answer(losses).splitlines()
    assert "*tuning* matters most, 6.5 points" in line
    assert "*predictive* (0.4) cannot be told from noise" in line
    assert "without *representational* the method is 4.0 points *better*" in line
    near = losses.assign(loss=[5.6, 4.1, -3.0])
    alike = "*tuning*, 5.6 points, which noise does not tell from what is lost without *predictive*"
    assert f"most is lost without {alike} (4.1); *repres" in ablation.answer(near)
    assert "*representational* (−3.0) cannot be told from noise." in ablation.answer(near)
    seeds = pd.concat(
        [losses.assign(loss=[6.0 + far, 6.0 - far, 0.0], seed=far) for far in (-2, 2)]
    )
    assert "6.0 points, which noise does not tell from" in ablation.answer(seeds)
    assert "*tuning* matters most" in ablation.answer(losses.assign(loss=[8.5, 4.5, 0.0]))
    nothing = ablation.answer(losses.assign(loss=[0.1, 0.0, -0.2]))
    assert "of no ingredient is it clear that the method loses without it" in nothing
    assert "matters most" not in nothing


def test_answers_of_the_other_reports_say_what_the_numbers_say():
    left = pd.DataFrame(
        {
            "kind": ["heads"] * 4,
            "task": ["sst2", "sst2", "mrpc", "mrpc"],
            "layer": [1, 2, 1, 2],
            "share": [0.0, 0.5, 0.2, 0.7],
        }
    )
    (line,) = units.answer(left).splitlines()
    assert "35% stay in the mean over 2 tasks: most in layer 2 (60%), fewest in layer 1" in line
    assert line.endswith("layer 1 loses all of them on 1 of 2 tasks.")

    run = {"state": "done", "label": "K-prune+", "method": "kprune+", "dense": 0.8, "achieved": 0.6}
    runs = pd.DataFrame([run | {"rate": 0.6, "score": 0.8}, run | {"rate": 0.8, "score": 0.6}])
    assert (
        embeddings.answer(runs)
        == "- K-prune+ keeps 100 and 75%, with 60 and 80% of the FLOPs removed."
    )
    beside = pd.DataFrame({"kept": [90.0, 80.0, 70.0], "its kept": [92.0, 70.0, 82.5]})
    beside = beside.assign(layers=[3, 2, 1], which=[*"ssf"], tried=[2, 2, 1])
    several, alone = embeddings.answer_beside(beside, "it").splitlines()
    assert several == "- Against *s* (3 and 2 of them) it keeps more in 1 of 2, with no more FLOPs."
    assert alone.startswith(
        "- Against *f* (1 of them, where nothing else was run) it keeps more in"
    )
    assert alone.endswith("with no more FLOPs: by 12.5 to 12.5 points of the dense score's 100.")

    kept = [("K-prune+", 99.0), ("K-prune+", 97.0), ("K-prune", 80.0)]
    kept = [{"label": label, "kept": share} for label, share in kept]
    shares = pd.DataFrame(kept).assign(model="m", task=["a", "b", "a"], rate=0.8)
    shares = pd.concat([shares, shares[2:].assign(task="b"), shares[2:].assign(task="c")])
    lead = pd.DataFrame({"model": ["m"] * 4, "lead": [1.0, -2.0, 2.0, None], "rate": ["80%"] * 4})
    lead["task"], lead["beyond noise"] = ["a", "b", "c", "d"], ["no", "yes", "yes", None]
    costs = pd.DataFrame({"model": ["m", "n"], "label": ["K-prune"] * 2, "passes": [2.0, 4.0]})
    first, second = base_size.answer(shares, lead, costs).splitlines()
    assert "K-prune+ keeps 97.0 to 99.0% of the scores" in first
    assert "leads the better of the others by more than noise in 1 of 3 pairs" in first
    assert second.endswith("2.0 on m and 4.0 on n.")

    run = {"state": "done", "layers": 0, "rate": 0.8, "multiple": 1, "precision": "auto"}
    run |= {"task": "sst2", "tokens": 1000, "memory": 50.0}
    both = [run | {"reuse": 0.0, "F": 3.0, "limit": 1.5}, run | {"reuse": 10.0, "F": 1.0}]
    (line,) = performance.answer(pd.DataFrame(both)).splitlines()
    assert "3.0 passes, 2.0 times the limit by count" in line and line.endswith(
        "with scores kept 1.0 passes."
    )


def test_what_training_buys_is_the_cheapest_that_caught_up_or_the_best():
    def run(method, score, passes, again=0.0, rate=0.8):
        label = f"{method}, {again:g} passes" if again else method
        same = {"model": "m", "task": "stsb", "state": "done", "rate": rate, "seed": 0}
        return {**same, "label": label, "score": score, "passes": passes, "again": again}

    runs = [run("K-prune+", 0.8, 2.0), run("K-prune", 0.9, 1.0), run("m", 0.5, 3.0, 1.0)]
    later = [run("m", 0.81, 8.0, 4.0), run("n", 0.85, 9.0, 4.0)]
    alone = [run("m", 0.9, 1.0, 1.0, 0.5)]  # nothing to compare with at this rate
    behind = retraining.against(pd.DataFrame([*runs, *alone]))
    ahead = retraining.against(pd.DataFrame([*runs, *later, *alone]))
    columns = ["untrained", "trained", "its passes", "caught up"]
    assert behind[columns].values.tolist() == [
        ["K-prune", "m, 1 passes", 3.0, False],
        ["K-prune+", "m, 1 passes", 3.0, False],
    ]
    assert ahead[columns].values.tolist() == [
        ["K-prune", "n, 4 passes", 9.0, False],
        ["K-prune+", "m, 4 passes", 8.0, True],
    ]
    first, last = retraining.answer(behind).splitlines()
    assert first.startswith("- K-prune: training with all labels caught up in 0 of 1 pairs")
    assert first.endswith(
        "The best of what was trained is 40.0 points behind (STS-B at 80%), after 3.0 times its "
        "time."
    )
    assert last.startswith("- K-prune+: ") and "30.0 points behind" in last
    first, last = retraining.answer(ahead).splitlines()
    assert "5.0 points behind (STS-B at 80%), after 9.0 times its time." in first
    assert last.endswith("in 1 of 1 pairs of task and rate: STS-B at 80% in 4.0 times the time.")


def test_one_slow_pass_does_not_make_a_run_look_quick():
    one = {"model": "m", "task": "stsb", "method": "magnitude", "again": 1.0, "distil": False}
    one |= {
        "tokens": 1000,
        "device": "cpu",
        "threads": 2,
        "polish": 0,
        "seconds": 20.0,
        "label": "",
        "passes": 0.0,
    }
    runs = [one | {"extra": {"pass seconds": each}} for each in (4.0, 4.0, 5.0)]
    runs += [one | {"extra": {"pass seconds": 10.0}, "task": "mrpc"}, one | {"extra": None}]
    runs.append(one | {"extra": {"pass seconds": 0.5}, "device": "a GPU", "seconds": 2.0})
    found = retraining.trained(pd.DataFrame(runs))
    assert found["passes"].tolist() == [5, 5, 5, 2, 5, 4], "each in passes of its machine"
    assert set(found["label"]) == {"magnitude, fine-tuned, 1 epoch"}


def test_the_teacher_stands_between_its_standard_errors(records):
    runs = tables.collect(records)
    done = runs[runs["state"] == "done"]
    for examples, heights in ((400, [3.0]), (None, [])):
        extra = [{"dev examples": examples}] * len(done)
        axis = figures.plt.subplots()[1]
        figures.teacher_line(axis, done.assign(dense=0.9, metric="accuracy", extra=extra))
        assert [band.get_height() for band in axis.patches] == pytest.approx(heights)
    assert figures.standard_error(0.8, 101, "spearman") == pytest.approx(0.036)
    assert figures.standard_error(0.8, 101, "f1") == 0


def test_reports_say_how_far_chance_moves_a_score(records):
    """By the rows that a record tells, or the dev set's own; where neither is known, not at all."""
    runs = tables.collect(records)
    some = runs[(runs["state"] == "done") & (runs["label"] == "K-prune")]
    assert of_score(some) == pytest.approx(100 * (0.85 * 0.15 / 872) ** 0.5)
    assert of_score(some.assign(every=2)) == pytest.approx(100 * (0.85 * 0.15 / 436) ** 0.5)
    told = [{"dev examples": 100}] * len(some)
    assert of_score(some.assign(extra=told), "dense") == pytest.approx(3.0)
    assert pd.isna(of_score(some.assign(task="own"))) and pd.isna(
        of_score(some.assign(metric="f1"))
    )
    assert pd.isna(of_score(runs[runs["state"] == "missing"]))
    questions = some.assign(metric="f1", task="squad", every=40)
    assert at_most(questions) == pytest.approx(100 * (0.85 * 0.15 / 264) ** 0.5)
    assert at_most(some) == of_score(some) and pd.isna(at_most(some.assign(metric="f1")))


def test_reports_say_by_what_their_records_were_made(records):
    runs = tables.collect(records).assign(device="cpu", threads=2, commit="0123456789", tokens=1000)
    runs.loc[1, "threads"] = 1
    version = kprune.__version__
    assert made(runs[:1].assign(commit="0123456789+")).split(":")[0].endswith("0123456+")
    assert made(pd.concat([runs, runs])).splitlines() == [
        f"3 runs by version {version} at commit 0123456: cpu, 2 threads",
        f"1 run by version {version} at commit 0123456: cpu, 1 thread",
    ]
    assert sampled(runs) == "samples of 1,000 tokens, seeds 0, 1, 2"
    assert sampled(runs[:1]) == "samples of 1,000 tokens, seed 0"


def test_one_hyperparameter_moves_the_score_most(tmp_path):
    at = [(64.0, 1000, 0.8), (4.0, 1000, 0.5), (8.0, 1000, 0.7), (64.0, 500, 0.79)]
    runs = [
        write(tmp_path, f"r{i}", score, mu=mu, tokens=tokens, seed=0, without="")
        for i, (mu, tokens, score) in enumerate(at)
    ]
    (tmp_path / "experiment.json").write_text(json.dumps({"runs": runs}))
    found = tables.collect(tmp_path).assign(commit="0123456789")
    varied = tables.one_at_a_time(found, ("mu", "tokens"))
    assert (
        sensitivity.title(varied) == "μ moves the score by 30 points, the others by 1 at the most"
    )
    most, least = sensitivity.answer(varied).splitlines()
    assert most == "- SST-2, μ: 50.0 (at 4) to 80.0 (at 64), 80.0 at the default 64."
    assert least.endswith("80.0 at the default 1,000, no more than noise.")
    figure = sensitivity.draw_sensitivity(varied)
    first, second = figure.axes
    joined = [axis.lines[0].get_linestyle() for axis in (first, second)]
    assert joined == ["-", "None"], "two points are not joined"
    assert figure.get_supylabel() == "accuracy × 100"
    assert [label.get_text() for label in second.get_xticklabels()] == ["500", "1,000"]
    other = found[:1].assign(score=0.81, commit="abcdefghij")
    same = "at commit 0123456), 81.0 in it (samples of 1,000 tokens, seed 0, at commit abcdefg). It"
    assert same in sensitivity.beside(varied, other, "it")
    apart = sensitivity.beside(varied, other.assign(seed=1), "it")
    assert apart.endswith("seed 1, at commit abcdefg).")
    assert sensitivity.beside(varied, other.assign(rate=0.9), "it") == ""


def test_a_figure_says_where_its_numbers_are_from(records):
    runs = tables.collect(records)
    text = tables.source(runs)
    assert text.startswith(f"kprune reproduce params/{records.name}.yaml · ")
    assert f"{(runs['state'] == 'done').sum()} runs at " in text


def test_base_size_keeps_apart_what_had_the_machine_to_itself(records):
    """`kept` is a share of each run's own teacher; the cost is of runs with the most threads."""
    runs = tables.collect(records)
    assert base_size.kept(runs)["kept"].tolist() == pytest.approx(
        [100 * score / 0.9 for score in (0.8, 0.9, 0.7, 0.88)]
    )
    threads = {"a": 2, "b": 1, "d": 2, "f": 1}
    cost = base_size.cost(runs.assign(threads=runs["run"].map(threads)))
    assert cost[["label", "passes", "runs"]].values.tolist() == [
        ["K-prune", pytest.approx(2.001 / 4), 1],
        ["Kwon et al.", pytest.approx(2.001 / 4), 1],
    ]
    mu = {"a": 1024.0, "d": 1024.0}
    weighed = base_size.weighed(runs.assign(mu=runs["run"].map(mu).fillna(64.0)))
    assert weighed["μ"].tolist() == ["64", "1024"] and weighed["score"].tolist() == ["90.0", "80.0"]
    assert base_size.weighed(runs.assign(mu=64.0)).empty, "one weight is no comparison"
    units = base_size.units(runs)
    assert units.loc[("minilm", "neurons", "sst2")].tolist() == [50, 100]


# Whose records are still of the version before: each leaves this list when it is made anew.
EARLIER = ["base_size", "performance", "reference"]


def test_committed_records_are_of_one_version_and_of_clean_commits():
    """Or are named here; records beside one another would differ in more than they say."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in (ROOT / "outputs").glob("*/*/result.json"):
        name = path.parts[-3].removesuffix("-laptop")
        if not (ROOT / "params" / f"{path.parts[-3]}.yaml").is_file():
            continue  # of one's own
        made = json.loads(path.read_text())["environment"]
        found.setdefault(name, []).append((made["kprune"], made["commit"] or "+"))
    for name, made in found.items():
        whole = all(now == kprune.__version__ and not at.endswith("+") for now, at in made)
        assert whole != (name in EARLIER), name
    assert {*EARLIER} <= {*found} and {"accuracy", "retraining", "speed"} <= {*found}
