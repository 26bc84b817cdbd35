"""Connections and the synapses they end in: weights with delays, equation (27), and receptors, equation (28).

Owns what a connection and a receptor are; a layer puts them together (`blocksim._layer`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from blocksim._milliseconds import decay_of_ms
from blocksim._parameters import check_fields, decay, one_length, parameter, whole_numbers
from blocksim._validation import finite, found, frozen, milliseconds, real_array, whole_number
from blocksim.errors import ArgumentError
from blocksim.transforms import Decay

Number = float | np.ndarray
MAX_SYNAPSES = 2**16
WORDS = ("one a weight", "a delay in ms, over dt")  # of delays, in errors


class Synapse:
    """A receptor with a time course: a frozen dataclass whose fields declare its parameters."""

    _size: int | None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "_size", one_length("synapse parameters", self))

    @property
    def size(self) -> int | None:
        """Number of neurons where a parameter is an array; None where all are numbers (they fit any layer)."""
        return self._size


@dataclass(frozen=True, eq=False)
class Exponential(Synapse):
    """A receptor whose state jumps with the current that arrives, and decays: s of equation (28).

    Parameters
    ----------
    decay : float or (N,) array
        Factor by which the state decays in one step, exp(-dt / tau_syn), in [0, 1).
    gain : float or (N,) array
        Current of (29) for a unit of s.

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite, or the arrays differ in length.

    Examples
    --------
    >>> from blocksim import Exponential
    >>> Exponential.from_ms(tau=5, dt=0.1)
    Exponential(decay=0.9801986733067553, gain=1.0)
    """

    decay: Number = decay("decay of the synaptic state in one step", "tau_syn", Decay(0.05, 1e5))
    gain: Number = parameter("current for a unit of synaptic state", default=1.0)

    @classmethod
    def from_ms(cls, tau: Any, dt: float, gain: Any = 1.0) -> Self:
        """Make a receptor from its time constant in milliseconds.

        Parameters
        ----------
        tau : float or (N,) array
            Synaptic time constant in ms, > 0; decay = exp(-dt / tau).
        dt : float
            Time step in ms, > 0.
        gain : float or (N,) array
            As for `Exponential`.

        Raises
        ------
        ArgumentError
            tau or dt is not a time above 0, the decay factor would round to 1, or the gain is not finite.
        """
        return cls(decay_of_ms("tau", tau, milliseconds("dt", dt)), gain)


@dataclass(frozen=True, eq=False)
class Alpha(Synapse):
    """A receptor that rises before it decays: s and z of equation (28); s peaks at 1 for a unit that arrives.

    Parameters
    ----------
    decay : float or (N,) array
        Factor by which both states decay in one step, exp(-dt / tau_syn), in (0, 1).
    gain, gain_rising : float or (N,) array
        Current of (29) for a unit of s, and of z.

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite, or the arrays differ in length.

    Examples
    --------
    >>> from blocksim import Alpha
    >>> Alpha.from_ms(tau=2, dt=0.1).gain_rising
    0.0
    """

    decay: Number = decay(
        "decay of the synaptic states in one step", "tau_syn", Decay(0.05, 1e5), expected="a decay factor in (0, 1)",
        valid=lambda value: (value > 0) & (value < 1),
    )  # fmt: skip
    gain: Number = parameter("current for a unit of synaptic state", default=1.0)
    gain_rising: Number = parameter("current for a unit of the rising state", default=0.0)

    @classmethod
    def from_ms(cls, tau: Any, dt: float, gain: Any = 1.0, gain_rising: Any = 0.0) -> Self:
        """Make a receptor from its time constant in milliseconds.

        Parameters
        ----------
        tau, dt
            As in `Exponential.from_ms`.
        gain, gain_rising : float or (N,) array
            As for `Alpha`.

        Raises
        ------
        ArgumentError
            As `Exponential.from_ms`; or dt is so long that the decay factor is 0.
        """
        return cls(decay_of_ms("tau", tau, milliseconds("dt", dt)), gain, gain_rising)


@dataclass(frozen=True, eq=False)
class Connection:
    """Weights from inputs, or from a layer's own spikes, to one receptor of its neurons: equation (27).

    Parameters
    ----------
    weights : (K, N) array, or sparse matrix of SciPy
        From input k to neuron n; (N, N) for a recurrent connection, row = from, column = to. It is kept as an array; of
        a sparse matrix, the weights that it does not store are not `present`.
    delay_steps : int or (K, N) integer array
        Steps from a spike, or a value of the input, to the current it makes: 0 or more, and 1 or more for a recurrent
        connection. One for all, or one for each weight.
    synapse : int
        Number of the receptor among the layer's `synapses`. A receptor that is not among them has no time course: its
        current is that of the step.
    present : (K, N) bool array or None
        Which weights there are; None: all. The others are 0 and have a gradient of 0, so that training leaves them so.

    Raises
    ------
    ArgumentError
        The weights are no finite matrix, a delay or receptor is no whole number in its range, or `present` is no array
        of bool of the weights' shape.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import Connection
    >>> Connection(np.ones((3, 2)), delay_steps=5).longest_delay
    5
    """

    weights: np.ndarray = parameter("weights", axes=("input", "neuron"), unit="potential")
    delay_steps: int | np.ndarray = parameter("delay", axes=("input", "neuron"), unit="steps", trained=False, default=0)
    synapse: int = 0
    present: np.ndarray | None = parameter(
        "which weights there are", axes=("input", "neuron"), trained=False, flags=True, default=None
    )

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        weights = matrix("weights", dense(self.weights), "(inputs, neurons)")
        present = self.present
        if present is None and is_sparse(self.weights):
            present = stored(self.weights)
        if present is not None:
            present = real_array("present", present)
            if present.dtype != np.bool_ or present.shape != weights.shape:
                raise ArgumentError(
                    f"present: expected an array of bool of the weights' shape, {weights.shape}; found {found(present)}"
                )
            weights = frozen(np.where(present, weights, 0).astype(weights.dtype))
            set_field(self, "present", frozen(present.copy()))
        set_field(self, "weights", weights)
        delays = real_array("delay_steps", dense(self.delay_steps))
        if delays.ndim:
            if delays.shape != self.weights.shape:
                raise ArgumentError(
                    f"delay_steps: expected one delay, or one for each weight, shape {self.weights.shape}; found "
                    f"{found(delays)}"
                )
            flat = whole_numbers("delay_steps", delays.ravel(), *WORDS)
            set_field(self, "delay_steps", frozen(np.asarray(flat).reshape(delays.shape)))
        else:
            set_field(self, "delay_steps", whole_numbers("delay_steps", self.delay_steps, *WORDS))
        set_field(self, "synapse", whole_number("synapse", self.synapse, 0, MAX_SYNAPSES))

    @property
    def shortest_delay(self) -> int:
        """In steps."""
        return int(np.min(self.delay_steps))

    @property
    def longest_delay(self) -> int:
        """In steps."""
        return int(np.max(self.delay_steps))

    def by_delay(self) -> Iterator[tuple[int, np.ndarray | None]]:
        """Each delay there is, and where its weights are: None for everywhere.

        Yields
        ------
        delay, where
            A delay in steps, in ascending order, and the (K, N) bool array of its weights; None where all weights have
            it.
        """
        delays = np.unique(self.delay_steps)
        for delay in delays:
            where = None if len(delays) == 1 else np.equal(self.delay_steps, delay)
            if self.present is not None:
                where = self.present if where is None else where & self.present
            yield int(delay), where


def is_sparse(value: Any) -> bool:
    """Whether it is a sparse matrix or array of SciPy, which need not be imported to know."""
    return hasattr(value, "tocoo") and hasattr(value, "toarray")


def dense(value: Any) -> Any:
    """A sparse matrix as an array; anything else as it is."""
    return value.toarray() if is_sparse(value) else value


def stored(value: Any) -> np.ndarray:
    """Which elements a sparse matrix stores, zeros among them."""
    elements = value.tocoo()
    where = np.zeros(value.shape, np.bool_)
    where[elements.row, elements.col] = True
    return where


def matrix(name: str, value: Any, shape: str) -> np.ndarray:
    """Check a matrix of weights; returns a copy of its own, of at least float32. `shape` says in words what it is."""
    array = real_array(name, value)
    if array.ndim != 2 or 0 in array.shape:
        raise ArgumentError(f"{name}: expected a non-empty array of shape {shape}; found {found(array)}")
    finite(name, array)
    dtype = np.promote_types(array.dtype, np.float32) if array.dtype.kind == "f" else np.dtype(np.float64)
    return frozen(np.array(array, dtype=dtype, order="C"))
