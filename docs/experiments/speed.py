"""The first experiment of Taylor et al. (2023), blocks against step by step: every number and picture of speed.md.

    python docs/experiments/speed.py [-o FOLDER] [--part NAME ...] [--rounds 3] [--quick] [--page PAGE]

The grid is that of the paper's code: one recurrent layer of 128 ALIF neurons on 1000 Poisson inputs over refractory
period, length and batch (`grid`), two to five layers of 128 to 512 neurons (`layers`), forward and backward. `library`
is the forward pass that its authors timed in other libraries too. Each part writes NAME.json when it is done; --page
puts the tables into a page and draws its pictures, from what is there (`--part` with no names runs nothing).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pages import decimals, origins, result, table, write, write_json  # beside this script

import blocksim
from blocksim.cli.demo import experiment
from blocksim.cli.options import progress
from blocksim.plotting import GRID, RATE, SPIKE, require_matplotlib, save

HERE = Path(__file__).resolve().parent
METHODS = ("blocks", "standard")
INPUTS, EVENTS = 1000, 100.0  # of the paper: on average so many spikes of an input, whatever the length
PERIODS = tuple(range(10, 101, 10))
LENGTHS, BATCHES = (512, 1024, 2048), (32, 64, 128)
DEPTHS, SIZES = (2, 3, 4, 5), (128, 256, 512)
SHOWN = (1024, 64)  # length and batch that tables give times of
UPPER_RATE = 0.015  # spikes of a neuron in a step, about: what upper layers' weights are made for
COLOURS = (SPIKE, RATE, "#3f7d4e")
MARKS, DASHES = "osD", ("-", "--", ":")
# of the authors' notebook library_comparison.ipynb: seconds on their GPU
NOTEBOOK = {"the paper's blocks": 0.0163, "the paper's step by step": 0.332, "SpikingJelly": 0.187, "Norse": 0.308}


@dataclass(frozen=True)
class Case:
    """One point of the grid."""

    refractory: int
    steps: int
    batch: int
    neurons: int = 128
    layers: int = 1


def network_of(case: Case) -> tuple[blocksim.Network, blocksim.Events]:
    """The layer of `blocksim demo`, the same one above another, and Poisson input."""
    first, x, _ = experiment(
        case.batch, case.steps, INPUTS, case.neurons, case.refractory, EVENTS / case.steps, "float32", seed=0
    )
    layers = [first]
    for number in range(1, case.layers):
        upper, _, _ = experiment(
            1, 1, case.neurons, case.neurons, case.refractory, UPPER_RATE, "float32", seed=number
        )  # fmt: skip
        layers.append(upper)
    return blocksim.Network(tuple(layers)), x


def measured(case: Case, rounds: int, x: blocksim.Events | None = None) -> dict[str, Any]:
    """Seconds of both methods, forward and backward, one after the other in each round; a call before compiles.

    The loss is the sum of the last layer's spikes, as in the paper's benchmark.
    """
    network, own = network_of(case)
    x = own if x is None else x
    row: dict[str, Any] = {"refractory": case.refractory, "steps": case.steps, "batch": case.batch,
                           "neurons": case.neurons, "layers": case.layers}  # fmt: skip
    seconds: dict[str, dict[str, list[float]]] = {method: {"forward": [], "backward": []} for method in METHODS}
    counts: dict[str, np.ndarray] = {}
    for number in range(rounds + 1):
        for method in METHODS:
            began = time.perf_counter()
            run = blocksim.simulate(network, x, method=method, tape=True)
            middle = time.perf_counter()
            run.backward(np.ones_like(run.output))
            done = time.perf_counter()
            counts[method] = np.concatenate([np.ravel(layer) for layer in run.counts])
            if number:
                seconds[method]["forward"].append(middle - began)
                seconds[method]["backward"].append(done - middle)
            del run  # its tape is as large as what comes next
    row["rate"] = float(counts["blocks"].mean() / case.steps)
    row["identical"] = bool(np.array_equal(*counts.values()))
    return row | seconds


# ------------------------------------------------------------------------------------------------------ parts


def grid(rounds: int, quick: bool, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """One layer, over refractory period, length and batch."""
    rows = []
    for steps in (64, 128) if quick else LENGTHS:
        for batch in (2, 4) if quick else BATCHES:
            x = None
            for refractory in (10, 40) if quick else PERIODS:
                case = Case(refractory, steps, batch)
                if x is None:
                    _, x = network_of(case)
                tick(f"grid: {steps} steps, batch {batch}, refractory period {refractory}")
                rows.append(measured(case, rounds, x))
    return rows


def layers(rounds: int, quick: bool, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """Layers one on the other, over their number and size."""
    rows = []
    steps, batch = (64, 2) if quick else SHOWN
    for neurons in (16, 32) if quick else SIZES:
        for depth in (2, 3) if quick else DEPTHS:
            tick(f"layers: {depth} of {neurons}")
            rows.append(measured(Case(40, steps, batch, neurons, depth), rounds))
    return rows


def library(rounds: int, quick: bool, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """The authors' comparison of libraries: 200 real-valued inputs to 100 neurons, not recurrent, forward alone."""
    tick("library")
    batch, steps, inputs, neurons = (2, 50, 20, 10) if quick else (128, 1000, 200, 100)
    rng = np.random.default_rng(0)
    x = rng.random((batch, steps, inputs), dtype=np.float32)
    weights = rng.normal(0, 0.1, (inputs, neurons)).astype(np.float32)
    layer = blocksim.Layer(blocksim.ALIF(beta=0.99, p=0.99, b=0.2, refractory_steps=49), weights)
    row: dict[str, Any] = {"batch": batch, "steps": steps, "inputs": inputs, "neurons": neurons}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for number in range(max(rounds, 5) + 1):
        for method in METHODS:
            began = time.perf_counter()
            run = blocksim.simulate(layer, x, method=method)
            if number:
                seconds[method].append(time.perf_counter() - began)
    return [row | {"rate": float(run.spikes.mean())} | seconds]


