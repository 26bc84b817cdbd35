"""Fits of stochastic neurons beyond the default: refinement, known numbers, selection, reset factors, electrodes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import click.testing
import numpy as np
import pytest

from blocksim import simulate
from blocksim._parameters import values
from blocksim.cli import main
from blocksim.ephys import ElectrodeKernel, FitConfig, GIFConfig, GIFFit, Recording, compensate, fit, fit_gif
from blocksim.ephys._gif.cell import side_by_side
from blocksim.ephys._gif.estimate import estimate
from blocksim.ephys._gif.imposed import hazard_of
from blocksim.ephys._gif.recorded import Recorded
from blocksim.ephys._gif.refinement import _Numbers, _Objective, _weight
from blocksim.errors import MissingLibraryError

from .helpers import assert_refused
from .test_gif import CELL, COUPLED, current_of, recording_of

KEEPING = replace(CELL, reset_factor=0.4, reset=-68)
FIXED = {"tau_mem": 15.0, "resistance": 125.0, "rest": -70.0, "reset": -62.0, "threshold": -52.0, "width": 1.2}


@pytest.fixture(scope="module")
def short():
    """12 s of the cell with a coupled threshold."""
    return recording_of(COUPLED, 3, 60_000)


def known_of(recording, **settings):
    config = GIFConfig(**settings)
    known = Recorded.of(recording, config)
    return known, config, estimate(known, config)


@pytest.mark.parametrize("refine", ["joint", "spikes"])
@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("igif", {"currents": (20,), "thresholds": (50, 200), "coupling": (12,), "knots": (0.5,)}),
        ("glif", {"currents": (20, 100), "thresholds": (50, 200)}),
    ],
)
def test_the_gradient_of_a_refinement_is_its_differences(short, model, parts, refine):
    recording = Recording(short.current[:, :15_000], short.voltage[:, :15_000], 5000, short.spikes.window(0, 3000))
    known, config, first = known_of(recording, model=model, refine=refine, electrode="series", **parts)
    numbers = _Numbers.of(first, config)
    objective = _Objective(known, numbers, _weight(known, first) if refine == "joint" else 0.0)
    start = numbers.start + 0.01
    _, gradient = objective(start)
    for place, name in enumerate(numbers.names):
        step = np.zeros(len(start))
        step[place] = 1e-5 * max(1.0, abs(start[place]))
        difference = (objective(start + step)[0] - objective(start - step)[0]) / (2 * step[place])
        assert gradient[place] == pytest.approx(difference, rel=2e-5, abs=2e-4), name


def test_a_refined_fit_is_likelier_and_predicts_better():
    """From time constants that are not the cell's; what is told of them and their errors."""
    recording = recording_of(CELL, 1, 200_000)
    config = GIFConfig(model="gif", currents=(20, 100), thresholds=(20, 100))
    plain, refined = fit_gif(recording, config), fit_gif(recording, replace(config, refine="joint"))
    known, _, first = known_of(recording, **{**config.to_dict(), "refine": "joint"})
    objective = _Objective(known, _Numbers.of(first, config), _weight(known, first))
    after = _Numbers.of(replace(first, cell=refined.cell), config).start
    assert objective(after)[0] > objective(_Numbers.of(first, config).start)[0] + 10
    assert refined.compared["gif, refined"] == refined.scores["held_out_bits"] > refined.compared["gif"]
    taus = {f"{part}.{k}.tau" for part in ("currents", "thresholds") for k in (0, 1)}
    assert set(refined.names) - set(plain.names) == taus
    assert not refined.warnings
    assert np.all(np.linalg.eigvalsh(refined.covariance) > 0)
    # the band widens with what is not known of the time constant
    times, name = np.array([0.0, 100.0]), "thresholds"
    alone = replace(refined, names=tuple(each.replace(".tau", ".unknown") for each in refined.names))
    band, narrower = refined.kernel(name, times), alone.kernel(name, times)
    assert band.high[0] == pytest.approx(narrower.high[0])
    assert band.high[1] - band.low[1] != pytest.approx(narrower.high[1] - narrower.low[1], rel=1e-3)


