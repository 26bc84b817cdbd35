"""Recordings whose files say more than their samples: stretches, clocks, commands, rates, padding and encodings."""

from __future__ import annotations

import csv
from datetime import UTC, datetime

import numpy as np
import pytest

from blocksim import BlocksimError, FileError
from blocksim._array_io import write_csv
from blocksim.ephys import Recording, open_recording

RATE = 10_000.0


# -------------------------------------------------------------------------------------------------------------- NWB


def nwb(path, series, rows=()):
    """A file of series (kind, name, samples in pA or mV, start in s, options), and rows of its table of recordings."""
    pynwb = pytest.importorskip("pynwb")
    icephys = pynwb.icephys
    file = pynwb.NWBFile("a cell", "id", datetime(2020, 1, 1, tzinfo=UTC))
    device = file.create_device("amplifier")
    electrodes = {
        name: file.create_icephys_electrode(name=name, description="-", device=device) for name in ("e0", "e1")
    }
    made = {}
    for kind, name, samples, start, options in series:
        options = dict(options)
        electrode = electrodes[options.pop("electrode", "e0")]
        time = {"rate": RATE, "starting_time": start}
        if options.pop("timestamps", False):
            time = {"timestamps": start + np.arange(len(samples)) / RATE}
        kinds = {"stimulus": icephys.CurrentClampStimulusSeries, "response": icephys.CurrentClampSeries,
                 "rest": icephys.IZeroClampSeries}  # fmt: skip
        scale = 1e-12 if kind == "stimulus" else 1e-3
        made[name] = kinds[kind](name=name, data=np.asarray(samples) * scale, electrode=electrode, **time, **options)
        (file.add_stimulus if kind == "stimulus" else file.add_acquisition)(made[name])
    for stimulus, response in rows:
        options = {}
        for side, given in (("stimulus", stimulus), ("response", response)):
            if given is not None:
                name, first, count = given
                options |= {side: made[name], f"{side}_start_index": first, f"{side}_index_count": count}
        file.add_intracellular_recording(electrode=electrodes["e0"], **options)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def current(k, n=1000):
    return np.arange(n) * 0.01 + 10 * k


def voltage(k, n=1000):
    return -70 + 0.001 * np.arange(n) + k


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def test_a_row_of_the_table_is_a_stretch(tmp_path):
    series = [("stimulus", "stim", current(0, 4000), 0.0, {}), ("response", "resp", voltage(0, 4000), 0.0, {})]
    rows = [(("stim", 1000 * k, 1000), ("resp", 1000 * k, 1000)) for k in (2, 0, 3)]
    recording = open_recording(nwb(tmp_path / "cell.nwb", series, rows))
    assert recording.labels == ("resp 0", "resp 1", "resp 2")
    for sweep, k in enumerate((2, 0, 3)):
        np.testing.assert_allclose(recording.current[sweep], current(0, 4000)[1000 * k : 1000 * k + 1000])
        np.testing.assert_allclose(recording.voltage[sweep], voltage(0, 4000)[1000 * k : 1000 * k + 1000])
    np.testing.assert_allclose(open_recording(tmp_path / "cell.nwb", sweeps="resp 2").current[0, 0], 30.0)


def test_stretches_of_series_that_begin_at_different_times(tmp_path):
    """The stimulus of a row begins 20 ms before its response, on the file's clock."""
    series = [("stimulus", "stim", current(0, 4000), 5.0, {}), ("response", "resp", voltage(0, 4000), 5.02, {})]
    rows = [(("stim", 1000, 1500), ("resp", 1000, 1000))]
    recording = open_recording(nwb(tmp_path / "cell.nwb", series, rows))
    np.testing.assert_allclose(recording.current[0], current(0, 4000)[1200:2200])
    np.testing.assert_allclose(recording.voltage[0], voltage(0, 4000)[1000:2000])


def test_a_stretch_outside_its_series_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    series = [("stimulus", "stim", current(0), 0.0, {}), ("response", "resp", voltage(0), 0.0, {})]
    path = nwb(tmp_path / "cell.nwb", series, [(("stim", 0, 1000), ("resp", 0, 1000))])
    with h5py.File(path, "r+") as file:
        for name in ("stimuli/stimulus", "responses/response"):
            table = file[f"general/intracellular_ephys/intracellular_recordings/{name}"]
            row = table[0]
            row["count"] = 1001
            table[0] = row
    with pytest.raises(FileError, match="expected a stretch of its 1000 samples; found one from 0 to 1001"):
        open_recording(path)


def test_rows_without_a_stimulus_or_with_another_clock(tmp_path):
    series = [("stimulus", "stim", current(3), 0.0, {}), ("response", "a", voltage(0), 7.0, {}),
              ("response", "b", voltage(1), 9.0, {})]  # fmt: skip
    rows = [(("stim", 0, 1000), ("a", 0, 1000)), (None, ("b", 0, 1000))]
    path = nwb(tmp_path / "cell.nwb", series, rows)
    # a stimulus that ends long before its response begins is taken sample by sample, as the row says
    np.testing.assert_allclose(open_recording(path, sweeps="a").current[0], current(3))
    with pytest.raises(FileError, match="b: expected a stimulus that belongs to it; found none"):
        open_recording(path)


