"""Recordings out of files: every format read, against the same numbers; and files that are no recordings, named."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest

from blocksim import ArgumentError, FileError, MissingLibraryError
from blocksim.ephys import Detection, open_parts, open_recording

RATE = 10_000.0


def traces(sweeps=3, steps=600, seed=0):
    """Current in pA and potential in mV, with one spike a sweep, at 10 + 5 k ms."""
    rng = np.random.default_rng(seed)
    time = np.arange(steps) / 10
    voltage = [-65 + 100 * np.exp(-0.5 * ((time - 10.03 - 5 * k) / 0.4) ** 2) + rng.normal(0, 0.3, steps)
               for k in range(sweeps)]  # fmt: skip
    return rng.normal(20, 100, (sweeps, steps)), np.array(voltage)


CURRENT, VOLTAGE = traces()


def check(recording, sweeps=(0, 1, 2), rate=RATE, rtol=1e-6):
    """The recording is that of `traces`."""
    np.testing.assert_allclose(recording.current, CURRENT[list(sweeps)], rtol=rtol, atol=1e-4)
    np.testing.assert_allclose(recording.voltage, VOLTAGE[list(sweeps)], rtol=rtol, atol=1e-4)
    assert recording.sampling_rate == rate
    assert recording.spikes.counts.tolist() == [1] * len(sweeps)
    for k, train in zip(sweeps, recording.spikes, strict=True):
        assert 9 < train[0] - 5 * k < 10.1
    assert recording.name == "cell"
    assert recording.source.startswith("cell.")


# ------------------------------------------------------------------------------------------------------------ NumPy


@pytest.mark.parametrize("fields", [
    {"current": CURRENT, "voltage": VOLTAGE, "sampling_rate": RATE},
    {"current_nA": CURRENT / 1000, "voltage_V": VOLTAGE / 1000, "dt_ms": 0.1},
    {"current_A": CURRENT * 1e-12, "voltage_mV": VOLTAGE, "dt_s": 1e-4, "labels": ["a", "b", "c"]},
    {"current_pA": CURRENT.astype(np.float32), "voltage": VOLTAGE.astype(np.float32), "fs_Hz": np.int64(10_000)},
    {f"cell_{k}_{name}": array[k] for k in range(3) for name, array in (("i_pA", CURRENT), ("v_mV", VOLTAGE))}
    | {"dt_s": 1e-4},
])  # fmt: skip
def test_npz(tmp_path, fields):
    np.savez(tmp_path / "cell.npz", **fields)
    check(open_recording(tmp_path / "cell.npz"))
    check(open_recording(str(tmp_path / "cell.npz"), sweeps=[2, 0]), [2, 0])
    assert list(open_parts(tmp_path / "cell.npz")) == ["main"]


def test_npz_of_integers(tmp_path):
    quantised = {"v_q": np.rint(VOLTAGE / 0.03).astype(np.int16), "i_q": np.rint(CURRENT / 0.1).astype(np.int16)}
    other = {"v_test_q": quantised["v_q"][0, :400], "i_test_q": quantised["i_q"][0, :400]}
    np.savez(tmp_path / "cell.npz", **quantised, **other, v_lsb_mV=0.03, i_lsb_pA=0.1, fs_Hz=RATE,
             spike_idx=[[3, 7], [5, -1], [-1, -1]], sweep_ids=[11, 12, 13])  # fmt: skip
    recording = open_recording(tmp_path / "cell.npz")
    np.testing.assert_allclose(recording.current, CURRENT, atol=0.0501)
    np.testing.assert_allclose(recording.voltage, VOLTAGE, atol=0.0151)
    assert recording.labels == ("11", "12", "13")
    # the file's spikes, unless detection is asked for
    assert [train.tolist() for train in recording.spikes] == [pytest.approx([0.3, 0.7]), [0.5], []]
    assert open_recording(tmp_path / "cell.npz", detection=Detection()).spikes.counts.tolist() == [1, 1, 1]
    parts = open_parts(tmp_path / "cell.npz")
    assert list(parts) == ["main", "test"]
    assert (parts["test"].sweeps, parts["test"].steps) == (1, 400)


def test_npz_with_spikes(tmp_path):
    np.savez(tmp_path / "cell.npz", current=CURRENT, voltage=VOLTAGE, sampling_rate=RATE,
             spike_times_ms=[[1.5, 2.25], [np.nan, np.nan], [7, np.nan]])  # fmt: skip
    recording = open_recording(tmp_path / "cell.npz", sweeps=[0, 2])
    assert [train.tolist() for train in recording.spikes] == [[1.5, 2.25], [7]]


def test_npy_pair(tmp_path):
    np.save(tmp_path / "cell.npy", CURRENT)
    np.save(tmp_path / "v.npy", VOLTAGE / 1000)
    options = {"voltage": tmp_path / "v.npy", "voltage_unit": "V", "sampling_rate": RATE}
    check(open_recording(tmp_path / "cell.npy", **options))
    check(open_recording(tmp_path / "cell.npy", **options, sweeps=1), [1])


def test_shared_recordings_open_as_they_are(shared_data):
    folder = shared_data / "recordings"
    parts = open_parts(folder / "DRN157_5HT.npz")
    assert {name: (one.sweeps, one.duration) for name, one in parts.items()} == {
        "training": (1, 60_000), "test": (10, 10_000), "aec": (1, 10_000)
    }  # fmt: skip
    first = open_recording(folder / "DRN157_5HT.npz", current_offset=-5)
    np.testing.assert_allclose(first.current, parts["training"].current - 5, rtol=1e-12, atol=1e-9)
    steps = open_recording(folder / "idrest_steps.npz")
    assert (steps.sweeps, steps.sampling_rate, steps.labels[-1]) == (11, 4000, "B95_IDRest_107")
    assert (steps.spikes.counts > 0).all()


# ------------------------------------------------------------------------------------------------------ text tables


@pytest.mark.parametrize(("separator", "suffix"), [(",", ".csv"), ("\t", ".tsv"), (";", ".txt")])
def test_table(tmp_path, separator, suffix):
    names = ["sweep", "time_ms", "note", "current_nA", "voltage_mV"]
    lines = [separator.join(names)]
    for k in range(3):
        lines += [separator.join([f"s{k}", f"{t / 10:.1f}", "x", str(CURRENT[k, t] / 1000), str(VOLTAGE[k, t])])
                  for t in range(600)]  # fmt: skip
    (tmp_path / f"cell{suffix}").write_text("\n".join(lines) + "\n")
    recording = open_recording(tmp_path / f"cell{suffix}")
    check(recording)
    assert recording.labels == ("s0", "s1", "s2")
    check(open_recording(tmp_path / f"cell{suffix}", sweeps="s2"), [2])


def test_table_without_time(tmp_path):
    rows = "\n".join(f"{float(i)!r},{float(v)!r}" for i, v in zip(CURRENT[0], VOLTAGE[0], strict=True))
    (tmp_path / "cell.csv").write_text(f"current,voltage\n{rows}\n")
    check(open_recording(tmp_path / "cell.csv", sampling_rate=RATE), [0])
    with pytest.raises(FileError, match=r"time_ms or time_s.*found current, voltage"):
        open_recording(tmp_path / "cell.csv")


# -------------------------------------------------------------------------------------------------------- Axon, Igor


def pyabf(module="pyabf"):
    with np.printoptions():  # which it changes when it is imported
        return pytest.importorskip(module)


def test_a_library_changes_nothing_of_the_caller_s():
    pyabf()
    code = (
        "import numpy as np; before = np.get_printoptions()\n"
        "from blocksim._libraries import library; library('pyabf', 'abf', 'x.abf')\n"
        "assert np.get_printoptions() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_abf_with_swapped_names(shared_data):
    pyabf()
    path = shared_data / "formats" / "DRN157_5ht_aec.abf"
    recording = open_recording(path)
    kept = open_recording(shared_data / "recordings" / "DRN157_5HT.npz", part="aec")
    np.testing.assert_array_equal(recording.current, kept.current)
    np.testing.assert_array_equal(recording.voltage, kept.voltage)
    assert recording.sampling_rate == 10_000
    # taken by their names, they are found to be swapped
    named = {"current_channel": "Im RIGHT", "voltage_channel": "Vm RIGHT"}
    with pytest.raises(FileError, match=r"expected the current in one of pA.*found the unit 'mV'"):
        open_recording(path, **named)
    units = {"current_unit": "pA", "voltage_unit": "mV"}
    with pytest.raises(FileError, match=r"like a membrane potential.*changed places.*swap=True"):
        open_recording(path, **named, **units)
    np.testing.assert_array_equal(open_recording(path, **named, **units, swap=True).current, kept.current)
    with pytest.raises(FileError, match=r"voltage_channel.*0 'Im RIGHT' in mV; 1 'Vm RIGHT' in pA; found 'Vm'"):
        open_recording(path, voltage_channel="Vm")


def test_abf_sweeps(tmp_path):
    writer = pyabf("pyabf.abfWriter")
    writer.writeABF1(VOLTAGE, str(tmp_path / "cell.abf"), RATE, units="mV")
    with pytest.raises(FileError, match=r"one channel with a current; found none among 0 '.*' in mV.*current_channel"):
        open_recording(tmp_path / "cell.abf")
    again = open_recording(tmp_path / "cell.abf", current_channel=0, current_unit="pA", sweeps=[2, 0], plausible=False)
    np.testing.assert_allclose(again.voltage, VOLTAGE[[2, 0]], atol=0.01)


def test_igor(shared_data):
    pytest.importorskip("igor2")
    folder = shared_data / "formats"
    current, voltage = (folder / f"Cell3_Ger1Test_ch{channel}_1009.ibw" for channel in (3, 2))
    recording = open_recording(current, voltage=voltage)
    kept = open_recording(shared_data / "recordings" / "l5_cell3.npz", sweeps="1009")
    # the archive holds single precision as integers of 1/8 pA and 1/32 mV
    np.testing.assert_allclose(recording.current, kept.current, atol=1e-4)
    np.testing.assert_allclose(recording.voltage, kept.voltage, atol=1e-4)
    np.testing.assert_array_equal(recording.spikes[0], kept.spikes[0])
    swapped = open_recording(voltage, voltage=current)
    np.testing.assert_array_equal(swapped.current, recording.current)
    old = [folder / f"B95_Ch{channel}_IDRest_107.ibw" for channel in (0, 3)]
    steps = open_recording(old[0], voltage=old[1])
    kept = open_recording(shared_data / "recordings" / "idrest_steps.npz", sweeps="B95*")
    np.testing.assert_array_equal(steps.current, kept.current)
    np.testing.assert_array_equal(steps.voltage, kept.voltage)
    assert steps.sampling_rate == 4000
    both = open_recording([current, current], voltage=[voltage, voltage])
    assert (both.sweeps, len(set(both.labels))) == (2, 1)
    for call, words in (
        (lambda: open_recording(current), "second Igor file.*found one in A"),
        (lambda: open_recording(current, voltage=old[1]), "one sampling rate; found 10000 and 4000 Hz"),
        (lambda: open_recording(current, voltage=old[0]), "found units 'A' and 'pA'"),
        (lambda: open_recording([current, old[0]], voltage=[voltage, old[1]]), "one sampling rate; found 10000 Hz"),
    ):
        with pytest.raises(FileError, match=words):
            call()


def wave(samples, step=1e-4, unit=b"pA"):
    """An Igor binary wave of version 2, written by hand after WaveMetrics' technical note 3."""
    head = np.zeros(126, np.uint8)
    data = np.asarray(samples, "<f4").tobytes()

    def put(at, dtype, value):
        raw = np.asarray(value, dtype).tobytes()
        head[at : at + len(raw)] = np.frombuffer(raw, np.uint8)

    put(0, "<i2", 2)
    put(2, "<i4", 110 + len(data) + 16)
    put(16, "<i2", 2)
    put(22, "S20", b"wave")
    put(50, "S4", unit)
    put(58, "<u4", len(samples))
    put(64, "<f8", step)
    checksum = -int(head.view("<i2").astype(np.int64).sum())
    put(14, "<i2", (checksum + 2**15) % 2**16 - 2**15)
    return head.tobytes() + data + b"\0" * 16


