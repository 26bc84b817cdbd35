"""Step currents, f-I curves, spike-triggered averages; fitted cells as layers and on the command line."""

import json
from dataclasses import replace

import click.testing
import numpy as np
import pytest

from blocksim import LIF, Layer, plotting, simulate
from blocksim.cli import main
from blocksim.ephys import (
    Cell,
    GIFCell,
    GIFConfig,
    Recording,
    StepResponses,
    fit_gif,
    load_cell,
    open_recording,
    population,
    spike_triggered_average,
    step_responses,
)
from blocksim.ephys._fitted import neurons_of
from blocksim.errors import FileError
from blocksim.trains import SpikeTrains

from .helpers import assert_refused, assert_same_bits

ALIF_CELL = Cell(
    tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3, reset_mv=-65, scale_mv=20
)
GIF_CELL = GIFCell(
    capacitance=120, conductance=8, rest=-70, reset=-62, threshold=-52, width=1.2, refractory=4,
    currents=[(10, -60), (50, -25)], thresholds=[(10, 4)], coupling=[(12, None, 0.2), (12, -58, 0.4)],
)  # fmt: skip


def test_a_lif_neuron_has_its_known_f_i_curve():
    """Rate 1 / (refractory period + tau log(RI / (RI - threshold))), with the rounding of both to steps."""
    tau, refractory, dt = 20.0, 2.0, 0.01
    layer = Layer(LIF.from_ms(tau_mem=tau, refractory=refractory, dt=dt))
    drive = np.array([0.5, 1.1, 1.5, 3.0])
    amplitudes = drive * -np.expm1(-dt / tau)
    responses = step_responses(layer, amplitudes, dt=dt, duration=2000, before=10, after=20)
    curve = responses.f_i_curve()
    assert curve.rate[0] == 0
    assert np.isnan(curve.latencies[0, 0])
    assert curve.rheobase == amplitudes[1]
    interval = refractory + tau * np.log(drive[1:] / (drive[1:] - 1))
    np.testing.assert_allclose(curve.first_intervals[1:, 0], interval, atol=2 * dt)
    np.testing.assert_allclose(curve.last_intervals[1:, 0], interval, atol=2 * dt)
    np.testing.assert_allclose(curve.latencies[1:, 0], interval - refractory, atol=2 * dt)
    np.testing.assert_allclose(curve.rate[1:], 1000 / interval, rtol=0.02)
    settled = responses.f_i_curve(settle=1000)
    np.testing.assert_allclose(settled.rate[1:], 1000 / interval, rtol=0.04)


def test_a_curve_is_counted_spike_by_spike():
    trains = [[5.0, 12.0, 14.0, 19.0, 21.0], [], [30.0], [10.0]]
    responses = StepResponses(
        np.array([20.0, 10.0]), 10.0, 20.0, 0.1, np.zeros((2, 300)), np.zeros((2, 300)), SpikeTrains.of(trains), 2
    )
    curve = responses.f_i_curve()
    assert curve.amplitudes.tolist() == [10, 20]
    assert curve.rates.tolist() == [[0, 100], [300, 0]]
    np.testing.assert_array_equal(curve.latencies, [[np.nan, 0], [2, np.nan]])
    np.testing.assert_array_equal(curve.first_intervals, [[np.nan, np.nan], [2, np.nan]])
    np.testing.assert_array_equal(curve.last_intervals, [[np.nan, np.nan], [5, np.nan]])
    assert np.isnan(curve.rheobase)
    table = curve.table()
    assert table["rate_hz"].tolist() == [50, 150]
    np.testing.assert_array_equal(table["first_rate_hz"], [np.nan, 500])
    assert responses.f_i_curve(settle=3).rates.tolist() == [[0, 0], [1000 * 2 / 7, 0]]


@pytest.mark.parametrize("cell", [ALIF_CELL, GIF_CELL, replace(GIF_CELL, width=0.0)])
def test_responses_are_those_that_the_cell_predicts(cell):
    responses = step_responses(cell, [150.0, 350.0], dt=0.1, duration=300, before=50, after=50, holding=10.0, seed=4)
    assert responses.current[:, :500].tolist() == [[10.0] * 500] * 2
    assert responses.current[0, 500:3500].tolist() == [160.0] * 3000
    assert responses.repeats == 1
    assert len(responses.trains[1]) > 3
    if isinstance(cell, Cell):
        predicted = cell.predict(responses.current, 0.1)
        np.testing.assert_allclose(responses.voltage, predicted.voltage, rtol=1e-12)
        assert_same_bits("spikes", responses.trains.to_steps(0.1, 4000) > 0, predicted.spikes)
    else:
        spikes = responses.trains.to_steps(0.1, 4000) > 0
        imposed = cell.impose(responses.current, spikes, 0.1)
        live = np.ones(spikes.shape, bool)
        for sweep, spike in np.argwhere(spikes):
            live[sweep, spike : spike + 41] = False
        np.testing.assert_allclose(responses.voltage[live], imposed.potential[live], rtol=1e-10)


