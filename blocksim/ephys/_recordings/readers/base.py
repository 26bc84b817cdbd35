"""What readers are asked for and hand over, and what they share."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blocksim.ephys._recordings.recording import Sweeps, choose_sweeps
from blocksim.errors import ArgumentError, BlocksimError, FileError

MAIN = "main"
# what a unit is in pA, and in mV
CURRENT_UNITS = {"pA": 1.0, "nA": 1e3, "uA": 1e6, "mA": 1e9, "A": 1e12}
VOLTAGE_UNITS = {"mV": 1.0, "uV": 1e-3, "V": 1e3}
_SPELLINGS = {"volts": "V", "volt": "V", "amperes": "A", "ampere": "A", "amps": "A", "amp": "A", "millivolts": "mV",
              "picoamperes": "pA", "nanoamperes": "nA"}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What a reader is asked for.

    Attributes
    ----------
    part : str
        Which of the file's recordings.
    sweeps : int, str, sequence of them, or None
        Which sweeps, as for `Recording.select`; None: all.
    sampling_rate : float or None
        In Hz, where the caller says so.
    other : Path or None
        The file of the other channel, for formats that keep one channel a file.
    current_channel, voltage_channel : str, int or None
        Channels by name or number, where the caller says so.
    """

    part: str = MAIN
    sweeps: Sweeps | None = None
    sampling_rate: float | None = None
    other: Path | None = None
    current_channel: str | int | None = None
    voltage_channel: str | int | None = None

    def choose(self, labels: Sequence[str]) -> list[int]:
        """Numbers of the sweeps asked for, out of those a file has."""
        return list(range(len(labels))) if self.sweeps is None else choose_sweeps(labels, self.sweeps)


@dataclass(frozen=True)
class Traces:
    """What a reader hands over: one entry a sweep, in the file's units.

    Attributes
    ----------
    current, voltage : list of (T,) arrays
        Samples.
    current_unit, voltage_unit : str or None
        Units that the file states, as `CURRENT_UNITS` and `VOLTAGE_UNITS` spell them; None where it states none.
    rates : list of float
        Sampling rates in Hz.
    labels : list of str
        Names of the sweeps.
    spikes : list of (n,) float64 arrays or None
        Spike times in ms that the file holds.
    current_gains, voltage_gains : list of float
        What the samples are still to be multiplied by to be in the file's units, one a sweep; empty: they are in them.
        Samples in mV that are 1e-3 of a V come out as they are: 1e-3 times 1e3 is 1, where two products would round.
    """

    current: list[np.ndarray]
    voltage: list[np.ndarray]
    current_unit: str | None
    voltage_unit: str | None
    rates: list[float]
    labels: list[str]
    spikes: list[np.ndarray] | None = field(default=None)
    current_gains: list[float] = field(default_factory=list)
    voltage_gains: list[float] = field(default_factory=list)


def unit(text: Any) -> str | None:
    """A unit's usual spelling; None where the text is empty."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    text = str(text or "").strip().strip("\x00").replace("µ", "u").replace("μ", "u")
    return _SPELLINGS.get(text.lower(), text) or None


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn what a library raises while it reads a file into `FileError`, and silence its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileError:
        raise
    except ArgumentError as error:
        raise FileError(f"{path}: {error}") from error
    except BlocksimError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"{path}: expected a file that can be read; found: {error.strerror or error}") from error
    except Exception as error:  # libraries raise what they like on damaged files
        raise FileError(
            f"{path}: expected a whole {kind} file; found one that cannot be read ({type(error).__name__}: {error})"
        ) from error


def one_channel(path: Path, kind: str, argument: str, candidates: dict[str, Any], known: Sequence[str]) -> Any:
    """The only candidate for a channel; else `FileError` that lists what there is."""
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    count = f"{len(candidates)} ({', '.join(candidates)})" if candidates else "none"
    raise FileError(
        f"{path}: expected one channel with a {kind}; found {count} among {'; '.join(known) or 'no channels'} "
        f"({argument}=NAME chooses one)"
    )


def rate_of(seconds: np.ndarray, jitter: float = 0.5) -> float | None:
    """Sampling rate in Hz of evenly spaced times in s; None unless they are, to within a share `jitter` of a step.

    Times that were rounded when they were written leave the rate uncertain; within that, a whole number of Hz is taken,
    else a whole number of microseconds, else the rate as it is.
    """
    if len(seconds) < 2 or not np.isfinite(seconds).all():
        return None
    span = float(seconds[-1] - seconds[0])
    step = span / (len(seconds) - 1)
    if not step > 0 or np.abs(np.diff(seconds) - step).max() > jitter * step:
        return None
    rounding = float(np.abs(seconds - seconds[0] - step * np.arange(len(seconds))).max())
    rate, uncertain = 1 / step, 2 * rounding / span + 1e-12
    for likely in (float(round(rate)), 1e6 / max(round(1e6 / rate), 1)):
        if likely and abs(likely - rate) <= uncertain * rate:
            return likely
    return rate


def natural(name: str) -> list[Any]:
    """Sort key by which Sweep_2 comes before Sweep_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
