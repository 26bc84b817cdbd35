"""Times as ratios within one process: python asv_bench/ratios.py [--rounds 15] [--json FILE].

On shared, noisy machines a time alone says little. Every round runs each piece of work once, so that all of them see
the same noise; reported are medians over rounds, with quartiles, of the times and of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from benchmarks.workloads import Currents, Million, OneNeuron, PaperLayer

import blocksim
from blocksim.cli.info import machine


def work() -> tuple[dict[str, Callable[[], object]], list[tuple[str, tuple[str, ...], tuple[str, ...]]]]:
    """Pieces of work by name; and ratios: a name, what is above the line, what is below."""
    paper, currents, one, million = PaperLayer(), Currents(), OneNeuron(), Million()
    flat = paper.dense.reshape(-1, paper.inputs).astype(np.float32)
    grad = paper.grad_spikes.reshape(-1, paper.neurons)
    out = np.empty_like(currents.x)
    pieces: dict[str, Callable[[], object]] = {
        "matrix product x W": lambda: flat @ paper.layer.weights,
        "matrix product x^T g": lambda: flat.T @ grad,
        "forward": lambda: paper.forward(),
        "forward and backward": lambda: paper.step(),
        "the same from a bool array": lambda: paper.step(x=paper.dense),
        "the same with checkpoints": lambda: paper.step(tape="checkpoint"),
        "the same, standard method": lambda: paper.step(method="standard"),
        "copy of the currents": lambda: np.copyto(out, currents.x),
        "dynamics, potentials recorded": lambda: currents.run(),
        "one neuron, a million steps, active, both": lambda: million.step(million.active),
        "one neuron, a million steps, silent, both": lambda: million.step(million.silent),
        "one neuron, 3 x 10000 steps, forward": lambda: one.forward(),
        "one neuron, 3 x 10000 steps, forward and backward": lambda: one.step(),
    }
    products = ("matrix product x W", "matrix product x^T g")
    ratios = [
        ("forward / its matrix product", ("forward",), products[:1]),
        ("forward and backward / its two matrix products", ("forward and backward",), products),
        ("the same from a bool array", ("the same from a bool array",), products),
        ("checkpoints / tape", ("the same with checkpoints",), ("forward and backward",)),
        (
            "a silent step / an active step",
            ("one neuron, a million steps, silent, both",),
            ("one neuron, a million steps, active, both",),
        ),
        ("standard / blocks", ("the same, standard method",), ("forward and backward",)),
        ("dynamics / copy", ("dynamics, potentials recorded",), ("copy of the currents",)),
    ]
    try:
        from scipy.signal import lfilter
    except ImportError:
        return pieces, ratios
    pieces["scipy.signal.lfilter, one pole, 3 x 10000"] = lambda: lfilter([1.0], [1.0, -0.95], one.x, axis=1)
    below = ("scipy.signal.lfilter, one pole, 3 x 10000",)
    ratios += [
        ("one neuron forward / lfilter", ("one neuron, 3 x 10000 steps, forward",), below),
        ("one neuron both / lfilter", ("one neuron, 3 x 10000 steps, forward and backward",), below),
    ]
    return pieces, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pieces, ratios = work()
    for call in pieces.values():
        call()  # compiles, and touches its memory
    times: dict[str, list[float]] = {name: [] for name in pieces}
    for _ in range(options.rounds):
        for name, call in pieces.items():
            # threads of the piece before spin for a while before they sleep; then warm up: each is timed as if alone
            time.sleep(0.1)
            call()
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)

    def spread(values: np.ndarray) -> list[float]:
        return [float(q) for q in np.percentile(values, [50, 25, 75])]

    report = {
        "machine": machine() | {"numba threads": numba.get_num_threads()},
        "rounds": options.rounds,
        "times_ms": {name: spread(1e3 * np.array(values)) for name, values in times.items()},
        "ratios": {
            name: spread(sum(np.array(times[n]) for n in above) / sum(np.array(times[n]) for n in below))
            for name, above, below in ratios
        },
    }
    assert blocksim.__version__ == report["machine"]["blocksim"]
    for title in ("times_ms", "ratios"):
        print(title)
        for name, (median, low, high) in report[title].items():
            print(f"  {name:52} {median:9.3f}   ({low:.3f} to {high:.3f})")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
