"""The space of a cell's parameters, and search in it without gradients: many candidates in one run.

Owns the bounds, the free numbers that stand for parameters, how a search starts and how it is refined. Candidates are
rows of free numbers, one column for each of `PARAMETERS` and one for the refractory period, whose value is one of a
grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from blocksim._validation import choices, finite, real_array
from blocksim.ephys._fitting.data import FitData
from blocksim.ephys._fitting.translation import PARAMETERS
from blocksim.errors import ArgumentError
from blocksim.transforms import Bounded

Scores = Callable[[np.ndarray], np.ndarray]
EDGE = 1e-3  # of the range of a parameter: no search starts nearer to a bound


@dataclass(frozen=True)
class Known:
    """A parameter that is not searched: whatever its free number, it has one value."""

    value: float

    def from_free(self, free: np.ndarray) -> np.ndarray:
        """The value, as often as there are free numbers."""
        return np.full(np.shape(free), self.value)

    def pullback(self, free: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """No gradient."""
        return np.zeros_like(np.asarray(gradient, np.float64))


@dataclass(frozen=True)
class Space:
    """Bounds of a cell's parameters.

    Attributes
    ----------
    transforms : dict of Bounded or Known
        By parameter, in its unit: tau_mem, tau_adapt in ms, gain in 1/pA, rheobase and adaptation_pa in pA. All but the
        rheobase are spaced by their logarithm.
    refractory : (G,) array
        Refractory periods to choose from, in steps, ascending.
    """

    transforms: dict[str, Bounded | Known]
    refractory: np.ndarray

    @classmethod
    def of(
        cls, data: FitData, refractory: tuple[float, ...], bounds: Mapping[str, tuple[float, float]],
        fixed: Mapping[str, float] | None = None,
    ) -> Space:  # fmt: skip
        """The space of a cell: bounds that are not given follow from its current's mean and standard deviation s.

        tau_mem from 1 (at least half a step) to 100 ms; tau_adapt from 5 to 1000 ms; the gain from 0.1 to 20 over s;
        the rheobase within 4 s of the mean; the adaptation from 0.005 to 5 s.
        """
        choices("bounds", tuple(bounds), PARAMETERS)
        spread, mean = float(data.current.std()), float(data.current.mean())
        if not spread > 0:
            raise ArgumentError(
                f"{data.name or 'cell'}: expected a current that varies; found {mean:g} pA throughout (is it the "
                "command of another channel?)"
            )
        limits = {
            "tau_mem": (max(1.0, data.dt / 2), 100.0),
            "tau_adapt": (max(5.0, data.dt), 1000.0),
            "gain": (0.1 / spread, 20 / spread),
            "rheobase": (mean - 4 * spread, mean + 4 * spread),
            "adaptation_pa": (0.005 * spread, 5 * spread),
        } | {name: tuple(pair) for name, pair in bounds.items()}
        transforms: dict[str, Bounded | Known] = {
            name: Bounded(limits[name][0], limits[name][1], "linear" if name == "rheobase" else "log")
            for name in PARAMETERS
        }
        transforms |= {name: Known(value) for name, value in (fixed or {}).items()}
        periods = real_array("refractory", refractory).astype(np.float64)
        finite("refractory", periods)
        if periods.ndim != 1 or not periods.size or (periods < 0).any():
            raise ArgumentError(f"refractory: expected periods in ms, of 0 or more; found {refractory!r}")
        return cls(transforms, np.unique(np.rint(periods / data.dt).astype(np.int64)))

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return len(PARAMETERS) + 1

    def values(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters by name of rows (N, width): each (N,), "refractory" in steps."""
        values = {name: self.transforms[name].from_free(rows[:, k]) for k, name in enumerate(PARAMETERS)}
        share = 1 / (1 + np.exp(-np.clip(rows[:, -1], -30, 30)))
        choice = np.minimum((share * len(self.refractory)).astype(np.int64), len(self.refractory) - 1)
        return {**values, "refractory": self.refractory[choice]}

    def start(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Rows (count, width) that fill the space evenly: a Latin hypercube.

        Source: McKay, Beckman, Conover, "A comparison of three methods for selecting values of input variables",
        Technometrics 21 (1979).
        """
        strata = np.stack([rng.permutation(count) for _ in range(self.width)], axis=1)
        share = EDGE + (1 - 2 * EDGE) * (strata + rng.random((count, self.width))) / count
        rows: np.ndarray = np.log(share) - np.log1p(-share)
        return rows


@dataclass(frozen=True)
class Refined:
    """What a refinement found: the rows of the lowest scores, best first, and the best score of each generation."""

    rows: np.ndarray
    scores: np.ndarray
    history: np.ndarray


def refine(
    rows: np.ndarray, scores: np.ndarray, score: Scores, rng: np.random.Generator, *, generations: int,
    population: int, tolerance: float = 1e-6,
) -> Refined:  # fmt: skip
    """Refine candidates by the cross-entropy method: sample about the best, keep the best of all, repeat.

    Parameters
    ----------
    rows, scores : (M, width), (M,) arrays
        Candidates to begin with.
    score : callable
        From rows (N, width) to scores (N,); lower is better.
    generations, population : int
        How often at most, and how many candidates each time.
    tolerance : float
        Stop once all candidates that are kept score the same to within this.

    Notes
    -----
    Each generation draws from a normal distribution with the mean of the best quarter and one and a half times its
    covariance; the best of all that were drawn are kept, as many as a population. Narrower, it settles on the side of
    a long valley of the loss: with an eighth of a population of 128, three of four synthetic cells were not recovered
    (docs/experiments/recordings.md). Source: Rubinstein, Kroese, "The Cross-Entropy Method", Springer 2004, here with
    the best kept from generation to generation.
    """
    order = np.argsort(scores, kind="stable")[:population]
    rows, scores = rows[order], scores[order]
    history = [float(scores[0])]
    for _ in range(generations):
        best = rows[: max(4, population // 4)]
        spread = np.cov(best.T) * 1.5 + 1e-10 * np.eye(rows.shape[1])
        drawn = rng.multivariate_normal(best.mean(axis=0), spread, population, method="eigh")
        rows, scores = np.concatenate([rows, drawn]), np.concatenate([scores, score(drawn)])
        order = np.argsort(scores, kind="stable")[:population]
        rows, scores = rows[order], scores[order]
        history.append(float(scores[0]))
        if np.ptp(scores) < tolerance:
            break
    return Refined(rows, scores, np.array(history))
