"""Outputs: at any moment the old file or the new one, and nothing beside it, whatever ends the process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import click.testing
import numpy as np
import pytest

import blocksim
from blocksim import _atomic_io
from blocksim._array_io import check_folder, write_csv, write_json, write_npz, written
from blocksim._atomic_io import Scratch, discard_parts, locked, make_folder, temporary
from blocksim.cli import main

SIMULATE = ["simulate", "x.npy", "-o", "out.npz", "--backend", "numpy", "--dt", "1", "--refractory", "3"]


def names(folder):
    return sorted(os.listdir(folder))


WRITERS = {
    "npz": lambda path, value: write_npz(path, {"x": np.full(5, value), "y": np.array("text")}),
    "json": lambda path, value: write_json(path, {"x": [value] * 5}),
    "csv": lambda path, value: write_csv(path, [{"a": value}] * 5, ["a"]),
}


# a file that is open between two lines is closed by the garbage collector, which says so
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", WRITERS)
def test_interrupted_at_any_line_the_old_file_or_the_new_one_is_there(tmp_path, kind):
    target = tmp_path / f"out.{kind}"
    write = WRITERS[kind]
    write(target, 2)
    new = target.read_bytes()
    write(target, 1)
    old = target.read_bytes()
    interrupted = 0
    for moment in range(10_000):
        left = moment

        def trace(frame, event, argument):
            nonlocal left
            if event == "line" and frame.f_code.co_filename.endswith(("_atomic_io.py", "_array_io.py")):
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            write(target, 2)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(before)
        discard_parts()  # as at the end of the process
        assert names(tmp_path) == [target.name], moment
        assert target.read_bytes() in (old, new), moment
        if left > 0:
            break
        target.write_bytes(old)
    assert interrupted > 20


@pytest.mark.parametrize("name", ["n" * 251 + ".npz", "out.npz"])
def test_a_name_as_long_as_it_may_be(tmp_path, name):
    write_npz(tmp_path / name, {"x": np.ones(3)})
    assert names(tmp_path) == [name]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    cases = {
        tmp_path / ("n" * 300 + ".npz"): "too long",
        tmp_path / "folder.npz": "found a folder",
        tmp_path / "none" / "out.npz": "No such file|found none",
        tmp_path / "a\0b.npz": "null",
    }
    for path, words in cases.items():
        for write in (
            lambda path: write_npz(path, {}),
            lambda path: _atomic_io.check_output(path, (".npz",), True),
            lambda path: blocksim.models.save_model(
                path, blocksim.Network([blocksim.Layer(blocksim.LIF(0.9), np.ones((2, 2)))])
            ),
        ):
            with pytest.raises(blocksim.FileError, match=words) as caught:
                write(path)
            assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["folder.npz"]


def test_a_result_does_not_replace_what_it_is_computed_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.ones((9, 1)))
    np.save("w.npy", np.ones((1, 2)))
    os.link("x.npz", "other.npz")
    before = Path("x.npz").read_bytes()
    for output in ("x.npz", "other.npz", "./x.npz"):
        result = click.testing.CliRunner().invoke(main, ["simulate", "x.npz", "-o", output, "--overwrite"])
        assert result.exit_code == 2
        assert "other than the inputs" in result.output
    assert Path("x.npz").read_bytes() == before


def test_parts_of_dead_processes_are_removed_and_those_of_others_stay(tmp_path):
    host, pid, start = _atomic_io._host(), os.getpid(), _atomic_io._started(os.getpid())
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    stay = [f".blocksim-{host}-{pid}-{start}-0.part.npz", f".blocksim-00000000-{dead.pid}-1-0.part", ".mine.part.npz"]
    go = [f".blocksim-{host}-{dead.pid}-1-0.part.npz", f".blocksim-{host}-999999999999-1-0.part"]
    if start is not None:
        go.append(f".blocksim-{host}-{pid}-{start + 1}-0.part.csv")  # another process of the same number, before
    for name in [*stay, *go]:
        (tmp_path / name).touch()
    (tmp_path / f".blocksim-{host}-{dead.pid}-1-1.part" / "below").mkdir(parents=True)
    check_folder(tmp_path)
    assert names(tmp_path) == sorted(stay)


def test_a_killed_process_leaves_what_the_next_one_removes(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom blocksim._array_io import written\n"
        "with written(Path(sys.argv[1]) / 'x.csv') as part:\n    part.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    (left,) = names(tmp_path)
    assert _atomic_io.PART.fullmatch(left)
    check_folder(tmp_path)
    assert names(tmp_path) == []


def test_what_a_process_forked_from_writes_is_not_its_to_discard(tmp_path):
    with written(tmp_path / "x.txt") as part:
        part.write_text("whole")
        _atomic_io._parts.add((os.getpid() + 1, part))
        _atomic_io._parts.discard((os.getpid(), part))
        discard_parts()
        assert part.exists()
        _atomic_io._parts.discard((os.getpid() + 1, part))
    assert names(tmp_path) == ["x.txt"]


def test_a_temporary_folder_goes_with_what_is_in_it(tmp_path):
    with temporary(tmp_path) as work:
        work.mkdir()
        (work / "file").touch()
    assert names(tmp_path) == []


def test_the_content_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(os.path.isdir(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("named"), replace(a, b)))
    write_json(tmp_path / "x.json", {})
    assert calls == ([False, "named", True] if os.path.isdir("/proc/self/fd") else [False, "named", False])


def test_a_lock_names_its_process_and_ends_with_it(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / ".lock"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom blocksim._atomic_io import locked\n"
        "with locked(Path(sys.argv[1]), 'a free folder'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(blocksim.FileError, match=f"expected a free folder; found process {holder.pid} on "):
            locked(path, "a free folder").__enter__()
        holder.kill()
    assert path.exists()
    with locked(path, "a free folder"):
        assert str(os.getpid()) in path.read_text()
        with pytest.raises(blocksim.FileError, match=str(os.getpid())):
            locked(path, "a free folder").__enter__()
    assert names(tmp_path) == []


def test_folders_are_made_one_deep(tmp_path):
    assert make_folder(tmp_path / "new").is_dir()
    make_folder(tmp_path / "new")
    (tmp_path / "file").touch()
    for wrong in ("file", "file/below", "none/below"):
        with pytest.raises(blocksim.FileError, match="expected a folder"):
            make_folder(tmp_path / wrong)


def test_scratch_holds_an_array_in_a_file_without_a_name(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 50, 4))
    with Scratch(tmp_path, x.shape, np.dtype(np.float32)) as scratch:
        for start in range(0, 50, 7):
            scratch.write(start, x[:, start : start + 7])
        assert names(tmp_path) == []
        write_npz(tmp_path / "x.npz", {"x": scratch})
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["x"], x.astype(np.float32))


def run_limited(tmp_path, limit, *arguments):
    """The command line in a process whose files may have so many bytes, as with `ulimit -f`."""
    resource = pytest.importorskip("resource")
    return subprocess.run(
        [sys.executable, "-m", "blocksim", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("record", ["", "voltage,threshold"])
def test_a_limit_of_file_size_is_one_line(tmp_path, record):
    np.save(tmp_path / "x.npy", np.full((30_000, 1), 0.3))
    done = run_limited(tmp_path, 20_000, *SIMULATE, "--record", record)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "File too large" in done.stderr
    assert names(tmp_path) == ["x.npy"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk: needs Linux and root")
@pytest.mark.parametrize("size", ["3m", "9m", pytest.param("11m", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line(tmp_path, size):
    np.save(tmp_path / "x.npy", np.full((600_000, 1), 0.06, "f4"))
    (tmp_path / "small").mkdir()
    command = (
        f"mount -t tmpfs -o size={size} tmpfs small && {sys.executable} -m blocksim simulate x.npy -o small/o.npz "
        "--backend numpy --record voltage,threshold; echo $? > rc; ls -A small > left"
    )
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if not (tmp_path / "rc").exists() or "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    if (tmp_path / "rc").read_text().strip() == "0":
        assert size == "11m"
        assert (tmp_path / "left").read_text().split() == ["o.npz"]
        return
    assert (tmp_path / "rc").read_text().strip() == "2", done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "No space left" in done.stderr
    assert (tmp_path / "left").read_text() == ""


def test_an_input_that_shrinks_while_it_is_read_is_one_line(tmp_path):
    """It ended by SIGBUS where it was mapped."""
    np.save(tmp_path / "x.npy", np.full((2_000_000, 1), 0.01, "f4"))
    with subprocess.Popen(
        [sys.executable, "-m", "blocksim", *SIMULATE, "--chunk", "2000"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for_part(tmp_path, process)
        os.truncate(tmp_path / "x.npy", 100_000)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert len(errors.splitlines()) == 1
    assert "changed" in errors
    assert names(tmp_path) == ["x.npy"]


def wait_for_part(folder, process):
    deadline = time.monotonic() + 120
    while len(names(folder)) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, "it ended too soon"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_is_one_line_and_leaves_nothing(tmp_path, name):
    np.save(tmp_path / "x.npy", np.full(3_000_000, 0.1, np.float32))
    with subprocess.Popen(
        [sys.executable, "-m", "blocksim", *SIMULATE, "--record", "voltage", "--chunk", "200"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for_part(tmp_path, process)
        for _ in range(2):  # as GNU `timeout` sends it
            process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert errors == f"Error: stopped by {name}\n"
    assert names(tmp_path) == ["x.npy"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signals of POSIX")
def test_signals_are_left_as_they_were(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    click.testing.CliRunner().invoke(main, ["simulate", "none.npy", "-o", "out.npz"])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signals of POSIX")
def test_ended_at_any_moment_nothing_is_left(tmp_path):
    """Twelve runs ended by SIGTERM or SIGINT at random moments, three of them killed: the next removes what is left."""
    np.save(tmp_path / "x.npy", np.full(400_000, 0.1, np.float32))
    arguments = [*SIMULATE, "--record", "voltage,threshold", "--chunk", "2000", "--overwrite"]
    rng = random.Random(0)
    ended = set()
    for number in range(12):
        kind = signal.SIGKILL if number % 4 == 3 else rng.choice([signal.SIGTERM, signal.SIGINT])
        with subprocess.Popen(
            [sys.executable, "-m", "blocksim", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            time.sleep(rng.uniform(0.5, 4))
            process.send_signal(kind)
            process.communicate(timeout=120)
        ended.add(process.returncode)
        if kind == signal.SIGKILL:
            check_folder(tmp_path)  # as the next run does
        assert set(names(tmp_path)) <= {"x.npy", "out.npz"}, (number, kind)
        if (tmp_path / "out.npz").exists():
            with np.load(tmp_path / "out.npz") as whole:
                assert whole["voltage"].shape == (1, 400_000, 1)
    assert len(ended) > 1
