"""Runs that keep the state at the start of stretches of time instead of a tape, and compute them again when asked.

Owns which stretches there are and what is kept of them; each is run and differentiated by the backend as a run of its
own, handed the state, and the gradient of the state, of its neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    Carry,
    ForwardResult,
    Input,
    LayerArrays,
    ParameterSums,
    Plan,
)
from blocksim.backend import Backend
from blocksim.blocks import handed_on
from blocksim.events import Events

# The tape of one stretch is there at a time: an eighth of the whole.
STRETCHES = 8


@dataclass(frozen=True)
class Checkpoints:
    """What is kept: the carried state at the start of each stretch; the spikes are the run's own."""

    plan: Plan
    stretch: int  # steps, whole blocks
    starts: tuple[Carry, ...]
    spikes: Array  # (B, T, N) bool
    history: Array  # (B, D, N) bool, spikes of the D steps before the first


def forward(
    backend: Backend, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan
) -> tuple[ForwardResult, Checkpoints]:
    """Simulate a layer stretch by stretch, without a tape."""
    batch, steps = x.shape[:2]
    blocks = -(-steps // plan.block_length)
    stretch = -(-blocks // STRETCHES) * plan.block_length
    shape = (batch, steps, layer.beta.shape[0])
    without_tape = replace(plan, tape=False)
    spikes = backend.empty(shape, np.bool_)
    voltage = backend.empty(shape, layer.beta.dtype) if plan.record_voltage else None
    threshold = backend.empty(shape, layer.beta.dtype) if plan.record_threshold else None
    starts = []
    for start in range(0, steps, stretch):
        now = slice(start, min(start + stretch, steps))
        starts.append(carry)
        before = handed_on(backend, spikes, history, start)
        result = backend.layer_forward(layer, _part(backend, x, now), carry, before, without_tape)
        carry = result.carry
        for whole, part in ((spikes, result.spikes), (voltage, result.voltage), (threshold, result.threshold)):
            if whole is not None:
                whole[:, now] = part
    kept = Checkpoints(plan, stretch, tuple(starts), spikes, history)
    return ForwardResult(spikes, voltage, threshold, carry, None), kept


def adjoint(
    backend: Backend,
    layer: LayerArrays,
    x: Input,
    kept: Checkpoints,
    rule: AdjointRule,
    grad_spikes: Array | None,
    grad_voltage: Array | None,
    grad_carry: AdjointCarry,
    grad_history: Array,
) -> AdjointResult:
    """Differentiate stretch by stretch, the last first, each computed again with a tape."""
    steps = x.shape[1]
    plan = replace(kept.plan, tape=True, record_voltage=False, record_threshold=False)
    current = backend.empty(kept.spikes.shape, layer.beta.dtype)
    results = None
    for number in reversed(range(len(kept.starts))):
        start = number * kept.stretch
        now = slice(start, min(start + kept.stretch, steps))
        part = _part(backend, x, now)
        before = handed_on(backend, kept.spikes, kept.history, start)
        tape = backend.layer_forward(layer, part, kept.starts[number], before, plan).tape
        assert tape is not None
        result = backend.layer_adjoint(
            layer,
            part,
            tape,
            rule,
            None if grad_spikes is None else backend.asarray(grad_spikes[:, now]),
            None if grad_voltage is None else backend.asarray(grad_voltage[:, now]),
            grad_carry,
            grad_history,
        )
        grad_carry, grad_history = result.carry, result.history
        current[:, now] = result.current
        results = result if results is None else _sum(results, result)
    assert results is not None
    return replace(results, current=current, carry=grad_carry, history=grad_history)


def _sum(one: AdjointResult, other: AdjointResult) -> AdjointResult:
    """The results of two stretches, as far as they add up."""
    sums = ParameterSums(
        **{name: getattr(one.sums, name) + value for name, value in vars(other.sums).items()},
    )

    def both(a: Array | None, b: Array | None) -> Array | None:
        return None if a is None else a + b

    return replace(
        one, weights=both(one.weights, other.weights), recurrent=both(one.recurrent, other.recurrent), sums=sums
    )


def _part(backend: Backend, x: Input, steps: slice) -> Input:
    return x[steps] if isinstance(x, Events) else backend.asarray(x[:, steps])