def test_igor_without_a_time_step(tmp_path):
    pytest.importorskip("igor2")
    (tmp_path / "cell.ibw").write_bytes(wave(CURRENT[0], step=1.0))
    (tmp_path / "v.ibw").write_bytes(wave(VOLTAGE[0], step=1.0, unit=b"mV"))
    with pytest.raises(FileError, match=r"x scaling; found that it was never set \(sampling_rate=HERTZ\)"):
        open_recording(tmp_path / "cell.ibw", voltage=tmp_path / "v.ibw")
    check(open_recording(tmp_path / "cell.ibw", voltage=tmp_path / "v.ibw", sampling_rate=RATE), [0])
    (tmp_path / "v.ibw").write_bytes(wave(VOLTAGE[0, :500], unit=b"mV"))
    with pytest.raises(FileError, match="one length; found 600 and 500 samples"):
        open_recording(tmp_path / "cell.ibw", voltage=tmp_path / "v.ibw")


# -------------------------------------------------------------------------------------------------------------- NWB


def write_nwb(path, *, number=True, table=False, stimuli=(0, 1, 2), stimulus_rate=RATE, timestamps=False):
    """An NWB 2 file of the sweeps, in volts and amperes; numbers and table pair them otherwise than their names."""
    pynwb = pytest.importorskip("pynwb")
    file = pynwb.NWBFile("a cell", "id", datetime(2020, 1, 1, tzinfo=UTC))
    electrode = file.create_icephys_electrode(
        name="e0", description="an electrode", device=file.create_device("amplifier")
    )
    time = {"timestamps": np.arange(600) / RATE} if timestamps else {"rate": RATE}
    made, answers = {}, {}
    for k in reversed(stimuli):
        made[k] = pynwb.icephys.CurrentClampStimulusSeries(
            f"stimulus_{2 - k if number or table else k}", data=CURRENT[k] / 2, conversion=2e-12,
            electrode=electrode, gain=1.0, rate=stimulus_rate, sweep_number=k if number else None,
        )  # fmt: skip
        file.add_stimulus(made[k])
    for k in range(3):
        answers[k] = pynwb.icephys.CurrentClampSeries(
            f"response_{k:02}", data=VOLTAGE[k] + 10, conversion=1e-3, offset=-10e-3, electrode=electrode, gain=1.0,
            sweep_number=k if number else None, **time,
        )  # fmt: skip
        file.add_acquisition(answers[k])
    if table:
        for k in range(3):
            file.add_intracellular_recording(electrode=electrode, stimulus=made[k], response=answers[k])
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"number": False}, {"number": False, "table": True}, {"timestamps": True}])
def test_nwb(tmp_path, options):
    write_nwb(tmp_path / "cell.nwb", **options)
    check(open_recording(tmp_path / "cell.nwb"))
    chosen = open_recording(tmp_path / "cell.nwb", sweeps=["response_02", 0])
    check(chosen, [2, 0])
    assert chosen.labels == ("response_02", "response_00")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("options", "words"), [
    ({"stimuli": ()}, "CurrentClampStimulusSeries in stimulus; found CurrentClampSeries 'response_00'"),
    ({"stimuli": (0, 1), "number": False}, "a stimulus for each of 3 responses.*found 2"),
    ({"stimulus_rate": 5000.0}, "response_00: expected current and voltage of one sampling rate; found 5000 and 10000"),
])  # fmt: skip
def test_nwb_that_is_no_recording(tmp_path, options, words):
    write_nwb(tmp_path / "cell.nwb", **options)
    with pytest.raises(FileError, match=words):
        open_recording(tmp_path / "cell.nwb")


