"""Active electrode compensation: kernels and potentials of synthetic cells, and of a real one, and what is refused."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from blocksim import ArgumentError
from blocksim.ephys import Recording, open_parts
from blocksim.ephys._recordings import electrode
from blocksim.ephys._recordings.electrode import ElectrodeKernel, compensate, electrode_kernel

NOISE = 0.3  # mV
# resistances (MOhm) and time constants (ms)
PATCH = [(20, 0.3)]
SHARP = [(30, 0.1), (20, 0.5)]


def leaky(values, factor):
    """y[t] = factor y[t - 1] + values[t], from 0."""
    state, result = 0.0, []
    for value in values.tolist():
        state = factor * state + value
        result.append(state)
    return np.array(result)


def noise(steps, dt, deviation, tau=None, seed=0):
    """White noise in pA, or an Ornstein-Uhlenbeck process."""
    white = deviation * np.random.default_rng(seed).normal(size=steps)
    factor = 0 if tau is None else np.exp(-dt / tau)
    return leaky(white, factor) * np.sqrt(1 - factor**2)


def kernel_of(parts, dt):
    """The electrode's kernel in MOhm a step, until nothing is left."""
    time = np.arange(0, 20 * max(tau for _, tau in parts), dt)
    return sum(resistance * (1 - np.exp(-dt / tau)) * np.exp(-time / tau) for resistance, tau in parts)


def simulated(current, dt, parts=PATCH, resistance=150.0, tau=15.0, threshold=np.inf, seed=100):
    """A recording through an electrode, and the membrane's potential without; spikes reset to -75 mV for 2 ms."""
    kernel = kernel_of(parts, dt)
    entering = np.convolve(current, kernel)[: len(current)] / kernel.sum()
    factor = np.exp(-dt / tau)
    membrane = leaky(resistance / 1000 * (1 - factor) * entering, factor) - 70
    if np.isfinite(threshold):
        state, held, drive = 0.0, 0, resistance / 1000 * (1 - factor) * entering
        for step, value in enumerate(drive.tolist()):
            state = -5.0 if held > 0 else factor * state + value
            held -= 1
            membrane[step] = state - 70 if held < round(1 / dt) else 30
            if held <= 0 and state > threshold + 70:
                membrane[step], held = 30, round(2 / dt)
    own = np.random.default_rng(seed).normal(0, NOISE, len(current))
    recorded = membrane + np.convolve(current, kernel)[: len(current)] / 1000 + own
    return recorded, membrane


def check(recording, membrane, parts, within, error, **options):
    """The electrode is found, and what it adds is taken away: `error` in mV, beside the recording's noise."""
    before = recording.current.copy(), recording.voltage.copy()
    kernel = electrode_kernel(recording, **options)
    result = compensate(recording, kernel)
    expected = sum(resistance for resistance, _ in parts)
    assert abs(kernel.resistance - expected) < within * expected
    left = np.sqrt(max(np.mean((result.voltage - membrane) ** 2) - NOISE**2, 0))
    added = np.sqrt(np.mean((recording.voltage - membrane) ** 2) - NOISE**2)
    assert left < error
    assert left < added / 10
    # the recording is as it was
    assert np.array_equal(recording.current, before[0])
    assert np.array_equal(recording.voltage, before[1])
    assert result.current is recording.current
    assert result.spikes is recording.spikes
    assert (result.sampling_rate, result.labels) == (recording.sampling_rate, recording.labels)
    return kernel


@pytest.mark.parametrize(("dt", "parts", "resistance", "tau", "deviation", "tau_current"), [
    (0.1, PATCH, 150.0, 15.0, 200, None),
    (0.1, PATCH, 150.0, 15.0, 100, 3.0),
    (0.05, PATCH, 150.0, 15.0, 100, 3.0),
    (0.1, SHARP, 60.0, 10.0, 300, 3.0),
    (0.05, SHARP, 60.0, 10.0, 400, None),
    (0.1, PATCH, 300.0, 40.0, 100, 3.0),  # the membrane is nearly as long as the full kernel
])  # fmt: skip
def test_an_electrode_is_found_and_taken_away(dt, parts, resistance, tau, deviation, tau_current):
    current = noise(150_000, dt, deviation, tau_current)
    voltage, membrane = simulated(current, dt, parts, resistance, tau)
    kernel = check(Recording(current, voltage, 1000 / dt), membrane, parts, 0.03, 0.1)
    assert kernel.tau_mem == pytest.approx(tau, rel=0.02)
    assert kernel.membrane_resistance == pytest.approx(resistance, rel=0.02)
    assert kernel.dt == pytest.approx(dt)
    assert len(kernel.kernel) == round(3 / dt)
    assert len(kernel.full) == round(50 / dt)


