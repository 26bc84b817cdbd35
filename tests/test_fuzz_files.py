"""Files that were changed at random: each is read, or refused in one line that names it, in bounded time and memory.

Bytes, headers, directories of archives and descriptions are changed; archives are put together again with the right
checksums, so that what lies behind these is reached. Every batch runs in a process of bounded memory. Seeds are fixed.
"""

from __future__ import annotations

import io
import json
import random
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import click.testing
import numpy as np
import pytest

import blocksim
from blocksim._array_io import open_input
from blocksim.cli import main
from blocksim.data import _nmnist, open_dataset, write_events
from blocksim.errors import BlocksimError
from blocksim.models import load_model, save_model
from blocksim.optimisers import OptimiserState
from blocksim.training._state import Best, Totals, TrainingState, load_state, save_state

from .training_tasks import network

MEMORY = 3 * 2**30
SECONDS = 20
CASES = 400  # a kind

SHAPES = ["()", "(0,)", "(3,)", "(-1,)", "(True,)", "(3.0,)", "(2**70,)", f"({10**28},)", "(1,)*40", f"(0, {2**62})",
          f"({2**40}, 1)", "'x'", "[3]",
          "None", "(3L,)", "(3,", "(" * 900, "((3,),)", "(1, 1, 1, 1)", "(10000000,)"]  # fmt: skip
DTYPES = ["'<f8'", "'>f4'", "'|O'", "'<U0'", "'|S0'", "'<U1'", "'|V8'", "'<f16'", "'<c16'", "'|b1'", "'<M8[ns]'",
          "[('a', '<f8')]", "[('a', '|O')]", "('<f8', (3,))", "'(2,)<f8'", "''", "None", "'nonsense'", "8", "'<i8'",
          "'|u1'", "'<U999999999'", "[]", "{}"]  # fmt: skip
ORDERS = ["True", "1", "None", "'no'"]
VALUES = [None, True, -1, 0, 2, 1.5, 10**30, "", "x", "LIF", "ALIF", "leaky", "count", "mean", [], {}, [[]], {"a": 1},
          float("nan"), float("inf"), -(2**63), "é\n\x00"]  # fmt: skip


