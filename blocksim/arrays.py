"""What the core and the backends hand each other: plain records of arrays, nothing checked, nothing computed.

Arrays belong to the backend that runs (NumPy arrays, CuPy arrays, ...). `dtype` is the computing precision, float32 or
float64. B is the batch, T the steps, N the neurons, K the inputs, L the block length, D the recurrent latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blocksim._events import Events
from blocksim.surrogates import Surrogate

Array = Any
# x of equation (2): real numbers (B, T, K) of the computing dtype, events, spikes (B, T, K) bool, or what else a
# backend's own `events` makes of spikes
Input = Array | Events


@dataclass(frozen=True, eq=False)
class LayerArrays:
    """A layer as the backend's arrays; the names are those of equations (1)-(6).

    It does not change, so a backend may keep what it makes of it, for as long as it is there.
    """

    beta: Array  # (N,) dtype
    p: Array  # (N,) dtype
    b: Array  # (N,) dtype
    theta: Array  # (N,) dtype, theta_0
    bias: Array  # (N,) dtype
    refractory: Array  # (N,) int32, steps
    weights: Array | None  # (K, N) dtype; None: x is the current
    recurrent: Array | None  # (N, N) dtype
    latency: int  # D, steps


@dataclass(frozen=True)
class Carry:
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


@dataclass(frozen=True)
class BlockOutputs:
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
    carry: Carry
    tape: Tape | None


@dataclass(frozen=True)
class AdjointRule:
    """Which gradient to take: the surrogate, and the paths that are kept, equation (7)."""

    surrogate: Surrogate
    paper: bool
    through_reset: bool
    through_recurrent: bool
    through_adaptation: bool


@dataclass(frozen=True)
class AdjointCarry:
    """Gradient with respect to what one block handed the next."""

    voltage: Array  # (B, N) dtype, dLoss/d(carry.voltage) = beta lambda_V of the next step
    adaptation: Array  # (B, N) dtype, dLoss/d(carry.adaptation) = lambda_a of the next step


@dataclass(frozen=True)
class ParameterSums:
    """INOUT: sums over time of equations (11) and (12), added to block by block in float64 whatever the dtype."""

    beta: Array  # (B, N) float64
    p: Array  # (B, N) float64
    b: Array  # (B, N) float64
    theta: Array  # (B, N) float64
    bias: Array  # (B, N) float64


@dataclass(frozen=True)
class FromAbove:
    """dLoss/dS of a layer whose spikes drive another: dLoss/dx of that one, (11), not multiplied out."""

    current: Array  # (B, T, M) dtype, dLoss/dI of the layer above
    weights: Array  # (N, M) dtype, its input weights
    own: Array | None  # (B, T, N) dtype, what the loss itself adds


SpikeGradient = Array | FromAbove


@dataclass(frozen=True)
class AdjointResult:
    """What an adjoint pass returns, equations (11)-(13)."""

    current: Array  # (B, T, N) dtype, dLoss/dI
    weights: Array | None  # (K, N) dtype
    recurrent: Array | None  # (N, N) dtype
    sums: ParameterSums
    carry: AdjointCarry  # with respect to the state before the first step
    history: Array  # (B, D, N) dtype, with respect to the spikes before the first step
