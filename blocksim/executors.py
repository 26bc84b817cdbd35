"""Executors of independent tasks: in this process, in processes of their own, or on a Dask cluster.

Owns how an executor is opened and closed, how its tasks' outcomes come back, and what is said of a worker or a cluster
that is lost. Any executor of the kind of `concurrent.futures` will do for `run_tasks`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, as_completed
from dataclasses import dataclass
from multiprocessing import current_process, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from blocksim._atomic_io import discard_parts
from blocksim._libraries import library
from blocksim._validation import found, whole_number
from blocksim.errors import ArgumentError, BlocksimError, ExecutorError

# what the linear-algebra libraries under NumPy read when a process starts
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# never "fork": a copy of a process whose compiled kernels have run holds locks of threads that it does not have
CONTEXT = get_context("spawn")
GUARD = 'expected a script that starts its work under if __name__ == "__main__", for each new process imports it'
# that a process that is told to end may take for it
GRACE_SECONDS = 5.0
# of Dask: what they log when a connection is lost, traceback and all, comes back as an error of ours
LOGGERS = ("distributed.client", "distributed.core", "distributed.comm", "distributed.utils", "tornado.application")


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes
    ----------
    index : int
        Which task it is, counted from 0 in the order given.
    value : object
        What the function returned; None where it failed.
    error : str or None
        The traceback, as text, where it failed; one line where its worker or the cluster was lost.
    """

    index: int
    value: Any = None
    error: str | None = None


