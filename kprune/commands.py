"""The commands for a model at hand: prune, export, info, evaluate."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

MUCH = 0.05  # share of texts that trimming may have read otherwise without a warning
models = typer.Typer()


@models.command()
def prune(
    model: Annotated[str, typer.Argument(help="folder or Hub id of a fine-tuned encoder")],
    out: Annotated[Path, typer.Option(help="folder for the pruned model")],
    texts: Annotated[
        str,
        typer.Option(
            help="a file of texts: one in each line, or csv, tsv, json, jsonl, parquet; or a data "
            "set, a folder or Hub id"
        ),
    ] = "",
    column: Annotated[
        list[str] | None, typer.Option(help="the column of texts; twice for pairs")
    ] = None,
    task: Annotated[str, typer.Option(help="the name of a task, in place of texts")] = "",
    data: Annotated[str, typer.Option(help="Hub id or folder of the task's data")] = "",
    rate: Annotated[
        float | None, typer.Option(help="share of FLOPs to remove; 0.6 if it is not given")
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="how many times as fast, in place of a rate")
    ] = None,
    method: Annotated[str | None, typer.Option(help="one of kprune.METHODS; kprune")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("-o", help="name=value of kprune.Options, such as tokens=50000 or seed=1"),
    ] = None,
    trim: Annotated[
        bool, typer.Option("--trim", help="keep the pieces of words in these texts only")
    ] = False,
    export: Annotated[
        str, typer.Option(help="onnx or int8: the graph as well, in a folder named <out>-<this>")
    ] = "",
) -> None:
    """Prune a model and save it; a model that kprune saved there before is replaced.

    kprune prune my/model --texts texts.txt --out pruned --rate 0.6
    """
    import kprune
    from kprune.data.hub import training_texts
    from kprune.data.reach import local
    from kprune.data.tasks import get_task
    from kprune.data.texts import read_texts
    from kprune.engine.files import GRAPH, check_target
    from kprune.inputs import longest
    from kprune.options import read_options

    with one_sentence():
        given = {"rate": rate, "method": method, "speedup": speedup}
        own = [f"{name}={value}" for name, value in given.items() if value is not None]
        words = [*own, *(option or [])]
        chosen, named = read_options(words), [word.partition("=")[0] for word in words]
        options = {name: getattr(chosen, name) for name in named}  # an object has some of its own
        if bool(texts) == bool(task):
            raise ValueError(
                "Give either the file of your own --texts or the name of a --task; got "
                f"{'both' if texts else 'neither'}."
            )
        if rate is not None and speedup is not None:
            raise ValueError("A rate and a speed-up are two limits; give one.")
        if local(model).resolve() == local(out).resolve():
            raise ValueError(f"--out is the folder that the model is in, {out}; choose another.")
        if (data and texts) or (column and task):
            raise ValueError("--column is of a file of texts, and --data of a task.")
        check_target(out, teachers=False)
        if graph := _graph_folder(out, export):
            check_target(graph, teachers=False, whole=GRAPH)
        sample = read_texts(texts, column or ()) if texts else get_task(task)
        words_of = sample if texts else training_texts(task, data or None) if trim else []
        dense, tokenizer = _opened(model)
        if (trim or export) and not tokenizer.is_fast:
            raise ValueError(f"--trim and --export need a fast tokenizer, not {tokenizer!r:.40}….")
        dense.to(kprune.device())
        if data:
            most = longest(inside(dense))
            sample = kprune.sample(
                sample, tokenizer, chosen.tokens, chosen.seed, data, longest=most
            )
        pruned, report = kprune.prune(dense, sample, tokenizer=tokenizer, **options)
        if trim:
            whole = pruned
            try:
                pruned, _, done = kprune.trim(pruned, words_of, tokenizer)
            except ValueError as error:
                kprune.save(whole, out)
                raise ValueError(
                    f"{error} The model as pruned, not trimmed, is in {out}."
                ) from error
        kprune.save(pruned, out)
        how = "kprune.load" if inside(pruned) is pruned else type(pruned).__name__
        typer.echo(f"{report}\nOpen it with {how}({str(out)!r}), after import kprune.")
        if trim:
            typer.echo(
                f"{done.pieces:,} of {done.dense_pieces:,} pieces of words are left; "
                f"{done.changed:.1%} of texts held out would be read otherwise."
            )
            if done.changed > MUCH:
                typer.echo("That is much, and costs accuracy: trim with more texts.")
        if graph:
            kprune.export(pruned, graph, quantize=export.removeprefix("onnx"))
            typer.echo(f"Its graph is in {graph}; the README.md there says how to run it.")


@models.command()
def export(
    model: Annotated[str, typer.Argument(help="folder or Hub id of a model, pruned or not")],
    out: Annotated[Path, typer.Option(help="folder for the graph")],
    quantize: Annotated[str, typer.Option(help="int8: weights in 8 bits")] = "",
) -> None:
    """Write a model as ONNX, for onnxruntime, compared with PyTorch before it is said done."""
    import kprune

    with one_sentence():
        opened, tokenizer = _opened(model)
        kprune.export(opened, out, tokenizer, quantize)
    typer.echo(f"Its graph is in {out}; the README.md there says how to run it.")


@models.command()
def info(
    model: Annotated[str, typer.Argument(help="folder or Hub id of a model, pruned or not")],
    length: Annotated[float, typer.Option(help="tokens that FLOPs are counted at")] = 128.0,
) -> None:
    """Say what a model is: its head, parameters, FLOPs, and the units of each layer."""
    import kprune
    from kprune.card import origin
    from kprune.families import report_of

    with one_sentence():
        opened = inside(_opened(model)[0])
        encoder, flops = kprune.Encoder(opened), kprune.flops(opened, length)
    report = report_of(opened)
    lines = [
        f"{origin(opened)}, a {type(opened).__name__}: {encoder.kind.name}, {encoder.kind.outputs} "
        "outputs",
        f"{opened.num_parameters() / 1e6:.1f}M parameters in {opened.dtype}, "
        f"{flops / 1e6:,.1f} MFLOPs of heads and neurons for {length:g} tokens",
        f"heads per layer:   {encoder.units('MHA')}",
        f"neurons per layer: {encoder.units('FFN')}",
    ]
    lines += [
        f"pruned by {done.get('method')} on {done.get('tokens', 0):,} tokens of "
        f"{done.get('sample')!r}: {done.get('achieved_rate', 0):.1%} of the FLOPs are gone"
        for done in (report.get("earlier"), report)
        if done
    ]
    typer.echo("\n".join(lines))


@models.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="folder or Hub id of a model, pruned or not")],
    task: Annotated[str, typer.Option(help="the name of a task")],
    data: Annotated[str, typer.Option(help="Hub id or folder of the task's data")] = "",
    every: Annotated[int, typer.Option(help="score each so many-th row", min=1)] = 1,
) -> None:
    """Score a model on a task's dev set."""
    import kprune

    with one_sentence():
        opened, tokenizer = _opened(model)
        opened.to(kprune.device())
        dev = kprune.dev_set(task, tokenizer, data or None, every)
        scores = kprune.evaluate(opened, dev)
    typer.echo(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))


