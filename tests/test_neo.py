"""Recordings and spike trains that Neo holds."""

import sys

import numpy as np
import pytest

from blocksim.ephys import Detection, Recording
from blocksim.errors import MissingLibraryError
from blocksim.metrics import md_star
from blocksim.trains import SpikeTrains

from .helpers import assert_refused

neo = pytest.importorskip("neo", reason="neo is not installed: python -m pip install 'blocksim[neo]'")
pq = pytest.importorskip("quantities")


def signal(values, unit, name="", rate=10.0, start=0.0):
    return neo.AnalogSignal(values, units=unit, sampling_rate=rate * pq.kHz, t_start=start * pq.ms, name=name)


def block(segments=2, trains=True, start=100.0):
    """Sweeps of 50 ms with a spike at 10 ms and one at 30 ms, the potential in V and the current in nA."""
    made = neo.Block(name="cell 7", file_origin="cell7.abf")
    for number in range(segments):
        segment = neo.Segment(name=f"sweep {number}")
        voltage = np.full(500, -0.065)
        voltage[[100, 300]] = 0.02
        current = np.full(500, 0.1 * (number + 1))
        segment.analogsignals += [
            signal(voltage, "V", "Vm", start=start), signal(current, "nA", "Im", start=start),
            signal(np.zeros(500), "degC", "bath", start=start),
        ]  # fmt: skip
        if trains:
            times = [start + 10.2, start + 30.2]
            segment.spiketrains.append(neo.SpikeTrain(times, units="ms", t_start=start, t_stop=start + 50))
        made.segments.append(segment)
    return made


def test_a_block_is_a_recording_of_its_segments():
    recording = Recording.from_neo(block())
    assert (recording.name, recording.source, recording.labels) == ("cell 7", "cell7.abf", ("sweep 0", "sweep 1"))
    assert recording.sampling_rate == 10_000
    np.testing.assert_allclose(recording.current[:, 0], [100, 200])
    np.testing.assert_allclose(recording.voltage[0, [0, 100]], [-65, 20])
    np.testing.assert_allclose(recording.spikes[1], [10.2, 30.2])
    found = Recording.from_neo(block(), detection=Detection())
    np.testing.assert_allclose(found.spikes[1], [10, 30], atol=0.11)
    np.testing.assert_allclose(Recording.from_neo(block(trains=False)).spikes[0], [10, 30], atol=0.11)
    one = Recording.from_neo(block().segments[1])
    assert one.sweeps == 1
    assert one.current[0, 0] == pytest.approx(200)
    assert Recording.from_neo(block().segments[:1], name="mine").name == "mine"


def test_a_signal_is_chosen_by_name_or_number():
    several = block(1)
    segment = several.segments[0]
    both = np.stack([np.full(500, 1.0), np.full(500, 2.0)], axis=1)
    segment.analogsignals.append(signal(both, "mV", "other", start=100.0))
    assert_refused(lambda: Recording.from_neo(several), ["voltage", "'Vm', 'other', 'other'", "mV"])
    assert Recording.from_neo(several, voltage="Vm").voltage[0, 0] == -65
    assert Recording.from_neo(several, voltage=2).voltage[0, 0] == 2
    assert_refused(lambda: Recording.from_neo(several, voltage="other"), ["voltage", "'other'"])
    assert_refused(lambda: Recording.from_neo(several, voltage=3), ["voltage", "3"])
    assert_refused(lambda: Recording.from_neo(several, voltage=0, current="V"), ["current", "'V'", "'Im'"])


def test_signals_must_fit_together():
    for change, words in (
        (lambda segment: segment.analogsignals.pop(1), ["current", "none", "pA"]),
        (lambda segment: segment.analogsignals.__setitem__(1, signal(np.zeros(250), "nA", rate=5.0, start=100.0)),
         ["one sampling rate", "5000 Hz", "10000 Hz"]),
        (lambda segment: segment.analogsignals.__setitem__(1, signal(np.zeros(500), "nA")), ["begin together"]),
        (lambda segment: segment.analogsignals.__setitem__(1, signal(np.zeros(400), "nA", start=100.0)),
         ["one length", "400, 500"]),
    ):  # fmt: skip
        changed = block()
        change(changed.segments[1])
        assert_refused(lambda changed=changed: Recording.from_neo(changed), words)
    for given in (3, [], [1, 2], "block", neo.SpikeTrain([1.0], units="ms", t_stop=5.0)):
        assert_refused(lambda given=given: Recording.from_neo(given), ["source", "neo Block"])


def test_trains_go_to_neo_and_back():
    trains = SpikeTrains.of([[1.5, 20.0], [], [49.9]])
    theirs = trains.to_neo(50.0)
    assert [len(train) for train in theirs] == [2, 0, 1]
    assert theirs[0].t_stop == 50 * pq.ms
    back = SpikeTrains.from_neo(theirs)
    np.testing.assert_array_equal(back.times, trains.times)
    np.testing.assert_array_equal(back.offsets, trains.offsets)
    later = neo.SpikeTrain([1.2, 1.1], units="s", t_start=1.0, t_stop=2.0)
    np.testing.assert_allclose(SpikeTrains.from_neo(later).times, [100, 200])
    assert len(SpikeTrains.from_neo(block().segments[0].spiketrains)) == 1
    assert md_star(SpikeTrains.from_neo(theirs[:1]), SpikeTrains.from_neo([theirs[0], theirs[0]])) > 0
    assert_refused(lambda: trains.to_neo(40.0), ["duration", "49.9"])
    assert_refused(lambda: SpikeTrains.from_neo([np.array([1.0])]), ["trains", "neo.SpikeTrain"])


def test_without_neo_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "neo", None)
    with pytest.raises(MissingLibraryError, match=r"blocksim\[neo\]"):
        SpikeTrains.of([[1.0]]).to_neo(5.0)
