"""Losses on spike trains: each returns its value and its gradient with respect to the spikes, ready for `backward`.

Owns the losses' formulas; filters over time are the backend's.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from blocksim.backend import Backend, get_backend
from blocksim.errors import ArgumentError
from blocksim.validation import finite, found, real_array


class Loss(NamedTuple):
    """A loss and its gradient.

    Attributes
    ----------
    value : float
        The loss, summed over samples and neurons.
    grad_spikes : float array of the spikes' shape
        dLoss/dS: pass it to `Run.backward`.
    """

    value: float
    grad_spikes: np.ndarray


def van_rossum(
    spikes: Any, target: Any, *, tau: float, dt: float, backend: str | Backend = "numba", dtype: Any = np.float64
) -> Loss:
    """Van Rossum distance between spike trains and target trains, equation (19), and its gradient.

    Each train is filtered by a decaying exponential; the distance is the squared difference, integrated over the run
    and divided by tau. A spike too many, or one too few, far from others, costs 1/2 (for steps well below tau), and
    one at the wrong time, by far, costs 1.

    Parameters
    ----------
    spikes : array (T, N) or (B, T, N)
        Spikes of a run, bool or numbers.
    target : array that broadcasts to the shape of `spikes`
        Target trains: of the same shape, or with 1 in place of B or N for one target of all.
    tau : float
        Time constant in ms: differences in spike times well below it cost little.
    dt : float
        Step in ms.
    backend : str or Backend
        What computes.
    dtype : float64 or float32
        Precision of the gradient.

    Returns
    -------
    Loss

    Raises
    ------
    ArgumentError
        Shapes do not fit, values are not finite, or a time is not above 0.

    Notes
    -----
    Source: van Rossum, "A novel spike distance", Neural Computation 13 (2001), 751-763.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.losses import van_rossum
    >>> target = np.zeros((10_000, 1), bool)
    >>> spikes = target.copy()
    >>> spikes[100] = True
    >>> loss = van_rossum(spikes, target, tau=10, dt=0.1, backend="numpy")
    >>> round(loss.value, 3), loss.grad_spikes.shape
    (0.505, (10000, 1))
    """
    spikes, target = real_array("spikes", spikes), real_array("target", target)
    if spikes.ndim not in (2, 3) or 0 in spikes.shape:
        raise ArgumentError(f"spikes: expected a non-empty array (T, N) or (B, T, N); found {found(spikes)}")
    try:
        fits = np.broadcast_shapes(spikes.shape, target.shape) == spikes.shape
    except ValueError:
        fits = False
    if not fits:
        raise ArgumentError(f"target: expected an array that broadcasts to {spikes.shape}; found {found(target)}")
    for name, value in (("tau", tau), ("dt", dt)):
        if not isinstance(value, (int, float, np.number)) or not 0 < float(value) < math.inf:
            raise ArgumentError(f"{name}: expected a time in ms above 0; found {found(value)}")
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ArgumentError(f"dtype: expected float32 or float64; found {dtype}")
    finite("spikes", spikes)
    finite("target", target)
    engine = get_backend(backend)
    decay = math.exp(-float(dt) / float(tau))
    difference = np.subtract(spikes, target, dtype=dtype)
    batched = difference if spikes.ndim == 3 else difference[None]
    filtered = engine.leaky_filter(engine.asarray(batched, dtype), decay)
    scale = float(dt) / float(tau)
    value = scale * float((filtered * filtered).sum(dtype=np.float64))
    gradient = engine.to_numpy(engine.leaky_filter(filtered, decay, reverse=True))
    gradient *= 2 * scale
    return Loss(value, gradient if spikes.ndim == 3 else gradient[0])