def test_spikes_alone_leave_rest_and_resistance_as_they_were(short):
    plain, refined = (fit_gif(short, GIFConfig(model="alif", refine=refine)) for refine in ("none", "spikes"))
    assert refined.scores["bits"] > plain.scores["bits"]
    assert (refined.cell.rest, refined.cell.resistance) == pytest.approx((plain.cell.rest, plain.cell.resistance))
    assert not {"rest", "resistance"} & set(refined.names)


def test_cells_side_by_side_are_each_alone():
    cells = [COUPLED, replace(COUPLED, conductance=9, threshold=-50, coupling=[(10, None, 0.1), (12, -57, 0.3)])]
    together, alone = values(side_by_side(cells, 0.2)), [values(cell.neuron(0.2)) for cell in cells]
    for name, array in together.items():
        np.testing.assert_array_equal(np.broadcast_to(array, 2), [np.ravel(each[name])[0] for each in alone])


def test_a_reset_factor_is_recovered():
    """Within three standard errors, and the imposed cell is the simulated one."""
    recording = recording_of(KEEPING, 2, 200_000)
    config = GIFConfig(model="glif", currents=(10, 50), thresholds=(10, 200))
    found = fit_gif(recording, config)
    for name in ("reset_factor", "reset", "rest", "tau_mem"):
        assert abs(getattr(found.cell, name) - getattr(KEEPING, name)) < 3 * found.errors[name]
    assert found.errors["reset_factor"] < 0.1
    assert fit_gif(recording, replace(config, fixed={"reset_factor": 0.4})).cell.reset_factor == 0.4
    assert_refused(found.cell.to_nest, ["to_nest", "reset_factor"])
    again = GIFFit.from_dict(found.to_dict())
    assert again.cell == found.cell


@pytest.mark.parametrize("name", FIXED)
def test_a_known_number_stays(short, name):
    """The others are as near the true ones as they were, and no error is told of it."""
    config = GIFConfig(model="gif", currents=(10, 50), thresholds=(10, 200), fixed={name: FIXED[name]})
    recording = recording_of(CELL, 5, 100_000)
    found = fit_gif(recording, config)
    assert getattr(found.cell, name) == pytest.approx(FIXED[name], rel=1e-12)
    assert name not in found.errors
    for other, value in FIXED.items():
        if other != name:
            assert abs(getattr(found.cell, other) - value) < 4 * found.errors[other]


def test_all_known_numbers_together(short):
    """Only amplitudes are left: the likelihood of the true ones is hardly lower than that of the fitted ones."""
    config = GIFConfig(model="gif", currents=(10, 50), thresholds=(10, 200), fixed=FIXED)
    found = fit_gif(recording_of(CELL, 5, 100_000), config)
    assert set(found.names) == {"currents.0", "currents.1", "thresholds.0", "thresholds.1"}
    for part in ("currents", "thresholds"):
        for k, (_, amplitude) in enumerate(getattr(CELL, part)):
            assert abs(getattr(found.cell, part)[k][1] - amplitude) < 4 * found.errors[f"{part}.{k}"]


def test_a_known_number_is_worth_its_likelihood(short):
    """Newton's ascent with a known weight ends where no other weight helps: as good as any near it."""
    free = known_of(short, model="gif")[2]
    fixed = {"width": free.cell.width, "threshold": free.cell.threshold}
    same = known_of(short, model="gif", fixed=fixed)[2]
    np.testing.assert_allclose(hazard_of(same.log_hazard), hazard_of(free.log_hazard), rtol=1e-4, atol=1e-12)


def test_superfluous_time_constants_are_left_out():
    """Of a cell without a coupled threshold, none of the coupling is kept; of one with, some is."""
    plain = fit_gif(recording_of(CELL, 8, 200_000), GIFConfig(select=True))
    assert plain.config.coupling == ()
    assert plain.config.currents
    assert {"igif 3/2/3", "igif 3/2/0"} < set(plain.compared)
    assert plain.scores["held_out_bits"] >= max(plain.compared.values()) - 0.1
    coupled = fit_gif(recording_of(COUPLED, 8, 200_000), GIFConfig(select=True))
    assert 0 < len(coupled.config.coupling) < 3


