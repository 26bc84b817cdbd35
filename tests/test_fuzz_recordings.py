"""Recordings that were changed at random: each is read, or refused in one line, in bounded time and memory.

Bytes are flipped, runs cut out or put in, files cut short, in files of every kind that is read. Every batch runs in a
process of bounded memory. Seeds are fixed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from blocksim.ephys import open_recording
from blocksim.errors import BlocksimError

from .test_formats import CURRENT, RATE, VOLTAGE, wave, write_allen, write_nwb

KINDS = ("npz", "npy", "csv", "abf", "ibw", "nwb", "allen")
CASES = 120  # a kind
MEMORY = 3 * 2**30
SECONDS = 20


def written(kind, folder):
    """A file of three sweeps, or of one where the format has one a file; and how it is opened."""
    path = folder / f"cell.{'nwb' if kind == 'allen' else kind}"
    options = {}
    if kind == "npz":
        np.savez(path, current_nA=CURRENT / 1000, voltage_mV=VOLTAGE, dt_ms=np.float32(0.1), labels=["a", "b", "c"])
    elif kind == "npy":
        np.save(path, CURRENT)
        np.save(folder / "v.npy", VOLTAGE)
        options = {"voltage": folder / "v.npy", "sampling_rate": RATE}
    elif kind == "csv":
        lines = (f"{k / 10:.1f},{i:.4g},{v:.4g},{s}" for s in range(2)
                 for k, (i, v) in enumerate(zip(CURRENT[s][:200], VOLTAGE[s][:200], strict=True)))  # fmt: skip
        path.write_text("time_ms,current_pA,voltage_mV,sweep\n" + "\n".join(lines))
    elif kind == "abf":
        with np.printoptions():
            writer = pytest.importorskip("pyabf.abfWriter")
        writer.writeABF1(VOLTAGE, str(path), RATE, units="mV")
        options = {"current_channel": 0, "current_unit": "pA", "plausible": False}
    elif kind == "ibw":
        pytest.importorskip("igor2")
        path.write_bytes(wave(CURRENT[0], unit=b"pA"))
        (folder / "v.ibw").write_bytes(wave(VOLTAGE[0], unit=b"mV"))
        options = {"voltage": folder / "v.ibw"}
    elif kind == "nwb":
        write_nwb(path, table=True)
    else:
        write_allen(path)
    return path, options


def changed(rng, data):
    """The bytes, flipped, cut, moved or mixed with others; most often near the beginning, where headers are."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place = int(len(data) * rng.random() ** (4 if rng.random() < 0.7 else 1)) if data else 0
        run = int(rng.integers(1, 40))
        change = rng.integers(6)
        if change == 0:
            data[place : place + 1] = bytes([int(rng.integers(256))])
        elif change == 1:
            data[place : place + run] = rng.bytes(run)
        elif change == 2:
            del data[place : place + run]
        elif change == 3:
            data[place:place] = rng.bytes(run)
        elif change == 4:
            del data[place:]
        else:
            data[place : place + 8] = rng.choice([0, 2**31, 2**63 - 1, 2**64 - 1, 10**6]).astype(np.uint64).tobytes()
    return bytes(data)


def run_batch(kind, seed, cases):
    """What is wrong with the answers to `cases` files, as lines."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    with tempfile.TemporaryDirectory() as folder:
        path, options = written(kind, Path(folder))
        whole = path.read_bytes()
        open_recording(path, **options)
        read = 0
        for case in range(cases):
            path.write_bytes(changed(rng, whole))
            began = time.perf_counter()
            try:
                open_recording(path, **options)
                read += 1
            except BlocksimError as error:
                if "\n" in str(error):
                    print(f"{kind} {case}: several lines: {error}")
            except Exception as error:
                print(f"{kind} {case}: {type(error).__name__}: {error}")
            if time.perf_counter() - began > SECONDS:
                print(f"{kind} {case}: {time.perf_counter() - began:.0f} s")
    if read == cases:
        print(f"{kind}: no file was refused")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bounds the memory of a process: needs Linux")
@pytest.mark.parametrize("kind", KINDS)
def test_changed_recordings_are_read_or_refused_in_one_line(kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written(kind, tmp_path)  # skips where a library is not there
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
        "from tests.test_fuzz_recordings import run_batch\n"
        f"run_batch({kind!r}, 1, {CASES})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stdout, done.stdout
