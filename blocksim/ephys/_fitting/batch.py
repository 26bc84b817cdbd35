"""Files fitted one by one, each a task: opened, split, fitted, scored, reported, and marked as finished.

Owns what a fit of a file leaves in its folder: `predictions.npz`, `report.html`, `fit.nwb`, and last `fit.json`, which
says that the rest is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import blocksim
from blocksim._array_io import check_folder, check_output, make_folder, plain, write_csv, write_json, write_npz, written
from blocksim.ephys._fitting.config import FitConfig
from blocksim.ephys._fitting.descent import Progress
from blocksim.ephys._fitting.fit import Fit, fit
from blocksim.ephys._gif.config import GIFConfig
from blocksim.ephys._gif.fit import fit_gif
from blocksim.ephys._gif.result import GIFFit
from blocksim.ephys._nwb import write_nwb
from blocksim.ephys._recordings.electrode import ElectrodeKernel, compensate, electrode_kernel
from blocksim.ephys._recordings.formats import open_parts, open_recording
from blocksim.ephys._recordings.recording import Recording
from blocksim.ephys.evaluation import SCORES, STOCHASTIC, arrays, predict, scores
from blocksim.errors import ArgumentError, BlocksimError, FileError

DONE, PREDICTIONS, REPORT, NWB = "fit.json", "predictions.npz", "report.html", "fit.nwb"
# columns of the table of cells that its model brings, by what makes the fit
COLUMNS = {
    FitConfig: ("tau_mem_ms", "tau_adapt_ms", "adaptation", "gain_per_pa", "bias", "refractory_ms", "rheobase_pa",
                "adaptation_pa", "reset_mv", "scale_mv", "dt_ms", "training_loss", "warnings"),
    GIFConfig: ("tau_mem_ms", "resistance_mohm", "capacitance_pf", "rest_mv", "reset_mv", "threshold_mv", "width_mv",
                "refractory_ms", "dt_ms", "held_out_bits", "compared", "warnings"),
}  # fmt: skip
TEXTS = ("compared", "warnings")
LATER = ("md_star_2ms", "md_star_8ms", *TEXTS)  # what results of 0.1.0 lack


def columns_of(config: FitConfig | GIFConfig) -> dict[str, type]:
    """Columns of the table of cells: name and kind."""
    gif = isinstance(config, GIFConfig)
    scored = SCORES + (STOCHASTIC if isinstance(config, GIFConfig) and config.noise else ())
    texts: dict[str, type] = dict.fromkeys(("cell", "file", "model") if gif else ("cell", "file"), str)
    numbers = dict.fromkeys(COLUMNS[type(config)], float) | dict.fromkeys(["training_spikes", "test_spikes"], int)
    numbers |= {f"{part}_{name}": float for part in ("training", "test") for name in scored} | {"seconds": float}
    return texts | {name: str if name in TEXTS else kind for name, kind in numbers.items()}


@dataclass(frozen=True)
class Task:
    """One file to fit.

    Attributes
    ----------
    path : str
        The file.
    folder : str
        Where its results go.
    config : FitConfig or GIFConfig
        Settings of the fit, of an ALIF neuron or of a stochastic one.
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
    electrode : str or None
        A recording below threshold through the same electrode, a file or a part of this one: the potential is
        compensated by the electrode's kernel.
    nwb : bool
        Whether to write the recording with fit and predictions as NWB, too.
    """

    path: str
    folder: str
    config: FitConfig | GIFConfig
    recording: Mapping[str, Any] = field(default_factory=dict)
    test_from: float | None = None
    test_sweeps: Any = None
    report: bool = True
    overwrite: bool = False
    electrode: str | None = None
    nwb: bool = False


@dataclass(frozen=True, eq=False)
class Parts:
    """Training and test part of a file, and whether the test part is the training part's continuation."""

    training: Recording
    test: Recording
    continued: bool

    def at_dt(self, dt: float) -> Parts:
        """Both at another time step in ms."""
        return replace(self, training=self.training.at_dt(dt), test=self.test.at_dt(dt))

    def compensated(self, kernel: ElectrodeKernel) -> Parts:
        """Both without the electrode's share of the potential."""
        return replace(self, training=compensate(self.training, kernel), test=compensate(self.test, kernel))


def open_split(task: Task) -> Parts:
    """Open a file, compensate it and split it; checked, so that a fit can begin."""
    parts = _split(task)
    if task.electrode is None:
        return parts
    try:
        kernel = electrode_kernel(_of_electrode(task, task.electrode))
        return parts.compensated(kernel)
    except ArgumentError as error:
        raise FileError(f"{task.electrode}: {error}") from error


def _of_electrode(task: Task, source: str) -> Recording:
    """The recording that the electrode's kernel is measured in."""
    options = {name: value for name, value in task.recording.items() if name not in ("part", "sweeps")}
    if Path(source).is_file():
        return open_recording(source, **options)
    try:
        return open_recording(task.path, part=source, **options)
    except FileError as error:
        raise FileError(f"{error}; there is no file {source} either") from error


