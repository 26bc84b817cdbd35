r"""Surrogate derivatives sigma'(m) of the spike's step function, at m = V - theta, for the adjoint, equation (8).

Owns their formulas, scales and names. Compiled kernels hold a copy each, chosen by `kind` and fed with `scales`; tests
hold every copy to the formulas here.

| name | sigma'(m) | scale |
|---|---|---|
| fast_sigmoid | 1 / (1 + k abs(m))^2 | k = 10 |
| superspike | the same | k = 25 |
| box_car | 1 on (-w/2, w/2] | w = 1 |
| multi_gaussian | gamma [(1+h) N(m; 0, s) - h N(m; s, 6s) - h N(m; -s, 6s)] | s = 1/2, h = 0.15, gamma = 1/2 |
| arctan | (k/2) / (1 + (pi k m / 2)^2) | k = 2 |
| sigmoid | k q (1 - q), q = 1 / (1 + exp(-k m)) | k = 4 |
| triangle | gamma max(0, 1 - abs(m)) | gamma = 0.3 |

That of stochastic spikes, "hazard", is one of the neuron's own hazard: `Hazard`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import Any, ClassVar

import numpy as np

from blocksim._validation import found, number
from blocksim.errors import ArgumentError

MAX_SCALE = 1e15


@dataclass(frozen=True)
class Surrogate:
    """A surrogate derivative; an instance carries its scale and is called with m = V - theta.

    Subclasses hold their formula in `__call__` and a number, `kind`, that compiled kernels choose their copy by.

    Raises
    ------
    ArgumentError
        A scale is not a finite number of moderate size, or a width or slope is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.surrogates import FastSigmoid
    >>> FastSigmoid(k=10)(np.array([0.0, 0.1]))
    array([1.  , 0.25])
    """

    kind: ClassVar[int] = -1
    # whether sigma' is zero beyond a bounded stretch about the threshold: then much of the adjoint need not be computed
    bounded: ClassVar[bool] = False
    # fields that only scale the height may be 0 or negative; all others are slopes and widths
    heights: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            name, least = f"{type(self).__name__}.{field.name}", None if field.name in self.heights else 0
            checked = number(name, getattr(self, field.name), above=least)
            # squares of scales must be numbers of single precision
            if abs(checked) > MAX_SCALE or (least == 0 and checked < 1 / MAX_SCALE):
                bounds = f"from {1 / MAX_SCALE:g} to {MAX_SCALE:g}" if least == 0 else f"of at most {MAX_SCALE:g}"
                raise ArgumentError(f"{name}: expected a number {bounds}; found {checked}")
            object.__setattr__(self, field.name, checked)

    @property
    def scales(self) -> tuple[float, float, float]:
        """The scales in the order of the fields, padded with zeros: what kernels are given."""
        values = [getattr(self, field.name) for field in fields(self)]
        first, second, third = [*values, 0.0, 0.0, 0.0][:3]
        return first, second, third

    def __call__(self, m: np.ndarray) -> np.ndarray:
        """sigma'(m) for an array m = V - theta of any shape, in its dtype."""
        raise NotImplementedError


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """1 / (1 + k abs(m))^2 (Zenke and Ganguli 2018; Taylor et al. 2023 with k = 10).

    Parameters
    ----------
    k : float
        Slope.
    """

    k: float = 10.0
    kind: ClassVar[int] = 0

    def __call__(self, m: np.ndarray) -> np.ndarray:
        """sigma'(m)."""
        slope: np.ndarray = 1 / (1 + self.k * np.abs(m)) ** 2
        return slope


@dataclass(frozen=True)
class BoxCar(Surrogate):
    """1 on (-width/2, width/2], else 0 (Kaiser, Mostafa, Neftci 2020).

    Parameters
    ----------
    width : float
        Width of the window around the threshold.
    """

    width: float = 1.0
    kind: ClassVar[int] = 1
    bounded: ClassVar[bool] = True

    def __call__(self, m: np.ndarray) -> np.ndarray:
        """sigma'(m)."""
        return ((m > -self.width / 2) & (m <= self.width / 2)).astype(m.dtype)


@dataclass(frozen=True)
class MultiGaussian(Surrogate):
    """gamma [(1+h) N(m; 0, s) - h N(m; s, 6s) - h N(m; -s, 6s)], N the normal density (Yin, Corradi, Bohte 2021).

    Parameters
    ----------
    s : float
        Standard deviation of the central density; the others are six times as wide.
    h : float
        Weight of the two wide, negative densities.
    gamma : float
        Scale of the whole.
    """

    s: float = 0.5
    h: float = 0.15
    gamma: float = 0.5
    kind: ClassVar[int] = 2
    heights: ClassVar[tuple[str, ...]] = ("h", "gamma")

    def __call__(self, m: np.ndarray) -> np.ndarray:
        """sigma'(m)."""
        s, h = self.s, self.h
        return self.gamma * ((1 + h) * _normal(m, 0.0, s) - h * _normal(m, s, 6 * s) - h * _normal(m, -s, 6 * s))


