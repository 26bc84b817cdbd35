"""The records of arrays that the core and the backends exchange; nothing is checked or computed here.

Arrays belong to the backend that runs (NumPy arrays, CuPy arrays, ...). `dtype` is the computing precision, float32 or
float64. B is the batch, T the steps, N the neurons, K the inputs, L the block length, D the longest recurrent delay.
Records of LIF and ALIF layers come first, with the names of equations (1)-(17); those of the linear family, (27)-(38),
have C components, R receptors with a time course, and E steps of the longest delay of an input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from blocksim._escape import Noise
from blocksim._events import Events
from blocksim.surrogates import Surrogate

Array = Any
# x of equation (2): real numbers (B, T, K) of the computing dtype, events, spikes (B, T, K) bool, or what else a
# backend's own `events` makes of spikes
Input = Array | Events


class Record:
    """A frozen dataclass of arrays, of which some may be None."""

    def map(self, function: Callable[..., Any], *others: Record) -> Self:
        """A record of what the function makes of each array, and of the arrays of the same name of the others."""
        return type(self)(
            **{
                name: None if array is None else function(array, *(getattr(other, name) for other in others))
                for name, array in self.items()
            }
        )

    def items(self) -> list[tuple[str, Any]]:
        """Names and arrays, in the order of the fields."""
        return [(name, getattr(self, name)) for name in self.__dataclass_fields__]  # type: ignore[attr-defined]

    def arrays(self) -> list[Any]:
        """The arrays that are there, in the order of the fields."""
        return [array for _, array in self.items() if array is not None]

    def put(self, where: Any, other: Any) -> None:
        """Write the arrays of these names that another object has into a part of these."""
        for name, array in self.items():
            if array is not None:
                array[where] = getattr(other, name)

    def at(self, where: Any) -> Self:
        """A part of every array."""
        return self.map(lambda array: array[where])

    def copy(self) -> Self:
        """A record of copies."""
        return self.map(lambda array: array.copy())


@dataclass(frozen=True, eq=False)
class Parameters(Record):
    """One array for each parameter of equations (1)-(6): values (N,), or sums of gradients (B, N)."""

    beta: Array
    p: Array
    b: Array
    theta: Array  # theta_0
    bias: Array  # the layer's


# INOUT: sums over time of equations (11) and (12), (B, N), added to block by block in float64 whatever the dtype
ParameterSums = Parameters


class NeuronArrays:
    """A layer's arrays, whatever its neurons: what follows from the record of their parameters."""

    neuron: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """The computing precision."""
        dtype: np.dtype[Any] = self.neuron.beta.dtype
        return dtype

    @property
    def size(self) -> int:
        """Number of neurons N."""
        return int(self.neuron.beta.shape[0])


