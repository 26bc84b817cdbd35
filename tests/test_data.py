"""Event data sets: readers, binning, batches; what is refused, and how."""

from __future__ import annotations

import inspect
import io
import json
import pickle
import tarfile
import zipfile

import h5py
import numpy as np
import pytest

import blocksim
import blocksim.data
from blocksim import ArgumentError, FileError
from blocksim.data import EventDataset, folds, from_lists, open_dataset, split, write_events

from .helpers import assert_refused, assert_same_bits


def trains(seed=0, samples=7, channels=11, longest=40.0):
    """Random spike trains, unsorted, one of them empty."""
    rng = np.random.default_rng(seed)
    counts = [0, *rng.integers(1, 60, samples - 1)]
    times = [rng.uniform(0, longest * rng.uniform(0.2, 1), n) for n in counts]
    units = [rng.integers(0, channels, n) for n in counts]
    return times, units


def labelled(seed=0, **settings):
    times, units = trains(seed)
    return from_lists(times, units, np.arange(7) % 3, channels=11, groups=np.arange(7) % 2, **settings)


def assert_same_events(got, expected):
    assert got.shape == expected.shape
    assert_same_bits("indptr", got.indptr, expected.indptr)
    assert_same_bits("indices", got.indices, expected.indices)


@pytest.fixture
def shd(tmp_path):
    """A small file in the layout of the Spiking Heidelberg Digits, and what it holds."""
    times, units = trains(3, samples=5, channels=700, longest=300.0)

    def write(name="shd.h5", leave_out=(), dtype=np.float32, **changes):
        path = tmp_path / name
        data = {"labels": np.array([0, 1, 2, 1, 0], np.uint16), "speaker": np.array([4, 4, 1, 1, 4], np.uint16)}
        data |= {"times": [t / 1000 for t in times], "units": units, **changes}
        with h5py.File(path, "w") as file:
            for key, kind in (("times", dtype), ("units", np.uint16)):
                if f"spikes/{key}" not in leave_out:
                    made = file.create_dataset(f"spikes/{key}", (len(data[key]),), dtype=h5py.vlen_dtype(kind))
                    for sample, values in enumerate(data[key]):
                        made[sample] = values
            if "labels" not in leave_out:
                file["labels"] = data["labels"]
            if "extra" not in leave_out:
                file["extra/speaker"] = data["speaker"]
                file["extra/keys"] = [b"zero", b"one", b"two"]
                file["extra/meta_info/speaker_names"] = [b"a", b"b", b"c", b"d", b"e"]
        return path

    return write, times, units


@pytest.mark.parametrize("dt", [0.1, 0.3, 1.0, 7.0])
def test_batches_hold_what_from_lists_of_events_makes(dt):
    times, units = trains()
    data = labelled(dt=dt)
    picked = [3, 0, 5, 3]
    expected = blocksim.Events.from_lists([times[k] for k in picked], [units[k] for k in picked], channels=11, dt=dt)
    batch = data.batch(picked)
    assert_same_events(batch.x, expected)
    assert_same_bits("labels", batch.labels, np.array([0, 0, 2, 0]))
    assert_same_bits("indices", batch.indices, np.array(picked))


def test_times_on_an_edge_are_in_the_later_step():
    grid = np.round(np.arange(40) * 0.1, 1)
    data = from_lists([grid], [np.zeros(40, int)], [0], channels=1, dt=0.1)
    assert (data.batch([0]).x.to_dense() == 1).all()


def test_a_fixed_duration_cuts_and_pads():
    times, units = trains()
    data = labelled(dt=1.0, steps=13)
    x = data.batch(np.arange(7)).x
    assert x.shape == (7, 13, 11)
    kept = [t < 13 for t in times]
    expected = blocksim.Events.from_lists(
        [t[k] for t, k in zip(times, kept, strict=True)], [u[k] for u, k in zip(units, kept, strict=True)],
        channels=11, dt=1.0, steps=13,
    )  # fmt: skip
    assert_same_events(x, expected)
    assert 0 < len(x.indices) < sum(map(len, times))


def test_a_batch_of_silence_lasts_one_step():
    assert labelled().batch([0]).x.shape == (1, 1, 11)


@pytest.mark.parametrize("pool", [2, 3, 11, 20])
def test_pooling_adds_neighbouring_channels(pool):
    dense = labelled(steps=40).batch(np.arange(7)).x.to_dense()
    data = labelled(steps=40, pool=pool)
    edges = np.arange(0, 11, pool)
    np.testing.assert_array_equal(data.batch(np.arange(7)).x.to_dense(), np.add.reduceat(dense, edges, axis=2))
    assert data.channels == len(edges)


