"""`blocksim simulate`: a layer over a file of currents or spikes, in stretches of time that fit in memory."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource
from rich.table import Table
from rich.text import Text

import blocksim
from blocksim import plotting
from blocksim._array_io import InputFile, check_output, fill_npz, open_input, read_array, written
from blocksim._atomic_io import Scratch, memory, reserve
from blocksim._escape import checked_seed
from blocksim._milliseconds import MAX_STEPS, ROUNDINGS
from blocksim._options import METHODS
from blocksim._parameters import values
from blocksim._simulation import RECORD
from blocksim._state import LinearState, State
from blocksim._validation import choices, number
from blocksim.backend import get_backend
from blocksim.cli.neurons import MODELS, read_neuron
from blocksim.cli.options import backend_option, console, progress
from blocksim.errors import ArgumentError, FileError

# options of the layer, which a fitted cell has of its own
OF_LAYERS = (
    "tau_mem", "tau_adapt", "adaptation", "theta", "neuron", "config", "refractory", "rounding", "gain", "bias",
    "weights", "recurrent", "latency",
)  # fmt: skip
# working set of one stretch of time, unless --chunk says otherwise
CHUNK_BYTES = 64 * 2**20


@dataclass
class _Result:
    """What is kept of all stretches: spikes as events, traces on disk."""

    samples: list[np.ndarray] = field(default_factory=list)
    steps: list[np.ndarray] = field(default_factory=list)
    neurons: list[np.ndarray] = field(default_factory=list)
    traces: dict[str, Scratch] = field(default_factory=dict)

    def add(self, run: blocksim.Run, start: int, offset: float, scale: float) -> None:
        spikes = run.spikes
        sample, step, neuron = np.nonzero(spikes)
        self.samples.append(sample.astype(np.int32))
        self.steps.append(step + start)
        self.neurons.append(neuron.astype(np.int32))
        for name, trace in self.traces.items():
            recorded = getattr(run, name)
            trace.write(start, recorded if (offset, scale) == (0, 1) else offset + scale * recorded)

    def events(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sample, step and neuron of every spike, in that order."""
        sample, step, neuron = (np.concatenate(parts) for parts in (self.samples, self.steps, self.neurons))
        order = np.argsort(sample, kind="stable")
        return sample[order], step[order], neuron[order]


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Output file, .npz.")
@click.option("--key", help="Name of the array in a .npz file.")
@click.option("--sweeps", is_flag=True, help="Read a two-dimensional INPUT as (sweeps, time): one current per sweep.")
@backend_option(default="numba", help="Backend: numpy, numba, cupy or auto.")
@click.option("--method", type=click.Choice(METHODS), default="blocks", help="Simulation method.")
@click.option("--block-length", type=int, help="Block length in steps.  [default: refractory steps + 1]")
@click.option("--dt", type=float, default=0.1, help="Time step in ms.")
@click.option("--tau-mem", type=float, default=20.0, help="Membrane time constant in ms.")
@click.option("--tau-adapt", type=float, default=100.0, help="Adaptation time constant in ms.")
@click.option("--adaptation", type=float, default=0.0, help="Threshold increase per spike; 0 for LIF.")
@click.option("--theta", type=float, default=1.0, help="Threshold at rest.")
@click.option(
    "--fit",
    type=click.Path(path_type=Path),
    help="Cell to simulate: the fit.json of `blocksim fit`, or its folder. INPUT is then a current in pA.",
)
@click.option("--repeats", type=click.IntRange(min=1), help="With --fit: number of repetitions.  [default: 1]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of stochastic spikes.  [default: another each time]")
@click.option("--neuron", type=click.Choice(list(MODELS)), help="Neuron model.  [default: alif, or lif]")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Parameters of the neuron model and its synapses, .toml or .json."
)
@click.option("--refractory", type=float, default=2.0, help="Absolute refractory period in ms.")
@click.option(
    "--rounding",
    type=click.Choice(ROUNDINGS),
    help="Rounding of a refractory period that is not a whole number of steps.",
)
@click.option("--gain", type=float, default=1.0, help="Scale factor of the input, or of the weights with --weights.")
@click.option("--bias", type=float, default=0.0, help="Constant current.")
@click.option("--weights", type=click.Path(path_type=Path), help="Input weights (K, N), .npy.")
@click.option("--recurrent", type=click.Path(path_type=Path), help="Recurrent weights (N, N), .npy.")
@click.option("--latency", type=float, help="Recurrent latency in ms.  [default: refractory + one step]")
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), help="Floating-point precision.  [default: that of the input]"
)
@click.option(
    "--record",
    default="",
    show_default=False,
    help="Traces to record: voltage, threshold, or both, comma-separated.  [default: none]",
)
@click.option(
    "--chunk", type=click.IntRange(min=1), help="Number of steps to compute at a time.  [default: what fits in 64 MB]"
)
@click.option("--plot", type=click.Path(path_type=Path), help="Raster plot: .png, .pdf or .svg.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.pass_context
def simulate(
    context: click.Context,
    source: Path,
    output: Path,
    key: str | None,
    sweeps: bool,
    backend: str,
    method: str,
    block_length: int | None,
    dt: float,
    tau_mem: float,
    tau_adapt: float,
    adaptation: float,
    theta: float,
    fit: Path | None,
    repeats: int | None,
    seed: int | None,
    neuron: str | None,
    config: Path | None,
    refractory: float,
    rounding: str | None,
    gain: float,
    bias: float,
    weights: Path | None,
    recurrent: Path | None,
    latency: float | None,
    dtype: str | None,
    record: str,
    chunk: int | None,
    plot: Path | None,
    overwrite: bool,
) -> None:
    """Simulate neurons over INPUT, a .npy or .npz file of currents or spikes.

    INPUT has the shape (time,), (time, K) or (batch, time, K), or with --sweeps (sweeps, time). Without --weights it
    is the current itself, one column a neuron; with --weights, spikes or real-valued input. The file is read in
    stretches of time, so that it need not fit in memory. docs/command-line.md says what the output holds.

    With --fit the neuron is a fitted cell, and INPUT a current in pA, (time,) or (sweeps, time); each repetition is a
    neuron of the output, and potentials are in mV.
    """
    recorded = choices("--record", tuple(name for name in record.split(",") if name), RECORD)
    output = check_output(output, (".npz",), overwrite, (source, weights, recurrent))
    if plot is not None:
        plot = check_output(plot, plotting.SUFFIXES, overwrite, (source, weights, recurrent))
        plotting.require_matplotlib()
    engine = get_backend(backend)
    given = {name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    if fit is not None and (others := [f"--{name.replace('_', '-')}" for name in OF_LAYERS if name in given]):
        raise ArgumentError(f"{', '.join(others)}: expected without --fit, whose cell has its own; found both")
    if fit is None and repeats is not None:
        raise ArgumentError("--repeats: expected with --fit; found it alone")
    fitted = None
    if fit is not None:
        from blocksim.ephys._fitted import load_cell, neurons_of  # takes a tenth of a second, and few need it

        fitted = load_cell(fit)
    if fitted is not None and "dt" not in given:
        dt = fitted.dt
    common: dict[str, Any] = {
        "tau_mem": tau_mem, "theta": theta, "refractory": refractory, "dt": dt, "rounding": rounding,
    }  # fmt: skip
    common |= {"tau_adapt": tau_adapt, "adaptation": adaptation}
    model = neuron or ("alif" if adaptation else "lif")
    if config is not None and neuron is None:
        raise ArgumentError("--config: expected --neuron too, the model whose parameters it holds; found none")
    file = open_input(source, key, sweeps or fitted is not None)
    kind = np.dtype(dtype or (file.dtype if file.dtype.kind == "f" and file.dtype.itemsize > 2 else np.float64))
    offset, scale = 0.0, 1.0
    if fitted is not None:
        if file.shape[2] != 1:
            raise ArgumentError(
                f"{source}: expected a current (time,) or (sweeps, time) in pA for --fit; found {file.shape[2]} columns"
            )
        layer, gain, offset, scale, _ = neurons_of(fitted.cell, dt, repeats or 1, kind)
        model = type(fitted.cell).__name__
    else:
        neurons, synapses = read_neuron(model, config, common)
        layer = blocksim.Layer(
            neurons,
            None if weights is None else gain * read_array(weights, kind, "weights"),
            np.full(1, bias, kind)[0].item(),
            None if recurrent is None else read_array(recurrent, kind, "recurrent weights"),
            None if latency is None else _whole_steps(latency, dt),
            synapses=synapses,
        )
    noise = checked_seed(seed)
    batch, steps, inputs = file.shape
    size = layer.size or inputs
    a_step = batch * (8 * inputs + 32 * size)
    if a_step > memory():
        raise FileError(
            f"{source}: expected steps that fit in memory; found {a_step} bytes for one, of {batch} x {inputs} inputs"
        )
    at_once = chunk or max(1, CHUNK_BYTES // a_step)

    began = time.perf_counter()
    with contextlib.ExitStack() as stack, written(output) as part, progress("steps") as bar:
        result = _Result()
        for name in recorded:
            result.traces[name] = stack.enter_context(Scratch(output.parent, (batch, steps, size), kind))
        # the traces are copied into the output at the end: its room is kept from the beginning
        reserve(part, sum(trace.nbytes for trace in result.traces.values()))
        task = bar.add_task("simulating", total=steps)
        state: State | LinearState | None = None
        length = 0
        for start, x in _stretches(file, at_once, layer, kind, gain):
            run = blocksim.simulate(layer, x, engine, method, block_length, state, record=recorded, seed=noise)
            result.add(run, start, offset, scale)
            state, length = run.state, run.block_length
            bar.advance(task, run.spikes.shape[1])
        took = time.perf_counter() - began
        assert state is not None
        sample, step, number = result.events()
        meta = {
            "blocksim": blocksim.__version__, "input": source.name, "backend": engine.name, "method": method,
            "block_length": length, "dtype": str(kind), "dt_ms": dt, "gain": gain, "neuron": model,
            "refractory_steps": np.asarray(layer.neuron.refractory_steps).tolist(),
            "parameters": {name: value.tolist() for name, value in values(layer.neuron).items()},
            "seed": noise if layer.neuron.is_stochastic else None,
        }  # fmt: skip
        if fitted is not None:
            meta |= {"fit": fitted.cell.to_dict()}
        else:
            meta |= {
                "tau_mem_ms": tau_mem, "tau_adapt_ms": tau_adapt if adaptation else None, "adaptation": adaptation,
                "theta": theta, "refractory_ms": refractory, "bias": bias,
                "latency_steps": layer.latency_steps if recurrent is not None else None,
            }  # fmt: skip
        fill_npz(
            part,
            {
                "spike_sample": sample,
                "spike_step": step,
                "spike_neuron": number,
                "spike_time_ms": step * dt,
                "shape": np.array([batch, steps, size]),
                **result.traces,
                **{f"state_{name}": array for name, array in vars(state).items()},
                "meta": np.array(json.dumps(meta)),
            },
        )
    if plot is not None:
        if size == 1:
            title = f"spikes of one neuron, {batch} samples" if batch > 1 else "spikes of one neuron"
            axes = plotting.raster(step * dt, sample, batch, steps * dt, label="sample", title=title)
        else:
            first = sample == 0
            title = f"spikes of {size} neurons" + (f", the first of {batch} samples" if batch > 1 else "")
            axes = plotting.raster(step[first] * dt, number[first], size, steps * dt, title=title)
        plotting.save(axes, plot)
    _report(output, plot, file, size, len(step), steps * dt, took, engine.name, method, length)


def _stretches(
    file: InputFile, at_once: int, layer: blocksim.Layer, dtype: np.dtype[Any], gain: float
) -> Iterator[tuple[int, Any]]:
    """The input from step to step, in the same form throughout, so that results do not depend on `at_once`."""
    steps = file.shape[1]
    for start in range(0, steps, at_once):
        stop = min(start + at_once, steps)
        if layer.weights is None:
            current = file.read(start, stop).astype(dtype)
            current *= dtype.type(gain)
            yield start, current
        else:
            yield start, file.read_events(start, stop) if file.counts else file.read(start, stop).astype(dtype)


def _whole_steps(latency: float, dt: float) -> int:
    steps = number("--latency", latency, least=0, what="a time in ms") / dt
    if not abs(steps - np.rint(steps)) < 1e-6 or steps > MAX_STEPS + 1:
        raise ArgumentError(f"--latency: expected a whole number of steps of {dt} ms; found {latency} ms = {steps:.6g}")
    return round(steps)


def _report(
    output: Path, plot: Path | None, file: InputFile, neurons: int, spikes: int, duration: float, took: float,
    backend: str, method: str, length: int,
) -> None:  # fmt: skip
    batch, steps, inputs = file.shape
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = {
        "input": f"{file.path.name}: {batch} x {steps} steps x {inputs}" + (", spikes" if file.counts else ""),
        "duration": f"{duration:g} ms",
        "neurons": str(neurons),
        "spikes": f"{spikes}, {1000 * spikes / (batch * neurons * duration):.4g} Hz a neuron",
        "computed by": f"{backend}, {method}, blocks of {length}",
        "took": f"{took:.3g} s, {batch * duration / 1000 / took:.3g} times real time",
        "written": ", ".join(str(path) for path in (output, plot) if path is not None),
    }
    for name, value in rows.items():
        table.add_row(Text(name, "bold"), value)
    with contextlib.suppress(BrokenPipeError):
        console().print(table)