def test_a_thin_electrode_takes_a_short_kernel():
    current = noise(200_000, 0.1, 100, 3.0)
    parts = [(10, 0.1)]
    voltage, membrane = simulated(current, 0.1, parts, 200, 20)
    check(Recording(current, voltage, 10_000), membrane, parts, 0.02, 0.05, duration=1.0)


def test_spikes_are_left_out():
    current = 80 + noise(200_000, 0.1, 150, 3.0, seed=3)
    voltage, membrane = simulated(current, 0.1, PATCH, 150, 20, threshold=-52)
    recording = Recording(current, voltage, 10_000)
    assert 150 < len(recording.spikes.times) < 350
    check(recording, membrane, PATCH, 0.04, 0.1)
    with_spikes = electrode_kernel(recording, before_spike=0, after_spike=0)
    assert abs(with_spikes.membrane_resistance - 150) > 30, "spikes do harm where they are not left out"


def test_steps_that_count_are_away_from_spikes_and_know_the_current_before():
    spikes = [[10.1, 60.04], []]  # 10.1 - 5 is 5.1 ms, which in floats is not quite 51 steps
    recording = Recording(np.zeros((2, 1000)), np.full((2, 1000), -70.0), 10_000, spikes)
    counted = electrode._counted(recording, 21, 5.0, 8.0, (1.0, 90.0))
    expected = np.zeros((2, 1000), bool)
    expected[:, 20:900] = True
    expected[0, 101 - 50 : 101 + 80 + 1] = expected[0, 600 - 50 : 600 + 80 + 1] = False
    np.testing.assert_array_equal(counted, expected)


def test_sweeps_with_rests_of_their_own_are_fitted_together():
    current = np.array([mean + noise(30_000, 0.1, 100, 3.0, seed=mean) for mean in (0, 30, 60)])
    both = [simulated(each, 0.1, seed=100 + sweep) for sweep, each in enumerate(current)]
    rests = np.array([[0.0], [-8.0], [5.0]])
    voltage, membrane = (np.array(arrays) + rests for arrays in zip(*both, strict=True))
    recording = Recording(current, voltage, 10_000, labels=["a", "b", "c"])
    kernel = electrode_kernel(recording)
    assert kernel.resistance == pytest.approx(20, rel=0.03)
    # at the beginning the simulated electrode is not yet charged; the compensated one is
    error = (compensate(recording, kernel).voltage - membrane)[:, 100:]
    assert np.sqrt(np.maximum(np.mean(error**2, axis=1) - NOISE**2, 0)).max() < 0.1


def test_slow_changes_of_rest_do_not_count():
    current = noise(150_000, 0.1, 100, None)
    voltage, membrane = simulated(current, 0.1)
    slow = 10 * np.sin(2 * np.pi * np.arange(150_000) / 50_000)
    check(Recording(current, voltage + slow, 10_000), membrane + slow, PATCH, 0.05, 0.1)


def test_a_part_may_be_named():
    current = noise(100_000, 0.1, 100, None)
    voltage, _ = simulated(current, 0.1)
    spoilt = voltage.copy()
    spoilt[:40_000] += np.random.default_rng(5).normal(0, 20, 40_000)
    recording = Recording(current, spoilt, 10_000, spikes=[[]])
    kernel = electrode_kernel(recording, part=(4000, 10_000))
    same = electrode_kernel(replace(recording, voltage=voltage), part=(4000, 10_000))
    assert np.array_equal(kernel.kernel, same.kernel), "nothing outside counts"
    assert kernel.resistance == pytest.approx(20, rel=0.03)
    assert not np.array_equal(kernel.kernel, electrode_kernel(recording).kernel)


def test_sums_over_stretches_are_those_of_lagged_currents(monkeypatch):
    monkeypatch.setattr(electrode, "CHUNK", 700)  # several batches
    rng = np.random.default_rng(0)
    lags, current, voltage = 40, rng.normal(size=(2, 700)).cumsum(axis=1), rng.normal(size=(2, 700))
    counted = rng.random((2, 700)) < 0.97
    counted[:, : lags - 1] = False
    starts, stops = electrode._stretches(counted, 30)
    assert (stops - starts).max() <= 30
    steps = [np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)]
    np.testing.assert_array_equal(np.concatenate(steps), np.flatnonzero(counted))
    lagged = [current.ravel()[own[:, None] - np.arange(lags)] for own in steps]
    design = np.concatenate([each - each.mean(axis=0) for each in lagged])
    answers = np.concatenate([voltage.ravel()[own] - voltage.ravel()[own].mean() for own in steps])
    products = electrode._products(current, starts, stops, lags)
    np.testing.assert_allclose(products, design.T @ design, atol=1e-10 * products.max())
    got = electrode._answers(current, voltage, starts, stops, lags)
    np.testing.assert_allclose(got, design.T @ answers, atol=1e-9)


