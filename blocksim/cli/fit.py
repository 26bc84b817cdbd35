"""`blocksim fit`: neurons fitted to recordings, one file or many, each with its own folder of results."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from blocksim._array_io import make_folder
from blocksim._libraries import library
from blocksim._settings import check_names, checked, make, read_settings, section
from blocksim.cli.options import Several, backend_option, console, progress
from blocksim.ephys._fitting.batch import (
    DONE,
    NWB,
    PREDICTIONS,
    REPORT,
    Task,
    attempt,
    columns_of,
    finished,
    fit_file,
    open_split,
    write_table,
)
from blocksim.ephys._fitting.config import FitConfig
from blocksim.ephys._gif.config import ELECTRODES, MODELS, REFINEMENTS, GIFConfig
from blocksim.ephys._recordings.detection import Detection
from blocksim.ephys._recordings.formats import FORMATS, open_recording
from blocksim.errors import ArgumentError, BlocksimError, FileError
from blocksim.executors import open_executor, run_tasks
from blocksim.plotting import require_matplotlib

SECTIONS = ("fit", "recording", "detection")
# of files that hold current and potential
SUFFIXES = tuple(dict.fromkeys(suffix for kind in FORMATS if not kind.separate for suffix in kind.suffixes))
# arguments of `open_recording` that a command line gives otherwise: files, and the parts and sweeps of a fit
NOT_SETTINGS = ("path", "voltage", "sweeps", "detection", "name")
SHOWN = {
    "rate_hz": "rate (Hz)", "rate_recorded_hz": "  recorded (Hz)", "etv": "ETV, normalised, 10 ms",
    "etv_raw": "ETV, 10 ms", "etv_reliability": "  of the trials", "gamma": "Gamma, 4 ms", "md_star": "Md*, 4 ms",
    "md_star_2ms": "Md*, 2 ms", "md_star_8ms": "Md*, 8 ms",
    "intrinsic_reliability": "  intrinsic reliability, 4 ms", "potential_r2": "potential, R2",
    "bits": "bits for each spike", "ks": "Kolmogorov-Smirnov distance",
}  # fmt: skip
# options of the search for an ALIF neuron
OF_ALIF = ("tau", "restarts", "epochs")
# settings that only one kind of fit has; by those of the likelihood the ALIF neuron is the stochastic one
OF_SEARCH = {item.name for item in fields(FitConfig)} - {item.name for item in fields(GIFConfig)}
OF_LIKELIHOOD = {item.name for item in fields(GIFConfig)} - {item.name for item in fields(FitConfig)} - {"noise"}


@click.command()
@click.argument("sources", metavar="FILES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--config", type=click.Path(path_type=Path), help="Settings file, .toml or .json.")
@click.option(
    "--model",
    type=click.Choice([*reversed(MODELS), "auto"]),
    help="igif, gif, glif, lif: stochastic neurons, from one whose threshold follows the potential to one without "
    "adaptation; auto: the one of them that predicts a held-out part best; alif: a deterministic neuron, by search, or "
    "with --refine or --select a stochastic one.  [default: igif; alif where an option of its search is given]",
)
@click.option(
    "--dt",
    type=Several(float, "steps in ms"),
    help="Time step in ms; of several (alif), the best is kept.  [default: the file's]",
)
@click.option("--tau", type=float, help="alif: time constant of the van Rossum distance in ms.  [default: 40]")
@click.option(
    "--refractory", type=Several(float, "periods in ms"), help="Refractory period in ms, or candidates (alif)."
)
@click.option("--deterministic", is_flag=True, help="Stochastic models: take the noise away once it is fitted.")
@click.option(
    "--select", is_flag=True, help="Stochastic models: choose the number of time constants by a held-out part."
)
@click.option(
    "--refine",
    type=click.Choice(REFINEMENTS[1:]),
    help="Stochastic models: let all numbers follow the gradient of the likelihood, of spikes and potential together, "
    "or of spikes alone (needs SciPy).",
)
@click.option(
    "--fix",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Number that is known and not fitted, such as tau_mem=20; repeatable.",
)
@click.option(
    "--electrode",
    metavar="KIND",
    help="series: fit a series resistance. Or a recording below threshold through the same electrode, as a file or a "
    "part of FILES: the electrode's kernel is measured there and compensated.  [default: none]",
)
@click.option("--restarts", type=int, help="alif: number of gradient descents.  [default: 16]")
@click.option("--epochs", type=int, help="alif: maximum number of steps of a descent.  [default: 200]")
@click.option("--seed", type=int, help="Random seed.  [default: 0]")
@backend_option(help="alif: backend, numpy, numba, cupy or auto.  [default: numba]")
@click.option(
    "--test-from",
    type=float,
    help="Start of the test part in ms.  [default: as the file says, or 3/4 of the recording]",
)
@click.option("--sweeps", multiple=True, help="Sweep to use, by number or label; repeatable.  [default: all]")
@click.option("--test-sweeps", multiple=True, help="Sweep to test on, by number or label; repeatable.")
@click.option("--part", help="Name of the recording in a file that holds several.")
@click.option("--sampling-rate", type=float, help="Sampling rate in Hz; overrides the file's.")
@click.option("--current-unit", help="Unit of the current, pA, nA or A; overrides the file's.")
@click.option("--voltage-unit", help="Unit of the potential, mV or V; overrides the file's.")
@click.option("--current-offset", type=float, help="Offset to add to the current, in pA.")
@click.option("--swap", is_flag=True, help="Swap current and potential.")
@click.option("--detection-threshold", type=float, help="Threshold of spike detection in mV.  [default: 0]")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, help="Number of files to fit at a time, one process each."
)
@click.option("--dask", metavar="ADDRESS", help="Fit on the Dask cluster of this scheduler.")
@click.option("--no-report", is_flag=True, help="Do not write the report (which needs matplotlib).")
@click.option(
    "--nwb", is_flag=True, help="Write the recording with its fit and predictions as fit.nwb, too (needs pynwb)."
)
@click.option("--overwrite", is_flag=True, help="Fit again what was fitted with other settings.")
def fit(
    sources: tuple[Path, ...],
    output: Path,
    config: Path | None,
    model: str | None,
    backend: str | None,
    electrode: str | None,
    test_from: float | None,
    test_sweeps: tuple[str, ...],
    jobs: int,
    dask: str | None,
    no_report: bool,
    nwb: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Fit integrate-and-fire neurons to recordings of current and potential.

    FILES are recordings, or folders of them. For one file, the output folder holds fit.json, predictions.npz,
    report.html and, with --nwb, fit.nwb. For several, it holds a folder for each, and a table of all cells, cells.csv.
    A file that fails is reported and does not stop the others. Finished fits are not repeated.
    """
    of_fit = electrode if electrode in ELECTRODES else None
    settings, recording = _settings(config, {**options, "electrode": of_fit}, model, backend)
    if not no_report:
        require_matplotlib()
    if nwb:
        library("pynwb", "nwb", "--nwb")
    files = _files(sources)
    several = len(files) > 1 or files != list(sources)
    folders = _folders(files, output) if several else [output]
    made = not output.exists()
    make_folder(output)
    tasks = [
        Task(
            str(source),
            str(folder),
            settings,
            recording,
            test_from=test_from,
            test_sweeps=_chosen(test_sweeps) or None,
            report=not no_report,
            nwb=nwb,
            overwrite=overwrite,
            electrode=None if of_fit else electrode,
        )
        for source, folder in zip(files, folders, strict=True)
    ]
    screen = console()
    if not several:
        try:
            _one(tasks[0], screen)
        except BlocksimError:
            if made:  # and nothing was written to it
                with contextlib.suppress(OSError):
                    output.rmdir()
            raise
        return
    rows, problems = _many(tasks, jobs, dask, screen)
    done = [row for row in rows if row is not None]
    places = write_table(done, columns_of(settings), output)
    _summarise(done, screen)
    screen.print(f"written: {', '.join(str(place) for place in places)}")
    if problems:
        raise FileError(f"{problems} of {len(tasks)} files failed, as said above")


