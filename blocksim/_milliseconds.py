"""Times in milliseconds as what the equations are written in: decay factors, whole steps, and gains of currents.

Owns these conversions, for neurons and synapses alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from blocksim._validation import choice, decimal, real_array
from blocksim.errors import ArgumentError
from blocksim.trains import exact_times

ROUNDINGS = ("nearest", "down", "up")
MAX_STEPS = 2**30


def decay_of_ms(name: str, tau: Any, dt: float) -> Any:
    """exp(-dt / tau), tau and dt in ms; the dtype of a floating array is kept."""
    array = real_array(name, tau, "ms")
    bad = ~((array > 0) & np.isfinite(array))
    if bad.any():
        raise ArgumentError(
            f"{name}: expected a time constant in ms, a finite number above 0; found {array[bad].flat[0]}"
        )
    dtype = array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)
    factor = np.exp(-dt / np.asarray(decimal(array), np.float64))
    # beta must stay below 1: a time constant beyond what the dtype resolves would silently not decay at all
    if (factor.astype(dtype) >= 1).any():
        raise ArgumentError(
            f"{name}: expected a time constant that decays within one step of {dt} ms in {dtype}; "
            f"found {array.max()} ms (use a longer step, a shorter time constant, or float64)"
        )
    return float(factor) if array.ndim == 0 else factor.astype(dtype)


def steps_of_ms(name: str, time: Any, dt: float, rounding: str | None) -> Any:
    """Whole steps in a time given in ms."""
    if rounding is not None:
        choice("rounding", rounding, ROUNDINGS)
    period = exact_times(real_array(name, time, "ms"))
    bad = ~((period >= 0) & (period / dt <= MAX_STEPS))
    if bad.any():
        raise ArgumentError(f"{name}: expected a period in ms from 0 to {MAX_STEPS} steps; found {period[bad].flat[0]}")
    steps = period / dt
    nearest = np.rint(steps)
    off = np.abs(steps - nearest) > 1e-6
    if rounding is None and off.any():
        worst = float(period[off].flat[0])
        low = math.floor(worst / dt)
        raise ArgumentError(
            f"{name}: expected a whole number of steps of dt = {dt} ms; found {worst} ms = {worst / dt:.6g} steps. "
            f"The nearest that are: {low * dt:.10g} ms ({low} steps) and {(low + 1) * dt:.10g} ms ({low + 1} steps); "
            "or pass rounding='nearest', 'down' or 'up'"
        )
    rounded = {"down": np.floor(steps), "up": np.ceil(steps)}.get(rounding or "nearest", nearest)
    whole = np.where(off, rounded, nearest).astype(np.int64)
    return int(whole) if whole.ndim == 0 else whole


def propagators(tau: Any, tau_mem: Any, dt: float) -> tuple[Any, Any]:
    """What currents of the size of the potential that they would hold make of the potential in one step.

    Of a current that is 1 at the start of the step and decays with tau, and of one that is 0, rises with a slope of 1
    a ms and decays: exact for tau_mem dV/dt = -V + I (Rotter, Diesmann 1999), and where tau = tau_mem too.
    """
    tau, tau_mem = np.asarray(tau, np.float64), np.asarray(tau_mem, np.float64)
    rate = 1 / tau - 1 / tau_mem
    x, factor = rate * dt, np.exp(-dt / tau_mem) / tau_mem
    near = np.abs(x) < 1e-2  # the quotients lose digits there
    far = np.where(near, 1.0, x)
    first = np.where(near, sum((-x) ** n / math.factorial(n + 1) for n in range(8)), -np.expm1(-far) / far)
    second = np.where(
        near,
        sum((-x) ** n * (n + 1) / math.factorial(n + 2) for n in range(8)),
        (1 - np.exp(-far) * (1 + far)) / far**2,
    )
    return factor * first * dt, factor * second * dt**2
