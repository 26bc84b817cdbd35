"""Losses of spikes that a fit can minimise.

Owns the interface of such a loss, and those that have a name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from blocksim._distances import train_distance
from blocksim._validation import found, milliseconds
from blocksim.arrays import Array
from blocksim.backend import Backend
from blocksim.errors import ArgumentError


class SpikeLoss(ABC):
    """How far spikes of candidate neurons are from recorded ones; subclass it to fit by a loss of your own.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import FitConfig, SpikeLoss
    >>> class SquaredCount(SpikeLoss):
    ...     def __call__(self, backend, spikes, target, columns, dt, first, stops, gradient):
    ...         difference = (spikes - target[:, :, columns])[:, first:]
    ...         inside = (np.arange(first, spikes.shape[1]) < stops[:, None])[:, :, None]
    ...         count, rest = ((difference * part).sum(axis=1) for part in (inside, ~inside))
    ...         slope = np.zeros(spikes.shape, np.float32)
    ...         slope[:, first:] = 2 * count[:, None] * inside
    ...         return count**2, rest**2, slope if gradient else None
    >>> FitConfig(loss=SquaredCount()).to_dict()["loss"]
    'SquaredCount'
    """

    @abstractmethod
    def __call__(
        self,
        backend: Backend,
        spikes: Array,
        target: Array,
        columns: Array,
        dt: float,
        first: int,
        stops: np.ndarray,
        gradient: bool,
    ) -> tuple[Array, Array, Array | None]:
        """The losses of windows of time, each at least 0, in two parts: what is fitted, and what validates.

        Parameters
        ----------
        backend : Backend
            Whose arrays these are.
        spikes : (B, T, N) bool array
            Spikes of the candidates, in B windows of T steps.
        target : (B, T, C) float32 array
            Recorded spikes of the cells: counts in each step, or their mean over repeats.
        columns : (N,) int64 array
            The cell of each candidate.
        dt : float
            Step in ms.
        first : int
            First step that counts.
        stops : (B,) int64 NumPy array
            Where validation begins in each window.
        gradient : bool
            Whether the gradient is wanted.

        Returns
        -------
        fit, validation : (B, N) arrays
            Losses of the steps before `stops`, and of those from there on.
        slopes : (B, T, N) float32 array or None
            Gradient of `fit` with respect to the spikes.
        """


@dataclass(frozen=True)
class VanRossum(SpikeLoss):
    """The van Rossum distance, equation (19).

    Parameters
    ----------
    tau : float
        Time constant of the filter in ms, above 0.

    Raises
    ------
    ArgumentError
        tau is no time above 0.
    """

    tau: float = 40.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", milliseconds("tau", self.tau))

    def __call__(
        self,
        backend: Backend,
        spikes: Array,
        target: Array,
        columns: Array,
        dt: float,
        first: int,
        stops: np.ndarray,
        gradient: bool,
    ) -> tuple[Array, Array, Array | None]:
        """The sums of (19); the factor dt / tau is left out, for losses are compared with that of silence.

        Parameters
        ----------
        backend, spikes, target, columns, dt, first, stops, gradient
            As for `SpikeLoss`.
        """
        decay = math.exp(-dt / self.tau)
        before, after, back = train_distance(backend, spikes, target, columns, decay, first, stops, gradient)
        if back is not None:
            back *= 2
        return before, after, back


# by name: what makes one, of the tau of a fit's settings
LOSSES = {"van_rossum": VanRossum}


def spike_loss(loss: Any, tau: float) -> SpikeLoss:
    """The loss of that name, or the object itself.

    Raises
    ------
    ArgumentError
        There is no such loss.
    """
    if isinstance(loss, SpikeLoss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss](tau)
    raise ArgumentError(
        f"loss: expected one of {', '.join(map(repr, LOSSES))}, or a blocksim.ephys.SpikeLoss object; found "
        f"{found(loss)}"
    )
