"""`blocksim evaluate`: how a trained model does on a file of labelled events."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from blocksim import plotting
from blocksim._array_io import check_output, write_json
from blocksim._options import METHODS
from blocksim._settings import make
from blocksim.cli.options import backend_option, console
from blocksim.errors import FileError
from blocksim.models import Model, load_model
from blocksim.training._evaluation import Evaluation, Variations
from blocksim.training._evaluation import evaluate as evaluated
from blocksim.training.experiment import DataChoices, open_samples, variations_of


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="Labelled samples: .h5, .npz, a folder or an archive.",
)
@backend_option(default="numba", help="Backend: numpy, numba, cupy or auto.")
@click.option("--method", type=click.Choice(METHODS), default="blocks", help="Simulation method.")
@click.option(
    "--variations",
    type=click.IntRange(min=0),
    help="Number of random variations of each sample to average over.  [default: that of the model's configuration]",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Batch size.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Output file, .json.")
@click.option("--plot", type=click.Path(path_type=Path), help="Plot of the confusion matrix: .png, .pdf or .svg.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    model: Path, path: Path, backend: str, method: str, variations: int | None, batch_size: int, output: Path | None,
    plot: Path | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate MODEL, a file written by `blocksim train`, on labelled samples, binned as in training.

    Loss, accuracy and confusion matrix are computed from one pass of each unmodified sample. With variations, the loss
    and accuracy averaged over them are shown as well.
    """
    if output is not None:
        check_output(output, (".json",), overwrite)
    if plot is not None:
        check_output(plot, plotting.SUFFIXES, overwrite)
        plotting.require_matplotlib()
    loaded = load_model(model)
    binning, varied = _choices(model, loaded)
    if variations is not None:
        varied = replace(varied, rounds=variations)
    data = open_samples(path, binning)
    names: Any = loaded.info.get("class_names")
    if not isinstance(names, list) or len(names) != loaded.network.classes:
        names = range(loaded.network.classes)
    names = [str(name) for name in names]
    found = evaluated(loaded, data, variations=varied, backend=backend, method=method, batch_size=batch_size)
    result: dict[str, Any] = {
        "model": str(model), "data": str(path), "samples": len(data), "class_names": names, **_figures(found),
        "variations": varied.rounds, "averaged": found.averaged and _figures(found.averaged),
    }  # fmt: skip
    if output is not None:
        write_json(output, result)
    if plot is not None:
        plotting.save(plotting.confusion(found.confusion, names), plot)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    rates = ", ".join(f"{rate:.1f}" for rate in found.rates)
    for name, value in (
        ("samples", str(len(data))), ("loss", f"{found.loss:.4f}"), ("accuracy", f"{100 * found.accuracy:.1f} %"),
        *((f"  {group}", f"{100 * share:.1f} %") for group, share in found.by_group.items()),
        ("rates", f"{rates} Hz"), ("time", f"{found.seconds:.3g} s"), *_beside(found.averaged),
    ):  # fmt: skip
        table.add_row(name, value)
    console().print(table)


def _figures(found: Evaluation) -> dict[str, Any]:
    return {
        "passes": found.passes, "loss": found.loss, "accuracy": found.accuracy, "by_group": found.by_group,
        "rates_hz": list(found.rates), "seconds": found.seconds, "confusion": found.confusion.tolist(),
    }  # fmt: skip


def _beside(averaged: Evaluation | None) -> list[tuple[str, str]]:
    """Lines on what averaging over variations makes of the plain figures above them."""
    if averaged is None:
        return []
    return [
        (f"mean of {averaged.passes} passes", "averaged over random variations"),
        ("  loss", f"{averaged.loss:.4f}"), ("  accuracy", f"{100 * averaged.accuracy:.1f} %"),
        *((f"    {group}", f"{100 * share:.1f} %") for group, share in averaged.by_group.items()),
        ("  time", f"{averaged.seconds:.3g} s"),
    ]  # fmt: skip


def _choices(path: Path, model: Model) -> tuple[DataChoices, Variations]:
    try:
        return make(DataChoices, "data", model.info["data"]), variations_of(model.info)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            f"{path}: expected a model that says how its samples were binned, as blocksim train writes it; found none "
            f"({type(error).__name__}: {error}; evaluate it in Python: blocksim.training.evaluate)"
        ) from error
