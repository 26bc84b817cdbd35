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

from blocksim import _blocks, _linear
from blocksim._blocks import added, last_spikes, zero_sums
from blocksim._events import Events
from blocksim.arrays import (
    AdjointResult,
    AdjointRule,
    Array,
    ForwardResult,
    Input,
    LayerArrays,
    LinearLayer,
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
    starts: tuple[Any, ...]  # Carry or LinearCarry, of each stretch, for all samples
    spikes: Array  # (B, T, N) bool
    history: Array  # (B, D, N) bool, spikes of the D steps before the first


def forward(
    backend: Backend, layer: LayerArrays | LinearLayer, x: Input, carry: Any, history: Array, plan: Plan
) -> tuple[ForwardResult, Checkpoints]:
    """Simulate a layer without a tape."""
    layer_forward, _ = backend.of(layer)
    lead = layer.lead if isinstance(layer, LinearLayer) else 0
    batch, steps = x.shape[0], x.shape[1] - lead
    number = min(max(batch // GROUP, 1), PARTS)
    groups = _split(batch, number, 1)
    stretches = _split(steps, -(-PARTS // number), plan.block_length)
    without_tape = replace(plan, tape=False)
    starts = [carry.copy()]
    if len(stretches) == 1:
        result = layer_forward(layer, x, carry, history, without_tape)
        return result, Checkpoints(plan, groups, stretches, tuple(starts), result.spikes, history)
    outputs: Any  # what is computed part by part
    if isinstance(layer, LinearLayer):
        outputs = _linear.new_traces(backend, layer, batch, steps, without_tape)
    else:
        outputs = _blocks.new_outputs(backend, layer, batch, steps, without_tape)
    everyone = slice(0, batch)
    for now in stretches:
        before = last_spikes(backend, outputs.spikes, history, now.start)
        part = _part(backend, x, everyone, now, lead)
        own = _of_part(backend, without_tape, plan.imposed, everyone, now)
        result = layer_forward(layer, part, starts[-1], before, own)
        starts.append(result.carry)
        outputs.put(np.s_[:, now], result)
    kept = Checkpoints(plan, groups, stretches, tuple(starts[:-1]), outputs.spikes, history)
    return ForwardResult(outputs.spikes, outputs.voltage, outputs.threshold, starts[-1], None), kept


def adjoint(
    backend: Backend,
    layer: LayerArrays | LinearLayer,
    x: Input,
    kept: Checkpoints,
    rule: AdjointRule,
    grad_spikes: SpikeGradient,
    grad_voltage: Array | None,
    grad_carry: Any,
    grad_history: Array,
) -> AdjointResult:
    """Differentiate part by part, each computed again with a tape: the last stretch of a group first."""
    layer_forward, layer_adjoint = backend.of(layer)
    lead = layer.lead if isinstance(layer, LinearLayer) else 0
    plan = replace(kept.plan, tape=True, record_voltage=False, record_threshold=False)
    batch, steps, neurons = kept.spikes.shape
    current = backend.empty(kept.spikes.shape, layer.dtype)
    filtered = None
    if isinstance(layer, LinearLayer):
        filtered = backend.empty((batch, len(layer.alpha), steps, neurons), layer.dtype)
    history = backend.empty(grad_history.shape, layer.dtype)
    into = grad_carry.map(lambda array: backend.empty(array.shape, array.dtype))
    sums = zero_sums(backend, layer, batch)
    weights = recurrent = None
    if backend.adds_up(layer):  # the parts of dLoss/dS: once for all parts of time
        grad_spikes = SpikeGradient(added(backend, grad_spikes, batch, steps, layer))
    for samples in kept.groups:
        carry = grad_carry.at(samples)
        after = grad_history[samples]
        for number, now in reversed(list(enumerate(kept.stretches))):
            part = _part(backend, x, samples, now, lead)

            def part_of(grad: Array | None, where: Any = (samples, now)) -> Array | None:
                return None if grad is None else backend.asarray(grad[where])

            before = last_spikes(backend, kept.spikes[samples], kept.history[samples], now.start)
            own = _of_part(backend, plan, plan.imposed, samples, now)
            tape = layer_forward(layer, part, kept.starts[number].at(samples), before, own).tape
            assert tape is not None
            result = layer_adjoint(
                layer,
                part,
                tape,
                rule,
                SpikeGradient(
                    part_of(grad_spikes.spikes),
                    None if grad_spikes.counts is None else grad_spikes.counts[samples],
                    part_of(grad_spikes.above_current),
                    grad_spikes.above_weights,
                ),
                part_of(grad_voltage),
                carry,
                after,
            )
            carry, after = result.carry, result.history
            current[samples, now] = result.current
            if filtered is not None:
                filtered[samples, :, now] = result.filtered
            weights, recurrent = _sum(weights, result.weights), _sum(recurrent, result.recurrent)
            sums.put(samples, sums.at(samples).map(lambda total, more: total + more, result.sums))
        into.put(samples, carry)
        history[samples] = after
    return AdjointResult(current, weights, recurrent, sums, into, history, filtered)


def _split(length: int, number: int, unit: int) -> tuple[slice, ...]:
    """At most `number` parts of about the same size, each but the last a multiple of `unit`."""
    units = -(-length // unit)
    size = -(-units // number) * unit
    return tuple(slice(start, min(start + size, length)) for start in range(0, length, size))


def _of_part(backend: Backend, plan: Plan, imposed: Array | None, samples: slice, steps: slice) -> Plan:
    """The plan of some samples and steps: their noise, their imposed spikes."""
    if plan.noise is not None:
        plan = replace(plan, noise=plan.noise.from_sample(samples.start))
    return plan if imposed is None else replace(plan, imposed=backend.asarray(imposed[samples, steps]))


def _sum(one: Any, other: Any) -> Any:
    """The sum of two gradients, or of tuples of them; None where there are none."""
    if isinstance(other, tuple):
        return other if one is None else tuple(map(_sum, one, other))
    return one if other is None else other if one is None else one + other


def _part(backend: Backend, x: Input, samples: slice, steps: slice, lead: int) -> Input:
    """Input of some samples and steps, and of the `lead` steps before them: x begins as many steps before the run."""
    steps = slice(steps.start, steps.stop + lead)
    if isinstance(x, Events):
        return x.samples(samples.start, samples.stop)[steps]
    return backend.asarray(x[samples, steps])
