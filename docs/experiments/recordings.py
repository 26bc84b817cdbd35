"""The third experiment of Taylor et al. (2023), adaptive neurons fitted to recordings: every number of recordings.md.

    python docs/experiments/recordings.py --data FOLDER [-o FOLDER] [--part NAME ...] [--page PAGE]

FOLDER of --data holds l5_cell3.npz, DRN157_5HT.npz and DRN158_GABA.npz. Each part writes NAME.json when it is done;
--page puts the tables into a page and draws its pictures, from what is there (`--part` with no names runs nothing).
Nothing is chosen by the test parts: settings were chosen by the part `choices`, which sees training parts alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
from pages import origins, result, table, write, write_json  # beside this script

from blocksim import metrics
from blocksim.ephys import (
    Cell,
    FitConfig,
    FitData,
    GIFConfig,
    Recording,
    evaluation,
    fit,
    fit_cells,
    fit_gif,
    open_parts,
    open_recording,
)
from blocksim.ephys.report import traces
from blocksim.plotting import GRID, RATE, SPIKE, save
from blocksim.trains import SpikeTrains

HERE = Path(__file__).resolve().parent
SIGMA = 10.0  # ms, standard deviation of the Gaussian of ETV, as in Teeter et al. (2018)
WINDOW = 4.0  # ms, half-width of the window of coincidences
CELLS = {"L5 pyramidal": "l5_cell3.npz", "raphe 5HT": "DRN157_5HT.npz", "raphe GABA": "DRN158_GABA.npz"}
# chosen by the part `choices`
CHOSEN = FitConfig(tau=80.0, voltage_weight=0.0)
# for sweeps over many fits
LIGHT = replace(CHOSEN, candidates=512, restarts=8, epochs=60, generations=30, population=128)
# for `choices`
COMPARED = replace(CHOSEN, tau=40.0, restarts=8, epochs=100, generations=40, population=128)
DTS = (0.05, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
RECOVERY_SPIKES = 300  # of a synthetic cell in 60 s: from fewer, other parameters give the very same spikes
ARPS = (1.0, 2.0, 4.0, 6.0, 8.0, 16.0)


def load(folder: Path, cell: str) -> tuple[Recording, Recording]:
    """Training and test part of a cell."""
    path = folder / CELLS[cell]
    if cell == "L5 pyramidal":
        return open_recording(path).split(at=12_000)
    parts = open_parts(path, current_offset=-5.0)  # the authors subtract 5 pA from the measured current
    return parts["training"], parts["test"]


def predict(cell: Cell, recording: Recording, dt: float, before: Recording | None = None) -> SpikeTrains:
    """Spike times of a cell on the current of a recording, run through what came before it, if that is given.

    Repeats of a current give one prediction: that for the mean of them.
    """
    at = recording.at_dt(dt)
    current = at.current.mean(axis=0)
    lead = 0
    if before is not None:
        earlier = before.at_dt(dt).current.mean(axis=0)
        lead = len(earlier)
        current = np.concatenate([earlier, current])
    spikes = cell.predict(current, dt, dtype=np.float32).spikes[0, lead:]
    return SpikeTrains.from_steps(spikes[None], dt)


def scores(model: SpikeTrains, recording: Recording) -> dict[str, float]:
    """Every score of one predicted train against the recorded trials."""
    trials, duration = recording.spikes, recording.duration
    result = {"spikes": float(model.counts[0]), "spikes recorded": float(trials.counts.mean())}
    for sigma in (4.0, SIGMA, 20.0):
        name = f"ETV {sigma:g} ms"
        raw = metrics.explained_temporal_variance(model, trials, sigma=sigma, duration=duration, normalise=False)[0]
        result[f"{name}, raw"] = float(raw)
        if len(trials) > 1:
            result[name] = float(raw / metrics.reliability(trials, sigma=sigma, duration=duration))
            result[f"{name}, reliability"] = float(metrics.reliability(trials, sigma=sigma, duration=duration))
    result["Gamma"] = float(metrics.gamma_factor(model, trials, window=WINDOW, duration=duration).mean())
    if len(trials) > 1:
        result["Md*"] = metrics.md_star(model, trials, window=WINDOW)
        result["intrinsic reliability"] = metrics.intrinsic_reliability(trials, window=WINDOW)
    return result


def fitted(training: Recording, config: FitConfig) -> tuple[Any, float]:
    """A fit, and its wall-clock time, compilation apart."""
    began = time.perf_counter()
    result = fit(training, config)
    return result, time.perf_counter() - began


def warm(config: FitConfig, training: Recording) -> None:
    """Compile what a fit needs."""
    small = replace(config, candidates=16, restarts=min(config.restarts, 16), epochs=2, generations=1, population=16)
    fit(training.window(0, 2000), replace(small, validation=0.0))


# ------------------------------------------------------------------------------------------------------ parts


def recovery(folder: Path, seeds: Sequence[int] = range(20)) -> list[dict[str, Any]]:
    """Synthetic cells with known parameters, 60 s of a current like the cortical recording's."""
    del folder
    dt, steps = 0.1, 600_000
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        noise, keep = rng.normal(size=steps), np.exp(-dt / 3)
        current = np.empty(steps)
        value = 0.0
        for step, drive in enumerate(noise * np.sqrt(1 - keep * keep)):
            value = keep * value + drive
            current[step] = 150 + 150 * value
        spikes = np.zeros(1, bool)
        while spikes.sum() < RECOVERY_SPIKES:
            true = Cell(
                tau_mem=rng.uniform(8, 25), tau_adapt=rng.uniform(60, 250), adaptation=rng.uniform(0.2, 1.2),
                gain=rng.uniform(0.008, 0.03), bias=rng.uniform(-2, -0.2), refractory=float(rng.choice([2, 3, 4, 5])),
            )  # fmt: skip
            spikes = true.predict(current, dt, dtype=np.float32).spikes
        began = time.perf_counter()
        result = fit(FitData(current[None], spikes, dt), FitConfig(seed=seed, epochs=40))
        names = ("tau_mem", "tau_adapt", "adaptation", "gain", "bias", "refractory")
        errors = {name: 100 * (getattr(result.cell, name) / getattr(true, name) - 1) for name in names}
        rows.append({
            "seed": seed, "spikes": int(spikes.sum()), **errors, "loss": result.loss["training"],
            "seconds": time.perf_counter() - began, "recovered": max(map(abs, errors.values())) < 5,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def choices(folder: Path) -> list[dict[str, Any]]:
    """Settings compared on the cortical cell's training part alone: four folds of 3 s, each held out once."""
    training, _ = load(folder, "L5 pyramidal")
    length = 3000.0
    folds = [training.window(start, start + length) for start in np.arange(4) * length]
    settings: list[tuple[str, FitConfig, float]] = [
        *((f"tau {tau:g} ms", replace(COMPARED, tau=tau), 0.0) for tau in (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)),
        *((f"tau 40 ms, potential's weight {w:g}", replace(COMPARED, voltage_weight=w), 0.0) for w in (0.05, 0.2)),
        *((f"tau 40 ms, input filter {ms:g} ms", COMPARED, ms) for ms in (1.0, 3.0)),
        ("tau 40 ms, no refinement", replace(COMPARED, generations=0), 0.0),
        ("tau 40 ms, search alone", replace(COMPARED, generations=0, epochs=0), 0.0),
        ("tau 40 ms, 1 restart", replace(COMPARED, restarts=1), 0.0),
        (
            "tau 40 ms, 32 restarts, population 256",
            replace(COMPARED, restarts=32, epochs=200, generations=60, population=256),
            0.0,
        ),
        ("tau 40 ms, no adaptation", replace(COMPARED, bounds={"adaptation_pa": (1e-4, 2e-4)}), 0.0),
    ]
    rows = []
    for name, config, filtered in settings:
        began = time.perf_counter()
        parts = []
        for held in range(4):
            config = replace(config, warm_up=300.0)
            pieces = [FitData.of(_filtered(fold, filtered), voltage=True, warm_up=300.0)
                      for k, fold in enumerate(folds) if k != held]  # fmt: skip
            data = FitData(
                *(np.concatenate([getattr(piece, part) for piece in pieces]) for part in ("current", "spikes")),
                training.dt, np.concatenate([piece.repeats for piece in pieces]),
                *(np.concatenate([getattr(piece, part) for piece in pieces]) for part in ("voltage", "near_spike")),
                warm_up=pieces[0].warm_up,
            )  # fmt: skip
            cell = fit(data, config).cell
            model = predict(cell, _filtered(training, filtered), training.dt)
            parts.append(model.window(held * length, (held + 1) * length)[0] + held * length)
        row = scores(SpikeTrains.of([np.concatenate(parts)]), training)
        rows.append({"settings": name, **row, "seconds": (time.perf_counter() - began) / 4})
        print(rows[-1], flush=True)
    return rows


def _filtered(recording: Recording, tau: float) -> Recording:
    """The recording with its current through a leaky filter of that time constant in ms."""
    if not tau:
        return recording
    keep = np.exp(-recording.dt / tau)
    current = np.empty_like(recording.current)
    value = recording.current[:, 0].copy()
    for step in range(recording.steps):
        value = keep * value + (1 - keep) * recording.current[:, step]
        current[:, step] = value
    return replace(recording, current=current)


def test(folder: Path) -> list[dict[str, Any]]:
    """The chosen settings on each cell: fitted on the training part, and scored once on the test part."""
    rows = []
    for name in CELLS:
        training, held = load(folder, name)
        warm(CHOSEN, training)
        result, took = fitted(training, CHOSEN)
        before = training if name == "L5 pyramidal" else None
        print(name, result.cell, flush=True)
        for part, recording, lead in (("training", training, None), ("test", held, before)):
            row = scores(predict(result.cell, recording, training.dt, lead), recording)
            rows.append({"cell": name, "part": part, **row, "seconds": took, "parameters": result.to_dict()["cell"],
                         "derived": result.to_dict()["derived"], "loss": result.loss})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def steps(folder: Path) -> list[dict[str, Any]]:
    """The paper's figure 5: ETV over the time step, refractory periods from the grid."""
    rows = []
    for name in CELLS:
        training, held = load(folder, name)
        for dt in DTS:
            grid = LIGHT.refractory if dt <= 1 else tuple(dt * k for k in range(1 + int(8 / dt)))
            result, took = fitted(training, replace(LIGHT, dt=dt, refractory=grid))
            before = training if name == "L5 pyramidal" else None
            row = scores(predict(result.cell, held, dt, before), held)
            rows.append({"cell": name, "dt": dt, "ARP": result.cell.refractory, **row, "seconds": took})
            print(rows[-1], flush=True)
    return rows


def gif_steps(folder: Path) -> list[dict[str, Any]]:
    """The same for the default model of stochastic fits."""
    rows = []
    for name in CELLS:
        training, held = load(folder, name)
        before = training if name == "L5 pyramidal" else None
        for dt in DTS:
            result = fit_gif(training, GIFConfig(dt=dt, validation=0))
            row = evaluation.evaluate(result.cell, held, dt=dt, before=before, repeats=200)
            rows.append({"cell": name, "dt": dt, **row})
            print(rows[-1], flush=True)
    return rows


def periods(folder: Path) -> list[dict[str, Any]]:
    """The paper's figure 5: ETV over the refractory period at 0.1 ms; of the cortical cell by both methods."""
    rows = []
    for name in CELLS:
        training, held = load(folder, name)
        for arp in ARPS:
            found = {}
            for method in ("blocks", "standard") if name == "L5 pyramidal" else ("blocks",):
                config = replace(LIGHT, refractory=(arp,), method=method)
                warm(config, training)
                found[method] = fitted(training, config)
            result = found["blocks"][0]
            before = training if name == "L5 pyramidal" else None
            row = scores(predict(result.cell, held, training.dt, before), held)
            rows.append({"cell": name, "ARP": arp, **row, "seconds": found["blocks"][1]})
            if "standard" in found:
                other = found["standard"][0]
                theirs = scores(predict(other.cell, held, training.dt, before), held)
                rows[-1] |= {
                    "standard, s": found["standard"][1], "standard, ETV": theirs["ETV 10 ms"],
                    "standard, Md*": theirs["Md*"], "loss": result.loss["training"],
                    "standard, loss": other.loss["training"],
                }  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def speed(folder: Path) -> list[dict[str, Any]]:
    """Times on one core, after compilation."""
    training, _ = load(folder, "L5 pyramidal")
    rows = []
    one = training.select(0)
    windows = [one.window(1000 * k, 1000 * k + 1000) for k in range(3)]
    data = FitData(
        np.concatenate([w.current for w in windows]), np.concatenate([w.spike_counts() for w in windows]), training.dt
    )
    plain = FitConfig(
        voltage_weight=0.0, candidates=256, restarts=1, epochs=200, generations=0, patience=10**6, refractory=(2.0,)
    )
    jobs: list[tuple[str, Callable[[], Any]]] = [
        ("three 1 s windows, 0.1 ms: search of 256, one restart of 200 epochs", lambda: fit(data, plain)),
        ("the same, step by step", lambda: fit(data, replace(plain, method="standard"))),
        ("the same with the default stages", lambda: fit(data, FitConfig(voltage_weight=0.0))),
        ("146 such fits in one run", lambda: fit_cells([data] * 146, plain)),
        ("L5, 9 x 12 s, 16 restarts, repeats merged", lambda: fit(training, CHOSEN)),
        ("L5, 9 x 12 s, 16 restarts, every sweep simulated", lambda: fit(
            training, replace(CHOSEN, merge=False, generations=0, patience=10**6))),
    ]  # fmt: skip
    for name, job in jobs:
        job() if "146" not in name and "every" not in name else None
        times, work = [], []
        for _ in range(3 if "146" not in name and "every" not in name else 1):
            began, used = time.perf_counter(), time.process_time()
            job()
            times.append(time.perf_counter() - began)
            work.append(time.process_time() - used)
        rows.append({"work": name, "seconds": float(np.median(times)), "processor": float(np.median(work))})
        print(rows[-1], flush=True)
    return rows


def stochastic(folder: Path) -> list[dict[str, Any]]:
    """Neurons with escape noise: chosen by a held-out fifth of the training part, then scored once on the test part."""
    rows = []
    for name in CELLS:
        training, held = load(folder, name)
        before = training if name == "L5 pyramidal" else None
        configs = {model: GIFConfig(model=model) for model in ("lif", "alif", "glif", "gif", "igif")}
        configs["igif, refined"] = GIFConfig(refine="joint")
        for model, config in configs.items():
            fit_gif(training.window(0, 4000), replace(config, validation=0.0))  # compiles
            times = []
            for _ in range(3 if config.refine == "none" else 1):
                began = time.perf_counter()
                fit_gif(training, replace(config, validation=0.0))
                times.append(time.perf_counter() - began)
            found = fit_gif(training, config)
            found.cell.sample(training.current[0, :200], training.dt, seed=0)  # compiles
            began = time.perf_counter()
            found.cell.sample(training.current[0, :100_000], training.dt, repeats=500, seed=0)
            sampled = time.perf_counter() - began
            scored = evaluation.evaluate(found.cell, held, before=before, repeats=500, seed=0)
            rows.append({
                "cell": name, "model": model, **{f"training {key}": value for key, value in found.scores.items()},
                **scored, "seconds": float(np.median(times)), "sampled": sampled, "warnings": list(found.warnings),
                "parameters": found.to_dict()["cell"],
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def noiseless(folder: Path) -> list[dict[str, Any]]:
    """The same without noise, by the threshold at which the training part has as many spikes as recorded."""
    rows = []
    for name in CELLS:
        training, held = load(folder, name)
        found = fit_gif(training, GIFConfig(noise=False))
        scored = evaluation.evaluate(found.cell, held, before=training if name == "L5 pyramidal" else None)
        rows.append({"cell": name, **scored, "seconds": found.seconds, "parameters": found.to_dict()["cell"]})
        print(rows[-1], flush=True)
    return rows


def many(folder: Path) -> list[dict[str, Any]]:
    """The fits of 146 cells one after another, each of three windows of 1 s of the cortical cell, as in the paper."""
    training, _ = load(folder, "L5 pyramidal")
    rng = np.random.default_rng(0)
    cells = []
    for _ in range(146):
        parts = [training.window(start, start + 1000) for start in rng.uniform(0, training.duration - 1100, 3)]
        sweeps = rng.integers(0, training.sweeps, 3)
        current, voltage = (
            np.stack([getattr(part, name)[sweep] for part, sweep in zip(parts, sweeps, strict=True)])
            for name in ("current", "voltage")
        )
        spikes = [part.spikes[sweep] for part, sweep in zip(parts, sweeps, strict=True)]
        cells.append(Recording(current, voltage, training.sampling_rate, spikes))
    rows = []
    for model in ("gif", "igif"):
        config = GIFConfig(model=model)
        fit_gif(cells[0], config)  # compiles
        times = []
        for _ in range(3):
            began = time.perf_counter()
            for cell in cells:
                fit_gif(cell, config)
            times.append(time.perf_counter() - began)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        rows.append({"model": model, "seconds": float(np.median(times)), "most": max(times), "memory": memory})
        print(rows[-1], flush=True)
    predicted = evaluation.predict(fit_gif(training).cell, training, training.dt, repeats=500)
    evaluation.scores(predicted)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rows.append({"model": "igif of 9 x 12 s, and the scores of 500 repetitions", "memory": memory})
    return rows


# speed first: its times want a machine that is still quiet
PARTS = {
    "speed": speed,
    "stochastic": stochastic,
    "noiseless": noiseless,
    "many": many,
    "test": test,
    "periods": periods,
    "steps": steps,
    "gif_steps": gif_steps,
    "choices": choices,
    "recovery": recovery,
}


# ------------------------------------------------------------------------------------------ tables and pictures

SCORES = {
    "spikes": "spikes", "spikes recorded": "recorded", "ETV 10 ms": "ETV", "ETV 10 ms, raw": "not normalised",
    "ETV 10 ms, reliability": "of the trials", "ETV 4 ms": "ETV, 4 ms", "ETV 20 ms": "ETV, 20 ms", "Gamma": "Gamma",
    "Md*": "Md*", "intrinsic reliability": "intrinsic reliability",
}  # fmt: skip
STOCHASTIC = {
    "cell": "cell", "model": "model", "training held_out_bits": "bits, held out", "bits": "bits", "md_star": "Md*",
    "intrinsic_reliability": "of the trials", "etv": "ETV", "potential_r2": "R2 of the potential", "rate_hz": "Hz",
    "rate_recorded_hz": "recorded, Hz", "seconds": "fit, s", "sampled": "500 x 10 s, s",
}  # fmt: skip
MANY = {
    "model": "model", "seconds": "146 fits, s", "most": "the slowest of 3, s", "memory": "peak memory so far, GB",
}  # fmt: skip
NOISELESS = {
    "cell": "cell", "md_star": "Md*", "intrinsic_reliability": "of the trials", "etv": "ETV", "gamma": "Gamma",
    "potential_r2": "R2 of the potential", "rate_hz": "Hz", "rate_recorded_hz": "recorded, Hz",
}  # fmt: skip
MODEL_ONLY = ("spikes", "ETV 10 ms", "ETV 4 ms", "ETV 20 ms", "Gamma", "Md*")
ERRORS = ("tau_mem", "tau_adapt", "adaptation", "gain", "bias", "refractory")
METHODS = {"ETV": ("ETV 10 ms", "standard, ETV"), "Md*": ("Md*", "standard, Md*"), "loss": ("loss", "standard, loss")}
Rows = list[dict[str, Any]]


def shown(value: Any, decimals: int = 3) -> str:
    """A value in a table: numbers from ten on to three digits, smaller ones to so many decimals."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) >= 10 else f"{value:.{decimals}f}"
    return "" if value is None else str(value)


def pick(rows: Rows, columns: dict[str, str]) -> str:
    """A table of some values of the rows; columns by the name of the value and what it is called."""
    return table(list(columns.values()), [[shown(row.get(name)) for name in columns] for row in rows])


def pivot(rows: Rows, over: str, value: str) -> str:
    """One value: a line for each cell, a column for each value of `over`."""
    at = {(row["cell"], row[over]): row[value] for row in rows}
    columns, cells = list(dict.fromkeys(row[over] for row in rows)), list(dict.fromkeys(row["cell"] for row in rows))
    lines = [[cell, *(shown(at.get((cell, column))) for column in columns)] for cell in cells]
    return table(["cell", *(f"{column:g}" for column in columns)], lines)


def of_parameters(rows: Rows) -> str:
    """The parameters that each cell's fit found."""
    lines = []
    for row in (row for row in rows if row["part"] == "training"):
        found, derived = row["parameters"], row["derived"]
        volts = derived["millivolts"]
        lines.append([
            row["cell"], f"{found['tau_mem']:.3g}", f"{found['tau_adapt']:.3g}", f"{derived['rheobase']:.4g}",
            f"{derived['adaptation_pa']:.3g}", f"{found['gain']:.3g}", f"{found['refractory']:g}",
            f"{volts['rest']:.1f}", f"{volts['threshold']:.1f}", f"{volts['input resistance (MOhm)']:.3g}",
        ])  # fmt: skip
    return table(["cell", "tau_mem, ms", "tau_adapt, ms", "rheobase, pA", "adaptation, pA", "gain, 1/pA", "ARP, ms",
                  "rest, mV", "threshold, mV", "resistance, MOhm"], lines)  # fmt: skip


def of_methods(rows: Rows) -> str:
    """The cortical cell by blocks and step by step, over the refractory period."""
    lines = []
    for row in (row for row in rows if "standard, s" in row):
        values = [f"{row[name]:.3f}" for pair in METHODS.values() for name in pair]
        lines.append([f"{row['ARP']:g}", *values, f"{row['seconds']:.2f}", f"{row['standard, s']:.2f}"])
    header = [f"{name}, {way}" for name in METHODS for way in ("blocks", "step by step")]
    return table(["ARP, ms", *header, "blocks, s", "step by step, s"], lines)


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Every table of the page whose part is there."""
    made = {}
    rows: dict[str, Rows] = {name: part["rows"] for name, part in found.items()}
    if "recovery" in rows:
        made["recovery"] = pick(rows["recovery"], {
            "seed": "seed", "spikes": "spikes", **{name: f"{name}, %" for name in ERRORS}, "loss": "loss",
            "recovered": "within 5 %",
        })  # fmt: skip
    if "stochastic" in rows:
        made["stochastic"] = pick(rows["stochastic"], STOCHASTIC)
    if "many" in rows:
        made["many"] = pick(rows["many"], MANY)
    if "noiseless" in rows:
        made["noiseless"] = pick(rows["noiseless"], NOISELESS)
    if "choices" in rows:
        made["choices"] = pick(rows["choices"], {"settings": "settings", **{name: SCORES[name] for name in MODEL_ONLY}})
    if "test" in rows:
        made["test"] = pick(rows["test"], {"cell": "cell", "part": "part", **SCORES})
        made["parameters"] = of_parameters(rows["test"])
    if "steps" in rows:
        made["steps"] = pivot(rows["steps"], "dt", "ETV 10 ms")
        made["steps-md"] = pivot(rows["steps"], "dt", "Md*")
    if "gif_steps" in rows:
        made["gif-steps"] = pivot(rows["gif_steps"], "dt", "etv")
        made["gif-steps-md"] = pivot(rows["gif_steps"], "dt", "md_star")
    if "periods" in rows:
        made["periods"] = pivot(rows["periods"], "ARP", "ETV 10 ms")
        made["methods"] = of_methods(rows["periods"])
    if "speed" in rows:
        made["speed"] = pick(rows["speed"], {"work": "work", "seconds": "s", "processor": "s of processor time"})
    if found:
        made["where"] = origins(found, "threads")
    return made


def draw(over_steps: Sequence[dict[str, Any]], over_periods: Sequence[dict[str, Any]], path: Path) -> None:
    """ETV over the time step and over the refractory period, as in the paper's figure 5."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=130, layout="constrained", facecolor="white")
    for ax, rows, key, words in zip(
        figure.subplots(1, 2, sharey=True), (over_steps, over_periods), ("dt", "ARP"),
        ("time step (ms)", "refractory period (ms)"), strict=True,
    ):  # fmt: skip
        for name, colour, mark in zip(CELLS, (SPIKE, RATE, "#3f7d4e"), "osD", strict=True):
            mine = [row for row in rows if row["cell"] == name]
            ax.plot(
                [row[key] for row in mine], [row["ETV 10 ms"] for row in mine], color=colour, marker=mark, label=name
            )
        ax.set_xscale("log")
        ticks = [row[key] for row in rows if row["cell"] == rows[0]["cell"]]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel(words)
        ax.grid(color=GRID, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("normalised ETV of the test part")
    figure.axes[0].set_ylim(0, 1)
    figure.axes[1].legend(frameon=False)
    save(figure, path)


def draw_traces(rows: Sequence[dict[str, Any]], data: Path, path: Path) -> None:
    """Example traces: the cortical cell's test part."""
    training, held = load(data, "L5 pyramidal")
    cell = next(Cell(**row["parameters"]) for row in rows if row["cell"] == "L5 pyramidal")
    save(traces(evaluation.predict(cell, held, training.dt, before=training)), path)


def write_page(found: dict[str, Any], page: Path, images: Path, data: Path | None) -> None:
    """Tables into the page, and its pictures; that of the traces needs the recordings."""
    write(page, tables(found))
    images.mkdir(parents=True, exist_ok=True)
    if {"steps", "periods"} <= set(found):
        draw(found["steps"]["rows"], found["periods"]["rows"], images / "recordings-sweeps.png")
    if "test" in found and data is not None:
        draw_traces(found["test"]["rows"], data, images / "recordings-traces.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run parts, write their numbers, and a page of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the recordings")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "recordings", help="of the results")
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS), help="none: tables and pictures alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, help="a page to write the tables into")
    parser.add_argument("--images", type=Path, default=HERE.parent / "images", help="where --page draws")
    options = parser.parse_args(arguments)
    if options.part and options.data is None:
        parser.error("expected --data, the folder of the recordings")
    numba.set_num_threads(options.threads)
    options.output.mkdir(exist_ok=True, parents=True)
    for name in options.part:
        rows = PARTS[name](options.data)
        write_json(options.output / f"{name}.json", result(rows, threads=options.threads))
    found = {name: json.loads((options.output / f"{name}.json").read_text()) for name in PARTS
             if (options.output / f"{name}.json").is_file()}  # fmt: skip
    for name, text in tables(found).items():
        print(f"\n{name}\n\n{text}", end="")
    if options.page:
        write_page(found, options.page, options.images, options.data)


if __name__ == "__main__":
    main()
