"""Random numbers that depend on the seed, the epoch and the sample alone.

Owns how they are derived, so that a resumed run, or one split over workers, sees the same samples. Philox (Salmon et
al. 2011, doi 10.1145/2063384.2063405) is a function of a key and a counter: the key is hashed from purpose, seed and
epoch by NumPy's SeedSequence, and the sample's number is the top word of the counter, 2**192 draws apart.
"""

from __future__ import annotations

import numpy as np

from blocksim._validation import whole_number

# what a stream is for; streams of two purposes never meet
SHUFFLE, AUGMENT, SPLIT, NOISE, HELD_OUT_NOISE, EVALUATION_NOISE = range(6)


class Streams:
    """The generators of one purpose, seed and epoch.

    Examples
    --------
    >>> from blocksim.data._randomness import AUGMENT, Streams
    >>> Streams(AUGMENT, 0, 3).generator(5).random() == Streams(AUGMENT, 0, 3).generator(5).random()
    True
    """

    def __init__(self, purpose: int, seed: int, epoch: int = 0) -> None:
        entropy = [purpose, whole_number("seed", seed, 0), whole_number("epoch", epoch, 0)]
        self._key = np.random.SeedSequence(entropy).generate_state(2, np.uint64)

    @property
    def seed(self) -> int:
        """A seed of 64 bits, of stochastic neurons."""
        return int(self._key[0])

    def generator(self, sample: int = 0) -> np.random.Generator:
        """A new generator, at the start of the sample's stream."""
        counter = np.array([0, 0, 0, sample], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=self._key, counter=counter))
