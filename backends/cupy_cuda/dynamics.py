"""Host side of the kernels of dynamics: allocates what they write, and composes launches over blocks.

A run is one launch of the dynamics each way: samples need nothing of each other, so that a block of threads takes a
sample of a recurrent layer through all its blocks of time. A layer of more neurons than such a block has threads is
launched for each block of time, its recurrent currents before it. A scan is one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blocksim._blocks import (
    added,
    current_of,
    new_outputs,
    new_starts,
    recurrent_gradient,
    result_of,
    spans,
    zeros,
)
from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    Carry,
    ForwardResult,
    Input,
    LayerArrays,
    NeuronArrays,
    Parameters,
    Plan,
    Record,
    SpikeGradient,
    Tape,
)
from blocksim.numerics import tiny
from blocksim.surrogates import kernel_scales

from .kernels import TOGETHER, WARP, units

if TYPE_CHECKING:
    from .backend import CupyBackend

RESIDENT = 1024  # threads of a multiprocessor that recurrent kernels leave registers for


@dataclass(frozen=True)
class ScannedTape(Tape):
    """The tape of a scan: the state every 32 steps, in which a neuron may spike more than once."""


def forward(
    engine: CupyBackend, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan, scan: bool
) -> ForwardResult:
    """Simulate a layer: one launch of the dynamics, or one for each block of a wide recurrent layer."""
    length = WARP if scan else plan.block_length
    dtype, size = layer.dtype, layer.size
    batch, steps = x.shape[:2]
    given = layer.weights is None and layer.recurrent is None
    current = x if given else current_of(engine, layer, x)
    shared = current.shape[2] == 1 and size > 1
    plan = replace(plan, block_length=length)
    out = new_outputs(engine, layer, batch, steps, plan)
    starts = new_starts(engine, carry, steps, plan)
    after = carry.copy()
    values = engine.values(layer)
    pitches = (np.int64(steps * current.shape[2]), np.int64(current.shape[2]), np.int64(0 if shared else 1))
    before = (values, layer.refractory, current, *pitches, np.int32(given))
    state = after.arrays()
    shape_of_run = (np.int64(batch * size), np.int32(size), np.int32(steps))
    smallest = dtype.type(tiny(dtype))
    if scan:
        engine.launch("forward_scan", dtype, units(batch * size * WARP))(
            *before,
            *state,
            out.spikes,
            out.voltage,
            out.threshold,
            *arrays_or_null(starts, after),
            *shape_of_run,
            smallest,
        )
    else:
        most = TOGETHER[dtype.name]
        threads = 0 if layer.recurrent is None else threads_of_sample(engine, size, batch, most, most * 3 // 2)
        apart = layer.recurrent is not None and not threads
        launch = dynamics_of(engine, "forward", dtype, batch, size, threads)
        before_run = engine.asarray(history)
        for start, stop in launches(steps, length if apart else None):
            if apart:
                engine.add_spikes(
                    out.spikes, before_run, layer.recurrent, current, start, stop - start, history.shape[1]
                )
            launch(
                *before, *state, out.spikes, out.voltage, out.threshold, out.free_voltage,
                *arrays_or_null(starts, after), layer.recurrent, before_run, np.int32(history.shape[1]),
                *shape_of_run, np.int32(start), np.int32(stop), np.int32(length), smallest,
            )  # fmt: skip
    result = result_of(out, after, starts, history, plan)
    return replace(result, tape=ScannedTape(**vars(result.tape))) if scan and result.tape else result


def adjoint(
    engine: CupyBackend,
    layer: LayerArrays,
    x: Input,
    tape: Tape,
    rule: AdjointRule,
    grad_spikes: SpikeGradient,
    grad_voltage: Array | None,
    grad_carry: AdjointCarry,
    grad_history: Array,
) -> AdjointResult:
    """Differentiate a layer: launches as in the forward pass, the last first."""
    dtype = layer.dtype
    batch, steps, size = tape.spikes.shape
    latency = tape.history.shape[1]
    lambda_s = lambda_of_spikes(engine, layer, grad_spikes, grad_history, batch, steps)
    before = zeros(engine, (batch, latency, size), dtype)
    before[:, steps:] = grad_history[:, : max(latency - steps, 0)]
    grad_current = engine.empty((batch, steps, size), dtype)
    sums = zeros(engine, (len(fields(Parameters)), batch, size), np.float64)
    into = grad_carry.copy()
    kind, smallest = rule.surrogate.kind, dtype.type(tiny(dtype))
    of_tape = (engine.values(layer), layer.refractory, tape.voltage, tape.spikes, *tape.starts.arrays())
    out = (lambda_s, grad_voltage, *into.arrays(), grad_current, sums)
    rules = (*kernel_scales(rule.surrogate, dtype), np.int32(rule.through_reset), np.int32(rule.through_adaptation))
    shape_of_run = (np.int64(batch * size), np.int32(size), np.int32(steps))
    recurrent = layer.recurrent if rule.through_recurrent else None
    if isinstance(tape, ScannedTape):
        engine.launch("adjoint_scan", dtype, units(batch * size * WARP), kind)(
            *of_tape, *out, *rules, *shape_of_run, smallest
        )
    else:
        kernel = "adjoint_of_paper" if rule.paper else "adjoint"
        most = TOGETHER[dtype.name]
        threads = 0 if layer.recurrent is None else threads_of_sample(engine, size, batch, most, most)
        apart = layer.recurrent is not None and not threads
        launch = dynamics_of(engine, kernel, dtype, batch, size, threads, kind)
        transposed = None
        if threads and recurrent is not None:
            transposed = engine.once(layer, "transposed", lambda: engine.asarray(recurrent.T))
        scratch = engine.empty(((2 if rule.paper else 1) * tape.block_length, batch, size), dtype)
        for start, stop in reversed(launches(steps, tape.block_length if apart else None)):
            if apart and recurrent is not None and start + latency < steps:  # the recurrent term of (7)
                last = min(stop + latency, steps)
                engine.add_product(
                    grad_current[:, start + latency : last], recurrent, lambda_s[:, start : last - latency]
                )
            launch(
                *of_tape, *out, scratch, *rules, transposed, np.int32(latency), *shape_of_run, np.int32(start),
                np.int32(stop), np.int32(tape.block_length), smallest,
            )  # fmt: skip
    grad_recurrent = None
    if layer.recurrent is not None:
        early = min(latency, steps)
        if recurrent is not None:  # (13)
            engine.add_product(grad_current[:, :early], recurrent, before[:, :early])
        grad_recurrent = recurrent_gradient(engine, tape.spikes, tape.history, grad_current)
    weights = None if layer.weights is None else engine.projection_adjoint(x, grad_current)
    return AdjointResult(grad_current, weights, grad_recurrent, Parameters(*sums), into, before)


def lambda_of_spikes(
    engine: CupyBackend, layer: NeuronArrays, grad_spikes: SpikeGradient, grad_history: Array, batch: int, steps: int
) -> Array:
    """lambda_S of (7) or (35), in a new array (B, T, N), but for the terms that the launches add."""
    of_spikes = added(engine, grad_spikes, batch, steps, layer)
    lambda_s = engine.empty((batch, steps, layer.size), layer.dtype)
    lambda_s[...] = 0 if of_spikes is None else of_spikes
    latency = grad_history.shape[1]
    held = min(latency, steps)  # spikes that the state after the run still holds
    if held:
        lambda_s[:, steps - held :] += grad_history[:, latency - held :]
    return lambda_s


def threads_of_sample(engine: CupyBackend, size: int, batch: int, neurons: int, most: int) -> int:
    """Threads of a block that has a whole sample of `size` neurons, at most `most`; 0 for more than `neurons` of them.

    Where samples are few there are more threads than neurons, for the currents and gradients of recurrent connections;
    where they are many, samples fill the device.
    """
    if size > neurons:
        return 0
    share = RESIDENT * engine.of_device("MultiProcessorCount") // batch // WARP * WARP
    return min(max(-(-size // WARP) * WARP, share), most)


def dynamics_of(
    engine: CupyBackend, kernel: str, dtype: Any, batch: int, size: int, threads: int, *numbers: int
) -> Callable[..., None]:
    """A launch of dynamics: with `threads` for each sample, recurrence included, or if 0 one for each neuron alone."""
    if threads:
        return engine.launch(kernel, dtype, (batch,), *numbers, 1, threads=threads)
    return engine.launch(kernel, dtype, units(batch * size), *numbers, 0)


def launches(steps: int, length: int | None) -> list[tuple[int, int]]:
    """The first step of each launch, and the one after its last; None: one launch for all."""
    return [(0, steps)] if length is None else [(start, stop) for _, start, stop in spans(steps, length)]


def arrays_or_null(starts: Record | None, like: Record) -> list[Any]:
    """The arrays of a record, or as many null pointers as another has arrays."""
    return [None] * len(like.arrays()) if starts is None else starts.arrays()
