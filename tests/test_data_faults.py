"""Data sets as other programs and processes leave them: precision, byte order, units, encodings, forks, bounds."""

from __future__ import annotations

import multiprocessing
import queue
import resource
import sys
import threading
import warnings
import zipfile

import h5py
import numpy as np
import pytest

from blocksim import LIF, ArgumentError, BlocksimWarning, Events, FileError
from blocksim.data import Augmentation, from_lists, open_dataset, write_events
from blocksim.data.sources import Numbered

DT, COUNT = 0.1, 3000
GRID = np.arange(COUNT) * DT  # ms, one spike in each step
ONE = np.zeros(COUNT, int)


def assert_one_a_step(events):
    np.testing.assert_array_equal(np.diff(events.indptr), np.ones(events.shape[1], int))


def write_hdf5(path, times, units, labels, kinds=("<f4", "<u2"), **more):
    """A file in the layout of the Spiking Heidelberg Digits; times in s."""
    with h5py.File(path, "w") as file:
        for name, lists, kind in zip(("times", "units"), (times, units), kinds, strict=True):
            made = file.create_dataset(f"spikes/{name}", (len(lists),), dtype=h5py.vlen_dtype(np.dtype(kind)))
            for sample, values in enumerate(lists):
                made[sample] = np.array(values, kind)
        file["labels"] = labels
        for name, values in more.items():
            file[name.replace("__", "/")] = values
    return path


# ------------------------------------------------------------------------------------------------ precision of times


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8"])
def test_times_of_any_precision_and_byte_order_fall_into_the_same_steps_by_every_way(tmp_path, kind):
    times = GRID.astype(kind)
    kept = times.copy()
    ways = {
        "events": lambda: Events.from_lists([times], [ONE], channels=1, dt=DT),
        "lists": lambda: from_lists([times], [ONE], [0], channels=1, dt=DT).batch([0]).x,
    }
    np.savez(tmp_path / "d.npz", times=times, units=ONE, offsets=[0, COUNT], labels=[0])
    ways["npz"] = lambda: open_dataset(tmp_path / "d.npz", dt=DT).batch([0]).x
    write_events(tmp_path / "w.npz", [times], [ONE.astype(">i4")], np.array([0], ">u2"), channels=1)
    ways["written"] = lambda: open_dataset(tmp_path / "w.npz", dt=DT).batch([0]).x
    seconds = (GRID / 1000).astype(kind)
    path = write_hdf5(tmp_path / "d.h5", [seconds], [ONE], np.array([0], ">u2"), (kind, ">u2"))
    ways["HDF5"] = lambda: open_dataset(path, dt=DT, channels=1).batch([0]).x
    micro = np.round(GRID * 1000).astype(kind)
    np.savez(tmp_path / "c.npz", x=ONE, y=ONE, p=ONE, t_us=micro, offsets=[0, COUNT], labels=[0], sensor=[1, 1])
    ways["camera"] = lambda: open_dataset(tmp_path / "c.npz", dt=DT).batch([0]).x
    for make in ways.values():
        assert_one_a_step(make())
    np.testing.assert_array_equal(times, kept)


def test_a_step_of_single_precision_is_its_decimal():
    for kind in (np.float16, np.float32):
        assert_one_a_step(from_lists([GRID], [ONE], [0], channels=1, dt=kind(0.1)).batch([0]).x)
        assert LIF.from_ms(tau_mem=20, refractory=40, dt=kind(0.1)).refractory_steps == 400
    assert LIF.from_ms(tau_mem=20, refractory=np.float32(40.1), dt=0.1).refractory_steps == 401
    data = from_lists([[1.0]], [[0]], [0], channels=1, dt=0.1, delays=np.array([0, 0.3, 20_000.7], np.float32))
    assert data.delays == (0, 3, 200_007)


def test_big_endian_lists_of_hdf5_are_read_as_they_are_stored(tmp_path):
    path = write_hdf5(tmp_path / "d.h5", [[1.0, 2.0], []], [[3, 400], []], [0, 1], (">f4", ">u2"))
    x = open_dataset(path).batch([0, 1]).x
    assert (x.shape, x.indices.tolist()) == ((2, 2001, 700), [3, 400])
    assert np.flatnonzero(np.diff(x.indptr)).tolist() == [1000, 2000]


# ---------------------------------------------------------------------------------------------------- units of times


def lasting(factor, samples=30, channels=30):
    """Times that last 1 s in units of 1 / factor ms."""
    rng = np.random.default_rng(0)
    times = [np.sort(rng.uniform(0, 1000, 80)) * factor for _ in range(samples)]
    return times, [rng.integers(0, channels, 80) for _ in range(samples)], np.arange(samples) % 3


@pytest.mark.parametrize("dt", [0.1, 2.0])
@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "s"), (1e3, "us"), (1, None)])
def test_times_in_another_unit_are_told_when_a_data_set_is_opened(tmp_path, factor, unit, dt):
    times, units, labels = lasting(factor)
    write_events(tmp_path / "d.npz", times, units, labels, channels=30)
    write_hdf5(tmp_path / "d.h5", times, units, labels)  # here s are wanted
    opened = [
        lambda: from_lists(times, units, labels, channels=30, dt=dt),
        lambda: open_dataset(tmp_path / "d.npz", dt=dt, steps=500),
    ]
    for call in opened:
        if unit is None:
            call()
            continue
        with pytest.warns(BlocksimWarning, match=rf"expected times in ms; found samples .*times in {unit} would fit"):
            call()
    if unit != "s":
        with pytest.warns(BlocksimWarning, match=f"expected times in s; found .*times in {unit or 'ms'} would fit"):
            open_dataset(tmp_path / "d.h5", dt=dt)
    else:
        open_dataset(tmp_path / "d.h5", dt=dt)
    # with a span, time is scaled, whatever its unit
    from_lists(times, units, labels, channels=30, dt=dt, trim=0.0, span=400)


@pytest.mark.parametrize(("length", "events", "channels", "dt"), [
    (300.0, 4000, 2000, 1.0),  # a camera's
    (1000.0, 8000, 700, 2.0),  # a cochlea's
    (10.0, 100, 784, 0.1),  # one spike a pixel
    (5.0, 20, 20, 0.1),
    (600_000.0, 3000, 10, 1.0),  # ten minutes, 0.5 Hz
    (20.0, 60, 11, 8.0),
    (300.0, 40, 20, 1000.0),  # all in one step, as asked
])  # fmt: skip
def test_plausible_data_is_left_alone(length, events, channels, dt):
    rng = np.random.default_rng(1)
    times = [rng.uniform(0, length, events) for _ in range(5)]
    from_lists(times, [rng.integers(0, channels, events) for _ in range(5)], np.zeros(5, int), channels=channels, dt=dt)


# --------------------------------------------------------------------------------------------------- bounds by value


def test_one_stray_time_is_refused_before_the_steps_before_it_are_made(tmp_path):
    times, units = [[1.0, 5.0], [2.0, 1e9], [3.0]], [[0, 1], [1, 0], [0]]
    write_events(tmp_path / "d.npz", times, units, [0, 1, 0], channels=2)
    data = open_dataset(tmp_path / "d.npz")
    with pytest.raises(
        FileError, match=r"d\.npz: .* found 3 x 1000000001, with the last event of sample 1 at 1e\+09 ms"
    ):
        data.batch([0, 1, 2])
    assert "1 to 1e+09 ms" in data.summary().replace("duration: 4", "duration: 1")
    assert data.batch([0, 2]).x.shape == (2, 6, 2)
    assert open_dataset(tmp_path / "d.npz", steps=10).batch([0, 1, 2]).x.shape == (3, 10, 2)
    with pytest.raises(ArgumentError, match="found one at 1e\\+09 ms in sample 1"):
        Events.from_lists(times, units, channels=2)
    with pytest.raises(ArgumentError, match=r"from_lists: .* sample 1"):
        from_lists(times, units, [0, 1, 0], channels=2).batch([1], augmentation=Augmentation(stretch=0.1))
    # a long and busy sample is none
    long = np.arange(20_000) * 1000.0
    assert from_lists([long], [np.zeros(20_000, int)], [0], channels=1).batch([0]).x.shape == (1, 19_999_001, 1)
    with pytest.raises(ArgumentError, match=r"at most 2\*\*31 steps"):
        Events.from_lists([[1.0]], [[0]], channels=1, steps=10**13)
    with pytest.raises(ArgumentError, match=r"at most 2\*\*31 steps"):
        from_lists([[1.0]], [[0]], [0], channels=1, steps=10**13).batch([0])
    with pytest.raises(ArgumentError, match="2\\*\\*31 - 1 steps in sample 0"):
        from_lists([[1e300]], [[0]], [0], channels=1).batch([0])


def test_groups_may_be_numbered_by_their_date(tmp_path):
    groups = np.array([20_231_104, 20_231_105, 20_231_104])
    write_events(tmp_path / "d.npz", [[1.0]] * 3, [[0]] * 3, [0, 1, 0], channels=1, groups=groups)
    assert (tmp_path / "d.npz").stat().st_size < 10_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (
        open_dataset(tmp_path / "d.npz"),
        from_lists([[1.0]] * 3, [[0]] * 3, [0, 1, 0], channels=1, groups=groups),
        from_lists([[1.0]] * 3, [[0]] * 3, [0, 1, 0], channels=1, groups=np.array([2**62, 5, 2**62], np.uint64)),
    ):  # fmt: skip
        names = [data.group_names[group] for group in data.groups]
        assert names == [str(group) for group in data.groups]
        assert data.statistics()["groups"] == {names[1]: 1, names[0]: 2}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    assert Numbered(3) == ("0", "1", "2")
    assert Numbered(3) != ("0", "1", "3")
    assert Numbered(10)[2:4] == ("2", "3")


@pytest.mark.parametrize(("labels", "words"), [
    ([0, 10**9], "classes numbered 0, 1, .*found 1000000000"),
    (np.array([0, 2**63], np.uint64), "64 bits|classes numbered"),
    ([[0], [1, 2]], "labels"),
    ([0.0, 1.0], "labels, whole numbers"),
    (None, "labels"),
    (np.ma.array([0, 1], mask=[0, 1]), "labels: expected .*mask"),
])  # fmt: skip
def test_labels_that_are_no_classes_are_refused(labels, words):
    with pytest.raises(ArgumentError, match=words):
        from_lists([[1.0], [2.0]], [[0], [0]], labels, channels=1)


# ------------------------------------------------------------------------------------------------ forks and threads


@pytest.fixture
def kept_open(tmp_path):
    """Data sets of the kinds that keep a file open, or did; and how many samples they have."""
    rng = np.random.default_rng(2)
    samples = 40
    times = [np.sort(rng.uniform(0, 0.3, 50 + k)) for k in range(samples)]
    units = [rng.integers(0, 34, 50 + k) for k in range(samples)]
    labels = np.arange(samples) % 10
    write_hdf5(tmp_path / "d.h5", times, units, labels)
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(samples):
            stamps = (times[k] * 1e6).astype(int)
            content = b"".join(
                bytes([unit, 5]) + int(at).to_bytes(3, "big") for at, unit in zip(stamps, units[k], strict=True)
            )
            archive.writestr(f"Train/{labels[k]}/{k:05}.bin", content)
    write_events(tmp_path / "d.npz", [1000 * t for t in times], units, labels, channels=34)
    paths = [tmp_path / name for name in ("d.h5", "d.zip", "d.npz")]
    return [open_dataset(path, cache_bytes=0) for path in paths], samples


def put_sums(answers, data, places):
    answers.put(sums(data, places))