def _settings(
    config: Path | None, options: Mapping[str, Any], model: str | None, backend: str | None
) -> tuple[FitConfig | GIFConfig, dict[str, Any]]:
    """Settings of the fit and of reading: those of the file, with the options over them."""
    read = {} if config is None else read_settings(config)
    check_names("settings", read, SECTIONS)
    fit_settings = section("fit", read)
    named = fit_settings.pop("model", None)
    given = {name: options[name] for name in ("dt", "refractory", *OF_ALIF, "seed") if options[name] is not None}
    given |= {"backend": backend} if backend else {}
    given |= {"noise": False} if options["deterministic"] else {}
    given |= {"select": True} if options["select"] else {}
    given |= {name: options[name] for name in ("refine", "electrode") if options[name] is not None}
    if options["fix"]:
        given["fixed"] = _all_fixed(fit_settings.get("fixed"), options["fix"])
    model = model or named or _implied(fit_settings | given)
    searched = model == "alif" and not OF_LIKELIHOOD & set(fit_settings | given)
    if searched and options["deterministic"]:
        raise ArgumentError("--deterministic: expected with a stochastic model, as igif; found --model alif")
    if not searched:
        of_search = sorted((OF_SEARCH & set(fit_settings)) - set(given))
        if model == "alif" and of_search:
            by = sorted(OF_LIKELIHOOD & set(fit_settings | given))
            raise ArgumentError(
                f"[fit]: expected settings of one kind of fit; found {', '.join(of_search)} of the search and "
                f"{', '.join(by)} of the likelihood"
            )
        if others := [f"--{name}" for name in (*OF_ALIF, "backend") if name in given]:
            raise ArgumentError(
                f"{', '.join(others)}: expected with --model alif, without --refine and --select; found --model {model}"
            )
        for name in {"dt", "refractory"} & set(given):
            if len(given[name]) != 1:
                raise ArgumentError(f"--{name}: expected one number for --model {model}; found {given[name]}")
            (given[name],) = given[name]
    fit_settings |= given
    recording = section("recording", read)
    for name in ("part", "sampling_rate", "current_unit", "voltage_unit", "current_offset"):
        if options[name] is not None:
            recording[name] = options[name]
    if options["swap"]:
        recording["swap"] = True
    reading = [name for name in inspect.signature(open_recording).parameters if name not in NOT_SETTINGS]
    recording = checked(open_recording, "[recording]", recording, reading)
    if options["sweeps"]:
        recording["sweeps"] = _chosen(options["sweeps"])
    detection = section("detection", read)
    if options["detection_threshold"] is not None:
        detection["threshold"] = options["detection_threshold"]
    if detection:
        recording["detection"] = make(Detection, "[detection]", detection)
    if searched:
        return make(FitConfig, "[fit]", fit_settings), recording
    return make(GIFConfig, "[fit]", {**fit_settings, "model": model}), recording


