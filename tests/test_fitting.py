"""Fits: the loss and its gradient, the stages of a fit, what a file leaves behind, and wrong input."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import click.testing
import numpy as np
import pytest

from blocksim import ArgumentError, get_backend, simulate
from blocksim._distances import potential_sums, train_distance
from blocksim.cli import main
from blocksim.ephys import Cell, FitConfig, FitData, Recording, SpikeLoss, VanRossum, fit, fit_cells
from blocksim.ephys._fitting.doubts import doubts_of
from blocksim.ephys._fitting.objective import Objective
from blocksim.ephys._fitting.search import Space, refine
from blocksim.ephys._fitting.translation import PARAMETERS
from blocksim.ephys.evaluation import predict, scores
from blocksim.losses import van_rossum
from blocksim.surrogates import FastSigmoid

from .helpers import assert_refused

TRUE = Cell(tau_mem=12, tau_adapt=80, adaptation=0.6, gain=0.012, bias=-0.6, refractory=3)
QUICK = FitConfig(candidates=32, restarts=4, epochs=6, generations=3, population=32)


def noise(sweeps=1, steps=8000, dt=0.5, seed=0, mean=180.0, spread=150.0):
    """A current of frozen noise with a correlation of 3 ms."""
    rng = np.random.default_rng(seed)
    keep = np.exp(-dt / 3)
    current, value = np.empty((sweeps, steps)), np.zeros(sweeps)
    for step in range(steps):
        value = keep * value + np.sqrt(1 - keep * keep) * rng.normal(size=sweeps)
        current[:, step] = mean + spread * value
    return current


def synthetic(dt=0.5, **options):
    current = noise(dt=dt, **options)
    return FitData(current, TRUE.predict(current, dt).spikes, dt)


def objective(cells, stops=None, backend="numba", **options):

    windows, steps = cells[0].current.shape
    settings = {
        "loss": VanRossum(20.0),
        "voltage_weight": 0.0,
        "surrogate": FastSigmoid(),
        "detach": ("reset",),
        **options,
    }
    stops = np.full(windows, steps) if stops is None else np.asarray(stops)
    return Objective(cells, stops, backend=get_backend(backend), **settings)


def row(cell, dt, count=1):
    """A cell as the parameters of `count` candidates."""
    values = {name: np.full(count, getattr(cell, name), np.float64) for name in PARAMETERS}
    return {**values, "refractory": np.full(count, round(cell.refractory / dt), np.int64)}


# --------------------------------------------------------------------------------------------------------- distance


@pytest.mark.parametrize("shape", [(3, 400, 1, 1), (2, 301, 5, 3), (1, 700, 37, 1), (2, 90, 20, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_distance_in_one_pass_is_the_composed_one(backend, shape, dtype):
    batch, steps, size, kinds = shape
    rng = np.random.default_rng(1)
    spikes, target = rng.random((batch, steps, size)) < 0.05, (rng.random((batch, steps, kinds)) < 0.05).astype(dtype)
    columns, stops = rng.integers(0, kinds, size), steps * 3 // 4 - 7 * np.arange(batch)
    x = spikes - target[:, :, columns].astype(np.float64)
    x[:, :11] = 0
    y = np.zeros_like(x)
    for t in range(steps):
        y[:, t] = x[:, t] + (0.9 * y[:, t - 1] if t else 0)
    kept = y * (np.arange(steps) < stops[:, None])[:, :, None]
    z = np.zeros_like(x)
    for t in reversed(range(11, steps)):
        z[:, t] = kept[:, t] + (0.9 * z[:, t + 1] if t + 1 < steps else 0)
    ready = [backend.asarray(array) for array in (spikes, target, columns)]
    before, after, back = train_distance(backend, *ready, 0.9, 11, stops, True)
    close = {"rtol": 1e-4 if dtype == np.float32 else 1e-10, "atol": 1e-5 if dtype == np.float32 else 1e-12}
    np.testing.assert_allclose(backend.to_numpy(before), np.square(kept).sum(axis=1), **close)
    np.testing.assert_allclose(backend.to_numpy(after), np.square(y - kept).sum(axis=1), **close)
    np.testing.assert_allclose(backend.to_numpy(back), z, **close)
    assert train_distance(backend, *ready, 0.9, 11, stops, False)[2] is None


def test_the_distance_is_the_van_rossum_loss():
    rng = np.random.default_rng(0)
    spikes, target = rng.random((2, 500, 6)) < 0.03, (rng.random((2, 500, 1)) < 0.03).astype(np.float64)
    loss = van_rossum(spikes, target, tau=10, dt=0.5)

    before, _, back = train_distance(
        get_backend("numba"), spikes, target, np.zeros(6, np.int64), np.exp(-0.05), 0, np.array([500, 500]), True
    )
    assert 0.05 * before.sum() == pytest.approx(loss.value, rel=1e-12)
    np.testing.assert_allclose(2 * 0.05 * back, loss.gradient, rtol=1e-10, atol=1e-13)


# ------------------------------------------------------------------------------------------------------------- loss


def test_a_silent_cell_costs_one_and_the_true_one_nothing():
    data = synthetic()
    ask = objective([data], [6000])
    silent = replace(TRUE, gain=1e-6)
    found = ask.evaluate(
        {k: np.concatenate([row(c, 0.5)[k] for c in (TRUE, silent)]) for k in row(TRUE, 0.5)}, np.zeros(2, int)
    )
    np.testing.assert_allclose(found.fit, [0, 1], atol=1e-6)
    np.testing.assert_allclose(found.validation, [0, 1], atol=1e-6)


def test_repeats_simulated_once_rank_candidates_as_all_of_them_do():
    current = noise()
    cells = [replace(TRUE, gain=TRUE.gain * factor) for factor in (0.9, 0.97, 1.0, 1.05)]
    trains = np.stack([cell.predict(current, 0.5).spikes[0] for cell in cells])
    everyone = FitData(np.repeat(current, 4, axis=0), trains, 0.5)
    merged = FitData(current, trains.mean(axis=0, keepdims=True), 0.5, repeats=np.array([4]))
    raw = []
    for data in (everyone, merged):
        ask = objective([data])
        found = [ask.evaluate(row(cell, 0.5), np.zeros(1, int)).fit[0] for cell in cells]
        raw.append(np.array(found) * ask.silent[0][0])
    # the sums differ by the spread of the trials, which is the same for every candidate
    np.testing.assert_allclose(raw[0] - raw[1], (raw[0] - raw[1])[0], rtol=1e-4)
    assert np.ptp(raw[1]) > 1


def test_the_gradient_is_that_of_backward_through_the_translation(backend):
    """By the chain rule with numerical derivatives of `Cell.layer`'s numbers."""
    data = synthetic(steps=600)
    cell = Cell(tau_mem=10, tau_adapt=70, adaptation=0.5, gain=0.013, bias=-0.5, refractory=2)
    ask = objective([data], backend=backend)
    found = ask.evaluate(row(cell, 0.5, 2), np.zeros(2, int), gradient=True).gradient
    x = data.current[..., None]
    run = simulate(cell.layer(0.5, np.float32), x, backend, tape=True)
    loss = van_rossum(run.spikes, data.spikes[..., None], tau=20, dt=0.5, backend=backend, dtype=np.float32)
    silent = van_rossum(np.zeros_like(run.spikes), data.spikes[..., None], tau=20, dt=0.5, backend=backend)
    got = run.backward(loss.gradient)
    by = np.array([float(np.ravel(g)[0]) for g in (got.beta, got.p, got.b, got.weights, got.bias)]) / silent.value

    def numbers(name, value):
        p = {**{key: getattr(cell, key) for key in PARAMETERS}, name: value}
        gain = p["gain"]
        layer = Cell(p["tau_mem"], p["tau_adapt"], p["adaptation_pa"] * gain, gain, 1 - gain * p["rheobase"],
                     cell.refractory).layer(0.5)  # fmt: skip
        neuron = layer.neuron
        return np.array([np.ravel(a)[0] for a in (neuron.beta, neuron.p, neuron.b, layer.weights, layer.bias)])

    for name in PARAMETERS:
        at = getattr(cell, name)
        slope = (numbers(name, at * (1 + 1e-5)) - numbers(name, at * (1 - 1e-5))) / (2e-5 * at)
        np.testing.assert_allclose(found[name], by @ slope, rtol=2e-3, err_msg=name)


def test_the_potentials_gradient_is_a_derivative():
    """Without spikes the loss is smooth: finite differences."""
    current = noise(steps=1500, mean=0, spread=40)
    rng = np.random.default_rng(0)
    spikes = np.zeros(current.shape)
    spikes[0, 700] = 1
    near = np.zeros(current.shape, bool)
    near[0, 680:720] = True
    recorded = -65 + 0.2 * TRUE.predict(current, 0.5).voltage + rng.normal(0, 0.01, current.shape)
    # the way from reset to where the current holds the potential is no matter of scale: left out
    data = FitData(current, spikes, 0.5, voltage=recorded, near_spike=near, warm_up=600)
    ask = objective([data], [1200], voltage_weight=0.7)
    cell = Cell(tau_mem=20, tau_adapt=80, adaptation=0.6, gain=0.008, bias=-0.9, refractory=3)
    found = ask.evaluate(row(cell, 0.5), np.zeros(1, int), gradient=True)
    alone = ask.evaluate(row(cell, 0.5), np.zeros(1, int))
    np.testing.assert_allclose([alone.fit, alone.validation], [found.fit, found.validation])
    assert 1 < found.fit[0] < 1.7
    step = 0.02 * 20
    up, down = (
        ask.evaluate({**row(cell, 0.5), "tau_mem": np.array([20 + s])}, np.zeros(1, int)).fit[0] for s in (step, -step)
    )
    # the surrogate's part of the gradient, which is no derivative, does not change with the weight
    plain = objective([data], [1200]).evaluate(row(cell, 0.5), np.zeros(1, int), gradient=True)
    slopes = {name: found.gradient[name][0] - plain.gradient[name][0] for name in PARAMETERS}
    assert slopes["tau_mem"] == pytest.approx((up - down) / (2 * step), rel=0.02)
    # scale and offset are the regression's
    assert abs(slopes["gain"] * 0.008) < 0.02 * abs(slopes["tau_mem"] * 20)


