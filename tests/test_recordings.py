"""Recordings: spikes found, sweeps and time chosen, time steps changed; and wrong input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from blocksim import ArgumentError, BlocksimWarning
from blocksim.ephys import Detection, Recording, detect_spikes, missed, open_recording, resample
from blocksim.trains import SpikeTrains

from .helpers import assert_refused


def spike(time, centre, height=100.0, width=0.4):
    """A spike's shape: up in well below a millisecond."""
    return height * np.exp(-0.5 * ((time - centre) / width) ** 2)


def cell(sweeps=3, steps=4000, dt=0.1, seed=0):
    """A recording with a spike at 50 ms, and one at 200 + 10 k ms of sweep k."""
    rng = np.random.default_rng(seed)
    time = np.arange(steps) * dt
    voltage = np.stack([-65 + spike(time, 50) + spike(time, 200 + 10 * k) for k in range(sweeps)])
    labels = [f"noise_{k}" for k in range(sweeps - 1)] + ["step_1"]
    return Recording(rng.normal(20, 100, (sweeps, steps)), voltage, 1000 / dt, labels=labels)


# -------------------------------------------------------------------------------------------------------- detection


def test_crossings_are_the_first_samples_above():
    voltage = np.array([[5, -5, 0, 3, -1, -2, 4.0, -9], [-1, -1, -1, -1, -1, -1, -1, -1]])
    trains = detect_spikes(voltage, 0.5, Detection(dead_time=0))
    # the first sample is above already: where it crossed is not known
    np.testing.assert_array_equal(trains[0], [1.0, 3.0])
    assert not len(trains[1])
    assert len(detect_spikes(voltage, 0.5, Detection(dead_time=2.0))[0]) == 2
    assert detect_spikes(voltage, 0.5, Detection(dead_time=2.1))[0].tolist() == [1.0]
    assert detect_spikes(voltage, 0.5, Detection(threshold=3.5, dead_time=0))[0].tolist() == [3.0]


def test_dead_time_counts_from_the_last_spike_kept():
    voltage = np.tile([-1.0, 1.0], 10)
    assert detect_spikes(voltage, 1.0, Detection(dead_time=3))[0].tolist() == [1, 5, 9, 13, 17]
    assert detect_spikes(voltage, 1.0, Detection(dead_time=4))[0].tolist() == [1, 5, 9, 13, 17]
    assert detect_spikes(voltage, 1.0, Detection(dead_time=4.5))[0].tolist() == [1, 7, 13, 19]


@pytest.mark.parametrize("dt", [0.02, 0.05, 0.1])
def test_onsets_come_before_crossings(dt):
    time = np.arange(0, 300, dt)
    rng = np.random.default_rng(0)
    voltage = -65 + spike(time, 100) + spike(time, 150, height=90) + rng.normal(0, 0.2, len(time))
    # a fast rise that comes to nothing, and a slow one that crosses
    voltage += spike(time, 200, height=25) + spike(time, 250, height=80, width=8)
    crossings = detect_spikes(voltage, dt, Detection(threshold=0))[0]
    onsets = detect_spikes(voltage, dt, Detection("dvdt", threshold=-20))[0]
    assert len(crossings) == 3
    assert len(onsets) == 2
    lead = crossings[:2] - onsets
    assert (lead > 0.2).all()
    assert (lead < 1.2).all()


def test_a_rise_fast_in_several_stretches_is_one_spike():
    steps = np.array([0, 3, 3, 1, 3, 3, 3, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, -20, -20, -20, 0, 0])
    voltage = -65 + np.cumsum(np.tile(steps, 3)).astype(float)
    found = detect_spikes(voltage, 0.1, Detection("dvdt", dead_time=0, rise=5))
    assert found[0].tolist() == [0.0, pytest.approx(2.9), pytest.approx(5.8)]


def test_small_spikes_are_reported_not_taken():
    time = np.arange(0, 300, 0.1)
    voltage = -65 + spike(time, 100) + spike(time, 200, height=50)
    trains = detect_spikes(voltage, 0.1)
    assert trains.counts.tolist() == [1]
    assert missed(voltage, 0.1, trains) == 1
    assert missed(voltage, 0.1, detect_spikes(voltage, 0.1, Detection(threshold=-30))) == 0


def test_spikes_of_recordings_are_those_of_their_authors(shared_data):
    total = 0
    for file in ("l5_cell3", "DRN157_5HT", "DRN158_GABA"):
        for part in ("main",) if file == "l5_cell3" else ("training", "test"):
            path = shared_data / "recordings" / f"{file}.npz"
            recording = open_recording(path, part=part)
            found = detect_spikes(recording.voltage, recording.dt)
            suffix = "" if part == "main" else f"_{part}"
            with np.load(path) as data:
                rows = np.atleast_2d(data[f"spike_idx{suffix}"])
            for own, row, listed in zip(found, rows, recording.spikes, strict=True):
                np.testing.assert_array_equal(np.rint(own * 10), row[row >= 0])
                np.testing.assert_array_equal(own, listed)
            total += len(found.times)
            assert missed(recording.voltage, recording.dt, found) == 0
            # spikes of raphe cells late in a burst rise by less than 20 mV/ms
            criterion = Detection("dvdt", dvdt=20 if file == "l5_cell3" else 10)
            onsets = detect_spikes(recording.voltage, recording.dt, criterion)
            assert onsets.counts.tolist() == found.counts.tolist()
            assert np.abs(onsets.times - found.times).max() < 2.5
    assert total == 2050 + 284 + 404 + 309 + 416


