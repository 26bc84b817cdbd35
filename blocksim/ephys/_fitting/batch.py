"""Files fitted one by one, each a task: opened, split, fitted, scored, reported, and marked as finished.

Owns what a fit of a file leaves in its folder: `predictions.npz`, `report.html`, and last `fit.json`, which says that
the rest is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import blocksim
from blocksim._array_io import check_folder, make_folder, plain, write_csv, write_json, write_npz, written
from blocksim.ephys._fitting.config import FitConfig
from blocksim.ephys._fitting.descent import Progress
from blocksim.ephys._fitting.fit import Fit, fit
from blocksim.ephys._recordings.formats import open_parts, open_recording
from blocksim.ephys._recordings.recording import Recording
from blocksim.ephys.evaluation import arrays, predict, scores
from blocksim.errors import ArgumentError, BlocksimError, FileError

DONE, PREDICTIONS, REPORT = "fit.json", "predictions.npz", "report.html"
# columns of the table of cells: name and kind
COLUMNS: dict[str, type] = {
    "cell": str, "file": str, "tau_mem_ms": float, "tau_adapt_ms": float, "adaptation": float, "gain_per_pa": float,
    "bias": float, "refractory_ms": float, "rheobase_pa": float, "adaptation_pa": float, "reset_mv": float,
    "scale_mv": float, "dt_ms": float, "training_loss": float, "training_spikes": int, "test_spikes": int,
    **{f"{part}_{name}": float for part in ("training", "test") for name in (
        "rate_hz", "rate_recorded_hz", "etv", "etv_raw", "etv_reliability", "gamma", "md_star",
        "intrinsic_reliability", "potential_r2")},
    "seconds": float,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One file to fit.

    Attributes
    ----------
    path : str
        The file.
    folder : str
        Where its results go.
    config : FitConfig
        Settings of the fit.
    recording : dict
        Options of `open_recording`.
    test_from : float or None
        Where the test part begins in ms; None: as the file says, or else after three quarters of the time.
    test_sweeps : str, int, sequence of them, or None
        Sweeps of the test part, instead.
    report : bool
        Whether to draw the page.
    overwrite : bool
        Whether to fit again what was fitted with other settings.
    """

    path: str
    folder: str
    config: FitConfig
    recording: Mapping[str, Any] = field(default_factory=dict)
    test_from: float | None = None
    test_sweeps: Any = None
    report: bool = True
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class Parts:
    """Training and test part of a file, and whether the test part is the training part's continuation."""

    training: Recording
    test: Recording
    continued: bool


def open_split(task: Task) -> Parts:
    """Open a file and split it; checked, so that a fit can begin."""
    if task.test_from is not None and task.test_sweeps is not None:
        raise ArgumentError("test_from, test_sweeps: expected one of them; found both")
    recording: Recording | None = None
    if task.test_from is None and task.test_sweeps is None and "part" not in task.recording:
        parts = open_parts(task.path, **task.recording)
        if {"training", "test"} <= set(parts):
            checked = Parts(parts["training"], parts["test"], False)
            _with_spikes(task.path, checked.training)
            return checked
        recording = next(iter(parts.values()))
    if recording is None:
        recording = open_recording(task.path, **task.recording)
    try:
        if task.test_sweeps is not None:
            found = Parts(*recording.split(test_sweeps=task.test_sweeps), False)
        else:
            at = 0.75 * recording.duration if task.test_from is None else task.test_from
            found = Parts(*recording.split(at=at), True)
    except ArgumentError as error:
        raise FileError(f"{task.path}: {error}") from error
    _with_spikes(task.path, found.training)
    return found


def _with_spikes(path: str, training: Recording) -> None:
    if not len(training.spikes.times):
        raise FileError(
            f"{path}: expected spikes in the training part; found none in {training.sweeps} sweep(s) of "
            f"{training.duration:g} ms, whose potential reaches {training.voltage.max():.4g} mV (lower the detection "
            "threshold, or choose another part)"
        )