def _chosen(sweeps: tuple[str, ...]) -> list[int | str]:
    """Sweeps by number, where it is one, or label."""
    return [int(sweep) if sweep.lstrip("-").isdigit() else sweep for sweep in sweeps]


def _all_fixed(in_file: Any, texts: Sequence[str]) -> dict[str, float]:
    """The known numbers of a settings file, with those of the command line over them."""
    pairs = [_fixed(text) for text in texts]
    fixed = dict(pairs)
    if len(fixed) < len(pairs):
        raise ArgumentError(f"--fix: expected each name once; found {', '.join(name for name, _ in pairs)}")
    return {**(in_file if isinstance(in_file, Mapping) else {}), **fixed}


def _fixed(text: str) -> tuple[str, float]:
    """A name and a number of "name=number"."""
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ArgumentError(f"--fix: expected NAME=NUMBER, such as tau_mem=20; found {text!r}") from None


def _implied(settings: Mapping[str, Any]) -> str:
    """The model where none is named: ALIF where a setting of its search is given, as scripts of 0.1.0 do."""
    several = any(
        isinstance(settings.get(name), (tuple, list)) and len(settings[name]) > 1 for name in ("dt", "refractory")
    )
    return "alif" if several or OF_SEARCH & set(settings) else GIFConfig().model


def _files(sources: tuple[Path, ...]) -> list[Path]:
    """The recordings: in place of a folder those in it, in the order of their names."""
    files: list[Path] = []
    for source in sources:
        if not source.is_dir():
            files.append(source)
            continue
        inside = sorted(item for item in source.iterdir() if item.is_file() and not item.name.startswith("."))
        recorded = [item for item in inside if item.suffix.lower() in SUFFIXES]
        if not recorded:
            raise FileError(
                f"{source}: expected recordings ({', '.join(SUFFIXES)}) in the folder; found {len(inside)} files, none "
                "of them with such a suffix"
            )
        files += recorded
    return files