# -------------------------------------------------------------------------------------------------------- recording


def test_a_recording_keeps_its_own_arrays():
    current = np.zeros((2, 100), np.float32)
    recording = Recording(current, np.full((2, 100), -70), 10_000)
    current[:] = 5
    assert (recording.current == 0).all()
    assert recording.current.dtype == recording.voltage.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        recording.current[0, 0] = 1
    assert (recording.sweeps, recording.steps, recording.dt, recording.duration) == (2, 100, 0.1, pytest.approx(10))
    assert recording.labels == ("0", "1")


@pytest.mark.parametrize(("sweeps", "expected"), [
    (1, ["noise_1"]), ([2, 0], ["step_1", "noise_0"]), (-1, ["step_1"]), ("noise_*", ["noise_0", "noise_1"]),
    ("step_1", ["step_1"]), (["step_?", 0, "noise_0"], ["step_1", "noise_0"]),
])  # fmt: skip
def test_sweeps_are_chosen(sweeps, expected):
    recording = cell()
    chosen = recording.select(sweeps)
    assert list(chosen.labels) == expected
    for k, label in enumerate(expected):
        origin = recording.labels.index(label)
        np.testing.assert_array_equal(chosen.current[k], recording.current[origin])
        np.testing.assert_array_equal(chosen.voltage[k], recording.voltage[origin])
        np.testing.assert_array_equal(chosen.spikes[k], recording.spikes[origin])


def test_splits():
    recording = cell()
    train, test = recording.split(at=205.0)
    assert (train.steps, test.steps) == (2050, 1950)
    np.testing.assert_array_equal(np.concatenate([train.current, test.current], axis=1), recording.current)
    assert (train.spikes.counts + test.spikes.counts).tolist() == [2, 2, 2]
    assert train.spikes.counts.tolist() == [2, 1, 1]
    np.testing.assert_allclose(test.spikes[1], recording.spikes[1][1:] - 205)
    # no spike is in both parts, or in none, wherever the cut is
    for step in range(1990, 2010):
        parts = recording.split(at=step * 0.1)
        np.testing.assert_array_equal(
            np.concatenate([part.spike_counts() for part in parts], axis=1), recording.spike_counts()
        )
    train, test = recording.split(test_sweeps="step*")
    assert (train.labels, test.labels) == (("noise_0", "noise_1"), ("step_1",))


# ------------------------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("new_dt", [0.05, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.7, 1.0, 2.0, 4.0, 8.0, 1000.0])
def test_charge_is_conserved_and_spikes_are_kept(new_dt):
    recording = cell()
    other = recording.at_dt(new_dt)
    charge = recording.current.sum(axis=1) * 0.1
    np.testing.assert_allclose(other.current.sum(axis=1) * new_dt, charge, rtol=1e-9)
    # up to every edge, not only at the end: the integral at multiples of both steps
    cumulative = np.cumsum(other.current, axis=1) * new_dt
    edges = (np.arange(other.steps) + 1) * new_dt
    exact = [np.interp(edges, np.arange(4001) * 0.1, np.append(0, np.cumsum(row) * 0.1)) for row in recording.current]
    np.testing.assert_allclose(cumulative, exact, atol=1e-6)
    assert other.spike_counts().sum() == recording.spike_counts().sum() == 6
    assert other.spikes is recording.spikes
    # a potential does not go to zero where the sweep ends
    assert other.voltage.min() > -66
    assert other.voltage[:, -1].max() < -60
    # a spike is in the step that holds its sample
    for train, counts in zip(recording.spikes, other.spike_counts(), strict=True):
        exact_steps = np.floor(np.rint(train / 0.1) * 0.1 / new_dt + 1e-9).astype(int)
        np.testing.assert_array_equal(np.repeat(np.arange(other.steps), counts), exact_steps)


