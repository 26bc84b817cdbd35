"""Descent: candidates that follow the gradient of the loss side by side.

Owns the optimiser of a fit, and when a candidate stops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blocksim.ephys._fitting.config import FitConfig
from blocksim.ephys._fitting.objective import Objective
from blocksim.ephys._fitting.search import Space
from blocksim.ephys._fitting.translation import PARAMETERS
from blocksim.optimisers import Adam
from blocksim.schedules import Cosine

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Descent:
    """Where restarts ended: (C, R, width) rows, (C, R) losses; two (epochs, C, R) histories."""

    rows: np.ndarray
    fit: np.ndarray
    validation: np.ndarray
    history: tuple[np.ndarray, np.ndarray]


def descend(
    objective: Objective, spaces: Sequence[Space], starts: Sequence[np.ndarray], config: FitConfig, tell: Progress
) -> Descent:
    """All restarts of all cells, along the gradient, in one run; those that stopped are left out."""
    cells, restarts = len(starts), len(starts[0])
    rows = np.concatenate(starts)
    columns = np.repeat(np.arange(cells), restarts)
    best_rows, best = rows.copy(), np.full((3, len(rows)), np.inf)  # what is compared, and both losses
    waited = np.zeros(len(rows), np.int64)
    history = np.full((2, config.epochs, len(rows)), np.nan)
    optimiser = Adam(Cosine(config.learning_rate, max(config.epochs, 1)), beta2=0.99)
    # optimisers know nothing of rows that stop: all rows step, those that stopped by a gradient of zero
    free = {name: rows[:, k].copy() for k, name in enumerate(PARAMETERS)}
    state = optimiser.start(free)
    active = np.arange(len(rows))
    done = 0
    for epoch in range(config.epochs):
        if epoch % 10 == 0:
            tell("descent", epoch, config.epochs)
        current = rows[active]
        values = _values(spaces, current, columns[active])
        losses = objective.evaluate(values, columns[active], gradient=True)
        assert losses.gradient is not None
        history[0, epoch, active], history[1, epoch, active] = losses.fit, losses.validation
        compared = losses.validation if objective.validated else losses.fit
        improved = compared < best[0, active]
        winners = active[improved]
        best[:, winners] = np.stack([compared, losses.fit, losses.validation])[:, improved]
        best_rows[winners] = current[improved]
        waited[active] += 1
        waited[winners] = 0
        done = epoch + 1
        slopes = {}
        for k, name in enumerate(PARAMETERS):
            slope = np.zeros(len(rows))
            slope[active] = _pullback(spaces, columns[active], name, current[:, k], losses.gradient[name])
            slopes[name] = slope
        free, state = optimiser.step(free, slopes, state)
        for k, name in enumerate(PARAMETERS):
            rows[:, k] = free[name]
        active = np.flatnonzero(waited < config.patience)
        if not len(active):
            break
    if not config.epochs:
        losses = objective.evaluate(_values(spaces, rows, columns), columns)
        best = np.stack([losses.fit, losses.fit, losses.validation])
    shape = cells, restarts
    return Descent(
        best_rows.reshape(*shape, -1), best[1].reshape(shape), best[2].reshape(shape),
        (history[0, :done].reshape(done, *shape), history[1, :done].reshape(done, *shape)),
    )  # fmt: skip


def _values(spaces: Sequence[Space], rows: np.ndarray, columns: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters of rows that belong to several cells."""
    if len(spaces) == 1:
        return spaces[0].values(rows)
    parts = [spaces[cell].values(rows[columns == cell]) for cell in np.unique(columns)]
    # columns ascend, so that parts joined are in the order of the rows
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pullback(
    spaces: Sequence[Space], columns: np.ndarray, name: str, free: np.ndarray, gradient: np.ndarray
) -> np.ndarray:
    if len(spaces) == 1:
        return spaces[0].transforms[name].pullback(free, gradient)
    return np.concatenate([
        spaces[cell].transforms[name].pullback(free[columns == cell], gradient[columns == cell])
        for cell in np.unique(columns)
    ])  # fmt: skip
