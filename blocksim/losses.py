"""Losses on spike trains, spike counts and scores: each returns its value, and its gradient for `backward`.

Owns the losses' formulas; filters over time are the backend's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blocksim._escape import spike_terms
from blocksim._validation import choice, finite, found, milliseconds, number, precision, real_array
from blocksim.backend import Backend, get_backend
from blocksim.classification import class_labels, class_scores
from blocksim.errors import ArgumentError
from blocksim.numerics import LARGEST_EXPONENT

if TYPE_CHECKING:
    from blocksim._run import Run


class Loss(NamedTuple):
    """A loss and its gradient.

    Attributes
    ----------
    value : float
        The loss. Each loss says whether that is a sum or a mean.
    gradient : float array of the shape of the loss's first argument
        dLoss/d(that argument): of spikes, pass it to `Run.backward` as `grad_spikes`; of scores or spike counts, to
        the `backward` of a network's run.
    """

    value: float
    gradient: np.ndarray


def van_rossum(
    spikes: Any, target: Any, *, tau: float, dt: float, backend: str | Backend = "numba", dtype: Any = np.float64
) -> Loss:
    """Van Rossum distance between spike trains and target trains, equation (19), and its gradient.

    Each train is filtered by a decaying exponential; the distance is the squared difference, integrated over the run
    and divided by tau, summed over samples and neurons. An extra or a missing spike, far from others, costs 1/2 (for
    steps well below tau); a spike far from its right time costs 1.

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
    >>> round(loss.value, 3), loss.gradient.shape
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
    tau, dt, dtype = milliseconds("tau", tau), milliseconds("dt", dt), precision("dtype", dtype)
    finite("spikes", spikes)
    finite("target", target)
    engine = get_backend(backend)
    decay = math.exp(-dt / tau)
    difference = np.subtract(spikes, target, dtype=dtype)
    batched = difference if spikes.ndim == 3 else difference[None]
    filtered = engine.leaky_filter(engine.asarray(batched, dtype), decay)
    scale = dt / tau
    value = scale * float((filtered * filtered).sum(dtype=np.float64))
    gradient = engine.to_numpy(engine.leaky_filter(filtered, decay, reverse=True))
    gradient *= 2 * scale
    return Loss(value, gradient if spikes.ndim == 3 else gradient[0])


class LogLikelihood(NamedTuple):
    """What `log_likelihood` returns.

    Attributes
    ----------
    value : float
        In nats, summed over samples, neurons and steps.
    gradient : float array of the shape of the run's spikes
        With respect to U - theta: pass it to `backward` as `grad_spikes`.
    hazard : float array of the same shape
        Expected number of spikes in each step; 0 where a neuron is refractory.
    """

    value: float
    gradient: np.ndarray
    hazard: np.ndarray