def test_series_are_paired_by_their_times(tmp_path):
    series = [
        ("stimulus", "b", current(1), 0.0, {}), ("response", "x", voltage(1), 0.0, {}),
        ("stimulus", "a", current(2), 3.0, {}), ("response", "y", voltage(2), 3.0, {"timestamps": True}),
        ("response", "z", voltage(3), 6.0, {}), ("stimulus", "c", current(4, 3000), 8.9, {}),
        ("response", "w", voltage(4), 9.0, {}), ("stimulus", "d", current(5), 9.0, {"electrode": "e1"}),
    ]  # fmt: skip
    path = nwb(tmp_path / "cell.nwb", series)
    recording = open_recording(path, sweeps=["x", "y", "w"])
    np.testing.assert_allclose(recording.current[:2], [current(1), current(2)])
    np.testing.assert_allclose(recording.current[2], current(4, 3000)[1000:2000])
    np.testing.assert_allclose(recording.voltage, [voltage(1), voltage(2), voltage(4)])
    with pytest.raises(FileError, match="z: expected a stimulus that belongs to it; found none"):
        open_recording(path)


@pytest.mark.parametrize(("start", "words"), [
    (10.05, r"r: expected a stimulus for the whole response, which lasts from 10 to 10\.1 s; found 's' from 10\.05 to 10\.15"),
    (9.95, r"found 's' from 9\.95 to 10\.05 s"),
])  # fmt: skip
def test_a_stimulus_that_is_shifted_is_refused(tmp_path, start, words):
    path = nwb(
        tmp_path / "cell.nwb", [("stimulus", "s", current(1), start, {}), ("response", "r", voltage(1), 10.0, {})]
    )
    with pytest.raises(FileError, match=words):
        open_recording(path)


def test_two_stimuli_at_a_time_are_refused(tmp_path):
    series = [("stimulus", "s", current(1), 10.0, {}), ("stimulus", "t", current(1), 10.01, {}),
              ("response", "r", voltage(1), 10.0, {})]  # fmt: skip
    with pytest.raises(FileError, match=r"r: expected one stimulus while it lasts \(10 to 10\.1 s\); found 's'.*'t'"):
        open_recording(nwb(tmp_path / "cell.nwb", series))


def test_sweeps_at_rest_do_not_matter(tmp_path):
    series = [("stimulus", f"s{k}", current(k), 0.0, {"sweep_number": k}) for k in range(2)]
    series += [("response", f"r{k}", voltage(k), 0.0, {"sweep_number": k}) for k in range(2)]
    series += [("rest", "rest", voltage(9), 0.0, {"sweep_number": 2})]
    recording = open_recording(nwb(tmp_path / "cell.nwb", series))
    assert recording.labels == ("r0", "r1")
    np.testing.assert_allclose(recording.current, [current(0), current(1)])


def test_times_of_stimuli_that_are_not_set_say_nothing(tmp_path):
    series = [("stimulus", f"s{k}", current(k), 0.0, {"sweep_number": k}) for k in range(2)]
    series += [("response", f"r{k}", voltage(k), 3.0 + k, {"sweep_number": k}) for k in range(2)]
    np.testing.assert_allclose(open_recording(nwb(tmp_path / "cell.nwb", series)).current, [current(0), current(1)])


# -------------------------------------------------------------------------------------------------------------- ABF


def abf(shared_data, name):
    with np.printoptions():
        pytest.importorskip("pyabf")
    return shared_data / "formats" / "abf" / name


def test_a_command_that_is_known(shared_data):
    """Of a protocol of steps and pulses: as large as the current that was recorded beside it."""
    path = abf(shared_data, "18425108.abf")
    recorded = open_recording(path)
    for channel in ("command", "command:1", "command:ME1"):
        command = open_recording(path, current_channel=channel)
        np.testing.assert_allclose(np.unique(command.current), [-50, 0, 2500], atol=1e-3)
        pulse = command.current[0] > 2000
        assert np.median(recorded.current[0][pulse]) == pytest.approx(2500, rel=0.03)
        np.testing.assert_array_equal(command.voltage, recorded.voltage)


@pytest.mark.parametrize(("name", "options", "words"), [
    ("18425108_abf1.abf", {}, "ABF 1 file, of which pyABF applies neither pulses.*current_channel=0"),
    ("2020_03_02_0000.abf", {}, "a user list.*current_channel=1"),
    ("user-list-durations.abf", {}, "a user list"),
    ("test_0001.abf", {"voltage_channel": 1}, "gap-free"),
    ("test_0001.abf", {"voltage_channel": 8}, r"'command:OUTPUT', with a name or number out of 0 'Cmd 0' in nA.*no output 8"),
    ("18425108.abf", {"current_channel": "command:ME2"}, "out of 0 'Cmd 0' in mV; 1 'ME1' in nA; found 'command:ME2'"),
    ("2020_06_16_0000.abf", {"current_channel": None}, "current-clamp recording; found that the protocol commands potentials"),
    ("user-list-durations.abf", {"current_channel": None}, "as in voltage clamp"),
])  # fmt: skip
def test_a_command_that_cannot_be_known_is_refused(shared_data, name, options, words):
    with pytest.raises(FileError, match=words) as error:
        open_recording(abf(shared_data, name), **{"current_channel": "command", **options})
    assert "damaged" not in str(error.value)


