"""`blocksim train`: one training, or a grid of them, from a file of samples to model, history, result and pictures."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from blocksim import plotting
from blocksim._array_io import check_folder, make_folder, write_csv, write_json
from blocksim._options import GRADIENTS, METHODS
from blocksim._settings import read_settings, section
from blocksim.cli.options import Several, backend_option, console
from blocksim.errors import ArgumentError, MissingLibraryError
from blocksim.executors import open_executor, run_tasks
from blocksim.initialisers import NEURONS
from blocksim.training._settings import Training
from blocksim.training.experiment import (
    DataChoices,
    Experiment,
    NetworkChoices,
    experiment_of,
    grid_of,
    run_experiment,
)

# where a flag that was given goes in the configuration
PLACES = {
    "dt": "data", "duration": "data", "pool": "data", "trim": "data", "span": "data",
    "delays": "data",
    "hidden": "network", "rate": "network", "adaptation": "network",
    "neuron": "network", "tau_syn": "network",
    "epochs": "training", "batch_size": "training", "learning_rate": "training", "validation": "training",
    "validation_by": "training", "patience": "training", "shares": "training", "seed": "training",
}  # fmt: skip
DEFAULTS = {"data": DataChoices(), "network": NetworkChoices(), "training": Training()}


def _default(name: str) -> str:
    """What a flag's help says of its default: that of the configuration, stated there."""
    owner: Any = DEFAULTS[PLACES[name]]
    value = owner.optimiser.learning_rate if name == "learning_rate" else getattr(owner, name)
    return f"  [default: {','.join(map(str, value)) if isinstance(value, tuple) else format(value, 'g')}]"


@click.command()
@click.option("--data", "path", required=True, type=click.Path(path_type=Path), help="Labelled training samples.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--config", type=click.Path(path_type=Path), help="Settings file, .toml or .json; options override it.")
@backend_option(default="numba", help="Backend: numpy, numba, cupy or auto.")
@click.option("--dt", type=float, help="Time step in ms." + _default("dt"))
@click.option("--duration", type=float, help="Duration of every sample in ms.  [default: the longest]")
@click.option("--pool", type=int, help="Number of neighbouring channels to merge." + _default("pool"))
@click.option("--trim", type=float, help="Fraction of events to skip at the start of a sample.  [default: none]")
@click.option(
    "--span", type=float, help="Rescale time so that the events of a sample last this many ms.  [default: no rescaling]"
)
@click.option(
    "--delays",
    type=Several(float, "times in ms"),
    help="Delays in ms; every channel enters once per delay." + _default("delays"),
)
@click.option(
    "--hidden", type=Several(int, "numbers of neurons"), help="Number of neurons per layer." + _default("hidden")
)
@click.option("--rate", type=float, help="Initial firing rate of the layers in Hz." + _default("rate"))
@click.option("--adaptation", type=float, help="Threshold increase per spike; 0 for LIF." + _default("adaptation"))
@click.option("--neuron", type=click.Choice(NEURONS), help="Neuron model.  [default: alif]")
@click.option(
    "--tau-syn",
    type=Several(float, "times in ms"),
    help="Synaptic time constant in ms, or the lowest and the highest of a layer.  [default: no synapse]",
)
@click.option(
    "--refractory",
    "--arp",
    "refractory",
    type=Several(float, "periods in ms"),
    help="Refractory periods in ms; several make a grid.  [default: 20]",
)
@click.option(
    "--method",
    type=Several(str, "methods", METHODS),
    help="Simulation method: blocks, standard, or both.  [default: blocks]",
)
@click.option(
    "--gradient",
    type=Several(str, "gradients", GRADIENTS),
    help="Gradient: standard, paper, or both.  [default: standard]",
)
@click.option("--epochs", type=int, help="Maximum number of epochs." + _default("epochs"))
@click.option("--batch-size", type=int, help="Batch size." + _default("batch_size"))
@click.option("--learning-rate", type=float, help="Peak learning rate." + _default("learning_rate"))
@click.option(
    "--validation",
    type=float,
    help="Fraction of the samples to hold out for choosing the best epoch." + _default("validation"),
)
@click.option(
    "--validation-by",
    type=click.Choice(["sample", "group"]),
    help="Hold out single samples or whole groups, such as speakers.  [default: sample]",
)
@click.option("--patience", type=int, help="Stop after this many epochs without improvement.  [default: never]")
@click.option(
    "--shares", type=int, help="Number of parts of a batch that are computed separately." + _default("shares")
)
@click.option("--seed", type=int, help="Random seed." + _default("seed"))
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="Number of seeds per grid point.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    help="Number of trainings of a grid to run at a time, one process each.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Run the trainings of a grid, or the shares of one, on the Dask cluster of this scheduler.",
)
@click.option("--resume", is_flag=True, help="Resume from the checkpoints in the folder.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def train(
    path: Path, output: Path, config: Path | None, backend: str, refractory: tuple[float, ...] | None,
    method: tuple[str, ...] | None, gradient: tuple[str, ...] | None, seeds: int, jobs: int, dask: str | None,
    resume: bool, quiet: bool, **flags: Any,
) -> None:  # fmt: skip
    """Train a network on a file of labelled events.

    Writes to the folder: best.npz and last.npz, the models of the best and the last epoch (last.npz is the checkpoint
    too); history.csv, result.json, and a learning curve. With several values of --refractory, --method, --gradient, or
    --seeds, one folder for each training, and results.json and results.csv of them all.
    """
    choices = read_settings(config) if config else {}
    for name, place in PLACES.items():
        value = flags[name]
        if name == "tau_syn" and value is not None and len(value) == 1:  # of all neurons
            (value,) = value
        if value is not None:
            choices[place] = {**section(place, choices), name: value}
    common = experiment_of(choices, str(path.absolute()), str(output.absolute()), backend)
    experiments = grid_of(common, seeds, refractory=refractory or (), method=method or (), gradient=gradient or ())
    check_folder(output if output.exists() else output.parent)
    if len(experiments) == 1:
        result = _one(experiments[0], resume, not quiet, dask)
        _print([result])
        return
    make_folder(output)
    results, failed = _all(experiments, resume, jobs, dask, quiet)
    if results:
        _print(results)
        _write(output, results)
    for experiment, error in failed:
        click.echo(f"{experiment.folder}: {error}", err=True)
    if failed:
        raise ArgumentError(f"{len(failed)} of {len(experiments)} trainings failed; the others are in {output}")


