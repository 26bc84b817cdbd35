"""The settings of a fit of a stochastic neuron, checked.

Owns their names, defaults and ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np

from blocksim._settings import of_fields
from blocksim._validation import choice, flag, found, milliseconds, number, numbers_by_name, whole_number
from blocksim.errors import ArgumentError


class Model(NamedTuple):
    """What a model is made of: time constants in ms where none are given, and whether it has a reset factor."""

    currents: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    coupling: tuple[float, ...] = ()
    reset_factor: bool = False


MODELS = {
    "lif": Model(),
    "alif": Model(thresholds=(100.0,)),
    "glif": Model(currents=(10.0, 100.0), thresholds=(50.0,), reset_factor=True),
    "gif": Model(currents=(10.0, 50.0, 300.0), thresholds=(10.0, 200.0)),
    "igif": Model(currents=(10.0, 50.0, 300.0), thresholds=(10.0, 200.0), coupling=(3.0, 12.0, 50.0)),
}
PARTS = ("currents", "thresholds", "coupling")
ELECTRODES = ("none", "series")
BASES = ("exponential", "rectangular")
REFINEMENTS = ("none", "joint", "spikes")
# what may be fixed, and what it must be above
FIXABLE = {
    "tau_mem": 0.0, "resistance": 0.0, "width": 0.0, "rest": None, "reset": None, "threshold": None,
    "reset_factor": None,
}  # fmt: skip


@dataclass(frozen=True)
class GIFConfig:
    """Settings of `fit_gif`.

    Parameters
    ----------
    model : {"igif", "gif", "glif", "alif", "lif", "auto"}
        "lif" spikes leave nothing behind but the reset; "alif": a rise of the threshold; "gif": after-spike currents
        and rises of the threshold; "glif": fewer of them, and a reset that depends on the potential; "igif": as "gif",
        and a threshold that follows the potential. "auto" fits all of them and keeps the one that predicts the held-out
        part best.
    dt : float or None
        Time step of the model in ms; None: the recording's.
    refractory : float
        Absolute refractory period in ms; it becomes shorter where an interval between spikes is.
    currents, thresholds, coupling : tuple of float, or None
        Time constants in ms: of after-spike currents, of rises of the threshold, and of the threshold's coupling to the
        potential. None: the model's own.
    basis : {"exponential", "rectangular"}
        "rectangular" also fits after-spike currents and rises of the threshold that are constant between two `bins`:
        they show the shape of a kernel whatever it is, beside the exponentials of the cell, which stay as they are.
    bins : tuple of float
        Times in ms after the refractory period at which rectangular kernels change.
    knots : tuple of float
        Quantiles of the potential, in (0, 1), above which the coupling acts, beside the potential itself.
    tau_mem : (low, high)
        Membrane time constants in ms to search between.
    select : bool
        Whether to choose the number of time constants of each part, from none to the model's own, by how well the
        held-out part is predicted.
    fixed : mapping
        Numbers that are known and not fitted, by name and in the unit of `GIFCell`: "tau_mem", "resistance" (MOhm),
        "rest", "reset", "threshold", "width", "reset_factor".
    refine : {"none", "joint", "spikes"}
        Whether all numbers, time constants among them, follow the gradient of the likelihood once they are fitted: that
        of spikes and potential together, or of spikes alone, with rest and resistance as they are. With "joint" they
        stay near the first fit. It needs SciPy, and seconds.
    electrode : {"none", "series"}
        "series" also fits a series resistance, and takes its share of the current out of the potential.
    before_spike : float
        Time in ms before each spike in which the potential does not count, beside the refractory period after it.
    validation : float
        Share of each sweep, at its end, held out for the scores of a first fit; the final one is to all. 0: none.
    noise : bool
        False: a neuron without noise, whose spikes are certain. It is fitted as with noise; then its threshold is
        raised until it spikes as often as recorded.
    ridge : float
        Penalty on the squared weights of the threshold's regressors, each scaled to a standard deviation of 1. It keeps
        fits to few spikes finite.
    repeats : int
        Repetitions of the model for the scores.
    seed : int
        Of the repetitions.

    Raises
    ------
    ArgumentError
        A setting is out of range, or unknown.

    Examples
    --------
    >>> from blocksim.ephys import GIFConfig
    >>> GIFConfig(model="gif").thresholds
    (10.0, 200.0)
    """

    model: str = "igif"
    dt: float | None = None
    refractory: float = 4.0
    currents: tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    coupling: tuple[float, ...] | None = None
    basis: str = "exponential"
    bins: tuple[float, ...] = (0.0, 3.0, 8.0, 20.0, 50.0, 120.0, 300.0)
    knots: tuple[float, ...] = (0.5, 0.8, 0.95)
    tau_mem: tuple[float, float] = (1.0, 200.0)
    select: bool = False
    fixed: Mapping[str, float] = field(default_factory=dict)
    refine: str = "none"
    electrode: str = "none"
    before_spike: float = 2.0
    validation: float = 0.2
    noise: bool = True
    ridge: float = 0.01
    repeats: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        choice("model", self.model, (*MODELS, "auto"))
        choice("electrode", self.electrode, ELECTRODES)
        choice("refine", self.refine, REFINEMENTS)
        choice("basis", self.basis, BASES)
        if self.dt is not None:
            put("dt", milliseconds("dt", self.dt))
        for name in ("refractory", "before_spike"):
            put(name, milliseconds(name, getattr(self, name), zero=True))
        for name in ("select", "noise"):
            put(name, flag(name, getattr(self, name)))
        for name in PARTS:
            given = getattr(self, name)
            if self.model == "auto" and given is not None:
                raise ArgumentError(
                    f"{name}: expected None for model='auto', which compares models; found {found(given)}"
                )
            if given is None and self.model != "auto":
                given = getattr(MODELS[self.model], name)
            put(name, None if given is None else _times(name, given))
        put("fixed", self._checked_fixed())
        put("bins", self._checked_bins())
        knots = _numbers("knots", self.knots)
        if not all(0 < knot < 1 for knot in knots):
            raise ArgumentError(f"knots: expected quantiles between 0 and 1; found {found(self.knots)}")
        put("knots", tuple(sorted(knots)))
        bounds = _times("tau_mem", self.tau_mem)
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ArgumentError(f"tau_mem: expected (low, high) in ms; found {found(self.tau_mem)}")
        put("tau_mem", bounds)
        put("validation", number("validation", self.validation, least=0))
        if self.validation > 0.9:
            raise ArgumentError(f"validation: expected a share of at most 0.9; found {self.validation:g}")
        put("ridge", number("ridge", self.ridge, least=0))
        put("repeats", whole_number("repeats", self.repeats, 1))
        put("seed", whole_number("seed", self.seed, 0))

    def _checked_bins(self) -> tuple[float, ...]:
        bins = tuple(milliseconds("bins", each, zero=True) for each in _each(self.bins))
        if len(bins) < 2 or not all(one < other for one, other in pairwise(bins)):
            raise ArgumentError(f"bins: expected two or more ascending times in ms; found {found(self.bins)}")
        return bins

    def _checked_fixed(self) -> dict[str, float]:
        fixed = numbers_by_name("fixed", self.fixed, FIXABLE)
        if "reset_factor" in self.fixed and not (self.model == "auto" or MODELS[self.model].reset_factor):
            raise ArgumentError(f"fixed: expected reset_factor with model='glif'; found model={self.model!r}")
        if not self.noise and {"threshold", "width"} & set(self.fixed):
            raise ArgumentError(
                "fixed: expected neither threshold nor width with noise=False, which finds a threshold of its own; "
                f"found {', '.join(self.fixed)}"
            )
        return fixed

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, for JSON; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """The settings of `to_dict`."""
        return cls(**of_fields(cls, "settings", settings))


def _numbers(name: str, given: Any) -> tuple[float, ...]:
    return tuple(number(name, each) for each in _each(given))


def _times(name: str, given: Any) -> tuple[float, ...]:
    times = tuple(milliseconds(name, each) for each in _each(given))
    if len(set(times)) != len(times):
        raise ArgumentError(f"{name}: expected time constants that differ; found {found(given)}")
    return times


def _each(given: Any) -> tuple[Any, ...]:
    """The numbers of a sequence, or of an array with one axis; anything else as one."""
    several = isinstance(given, (tuple, list)) or (isinstance(given, np.ndarray) and given.ndim == 1)
    return tuple(given) if several else (given,)
