"""One training step of a network in each tool, for asv_bench/peers.py: forward, cross-entropy, backward, Adam.

The network is `DigitsNetwork` of the workloads: two recurrent ALIF layers of 256 and a leaky readout, whose outputs are
means over time; trained are weights and biases. Inputs are made dense for the tools that need it before the clock runs.
Each tool's cells are used as its documentation shows them; what a tool's cells lack is left out, never emulated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.workloads import DigitsNetwork

Step = Callable[[], int]  # returns the number of spikes of all layers
RATE = 1e-9  # of Adam, as in the workload: every step is the same work


def blocksim_network(work: DigitsNetwork) -> Step:
    def step() -> int:
        return int(sum(counts.sum() for counts in work.step().counts))

    return step


def _dense(work: DigitsNetwork) -> np.ndarray:
    return work.x.to_dense().astype(np.float32)


def torch_network(work: DigitsNetwork, alif: Callable[..., Any]) -> Step:
    """The same equations, by the loop over steps that `peers` has for a layer."""
    import torch

    x, labels = torch.from_numpy(_dense(work)), torch.from_numpy(work.labels)
    values = {name: torch.tensor(value, requires_grad=True) for name, value in work.values.items()}
    constants = [
        [torch.tensor(value) for value in (layer.neuron.beta, layer.neuron.p, layer.neuron.b)]
        for layer in work.network.layers
    ]
    period = int(work.network.layers[0].neuron.refractory_steps)
    beta = work.network.readout.beta
    adam = torch.optim.Adam(values.values(), RATE)

    def step() -> int:
        s, count = x, 0
        for number, of_neuron in enumerate(constants):
            name = f"layers.{number}"
            current = s @ values[f"{name}.weights"] + values[f"{name}.bias"]
            s = alif(current, values[f"{name}.recurrent"], *of_neuron, period)
            count += int(s.sum())
        u = total = torch.zeros(len(labels), 1)
        for now in (s @ values["readout.weights"] + values["readout.bias"]).unbind(1):
            u = beta * u + now
            total = total + u
        loss = torch.nn.functional.cross_entropy(total / x.shape[1], labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return count

    return step


def jax_network(work: DigitsNetwork, alif: Callable[..., Any]) -> Step:
    """The same equations, by the scans that `peers` has for a layer; Adam written out, and compiled with the rest."""
    import jax
    import jax.numpy as jnp

    x, labels = jnp.asarray(_dense(work)), jnp.asarray(work.labels)
    neurons = [layer.neuron for layer in work.network.layers]
    constants = [tuple(jnp.asarray(value) for value in (n.beta, n.p, n.b)) for n in neurons]
    period, beta = int(neurons[0].refractory_steps), work.network.readout.beta

    def loss(values: Any, x: Any, labels: Any) -> Any:
        s, count = x, 0.0
        for number, of_neuron in enumerate(constants):
            name = f"layers.{number}"
            current = s @ values[f"{name}.weights"] + values[f"{name}.bias"]
            s = alif(current, values[f"{name}.recurrent"], of_neuron, period)
            count = count + s.sum()
        current = s @ values["readout.weights"] + values["readout.bias"]

        def integrate(u: Any, now: Any) -> Any:
            u = beta * u + now
            return u, u

        _, u = jax.lax.scan(integrate, jnp.zeros_like(current[:, 0]), current.transpose(1, 0, 2))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(u.mean(0)), labels[:, None], axis=1)
        return -chosen.mean(), count

    @jax.jit
    def update(values: Any, first: Any, second: Any, number: Any, x: Any, labels: Any) -> Any:
        (_, count), slopes = jax.value_and_grad(loss, has_aux=True)(values, x, labels)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slopes)
        second = jax.tree.map(lambda m, g: 0.999 * m + 0.001 * g * g, second, slopes)

        def moved(value: Any, m: Any, v: Any) -> Any:
            return value - RATE * (m / (1 - 0.9**number)) / (jnp.sqrt(v / (1 - 0.999**number)) + 1e-8)

        return jax.tree.map(moved, values, first, second), first, second, count

    values = {name: jnp.asarray(value) for name, value in work.values.items()}
    zeros = jax.tree.map(jnp.zeros_like, values)
    state = {"values": values, "first": zeros, "second": zeros, "number": 0}

    def step() -> int:
        state["number"] += 1
        number = jnp.float32(state["number"])
        values, first, second, count = update(state["values"], state["first"], state["second"], number, x, labels)
        jax.block_until_ready(values)
        state.update(values=values, first=first, second=second)
        return int(count)

    return step


def _stepper(modules: list[Any], forward: Callable[[], tuple[Any, int]], labels: np.ndarray) -> Step:
    """Cross-entropy of what `forward` returns, (B, C) outputs and a number of spikes, and a step of PyTorch's Adam."""
    import torch

    right = torch.from_numpy(labels)
    adam = torch.optim.Adam([value for module in modules for value in module.parameters()], RATE)

    def step() -> int:
        output, count = forward()
        adam.zero_grad()
        torch.nn.functional.cross_entropy(output, right).backward()
        adam.step()
        return count

    return step