def _folders(files: list[Path], output: Path) -> list[Path]:
    names = [source.stem for source in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArgumentError(f"FILES: expected names that differ, one folder for each; found {', '.join(twice)} twice")
    return [output / name for name in names]


def _one(task: Task, screen: Console) -> None:
    row = finished(task)
    made = "results" if row else "written"
    if row is not None:
        screen.print(f"{Path(task.folder)}: finished before, with the same settings; nothing to do")
    else:
        parts = open_split(task)  # a wrong file is found before a bar is drawn
        with progress("") as bar:
            item = bar.add_task("fitting", total=1)
            row = fit_file(task, lambda stage, done, total: bar.update(
                item, description=stage, completed=done, total=max(total, 1)), parts)  # fmt: skip
    _print(row, screen)
    places = [Path(task.folder) / name for name in (DONE, PREDICTIONS, REPORT, NWB)]
    screen.print(f"{made}: {', '.join(str(place) for place in places if place.is_file())}")


def _summarise(rows: list[dict[str, Any]], screen: Console) -> None:
    """Medians over cells of the scores that there are, and how often each model was kept."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for column in (f"{len(rows)} cells", "median", "lowest", "highest"):
        table.add_column(column, justify="left" if "cells" in column else "right")
    for name, words in SHOWN.items():
        values = np.array([row.get(f"test_{name}", np.nan) for row in rows], np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            table.add_row(
                f"test, {words.strip()}", *(_number(f(values)) for f in (np.median, np.min, np.max)),
            )  # fmt: skip
    screen.print(table)
    models = Counter(row["model"] for row in rows if row.get("model"))
    if len(models) > 1:
        screen.print(", ".join(f"{model}: {count} cells" for model, count in models.most_common()))


def _print(row: Mapping[str, Any], screen: Console) -> None:
    cell = Table(box=None, pad_edge=False, show_header=False)
    for name in ("model", "tau_mem_ms", "tau_adapt_ms", "rheobase_pa", "adaptation_pa", "gain_per_pa", "bias",
                 "adaptation", "resistance_mohm", "capacitance_pf", "rest_mv", "reset_mv", "threshold_mv", "width_mv",
                 "refractory_ms"):  # fmt: skip
        if row.get(name) is not None:
            cell.add_row(name, row[name] if isinstance(row[name], str) else f"{row[name]:.4g}")
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for part in ("training", "test"):
        table.add_column(part, justify="right")
    for name, words in SHOWN.items():
        if f"test_{name}" not in row:
            continue
        table.add_row(words, *(_number(row[f"{part}_{name}"]) for part in ("training", "test")))
    screen.print(Text.assemble((str(row["cell"]), "bold"), f", {row['seconds']:.3g} s"))
    screen.print(cell)
    screen.print(table)
    if ";" in (row.get("compared") or ""):  # more than one model
        screen.print(f"held-out bits a spike: {row['compared']}")
    if row.get("warnings"):
        for warning in row["warnings"].split("; "):
            screen.print(Text.assemble(("warning", "yellow"), f": {warning}"))


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _many(tasks: list[Task], jobs: int, dask: str | None, screen: Console) -> tuple[list[dict[str, Any] | None], int]:
    rows: list[dict[str, Any] | None] = [None] * len(tasks)
    waiting: list[int] = []
    problems = 0
    for index, task in enumerate(tasks):
        try:
            rows[index] = finished(task)
        except BlocksimError as error:
            problems += 1
            screen.print(Text.assemble(("failed", "red"), f" {Path(task.path).name}: {error}"))
            continue
        if rows[index] is None:
            waiting.append(index)
    skipped = sum(row is not None for row in rows)
    if skipped:
        screen.print(f"{skipped} of {len(tasks)} finished before")
    with open_executor(jobs, dask) as executor, progress("cells") as bar:
        item = bar.add_task("fitting", total=len(waiting))
        for outcome in run_tasks(attempt, [tasks[index] for index in waiting], executor):
            index = waiting[outcome.index]
            name = Path(tasks[index].path).name
            problem = outcome.error or (outcome.value or {}).get("problem")
            if problem:
                problems += 1
                screen.print(f"failed {name}: {problem.strip().splitlines()[-1]}")
            else:
                rows[index] = outcome.value
                etv, md_star = (_number(outcome.value[key]) for key in ("test_etv", "test_md_star"))
                screen.print(f"{name}: test ETV {etv}, Md* {md_star}, {outcome.value['seconds']:.3g} s")
            bar.advance(item)
    return rows, problems
