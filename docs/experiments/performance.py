"""The tables of docs/performance.md, from what the scripts of asv_bench measured.

    python docs/experiments/performance.py [-o FOLDER] [--page docs/performance.md]

FOLDER holds ratios.json, network.json, roofline.json, peers.json and families.json, written by the commands below with --json. Owns what is shown, under which name and beside which bar; measures nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import decimals, spread, table, where, write  # beside this script

HERE = Path(__file__).resolve().parent
# result: the script in asv_bench that wrote it
COMMANDS = {
    "ratios": "ratios.py --only paper --only dynamics --only neuron --only lengths",
    "network": "ratios.py --only network --rounds 5",
    "roofline": "roofline.py",
    "peers": "peers.py",
    "families": 'peers.py --work population "synapse step"',
}
# name in ratios.json: what it is called, the bar it is held to, the aim
RATIOS = {
    "forward and backward / its two matrix products":
        ("forward and backward, events given, of the two products", "0.40", "0.25"),
    "the same from a dense uint8 array / the products":
        ("the same from a dense uint8 array, conversion included", "0.50", "0.35"),
    "forward / its matrix product": ("forward, events given, of its product", "0.35", "0.20"),
    "dynamics / copy": ("dynamics alone, of a copy of the currents", "2.5", "1.5"),
    "one neuron, forward / lfilter": ("one neuron, forward, one thread, of scipy's one-pole filter", "1.0", "0.5"),
    "one neuron, forward, van Rossum loss, backward / lfilter":
        ("one neuron, forward, van Rossum loss and backward, likewise", "5", "2.5"),
    "checkpoints / tape": ("checkpoints, of a tape", "1.6", ""),
    "one thread / two threads": ("one thread, of two", "at least 1.7", ""),
    "silent / active, one neuron with gradients":
        ("a silent step, of an active one (one neuron, gradients)", "1.2", "1.1"),
    "a step of 100000 / a step of 1000, 16 samples":
        ("a step of 100 000, of a step of 1000 (16 samples)", "1.2", "1.1"),
    "a step of 1000000 / a step of 10000, 1 sample":
        ("a step of 1 000 000, of a step of 10 000 (1 sample)", "1.2", "1.1"),
}  # fmt: skip
TIMES = (
    "matrix product x W", "matrix product x^T g", "forward", "forward and backward",
    "the same from a dense uint8 array", "the same with checkpoints", "forward and backward, one thread",
    "dynamics, potentials recorded", "copy of the currents", "scipy.signal.lfilter, one pole, 3 x 10000",
    "one neuron, 3 x 10000 steps, forward", "one neuron, 3 x 10000 steps, forward and backward",
    "one neuron, 3 x 10000 steps, forward, van Rossum loss, backward", "one neuron, a million steps, active, both",
    "one neuron, a million steps, silent, both", "1 sample, 128 neurons, 1000000 steps",
)  # fmt: skip
NETWORK = {
    "epoch of 1200 samples, blocks": "an epoch of `fit`, 1200 samples, blocks",
    "epoch of 1200 samples, standard": "the same, step by step",
    "epoch of 1200 samples, blocks, box car": "blocks, with a box car for the surrogate",
    "step, forward with tape": "a step: forward with a tape",
    "step, cross-entropy and backward": "cross-entropy and backward",
    "step, Adam": "Adam",
    "a batch of 64 put together": "a batch of 64 put together",
    "step": "a step, all of it",
    "step, box car": "with a box car for the surrogate",
    "step with checkpoints": "with checkpoints",
    "step, standard": "step by step",
    "step, one thread": "one Numba thread",
}
OF_STEP = {
    "standard / blocks, step": "step by step, of blocks",
    "one thread / all, step": "one thread, of two",
    "backward / forward": "cross-entropy and backward, of forward",
    "fast sigmoid / box car, step": "a fast sigmoid, of a box car",
}
WORK = {
    "training step": "training-step", "fit step": "fit-step", "network step": "network-step",
    "network step, box car": "network-step-box-car", "population": "population", "synapse step": "synapse-step",
}  # fmt: skip


def of_peers(name: str, rows: Sequence[dict[str, Any]]) -> str:
    def times(ratio: float) -> str:
        return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.3g}"

    lines = []
    for row in rows:
        digits = decimals(row["cpu_ms"])
        lines.append([
            row["tool"], spread(row["ms"], row["low"], row["high"]), times(row["ratio"]),
            f"{row['cpu_ms']:.{digits}f}", times(row["cpu_ratio"]), str(row["spikes"]), row["lacks"],
        ])  # fmt: skip
    return table([name, "ms", "times blocksim", "CPU ms", "times blocksim", "spikes", "leaves out"], lines)


def of_roofline(found: dict[str, Any]) -> dict[str, str]:
    step, parts, rates = found["step_ms"], found["parts_ms"], found["gflops"]
    lines = [[name, f"{value:.1f}", f"{100 * value / step:.0f} %"] for name, value in parts.items()]
    return {
        "step-parts": table(["part of a training step", "ms", "share"], [*lines, ["all", f"{step:.1f}", "100 %"]]),
        "products": table(
            ["dense product, float32, two cores", "GFLOP/s"], [[name, f"{rate:.0f}"] for name, rate in rates.items()]
        ),
    }


def tables(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Every table of the page whose results are there."""
    made = {}
    if "ratios" in found:
        ratios, times = found["ratios"]["ratios"], found["ratios"]["times_ms"]
        made["ratios"] = table(
            ["ratio", "", "bar", "aim"],
            [[words, "{:.2f} ({:.2f} to {:.2f})".format(*ratios[name]), bar, aim]
             for name, (words, bar, aim) in RATIOS.items()],
        )  # fmt: skip
        made["times"] = table(["work", "ms"], [[name, spread(*times[name])] for name in TIMES])
    if "network" in found:
        times, ratios = found["network"]["times_ms"], found["network"]["ratios"]
        lines = [[words, spread(*times[name])] for name, words in NETWORK.items()]
        made["network"] = table(["work", "ms"], lines)
        made["network-ratios"] = table(
            ["ratio", ""],
            [[words, "{:.2f} ({:.2f} to {:.2f})".format(*ratios[name])] for name, words in OF_STEP.items()],
        )
    for part in ("peers", "families"):
        own = found.get(part, {})
        made |= {mark: of_peers(name, own[name]) for name, mark in WORK.items() if name in own}
    if "roofline" in found:
        made |= of_roofline(found["roofline"])
    if found:
        made["where"] = table(
            ["tables", "command", "rounds", "date, machine, versions"],
            [[name, f"`{COMMANDS[name]}`", str(part["rounds"]), _where(part)] for name, part in found.items()],
        )
    return made


def _where(part: dict[str, Any]) -> str:
    others = {name: value for tool in part.get("versions", {}).values() for name, value in tool.items()}
    return where(part | {"machine": part["machine"] | others})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "performance", help="of the results")
    parser.add_argument("--page", type=Path, help="a page to write the tables into")
    options = parser.parse_args(arguments)
    files = {name: options.output / f"{name}.json" for name in COMMANDS}
    found = {name: json.loads(path.read_text()) for name, path in files.items() if path.is_file()}
    for name, text in tables(found).items():
        print(f"\n{name}\n\n{text}", end="")
    if options.page:
        write(options.page, tables(found))


if __name__ == "__main__":
    main()
