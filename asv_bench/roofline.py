"""How far a network's training step is from what the processor allows: python asv_bench/roofline.py [--json FILE].

Measures the peak of dense float32 products by NumPy, the parts of the step by a clock around each launch, and the
recurrent term of (7) by leaving it out. The dense products that the adjoint cannot avoid, a row of dLoss/dI times the
transposed weights for each step, give a floor; how much faster than another tool the step could be is said from both.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.workloads import DigitsNetwork
from blocksim.backends.numba_cpu import backend, launch

import blocksim
from blocksim.cli.info import machine
from blocksim.losses import cross_entropy

PEAK = 3072  # rows and columns of the product that shows the peak
LAUNCHES = {
    "forward of both layers": ((launch, "layer_forward"),),
    "adjoint of both layers": ((launch, "layer_adjoint"),),
    "gradients of weights": ((backend, "_event_gradient"), (backend, "_spike_gradient")),
    "dLoss/dx": ((launch, "input_adjoint"),),
}


def seconds(call: Callable[[], object], rounds: int) -> np.ndarray:
    """Of each round, after a call that warms up."""
    call()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return np.array(times)


def median(call: Callable[[], object], rounds: int) -> float:
    return float(np.median(seconds(call, rounds)))


def products(work: DigitsNetwork) -> tuple[int, dict[str, int]]:
    """Multiply-adds of a step's dense products, by what they are for."""
    rows = work.x.shape[0] * work.x.shape[1]
    found = {f"recurrent term of (7), layer {n}": rows * layer.size**2 for n, layer in enumerate(work.network.layers)}
    upper = work.network.layers[1:]
    found |= {f"dLoss/dx of layer {n}": rows * layer.inputs * layer.size for n, layer in enumerate(upper, 1)}
    return sum(found.values()), found


def clocked(work: DigitsNetwork, rounds: int) -> tuple[float, dict[str, float]]:
    """Seconds of a step, and of its launches by kind: medians."""
    spent: dict[str, float] = defaultdict(float)

    def timed(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            began = time.perf_counter()
            value = call(*arguments)
            spent[kind] += time.perf_counter() - began
            return value

        return run

    own = {place: getattr(*place) for places in LAUNCHES.values() for place in places}
    steps, parts = [], defaultdict(list)
    try:
        for kind, places in LAUNCHES.items():
            for place in places:
                setattr(*place, timed(kind, own[place]))
        for number in range(rounds + 1):
            spent.clear()
            began = time.perf_counter()
            work.step()
            if number:
                steps.append(time.perf_counter() - began)
                for kind in LAUNCHES:
                    parts[kind].append(spent[kind])
    finally:
        for place, call in own.items():
            setattr(*place, call)
    return float(np.median(steps)), {kind: float(np.median(values)) for kind, values in parts.items()}


def backward(work: DigitsNetwork, detach: tuple[str, ...], rounds: int) -> float:
    """Seconds of the backward pass with these paths cut."""
    network = work.network.with_parameters(work.values)
    run = blocksim.simulate(network, work.x, tape=True, detach=detach)
    slope = cross_entropy(run.output, work.labels).gradient
    return median(lambda: run.backward(slope), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = DigitsNetwork()
    rng = np.random.default_rng(0)
    square = rng.random((PEAK, PEAK), np.float32)
    peak = 2 * PEAK**3 / seconds(lambda: square @ square, 10).min()
    time.sleep(1)  # BLAS threads spin for a while, and would hold the processors
    rows, side = work.x.shape[0] * work.x.shape[1], work.network.layers[1].size
    tall, small = rng.random((rows, side), np.float32), square[:side, :side].copy()
    own_product = median(lambda: launch.input_adjoint(tall[None], small), options.rounds)
    step, parts = clocked(work, options.rounds)
    cut = backward(work, ("reset", "recurrent"), options.rounds)
    feedback = backward(work, ("reset",), options.rounds) - cut
    blas = median(lambda: tall @ small, options.rounds)
    total, by_use = products(work)
    parts["adjoint of both layers"] -= feedback
    parts = {"recurrent term of (7)": feedback, **parts}
    parts["the rest: readout, loss, Adam, checks, Python"] = step - sum(parts.values())
    report = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "rounds": options.rounds,
        "gflops": {
            "NumPy, square": peak / 1e9, "NumPy, of this shape": 2e-9 * rows * side**2 / blas,
            "dLoss/dx, our kernel": 2e-9 * rows * side**2 / own_product,
            "recurrent term of (7), as if dense": 2e-9 * 2 * rows * side**2 / feedback,
        },
        "multiply_adds": by_use, "floor_ms": 1e3 * 2 * total / peak, "step_ms": 1e3 * step,
        "parts_ms": {name: 1e3 * value for name, value in parts.items()},
    }  # fmt: skip
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
