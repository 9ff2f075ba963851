"""Save and load pruned models (safetensors and JSON)."""

import copy
from pathlib import Path

import accelerate
import safetensors.torch
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from kprune.card import ALONE, OPEN, card, checked_scores, with_section
from kprune.checks import check_model, check_weights
from kprune.classes import as_pruned, checked_kept, cut_as, is_own
from kprune.data.checks import first_line
from kprune.data.reach import HUB_ID, hub, local
from kprune.description import check_described
from kprune.engine.as_found import plain_tensors
from kprune.engine.empty import NoUnits
from kprune.engine.files import (
    CARD,
    CONFIG,
    GRAPH,
    WEIGHTS,
    check_target,
    sign,
    told_of,
    written_whole,
)
from kprune.engine.loading import SENSELESS, OwnCodeError, check_stored, load_config
from kprune.engine.opener import CODE
from kprune.families import FAMILIES, family_of, report_of
from kprune.inputs import check_match
from kprune.sampling import find_tokenizer
from kprune.sentences import opened
from kprune.standalone import check_standalone, code_of

BROKEN = (OSError, ValueError, *SENSELESS)  # what comes of values that make no sense


def save(
    model: PreTrainedModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    standalone: bool = False,
    scores: dict[str, float] | None = None,
) -> Path:
    """Save a pruned model with its tokenizer; `load` reads it back to the bit.

    The folder appears whole or not at all. A model that this package has written there before is
    replaced; anything else is left alone and refused. Beside the model there is a model card,
    README.md, and the report of the pruning, `kprune.json`.

    A SentenceTransformer or CrossEncoder is written by its own `save_pretrained`, whose page says
    the same in a section of its own.

    Args:
        model: what `kprune.prune` returned; anything else, or one without a tokenizer, is refused.
        folder: where to; it is given back.
        tokenizer: by default the one that drew the sample.
        standalone: add a file of Python, `modeling_kprune.py`, and name it in the configuration, so
            that who has transformers alone opens the folder with `trust_remote_code=True`.
        scores: of the pruned model, by metric, as `kprune.evaluate` gives them, for the card.
    """
    if not isinstance(standalone, bool):
        raise ValueError(f"standalone is True or False; got {standalone!r}.")
    if inside := opened(model, {}):
        if standalone or scores or tokenizer:
            what = "is saved by its own means: leave out standalone, scores and tokenizer"
            raise ValueError(f"A {type(model).__name__} {what}.")
        _check_pruned(inside.model)
        with written_whole(folder, teachers=False) as part:
            model.save_pretrained(str(part))
            report = report_of(inside.model)
            page = part / CARD  # which may be that of a folder that it was loaded from
            before = page.read_text(encoding="utf-8") if page.is_file() else ""
            page.write_text(with_section(before, inside.model, report), encoding="utf-8")
            sign(part, report=report)
        return local(folder)
    check_model(model, empty=True)
    _check_pruned(model)
    name = type(model).__name__
    if not is_own(type(model)):
        raise ValueError(f"{name} is a class of your own, which no loader here could open again.")
    if standalone:
        check_standalone(model)
    scores = checked_scores(scores)
    check_target(folder, teachers=False)
    check_match(model, tokenizer := tokenizer or find_tokenizer(model), whole=True)
    if not hasattr(tokenizer, "save_pretrained"):
        raise ValueError(f"A {type(tokenizer).__name__} cannot be saved; pass tokenizer=.")
    # One type for all, where others open it: that which holds every weight as it is.
    widest = max((weight.dtype for weight in model.parameters()), key=lambda own: own.itemsize)
    model.config.architectures, model.config.dtype = [name], widest
    # Copies: a file holds no two names of one tensor, as of weights that layers share.
    whole = {"memory_format": torch.contiguous_format}
    state = {name: weight.clone(**whole) for name, weight in model.state_dict().items()}
    check_described(model, state)
    with written_whole(folder, teachers=False) as part:
        config, how = copy.copy(model.config), OPEN
        if standalone:
            code, config.auto_map = code_of(model)
            (part / f"{CODE}.py").write_text(code, encoding="utf-8")
            auto = next(a for a, own in config.auto_map.items() if own.endswith(f".{name}"))
            how += ALONE.format(auto=auto)
        config.save_pretrained(part)
        tokenizer.save_pretrained(part)
        report = report_of(model)
        page = card(model, report, how, scores=scores)
        (part / CARD).write_text(page, encoding="utf-8")
        safetensors.torch.save_file(state, part / WEIGHTS, metadata={"format": "pt"})
        (part / WEIGHTS).chmod((part / CARD).stat().st_mode)  # others may read it, too
        sign(part, report=report, **({"scores": scores} if scores else {}))
    return local(folder)


