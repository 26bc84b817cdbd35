"""Layers in sequence, each fed by the spikes of the one before: run forward, and differentiated backward.

Owns the one path of a run, that of a layer alone and that of a network: input is read, each layer is computed, and the
adjoint goes back from the last layer to the first. A layer itself is computed by `blocksim._layer_pass`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from blocksim._inputs import prepare
from blocksim._layer import Layer
from blocksim._layer_pass import Pass, forward_pass
from blocksim._options import Options
from blocksim._state import State, StateGradient
from blocksim.arrays import AdjointResult, Array, SpikeGradient


def passes(
    layers: Sequence[Layer], x: Any, dtype: np.dtype[Any], states: Sequence[State | None], options: Options
) -> list[Pass]:
    """Simulate the layers; x as `blocksim._inputs.read_input` returns it."""
    done: list[Pass] = []
    for layer, state in zip(layers, states, strict=True):
        given = done[-1].spikes if done else prepare(x, layer, options.backend, dtype)
        done.append(forward_pass(layer, given, layer.size or given.shape[2], dtype, state, options))
    return done


def adjoints(
    done: Sequence[Pass],
    grad_spikes: Sequence[SpikeGradient],
    grad_voltages: Sequence[Array | None],
    grad_states: Sequence[StateGradient | None],
) -> list[AdjointResult]:
    """Differentiate the layers, the last first; gradients with respect to spikes are those of the loss itself."""
    results: list[AdjointResult] = []
    for number in reversed(range(len(done))):
        of_spikes = grad_spikes[number]
        if results:
            above = done[number + 1].arrays.weights
            of_spikes = replace(of_spikes, above_current=results[-1].current, above_weights=above)
        results.append(done[number].adjoint(of_spikes, grad_voltages[number], grad_states[number]))
    return results[::-1]
