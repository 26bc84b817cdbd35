"""Whether the times of a data set can be in their stated unit: a warning before any work is done.

Owns what is plausible. Times in s where ms are wanted fall into one step, and training even "works"; times in us where
ms are wanted make samples of hours. A few samples are looked at; what is not clear is left alone.
"""

from __future__ import annotations

import contextlib
import warnings

import numpy as np

from blocksim.data._binning import Clock
from blocksim.data.sources import Source
from blocksim.errors import BlocksimError, BlocksimWarning
from blocksim.trains import UNITS, before

# samples that are looked at, and events they must have together to tell anything
LOOKED_AT, FEWEST_EVENTS = 16, 10
# of the longest sample, in ms, and of the channels in use, in Hz, on average
LENGTHS, RATES = (10.0, 60_000.0), (0.1, 1000.0)


def warn_of_unit(source: Source, clock: Clock, dt: float) -> None:
    """Warn where the samples looked at end within one step, or last and fire as only times of another unit would."""
    if source.unit is None or clock.span is not None:  # with `span` time is scaled, whatever its unit
        return
    found_ = _looked_at(source, clock)
    if found_ is None:
        return
    longest, rate, samples = found_
    unit = _fitting(longest, rate, source.unit)
    if unit is None:
        return
    if before(np.array([longest]), dt)[0]:
        what = f"samples that end within one step of dt = {dt:g} ms, the longest at {longest:g} ms"
    elif (longest < LENGTHS[0] and rate > RATES[1] and samples > 1) or (longest > LENGTHS[1] and rate < RATES[0]):
        what = f"samples of up to {longest:g} ms, with {rate:.3g} spikes a second in each channel in use"
    else:
        return
    warnings.warn(
        f"{source.name}: expected times in {source.unit}; found {what} (times in {unit} would fit: convert them)",
        BlocksimWarning,
        stacklevel=4,
    )


def _looked_at(source: Source, clock: Clock) -> tuple[float, float, int] | None:
    """Length of the longest sample, ms, rate of the channels in use, Hz, and samples with events.

    None where there is too little to tell.
    """
    events, samples, time, longest, distinct = 0, 0, 0.0, 0.0, False
    for place in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(np.int64)).tolist():
        # what is wrong with a sample is said when it is asked for
        with contextlib.suppress(BlocksimError):
            times, units = clock.read(*source.checked(place))
            if not len(times):
                continue
            events, samples = events + len(times), samples + 1
            time += len(np.unique(units)) * float(times.max())
            longest = max(longest, float(times.max()))
            distinct = distinct or bool(times.max() > times.min())
    return (longest, 1000 * events / time, samples) if events >= FEWEST_EVENTS and distinct else None


def _fitting(longest: float, rate: float, claimed: str) -> str | None:
    """The unit, other than the claimed one, in which the length and the rate would be plausible."""
    for unit, size in UNITS.items():
        factor = size / UNITS[claimed]
        lasts, fires = longest * factor, rate / factor
        if unit != claimed and LENGTHS[0] <= lasts <= LENGTHS[1] and RATES[0] <= fires <= RATES[1]:
            return unit
    return None