@plain_tensors()
def load(folder: str | Path) -> PreTrainedModel:
    """Load a model that `save` wrote: same outputs to the bit, on the CPU, in evaluation mode.

    Scores are of what was saved, and not taken along. Its tokenizer is in the same `folder`, or Hub
    repository: `AutoTokenizer.from_pretrained`.
    ValueError when it is missing, is not of a pruned model, is damaged, or names code of its own;
    nothing of a size that its files do not have is allocated.
    """
    folder = _at_hand(folder)
    config, kept, name = _described(folder)
    try:
        paths = sorted(folder.glob("*.safetensors"))
        if config.hidden_size > sum(path.stat().st_size for path in paths):
            raise ValueError("hidden_size is more than its files can hold")
        files = [safetensors.safe_open(path, "pt") for path in paths]
        for file in files:
            check_stored(file)
        keys = [key for file in files for key in file.keys()]  # noqa: SIM118
        if len({*keys}) < len(keys):
            raise ValueError("several files of weights hold the same one; leave the model's own")
        held = {key: file for file in files for key in file.keys()}  # noqa: SIM118
        held = {k: f for k, f in held.items() if 0 not in f.get_slice(k).get_shape()}
        with torch.random.fork_rng(devices=[]):
            with torch.device("meta"):
                wanted = cut_as(getattr(transformers, name)(config), kept).state_dict()
            given = {key: tuple(file.get_slice(key).get_shape()) for key, file in held.items()}
            if other := given.items() ^ {(k, tuple(w.shape)) for k, w in wanted.items()}:
                raise ValueError(f"{min(other)[0]} is missing, left over, or of another shape")
            with (
                torch.device("cpu"),
                accelerate.init_empty_weights(),
            ):  # but for what files do not hold
                model = getattr(transformers, name)(config).eval()
        model = cut_as(model, kept)
        # A file's tensors start anywhere, and products of such ones may round otherwise.
        state = {key: file.get_tensor(key).clone() for key, file in held.items()}
        model.load_state_dict(state, assign=True)
        check_weights(model)
        for part in model.modules():
            if isinstance(part, NoUnits):
                part.weight = part.weight.to(model.dtype)
    except (*BROKEN, safetensors.SafetensorError) as error:
        reason = first_line(error)
        raise ValueError(f"{folder} is damaged, its {WEIGHTS} or config.json: {reason}") from error
    model.report = told_of(folder)
    return as_pruned(model, kept).requires_grad_(True)


def _check_pruned(model: PreTrainedModel) -> None:
    if getattr(model.config, "kprune", None) is None:
        raise ValueError(
            "kprune.save takes what kprune.prune gave; use save_pretrained for a dense model. One "
            "out of kprune.steps is to be looked at."
        )


def is_class(name: str) -> bool:
    """Whether transformers has a model's class of this name."""
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    return isinstance(found, type) and issubclass(found, PreTrainedModel)


def _at_hand(source: str | Path) -> Path:
    """The folder itself, or that of the copy of a Hub repository."""
    if not isinstance(source, (str, Path)):
        raise ValueError(f"A model is loaded from a folder; got {source!r}.")
    if not (folder := local(source)).exists() and HUB_ID.fullmatch(str(source)):
        try:
            with hub(source, "model"):
                found = snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"])
            return Path(found)
        except (OSError, ValueError, HfHubHTTPError) as error:
            reason = "is neither a folder nor a repository that the Hub gives"
            raise ValueError(f"{source} {reason}; check the name and the network.") from error
    return folder


def _described(folder: Path) -> tuple[PreTrainedConfig, list[list[int]], str]:
    """The dense configuration of a saved model, the units it kept, and its class."""
    if (folder / GRAPH).is_file() and not [*folder.glob("*.safetensors")]:
        raise ValueError(f"{folder} holds an exported graph; run it as its README.md says.")
    if folder.is_file():
        raise ValueError(f"{folder} is a file; name the folder that it is in.")
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is not a model saved by kprune.save: it has no config.json.")
    try:
        config = load_config(folder)
        name = config.architectures[0]
        kept = config.kprune["kept"]
        known = family_of(config) in FAMILIES and is_class(name)
    except OwnCodeError:
        raise
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        reason = "which kprune did not prune; load it with from_pretrained"
        raise ValueError(f"{folder} holds a model {reason}.") from error
    except BROKEN as error:
        reason = first_line(error)
        raise ValueError(f"{folder} is damaged, its config.json: {reason}") from error
    if not known:
        raise ValueError(f"{folder} names the model class {name!r}, which kprune does not know.")
    try:
        return config, checked_kept(kept, config), name
    except ValueError as error:
        raise ValueError(f"{folder} is damaged: {error}.") from error