def test_repetitions_differ_in_their_noise_alone():
    responses = step_responses(GIF_CELL, [350.0], repeats=30, seed=2, duration=500)
    assert responses.repeats == len(responses.trains) == 30
    assert len({train.tobytes() for train in responses.trains}) > 20
    again = step_responses(GIF_CELL, [350.0], repeats=30, seed=2, duration=500)
    assert_same_bits("times", again.trains.times, responses.trains.times)
    assert responses.f_i_curve().rates.shape == (1, 30)


def recorded_steps(noise=5.0, stop=800):
    """Three noisy steps of a cell, at 1 ms, whose current rises within two samples."""
    rng = np.random.default_rng(3)
    current = np.full((3, 1000), -20.0)
    current[:, 200:stop] += np.array([50.0, -40.0, 300.0])[:, None]
    current[:, 200] -= np.array([25.0, -20.0, 150.0])
    spikes = [[], [], np.arange(250.0, 790.0, 60.0)]
    return Recording(current + rng.normal(0, noise, current.shape), np.full((3, 1000), -70.0), 1000, spikes)


@pytest.mark.parametrize("stop", [800, 1000])
def test_steps_are_found_in_a_recording(stop):
    responses = StepResponses.of(recorded_steps(stop=stop))
    assert abs(responses.start - 200) <= 1
    assert responses.stop == pytest.approx(stop, abs=5)
    np.testing.assert_allclose(responses.amplitudes, [50, -40, 300], atol=2)
    curve = responses.f_i_curve()
    assert curve.amplitudes[2] == pytest.approx(300, abs=2)
    assert curve.rate[:2].tolist() == [0, 0]
    assert curve.latencies[2, 0] == pytest.approx(50, abs=1)
    assert curve.first_intervals[2, 0] == 60


def test_steps_of_real_recordings(shared_data):
    recording = open_recording(shared_data / "recordings" / "idrest_steps.npz", sweeps="B6*")
    curve = StepResponses.of(recording).f_i_curve()
    np.testing.assert_allclose(curve.amplitudes, [119, 175, 237, 297, 353], atol=1)
    assert curve.rate.tolist() == [13, 25, 34, 41, 44.5]
    noise = open_recording(shared_data / "recordings" / "l5_cell3.npz")
    assert_refused(lambda: StepResponses.of(noise), ["recording", "one step", "pA"])


def test_a_spike_triggered_average_is_the_mean_of_windows():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(2, 400))
    trains = [np.array([1.0, 12.3, 39.0]), np.array([20.05, 20.1, 38.9])]
    found = spike_triggered_average(signal, trains, dt=0.1, before=2, after=1)
    windows = [signal[0, 103:134], signal[1, 180:211], signal[1, 181:212], signal[1, 369:400]]
    assert found.spikes == 4
    np.testing.assert_allclose(found.average, np.mean(windows, axis=0))
    np.testing.assert_allclose(found.error, np.std(windows, axis=0, ddof=1) / 2)
    np.testing.assert_allclose(found.times, np.arange(-20, 11) / 10)
    shared = spike_triggered_average(signal[0], trains, dt=0.1, before=2, after=1, centred=True)
    windows = [signal[0, start : start + 31] - signal[0].mean() for start in (103, 180, 181, 369)]
    np.testing.assert_allclose(shared.average, np.mean(windows, axis=0))


def test_white_noise_is_high_before_a_spike():
    """And neither after it nor long before."""
    rng = np.random.default_rng(1)
    current = rng.normal(250, 1000, 400_000)
    trains = GIF_CELL.sample(current, 0.1, repeats=20, seed=1)
    found = spike_triggered_average(current, trains, dt=0.1, before=60, after=5, centred=True)
    assert found.spikes > 3000
    assert np.abs(found.average[found.times > 0.05]).max() < 5 * found.error.max()
    near, far = found.average[(found.times > -3) & (found.times < 0)], found.average[found.times < -50]
    assert near.mean() > 30
    assert abs(far.mean()) < 0.1 * near.mean()