def test_clip_counts_several_spikes_of_a_step_once():
    counts = labelled(dt=8.0).batch(np.arange(7)).x.to_dense()
    assert counts.max() > 1
    np.testing.assert_array_equal(labelled(dt=8.0, clip=True).batch(np.arange(7)).x.to_dense(), counts > 0)


@pytest.mark.parametrize("span", [None, 25.0])
@pytest.mark.parametrize("trim", [0, 0.1, 0.4])
def test_samples_begin_where_a_share_of_their_events_has_passed_and_last_as_asked(trim, span):
    times, units = trains()
    times[1], units[1] = np.array([7.2]), units[1][:1]  # a sample that lasts no time
    data = from_lists(times, units, np.zeros(7, int), channels=11, trim=trim, span=span)
    lengths = []
    for place in range(7):
        x, count = data.batch([place]).x, len(times[place])
        if not count:
            assert x.shape == (1, 1, 11)
            continue
        start, end = np.sort(times[place])[[int(trim * count), count - 1 - int(trim * count)]]
        kept = times[place] >= start
        when = times[place][kept] - start
        if span and end > start:
            when = when * (span / (end - start))
        assert_same_events(x, blocksim.Events.from_lists([when], [units[place][kept]], channels=11))
        lengths.append(x.shape[1])
    # all as long as asked, but the one that lasts no time, and what comes after the stretch
    assert (sorted(set(lengths)) == [1, 26]) == (trim == 0 and span is not None)


@pytest.mark.parametrize("steps", [None, 5, 60])
def test_every_channel_enters_once_for_each_delay(steps):
    places = np.arange(7)
    plain = labelled(steps=60, pool=2).batch(places).x.to_dense()
    data = labelled(steps=steps, pool=2, delays=(0, 3.7, 40))
    found_ = data.subset(places).batch(places).x.to_dense()
    assert data.delays == (0, 3, 40)
    assert data.channels == found_.shape[2] == 3 * plain.shape[2] == 3 * data.statistics()["channels"]
    time = found_.shape[1]
    assert time == (steps or 40 + labelled().batch(places).x.shape[1])
    for line, delay in enumerate(data.delays):
        expected = np.zeros_like(plain, shape=(7, 100, plain.shape[2]))
        expected[:, delay : delay + 60] = plain
        np.testing.assert_array_equal(found_[:, :, line * 6 : line * 6 + 6], expected[:, :time])


@pytest.mark.parametrize("cache_bytes", [0, 300, 2**30])
def test_the_cache_is_bounded_and_changes_nothing(cache_bytes):
    data = labelled(cache_bytes=cache_bytes)
    for _ in range(2):
        for place in range(7):
            assert_same_events(data.batch([place]).x, labelled().batch([place]).x)
    assert data.cached_bytes <= cache_bytes
    assert (data.cached_bytes > 0) == (cache_bytes > 0)


def test_wide_and_long_samples_are_kept_exactly():
    times, units = [[70_000.0, 3.0, 3.0]], [[70_000, 2, 1]]
    data = from_lists(times, units, [0], channels=80_000)
    expected = blocksim.Events.from_lists(times, units, channels=80_000)
    assert_same_events(data.batch([0]).x, expected)


def test_batches_go_through_all_samples_once():
    data = labelled()
    ordered = list(data.batches(3))
    assert [batch.indices.tolist() for batch in ordered] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [len(batch) for batch in data.batches(3, drop_last=True)] == [3, 3]
    shuffled = np.concatenate([batch.indices for batch in data.batches(3, shuffle=True, seed=1, epoch=2)])
    assert sorted(shuffled) == list(range(7))
    for batch in data.batches(3, shuffle=True):
        np.testing.assert_array_equal(batch.labels, data.labels[batch.indices])


def test_the_order_depends_on_seed_and_epoch_alone():
    data = from_lists([[]] * 50, [[]] * 50, np.zeros(50, int), channels=1)

    def order(**settings):
        return np.concatenate([batch.indices for batch in data.batches(7, shuffle=True, **settings)]).tolist()

    orders = [order(seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(one) for one in orders}) == 9
    np.random.default_rng(0).random(100)
    assert order(seed=1, epoch=2) == orders[5]