def test_warm_up_and_held_out_steps_do_not_count():
    data = synthetic()
    spoilt = np.array(data.spikes)
    spoilt[:, :400] = 0
    spoilt[:, 6000::10] = 1
    cells = [FitData(data.current, spikes, 0.5, warm_up=400) for spikes in (data.spikes, spoilt)]
    found = [objective([cell], [6000]).evaluate(row(replace(TRUE, gain=0.01), 0.5), np.zeros(1, int)) for cell in cells]
    assert found[0].fit == found[1].fit
    assert found[0].validation != found[1].validation


class SquaredCounts(SpikeLoss):
    """The squared difference of spike counts in stretches of 250 steps: a loss that only this file knows."""

    def __call__(self, backend, spikes, target, columns, dt, first, stops, gradient):
        steps = spikes.shape[1]
        difference = spikes - target[:, :, columns]
        slopes = np.zeros(spikes.shape, np.float32)
        parts = np.zeros((2, len(spikes), len(columns)))
        for window, stop in enumerate(stops):
            for start in range(first, steps, 250):
                for part, span in enumerate(
                    (slice(start, min(start + 250, stop)), slice(max(start, stop), start + 250))
                ):
                    count = difference[window, span].sum(axis=0)
                    parts[part, window] += count**2
                    if part == 0:
                        slopes[window, span] += 2 * count
        return parts[0], parts[1], slopes if gradient else None


def test_a_loss_of_ones_own_is_fitted_by():
    data = synthetic()
    result = fit(data, replace(QUICK, loss=SquaredCounts()))
    assert result.config.to_dict()["loss"] == "SquaredCounts"
    assert result.loss["training"] < 0.2  # of the loss of a silent cell
    counts = result.cell.predict(data.current, data.dt).spikes.sum()
    assert counts == pytest.approx(data.spikes.sum(), rel=0.1)
    assert result.loss["training"] != fit(data, QUICK).loss["training"]


class Broken(SpikeLoss):
    def __init__(self, change):
        self.change = change

    def __call__(self, *arguments):
        fit, validation, slopes = SquaredCounts()(*arguments)
        return {
            "nothing": None, "two": (fit, validation), "shape": (fit[:, :1], validation, slopes),
            "numbers": (fit + np.nan, validation, slopes), "no slopes": (fit, validation, None),
            "slopes": (fit, validation, None if slopes is None else slopes[:, :5]),
        }[self.change]  # fmt: skip