@contextmanager
def one_sentence() -> Iterator[None]:
    """Within the block, what makes no sense, or is not there, ends the command in one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda text, *_, **__: typer.echo(f"Warning: {text}", err=True)
            yield
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


def _graph_folder(out: Path, export: str) -> Path | None:
    if export not in ("", "onnx", "int8"):
        raise ValueError(f"--export is onnx or int8; got {export!r}.")
    if export:
        from kprune.graph import check_installed

        check_installed()
    return out.with_name(f"{out.name}-{export}") if export else None


def _opened(model: str) -> tuple:
    """A model, pruned or not, and its tokenizer: as an object of sentence-transformers, where a
    folder is of one, else of the class that its configuration names.
    """
    import transformers

    import kprune
    from kprune.checkpoints import is_class
    from kprune.data.reach import local
    from kprune.engine.loading import load_config, load_model, load_tokenizer

    config = load_config(model)
    pruned = getattr(config, "kprune", None)
    if kind := _kind_of_object(model):
        whole = _object(kind, str(local(model)))
        if not pruned:
            load_model(type(inside(whole)), model)  # whose checks the object's own opening lacks
        return whole, inside(whole, "tokenizer")
    name = (config.architectures or [""])[0]
    if not is_class(name):
        raise ValueError(f"The configuration of {model} names no model of transformers: {name!r}.")
    found = kprune.load(model) if pruned else load_model(getattr(transformers, name), model)
    return found, load_tokenizer(model)


def _object(kind: str, source: str) -> Any:
    try:
        import sentence_transformers
    except ImportError as error:
        needed = "needs the optional extra: pip install 'kprune[sentences]'"
        raise ValueError(f"{source} is of sentence-transformers, and {needed}.") from error
    if kind not in ("SentenceTransformer", "CrossEncoder"):
        raise ValueError(f"{source} is a {kind}; kprune opens SentenceTransformer, CrossEncoder.")
    options = {"device": "cpu", "model_kwargs": {"use_safetensors": True}}
    return getattr(sentence_transformers, kind)(source, **options)


def _kind_of_object(model: str) -> str:
    """Which object of sentence-transformers a folder or Hub repository is of; "" for none."""
    from huggingface_hub import hf_hub_download

    from kprune.data.reach import hub, local
    from kprune.engine.files import read_json

    def found(name: str) -> Path | None:
        if local(model).exists():
            return place if (place := local(model) / name).is_file() else None
        try:
            with hub(model, "model"):
                return Path(hf_hub_download(model, name))
        except (OSError, ValueError):
            return None

    if not found("modules.json"):
        return ""
    told = found("config_sentence_transformers.json")  # which old ones lack
    return (read_json(told) if told else {}).get("model_type", "SentenceTransformer")


def inside(model: Any, part: str = "model") -> Any:
    """The model, or its tokenizer, within an object of sentence-transformers; else the model."""
    from kprune.sentences import opened

    found = opened(model, {})
    return getattr(found, part) if found else model