def test_an_exponential_of_what_was_long_ago():
    current = np.random.default_rng(0).normal(size=(2, 1000)) + 3
    factor, lags = 0.98, 30
    first = current[:, :lags].mean(axis=1, keepdims=True)
    before = np.concatenate([np.repeat(first, 3000, axis=1), current], axis=1)
    kernel = np.where(np.arange(3000) >= lags, 0.5 * factor ** np.arange(3000.0), 0)
    expected = [np.convolve(each, kernel)[3000:4000] for each in before]
    np.testing.assert_allclose(electrode._beyond(current, factor, 0.5, lags), expected, rtol=1e-9)


def test_compensation_is_the_convolution_and_takes_the_first_current_to_have_been_there_before():
    rng = np.random.default_rng(0)
    current, voltage = rng.normal(50, 100, (2, 400)), rng.normal(-65, 2, (2, 400))
    kernel = ElectrodeKernel(0.1, [3.0, 10.0, 4.0, 1.0])
    result = compensate(Recording(current, voltage, 10_000), kernel)
    for sweep in range(2):
        for step in range(400):
            added = sum(kernel.kernel[lag] * current[sweep, max(step - lag, 0)] for lag in range(4)) / 1000
            assert result.voltage[sweep, step] == pytest.approx(voltage[sweep, step] - added, abs=1e-12)
    # a kernel longer than the sweep
    long = ElectrodeKernel(0.1, np.full(500, 0.1))
    steady = compensate(Recording(np.full(400, 100.0), np.full(400, -65.0), 10_000), long)
    np.testing.assert_allclose(steady.voltage, -65 - 5)


def test_a_kernel_is_of_its_own_and_read_only():
    given = np.array([10.0, 5.0])
    kernel = ElectrodeKernel(np.float32(0.1), given)
    given[:] = 0
    assert kernel.resistance == 15
    assert kernel.dt == 0.1
    assert (kernel.tau_mem, kernel.membrane_resistance, kernel.full) == (None, None, None)
    assert repr(kernel) == "ElectrodeKernel(15 MOhm over 0.2 ms, dt=0.1 ms)"
    with pytest.raises(ValueError, match="read-only"):
        kernel.kernel[0] = 1


def test_of_a_real_cell_noise_below_threshold_and_spiking_sweeps_say_the_same(shared_data):
    path = shared_data / "recordings" / "l5_cell3.npz"
    with np.load(path) as arrays:
        current, voltage = arrays["i_aec_q"] * arrays["i_lsb_pA"], arrays["v_aec_q"] * arrays["v_lsb_mV"]
    quiet = electrode_kernel(Recording(current, voltage, 10_000))
    spiking = electrode_kernel(open_parts(path)["main"].select([0, 1]))
    assert 10 < quiet.resistance < 16
    assert spiking.resistance == pytest.approx(quiet.resistance, abs=3)
    # the amplifier's share, in the first steps, is the same to a tenth of the electrode
    np.testing.assert_allclose(spiking.kernel, quiet.kernel, atol=0.1 * quiet.resistance)


# ------------------------------------------------------------------------------------------------------------ refused


def quiet(current, steps=20_000, voltage=None):
    current = np.broadcast_to(current, steps)
    return Recording(current, np.full(steps, -70.0) if voltage is None else voltage, 10_000)


@functools.cache
def noisy(steps=20_000):
    current = noise(steps, 0.1, 100, None)
    return Recording(current, simulated(current, 0.1)[0], 10_000)


TIME = np.arange(20_000) * 0.1


