"""Where independent tasks run: in this process, in a pool of processes, or on a Dask cluster; one interface for all.

Owns how an executor is opened and closed, and how its tasks' outcomes come back. Any executor of the kind of
`concurrent.futures` will do for `run_tasks`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any

from blocksim.errors import ArgumentError
from blocksim.libraries import library
from blocksim.outputs import discard_parts
from blocksim.validation import found, whole

# what the linear-algebra libraries under NumPy read when a process starts
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


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
        The traceback, as text, where it failed.
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
    jobs = whole("jobs", jobs, 1)
    if dask is not None:
        with _dask_executor(dask) as executor:
            yield executor
    elif jobs == 1:
        yield SerialExecutor()
    else:
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

    Notes
    -----
    The traceback of a failed task is made where it failed. If a worker process dies, the tasks of its pool that are not
    done fail with it, as the standard library's pool does not outlive a worker; a Dask cluster gives them to another.

    Examples
    --------
    >>> from blocksim.executors import SerialExecutor, run_tasks
    >>> outcomes = list(run_tasks(float, ["1", "one"], SerialExecutor()))
    >>> outcomes[0]
    Outcome(index=0, value=1.0, error=None)
    >>> outcomes[1].error.splitlines()[-1]
    "ValueError: could not convert string to float: 'one'"
    """
    waiting: dict[Future[Any], int] = {}
    try:
        for index, task in enumerate(tasks):
            future = executor.submit(_attempt, function, task)
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
    except BrokenProcessPool as broken:
        return Outcome(index, None, f"a worker process died, or could not be started: {broken}")
    except Exception as lost:  # it could not be sent, or its worker is gone
        return Outcome(index, None, "".join(traceback.format_exception(lost)))
    return Outcome(index, value, error)


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[Executor]:
    before = {name: os.environ.get(name) for name in THREADS}
    # read by each process as it starts, which it does when it is first needed
    os.environ.update(dict.fromkeys(THREADS, "1"))
    executor = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin_worker)
    try:
        yield executor
    except BaseException:
        # no more waiting for tasks whose outcome nobody asks for
        processes = list((executor._processes or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
    try:
        client = distributed.Client(dask, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"dask: expected the address of a Dask scheduler that answers, such as tcp://host:8786; found {dask!r} "
            f"({error})"
        ) from error
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _dask_executor(dask: Any) -> Iterator[Executor]:
    with dask_client(dask) as client:
        executor = client.get_executor()
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)
