"""Signals that ask a command to end: SIGTERM and SIGHUP, which by themselves end it without cleaning up."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

# what GNU `timeout` sends twice, to the process and to its group, is one request
TWICE_S = 1.0


class Stopped(SystemExit):
    """A signal asked the command to end; the exit code is 128 and its number, as a shell has it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise `Stopped`, so that what a command began is cleaned up.

    A signal that is ignored, by `nohup` say, stays so. Elsewhere than in the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -TWICE_S

    def stop(number: int, frame: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= TWICE_S:
            last = time.monotonic()
            raise Stopped(number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has one of them
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    caught = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])
