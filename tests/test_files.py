"""Files: what is read is whole and numeric, what is written is whole or absent."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest

import blocksim
from blocksim._array_io import check_folder, check_output, open_input, write_npz, written
from blocksim._npy import Stored, open_npy
from blocksim.data import open_dataset
from blocksim.models import load_model


@pytest.mark.parametrize(("shape", "whole"), [((7,), (1, 7, 1)), ((7, 3), (1, 7, 3)), ((2, 7, 3), (2, 7, 3))])
@pytest.mark.parametrize("form", ["npy", "stored", "compressed", "fortran"])
def test_arrays_are_read_in_stretches(tmp_path, shape, whole, form):
    x = np.random.default_rng(0).normal(size=shape)
    path = tmp_path / ("x.npy" if form == "npy" else "x.npz")
    if form == "npy":
        np.save(path, x)
    elif form == "fortran":
        np.savez(path, x=np.asfortranarray(x), other=np.ones(3))
    else:
        (np.savez if form == "stored" else np.savez_compressed)(path, other=np.ones(3), x=x)
    file = open_input(path, None if form == "npy" else "x")
    assert file.shape == whole
    assert not file.counts
    np.testing.assert_array_equal(file.read(2, 6), x.reshape(whole)[:, 2:6])


def test_long_arrays_stay_in_the_file_and_are_not_mapped(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((10, 3)))
    np.save(tmp_path / "x.npy", np.ones((10, 3)))
    for name in ("x.npz", "x.npy"):
        assert isinstance(open_input(tmp_path / name)._data, Stored), name


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["?", "<i2", ">f4", "<f8", "<U3", "<M8[ms]"])
def test_every_block_of_an_array_is_read_as_numpy_slices_it(tmp_path, order, dtype):
    x = np.asarray(np.arange(4 * 5 * 3).reshape(4, 5, 3).astype(dtype), order=order)
    np.save(tmp_path / "x.npy", x)
    stored = open_npy(tmp_path / "x.npy")
    assert (stored.shape, stored.dtype, stored.ndim, stored.size, len(stored)) == (x.shape, x.dtype, 3, 60, 4)
    cuts = [slice(None), slice(1, 3), slice(2, 2), slice(-1, None), slice(0, 99)]
    for first, second, third in itertools.product(cuts, cuts, cuts):
        np.testing.assert_array_equal(stored[first, second, third], x[first, second, third])
    np.testing.assert_array_equal(stored[1:], x[1:])
    np.testing.assert_array_equal(np.asarray(stored), x)


@pytest.mark.parametrize("change", ["shrinks", "is written to", "is removed"])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, name, change):
    path = tmp_path / name
    (np.save if name == "x.npy" else np.savez)(path, np.ones((2000, 50)))
    file = open_input(path)
    if change == "shrinks":
        os.truncate(path, 5000)
    elif change == "is written to":
        with path.open("r+b") as opened:
            opened.seek(4000)
            opened.write(b"1")
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    with pytest.raises(blocksim.FileError, match=name):
        file.read(1000, 2000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_a_device_is_neither_read_nor_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    for name, kind in (("pipe.npy", "a pipe"), ("pipe.npz", "a pipe"), ("zero.npz", "a device")):
        with pytest.raises(blocksim.FileError, match=f"expected a regular file; found {kind}"):
            open_input(tmp_path / name)
    for name, kind in (("pipe.npz", "a pipe"), ("zero.npz", "a device")):
        with pytest.raises(blocksim.FileError, match=f"found {kind}"):
            check_output(tmp_path / name, (".npz",), overwrite=True)
        with pytest.raises(blocksim.FileError, match=f"found {kind}"):
            write_npz(tmp_path / name, {})
    with pytest.raises(blocksim.FileError, match="found a pipe"):
        load_model(tmp_path / "pipe.npz")
    with pytest.raises(blocksim.FileError, match="found a pipe"):
        open_dataset(tmp_path / "pipe.npz")


def test_a_mapped_array_is_verified_and_no_other_is_read(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.ones((10, 3)), other=np.full(9, 2.0))
    data = bytearray(path.read_bytes())
    data[data.index(np.full(9, 2.0).tobytes())] ^= 1
    path.write_bytes(data)
    assert open_input(path, "x").read(0, 10).all()
    with pytest.raises(blocksim.FileError, match="damaged"):
        open_input(path, "other")


def test_sweeps(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))
    assert open_input(tmp_path / "x.npy", sweeps=True).shape == (2, 3, 1)


@pytest.mark.parametrize(
    ("values", "counts"),
    [([0, 1, 2], True), ([0.0, 1.0], True), ([True, False], True), ([0.5, 1], False), ([-1, 1], False)],
)
def test_spike_counts_are_told_from_real_values(tmp_path, values, counts):
    np.save(tmp_path / "x.npy", np.array(values))
    assert open_input(tmp_path / "x.npy").counts is counts


def test_counts_that_would_be_more_events_than_values_are_real_values(tmp_path):
    x = np.random.default_rng(0).integers(500, 1500, (2000, 1)).astype("i2")
    for name, values in (("adc", x), ("floats", x.astype("f8")), ("beyond integers", np.full((3, 1), 1e300))):
        np.save(tmp_path / f"{name}.npy", values)
        assert not open_input(tmp_path / f"{name}.npy").counts
    np.save(tmp_path / "here.npy", np.where(np.arange(9_000_000) < 8_500_000, 0, 200).astype("u1"))
    assert not open_input(tmp_path / "here.npy").counts  # few in all, many in one stretch


def test_events(tmp_path):
    x = (np.random.default_rng(0).random((2, 9, 4)) < 0.3).astype(np.uint8)
    events = blocksim.Events.from_dense(x)
    np.savez(tmp_path / "x.npz", indptr=events.indptr, indices=events.indices, shape=events.shape)
    file = open_input(tmp_path / "x.npz")
    assert file.counts
    np.testing.assert_array_equal(file.read(3, 8), x[:, 3:8])
    np.testing.assert_array_equal(file.read_events(3, 8).to_dense(), x[:, 3:8])


def damaged(tmp_path, name):
    """A bad file, and what the message must say."""
    path = tmp_path / name
    if name == "missing.npy":
        return path, "No such file"
    if name == "text.npy":
        path.write_text("1 2 3")
        return path, "begins with"
    if name == "empty.npz":
        path.touch()
        return path, "an empty file"
    if name == "x.csv":
        path.write_text("1,2")
        return path, ".npy or .npz"
    if name == "truncated.npy":
        np.save(path, np.ones((100, 3)))
        path.write_bytes(path.read_bytes()[:-100])
        return path, "truncated"
    if name == "header.npy":
        np.save(path, np.ones(3))
        path.write_bytes(path.read_bytes()[:20])
        return path, "truncated"
    if name == "truncated.npz":
        np.savez(path, x=np.ones((100, 3)))
        path.write_bytes(path.read_bytes()[:-100])
        return path, "truncated"
    if name == "flipped.npz":
        np.savez_compressed(path, x=np.arange(1000.0))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        return path, "damaged"
    if name == "pickled.npy":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
        return path, "pickled"
    if name == "complex.npy":
        np.save(path, np.ones(3) + 1j)
        return path, "complex128"
    if name == "scalar.npy":
        np.save(path, 3.0)
        return path, "found ()"
    if name == "rank4.npy":
        np.save(path, np.ones((1, 1, 1, 1)))
        return path, "(1, 1, 1, 1)"
    if name == "two.npz":
        np.savez(path, first=np.ones(3), second=np.ones(3))
        return path, "first, second"
    assert name == "nan.npy"
    np.save(path, np.array([[0.0], [np.nan]]))
    return path, "finite"


@pytest.mark.parametrize(
    "name",
    ["missing.npy", "text.npy", "empty.npz", "x.csv", "truncated.npy", "header.npy", "truncated.npz", "flipped.npz",
     "pickled.npy", "complex.npy", "scalar.npy", "rank4.npy", "two.npz", "nan.npy"],
)  # fmt: skip
def test_bad_files_are_refused_by_name(tmp_path, name):
    path, part = damaged(tmp_path, name)
    with pytest.raises(blocksim.FileError) as caught:
        open_input(path)
    assert name in str(caught.value)
    assert "expected" in str(caught.value)
    assert part in str(caught.value)


def test_missing_key(tmp_path):
    np.savez(tmp_path / "x.npz", voltage=np.ones(3))
    with pytest.raises(blocksim.FileError, match=r"'current'.*voltage"):
        open_input(tmp_path / "x.npz", "current")


def test_output_is_checked(tmp_path):
    (tmp_path / "there.npz").touch()
    (tmp_path / "folder.npz").mkdir()
    for name, part in (("there.npz", "overwrite=True"), ("folder.npz", "a folder"), ("x.txt", ".npz"),
                       ("none/x.npz", "create it first"), ("there.npz/x.npz", "a file")):  # fmt: skip
        with pytest.raises(blocksim.FileError, match=part):
            check_output(tmp_path / name, (".npz",), overwrite=False)
    check_output(tmp_path / "there.npz", (".npz",), overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["folder.npz", "there.npz"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody can write to: Linux's /proc")
def test_folder_that_cannot_be_written_to():
    with pytest.raises(blocksim.FileError, match="written to"):
        check_folder("/proc/self")


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "x.npz"
    write_npz(target, {"x": np.arange(3)})

    def fail():
        with written(target) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path) == ["x.npz"]
    with np.load(target) as data:
        np.testing.assert_array_equal(data["x"], np.arange(3))


def test_npz_opens_in_numpy(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array("text"), "c": np.zeros((0, 2)), "d": np.ones(4, bool)}
    write_npz(tmp_path / "x.npz", arrays)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as data:
        for name, value in arrays.items():
            np.testing.assert_array_equal(data[name], value)
            assert data[name].dtype == value.dtype
