"""Escape noise: neurons that spike at random, the more readily the higher their potential, equation (39).

Owns the two parameters of the noise, what a spike adds to the log-likelihood (40), and the random numbers: where a run
starts, and after each spike, a neuron draws how much hazard it will bear. They come from a counter-based generator, so
a seed gives the same ones for every block length, chunk, thread count and backend.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from blocksim._parameters import check_fields, parameter
from blocksim._validation import found, milliseconds, real_array
from blocksim.errors import ArgumentError
from blocksim.numerics import atanh_series
from blocksim.transforms import Positive

MAX_SEED = 2**64
# of Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
ATANH_TERMS = 12  # of the series of the logarithm: its argument is at most 0.172
MIN_HAZARD = 1e-300  # below, float64 loses its digits, and then the number


@dataclass(frozen=True, eq=False)
class Escape:
    """Stochastic spikes with a hazard that is exponential in the distance to the threshold, equation (39).

    Source: Gerstner, Kistler, Naud, Paninski, "Neuronal Dynamics", Cambridge 2014, chapter 9; Pozzorini et al., PLoS
    Computational Biology 11, 2015.

    Parameters
    ----------
    rate : float or (N,) array
        Hazard in one step where the potential is at the threshold: the expected number of spikes, > 0.
    width : float or (N,) array
        Distance to the threshold over which the hazard rises e-fold, in the unit of the membrane potential, > 0.

    Raises
    ------
    ArgumentError
        A parameter is not above 0, or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import Escape, Layer, LinearIF, simulate
    >>> noise = Escape.from_ms(rate=100, width=0.1, dt=1)
    >>> neuron = LinearIF(0.9, refractory_steps=2, spike=noise)
    >>> run = simulate(Layer(neuron), np.full((1000, 1), 0.1), backend="numpy", seed=1)
    >>> int(run.spikes.sum())
    27
    """

    rate: float | np.ndarray = parameter(
        "hazard in one step at the threshold", expected="numbers above 0", valid=lambda value: value > 0,
        transform=Positive(),
    )  # fmt: skip
    width: float | np.ndarray = parameter(
        "distance over which the hazard rises e-fold", expected="numbers above 0", valid=lambda value: value > 0,
        unit="potential", transform=Positive(),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def from_ms(cls, *, rate: Any, width: Any, dt: float) -> Self:
        """Make noise from a rate in Hz and a time step in milliseconds.

        Parameters
        ----------
        rate : float or (N,) array
            Hazard at the threshold in Hz, > 0.
        width : float or (N,) array
            As for `Escape`.
        dt : float
            Time step in ms, > 0.

        Raises
        ------
        ArgumentError
            The rate, the width or dt is not above 0 and finite.

        Examples
        --------
        >>> from blocksim import Escape
        >>> Escape.from_ms(rate=100, width=0.1, dt=1).rate
        0.1
        """
        hertz = real_array("rate", rate, "Hz")
        per_step = hertz * (milliseconds("dt", dt) / 1000)
        return cls(per_step if hertz.ndim else float(per_step), width)

    def hazard(self, distance: Any) -> np.ndarray:
        """The hazard of a step, at a distance U - theta of the potential from the threshold: an array of its shape.

        Raises
        ------
        ArgumentError
            The distance is not of real numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim import Escape
        >>> Escape(rate=0.1, width=0.5).hazard(np.array([-0.5, 0.0])).round(4)
        array([0.0368, 0.1   ])
        """
        return np.asarray(self.rate * np.exp(real_array("distance", distance) / self.width))


class Noise(NamedTuple):
    """Which random numbers a layer's run draws.

    Attributes
    ----------
    seed : int
        Of 64 bits.
    place : int
        The layer's place in its network.
    first : int
        Number of the first sample, of those that are run together.
    """

    seed: int
    place: int = 0
    first: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """The generator's: the seed's lower and upper 32 bits."""
        return self.seed & WORD, self.seed >> 32

    def draws(self, samples: np.ndarray, neurons: np.ndarray, size: int, number: np.ndarray) -> np.ndarray:
        """How much hazard neurons bear, exponentially distributed with mean 1, float64: their draws of that number.

        samples, neurons, number : integer arrays of one shape; size : neurons of the layer.
        """
        unit = (np.asarray(samples, np.uint64) + np.uint64(self.first)) * np.uint64(size) + neurons.astype(np.uint64)
        word = np.uint64(WORD)
        counter = [unit & word, unit >> np.uint64(32), number.astype(np.uint64), np.full_like(unit, self.place)]
        first, second, _, _ = philox(counter, self.key)
        return exponential_of(first, second)

    def from_sample(self, number: int) -> Noise:
        """The noise of a part of the samples, from that number on."""
        return self._replace(first=self.first + number)

    def first_draws(self, batch: int, size: int) -> np.ndarray:
        """Those of the first interval, (B, N)."""
        samples, neurons = np.indices((batch, size))
        return self.draws(samples, neurons, size, np.zeros((batch, size), np.int64))


def philox(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Philox4x32-10: four words of 32 bits, in uint64 arrays, from a counter of four and a key of two."""
    a, b, c, d = counter
    first, second = key
    shift, word = np.uint64(32), np.uint64(WORD)
    for _ in range(ROUNDS):
        left, right = np.uint64(MULTIPLIERS[0]) * a, np.uint64(MULTIPLIERS[1]) * c
        a, b, c, d = (
            (right >> shift) ^ b ^ np.uint64(first), right & word, (left >> shift) ^ d ^ np.uint64(second), left & word,
        )  # fmt: skip
        first, second = (first + WEYL[0]) & WORD, (second + WEYL[1]) & WORD
    return [a, b, c, d]