def test_subsets_are_views_of_the_same_samples():
    data = labelled()
    part = data.subset([6, 2, 3]).subset([2, 0])
    np.testing.assert_array_equal(part.labels, data.labels[[3, 6]])
    np.testing.assert_array_equal(part.groups, data.groups[[3, 6]])
    assert_same_events(part.batch([0, 1]).x, data.batch([3, 6]).x)
    assert part.batch([1]).indices.tolist() == [1]
    assert len(part) == 2


def test_what_is_handed_out_is_read_only():
    data = labelled()
    batch = data.batch([1])
    for array in (data.labels, data.groups, batch.labels, batch.indices, batch.x.indices, batch.x.indptr):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_heidelberg_layout(shd, dtype):
    write, times, units = shd
    data = open_dataset(write(dtype=dtype), dt=2.0)
    assert (len(data), data.channels, data.class_names) == (5, 700, ("zero", "one", "two"))
    np.testing.assert_array_equal(data.labels, [0, 1, 2, 1, 0])
    np.testing.assert_array_equal(data.groups, [4, 4, 1, 1, 4])
    assert data.group_names == tuple("abcde")
    assert data.labels.dtype == data.groups.dtype == np.int64
    stored = [(t / 1000).astype(dtype).astype(np.float64) * 1000 for t in times]
    expected = blocksim.Events.from_lists(stored, units, channels=700, dt=2.0)
    assert_same_events(data.batch(np.arange(5)).x, expected)


def test_single_precision_seconds_mean_what_was_written(shd):
    write, _, _ = shd
    milliseconds = np.arange(2000) * 1.0
    times = [milliseconds / 1000, *[[]] * 4]
    data = open_dataset(write(times=times, units=[np.zeros(2000, int), *[[]] * 4]), dt=1.0)
    # without care, hundreds of them fall into the step before
    assert (np.floor((milliseconds / 1000).astype(np.float32).astype(float) * 1000) < milliseconds).sum() > 100
    assert (data.batch([0]).x.to_dense()[0, :, 0] == 1).all()


def test_speakers_and_class_names_may_be_missing(shd):
    write, _, _ = shd
    data = open_dataset(write(leave_out=("extra",)))
    assert (data.groups, data.group_names, data.class_names) == (None, None, ("0", "1", "2"))


def test_a_data_set_travels_to_another_process(shd):
    write, _, _ = shd
    data = open_dataset(write()).subset([1, 2])
    expected = data.batch([0, 1])
    copy = pickle.loads(pickle.dumps(data))
    assert copy.cached_bytes == 0
    assert_same_events(copy.batch([0, 1]).x, expected.x)
    np.testing.assert_array_equal(copy.labels, data.labels)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_spikes_in_npz(tmp_path, save):
    times, units = trains()
    path = tmp_path / "events.npz"
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in times])])
    save(path, times=np.concatenate(times), units=np.concatenate(units).astype(np.uint16), offsets=offsets,
         labels=np.arange(7, dtype=np.uint8) % 3, groups=np.arange(7) % 2, channels=11)  # fmt: skip
    data = open_dataset(path, dt=0.5)
    assert_same_events(data.batch(np.arange(7)).x, labelled(dt=0.5).batch(np.arange(7)).x)
    np.testing.assert_array_equal(data.groups, np.arange(7) % 2)
    assert open_dataset(path, channels=20).channels == 20


def test_write_events_makes_what_open_dataset_reads(tmp_path):
    times, units = trains()
    path = tmp_path / "events.npz"
    write_events(path, times, units, [0, 1, 2, 0, 1, 2, 0], channels=11, class_names="abc", groups=np.arange(7) % 2,
                 group_names=("x", "y"))  # fmt: skip
    data = open_dataset(path)
    assert_same_events(data.batch(np.arange(7)).x, labelled().batch(np.arange(7)).x)
    assert (data.class_names, data.group_names, data.channels) == (("a", "b", "c"), ("x", "y"), 11)
    with pytest.raises(FileError, match="exists"):
        write_events(path, times, units, np.zeros(7, int), channels=11)
    with pytest.raises(ArgumentError, match="channels from 0 to 4"):
        write_events(tmp_path / "other.npz", times, units, np.zeros(7, int), channels=5)
    assert [file.name for file in tmp_path.iterdir()] == ["events.npz"]


def camera(**changes):
    arrays = {"x": [0, 33, 5], "y": [1, 33, 0], "p": [0, 1, 1], "t_us": [0, 1500, 999], "offsets": [0, 2, 3],
              "labels": [3, 9]}  # fmt: skip
    return {name: np.asarray(value) for name, value in (arrays | changes).items()}


def test_camera_events_in_npz(tmp_path):
    np.savez(tmp_path / "camera.npz", **camera())
    data = open_dataset(tmp_path / "camera.npz", dt=1.0)
    assert (data.grid, data.channels) == ((2, 34, 34), 2 * 34 * 34)
    x = data.batch([0, 1]).x.to_dense().reshape(2, 2, 2, 34, 34)
    assert np.argwhere(x).tolist() == [[0, 0, 0, 1, 0], [0, 1, 1, 33, 33], [1, 0, 1, 0, 5]]
    half = open_dataset(tmp_path / "camera.npz", pool=3)
    assert half.grid == (2, 12, 12)
    x = half.batch([0, 1]).x.to_dense().reshape(2, 2, 2, 12, 12)
    assert np.argwhere(x).tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 11, 11], [1, 0, 1, 0, 1]]
    wide = open_dataset(tmp_path / "camera.npz", sensor=(40, 50))
    assert np.argwhere(wide.batch([1]).x.to_dense()).tolist() == [[0, 0, 2000 + 5]]


def test_real_spoken_digits(shared_data):
    data = open_dataset(shared_data / "spoken_digits" / "train.h5", dt=1.0)
    assert (len(data), data.channels, len(data.class_names)) == (1200, 700, 10)
    np.testing.assert_array_equal(np.bincount(data.labels), np.full(10, 120))
    assert sorted(data.group_names[g] for g in np.unique(data.groups)) == ["george", "jackson", "lucas", "nicolas"]
    places = [0, 599, 1199]
    with h5py.File(shared_data / "spoken_digits" / "train.h5") as file:
        # the file's grid is 1 ms
        times = [np.round(file["spikes/times"][k].astype(float) * 1000) for k in places]
        units = [file["spikes/units"][k] for k in places]
    assert_same_events(data.batch(places).x, blocksim.Events.from_lists(times, units, channels=700))


def test_real_nmnist(shared_data):
    path = shared_data / "nmnist" / "test100.npz"
    data = open_dataset(path, dt=10.0)
    assert (len(data), data.grid, len(data.class_names)) == (100, (2, 34, 34), 10)
    total = sum(len(batch.x.indices) for batch in data.batches(64))
    with np.load(path) as file:
        assert total == len(file["x"])


