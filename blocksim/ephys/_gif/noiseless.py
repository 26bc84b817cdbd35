"""A fitted neuron without its noise: the threshold is raised until it spikes as often as the recorded cell.

A likelihood puts the threshold where the noisy neuron spikes at 1 Hz, which would be crossed too often without noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from blocksim._layer import Layer
from blocksim._simulation import simulate
from blocksim.ephys._fitting.data import means_of, repeats_of
from blocksim.ephys._gif.cell import GIFCell

CANDIDATES = 33  # thresholds that are run at once, as neurons of one layer
ROUNDS = 3  # each between the two best of the one before: the last are 0.1 % of the range of potentials apart


def without_noise(cell: GIFCell, current: np.ndarray, spikes: np.ndarray, dt: float) -> GIFCell:
    """The cell with width 0, and the threshold at which it spikes as often as recorded.

    current, spikes : (B, T), the sweeps it was fitted to; sweeps that repeat one current are run once.
    """
    groups = repeats_of(current)
    wanted = sum(spikes[group].sum() for group in groups)
    repeats = np.array([len(group) for group in groups])
    x = means_of(current, groups)
    potential = cell.impose(x, np.zeros(x.shape, bool), dt).potential
    low, high = cell.threshold - np.ptp(potential), cell.threshold + np.ptp(potential)
    silent = replace(cell, width=0.0)
    for _ in range(ROUNDS):
        thresholds = np.linspace(low, high, CANDIDATES)
        found = repeats @ _counts(silent, thresholds, x, dt)
        # spikes become fewer with the threshold, but for a few: the first from which on they are not too many
        above = np.flatnonzero(found > wanted)
        last = min(int(above[-1]), CANDIDATES - 2) if len(above) else 0
        low, high = thresholds[last], thresholds[last + 1]
    best = last + int(abs(found[last + 1] - wanted) <= abs(found[last] - wanted))
    return replace(silent, threshold=float(thresholds[best]))


def _counts(cell: GIFCell, thresholds: np.ndarray, current: np.ndarray, dt: float) -> np.ndarray:
    """Spikes in each sweep, (B, K), with each of the thresholds in mV."""
    neuron = cell.neuron(dt, len(thresholds), np.float32)
    neuron = replace(neuron, theta=(thresholds - cell.rest).astype(np.float32))
    x = (current * cell.gain(dt)).astype(np.float32)
    run = simulate(Layer(neuron), x[..., None])
    return np.asarray(run.spikes.sum(axis=1))