PARTS = {"library": library, "grid": grid, "layers": layers}


# ------------------------------------------------------------------------------------------ tables and pictures


def fastest(row: dict[str, Any], method: str, part: str = "both") -> float:
    """Seconds of the fastest round, which other programs on the machine trouble least."""
    parts = ("forward", "backward") if part == "both" else (part,)
    return float(np.sum([row[method][name] for name in parts], axis=0).min())


def ratio(row: dict[str, Any], part: str = "both") -> float:
    """Step by step over blocks."""
    return fastest(row, "standard", part) / fastest(row, "blocks", part)


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.{decimals(1e3 * seconds)}f}"


def tables(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Every table of the page whose part is there."""
    made = {}
    if "grid" in found:
        rows = found["grid"]["rows"]
        lengths, batches = (sorted({row[key] for row in rows}) for key in ("steps", "batch"))
        periods = sorted({row["refractory"] for row in rows})
        at = {(row["refractory"], row["steps"], row["batch"]): row for row in rows}
        made["speed-ups"] = table(
            ["ARP, steps", *(f"T {steps}, batch {batch}" for steps in lengths for batch in batches)],
            [[str(period), *(f"{ratio(at[period, steps, batch]):.2f}" for steps in lengths for batch in batches)]
             for period in periods],
        )  # fmt: skip
        shown = SHOWN if (periods[0], *SHOWN) in at else (lengths[0], batches[0])
        lines = []
        for period in periods:
            row = at[(period, *shown)]
            times = [milliseconds(fastest(row, method, part)) for part in ("forward", "backward") for method in METHODS]
            lines.append([str(period), f"{1e3 * row['rate']:.1f}", *times[:2], f"{ratio(row, 'forward'):.2f}",
                          *times[2:], f"{ratio(row, 'backward'):.2f}", f"{ratio(row):.2f}"])  # fmt: skip
        made["times"] = table(
            ["ARP, steps", "spikes of a neuron in 1000 steps", "forward, blocks, ms", "step by step, ms", "ratio",
             "backward, blocks, ms", "step by step, ms", "ratio", "ratio of both"], lines,
        )  # fmt: skip
    if "layers" in found:
        rows = found["layers"]["rows"]
        made["layers"] = table(
            ["layers", "neurons in each", "blocks, ms", "step by step, ms", "ratio"],
            [[str(row["layers"]), str(row["neurons"]), *(milliseconds(fastest(row, method)) for method in METHODS),
              f"{ratio(row):.2f}"] for row in rows],
        )  # fmt: skip
    if "library" in found:
        row = found["library"]["rows"][0]
        ours = {"blocksim, blocks": row["blocks"], "blocksim, step by step": row["standard"]}
        lines = [[name, "this CPU, 2 cores", milliseconds(min(values))] for name, values in ours.items()]
        lines += [[name, "the authors' GPU", milliseconds(value)] for name, value in NOTEBOOK.items()]
        made["library"] = table(["forward pass", "on", "ms"], lines)
    if found:
        made["where"] = origins(found, "rounds")
    return made


def _clean(axes: Any, words: str) -> None:
    axes.set_xlabel(words)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_grid(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Speed-up over the refractory period, a panel for each length: the paper's figure 3, left."""
    from matplotlib.figure import Figure

    lengths, batches = (sorted({row[key] for row in rows}) for key in ("steps", "batch"))
    figure = Figure(figsize=(9, 3.3), dpi=130, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
    for axes, steps in zip(panels, lengths, strict=True):
        for batch, colour, mark, dash in zip(batches, COLOURS, MARKS, DASHES, strict=False):
            mine = [row for row in rows if (row["steps"], row["batch"]) == (steps, batch)]
            axes.plot([row["refractory"] for row in mine], [ratio(row) for row in mine], color=colour, marker=mark,
                      linestyle=dash, label=f"batch {batch}")  # fmt: skip
        axes.axhline(1, color="#8a8a8a", linewidth=0.8)
        axes.set_title(f"{steps} steps", fontsize=11, loc="left")
        _clean(axes, "refractory period (steps)")
    panels[0].set_ylabel("speed-up of blocks")
    panels[0].set_ylim(bottom=0)  # of all panels, so not before all are drawn
    panels[-1].legend(frameon=False, loc="lower right")
    save(figure, path)


def draw_layers(grid_rows: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Left: times over the refractory period. Right: speed-up over layers and sizes, the paper's figure 3, right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.3), dpi=130, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    at = [row for row in grid_rows if (row["steps"], row["batch"]) == SHOWN] or list(grid_rows)
    for method, words, colour, mark, dash in zip(
        METHODS, ("blocks", "step by step"), COLOURS, MARKS, DASHES, strict=False
    ):
        for part, filled in (("both", True), ("forward", False)):
            values = [1e3 * fastest(row, method, part) for row in at]
            name = f"{words}, {'forward and backward' if filled else 'forward'}"
            left.plot([row["refractory"] for row in at], values, color=colour, marker=mark, linestyle=dash, label=name,
                      markerfacecolor=colour if filled else "white")  # fmt: skip
    left.set_ylabel("time (ms)")
    left.legend(frameon=False, fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    left.set_ylim(bottom=0)
    _clean(left, "refractory period (steps)")
    depths, sizes = (sorted({row[key] for row in rows}) for key in ("layers", "neurons"))
    width = 0.8 / len(sizes)
    for number, (size, colour) in enumerate(zip(sizes, COLOURS, strict=False)):
        mine = {row["layers"]: ratio(row) for row in rows if row["neurons"] == size}
        places = np.arange(len(depths)) + (number - (len(sizes) - 1) / 2) * width
        right.bar(places, [mine[depth] for depth in depths], 0.92 * width, color=colour, label=f"{size} neurons")
    right.axhline(1, color="#8a8a8a", linewidth=0.8)
    right.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    right.set_ylabel("speed-up of blocks")
    right.legend(frameon=False, fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.13))
    _clean(right, "layers")
    save(figure, path)


def write_page(found: dict[str, dict[str, Any]], page: Path, images: Path) -> None:
    """Tables into the page, and its pictures."""
    write(page, tables(found))
    if {"grid", "layers"} <= set(found):
        require_matplotlib()
        images.mkdir(parents=True, exist_ok=True)
        draw_grid(found["grid"]["rows"], images / "speed-grid.png")
        draw_layers(found["grid"]["rows"], found["layers"]["rows"], images / "speed-layers.png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "speed", help="folder of the results")
    parser.add_argument("--part", nargs="*", choices=list(PARTS), default=list(PARTS), help="none: pages alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few small cases: that it works, and no result")
    parser.add_argument("--page", type=Path, help="a page to write the tables into")
    parser.add_argument("--images", type=Path, default=HERE.parent / "images", help="where --page draws")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    points = {"grid": len(LENGTHS) * len(BATCHES) * len(PERIODS), "layers": len(DEPTHS) * len(SIZES), "library": 1}
    if options.quick:
        points = {"grid": 8, "layers": 4, "library": 1}
    with progress("cases") as bar:
        task = bar.add_task("", total=sum(points[name] for name in options.part))

        def tick(words: str) -> None:
            bar.update(task, description=words)
            bar.advance(task)

        for name in options.part:
            rows = PARTS[name](options.rounds, options.quick, tick)
            if not all(row.get("identical", True) for row in rows):
                raise SystemExit(f"{name}: the methods' spikes differ: a fault of blocksim, please report it")
            write_json(options.output / f"{name}.json", result(rows, rounds=options.rounds, quick=options.quick))
    found = {
        name: json.loads((options.output / f"{name}.json").read_text())
        for name in PARTS
        if (options.output / f"{name}.json").is_file()
    }
    for name, text in tables(found).items():
        print(f"\n{name}\n\n{text}", end="")
    if options.page:
        write_page(found, options.page, options.images)


if __name__ == "__main__":
    main()
