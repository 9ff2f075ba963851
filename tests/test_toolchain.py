"""pyproject.toml is the one source of dependencies; what repeats it must agree with it."""

import dataclasses
import inspect
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import kprune

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SAY_IT = {"folder", "progress", "task", "tokenizer"}  # names that do


def test_environment_follows_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    conda, pip = environment["dependencies"][:-1], environment["dependencies"][-1]["pip"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    extras = PROJECT["optional-dependencies"]
    assert pip == [*PROJECT["dependencies"], *extras["laboratory"], *extras["minilm"], "-e ."]


def test_readme_follows_pyproject():
    readme = (ROOT / "README.md").read_text()
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')}" in readme
    for dependency in (d for d in PROJECT["dependencies"] if "==" in d):
        assert dependency in readme


def test_the_manual_lists_every_option_with_its_default():
    manual = (ROOT / "notebooks" / "manual.md").read_text()
    table = manual.split("### Options")[1].split("\n### ")[0]
    for option in dataclasses.fields(kprune.Options):
        name, default = f"`{option.name}`", option.default
        shown = f'"{default}"' if isinstance(default, str) else f"{default:,}"
        shown = str(default) if isinstance(default, bool) else shown
        line = next(line for line in table.splitlines() if name in line)
        assert shown in line, f"{name}: {shown}"


def test_version_is_said_once():
    assert kprune.__version__ == PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


def test_everything_public_is_documented():
    """Each public function says what it takes, or names in backticks what says it."""
    for name in kprune.__all__:
        if not inspect.isfunction(thing := getattr(kprune, name)):
            continue
        said, names = "", [name]
        for other in names:  # which grow
            text = inspect.getdoc(getattr(kprune, other, None)) or ""
            said += text
            names += [word for word in re.findall(r"`(\w+)`", text) if word not in names]
        for argument in inspect.signature(thing).parameters.keys() - SAY_IT:
            assert argument in said, f"{name} does not say what {argument} is"


def committed(*folders):
    """Files under version control."""
    try:
        listed = subprocess.check_output(["git", "ls-files", "-z", *folders], cwd=ROOT, text=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("not in a git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_results_are_strict_json():
    def refuse(word):
        raise ValueError(word)

    found = [
        path for path in committed("outputs", "notebooks") if path.suffix in (".json", ".ipynb")
    ]
    assert len(found) > 300
    for path in found:
        json.loads(path.read_text(), parse_constant=refuse)


def test_no_machine_shows_in_what_is_committed():
    """No folder of somebody's, no user's name, no warning."""
    machine = re.compile(r"/(work|root|home|tmp|Users|check)/\w|\w+Warning:")
    found = [path for path in committed("outputs", "notebooks", "params") if path.suffix != ".png"]
    assert not [path.name for path in found if machine.search(path.read_text())]