def test_the_band_of_the_threshold(short):
    found = fit_gif(short, GIFConfig())
    held = np.array([-75.0, found.cell.rest, -55.0])
    band = found.threshold_at(held)
    cell = found.cell
    above = [sum(slope * (v - cell.rest if knot is None else max(v - knot, 0)) for _, knot, slope in cell.coupling)
             for v in held]  # fmt: skip
    expected = cell.threshold + np.array(above)
    np.testing.assert_allclose(band.value, expected)
    assert np.all(band.low < band.value)
    assert band.high[1] - band.value[1] == pytest.approx(1.96 * found.errors["threshold"])


def test_a_lif_neuron_by_search():
    recording = recording_of(replace(CELL, thresholds=(), currents=()), 1, 30_000)
    config = FitConfig(
        candidates=64, restarts=2, epochs=3, generations=3, population=32, refractory=(4.0,),
        fixed={"adaptation_pa": 0, "tau_mem": 15},
    )  # fmt: skip
    found = fit(recording, config)
    assert (found.cell.adaptation, found.cell.tau_mem) == (0, 15)
    assert not [told for told in found.warnings if "tau" in told]


@pytest.mark.parametrize("thresholds", [(), ((80, 4),)])
def test_a_cell_without_noise_is_an_adaptive_neuron(thresholds):
    """The same spikes, potentials and thresholds in mV, once it is forgotten where the sweep began."""
    cell = replace(CELL, width=0, currents=(), thresholds=thresholds)
    current, dt = current_of(3, 20_000), 0.2
    other = cell.to_cell(dt)
    run = simulate(cell.layer(dt), current[0][:, None], record=("voltage", "threshold"))
    found = other.predict(current, dt, dtype=np.float64)
    assert run.spikes.sum() > 30
    late = slice(8000, None)  # where neither knows how it began
    np.testing.assert_array_equal(found.spikes[0, late], run.spikes[late, 0])
    for name in ("voltage", "threshold"):
        np.testing.assert_allclose(getattr(found, name)[0, late], cell.rest + getattr(run, name)[late, 0], atol=1e-4)
    assert_refused(lambda: CELL.to_cell(dt), ["to_cell", "noise, after-spike currents, several rises"])
    assert_refused(lambda: replace(cell, reset=-50).to_cell(dt), ["to_cell", "above reset"])


@pytest.mark.slow
def test_a_refinement_that_leads_nowhere_is_told(short):
    """Far from the data, without residuals, with nothing left to refine: an answer, and what to think of it."""
    few = Recording(short.current[:, :15_000], short.voltage[:, :15_000], 5000, short.spikes.window(0, 3000))
    narrow = fit_gif(few, GIFConfig(model="gif", fixed={"width": 0.05}, refine="joint"))
    assert np.isfinite(narrow.cell.threshold)
    assert any("less likely than a Poisson neuron's" in each for each in narrow.warnings)
    known = dict(FIXED, reset=-62.0)
    whole = fit_gif(few, GIFConfig(model="lif", fixed=known, refine="joint"))
    assert (whole.names, whole.cell.tau_mem) == ((), 15.0)
    exact = recording_of(replace(CELL, currents=(), thresholds=()), 3, 20_000, noise=0.0)
    fixed = {name: FIXED[name] for name in ("tau_mem", "resistance", "rest", "reset")}
    perfect = fit_gif(exact, GIFConfig(model="lif", fixed=fixed, refine="joint", validation=0))
    assert abs(perfect.cell.width - CELL.width) < 1
    left = fit_gif(few, GIFConfig(model="lif", tau_mem=(20, 40), refine="joint"))
    assert any("left its range" in each for each in left.warnings) == (not 20 <= left.cell.tau_mem <= 40)


