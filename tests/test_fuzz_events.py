"""Data sets that were changed at random: each is read whole, or refused in one line that names it, in bounded time.

Every kind the readers take: `.npz` files stored and deflated, HDF5 files, N-MNIST's folders and archives. Bytes and
headers are changed; files are put together again with other members, dtypes, ranks and values, so that what lies
behind checksums is reached. Seeds are fixed; every batch of cases runs in a process of bounded memory.
"""

from __future__ import annotations

import io
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from blocksim.data import Augmentation, open_dataset
from blocksim.errors import BlocksimError, BlocksimWarning

MEMORY = 4 * 2**30
SECONDS = 20
CASES = 100  # of each kind

TIMES, UNITS = [[1.0, 40.5, 130.0, 260.0], [], [30.0, 250.0]], [[0, 3, 1, 3], [], [2, 0]]
LABELS = [1, 0, 1]
WRONG = [
    np.zeros(0), np.zeros(6), np.zeros((6, 2)), np.array(3.0), np.array("text"), np.array([b"a", b"b"]),
    np.arange(6) - 3,
    np.arange(6) * 10**9, np.full(6, 1e300), np.full(6, np.nan), np.full(6, np.inf), np.full(6, -1), np.ones(6, bool),
    np.array([0, 4, 4, 6]), np.array([0, 2**62, 4, 6]), np.array([2**64 - 1] * 6, np.uint64), np.array([10**9, 0, 1]),
    np.array([2**63] * 3, np.uint64), np.zeros(3, np.complex64), np.array(["2020-01-01"] * 3, "M8[s]"),
    np.array([1, 2, 3]),
    np.zeros(3, [("a", float), ("b", int)]), np.array(0), np.array(-1), np.array([3, 3]), np.array([10**6, 10**6]),
    np.array([4294967295] * 2), np.zeros(6, np.float16), np.array([0, 1, 2]), np.arange(7), np.full(6, 1e12),
]  # fmt: skip