def sums(data, places):
    return [int(data.batch([int(place)]).x.indices.sum()) for place in places]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_a_data_set_opened_before_a_fork_is_read_by_all_children_at_once(kept_open):
    data_sets, samples = kept_open
    orders = [np.random.default_rng(seed).permutation(samples).repeat(3) for seed in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads of other tests, from Python 3.12 on
        context = multiprocessing.get_context("fork")
        for data in data_sets:
            expected = sums(data, range(samples))
            answers = context.Queue()
            children = [context.Process(target=put_sums, args=(answers, data, order)) for order in orders]
            for child in children:
                child.start()
            here = sums(data, range(samples))
            found = [answers.get(timeout=60) for _ in children]
            for child in children:
                child.join(timeout=60)
            assert here == expected
            assert sorted(found) == sorted([expected[place] for place in order] for order in orders)


def test_threads_read_one_data_set_at_once(kept_open):
    data_sets, samples = kept_open
    for data in data_sets:
        expected, found = sums(data, range(samples)), queue.Queue()
        threads = [threading.Thread(target=put_sums, args=(found, data, range(samples))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found.get(timeout=60) for _ in threads] == [expected] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_a_fork_while_another_thread_reads_leaves_no_lock_behind(kept_open):
    data = kept_open[0][1]
    expected = sums(data, range(3))
    source = data._store.source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        child = context.Process(target=put_sums, args=(answers, data, range(3)))
        with source._zip.use(), data._store._lock:
            child.start()
    assert answers.get(timeout=60) == expected
    child.join(timeout=60)


# --------------------------------------------------------------------------------------------- encodings and members


def test_names_are_texts_in_whatever_encoding(tmp_path):
    names = ["fünf".encode("latin-1"), "fünf".encode(), b"plain"]
    path = write_hdf5(tmp_path / "d.h5", [[0.001]] * 3, [[3]] * 3, [0, 1, 2], extra__keys=np.array(names, "S8"))
    assert open_dataset(path).class_names == ("fünf", "fünf", "plain")
    arrays = {"times": [0.5], "units": [1], "offsets": [0, 1], "labels": [2]}
    np.savez(tmp_path / "d.npz", **arrays, class_names=np.array(names))
    assert open_dataset(tmp_path / "d.npz").class_names == ("fünf", "fünf", "plain")
    data = from_lists([[1.0]], [[0]], [1], channels=1, class_names=[b"zero", b"one"])
    assert data.class_names == ("zero", "one")
    with pytest.raises(ArgumentError, match=r"expected class_names to be texts; found 0\.5"):
        from_lists([[1.0]], [[0]], [1], channels=1, class_names=["zero", 0.5])


@pytest.mark.parametrize(("change", "words"), [
    (lambda file: file.create_group("labels"), "expected labels to be an array; found a group"),
    (lambda file: file.create_dataset("labels", data=h5py.Empty("f8")), "labels to be an array; found an empty"),
    (lambda file: file.create_dataset("labels", (2**40,), "u8", chunks=(2**20,)), "labels to have one axis"),
    (lambda file: file.create_dataset("labels", data=[[0], [1]]), r"labels to have one axis; found shape \(2, 1\)"),
    (lambda file: file.create_dataset("labels", data=[b"a", b"b"]), "labels: expected real numbers"),
    (lambda file: file.__setitem__("labels", h5py.SoftLink("/labels")), "a whole HDF5 file; found the file damaged"),
])  # fmt: skip
def test_members_of_hdf5_that_are_no_labels_are_named(tmp_path, change, words):
    path = write_hdf5(tmp_path / "d.h5", [[0.001]] * 2, [[3]] * 2, [0, 1])
    with h5py.File(path, "r+") as file:
        del file["labels"]
        change(file)
    with pytest.raises(FileError, match=words) as caught:
        open_dataset(path)
    assert len(str(caught.value).splitlines()) == 1
    path.unlink()  # nothing keeps it open


def test_a_pipe_in_a_folder_is_no_sample(tmp_path):
    if sys.platform == "win32":
        pytest.skip("no named pipes")
    import os

    (tmp_path / "3").mkdir()
    os.mkfifo(tmp_path / "3" / "1.bin")
    with pytest.raises(FileError, match=r"sample 0 \(3/1.bin\).*no regular file"):
        open_dataset(tmp_path).batch([0])


@pytest.mark.parametrize("kind", [">u8", "<u8", ">i2", "u1"])
def test_pixels_of_any_integers(tmp_path, kind):
    x, y, p = np.array([[5, 33], [0, 33], [0, 1]], kind)
    np.savez(tmp_path / "c.npz", x=x, y=y, p=p, t_us=np.array([0, 90], kind), offsets=np.array([0, 2], kind),
             labels=np.array([1], kind), sensor=np.array([34, 34], kind))  # fmt: skip
    batch = open_dataset(tmp_path / "c.npz").batch([0])
    assert (batch.x.indices.tolist(), batch.labels.tolist()) == ([5, 2 * 34 * 34 - 1], [1])
