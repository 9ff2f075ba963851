"""The command line: kprune prune, kprune reproduce, kprune teacher (also python -m kprune)."""

import os
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kprune import __version__

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
    folder: Annotated[Path, typer.Argument(help="where the pruned model goes")],
    sample: Annotated[str, typer.Option(help="a task's name, or a file with a text in each line")],
    rate: Annotated[
        float | None, typer.Option(help="share of FLOPs to remove; 0.6 if it is not given")
    ] = None,
    method: Annotated[str | None, typer.Option(help="one of kprune.METHODS; kprune")] = None,
    data: Annotated[str, typer.Option(help="Hub id or folder of the task's data")] = "",
    option: Annotated[
        list[str] | None,
        typer.Option("-o", help="name=value of kprune.Options, such as tokens=50000 or seed=1"),
    ] = None,
) -> None:
    """Prune a model and save it; a model that kprune saved there before is replaced."""
    import transformers

    import kprune
    from kprune.checkpoints import is_class
    from kprune.data.reach import local
    from kprune.data.tasks import get_task
    from kprune.engine.files import check_target
    from kprune.engine.loading import load_config, load_model, load_tokenizer
    from kprune.inputs import longest
    from kprune.options import read_options

    try:
        given = {"rate": rate, "method": method}
        own = [f"{name}={value}" for name, value in given.items() if value is not None]
        options = vars(read_options([*own, *(option or [])]))
        check_target(folder, teachers=False)
        if (local(model) / "modules.json").is_file():
            raise ValueError(
                f"{model} is a folder of sentence-transformers, which says itself how it pools; "
                "prune it from Python: kprune.prune(SentenceTransformer(folder), texts, rate=…)."
            )
        name = (load_config(model).architectures or [""])[0]
        if not is_class(name):
            raise ValueError(
                f"The configuration of {model} names no model of transformers: {name!r}."
            )
        auto = getattr(transformers, name)
        if data and Path(sample).is_file():
            raise ValueError("data is of a task, and the sample is a file of texts; give one.")
        file = Path(sample)  # a folder may be called as a task is
        texts = _texts(file) if file.exists() and not file.is_dir() else get_task(sample)
        dense, tokenizer = load_model(auto, model), load_tokenizer(model)
        if data:
            texts = kprune.sample(
                texts, tokenizer, options["tokens"], options["seed"], data, longest=longest(dense)
            )
        pruned, report = kprune.prune(dense, texts, tokenizer=tokenizer, **options)
        kprune.save(pruned, folder)
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{report}\nOpen it with kprune.load({str(folder)!r}).")


def _texts(file: Path) -> list[str]:
    """The texts of a file, one in each line that is not blank."""
    if file.suffix.lower() in (".jsonl", ".json", ".csv", ".tsv", ".parquet"):
        raise ValueError(
            f"{file} is a table, and a sample is a file with a text in each line; write its column "
            "of texts to one, or name a task and its data."
        )
    try:
        texts = [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"The file {file} is no text in UTF-8; convert it.") from error
    if not texts:
        raise ValueError(f"The file {file} holds no text.")
    return texts


@app.command()
def teacher(
    task: Annotated[str, typer.Argument(help="a task's name")],
    model: Annotated[str, typer.Option(help="Hub id or folder of an encoder")] = "minilm",
    data: Annotated[str, typer.Option(help="Hub id or folder of the data")] = "",
    examples: Annotated[int, typer.Option(help="training rows; 0 takes all", min=0)] = 0,
    epochs: Annotated[float, typer.Option(help="passes; 0 takes the model's recipe", min=0)] = 0.0,
) -> None:
    """Fine-tune a teacher for a task, unless it is there."""
    from kprune.laboratory import finetuning, teachers

    warnings.simplefilter("ignore", UserWarning)
    try:
        recipe = finetuning.wanted_recipe(model, examples, epochs)
        record = teachers.teacher(task, model, data or None, recipe=recipe, stand_in=False)[2]
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{task}: {record['scores']}")


if __name__ == "__main__":
    app()
