"""The generalised integrate-and-fire neuron in physical units: what `fit_gif` finds.

Owns its parameters, what it predicts, and what it is as a neuron of the simulator.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np

from blocksim._escape import Escape, checked_seed
from blocksim._layer import Layer
from blocksim._milliseconds import steps_of_ms
from blocksim._parameters import tuple_of
from blocksim._presets import GIF
from blocksim._simulation import simulate
from blocksim._validation import found, milliseconds, number, real_array, whole_number
from blocksim.backend import Backend
from blocksim.ephys._fitting.model import Cell, parameter_table, sweeps_of
from blocksim.ephys._gif.imposed import Basis, hazard_of, impose, weighted, where_live
from blocksim.errors import ArgumentError
from blocksim.trains import SpikeTrains

# what each entry of a part says beside its time constant
PARTS = {"currents": ("amplitude",), "thresholds": ("amplitude",), "coupling": ("knot", "slope")}


class Imposed(NamedTuple):
    """A cell's potential where the recorded spikes are imposed on it.

    Attributes
    ----------
    potential, threshold : (sweeps, T) arrays
        In mV.
    hazard : (sweeps, T) array or None
        Expected number of spikes in each step; 0 while refractory. None of a cell without noise.
    log_hazard : (sweeps, T) array or None
        Its logarithm, which does not underflow; minus infinity while refractory, and then alone.
    """

    potential: np.ndarray
    threshold: np.ndarray
    hazard: np.ndarray | None
    log_hazard: np.ndarray | None


@dataclass(frozen=True)
class GIFCell:
    """A generalised integrate-and-fire neuron in physical units, with escape noise or without.

    Between spikes, with the current I in pA,

        capacitance dV/dt = -conductance (V - rest) + I + sum of the after-spike currents,

    and the neuron spikes at `rate` exp((V - theta) / width), in Hz, where theta is the threshold with its rises and
    what the potential adds to it. After a spike the potential is `reset` for the refractory period.

    Parameters
    ----------
    capacitance, conductance : float
        In pF and nS; their quotient is the membrane time constant in ms.
    rest, reset, threshold : float
        In mV. The threshold is that of a neuron at rest, at which it spikes at `rate`.
    width : float
        In mV: the hazard rises e-fold over it. 0: no noise; the neuron spikes where it crosses its threshold.
    refractory : float
        Absolute refractory period in ms.
    currents : sequence of (tau, amplitude)
        After-spike currents: ms, and pA at the spike; negative ones hinder spikes.
    thresholds : sequence of (tau, amplitude)
        Rises of the threshold: ms, and mV at the spike.
    coupling : sequence of (tau, knot, slope)
        What the potential does to the threshold: ms; the potential in mV above which it acts, None for the potential
        relative to rest on both sides; mV of threshold for a mV of potential, once settled.
    rate : float
        In Hz.
    reset_factor : float
        What is kept of the potential above rest after a spike, which is then `reset` + `reset_factor` (V - rest); 0:
        nothing.

    Raises
    ------
    ArgumentError
        A number is out of range.

    Notes
    -----
    Sources: Mensi et al., Journal of Neurophysiology 107, 2012; Pozzorini et al., PLoS Computational Biology 11, 2015;
    for the coupling (iGIF) Mensi et al., PLoS Computational Biology 12, 2016; for the reset factor (GLIF) Teeter et
    al., Nature Communications 9, 2018. At a rate of 1 Hz the threshold is the V_T of the GIF toolbox and of NEST's
    gif_psc_exp.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import GIFCell
    >>> cell = GIFCell(capacitance=100, conductance=5, rest=-70, reset=-60, threshold=-55, width=1.5, refractory=4,
    ...                currents=[(50, -20)], thresholds=[(100, 3)])
    >>> cell.tau_mem
    20.0
    >>> trains = cell.sample(np.full(10_000, 110.0), dt=0.1, repeats=3, seed=1)
    >>> len(trains)
    3
    """

    capacitance: float
    conductance: float
    rest: float
    reset: float
    threshold: float
    width: float
    refractory: float
    currents: tuple[tuple[float, float], ...] = ()
    thresholds: tuple[tuple[float, float], ...] = ()
    coupling: tuple[tuple[float, float | None, float], ...] = ()
    rate: float = 1.0
    reset_factor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("capacitance", "conductance", "rate"):
            object.__setattr__(self, name, number(name, getattr(self, name), above=0))
        object.__setattr__(self, "width", number("width", self.width, least=0))
        for name in ("rest", "reset", "threshold", "reset_factor"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        object.__setattr__(self, "refractory", milliseconds("refractory", self.refractory, zero=True))
        for name, words in PARTS.items():
            object.__setattr__(self, name, tuple(_entry(name, each, words) for each in tuple_of(getattr(self, name))))

    @property
    def tau_mem(self) -> float:
        """Membrane time constant in ms."""
        return self.capacitance / self.conductance

    @property
    def is_stochastic(self) -> bool:
        """Whether it has noise."""
        return self.width > 0

    @property
    def resistance(self) -> float:
        """Input resistance in MOhm."""
        return 1000 / self.conductance

    def basis(self, dt: float) -> Basis:
        """Its time constants and knots, as the loops over recorded sweeps take them."""
        taus, knots = _grid(self)
        return Basis(
            dt, steps_of_ms("refractory", self.refractory, dt, "nearest"), tuple(tau for tau, _ in self.currents),
            tuple(tau for tau, _ in self.thresholds), taus,
            tuple(None if knot is None else knot - self.rest for knot in knots),
        )  # fmt: skip

    def gain(self, dt: float) -> float:
        """What a current of 1 pA adds to the potential in a step of dt ms, in mV."""
        return float(-np.expm1(-dt / self.tau_mem) / self.conductance)

    def neuron(self, dt: float, repeats: int = 1, dtype: Any = np.float64) -> GIF:
        """The cell as `repeats` equal neurons, whose potential is in mV above rest.

        Parameters
        ----------
        dt : float
            Time step in ms.
        repeats : int
            Number of neurons.
        dtype : numpy dtype
            Computing precision.
        """
        return _neurons(self, dt, repeats, np.dtype(dtype))

    def layer(self, dt: float, dtype: Any = np.float64) -> Layer:
        """The cell as a layer of one neuron, whose one input is a current in pA."""
        gain = np.full((1, 1), self.gain(milliseconds("dt", dt)), np.dtype(dtype))
        return Layer(self.neuron(dt, dtype=dtype), weights=gain)

    def sample(
        self, current: Any, dt: float, *, repeats: int = 500, seed: int | None = None, backend: str | Backend = "numba"
    ) -> SpikeTrains:
        """Spike trains of repetitions, each from rest at the start of the current.

        Parameters
        ----------
        current : (T,) or (sweeps, T) array
            In pA.
        dt : float
            Its time step in ms.
        repeats : int
            Number of repetitions of each sweep, which differ in their noise; without noise they are equal.
        seed : int or None
            Of the noise; None: another each time.
        backend
            As for `simulate`.

        Returns
        -------
        SpikeTrains
            Of all repetitions of the first sweep, then of the second, and so on; a spike is at the start of its step.

        Raises
        ------
        ArgumentError
            The current is of another rank, empty or not finite, or another argument is out of range.
        """
        array, dt = sweeps_of(current), milliseconds("dt", dt)
        repeats = whole_number("repeats", repeats, 1)
        layer = Layer(self.neuron(dt, repeats if self.is_stochastic else 1, np.float32))
        gain = self.gain(dt)
        seeds = np.random.SeedSequence(checked_seed(seed)).generate_state(len(array), np.uint64)
        trains = []
        for sweep, own in zip(array, seeds, strict=True):
            x = (sweep * gain).astype(np.float32)[None, :, None]
            run = simulate(layer, x, backend, seed=int(own))
            trains += list(SpikeTrains.from_steps(run.spikes[0].T, dt)) * (1 if self.is_stochastic else repeats)
        return SpikeTrains.of(trains)

    def impose(self, current: Any, spikes: Any, dt: float) -> Imposed:
        """Potential, threshold and hazard with recorded spikes imposed, from rest at the start of each sweep.

        Parameters
        ----------
        current : (sweeps, T) array
            In pA.
        spikes : (sweeps, T) bool array
            Where a sweep has a spike.
        dt : float
            Time step in ms.

        Raises
        ------
        ArgumentError
            The arrays differ in shape, are of another rank or empty, or are not finite.
        """
        array = sweeps_of(current)
        fired = np.atleast_2d(real_array("spikes", spikes)) != 0
        if fired.shape != array.shape:
            raise ArgumentError(f"spikes: expected an array of the current's shape {array.shape}; found {fired.shape}")
        basis = self.basis(milliseconds("dt", dt))
        amplitudes = [amplitude / self.conductance for _, amplitude in self.currents]
        potential = impose(
            array, fired, basis, self.tau_mem, self.reset_factor,
            (self.rest, 1 / self.conductance, *amplitudes, self.reset),
        )  # fmt: skip
        above_rest, live = weighted(potential - self.rest, fired, basis, self._weights())
        threshold = self.rest + above_rest
        if not self.is_stochastic:
            return Imposed(potential, threshold, None, None)
        log_hazard = where_live((potential - threshold) / self.width + np.log(self.rate * dt / 1000), live)
        return Imposed(potential, threshold, hazard_of(log_hazard), log_hazard)

    def _weights(self) -> np.ndarray:
        """What the threshold above rest is made of: weights of `threshold_regressors`, for its own basis."""
        slopes: dict[tuple[float, float | None], float] = defaultdict(float)
        for tau, knot, slope in self.coupling:
            slopes[tau, knot] += slope  # as neurons do that have the same coupling twice
        taus, knots = _grid(self)
        rises = [amplitude for _, amplitude in self.thresholds]
        rises += [slopes[tau, knot] for tau in taus for knot in knots]
        return np.array([0.0, self.threshold - self.rest, *rises])

    def with_rate(self, rate: float) -> Self:
        """The same neuron with its threshold where it spikes at another rate, in Hz; without noise it has none."""
        rate = number("rate", rate, above=0)
        return replace(self, rate=rate, threshold=self.threshold + self.width * float(np.log(rate / self.rate)))

    def to_nest(self) -> dict[str, Any]:
        """The parameters of NEST's gif_psc_exp, by its names and in its units.

        Raises
        ------
        ArgumentError
            The potential acts on the threshold, or is not reset to a value, which NEST's model has not; or there is no
            noise.
        """
        if not self.is_stochastic:
            raise ArgumentError("to_nest: expected a neuron with noise, as gif_psc_exp is; found width=0")
        if self.coupling:
            raise ArgumentError(
                "to_nest: expected a neuron without coupling of its threshold to the potential; found "
                f"{len(self.coupling)} (gif_psc_exp has none; fit with model='gif')"
            )
        if self.reset_factor:
            raise ArgumentError(
                "to_nest: expected a neuron that is reset to a value, as gif_psc_exp is; found reset_factor="
                f"{self.reset_factor:g} (fit with model='gif')"
            )
        cell = self.with_rate(1.0)
        return {
            "C_m": cell.capacitance, "g_L": cell.conductance, "E_L": cell.rest, "V_reset": cell.reset,
            "t_ref": cell.refractory, "V_T_star": cell.threshold, "Delta_V": cell.width, "lambda_0": 1.0,
            "tau_stc": [tau for tau, _ in cell.currents], "q_stc": [-amplitude for _, amplitude in cell.currents],
            "tau_sfa": [tau for tau, _ in cell.thresholds], "q_sfa": [amplitude for _, amplitude in cell.thresholds],
        }  # fmt: skip

    def to_cell(self, dt: float) -> Cell:
        """The cell as an adaptive neuron of `fit`, with the same spikes at a time step of dt ms.

        A `Cell` begins a sweep at reset, where this one begins at rest: the first spikes may differ.

        Parameters
        ----------
        dt : float
            In ms: how a spike raises a threshold within its own step depends on it.

        Raises
        ------
        ArgumentError
            It has noise, after-spike currents, a coupled threshold, a reset factor, or more than one rise of the
            threshold, which `Cell` has not; or the threshold is not above reset.

        Examples
        --------
        >>> from blocksim.ephys import GIFCell
        >>> cell = GIFCell(capacitance=100, conductance=5, rest=-70, reset=-60, threshold=-50, width=0, refractory=4,
        ...                thresholds=[(100, 3)])
        >>> round(cell.to_cell(dt=0.1).rheobase, 1)
        100.0
        """
        more = {
            "noise": self.is_stochastic, "after-spike currents": self.currents, "a coupled threshold": self.coupling,
            "a reset factor": self.reset_factor, "several rises of the threshold": len(self.thresholds) > 1,
        }  # fmt: skip
        if has := [name for name, value in more.items() if value]:
            raise ArgumentError(
                f"to_cell: expected a neuron without noise with at most one rise of its threshold, as Cell is; found "
                f"{', '.join(has)}"
            )
        scale = self.threshold - self.reset
        if not scale > 0:
            raise ArgumentError(
                f"to_cell: expected a threshold above reset; found {self.threshold:g} and {self.reset:g} mV"
            )
        # a neuron whose threshold does not rise has any time constant of it
        (tau, rise), *_ = self.thresholds or ((100.0, 0.0),)
        return Cell(
            tau_mem=self.tau_mem, tau_adapt=tau, adaptation=rise * float(np.exp(-milliseconds("dt", dt) / tau)) / scale,
            gain=1 / (self.conductance * scale), bias=(self.rest - self.reset) / scale, refractory=self.refractory,
            reset_mv=self.reset, scale_mv=scale,
        )  # fmt: skip

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each parameter: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (P,) arrays
            "parameter", its name; "value"; "unit" of the value, "1" where it has none. Of the first after-spike current
            there are the amplitude "currents.0" and the time constant "currents.0.tau"; of a coupling the slope
            "coupling.0", "coupling.0.tau" and "coupling.0.knot", NaN where it is None.

        Examples
        --------
        >>> from blocksim.ephys import GIFCell
        >>> cell = GIFCell(capacitance=100, conductance=5, rest=-70, reset=-60, threshold=-55, width=1.5, refractory=4,
        ...                currents=[(50, -20)])
        >>> table = cell.table()
        >>> [str(table[column][-2]) for column in table]
        ['currents.0', '-20.0', 'pA']
        """
        rows: dict[str, tuple[float, str]] = {
            "tau_mem": (self.tau_mem, "ms"), "resistance": (self.resistance, "MOhm"),
            "capacitance": (self.capacitance, "pF"), "conductance": (self.conductance, "nS"), "rest": (self.rest, "mV"),
            "reset": (self.reset, "mV"), "reset_factor": (self.reset_factor, "1"), "threshold": (self.threshold, "mV"),
            "width": (self.width, "mV"), "rate": (self.rate, "Hz"), "refractory": (self.refractory, "ms"),
        }  # fmt: skip
        for part, unit in (("currents", "pA"), ("thresholds", "mV")):
            for place, (tau, amplitude) in enumerate(getattr(self, part)):
                rows |= {f"{part}.{place}": (amplitude, unit), f"{part}.{place}.tau": (tau, "ms")}
        for place, (tau, knot, slope) in enumerate(self.coupling):
            name, at = f"coupling.{place}", float("nan") if knot is None else knot
            rows |= {name: (slope, "1"), f"{name}.tau": (tau, "ms"), f"{name}.knot": (at, "mV")}
        return parameter_table(rows)

    def to_dict(self) -> dict[str, Any]:
        """Parameters by name, for JSON; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, parameters: Mapping[str, Any]) -> Self:
        """The cell of `to_dict`."""
        return cls(**parameters)


def _grid(cell: GIFCell) -> tuple[tuple[float, ...], tuple[float | None, ...]]:
    """The time constants and the knots of a cell's coupling, each once."""
    taus = dict.fromkeys(tau for tau, _, _ in cell.coupling)
    knots = dict.fromkeys(knot for _, knot, _ in cell.coupling)
    return tuple(taus), tuple(knots)


