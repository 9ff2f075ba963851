"""YAML files without YAML's surprises: what is read is what a reader of the file sees."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

# What may stand without quotes for something else than text. YAML 1.1 also reads 010 as 8, 1:30 as
# 90, no as False and 2024-01-01 as a date.
PLAIN = {
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.inf|\.nan",
    "bool": r"true|false",
    "null": r"null|~|",
}
NEVER = "(?!)"


class SurpriseError(yaml.MarkedYAMLError):
    """Valid YAML that may not mean what it looks like."""


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _surprise(f"tags such as {event.tag[:40]} are not taken", event)
        node = super().compose_node(parent, index)
        kind = node.tag.rpartition(":")[2]
        scalar = isinstance(node, yaml.ScalarNode) and kind != "str"
        if scalar and not re.fullmatch(PLAIN.get(kind, NEVER), node.value, re.IGNORECASE):
            raise _surprise(
                f"YAML reads {node.value} as a {kind}; write a plain decimal number, true or "
                "false, or put it in quotes to have a text",
                node,
            )
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(keys) < len(node.value):
            raise _surprise("a key is not a word", node)
        for key, times in Counter(keys).items():
            if times > 1:
                raise _surprise(f"the key {key!r} occurs {times} times in one mapping", node)
        return node


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds; ValueError in a sentence where it cannot be read, or surprises.

    Nothing is taken that people read otherwise than YAML does, or that occurs twice.
    """
    if not path.is_file():
        raise ValueError(f"There is no {what} file {path}.")
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "its end"
        wrong = "" if isinstance(error, SurpriseError) else "not valid YAML: "
        raise ValueError(f"{path}, {line}: {wrong}{error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error


def _surprise(problem: str, place: yaml.Event | yaml.Node) -> SurpriseError:
    return SurpriseError(problem=problem, problem_mark=place.start_mark)
