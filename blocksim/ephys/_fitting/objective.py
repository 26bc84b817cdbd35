"""What a fit minimises: the loss of candidate parameters for cells, and its gradient.

For each neuron, a candidate for one cell, it is

    D / D_0 + weight (1 - r^2)                                                                              (26)

D is the loss of its spikes, the van Rossum distance (19) to the cell's, summed over windows of time; D_0 the loss of a
neuron that never spikes, so that 1 is worth nothing and 0 perfect; r the correlation of its potential with the
recorded one, away from spikes, so that the potential's offset and scale in mV are those of a linear regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from blocksim._distances import potential_sums
from blocksim._run import Run
from blocksim._simulation import simulate
from blocksim._validation import finite, found, number
from blocksim.backend import Backend
from blocksim.ephys._fitting.data import FitData
from blocksim.ephys._fitting.losses import SpikeLoss
from blocksim.ephys._fitting.translation import Values, candidates_of, pullback
from blocksim.errors import ArgumentError
from blocksim.surrogates import Surrogate

# bytes of currents, spikes and filtered trains that one evaluation works on at a time
CHUNK_BYTES = 48 * 2**20


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
    loss : SpikeLoss
        The loss of spikes.
    voltage_weight : float
        Weight of the potential; 0 for none.
    surrogate, detach, backend, method
        As for `simulate`.
    """

    def __init__(
        self, cells: Sequence[FitData], stops: np.ndarray, *, loss: SpikeLoss, voltage_weight: float,
        surrogate: Surrogate, detach: tuple[str, ...], backend: Backend, method: str = "blocks",
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
        self.loss = loss
        self.weight = number("voltage_weight", voltage_weight, least=0)
        self.surrogate, self.detach, self.backend, self.method = surrogate, detach, backend, method
        self.current = np.stack([cell.current for cell in cells], axis=2)  # (B, T, C)
        self.target = np.stack([cell.spikes for cell in cells], axis=2)
        self._target: Any = None  # as the backend's
        self._potentials: tuple[np.ndarray, list[np.ndarray], list[np.ndarray]] | None = None
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

    def evaluate(self, values: Values, columns: np.ndarray, *, gradient: bool = False) -> Losses:
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
            parts.append(self._losses(self._run(mine, columns[part], False), columns[part], False)[:2])
        fit, validation = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Losses(fit, validation)

    def _run(self, values: Values, columns: np.ndarray, tape: bool) -> Run:
        """A run of the candidates."""
        candidates = candidates_of(values, self.dt)
        current = self._currents(columns) * candidates.drive
        record = ("voltage",) if self.weight else ()
        return simulate(
            candidates.layer, current, self.backend, self.method, record=record, tape=tape, surrogate=self.surrogate,
            detach=self.detach,
        )  # fmt: skip

    def _currents(self, columns: np.ndarray) -> np.ndarray:
        """Currents in pA of the candidates: (B, T, 1) for one cell, (B, T, N) for several."""
        return self.current if self.current.shape[2] == 1 else self.current[:, :, columns]

    def _distance(
        self, spikes: np.ndarray, columns: np.ndarray, gradient: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        engine = self.backend
        if self._target is None:
            self._target = engine.asarray(self.target)
        parts: Any = self.loss(
            engine, engine.asarray(spikes), self._target, engine.asarray(np.asarray(columns, np.int64)), self.dt,
            self.first, self.stops, gradient,
        )  # fmt: skip
        name = f"loss {type(self.loss).__name__}"
        if not isinstance(parts, tuple) or len(parts) != 3:
            raise ArgumentError(f"{name}: expected (fit, validation, slopes); found {found(parts)}")
        shape = (len(spikes), len(columns))
        wanted = {"fit": shape, "validation": shape} | ({"slopes": spikes.shape} if gradient else {})
        host: dict[str, np.ndarray | None] = {"slopes": None}
        for (part, size), value in zip(wanted.items(), parts, strict=False):
            if getattr(value, "shape", None) != size:
                raise ArgumentError(f"{name}: {part}: expected an array of shape {size}; found {found(value)}")
            array = engine.to_numpy(value)
            finite(f"{name}: {part}", array)
            host[part] = array
        return host["fit"], host["validation"], host["slopes"]  # type: ignore[return-value]

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
            back *= (repeats / self.silent[0][columns]).astype(np.float32)[:, None, :]
        grad_voltage = None
        if self.weight:
            unexplained, held_unexplained, grad_voltage = self._potential(run, columns, gradient)
            fit, held = fit + self.weight * unexplained, held + self.weight * held_unexplained
        return fit, held, back, grad_voltage

    def _gradient(self, values: Values, columns: np.ndarray) -> Losses:
        run = self._run(values, columns, True)
        fit, held, grad_spikes, grad_voltage = self._losses(run, columns, True)
        gradients = run.backward(grad_spikes, grad_voltage)
        return Losses(fit, held, pullback(values, self.dt, gradients, self._currents(columns)))

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
        recorded, counted, of_recorded = self._recorded(part)
        count, y, yy = of_recorded[:, columns]
        x, xx, xy = self.backend.fast(potential_sums)(run.voltage, recorded, counted, columns)
        mean_x, mean_y = x / count, y / count
        return (mean_x, mean_y, xx - x * mean_x, xy - x * mean_y, yy - y * mean_y), (recorded, counted)

    def _recorded(self, part: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Recorded potentials y (B, T, C), 1 where they count in the part, and the sums of 1, y and y^2 there, (3, C).

        They are told from a middle, by which sums of squares lose fewer digits.
        """
        if self._potentials is None:
            recorded = np.stack([np.asarray(cell.voltage) for cell in self.cells], axis=2)
            recorded = (recorded - recorded.mean(axis=(0, 1))).astype(np.float32)
            apart = np.stack([~np.asarray(cell.near_spike) for cell in self.cells], axis=2)
            steps = np.arange(recorded.shape[1])
            fitted = (steps >= self.first) & (steps < self.stops[:, None])
            held = steps >= self.stops[:, None]
            counted = [(apart & where[:, :, None]).astype(np.float32) for where in (fitted, held)]
            exact = recorded.astype(np.float64)
            sums = [
                np.stack([
                    np.maximum(where.sum(axis=(0, 1), dtype=np.float64), 1),
                    *((exact**power * where).sum(axis=(0, 1)) for power in (1, 2)),
                ])
                for where in counted
            ]  # fmt: skip
            self._potentials = recorded, counted, sums
        recorded, counted, sums = self._potentials
        return recorded, counted[part], sums[part]