def shared_taus(cell: GIFCell) -> tuple[str, ...]:
    """What a refined fit calls the time constant of each coupling: those that are equal are one number.

    "coupling.tau.0" is the first of the time constants of `GIFCell.basis`, and so on.
    """
    taus, _ = _grid(cell)
    return tuple(f"coupling.tau.{taus.index(tau)}" for tau, _, _ in cell.coupling)


def side_by_side(cells: Sequence[GIFCell], dt: float) -> GIF:
    """Cells of one structure as the neurons of one layer, whose potentials are in mV above each one's rest."""
    first = cells[0]
    numbers: dict[str, Any] = {"refractory": first.refractory, "is_stochastic": first.is_stochastic}
    for name in ("tau_mem", "conductance", "rest", "reset", "threshold", "width", "rate", "reset_factor"):
        numbers[name] = np.array([getattr(cell, name) for cell in cells])
    for part in PARTS:
        several = zip(*(getattr(cell, part) for cell in cells), strict=True)
        numbers[part] = [
            tuple(None if values[0] is None else np.array(values) for values in zip(*entries, strict=True))
            for entries in several
        ]
    return _neurons(SimpleNamespace(**numbers), dt, len(cells), np.dtype(np.float64))


def _neurons(cell: Any, dt: float, number: int, kind: np.dtype) -> GIF:
    """So many neurons of the numbers of a cell, each one or (N,)."""
    return GIF.from_ms(
        tau_mem=np.asarray(cell.tau_mem, kind), dt=dt,
        theta=np.full(number, cell.threshold - cell.rest, kind), refractory=cell.refractory,
        v_reset=np.asarray(cell.reset - cell.rest, kind), reset_factor=cell.reset_factor,
        currents=[(tau, amplitude / cell.conductance) for tau, amplitude in cell.currents],
        thresholds=cell.thresholds,
        coupling=[(tau, None if knot is None else knot - cell.rest, slope) for tau, knot, slope in cell.coupling],
        rounding="nearest",
        spike=Escape.from_ms(rate=cell.rate, width=cell.width, dt=dt) if cell.is_stochastic else None,
    )  # fmt: skip


def _entry(name: str, given: Any, words: tuple[str, ...]) -> tuple[Any, ...]:
    """What describes one component, checked."""
    if not isinstance(given, (tuple, list)) or len(given) != 1 + len(words):
        raise ArgumentError(
            f"{name}: expected a sequence of (tau in ms, {', '.join(words)}); found {found(given)} in it"
        )
    tau, *values = given
    checked = [None if word == "knot" and v is None else number(word, v) for word, v in zip(words, values, strict=True)]
    return (milliseconds("tau", tau), *checked)