def write_allen(path, version="1.1", rates=(RATE, RATE, RATE), spikes=True):
    """A small file of the Allen Cell Types Database's layout, made here: none of theirs is small.

    Its groups, attributes and units follow what AllenSDK's NwbDataSet reads. Sweep k has 100 samples of a test pulse
    before its experiment; a fourth sweep is voltage clamp.
    """
    h5py = pytest.importorskip("h5py")
    scale = 1.0 if version == "1.0" else 1e-3
    with h5py.File(path, "w") as file:
        file["general/generated_by"] = np.array([b"name", b"stimulus_pipeline", b"version", version.encode() + b".2"])
        for k in range(4):
            name = f"Sweep_{[2, 10, 30, 31][k]}"
            for channel, samples, si in (("stimulus", CURRENT, 1e-12), ("response", VOLTAGE, 1e-3)):
                full = np.concatenate([np.full(100, -70.0 if channel == "response" else 0.0), samples[k % 3]]) * si
                series = file.create_group(f"stored/{channel}/{name}")
                # version 1.0 states a conversion that must not be used
                series["data"] = full / scale
                series["data"].attrs["conversion"] = 1e-3
                series["starting_time"] = 0.0
                series["starting_time"].attrs["rate"] = rates[k % 3]
                kind = b"VoltageClampSeries" if k == 3 else b"CurrentClampSeries"
                series.attrs["ancestry"] = np.array([b"TimeSeries", b"PatchClampSeries", kind])
                file[f"epochs/{name}/{channel}/timeseries"] = h5py.SoftLink(f"/stored/{channel}/{name}")
                file[f"epochs/{name}/{channel}/idx_start"] = 0
                file[f"epochs/{name}/{channel}/count"] = 700
                file[f"epochs/{name.replace('Sweep', 'Experiment')}/{channel}/idx_start"] = 100
                file[f"epochs/{name.replace('Sweep', 'Experiment')}/{channel}/count"] = 600
            file[f"stimulus/presentation/{name}/aibs_stimulus_name"] = b"Noise 1" if k < 2 else b"Ramp"
            if spikes:
                file[f"analysis/spike_times/{name}"] = np.array([0.002, 0.0198 + 0.005 * k])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_allen(tmp_path, version):
    write_allen(tmp_path / "cell.nwb", version)
    recording = open_recording(tmp_path / "cell.nwb")
    check(recording)
    assert recording.labels == ("Sweep_2 Noise 1", "Sweep_10 Noise 1", "Sweep_30 Ramp")
    # the file's spikes, counted from the experiment's start; the one in the test pulse is gone
    np.testing.assert_allclose(recording.spikes.times, [9.8, 14.8, 19.8])
    check(open_recording(tmp_path / "cell.nwb", sweeps="*Noise 1", detection=Detection()), [0, 1])