@dataclass(frozen=True)
class Arctan(Surrogate):
    """(k/2) / (1 + (pi k m / 2)^2) (Fang et al. 2021).

    Parameters
    ----------
    k : float
        Slope.
    """

    k: float = 2.0
    kind: ClassVar[int] = 3

    def __call__(self, m: np.ndarray) -> np.ndarray:
        """sigma'(m)."""
        slope: np.ndarray = self.k / 2 / (1 + (math.pi * self.k / 2 * m) ** 2)
        return slope


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """k q (1 - q) with q = 1 / (1 + exp(-k m)), the derivative of the logistic function.

    Parameters
    ----------
    k : float
        Slope.
    """

    k: float = 4.0
    kind: ClassVar[int] = 4

    def __call__(self, m: np.ndarray) -> np.ndarray:
        """sigma'(m), written with exp(-k abs(m)), which cannot overflow (the function is even)."""
        e = np.exp(-self.k * np.abs(m))
        slope: np.ndarray = self.k * e / (1 + e) ** 2
        return slope


@dataclass(frozen=True)
class Triangle(Surrogate):
    """gamma max(0, 1 - abs(m)) (Bellec et al. 2018).

    Parameters
    ----------
    gamma : float
        Height at the threshold.
    """

    gamma: float = 0.3
    kind: ClassVar[int] = 5
    bounded: ClassVar[bool] = True
    heights: ClassVar[tuple[str, ...]] = ("gamma",)

    def __call__(self, m: np.ndarray) -> np.ndarray:
        """sigma'(m)."""
        slope: np.ndarray = self.gamma * np.maximum(0, 1 - np.abs(m))
        return slope


@dataclass(frozen=True)
class Hazard(Surrogate):
    """The slope of the probability of a stochastic spike in one step, 1 - exp(-hazard), (39).

    It is hazard exp(-hazard) / width, of the neuron's own rate and width: `slope`.
    """

    kind: ClassVar[int] = 6

    def __call__(self, m: np.ndarray) -> np.ndarray:
        """Refused: the slope is not one of m alone."""
        raise ArgumentError("surrogate: expected one that depends on U - theta alone; found 'hazard'")

    def slope(self, hazard: np.ndarray, steepness: np.ndarray) -> np.ndarray:
        """Of the hazard in a step, and 1 / width."""
        result: np.ndarray = hazard * np.exp(-hazard) * steepness
        return result


def _normal(m: np.ndarray, mean: float, sd: float) -> np.ndarray:
    density: np.ndarray = np.exp(-0.5 * ((m - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
    return density


SURROGATES: dict[str, Callable[[], Surrogate]] = {
    "fast_sigmoid": FastSigmoid,
    "box_car": BoxCar,
    "multi_gaussian": MultiGaussian,
    "arctan": Arctan,
    "sigmoid": Sigmoid,
    "triangle": Triangle,
    "superspike": lambda: FastSigmoid(k=25.0),
}


# of neurons whose spikes are stochastic
HAZARD = "hazard"
# whose formulas compiled kernels hold copies of
COMPILED = frozenset({Hazard, *(type(make()) for make in SURROGATES.values())})


@cache
def _default(name: str) -> Surrogate:
    return SURROGATES[name]()


def get_surrogate(surrogate: Any) -> Surrogate:
    """Return the surrogate of that name with its default scale, or the `Surrogate` object itself.

    Raises
    ------
    ArgumentError
        It is neither a known name nor a `Surrogate`; the message lists the names.

    Examples
    --------
    >>> from blocksim.surrogates import get_surrogate
    >>> get_surrogate("box_car")
    BoxCar(width=1.0)
    """
    if isinstance(surrogate, Surrogate):
        return surrogate
    if isinstance(surrogate, str) and surrogate in SURROGATES:
        return _default(surrogate)
    if isinstance(surrogate, str) and surrogate == HAZARD:
        return Hazard()
    raise ArgumentError(
        f"surrogate: expected one of {', '.join(map(repr, (*SURROGATES, HAZARD)))}, or a blocksim.surrogates object "
        f"that carries its scale, such as FastSigmoid(k=25); found {found(surrogate)}"
    )


@lru_cache(32)
def kernel_scales(surrogate: Surrogate, dtype: np.dtype[Any]) -> tuple[Any, Any, Any, Any, Any]:
    """The numbers, of the computing dtype, that compiled kernels read for a surrogate, by its kind."""
    first, second, third = surrogate.scales
    scales = [first, 0, 0, 0, 0]
    if surrogate.kind == BoxCar.kind:
        scales[0] = first / 2
    elif surrogate.kind == MultiGaussian.kind:
        s, h, gamma = first, second, third
        density = 1 / (s * math.sqrt(2 * math.pi))
        scales = [gamma * (1 + h) * density, -0.5 / s**2, gamma * h * density / 6, -0.5 / (6 * s) ** 2, s]
    elif surrogate.kind == Arctan.kind:
        scales[:2] = [first / 2, math.pi * first / 2]
    one, two, three, four, five = (dtype.type(value) for value in scales)
    return one, two, three, four, five


def require_compiled(surrogate: Surrogate, backend: str) -> None:
    """Raise `ArgumentError` unless compiled kernels hold a copy of this surrogate: of its own class, for a subclass may
    have another formula."""
    if type(surrogate) not in COMPILED:
        raise ArgumentError(
            f"surrogate: expected one of blocksim.surrogates, which the {backend} backend has compiled copies of; "
            f"found {type(surrogate).__module__}.{type(surrogate).__qualname__} (backend='numpy' computes any)"
        )