@pytest.mark.parametrize("cells", [
    [ALIF_CELL, replace(ALIF_CELL, tau_mem=10.0, refractory=5.0, bias=0.1), replace(ALIF_CELL, gain=0.02)],
    [GIF_CELL, replace(GIF_CELL, capacitance=90, coupling=[(9, None, 0.1), (15, -60, 0.5)], refractory=2.0)],
    [replace(GIF_CELL, width=0.0), replace(GIF_CELL, width=0.0, thresholds=[(30, 2)])],
])  # fmt: skip
def test_a_population_is_its_cells_side_by_side(cells):
    x = np.random.default_rng(0).normal(380, 200, (2, 3000, len(cells)))
    run = simulate(population(cells, 0.1), x, record=("voltage",), seed=3)
    assert run.spikes.any(axis=(0, 1)).all()
    for number, cell in enumerate(cells):
        if isinstance(cell, GIFCell) and cell.is_stochastic:
            continue  # each draws its own noise
        one = simulate(cell.layer(0.1), x[..., number : number + 1], record=("voltage",))
        np.testing.assert_array_equal(run.spikes[..., number], one.spikes[..., 0])
        np.testing.assert_allclose(run.voltage[..., number], one.voltage[..., 0], atol=1e-9)
    shared = simulate(population(cells, 0.1, shared=True), x[..., :1], seed=3)
    assert_same_bits("spikes", shared.spikes[..., 0], run.spikes[..., 0])


def test_a_cell_without_a_scale_keeps_its_unit():
    made = neurons_of(replace(ALIF_CELL, reset_mv=None, scale_mv=None), 0.1, 3)
    assert (made.unit, made.offset, made.scale, made.layer.size) == ("1", 0.0, 1.0, 3)
    assert neurons_of(ALIF_CELL, 0.1)[2:] == (-65.0, 20.0, "mV")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: population([], 0.1), ["cells", "at least one"]),
        (lambda: population([ALIF_CELL, GIF_CELL], 0.1), ["cells", "one kind"]),
        (lambda: population([GIF_CELL, replace(GIF_CELL, currents=())], 0.1), ["cells", "structure", "cell 1"]),
        (lambda: population([GIF_CELL, replace(GIF_CELL, width=0)], 0.1), ["cells", "structure"]),
        (lambda: population([3], 0.1), ["cell", "GIFCell", "3"]),
        (lambda: population([GIF_CELL], 0), ["dt"]),
        (lambda: population([GIF_CELL], 0.1, shared="yes"), ["shared", "True or False"]),
        (lambda: step_responses(GIF_CELL, []), ["amplitudes"]),
        (lambda: step_responses(GIF_CELL, [np.nan]), ["amplitudes", "nan"]),
        (lambda: step_responses(GIF_CELL, [1.0], duration=0), ["duration"]),
        (lambda: step_responses(GIF_CELL, [1.0], duration=0.01), ["duration", "0.1 ms"]),
        (lambda: step_responses(GIF_CELL, [1.0], repeats=0), ["repeats"]),
        (lambda: step_responses(Layer(LIF(0.9), np.ones((2, 3))), [1.0]), ["one input", "2 inputs"]),
        (lambda: step_responses("cell", [1.0]), ["cell", "GIFCell"]),
        (lambda: step_responses(ALIF_CELL, [1.0]).f_i_curve(settle=1000), ["settle", "1000 ms"]),
        (lambda: StepResponses.of(3), ["recording", "Recording"]),
        (lambda: StepResponses.of(Recording(np.zeros(1000), np.zeros(1000), 1000)), ["step", "never changes"]),
        (lambda: StepResponses.of(Recording(np.zeros(9), np.zeros(9), 1000)), ["15 ms", "shorter"]),
        (lambda: spike_triggered_average([], [[1.0]], dt=0.1), ["signal"]),
        (lambda: spike_triggered_average(np.zeros((3, 9)), [[1.0]] * 2, dt=0.1), ["signal", "2 trains", "3 sweeps"]),
        (lambda: spike_triggered_average(np.zeros(90), [[1.0]], dt=0.1), ["spikes", "none of 1"]),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(call, words):
    assert_refused(call, words)