def foreign(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    return path


SPIKES = {"times": np.arange(3.0), "units": np.arange(3), "offsets": np.array([0, 1, 3]), "labels": np.array([0, 1])}
WRONG = {
    "empty": (b"", ["empty file"]),
    "text": (b"hello, world", ["begins with b'hello, w'"]),
    "compressed": (b"\x1f\x8b\x08\x00", ["unpack it first"]),
    "HDF5 cut short": (b"\x89HDF\r\n\x1a\n" + bytes(100), ["HDF5", "truncated or damaged"]),
    "npz cut short": (b"PK\x03\x04" + bytes(30), ["truncated or damaged"]),
    "other arrays": ({"a": np.zeros(3)}, ["times, units, offsets, labels", "x, y, p, t_us", "found a"]),
    "many other arrays": ({f"a{k:02}": np.zeros(3) for k in range(50)}, ["found a00, a01", "a11 and 38 more"]),
    "offsets too few": (SPIKES | {"offsets": np.array([0, 3])}, ["one offset more than labels, 3", "found 2"]),
    "offsets beyond": (SPIKES | {"offsets": np.array([0, 1, 4])}, ["number of events, 3", "from 0 to 4"]),
    "offsets back": (SPIKES | {"offsets": np.array([0, 5, 3])}, ["not ascending"]),
    "units too few": (SPIKES | {"units": np.arange(2)}, ["as many times as units", "3 and 2"]),
    "units real": (SPIKES | {"units": np.arange(3.0)}, ["units", "integers", "float64"]),
    "labels real": (SPIKES | {"labels": np.zeros(2)}, ["labels", "whole numbers", "float64"]),
    "labels negative": (SPIKES | {"labels": np.array([0, -1])}, ["labels", "from -1 on"]),
    "no labels": (SPIKES | {"labels": np.zeros(0, int), "offsets": np.array([0])}, ["at least one labelled sample"]),
    "groups too few": (SPIKES | {"groups": np.zeros(1, int)}, ["2 groups", "found 1"]),
    "names too few": (SPIKES | {"class_names": np.array(["a"])}, ["a name for each class up to 1", "found 1"]),
    "pickled": (SPIKES | {"times": np.array([1, None, 2])}, ["pickled"]),
    "p missing": ({k: v for k, v in camera().items() if k != "p"}, ["x, y, p, t_us", "found labels, offsets"]),
    "x too long": (camera(x=np.zeros(4, int)), ["integer arrays x, y, p as long as t_us, (3,)", "int64 (4,)"]),
    "sensor": (camera(sensor=np.array([34])), ["(height, width)", "(34,)"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_foreign_files_are_refused_with_a_reason(tmp_path, case):
    content, words = WRONG[case]
    path = foreign(tmp_path, "data.npz", content)
    with pytest.raises(FileError) as caught:
        open_dataset(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


LATE = {
    "time before 0": (SPIKES | {"times": np.array([0.0, -1.0, 0.0])}, ["sample 1", "0 ms or later", "-1.0"]),
    "time NaN": (SPIKES | {"times": np.array([0.0, np.nan, 0.0])}, ["sample 1", "NaN or infinity"]),
    "time far": (SPIKES | {"times": np.array([0.0, 1e12, 0.0])}, ["sample 1", "2**31 - 1 steps"]),
    "unit out of range": (SPIKES | {"channels": 2}, ["sample 1", "channels from 0 to 1", "found 2"]),
    "x out of range": (camera(x=[0, 34, 5]), ["x from 0 to 33", "found 34", "sensor's (height, width)"]),
    "p out of range": (camera(p=[0, 2, 1]), ["p from 0 to 1", "found 2"]),
}  # fmt: skip


@pytest.mark.parametrize("case", LATE)
def test_events_out_of_range_are_found_when_they_are_read(tmp_path, case):
    content, words = LATE[case]
    data = open_dataset(foreign(tmp_path, "data.npz", content))
    with pytest.raises(FileError) as caught:
        list(data.batches(2))
    for word in [data.name, *words]:
        assert word in str(caught.value)


def test_heidelberg_files_that_do_not_fit(shd):
    write, _, units = shd
    for changes, words in [
        ({"leave_out": ("labels",)}, ["spikes/times, spikes/units, labels", "found extra"]),
        ({"labels": np.zeros(4, int), "speaker": np.zeros(4, int)}, ["4 arrays in spikes/times", "found 5"]),
        ({"speaker": np.zeros(4, int)}, ["5 groups", "found 4"]),
        ({"dtype": np.int32}, ["spikes/times", "seconds", "int32"]),
    ]:
        path = write(**changes)
        with pytest.raises(FileError) as caught:
            open_dataset(path)
        for word in [str(path), *words]:
            assert word in str(caught.value)
    path = write(units=[units[0], units[1][:-1], *units[2:]])
    with pytest.raises(FileError, match="as many times as units in sample 1"):
        open_dataset(path).batch([1])
    whole = write().read_bytes()
    for stop in (100, len(whole) // 2):
        path.write_bytes(whole[:stop])
        with pytest.raises(FileError, match="truncated or damaged"):
            open_dataset(path)


@pytest.mark.parametrize("kind", ["npz", "zip"])
def test_damaged_archives_are_refused_whatever_the_damage(tmp_path, kind):
    path = tmp_path / f"data.{kind}"
    if kind == "npz":
        np.savez_compressed(path, **camera())
    else:
        archived(path, {f"Train/{k}/1.bin": encoded([k] * 9, range(9), [0] * 9, range(9)) for k in range(5)}, kind)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(150):
        broken = whole.copy()
        broken[rng.integers(len(whole), size=4)] = rng.integers(256, size=4)
        path.write_bytes(broken.tobytes())
        try:
            list(open_dataset(path, steps=5).batches(2))
        except FileError as error:
            errors.append(str(error))
    assert len(errors) > 100
    assert all(str(path) in error for error in errors)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileError, match=r"none\.npz: .*No such file"):
        open_dataset(tmp_path / "none.npz")


def test_without_h5py_the_error_names_the_extra(shd, monkeypatch):
    write, _, _ = shd
    path = write()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(blocksim.MissingLibraryError, match=r"blocksim\[hdf5\]"):
        open_dataset(path)


ARGUMENTS = {
    "dt": (lambda: labelled(dt=0), ["dt:", "above 0", "0"]),
    "steps": (lambda: labelled(steps=0), ["steps:", "at least 1", "0"]),
    "pool": (lambda: labelled(pool=0), ["pool:", "0"]),
    "clip": (lambda: labelled(clip=1), ["clip:", "True or False"]),
    "trim": (lambda: labelled(trim=1.0), ["trim:", "below 0.5", "1.0"]),
    "trim below": (lambda: labelled(trim=-0.1), ["trim:", "at least 0", "-0.1"]),
    "span": (lambda: labelled(trim=0.1, span=0), ["span:", "above 0", "0"]),
    "span alone": (lambda: labelled(span=10.0), ["span:", "trim", "None"]),
    "no delay": (lambda: labelled(delays=()), ["delays:", "ascending", "()"]),
    "delay below": (lambda: labelled(delays=(-1.0, 0.0)), ["delays:", "0 or more", "-1"]),
    "delays the same step": (lambda: labelled(delays=(0.0, 0.5)), ["delays:", "ascending", "0.5"]),
    "index": (lambda: labelled().batch([7]), ["indices:", "0 to 6", "7"]),
    "index below": (lambda: labelled().subset([-1]), ["indices:", "-1"]),
    "no index": (lambda: labelled().batch([]), ["indices:", "at least one"]),
    "index real": (lambda: labelled().batch([1.0]), ["indices:", "whole numbers"]),
    "batch size": (lambda: labelled().batches(0), ["batch_size:", "0"]),
    "seed": (lambda: labelled().batches(1, shuffle=True, seed=-1), ["seed:", "-1"]),
    "lists": (lambda: from_lists([[1.0]], [], [0], channels=1), ["times, units:", "1 and 0"]),
    "list": (lambda: from_lists([[1.0]], [[1.5]], [0], channels=2), ["times, units:", "sample 0", "float64"]),
    "unit": (lambda: from_lists([[1.0]], [[2]], [0], channels=2).batch([0]), ["from_lists:", "0 to 1", "2"]),
    "labels": (lambda: from_lists([[1.0]], [[1]], [0, 1], channels=2), ["one offset more than labels"]),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments(case):
    call, words = ARGUMENTS[case]
    assert_refused(call, words)


@pytest.mark.parametrize("name", blocksim.data.__all__)
def test_public_names_are_documented(name):
    thing = getattr(blocksim.data, name)
    text = inspect.getdoc(thing)
    assert text
    assert name in ("Batch", "download", "from_lists", "open_dataset") or ">>>" in text
    if inspect.isclass(thing):
        for method, function in vars(thing).items():
            if callable(function) and not method.startswith("_"):
                assert inspect.getdoc(function), f"{name}.{method}"


def test_repr_says_what_it_is():
    assert repr(labelled(dt=0.5)) == (
        "EventDataset('from_lists', 7 samples, 3 classes, 11 channels, dt=0.5 ms, steps of each sample)"
    )
    assert isinstance(labelled(), EventDataset)


def encoded(x, y, p, t_us):
    """N-MNIST's binary format."""
    words = np.asarray(x, object) << 32 | np.asarray(y, object) << 24 | np.asarray(p, object) << 23
    return b"".join(int(word | int(t)).to_bytes(5, "big") for word, t in zip(words, t_us, strict=True))


@pytest.fixture
def tree(tmp_path):
    """A folder of three samples of two classes, and its content by name."""
    content = {
        "Train/3/00002.bin": encoded([0, 33], [1, 33], [0, 1], [0, 2**23 - 1]),
        "Train/3/00010.bin": encoded([5, 1, 5, 6, 2, 7], [0, 240, 0, 1, 240, 2], [1, 0, 1, 0, 1, 1],
                                     [8000, 0, 10, 8191, 5, 20]),
        "Train/0/00100.bin": encoded([7], [8], [1], [1234]),
    }  # fmt: skip
    for name, data in content.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "tree", content


def archived(path, content, kind):
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {**content, "__MACOSX/Train/3/00002.bin": b"litter", "Train/3/._0.bin": b"x"}.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w") as archive:
            for name, data in content.items():
                item = tarfile.TarInfo(f"./{name}")
                item.size = len(data)
                archive.addfile(item, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["folder", "folder of classes", "zip", "tar"])
def test_nmnist_trees(tree, tmp_path, kind):
    folder, content = tree
    path = {"folder": folder, "folder of classes": folder / "Train"}.get(kind)
    data = open_dataset(path or archived(tmp_path / f"train.{kind}", content, kind), dt=1.0)
    assert data.labels.tolist() == [0, 3, 3]
    assert (data.class_names, data.grid) == (("0", "1", "2", "3"), (2, 34, 34))
    for copy in (data, pickle.loads(pickle.dumps(data))):
        shape = (-1, 2, 34, 34)
        assert np.argwhere(copy.batch([0]).x.to_dense().reshape(shape)).tolist() == [[1, 1, 8, 7]]
        assert np.argwhere(copy.batch([1]).x.to_dense().reshape(shape)).tolist() == [[0, 0, 1, 0], [8388, 1, 33, 33]]
        # the clock overflows at the second and the fifth event, 2**13 us each: 8000, 8202, 16383, 16404 us
        events = [[8, 1, 0, 5], [8, 1, 0, 5], [16, 0, 1, 6], [16, 1, 2, 7]]
        x = copy.batch([2]).x.to_dense().reshape(shape)
        assert np.repeat(np.argwhere(x), x[x > 0], axis=0).tolist() == events


def test_classes_are_in_order_of_their_numbers(tmp_path):
    for label in (10, 9, 0):
        (tmp_path / str(label)).mkdir()
        (tmp_path / str(label) / "1.bin").write_bytes(bytes(5))
    assert open_dataset(tmp_path).labels.tolist() == [0, 9, 10]


def test_nmnist_trees_that_do_not_fit(tree, tmp_path):
    folder, _ = tree
    (folder / "Test/1").mkdir(parents=True)
    (folder / "Test/1/1.bin").write_bytes(bytes(5))
    (folder / "bare/2").mkdir(parents=True)
    for path, words in [(folder, ["Test, Train", "open one of them"]), (folder / "bare", ["CLASS/NAME.bin", "none"])]:
        with pytest.raises(FileError) as caught:
            open_dataset(path)
        assert all(word in str(caught.value) for word in [str(path), *words])
    for content, words in [
        (bytes(7), ["5 bytes an event", "7 bytes"]),
        (b"", ["0 bytes"]),
        (encoded([40], [0], [1], [0]), ["x from 0 to 33", "found 40"]),
    ]:
        (folder / "Train/3/00010.bin").write_bytes(content)
        data = open_dataset(folder / "Train")
        with pytest.raises(FileError) as caught:
            data.batch([2])
        assert all(word in str(caught.value) for word in [str(folder), "sample 2 (3/00010.bin)", *words])
    (folder / "Train/3/00010.bin").unlink()
    with pytest.raises(FileError, match=r"3/00010\.bin.*No such file"):
        data.batch([2])
    path = tmp_path / "broken.zip"
    path.write_bytes(archived(tmp_path / "whole.zip", {"0/1.bin": bytes(5)}, "zip").read_bytes()[:60])
    with pytest.raises(FileError, match="truncated or damaged"):
        open_dataset(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("shd_train.h5", b"")
    with pytest.raises(FileError, match="unpack it first"):
        open_dataset(path)


def test_original_nmnist_files_equal_the_npz(shared_data, tmp_path):
    for name, label in (("60001", 7), ("60002", 2)):
        path = tmp_path / str(label) / f"{name}.bin"
        path.parent.mkdir()
        path.write_bytes((shared_data / "nmnist" / "original" / f"{name}.bs2").read_bytes())
    npz = open_dataset(shared_data / "nmnist" / "test100.npz", dt=0.1)
    assert_same_events(open_dataset(tmp_path, dt=0.1).batch([1, 0]).x, npz.batch([0, 1]).x)


def test_statistics():
    data = labelled(dt=2.0, steps=13)
    times, _ = trains()
    facts = data.statistics()
    bins = [np.floor(t / 2) for t in times]
    lengths = np.array([b.max(initial=0) + 1 for b in bins])
    assert facts["events"]["mean"] == np.mean([len(t) for t in times])
    assert facts["duration_ms"]["max"] == lengths.max() * 2
    assert facts["classes"] == {"0": 3, "1": 2, "2": 2}
    assert facts["groups"] == {"0": 4, "1": 3}
    assert (facts["silent"], facts["channels"]) == (1, 11)
    assert (facts["cut"], facts["padded"]) == ((lengths > 13).sum(), (lengths < 13).sum())
    assert facts["cut_events"] == sum((b >= 13).sum() for b in bins) > 0
    assert "cut" not in labelled().statistics()
    json.dumps(facts)
    text = data.summary()
    for part in ("7 samples, 11 channels, dt = 2 ms", "0 (3), 1 (2), 2 (2)", "groups: 0 (4), 1 (3)", "1 silent",
                 "fixed at 13 steps (26 ms)"):  # fmt: skip
        assert part in text


def classes(counts, groups=None):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    n = len(labels)
    return from_lists([[]] * n, [[]] * n, labels, channels=1, groups=None if groups is None else np.arange(n) % groups)


def places(data, part):
    """Where the samples of a subset are in the data set it is of."""
    return part._places.tolist()


@pytest.mark.parametrize(("counts", "fraction", "wanted"), [
    ([20, 20, 20], 0.25, [5, 5, 5]),
    ([10, 10, 10], 0.25, None),
    ([3, 50, 1], 0.1, None),
    ([1, 1], 0.01, None),
    ([13, 17, 10], 0.25, [3, 4, 3]),
    ([5], 0.99, [4]),
])  # fmt: skip
def test_split_by_sample_is_stratified(counts, fraction, wanted):
    data = classes(counts)
    kept, held_out = split(data, fraction, seed=3)
    assert sorted(places(data, kept) + places(data, held_out)) == list(range(len(data)))
    taken = np.bincount(held_out.labels, minlength=len(counts))
    assert len(held_out) == min(max(round(fraction * len(data)), 1), len(data) - 1)
    assert (np.abs(taken - fraction * np.array(counts)) <= 1).all()
    assert wanted is None or taken.tolist() == wanted
    assert places(data, split(data, fraction, seed=3)[1]) == places(data, held_out)


def test_splits_depend_on_the_seed():
    data = classes([30, 30], groups=10)
    for by in ("sample", "group"):
        assert len({tuple(places(data, split(data, 0.3, by=by, seed=seed)[1])) for seed in range(5)}) == 5


def test_split_by_group_keeps_groups_whole():
    data = classes([30, 30], groups=5)
    kept, held_out = split(data, 0.4, by="group", seed=1)
    assert len(set(held_out.groups)) == 2
    assert not set(kept.groups) & set(held_out.groups)
    assert len(kept) + len(held_out) == 60
    assert len(set(split(data, 0.01, by="group")[1].groups)) == 1
    assert len(set(split(data, 0.99, by="group")[0].groups)) == 1


@pytest.mark.parametrize(("k", "by"), [(None, "group"), (2, "group"), (3, "group"), (4, "sample"), (7, "sample")])
def test_folds_hold_every_sample_out_once(k, by):
    data = classes([9, 13, 4], groups=5)
    parts = folds(data, k, by=by, seed=2)
    assert len(parts) == (k or 5)
    assert sorted(place for _, held_out in parts for place in places(data, held_out)) == list(range(26))
    for kept, held_out in parts:
        assert sorted(places(data, kept) + places(data, held_out)) == list(range(26))
        if by == "group":
            assert not set(kept.groups) & set(held_out.groups)
        else:
            share = np.bincount(held_out.labels, minlength=3) - np.array([9, 13, 4]) / k
            assert (np.abs(share) < 1).all()
    sizes = [len(held_out) for _, held_out in parts]
    assert by == "group" or max(sizes) - min(sizes) <= 1
    if k is None:
        assert [set(held_out.groups) for _, held_out in parts] == [{0}, {1}, {2}, {3}, {4}]


SPLITS = {
    "fraction": (lambda: split(classes([4]), 1.0), ["fraction:", "below 1", "1.0"]),
    "by": (lambda: split(classes([4]), 0.5, by="speaker"), ["by:", "'sample', 'group'", "'speaker'"]),
    "no groups": (lambda: split(classes([4]), 0.5, by="group"), ["by:", "names no groups"]),
    "one sample": (lambda: split(classes([1]), 0.5), ["at least 2 samples", "found 1"]),
    "one group": (lambda: folds(classes([4], groups=1)), ["at least 2 groups", "found 1"]),
    "too many folds": (lambda: folds(classes([4], groups=3), 4), ["at least 4 groups", "found 3"]),
    "one fold": (lambda: folds(classes([4], groups=3), 1), ["k:", "at least 2"]),
    "how many": (lambda: folds(classes([4]), by="sample"), ["k:", "by='sample'", "None"]),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits_that_cannot_be(case):
    call, words = SPLITS[case]
    assert_refused(call, words)
