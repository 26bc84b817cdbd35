"""Recordings, predictions and fits written as NWB: valid, whole, and read back to the bit, by Neo too."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import click.testing
import numpy as np
import pytest

from blocksim.cli import main
from blocksim.ephys import (
    Cell,
    Detection,
    Fit,
    FitConfig,
    FittedCell,
    GIFCell,
    GIFConfig,
    GIFFit,
    Recording,
    fit_gif,
    open_parts,
    open_recording,
    write_nwb,
)
from blocksim.ephys.evaluation import predict
from blocksim.errors import FileError, MissingLibraryError

from .helpers import assert_refused, assert_same_bits

pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed: python -m pip install 'blocksim[nwb]'")
h5py = pytest.importorskip("h5py")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

CELL = Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3, reset_mv=-65, scale_mv=20)
GIF = GIFCell(
    capacitance=100, conductance=8, rest=-70, reset=-62, threshold=-52, width=1.0, refractory=4, currents=[(50, -40)],
    thresholds=[(100, 3)],
)  # fmt: skip
TABLE = "general/intracellular_ephys/intracellular_recordings"


def made(sweeps=3, steps=700, rate=1e4 / 3, seed=0, labels=(), name="cell 7"):
    """Numbers with all of their bits, and spikes from the first instant to the last."""
    rng = np.random.default_rng(seed)
    current, voltage = rng.normal(100, 90, (sweeps, steps)), rng.normal(-60, 5, (sweeps, steps))
    end = steps * 1000 / rate
    spikes = [[0.0, end / 3, end / np.e, end], [], [0.1 + 0.2]][:sweeps]
    return Recording(current, voltage, rate, spikes, labels, name)


def assert_same_recording(got, expected):
    for name in ("current", "voltage"):
        assert_same_bits(name, getattr(got, name), getattr(expected, name))
    assert_same_bits("times", got.spikes.times, expected.spikes.times)
    assert_same_bits("offsets", got.spikes.offsets, expected.spikes.offsets)
    assert got.sampling_rate == expected.sampling_rate
    assert got.labels == expected.labels


def assert_valid(path):
    with pynwb.NWBHDF5IO(str(path), mode="r") as io:
        assert pynwb.validate(io=io) == []


@pytest.fixture(scope="module")
def fitted():
    """Training and test part of a cell of three equal sweeps, its fit, and predictions of both."""
    current = np.repeat(150 + 120 * np.repeat(np.random.default_rng(0).normal(size=(1, 800)), 20, axis=1), 3, axis=0)
    spikes = GIF.sample(current[0], dt=0.2, repeats=3, seed=1)
    voltage = GIF.impose(current, spikes.to_steps(0.2, 16_000) > 0, dt=0.2).potential
    training, test = Recording(current, voltage, 5000, spikes, name="cell 7").split(at=2400)
    fit = fit_gif(training, GIFConfig(model="gif"))
    parts = {"training": training, "test": test}
    predictions = {
        "training": predict(fit.cell, training, fit.dt, repeats=4),
        "test": predict(fit.cell, test, fit.dt, before=training, repeats=4),
    }
    return parts, fit, predictions


# ------------------------------------------------------------------------------------------------------- recordings


@pytest.mark.parametrize(
    ("recording", "words"),
    [
        (made(labels=("pulse/1", "ü: ", "pulse/1")), "labels that are no names of groups, and are not unique"),
        (made(sweeps=1, steps=1, rate=1e6, name=""), "one sample"),
        (made().select([1]), "no spike"),
        (made(rate=50_000.0, seed=3), "a spike every 20 us"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_recording_is_read_back_to_the_bit(tmp_path, recording, words):
    write_nwb(tmp_path / "cell.nwb", recording)
    assert_valid(tmp_path / "cell.nwb")
    back = open_recording(tmp_path / "cell.nwb", plausible=False)
    assert_same_recording(back, recording)
    assert (back.name, back.source) == ("cell", "cell.nwb")
    assert list(open_parts(tmp_path / "cell.nwb", plausible=False)) == ["main"]
    assert [item.name for item in tmp_path.iterdir()] == ["cell.nwb"]


def test_sweeps_are_chosen_and_spikes_found_anew(tmp_path):
    recording = made(labels=("a", "b 1", "b 2"))
    write_nwb(tmp_path / "cell.nwb", recording)
    assert_same_recording(open_recording(tmp_path / "cell.nwb", sweeps="b *"), recording.select("b *"))
    found = open_recording(tmp_path / "cell.nwb", detection=Detection(threshold=-55.0))
    assert len(found.spikes.times) > 10
    swapped = open_recording(tmp_path / "cell.nwb", swap=True, plausible=False)
    np.testing.assert_allclose(swapped.voltage, recording.current * 1e-12)  # of numbers in A and V, taken as pA and mV
    moved = open_recording(tmp_path / "cell.nwb", current_unit="nA", voltage_unit="V", plausible=False)
    np.testing.assert_allclose(moved.current, recording.current * 1e-9)


def test_parts_differ_in_length_and_rate(tmp_path):
    parts = {"training": made(), "test": made(2, 1500, 1e5 / 7, 1, ("x", "y")), "é 3": made(1, 10, 1000.0, 2)}
    write_nwb(tmp_path / "cell.nwb", parts)
    assert_valid(tmp_path / "cell.nwb")
    back = open_parts(tmp_path / "cell.nwb")
    assert list(back) == list(parts)
    for part, recording in parts.items():
        assert_same_recording(back[part], recording)
    assert_same_recording(open_recording(tmp_path / "cell.nwb"), parts["training"])
    with pytest.raises(FileError, match="expected a part named 'tests'; found training, test, é 3"):
        open_recording(tmp_path / "cell.nwb", part="tests")


def test_a_part_may_have_any_name(tmp_path):
    parts = {"a": made(), "": made(2, seed=1), " a/b\n": made(1, seed=2)}
    write_nwb(tmp_path / "cell.nwb", parts)
    for part, recording in open_parts(tmp_path / "cell.nwb").items():
        assert_same_recording(recording, parts[part])
    assert_same_recording(open_recording(tmp_path / "cell.nwb", part=""), parts[""])


def test_many_sweeps_are_read_in_one_go(tmp_path, monkeypatch):
    """Two columns of the table, whose references pynwb follows one by one; not the two of them for every row."""
    hdmf = pytest.importorskip("hdmf.common")
    write_nwb(tmp_path / "cell.nwb", Recording(np.ones((30, 20)), np.full((30, 20), -65.0), 1000, [[]] * 30))
    read, calls = hdmf.DynamicTable.to_dataframe, []
    monkeypatch.setattr(
        hdmf.DynamicTable, "to_dataframe", lambda *given, **named: (calls.append(1), read(*given, **named))[1]
    )
    assert open_recording(tmp_path / "cell.nwb").sweeps == 30
    assert len(calls) <= 2


def test_what_others_find_in_the_file(tmp_path):
    """Volts, amperes and seconds, by h5py alone: what any tool reads."""
    recording = made(steps=5000, labels=("a", "b", "c"))
    began = datetime(2024, 5, 17, 9, 30, tzinfo=UTC)
    write_nwb(
        tmp_path / "cell.nwb", {"whole": recording}, session_start_time=began, identifier="c7",
        session_description="noise into a cell", subject={"subject_id": "A10", "species": "Mus musculus", "sex": "F"},
        electrode={"location": "L5", "resistance": "5 MOhm"}, metadata={"experimenter": ["Doe, J."], "lab": "ours"},
    )  # fmt: skip
    assert_valid(tmp_path / "cell.nwb")
    with h5py.File(tmp_path / "cell.nwb") as file:
        starts = []
        for sweep in range(3):
            for group, values, scale, unit in (
                ("acquisition/response", recording.voltage, 1e-3, "volts"),
                ("stimulus/presentation/stimulus", recording.current, 1e-12, "amperes"),
            ):
                series = file[f"{group}_00{sweep}"]
                data = series["data"]
                assert data.attrs["unit"] == unit
                np.testing.assert_allclose(data[:] * data.attrs["conversion"], values[sweep] * scale, rtol=1e-15)
                assert series["starting_time"].attrs["rate"] == recording.sampling_rate
                assert series.attrs["sweep_number"] == sweep
                starts.append(float(series["starting_time"][()]))
        assert starts[::2] == starts[1::2]
        starts = starts[::2]
        assert all(later >= start + recording.duration / 1000 for start, later in itertools.pairwise(starts))
        assert file[f"{TABLE}/label"].asstr()[:].tolist() == ["a", "b", "c"]
        index = file["units/spike_times_index"][:].tolist()
        times = [file["units/spike_times"][first:last] for first, last in zip([0, *index], index, strict=False)]
        for sweep, start in enumerate(starts):
            np.testing.assert_allclose(times[sweep] - start, recording.spikes[sweep] / 1000, atol=1e-12)
            stop = start + recording.duration / 1000
            assert file["units/obs_intervals"][sweep].tolist() == [start, stop]
        assert file["session_start_time"].asstr()[()] == "2024-05-17T09:30:00+00:00"
        assert file["session_description"].asstr()[()] == "noise into a cell"
        assert file["identifier"].asstr()[()] == "c7"
        assert file["general/subject/species"].asstr()[()] == "Mus musculus"
        electrode = file["general/intracellular_ephys/electrode"]
        assert electrode["cell_id"].asstr()[()] == "cell 7"
        assert electrode["location"].asstr()[()] == "L5"
        assert file["general/lab"].asstr()[()] == "ours"
        assert "processing/blocksim" not in file


def test_a_file_says_what_is_not_known_of_it(tmp_path):
    before = datetime.now(UTC)
    for name in ("a", "b"):
        write_nwb(tmp_path / f"{name}.nwb", made())
    with h5py.File(tmp_path / "a.nwb") as file, h5py.File(tmp_path / "b.nwb") as other:
        assert file["identifier"].asstr()[()] != other["identifier"].asstr()[()]
        began = datetime.fromisoformat(file["session_start_time"].asstr()[()])
        assert before <= began <= datetime.now(UTC)
        words = file["session_description"].asstr()[()]
        assert words.startswith("Current clamp of cell 7; when it was recorded is not known")
    naive = datetime(2024, 5, 17, 9, 30)
    write_nwb(tmp_path / "c.nwb", made(), session_start_time=naive)
    with h5py.File(tmp_path / "c.nwb") as file:
        assert datetime.fromisoformat(file["session_start_time"].asstr()[()]) == naive.astimezone()


def test_neo_reads_sweeps_as_segments(tmp_path):
    neo = pytest.importorskip("neo", reason="neo is not installed: python -m pip install 'blocksim[neo]'")
    parts = {"training": made(rate=5000.0, labels=("a", "b", "a")), "test": made(2, 900, 10_000.0, 1, ("x", "y"))}
    write_nwb(tmp_path / "cell.nwb", parts)
    blocks = neo.io.NWBIO(str(tmp_path / "cell.nwb"), "r").read_all_blocks()
    assert [block.name for block in blocks] == ["training", "test"]
    for block, recording in zip(blocks, parts.values(), strict=True):
        back = Recording.from_neo(block)
        np.testing.assert_allclose(back.current, recording.current, rtol=1e-14)
        np.testing.assert_allclose(back.voltage, recording.voltage, rtol=1e-14)
        np.testing.assert_array_equal(back.spikes.offsets, recording.spikes.offsets)
        np.testing.assert_allclose(back.spikes.times, recording.spikes.times, atol=1e-9)
    assert Recording.from_neo(blocks[0]).labels == ("a 0", "b", "a 2")


@pytest.mark.parametrize("labels", [("a", "a", "a 0"), ("a 2", "a", "a"), ("", "", " 1"), ("a", "a", "a 1")])
def test_neo_keeps_sweeps_apart_whatever_their_labels(tmp_path, labels):
    neo = pytest.importorskip("neo", reason="neo is not installed: python -m pip install 'blocksim[neo]'")
    recording = made(labels=labels)
    write_nwb(tmp_path / "cell.nwb", recording)
    (block,) = neo.io.NWBIO(str(tmp_path / "cell.nwb"), "r").read_all_blocks()
    back = Recording.from_neo(block)
    np.testing.assert_allclose(back.current, recording.current, rtol=1e-14)
    np.testing.assert_array_equal(back.spikes.offsets, recording.spikes.offsets)
    assert_same_recording(open_recording(tmp_path / "cell.nwb"), recording)


def test_columns_of_others_that_share_a_name_mean_nothing(tmp_path):
    """Only a table with all three columns is one of ours."""
    file = pynwb.NWBFile("a cell", "id", datetime(2020, 1, 1, tzinfo=UTC))
    electrode = file.create_icephys_electrode(name="e", description="-", device=file.create_device("amplifier"))
    table = file.get_intracellular_recordings()
    for column in ("label", "part"):
        table.add_column(name=column, description="of theirs")
    for sweep in range(2):
        stimulus = pynwb.icephys.CurrentClampStimulusSeries(
            name=f"s{sweep}", data=np.full(900, 5e-11), electrode=electrode, rate=1e4, starting_time=float(sweep)
        )
        response = pynwb.icephys.CurrentClampSeries(
            name=f"r{sweep}", data=np.full(900, -0.07), electrode=electrode, rate=1e4, starting_time=float(sweep)
        )
        file.add_intracellular_recording(stimulus=stimulus, response=response, label="same", part=f"p{sweep}")
    with pynwb.NWBHDF5IO(str(tmp_path / "theirs.nwb"), "w") as io:
        io.write(file)
    parts = open_parts(tmp_path / "theirs.nwb")
    assert list(parts) == ["main"]
    assert parts["main"].labels == ("r0", "r1")
    np.testing.assert_allclose(parts["main"].current, 50)


# ---------------------------------------------------------------------------------------------- predictions and fits


def test_predictions_lie_beside_the_recording(fitted, tmp_path):
    parts, _, predictions = fitted
    write_nwb(tmp_path / "cell.nwb", parts, prediction=predictions)
    assert_valid(tmp_path / "cell.nwb")
    for part, recording in open_parts(tmp_path / "cell.nwb").items():
        assert_same_recording(recording, parts[part])
    with pynwb.NWBHDF5IO(str(tmp_path / "cell.nwb"), "r") as io:
        file = io.read()
        module = file.processing["blocksim"]
        assert "fit" not in module.data_interfaces
        units = module["predicted_spikes"]
        assert units["part"][:].tolist() == ["training"] * 4 + ["test"] * 4
        assert units["repetition"][:].tolist() == [0, 1, 2, 3] * 2
        for number, (part, predicted) in enumerate(predictions.items()):
            # the three sweeps are one group: rows of the table from the part's first on
            assert predicted.groups == [[0, 1, 2]]
            response = file.acquisition[f"response_{3 * number:03}"]
            for repetition, train in enumerate(predicted.trains):
                row = 4 * number + repetition
                times = units.get_unit_spike_times(row)
                np.testing.assert_allclose(1000 * (times - response.starting_time), train, atol=1e-9)
                assert units["recordings"].target.data[:].tolist()[3 * row : 3 * row + 3] == [
                    3 * number, 3 * number + 1, 3 * number + 2
                ]  # fmt: skip
                ((start, stop),) = units.get_unit_obs_intervals(row)
                assert start == response.starting_time
                assert stop - start == pytest.approx(parts[part].duration / 1000)
            for what, values in (("potential", predicted.traces.voltage), ("threshold", predicted.traces.threshold)):
                series = module[f"predicted_{what}_{number:03}"]
                assert (series.unit, series.rate, series.starting_time) == ("volts", 5000.0, response.starting_time)
                np.testing.assert_allclose(series.data[:] * series.conversion, values[0] / 1000, rtol=1e-12)
                assert "recorded spikes imposed" in series.description


@pytest.mark.parametrize("known", [True, False])
def test_a_prediction_has_the_unit_that_its_cell_knows(tmp_path, known):
    """At a coarser step, whose last one is longer than what is left of the sweep; two groups; no spike in one."""
    cell = CELL if known else Cell(**CELL.to_dict() | {"reset_mv": None, "scale_mv": None})
    current = np.array([[300.0] * 1001, [0.0] * 1001, [300.0] * 1001])
    current[:, 0] = 1.0
    recording = Recording(current, np.full((3, 1001), -65.0), 10_000, [[5.0], [], []])
    predicted = predict(cell, recording, dt=0.5)
    write_nwb(tmp_path / "cell.nwb", recording, prediction=predicted)
    assert_valid(tmp_path / "cell.nwb")
    assert_same_recording(open_recording(tmp_path / "cell.nwb"), recording)
    with pynwb.NWBHDF5IO(str(tmp_path / "cell.nwb"), "r") as io:
        module = io.read().processing["blocksim"]
        potential = module["predicted_potential_001"]
        assert (potential.unit, potential.conversion) == (("volts", 1e-3) if known else ("1", 1.0))
        assert ("0 is reset" in potential.description) != known
        assert potential.rate == 2000
        assert_same_bits("potential", potential.data[:], predicted.traces.voltage[1])
        units = module["predicted_spikes"]
        assert [len(units.get_unit_spike_times(row)) for row in (0, 1)] == predicted.trains.counts.tolist()
        assert predicted.trains.counts[1] == 0


def test_a_prediction_without_any_spike(tmp_path):
    recording = Recording(np.full((1, 900), 10.0), np.full((1, 900), -65.0), 10_000, [[]])
    write_nwb(tmp_path / "cell.nwb", recording, prediction=predict(CELL, recording, dt=0.1))
    assert_valid(tmp_path / "cell.nwb")
    assert_same_recording(open_recording(tmp_path / "cell.nwb"), recording)


def test_a_prediction_may_have_any_step(fitted, tmp_path):
    """And a current that was resampled before, by which rounding differs."""
    parts, fit, _ = fitted
    for dt, recording in ((0.2, parts["test"]), (0.3, parts["test"]), (1.0, parts["test"].at_dt(0.5))):
        predicted = predict(fit.cell, recording, dt, repeats=2)
        write_nwb(tmp_path / "cell.nwb", parts["test"], prediction=predicted, overwrite=True)
        with pynwb.NWBHDF5IO(str(tmp_path / "cell.nwb"), "r") as io:
            potential = io.read().processing["blocksim"]["predicted_potential_000"]
            assert potential.rate == pytest.approx(1000 / dt)
            assert_same_bits("potential", potential.data[:], predicted.traces.voltage[0])


def test_a_prediction_of_another_recording_is_refused(fitted, tmp_path):
    """Of the same number and length of sweeps, which alone does not say what it is of."""
    parts, fit, _ = fitted
    first, second = parts["training"].window(0, 1000), parts["training"].window(1000, 2000)
    ours, theirs = (predict(fit.cell, each, 0.2, repeats=2) for each in (first, second))
    for given in (
        {"recording": {"a": first, "b": second}, "prediction": {"a": theirs, "b": ours}},
        {"recording": first, "prediction": theirs},
        {"recording": first, "prediction": predict(fit.cell, replace(first, current=-first.current), 0.5, repeats=2)},
    ):
        assert_refused(lambda given=given: write_nwb(tmp_path / "c.nwb", **given), ["prediction", "another current"])
    silent = replace(first, spikes=[[], [], []])
    imposed = predict(fit.cell, silent, 0.2, repeats=2)
    words = ["prediction", f"its {len(first.spikes.times)} spikes imposed", "0 others"]
    assert_refused(lambda: write_nwb(tmp_path / "c.nwb", first, prediction=imposed), words)
    assert not list(tmp_path.iterdir())
    # spikes that nothing was computed of may have been found anew
    write_nwb(tmp_path / "c.nwb", first, prediction=predict(CELL, silent, 0.2))


def test_a_fit_comes_back(fitted, tmp_path):
    parts, fit, _ = fitted
    fit.save(tmp_path / "fit.json")
    alif = Fit(CELL, 0.1, {"training": 0.2}, {"tau_mem": np.ones(2)}, {}, {"search": 1.0}, FitConfig())
    for given in (fit, alif, FittedCell(fit.cell, 0.2), FittedCell(CELL, 0.1)):
        write_nwb(tmp_path / "cell.nwb", parts["test"], fit=given, overwrite=True)
        assert_valid(tmp_path / "cell.nwb")
        with pynwb.NWBHDF5IO(str(tmp_path / "cell.nwb"), "r") as io:
            module = io.read().processing["blocksim"]
            saved = json.loads(module["fit"]["json"][0])
            assert module["fit"]["cell"][0] == type(given.cell).__name__
            assert module["fit"]["dt_ms"][0] == given.dt
            table = {name: module["fit_parameters"][name][:] for name in module["fit_parameters"].colnames}
        expected = given.cell.table() if isinstance(given, FittedCell) else given.table()
        assert list(table) == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(table[name], values)
        assert ("standard_error" in table) == (given is fit)
        if given is fit:
            assert GIFFit.from_dict(saved).to_dict() == fit.to_dict() == GIFFit.load(tmp_path / "fit.json").to_dict()
        else:
            kind = Cell(**saved["cell"]) if given.cell == CELL else GIFCell.from_dict(saved["cell"])
            assert kind == given.cell


# --------------------------------------------------------------------------------------------------- what is refused


def other(recording, **changes):
    """A prediction of another recording."""
    return predict(CELL, recording, dt=1.0, **changes)


LONGER = Recording(np.full((2, 600), 10.0), np.full((2, 600), -65.0), 1000, [[], []])
SHORTER = LONGER.window(0, 500)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"recording": 3}, ["recording", "a Recording, or a dict of them by part", "3"]),
        ({"recording": {}}, ["recording", "{}"]),
        ({"recording": {1: LONGER}}, ["recording", "by part"]),
        ({"prediction": "none"}, ["prediction", "blocksim.ephys.evaluation.predict", "none"]),
        ({"prediction": {"test": other(LONGER)}}, ["prediction", "of 'main'", "one of 'test'"]),
        ({"recording": {"test": LONGER}, "prediction": other(LONGER)}, ["prediction", "of 'test'", "one of 'main'"]),
        ({"prediction": other(SHORTER)}, ["prediction", "2 sweeps of 600 ms", "2 sweeps of 500 ms"]),
        ({"prediction": other(LONGER.select([0]))}, ["prediction", "2 sweeps", "1 sweeps"]),
        ({"fit": CELL}, ["fit", "a Fit, a GIFFit or a FittedCell", "Cell("]),
        ({"fit": FittedCell(CELL, float("nan"))}, ["fit: dt", "a time in ms", "nan"]),
        ({"fit": FittedCell("cell", 0.1)}, ["cell", "a Cell or a GIFCell", "'cell'"]),
        ({"overwrite": "no"}, ["overwrite", "True or False", "'no'"]),
        ({"path": 3}, ["path", "the name of a file", "3"]),
        ({"session_start_time": "2024-05-17"}, ["session_start_time", "a datetime", "2024-05-17"]),
        ({"session_description": 3}, ["session_description", "a text", "3"]),
        ({"identifier": 3}, ["identifier", "a text", "3"]),
        ({"subject": {"name": "A10"}}, ["subject", "'subject_id'", "name"]),
        ({"subject": {"subject_id": 10}}, ["subject", "fields as NWB has them", "subject_id"]),
        ({"subject": "A10"}, ["subject", "a dict of fields by name", "A10"]),
        ({"electrode": {"location": 5}}, ["electrode", "fields as NWB has them", "location"]),
        ({"electrode": {"device": "MultiClamp"}}, ["electrode", "'resistance'", "device"]),
        ({"metadata": {"session_start_time": None}}, ["metadata", "'experimenter'", "session_start_time"]),
        ({"metadata": {"lab": 3}}, ["metadata", "fields as NWB has them", "lab"]),
        ({"metadata": {"experimenter": ["Doe, J.", 3]}}, ["metadata: experimenter", "texts", "3"]),
        ({"metadata": {"keywords": (None,)}}, ["metadata: keywords", "texts", "None"]),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, words):
    given = {"path": tmp_path / "cell.nwb", "recording": LONGER, **arguments}
    assert_refused(lambda: write_nwb(**given), words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("of", ["session_start_time", "date_of_birth"])
def test_what_pandas_has_for_no_time_is_none(tmp_path, of):
    pandas = pytest.importorskip("pandas", reason="needs pandas, which is not installed")

    def write(time):
        given = {of: time} if of == "session_start_time" else {"subject": {of: time}}
        write_nwb(tmp_path / "cell.nwb", LONGER, **given)

    assert_refused(lambda: write(pandas.NaT), [of, "a datetime", "NaT"])
    assert not list(tmp_path.iterdir())
    write(pandas.Timestamp("2024-05-17 09:30", tz="UTC"))
    assert_same_recording(open_recording(tmp_path / "cell.nwb"), LONGER)


def test_a_file_is_replaced_only_if_that_is_said(tmp_path):
    write_nwb(tmp_path / "cell.nwb", LONGER)
    before = (tmp_path / "cell.nwb").read_bytes()
    with pytest.raises(FileError, match="expected a new file; found one that exists"):
        write_nwb(tmp_path / "cell.nwb", SHORTER)
    assert (tmp_path / "cell.nwb").read_bytes() == before
    write_nwb(tmp_path / "cell.nwb", SHORTER, overwrite=True)
    assert_same_recording(open_recording(tmp_path / "cell.nwb"), SHORTER)
    with pytest.raises(FileError, match=r"expected a name that ends in \.nwb"):
        write_nwb(tmp_path / "cell.h5", LONGER)
    with pytest.raises(FileError, match="expected a folder to write to; found none"):
        write_nwb(tmp_path / "none" / "cell.nwb", LONGER)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("of the\nlibrary"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, overwrite, error):
    if overwrite:
        write_nwb(tmp_path / "cell.nwb", LONGER)
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    write = pynwb.NWBHDF5IO.write

    def fail(self, *arguments, **options):
        write(self, *arguments, **options)
        raise error

    monkeypatch.setattr(pynwb.NWBHDF5IO, "write", fail)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        write_nwb(tmp_path / "cell.nwb", SHORTER, overwrite=overwrite)
    assert isinstance(caught.value, KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else FileError)
    assert "\n" not in str(caught.value)
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == before


def test_a_text_that_hdf5_does_not_hold_is_one_line(tmp_path):
    recording = Recording(LONGER.current, LONGER.voltage, 1000, LONGER.spikes, ("a\0b", "c"))
    with pytest.raises(FileError, match=r"cell\.nwb: expected to be able to write it; found: ") as caught:
        write_nwb(tmp_path / "cell.nwb", recording)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not list(tmp_path.iterdir())


def test_without_pynwb_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(MissingLibraryError, match=r"write_nwb: .*blocksim\[nwb\]"):
        write_nwb(tmp_path / "cell.nwb", LONGER)
    result = click.testing.CliRunner().invoke(main, ["fit", "a.npz", "-o", str(tmp_path / "out"), "--nwb"])
    assert result.exit_code == 2
    assert "blocksim[nwb]" in result.output
    assert not list(tmp_path.iterdir())


def test_pynwb_is_imported_when_it_is_used():
    code = "import sys, blocksim.ephys; print([name for name in ('pynwb', 'h5py', 'hdmf') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def shell(fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLOCKSIM_BACKEND", raising=False)
    parts, _, _ = fitted
    both = [np.concatenate([getattr(part, name) for part in parts.values()], axis=1) for name in ("current", "voltage")]
    trains = [
        np.concatenate([one, other + parts["training"].duration])
        for one, other in zip(parts["training"].spikes, parts["test"].spikes, strict=True)
    ]
    recording = Recording(*both, 5000, trains)
    np.savez(
        "a.npz", current_pA=both[0], voltage_mV=both[1], sampling_rate=5000, spike_times_ms=recording.spikes.padded()
    )
    (tmp_path / "few.toml").write_text('[fit]\nmodel = "gif"\nrepeats = 5\n')

    def call(*arguments):
        return click.testing.CliRunner().invoke(main, ["fit", *arguments, "--config", "few.toml", "--no-report"])

    return call


def test_the_command_writes_parts_predictions_and_fit(shell, tmp_path):
    result = shell("a.npz", "-o", "out", "--nwb")
    assert result.exit_code == 0, result.output
    assert "fit.nwb" in result.output
    assert_valid("out/fit.nwb")
    fit = GIFFit.load("out/fit.json")
    training, test = open_recording("a.npz").split(at=2400)
    parts = open_parts("out/fit.nwb")
    assert_same_recording(parts["training"], training)
    assert_same_recording(parts["test"], test)
    with pynwb.NWBHDF5IO("out/fit.nwb", "r") as io:
        module = io.read().processing["blocksim"]
        assert json.loads(module["fit"]["json"][0]) == fit.to_dict()
        assert len(module["predicted_spikes"]) == 10
    assert "finished before" in shell("a.npz", "-o", "out", "--nwb").output
    # what is read back is fitted alike, part by part
    again = shell("out/fit.nwb", "-o", "again")
    assert again.exit_code == 0, again.output
    assert GIFFit.load("again/fit.json").cell == fit.cell
    assert not (tmp_path / "again/fit.nwb").exists()


def test_a_file_that_is_wanted_later_is_written_then(shell, tmp_path):
    assert shell("a.npz", "-o", "out").exit_code == 0
    before = json.loads((tmp_path / "out/fit.json").read_text())
    result = shell("a.npz", "-o", "out", "--nwb")
    assert result.exit_code == 0, result.output
    assert "finished before" not in result.output
    after = json.loads((tmp_path / "out/fit.json").read_text())
    assert after["fit"]["cell"] == before["fit"]["cell"]
    assert (tmp_path / "out/fit.nwb").is_file()
    # one of other settings goes with them
    assert shell("a.npz", "-o", "out", "--dt", "0.4").exit_code == 2
    assert (tmp_path / "out/fit.nwb").is_file()
    assert shell("a.npz", "-o", "out", "--dt", "0.4", "--overwrite").exit_code == 0
    assert not (tmp_path / "out/fit.nwb").exists()


def test_the_command_keeps_the_file_that_it_fits(shell, tmp_path):
    (tmp_path / "out").mkdir()
    write_nwb("out/fit.nwb", open_recording("a.npz"))
    before = (tmp_path / "out/fit.nwb").read_bytes()
    for options in ([], ["--nwb"], ["--nwb", "--overwrite"]):
        result = shell("out/fit.nwb", "-o", "out", *options)
        assert result.exit_code == 2
        assert "expected a file other than the inputs" in result.output
        assert (tmp_path / "out/fit.nwb").read_bytes() == before


def test_a_compensated_fit_keeps_what_was_recorded(shell, tmp_path):
    result = shell("a.npz", "-o", "out", "--nwb", "--electrode", "series", "--dt", "0.4")
    assert result.exit_code == 0, result.output
    training, test = open_recording("a.npz").split(at=2400)
    parts = open_parts("out/fit.nwb")
    assert_same_recording(parts["training"], training)
    assert_same_recording(parts["test"], test)
    with pynwb.NWBHDF5IO("out/fit.nwb", "r") as io:
        module = io.read().processing["blocksim"]
        assert module["predicted_potential_000"].rate == 2500
        assert "series_resistance" in module["fit_parameters"]["parameter"][:].tolist()
