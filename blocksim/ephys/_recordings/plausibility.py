"""Whether two arrays can be an injected current in pA and a membrane potential in mV.

Owns the limits. Files are refused where they are passed; arrays in memory, whose owner may know better, are warned of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LARGEST_CURRENT, LARGEST_VOLTAGE = 5000.0, 200.0  # pA, mV
SMALLEST_CURRENT = 1e-3  # pA: below, amperes
NANOAMPERES = 3.0  # pA: no cell answers to less, but currents in nA are so small


class Doubt(NamedTuple):
    """What is not plausible: what was expected, what was found, and the argument of `open_recording` that mends it."""

    expected: str
    found: str
    mended: str


def doubt(current: np.ndarray, voltage: np.ndarray) -> Doubt | None:
    """The first thing that is not plausible; None where nothing is."""
    if _looks_like_potential(current) and not _looks_like_potential(voltage):
        return Doubt(
            "a current in pA",
            f"values like a membrane potential in mV, {_range(current)}, and a voltage, {_range(voltage)}, that is "
            "unlike one: the two may have changed places",
            "swap=True",
        )
    if np.abs(voltage).max() > LARGEST_VOLTAGE:
        return Doubt(
            f"a membrane potential within +-{LARGEST_VOLTAGE:g} mV", f"{_range(voltage)} mV",
            "voltage_unit=UNIT says what it is",
        )  # fmt: skip
    if _looks_like_potential(1000 * voltage):
        return Doubt("a membrane potential in mV", f"{_range(voltage)}, which looks like volts", "voltage_unit='V'")
    largest = float(np.abs(current).max())
    if largest > LARGEST_CURRENT:
        return Doubt(
            f"a current within +-{LARGEST_CURRENT:g} pA", f"{_range(current)} pA", "current_unit=UNIT says what it is"
        )
    if 0 < largest < SMALLEST_CURRENT:
        return Doubt("a current in pA", f"{_range(current)}, which looks like amperes", "current_unit='A'")
    return None


def doubt_in_memory(current: np.ndarray, voltage: np.ndarray) -> str:
    """The same of arrays that a caller made, in words; empty where nothing is wrong."""
    sweeps, steps = current.shape
    if steps < sweeps:
        return f"expected sweeps of more samples than there are sweeps; found {sweeps} sweeps of {steps} (transposed?)"
    wrong = doubt(current, voltage)
    if wrong is not None:
        return f"expected {wrong.expected}; found {wrong.found}"
    largest = float(np.abs(current).max())
    if SMALLEST_CURRENT <= largest < NANOAMPERES and _looks_like_potential(voltage):
        return f"expected a current in pA; found {_range(current)}, which looks like nA"
    return ""


def _looks_like_potential(values: np.ndarray) -> bool:
    """Whether values could be a membrane potential in mV: mostly near rest, never far beyond a spike."""
    return bool(-110 < np.median(values) < -25 and values.min() > -150 and values.max() < 100)


def _range(values: np.ndarray) -> str:
    return f"{values.min():.4g} to {values.max():.4g} (median {np.median(values):.4g})"