def digest(task: Task) -> str:
    """What a fit depends on: its settings and the file's content."""
    content = hashlib.sha256(Path(task.path).read_bytes()).hexdigest()
    config = task.config.to_dict()
    if config["loss"] == "van_rossum":  # fits of 0.1.0, which had no other, are known again
        del config["loss"]
    settings = [config, dict(task.recording), task.test_from, task.test_sweeps, content]
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def finished(task: Task) -> dict[str, Any] | None:
    """The row of a file that was fitted before, or None.

    Raises
    ------
    FileError
        It was fitted with other settings, or was another file, and `overwrite` is not set; or its result is damaged.
    """
    place = Path(task.folder) / DONE
    if not place.is_file() or not Path(task.path).is_file():
        return None
    try:
        before = json.loads(place.read_text(encoding="utf-8"))
        row: dict[str, Any] = {name: before["row"][name] for name in COLUMNS}
        same = before["digest"] == digest(task)
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise FileError(
            f"{place}: expected the result of a fit; found another file ({type(error).__name__}: {error})"
        ) from error
    if same:
        return row
    if task.overwrite:
        return None
    raise FileError(
        f"{place}: expected a result with the present settings and file; found one with others (pass overwrite=True to "
        "fit it again, or another folder)"
    )


def fit_file(task: Task, progress: Progress | None = None) -> dict[str, Any]:
    """Fit one file and write its results; returns its row of the table of cells."""
    began = time.perf_counter()
    parts = open_split(task)
    folder = Path(task.folder)
    check_folder(folder if folder.exists() else folder.parent)
    result = fit(parts.training, task.config, progress)
    predicted = {
        "training": predict(result.cell, parts.training, result.dt, backend=task.config.backend),
        "test": predict(
            result.cell, parts.test, result.dt, before=parts.training if parts.continued else None,
            backend=task.config.backend,
        ),
    }  # fmt: skip
    measured = {name: scores(part) for name, part in predicted.items()}
    row = _row(task, parts, result, measured, time.perf_counter() - began)
    make_folder(folder)
    (folder / DONE).unlink(missing_ok=True)
    write_npz(
        folder / PREDICTIONS,
        {
            "dt_ms": np.array(result.dt),
            **arrays(predicted["training"], "training"),
            **arrays(predicted["test"], "test"),
        },
    )
    if task.report:
        from blocksim.ephys.report import page

        with written(folder / REPORT) as part:
            part.write_text(page(Path(task.path).name, result, predicted, measured), encoding="utf-8")
    done = {
        "blocksim": blocksim.__version__, "file": Path(task.path).name, "digest": digest(task), "row": row,
        "scores": measured, "fit": result.to_dict(),
    }  # fmt: skip
    write_json(folder / DONE, done)
    return row


def _row(
    task: Task, parts: Parts, result: Fit, measured: Mapping[str, Mapping[str, float]], seconds: float
) -> dict[str, Any]:
    cell = result.cell
    row: dict[str, Any] = {
        "cell": parts.training.name or Path(task.path).stem, "file": Path(task.path).name, "tau_mem_ms": cell.tau_mem,
        "tau_adapt_ms": cell.tau_adapt, "adaptation": cell.adaptation, "gain_per_pa": cell.gain, "bias": cell.bias,
        "refractory_ms": cell.refractory, "rheobase_pa": cell.rheobase, "adaptation_pa": cell.adaptation_pa,
        "reset_mv": cell.reset_mv, "scale_mv": cell.scale_mv, "dt_ms": result.dt,
        "training_loss": result.loss["training"], "training_spikes": len(parts.training.spikes.times),
        "test_spikes": len(parts.test.spikes.times), "seconds": seconds,
    }  # fmt: skip
    for part, values in measured.items():
        row |= {f"{part}_{name}": value for name, value in values.items()}
    return {name: row[name] for name in COLUMNS}


def write_table(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write cells.csv, empty fields for what is missing, and cells.parquet where pyarrow is installed."""
    place = folder / "cells.csv"
    rows = [plain(row) for row in rows]
    write_csv(place, rows, COLUMNS)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return [place]
    kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64()}
    table = pyarrow.table(
        {name: pyarrow.array([row[name] for row in rows], kinds[kind]) for name, kind in COLUMNS.items()}
    )
    with written(folder / "cells.parquet") as part:
        pyarrow.parquet.write_table(table, part)
    return [place, folder / "cells.parquet"]


def attempt(task: Task) -> dict[str, Any]:
    """`fit_file`, in a worker: what its caller can mend comes back as one line under "problem"."""
    try:
        return fit_file(task)
    except BlocksimError as error:
        return {"problem": str(error)}
