"""Spike trains: made of times and of steps, cut, moved to grids; and wrong input."""

from __future__ import annotations

import numpy as np
import pytest

from blocksim.trains import SpikeTrains, steps_of

from .helpers import assert_refused


def same(trains, expected):
    assert len(trains) == len(expected)
    for found, wanted in zip(trains, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("given", "expected"), [
    ([[1.0, 2.5], [], [7]], [[1, 2.5], [], [7]]),
    ([1.0, 2.5], [[1, 2.5]]),
    (np.array([3.0]), [[3]]),
    (np.array([]), [[]]),
    ([[]], [[]]),
    ([], []),
    ([np.array([1, 2]), np.array([], int)], [[1, 2], []]),
])  # fmt: skip
def test_trains_of_times(given, expected):
    trains = SpikeTrains.of(given)
    same(trains, expected)
    assert trains.times.dtype == np.float64
    assert trains.counts.tolist() == [len(train) for train in expected]
    assert SpikeTrains.of(trains) is trains


def test_steps_and_back():
    rng = np.random.default_rng(0)
    for dt in (0.1, 0.3, 1 / 3, 0.05, 8.0):
        counts = rng.integers(0, 3, (4, 1000)).astype(np.uint8)
        trains = SpikeTrains.from_steps(counts, dt)
        np.testing.assert_array_equal(trains.to_steps(dt, 1000), counts)
        np.testing.assert_array_equal(trains.to_steps(dt, 1000, "merge"), counts > 0)
        assert trains.collisions(dt) == (counts == 2).sum()


def test_times_on_an_edge_fall_after_it():
    times = np.arange(100_000) * 0.1
    # 0.3 / 0.1 is 2.9999999999999996: plain floor loses a step
    assert (np.floor(times / 0.1) != np.arange(100_000)).any()
    np.testing.assert_array_equal(steps_of(times, 0.1), np.arange(100_000))
    np.testing.assert_array_equal(steps_of(times, 0.5), np.arange(100_000) // 5)


def test_window_take_grid_pad():
    trains = SpikeTrains.of([[0.0, 5.0, 9.9], [], [5.2]])
    same(trains.window(5, 9.9), [[0], [], [pytest.approx(0.2)]])
    same(trains.window(0, 100), [[0, 5, 9.9], [], [5.2]])
    same(trains.take([2, 0]), [[5.2], [0, 5, 9.9]])
    same(trains.on_grid(4.0), [[0, 4, 8], [], [4]])
    np.testing.assert_array_equal(trains.padded(), [[0, 5, 9.9], [np.inf] * 3, [5.2, np.inf, np.inf]])
    assert trains.owners.tolist() == [0, 0, 0, 2]
    with pytest.raises(IndexError):
        trains[3]


def test_the_callers_arrays_are_not_shared():
    times, offsets = np.array([1.0, 2.0]), np.array([0, 2])
    trains = SpikeTrains(times, offsets)
    times[0] = 9
    assert trains.times[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        trains.times[0] = 3


@pytest.mark.parametrize(("call", "words"), [
    (lambda: SpikeTrains.of(np.zeros((2, 3))), ["trains:", "(2, 3)", "from_steps"]),
    (lambda: SpikeTrains.of(np.zeros(3, bool)), ["trains:", "bool", "from_steps"]),
    (lambda: SpikeTrains.of([[2.0, 1.0]]), ["ascending", "1.0 after 2.0", "train 0"]),
    (lambda: SpikeTrains.of([[1.0], [5.0, 3.0]]), ["ascending", "3.0 after 5.0", "train 1"]),
    (lambda: SpikeTrains.of([[np.nan]]), ["times:", "finite", "nan"]),
    (lambda: SpikeTrains.of(3.0), ["trains:", "3.0"]),
    (lambda: SpikeTrains.of([["a"]]), ["trains:", "train 0"]),
    (lambda: SpikeTrains(np.zeros(3), np.array([0, 2])), ["offsets:", "3"]),
    (lambda: SpikeTrains(np.zeros((3, 1)), np.array([0, 3])), ["times:", "(3, 1)"]),
    (lambda: SpikeTrains.from_steps(np.zeros((2, 3, 4)), 0.1), ["spikes:", "(2, 3, 4)"]),
    (lambda: SpikeTrains.from_steps([0.5, 1], 0.1), ["spikes:", "counts"]),
    (lambda: SpikeTrains.from_steps([-1, 1], 0.1), ["spikes:", "counts"]),
    (lambda: SpikeTrains.from_steps([0, 1], 0), ["dt:", "above 0", "0"]),
    (lambda: SpikeTrains.of([5.0]).to_steps(1.0, 5), ["steps:", "5 ms", "found one at 5 ms"]),
    (lambda: SpikeTrains.of([1.0, 1.2]).to_steps(0.5, 5, "error"), ["dt:", "1 spike(s)", "2 of train 0 in step 2"]),
    (lambda: SpikeTrains.of([1.0]).to_steps(0.5, 5, "drop"), ["collisions:", "'count'", "'drop'"]),
])  # fmt: skip
def test_wrong_input_is_named(call, words):
    assert_refused(call, words)
