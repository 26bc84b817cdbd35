"""Fits of stochastic neurons: recovery, the likelihood and its derivatives, scores, files, warnings."""

import csv
from dataclasses import replace

import click.testing
import numpy as np
import pytest

from blocksim import _imposed, simulate
from blocksim.backend import get_backend
from blocksim.cli import main
from blocksim.ephys import GIFCell, GIFConfig, GIFFit, Recording, evaluate, fit_gif, open_recording
from blocksim.ephys._figures import traces
from blocksim.ephys._gif import spikes as of_spikes
from blocksim.ephys._gif.estimate import as_imposed, estimate, score
from blocksim.ephys._gif.imposed import Basis, hazard_of, threshold_regressors, weighted, where_live
from blocksim.ephys._gif.recorded import Recorded
from blocksim.ephys.evaluation import predict
from blocksim.errors import FileError
from blocksim.metrics import explained_temporal_variance, md_star
from blocksim.trains import SpikeTrains, near_spikes

from .helpers import assert_refused

CELL = GIFCell(
    capacitance=120, conductance=8, rest=-70, reset=-62, threshold=-52, width=1.2, refractory=4,
    currents=[(10, -60), (50, -25)], thresholds=[(10, 4), (200, 1)],
)  # fmt: skip
COUPLED = replace(CELL, coupling=[(12, None, 0.2), (12, -58, 0.4)])


def current_of(seed, steps, dt=0.2, sweeps=1):
    """Noise that is filtered with 3 ms, the same in every sweep, in pA."""
    rng = np.random.default_rng(seed)
    keep, value = np.exp(-dt / 3), 0.0
    out = np.empty(steps)
    for step, drive in enumerate(rng.normal(size=steps) * np.sqrt(1 - keep * keep)):
        value = keep * value + drive
        out[step] = 170 + 130 * value
    return np.repeat(out[None], sweeps, axis=0)


def recording_of(cell, seed, steps, dt=0.2, sweeps=1, noise=0.3):
    """A recording of a cell that we know, with an amplifier's noise in mV."""
    current = current_of(seed, steps, dt, sweeps)
    spikes = cell.sample(current[0], dt, repeats=sweeps, seed=seed)
    potential = cell.impose(current, spikes.to_steps(dt, steps) > 0, dt).potential
    rng = np.random.default_rng(seed + 1000)
    return Recording(current, potential + rng.normal(0, noise, current.shape), 1000 / dt, spikes)


@pytest.fixture(scope="module")
def fitted():
    """A fit to 60 s of the cell."""
    config = GIFConfig(model="gif", currents=(10, 50), thresholds=(10, 200))
    return fit_gif(recording_of(CELL, 1, 300_000), config)


def test_a_known_cell_is_recovered(fitted):
    errors = fitted.errors
    for name in ("rest", "reset", "width", "threshold", "tau_mem", "resistance"):
        off = abs(getattr(fitted.cell, name) - getattr(CELL, name)) / errors[name]
        assert off < 4, f"{name}: {off} standard errors"
        assert errors[name] < 0.1 * abs(getattr(CELL, name))
    times = np.linspace(0, 400, 50)
    for name in ("currents", "thresholds"):
        kernel = fitted.kernel(name, times)
        true = sum(amplitude * np.exp(-times / tau) for tau, amplitude in getattr(CELL, name))
        assert (np.abs(kernel.value - true) <= 2 * (kernel.high - kernel.value) + 1e-9).all(), name
    assert fitted.warnings == ()
    assert fitted.scores["r2"] > 0.99
    assert fitted.scores["ks"] < 1.5 * fitted.scores["ks_critical"]
    assert abs(fitted.scores["bits"] - fitted.scores["held_out_bits"]) < 0.5


