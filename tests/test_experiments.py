"""What an experiment's YAML may say, and when a run counts as done."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import whole_record

from kprune.laboratory.batch import check_folders, needed_teachers
from kprune.laboratory.experiments import expand, notebook_parameters, read_experiment
from kprune.laboratory.records import FAILURE, RESULT, state

PARAMS = sorted((Path(__file__).parents[1] / "params").glob("*.yaml"))
GRID = {"task": ["sst2", "mrpc"], "method": ["kprune", "random"], "rate": [0.4, 0.8]}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_OUTPUTS", str(tmp_path / "outputs"))

    def write(name: str = "some", **content) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"title": "some", **content}, sort_keys=False))
        return path

    return write


def test_the_grid_is_a_product(write, tmp_path):
    runs = expand(write(grid=GRID, fixed={"tokens": 500}))
    assert len({run.name for run in runs}) == 8
    assert runs[0].name == "sst2_kprune_rate0.4"
    assert runs[0].folder == tmp_path / "outputs" / "some" / runs[0].name
    assert all(run.parameters["tokens"] == 500 for run in runs)
    defaults = notebook_parameters(runs[0].notebook)
    assert runs[-1].parameters == defaults | {
        "task": "mrpc",
        "method": "random",
        "rate": 0.8,
        "tokens": 500,
    }
    assert {"outputs", "exercises"}.isdisjoint(runs[0].wanted)


def test_an_entry_of_exclude_may_list_several_values(write):
    grid = {"task": ["sst2", "mrpc", "squad"], "method": ["kprune", "kwon", "kcm"]}
    exclude = [{"task": ["mrpc", "squad"], "method": ["kwon", "kcm"]}]
    names = [run.name for run in expand(write(grid=grid, exclude=exclude))]
    assert names == ["sst2_kprune", "sst2_kwon", "sst2_kcm", "mrpc_kprune", "squad_kprune"]


def test_an_axis_may_set_parameters_together(write):
    both = [{"task": "sst2", "data": "../some/glue"}, {"task": "squad", "every": 10}]
    methods = [{"method": "kprune", "lam": 0}, {"method": "kwon", "samples": 2048}]
    grid = {"task": both, "method": methods, "rate": [0.5]}
    runs = expand(write(grid=grid, exclude=[{"task": "squad", "method": "kwon"}]))
    assert [run.name for run in runs] == [
        "sst2_kprune_lam0.0_rate0.5",
        "sst2_kwon_samples2048_rate0.5",
        "squad_every10_kprune_lam0.0_rate0.5",
    ]
    assert runs[0].parameters["data"] == "../some/glue" and runs[0].parameters["lam"] == 0.0
    assert isinstance(runs[0].parameters["lam"], float)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grd": GRID}, "there is no key 'grd'; did you mean 'grid'?"),
        ({"grid": {"rat": [0.5]}}, "there is no parameter 'rat'; did you mean 'rate'?"),
        ({"grid": GRID, "fixed": {"token": 5}}, "no parameter 'token'; did you mean 'tokens'?"),
        ({"grid": GRID, "fixed": {"tokens": "many"}}, "tokens is of type int; got 'many', a str."),
        ({"grid": GRID, "fixed": {"tokens": 1.5}}, "tokens is of type int; got 1.5, a float."),
        ({"grid": GRID, "fixed": {"exercises": 1}}, "exercises is of type bool; got 1, a int."),
        ({"grid": {"rate": [1.2]}}, "got 1.2."),
        ({"grid": {"method": ["kwan"]}}, "no method 'kwan'; did you mean 'kwon'?"),
        ({"grid": {"task": ["sst3"]}}, "no task 'sst3'; did you mean 'sst2'?"),
        ({"grid": {"lam": [-1.0]}}, "lam not negative"),
        ({"grid": {"without": ["tunning"]}}, "without names ingredients"),
        ({"grid": {"tokens": [0]}}, "tokens is at least 1; got 0"),
        ({"grid": {"lam": ["1e-5"]}}, "write 1.0e-05"),
        ({"grid": {"precision": ["fp16"]}}, "precision is"),
        ({"grid": GRID, "report": "10_acuracy"}, "no notebook '10_acuracy'.*did you mean"),
        ({}, "the grid is empty"),
        ({"grid": {"rate": []}}, "the grid is empty"),
        ({"grid": {"rate": [0.5, 0.5]}}, "2 runs are called 'rate0.5'"),
        ({"grid": {"rate": [0.5]}, "fixed": {"rate": 0.4}}, "'rate' is set twice"),
        ({"grid": {"rate": [0.5]}, "exclude": [{"rate": 0.5}]}, "exclude leaves nothing"),
        ({"grid": {"rate": [0.5]}, "exclude": [{"rato": 0.5}]}, "no parameter 'rato'"),
        ({"grid": {"rate": 0.5}}, "grid.rate: Input should be a valid list"),
        ({"grid": GRID, "notebook": "06_kprun"}, "no notebook '06_kprun'.*did you mean"),
        ({"grid": GRID, "runs": "other.yaml"}, "has no fixed, grid or exclude of its own"),
        ({"runs": "nowhere.yaml"}, "There is no experiment .*nowhere.yaml"),
    ],
)
def test_bad_experiments_are_refused_in_one_sentence(write, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        expand(write(**content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- 1", "a mapping")])
def test_what_is_no_mapping_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_experiment(path)
    with pytest.raises(ValueError, match="There is no experiment"):
        read_experiment(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.stem)
def test_every_experiment_of_ours_is_sound(path):
    runs = expand(path)
    assert needed_teachers(runs) or all(run.parameters["teacher"] for run in runs)
    assert (path.parents[1] / "notebooks" / f"{read_experiment(path).report}.ipynb").is_file()


def test_each_paper_size_has_a_laptop_size():
    # The authors' codes were run on the checkpoints of the laptop size only; at the paper's size
    # K-prune+ has 100K tokens anyway; the paper has no rerankers, and one label of a text.
    lone = {"quick", "reference-laptop", "beyond-100k-laptop"}
    lone |= {"rerankers-laptop", "multilabel-laptop", "performance-gpu", "base_size-gpu"}
    sizes = {path.stem for path in PARAMS} - lone
    assert sizes == {s for s in sizes if "-" not in s} | {
        f"{s}-laptop" for s in sizes if "-" not in s
    }


def test_only_a_whole_record_of_these_parameters_is_done(write):
    run = expand(write(grid=GRID))[0]
    assert state(run) == "missing"
    run.folder.mkdir(parents=True)
    (run.folder / FAILURE).write_text("{}")
    assert state(run) == "failed"
    whole = json.dumps(whole_record(run))
    for text, wanted in (
        (whole, "done"),
        (whole[:-30], "damaged"),
        ("", "damaged"),
        ('{"parameters": {}}', "damaged"),
        (json.dumps(whole_record(run, parameters=run.wanted | {"rate": 0.5})), "outdated"),
        (json.dumps(whole_record(run, environment={"kprune": "0.0.1"})), "outdated"),
    ):
        (run.folder / RESULT).write_text(text)
        assert state(run) == wanted
    (run.folder / RESULT).write_bytes(b"\xff\xfe\x00")
    assert state(run) == "damaged"
    torn = whole_record(run)
    torn["report"]["heads"] = torn["report"]["heads"][:-1]  # of fewer layers than the neurons
    (run.folder / RESULT).write_text(json.dumps(torn))
    assert state(run) == "damaged"


def test_runs_that_compare_scores_need_no_times(write):
    """A record with times is good for them, too; one without is not for a run that is timed."""
    timed, scored = (expand(write(str(n), fixed={"timed": n}, grid=GRID))[0] for n in (True, False))
    assert timed.wanted == scored.wanted
    for run, bare in ((timed, "damaged"), (scored, "done")):
        run.folder.mkdir(parents=True)
        (run.folder / RESULT).write_text(json.dumps(whole_record(run)))
        assert state(run) == "done"
        record = whole_record(run, latency={})
        del record["pass seconds"]
        (run.folder / RESULT).write_text(json.dumps(record))
        assert state(run) == bare


def test_names_of_models_and_defaults_count(write):
    grid = {"model": ["google-bert/bert-base-uncased", "distilbert/distilbert-base-uncased"]}
    runs = expand(write(grid=grid))
    assert [r.name for r in runs] == ["bert-base-uncased", "distilbert-base-uncased"]
    assert [r.name for r in expand(write(grid={"without": [""]}))] == ["all"]
    without = expand(write(grid={"seed": [0, 1]}, exclude=[{"method": "kprune", "seed": 1}]))
    assert [r.name for r in without] == ["seed0"]  # the method is the notebook's default


def test_reports_share_the_runs_of_another_experiment(write):
    runs = expand(write("first", grid=GRID))
    path = write("second", runs="first.yaml")
    assert [r.folder for r in expand(path)] == [r.folder for r in runs]
    with pytest.raises(ValueError, match="has no runs of its own"):
        expand(write("third", runs="third.yaml"))


def test_the_pages_tell_the_number_of_runs():
    """params/README.md against the experiments themselves."""
    page = (PARAMS[0].parent / "README.md").read_text()
    counts = {path.stem: f"{len(expand(path)):,}" for path in PARAMS}
    for name in (
        "accuracy",
        "speed",
        "ablation",
        "sensitivity",
        "performance",
        "beyond",
        "embeddings",
        "entities",
        "base_size",
        "retraining",
    ):
        row = next(line for line in page.split("\n") if line.startswith(f"| `{name}`"))
        assert row.split(" | ")[2:] == [counts[name], f"{counts[f'{name}-laptop']} |"], row
    for name in ("performance-gpu", "base_size-gpu"):
        row = next(line for line in page.split("\n") if line.startswith(f"| `{name}`"))
        assert row.endswith(f"| | {counts[name]} |"), row
    assert f"is {counts['accuracy']} runs" in page


def test_a_name_does_not_hang_on_how_a_number_is_written(write):
    names = [expand(write(grid={"epochs": [value]}))[0].name for value in (4, 4.0)]
    assert names == ["epochs4.0"] * 2


def test_what_is_excluded_need_not_make_sense(write):
    """An ablation of one method beside another was refused, though its entry was left out."""
    grid = {"method": ["kprune", "kwon"], "without": ["", "tuning"]}
    with pytest.raises(ValueError, match="'tuning' is not among those of 'kwon'"):
        expand(write(grid=grid))
    runs = expand(write(grid=grid, exclude=[{"method": "kwon", "without": "tuning"}]))
    assert [run.name for run in runs] == ["kprune", "kprune_tuning", "kwon"]


def test_folders_are_looked_for_before_anything_runs(write):
    for fixed in ({"teacher": "no/such"}, {"data": "../nowhere"}):
        with pytest.raises(ValueError, match=r"there is no (model in the|data) folder"):
            check_folders(expand(write(grid=GRID, fixed=fixed)))


def test_teachers_are_shared_and_must_agree(write):
    teachers = needed_teachers(expand(write(grid=GRID)))
    assert [teacher.task for teacher in teachers] == ["sst2", "mrpc"]
    clash = {"task": ["sst2"], "rate": [0.5], "examples": [10, 20]}
    with pytest.raises(ValueError, match="want different teachers"):
        needed_teachers(expand(write(grid=clash)))
    own = {"task": ["sst2"], "rate": [0.5], "teacher": ["some/folder"]}
    assert needed_teachers(expand(write(grid=own))) == []