def test_a_missing_optimiser_is_told_before_work(short, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    told = []
    with pytest.raises(MissingLibraryError, match=r"refine: .*blocksim\[ephys\]"):
        fit_gif(short, GIFConfig(refine="joint"), lambda *stage: told.append(stage))
    assert not told


def test_what_was_not_compared_is_told(short):
    for settings in ({"model": "auto"}, {"select": True}):
        found = fit_gif(short, GIFConfig(**settings, validation=0))
        assert any("nothing was compared" in each for each in found.warnings)
    found = fit_gif(short, GIFConfig(model="auto", fixed={"reset_factor": 0.2}))
    assert len(found.compared) == 5


def test_rectangular_kernels_are_the_cells(tmp_path):
    """Each bin has the mean of the true kernel in it, whatever time constants the fit has; the cell stays as it was."""
    bins = (0, 1, 2, 4, 7, 12, 20, 35, 60, 100, 200)
    config = GIFConfig(model="gif", currents=(20,), thresholds=(100,), basis="rectangular", bins=bins)
    recording = recording_of(CELL, 1, 400_000)
    found = fit_gif(recording, config)
    assert found.cell == fit_gif(recording, replace(config, basis="exponential")).cell
    for part in ("currents", "thresholds"):
        kernel = found.rectangles[part]
        assert len(kernel.value) == len(kernel.error) == len(kernel.edges) - 1 == len(bins) - 1
        begin, end = kernel.edges[:-1], kernel.edges[1:]
        true = sum(
            amplitude * tau * (np.exp(-begin / tau) - np.exp(-end / tau)) / (end - begin)
            for tau, amplitude in getattr(CELL, part)
        )
        # a decaying kernel is not constant within a bin: 4 % of its height for that
        assert np.all(np.abs(kernel.value - true) < 4 * kernel.error + 0.04 * np.abs(true).max())
    found.save(tmp_path / "fit.json")
    again = GIFFit.load(tmp_path / "fit.json")
    np.testing.assert_array_equal(again.rectangles["currents"].edges, found.rectangles["currents"].edges)
    assert again.cell == found.cell
    assert fit_gif(recording, replace(config, model="lif", currents=(), thresholds=())).rectangles


def test_sweeps_of_several_cells_are_told():
    made = recording_of(CELL, 1, 20_000, sweeps=4)
    told = "sweeps of 2 cells"
    for labels, several in (
        (("B6_181", "B6_182", "B8_145", "B8_146"), True), (("B6_181", "B6_182", "B6_183", "B6_184"), False),
        (("1", "2", "3", "4"), False), (("B6_181", "B8_182", "c", "d"), False),
    ):  # fmt: skip
        found = fit_gif(replace(made, labels=labels), GIFConfig(model="lif", validation=0))
        assert any(told in each for each in found.warnings) == several
    quick = FitConfig(candidates=16, restarts=1, epochs=0, generations=0, refractory=(4.0,))
    assert any(told in each for each in fit(replace(made, labels=("a_1", "a_2", "b_1", "b_2")), quick).warnings)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GIFConfig(fixed={"tau": 3}), ["fixed", "'tau_mem'", "tau"]),
        (lambda: GIFConfig(fixed={"tau_mem": 0}), ["fixed: tau_mem", "above 0"]),
        (lambda: GIFConfig(fixed={"rest": "low"}), ["fixed: rest", "low"]),
        (lambda: GIFConfig(fixed=[1]), ["fixed", "dict"]),
        (lambda: GIFConfig(model="gif", fixed={"reset_factor": 0.1}), ["reset_factor", "glif"]),
        (lambda: GIFConfig(refine="all"), ["refine", "'joint'"]),
        (lambda: GIFConfig(noise=False, fixed={"width": 1}), ["fixed", "noise=False", "width"]),
        (lambda: GIFConfig(select=2), ["select", "True or False"]),
        (lambda: GIFConfig(basis="square"), ["basis", "'rectangular'"]),
        (lambda: GIFConfig(bins=(5, 3)), ["bins", "ascending"]),
        (lambda: FitConfig(fixed={"width": 1}), ["fixed", "'tau_mem'"]),
        (lambda: FitConfig(fixed={"gain": -1}), ["fixed: gain", "above 0"]),
    ],
)
def test_wrong_settings_are_refused(call, words):
    assert_refused(call, words)