@pytest.mark.slow
def test_bands_cover_what_they_should():
    """Of 20 cells of 100 s: each kernel within its band of 95 % nearly always."""
    times = np.array([0.0, 5.0, 20.0, 80.0, 300.0])
    inside = {"currents": [], "thresholds": []}
    for seed in range(20):
        fit = fit_gif(
            recording_of(CELL, seed, 500_000),
            GIFConfig(model="gif", currents=(10, 50), thresholds=(10, 200), validation=0),
        )
        for name, found in inside.items():
            kernel = fit.kernel(name, times)
            true = sum(amplitude * np.exp(-times / tau) for tau, amplitude in getattr(CELL, name))
            found.append((kernel.low <= true) & (true <= kernel.high))
    shares = {name: float(np.mean(found)) for name, found in inside.items()}
    assert all(0.85 <= share <= 1 for share in shares.values()), shares


def test_a_threshold_that_follows_the_potential_is_recovered():
    fit = fit_gif(recording_of(COUPLED, 2, 300_000), GIFConfig(currents=(10, 50), thresholds=(10, 200), coupling=(12,)))
    # knots are quantiles of the potential, so that slopes are compared by what they do: the hazard
    current = current_of(5, 50_000)
    spikes = COUPLED.sample(current[0], 0.2, repeats=1, seed=3).to_steps(0.2, 50_000) > 0
    true, found = (np.log(np.maximum(cell.impose(current, spikes, 0.2).hazard, 1e-12)) for cell in (COUPLED, fit.cell))
    frequent = true > np.log(1e-3)
    assert frequent.sum() > 1000
    assert np.sqrt(np.mean((true - found)[frequent] ** 2)) < 0.3


def test_the_model_that_predicts_best_is_kept():
    recording = recording_of(COUPLED, 4, 200_000)
    fit = fit_gif(recording, GIFConfig(model="auto"))
    assert set(fit.compared) == {"lif", "alif", "glif", "gif", "igif"}
    assert fit.config.model == max(fit.compared, key=fit.compared.get) == "igif"
    assert fit.scores["held_out_bits"] == fit.compared["igif"]


def test_a_series_resistance_is_taken_out():
    made = recording_of(CELL, 6, 150_000)
    raw = Recording(made.current, made.voltage + 0.02 * made.current, made.sampling_rate, made.spikes)
    fit = fit_gif(raw, GIFConfig(model="gif", electrode="series"))
    assert abs(fit.series_resistance - 20) < 3 * fit.errors["series_resistance"] + 0.5
    assert abs(fit.cell.resistance - CELL.resistance) < 4 * fit.errors["resistance"]


@pytest.mark.parametrize("cell", [CELL, COUPLED])
def test_an_imposed_cell_is_the_simulated_one(cell):
    """With its own spikes imposed a cell has the potential, threshold and live steps of the simulation."""
    current = current_of(7, 20_000)
    x = current[..., None]
    run = simulate(cell.layer(0.2), x, seed=1, record=("voltage", "threshold"))
    spikes = run.spikes[..., 0]
    assert spikes.sum() > 5
    imposed = cell.impose(current, spikes, 0.2)
    np.testing.assert_allclose(imposed.potential - cell.rest, run.voltage[..., 0], atol=1e-9)
    live = imposed.hazard > 0
    np.testing.assert_allclose(imposed.threshold[live] - cell.rest, run.threshold[..., 0][live], atol=1e-8)
    np.testing.assert_allclose(
        imposed.hazard[live], cell.neuron(0.2).spike.hazard(run.voltage - run.threshold)[..., 0][live], rtol=1e-8
    )
    after = np.zeros_like(spikes)
    for step in np.flatnonzero(spikes[0]):
        after[0, step + 1 : step + 21] = True
    np.testing.assert_array_equal(live, ~after)
    np.testing.assert_array_equal(imposed.hazard, hazard_of(imposed.log_hazard))
    np.testing.assert_array_equal(np.isneginf(imposed.log_hazard), after)


