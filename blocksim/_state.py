"""The state a layer carries from one stretch of time to the next, and the gradient with respect to it.

Owns the definition of "everything the future depends on": hand `run.state` to the next `simulate` and the two runs
equal one long run, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class State:
    """Everything the future of a layer depends on, after the last step that was simulated.

    Attributes
    ----------
    voltage : (batch, N) float array
        V (1 - S) of the last step: the potential that the next step decays from, zero after a spike.
    adaptation : (batch, N) float array
        Adaptation a of the next step.
    refractory : (batch, N) int32 array
        Steps for which each neuron is still refractory.
    spikes : (batch, D, N) bool array
        Spikes of the last D steps, oldest first, D the recurrent latency; D = 0 without recurrence.

    Notes
    -----
    Of NumPy arrays; of CuPy arrays where x was one. A run takes either.
    """

    voltage: np.ndarray
    adaptation: np.ndarray
    refractory: np.ndarray
    spikes: np.ndarray


@dataclass(frozen=True, eq=False)
class StateGradient:
    """dLoss/d(state), equation (13): the gradient into, or out of, a carried `State`.

    Attributes
    ----------
    voltage : (batch, N) float array
        dLoss/d(state.voltage).
    adaptation : (batch, N) float array
        dLoss/d(state.adaptation).
    spikes : (batch, D, N) float array
        dLoss/d(state.spikes), through recurrence.
    """

    voltage: np.ndarray
    adaptation: np.ndarray
    spikes: np.ndarray


@dataclass(frozen=True, eq=False)
class LinearState:
    """The state of a layer of the linear family, (27)-(34), after the last step that was simulated.

    C is the number of components, R that of receptors with a time course, in their order.

    Attributes
    ----------
    voltage : (batch, N) float array
        V of the last step, after its reset.
    components : (batch, C, N) float array
        Components c of the next step.
    synapses, rising : (batch, R, N) float arrays
        States s and z of the last step; z is zero but for alpha synapses.
    refractory : (batch, N) int32 array
        Steps for which each neuron is still refractory.
    remaining : (batch, X, N) float array
        Hazard that each neuron bears before its next spike, (39); X is 1 if spikes are stochastic, else 0.
    draws : (batch, X, N) int32 array
        Random numbers that each neuron has drawn.
    spikes : (batch, D, N) bool array
        Spikes of the last D steps, oldest first, D the longest recurrent delay.
    inputs : (batch, E, K) float array
        Input of the last E steps, oldest first, E the longest delay of an input connection.
    """

    voltage: np.ndarray
    components: np.ndarray
    synapses: np.ndarray
    rising: np.ndarray
    refractory: np.ndarray
    remaining: np.ndarray
    draws: np.ndarray
    spikes: np.ndarray
    inputs: np.ndarray


@dataclass(frozen=True, eq=False)
class LinearStateGradient:
    """dLoss/d(state) of a layer of the linear family: the gradient into, or out of, a carried `LinearState`.

    Attributes
    ----------
    voltage : (batch, N) float array
    components : (batch, C, N) float array
    synapses, rising : (batch, R, N) float arrays
    spikes : (batch, D, N) float array
    inputs : (batch, E, K) float array
        With respect to the arrays of these names in `LinearState`.
    """

    voltage: np.ndarray
    components: np.ndarray
    synapses: np.ndarray
    rising: np.ndarray
    spikes: np.ndarray
    inputs: np.ndarray