def _split(task: Task) -> Parts:
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
    if config.get("loss") == "van_rossum":  # fits of 0.1.0, which had no other, are known again
        del config["loss"]
    if isinstance(task.config, FitConfig) and not config["fixed"]:
        del config["fixed"]
    settings = [config, dict(task.recording), task.test_from, task.test_sweeps, content]
    if task.electrode is not None:
        source = Path(task.electrode)
        settings.append(hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else task.electrode)
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def finished(task: Task) -> dict[str, Any] | None:
    """The row of a file that was fitted before, or None; so too where a file that is wanted is missing.

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
        same = before["digest"] == digest(task)
        row: dict[str, Any] = {name: _kept(before["row"], name) for name in columns_of(task.config)} if same else {}
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise FileError(
            f"{place}: expected the result of a fit; found another file ({type(error).__name__}: {error})"
        ) from error
    if same:
        files = {PREDICTIONS: True, REPORT: task.report, NWB: task.nwb}
        wanted = [name for name, asked in files.items() if asked]
        return row if all(place.with_name(name).is_file() for name in wanted) else None
    if task.overwrite:
        return None
    raise FileError(
        f"{place}: expected a result with the present settings and file; found one with others (pass overwrite=True to "
        "fit it again, or another folder)"
    )


def _kept(row: Mapping[str, Any], name: str) -> Any:
    """A value of a row that was written before; None of a score that came later."""
    return row.get(name) if name.endswith(LATER) else row[name]


def fit_file(task: Task, progress: Progress | None = None, parts: Parts | None = None) -> dict[str, Any]:
    """Fit one file and write its results; returns its row of the table of cells. `parts`: the file's, if it is open."""
    began = time.perf_counter()
    parts = open_split(task) if parts is None else parts
    folder = Path(task.folder)
    if folder.exists():
        # the one result that is a recording as well, and so may be what is fitted
        sources = (task.path, task.electrode)
        check_output(folder / NWB, (".nwb",), True, (None if source is None else Path(source) for source in sources))
    else:
        check_folder(folder.parent)
    result: Fit | GIFFit
    given = {"training": parts.training, "test": parts.test}
    if isinstance(task.config, GIFConfig):
        result = fit_gif(parts.training, task.config, progress)
        options: dict[str, Any] = {"repeats": task.config.repeats, "seed": task.config.seed}
        if result.series_resistance:
            parts = parts.at_dt(result.dt).compensated(result.electrode)
    else:
        result, options = fit(parts.training, task.config, progress), {"backend": task.config.backend}
    predicted = {
        "training": predict(result.cell, parts.training, result.dt, **options),
        "test": predict(
            result.cell, parts.test, result.dt, before=parts.training if parts.continued else None, **options
        ),
    }
    measured = {name: scores(part) for name, part in predicted.items()}
    row = _row(task, parts, result, measured, time.perf_counter() - began)
    make_folder(folder)
    for name in (DONE, REPORT, NWB):  # none of an older fit stays beside the new one
        (folder / name).unlink(missing_ok=True)
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
    if task.nwb:
        write_nwb(folder / NWB, given, prediction=predicted, fit=result)
    done = {
        "blocksim": blocksim.__version__, "file": Path(task.path).name, "digest": digest(task), "row": row,
        "scores": measured, "fit": result.to_dict(),
    }  # fmt: skip
    write_json(folder / DONE, done)
    return row


def _row(
    task: Task, parts: Parts, result: Fit | GIFFit, measured: Mapping[str, Mapping[str, float]], seconds: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "cell": parts.training.name or Path(task.path).stem, "file": Path(task.path).name, "dt_ms": result.dt,
        "training_spikes": len(parts.training.spikes.times), "test_spikes": len(parts.test.spikes.times),
        "seconds": seconds, "tau_mem_ms": result.cell.tau_mem, "refractory_ms": result.cell.refractory,
    }  # fmt: skip
    if isinstance(result, GIFFit):
        neuron = result.cell
        row |= {
            "model": result.config.model, "resistance_mohm": neuron.resistance, "capacitance_pf": neuron.capacitance,
            "rest_mv": neuron.rest, "reset_mv": neuron.reset, "threshold_mv": neuron.threshold,
            "width_mv": neuron.width, "held_out_bits": result.scores["held_out_bits"],
            "compared": "; ".join(f"{model} {bits:.3f}" for model, bits in result.ranked()),
            "warnings": "; ".join(result.warnings),
        }  # fmt: skip
    else:
        cell = result.cell
        row |= {
            "tau_adapt_ms": cell.tau_adapt, "adaptation": cell.adaptation, "gain_per_pa": cell.gain, "bias": cell.bias,
            "rheobase_pa": cell.rheobase, "adaptation_pa": cell.adaptation_pa, "reset_mv": cell.reset_mv,
            "scale_mv": cell.scale_mv, "training_loss": result.loss["training"],
            "warnings": "; ".join(result.warnings),
        }  # fmt: skip
    for part, values in measured.items():
        row |= {f"{part}_{name}": value for name, value in values.items()}
    return {name: row[name] for name in columns_of(task.config)}


def write_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, type], folder: Path) -> list[Path]:
    """Write cells.csv, empty fields for what is missing, and cells.parquet where pyarrow is installed."""
    place = folder / "cells.csv"
    rows = [plain(row) for row in rows]
    write_csv(place, rows, columns)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        (folder / "cells.parquet").unlink(missing_ok=True)  # of older cells
        return [place]
    kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64()}
    table = pyarrow.table(
        {name: pyarrow.array([row[name] for row in rows], kinds[kind]) for name, kind in columns.items()}
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