@pytest.mark.parametrize(("call", "message"), [
    (lambda: electrode_kernel(np.zeros(100)), r"^data: expected a blocksim.ephys.Recording; found an array"),
    (lambda: electrode_kernel(quiet(50.0)), r"^data: expected a current that varies .* found a constant one"),
    (lambda: electrode_kernel(quiet(0.0)), r"^data: expected a current that varies .* found a constant one"),
    (lambda: electrode_kernel(quiet(100 * np.sin(TIME / 50))), r"^data: expected a current that varies from step"),
    (lambda: electrode_kernel(noisy(5000)), r"^data: expected at least 5000 steps away from spikes, 10 for each of th"),
    (lambda: electrode_kernel(noisy(400)), r"^data: expected at least 5000 .* found 0 of 400 \(use a shorter"),
    (lambda: electrode_kernel(replace(noisy(), spikes=[np.arange(10, 2000, 40.0)])), r"found 0 of 20000"),
    (lambda: electrode_kernel(noisy(), part=(0, 300)), r"^data: expected at least 5000 .* found 2501 of 20000"),
    (lambda: electrode_kernel(noisy(), part=(300, 100)), r"^part: expected 0 <= start < stop <= 2000 ms, .*d 300 and"),
    (lambda: electrode_kernel(noisy(), part=(0, 2001)), r"^part: expected 0 <= start < stop <= 2000 ms, .* 0 and 2001"),
    (lambda: electrode_kernel(noisy(), part=5), r"^part: expected a window \(start, stop\) in ms, or None; found 5"),
    (lambda: electrode_kernel(noisy(), part=(-1, 5)), r"^part\[0\]: expected a time in ms"),
    (lambda: electrode_kernel(noisy(), duration=0), r"^duration: expected a time in ms above 0; found 0"),
    (lambda: electrode_kernel(noisy(), duration=50), r"^duration: expected a time that leaves 10 steps"),
    (lambda: electrode_kernel(noisy(), membrane_from=60), r"^membrane_from: expected a time that leaves 10 steps"),
    (lambda: electrode_kernel(noisy(), length="long"), r"^length: expected a time in ms"),
    (lambda: electrode_kernel(noisy(), length=600), r"^length: expected at most 5000 steps of 0.1 ms; found 600 ms"),
    (lambda: electrode_kernel(noisy(), before_spike=-1), r"^before_spike: expected a time in ms"),
    (lambda: electrode_kernel(noisy(), after_spike=None), r"^after_spike: expected a time in ms"),
    (lambda: compensate(np.zeros(5), ElectrodeKernel(0.1, [1.0])), r"^data: expected a blocksim.ephys.Recording; fou"),
    (lambda: compensate(noisy(), np.ones(3)), r"^kernel: expected a blocksim.ephys.ElectrodeKernel; found an array"),
    (lambda: compensate(noisy(), ElectrodeKernel(0.05, [1.0])), r"^kernel: expected one for the recording's step of"),
    (lambda: ElectrodeKernel(0, [1.0]), r"^dt: expected a time in ms above 0"),
    (lambda: ElectrodeKernel(0.1, []), r"^kernel: expected a non-empty array \(n,\) in MOhm a step; found"),
    (lambda: ElectrodeKernel(0.1, [[1.0]]), r"^kernel: expected a non-empty array"),
    (lambda: ElectrodeKernel(0.1, [np.nan]), r"^kernel: expected finite numbers"),
    (lambda: ElectrodeKernel(0.1, [1.0], full=np.zeros((2, 2))), r"^full: expected a non-empty array"),
    (lambda: ElectrodeKernel(0.1, [1.0], tau_mem=-1), r"^tau_mem: expected a time in ms above 0"),
    (lambda: ElectrodeKernel(0.1, [1.0], membrane_resistance=0), r"^membrane_resistance: expected a resistance"),
])  # fmt: skip
def test_refused(call, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_a_recording_without_a_membrane_is_refused(seed):
    current = noise(30_000, 0.1, 100, None, seed=seed)
    voltage, _ = simulated(current, 0.1, resistance=1e-6)
    with pytest.raises(ArgumentError, match=r"^data: expected a membrane, an exponential .*; found none"):
        electrode_kernel(Recording(current, voltage, 10_000))


def test_a_recording_that_was_compensated_is_refused():
    current = noise(100_000, 0.1, 100, None)
    _, membrane = simulated(current, 0.1)
    membrane += np.random.default_rng(1).normal(0, NOISE, len(membrane)) - 2e-3 * current
    with pytest.raises(ArgumentError, match=r"^data: expected an electrode of a resistance above 0; found -.* MOhm be"):
        electrode_kernel(Recording(current, membrane, 10_000))


def test_a_membrane_that_outlasts_the_full_kernel_takes_a_longer_one():
    current = noise(100_000, 0.1, 100, 3.0)
    voltage, _ = simulated(current, 0.1, tau=100, resistance=300)
    recording = Recording(current, voltage, 10_000)
    with pytest.raises(ArgumentError, match=r"^data: expected a membrane time constant from 1 to 200 ms; found"):
        electrode_kernel(recording, length=20)
    assert electrode_kernel(recording).resistance == pytest.approx(20, rel=0.03)
