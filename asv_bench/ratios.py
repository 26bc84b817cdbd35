"""Times as ratios within one process: python asv_bench/ratios.py [--rounds 15] [--only WORD] [--json FILE].

On shared, noisy machines a time alone says little. Every round runs each piece of work once, so that all of them see
the same noise; reported are medians over rounds, with quartiles, of the times and of the ratios within a round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
from benchmarks.workloads import Currents, DigitsNetwork, Long, OneNeuron, PaperLayer

import blocksim
from blocksim.cli.info import machine
from blocksim.optimisers import Adam
from blocksim.training import Training, fit

ALL = numba.get_num_threads()


@dataclass
class Plan:
    """Pieces of work by name; and ratios: a name, what is above the line, what is below, and a factor."""

    pieces: dict[str, Callable[[], object]] = field(default_factory=dict)
    ratios: list[tuple[str, tuple[str, ...], tuple[str, ...], float]] = field(default_factory=list)

    repeats: dict[str, int] = field(default_factory=dict)

    def piece(self, name: str, call: Callable[[], object], threads: int = ALL, repeat: int = 1) -> str:
        """Work to be timed, on so many threads; calls of microseconds are repeated, as in a fit."""

        def timed() -> None:
            numba.set_num_threads(threads)
            for _ in range(repeat):
                call()

        self.pieces[name] = timed
        self.repeats[name] = repeat
        return name

    def ratio(self, name: str, above: tuple[str, ...], below: tuple[str, ...], factor: float = 1.0) -> None:
        self.ratios.append((name, above, below, factor))


def paper_layer(plan: Plan) -> None:
    """The paper's layer against the dense products that a simulator without events has to do."""
    paper = PaperLayer()
    counts = paper.dense.astype(np.uint8)
    flat = paper.dense.reshape(-1, paper.inputs).astype(np.float32)
    grad = paper.grad_spikes.reshape(-1, paper.neurons)
    products = (
        plan.piece("matrix product x W", lambda: flat @ paper.layer.weights),
        plan.piece("matrix product x^T g", lambda: flat.T @ grad),
    )
    forward = plan.piece("forward", lambda: paper.forward())
    both = plan.piece("forward and backward", lambda: paper.step())
    plan.ratio("forward / its matrix product", (forward,), products[:1])
    plan.ratio("forward and backward / its two matrix products", (both,), products)
    dense = plan.piece("the same from a dense uint8 array", lambda: paper.step(x=counts))
    plan.ratio("the same from a dense uint8 array / the products", (dense,), products)
    checkpoints = plan.piece("the same with checkpoints", lambda: paper.step(tape="checkpoint"))
    plan.ratio("checkpoints / tape", (checkpoints,), (both,))
    if ALL > 1:
        alone = plan.piece("forward and backward, one thread", lambda: paper.step(), threads=1)
        two = plan.piece("forward and backward, two threads", lambda: paper.step(), threads=2)
        plan.ratio("one thread / two threads", (alone,), (two,))


def dynamics(plan: Plan) -> None:
    """Dynamics alone: currents given, potentials recorded."""
    currents = Currents()
    out = np.empty_like(currents.x)
    plan.ratio(
        "dynamics / copy",
        (plan.piece("dynamics, potentials recorded", lambda: currents.run()),),
        (plan.piece("copy of the currents", lambda: np.copyto(out, currents.x)),),
    )


def one_neuron(plan: Plan) -> None:
    """A step of a fit on one thread, against one pole of scipy's filter over the same samples."""
    try:
        from scipy.signal import lfilter
    except ImportError:
        print("one neuron: skipped, for scipy is not installed")
        return
    one = OneNeuron()
    filtered = "scipy.signal.lfilter, one pole, 3 x 10000"
    below = (plan.piece(filtered, lambda: lfilter([1.0], [1.0, -0.95], one.x, axis=1), repeat=50),)
    pieces = {
        "forward": one.forward,
        "forward and backward": one.step,
        "forward, van Rossum loss, backward": one.fit_step,
    }
    for name, call in pieces.items():
        above = plan.piece(f"one neuron, 3 x 10000 steps, {name}", call, threads=1, repeat=50)
        plan.ratio(f"one neuron, {name} / lfilter", (above,), below)


