"""Bad experiment files: each is refused in one sentence, at once, before anything runs."""

import tracemalloc
from pathlib import Path

import pytest

from kprune.laboratory.batch import check_folders, needed_teachers
from kprune.laboratory.experiments import expand

GRID = "grid: {rate: [0.5]}"


def fixed(values: str) -> str:
    return f"title: t\nfixed: {values}\n{GRID}"


def grid(axes: str) -> str:
    return f"title: t\ngrid: {axes}"


BOMB = "\n".join(
    ["title: t", "a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
)
DOUBLED = ", ".join(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30))
DOUBLED = f"[&a0 [x, x], {DOUBLED}]"
TENS = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
# What is in the file, and a part of the sentence that refuses it.
NO_YAML = {
    "": "must hold a mapping",
    "# only a comment": "must hold a mapping",
    "title": "must hold a mapping",
    "- title": "must hold a mapping",
    "5": "must hold a mapping",
    "null": "must hold a mapping",
    "true": "must hold a mapping",
    "title: [": "not valid YAML",
    "title: t\n\tgrid: {}": "not valid YAML",
    "title: 'open": "not valid YAML",
    "{title: t": "not valid YAML",
    "title: t\n---\ntitle: u": "not valid YAML",
    "title: a: b": "not valid YAML",
    "title: t\x00": "not valid YAML",
    "title: \x07": "not valid YAML",
    "title: @x": "not valid YAML",
    "title: %x": "not valid YAML",
    "%YAML 3.0\n---\ntitle: t": "not valid YAML",
    "? [a, b]\n: c": "a key is not a word",
    "{a: b}: c": "a key is not a word",
    "[" * 1000: "not valid YAML",
    "title: " + "{a: " * 5000: "not valid YAML",
    "title: t\n" + "# filler\n" * 9000: "the grid is empty",
}
SURPRISES = {
    BOMB: "no key 'a0'",
    grid(f"{{rate: {DOUBLED}}}"): "rate is of type float; got ['x', 'x'], a list",
    "title: t\nexclude: [{rate: " + DOUBLED + "}]\n" + GRID: "exclude: rate is of type float",
    grid("{seed: &s [*s]}"): "seed is of type int",
    "title: &t t\ntitle: *t\n" + GRID: "'title' occurs 2 times",
    "title: *t\n" + GRID: "undefined alias",
    "a: &a [*a]": "'title' is missing",
    "a: &a {b: [*a]}": "'title' is missing",
    "title: t\nfixed: {<<: {seed: 1}}\n" + GRID: "YAML reads << as a merge",
    "!!python/object/apply:os.getcwd []": "tags such as",
    "title: !!python/name:os.system ''": "tags such as",
    "title: !!str t\n" + GRID: "tags such as",
    "title: ! t\n" + GRID: "tags such as",
    fixed('{seed: !!int "010"}'): "tags such as",
    fixed("{teacher: !!binary aGVsbG8=}"): "tags such as",
    "title: t\ntitle: u\n" + GRID: "'title' occurs 2 times",
    "title: t\n" + GRID + "\n" + GRID: "'grid' occurs 2 times",
    "title: t\n" + GRID + "\nexclude: []\nexclude: []": "'exclude' occurs 2 times",
    fixed("{tokens: 5, tokens: 6}"): "'tokens' occurs 2 times",
    fixed('{tokens: 5, "tokens": 5}'): "'tokens' occurs 2 times",
    grid("{rate: [0.4], rate: [0.5]}"): "'rate' occurs 2 times",
    grid("{method: [{lam: 0.0, lam: 1.0}]}"): "'lam' occurs 2 times",
    "title: t\n" + GRID + "\nexclude: [{rate: 0.4, rate: 0.5}]": "'rate' occurs 2 times",
    fixed("{seed: 010}"): "line 2: YAML reads 010 as a int",
    fixed("{seed: 00}"): "YAML reads 00 as a int",
    fixed("{seed: -010}"): "YAML reads -010 as a int",
    fixed("{seed: 0x1F}"): "YAML reads 0x1F as a int",
    fixed("{seed: 0b11}"): "YAML reads 0b11 as a int",
    fixed("{tokens: 1_000}"): "YAML reads 1_000 as a int",
    fixed("{tokens: 1:30}"): "YAML reads 1:30 as a int",
    fixed("{epochs: 1:30.5}"): "YAML reads 1:30.5 as a float",
    fixed("{epochs: 1_0.5}"): "YAML reads 1_0.5 as a float",
    fixed("{keep: no}"): "YAML reads no as a bool",
    fixed("{keep: Yes}"): "YAML reads Yes as a bool",
    fixed("{keep: on}"): "YAML reads on as a bool",
    fixed("{keep: OFF}"): "YAML reads OFF as a bool",
    fixed("{without: off}"): "YAML reads off as a bool",
    grid("{model: [no]}"): "YAML reads no as a bool",
    fixed("{on: 1}"): "YAML reads on as a bool",
    fixed("{model: 2024-01-01}"): "YAML reads 2024-01-01 as a timestamp",
    fixed("{teacher: 2024-01-01 10:00:00}"): "as a timestamp",
    fixed("{method: =}"): "YAML reads = as a value",
    fixed(f"{{model: {'m' * 2000}}}"): "model is a folder or a Hub id",
    fixed(f"{{tokens: {'9' * 5000}}}"): "bad.yaml is not valid YAML: Exceeds the limit",
    fixed(f"{{{'n' * 2000}: 1}}"): "not valid YAML",
}
KEYS = {
    "grid: {rate: [0.5]}": "the key 'title' is missing",
    "title: 5\n" + GRID: "title: Input should be a valid string",
    "title: null\n" + GRID: "title: Input should be a valid string",
    "title: [t]\n" + GRID: "title: Input should be a valid string",
    "title: t\nGrid: {rate: [0.5]}": "no key 'Grid'; did you mean 'grid'",
    "title: t\ngrids: {rate: [0.5]}": "no key 'grids'; did you mean 'grid'",
    "title: t\nexcludes: []\n" + GRID: "no key 'excludes'; did you mean 'exclude'",
    "title: t\noutputs: here\n" + GRID: "no key 'outputs'",
    "title: t\n1: 2\n" + GRID: "Keys should be strings",
    "title: t": "the grid is empty",
    grid("{}"): "the grid is empty",
    grid("{rate: []}"): "the grid is empty",
    grid("{rate: [0.5], method: []}"): "the grid is empty",
    grid("[0.5]"): "grid: Input should be a valid dictionary",
    grid("0.5"): "grid: Input should be a valid dictionary",
    grid("null"): "grid: Input should be a valid dictionary",
    grid("{rate: 0.5}"): "grid.rate: Input should be a valid list",
    grid("{rate: null}"): "grid.rate: Input should be a valid list",
    grid("{rate: {a: 0.5}}"): "grid.rate: Input should be a valid list",
    grid("{1: [0.5]}"): "valid string",
    fixed("[1]"): "fixed: Input should be a valid dictionary",
    fixed("null"): "fixed: Input should be a valid dictionary",
    fixed("{1: 2}"): "valid string",
    "title: t\nnotebook: 6\n" + GRID: "notebook: Input should be a valid string",
    "title: t\nreport: [10_accuracy]\n" + GRID: "report: Input should be a valid string",
    "title: t\n" + GRID + "\nexclude: {rate: 0.5}": "exclude: Input should be a valid list",
    "title: t\n" + GRID + "\nexclude: [0.5]": "exclude.0: Input should be a valid dictionary",
    "title: t\n" + GRID + "\nexclude: [{}]": "an entry is empty",
    "title: t\n" + GRID + "\nexclude: [{rate: 0.5}]": "exclude leaves nothing",
    "title: t\n" + GRID + "\nexclude: [{rate: 0.4}]": "is equal to no run",
    "title: t\n" + GRID + "\nexclude: [{rate: []}]": "is equal to no run",
    "title: t\n" + GRID + "\nexclude: [{rat: 0.5}]": "no parameter 'rat'",
    "title: t\n" + GRID + "\nexclude: [{seed: 0.5}]": "seed is of type int",
    "title: t\nruns: 5": "runs: Input should be a valid string",
    "title: t\nruns: none.yaml": "There is no experiment file",
    "title: t\nruns: bad.yaml": "has no runs of its own",
    "title: t\nruns: ../bad.yaml": "runs names a file beside this one",
    "title: t\nruns: /etc/passwd": "runs names a file beside this one",
    "title: t\nruns: ..": "runs names a file beside this one",
    "title: t\nruns: other.yaml\n" + GRID: "has no fixed, grid or exclude",
    "title: t\nruns: other.yaml\nfixed: {seed: 1}": "has no fixed, grid or exclude",
}
PLACES = {
    "title: t\nnotebook: 06_kprun\n" + GRID: "did you mean '06_kprune'",
    "title: t\nnotebook: ''\n" + GRID: "no notebook ''",
    "title: t\nnotebook: ../notebooks/06_kprune\n" + GRID: "no notebook '../notebooks/06_kprune'",
    "title: t\nnotebook: ./06_kprune\n" + GRID: "no notebook './06_kprune'",
    "title: t\nnotebook: /etc/passwd\n" + GRID: "no notebook '/etc/passwd'",
    "title: t\nnotebook: 06_kprune.ipynb\n" + GRID: "no notebook '06_kprune.ipynb'",
    "title: t\nnotebook: 10_accuracy\n" + GRID: "'10_accuracy' is no run",
    "title: t\nnotebook: 02_knowledge\ngrid: {seed: [0]}": "'02_knowledge' is no run",
    "title: t\nnotebook: 00_quickstart\ngrid: {seed: [0]}": "'00_quickstart' is no run",
    "title: t\nreport: 10_acuracy\n" + GRID: "did you mean '10_accuracy'",
    "title: t\nreport: 06_kprune\n" + GRID: "'06_kprune' is no report",
    "title: t\nreport: 01_sampling\n" + GRID: "'01_sampling' is no report",
    "title: t\nreport: ../10_accuracy\n" + GRID: "no notebook '../10_accuracy'",
    grid("{model: [..]}"): "model is a folder or a Hub id",
    grid("{model: [a/..]}"): "model is a folder or a Hub id",
    grid("{model: [.]}"): "model is a folder or a Hub id",
    grid("{model: [/]}"): "model is a folder or a Hub id",
    grid("{model: ['']}"): "model is a folder or a Hub id",
    grid("{model: [a/.hidden]}"): "model is a folder or a Hub id",
    grid(f"{{model: [{'m' * 300}]}}"): "model is a folder or a Hub id",
    fixed("{model: ''}"): "model is a folder or a Hub id",
    fixed("{model: ../..}"): "model is a folder or a Hub id",
    fixed("{model: ./no/such}"): "there is no model in the folder ./no/such",
    fixed("{model: /no/such}"): "there is no model in the folder /no/such",
    fixed("{model: ' minilm'}"): "blanks around it",
    fixed('{model: "mini\\0lm"}'): "cannot be printed",
    fixed('{model: "mini\\nlm"}'): "cannot be printed",
    fixed("{teacher: no/such}"): "there is no model in the folder no/such",
    fixed('{teacher: "a\\0b"}'): "cannot be printed",
    fixed("{teacher: '  '}"): "blanks around it",
    fixed("{data: ../nowhere}"): "there is no data folder ../nowhere",
    fixed("{data: ~/nowhere}"): "there is no data folder ~/nowhere",
    fixed('{data: "../\\u202e"}'): "cannot be printed",
    fixed("{outputs: ../elsewhere}"): "outputs is where the runner puts a run",
    grid("{outputs: [a, b]}"): "outputs is where the runner puts a run",
}
VALUES = {
    fixed("{token: 5}"): "did you mean 'tokens'",
    fixed("{Seed: 5}"): "did you mean 'seed'",
    fixed("{'': 5}"): "no parameter ''",
    grid("{rat: [0.5]}"): "did you mean 'rate'",
    grid("{method: [{methd: kwon}]}"): "did you mean 'method'",
    fixed("{rate: 0.4}"): "'rate' is set twice",
    grid("{method: [{rate: 0.5}], rate: [0.5]}"): "'rate' is set twice",
    grid("{a: [{seed: 1}], b: [{seed: 2}]}"): "'seed' is set twice",
    grid("{rate: [0.5, 0.5]}"): "2 runs are called 'rate0.5'",
    grid("{rate: [0.5, 0.50]}"): "2 runs are called 'rate0.5'",
    grid("{model: [a/b, c/b]}"): "2 runs are called 'b'",
    grid("{method: [{}, {}]}"): "2 runs are called 'all'",
    grid("{lam: [0, 0.0]}"): "2 runs are called 'lam0.0'; each may occur once",
    grid("{keep: [true, false]}"): "are the same run",
    fixed("{tokens: many}"): "tokens is of type int; got 'many', a str",
    fixed("{tokens: 1.5}"): "tokens is of type int; got 1.5, a float",
    fixed("{tokens: 1.0}"): "tokens is of type int; got 1.0, a float",
    fixed("{tokens: '5'}"): "tokens is of type int; got '5', a str",
    fixed("{tokens: 1e5}"): "write 100000",
    fixed("{tokens: true}"): "tokens is of type int; got True, a bool",
    fixed("{tokens: null}"): "tokens is of type int; got None",
    fixed("{tokens: }"): "tokens is of type int; got None",
    fixed("{tokens: [5]}"): "tokens is of type int; got [5], a list",
    fixed("{tokens: {a: 5}}"): "tokens is of type int; got {'a': 5}, a dict",
    fixed("{tokens: 0}"): "tokens is at least 1",
    fixed("{tokens: -5}"): "tokens is at least 1",
    fixed(f"{{tokens: 1{'0' * 30}}}"): "tokens is below 2³²",
    fixed("{tokens: .inf}"): "tokens is of type int; got inf",
    fixed("{tokens: 0o17}"): "tokens is of type int; got '0o17', a str",
    fixed("{seed: -1}"): "seed is at least 0",
    fixed("{seed: 4294967296}"): "seed is below 2³²",
    fixed("{samples: -1}"): "samples is between 0 and",
    fixed("{examples: -1}"): "examples is between 0 and",
    fixed("{every: 0}"): "every is between 1 and",
    fixed("{repeats: 0}"): "repeats is between 1 and",
    fixed("{repeats: 9999999999}"): "repeats is between 1 and",
    fixed("{epochs: -1}"): "epochs is between 0 and",
    fixed("{epochs: .nan}"): "epochs is a finite number",
    fixed("{epochs: .inf}"): "epochs is a finite number",
    fixed("{epochs: 1.0e+300}"): "epochs is between 0 and",
    fixed(f"{{epochs: 1{'0' * 400}}}"): "epochs is of type float",
    fixed("{gamma: .nan}"): "gamma is a finite number",
    fixed("{gamma: .inf}"): "gamma is a finite number",
    fixed("{gamma: 0}"): "gamma and mu must be positive",
    fixed("{mu: -64}"): "gamma and mu must be positive",
    fixed("{mu: '64'}"): "mu is of type float; got '64'",
    fixed("{lam: -1.0e-5}"): "lam not negative",
    fixed("{lam: 1e-5}"): "write 1.0e-05",
    fixed("{lam: 0,5}"): "fixed.5.[key]: Input should be a valid string",
    grid("{lam: ['0,5']}"): "lam is of type float; got '0,5'",
    grid("{rate: [0]}"): "between 0 and 1; got 0.0",
    grid("{rate: [1]}"): "between 0 and 1; got 1.0",
    grid("{rate: [60]}"): "between 0 and 1; got 60.0",
    grid("{rate: [60%]}"): "rate is of type float; got '60%'",
    grid("{rate: [.nan]}"): "rate is a finite number",
    grid("{rate: [[0.5]]}"): "rate is of type float; got [0.5], a list",
    grid("{method: [kwan]}"): "did you mean 'kwon'",
    grid("{method: [K-prune]}"): "did you mean 'kprune'",
    grid("{method: ['']}"): "no method ''",
    grid("{method: [5]}"): "method is of type str; got 5",
    grid("{method: [null]}"): "method is of type str; got None",
    grid("{task: [sst3]}"): "did you mean 'sst2'",
    grid("{task: [../sst2]}"): "no task '../sst2'",
    grid("{task: ['']}"): "no task ''",
    grid("{without: [tunning]}"): "without names ingredients",
    grid("{without: [fisher]}"): "'fisher' is not among those of 'kprune'",
    fixed("{method: kwon, without: tuning}"): "it has none",
    fixed("{precision: fp16}"): "precision is",
    fixed("{exercises: 1}"): "exercises is of type bool; got 1, a int",
    fixed("{exercises: 'true'}"): "exercises is of type bool; got 'true', a str",
    "title: t\nnotebook: 09_benchmark\nfixed: {reuse: -1.0}\n" + GRID: "reuse is the error",
    "title: t\nnotebook: 09_benchmark\nfixed: {reuse: .nan}\n" + GRID: "reuse is the error",
    "title: t\nnotebook: 09_benchmark\nfixed: {multiple: -3}\n" + GRID: "multiple is the number",
    "title: t\nnotebook: 09_benchmark\nfixed: {layers: -1}\n" + GRID: "layers is between",
    "title: t\nnotebook: 09_benchmark\nfixed: {length: -1}\n" + GRID: "length is between",
    grid(f"{{seed: {TENS}, {', '.join(f'{n}: {TENS}' for n in ('every', 'a', 'b', 'c', 'd'))}}}"): (
        "the grid has 1,000,000 runs"
    ),
    grid(f"{{seed: {list(range(10_001))}}}"): "the grid has 10,001 runs",
    grid("{task: [{task: sst2, examples: 10}, {task: sst2, examples: 20}]}"): "different teachers",
    grid("{seed: [0], model: ['x|y', 'a/x|y']}"): "2 runs are called",
}
BAD = {**NO_YAML, **SURPRISES, **KEYS, **PLACES, **VALUES}