def exponential_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """-log of a number between 0 and 1 of 53 random bits, from two words.

    By additions, multiplications and divisions alone, in this order, so that every backend has the same bits: the
    logarithm of a number from sqrt(1/2) to sqrt(2) is twice the inverse hyperbolic tangent of s = (x - 1) / (x + 1).
    """
    bits = ((first << np.uint64(32)) | second) >> np.uint64(11)
    part, exponent = np.frexp((bits.astype(np.float64) + 0.5) * 2.0**-53)
    small = part < np.sqrt(0.5)
    x, exponent = np.where(small, 2 * part, part), exponent - small
    s = (x - 1) / (x + 1)
    return np.asarray(-(exponent * np.log(2.0) + 2 * s * atanh_series(s * s, ATANH_TERMS)))


class SpikeTerms(NamedTuple):
    """What steps with a spike add to the log-likelihood (40), as functions of the log of their hazard."""

    value: np.ndarray  # log(1 - exp(-hazard))
    slope: np.ndarray
    curvature: np.ndarray  # minus the second derivative


def spike_terms(hazard: np.ndarray, log_hazard: np.ndarray) -> SpikeTerms:
    """Of steps with a spike, whatever their hazard: arrays of its shape.

    A spike of a small hazard has that hazard for its probability. Where the hazard underflows, its logarithm, which
    does not, is therefore the value: finite, and to rounding what (40) says. Minus infinity, or a floor, would be wrong
    by hundreds of nats, and flat, where an ascent needs the slope of 1 that is still there.
    """
    known = hazard >= MIN_HAZARD
    hazard = np.maximum(hazard, MIN_HAZARD)
    probability = -np.expm1(-hazard)
    slope = hazard * np.exp(-hazard) / probability
    return SpikeTerms(np.where(known, np.log(probability), log_hazard), slope, slope * (hazard / probability - 1))


def checked_seed(seed: Any) -> int:
    """A seed, or one of the operating system's entropy where there is None."""
    if seed is None:
        return int.from_bytes(os.urandom(8), "little")  # NumPy would import its generators here, in the middle of a run
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, (bool, np.bool_))
    if not whole or not 0 <= int(seed) < MAX_SEED:
        raise ArgumentError(f"seed: expected a whole number from 0 to 2**64 - 1, or None for another each time; found "
                            f"{seed if whole else found(seed)}")  # fmt: skip
    return int(seed)
