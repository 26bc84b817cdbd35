"""`blocksim demo`: the synthetic experiment of Taylor et al. 2023, by both methods in every ready backend."""

from __future__ import annotations

import hashlib
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

import blocksim
from blocksim import plotting
from blocksim._array_io import check_folder, make_folder, write_csv, write_json, written
from blocksim._options import METHODS
from blocksim.cli.info import machine
from blocksim.cli.options import Several, backend_option, console, progress
from blocksim.errors import MissingLibraryError

SLOW = 2.0  # s: the reference is then not run again and again
DT = 1.0  # ms a step, for the picture alone


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    backend: str
    method: str
    block_length: int
    first_s: float  # the first call, with compilation where there is any
    time_s: float  # median of the calls after it: forward and backward pass
    forward_s: float  # forward pass alone
    speed_up: float  # over the first row
    spikes: int
    sha256: str  # of the packed spikes
    identical: bool  # to the spikes of the first row


def experiment(
    batch: int, steps: int, inputs: int, neurons: int, refractory_steps: int, density: float, dtype: str, seed: int
) -> tuple[blocksim.Layer, blocksim.Events, np.ndarray]:
    """The layer, its Poisson input, and a random gradient of the loss with respect to its spikes."""
    rng = np.random.default_rng(seed)
    x = blocksim.Events.from_dense(rng.random((batch, steps, inputs), dtype=np.float32) < density)
    kind = np.dtype(dtype)
    # a mean drive somewhat below the threshold's, fluctuations that cross it: some per cent of steps hold a spike
    events = max(inputs * density, 1e-9)
    weights = rng.normal(0.08 / events, 0.2 / np.sqrt(events), (inputs, neurons)).astype(kind)
    recurrent = rng.normal(0, 0.5 / np.sqrt(neurons), (neurons, neurons)).astype(kind)
    neuron = blocksim.ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=refractory_steps)
    grad_spikes = rng.normal(size=(batch, steps, neurons)).astype(kind)
    return blocksim.Layer(neuron, weights, recurrent=recurrent), x, grad_spikes


