"""Threads that share the work of a kernel.

Owns the threads and how items of work are handed to them. A kernel computes the items first .. last - 1 without
Python's global lock; idle threads wait in a queue and use no processor, so another process, or a matrix product of a
BLAS library, has the cores to itself. Items are handed out in pieces, as threads become free: on a busy machine no
thread waits for one that was held up. Which thread computes an item changes no result.

Numba's own parallel loops are not used. Their OpenMP threads spin while they wait, die in a forked process, and the
loops take twice as long to compile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter, sleep
from typing import Any

import numba
from numba.np.ufunc import parallel

PIECES = 4  # pieces of work a thread: more would cost calls, fewer would leave threads waiting for the slowest
TRIAL = 16  # one thread does this part of many items first, to learn how long the rest will take
LONGEST = 0.5  # seconds that a part of a piece should take at most, so that Ctrl-C is answered soon


def number_of_threads() -> int:
    """What `numba.set_num_threads` was told in this thread, else NUMBA_NUM_THREADS, else the number of processors."""
    # asked of Numba only where it was told: the question alone starts its threads
    told = getattr(parallel, "_is_initialized", True)
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return int(numba.get_num_threads()) if told else most


class _Job:
    """One call of a kernel, done by any number of threads."""

    def __init__(self, compute: Callable[..., Any], items: int, pieces: int, arguments: tuple[Any, ...]) -> None:
        self.compute = compute
        self.items = items
        self.pieces = pieces
        self.parts = 1  # of the pieces that follow, where one took long
        self.arguments = arguments
        self.error: BaseException | None = None
        self.slots: Iterator[int] = count()
        self.waiting: Iterator[int] = iter(range(pieces))
        self.left = pieces
        self.helping: set[int] = set()  # slots of other threads than the caller's, while they are at work on a piece
        self.lock = Lock()
        self.finished = Lock()
        self.finished.acquire()

    def work(self, *, helps: bool) -> None:
        """Compute pieces until none is left; `helps`: in another thread than the caller's."""
        slot = next(self.slots)  # of the scratch memory, this thread's alone
        for piece in self.waiting:
            if helps:
                self.helping.add(slot)  # before the error is looked at: who sets one waits for those that are here
            try:
                if self.error is None:
                    first = piece * self.items // self.pieces
                    last = (piece + 1) * self.items // self.pieces
                    began = perf_counter()
                    if self.parts == 1:
                        self.compute(first, last, slot, *self.arguments)
                    else:
                        self.compute_parts(first, last, slot)
                    took = perf_counter() - began
                    if took > LONGEST:
                        self.parts = round(took / LONGEST) + 1
            except BaseException as error:  # handed to the caller's thread
                self.error = error
            if helps:
                self.helping.discard(slot)
            with self.lock:
                self.left -= 1
                if not self.left:
                    self.finished.release()

    def compute_parts(self, first: int, last: int, slot: int) -> None:
        """Compute a piece in parts of about `LONGEST` seconds, by what another took: between them Ctrl-C is heard."""
        for start, stop in _parts(first, last, self.parts):
            if self.error is None:
                self.compute(start, stop, slot, *self.arguments)


_queue: SimpleQueue[_Job] = SimpleQueue()
_started = 0
_starting = Lock()


def _serve(queue: SimpleQueue[_Job]) -> None:
    while True:
        queue.get().work(helps=True)


def _start(threads: int) -> None:
    global _started
    with _starting:
        while _started < threads:
            Thread(target=_serve, args=(_queue,), name=f"blocksim-{_started}", daemon=True).start()
            _started += 1


def _after_fork() -> None:
    """A forked process has none of its parent's threads: it starts its own when it needs them."""
    global _queue, _started, _starting
    _queue, _started, _starting = SimpleQueue(), 0, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def share(compute: Callable[..., Any], items: int, arguments: tuple[Any, ...]) -> None:
    """Call compute(first, last, slot, *arguments) for pieces that together are the items 0 .. items - 1.

    Slots are below `number_of_threads()`, and no two threads have the same at a time. Returns when all is computed.
    """
    threads = min(number_of_threads(), items)
    if threads <= 1:
        _alone(compute, items, arguments)
        return
    if _started < threads - 1:
        _start(threads - 1)
    job = _Job(compute, items, min(PIECES * threads, items), arguments)
    for _ in range(threads - 1):
        _queue.put(job)
    try:
        job.work(helps=False)
        job.finished.acquire()
    except BaseException as error:  # Ctrl-C, between two lines of ours
        job.error = error
        while job.helping:  # no piece is begun any more; those that were write into arrays that are used again
            sleep(0.001)
        raise
    finally:
        job.arguments = ()  # a thread that comes late holds on to no array
    if job.error is not None:
        raise job.error


def _alone(compute: Callable[..., Any], items: int, arguments: tuple[Any, ...]) -> None:
    """In one thread: a share of many items first, and the rest in parts of about `LONGEST` seconds."""
    trial = items // TRIAL if items >= 4 * TRIAL else items
    began = perf_counter()
    if trial:
        compute(0, trial, 0, *arguments)
    rest = items - trial
    if rest:
        for start, stop in _parts(trial, items, round((perf_counter() - began) * rest / trial / LONGEST) + 1):
            compute(start, stop, 0, *arguments)


def _parts(first: int, last: int, parts: int) -> Iterator[tuple[int, int]]:
    """The first item of each part of first .. last - 1, and the one after its last; none is empty."""
    parts = min(parts, last - first)
    return pairwise(first + part * (last - first) // parts for part in range(parts + 1))
