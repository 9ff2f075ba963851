"""pyproject.toml is the one source of dependencies; what repeats it must agree with it."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_follows_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    conda, pip = environment["dependencies"][:-1], environment["dependencies"][-1]["pip"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    extra = PROJECT["optional-dependencies"]["minilm"]
    assert pip == [*PROJECT["dependencies"], *extra, "-e ."]


def test_readme_follows_pyproject():
    readme = (ROOT / "README.md").read_text()
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')}" in readme
    for dependency in (d for d in PROJECT["dependencies"] if "==" in d):
        assert dependency in readme


def test_version_is_said_once():
    import kprune

    assert kprune.__version__ == PROJECT["version"]


def test_everything_public_is_documented():
    """Each public function and class says what it takes, gives and raises."""
    import inspect

    import kprune

    for name in kprune.__all__:
        thing = getattr(kprune, name)
        if inspect.isfunction(thing):
            text = inspect.getdoc(thing)
            assert text, name
            for argument in inspect.signature(thing).parameters:
                assert argument in text, f"{name} does not say what {argument} is"
