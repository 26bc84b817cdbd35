r"""Smooth reparametrisations: parameters with bounds, as functions of free numbers that an optimiser may move anywhere.

Owns the formulas, with s(z) = 1 / (1 + exp(-z)); none is a clamp, whose gradient would be zero.

| transform | value | for |
|---|---|---|
| `Bounded(low, high)` | low + (high - low) s(z) | anything between two bounds |
| `Bounded(low, high, "log")` | low (high / low)^s(z) | the same, over orders of magnitude |
| `Positive(scale)` | scale log(1 + exp(z)) | strengths, thresholds |
| `Decay(low, high)` | exp(-1 / tau), tau = low (high / low)^s(z) | decay factors, by their time constant in steps |

Where they saturate: the gradient of float64 numbers is not zero for z within -700 .. 700, and of float32 ones within
-80 .. 80. The value of a `Bounded` or `Decay` rounds to its bound itself from about z = +-36 (float64) or +-16
(float32) on, sooner where the bounds are close together for their size; `to_free` does not take it back then, so keep
the free numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim._validation import choice, finite, number, real_array
from blocksim.errors import ArgumentError


@dataclass(frozen=True)
class Transform:
    """A smooth, increasing function from free numbers to values within bounds.

    Methods take arrays of any shape, or numbers, and return arrays of the same shape and floating dtype (float64 where
    there is none); they compute in float64.
    """

    def to_free(self, value: Any) -> np.ndarray:
        """The free numbers that stand for values strictly within the bounds.

        Raises
        ------
        ArgumentError
            A value is at or beyond a bound, or not a finite real number.
        """
        raise NotImplementedError

    def from_free(self, free: Any) -> np.ndarray:
        """The values that free numbers stand for.

        Raises
        ------
        ArgumentError
            A number is not finite.
        """
        raise NotImplementedError

    def pullback(self, free: Any, gradient: Any) -> np.ndarray:
        """dLoss/dfree, from the free numbers and dLoss/dvalue.

        Parameters
        ----------
        free : float or array
            Free numbers.
        gradient : float or array
            dLoss/dvalue, of their shape.

        Raises
        ------
        ArgumentError
            A free number is not finite.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Bounded(Transform):
    """Values between two bounds, by a logistic function.

    Parameters
    ----------
    low, high : float
        The bounds, low < high; low > 0 with scale "log".
    scale : {"linear", "log"}
        What is spaced evenly: the value, or its logarithm.

    Raises
    ------
    ArgumentError
        Bounds or scale are wrong; `to_free`: a value is at or beyond a bound.

    Examples
    --------
    >>> from blocksim.transforms import Bounded
    >>> tau = Bounded(5.0, 500.0, "log")
    >>> tau.to_free(50.0).round(6), tau.from_free(0.0).round(6), tau.pullback(0.0, 1.0).round(4)
    (np.float64(0.0), np.float64(50.0), np.float64(57.5646))
    """

    low: float
    high: float
    scale: str = "linear"

    def __post_init__(self) -> None:
        choice("scale", self.scale, ("linear", "log"))
        object.__setattr__(self, "low", number("low", self.low, above=0 if self.scale == "log" else None))
        object.__setattr__(self, "high", number("high", self.high, above=self.low))

    def to_free(self, value: Any) -> np.ndarray:
        """The logit of the place of a value between the bounds."""
        array, wide = _wide("value", value)
        _within("value", wide, wide, self.low, self.high, "")
        # from the nearer bound, which loses no digits
        if self.scale == "log":
            free = np.log(np.log(wide / self.low)) - np.log(np.log(self.high / wide))
        else:
            free = np.log(wide - self.low) - np.log(self.high - wide)
        return _as(array, free)

    def from_free(self, free: Any) -> np.ndarray:
        """The values by the formula, within low .. high."""
        array, z = _wide("free", free)
        return _as(array, self._value(z))

    def pullback(self, free: Any, gradient: Any) -> np.ndarray:
        """dLoss/dfree."""
        array, z = _wide("free", free)
        slope = _slope(z)
        if self.scale == "log":
            return _as(
                array, np.asarray(gradient, np.float64) * self._value(z) * math.log(self.high / self.low) * slope
            )
        return _as(array, np.asarray(gradient, np.float64) * (self.high - self.low) * slope)

    def _value(self, z: np.ndarray) -> np.ndarray:
        up, down = _logistic(z), _logistic(-z)
        if self.scale == "log":
            length = math.log(self.high / self.low)
            inside: np.ndarray = np.where(z < 0, self.low * np.exp(length * up), self.high * np.exp(-length * down))
        else:
            inside = np.where(z < 0, self.low + (self.high - self.low) * up, self.high - (self.high - self.low) * down)
        return inside