@pytest.fixture
def call(tmp_path, monkeypatch):
    """The command, on a cell through an electrode of 20 MOhm, with a stretch below threshold beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLOCKSIM_BACKEND", raising=False)
    electrode = ElectrodeKernel(0.2, 20 * 0.6 * 0.4 ** np.arange(8))
    adding = replace(electrode, kernel=-electrode.kernel)
    made = recording_of(CELL, 1, 100_000)
    rng = np.random.default_rng(0)
    below = rng.normal(0, 60, (1, 50_000))
    quiet = CELL.impose(below, np.zeros(below.shape, bool), 0.2).potential + rng.normal(0, 0.1, below.shape)
    for name, recording in (("cell", made), ("below", Recording(below, quiet, 5000))):
        through = compensate(recording, adding)
        np.savez(
            f"{name}.npz", current_pA=through.current, voltage_mV=through.voltage, sampling_rate=5000,
            spike_times_ms=recording.spikes.padded(),
        )  # fmt: skip
    (tmp_path / "few.toml").write_text("[fit]\nrepeats = 20\n", encoding="utf-8")

    def call(*arguments):
        options = ["cell.npz", "-o", "out", "--no-report", "--overwrite", "--config", "few.toml"]
        result = click.testing.CliRunner().invoke(main, ["fit", *options, *arguments])
        return result, GIFFit.load("out/fit.json") if result.exit_code == 0 else None

    return call


def test_the_command_compensates_for_an_electrode(call):
    """By a recording below threshold, or a series resistance: of both the membrane is found, and scored as such."""
    scores = {}
    for electrode in ("none", "series", "below.npz"):
        result, found = call("--model", "gif", "--electrode", electrode)
        assert result.exit_code == 0, result.output
        scores[electrode] = abs(found.cell.resistance - CELL.resistance)
        with open("out/fit.json", encoding="utf-8") as file:
            assert json.load(file)["scores"]["test"]["potential_r2"] > (0.98 if electrode != "none" else 0)
    assert scores["below.npz"] < 2
    assert scores["series"] < 3 < scores["none"]
    result, _ = call("--electrode", "other.npz")
    assert result.exit_code == 2
    assert "no file other.npz" in result.output


def test_the_command_takes_the_options(call):
    result, found = call("--model", "alif", "--refine", "spikes", "--fix", "tau_mem=15", "--fix", "reset=-62")
    assert result.exit_code == 0, result.output
    assert (found.config.model, found.config.refine) == ("alif", "spikes")
    assert (found.cell.tau_mem, found.cell.reset) == pytest.approx((15, -62))
    Path("few.toml").write_text("[fit]\nrepeats = 20\n[fit.fixed]\ntau_mem = 14.0\nrest = -71.0\n", encoding="utf-8")
    result, found = call("--fix", "rest=-70", "--model", "gif")
    assert result.exit_code == 0, result.output
    assert found.config.fixed == {"tau_mem": 14.0, "rest": -70.0}
    Path("few.toml").write_text("[fit]\ncandidates = 20\n", encoding="utf-8")
    result, _ = call("--model", "alif", "--select")
    assert result.exit_code == 2
    assert "candidates of the search and select of the likelihood" in result.output
    Path("few.toml").write_text("[fit]\nrepeats = 20\n", encoding="utf-8")
    result, found = call("--select", "--model", "gif")
    assert result.exit_code == 0, result.output
    assert found.config.select
    for arguments, words in (
        (["--fix", "tau_mem"], "--fix: expected NAME=NUMBER"),
        (["--fix", "tau=3"], "fixed: expected names out of"),
        (["--fix", "rest=3", "--fix", "rest=4"], "--fix: expected each name once"),
        (["--refine", "all"], "joint"),
        (
            ["--model", "alif", "--tau", "20", "--refine", "joint"],
            "--tau: expected with --model alif, without",
        ),
    ):
        result, _ = call(*arguments)
        assert result.exit_code == 2
        assert words in result.output


def test_a_search_is_deterministic_already(call):
    runner = click.testing.CliRunner()
    result = runner.invoke(main, ["fit", "cell.npz", "-o", "other", "--model", "alif", "--deterministic"])
    assert result.exit_code == 2
    assert "--deterministic: expected with a stochastic model" in result.output