@pytest.mark.parametrize("change", ["nothing", "two", "shape", "numbers", "no slopes", "slopes"])
def test_a_loss_that_returns_something_else_is_named(change):
    with pytest.raises(ArgumentError, match=r"^loss Broken: .*expected .*found") as error:
        fit(synthetic(steps=1000), replace(QUICK, loss=Broken(change), backend="numpy"))
    assert "\n" not in str(error.value)


def test_settings_in_words_tell_losses_apart():
    words = [FitConfig(loss=loss).to_dict()["loss"] for loss in ("van_rossum", Broken("a"), Broken("b"), VanRossum(3))]
    assert words == ["van_rossum", "Broken(change='a')", "Broken(change='b')", "VanRossum(tau=3.0)"]


@pytest.mark.parametrize("loss", ["van-rossum", 3, None, VanRossum])
def test_a_loss_that_is_none_is_refused(loss):
    with pytest.raises(ArgumentError, match=r"loss: expected one of 'van_rossum', or a .*SpikeLoss object; found"):
        FitConfig(loss=loss)


# ------------------------------------------------------------------------------------------------------------ cells


def test_a_cell_is_its_layer_and_back():
    back = Cell.from_layer(TRUE.layer(0.1), 0.1)
    for name in ("tau_mem", "tau_adapt", "adaptation", "gain", "bias", "refractory"):
        assert getattr(back, name) == pytest.approx(getattr(TRUE, name), rel=1e-9), name
    scaled = replace(TRUE, reset_mv=-55.0, scale_mv=8.0)
    assert scaled.millivolts["rest"] == pytest.approx(-59.8)
    assert scaled.millivolts["threshold"] == -47
    current = noise(steps=2000)
    plain, in_mv = TRUE.predict(current, 0.5), scaled.predict(current, 0.5)
    np.testing.assert_array_equal(plain.spikes, in_mv.spikes)
    np.testing.assert_allclose(in_mv.voltage, -55 + 8 * plain.voltage)
    with pytest.raises(ArgumentError, match="refractory: expected a whole number of steps"):
        replace(TRUE, refractory=3.3).layer(0.5)


def test_a_steady_current_reaches_the_rheobase():
    for dt in (0.1, 0.5):
        below, above = (
            TRUE.predict(np.full(int(2000 / dt), TRUE.rheobase * factor), dt).spikes.sum() for factor in (0.99, 1.01)
        )
        assert below == 0
        assert above > 0


# ----------------------------------------------------------------------------------------------------------- search


def test_the_search_fills_its_space_and_refinement_finds_a_valley():
    space = Space.of(synthetic(), (1.0, 2.0, 4.0), {"tau_mem": (5.0, 50.0)})
    rows = space.start(64, np.random.default_rng(0))
    values = space.values(rows)
    assert set(values["refractory"]) == {2, 4, 8}
    place = np.log(values["tau_mem"] / 5) / np.log(10)
    assert (np.histogram(place, bins=16, range=(0, 1))[0] >= 3).all()

    def score(rows):
        return (rows[:, 0] + rows[:, 1] - 1) ** 2 * 100 + ((rows - 0.3) ** 2).sum(axis=1)

    found = refine(rows, score(rows), score, np.random.default_rng(1), generations=60, population=128)
    # the minimum along the valley, by hand: x0 = x1 = 0.3 + 0.4 / (2 + 0.01)
    np.testing.assert_allclose(found.rows[0], [0.499, 0.499, 0.3, 0.3, 0.3, 0.3], atol=0.01)
    assert (np.diff(found.history) <= 0).all()


# -------------------------------------------------------------------------------------------------------------- fit


def test_a_synthetic_cell_is_recovered():
    data = synthetic(steps=40_000, dt=0.5)
    result = fit(data, FitConfig(candidates=512, epochs=20, seed=3, refractory=(2, 3, 4)))
    for name in ("tau_mem", "tau_adapt", "adaptation", "gain", "bias", "refractory"):
        assert getattr(result.cell, name) == pytest.approx(getattr(TRUE, name), rel=0.05), name
    assert result.loss["training"] < 0.005 < result.loss["search"]