@dataclass(frozen=True)
class Positive(Transform):
    """Values above zero, by the softplus function: about exp(z) for small ones and z for large ones.

    Parameters
    ----------
    scale : float
        Where the one turns into the other, above 0: about the size of the values.

    Raises
    ------
    ArgumentError
        The scale is not above 0.

    Examples
    --------
    >>> from blocksim.transforms import Positive
    >>> Positive().from_free(-3.0).round(6), Positive().to_free(2.0).round(6)
    (np.float64(0.048587), np.float64(1.854587))
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", number("scale", self.scale, above=0))

    def to_free(self, value: Any) -> np.ndarray:
        """The inverse of the softplus function."""
        array, wide = _wide("value", value)
        _within("value", wide, wide, 0.0, math.inf, "")
        scaled = wide / self.scale
        return _as(array, scaled + np.log(-np.expm1(-scaled)))

    def from_free(self, free: Any) -> np.ndarray:
        """The softplus function, which neither overflows nor loses digits."""
        array, z = _wide("free", free)
        return _as(array, self.scale * (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))))

    def pullback(self, free: Any, gradient: Any) -> np.ndarray:
        """dLoss/dfree."""
        array, z = _wide("free", free)
        return _as(array, np.asarray(gradient, np.float64) * self.scale * _logistic(z))


@dataclass(frozen=True)
class Decay(Transform):
    """Decay factors exp(-1 / tau), beta or p of a neuron, with a time constant tau between two bounds.

    Parameters
    ----------
    low, high : float
        Bounds of the time constant in steps, 0 < low < high: in ms, over dt.

    Raises
    ------
    ArgumentError
        The bounds are not 0 < low < high, or a decay factor would be 0 or 1 in float64.

    Examples
    --------
    >>> from blocksim.transforms import Decay
    >>> decay = Decay(1.0, 1000.0)
    >>> decay.from_free(decay.to_free(0.95)).round(6)
    np.float64(0.95)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", number("low", self.low, above=0))
        object.__setattr__(self, "high", number("high", self.high, above=self.low))
        if math.exp(-1 / self.high) >= 1 or math.exp(-1 / self.low) <= 0:
            raise ArgumentError(
                "low, high: expected time constants in steps whose decay factors are above 0 and below 1 in float64; "
                f"found {self.low:g} and {self.high:g}"
            )

    def to_free(self, value: Any) -> np.ndarray:
        """The free numbers of decay factors."""
        array, wide = _wide("value", value)
        with np.errstate(divide="ignore", invalid="ignore"):
            tau = -1 / np.log(np.where(wide > 0, wide, np.nan))
        _within("value", wide, tau, self.low, self.high, "a decay factor whose time constant is ")
        return _as(array, Bounded(self.low, self.high, "log").to_free(tau))

    def from_free(self, free: Any) -> np.ndarray:
        """The decay factors that free numbers stand for.

        Raises
        ------
        ArgumentError
            A number is not finite, or a decay factor rounds to 1 in the numbers' dtype.
        """
        array, z = _wide("free", free)
        factor = _as(array, np.exp(-1 / Bounded(self.low, self.high, "log")._value(z)))
        if (factor >= 1).any():
            raise ArgumentError(
                f"free: expected a time constant that decays within one step in {factor.dtype}; found one near the "
                f"bound of {self.high:g} steps (lower `high`, or use float64)"
            )
        return factor

    def pullback(self, free: Any, gradient: Any) -> np.ndarray:
        """dLoss/dfree."""
        array, z = _wide("free", free)
        tau = Bounded(self.low, self.high, "log")._value(z)
        slope = np.exp(-1 / tau) / tau * math.log(self.high / self.low) * _slope(z)
        return _as(array, np.asarray(gradient, np.float64) * slope)


def _wide(argument: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """An array as given, and in float64; finite."""
    array = real_array(argument, value)
    finite(argument, array)
    return array, array.astype(np.float64)


def _as(array: np.ndarray, result: np.ndarray) -> np.ndarray:
    """A result in the floating dtype of what it was made from."""
    cast: np.ndarray = result.astype(array.dtype if array.dtype.kind == "f" else np.float64)[()]
    return cast


def _within(argument: str, value: np.ndarray, inner: np.ndarray, low: float, high: float, what: str) -> None:
    """Raise unless `inner` lies strictly between the bounds, showing the first value that does not."""
    outside = ~((inner > low) & (inner < high))
    if outside.any():
        steps = " steps" if what else ""
        raise ArgumentError(
            f"{argument}: expected {what or 'a number '}above {low:g} and below {high:g}{steps}; found "
            f"{value[outside].flat[0]:.9g}"
            + (f", {inner[outside].flat[0]:.9g} steps" if what else "")
            + " (start within the bounds, or widen them)"
        )


def _logistic(z: np.ndarray) -> np.ndarray:
    """s(z), without overflow and with all digits where it is small."""
    e = np.exp(-np.abs(z))
    share: np.ndarray = np.where(z < 0, e, 1.0) / (1 + e)
    return share


def _slope(z: np.ndarray) -> np.ndarray:
    """s'(z): not 1 - s, which would round to zero."""
    e = np.exp(-np.abs(z))
    slope: np.ndarray = e / (1 + e) ** 2
    return slope