def test_there_are_many():
    assert len(BAD) >= 145


@pytest.mark.parametrize(("text", "sentence"), BAD.items(), ids=range(len(BAD)))
def test_a_bad_file_is_refused_in_a_sentence(text, sentence, tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_OUTPUTS", str(tmp_path / "outputs"))
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    (tmp_path / "other.yaml").write_text("title: t\n" + GRID)
    refused(path, sentence)
    assert not (tmp_path / "outputs").exists()


def refused(path: Path, sentence: str) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError) as caught:
        runs = expand(path)
        needed_teachers(runs)
        check_folders(runs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    message = str(caught.value)
    assert sentence in message
    assert caught.type is ValueError and "\n" not in message and len(message) < 600, message
    assert peak < 2**26, f"{peak:,} bytes"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("bad.yaml", b"title: \xff\xfe", "not UTF-8"),
        ("bad.yaml", "title: t".encode("utf-16"), "not UTF-8"),
        ("..yaml", GRID.encode() + b"\ntitle: t", "rename the file"),
        (".hidden.yaml", GRID.encode() + b"\ntitle: t", "rename the file"),
        ("teachers.yaml", GRID.encode() + b"\ntitle: t", "rename the file"),
        ("a\nb.yaml", GRID.encode() + b"\ntitle: t", "rename the file"),
    ],
)
def test_files_that_are_no_experiments(name, content, sentence, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        expand(tmp_path / name)


def test_places_that_are_no_files(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml", Path("/dev/null"), Path("a\0b")):
        with pytest.raises(ValueError, match="There is no experiment file"):
            expand(path)


def test_what_people_write_is_taken(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(
        "\ufefftitle: 'no'  # quoted\nfixed: {lam: 1.0e-5, gamma: 2, mu: 6.4e+1, keep: True}\n"
        "grid:\n  model: [org/name, ../shared/it, 'a b']\n  rate: [.5, 0.25]\n",
        encoding="utf-8",
    )
    runs = expand(path, tmp_path)
    assert [run.name for run in runs][:3] == ["name_rate0.5", "name_rate0.25", "it_rate0.5"]
    assert runs[0].parameters["lam"] == 1e-5 and runs[0].parameters["mu"] == 64.0
