"""Neuron models: the parameters of equations (1)-(6), declared and checked, with constructors in milliseconds.

Owns what a neuron is; how it is connected is `blocksim._layer`, how it is computed is `blocksim._blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from blocksim import _parameters
from blocksim._parameters import declared, parameter
from blocksim._validation import choice, decimal, found, frozen, milliseconds, real_array
from blocksim._validation import parameter as checked
from blocksim.arrays import Parameters
from blocksim.errors import ArgumentError
from blocksim.trains import exact_times
from blocksim.transforms import Decay, Positive

Number = float | np.ndarray
ROUNDINGS = ("nearest", "down", "up")
MAX_REFRACTORY_STEPS = 2**30
# the parameters that backends compute with, and the values of those that a neuron may lack
LINEAR = {item.name: item.metadata.get("absent") for item in fields(Parameters) if item.name != "bias"}
DERIVATIVE_STEP = 1e-30


def decay_factor(value: np.ndarray) -> np.ndarray:
    """Where a value can be the factor by which something decays in one step."""
    return (value >= 0) & (value < 1)


def decay(meaning: str, time_constant: str, transform: Decay, **known: Any) -> Any:
    """A field that declares the factor by which something decays in one step."""
    return parameter(
        meaning, expected="a decay factor in [0, 1)", valid=decay_factor, transform=transform,
        time_constant=time_constant, **known,
    )  # fmt: skip


class Neuron:
    """A model of neurons: a frozen dataclass whose fields declare its parameters.

    A model of its own parameters is a subclass that says, in `linear`, which parameters of equations (1)-(6) they make.
    """

    _kinds: ClassVar[dict[str, type[Neuron]]] = {}
    refractory_steps: int | np.ndarray

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Neuron._kinds[cls.kind()] = cls

    @classmethod
    def kind(cls) -> str:
        """The name by which files know the class: that of its module before it, unless it is one of blocksim's."""
        return cls.__qualname__ if cls.__module__ == __name__ else f"{cls.__module__}.{cls.__qualname__}"

    @classmethod
    def of_kind(cls, name: Any) -> type[Neuron] | None:
        """The class of that name; None where there is none, or its module has not been imported."""
        return cls._kinds.get(name) if isinstance(name, str) else None

    @classmethod
    def kinds(cls) -> list[str]:
        """The names of all classes there are."""
        return list(cls._kinds)

    @classmethod
    def all_parameters(cls) -> set[str]:
        """The names of the trained parameters of every class there is."""
        return {name for kind in cls._kinds.values() for name in _parameters.trained(kind)}

    @classmethod
    def linear(cls, **own: Any) -> dict[str, Any]:
        """The parameters of equations (1)-(6), beta, p, b and theta, from those that the class declares.

        A subclass with parameters of other names replaces it. It is called with numbers or (N,) arrays, which may be
        complex: gradients are taken through it by steps along the imaginary axis, exact to rounding, so it is written
        with arithmetic and NumPy's analytic functions, element by element. p and b may be left out, for no adaptation.
        """
        return own

    def __post_init__(self) -> None:
        known = declared(type(self))
        missing = [item.name for item in fields(self) if item.name not in known]  # type: ignore[arg-type]
        if missing:
            raise ArgumentError(
                f"{type(self).__name__}: expected every field to declare a parameter; found {', '.join(missing)} "
                "(see docs/contributing.md)"
            )
        for name, value in self.parameters().items():
            one = known[name]
            checked_value = (
                _refractory_steps(value)
                if name == "refractory_steps"
                else checked(name, value, one.expected, one.valid)
            )
            object.__setattr__(self, name, checked_value)
        lengths = {name: np.size(value) for name, value in self.parameters().items() if np.ndim(value)}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ArgumentError(
                "neuron parameters: expected arrays of one length, one value a neuron; found "
                + ", ".join(f"{name} of length {length}" for name, length in lengths.items())
            )
        unknown = set(self.linear_parameters()) ^ set(LINEAR)
        if unknown:
            raise ArgumentError(
                f"{type(self).__name__}.linear: expected the parameters {', '.join(LINEAR)}; found a difference in "
                f"{', '.join(sorted(unknown))}"
            )

    def parameters(self) -> dict[str, Any]:
        """Every parameter by name, each a number or an (N,) array; time constants as factors, periods in steps."""
        return {name: getattr(self, name) for name in declared(type(self))}

    def linear_parameters(self) -> dict[str, Any]:
        """The parameters of equations (1)-(6) by name, each a number or an (N,) array."""
        return {name: value for name, value in LINEAR.items() if value is not None} | self.linear(**self._own())

    def pullback(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Gradients of the class's own parameters, (N,), from those of the parameters of equations (1)-(6)."""
        own = self._own()
        if type(self).linear.__func__ is Neuron.linear.__func__:  # type: ignore[attr-defined]
            return {name: gradients[name] for name in own}
        found_gradients = {}
        for name, value in own.items():
            moved = {**own, name: np.asarray(value, np.float64) + 1j * DERIVATIVE_STEP}
            slopes = {
                each: np.imag(result) / DERIVATIVE_STEP
                for each, result in self.linear(**moved).items()
                if np.iscomplexobj(result)
            }
            found_gradients[name] = sum(
                (slope * gradients[each] for each, slope in slopes.items()), np.zeros_like(gradients["beta"])
            )
        return found_gradients

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _parameters.trained(type(self))}

    @cached_property
    def size(self) -> int | None:
        """Number of neurons where a parameter is an array; None where all are numbers (they fit any layer)."""
        return next((np.size(value) for value in self.parameters().values() if np.ndim(value)), None)

    @cached_property
    def block_length(self) -> int:
        """Longest exact block in steps: the shortest refractory period plus one."""
        return int(np.min(self.refractory_steps)) + 1


def membrane() -> Any:
    """The field beta."""
    return decay("decay of the membrane in one step", "tau_mem", Decay(0.5, 1e4))


def threshold() -> Any:
    """The field theta."""
    return parameter(
        "threshold at rest", expected="a finite threshold", unit="potential", transform=Positive(), default=1.0
    )


def refractory_period() -> Any:
    """The field refractory_steps."""
    return parameter("absolute refractory period", expected="whole numbers", unit="steps", trained=False, default=0)


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

    beta: Number = membrane()
    theta: Number = threshold()
    refractory_steps: int | np.ndarray = refractory_period()

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

    beta: Number = membrane()
    p: Number = decay("decay of the adaptation in one step", "tau_adapt", Decay(0.5, 1e5))
    b: Number = parameter(
        "rise of the threshold for a unit of adaptation", expected="a finite adaptation strength", unit="potential"
    )
    theta: Number = threshold()
    refractory_steps: int | np.ndarray = refractory_period()

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
