"""Files and folders that appear whole or not at all, and cost nobody else's."""

import ctypes
import glob
import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from kprune.data.reach import local

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h
CONFIG, WEIGHTS, CARD, RECORD = "config.json", "model.safetensors", "README.md", "teacher.json"
GRAPH = "model.onnx"  # of an exported model
MADE = "kprune.json"  # how a model was made, and which files are ours
# What a folder of an earlier version may hold: these, and what tokenizers save of theirs.
OURS = {
    *(CONFIG, WEIGHTS, CARD, RECORD),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("spm.model", "bpe.codes", "chat_template.jinja"),
}
# Of the cards that earlier versions wrote.
EARLIER = (
    "1eb8b6d58aa0831ac0bcfe91e6cc57833cd1f539ec08c8443122cf75f38ded70",
    "2ac37a20422b3b6261ab906ed6e25dd4b69d1c385d16b01b7fd4d5a35e119876",
)


def check_target(path: str | Path, teachers: bool = True, whole: str = WEIGHTS) -> None:
    """Raise ValueError where a folder that is to be written would cost files of someone else.

    It may be missing, or empty, or hold a model that this package wrote and nothing else, as it
    wrote it; without `teachers`, no fine-tuned one; and none whose weights are in another file than
    `whole`, which is to take its place. Likewise where nothing can be written there.
    """
    if not isinstance(path, (str, Path)):
        raise ValueError(f"A model is saved in a folder; got {path!r} in place of its path.")
    path = local(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        what = "link" if path.is_symlink() else "file"
        raise ValueError(f"{path} is a {what}, and a model needs a folder; choose another place.")
    ours = _written(path)
    for entry in path.rglob("*") if path.is_dir() else ():
        plain_one = not entry.is_symlink() and (entry.is_file() or entry.is_dir())
        if not (plain_one and ours(entry)):
            what = f"{entry.relative_to(path)}, which kprune did not write"
            raise ValueError(f"{path} holds {what}; choose another folder, or empty this one.")
        if entry.name in {WEIGHTS, GRAPH} - {whole}:
            what = "a graph" if entry.name == GRAPH else "a model's weights"
            raise ValueError(f"{path} holds {what}, which would be lost; choose another folder.")
        if entry.name == RECORD and not teachers:
            raise ValueError(f"{path} holds a teacher; choose another folder for the pruned model.")
    if os.path.ismount(path):
        raise ValueError(f"{path} is a mount point, which cannot be replaced; name one inside it.")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path!r} is no UTF-8; choose another name.") from error
    if path.resolve() == Path.cwd():
        raise ValueError(f"{path} is the current folder, which cannot be replaced; name another.")
    home = next(place for place in path.absolute().parents if os.path.lexists(place))
    try:
        with tempfile.TemporaryDirectory(prefix=_ours(path), dir=home):
            pass
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {error.strerror} in {home}; choose another place."
        ) from error


def _written(path: Path) -> Callable[[Path], bool]:
    """What tells whether a file or folder in a model's folder is as this package wrote it."""
    files = read_json(path / MADE).get("files")
    if isinstance(files, dict):
        return lambda entry: entry == path / MADE or _signature(entry, path) in files.items()
    # Earlier versions kept no list: then it goes by names.
    card, taught = path / CARD, read_json(path / RECORD).keys() >= {"task", "recipe"}
    own = card.is_file() and digest(card) in EARLIER
    some = taught or (own and "kprune" in read_json(path / CONFIG))
    return lambda entry: (
        some and entry.is_file() and entry.name in OURS and (own or entry.name != CARD)
    )


def digest(file: Path) -> str:
    """A file's SHA-256."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _signature(entry: Path, home: Path) -> tuple[str, str]:
    """A file's name within a folder and its digest; a folder's name ends in a slash."""
    name = entry.relative_to(home).as_posix()
    return (f"{name}/", "") if entry.is_dir() else (name, digest(entry))


def sign(folder: Path, **told: Any) -> None:
    """Note in a model's folder, with what is `told` of it, which files were written."""
    files = dict(_signature(entry, folder) for entry in sorted(folder.rglob("*")))
    write_json(folder / MADE, {**told, "files": files})


def told_of(folder: Path) -> dict[str, Any]:
    """The report that was noted in a model's folder, where its weights are those of then."""
    noted, weights = read_json(folder / MADE), folder / WEIGHTS
    files, report = noted.get("files"), noted.get("report")
    if not (isinstance(files, dict) and isinstance(report, dict) and weights.is_file()):
        return {}
    return report if files.get(WEIGHTS) == digest(weights) else {}


@contextmanager
def written_whole(path: str | Path, teachers: bool = True, whole: str = WEIGHTS) -> Iterator[Path]:
    """A temporary folder that takes the name `path` when the block ends without an error.

    What was there is exchanged for it in one step, where the system can; folders that a killed
    process of this machine has left beside it go.
    """
    path = local(path)
    check_target(path, teachers, whole)
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = _ours(path)
    for left in path.parent.glob(f"{glob.escape(ours)}*-*"):
        pid = left.name.removeprefix(ours).split("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    part = path.with_name(f"{ours}{os.getpid()}-{uuid.uuid4().hex}")
    part.mkdir()  # as the user's umask has it
    try:
        yield part
        if path.exists():
            part.chmod(path.stat().st_mode & 0o777)
        # A crash of the machine leaves no empty files.
        for file in (entry for entry in part.rglob("*") if entry.is_file()):
            with file.open("rb") as written:
                os.fsync(written.fileno())
        check_target(path, teachers, whole)
        if not (path.exists() and _exchanged(part, path)):
            old = part.with_name(f"{part.name}-old")
            if path.exists():
                path.rename(old)
            part.rename(path)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _ours(path: Path) -> str:
    """How the temporary folders beside a folder that is written begin."""
    return f".{path.name}-{platform.node()}-"


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step (Linux's renameat2); False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def write_json(path: str | Path, record: dict) -> None:
    """Write a strict JSON file under a temporary name, then rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    text = json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Half a character, as in the name of a file that is no UTF-8, is escaped as JSON has it.
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: infinities and NaN by their names, as `float` reads."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def read_json(path: Path) -> dict[str, Any]:
    """What a file holds, when that is a JSON object; else an empty one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
