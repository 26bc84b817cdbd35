"""What a fit minimises: the data of cells as arrays, the loss of candidate parameters, and its gradient.

Owns the loss. For each neuron, a candidate for one cell, it is

    D / D_0 + weight (1 - r^2)                                                                              (26)

D is the van Rossum distance (19) between its spikes and the cell's, summed over windows of time; D_0 the distance of a
neuron that never spikes, so that 1 is worth nothing and 0 perfect; r the correlation of its potential with the
recorded one, away from spikes, so that the potential's offset and scale in mV are those of a linear regression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from blocksim._distances import train_distance
from blocksim._layer import Layer
from blocksim._neurons import ALIF
from blocksim._run import Run
from blocksim._simulation import simulate
from blocksim._validation import finite, found, frozen, milliseconds, number, real_array, whole
from blocksim.backend import Backend
from blocksim.ephys.recording import Recording
from blocksim.errors import ArgumentError
from blocksim.surrogates import Surrogate

# what a gradient belongs to; the refractory period is chosen, not descended
PARAMETERS = ("tau_mem", "tau_adapt", "gain", "rheobase", "adaptation_pa")
# sweeps are repeats of one current if they differ by no more than so much of its standard deviation
SAME_CURRENT = 0.02
# bytes of currents, spikes and filtered trains that one evaluation works on at a time
CHUNK_BYTES = 48 * 2**20


@dataclass(frozen=True, eq=False)
class FitData:
    """What is fitted of one cell: windows of time, each simulated from reset at its start.

    Parameters
    ----------
    current : (B, T) array
        Injected current in pA.
    spikes : (B, T) array
        Spikes in each step: counts, or their mean over repeats of the same current.
    dt : float
        Step in ms.
    repeats : (B,) integer array or None
        How many sweeps a window stands for; None for 1.
    voltage : (B, T) array or None
        Recorded potential in mV, if it is to be fitted too.
    near_spike : (B, T) bool array or None
        Where the potential is that of a spike and does not count.
    warm_up : int
        Steps at the start of each window that are simulated and do not count. A window that begins in the middle of a
        recording begins with a wrong state: potential and adaptation are those of a neuron at rest.
    name : str
        For messages.

    Raises
    ------
    ArgumentError
        Shapes do not fit, values are not finite, or there is no spike to fit.

    Notes
    -----
    The distance of one train from each of K repeats, summed, is K times the distance from their mean train, plus a
    number that no parameter changes. So repeats of one current ("frozen noise") are simulated once.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import FitData
    >>> FitData(np.zeros((1, 4)), np.array([[0, 0, 1, 0]]), dt=0.5).repeats
    array([1])
    """

    current: np.ndarray
    spikes: np.ndarray
    dt: float
    repeats: np.ndarray | None = None
    voltage: np.ndarray | None = None
    near_spike: np.ndarray | None = None
    warm_up: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        label = f"{self.name}: " if self.name else ""
        current = real_array("current", self.current)
        if current.ndim != 2 or 0 in current.shape:
            raise ArgumentError(f"{label}current: expected a non-empty array (windows, time); found {found(current)}")
        arrays = {"current": current, "spikes": real_array("spikes", self.spikes)}
        for name in ("voltage", "near_spike"):
            if getattr(self, name) is not None:
                arrays[name] = real_array(name, getattr(self, name))
        for name, array in arrays.items():
            if array.shape != current.shape:
                raise ArgumentError(
                    f"{label}{name}: expected an array of the current's shape {current.shape}; found {array.shape}"
                )
            finite(f"{label}{name}", array)
            kind = np.bool_ if name == "near_spike" else np.float32
            object.__setattr__(self, name, frozen(np.array(array, kind, order="C")))
        object.__setattr__(self, "dt", milliseconds("dt", self.dt))
        warm_up = whole("warm_up", self.warm_up, 0)
        if warm_up >= current.shape[1]:
            raise ArgumentError(
                f"{label}warm_up: expected fewer steps than a window's {current.shape[1]}; found {warm_up}"
            )
        repeats = np.ones(len(current), np.int64) if self.repeats is None else np.asarray(self.repeats)
        if repeats.shape != (len(current),) or repeats.dtype.kind not in "iu" or (repeats < 1).any():
            raise ArgumentError(
                f"{label}repeats: expected a whole number above 0 for each of {len(current)} windows; found "
                f"{found(self.repeats)}"
            )
        object.__setattr__(self, "repeats", frozen(repeats.astype(np.int64)))
        if not self.spikes[:, warm_up:].any():
            raise ArgumentError(
                f"{label}expected at least one spike in the training part; found none in {len(current)} windows of "
                f"{(current.shape[1] - warm_up) * self.dt:g} ms (is the detection threshold too high for this cell?)"
            )

    @classmethod
    def of(
        cls, recording: Recording, *, voltage: bool = False, spike_window: tuple[float, float] = (2.0, 8.0),
        warm_up: float = 0.0, merge: bool = True,
    ) -> FitData:  # fmt: skip
        """The data of a recording, every sweep a window.

        Parameters
        ----------
        recording : Recording
            At the time step of the fit: `Recording.at_dt`.
        voltage : bool
            Keep the potential.
        spike_window : (before, after)
            Times in ms around a spike in which the potential does not count.
        warm_up : float
            In ms, as above.
        merge : bool
            Simulate sweeps that repeat one current once, on their mean current: those that differ from the first of
            them by at most 2 % of its standard deviation (root mean square), as measurement noise does.
        """
        counts = recording.spike_counts()
        groups = repeats_of(recording.current) if merge else [[index] for index in range(recording.sweeps)]
        near = near_spikes(counts, spike_window, recording.dt) if voltage else None
        return cls(
            current=np.stack([recording.current[group].mean(axis=0) for group in groups]),
            spikes=np.stack([counts[group].mean(axis=0) for group in groups]),
            dt=recording.dt,
            repeats=np.array([len(group) for group in groups]),
            voltage=np.stack([recording.voltage[group].mean(axis=0) for group in groups]) if voltage else None,
            near_spike=None if near is None else np.stack([near[group].any(axis=0) for group in groups]),
            warm_up=round(warm_up / recording.dt),
            name=recording.name or recording.source,
        )


def repeats_of(current: np.ndarray) -> list[list[int]]:
    """Groups of sweeps that repeat a current."""
    groups: list[list[int]] = []
    for index, sweep in enumerate(current):
        for group in groups:
            first = current[group[0]]
            if np.sqrt(np.square(sweep - first).mean()) <= SAME_CURRENT * first.std():
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def near_spikes(counts: np.ndarray, window: tuple[float, float], dt: float) -> np.ndarray:
    """Steps within `window` (ms before, ms after) of a spike."""
    before, after = (round(milliseconds("spike_window", value, zero=True) / dt) for value in window)
    steps = counts.shape[1]
    edges = np.zeros((len(counts), steps + 1), np.int64)
    for sweep, step in zip(*np.nonzero(counts), strict=True):
        edges[sweep, max(0, step - before)] += 1
        edges[sweep, min(steps, step + after + 1)] -= 1
    return np.cumsum(edges, axis=1)[:, :-1] > 0


class Losses(NamedTuple):
    """Losses of neurons, (26): of the part that is fitted, and of the part held out for validation.

    Attributes
    ----------
    fit, validation : (N,) float64 arrays
    gradient : dict of (N,) float64 arrays, or None
        Of `fit`, for each of `PARAMETERS`.
    """

    fit: np.ndarray
    validation: np.ndarray
    gradient: dict[str, np.ndarray] | None = None


class Objective:
    """The losses of candidates for one or more cells whose data have one shape and time step.

    Parameters
    ----------
    cells : sequence of FitData
        Of one number of windows, of one length, with one time step and warm-up.
    stops : (B,) integer array
        Where validation begins in each window, in steps: at T for none, at the warm-up's end for all of it.
    tau : float
        Time constant of the distance in ms.
    voltage_weight : float
        Weight of the potential; 0 for none.
    surrogate, detach, backend, method
        As for `simulate`.
    """

    def __init__(
        self, cells: Sequence[FitData], stops: np.ndarray, *, tau: float, voltage_weight: float, surrogate: Surrogate,
        detach: tuple[str, ...], backend: Backend, method: str = "blocks",
    ) -> None:  # fmt: skip
        first = cells[0]
        for cell in cells:
            if (cell.current.shape, cell.dt, cell.warm_up) != (first.current.shape, first.dt, first.warm_up):
                raise ArgumentError(
                    "cells: expected windows of one number and length, time step and warm-up, to be fitted in one run; "
                    f"found {first.current.shape} at {first.dt:g} ms and {cell.current.shape} at {cell.dt:g} ms"
                )
        if voltage_weight and any(cell.voltage is None or cell.near_spike is None for cell in cells):
            raise ArgumentError("voltage_weight: expected cells with recorded potentials; found one without")
        self.cells, self.dt, self.first = tuple(cells), first.dt, first.warm_up
        self.stops = np.asarray(stops, np.int64)
        self.decay, self.scale = math.exp(-self.dt / tau), self.dt / tau
        self.weight = number("voltage_weight", voltage_weight, least=0)
        self.surrogate, self.detach, self.backend, self.method = surrogate, detach, backend, method
        self.current = np.stack([cell.current for cell in cells], axis=2)  # (B, T, C)
        self.target = np.stack([cell.spikes for cell in cells], axis=2)
        self._target: Any = None  # as the backend's
        self._potentials: tuple[np.ndarray, list[np.ndarray]] | None = None
        self.repeats = np.stack([np.asarray(cell.repeats, np.float64) for cell in cells], axis=1)  # (B, C)
        silent = np.zeros((*self.target.shape[:2], len(cells)), np.bool_)
        before, after, _ = self._distance(silent, np.arange(len(cells)), False)
        # without a spike to fit, or to validate on, there is no scale
        self.silent = (self.repeats * before).sum(axis=0), (self.repeats * after).sum(axis=0)
        self.validated = bool((self.silent[1] > 0).all())
        if (self.silent[0] <= 0).any():
            raise ArgumentError(
                f"{cells[int(np.argmin(self.silent[0]))].name or 'cell'}: expected spikes in the part that is fitted; "
                "found all of them in the part held out for validation (use a smaller one, or none)"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Windows and steps."""
        return self.current.shape[0], self.current.shape[1]

    def evaluate(self, values: Mapping[str, np.ndarray], columns: np.ndarray, *, gradient: bool = False) -> Losses:
        """Losses of candidates, `PARAMETERS` and "refractory" (steps) by name, each (N,); `columns` is their cells.

        With a gradient, all of them are simulated in one run; without, as many at a time as fit into the cache.
        """
        if gradient:
            return self._gradient(values, columns)
        windows, steps = self.shape
        at_once = max(16, CHUNK_BYTES // (9 * windows * steps) // 16 * 16)
        parts = []
        for start in range(0, len(columns), at_once):
            part = slice(start, start + at_once)
            mine = {name: value[part] for name, value in values.items()}
            parts.append(self._losses(self._run(mine, columns[part], False)[0], columns[part], False)[:2])
        fit, validation = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Losses(fit, validation)

    def _run(self, values: Mapping[str, np.ndarray], columns: np.ndarray, tape: bool) -> tuple[Run, np.ndarray]:
        """A run of the candidates, and 1 - beta."""
        beta, gain = np.exp(-self.dt / values["tau_mem"]), values["gain"]
        reach = -np.expm1(-self.dt / values["tau_mem"])
        neuron = ALIF(
            beta=beta.astype(np.float32),
            p=np.exp(-self.dt / values["tau_adapt"]).astype(np.float32),
            b=(values["adaptation_pa"] * gain).astype(np.float32),
            refractory_steps=values["refractory"].astype(np.int32),
        )
        bias = ((1 - gain * values["rheobase"]) * reach).astype(np.float32)
        current = self._currents(columns) * (gain * reach).astype(np.float32)
        record = ("voltage",) if self.weight else ()
        run = simulate(
            Layer(neuron, bias=bias), current, self.backend, self.method, record=record, tape=tape,
            surrogate=self.surrogate, detach=self.detach,
        )  # fmt: skip
        return run, reach

    def _currents(self, columns: np.ndarray) -> np.ndarray:
        """Currents in pA of the candidates: (B, T, 1) for one cell, (B, T, N) for several."""
        return self.current if self.current.shape[2] == 1 else self.current[:, :, columns]

    def _distance(
        self, spikes: np.ndarray, columns: np.ndarray, gradient: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        engine = self.backend
        if self._target is None:
            self._target = engine.asarray(self.target)
        before, after, back = train_distance(
            engine, engine.asarray(spikes), self._target, engine.asarray(np.asarray(columns, np.int64)), self.decay,
            self.first, self.stops, gradient,
        )  # fmt: skip
        host = engine.to_numpy
        return host(before), host(after), None if back is None else host(back)

    def _losses(
        self, run: Run, columns: np.ndarray, gradient: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Losses, and gradients with respect to spikes and potentials."""
        before, after, back = self._distance(run.spikes, columns, gradient)
        repeats = self.repeats[:, columns]
        fit = (repeats * before).sum(axis=0) / self.silent[0][columns]
        held = np.full(len(columns), np.nan)
        if self.validated:
            held = (repeats * after).sum(axis=0) / self.silent[1][columns]
        if back is not None:
            # D is scale * sum y^2, and its gradient 2 * scale * z; the scale is in D_0 too
            back *= (2 * repeats / self.silent[0][columns]).astype(np.float32)[:, None, :]
        grad_voltage = None
        if self.weight:
            unexplained, held_unexplained, grad_voltage = self._potential(run, columns, gradient)
            fit, held = fit + self.weight * unexplained, held + self.weight * held_unexplained
        return fit, held, back, grad_voltage

    def _gradient(self, values: Mapping[str, np.ndarray], columns: np.ndarray) -> Losses:
        run, reach = self._run(values, columns, True)
        fit, held, grad_spikes, grad_voltage = self._losses(run, columns, True)
        gradients = run.backward(grad_spikes, grad_voltage)
        gain, tau_mem, tau_adapt = values["gain"], values["tau_mem"], values["tau_adapt"]
        # I = reach (gain i + bias), reach = 1 - beta, bias = 1 - gain rheobase, b = gain adaptation_pa
        current = np.broadcast_to(self._currents(columns), gradients.current.shape)
        by_drive = np.einsum("btn,btn->n", gradients.current, current)
        by_drive = by_drive.astype(np.float64) * reach
        by_bias = np.asarray(gradients.bias, np.float64)
        bias = 1 - gain * values["rheobase"]
        by_b = np.asarray(gradients.b, np.float64)
        by_beta = np.asarray(gradients.beta, np.float64) - (by_drive * gain / reach + by_bias * bias)
        by_p = np.asarray(gradients.p, np.float64)
        by_bias = by_bias * reach
        return Losses(fit, held, {
            "tau_mem": by_beta * np.exp(-self.dt / tau_mem) * self.dt / tau_mem**2,
            "tau_adapt": by_p * np.exp(-self.dt / tau_adapt) * self.dt / tau_adapt**2,
            "gain": by_drive - by_bias * values["rheobase"] + by_b * values["adaptation_pa"],
            "rheobase": -by_bias * gain,
            "adaptation_pa": by_b * gain,
        })  # fmt: skip

    def _potential(
        self, run: Run, columns: np.ndarray, gradient: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """1 - r^2 of potentials in the fitted and the held-out part, and the first one's gradient."""
        assert run.voltage is not None
        parts, slopes = [], None
        for part in range(2):
            moments, recorded = self._moments(run, columns, part)
            mean_x, mean_y, xx, xy, yy = moments
            varying = (xx > 0) & (yy > 0)
            share = np.where(varying, xy * xy / np.where(varying, xx * yy, 1), 0.0)
            parts.append(1 - share)
            if gradient and part == 0:
                # d(1 - r^2)/dx = -2 xy / (xx yy) ((y - mean_y) - xy / xx (x - mean_x)) at each step that counts
                slope = np.where(varying, xy / np.where(varying, xx, 1), 0.0)
                factor = np.where(varying, -2 * self.weight * slope / np.where(varying, yy, 1), 0.0)
                counted = recorded[1][:, :, columns]
                slopes = (recorded[0][:, :, columns] - mean_y.astype(np.float32)) - slope.astype(np.float32) * (
                    run.voltage - mean_x.astype(np.float32)
                )
                slopes *= factor.astype(np.float32)
                slopes *= counted
        return parts[0], parts[1], slopes

    def _moments(self, run: Run, columns: np.ndarray, part: int) -> tuple[tuple[np.ndarray, ...], Any]:
        """Means, and sums of squared deviations and products, of model (x) and recorded (y) potentials."""
        assert run.voltage is not None
        recorded, counted = self._recorded(part)
        weights = counted[:, :, columns]
        y = recorded[:, :, columns]
        count = np.maximum(weights.sum(axis=(0, 1), dtype=np.float64), 1)
        x = run.voltage

        def total(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            product: np.ndarray = np.einsum("btn,btn->n", first, second, dtype=np.float64, casting="unsafe")
            return product

        mean_x, mean_y = total(x, weights) / count, total(y, weights) / count
        dx, dy = (x - mean_x.astype(np.float32)) * weights, (y - mean_y.astype(np.float32)) * weights
        return (mean_x, mean_y, total(dx, dx), total(dx, dy), total(dy, dy)), (recorded, counted)

    def _recorded(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Recorded potentials (B, T, C), and 1 where they count in the part."""
        if self._potentials is None:
            recorded = np.stack([np.asarray(cell.voltage) for cell in self.cells], axis=2)
            apart = np.stack([~np.asarray(cell.near_spike) for cell in self.cells], axis=2)
            steps = np.arange(recorded.shape[1])
            fitted = (steps >= self.first) & (steps < self.stops[:, None])
            held = steps >= self.stops[:, None]
            self._potentials = recorded, [(apart & where[:, :, None]).astype(np.float32) for where in (fitted, held)]
        return self._potentials[0], self._potentials[1][part]
