"""Runs that keep a few states instead of a tape, and compute the rest again, part by part, when asked for gradients.

Owns which parts there are and what is kept of them. A part is a group of samples over a stretch of time; each is run
and differentiated by the backend as a run of its own. Groups of samples cost little, for they know nothing of each
other. A batch too small for enough of them is parted in time as well: a stretch is handed the state, and the gradient
of the state, of its neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blocksim._blocks import handed_on
from blocksim._events import Events
from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    Carry,
    ForwardResult,
    FromAbove,
    Input,
    LayerArrays,
    ParameterSums,
    Plan,
    SpikeGradient,
)
from blocksim.backend import Backend

# The tape of one part is there at a time: an eighth of the whole, or little more.
PARTS = 8
# Samples of a group, which the threads of a backend share among them.
GROUP = 8


@dataclass(frozen=True)
class Checkpoints:
    """What is kept: the carried state at the start of each stretch; the spikes are the run's own."""

    plan: Plan
    groups: tuple[slice, ...]  # samples
    stretches: tuple[slice, ...]  # steps, whole blocks
    starts: tuple[Carry, ...]  # of each stretch, for all samples
    spikes: Array  # (B, T, N) bool
    history: Array  # (B, D, N) bool, spikes of the D steps before the first


def forward(
    backend: Backend, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan
) -> tuple[ForwardResult, Checkpoints]:
    """Simulate a layer without a tape."""
    batch, steps = x.shape[:2]
    number = min(max(batch // GROUP, 1), PARTS)
    groups = _split(batch, number, 1)
    stretches = _split(steps, -(-PARTS // number), plan.block_length)
    without_tape = replace(plan, tape=False)
    starts = [Carry(*(array.copy() for array in (carry.voltage, carry.adaptation, carry.refractory)))]
    if len(stretches) == 1:
        result = backend.layer_forward(layer, x, carry, history, without_tape)
        return result, Checkpoints(plan, groups, stretches, tuple(starts), result.spikes, history)
    shape = (batch, steps, layer.beta.shape[0])
    spikes = backend.empty(shape, np.bool_)
    voltage = backend.empty(shape, layer.beta.dtype) if plan.record_voltage else None
    threshold = backend.empty(shape, layer.beta.dtype) if plan.record_threshold else None
    everyone = slice(0, batch)
    for now in stretches:
        before = handed_on(backend, spikes, history, now.start)
        result = backend.layer_forward(layer, _part(backend, x, everyone, now), starts[-1], before, without_tape)
        starts.append(result.carry)
        for whole, part in ((spikes, result.spikes), (voltage, result.voltage), (threshold, result.threshold)):
            if whole is not None:
                whole[:, now] = part
    kept = Checkpoints(plan, groups, stretches, tuple(starts[:-1]), spikes, history)
    return ForwardResult(spikes, voltage, threshold, starts[-1], None), kept


def adjoint(
    backend: Backend,
    layer: LayerArrays,
    x: Input,
    kept: Checkpoints,
    rule: AdjointRule,
    grad_spikes: SpikeGradient | None,
    grad_voltage: Array | None,
    grad_carry: AdjointCarry,
    grad_history: Array,
) -> AdjointResult:
    """Differentiate part by part, each computed again with a tape: the last stretch of a group first."""
    dtype = layer.beta.dtype
    plan = replace(kept.plan, tape=True, record_voltage=False, record_threshold=False)
    batch, _, neurons = kept.spikes.shape
    current = backend.empty(kept.spikes.shape, dtype)
    history = backend.empty(grad_history.shape, dtype)
    into = AdjointCarry(*(backend.empty((batch, neurons), dtype) for _ in range(2)))
    sums = ParameterSums(*(backend.empty((batch, neurons), np.float64) for _ in range(5)))
    weights = recurrent = None
    for samples in kept.groups:
        carry = AdjointCarry(grad_carry.voltage[samples], grad_carry.adaptation[samples])
        after = grad_history[samples]
        for number, now in reversed(list(enumerate(kept.stretches))):
            part = _part(backend, x, samples, now)
            before = handed_on(backend, kept.spikes[samples], kept.history[samples], now.start)
            begin = kept.starts[number]
            start = Carry(begin.voltage[samples], begin.adaptation[samples], begin.refractory[samples])
            tape = backend.layer_forward(layer, part, start, before, plan).tape
            assert tape is not None
            result = backend.layer_adjoint(
                layer,
                part,
                tape,
                rule,
                _part_of_gradient(backend, grad_spikes, samples, now),
                _part_of_gradient(backend, grad_voltage, samples, now),
                carry,
                after,
            )
            carry, after = result.carry, result.history
            current[samples, now] = result.current
            weights, recurrent = _sum(weights, result.weights), _sum(recurrent, result.recurrent)
            last = number == len(kept.stretches) - 1
            for name, total in vars(sums).items():
                more = getattr(result.sums, name)
                total[samples] = more if last else total[samples] + more
        into.voltage[samples], into.adaptation[samples] = carry.voltage, carry.adaptation
        history[samples] = after
    return AdjointResult(current, weights, recurrent, sums, into, history)


def _split(length: int, number: int, unit: int) -> tuple[slice, ...]:
    """At most `number` parts of about the same size, each but the last a multiple of `unit`."""
    units = -(-length // unit)
    size = -(-units // number) * unit
    return tuple(slice(start, min(start + size, length)) for start in range(0, length, size))


def _sum(one: Array | None, other: Array | None) -> Array | None:
    return one if other is None else other if one is None else one + other


def _part_of_gradient(backend: Backend, grad: SpikeGradient | None, samples: slice, steps: slice) -> Any:
    if isinstance(grad, FromAbove):
        current, own = (_part_of_gradient(backend, part, samples, steps) for part in (grad.current, grad.own))
        return FromAbove(current, grad.weights, own)
    return None if grad is None else backend.asarray(grad[samples, steps])


def _part(backend: Backend, x: Input, samples: slice, steps: slice) -> Input:
    if isinstance(x, Events):
        return x.samples(samples.start, samples.stop)[steps]
    return backend.asarray(x[samples, steps])