def _one(experiment: Experiment, resume: bool, progress: bool, dask: str | None) -> dict[str, Any]:
    try:
        result = run_experiment(experiment, resume=resume, progress=progress, dask=dask)
    except KeyboardInterrupt:
        click.echo(f"stopped; {experiment.folder} holds the state: --resume goes on", err=True)
        raise
    _picture(Path(experiment.folder), result)
    return result


def _all(
    experiments: list[Experiment], resume: bool, jobs: int, dask: str | None, quiet: bool
) -> tuple[list[dict[str, Any]], list[tuple[Experiment, str]]]:
    results: dict[int, dict[str, Any]] = {}
    failed = []
    alone = jobs == 1 and dask is None
    work = partial(run_experiment, resume=resume, progress=alone and not quiet)
    try:
        with open_executor(jobs, dask) as executor:
            for outcome in run_tasks(work, experiments, executor):
                experiment = experiments[outcome.index]
                if outcome.error is not None:
                    failed.append((experiment, outcome.error.rstrip().splitlines()[-1]))
                    continue
                results[outcome.index] = outcome.value
                _picture(Path(experiment.folder), outcome.value)
                if not quiet:
                    done = f"{len(results) + len(failed)}/{len(experiments)}"
                    click.echo(f"{done}  {Path(experiment.folder).name}  {_short(outcome.value)}", err=True)
    except KeyboardInterrupt:
        click.echo("stopped; what is done stays: --resume goes on", err=True)
        raise
    return [results[index] for index in sorted(results)], failed


def _short(result: dict[str, Any]) -> str:
    name = "accuracy" if result["validation_accuracy"] is None else "validation_accuracy"
    return f"{name.replace('_', ' ')} {100 * result[name]:.1f} %, {result['seconds_an_epoch']:.3g} s an epoch"


def _picture(folder: Path, result: dict[str, Any]) -> None:
    """The learning curve; without matplotlib there is none."""
    try:
        with (folder / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        history = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
        plotting.save(plotting.learning_curve(history, result["best_epoch"]), folder / "learning-curve.png")
    except (MissingLibraryError, OSError):
        # the history of a training on another machine's disk cannot be drawn here
        return


def _rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for result in results:
        experiment = result["experiment"]
        training = experiment["training"]
        rows.append({
            "refractory_ms": experiment["network"]["refractory"], "method": training["method"],
            "gradient": training["gradient"], "seed": training["seed"], "best_epoch": result["best_epoch"],
            **{name: result[name] for name in ("loss", "accuracy", "validation_loss", "validation_accuracy")},
            "seconds_an_epoch": result["seconds_an_epoch"], "seconds": result["seconds"],
            "folder": experiment["folder"],
        })  # fmt: skip
    return rows


def _print(results: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("refractory (ms)", "method", "gradient", "seed", "best epoch", "training", "validation", "s an epoch"):
        table.add_column(name, justify="left" if name in ("method", "gradient") else "right", no_wrap=True)
    for row in _rows(results):
        held = row["validation_accuracy"]
        table.add_row(
            f"{row['refractory_ms']:g}", row["method"], row["gradient"], str(row["seed"]), str(row["best_epoch"]),
            f"{100 * row['accuracy']:.1f} %", "-" if held is None else f"{100 * held:.1f} %",
            f"{row['seconds_an_epoch']:.3g}",
        )  # fmt: skip
    console().print(table)


def _write(folder: Path, results: list[dict[str, Any]]) -> None:
    write_json(folder / "results.json", results)
    rows = _rows(results)
    write_csv(folder / "results.csv", rows, rows[0])