def log_likelihood(run: Run) -> LogLikelihood:
    """Log-likelihood of imposed spikes, equation (40), and its gradient.

    Parameters
    ----------
    run : Run
        Of `simulate(..., impose=spikes, record=("voltage", "threshold"), tape=True)`; for a network, one of the
        `layers` of its run.

    Returns
    -------
    LogLikelihood
        Larger is better: descend along the negative of the gradient.

    Raises
    ------
    ArgumentError
        The run has spikes of its own, or lacks its tape, potential or threshold.

    Notes
    -----
    `run.backward(loss.gradient)` has the gradient of every parameter, the rate and the width of the noise among them.
    It is exact: spikes that were recorded are constants. A spike far below the threshold, which is hardly possible,
    counts for what (40) says, however little that is: if its hazard underflows, for the hazard's logarithm.

    Sources: Paninski, Network 15, 2004; Pozzorini et al., PLoS Computational Biology 11, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import Escape, Layer, LinearIF, simulate
    >>> from blocksim.losses import log_likelihood
    >>> layer = Layer(LinearIF(0.9, spike=Escape(0.05, 0.3)))
    >>> x = np.full((200, 1), 0.1)
    >>> recorded = simulate(layer, x, seed=1).spikes
    >>> run = simulate(layer, x, impose=recorded, record=("voltage", "threshold"), tape=True)
    >>> loss = log_likelihood(run)
    >>> round(loss.value, 1), bool(run.backward(loss.gradient).parameters()["spike.rate"] > 0)
    (-27.0, True)
    """
    layer_pass = getattr(run, "_pass", None)
    if layer_pass is None or layer_pass.plan.imposed is None or run.voltage is None or run.threshold is None:
        raise ArgumentError(
            "run: expected that of simulate(layer, x, impose=spikes, record=('voltage', 'threshold'), tape=True); "
            "found another"
        )
    engine, noise = layer_pass.backend, layer_pass.layer.neuron.linear_parameters()
    spikes, voltage, threshold = (
        engine.to_numpy(array) if engine.owns(array) else array for array in (run.spikes, run.voltage, run.threshold)
    )
    rate, width = (np.asarray(noise[f"spike.{name}"], np.float64) for name in ("rate", "width"))
    exponent = np.minimum((voltage.astype(np.float64) - threshold) / width, LARGEST_EXPONENT)
    hazard = np.where(_live(spikes, layer_pass), rate * np.exp(exponent), 0.0)
    terms = spike_terms(hazard[spikes], (np.log(rate) + exponent)[spikes])
    first = -hazard  # the derivative in the logarithm of the hazard
    first[spikes] = terms.slope
    value = float(terms.value.sum() - hazard[~spikes].sum())
    return LogLikelihood(value, (first / width).astype(voltage.dtype), hazard)


def _live(spikes: np.ndarray, layer_pass: Any) -> np.ndarray:
    """Where neurons are not refractory: no imposed spike is within the refractory period of another."""
    own = spikes.reshape(-1, *spikes.shape[-2:])
    period = np.asarray(layer_pass.layer.neuron.refractory_steps)
    steps = np.arange(own.shape[1])[:, None]
    until = np.zeros((own.shape[0], own.shape[1] + 1, own.shape[2]), np.int64)  # the first step that is live again
    until[:, 0] = layer_pass.left
    np.maximum.accumulate(np.where(own, steps + 1 + period, 0), axis=1, out=until[:, 1:])
    return np.asarray(np.maximum(until[:, :-1], until[:, :1]) <= steps).reshape(spikes.shape)