@click.command()
@click.option(
    "-o", "--output", default="blocksim-demo", type=click.Path(path_type=Path), help="Folder for the results."
)
@backend_option(type=Several(str, "names"), help="Backends to run, comma-separated.  [default: every ready one]")
@click.option("--batch", type=click.IntRange(min=1), default=64, help="Batch size.")
@click.option("--steps", type=click.IntRange(min=1), default=1024, help="Number of time steps.")
@click.option("--inputs", type=click.IntRange(min=1), default=1000, help="Number of Poisson inputs.")
@click.option("--neurons", type=click.IntRange(min=1), default=128, help="Number of ALIF neurons.")
@click.option("--refractory-steps", type=click.IntRange(min=0), default=40, help="Refractory period in steps.")
@click.option("--density", type=click.FloatRange(0, 1), default=0.1, help="Spike probability per input and step.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    help="Number of timed calls; 1 if a call of numpy takes more than 2 s.",
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", help="Floating-point precision.")
@click.option("--seed", type=int, default=0, help="Random seed of inputs and weights.")
@click.pass_context
def demo(
    context: click.Context,
    output: Path,
    backend: tuple[str, ...] | None,
    batch: int,
    steps: int,
    inputs: int,
    neurons: int,
    refractory_steps: int,
    density: float,
    repeats: int,
    dtype: str,
    seed: int,
) -> None:
    """Compare both methods in every available backend, on the benchmark of the paper that introduced blocks.

    Poisson spikes drive a recurrent layer of adaptive neurons, forward and backward. Writes table.json, table.csv and a
    raster plot to a folder.
    """
    ready = [name for name, status in blocksim.available_backends().items() if status == "ready"]
    names = list(dict.fromkeys(backend or sorted(ready, key=lambda name: (name != "numpy", name))))
    engines = [blocksim.get_backend(name) for name in names]
    check_folder(output if output.exists() else output.parent)
    screen = console()
    settings = {
        "batch": batch, "steps": steps, "inputs": inputs, "neurons": neurons, "refractory_steps": refractory_steps,
        "density": density, "dtype": dtype, "seed": seed,
    }  # fmt: skip
    screen.print(
        f"{inputs} Poisson inputs ({density:.0%} a step) to {neurons} recurrent ALIF neurons, {steps} steps, batch "
        f"{batch}, refractory period {refractory_steps} steps, {dtype}: forward and backward pass"
    )
    layer, x, grad_spikes = experiment(**settings)  # type: ignore[arg-type]

    rows: list[Row] = []
    with progress("runs") as bar:
        task = bar.add_task("preparing", total=len(engines) * len(METHODS))
        for engine in engines:
            for method in reversed(METHODS):
                bar.update(task, description=f"{engine.name}, {method}")
                row, spikes = _measure(engine, method, layer, x, grad_spikes, repeats, rows)
                rows.append(row)
                bar.advance(task)
    _print(rows)
    make_folder(output)
    _write(output, rows, settings)
    _, step, neuron = np.nonzero(spikes[:1])
    title = f"spikes of {neurons} recurrent ALIF neurons, the first of {batch} samples, {DT:g} ms a step"
    try:
        picture = output / "raster.png"
        plotting.save(plotting.raster(step * DT, neuron, neurons, steps * DT, title=title), picture)
    except MissingLibraryError:
        picture = output / "raster.svg"
        with written(picture) as part:
            part.write_text(plotting.plain_raster(step * DT, neuron, neurons, steps * DT, title=title))
    (output / ("raster.svg" if picture.suffix == ".png" else "raster.png")).unlink(missing_ok=True)  # of an older run
    files = ("table.json", "table.csv", picture.name)
    screen.print(f"written: {', '.join(str(output / name) for name in files)}")
    if not all(row.identical for row in rows):
        screen.print("The spikes differ between rows: this is a fault of blocksim, please report it.", style="red")
        context.exit(1)


def _measure(
    engine: blocksim.Backend, method: str, layer: blocksim.Layer, x: blocksim.Events, grad_spikes: np.ndarray,
    repeats: int, before: list[Row],
) -> tuple[Row, np.ndarray]:  # fmt: skip
    def call() -> tuple[float, float, blocksim.Run]:
        began = time.perf_counter()
        run = blocksim.simulate(layer, x, engine, method, tape=True)
        forward = time.perf_counter()
        run.backward(grad_spikes)
        return forward - began, time.perf_counter() - began, run

    first = call()
    taken = [call() for _ in range(repeats if first[1] < SLOW or engine.name != "numpy" else 0)] or [first]
    total = statistics.median(item[1] for item in taken)
    run = taken[-1][2]
    digest = hashlib.sha256(np.packbits(run.spikes).tobytes()).hexdigest()
    row = Row(
        backend=engine.name,
        method=method,
        block_length=run.block_length,
        first_s=first[1],
        time_s=total,
        forward_s=statistics.median(item[0] for item in taken),
        speed_up=before[0].time_s / total if before else 1.0,
        spikes=int(run.spikes.sum()),
        sha256=digest,
        identical=not before or digest == before[0].sha256,
    )
    return row, run.spikes


def _print(rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("backend", "method"):
        table.add_column(name, no_wrap=True)
    for name in ("block", "first call", "time", "forward", "speed-up", "spikes", "identical"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.backend, row.method, str(row.block_length), _duration(row.first_s), _duration(row.time_s),
            _duration(row.forward_s), f"{row.speed_up:.3g}", str(row.spikes), "yes" if row.identical else "NO",
        )  # fmt: skip
    console().print(table)


def _duration(seconds: float) -> str:
    """Three digits, in a unit that suits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _write(folder: Path, rows: list[Row], settings: dict[str, Any]) -> None:
    lines = [asdict(row) for row in rows]
    write_json(folder / "table.json", {"machine": machine(), "settings": settings, "rows": lines})
    write_csv(folder / "table.csv", lines, lines[0])
