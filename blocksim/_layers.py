"""Layers in sequence, each fed by the spikes of the one before: run forward, and differentiated backward.

Owns the one path of a run, that of a layer alone and that of a network: input is read, each layer is computed, and the
adjoint goes back from the last layer to the first. A layer itself is computed by `blocksim._layer_pass`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from blocksim._inputs import prepare
from blocksim._layer import Layer
from blocksim._layer_pass import FAMILY, Pass, form_of, forward_pass
from blocksim._options import Options
from blocksim._state import LinearState, LinearStateGradient, State, StateGradient
from blocksim.arrays import AdjointResult, Array, LinearLayer, SpikeGradient


def passes(
    layers: Sequence[Layer],
    x: Any,
    dtype: np.dtype[Any],
    states: Sequence[State | LinearState | None],
    options: Options,
) -> list[Pass]:
    """Simulate the layers; x as `blocksim._inputs.read_input` returns it."""
    layer_passes: list[Pass] = []
    for place, (layer, state) in enumerate(zip(layers, states, strict=True)):
        given = layer_passes[-1].spikes if layer_passes else prepare(x, layer, options.backend, dtype)
        layer_passes.append(forward_pass(layer, given, layer.size or given.shape[2], dtype, state, options, place))
    return layer_passes


def adjoints(
    layer_passes: Sequence[Pass],
    grad_spikes: Sequence[SpikeGradient],
    grad_voltages: Sequence[Array | None],
    grad_states: Sequence[StateGradient | LinearStateGradient | None],
) -> list[Differentiated]:
    """Differentiate the layers, the last first; gradients with respect to spikes are those of the loss itself."""
    results: list[Differentiated] = []
    for number in reversed(range(len(layer_passes))):
        of_spikes = grad_spikes[number]
        if layer_passes[number].plan.imposed is not None:  # the layers above hear spikes that nothing changes
            of_spikes = SpikeGradient(of_spikes.spikes)
        elif results:
            above = layer_passes[number + 1].arrays
            if isinstance(above, LinearLayer):
                through = results[-1].input_gradient
                own = of_spikes.spikes
                of_spikes = replace(of_spikes, spikes=through if own is None else through + own)
            else:
                current = results[-1].result.current
                of_spikes = replace(of_spikes, above_current=current, above_weights=above.weights)
        result, of_last = layer_passes[number].adjoint(of_spikes, grad_voltages[number], grad_states[number])
        results.append(Differentiated(layer_passes[number], result, of_last))
    return results[::-1]


@dataclass(frozen=True, eq=False)
class Differentiated:
    """A layer's adjoint."""

    layer_pass: Pass
    result: AdjointResult
    of_last: Array | None  # (B, E, K), dLoss/d(the last input) through the state after the run

    @cached_property
    def _inputs(self) -> Array:
        """dLoss/d(input), of the steps before the run too: (B, E + T, K); with what the state after the run adds."""
        total = self.layer_pass.input_gradient(self.result)
        if self.layer_pass.lead and self.of_last is not None:
            total[:, total.shape[1] - self.layer_pass.lead :] += self.of_last
        return total

    @property
    def input_gradient(self) -> Array:
        """dLoss/dx (B, T, K); (B, T, N) where x is the current itself."""
        return self._inputs[:, self.layer_pass.lead :]

    def state(self) -> list[Array]:
        """dLoss/d(state before the run): the arrays of a state's gradient, in their order."""
        arrays = [*self.result.carry.arrays(), self.result.history]
        if form_of(self.layer_pass.arrays) is FAMILY:
            lead, dtype = self.layer_pass.lead, self.layer_pass.arrays.dtype
            x = self.layer_pass.x
            none = self.layer_pass.backend.empty((x.shape[0], 0, x.shape[2]), dtype)
            arrays.append(self._inputs[:, :lead] if lead else none)
        return arrays