def cross_entropy(scores: Any, labels: Any, *, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of the softmax of scores, equation (20), and its gradient; the mean over samples.

    Parameters
    ----------
    scores : (B, C) array
        One real score for each sample and class: a decoded readout, or spike counts.
    labels : (B,) integer array
        True classes, 0 to C - 1.
    label_smoothing : float
        Share of the target, from 0 to below 1, that is spread evenly over all classes.

    Returns
    -------
    Loss
        The gradient has the scores' shape and floating dtype.

    Raises
    ------
    ArgumentError
        Shapes do not fit, a label is no class, or a score is not finite.

    Notes
    -----
    The largest score is subtracted before anything is exponentiated: neither large nor small scores overflow.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.losses import cross_entropy
    >>> loss = cross_entropy(np.array([[0.0, 0.0], [1000.0, 0.0]]), np.array([1, 0]))
    >>> round(loss.value, 6)
    0.346574
    >>> loss.gradient
    array([[ 0.25, -0.25],
           [ 0.  ,  0.  ]])
    """
    array = class_scores("scores", scores)
    batch, classes = array.shape
    true = class_labels("labels", labels, batch, classes)
    smoothing = number("label_smoothing", label_smoothing, least=0, below=1)
    shifted = array.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    totals = exponents.sum(axis=1, keepdims=True)
    target = np.full(array.shape, smoothing / classes)
    target[np.arange(batch), true] += 1 - smoothing
    # 0 log 0 does not occur: log softmax is finite, as every score is
    value = -float((target * (shifted - np.log(totals))).sum()) / batch
    return Loss(value, _like(array, (exponents / totals - target) / batch))


def mean_squared_count(counts: Any, target: Any) -> Loss:
    """Mean squared difference between spike counts and wanted ones, equation (21), and its gradient.

    Parameters
    ----------
    counts : (B, N) array
        Spikes of each neuron in each sample.
    target : array that broadcasts to the shape of `counts`
        Wanted counts: for a class, say, 60 spikes of its neuron and 5 of the others.

    Returns
    -------
    Loss
        The mean over samples and neurons; the gradient is that with respect to the counts.

    Raises
    ------
    ArgumentError
        Shapes do not fit, or values are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.losses import mean_squared_count
    >>> loss = mean_squared_count(np.array([[3.0, 1.0]]), np.array([[1.0, 1.0]]))
    >>> loss.value, loss.gradient
    (2.0, array([[2., 0.]]))
    """
    array = class_scores("counts", counts)
    wanted = real_array("target", target)
    finite("target", wanted)
    try:
        difference = array - np.broadcast_to(wanted.astype(np.float64), array.shape)
    except ValueError:
        raise ArgumentError(
            f"target: expected an array that broadcasts to {array.shape}; found {found(wanted)}"
        ) from None
    return Loss(float(np.square(difference).mean()), _like(array, 2 / difference.size * difference))


def rate_penalty(
    counts: Any, duration: float, *, lower: float = 0.0, upper: float = math.inf, over: str = "batch"
) -> Loss:
    """Squared distance of firing rates from a range, equation (22), and its gradient: keeps neurons alive, and sparse.

    Parameters
    ----------
    counts : (B, N) array
        Spikes of each neuron in each sample.
    duration : float
        Length of a sample, above 0, in the unit that gives `lower` and `upper` theirs: in steps, rates are spikes a
        step; in seconds, they are in Hz, and the penalty in Hz squared.
    lower, upper : float
        Rates below `lower` and above `upper` cost; 0 <= lower <= upper.
    over : {"batch", "sample"}
        What must lie within the range: the mean rate of each neuron over the batch, or its rate in every sample.

    Returns
    -------
    Loss
        The mean over neurons (and over samples, for over="sample"), not multiplied by a strength. The gradient is with
        respect to the counts; multiply it by a strength and add it to those of other losses.

    Raises
    ------
    ArgumentError
        The duration is not above 0, the bounds are not 0 <= lower <= upper, or counts are not finite.

    Notes
    -----
    Source: Cramer, Stradmann, Schemmel, Zenke, "The Heidelberg spiking data sets for the systematic evaluation of
    spiking neural networks", IEEE TNNLS 33 (2022), whose lower bound is on the count in every sample.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.losses import rate_penalty
    >>> loss = rate_penalty(np.array([[0.0, 20.0], [0.0, 60.0]]), 1.0, lower=2, upper=30)  # s, Hz
    >>> loss.value, loss.gradient
    (52.0, array([[-1.,  5.], [-1.,  5.]]))
    """
    array = class_scores("counts", counts)
    length = number("duration", duration, above=0)
    least = number("lower", lower, least=0)
    if isinstance(upper, bool) or not isinstance(upper, (int, float, np.number)) or not upper >= least:
        raise ArgumentError(f"upper: expected a rate of at least the lower one, {least:g}; found {found(upper)}")
    choice("over", over, ("batch", "sample"))
    rates = array.astype(np.float64) / length
    shown = rates.mean(axis=0, keepdims=True) if over == "batch" else rates
    beyond = np.maximum(shown - float(upper), 0) - np.maximum(least - shown, 0)
    # the mean over the batch hands each sample its share: the gradient is the same formula for both
    gradient = np.broadcast_to(2 / (array.size * length) * beyond, array.shape)
    return Loss(float(np.square(beyond).mean()), _like(array, gradient))


def _like(array: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """A gradient in the floating dtype of what it belongs to; float64 for counts that are integers."""
    return gradient.astype(array.dtype if array.dtype.kind == "f" else np.float64)