def test_the_same_seed_gives_the_same_fit_alone_or_among_others():
    cells = [synthetic(steps=3000, seed=seed) for seed in (0, 1, 2)]
    together = fit_cells(cells, QUICK)
    for data, result in zip(cells, together, strict=True):
        alone = fit(data, QUICK)
        assert alone.cell == result.cell
        np.testing.assert_array_equal(alone.history["fit"], result.history["fit"])
    assert fit(cells[0], replace(QUICK, seed=1)).cell != together[0].cell
    # spikes do not depend on the method; gradients do in their rounding, so the descent is left out
    blocks, standard = (fit(cells[0], replace(QUICK, epochs=0, method=method)) for method in ("blocks", "standard"))
    assert blocks.cell == standard.cell
    assert blocks.loss == standard.loss


def test_descent_lowers_the_loss_and_stops_by_validation():
    data = synthetic()
    config = replace(QUICK, candidates=64, restarts=8, epochs=60, patience=5, generations=0)
    result = fit(data, config)
    history, held = result.history["fit"], result.history["validation"]
    assert len(history) < 60
    for restart in range(8):
        mine = held[np.isfinite(held[:, restart]), restart]
        # five epochs without a lower one, then no more
        assert len(mine) - 1 - int(np.argmin(mine)) == 5
        assert result.restarts["validation"][restart] == mine.min()
    assert result.loss["validation"] == result.restarts["validation"].min()
    assert np.nanmin(history, axis=0).mean() < 0.8 * history[0].mean()
    plain = fit(data, replace(config, validation=0.0))
    assert np.isnan(plain.loss["validation"])
    assert plain.loss["descent"] == np.nanmin(plain.history["fit"])


def test_repeats_of_a_current_are_one_window():
    current = noise(steps=2000)
    rng = np.random.default_rng(0)
    sweeps = np.concatenate([current + rng.normal(0, 0.5, (3, 2000)), -current])
    spikes = [np.array([100.0, 300.0]), np.array([100.0]), np.array([302.0]), np.array([50.0])]
    recording = Recording(sweeps, np.full(sweeps.shape, -65.0), 2000, spikes=spikes)
    data = FitData.of(recording)
    assert data.repeats.tolist() == [3, 1]
    assert data.spikes[0, 200] == pytest.approx(2 / 3)
    assert FitData.of(recording, merge=False).repeats.tolist() == [1, 1, 1, 1]


def test_a_reader_is_warned_of_numbers_that_the_data_do_not_bear_out():
    data = synthetic(steps=4000)
    warned = fit(data, replace(QUICK, refractory=(5.0, 8.0)))
    assert any("refractory period is the" in each for each in warned.warnings)
    assert "warning: the refractory period" in str(warned)
    assert warned.to_dict()["warnings"] == list(warned.warnings)
    space = Space.of(data, (3.0,), {})
    good = TRUE.predict(data.current, data.dt)
    values = {name: np.array([np.sqrt(t.low * t.high) if t.scale == "log" else (t.low + t.high) / 2])
              for name, t in space.transforms.items()} | {"refractory": np.array([6])}  # fmt: skip
    assert doubts_of(data, space, values, good) == ()
    for name, transform in space.transforms.items():
        for end in (transform.low, transform.high):
            (told,) = doubts_of(data, space, values | {name: np.array([end])}, good)
            assert told.startswith(f"{name} lies at the edge of its range"), told
    silent = good._replace(spikes=np.zeros_like(good.spikes))
    assert "nearly silent: 0 spikes" in doubts_of(data, space, values, silent)[0]
    voltage = np.random.default_rng(0).normal(-60, 3, data.current.shape)
    other = replace(data, voltage=voltage, near_spike=np.zeros(voltage.shape, bool))
    assert "poorly explained (R2 0.0" in doubts_of(other, space, values, good)[0]
    assert doubts_of(replace(other, voltage=10 * good.voltage - 65), space, values, good) == ()