class SerialExecutor(Executor):
    """An executor that runs each task in this thread, before `submit` returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` now; the future that comes back is done. Ctrl-C is raised, not kept."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class ProcessExecutor(Executor):
    """An executor of spawned processes, one for each task and at most `jobs` at a time.

    Each works off one task at a time. One that dies, killed say, fails its task with an `ExecutorError`, and another is
    started in its place; the standard library's pool would fail all tasks with it.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []  # one a process, which hands it tasks and waits for it
        self._processes: dict[int, BaseProcess] = {}  # by their pid
        self._lock = threading.Lock()
        self._closed = self._stopped = False
        self._unfit: str | None = None  # why no process can be started

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call; function, arguments and result travel by pickle."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise ExecutorError("executor: expected an open one; found one that is closed")
            self._tasks.put((future, (fn, args, kwargs)))
            if len(self._threads) < self._jobs:
                thread = threading.Thread(target=self._serve, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; the processes end after those that are queued, or, cancelled, after those that run."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if cancel_futures:
                    with contextlib.suppress(queue.Empty):
                        while task := self._tasks.get_nowait():
                            task[0].cancel()
                for _ in self._threads:
                    self._tasks.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def stop(self) -> None:
        """End at once, in the middle of tasks: nobody asks for their outcome any more."""
        with self._lock:  # no process is started any more
            self._stopped = True
        self.shutdown(wait=False, cancel_futures=True)
        processes = list(self._processes.values())
        for process in processes:
            process.terminate()
        # one that is deep in compiled code hears of it late
        left: list[Any] = [process.sentinel for process in processes]
        end = time.monotonic() + GRACE_SECONDS
        while left and time.monotonic() < end:
            gone = wait(left, max(end - time.monotonic(), 0))
            left = [sentinel for sentinel in left if sentinel not in gone]
        for process in processes:
            if process.sentinel in left:
                process.kill()

    def _serve(self) -> None:
        process: BaseProcess | None = None
        connection: Connection | None = None
        while task := self._tasks.get():
            future, call = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                sent = pickle.dumps(call)
                if process is None or connection is None:
                    process, connection = self._started()
                try:
                    connection.send_bytes(sent)
                    received = connection.recv_bytes()
                except (EOFError, OSError):
                    died, process, connection = process, None, None
                    raise ExecutorError(self._lost(died)) from None
                good, value = pickle.loads(received)
            except Exception as error:
                future.set_exception(error)
            else:
                if good:
                    future.set_result(value)
                else:
                    future.set_exception(value)
        if process is not None and connection is not None:
            connection.close()  # which tells it to end
            self._lost(process)

    def _started(self) -> tuple[BaseProcess, Connection]:
        """A process that has said that it is there."""
        ours, theirs = CONTEXT.Pipe()
        with self._lock:
            if self._stopped:
                raise ExecutorError("executor: expected one that goes on; found one that was stopped")
            if self._unfit is not None:
                raise ExecutorError(self._unfit)
            process = CONTEXT.Process(target=_work, args=(theirs,), daemon=False)
            process.start()
            assert process.pid is not None
            self._processes[process.pid] = process
        theirs.close()
        try:
            ours.recv_bytes()
        except (EOFError, OSError):
            how = self._lost(process).partition(", ")[2]
            self._unfit = f"a worker process died before its first task, {how}: {GUARD}"
            raise ExecutorError(self._unfit) from None
        return process, ours

    def _lost(self, process: BaseProcess) -> str:
        """Wait for the end of a process, and say what it was."""
        process.join()
        self._processes.pop(process.pid or 0, None)
        code = process.exitcode or 0
        if code >= 0:
            how = f"by exit code {code}"
        else:
            try:
                how = f"by {signal.Signals(-code).name}"
            except ValueError:
                how = f"by signal {-code}"
            how += " (the system kills a process when memory runs out)" if how.endswith("KILL") else ""
        return f"a worker process died in the middle of this task, {how}"


@contextlib.contextmanager
def open_executor(jobs: int = 1, dask: Any = None) -> Iterator[Executor]:
    """Open an executor for `run_tasks`, and close it at the end of the block.

    Parameters
    ----------
    jobs : int
        Processes: 1 runs in this one, one task after the other; more start that many new ones ("spawn"), each with one
        thread for Numba and for the linear algebra under NumPy.
    dask : str, dask.distributed.Client or None
        Address of the scheduler of a Dask cluster ("tcp://host:8786"), or a client of one, which stays open: tasks run
        there, and `jobs` is not used. Start its workers with `--nthreads 1`.

    Yields
    ------
    concurrent.futures.Executor

    Raises
    ------
    ArgumentError
        jobs is not a whole number of at least 1, or no scheduler answers.
    ExecutorError
        A new process, which imports the script, would start processes itself.
    MissingLibraryError
        `dask.distributed` is not installed.

    Notes
    -----
    Functions and tasks travel by pickle: functions must be importable by their name. A script that asks for more than
    one process starts its work under ``if __name__ == "__main__":``, for each new process imports it. If the block ends
    by an exception, Ctrl-C among them, tasks that wait are cancelled and processes that run are stopped; they stop too
    when the process that opened the block is killed.

    Examples
    --------
    >>> from blocksim.executors import open_executor, run_tasks
    >>> with open_executor() as executor:
    ...     sorted(outcome.value for outcome in run_tasks(abs, [-3, 2], executor))
    [2, 3]
    """
    jobs = whole_number("jobs", jobs, 1)
    if dask is not None:
        with _dask_executor(dask) as executor:
            yield executor
    elif jobs == 1:
        yield SerialExecutor()
    else:
        # set while a new process imports the script that it is to work for
        if getattr(current_process(), "_inheriting", False):
            raise ExecutorError(GUARD)
        with _pool(jobs) as executor:
            yield executor


def run_tasks(function: Callable[[Any], Any], tasks: Iterable[Any], executor: Executor) -> Iterator[Outcome]:
    """Call a function with each task, and yield outcomes as they come, which may be in another order.

    A task that fails is an outcome with an error, and the others go on. Whoever stops asking for outcomes, by Ctrl-C
    say, cancels the tasks that have not begun.

    Parameters
    ----------
    function : callable
        Called with one task.
    tasks : iterable
        Its arguments.
    executor : concurrent.futures.Executor
        From `open_executor`, or any other of that kind.

    Yields
    ------
    Outcome

    Raises
    ------
    ArgumentError
        At once: the function cannot be called, or the executor takes no tasks.

    Notes
    -----
    The traceback of a failed task is made where it failed. If a worker process dies, its task fails, and the others go
    on; a Dask cluster gives the task to another worker, some times.

    Examples
    --------
    >>> from blocksim.executors import SerialExecutor, run_tasks
    >>> outcomes = list(run_tasks(float, ["1", "one"], SerialExecutor()))
    >>> outcomes[0]
    Outcome(index=0, value=1.0, error=None)
    >>> outcomes[1].error.splitlines()[-1]
    "ValueError: could not convert string to float: 'one'"
    """
    if not callable(function):
        raise ArgumentError(f"function: expected one that is called with a task; found {found(function)}")
    if not callable(getattr(executor, "submit", None)):
        raise ArgumentError(
            f"executor: expected one of open_executor, or of concurrent.futures; found {found(executor)}"
        )
    return _outcomes(function, tasks, executor)


def _outcomes(function: Callable[[Any], Any], tasks: Iterable[Any], executor: Executor) -> Iterator[Outcome]:
    waiting: dict[Future[Any], int] = {}
    try:
        for index, task in enumerate(tasks):
            try:
                future = executor.submit(_attempt, function, task)
            except Exception as lost:  # a cluster's that is gone, or a pool's that is broken
                yield Outcome(index, None, _said(lost))
                continue
            if future.done():  # a serial executor's, before it is given the next
                yield _outcome(index, future)
            else:
                waiting[future] = index
        for future in as_completed(list(waiting)):
            yield _outcome(waiting.pop(future), future)
    finally:
        for future in waiting:
            future.cancel()


def _attempt(function: Callable[[Any], Any], task: Any) -> tuple[Any, str | None]:
    """A task's value, or its traceback as text: not every exception survives the way back."""
    try:
        return function(task), None
    except Exception as error:
        # without this function's own line
        shown = error.__traceback__ and error.__traceback__.tb_next
        return None, "".join(traceback.format_exception(type(error), error, shown))


def _outcome(index: int, future: Future[Any]) -> Outcome:
    try:
        value, error = future.result()
    except (Exception, CancelledError) as lost:  # it could not be sent, or its worker is gone
        return Outcome(index, None, _said(lost))
    return Outcome(index, value, error)


def _said(lost: BaseException) -> str:
    """What became of a task that no worker gave back: a line where the reason is known, else the traceback."""
    if isinstance(lost, CancelledError) or type(lost).__name__ == "KilledWorker":
        return cluster_lost(lost)
    return str(lost) if isinstance(lost, BlocksimError) else "".join(traceback.format_exception(lost))


def cluster_lost(error: BaseException) -> str:
    """One line on a Dask cluster that did not give a task back."""
    if type(error).__name__ == "KilledWorker":
        return (
            "dask: expected workers that live through the task; found that each of several that were given it died (is "
            "their memory enough?)"
        )
    said = " ".join(str(error).split()) or type(error).__name__
    return (
        "dask: expected a cluster that lasts until the last task is done; found the connection to its scheduler lost "
        f"({said[:100]})"
    )


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[Executor]:
    before = {name: os.environ.get(name) for name in THREADS}
    # read by each process as it starts, which it does when it is first needed
    os.environ.update(dict.fromkeys(THREADS, "1"))
    executor = ProcessExecutor(jobs)
    try:
        yield executor
    except BaseException:
        executor.stop()
        raise
    finally:
        executor.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _work(connection: Connection) -> None:
    """What a worker process does: task after task, until its parent closes the connection, or is gone."""
    _begin_worker()
    connection.send_bytes(b"ready")
    while True:
        try:
            received = connection.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            function, args, kwargs = pickle.loads(received)
            result = pickle.dumps((True, function(*args, **kwargs)))
        except BaseException as error:
            result = _failure(error)
        connection.send_bytes(result)


def _failure(error: BaseException) -> bytes:
    """An error as it is sent back: not every one survives the way, and one that ends a process is none here."""
    try:
        if isinstance(error, Exception):
            sent = pickle.dumps((False, error))
            pickle.loads(sent)
            return sent
    except Exception:
        pass
    return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _begin_worker() -> None:
    # Ctrl-C reaches every process of a terminal: the parent sees to its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    os.environ["NUMBA_NUM_THREADS"] = "1"
    numba = sys.modules.get("numba")
    if numba is not None:
        numba.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone, killed say: nobody would take the outcome of its task."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        _end()


def _end(*_: Any) -> None:
    """End this process now, without a file half-written: an exception would only end its task."""
    discard_parts()
    os._exit(1)


@contextlib.contextmanager
def dask_client(dask: Any) -> Iterator[Any]:
    """A `dask.distributed.Client` of the scheduler at an address, closed at the end; a client given is left open."""
    distributed = library("distributed", "dask", "dask")
    if isinstance(dask, distributed.Client):
        yield dask
        return
    if not isinstance(dask, str):
        raise ArgumentError(f"dask: expected the address of a scheduler, or a Client; found {found(dask)}")
    with _unlogged():
        try:
            client = distributed.Client(dask, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"dask: expected the address of a Dask scheduler that answers, such as tcp://host:8786; found {dask!r} "
                f"({' '.join(str(error).split())})"
            ) from error
        try:
            yield client
        finally:
            with contextlib.suppress(OSError, TimeoutError):  # of a scheduler that is gone
                client.close()


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _dask_executor(dask: Any) -> Iterator[Executor]:
    with dask_client(dask) as client:
        executor = client.get_executor()
        try:
            yield executor
        finally:
            with contextlib.suppress(CancelledError, OSError, TimeoutError):  # as above
                executor.shutdown(wait=False)
