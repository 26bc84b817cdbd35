"""The progress of a training: a bar on a terminal, and one line per epoch.

Owns the wording of that line. Without a terminal there is no bar.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self


class Progress:
    """A progress bar over the batches of an epoch, and lines for epochs, on stderr.

    Parameters
    ----------
    epochs, batches : int
        Epochs in all, and batches an epoch.
    shown : bool
        Whether to show anything at all.
    """

    def __init__(self, epochs: int, batches: int, shown: bool) -> None:
        self._epochs, self._batches, self._shown = epochs, batches, shown
        self._bar: Any = None
        self._began, self._done = time.perf_counter(), 0

    def __enter__(self) -> Self:
        if self._shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=Console(stderr=True, soft_wrap=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=self._batches, epoch="", numbers="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def batch(self, epoch: int, batch: int, numbers: Mapping[str, Any]) -> None:
        """After a batch: `epoch` and `batch` count from 1."""
        self._done += 1
        if self._bar is not None:
            left = (self._epochs - epoch) * self._batches + self._batches - batch
            text = f"{_numbers(numbers)}  {self._left(left)} left"
            self._bar.update(self._task, completed=batch, epoch=f"{epoch}/{self._epochs}", numbers=text)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """After an epoch."""
        if not self._shown:
            return
        left = self._left((self._epochs - record["epoch"]) * self._batches)
        line = f"epoch {record['epoch']}/{self._epochs}  {_numbers(record)}  {left} left"
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _left(self, batches: int) -> str:
        """Time that so many batches take."""
        seconds = round(batches * (time.perf_counter() - self._began) / max(self._done, 1))
        hours, rest = divmod(seconds, 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _numbers(values: Mapping[str, Any]) -> str:
    parts = [f"loss {values['loss']:.4f}", f"accuracy {100 * values['accuracy']:.1f} %"]
    if not math.isnan(values.get("validation_accuracy", math.nan)):
        parts.append(f"validation {values['validation_loss']:.4f}, {100 * values['validation_accuracy']:.1f} %")
    rates = " ".join(f"{value:.1f}" for name, value in values.items() if name.startswith("rate_"))
    return "  ".join([*parts, f"rates {rates} Hz", f"{values['samples_per_s']:.0f} samples/s"])