def damaged(rng, data):
    """Bytes changed, removed, added."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 10])):
        at, what = rng.randrange(max(len(data), 1)), rng.randrange(5)
        if what == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at : at + 8] = rng.choice([bytes(8), b"\xff" * 8, (2**40).to_bytes(8, "little")])
        elif what == 2:
            del data[at:]
        elif what == 3:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
        elif data:
            data[at] = rng.randrange(256)
    return bytes(data)


def other(rng, array):
    """Another array in the place of one."""
    choice = rng.randrange(6)
    if choice == 0:
        return rng.choice(
            [array[:-1], array[None], np.append(array, array[:1]), array[::-1]] if array.ndim else [array]
        )
    if choice == 1 and array.dtype.kind in "iuf":
        with np.errstate(all="ignore"):
            return array.astype(rng.choice([">f4", "<f2", ">i8", "u1", "<f8", "?", "c8", ">u2", "S4", "U3"]))
    if choice == 2 and array.size and array.dtype.kind in "iuf":
        changed = array.astype(float if array.dtype.kind == "f" else np.int64)
        changed.flat[rng.randrange(array.size)] = rng.choice([-1, 10**9, 2**62, 5])
        return changed
    return rng.choice(WRONG)


# ------------------------------------------------------------------------------------------------------- kinds of data


def spikes():
    return {
        "times": np.concatenate(TIMES), "units": np.concatenate(UNITS).astype(int), "offsets": np.array([0, 4, 4, 6]),
        "labels": np.array(LABELS), "channels": np.array(4), "class_names": np.array(["a", "b"]),
        "groups": np.array([2, 0, 2]), "group_names": np.array(["x", "y", "z"]),
    }  # fmt: skip


def pixels():
    return {
        "x": np.array([1, 2, 3, 30, 5, 6]), "y": np.array([0, 9, 9, 9, 9, 9]), "p": np.array([0, 1, 0, 1, 0, 1]),
        "t_us": np.array([0, 9000, 90_000, 260_000, 10_000, 250_000]), "offsets": np.array([0, 4, 4, 6]),
        "labels": np.array(LABELS), "sensor": np.array([34, 34]),
    }  # fmt: skip


def archive_of(make, save):
    def write(rng, path):
        arrays = make()
        if rng is not None and rng.random() < 0.7:
            name = rng.choice(list(arrays))
            arrays[name] = other(rng, arrays[name])
            if rng.random() < 0.2:
                del arrays[rng.choice(list(arrays))]
        with path.open("wb") as file:
            save(file, **arrays)
        if rng is not None and rng.random() < 0.4:
            path.write_bytes(damaged(rng, path.read_bytes()))

    return write


def hdf5(rng, path):
    arrays = {
        "labels": np.array(LABELS, np.uint16), "extra/speaker": np.array([1, 0, 1]),
        "extra/keys": np.array([b"a", b"\xe9"]), "extra/meta_info/speaker_names": np.array([b"x", b"y"]),
    }  # fmt: skip
    lists = {"spikes/times": "<f4", "spikes/units": "<u2"}
    rows, gone, instead = len(LABELS), None, {}
    if rng is not None:
        what = rng.randrange(6)
        if what == 0:
            name = rng.choice(list(arrays))
            arrays[name] = other(rng, arrays[name])
        elif what == 1:
            lists[rng.choice(list(lists))] = rng.choice([">f4", ">u2", "<f8", "<f2", "<i8", "S3"])
        elif what == 2:
            rows = rng.choice([0, 1, 4, 5, 10**9, 10**12])
        elif what == 3:
            gone = rng.choice([*arrays, *lists])
        elif what == 4:
            instead[rng.choice([*arrays, *lists])] = rng.choice(
                ["group", "link", "scalar", "empty", "vast", "texts", "soft"]
            )
    with h5py.File(path, "w") as file:
        for name, kind in lists.items():
            if name in (gone, *instead):
                continue
            values = TIMES if name.endswith("times") else UNITS
            scale = 1000 if name.endswith("times") else 1
            kind = h5py.string_dtype() if kind.startswith("S") else h5py.vlen_dtype(np.dtype(kind))
            made = file.create_dataset(name, (rows,), dtype=kind, chunks=(1,) if rows > 10**6 else None)
            for sample in range(min(rows, 3)):
                if kind != h5py.string_dtype():
                    made[sample] = np.array(values[sample], h5py.check_vlen_dtype(kind)) / scale
        for name, array in arrays.items():
            if name not in (gone, *instead):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if array.dtype.kind not in "UM":
                        file[name] = array
                    else:
                        file[name] = [str(array)] * 3
        for name, what in instead.items():
            if what == "group":
                file.create_group(name)
            elif what == "link":
                file[name] = h5py.ExternalLink("nowhere.h5", "/x")
            elif what == "soft":
                file[name] = h5py.SoftLink(f"/{name}")
            elif what == "scalar":
                file[name] = 3.5
            elif what == "empty":
                file[name] = h5py.Empty("f8")
            elif what == "vast":
                file.create_dataset(name, (2**40,), dtype="u8", chunks=(2**20,))
            else:
                file[name] = ["a", "b", "c"]
    if rng is not None and rng.random() < 0.5:
        path.write_bytes(damaged(rng, path.read_bytes()))


def events_of(times, units):
    content = bytearray()
    for t, unit in zip(times, units, strict=True):
        stamp = int(t * 1000) | 1 << 23
        content += bytes([unit, 5]) + stamp.to_bytes(3, "big")
    return bytes(content)


def members(rng):
    files = {f"Train/{label}/{k}.bin": events_of(TIMES[k], UNITS[k]) or bytes(5) for k, label in enumerate(LABELS)}
    if rng is not None:
        name = rng.choice(list(files))
        what = rng.randrange(5)
        if what == 0:
            files[rng.choice(["1/5.bin", "Train/x/1.bin", "Train/99999999999999999999/1.bin", "Train/200000/1.bin",
                              "Train/1/é.bin", "../1/1.bin", "/1/1.bin", "Train/٣/1.bin"])] = files[name]  # fmt: skip
        elif what == 1:
            del files[name]
        else:
            files[name] = rng.choice([b"", bytes(7), damaged(rng, files[name] * 9), b"\xff" * 50])
    return files


def folder(rng, path):
    path.mkdir()
    for name, content in members(rng).items():
        place = path / "tree" / name.replace("..", "up").lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def zipped(rng, path):
    with zipfile.ZipFile(
        path, "w", zipfile.ZIP_DEFLATED if rng and rng.random() < 0.5 else zipfile.ZIP_STORED
    ) as archive:
        for name, content in members(rng).items():
            archive.writestr(name, content)
    if rng is not None and rng.random() < 0.6:
        path.write_bytes(damaged(rng, path.read_bytes()))


def tarred(rng, path):
    with tarfile.open(path, "w") as archive:
        for name, content in members(rng).items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    if rng is not None and rng.random() < 0.6:
        path.write_bytes(damaged(rng, path.read_bytes()))


KINDS = {
    "spikes, stored": ("d.npz", archive_of(spikes, np.savez)),
    "spikes, deflated": ("d.npz", archive_of(spikes, np.savez_compressed)),
    "pixels, stored": ("d.npz", archive_of(pixels, np.savez)),
    "HDF5": ("d.h5", hdf5),
    "N-MNIST, folder": ("d", folder),
    "N-MNIST, zip": ("d.zip", zipped),
    "N-MNIST, tar": ("d.tar", tarred),
}


def read(path):
    """All that is done with a data set."""
    data = open_dataset(path)
    data.batch(np.arange(len(data)))
    data.batch([0], augmentation=Augmentation(blend=1.0, stretch=0.2, channel_shift=2, mask_channels=2, equalise=1.0))
    data.summary()


def run_batch(kind, seed, cases):
    """Print what went wrong, a line each."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore", BlocksimWarning)

    def late(number, frame):
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    name, write = KINDS[kind]
    refused = 0
    for case in range(-1, cases):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / name
            write(random.Random(f"{seed} {case}") if case >= 0 else None, path)
            signal.alarm(SECONDS)
            try:
                read(path)
            except BlocksimError as error:
                refused += 1
                # the file, or its folder, is named, but for what is wrong with an argument of ours
                if len(str(error).splitlines()) != 1 or "expected" not in str(error) or place not in str(error):
                    print(f"case {case}: {error!r}")
            except BaseException as error:
                print(f"case {case}: {type(error).__name__}: {str(error)[:300]!r}")
            finally:
                signal.alarm(0)
        if case < 0 and refused:
            print("the data set as it should be was refused")
    if refused < cases // 4:
        print(f"only {refused} of {cases} were refused")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bounds the memory of a process: needs Linux")
@pytest.mark.parametrize("kind", KINDS)
def test_changed_data_sets_are_read_or_refused_in_one_line(kind):
    code = f"from tests.test_fuzz_events import run_batch; run_batch({kind!r}, 0, {CASES})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr
