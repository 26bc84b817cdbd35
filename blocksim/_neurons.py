"""Neuron models: the parameters of equations (1)-(6), checked, with constructors in milliseconds.

Owns what a neuron is; how it is connected is `blocksim._layer`, how it is computed is `blocksim._blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from blocksim._validation import choice, decimal, found, frozen, milliseconds, parameter, real_array
from blocksim.errors import ArgumentError
from blocksim.trains import exact_times

Parameter = float | np.ndarray
ROUNDINGS = ("nearest", "down", "up")
MAX_REFRACTORY_STEPS = 2**30


def decay_factor(value: np.ndarray) -> np.ndarray:
    """Where a value can be the factor by which something decays in one step."""
    return (value >= 0) & (value < 1)


class Neuron:
    """What `LIF` and `ALIF` share: checks at construction, and the questions the simulator asks of a neuron."""

    # name -> (what is expected, test of a whole array); refractory_steps is checked apart
    _ranges: ClassVar[dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]] = {
        "beta": ("a decay factor in [0, 1)", decay_factor),
        "p": ("a decay factor in [0, 1)", decay_factor),
        "b": ("a finite adaptation strength", np.isfinite),
        "theta": ("a finite threshold", np.isfinite),
    }
    refractory_steps: int | np.ndarray

    def __post_init__(self) -> None:
        for name, value in self.parameters().items():
            checked = (
                _refractory_steps(value) if name == "refractory_steps" else parameter(name, value, *self._ranges[name])
            )
            object.__setattr__(self, name, checked)
        lengths = {name: np.size(value) for name, value in self.parameters().items() if np.ndim(value)}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ArgumentError(
                "neuron parameters: expected arrays of one length, one value a neuron; found "
                + ", ".join(f"{name} of length {length}" for name, length in lengths.items())
            )

    def parameters(self) -> dict[str, Any]:
        """Every parameter by name, each a number or an (N,) array; time constants as factors, periods in steps."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @cached_property
    def size(self) -> int | None:
        """Number of neurons where a parameter is an array; None where all are numbers (they fit any layer)."""
        return next((np.size(value) for value in self.parameters().values() if np.ndim(value)), None)

    @cached_property
    def block_length(self) -> int:
        """Longest exact block in steps: the shortest refractory period plus one."""
        return int(np.min(self.refractory_steps)) + 1


@dataclass(frozen=True, eq=False)
class LIF(Neuron):
    """Leaky integrate-and-fire neurons with an absolute refractory period: equations (1)-(3) and (5).

    Parameters
    ----------
    beta : float or (N,) array
        Factor by which the membrane potential decays in one step, exp(-dt / tau_mem), in [0, 1).
    theta : float or (N,) array
        Firing threshold, in the unit of the membrane potential.
    refractory_steps : int or (N,) integer array
        Steps after a spike during which the neuron ignores its input and cannot spike.

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite, or the arrays differ in length.

    Examples
    --------
    >>> from blocksim import LIF
    >>> LIF(beta=0.95, refractory_steps=20).block_length
    21
    """

    beta: Parameter
    theta: Parameter = 1.0
    refractory_steps: int | np.ndarray = 0

    @classmethod
    def from_ms(
        cls, *, tau_mem: Any, dt: float, refractory: Any = 0.0, theta: Any = 1.0, rounding: str | None = None
    ) -> Self:
        """Make LIF neurons from time constants in milliseconds.

        Parameters
        ----------
        tau_mem : float or (N,) array
            Membrane time constant in ms, > 0; beta = exp(-dt / tau_mem).
        dt : float
            Time step in ms, > 0.
        refractory : float or (N,) array
            Absolute refractory period in ms, >= 0: a whole number of steps to within 1e-6 unless `rounding` is given.
        theta : float or (N,) array
            Firing threshold.
        rounding : {None, "nearest", "down", "up"}
            What to do with a refractory period that is no whole number of steps; None raises.

        Examples
        --------
        >>> from blocksim import LIF
        >>> LIF.from_ms(tau_mem=20, refractory=2, dt=0.1).refractory_steps
        20
        """
        dt = milliseconds("dt", dt)
        return cls(beta=_decay("tau_mem", tau_mem, dt), theta=theta, refractory_steps=_steps(refractory, dt, rounding))


@dataclass(frozen=True, eq=False)
class ALIF(Neuron):
    """Adaptive leaky integrate-and-fire neurons: each spike raises the threshold, equations (1)-(6).

    Parameters
    ----------
    beta : float or (N,) array
        Factor by which the membrane potential decays in one step, exp(-dt / tau_mem), in [0, 1).
    p : float or (N,) array
        Factor by which the adaptation decays in one step, exp(-dt / tau_adapt), in [0, 1).
    b : float or (N,) array
        Rise of the threshold for each unit of adaptation; a spike adds one unit.
    theta : float or (N,) array
        Firing threshold of a neuron at rest (theta_0), in the unit of the membrane potential.
    refractory_steps : int or (N,) integer array
        Steps after a spike during which the neuron ignores its input and cannot spike.

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite, or the arrays differ in length.

    Examples
    --------
    >>> from blocksim import ALIF
    >>> ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=40)
    ALIF(beta=0.95, p=0.99, b=0.2, theta=1.0, refractory_steps=40)
    """

    beta: Parameter
    p: Parameter
    b: Parameter
    theta: Parameter = 1.0
    refractory_steps: int | np.ndarray = 0

    @classmethod
    def from_ms(
        cls,
        *,
        tau_mem: Any,
        tau_adapt: Any,
        adaptation: Any,
        dt: float,
        refractory: Any = 0.0,
        theta: Any = 1.0,
        rounding: str | None = None,
    ) -> Self:
        """Make ALIF neurons from time constants in milliseconds.

        Parameters
        ----------
        tau_mem, tau_adapt : float or (N,) array
            Time constants of membrane and adaptation in ms, > 0; beta = exp(-dt / tau_mem), p = exp(-dt / tau_adapt).
        adaptation : float or (N,) array
            Rise of the threshold at each spike (b).
        dt, refractory, theta, rounding
            As in `LIF.from_ms`.

        Examples
        --------
        >>> from blocksim import ALIF
        >>> ALIF.from_ms(tau_mem=20, tau_adapt=200, adaptation=0.2, refractory=4, dt=0.1).block_length
        41
        """
        dt = milliseconds("dt", dt)
        return cls(
            beta=_decay("tau_mem", tau_mem, dt),
            p=_decay("tau_adapt", tau_adapt, dt),
            b=adaptation,
            theta=theta,
            refractory_steps=_steps(refractory, dt, rounding),
        )


def _decay(name: str, tau: Any, dt: float) -> Any:
    """exp(-dt / tau), tau and dt in ms; the dtype of a floating array is kept."""
    array = real_array(name, tau, "ms")
    bad = ~((array > 0) & np.isfinite(array))
    if bad.any():
        raise ArgumentError(
            f"{name}: expected a time constant in ms, a finite number above 0; found {array[bad].flat[0]}"
        )
    dtype = array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)
    factor = np.exp(-dt / np.asarray(decimal(array), np.float64))
    # beta must stay below 1: a time constant beyond what the dtype resolves would silently not decay at all
    if (factor.astype(dtype) >= 1).any():
        raise ArgumentError(
            f"{name}: expected a time constant that decays within one step of {dt} ms in {dtype}; "
            f"found {array.max()} ms (use a longer step, a shorter time constant, or float64)"
        )
    return float(factor) if array.ndim == 0 else factor.astype(dtype)


def _steps(refractory: Any, dt: float, rounding: str | None) -> Any:
    """Whole steps in a refractory period given in ms."""
    if rounding is not None:
        choice("rounding", rounding, ROUNDINGS)
    period = exact_times(real_array("refractory", refractory, "ms"))
    bad = ~((period >= 0) & (period / dt <= MAX_REFRACTORY_STEPS))
    if bad.any():
        raise ArgumentError(
            f"refractory: expected a period in ms from 0 to {MAX_REFRACTORY_STEPS} steps; found {period[bad].flat[0]}"
        )
    steps = period / dt
    nearest = np.rint(steps)
    off = np.abs(steps - nearest) > 1e-6
    if rounding is None and off.any():
        worst = float(period[off].flat[0])
        low = math.floor(worst / dt)
        raise ArgumentError(
            f"refractory: expected a whole number of steps of dt = {dt} ms; found {worst} ms = {worst / dt:.6g} steps. "
            f"The nearest that are: {low * dt:.10g} ms ({low} steps) and {(low + 1) * dt:.10g} ms ({low + 1} steps); "
            "or pass rounding='nearest', 'down' or 'up'"
        )
    rounded = {"down": np.floor(steps), "up": np.ceil(steps)}.get(rounding or "nearest", nearest)
    whole = np.where(off, rounded, nearest).astype(np.int64)
    return int(whole) if whole.ndim == 0 else whole


def _refractory_steps(value: Any) -> int | np.ndarray:
    """Check refractory steps: an int, or an (N,) integer array, as int32."""
    array = real_array("refractory_steps", value)
    whole = array.dtype.kind in "iu"
    if not whole or array.ndim > 1 or (array < 0).any() or (array > MAX_REFRACTORY_STEPS).any():
        shown = array[(array < 0)].flat[0] if whole and (array < 0).any() else found(value)
        raise ArgumentError(
            "refractory_steps: expected whole numbers of steps, 0 or more, one number or one a neuron; "
            f"found {shown} (periods in ms: use from_ms)"
        )
    return int(array) if array.ndim == 0 else frozen(array.astype(np.int32))
