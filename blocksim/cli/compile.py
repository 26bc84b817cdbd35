"""`blocksim compile`: the CPU backend's kernels, compiled before they are needed."""

from __future__ import annotations

import time

import click
import numpy as np

import blocksim
from blocksim import _imposed
from blocksim._distances import potential_sums, train_distance
from blocksim._options import GRADIENTS
from blocksim.cli.options import Several, console, progress

DTYPES = ("float32", "float64")
# a layer for each kernel and width of vectors: neurons, and whether they are recurrent
MAX_COMPONENTS = 16
LAYERS = ((1, False), (70, False), (70, True))


@click.command("compile")
@click.option(
    "--dtype", type=Several(str, "precisions", DTYPES), default=",".join(DTYPES), help="Precisions, comma-separated."
)
@click.option("--paper", is_flag=True, help='Compile gradient="paper" too.')
@click.option(
    "--components",
    type=Several(int, "numbers of components", tuple(range(MAX_COMPONENTS + 1))),
    default=None,
    help="Compile the linear family too, for neurons of so many components: 0 for CubaLIF, 4 for a GIF of 2 + 2.",
)
def compile_(dtype: tuple[str, ...], paper: bool, components: tuple[int, ...] | None) -> None:
    """Compile the kernels of the numba backend now, and keep them.

    For container images and clusters, where a first call should not have to wait. `blocksim info` shows where kernels
    are kept; set NUMBA_CACHE_DIR to choose another folder. In an image that another user runs, choose one that this
    user may write to: Numba uses no other.
    """
    engine = blocksim.get_backend("numba")
    gradients = GRADIENTS if paper else ("standard",)
    began = time.perf_counter()
    work = [
        (kind, size, recurrent, number)
        for kind in dtype
        for number in (None, *(components or ()))
        for size, recurrent in LAYERS
    ]
    with progress("layers") as bar:
        task = bar.add_task("compiling", total=len(work))
        for kind, size, recurrent, number in work:
            bar.update(task, description=f"compiling for {kind}")
            if number is None:
                _use(engine, np.dtype(kind), size, recurrent, gradients)
            else:
                _use_family(engine, np.dtype(kind), size, recurrent, number)
            bar.advance(task)
    _use_recordings(engine)
    for kind in dtype:
        blocksim.poisson_input(100, 8, dt=1, dtype=kind)
    place = engine.describe()["kernel cache"]
    kept = f"not kept: {place.removeprefix('none: ')}" if place.startswith("none: ") else f"kept in {place}"
    console().print(f"compiled for {' and '.join(dtype)} in {time.perf_counter() - began:.3g} s; {kept}")


def _use_recordings(engine: blocksim.Backend) -> None:
    """Compute what fits to recordings are made of."""
    sweep, none, one = np.ones((1, 20)), np.zeros((1, 20), bool), np.ones(1)
    potential, edges = np.ones((1, 20, 1), np.float32), np.zeros(0, np.int64)
    engine.fast(potential_sums)(potential, potential, potential, np.zeros(1, np.int64))
    engine.fast(_imposed.impose)(sweep, none, 2, 0.9, 0.0, 1.0, 0.0, 0.0, one, edges, one)
    engine.fast(_imposed.potential_products)(sweep, sweep, none, ~none, 2, 0.9, 0.0, one, edges, one, False, 1, 10)
    engine.fast(_imposed.threshold_regressors)(sweep, none, 2, one, edges, one, one)


def _use_family(engine: blocksim.Backend, dtype: np.dtype, size: int, recurrent: bool, components: int) -> None:
    """Simulate and differentiate a layer of the linear family."""
    neuron = blocksim.LinearIF(0.9, components=[blocksim.Component(0.9)] * components, refractory_steps=2)
    own = [blocksim.Connection(np.zeros((size, size), dtype), 3)] if recurrent else None
    layer = blocksim.Layer(neuron, np.full((6, size), 0.3, dtype), recurrent=own)
    run = blocksim.simulate(layer, np.ones((3, 70, 6), bool), engine, tape=True)
    run.backward(np.ones(run.spikes.shape, dtype))


def _use(engine: blocksim.Backend, dtype: np.dtype, size: int, recurrent: bool, gradients: tuple[str, ...]) -> None:
    """Simulate and differentiate a layer by all ways that have kernels of their own."""
    rng = np.random.default_rng(0)
    neuron = blocksim.ALIF(beta=0.9, p=0.95, b=0.1, refractory_steps=2)
    weights = rng.normal(0.3, 0.3, (6, size)).astype(dtype)
    layer = blocksim.Layer(neuron, weights, recurrent=np.zeros((size, size), dtype) if recurrent else None)
    spikes = rng.random((3, 70, 6)) < 0.3
    for x in (spikes, 2 * spikes, rng.random(spikes.shape).astype(dtype)):
        for gradient in gradients:
            run = blocksim.simulate(layer, x, engine, tape=True, gradient=gradient)
            found = run.backward(np.ones(run.spikes.shape, dtype))
            assert found.x.shape == x.shape
    if not recurrent:
        given = blocksim.Layer(neuron, bias=np.zeros(size, dtype))
        run = blocksim.simulate(given, np.ones((3, 70, size), dtype), engine)
        trains = run.spikes.astype(dtype)
        for reverse in (False, True):
            engine.leaky_filter(trains, 0.9, reverse)
        train_distance(engine, run.spikes, trains, np.arange(size), 0.9, 0, np.full(3, 70), True)