def lengths(plan: Plan) -> None:
    """Time per step over the length of the run, and silent against active."""
    shapes = {"16 samples": [(16, 1_000), (16, 10_000), (16, 100_000)], "1 sample": [(1, 10_000), (1, 1_000_000)]}
    for title, series in shapes.items():
        names = []
        for batch, steps in series:
            work = Long(batch, steps)
            active = plan.piece(f"{title}, 128 neurons, {steps} steps", lambda work=work: work.forward(work.active))
            silent = plan.piece(f"silent: {title}, {steps} steps", lambda work=work: work.forward(work.silent))
            plan.ratio(f"silent / active, {title}, {steps} steps", (silent,), (active,))
            names.append((active, steps))
        for name, steps in names[:-1]:
            longest, most = names[-1]
            plan.ratio(f"a step of {most} / a step of {steps}, {title}", (longest,), (name,), steps / most)
    one = Long(1, 1_000_000, neurons=1)
    plan.ratio(
        "silent / active, one neuron with gradients",
        (plan.piece("one neuron, a million steps, silent, both", lambda: one.step(one.silent)),),
        (plan.piece("one neuron, a million steps, active, both", lambda: one.step(one.active)),),
    )


def network(plan: Plan) -> None:
    """A network's training: an epoch of 1200 samples by `fit`, a step of 64 and its parts, blocks against standard."""
    work = DigitsNetwork(samples=1200)
    batch = np.random.default_rng(5).permutation(1200)[:64]

    def epoch(method: str, surrogate: str = "fast_sigmoid") -> Callable[[], object]:
        choices = Training(
            epochs=1, validation=0, optimiser=Adam(1e-9), clip_norm=None, method=method, surrogate=surrogate
        )
        return lambda: fit(work.network, work.data, choices, progress=False)

    for method in ("blocks", "standard"):
        plan.piece(f"epoch of 1200 samples, {method}", epoch(method))
    plan.piece("epoch of 1200 samples, blocks, box car", epoch("blocks", "box_car"))
    run = work.forward()
    gradients = work.backward(run)
    forward = plan.piece("step, forward with tape", work.forward)
    backward = plan.piece("step, cross-entropy and backward", lambda: work.backward(run))
    plan.piece("step, Adam", lambda: work.update(gradients))
    plan.piece("a batch of 64 put together", lambda: work.data.batch(batch))
    step = plan.piece("step", work.step)
    boxed = DigitsNetwork(surrogate="box_car")
    with_box_car = plan.piece("step, box car", boxed.step)
    plan.ratio("fast sigmoid / box car, step", (step,), (with_box_car,))
    plan.piece("step with checkpoints", lambda: work.step(tape="checkpoint"))
    standard = plan.piece("step, standard", lambda: work.step(method="standard"))
    plan.ratio("19 steps / epoch", (step,), ("epoch of 1200 samples, blocks",), 19)
    plan.ratio("backward / forward", (backward,), (forward,))
    plan.ratio("standard / blocks, step", (standard,), (step,))
    if ALL > 1:
        alone = plan.piece("step, one thread", work.step, threads=1)
        plan.ratio("one thread / all, step", (alone,), (step,))


PARTS = {
    "paper": paper_layer,
    "dynamics": dynamics,
    "neuron": one_neuron,
    "lengths": lengths,
    "network": network,
}


def measure(plan: Plan, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each piece, one a round."""
    for call in plan.pieces.values():
        call()  # compiles, and touches its memory
    times: dict[str, list[float]] = {name: [] for name in plan.pieces}
    for _ in range(rounds):
        for name, call in plan.pieces.items():
            # threads of the piece before spin for a while before they sleep; then warm up: each is timed as if alone
            time.sleep(0.1)
            call()
            began = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - began) / plan.repeats[name])
    return {name: np.array(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=list(PARTS), action="append", help="a part; as often as wanted")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "rounds": options.rounds,
        "machine": machine() | {"numba threads": ALL},
        "times_ms": {},
        "ratios": {},
    }
    assert blocksim.__version__ == report["machine"]["blocksim"]

    def spread(values: np.ndarray) -> list[float]:
        return [float(q) for q in np.percentile(values, [50, 25, 75])]

    for name in options.only or PARTS:
        plan = Plan()
        PARTS[name](plan)
        times = measure(plan, options.rounds)
        found = {
            "times_ms": {name: spread(1e3 * values) for name, values in times.items()},
            "ratios": {
                name: spread(factor * sum(times[n] for n in above) / sum(times[n] for n in below))
                for name, above, below, factor in plan.ratios
            },
        }
        for title, rows in found.items():
            report[title] |= rows
            print(f"{name}: {title}")
            for row, (median, low, high) in rows.items():
                print(f"  {row:58} {median:10.3f}   ({low:.3f} to {high:.3f})", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