def test_abf_interval_that_is_no_whole_rate(shared_data):
    recording = open_recording(
        abf(shared_data, "File_axon_7.abf"), voltage_channel=0, voltage_unit="mV", current_channel="command",
        current_unit="pA", plausible=False,
    )  # fmt: skip
    assert recording.sampling_rate == pytest.approx(1e6 / 2480, rel=1e-12)


# ----------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(("dt", "digits", "rate"), [
    (0.03, 2, 1e6 / 30), (0.1, 1, 10_000), (0.1, 4, 10_000), (1 / 3, 4, 3000), (0.04, 3, 25_000), (0.0234375, 7, 1e6 / 23.4375),
])  # fmt: skip
def test_rate_of_a_table(tmp_path, dt, digits, rate):
    path = tmp_path / "cell.csv"
    rows = "\n".join(f"{k * dt:.{digits}f},10,-65" for k in range(5000))
    path.write_text(f"time_ms,current_pA,voltage_mV\n{rows}\n")
    assert open_recording(path).sampling_rate == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_tables_in_any_encoding(tmp_path, encoding):
    path = tmp_path / "cell.csv"
    path.write_bytes("time_µs,current_pA,voltage_mV\n0,10,-65\n100,10,-65\n200,10,-65\n".encode(encoding))
    assert open_recording(path).sampling_rate == 10_000


def test_other_columns_are_left_alone(tmp_path):
    path = tmp_path / "cell.csv"
    path.write_text(
        "voltage_command,time_ms,time_stamp,current_pA,note,voltage_mV,current_leak\n"
        '9,0,x,10,"a, b",-65,x\n9,0.1,x,11,,-66,x\n'
    )
    recording = open_recording(path)
    np.testing.assert_array_equal(recording.current, [[10, 11]])
    np.testing.assert_array_equal(recording.voltage, [[-65, -66]])


def test_names_that_a_spreadsheet_takes_for_formulas_are_texts(tmp_path):
    names = ["=cmd|calc", "+1", "-x", "@sum", "plain", "a=b"]
    write_csv(tmp_path / "cells.csv", [{"cell": name, "value": -1.5} for name in names], ["cell", "value"])
    with (tmp_path / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cell"] for row in rows] == ["'=cmd|calc", "'+1", "'-x", "'@sum", "plain", "a=b"]
    assert {row["value"] for row in rows} == {"-1.5"}


# ------------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("where", [slice(300, None), slice(None, 40)])
def test_zeros_at_an_end_of_a_sweep_are_no_potential(tmp_path, where):
    current, voltage = np.full((2, 500), 50.0), np.full((2, 500), -65.0)
    voltage[:, 100:110] = 25.0
    current[1, where], voltage[1, where] = 0, 0
    np.savez(tmp_path / "cell.npz", current_pA=current, voltage_mV=voltage, sampling_rate=RATE)
    count = len(voltage[1, where])
    with pytest.raises(FileError, match=rf"sweep 1: .*in {count} samples of exactly 0 mV"):
        open_recording(tmp_path / "cell.npz")
    assert open_recording(tmp_path / "cell.npz", sweeps=0).spikes.counts.tolist() == [1]
    assert open_recording(tmp_path / "cell.npz", plausible=False).sweeps == 2


def test_a_step_in_single_precision_is_its_decimal(tmp_path):
    fields = {"current_pA": np.full(20_000, 10.0), "voltage_mV": np.full(20_000, -65.0)}
    for kind in ("<f4", ">f4", "f8"):
        np.savez(tmp_path / "cell.npz", **fields, dt_ms=np.array(0.1, kind))
        recording = open_recording(tmp_path / "cell.npz")
        assert recording.sampling_rate == RATE
        assert recording.at_dt(0.1).steps == 20_000


@pytest.mark.parametrize("library", ["quantities", "pint"])
def test_values_with_units(library):
    module = pytest.importorskip(library)
    unit = module if library == "quantities" else module.UnitRegistry()
    recording = Recording(np.full(50, 0.1) * unit.nA, np.full(50, -0.065) * unit.V, 10 * unit.kHz)
    np.testing.assert_allclose(recording.current, np.full((1, 50), 100.0))
    np.testing.assert_allclose(recording.voltage, np.full((1, 50), -65.0))
    assert recording.sampling_rate == RATE
    with pytest.raises(BlocksimError, match="current: expected a value in pA"):
        Recording(np.full(50, 0.1) * unit.V, np.full(50, -0.065) * unit.V, RATE)
