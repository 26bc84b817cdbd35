"""A recording as a fit of a stochastic neuron takes it.

Owns the checks of what can be fitted, and where the potential counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blocksim.ephys._gif.config import GIFConfig
from blocksim.ephys._recordings.recording import Recording
from blocksim.errors import ArgumentError
from blocksim.trains import near_spikes, nearest_steps


@dataclass(frozen=True, eq=False)
class Recorded:
    """A recording as arrays (B, T), and where its potential counts."""

    dt: float
    current: np.ndarray
    voltage: np.ndarray
    spikes: np.ndarray
    counted: np.ndarray
    refractory: int
    shortest: int  # interval between spikes, in steps

    @classmethod
    def of(cls, recording: Recording, config: GIFConfig) -> Recorded:
        """Checked."""
        at = recording if config.dt is None else recording.at_dt(config.dt)
        named = f"{recording.name or recording.source}: " if recording.name or recording.source else ""
        spikes = at.spike_counts() > 0
        if not spikes.any():
            raise ArgumentError(
                f"{named}expected spikes in the training part; found none in {at.sweeps} sweep(s) of "
                f"{at.duration:g} ms (is the detection threshold too high for this cell?)"
            )
        if not np.ptp(at.current) > 0:
            raise ArgumentError(
                f"{named}expected a current that varies; found {at.current.flat[0]:g} pA throughout (is it the command "
                "of another channel?)"
            )
        shortest = min((int(np.diff(np.flatnonzero(row)).min()) for row in spikes if row.sum() > 1), default=at.steps)
        refractory = min(nearest_steps(config.refractory, at.dt), shortest - 1)
        near = near_spikes(at.spikes, (config.before_spike, refractory * at.dt), at.dt, at.steps)
        current, voltage = (np.ascontiguousarray(array) for array in (at.current, at.voltage))
        return cls(at.dt, current, voltage, spikes, ~near, refractory, shortest)

    def until(self, stop: int) -> Recorded:
        """The steps before `stop`."""
        names = ("current", "voltage", "spikes", "counted")
        parts: Any = {name: np.ascontiguousarray(getattr(self, name)[:, :stop]) for name in names}
        return replace(self, **parts)
