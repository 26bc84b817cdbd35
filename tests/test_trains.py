"""Spike trains: made of times and of steps, cut, moved to grids; and wrong input."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

import blocksim
from blocksim import metrics
from blocksim._milliseconds import steps_of_ms
from blocksim.data import from_lists
from blocksim.trains import (
    SpikeTrains,
    checked_window,
    exact_times,
    near_spikes,
    nearest_steps,
    steps_of,
    steps_that_hold,
)

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


def test_a_length_of_time_is_the_nearest_number_of_steps():
    """As refractory periods are rounded, and half a step to the even one."""
    assert [nearest_steps(time, 0.5) for time in (0, 0.2, 0.25, 0.3, 0.75, 1.25, 2.0)] == [0, 0, 0, 1, 2, 2, 4]
    for dt in (0.1, 0.25, 0.3, 1 / 3):
        times = np.arange(2000) * 0.05
        steps = [nearest_steps(time, dt) for time in times.tolist()]
        assert steps == steps_of_ms("refractory", times, dt, "nearest").tolist()


def test_steps_that_hold_a_length_of_time():
    times = [Fraction(k, 50) for k in range(20_000)]
    for dt in (Fraction(1, 10), Fraction(3, 10), Fraction(1, 50), Fraction(1, 3)):
        exact = [-(-time // dt) for time in times]
        assert [steps_that_hold(float(time), float(dt)) for time in times] == exact
    # 2.1 / 0.3 is 7.000000000000001: plain ceil has a step too many
    assert int(np.ceil(2.1 / 0.3)) == 8
    assert steps_that_hold(2.1, 0.3) == 7


def near_by_hand(trains, window, dt, steps):
    """Steps near spikes, one by one and in exact numbers: Python's round of a Fraction goes to the even one too."""
    before, after = (round(time / dt) for time in window)
    result = np.zeros((len(trains), steps), bool)
    for row, train in zip(result, trains, strict=True):
        for time in train:
            own = min(time // dt, steps - 1) if time <= steps * dt else time // dt
            for step in range(steps):
                row[step] |= own - before <= step <= own + after
    return result


@pytest.mark.parametrize("dt", [Fraction(1, 10), Fraction(3, 10), Fraction(1, 4), Fraction(1, 3)])
@pytest.mark.parametrize("window", [(2, 8), (0, 0), (Fraction(1, 2), 0), (0, Fraction(17, 50)), (5, 50), (1000, 0)])
def test_steps_near_spikes_are_those_counted_by_hand(dt, window):
    rng = np.random.default_rng(0)
    window, steps = tuple(map(Fraction, window)), 400
    last = int(steps * dt * 1000)
    exact = [
        [Fraction(int(time), 1000) for time in np.sort(rng.integers(0, last, 7))],  # in their step, anywhere
        [int(step) * dt for step in np.sort(rng.integers(0, steps, 4))],  # at its start
        [], [Fraction(0)], [steps * dt], [-dt * 3, (steps + 2) * dt],
    ]  # fmt: skip
    trains = SpikeTrains.of([[float(time) for time in train] for train in exact])
    found = near_spikes(trains, tuple(map(float, window)), float(dt), steps)
    np.testing.assert_array_equal(found, near_by_hand(exact, window, dt, steps))


def test_near_spikes_is_the_same_wherever_in_its_step_a_spike_lies():
    """Where the ends of the window are times, and not numbers of steps, the window is longer or elsewhere by a step."""
    dt, at = 0.1, np.arange(60, 1000)
    whole = near_spikes(SpikeTrains.of([[step * dt] for step in at]), (5.0, 8.0), dt, 1100)
    assert (whole.sum(axis=1) == 131).all()
    later = near_spikes(SpikeTrains.of([[(step + 0.7) * dt] for step in at]), (5.0, 8.0), dt, 1100)
    np.testing.assert_array_equal(later, whole)
    assert (np.floor((at * dt - 5.0) / dt) < at - 50).sum() > 10
    assert (np.ceil((at * dt + 8.0) / dt) > at + 80).sum() > 10
    assert (np.round(((at + 0.7) * dt - 5.0) / dt) == at - 49).all()


def test_a_window_without_an_end_takes_all():
    trains = SpikeTrains.of([[3.0], []])
    assert near_spikes(trains, (1e12, 1e12), 1e-12, 5).tolist() == [[True] * 5, [False] * 5]
    assert checked_window("window", [np.float32(0.1), 0]) == (0.1, 0.0)


@pytest.mark.parametrize("order", ["<", ">"])
def test_single_precision_stands_for_the_decimal_that_was_written(order):
    rng = np.random.default_rng(0)
    for unit, factor, tenths in (("s", 1000.0, 4), ("ms", 1.0, 1), ("us", 1e-3, -2)):
        for top in (1.0, 1e3, 5e4):  # up to 50 s, where float32 resolves 4 us
            written = np.round(rng.uniform(0, top / factor, 20_000), tenths)  # tenths of a ms
            stored = written.astype(f"{order}f4")
            exact = written if unit == "ms" else written * 1000 if unit == "s" else written / 1000
            np.testing.assert_array_equal(exact_times(stored, unit), exact)
            np.testing.assert_array_equal(steps_of(exact_times(stored, unit), 0.1), np.rint(exact * 10))
    grid = np.arange(600_000) * 0.1  # a minute
    np.testing.assert_array_equal(steps_of(grid.astype(f"{order}f4"), 0.1), np.arange(600_000))
    trains = SpikeTrains.of([grid.astype(f"{order}f4")])
    np.testing.assert_array_equal(trains.times, np.round(grid, 1))
    np.testing.assert_array_equal(SpikeTrains(grid.astype(f"{order}f4"), np.array([0, len(grid)])).times, trains.times)
    assert (trains.to_steps(0.1, 600_000) == 1).all()
    np.testing.assert_array_equal(trains.on_grid(0.5).times, np.arange(600_000) // 5 * 0.5)
    ascending = np.sort(rng.uniform(0, 1e5, 100_000)).astype(f"{order}f4")
    assert (np.diff(exact_times(ascending)) >= 0).all()
    assert np.abs(exact_times(ascending) - ascending.astype(float)).max() <= np.spacing(np.float32(1e5)) / 2


def test_times_beyond_all_steps_stay_in_order():
    assert steps_of(np.array([-1e300, 0.0, 1e300]), 0.1).tolist() == [-(2**62), 0, 2**62]


class Seconds:
    """What quantities, pint and astropy have in common; with the names of one of them."""

    def __init__(self, values, convert, plain):
        self.values, self.units = values, "s"
        setattr(self, convert, self._in)
        self.plain = plain

    def _in(self, unit):
        if unit != "ms":
            raise TypeError("no unit of time")
        return SimpleNamespace(**{self.plain: np.asarray(self.values) * 1000})


@pytest.mark.parametrize("names", [("rescale", "magnitude"), ("to", "magnitude"), ("to", "value")])
def test_times_with_a_unit_are_converted(names):
    times = [0.1, 0.25]
    seconds = Seconds(times, *names)
    for trains in (seconds, [seconds], [Seconds(value, *names) for value in times]):
        same(SpikeTrains.of(trains), [[100, 250]])
    assert metrics.van_rossum([seconds], [[100.0, 250.0]], tau=Seconds(0.005, *names)) == pytest.approx(0, abs=1e-12)
    events = blocksim.Events.from_lists([seconds], [[0, 1]], channels=2, dt=Seconds(0.001, *names))
    assert events.shape == (1, 251, 2)
    assert from_lists([seconds], [[0, 1]], [0], channels=2).batch([0]).x.shape == (1, 251, 2)
    seconds.units = "mV"
    seconds.to = seconds.rescale = lambda unit: 1 / 0
    assert_refused(lambda: SpikeTrains.of(seconds), ["trains:", "in ms", "mV"])


@pytest.mark.parametrize("library", ["quantities", "pint"])
def test_times_of_libraries_of_units(library):
    module = pytest.importorskip(library, reason=f"needs {library}, which is not installed")
    units = module.UnitRegistry() if library == "pint" else module
    times = np.array([0.1, 0.25])
    same(SpikeTrains.of(times * units.s), [[100, 250]])
    same(SpikeTrains.of([times * units.s, times * units.ms]), [[100, 250], [0.1, 0.25]])
    assert metrics.van_rossum(times * units.s, [1000 * times], tau=5 * units.ms) == pytest.approx(0, abs=1e-12)
    assert_refused(lambda: SpikeTrains.of(times * units.mV), ["trains:", "in ms"])


def test_masked_times_are_refused_and_pandas_are_times():
    same(SpikeTrains.of(np.ma.array([1.0, 2.0])), [[1, 2]])
    assert_refused(lambda: SpikeTrains.of(np.ma.array([1.0, 2.0], mask=[0, 1])), ["trains:", "masked", "1 of 2"])
    assert_refused(lambda: SpikeTrains.of([np.ma.array([1.0, 2.0], mask=[0, 1])]), ["train 0", "masked", "1 of 2"])
    pandas = pytest.importorskip("pandas", reason="needs pandas, which is not installed")
    same(SpikeTrains.of(pandas.Series([1.0, 2.0])), [[1, 2]])


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
    (lambda: SpikeTrains.from_steps([1e300, 1], 0.1), ["spikes:", "counts"]),
    (lambda: SpikeTrains.from_steps([np.nan, 1], 0.1), ["spikes:", "counts"]),
    (lambda: SpikeTrains.from_steps([2**30] * 3, 0.1), ["spikes:", "at most 8", "3.2"]),
    (lambda: SpikeTrains.of([1e300]).to_steps(0.1, 10), ["steps:", "1e+300"]),
    (lambda: SpikeTrains.of([1.0]).to_steps(0.1, 10**30), ["steps:", "memory"]),
    (lambda: SpikeTrains.of([5.0]).to_steps(1.0, 5), ["steps:", "5 ms", "found one at 5 ms"]),
    (lambda: SpikeTrains.of([1.0, 1.2]).to_steps(0.5, 5, "error"), ["dt:", "1 spike(s)", "2 of train 0 in step 2"]),
    (lambda: SpikeTrains.of([1.0]).to_steps(0.5, 5, "drop"), ["collisions:", "'count'", "'drop'"]),
])  # fmt: skip
def test_wrong_input_is_named(call, words):
    assert_refused(call, words)