def test_settings_are_checked():
    for settings, message in (
        ({"tau": 0}, "tau: expected"), ({"restarts": 64, "candidates": 32}, "restarts: expected at most"),
        ({"bounds": {"tau": (1, 2)}}, "bounds: expected"), ({"detach": "input"}, "detach"),
        ({"validation_by": "cells"}, "validation_by: expected one of"), ({"surrogate": "x"}, "surrogate"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            FitConfig(**settings)
    with pytest.raises(ArgumentError, match=r"config.toml: expected names out of .*; found 'speed'"):
        FitConfig.from_dict({"speed": 1}, "config.toml")
    with pytest.raises(ArgumentError, match="expected at least one spike"):
        FitData(noise(steps=100), np.zeros((1, 100)), 0.5)
    with pytest.raises(ArgumentError, match="current that varies"):
        fit(FitData(np.full((1, 100), 5.0), np.eye(1, 100, 20), 0.5), QUICK)
    late = FitData(noise(steps=1000), np.eye(1, 1000, 950), 0.5)
    with pytest.raises(ArgumentError, match="part that is fitted"):
        fit(late, QUICK)
    with pytest.raises(ArgumentError, match="one number and length"):
        fit_cells([synthetic(steps=1000), synthetic(steps=1200)], QUICK)


def test_the_time_step_is_chosen_by_validation():
    recording = Recording(noise(steps=4000), np.full((1, 4000), -65.0), 2000,
                          spikes=[np.flatnonzero(TRUE.predict(noise(steps=4000), 0.5).spikes[0]) * 0.5])  # fmt: skip
    each = [fit(recording, replace(QUICK, dt=dt)) for dt in (0.5, 4.0)]
    best = min(each, key=lambda result: result.loss["validation"])
    chosen = fit(recording, replace(QUICK, dt=(0.5, 4.0)))
    assert (chosen.dt, chosen.cell) == (best.dt, best.cell)
    assert each[0].cell != each[1].cell
    with pytest.raises(ArgumentError, match="dt: expected one time step"):
        fit_cells([recording, recording], replace(QUICK, dt=(0.5, 4.0)))


def test_scores_of_the_true_cell_are_those_of_a_perfect_one():
    current = noise(steps=4000)
    spikes = TRUE.predict(current, 0.5).spikes
    trial = np.flatnonzero(spikes[0]) * 0.5
    recording = Recording(np.repeat(current, 3, axis=0), np.full((3, 4000), -65.0), 2000, spikes=[trial] * 3)
    whole = predict(TRUE, recording, 0.5)
    found = scores(whole)
    assert found["etv"] == pytest.approx(1)
    assert found["md_star"] == pytest.approx(1)
    # the later part, with the state that the earlier one left behind
    early, late = recording.split(at=900.0)
    rest = predict(TRUE, late, 0.5, before=early)
    np.testing.assert_array_equal(rest.traces.spikes, whole.traces.spikes[:, 1800:])


# ----------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLOCKSIM_BACKEND", raising=False)
    current = np.repeat(noise(steps=6000), 3, axis=0)
    made = TRUE.predict(current, 0.5)
    voltage = -60 + 6 * made.voltage + 90 * made.spikes
    for name in ("a", "b"):
        np.savez(f"{name}.npz", current_pA=current, voltage_mV=voltage, sampling_rate_Hz=2000)
    np.savez("silent.npz", current_pA=current, voltage_mV=np.minimum(voltage, -50), sampling_rate_Hz=2000)
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "quick.toml").write_text(
        "[fit]\ncandidates = 32\nrestarts = 4\nepochs = 6\ngenerations = 3\npopulation = 32\n"
    )

    def call(*arguments):
        return click.testing.CliRunner().invoke(main, ["fit", *arguments, "--config", "quick.toml"])

    return call


def test_one_file_leaves_a_fit_predictions_and_a_page(shell, tmp_path):
    result = shell("a.npz", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "intrinsic reliability" in result.output
    done = json.loads((tmp_path / "out/fit.json").read_text())
    cell = Cell(**done["fit"]["cell"])
    with np.load("out/predictions.npz") as saved, np.load("a.npz") as given:
        again = cell.predict(given["current_pA"], 0.5, dtype=np.float32)
        times = np.flatnonzero(again.spikes[0]) * 0.5
        # three quarters of 3 s are for training, and the test part goes on from there
        np.testing.assert_allclose(saved["training_spike_time_ms"], times[times < 2250])
        np.testing.assert_allclose(saved["test_spike_time_ms"], times[times >= 2250] - 2250)
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<img alt='[^']{20,}' src='data:image/png;base64,", page)) == 4
    assert "http" not in page
    assert "$" not in page
    again = shell("a.npz", "-o", "out")
    assert "finished before" in again.output
    other = shell("a.npz", "-o", "out", "--tau", "10")
    assert other.exit_code == 2
    assert "pass --overwrite" in other.output
    assert shell("a.npz", "-o", "out", "--tau", "10", "--overwrite", "--no-report").exit_code == 0


def test_many_files_go_on_past_those_that_fail_and_are_not_fitted_twice(shell, tmp_path):
    files = ("a.npz", "silent.npz", "text.npz", "b.npz")
    result = shell(*files, "-o", "cells", "--no-report")
    assert result.exit_code == 2
    assert "2 of 4 files failed" in result.output
    assert re.search(r"silent.npz: expected spikes in the training part; found none in 3 sweep", result.output)
    assert re.search(r"failed text.npz: .*text.npz: expected", result.output)
    lines = (tmp_path / "cells/cells.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["cell", "a", "b"]
    assert not (tmp_path / "cells/silent").exists()
    before = (tmp_path / "cells/a/fit.json").stat().st_mtime_ns
    again = shell(*files, "-o", "cells", "--no-report")
    assert "2 of 4 finished before" in again.output
    assert (tmp_path / "cells/a/fit.json").stat().st_mtime_ns == before
    assert (tmp_path / "cells/cells.csv").read_text().splitlines() == lines


def test_wrong_input_is_said_in_one_line(shell, tmp_path):
    for arguments, message in (
        (("text.npz", "-o", "x"), "text.npz: expected"), (("silent.npz", "-o", "x"), "silent.npz: expected spikes"),
        (("none.npz", "-o", "x"), "none.npz"), (("a.npz", "-o", "x", "--test-from", "5000"), "a.npz: start, stop"),
        (("a.npz", "a.npz", "-o", "x"), "found a twice"),
    ):  # fmt: skip
        result = shell(*arguments)
        assert result.exit_code == 2, result.output
        assert message in result.output
        assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_cortical_cell_is_fitted(shared_data):
    from blocksim.ephys import open_recording

    training, _ = open_recording(shared_data / "recordings/l5_cell3.npz").window(0, 12_000).split(at=9000)
    result = fit(training, FitConfig(restarts=8, epochs=60, generations=30, population=128))
    assert FitData.of(training).repeats.tolist() == [9]
    found = scores(predict(result.cell, training, training.dt))
    assert found["etv"] > 0.8
    assert -80 < result.cell.millivolts["rest"] < -50


@pytest.mark.parametrize(("neurons", "kinds"), [(1, 1), (64, 1), (130, 1), (130, 3)])
def test_sums_over_potentials_are_their_definition(neurons, kinds):
    """In NumPy, and compiled for the Numba backend: tiles of neurons, and cells of several kinds."""
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 0.4, (2, 150, neurons)).astype(np.float32)
    y = rng.normal(0, 8, (2, 150, kinds)).astype(np.float32)
    counted = (rng.random((2, 150, kinds)) < 0.7).astype(np.float32)
    columns = rng.integers(0, kinds, neurons)
    where = counted[:, :, columns].astype(bool)
    wanted = y[:, :, columns].astype(np.float64)
    for function in (potential_sums, get_backend("numba").fast(potential_sums)):
        expected = x, x.astype(np.float64) ** 2, x * wanted
        for found, values in zip(function(x, y, counted, columns), expected, strict=True):
            np.testing.assert_allclose(found, np.where(where, values, 0).sum(axis=(0, 1)), rtol=1e-5, atol=1e-6)
    assert get_backend("numba").fast(potential_sums) is not potential_sums


def test_the_potential_counts_where_it_is_recorded():
    """By default with 0.2; cells without potentials are fitted to their spikes alone."""
    data = synthetic()
    bare = fit(data, QUICK)
    assert bare.loss == fit(data, replace(QUICK, voltage_weight=0)).loss
    near = np.zeros(data.current.shape, bool)
    recorded = replace(data, voltage=np.array(TRUE.predict(data.current, data.dt).voltage), near_spike=near)
    default = fit(recorded, QUICK)
    assert default.loss == fit(recorded, replace(QUICK, voltage_weight=0.2)).loss
    assert default.loss != fit(recorded, replace(QUICK, voltage_weight=0)).loss
    assert_refused(lambda: fit_cells([data, recorded], QUICK), ["potentials of all cells or of none", "1 of 2"])
