"""What a teacher is made of, by content: a file that was written anew is another one."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kprune.data.hub import content
from kprune.data.reach import local
from kprune.data.tasks import TASKS, Task
from kprune.engine.files import CONFIG, digest
from kprune.laboratory.training import Recipe

CONTENT = "content"  # of the record: what its names stood for
READ = (".json", ".model", ".safetensors", ".txt")  # of a model's folder, its tokenizer's with them


def origin(task: Task, model: str, data: str | Path | None, recipe: Recipe) -> dict[str, Any]:
    """What a teacher is made of, as its record says it; one that embeds is not trained.

    ValueError for data that is no Hub id and no folder.
    """
    if not (data is None or isinstance(data, (str, Path))):
        raise ValueError(
            f"A teacher is trained on one split of its data and scored on another, so the data of "
            f"{task.name!r} is a Hub id or a folder; got a {type(data).__name__}."
        )
    found: dict[str, Any] = {"task": list(task.columns), "label": task.label}
    found |= {"max_length": task.max_length}
    if TASKS.get(task.name) != task:
        found["definition"] = repr(task)
    if data and local(data).is_dir():
        with suppress(Exception):  # what is wrong with it says who loads it
            found["data"] = content(local(data), task.config)[0]
    if (local(model) / CONFIG).is_file():
        files = (one for one in sorted(local(model).iterdir()) if one.suffix in READ)
        found["model"] = {path.name: digest(path) for path in files}
    made = None if task.kind == "embedding" else asdict(recipe)
    source = str(data) if data else task.dataset
    return {"task": task.name, "model": str(model), "data": source, "recipe": made, CONTENT: found}


def differences(record: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What a teacher's record says otherwise; earlier versions did not note the content.

    Data and a model whose content is known may lie elsewhere.
    """
    ours, theirs = wanted.get(CONTENT, {}), record.get(CONTENT, {})
    by_content = {CONTENT, *({"data", "model"} & ours.keys() & theirs.keys())}
    other = [k for k, v in wanted.items() if k not in by_content and record.get(k, ...) != v]
    if ours and theirs:
        other += sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    return list(dict.fromkeys(other))
