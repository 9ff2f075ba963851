"""The command line: kprune prune, export, info, evaluate; teacher, reproduce (python -m kprune)."""

import os
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kprune import __version__
from kprune.commands import models, one_sentence

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

    with one_sentence():
        from kprune.laboratory import batch, experiments, records

        if outputs:
            os.environ["KPRUNE_OUTPUTS"] = str(local(outputs).resolve())
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
        try:
            failed = batch.reproduce(experiment, force, workers, scheduler, typer.echo)
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
def teacher(
    task: Annotated[str, typer.Argument(help="a task's name")],
    model: Annotated[str, typer.Option(help="Hub id or folder of an encoder")] = "minilm",
    data: Annotated[str, typer.Option(help="Hub id or folder of the data")] = "",
    examples: Annotated[int, typer.Option(help="training rows; 0 takes all", min=0)] = 0,
    epochs: Annotated[float, typer.Option(help="passes; 0 takes the model's recipe", min=0)] = 0.0,
) -> None:
    """Fine-tune a teacher for a task, unless it is there."""
    warnings.filterwarnings("ignore", category=UserWarning, module="transformers|torch|datasets")
    with one_sentence():
        from kprune.laboratory import finetuning, teachers

        recipe = finetuning.wanted_recipe(model, examples, epochs)
        record = teachers.teacher(task, model, data or None, recipe=recipe)[2]
    typer.echo(f"{task}: {record['scores']}")


app.add_typer(models)
if __name__ == "__main__":
    app()