@dataclass(frozen=True, eq=False)
class LayerArrays(NeuronArrays):
    """A layer as the backend's arrays; the names are those of equations (1)-(6).

    It does not change, so a backend may keep what it makes of it, for as long as it is there.
    """

    neuron: Parameters  # (N,) dtype
    refractory: Array  # (N,) int32, steps
    weights: Array | None  # (K, N) dtype; None: x is the current
    recurrent: Array | None  # (N, N) dtype
    latency: int  # D, steps

    def carry_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shape of each array of `Carry`."""
        return dict.fromkeys((item.name for item in fields(Carry)), (batch, self.size))


@dataclass(frozen=True)
class Carry(Record):
    """What one block hands the next; with a leading axis of blocks, what every block was handed."""

    voltage: Array  # (B, N) dtype, V (1 - S) of the last step
    adaptation: Array  # (B, N) dtype, a of the next step
    refractory: Array  # (B, N) int32, steps still refractory


@dataclass(frozen=True)
class Plan:
    """How to run: block length and what to keep."""

    batch: int  # samples of the whole run; a part of it that is computed again (checkpoints) has fewer
    block_length: int
    record_voltage: bool
    record_threshold: bool
    tape: bool
    paper: bool  # the tape is for gradient="paper"
    noise: Noise | None = None  # what stochastic neurons draw
    imposed: Array | None = None  # (B, T, N) bool, spikes that are given, and not the neurons' own


@dataclass(frozen=True)
class BlockOutputs(Record):
    """OUT: one block's results, views of (B, L, N) into the run's arrays; None where not asked for."""

    spikes: Array  # bool
    voltage: Array | None  # dtype, V of (3)
    threshold: Array | None  # dtype, theta of (4)
    free_voltage: Array | None  # dtype, V of the block as if it did not spike: the tape of gradient="paper"


@dataclass(frozen=True)
class Tape:
    """What the adjoint needs of the forward pass."""

    block_length: int
    voltage: Array  # (B, T, N) dtype: V, or for gradient="paper" the block's V without reset
    spikes: Array  # (B, T, N) bool
    starts: Carry  # with a leading axis of ceil(T / L) blocks
    history: Array  # (B, D, N) bool, spikes of the D steps before the first; D = 0 without recurrence


@dataclass(frozen=True)
class ForwardResult:
    """What a forward pass returns."""

    spikes: Array  # (B, T, N) bool
    voltage: Array | None  # (B, T, N) dtype
    threshold: Array | None  # (B, T, N) dtype
    carry: Any  # Carry or LinearCarry
    tape: Any  # Tape, LinearTape, or None


@dataclass(frozen=True)
class AdjointRule:
    """Which gradient to take: the surrogate, and the paths that are kept, equation (7)."""

    surrogate: Surrogate
    paper: bool
    through_reset: bool
    through_recurrent: bool
    through_adaptation: bool


@dataclass(frozen=True)
class AdjointCarry(Record):
    """Gradient with respect to what one block handed the next: to each real-valued array of `Carry`."""

    voltage: Array  # (B, N) dtype, dLoss/d(carry.voltage) = beta lambda_V of the next step
    adaptation: Array  # (B, N) dtype, dLoss/d(carry.adaptation) = lambda_a of the next step


@dataclass(frozen=True)
class SpikeGradient:
    """dLoss/dS as a sum: a backend may add it up (`blocksim.backend.added`), or use its parts."""

    spikes: Array | None = None  # (B, T, N) dtype
    counts: Array | None = None  # (B, N) dtype, the same at every step
    above_current: Array | None = None  # (B, T, M) dtype, dLoss/dI of a layer that these spikes drive ...
    above_weights: Array | None = None  # (N, M) dtype, ... and its input weights: the product (11), not multiplied out


@dataclass(frozen=True)
class AdjointResult:
    """What an adjoint pass returns, equations (11)-(13), or (35)-(38)."""

    current: Array  # (B, T, N) dtype, dLoss/dI, or dLoss/dJ of (37)
    weights: Any  # (K, N) dtype, or None; in the linear family a tuple, one of each input connection
    recurrent: Any  # (N, N) dtype, or None; or a tuple as above
    sums: Any  # Parameters or LinearParameters, with the batch as first axis, float64
    carry: Any  # with respect to the state before the first step
    history: Array  # (B, D, N) dtype, with respect to the spikes before the first step
    filtered: Array | None = None  # (B, R, T, N) dtype, dLoss/di of (38)


# what a component listens to, (34): U, V after the reset, max(U - knot, 0), or the softplus that is bent there
LISTENS = ("before", "after", "above", "softplus")
BEFORE, AFTER, ABOVE, SOFTPLUS = LISTENS
DIRECT = -1  # the receptor of currents without a time course


@dataclass(frozen=True, eq=False)
class LinearParameters(Record):
    """The parameters of (28)-(34): values, or sums of gradients with the batch as first axis."""

    beta: Array  # (N,)
    theta: Array  # (N,), theta_0
    bias: Array  # (N,)
    reset_factor: Array  # (N,), f
    v_reset: Array  # (N,)
    rate: Array  # (N,), of (39); 0 where spikes are not stochastic
    width: Array  # (N,); 1 there
    decay: Array  # (C, N), q
    jump: Array  # (C, N), d
    from_voltage: Array  # (C, N), k
    to_voltage: Array  # (C, N), g
    to_threshold: Array  # (C, N), h
    knot: Array  # (C, N); of no meaning but for components that listen above it
    softness: Array  # (C, N); of no meaning but for those with a softplus
    synapse_decay: Array  # (R, N), sigma
    gain: Array  # (R, N)
    gain_rising: Array  # (R, N); of no meaning but for alpha synapses


@dataclass(frozen=True, eq=False)
class LinearCarry(Record):
    """What one block hands the next; with a leading axis of blocks, what every block was handed."""

    voltage: Array  # (B, N), V of (33)
    components: Array  # (B, C, N), c of the next step
    synapses: Array  # (B, R, N), s of (28)
    rising: Array  # (B, R, N), z of (28); zero but for alpha synapses
    refractory: Array  # (B, N) int32, steps still refractory
    remaining: Array  # (B, X, N), hazard to bear before the next spike, (39); X is 1 if spikes are stochastic, or 0
    draws: Array  # (B, X, N) int32, random numbers drawn

    def without_noise(self) -> LinearCarry:
        """What the adjoint reads of it: spikes that were drawn are on the tape."""
        return replace(self, remaining=self.remaining[:, :0], draws=self.draws[:, :0])


@dataclass(frozen=True, eq=False)
class LinearAdjointCarry(Record):
    """Gradient with respect to each array of `LinearCarry` that a gradient belongs to."""

    voltage: Array
    components: Array
    synapses: Array
    rising: Array


@dataclass(frozen=True, eq=False)
class Drive(Record):
    """Currents of (27), or the gradients with respect to them."""

    direct: Array  # (B, T, N), with the bias
    filtered: Array  # (B, R, T, N)


@dataclass(frozen=True, eq=False)
class LinearTraces(Record):
    """OUT: results of a block or a run; None where not asked for."""

    spikes: Array  # (B, T, N) bool; IN where they are imposed
    voltage: Array | None  # (B, T, N), U of (30)
    threshold: Array | None  # (B, T, N), theta of (31)
    synapses: Array | None  # (B, R, T, N), s of (28)
    rising: Array | None  # (B, R, T, N), z of (28)


@dataclass(frozen=True, eq=False)
class LinearConnection:
    """Weights of one connection, its delay in steps, and the receptor: its row, or DIRECT."""

    weights: Array  # (K, N)
    delay: int
    receptor: int


@dataclass(frozen=True, eq=False)
class LinearLayer(NeuronArrays):
    """A layer of the linear family as the backend's arrays. It does not change."""

    neuron: LinearParameters
    refractory: Array  # (N,) int32, steps
    mode: str  # while refractory: "ignore", "hold" or "integrate"
    alpha: tuple[bool, ...]  # of each receptor with a time course
    inputs: tuple[LinearConnection, ...]
    recurrent: tuple[LinearConnection, ...]
    listens: tuple[str, ...] = ()  # of each component: what k multiplies, one of LISTENS
    given: int | None = None  # the receptor of x where it is the current itself
    stochastic: bool = False  # spikes have escape noise, (39)
    imposed: bool = False  # spikes are given, in place of (32) and (39)

    @property
    def latency(self) -> int:
        """The longest recurrent delay D."""
        return max((each.delay for each in self.recurrent), default=0)

    def listening(self, *to: str) -> tuple[bool, ...]:
        """Which components listen to one of these."""
        return tuple(each in to for each in self.listens)

    @property
    def lead(self) -> int:
        """The longest delay E of an input: x begins so many steps before the run."""
        return max((each.delay for each in self.inputs), default=0)

    def carry_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shape of each array of `LinearCarry`."""
        components, receptors = (batch, *self.neuron.decay.shape), (batch, *self.neuron.gain.shape)
        one, noise = (batch, self.size), (batch, int(self.stochastic), self.size)
        return {
            "voltage": one, "components": components, "synapses": receptors, "rising": receptors, "refractory": one,
            "remaining": noise, "draws": noise,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class LinearTape:
    """What the adjoint needs of the forward pass."""

    block_length: int
    traces: LinearTraces  # voltage, spikes, synapses and rising
    starts: LinearCarry  # with a leading axis of ceil(T / L) blocks
    history: Array  # (B, D, N) bool, spikes of the D steps before the first