def header(text, version=1):
    """A header of an array, of any text."""
    raw = text.encode("utf-8" if version == 3 else "latin-1", "replace")
    width = "<H" if version == 1 else "<I"
    raw += b" " * (-(len(raw) + 7 + struct.calcsize(width)) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(width, min(len(raw), 65535)) + raw


def changed_bytes(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(max(len(data), 1))
        what = rng.randrange(6)
        if what == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1 and data:
            data[at] = rng.choice([0, 255, rng.randrange(256)])
        elif what == 2:
            del data[at:]
        elif what == 3:
            data += bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        elif what == 4:
            data[at:at] = data[at : at + rng.randrange(100)]
        else:
            data[at : at + 8] = struct.pack("<Q", rng.choice([0, 2**31, 2**40, 2**63, 2**64 - 1]))
    return bytes(data)


def changed_array(rng, data):
    """An array's file with another header, or other values."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception:
        return changed_bytes(rng, data)
    what = rng.randrange(5)
    if what == 0:
        return changed_bytes(rng, data)
    if what == 1 and array.dtype.kind == "f" and array.size:
        array = array.astype("f8")
        array.flat[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -1.0, 5e-324])
    elif what == 1:
        choices = [array.astype(dtype) for dtype in ("f4", ">f8", "i8", "c8") if array.dtype.kind in "biuf"]
        array = rng.choice([*choices, np.array("text"), np.zeros(3), np.zeros((0, 2)), np.array([b"x", b"yy"])])
    elif what == 2:
        array = rng.choice([array[None], array.ravel()[:-1], array.T, array[..., None], array.ravel()])
    else:
        fields = {
            "descr": repr(np.lib.format.dtype_to_descr(array.dtype)), "fortran_order": "False",
            "shape": repr(array.shape),
        }  # fmt: skip
        for name, values in rng.sample([("descr", DTYPES), ("shape", SHAPES), ("fortran_order", ORDERS)], 1):
            fields[name] = rng.choice(values)
        text = "{" + "".join(f"'{name}': {value}, " for name, value in fields.items()) + "}"
        if rng.random() < 0.2:
            text = rng.choice([text[:-5], text + "x", "'''" + text, "\\N{x}" + text, text.replace("descr", "d\\q"), ""])
        return header(text, rng.choice([1, 1, 1, 2, 3, 7])) + array.tobytes()
    stored = io.BytesIO()
    np.save(stored, array)
    return stored.getvalue()


def changed_json(rng, value):
    """One part of a JSON value replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        what = rng.random()
        if what < 0.1:
            return {key: item for key, item in value.items() if key != name}
        if what < 0.15:
            return {**value, rng.choice(["new", "", name + "s"]): rng.choice(VALUES)}
        return {**value, name: changed_json(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], changed_json(rng, value[at]), *value[at + 1 :]]
    return rng.choice(VALUES)


def changed_archive(rng, data):
    """An archive with a member changed, and the right checksums; or with a wrong directory."""
    what = rng.randrange(10)
    if what == 0:
        return changed_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    if what == 1:
        del members[name]
    elif what == 2:
        other = rng.choice(["x", "meta.npy", "a/b.npy", "../up.npy", "layers.9.weights.npy", "é\n.npy", name[:-4]])
        members[other] = members.pop(name) if rng.random() < 0.5 else members[name]
    elif what == 3:
        members[name] = rng.choice([b"", b"text", b"\x93NUMPY", b"\x80\x04N.", members[name][:9]])
    elif what in (4, 5, 6) and "meta.npy" in members:
        meta = json.loads(str(np.load(io.BytesIO(members["meta.npy"]))))
        text = json.dumps(changed_json(rng, meta))
        if rng.random() < 0.05:
            text = rng.choice(["[" * 100_000, text[:-1], '{"a":' * 50_000, "null", "1e999"])
        stored = io.BytesIO()
        np.save(stored, np.array(text))
        members["meta.npy"] = stored.getvalue()
    else:
        members[name] = changed_array(rng, members[name])
    packed = io.BytesIO()
    kind = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", kind) as archive:
        warnings.simplefilter("ignore")
        for member, content in members.items():
            archive.writestr(member, content)
        if rng.random() < 0.05:
            archive.writestr(name, b"a second one")
    data = bytearray(packed.getvalue())
    if rng.random() < 0.2 and members:  # the directory: flags, compression, sizes and offsets
        at = data.rindex(b"PK\x01\x02")
        field, width = rng.choice([(8, 2), (10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)])
        wrong = rng.choice([0, 1, 2**15, 2**31 - 1, 2**32 - 1]) % 256**width
        data[at + field : at + field + width] = wrong.to_bytes(width, "little")
    return bytes(data)


def make_model(path):
    save_model(path, network(), {"dt": 2.0, "data": {"dt": 2.0, "pool": 1}, "classes": ["a", "b"]})


def make_checkpoint(path):
    net = network()
    free = {name: array for name, array in net.parameters().items() if name.endswith("weights")}
    state = TrainingState(
        1, 0, free, OptimiserState(3, {"first": free, "second": free}), Totals(), Best(1, (0.5, -1.0), free),
        ({"epoch": 1, "loss": 0.5, "rate_0": 3.0, "rate_1": 2.0},),
    )  # fmt: skip
    save_state(path, net, state, {}, {"training": {"epochs": 3}})


def make_data(path):
    write_events(path, [[0.5, 2.0], [1.0], [3.0]], [[0, 1], [2], [1]], [0, 1, 0], channels=3, groups=[0, 1, 1])


def simulate(path):
    """The command line, as it is: without a traceback."""
    result = click.testing.CliRunner().invoke(
        main, ["simulate", str(path), "-o", str(path.parent / "out.npz"), "--overwrite", "--backend", "numpy"]
    )
    assert result.exit_code in (0, 2), (result.exit_code, result.exception)
    if result.exit_code:
        raise BlocksimError(result.stderr.removesuffix("\n").replace(str(path.parent), ""))


def read_data(path):
    open_dataset(path)


KINDS = {
    "model": ("m.npz", make_model, changed_archive, load_model),
    "checkpoint": ("c.npz", make_checkpoint, changed_archive, load_state),
    "array": ("x.npy", lambda path: np.save(path, np.linspace(0, 1, 400).reshape(2, 100, 2)), changed_array, simulate),
    "arrays": ("x.npz", lambda path: np.savez(path, x=np.linspace(0, 1, 300)), changed_archive, simulate),
    "events": (
        "e.npz",
        lambda path: np.savez(path, indptr=[0, 1, 3, 3], indices=[0, 1, 2], shape=[1, 3, 4]),
        changed_archive,
        open_input,
    ),
    "data set": ("d.npz", make_data, changed_archive, read_data),
}


def run_batch(kind, seed, cases):
    """Print what went wrong, a line each."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def late(number, frame):
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    name, make, change, read = KINDS[kind]
    rng = random.Random(seed)
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        make(path)
        whole = path.read_bytes()
        read(path)
        for case in range(cases):
            data = change(rng, whole)
            path.write_bytes(data)
            signal.alarm(SECONDS)
            try:
                read(path)
            except BlocksimError as error:
                refused += 1
                if len(str(error).splitlines()) != 1 or "expected" not in str(error):
                    print(f"case {case}: {error!r}")
            except BaseException as error:
                print(f"case {case}: {type(error).__name__}: {str(error)[:300]!r}")
            finally:
                signal.alarm(0)
            left = {entry.name for entry in Path(folder).iterdir()} - {name, "out.npz"}
            if left:
                print(f"case {case}: left {left}")
    if refused < cases // 3:
        print(f"only {refused} of {cases} were refused")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bounds the memory of a process: needs Linux")
@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_are_read_or_refused_in_one_line(kind, seed):
    code = f"from tests.test_fuzz_files import run_batch; run_batch({kind!r}, {seed}, {CASES})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    """A member that unpacks to far more than the file; the directory that lies about it; many members that add up."""
    read = []
    monkeypatch.setattr(blocksim._npy, "PLAUSIBLE_BYTES", 2**20)
    extract = zipfile.ZipExtFile._read1
    monkeypatch.setattr(zipfile.ZipExtFile, "_read1", lambda self, n: (read.append(n), extract(self, n))[1])
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros(4 * 2**20, np.uint8))
    for opened in (open_input, load_model):
        with pytest.raises(blocksim.FileError, match="expected at most 200 times"):
            opened(path)
    assert not read
    np.savez_compressed(path, **{f"extra/{k}": np.zeros(2**19, np.uint8) for k in range(9)}, meta=np.array("{}"))
    with pytest.raises(blocksim.FileError, match="another origin"):
        load_model(path)
    make_model(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez_compressed(path, **arrays, **{f"extra/{k}": np.zeros(900_000, np.uint8) for k in range(9)})
    with pytest.raises(blocksim.FileError, match="expected at most 200 times"):
        load_model(path)


def test_a_sample_of_an_archive_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(_nmnist, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "n.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Test/0/1.bin", bytes(1000))
        archive.writestr("Test/1/2.bin", bytes(10_000))
    data = open_dataset(tmp_path / "n.zip")
    data.batch([0])
    with pytest.raises(blocksim.FileError, match=r"10000 bytes in Test/1/2.bin, more than a sample has"):
        data.batch([1])


def test_names_in_bytes_are_texts_and_others_are_refused(tmp_path):
    arrays = {"times": [0.5], "units": [1], "offsets": [0, 1], "labels": [0]}
    np.savez(tmp_path / "d.npz", **arrays, class_names=np.array(["zéro".encode()]))
    assert open_dataset(tmp_path / "d.npz").class_names == ("zéro",)
    np.savez(tmp_path / "d.npz", **arrays, class_names=[3.0])
    with pytest.raises(blocksim.FileError, match="expected class_names to be texts"):
        open_dataset(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", **arrays, channels=[3, 4])
    with pytest.raises(blocksim.FileError, match="expected channels to be one number"):
        open_dataset(tmp_path / "d.npz")


def test_a_small_model_that_claims_terabytes_is_refused(tmp_path):
    path = tmp_path / "m.npz"
    make_model(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["layers.0.weights.npy"] = header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(blocksim.FileError, match=r"'layers.0.weights': expected 8000000000000 bytes of values"):
        load_model(path)
