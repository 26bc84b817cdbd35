"""Executors: the same outcomes from each, failures that stop nobody, Ctrl-C that leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import blocksim
from blocksim.executors import open_executor, run_tasks


def reciprocal(task):
    return 1 / task


def settings(task):
    import numba

    return os.getpid(), os.environ["OMP_NUM_THREADS"], numba.get_num_threads()


def die(task):
    """End this process: with an exit code, or, below 0, by a signal."""
    if task > 0:
        os._exit(task)
    if task < 0:
        os.kill(os.getpid(), -task)
    return "alive"


def local_error(task):
    class Local(Exception):
        pass

    raise Local("of this function alone")


def local_value(task):
    return lambda: task


def check(executor):
    outcomes = sorted(run_tasks(reciprocal, [1, 2, 0, 4], executor), key=lambda outcome: outcome.index)
    assert [outcome.value for outcome in outcomes] == [1, 0.5, None, 0.25]
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, True]
    assert "in reciprocal" in outcomes[2].error
    assert outcomes[2].error.rstrip().endswith("ZeroDivisionError: division by zero")


def test_serial_and_threads():
    with open_executor() as executor:
        check(executor)
    with ThreadPoolExecutor(2) as executor:
        check(executor)


def test_a_serial_outcome_comes_before_the_next_task_begins():
    begun = []
    with open_executor() as executor:
        for outcome in run_tasks(begun.append, range(3), executor):
            assert begun == list(range(outcome.index + 1))


def test_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with open_executor(jobs=2) as executor:
        check(executor)
        for pid, threads, numba_threads in (outcome.value for outcome in run_tasks(settings, range(4), executor)):
            assert pid != os.getpid()
            assert (threads, numba_threads) == ("1", 1)
        # a worker that dies is told of in one line, of its task alone, and the others go on
        outcomes = {outcome.index: outcome for outcome in run_tasks(die, [0, 3, 0, -9, 0, 0], executor)}
        assert [outcomes[index].value for index in (0, 2, 4, 5)] == ["alive"] * 4
        assert outcomes[1].error == "a worker process died in the middle of this task, by exit code 3"
        assert outcomes[3].error.startswith("a worker process died in the middle of this task, by SIGKILL (")
        # what ends a process ends no other, and what cannot be sent back is told
        for function, words in ((sys.exit, "SystemExit: 1"), (local_error, "Local"), (local_value, "pickle")):
            (outcome,) = run_tasks(function, [1], executor)
            assert words in outcome.error
    with pytest.raises(blocksim.ExecutorError, match="closed"):
        executor.submit(abs, 1)
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_what_cannot_travel_is_an_outcome():
    with open_executor(jobs=2) as executor:
        (outcome,) = run_tasks(lambda task: task, [1], executor)
    assert "pickle" in outcome.error


SCRIPT = """
import sys, time
sys.path.insert(0, {folder!r})
from blocksim.executors import open_executor, run_tasks

if __name__ == "__main__":
    try:
        with open_executor(jobs={jobs}) as executor:
            for outcome in run_tasks(time.sleep, [0.01] + [600] * 5, executor):
                print("begun", *[process.pid for process in (getattr(executor, "_processes", None) or {{}}).values()],
                      flush=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_stops_at_once(tmp_path, jobs):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(tmp_path), jobs=jobs))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = process.stdout.readline().split()
    assert first[0] == "begun"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out.strip() == "stopped", err
    assert process.returncode == 0
    for pid in first[1:]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


UNGUARDED = """
from blocksim.executors import open_executor, run_tasks
with open_executor(jobs=2) as executor:
    for outcome in run_tasks(abs, [1, 2, 3, 4], executor):
        print(outcome.error)
"""


def test_a_script_without_a_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith("a worker process died before its first task, by exit code 1: expected a script that")
        assert '__name__ == "__main__"' in line


CANCELLED = """
import os, signal, threading, time
from blocksim.executors import open_executor, run_tasks

if __name__ == "__main__":
    for again in range(4):
        try:
            with open_executor(jobs=2) as executor:
                for outcome in run_tasks(time.sleep, [0.01, *[600] * 40], executor):
                    threading.Timer(0.05 * again, os.kill, (os.getpid(), signal.SIGINT)).start()
        except KeyboardInterrupt:
            print("stopped", flush=True)
"""


def test_ctrl_c_while_tasks_wait_prints_nothing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CANCELLED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout.split(), done.stderr, done.returncode) == (["stopped"] * 4, "", 0)


DEAF = """
import signal, time
from blocksim import executors

def sleep(task):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(task)

if __name__ == "__main__":
    executors.GRACE_SECONDS = 0.3
    try:
        with executors.open_executor(jobs=2) as executor:
            for outcome in executors.run_tasks(sleep, [0.01, 600, 600], executor):
                time.sleep(0.5)
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


def test_a_worker_that_does_not_end_is_ended(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(DEAF)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("stopped\n", "", 0)


ORPHANS = """
import sys
from blocksim.executors import open_executor, run_tasks

def spin(task):
    while task:
        pass

if __name__ == "__main__":
    with open_executor(jobs=2) as executor:
        for outcome in run_tasks(spin, [0, 1], executor):
            print(*executor._processes, flush=True)
"""


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2  # one that waits, and one in the middle of its task
        process.kill()
        try:
            # they have the same stdout, which ends when the last of them has
            process.communicate(timeout=30)
        finally:
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"jobs": 0}, ["jobs:", "at least 1", "0"]),
    ({"dask": 5}, ["dask:", "address", "5"]),
    ({"dask": "nowhere"}, ["dask:", "nowhere"]),
])  # fmt: skip
def test_wrong_input_is_named(arguments, words):
    if "dask" in arguments:
        pytest.importorskip("distributed", reason="needs the extra dask")
    with pytest.raises(blocksim.ArgumentError) as error, open_executor(**arguments):
        pass
    for word in words:
        assert word in str(error.value)


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(blocksim.MissingLibraryError, match=r"blocksim\[dask\]"), open_executor(dask="tcp://x:1"):
        pass