def test_whole_ratios_are_means_and_repeats():
    x = np.random.default_rng(0).normal(size=(2, 120))
    np.testing.assert_allclose(resample(x, 0.1, 0.3), x.reshape(2, 40, 3).mean(axis=2), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(resample(x, 0.3, 0.1), np.repeat(x, 3, axis=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(resample(resample(x, 0.7, 0.1), 0.1, 0.7), x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(resample(np.full(7, 5.0), 1, 3, end="mean"), [5, 5, 5])
    np.testing.assert_allclose(resample(np.full(7, 5.0), 1, 3), [5, 5, 5 / 3])


def test_a_small_signal_on_a_large_offset_stays():
    x = 1e6 + np.sin(np.arange(200_000) * 0.01)
    np.testing.assert_allclose(resample(x, 0.1, 0.2), x.reshape(-1, 2).mean(axis=1), rtol=0, atol=2e-9)


def test_two_spikes_in_one_step_are_reported():
    recording = Recording(np.zeros(1000), np.full(1000, -70.0), 10_000, [[10.0, 12.0, 50.0]]).at_dt(4.0)
    assert recording.spikes.collisions(4.0) == 0
    later = Recording(np.zeros(1000), np.full(1000, -70.0), 10_000, [[12.0, 13.0, 50.0]]).at_dt(4.0)
    assert later.spikes.collisions(4.0) == 1
    assert later.spike_counts().sum() == 3
    assert later.spike_counts("merge").sum() == 2
    with pytest.raises(ArgumentError, match=r"1 spike\(s\) that share a step of 4 ms"):
        later.spike_counts("error")


V = np.full((2, 50), -70.0)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: Recording(np.zeros((2, 40)), V, 1e4), ["current, voltage:", "(2, 40)", "(2, 50)"]),
    (lambda: Recording(np.zeros((2, 0)), V, 1e4), ["current:", "non-empty", "(2, 0)"]),
    (lambda: Recording(np.zeros((2, 50)), V * np.nan, 1e4), ["voltage:", "finite", "nan"]),
    (lambda: Recording(np.zeros((2, 50)), V, 0), ["sampling_rate:", "above 0", "0"]),
    (lambda: Recording(np.zeros((2, 50)), V, 1e4, [[1.0]]), ["spikes:", "2 sweeps", "1"]),
    (lambda: Recording(np.zeros((2, 50)), V, 1e4, [[1.0], [6.0]]), ["spikes:", "0 to 5 ms", "6"]),
    (lambda: Recording(np.zeros((2, 50)), V, 1e4, labels=["a"]), ["labels:", "2 sweeps", "1"]),
    (lambda: cell().select(3), ["sweeps:", "0 to 2", "noise_0", "3"]),
    (lambda: cell().select("pulse*"), ["sweeps:", "noise_0", "'pulse*'"]),
    (lambda: cell().select([]), ["sweeps:", "none"]),
    (lambda: cell().window(10, 10), ["start, stop:", "400 ms", "10"]),
    (lambda: cell().window(0, 401), ["start, stop:", "400 ms", "401"]),
    (lambda: cell().split(), ["split:", "one of"]),
    (lambda: cell().split(at=400), ["start, stop:", "400"]),
    (lambda: cell().split(at=5, test_sweeps=1), ["split:", "both"]),
    (lambda: cell().split(test_sweeps="*"), ["test_sweeps:", "all 3"]),
    (lambda: cell().at_dt(0), ["dt:", "above 0"]),
    (lambda: resample([1.0, np.inf], 1, 2), ["trace:", "inf"]),
    (lambda: resample([], 1, 2), ["trace:", "non-empty"]),
    (lambda: resample([1.0], 1, 2, end="hold"), ["end:", "'zero'", "'hold'"]),
    (lambda: detect_spikes(np.zeros((1, 2, 3)), 0.1), ["voltage:", "(1, 2, 3)"]),
    (lambda: Detection("peak"), ["method:", "'threshold'", "'peak'"]),
    (lambda: Detection(threshold=np.inf), ["threshold:", "inf"]),
    (lambda: Detection(dvdt=-1), ["dvdt:", "-1"]),
    (lambda: Detection(dead_time=-1), ["dead_time:", "-1"]),
])  # fmt: skip
def test_wrong_input_is_named(call, words):
    assert_refused(call, words)


def test_spikes_may_be_given():
    trains = SpikeTrains.of([[1.0], [2.0, 5.0]])
    recording = Recording(np.zeros((2, 50)), V, 1e4, trains)
    assert recording.spikes is trains
    # a time at the very end is in the last step
    assert recording.spike_counts()[1, 49] == 1


@pytest.mark.parametrize(
    ("current", "voltage", "words"),
    [
        (np.full((1, 400), 50.0), np.full((1, 400), -0.065), "looks like volts"),
        (np.full((1, 400), 0.2), np.full((1, 400), -65.0), "looks like nA"),
        (np.full((1, 400), 2e-10), np.full((1, 400), -65.0), "looks like amperes"),
        (np.full((1, 400), -65.0), np.full((1, 400), 100.0), "changed places"),
        (np.full((400, 3), 50.0), np.full((400, 3), -65.0), "400 sweeps of 3 .*transposed"),
    ],
)
def test_arrays_in_doubt_are_warned_of(current, voltage, words):
    with pytest.warns(BlocksimWarning, match=words) as caught:
        recording = Recording(current, voltage, 1000, [[]] * len(current))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough: what is made of it is not judged again
        recording.window(0, recording.duration / 2)


def test_ordinary_arrays_are_not_in_doubt():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for current in (np.zeros((2, 400)), np.full((2, 400), 30.0), np.full((2, 400), -4.0)):
            Recording(current, np.full((2, 400), -65.0), 1000)
        Recording(np.full((1, 400), 0.5), np.zeros((1, 400)), 1000)
