"""blocksim against other tools, on the same work: python asv_bench/peers.py [--rounds 5] [--only NAME] [--json FILE].

`--work "network step"` does the training step of a network alone, `"network step, box car"` with a surrogate that is
zero away from the threshold; `--data FILE` takes samples of an event file in place of made-up ones. Each tool runs in a
process of its own, where its threads and its memory trouble no other, and does one step a round, one tool after the
other; reported are medians over the rounds, quartiles, and ratios within a round: of the clock, and of the processors'
time, which says more where others use the machine as well. What is not installed is left out, and said (extras of this
package: peer-torch, peer-snntorch, peer-norse, peer-spikingjelly, peer-jax, peer-brainpy, peer-nest, peer-brian). The
tools compute what they can of the work; `lacks` says what each leaves out.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import peer_families
import peer_networks
from benchmarks.workloads import DigitsNetwork, OneNeuron, PaperLayer
from peer_spikes import jax_spike, torch_spike

# by its surrogate; a box car is zero away from the threshold
NETWORK_STEPS = {"network step": "fast_sigmoid", "network step, box car": "box_car"}
WORK = ("training step", "fit step", *NETWORK_STEPS, *peer_families.WORK)
ENOUGH = 0.1  # seconds: shorter steps are repeated
Step = Callable[[], int]  # returns the number of spikes


def blocksim_steps() -> dict[str, Step]:
    import blocksim
    from blocksim import Run

    def step(layer: blocksim.Layer, x: Any, grad: np.ndarray) -> int:
        run: Run = blocksim.simulate(layer, x, tape=True)
        run.backward(grad)
        return int(run.spikes.sum())

    paper, one = PaperLayer(), OneNeuron()
    return {
        WORK[0]: lambda: step(paper.layer, paper.x, paper.grad_spikes),
        WORK[1]: lambda: step(one.layer, one.x, one.grad_spikes),
    }


def torch_alif() -> Callable[..., Any]:
    """The same equations, (1)-(6), step by step under autograd."""
    import torch

    spike = torch_spike()

    def simulate(current: Any, recurrent: Any, beta: Any, p: Any, b: Any, period: int) -> Any:
        batch, _, neurons = current.shape
        v = a = s = torch.zeros(batch, neurons, dtype=current.dtype)
        left = torch.zeros(batch, neurons)
        spikes: list[Any] = []
        # unbind, for the gradient of an index is as large as the array: a step back would cost as much as all of them
        for t, now in enumerate(current.unbind(1)):
            if recurrent is not None and t > period:
                now = now + spikes[t - period - 1] @ recurrent
            live = (left == 0).to(current.dtype)
            v = beta * v * (1 - s.detach()) + live * now
            s = live * spike(v - 1 - b * a)
            a = p * a + s
            left = torch.where(s > 0, float(period), (left - 1).clamp(min=0))
            spikes.append(s)
        return torch.stack(spikes, 1)

    return simulate


def torch_steps() -> dict[str, Step]:
    import torch

    simulate = torch_alif()

    def parameters(neuron: Any, dtype: Any) -> tuple[Any, ...]:
        return tuple(
            torch.tensor(getattr(neuron, name), dtype=dtype, requires_grad=True) for name in ("beta", "p", "b")
        )

    def paper() -> Step:
        work = PaperLayer()
        x = torch.from_numpy(work.dense.astype(np.float32))
        weights = torch.tensor(work.layer.weights, requires_grad=True)
        recurrent = torch.tensor(work.layer.recurrent, requires_grad=True)
        grad = torch.from_numpy(work.grad_spikes)
        values = parameters(work.layer.neuron, torch.float32)

        def step() -> int:
            spikes = simulate(x @ weights, recurrent, *values, 40)
            spikes.backward(grad)
            return int(spikes.sum())

        return step

    def one() -> Step:
        work = OneNeuron()
        x, grad = torch.from_numpy(work.x), torch.from_numpy(work.grad_spikes)
        values = parameters(work.layer.neuron, torch.float64)

        def step() -> int:
            spikes = simulate(x, None, *values, int(work.layer.neuron.refractory_steps))
            spikes.backward(grad)
            return int(spikes.sum())

        return step

    return {WORK[0]: paper(), WORK[1]: one()}


def jax_alif() -> Callable[..., Any]:
    """The same equations as a scan over blocks of a scan over steps: recurrent currents come from the block before."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    spike = jax_spike()

    def simulate(current: Any, recurrent: Any, values: Any, period: int) -> Any:
        beta, p, b = values
        batch, steps, neurons = current.shape
        length = period + 1
        blocks = -(-steps // length)
        padded = jnp.pad(current, ((0, 0), (0, blocks * length - steps), (0, 0)))
        padded = padded.reshape(batch, blocks, length, neurons).transpose(1, 2, 0, 3)

        def step(carry: Any, now: Any) -> Any:
            v, a, s, left = carry
            live = (left == 0).astype(now.dtype)
            v = beta * v * (1 - jax.lax.stop_gradient(s)) + live * now
            s = live * spike(v - 1 - b * a)
            left = jnp.where(s > 0, period, jnp.maximum(left - 1, 0))
            return (v, p * a + s, s, left), s

        def block(carry: Any, now: Any) -> Any:
            state, before = carry
            if recurrent is not None:
                now = now + before @ recurrent
            state, spikes = jax.lax.scan(step, state, now)
            return (state, spikes), spikes

        zero = jnp.zeros((batch, neurons), current.dtype)
        start = ((zero, zero, zero, jnp.zeros((batch, neurons), jnp.int32)), jnp.zeros(padded.shape[1:], current.dtype))
        _, spikes = jax.lax.scan(block, start, padded)
        return spikes.transpose(2, 0, 1, 3).reshape(batch, -1, neurons)[:, :steps]

    return simulate


def jax_steps() -> dict[str, Step]:
    import jax
    import jax.numpy as jnp

    simulate = jax_alif()

    def compiled(loss: Any, arguments: tuple[Any, ...]) -> Step:
        both = jax.jit(jax.value_and_grad(loss, has_aux=True))

        def step() -> int:
            (_, count), gradients = both(*arguments)
            jax.block_until_ready(gradients)
            return int(count)

        return step

    def paper() -> Step:
        work = PaperLayer()
        x, grad = jnp.asarray(work.dense, jnp.float32), jnp.asarray(work.grad_spikes)
        neuron = work.layer.neuron
        values = tuple(jnp.float32(getattr(neuron, name)) for name in ("beta", "p", "b"))

        def loss(trained: Any, x: Any, grad: Any) -> Any:
            weights, recurrent, values = trained
            spikes = simulate(x @ weights, recurrent, values, 40)
            return (spikes * grad).sum(), spikes.sum()

        trained = (jnp.asarray(work.layer.weights), jnp.asarray(work.layer.recurrent), values)
        return compiled(loss, (trained, x, grad))

    def one() -> Step:
        work = OneNeuron()
        neuron = work.layer.neuron
        values = tuple(jnp.float64(getattr(neuron, name)) for name in ("beta", "p", "b"))

        def loss(values: Any, x: Any, grad: Any) -> Any:
            spikes = simulate(x, None, values, int(neuron.refractory_steps))
            return (spikes * grad).sum(), spikes.sum()

        return compiled(loss, (values, jnp.asarray(work.x), jnp.asarray(work.grad_spikes)))

    return {WORK[0]: paper(), WORK[1]: one()}


def snntorch_steps() -> dict[str, Step]:
    import snntorch
    import torch
    from snntorch import surrogate

    slope = surrogate.fast_sigmoid(slope=10)

    def paper() -> Step:
        work = PaperLayer()
        x, grad = torch.from_numpy(work.dense.astype(np.float32)), torch.from_numpy(work.grad_spikes)
        weights = torch.tensor(work.layer.weights, requires_grad=True)
        cell = snntorch.RLeaky(beta=0.95, linear_features=128, spike_grad=slope, learn_beta=True)
        with torch.no_grad():
            cell.recurrent.weight.copy_(torch.from_numpy(np.array(work.layer.recurrent.T)))

        def step() -> int:
            s = v = torch.zeros(64, 128)
            spikes = []
            for now in (x @ weights).unbind(1):
                s, v = cell(now, s, v)
                spikes.append(s)
            out = torch.stack(spikes, 1)
            out.backward(grad)
            return int(out.sum())

        return step

    def one() -> Step:
        work = OneNeuron()
        x, grad = torch.from_numpy(work.x), torch.from_numpy(work.grad_spikes)
        cell = snntorch.Leaky(beta=float(work.layer.neuron.beta), spike_grad=slope, learn_beta=True)

        def step() -> int:
            v = torch.zeros(3, 1, dtype=torch.float64)
            spikes = []
            for now in x.unbind(1):
                s, v = cell(now, v)
                spikes.append(s)
            out = torch.stack(spikes, 1)
            out.backward(grad)
            return int(out.sum())

        return step

    return {WORK[0]: paper(), WORK[1]: one()}


def norse_steps() -> dict[str, Step]:
    import torch
    from norse.torch import LSNNRecurrent
    from norse.torch.functional.lsnn import LSNNParameters

    def paper() -> Step:
        work = PaperLayer()
        x = torch.from_numpy(work.dense.astype(np.float32)).transpose(0, 1).contiguous()
        grad = torch.from_numpy(work.grad_spikes).transpose(0, 1)
        # a step of 1 ms: decays of 0.95 and 0.99, and the synapse as fast as it goes
        rates = {"tau_mem_inv": 50.0, "tau_syn_inv": 1000.0, "tau_adapt_inv": 10.0, "beta": 0.2}
        values = LSNNParameters(**{name: torch.as_tensor(value) for name, value in rates.items()})
        cell = LSNNRecurrent(1000, 128, p=values, dt=0.001)
        with torch.no_grad():
            cell.input_weights.copy_(torch.from_numpy(np.array(work.layer.weights.T)) * 20)
            cell.recurrent_weights.copy_(torch.from_numpy(np.array(work.layer.recurrent.T)) * 20)

        def step() -> int:
            out, _ = cell(x)
            out.backward(grad)
            return int(out.sum())

        return step

    return {WORK[0]: paper()}


def spikingjelly_steps() -> dict[str, Step]:
    import torch
    from spikingjelly.activation_based import functional, neuron

    def cell_of(beta: float) -> Any:
        return neuron.ParametricLIFNode(
            init_tau=1 / (1 - beta), decay_input=False, v_threshold=1.0, v_reset=0.0, detach_reset=True, step_mode="m"
        )

    def stepper(cell: Any, current: Callable[[], Any], grad: Any) -> Step:
        def step() -> int:
            functional.reset_net(cell)
            out = cell(current())
            out.backward(grad)
            return int(out.sum())

        return step

    def paper() -> Step:
        work = PaperLayer()
        x = torch.from_numpy(work.dense.astype(np.float32)).transpose(0, 1).contiguous()
        weights = torch.tensor(work.layer.weights, requires_grad=True)
        grad = torch.from_numpy(work.grad_spikes).transpose(0, 1)
        return stepper(cell_of(0.95), lambda: x @ weights, grad)

    def one() -> Step:
        work = OneNeuron()
        x = torch.from_numpy(work.x).transpose(0, 1).contiguous()
        cell = cell_of(float(work.layer.neuron.beta)).double()
        return stepper(cell, lambda: x, torch.from_numpy(work.grad_spikes).transpose(0, 1))

    return {WORK[0]: paper(), WORK[1]: one()}


# name: what makes its steps, the distributions it is made of, what it leaves out of the work
PEERS: dict[str, tuple[Callable[[], dict[str, Step]], tuple[str, ...], str]] = {
    "blocksim": (blocksim_steps, ("blocksim", "numba"), ""),
    "JAX scan": (jax_steps, ("jax", "jaxlib"), ""),
    "PyTorch loop": (torch_steps, ("torch",), ""),
    "snnTorch": (snntorch_steps, ("snntorch", "torch"), "adaptation, refractory period, delay"),
    "Norse": (norse_steps, ("norse", "torch"), "refractory period, delay; no fit step"),
    "SpikingJelly": (spikingjelly_steps, ("spikingjelly", "torch"), "adaptation, refractory period, recurrence"),
}
# what makes the network's step, and what it leaves out of it
NETWORKS: dict[str, tuple[Callable[[DigitsNetwork], Step], str]] = {
    "blocksim": (peer_networks.blocksim_network, ""),
    "JAX scan": (lambda work: peer_networks.jax_network(work, jax_alif()), ""),
    "PyTorch loop": (lambda work: peer_networks.torch_network(work, torch_alif()), ""),
    "snnTorch": (peer_networks.snntorch_network, "adaptation, refractory period, delay; one more bias a layer"),
    "Norse": (peer_networks.norse_network, "refractory period, delay, biases of the layers"),
    "SpikingJelly": (
        peer_networks.spikingjelly_network,
        "adaptation, refractory period, recurrence, a time constant of its own for each neuron",
    ),
}
# what makes the steps of the linear family, the distributions it is made of, and what it leaves out
FAMILIES: dict[str, tuple[Callable[[], dict[str, Step]], tuple[str, ...], str]] = {
    "blocksim": (peer_families.blocksim_families, ("blocksim", "numba"), ""),
    "JAX scan": (peer_families.jax_families, ("jax", "jaxlib"), ""),
    "PyTorch loop": (peer_families.torch_families, ("torch",), ""),
    "BrainPy": (
        peer_families.brainpy_families,
        ("brainpy", "brainstate", "jax", "jaxlib"),
        "gradients of the decays, a detached reset",
    ),
    "NEST": (peer_families.nest_families, ("nest-simulator",), ""),
    "Brian 2, C++": (peer_families.brian_families, ("brian2",), "compiling"),
}
EVERY = {**FAMILIES, **PEERS}
# which tools are given each surrogate
WITH = {"fast_sigmoid": tuple(NETWORKS), "box_car": ("blocksim", "snnTorch")}


def processor_time() -> float:
    """Seconds of all processors, of this process and of programs that it ran."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def serve(name: str, works: list[str], data: str | None) -> None:
    """A tool's process: does the work named on each line of its input, and answers with seconds and spikes."""
    answers, sys.stdout = sys.stdout, sys.stderr  # tools print
    steps, distributions = {}, EVERY[name][1]
    if name in PEERS and set(works) & {"training step", "fit step"}:
        steps |= PEERS[name][0]()
    if name in FAMILIES and set(works) & set(peer_families.WORK):
        steps |= FAMILIES[name][0]()
    for work, surrogate in NETWORK_STEPS.items():
        if work in works and name in WITH[surrogate]:
            steps[work] = NETWORKS[name][0](DigitsNetwork(path=data, surrogate=surrogate))
    hello = {"versions": {d: version(d) for d in distributions}, "work": [work for work in works if work in steps]}
    print(json.dumps(hello), file=answers, flush=True)
    for line in sys.stdin:
        step = steps[line.strip()]
        began, spent = time.perf_counter(), processor_time()
        spikes = step()
        seconds, cpu = time.perf_counter() - began, processor_time() - spent
        if seconds < ENOUGH:  # as in a training: not the first step after a pause
            times = math.ceil(ENOUGH / seconds)
            began, spent = time.perf_counter(), processor_time()
            for _ in range(times):
                step()
            seconds, cpu = (time.perf_counter() - began) / times, (processor_time() - spent) / times
        print(json.dumps({"seconds": seconds, "cpu": cpu, "spikes": spikes}), file=answers, flush=True)


class Peer:
    """The other end: a tool's process."""

    def __init__(self, name: str, works: list[str], data: Path | None) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--serve", name, "--work", *works]
        command += ["--data", str(data)] if data else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hello = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def step(self, work: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(work, file=self.process.stdin, flush=True)
        return self._read()


def installed(name: str) -> str | None:
    """The first distribution that a tool needs and that is not there."""
    for distribution in EVERY[name][1]:
        try:
            version(distribution)
        except ImportError:
            return distribution
    return None


def table(name: str, times: dict[str, list[float]], cpu: dict[str, list[float]], spikes: dict[str, int]) -> list[Any]:
    """One row a tool: milliseconds, how many times as long as blocksim, time of all processors likewise, spikes."""
    ours = {"blocksim": np.array(times["blocksim"]), "cpu": np.array(cpu["blocksim"])}
    rows = []
    for peer, seconds in times.items():
        low, median, high = np.percentile(1e3 * np.array(seconds), [25, 50, 75])
        ratio = float(np.median(np.array(seconds) / ours["blocksim"]))
        of_cpu = float(np.median(np.array(cpu[peer]) / ours["cpu"]))
        row = {"tool": peer, "ms": median, "low": low, "high": high, "ratio": ratio, "spikes": spikes[peer]}
        row |= {"cpu_ms": 1e3 * float(np.median(cpu[peer])), "cpu_ratio": of_cpu}
        rows.append(row | {"lacks": _lacks(name, peer)})
    header = [name, "ms", "times blocksim", "CPU ms", "times blocksim", "spikes", "leaves out"]
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        digits = max(0, 2 - math.floor(math.log10(row["ms"])))
        ms, low, high, spent = (f"{row[key]:.{digits}f}" for key in ("ms", "low", "high", "cpu_ms"))
        cells = [row["tool"], f"{ms} ({low} to {high})", f"{row['ratio']:.3g}", spent, f"{row['cpu_ratio']:.3g}"]
        print("| " + " | ".join([*cells, str(row["spikes"]), row["lacks"]]) + " |")
    return rows


def _lacks(work: str, name: str) -> str:
    """What a tool leaves out of the work."""
    if work in NETWORK_STEPS:
        return NETWORKS[name][1]
    return (FAMILIES if work in peer_families.WORK else PEERS)[name][2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(EVERY), default=list(EVERY))
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--data", type=Path, help="event file for the network, in place of made-up samples")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=list(EVERY), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.work, options.data)
        return
    peers = {}
    for name in dict.fromkeys(["blocksim", *options.only]):
        missing = installed(name)
        peer = None if missing else Peer(name, options.work, options.data)
        if peer is None or not peer.hello:
            why = f"{missing} is not installed" if missing else "it failed, as it says above"
            print(f"{name}: left out, for {why}")
            continue
        peers[name] = peer
    from blocksim.cli.info import machine

    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine() | {"cores": os.cpu_count()},
        "rounds": options.rounds,
        "versions": {name: peer.hello["versions"] for name, peer in peers.items()},
    }
    print(json.dumps(report, indent=2))
    for work in options.work:
        times: dict[str, list[float]] = {name: [] for name, peer in peers.items() if work in peer.hello["work"]}
        spikes = {name: peers[name].step(work)["spikes"] for name in times}  # compiles
        cpu: dict[str, list[float]] = {name: [] for name in times}
        for _ in range(options.rounds):
            for name in times:
                time.sleep(0.2)
                answer = peers[name].step(work)
                times[name].append(answer["seconds"])
                cpu[name].append(answer["cpu"])
                print(f"{work}, {name}: {answer['seconds']:.3f} s, CPU {answer['cpu']:.3f} s", file=sys.stderr)
        report[work] = table(work, times, cpu, spikes)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
