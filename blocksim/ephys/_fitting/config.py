"""The settings of a fit, checked.

Owns their names, defaults and ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any, Self

import numpy as np

from blocksim._options import check_choices
from blocksim._settings import of_fields
from blocksim._validation import choice, choices, instance, items, milliseconds, number, numbers_by_name, whole_number
from blocksim.ephys._fitting.losses import SpikeLoss, spike_loss
from blocksim.ephys._fitting.translation import PARAMETERS
from blocksim.errors import ArgumentError
from blocksim.surrogates import Surrogate
from blocksim.trains import checked_window

VALIDATION_BY = ("time", "windows")


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit.

    Parameters
    ----------
    dt : float, tuple of float, or None
        Time step of the model in ms; None: the recording's. With several, `fit` fits each in a run of its own and
        returns the fit with the lowest validation loss (or training loss, if nothing is held out).
    loss : str or SpikeLoss
        What is minimised: "van_rossum", the distance (19), or an object of a class of your own.
    tau : float
        Time constant of the van Rossum distance in ms.
    voltage_weight : float or None
        Weight of the potential away from spikes, against that of the spikes; 0 fits spikes alone. None: 0.2 where
        potentials are recorded.
    spike_window : (before, after)
        Times in ms around each recorded spike in which the potential does not count.
    refractory : tuple of float
        Absolute refractory periods in ms to choose from; each is rounded to whole steps of dt.
    bounds : mapping
        (low, high) for some of "tau_mem", "tau_adapt" (ms), "gain" (1/pA), "rheobase", "adaptation_pa" (pA); those of
        the others follow from the current: `Space.of`.
    candidates : int
        Parameter sets in the search.
    restarts : int
        How many of them descend.
    epochs : int
        Most steps of the descent; 0 leaves it out.
    learning_rate : float
        Adam's, for free numbers that run over the range of a parameter from about -5 to 5; falls as half a cosine.
    patience : int
        A restart stops after so many epochs without a lower validation loss.
    generations, population : int
        Of the refinement; 0 generations leave it out.
    validation : float
        Share of the training data held out from search and descent; 0 holds out nothing.
    validation_by : {"time", "windows"}
        Hold out the end of each window, or the last windows.
    warm_up : float
        Time in ms at the start of each window that is simulated and does not count.
    merge : bool
        Simulate sweeps that repeat one current once: `FitData.of`.
    surrogate : str or Surrogate
        As for `simulate`.
    detach : tuple of str
        Paths without gradient, as for `simulate`.
    seed : int
        Of everything random: the same seed gives the same fit, on one machine.
    backend, method : str
        As for `simulate`.
    fixed : mapping
        Parameters that are known and not fitted, by the names of `bounds` and in their units. An adaptation_pa of 0
        makes a LIF neuron.

    Raises
    ------
    ArgumentError
        A setting is out of range, or unknown.

    Examples
    --------
    >>> from blocksim.ephys import FitConfig
    >>> FitConfig(dt=0.5, refractory=3).refractory
    (3.0,)
    """

    dt: float | tuple[float, ...] | None = None
    loss: str | SpikeLoss = "van_rossum"
    tau: float = 40.0
    voltage_weight: float | None = None
    spike_window: tuple[float, float] = (2.0, 8.0)
    refractory: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    candidates: int = 1024
    restarts: int = 16
    epochs: int = 200
    learning_rate: float = 0.05
    patience: int = 60
    generations: int = 60
    population: int = 256
    validation: float = 0.2
    validation_by: str = "time"
    warm_up: float = 0.0
    merge: bool = True
    surrogate: str | Surrogate = "fast_sigmoid"
    detach: tuple[str, ...] = ("reset", "adaptation")
    seed: int = 0
    backend: str = "numba"
    method: str = "blocks"
    fixed: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        if isinstance(self.dt, (tuple, list)) and len(self.dt) != 1:
            if not self.dt:
                raise ArgumentError("dt: expected at least one time step; found none")
            set_field(self, "dt", tuple(milliseconds("dt", step) for step in self.dt))
        elif self.dt is not None:
            alone: Any = self.dt[0] if isinstance(self.dt, (tuple, list)) else self.dt
            set_field(self, "dt", milliseconds("dt", alone))
        set_field(self, "tau", milliseconds("tau", self.tau))
        set_field(self, "learning_rate", number("learning_rate", self.learning_rate, above=0))
        if self.voltage_weight is not None:
            set_field(self, "voltage_weight", number("voltage_weight", self.voltage_weight, least=0))
        set_field(self, "warm_up", milliseconds("warm_up", self.warm_up, zero=True))
        set_field(self, "validation", number("validation", self.validation, least=0, below=1))
        for name, least in (
            ("candidates", 1), ("restarts", 1), ("epochs", 0), ("patience", 1), ("generations", 0), ("population", 16),
            ("seed", 0),
        ):  # fmt: skip
            set_field(self, name, whole_number(name, getattr(self, name), least))
        if self.restarts > self.candidates:
            raise ArgumentError(
                f"restarts: expected at most as many as candidates, {self.candidates}; found {self.restarts}"
            )
        choice("validation_by", self.validation_by, VALIDATION_BY)
        periods: Any = (self.refractory,) if np.isscalar(self.refractory) else self.refractory
        periods = items("refractory", periods, "periods in ms")
        set_field(self, "refractory", tuple(milliseconds("refractory", period, zero=True) for period in periods))
        set_field(self, "spike_window", checked_window("spike_window", self.spike_window))
        instance("bounds", self.bounds, Mapping, "a dict of (low, high) by name")
        bounds = {name: items(f"bounds: {name}", pair, "(low, high)", 2) for name, pair in self.bounds.items()}
        set_field(self, "bounds", bounds)
        choices("bounds", tuple(self.bounds), PARAMETERS)
        above = {name: 0.0 if name in ("tau_mem", "tau_adapt", "gain") else None for name in PARAMETERS}
        set_field(self, "fixed", numbers_by_name("fixed", self.fixed, above))
        check_choices(self)
        spike_loss(self.loss, self.tau)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], source: str = "config") -> Self:
        """Settings by name, as a configuration file holds them; the others keep their defaults.

        Parameters
        ----------
        settings : mapping
            Values by name; lists become tuples.
        source : str
            What messages call it: the file, say.

        Raises
        ------
        ArgumentError
            A name is unknown, and the message names `source`; or a setting is out of range.
        """
        return cls(**of_fields(cls, source, settings))

    def to_dict(self) -> dict[str, Any]:
        """Settings by name, for JSON."""
        objects = {"surrogate": self.surrogate, "loss": self.loss}
        settings = asdict(replace(self, surrogate="fast_sigmoid", loss="van_rossum"))
        return settings | {name: _in_words(value) for name, value in objects.items()}


def _in_words(value: Any) -> str:
    """A choice by its name, or an object with all that it is made of."""
    if isinstance(value, str) or is_dataclass(value):
        return value if isinstance(value, str) else repr(value)
    made_of = ", ".join(f"{name}={each!r}" for name, each in sorted(vars(value).items()))
    return f"{type(value).__qualname__}({made_of})" if made_of else type(value).__qualname__