def test_compiled_loops_are_the_written_ones():
    rng = np.random.default_rng(0)
    shape = (3, 400)
    spikes = rng.random(shape) < 0.02
    current, voltage = rng.normal(size=shape), rng.normal(size=shape)
    fast, decay, gain = get_backend("numba").fast, np.array([0.9, 0.99]), np.array([0.1, -0.02])
    none, edges, more = np.zeros(0, np.int64), np.array([6, 9, 40]), np.array([0.1, -0.02, 0.3, 0.01])
    knots, recorded = np.array([-np.inf, 0.2]), (current, voltage, spikes, ~spikes)
    for function, arguments in (
        (_imposed.impose, (current, spikes, 5, 0.95, -1.0, 2.0, 0.5, 0.3, decay, none, gain)),
        (_imposed.impose, (current, spikes, 5, 0.95, -1.0, 2.0, 0.5, 0.3, decay, edges, more)),
        (_imposed.impose, (current, spikes, 5, 0.95, -1.0, 2.0, 0.5, 0.3, decay[:0], edges, gain)),
        (_imposed.potential_products, (*recorded, 5, 0.95, 0.0, decay, none, gain, False, 1, 100)),
        (_imposed.potential_products, (*recorded, 5, 0.95, 0.3, decay, edges, more, True, 3, 150)),
        (_imposed.threshold_regressors, (voltage, spikes, 5, decay, none, np.array([0.8, 0.97]), knots)),
        (_imposed.threshold_regressors, (voltage, spikes, 5, decay, edges, np.array([0.8, 0.97]), knots)),
    ):
        compiled, written = fast(function), function
        assert compiled is not written
        found, expected = compiled(*arguments), written(*arguments)
        for one, other in zip(
            *(each if isinstance(each, tuple) else (each,) for each in (found, expected)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_derivatives_of_the_likelihood_are_its_differences():
    rng = np.random.default_rng(1)
    basis = Basis(0.2, 10, (), (10.0, 100.0), (5.0,), (None, 0.5))
    potential, spikes = np.cumsum(rng.normal(0, 0.1, (2, 3000)), axis=1), rng.random((2, 3000)) < 0.01
    x, live = threshold_regressors(potential, spikes, basis)
    flat, fired, open_ = x.reshape(-1, x.shape[2]), spikes.ravel(), live.ravel()
    mean, scale = of_spikes._moments(flat, open_)
    likelihood = of_spikes._Likelihood(
        flat, fired & open_, open_.astype(float), mean, scale, np.where(np.arange(len(mean)) == 1, 0, 0.3)
    )
    weights = rng.normal(0, 0.3, len(mean))
    weights[1] = -4
    value, gradient, information = likelihood(weights)
    own = weights / scale
    own[1] = weights[1] - (mean * weights / scale).sum()
    log, again = weighted(potential, spikes, basis, own)
    np.testing.assert_array_equal(again, live)
    assert np.isclose(value, of_spikes.log_likelihood(where_live(log, live), spikes))
    # by hand, from the definition
    hazard = np.exp(log)
    by_hand = np.log(1 - np.exp(-hazard[spikes & live])).sum() - hazard[live & ~spikes].sum()
    assert np.isclose(value, by_hand)
    penalty = likelihood.penalty
    for place in range(len(weights)):
        ends = []
        for sign in (1, -1):
            moved = weights.copy()
            moved[place] += sign * 1e-5
            at, slope, _ = likelihood(moved)
            ends.append((at - 0.5 * (penalty * moved**2).sum(), slope))
        assert np.isclose(gradient[place], (ends[0][0] - ends[1][0]) / 2e-5, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(-information[place], (ends[0][1] - ends[1][1]) / 2e-5, rtol=1e-4, atol=1e-4)


def test_the_ascent_goes_on_where_a_hazard_underflows():
    """Of spikes that are hardly possible, each worth its slope, it ends at the maximum; at a floor it stopped."""
    rng, width = np.random.default_rng(0), 0.05
    v = rng.normal(0, 4 * width, 20_000)
    fired = rng.random(20_000) < np.minimum(1, np.exp(v / width - 14))
    v[:100], fired[:100] = -45, True
    x, live = np.stack([v, np.ones_like(v)], axis=1), np.ones(20_000, bool)
    found = of_spikes.fit_spikes(x, fired, live, 0.01, {0: 1 / width})
    low, high = -20.0, 5.0
    for _ in range(100):  # where spikes and silent steps are in balance: (40) is concave
        middle = (low + high) / 2
        hazard = np.minimum(np.exp(v / width + middle), 500)
        assert hazard[0] == 0
        slope = np.ones(fired.sum())  # of a spike: hazard / (exp(hazard) - 1)
        np.divide(hazard[fired], np.expm1(hazard[fired]), where=hazard[fired] > 0, out=slope)
        low, high = (middle, high) if slope.sum() > hazard[~fired].sum() else (low, middle)
    assert found.converged
    assert found.weights[1] == pytest.approx(middle, abs=1e-3)


NARROW = GIFCell(
    capacitance=100, conductance=10, rest=-70, reset=-65, threshold=-50, width=0.02, refractory=2, thresholds=[(20, 1)]
)


def with_a_spike_at_rest(at):
    """A recording of `NARROW`, of 2 s at 0.2 ms, with one more spike where its hazard underflows."""
    current = 150 + 120 * np.repeat(np.random.default_rng(0).normal(size=(1, 1000)), 10, axis=1)
    current[0, at - 500 : at + 1] = 0
    own = NARROW.sample(current[0], 0.2, repeats=1, seed=1)
    spikes = SpikeTrains.of([np.sort(np.append(own[0], at * 0.2))])
    potential = NARROW.impose(current, spikes.to_steps(0.2, 10_000) > 0, 0.2).potential
    return Recording(current, potential, 5000, own), Recording(current, potential, 5000, spikes)


def likelihood_by_hand(cell, recording, steps):
    """(40) of some steps, and their bits a spike, step by step: the hazard's logarithm stands for a small hazard's."""
    spikes = recording.spike_counts()[0] > 0
    imposed = cell.impose(recording.current, spikes[None], recording.dt)
    total, live, number, left = 0.0, 0, 0, 0
    for step, fired in enumerate(spikes):
        if left:
            left -= 1
            continue
        if step in steps:
            log = (imposed.potential - imposed.threshold)[0, step] / cell.width + np.log(
                cell.rate * recording.dt / 1000
            )
            total += (log if log < -40 else np.log(-np.expm1(-np.exp(log)))) if fired else -np.exp(log)
            live, number = live + 1, number + fired
        left = round(cell.refractory / recording.dt) if fired else 0
    share = number / live
    poisson = number * np.log(share) + (live - number) * np.log1p(-share)
    return total, (total - poisson) / number / np.log(2), number


def test_a_spike_where_it_can_hardly_be_counts():
    """It is not left out of the score, which was better for it, and the score is finite: what it says of the cell."""
    plain, more = with_a_spike_at_rest(6000)
    spikes = more.spike_counts() > 0
    imposed = NARROW.impose(more.current, spikes, 0.2)
    assert imposed.hazard[0, 6000] == 0
    assert -1100 < imposed.log_hazard[0, 6000] < -900
    found = [evaluate(NARROW, recording, repeats=2) for recording in (plain, more)]
    by_hand = [likelihood_by_hand(NARROW, recording, range(10_000)) for recording in (plain, more)]
    for scores, (_, bits, _) in zip(found, by_hand, strict=True):
        assert scores["bits"] == pytest.approx(bits, rel=1e-9)
    assert found[0]["bits"] > 0 > found[1]["bits"]
    uniform = of_spikes.rescaled_times(imposed.log_hazard, spikes)
    assert len(uniform) == spikes.sum() - 1
    assert found[1]["ks"] == of_spikes.ks_distance(uniform)


def test_a_spike_where_it_can_hardly_be_counts_in_the_held_out_part():
    _, more = with_a_spike_at_rest(6000)
    config = GIFConfig(model="alif", refractory=2)
    known = Recorded.of(more, config)
    fitted = as_imposed(replace(estimate(known, config), cell=NARROW), known)
    assert fitted.log_hazard[0, 6000] < -900
    for start in (5000, 7000):
        total, bits, number = likelihood_by_hand(NARROW, more, range(start, 10_000))
        held_out = score(known, fitted, start)
        assert held_out.bits == pytest.approx(bits, rel=1e-9)
        assert held_out.stretches.sum() * np.log(2) * number == pytest.approx(total, rel=1e-9)
        assert (held_out.bits < 0) == (start == 5000)


def test_a_coupling_that_is_there_twice_is_its_sum():
    """Imposed as in the simulation: neurons have both."""
    alone = replace(CELL, currents=[], thresholds=[])
    twice = replace(alone, coupling=[(12, None, 0.2), (12, -58, 0.4), (12, None, 0.1), (30, -58, 0.1)])
    once = replace(alone, coupling=[(12, None, 0.2 + 0.1), (12, -58, 0.4), (30, -58, 0.1)])
    current = current_of(7, 5000)
    spikes = simulate(twice.layer(0.2), current[..., None], seed=1).spikes
    run = simulate(twice.layer(0.2), current[..., None], impose=spikes, record=("threshold",))
    found, expected = (cell.impose(current, spikes[..., 0], 0.2) for cell in (twice, once))
    np.testing.assert_array_equal(found.threshold, expected.threshold)
    live = found.hazard > 0
    np.testing.assert_allclose(found.threshold[live] - CELL.rest, run.threshold[..., 0][live], atol=1e-8)


def test_rescaled_intervals_of_the_true_cell_are_uniform():
    recording = recording_of(CELL, 8, 300_000)
    spikes = recording.spike_counts() > 0
    uniform = of_spikes.rescaled_times(CELL.impose(recording.current, spikes, 0.2).log_hazard, spikes)
    assert len(uniform) == spikes.sum() - 1
    assert of_spikes.ks_distance(uniform) < 1.6 / np.sqrt(len(uniform))
    wrong = replace(CELL, threshold=CELL.threshold + 2)
    log_hazard = wrong.impose(recording.current, spikes, 0.2).log_hazard
    assert of_spikes.ks_distance(of_spikes.rescaled_times(log_hazard, spikes)) > 0.3


def test_scores_of_the_true_cell():
    recording = recording_of(CELL, 9, 50_000, sweeps=8)
    before, test = recording.split(at=4000)
    scores = evaluate(CELL, test, before=before, repeats=200, seed=1)
    assert scores["md_star"] > 0.93
    assert scores["etv"] > 0.95
    assert scores["potential_r2"] > 0.95
    assert abs(scores["rate_hz"] / scores["rate_recorded_hz"] - 1) < 0.1
    predicted = predict(CELL, test, test.dt, before=before, repeats=200, seed=1)
    assert len(predicted.trains) == 200
    by_hand = explained_temporal_variance(predicted.trains, test.spikes, duration=test.duration, pooled=True)
    assert np.isclose(scores["etv"], by_hand[0])
    assert np.isclose(scores["md_star"], md_star(predicted.trains, test.spikes))


def test_a_report_leaves_out_the_steps_that_the_scores_leave_out():
    recording = recording_of(CELL, 9, 5000)
    predicted = predict(CELL, recording, 0.2, repeats=2, seed=1)
    shown = traces(predicted).axes[2].lines[0].get_ydata()
    both = SpikeTrains.of([recording.spikes[0], predicted.trains[0]])
    assert all(both.counts)
    np.testing.assert_array_equal(np.isnan(shown), near_spikes(both, (2.0, 8.0), 0.2, 5000).any(axis=0))


def test_a_current_may_have_a_unit():
    units = pytest.importorskip("quantities")
    current = current_of(1, 1000)
    nano = current / 1000 * units.nA
    spikes = np.zeros((1, 1000), bool)
    np.testing.assert_allclose(CELL.impose(nano, spikes, 0.2).potential, CELL.impose(current, spikes, 0.2).potential)
    assert_refused(lambda: CELL.impose(current * units.mV, spikes, 0.2), ["current", "pA", "mV"])


def test_pooled_scores_are_those_of_the_mean_rate():
    rng = np.random.default_rng(3)
    models, trials = ([np.sort(rng.uniform(0, 1000, 12)) for _ in range(number)] for number in (5, 3))
    time = np.arange(0.125, 1000, 0.25)

    def smooth(train):
        kernels = np.exp(-0.5 * ((time[:, None] - train) / 10) ** 2)
        return kernels.sum(axis=1) / (np.sqrt(2 * np.pi) * 10)

    mean = np.mean([smooth(train) for train in models], axis=0)
    expected = np.mean([
        (mean.var() + y.var() - (mean - y).var()) / (mean.var() + y.var()) for y in map(smooth, trials)
    ])  # fmt: skip
    found = explained_temporal_variance(models, trials, duration=1000, normalise=False, pooled=True)
    assert found.shape == (1,)
    assert np.isclose(found[0], expected, atol=1e-4)


def test_a_fit_is_saved_and_shown(fitted, tmp_path):
    fitted.save(tmp_path / "fit.json")
    again = GIFFit.load(tmp_path / "fit.json")
    assert again.cell == fitted.cell
    assert again.config == fitted.config
    assert again.errors == fitted.errors
    assert again.compared == fitted.compared
    np.testing.assert_allclose(np.diagonal(again.correlation), 1)
    assert len(str(fitted).splitlines()) < 20
    assert "tau_mem" in str(fitted)
    (tmp_path / "other.json").write_text('{"cell": 3}')
    for name in ("other.json", "none.json"):
        with pytest.raises(FileError, match=name):
            GIFFit.load(tmp_path / name)


def test_a_neuron_without_noise_spikes_as_often_as_recorded():
    recording = recording_of(COUPLED, 3, 100_000, sweeps=3)
    training, test = recording.split(at=15_000)
    fit = fit_gif(training, GIFConfig(noise=False, currents=(10, 50), thresholds=(50,), coupling=(12,), knots=(0.5,)))
    cell = fit.cell
    assert not cell.is_stochastic
    assert "without noise" in str(fit)
    noisy = fit_gif(training, replace(fit.config, noise=True)).cell
    assert cell.threshold > noisy.threshold
    assert replace(cell, threshold=noisy.threshold, width=noisy.width) == noisy
    trains = cell.sample(training.current[0], 0.2, repeats=3)
    assert all(np.array_equal(train, trains[0]) for train in trains)
    assert abs(len(trains[0]) / training.spikes.counts.mean() - 1) < 0.05
    imposed = cell.impose(test.current, test.spike_counts() > 0, 0.2)
    assert imposed.hazard is None
    assert imposed.log_hazard is None
    # with its own spikes imposed it crosses its threshold where it spikes, and nowhere else
    own = trains.take([0]).to_steps(0.2, training.steps) > 0
    again = cell.impose(training.current[:1], own, 0.2)
    live = np.ones(training.steps, bool)
    for spike in np.flatnonzero(own[0]):
        live[spike + 1 : spike + 21] = False
    crossed = (again.potential > again.threshold)[0] & live
    assert (crossed != own[0]).sum() <= 2  # single precision
    scores = evaluate(cell, test, before=training)
    assert "bits" not in scores
    assert scores["etv"] > 0.7
    assert GIFFit.from_dict(fit.to_dict()).cell == cell
    assert_refused(cell.to_nest if not cell.coupling else replace(cell, coupling=()).to_nest, ["to_nest", "noise"])


def test_parameters_of_nest(fitted):
    params = fitted.cell.to_nest()
    assert params["tau_sfa"] == [10, 200]
    assert np.isclose(params["V_T_star"], fitted.cell.threshold)
    other = fitted.cell.with_rate(1000.0)
    np.testing.assert_allclose(other.to_nest()["V_T_star"], params["V_T_star"])
    spikes = np.zeros((1, 2000), bool)
    current = current_of(1, 2000)
    np.testing.assert_allclose(
        other.impose(current, spikes, 0.2).hazard, fitted.cell.impose(current, spikes, 0.2).hazard, rtol=1e-9
    )
    assert_refused(COUPLED.to_nest, ["coupling", "gif"])


def test_a_reader_is_warned():
    recording = recording_of(CELL, 10, 100_000)
    rng = np.random.default_rng(0)
    noise = Recording(
        recording.current,
        -60 + rng.normal(0, 5, recording.voltage.shape) + 1e-3 * recording.current,
        5000,
        recording.spikes,
    )
    assert any("poorly explained" in each for each in fit_gif(noise).warnings)
    few = SpikeTrains.of([recording.spikes[0][:12]])
    told = fit_gif(Recording(recording.current, recording.voltage, 5000, few)).warnings
    assert any("12 spikes" in each for each in told)
    edged = fit_gif(recording, GIFConfig(model="gif", tau_mem=(20, 200)))
    assert any("edge" in each for each in edged.warnings)
    assert edged.cell.tau_mem >= 20
    twice = SpikeTrains.of([np.sort(np.append(recording.spikes[0], recording.spikes[0][5] + 1.0))])
    assert any(
        "1 ms apart" in each for each in fit_gif(Recording(recording.current, recording.voltage, 5000, twice)).warnings
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fit_gif(np.zeros(3)), ["data", "Recording"]),
        (lambda: fit_gif(Recording(np.zeros((1, 999)), np.zeros((1, 999)), 1000, [[5.0]])), ["current", "varies"]),
        (lambda: fit_gif(Recording(np.arange(999.0), np.full(999, -60.0), 1000, [[]])), ["spikes"]),
        (lambda: fit_gif(flipped()), ["rises with the current", "MOhm"]),
        (lambda: GIFConfig(model="hh"), ["model", "igif"]),
        (lambda: GIFConfig(currents=(10, 10)), ["currents", "differ"]),
        (lambda: GIFConfig(model="auto", currents=(10,)), ["currents", "auto"]),
        (lambda: GIFConfig(knots=(1.2,)), ["knots", "quantiles"]),
        (lambda: GIFConfig(tau_mem=(30, 20)), ["tau_mem"]),
        (lambda: GIFConfig.from_dict({"modle": "gif"}), ["modle"]),
        (lambda: replace(CELL, width=-1), ["width"]),
        (lambda: replace(CELL, currents=[(10,)]), ["currents", "tau"]),
        (lambda: CELL.sample(np.zeros((2, 0)), 0.1), ["current"]),
        (lambda: CELL.sample(np.zeros(9), 0.1, repeats=0), ["repeats"]),
        (lambda: CELL.sample(np.zeros(9), 0.1, seed=-1), ["seed", "-1"]),
        (lambda: CELL.impose(np.zeros((1, 9)), np.zeros((1, 8), bool), 0.1), ["spikes", "(1, 9)"]),
        (lambda: CELL.impose(np.zeros(9), np.zeros((2, 9), bool), 0.1), ["spikes", "(2, 9)"]),
        (lambda: evaluate(CELL, recording_of(CELL, 1, 500),
                          before=recording_of(CELL, 1, 500, sweeps=2)), ["before", "2 sweeps"]),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(call, words):
    assert_refused(call, words)


def flipped():
    recording = recording_of(CELL, 11, 20_000)
    return Recording(-recording.current, recording.voltage, 5000, recording.spikes)


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLOCKSIM_BACKEND", raising=False)
    for name, seed in (("a", 12), ("b", 13)):
        made = recording_of(CELL, seed, 50_000, sweeps=2)
        np.savez(
            f"{name}.npz", current_pA=made.current, voltage_mV=made.voltage, sampling_rate=5000,
            spike_times_ms=made.spikes.padded(),
        )  # fmt: skip
    (tmp_path / "few.toml").write_text("[fit]\nrepeats = 20\n")

    def call(*arguments):
        return click.testing.CliRunner().invoke(main, ["fit", *arguments, "--config", "few.toml"])

    return call


def test_the_command_fits_a_stochastic_neuron(shell, tmp_path):
    result = shell("a.npz", "-o", "out")
    assert result.exit_code == 0, result.output
    fit = GIFFit.load(tmp_path / "out/fit.json")
    assert [model for model, _ in fit.ranked()] == ["igif"]
    assert "held-out bits a spike:" not in result.output  # nothing it was compared with
    assert fit.config.repeats == 20
    training = open_recording("a.npz").split(at=7500)[0]
    assert fit.cell == fit_gif(training, fit.config).cell
    with np.load("out/predictions.npz") as saved:
        assert saved["test_spike_repeat"].max() == 19
        assert saved["test_voltage"].shape == saved["test_threshold"].shape
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4
    assert "&plusmn;" in page
    assert "finished before" in shell("a.npz", "-o", "out").output
    other = shell("a.npz", "-o", "out", "--model", "gif", "--no-report")
    assert other.exit_code == 2
    assert "pass --overwrite" in other.output


def test_the_command_takes_the_noise_away(shell, tmp_path):
    result = shell("a.npz", "-o", "out", "--model", "gif", "--deterministic")
    assert result.exit_code == 0, result.output
    assert not GIFFit.load(tmp_path / "out/fit.json").cell.is_stochastic
    assert "bits" not in result.output
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "without its noise" in page
    assert "finished before" in shell("a.npz", "-o", "out", "--model", "gif", "--deterministic").output


def test_cells_of_a_table_are_compared(shell, tmp_path):
    result = shell("a.npz", "b.npz", "-o", "cells", "--model", "auto", "--no-report")
    assert result.exit_code == 0, result.output
    ranked = GIFFit.load(tmp_path / "cells/a/fit.json").ranked()
    assert [bits for _, bits in ranked] == sorted((bits for _, bits in ranked), reverse=True)
    with open(tmp_path / "cells/cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cell"] for row in rows] == ["a", "b"]
    assert all(row["model"] != "lif" for row in rows)  # the others have something of what the cell has
    compared = "; ".join(f"{model} {bits:.3f}" for model, bits in ranked)
    assert rows[0]["compared"] == compared
    again = shell("a.npz", "-o", "cells/a", "--model", "auto", "--no-report")
    assert again.exit_code == 0, again.output
    assert f"held-out bits a spike: {compared}" in " ".join(again.output.split())
    assert all(float(row["test_md_star"]) > 0.5 for row in rows)


def test_a_folder_of_recordings_is_fitted(shell, tmp_path):
    folder = tmp_path / "cells"
    folder.mkdir()
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).rename(folder / name)
    for name in ("notes.pdf", ".hidden.npz"):
        (folder / name).write_text("not a recording")
    result = shell("cells", "-o", "out", "--model", "gif", "--no-report")
    assert result.exit_code == 0, result.output
    assert "2 cells" in result.output
    assert "test, Md*, 4 ms" in result.output
    assert sorted(item.name for item in (tmp_path / "out").iterdir() if item.is_dir()) == ["a", "b"]
    (folder / "b.npz").unlink()
    again = shell("cells", "-o", "one", "--model", "gif", "--no-report")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "one/a/fit.json").is_file()
    (folder / "a.npz").unlink()
    empty = shell("cells", "-o", "none")
    assert empty.exit_code == 2
    assert "cells: expected recordings (.npz" in empty.output
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "gif", "--tau", "20"], "--tau: expected with --model alif"),
        (["--model", "gif", "--refractory", "2,3"], "--refractory: expected one number for --model gif"),
        (["--model", "hodgkin"], "igif"),
    ],
)
def test_options_of_another_model_are_refused(shell, options, message, tmp_path):
    result = shell("a.npz", "-o", "x", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "x").exists()


def test_a_script_with_options_of_the_search_still_gets_alif():
    from blocksim.cli.fit import _implied

    assert _implied({}) == "igif"
    assert _implied({"seed": 3, "dt": 0.1, "validation": 0.2}) == "igif"
    assert {_implied(each) for each in ({"tau": 20.0}, {"refractory": (2.0, 3.0)}, {"candidates": 8})} == {"alif"}