def test_pictures_show_what_is_there():
    responses = step_responses(GIF_CELL, [100.0, 200.0, 300.0], duration=300, repeats=5, seed=1)
    curves = {"model": responses.f_i_curve(), "recorded": responses.f_i_curve(settle=100)}
    rates, intervals = plotting.f_i_curve(curves)
    assert [text.get_text() for text in rates.get_legend().get_texts()] == ["model", "recorded"]
    assert rates.lines[0].get_ydata().tolist() == responses.f_i_curve().rate.tolist()
    assert len(intervals.lines) == 4
    axes = plotting.traces(
        responses.voltage, dt=0.1, spikes=responses.trains.take([0, 5, 10]), current=responses.current
    )
    assert len(axes) == 4
    assert_refused(lambda: plotting.traces(np.zeros((2, 9)), dt=0.1, spikes=[[1.0]]), ["spikes", "2 potentials"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Files of two fits, and their cells."""
    folder = tmp_path_factory.mktemp("fits")
    current = 170 + 130 * np.repeat(np.random.default_rng(0).normal(size=(1, 3000)), 10, axis=1)
    spikes = GIF_CELL.sample(current[0], 0.2, repeats=1, seed=1)
    voltage = GIF_CELL.impose(current, spikes.to_steps(0.2, 30_000) > 0, 0.2).potential
    fit = fit_gif(Recording(current, voltage, 5000, spikes), GIFConfig(model="gif"))
    fit.save(folder / "fit.json")
    (folder / "alif.json").write_text(json.dumps({"fit": {"cell": ALIF_CELL.to_dict(), "dt": 0.1}}))
    return folder, fit.cell


def test_cells_are_loaded(saved, tmp_path):
    folder, cell = saved
    assert load_cell(folder) == (cell, 0.2)
    assert load_cell(folder / "fit.json").cell == cell
    assert load_cell(folder / "alif.json") == (ALIF_CELL, 0.1)
    (tmp_path / "other.json").write_text('{"cell": {"tau_mem": 1}, "dt": 0.1}')
    (tmp_path / "text.json").write_text("not json")
    for name in ("other.json", "text.json", "missing.json"):
        with pytest.raises(FileError, match=name) as caught:
            load_cell(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_the_command_runs_a_fitted_cell(saved, tmp_path, monkeypatch):
    folder, cell = saved
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLOCKSIM_BACKEND", raising=False)
    stimulus = np.random.default_rng(5).normal(180, 80, (2, 4000))
    np.save("stimulus.npy", stimulus)

    def call(*arguments):
        return click.testing.CliRunner().invoke(main, ["simulate", "stimulus.npy", *arguments])

    options = ("--fit", str(folder), "--repeats", "7", "--seed", "3", "--record", "voltage,threshold")
    result = call("-o", "whole.npz", *options)
    assert result.exit_code == 0, result.output
    assert call("-o", "parts.npz", "--chunk", "700", *options).exit_code == 0
    made = neurons_of(cell, 0.2, 7)
    run = simulate(made.layer, stimulus[..., None] * made.gain, record=("voltage",), seed=3)
    with np.load("whole.npz") as whole, np.load("parts.npz") as parts:
        assert whole["shape"].tolist() == [2, 4000, 7]
        np.testing.assert_allclose(whole["voltage"], cell.rest + run.voltage, rtol=1e-12)
        assert whole["threshold"].mean() == pytest.approx(cell.threshold, abs=15)
        found = np.zeros(run.spikes.shape, bool)
        found[whole["spike_sample"], whole["spike_step"], whole["spike_neuron"]] = True
        assert_same_bits("spikes", found, run.spikes)
        for name in ("spike_step", "spike_neuron", "voltage"):
            assert_same_bits(name, parts[name], whole[name])
        meta = json.loads(str(whole["meta"]))
        assert (meta["neuron"], meta["seed"], meta["dt_ms"]) == ("GIFCell", 3, 0.2)
        assert meta["fit"]["capacitance"] == cell.capacitance
    alif = call("-o", "alif.npz", "--fit", str(folder / "alif.json"), "--record", "voltage")
    assert alif.exit_code == 0, alif.output
    with np.load("alif.npz") as file:
        np.testing.assert_allclose(file["voltage"][..., 0], ALIF_CELL.predict(stimulus, 0.1).voltage, rtol=1e-10)
    for wrong, message in (
        (("--fit", str(folder), "--tau-mem", "3"), "--tau-mem: expected without --fit"),
        (("--repeats", "3"), "--repeats: expected with --fit"),
        (("--fit", "nowhere.json"), "nowhere.json: cannot be read"),
    ):
        refused = call("-o", "no.npz", *wrong)
        assert refused.exit_code == 2
        assert message in refused.output
        assert not (tmp_path / "no.npz").exists()
