"""Experiments with K-prune: teachers, scores, batches of runs, tables and figures."""

from importlib.util import find_spec

NEEDED = ("scipy", "sklearn", "seqeval", "seaborn", "papermill", "pydantic")
if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise ImportError(
        f"Scores, teachers and batches need {missing[0]}, of the extra `laboratory`: "
        "pip install 'kprune[laboratory]'."
    )
