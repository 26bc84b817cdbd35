"""The adaptive neuron in physical units: what a fit finds.

Owns its parameters and what it predicts; `blocksim.ephys._fitting.translation` makes a layer of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from blocksim._layer import Layer
from blocksim._simulation import simulate
from blocksim._validation import milliseconds, number, sweep_array
from blocksim.backend import Backend
from blocksim.ephys._fitting.translation import layer_of, parameters_of


class Prediction(NamedTuple):
    """What a cell does with currents.

    Attributes
    ----------
    spikes : (sweeps, T) bool array
    voltage : (sweeps, T) array
        In mV where the cell knows them, else from 0 at reset to 1 at threshold; reset while refractory.
    threshold : (sweeps, T) array
        In the unit of the voltage.
    """

    spikes: np.ndarray
    voltage: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True)
class Cell:
    """An adaptive leaky integrate-and-fire neuron in physical units.

    Parameters
    ----------
    tau_mem, tau_adapt : float
        Time constants of membrane and adaptation in ms, > 0.
    adaptation : float
        Rise of the threshold at each spike, as a share of the distance from reset to threshold.
    gain : float
        Steady potential for 1 pA, in units of that distance.
    bias : float
        Steady potential without current, in the same unit: -1.5 is one and a half times that distance below reset.
    refractory : float
        Absolute refractory period in ms.
    reset_mv, scale_mv : float or None
        Potential in mV of reset, and the distance from reset to threshold in mV; None where no potential was looked
        at. They take no part in the spikes: a cell whose potentials are all multiplied by one number, threshold among
        them, spikes as before, so the threshold is 1 and is not fitted beside the gain.

    Raises
    ------
    ArgumentError
        A number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import Cell
    >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
    >>> cell.rheobase  # pA
    150.0
    >>> prediction = cell.predict(np.full((1, 10_000), 300.0), dt=0.1)
    >>> int(prediction.spikes.sum())
    25
    """

    tau_mem: float
    tau_adapt: float
    adaptation: float
    gain: float
    bias: float
    refractory: float
    reset_mv: float | None = None
    scale_mv: float | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        for name in ("tau_mem", "tau_adapt", "refractory"):
            set_field(self, name, milliseconds(name, getattr(self, name), zero=name == "refractory"))
        set_field(self, "gain", number("gain", self.gain, above=0))
        for name in ("adaptation", "bias", "reset_mv", "scale_mv"):
            value = getattr(self, name)
            if value is not None or name in ("adaptation", "bias"):
                set_field(self, name, number(name, value))

    @cached_property
    def rheobase(self) -> float:
        """The constant current in pA that just reaches the threshold of a rested neuron."""
        return (1 - self.bias) / self.gain

    @cached_property
    def adaptation_pa(self) -> float:
        """The constant current in pA that makes up for the rise of the threshold at one spike."""
        return self.adaptation / self.gain

    @cached_property
    def millivolts(self) -> dict[str, float] | None:
        """Potentials in mV, and the input resistance in MOhm, where the scale is known.

        "rest" and "threshold" are those of a neuron that has not spiked for long.
        """
        if self.reset_mv is None or self.scale_mv is None:
            return None
        return {
            "rest": self.reset_mv + self.scale_mv * self.bias,
            "reset": self.reset_mv,
            "threshold": self.reset_mv + self.scale_mv,
            "threshold rise at a spike": self.scale_mv * self.adaptation,
            "input resistance (MOhm)": 1000 * self.scale_mv * self.gain,
        }

    def layer(self, dt: float, dtype: Any = np.float64, rounding: str | None = None) -> Layer:
        """The cell as a layer of one neuron, whose one input is a current in pA.

        Parameters
        ----------
        dt : float
            Time step in ms.
        dtype : numpy dtype
            Computing precision.
        rounding : {None, "nearest", "down", "up"}
            As in `ALIF.from_ms`, for a refractory period that is no whole number of steps.

        Raises
        ------
        ArgumentError
            dt is not a time above 0; the refractory period is no whole number of steps and `rounding` is None; or dtype
            is not float32 or float64.
        """
        return layer_of(self, dt, dtype, rounding)

    @classmethod
    def from_layer(cls, layer: Layer, dt: float) -> Self:
        """The cell that a layer of one ALIF neuron with one input in pA stands for: `layer`, backwards.

        Parameters
        ----------
        layer : Layer
            As `layer` returns it.
        dt : float
            Its time step in ms.

        Raises
        ------
        ArgumentError
            More than one neuron or input, a LIF neuron, recurrence, or a threshold at or below reset.

        Examples
        --------
        >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
        >>> round(Cell.from_layer(cell.layer(0.1), 0.1).tau_adapt, 6)
        150.0
        """
        return cls(**parameters_of(layer, dt))

    def predict(
        self,
        current: Any,
        dt: float,
        *,
        backend: str | Backend = "numba",
        dtype: Any = np.float64,
        rounding: str | None = "nearest",
    ) -> Prediction:
        """Spikes and potentials for currents, from reset, not adapted, at their start.

        Parameters
        ----------
        current : (T,) or (sweeps, T) array
            In pA.
        dt : float
            Its time step in ms.
        backend, dtype, rounding
            As for `simulate` and `layer`.

        Raises
        ------
        ArgumentError
            The current is of another rank, empty or not finite, or the step is not above 0.
        """
        array = sweeps_of(current)
        layer = self.layer(dt, dtype, rounding)
        x = array.astype(np.dtype(dtype))[..., None]
        run = simulate(layer, x, backend, record=("voltage", "threshold"))
        assert run.voltage is not None
        assert run.threshold is not None
        voltage, threshold = run.voltage[..., 0], run.threshold[..., 0]
        if self.reset_mv is not None and self.scale_mv is not None:
            voltage, threshold = self.reset_mv + self.scale_mv * voltage, self.reset_mv + self.scale_mv * threshold
        return Prediction(run.spikes[..., 0], voltage, threshold)

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each parameter: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (P,) arrays
            "parameter", its name; "value"; "unit" of the value, "1" where it has none. Beside the parameters there are
            "rheobase" and "adaptation_pa", and where potentials are known in mV "rest", "reset", "threshold",
            "threshold_rise" at a spike and "resistance".

        Examples
        --------
        >>> from blocksim.ephys import Cell
        >>> cell = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3)
        >>> table = cell.table()
        >>> [str(table[column][6]) for column in table]
        ['rheobase', '150.0', 'pA']
        """
        rows: dict[str, tuple[float, str]] = {
            "tau_mem": (self.tau_mem, "ms"), "tau_adapt": (self.tau_adapt, "ms"), "adaptation": (self.adaptation, "1"),
            "gain": (self.gain, "1/pA"), "bias": (self.bias, "1"), "refractory": (self.refractory, "ms"),
            "rheobase": (self.rheobase, "pA"), "adaptation_pa": (self.adaptation_pa, "pA"),
        }  # fmt: skip
        if self.millivolts is not None:
            names = ("rest", "reset", "threshold", "threshold_rise", "resistance")
            for name, value in zip(names, self.millivolts.values(), strict=True):
                rows[name] = (value, "MOhm" if name == "resistance" else "mV")
        return parameter_table(rows)

    def to_dict(self) -> dict[str, float | None]:
        """Parameters by name, for JSON; `Cell(**...)` takes them back."""
        return asdict(self)


def parameter_table(rows: Mapping[str, tuple[float, str]]) -> dict[str, np.ndarray]:
    """Parameters, (value, unit) by name, as columns."""
    values, units = zip(*rows.values(), strict=True)
    return {"parameter": np.array(list(rows)), "value": np.array(values, np.float64), "unit": np.array(units)}


def sweeps_of(current: Any) -> np.ndarray:
    """A current in pA, of one sweep (T,) or several, checked: (sweeps, T)."""
    return np.atleast_2d(sweep_array("current", current, "pA"))
