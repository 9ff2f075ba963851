"""The command line: kprune prune, export, info, evaluate; teacher, reproduce (python -m kprune)."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kprune import __version__

MUCH = 0.05  # share of texts that trimming may have read otherwise without a warning
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kprune {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="say it, and end"),
    ] = False,
) -> None:
    """K-prune: accurate retraining-free pruning of encoders."""


@app.command()
def reproduce(
    experiment: Annotated[Path, typer.Argument(help="a YAML file of params/")],
    show: Annotated[
        bool, typer.Option("--list", help="show the runs and their state only")
    ] = False,
    force: Annotated[bool, typer.Option(help="repeat finished runs, too")] = False,
    workers: Annotated[int, typer.Option(help="runs at a time; 0: one per GPU, or one", min=0)] = 0,
    scheduler: Annotated[
        str, typer.Option(help="a Dask scheduler's address, or a YAML file for dask-jobqueue")
    ] = "",
    outputs: Annotated[str, typer.Option(help="folder for all results; default outputs/")] = "",
) -> None:
    """Make an experiment's missing runs and draw its table; finished runs are left alone."""
    from kprune.data.reach import local

    with _one_sentence():
        from kprune.laboratory import batch, experiments, records

    if outputs:
        os.environ["KPRUNE_OUTPUTS"] = str(local(outputs).resolve())
    try:
        if show:
            runs = experiments.expand(experiment)
            batch.needed_teachers(runs)
            states = [records.state(run) for run in runs]
            table = Table("run", "state")
            for run, now in zip(runs, states, strict=True):
                table.add_row(run.name, now)
            Console().print(table)
            typer.echo(f"{states.count('done')} of {len(runs)} runs are done.")
            return
        failed = batch.reproduce(experiment, None, force, workers, scheduler, typer.echo)
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("Stopped. The same command goes on where this left off.", err=True)
        raise typer.Exit(130) from error
    if failed:
        typer.echo(f"{len(failed)} failed:", err=True)
        for outcome in failed:
            typer.echo(f"  {outcome.name}: {outcome.error}", err=True)
        raise typer.Exit(1)
    typer.echo(f"All runs are done; results in {records.output_folder(experiment.stem)}")


@app.command()
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

    with _one_sentence():
        given = {"rate": rate, "method": method, "speedup": speedup}
        own = [f"{name}={value}" for name, value in given.items() if value is not None]
        options = vars(read_options([*own, *(option or [])]))
        if bool(texts) == bool(task):
            raise ValueError("Give the file of your own --texts, or the name of a --task.")
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
        dense, tokenizer = _opened(model)
        if data:
            sample = kprune.sample(
                sample, tokenizer, options["tokens"], options["seed"], data, longest=longest(dense)
            )
        pruned, report = kprune.prune(dense, sample, tokenizer=tokenizer, **options)
        if trim:
            own = sample if texts else training_texts(task, data or None)
            pruned, _, done = kprune.trim(pruned, own, tokenizer)
        kprune.save(pruned, out)
        typer.echo(f"{report}\nOpen it with kprune.load({str(out)!r}).")
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


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="folder or Hub id of a model, pruned or not")],
    out: Annotated[Path, typer.Option(help="folder for the graph")],
    quantize: Annotated[str, typer.Option(help="int8: weights in 8 bits")] = "",
) -> None:
    """Write a model as ONNX, for onnxruntime, compared with PyTorch before it is said done."""
    import kprune

    with _one_sentence():
        opened, tokenizer = _opened(model)
        kprune.export(opened, out, tokenizer, quantize)
    typer.echo(f"Its graph is in {out}; the README.md there says how to run it.")


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="folder or Hub id of a model, pruned or not")],
    length: Annotated[float, typer.Option(help="tokens that FLOPs are counted at")] = 128.0,
) -> None:
    """Say what a model is: its head, parameters, FLOPs, and the units of each layer."""
    import kprune
    from kprune.card import origin

    with _one_sentence():
        opened, _ = _opened(model)
        encoder, flops = kprune.Encoder(opened), kprune.flops(opened, length)
    report = getattr(opened, "report", {})
    lines = [
        f"{origin(opened)}, a {type(opened).__name__}: {encoder.kind.name}, {encoder.kind.outputs} "
        "outputs",
        f"{opened.num_parameters() / 1e6:.1f}M parameters in {opened.dtype}, "
        f"{flops / 1e6:,.1f} MFLOPs of heads and neurons for {length:g} tokens",
        f"heads per layer:   {encoder.units('MHA')}",
        f"neurons per layer: {encoder.units('FFN')}",
    ]
    if report:
        lines.append(
            f"pruned by {report.get('method')} on {report.get('tokens', 0):,} tokens of "
            f"{report.get('sample')!r}: {report.get('achieved_rate', 0):.1%} of the FLOPs are gone"
        )
    typer.echo("\n".join(lines))


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="folder or Hub id of a model, pruned or not")],
    task: Annotated[str, typer.Option(help="the name of a task")],
    data: Annotated[str, typer.Option(help="Hub id or folder of the task's data")] = "",
    every: Annotated[int, typer.Option(help="score each so many-th row", min=1)] = 1,
) -> None:
    """Score a model on a task's dev set."""
    import kprune

    with _one_sentence():
        opened, tokenizer = _opened(model)
        dev = kprune.dev_set(task, tokenizer, data or None, every)
        scores = kprune.evaluate(opened, dev)
    typer.echo(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Within the block, what makes no sense, or is not there, ends the command in one sentence."""
    try:
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
    """A model, pruned or not, by the class that its configuration names, and its tokenizer."""
    import transformers

    import kprune
    from kprune.checkpoints import is_class
    from kprune.data.reach import local
    from kprune.engine.loading import load_config, load_model, load_tokenizer

    if (local(model) / "modules.json").is_file():
        raise ValueError(
            f"{model} is a folder of sentence-transformers, which says itself how it pools; "
            "open it in Python, as SentenceTransformer(folder) or CrossEncoder(folder), and pass "
            "that to kprune.prune or kprune.export."
        )
    config = load_config(model)
    name = (config.architectures or [""])[0]
    if not is_class(name):
        raise ValueError(f"The configuration of {model} names no model of transformers: {name!r}.")
    pruned = getattr(config, "kprune", None)
    found = kprune.load(model) if pruned else load_model(getattr(transformers, name), model)
    return found, load_tokenizer(model)


@app.command()
def teacher(
    task: Annotated[str, typer.Argument(help="a task's name")],
    model: Annotated[str, typer.Option(help="Hub id or folder of an encoder")] = "minilm",
    data: Annotated[str, typer.Option(help="Hub id or folder of the data")] = "",
    examples: Annotated[int, typer.Option(help="training rows; 0 takes all", min=0)] = 0,
    epochs: Annotated[float, typer.Option(help="passes; 0 takes the model's recipe", min=0)] = 0.0,
) -> None:
    """Fine-tune a teacher for a task, unless it is there."""
    warnings.simplefilter("ignore", UserWarning)
    with _one_sentence():
        from kprune.laboratory import finetuning, teachers

        recipe = finetuning.wanted_recipe(model, examples, epochs)
        record = teachers.teacher(task, model, data or None, recipe=recipe, stand_in=False)[2]
    typer.echo(f"{task}: {record['scores']}")


if __name__ == "__main__":
    app()