def test_allen_sweeps_of_different_rates(tmp_path):
    write_allen(tmp_path / "cell.nwb", rates=(RATE, 50_000.0, RATE), spikes=False)
    with pytest.raises(FileError, match="one sampling rate; found 10000 Hz: Sweep_2 Noise 1, Sweep_30 Ramp; 50000 Hz"):
        open_recording(tmp_path / "cell.nwb")
    check(open_recording(tmp_path / "cell.nwb", sweeps=[0, 2]), [0, 2])


# ------------------------------------------------------------------------------------ files that are no recordings


def plain(**change):
    return {"current": CURRENT, "voltage": VOLTAGE, "sampling_rate": RATE} | change


def spoilt(array, value):
    array = array.copy()
    array[1, 7] = value
    return array


SPOILT = {
    "no voltage": ({"current": CURRENT, "sampling_rate": RATE}, {}, ["voltage", "current, sampling_rate"]),
    "two voltages": (plain(voltage_mV=VOLTAGE), {}, ["one array named voltage"]),
    "no rate": ({"current": CURRENT, "voltage": VOLTAGE}, {}, ["sampling rate", "dt_ms", "sampling_rate=HERTZ"]),
    "rate of zero": (plain(sampling_rate=0), {}, ["'sampling_rate'", "above 0", "0"]),
    "other length": (plain(voltage=VOLTAGE[:, :500]), {}, ["sweep 0", "one length", "600", "500"]),
    "other sweeps": (plain(voltage=VOLTAGE[:2]), {}, ["as many sweeps", "(3, 600)", "(2, 600)"]),
    "unequal sweeps": (
        {"a_i_pA": CURRENT[0], "a_v_mV": VOLTAGE[0], "b_i_pA": CURRENT[1, :99], "b_v_mV": VOLTAGE[1, :99],
         "dt_s": 1e-4}, {}, ["sweeps of one length", "600 samples: a", "99 samples: b", "sweeps="],
    ),
    "a pair without a half": ({"a_i_pA": CURRENT[0], "dt_s": 1e-4}, {}, ["'a_v_mV'", "a_i_pA, dt_s"]),
    "NaN": (plain(voltage=spoilt(VOLTAGE, np.nan)), {}, ["finite", "1 that", "voltage", "nan", "sweep 1 at sample 7"]),
    "infinity": (plain(current=spoilt(CURRENT, -np.inf)), {}, ["finite", "current", "-inf"]),
    "empty": (plain(current=CURRENT[:, :0], voltage=VOLTAGE[:, :0]), {}, ["samples", "none"]),
    "text": (plain(current=np.array([["a"]])), {}, ["'current'", "numbers", "<U1"]),
    "rank 3": (plain(current=CURRENT[None]), {}, ["'current'", "(1, 3, 600)"]),
    "swapped": (plain(current=VOLTAGE, voltage=CURRENT), {}, ["current", "membrane potential", "swap=True"]),
    "volts": (plain(voltage=VOLTAGE / 1000), {}, ["looks like volts", "voltage_unit='V'"]),
    "microvolts": (plain(voltage=VOLTAGE * 1000), {}, ["+-200 mV", "voltage_unit"]),
    "amperes": (plain(current=CURRENT * 1e-12), {}, ["looks like amperes", "current_unit='A'"]),
    "large current": (plain(current=CURRENT * 1000), {}, ["+-5000 pA", "current_unit"]),
    "wrong override": (plain(), {"current_unit": "A"}, ["+-5000 pA"]),
    "no such part": (plain(), {"part": "test"}, ["'test'", "main"]),
    "no such sweep": (plain(), {"sweeps": 3}, ["sweeps:", "0 to 2", "3"]),
    "spike rows": (plain(spike_times_ms=[[1.0]]), {}, ["spike_times_ms", "3 sweeps", "1"]),
    "spikes beyond": (plain(spike_times_ms=[[1.0], [2.0], [61.0]]), {}, ["spikes:", "60 ms", "61"]),
    "a voltage file too many": (plain(), {"voltage": "v.npz"}, ["v.npz", "NumPy .npz"]),
    "integers alone": ({"v_q": VOLTAGE.astype(int), "i_q": CURRENT.astype(int), "fs_Hz": RATE}, {}, ["'i_lsb_pA'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_archives_are_named(tmp_path, case):
    fields, options, words = SPOILT[case]
    np.savez(tmp_path / "cell.npz", **fields)
    with pytest.raises(FileError) as error:
        open_recording(tmp_path / "cell.npz", **options)
    for word in ["cell.npz", *words] if "v.npz" not in words else words:
        assert word in str(error.value), str(error.value)


def test_units_and_plausibility_are_the_callers_to_override(tmp_path):
    np.savez(tmp_path / "cell.npz", **plain(current=CURRENT * 1e-12, voltage=VOLTAGE / 1000))
    check(open_recording(tmp_path / "cell.npz", current_unit="A", voltage_unit="V"))
    np.savez(tmp_path / "cell.npz", **plain(current=VOLTAGE, voltage=CURRENT))
    check(open_recording(tmp_path / "cell.npz", swap=True))
    np.savez(tmp_path / "cell.npz", **plain(current=CURRENT * 1000))
    assert open_recording(tmp_path / "cell.npz", plausible=False).current.max() > 5000
    np.savez(tmp_path / "cell.npz", **plain())
    assert open_recording(tmp_path / "cell.npz", sampling_rate=20_000).sampling_rate == 20_000
    # a hyperpolarising current of the size of a potential is no potential
    np.savez(tmp_path / "cell.npz", **plain(current=np.full_like(CURRENT, -70)))
    assert (open_recording(tmp_path / "cell.npz").current == -70).all()


@pytest.mark.parametrize(("name", "content", "words"), [
    ("cell.npz", b"", "empty file"),
    ("cell.npz", b"no archive", "NumPy .npz format; found one that begins with b'no archi'"),
    ("cell.npz", b"PK\x03\x04 cut short", "whole NumPy .npz file"),
    ("cell.abf", b"no axon file", "Axon ABF format"),
    ("cell.abf", b"ABF2" + b"\0" * 600, "whole Axon ABF file"),
    ("cell.ibw", b"\x05\x00" + b"\0" * 40, "whole Igor binary wave file"),
    ("cell.nwb", b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "whole HDF5 file"),
    ("cell.xyz", b"\x01\x02\x03\x04\x05\x06", r"a recording \(.npz, .*found one that begins"),
    ("cell.csv", b"time,amps\n1,2\n", "columns named current_pA and voltage_mV.*found time, amps"),
    ("cell.csv", b"current,voltage\n", "lines of numbers"),
    ("cell.csv", b"time_ms,current,voltage\n0,1,2\n0.1,1\n", "3 columns in each line; found 2 in line 3"),
    ("cell.csv", b"time_ms,current,voltage\n0,1,2\n0.1,x,2\n", "number in column 2 of line 3; found 'x'"),
    ("cell.csv", b"time_ms,current,voltage\n0,1,2\n0.1,1,2\n0.9,1,2\n", "evenly spaced"),
    ("cell.csv", b"time_h,current,voltage\n0,1,2\n1,1,2\n", "time in one of s, ms, us; found 'h'"),
    ("cell.csv", b"time_ms,current_pA,current_nA,voltage\n0,1,1,2\n", "one column of the current; found several"),
    ("cell.csv", b"time_ms,current_lb,voltage\n0,1,-70\n1,1,-70\n", "current in one of pA.*'lb'"),
    ("cell.npy", b"\x93NUMPY", "second .npy file"),
])  # fmt: skip
def test_files_of_another_content_are_named(tmp_path, name, content, words):
    for suffix, library in ((".abf", "pyabf"), (".ibw", "igor2"), (".nwb", "h5py")):
        if name.endswith(suffix):
            with np.printoptions():
                pytest.importorskip(library)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=words) as error:
        open_recording(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileError, match=r"none\.npz: expected a file that can be read; found: No such file"):
        open_recording(tmp_path / "none.npz")
    with pytest.raises(FileError, match="Is a directory"):
        open_recording(tmp_path)
    np.savez(tmp_path / "a.npz", **plain())
    np.savez(tmp_path / "b.npz", **plain(sampling_rate=5000))
    with pytest.raises(
        FileError, match=r"a\.npz.*b\.npz: expected files of one sampling rate; found 10000 Hz.*5000 Hz"
    ):
        open_recording([tmp_path / "a.npz", tmp_path / "b.npz"])
    np.savez(tmp_path / "b.npz", **plain(current=CURRENT[:, :500], voltage=VOLTAGE[:, :500]))
    with pytest.raises(FileError, match=r"files of one length.*600 samples.*500 samples"):
        open_recording([tmp_path / "a.npz", tmp_path / "b.npz"])
    np.savez(tmp_path / "b.npz", **plain())
    both = open_recording([tmp_path / "a.npz", tmp_path / "b.npz"])
    assert both.labels == ("a 0", "a 1", "a 2", "b 0", "b 1", "b 2")


@pytest.mark.parametrize(("options", "words"), [
    ({"current_unit": "mV"}, "current_unit: expected one of pA.*'mV'"),
    ({"voltage_unit": "pA"}, "voltage_unit: expected one of mV.*'pA'"),
    ({"sampling_rate": -1}, "sampling_rate:.*above 0"),
    ({"voltage": ["a", "b"]}, "voltage: expected a file for each of 1"),
])  # fmt: skip
def test_wrong_options_are_named(tmp_path, options, words):
    np.savez(tmp_path / "cell.npz", **plain())
    with pytest.raises(ArgumentError, match=words):
        open_recording(tmp_path / "cell.npz", **options)
    with pytest.raises(ArgumentError, match="path: expected a file"):
        open_recording([])


@pytest.mark.parametrize(("name", "content", "libraries", "extra"), [
    ("cell.abf", b"ABF2", ["pyabf"], "abf"),
    ("cell.ibw", b"\x05\x00", ["igor2", "igor2.binarywave"], "igor"),
    ("cell.nwb", b"\x89HDF\r\n\x1a\n", ["h5py"], "hdf5"),
])  # fmt: skip
def test_a_missing_library_is_named(tmp_path, monkeypatch, name, content, libraries, extra):
    (tmp_path / name).write_bytes(content)
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibraryError, match=rf"{libraries[0]}.*not installed.*'blocksim\[{extra}\]'"):
        open_recording(tmp_path / name)
