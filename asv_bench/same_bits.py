"""Whether two commits compute the same bits: python asv_bench/same_bits.py [COMMIT] [--layers 40].

Random layers and networks are simulated and differentiated by this checkout and by another commit, each in a process
of its own, in every backend that is ready. What is compared is a digest of every result. Only the public interface is
used, so that old commits can be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def digest(value: Any) -> str:
    """Of dtype, shape and bytes."""
    array = np.ascontiguousarray(value)
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()[:16]


def layer_of(rng: np.random.Generator, size: int, inputs: int | None, dtype: Any) -> Any:
    """A random layer that spikes."""
    import blocksim

    def each(low: float, high: float) -> Any:
        return rng.uniform(low, high, size).astype(dtype) if rng.random() < 0.7 else float(rng.uniform(low, high))

    refractory = int(rng.integers(0, 12)) if rng.random() < 0.6 else rng.integers(0, 12, size)
    common = {"beta": each(0.5, 0.98), "theta": each(0.4, 1.2), "refractory_steps": refractory}
    adaptive = rng.random() < 0.7
    neuron = blocksim.ALIF(p=each(0.5, 0.99), b=each(0, 0.4), **common) if adaptive else blocksim.LIF(**common)
    weights = None if inputs is None else (rng.normal(0.4, 0.6, (inputs, size)) / np.sqrt(max(1, inputs * 0.2)))
    recurrent = rng.normal(0.05, 0.5 / np.sqrt(size), (size, size)).astype(dtype) if rng.random() < 0.5 else None
    latency = int(np.min(refractory)) + 1 + int(rng.integers(0, 6))
    return blocksim.Layer(
        neuron,
        None if weights is None else weights.astype(dtype),
        each(0.0, 0.2) if rng.random() < 0.7 else None,
        recurrent,
        None if recurrent is None else latency,
    )


def results(number: int, backend: str) -> Iterator[tuple[str, Any]]:
    """Everything that one random layer or network returns."""
    import blocksim

    rng = np.random.default_rng([7, number])
    dtype = np.dtype((np.float32, np.float64)[number % 2])
    batch, steps = int(rng.integers(1, 4)), int(rng.integers(1, 90))
    sizes = [int(rng.choice([1, 3, 9, 40, 70])) for _ in range(3)]
    options = {
        "tape": (True, "checkpoint")[number % 3 == 0],
        "surrogate": ("fast_sigmoid", "box_car", "triangle", "arctan")[number % 4],
        "gradient": ("standard", "paper")[number % 5 == 0],
        "detach": ((), ("reset",), ("adaptation", "recurrent"))[number % 3],
    }
    if number % 2:
        inputs = int(rng.choice([1, 20])) if number % 4 == 1 else None
        layer = layer_of(rng, sizes[0], inputs, dtype)
        shape = (batch, steps, inputs or sizes[0])
        x = rng.random(shape) < 0.2 if inputs else rng.normal(0.25, 0.4, shape).astype(dtype)
        run = blocksim.simulate(layer, x, backend, record=("voltage", "threshold"), **options)
        for name in ("spikes", "voltage", "threshold"):
            yield name, getattr(run, name)
        for name in ("voltage", "adaptation", "refractory", "spikes"):
            yield f"state.{name}", getattr(run.state, name)
        later = blocksim.simulate(layer, x, backend, state=run.state, **options)
        yield "later", later.spikes
        gradients = run.backward(rng.normal(size=run.spikes.shape), rng.normal(size=run.spikes.shape))
        for name in ("x", "current", "weights", "bias", "recurrent", "beta", "p", "b", "theta"):
            value = getattr(gradients, name)
            yield f"dLoss/d({name})", np.zeros(0) if value is None else value
        for name in ("voltage", "adaptation", "spikes"):
            yield f"dLoss/d(state.{name})", getattr(gradients.state, name)
        return
    layers = [layer_of(rng, size, before, dtype) for before, size in zip([20, *sizes], sizes, strict=False)]
    readout: Any = blocksim.CountReadout()
    if number % 4:
        weights = rng.normal(0, 0.3, (sizes[-1], 4)).astype(dtype)
        readout = blocksim.LeakyReadout(weights, beta=0.9, decode=("sum", "mean", "last", "max")[number % 8 // 2])
    network = blocksim.Network(layers, readout)
    run = blocksim.simulate(network, rng.random((batch, steps, 20)) < 0.2, backend, **options)
    yield "output", run.output
    for layer, count in zip(run.layers, run.counts, strict=True):
        yield "spikes", layer.spikes
        yield "counts", count
    gradients = run.backward(rng.normal(size=run.output.shape), [rng.normal(size=count.shape) for count in run.counts])
    yield from gradients.parameters().items()
    yield "dLoss/dx", gradients.layers[0].x


def digests(layers: int) -> dict[str, list[str]]:
    """Of all results, by backend and layer."""
    import blocksim

    ready = [name for name, status in blocksim.available_backends().items() if status == "ready"]
    return {
        f"{backend} {number}": [f"{name} {digest(value)}" for name, value in results(number, backend)]
        for backend in ready
        for number in range(layers)
    }


def digests_of(checkout: Path, layers: int) -> dict[str, list[str]]:
    """The digests of a checkout, computed in a process that imports that checkout."""
    command = [sys.executable, str(Path(__file__).resolve()), "--digests", "--layers", str(layers)]
    done = subprocess.run(
        command, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: expected digests; found: {done.stderr.strip()}")
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def main() -> None:
    """Compare, and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", default="HEAD~1", help="Commit to compare with.")
    parser.add_argument("--layers", type=int, default=40, help="Number of random layers and networks.")
    parser.add_argument("--digests", action="store_true", help="Print the digests of this checkout as JSON.")
    arguments = parser.parse_args()
    if arguments.digests:
        print(json.dumps(digests(arguments.layers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", other, arguments.commit], cwd=ROOT, check=True)
        try:
            before, now = digests_of(other, arguments.layers), digests_of(ROOT, arguments.layers)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", other], cwd=ROOT, check=True)
    differ = [f"{case}: {a} != {b}" for case in before for a, b in zip(before[case], now[case], strict=True) if a != b]
    print("\n".join(differ) or f"the same bits: {sum(map(len, now.values()))} arrays of {len(now)} runs")
    raise SystemExit(bool(differ))


if __name__ == "__main__":
    main()