def _linear(work: DigitsNetwork, name: str) -> Any:
    """A linear layer with the network's weights and bias."""
    import torch

    weights, bias = work.values[f"{name}.weights"], work.values[f"{name}.bias"]
    linear = torch.nn.Linear(*weights.shape)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.array(weights.T)))
        linear.bias.copy_(torch.from_numpy(np.array(bias)))
    return linear


def _box_car(m: Any, grad: Any, spikes: Any) -> Any:
    """blocksim's default width."""
    return grad * (m.abs() < 0.5)


def snntorch_network(work: DigitsNetwork) -> Step:
    import snntorch
    import torch
    from snntorch import surrogate

    x = torch.from_numpy(_dense(work))
    boxed = work.surrogate == "box_car"
    slope = surrogate.custom_surrogate(_box_car) if boxed else surrogate.fast_sigmoid(slope=10)
    linears = [_linear(work, f"layers.{number}") for number in range(2)] + [_linear(work, "readout")]
    cells = []
    for number, layer in enumerate(work.network.layers):
        cell = snntorch.RLeaky(beta=torch.tensor(layer.neuron.beta), linear_features=layer.size, spike_grad=slope)
        with torch.no_grad():
            cell.recurrent.weight.copy_(torch.from_numpy(np.array(work.values[f"layers.{number}.recurrent"].T)))
        cells.append(cell)
    readout = snntorch.Leaky(beta=work.network.readout.beta, reset_mechanism="none")

    def forward() -> tuple[Any, int]:
        # the first layer's input of all steps in one product: the fastest that these cells allow
        currents = linears[0](x)
        s0 = v0 = torch.zeros(len(x), 256)
        s1 = v1 = torch.zeros(len(x), 256)
        u = readout.reset_mem()
        total, count = 0.0, torch.zeros(())
        for now in currents.unbind(1):
            s0, v0 = cells[0](now, s0, v0)
            s1, v1 = cells[1](linears[1](s0), s1, v1)
            _, u = readout(linears[2](s1), u)
            total = total + u
            count += s0.detach().sum() + s1.detach().sum()
        return total / x.shape[1], int(count)

    return _stepper([*linears, *cells], forward, work.labels)


def norse_network(work: DigitsNetwork) -> Step:
    import torch
    from norse.torch import LI, LSNNRecurrent
    from norse.torch.functional.leaky_integrator import LIParameters
    from norse.torch.functional.lsnn import LSNNParameters

    x = torch.from_numpy(_dense(work)).transpose(0, 1).contiguous()
    dt = work.dt / 1000

    def inverse(decay: Any) -> Any:
        """What Norse's Euler step makes this decay of."""
        return torch.as_tensor((1 - np.asarray(decay)) / dt, dtype=torch.float32)

    cells = []
    for number, layer in enumerate(work.network.layers):
        neuron = layer.neuron
        # the synapse as fast as it goes
        values = LSNNParameters(
            tau_mem_inv=inverse(neuron.beta), tau_syn_inv=torch.as_tensor(1 / dt), tau_adapt_inv=inverse(neuron.p),
            beta=torch.as_tensor(np.asarray(neuron.b)),
        )  # fmt: skip
        cell = LSNNRecurrent(layer.inputs, layer.size, p=values, dt=dt)
        gain = 1 / (1 - np.asarray(neuron.beta))  # Norse's step scales currents by dt / tau
        with torch.no_grad():
            for name, own in (("input_weights", "weights"), ("recurrent_weights", "recurrent")):
                scaled = (work.values[f"layers.{number}.{own}"] * gain).T
                getattr(cell, name).copy_(torch.from_numpy(np.array(scaled, np.float32)))
        cells.append(cell)
    linear = _linear(work, "readout")
    readout = LI(
        p=LIParameters(tau_syn_inv=torch.as_tensor(1 / dt), tau_mem_inv=inverse(work.network.readout.beta)), dt=dt
    )

    def forward() -> tuple[Any, int]:
        first, _ = cells[0](x)
        second, _ = cells[1](first)
        u, _ = readout(linear(second))
        return u.mean(0), int(first.detach().sum() + second.detach().sum())

    return _stepper([*cells, linear], forward, work.labels)


def spikingjelly_network(work: DigitsNetwork) -> Step:
    import torch
    from spikingjelly.activation_based import functional, neuron

    x = torch.from_numpy(_dense(work)).transpose(0, 1).contiguous()
    linears = [_linear(work, f"layers.{number}") for number in range(2)] + [_linear(work, "readout")]

    def lif(beta: float, threshold: float) -> Any:
        return neuron.LIFNode(
            tau=1 / (1 - beta), decay_input=False, v_threshold=threshold, v_reset=0.0, detach_reset=True,
            step_mode="m", store_v_seq=threshold > 1,
        )  # fmt: skip

    cells = [lif(float(np.median(layer.neuron.beta)), 1.0) for layer in work.network.layers]
    readout = lif(work.network.readout.beta, 1e9)  # never spikes: a leaky integrator

    def forward() -> tuple[Any, int]:
        s, count = x, 0
        for linear, cell in zip(linears, [*cells, readout], strict=True):
            functional.reset_net(cell)
            s = cell(linear(s))
            count += int(s.detach().sum())
        return readout.v_seq.mean(0), count

    return _stepper(linears, forward, work.labels)
