"""Tables of what `blocksim.ephys` finds: columns of one length, which pandas takes, of the numbers that were found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blocksim.ephys import (
    Cell,
    ElectrodeKernel,
    Fit,
    FitConfig,
    GIFCell,
    GIFConfig,
    GIFFit,
    Recording,
    Rectangles,
    StepResponses,
    TriggeredAverage,
    fit_gif,
    spike_triggered_average,
    step_responses,
)
from blocksim.ephys.evaluation import predict, scores
from blocksim.trains import SpikeTrains

CELL = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3, reset_mv=-65, scale_mv=20)
COUPLED = GIFCell(
    capacitance=120, conductance=8, rest=-70, reset=-62, threshold=-52, width=1.2, refractory=4, rate=2.0,
    reset_factor=0.1, currents=[(10, -60), (50, -25)], thresholds=[(30, 4)],
    coupling=[(12, None, 0.2), (12, -58, 0.4), (40, None, 0.1)],
)  # fmt: skip
FIT = GIFFit(
    COUPLED, 0.1, ("tau_mem", "threshold", "width", "currents.1", "thresholds.0.tau", "coupling.1", "coupling.tau.0"),
    np.diag(np.square([0.5, 0.25, 0.125, 2.0, 3.0, 0.0625, 4.0])), {"bits": 1.0, "r2": 0.9, "held_out_bits": np.nan},
    {}, (), 7.5, 0.1, GIFConfig(electrode="series"),
)  # fmt: skip


def rows(table):
    """A table of parameters by their names."""
    others = [name for name in table if name != "parameter"]
    return {str(name): tuple(table[other][place] for other in others) for place, name in enumerate(table["parameter"])}


def predicted(cell, repeats=6):
    """Two repeats of one current, and another current."""
    rng = np.random.default_rng(2)
    once = 250 + 150 * np.repeat(rng.normal(size=(2, 300)), 10, axis=1)
    current = once[[0, 1, 0]]
    recording = Recording(current, np.full(current.shape, -60.0), 2000, [[100.0, 700.0], [50.0], [101.0, 705.0, 900.0]])
    return predict(cell, recording, 0.5, repeats=repeats, seed=1)


def test_parameters_of_a_cell():
    table = rows(CELL.table())
    assert list(table) == [
        "tau_mem", "tau_adapt", "adaptation", "gain", "bias", "refractory", "rheobase", "adaptation_pa", "rest",
        "reset", "threshold", "threshold_rise", "resistance",
    ]  # fmt: skip
    assert table["gain"] == (0.01, "1/pA")
    assert table["rheobase"] == (pytest.approx(150), "pA")
    assert table["rest"] == (-75, "mV")
    assert table["threshold"] == (-45, "mV")
    assert table["threshold_rise"] == (8, "mV")
    assert table["resistance"] == (pytest.approx(200), "MOhm")
    assert list(rows(replace(CELL, scale_mv=None).table())) == list(table)[:8]
    fit = Fit(CELL, 0.1, {"training": 0.2}, {}, {}, {}, FitConfig())
    assert rows(fit.table()) == table


def test_parameters_of_a_stochastic_cell():
    table = rows(COUPLED.table())
    plain = {"capacitance": "pF", "conductance": "nS", "rest": "mV", "reset": "mV", "reset_factor": "1",
             "threshold": "mV", "width": "mV", "rate": "Hz", "refractory": "ms", "tau_mem": "ms",
             "resistance": "MOhm"}  # fmt: skip
    for name, unit in plain.items():
        assert table.pop(name) == (getattr(COUPLED, name), unit)
    assert table["currents.0"] == (-60, "pA")
    assert table["currents.1.tau"] == (50, "ms")
    assert table["thresholds.0"] == (4, "mV")
    assert np.isnan(table["coupling.0.knot"][0])
    assert table["coupling.1"] == (0.4, "1")
    assert table["coupling.1.knot"] == (-58, "mV")
    assert table["coupling.2.tau"] == (40, "ms")
    assert len(table) == 2 * 2 + 2 + 3 * 3


def test_standard_errors_stand_beside_their_parameters():
    table = rows(FIT.table())
    errors = {name: error for name, (_, error, _) in table.items() if not np.isnan(error)}
    assert errors == {
        "tau_mem": 0.5, "threshold": 0.25, "width": 0.125, "currents.1": 2.0, "thresholds.0.tau": 3.0,
        "coupling.1": 0.0625, "coupling.0.tau": 4.0, "coupling.1.tau": 4.0,
    }  # fmt: skip
    assert table["series_resistance"][::2] == (7.5, "MOhm")
    assert "coupling.tau.0" in FIT.errors  # which are as they were
    quiet = replace(FIT, cell=replace(COUPLED, width=0.0), config=GIFConfig(noise=False))
    table = rows(quiet.table())
    assert "series_resistance" not in table
    assert np.isnan(table["width"][1])
    assert table["tau_mem"][1] == 0.5


@pytest.mark.parametrize("refine", ["none", "joint"])
def test_every_fitted_number_is_in_the_table(refine):
    if refine == "joint":
        pytest.importorskip("scipy")
    current = 170 + 130 * np.repeat(np.random.default_rng(0).normal(size=(1, 1500)), 10, axis=1)
    cell = replace(COUPLED, reset_factor=0.0)
    spikes = cell.sample(current[0], 0.4, repeats=1, seed=1)
    voltage = cell.impose(current, spikes.to_steps(0.4, 15_000) > 0, 0.4).potential
    noisy = voltage + np.random.default_rng(1).normal(0, 0.3, voltage.shape)
    config = GIFConfig(
        model="igif", refine=refine, electrode="series", currents=(20.0,), coupling=(12.0,), knots=(0.5,)
    )
    fit = fit_gif(Recording(current, noisy, 2500, spikes), config)
    table, errors = rows(fit.table()), fit.errors
    for name, error in errors.items():
        if name.startswith("coupling.tau"):
            assert table["coupling.0.tau"][1] == table["coupling.1.tau"][1] == error
        else:
            assert table[name][1] == error
    assert sum(np.isfinite(error) for _, error, _ in table.values()) == len(errors) + (refine == "joint")


def test_rectangles_and_kernels():
    kernel = Rectangles(np.array([4.0, 7.0, 12.0, 20.0]), np.array([-4.0, -2.0, 0.5]), np.array([0.1, 0.2, 0.3]))
    table = kernel.table()
    assert table["start_ms"].tolist() == [4, 7, 12]
    assert table["stop_ms"].tolist() == [7, 12, 20]
    assert table["value"].tolist() == [-4, -2, 0.5]
    assert table["standard_error"].tolist() == [0.1, 0.2, 0.3]
    electrode = ElectrodeKernel(0.1, np.array([5.0, 3.0])).table()
    assert electrode["time_ms"].tolist() == [0, 0.1]
    assert electrode["kernel_mohm"].tolist() == [5, 3]


def test_a_triggered_average():
    found = spike_triggered_average(np.arange(400.0), [[10.0, 20.0]], dt=0.1, before=1, after=1)
    table = found.table()
    assert list(table) == ["time_ms", "average", "standard_error"]
    np.testing.assert_array_equal(table["time_ms"], found.times)
    np.testing.assert_array_equal(table["average"], found.average)
    np.testing.assert_array_equal(table["standard_error"], found.error)


def test_steps_are_a_row_each_train():
    trains = SpikeTrains.of([[5.0, 12.0, 14.0, 19.0, 21.0], [], [30.0], [10.0]])
    responses = StepResponses(
        np.array([20.0, 10.0]), 10.0, 20.0, 0.1, np.zeros((2, 300)), np.zeros((2, 300)), trains, 2
    )
    table = responses.table()
    assert table["amplitude_pa"].tolist() == [20, 20, 10, 10]
    assert table["repetition"].tolist() == [0, 1, 0, 1]
    assert table["spikes"].tolist() == [3, 0, 0, 1]
    np.testing.assert_array_equal(table["latency_ms"], [2, np.nan, np.nan, 0])
    np.testing.assert_array_equal(table["first_interval_ms"], [2, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(table["last_interval_ms"], [5, np.nan, np.nan, np.nan])


def test_predictions_are_a_row_each_repetition():
    result = predicted(COUPLED)
    assert result.groups == [[0, 2], [1]]
    table = result.table()
    assert table["group"].tolist() == [0] * 6 + [1] * 6
    assert table["repetition"].tolist() == [0, 1, 2, 3, 4, 5] * 2
    np.testing.assert_array_equal(table["spikes"], result.trains.counts)
    np.testing.assert_allclose(table["rate_hz"], result.trains.counts / 1.5)
    # two trials of the first group, one of the second
    mean = (2 * table["gamma"][:6].mean() + table["gamma"][6:].mean()) / 3
    assert mean == pytest.approx(scores(result)["gamma"])
    assert len(set(table["etv_raw"])) > 6
    alone = predicted(CELL)
    assert alone.table()["group"].tolist() == [0, 1]
    etv = alone.table()["etv_raw"]
    assert (2 * etv[0] + etv[1]) / 3 == pytest.approx(scores(alone)["etv_raw"])


@pytest.mark.parametrize(
    "result",
    [
        CELL, COUPLED, FIT, Fit(CELL, 0.1, {"training": 0.2}, {}, {}, {}, FitConfig()),
        Rectangles(np.arange(3.0), np.ones(2), np.ones(2)), ElectrodeKernel(0.1, np.ones(4)),
        TriggeredAverage(np.arange(3.0), np.ones(3), np.ones(3), 2), step_responses(CELL, [100.0, 300.0], dt=0.5),
        step_responses(CELL, [100.0, 300.0], dt=0.5).f_i_curve(), predicted(CELL),
    ],
    ids=lambda result: type(result).__name__,
)  # fmt: skip
def test_a_table_goes_into_pandas_and_may_be_changed(result):
    table = result.table()
    assert len({len(values) for values in table.values()}) == 1
    before = {name: values.copy() for name, values in table.items()}
    for name, values in table.items():
        values[:] = values[::-1].copy()  # neither the result nor another column changes with it
        np.testing.assert_array_equal(result.table()[name], before[name])
        np.testing.assert_array_equal(values, before[name][::-1])
    table = result.table()
    table["cell"] = np.zeros(len(next(iter(table.values()))))
    assert "cell" not in result.table()
    pandas = pytest.importorskip("pandas", reason="needs pandas, which is not installed")
    frame = pandas.DataFrame(table)
    assert list(frame.columns) == list(table)
    assert frame.to_csv(index=False).count("\n") == 1 + len(frame)
