"""The linear family in the tools that asv_bench/peers.py compares: populations with Poisson input, layers of synapses.

Owns how each tool is told of the same neurons. "population" is a simulator's work: 1000 of NEST's iaf_psc_exp neurons
for ten seconds at 0.1 ms, each with Poisson input of its own, which every tool draws. "synapse step" is a forward and
a backward pass of a layer of current-based LIF neurons with an exponential synapse, as large as the paper's layer.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from peer_spikes import jax_spike, torch_spike

WORK = ("population", "synapse step")
Step = Callable[[], int]
# NEST's defaults; spikes of 90 pA at 2 kHz hold the potential near the threshold
NEURONS, SECONDS, DT, RATE, WEIGHT = 1000, 10, 0.1, 2000.0, 90.0
CHUNK = 100  # ms that blocksim simulates at a time: its input, drawn just before, is still in the cache


class SynapseLayer:
    """64 samples of 1024 steps of 1000 inputs at 10 %, to 128 LIF neurons with one exponential synapse."""

    batch, steps, inputs, neurons, period = 64, 1024, 1000, 128, 40
    beta, sigma = 0.95, 0.9

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.dense = rng.random((self.batch, self.steps, self.inputs), dtype=np.float32) < 0.1
        self.weights = rng.normal(0.0001, 0.002, (self.inputs, self.neurons)).astype(np.float32)
        self.grad = rng.normal(size=(self.batch, self.steps, self.neurons)).astype(np.float32)


def blocksim_families() -> dict[str, Step]:
    import blocksim
    from blocksim.interop import from_nest

    told = from_nest("iaf_psc_exp", {}, DT, (1, 1))
    # one receptor, whose input is the current itself
    layer = blocksim.Layer(told.neuron, bias=told.bias, synapses=told.synapses[:1])
    steps = round(CHUNK / DT)

    def population() -> int:
        state, spikes = None, 0
        for first in range(0, round(1000 * SECONDS / DT), steps):
            x = blocksim.poisson_input(RATE, steps, dt=DT, neurons=NEURONS, weight=WEIGHT, seed=0, first_step=first)
            run = blocksim.simulate(layer, x, state=state)
            state, spikes = run.state, spikes + int(np.count_nonzero(run.spikes))
        return spikes

    work = SynapseLayer()
    neuron = blocksim.LIF(work.beta, refractory_steps=work.period)
    trained = blocksim.Layer(neuron, work.weights, synapses=[blocksim.Exponential(work.sigma)])
    events = blocksim.Events.from_dense(work.dense)

    def step() -> int:
        run = blocksim.simulate(trained, events, tape=True)
        run.backward(work.grad)
        return int(run.spikes.sum())

    return {"population": population, "synapse step": step}


def torch_families() -> dict[str, Step]:
    import torch

    spike = torch_spike()
    work = SynapseLayer()
    x, grad = torch.from_numpy(work.dense.astype(np.float32)), torch.from_numpy(work.grad)
    weights = torch.tensor(work.weights, requires_grad=True)
    beta, sigma = (torch.tensor(value, requires_grad=True) for value in (work.beta, work.sigma))

    def step() -> int:
        v = s = i = torch.zeros(work.batch, work.neurons)
        left = torch.zeros(work.batch, work.neurons)
        spikes = []
        for now in (x @ weights).unbind(1):
            i = sigma * i + now
            live = (left == 0).to(i.dtype)
            v = beta * v * (1 - s.detach()) + live * i
            s = live * spike(v - 1)
            left = torch.where(s > 0, float(work.period), (left - 1).clamp(min=0))
            spikes.append(s)
        every = torch.stack(spikes, 1)
        every.backward(grad)
        return int(every.sum())

    return {"synapse step": step}


def jax_families() -> dict[str, Step]:
    import jax
    import jax.numpy as jnp

    spike = jax_spike()
    work = SynapseLayer()

    def loss(trained: Any, x: Any, grad: Any) -> Any:
        weights, beta, sigma = trained

        def one(carry: Any, now: Any) -> Any:
            v, i, s, left = carry
            i = sigma * i + now
            live = (left == 0).astype(i.dtype)
            v = beta * v * (1 - jax.lax.stop_gradient(s)) + live * i
            s = live * spike(v - 1)
            return (v, i, s, jnp.where(s > 0, work.period, jnp.maximum(left - 1, 0))), s

        zero = jnp.zeros((work.batch, work.neurons), jnp.float32)
        start = (zero, zero, zero, jnp.zeros(zero.shape, jnp.int32))
        _, spikes = jax.lax.scan(one, start, (x @ weights).swapaxes(0, 1))
        return (spikes.swapaxes(0, 1) * grad).sum(), spikes.sum()

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    trained = (jnp.asarray(work.weights), jnp.float32(work.beta), jnp.float32(work.sigma))
    x, grad = jnp.asarray(work.dense, jnp.float32), jnp.asarray(work.grad)

    def step() -> int:
        (_, count), gradients = both(trained, x, grad)
        jax.block_until_ready(gradients)
        return int(count)

    return {"synapse step": step}


def brainpy_families() -> dict[str, Step]:
    """BrainPy's own synapse and neuron, whose decays are no parameters; the product comes before the loop, as above."""
    import brainpy
    import brainstate
    import braintools
    import brainunit as u
    import jax
    import jax.numpy as jnp

    work = SynapseLayer()
    dt = 1.0 * u.ms
    brainstate.environ.set(dt=dt)

    class Spiking(brainstate.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weights = brainstate.ParamState(jnp.asarray(work.weights))
            self.synapse = brainpy.state.Expon(
                work.neurons, tau=-dt / np.log(work.sigma), g_initializer=braintools.init.Constant(0.0 * u.mA)
            )
            self.neuron = brainpy.state.LIFRef(
                work.neurons,
                R=1 / (1 - work.beta) * u.ohm,
                tau=-dt / np.log(work.beta),
                tau_ref=(work.period + 0.5) * dt,  # a spike ends it, and half a step keeps rounding out
                spk_fun=braintools.surrogate.InvSquareGrad(alpha=10.0),
                spk_reset="hard",
            )

        def update(self, current: Any) -> Any:
            return self.neuron(self.synapse(current))

    layer = Spiking()
    x, grad = jnp.asarray(work.dense, jnp.float32), jnp.asarray(work.grad).swapaxes(0, 1)

    def loss() -> Any:
        brainstate.nn.init_all_states(layer, batch_size=work.batch)

        def one(t: Any, current: Any) -> Any:
            with brainstate.environ.context(i=t, t=t * dt):
                return layer(current)

        currents = (x @ layer.weights.value).swapaxes(0, 1) * u.mA
        spikes = brainstate.transform.for_loop(one, jnp.arange(work.steps), currents)
        return (spikes * grad).sum(), spikes.sum()

    trained = layer.states(brainstate.ParamState)
    both = brainstate.transform.jit(brainstate.transform.grad(loss, trained, has_aux=True, return_value=True))

    def step() -> int:
        gradients, _, count = both()
        jax.block_until_ready(gradients)
        return int(count)

    return {"synapse step": step}


def nest_families() -> dict[str, Step]:
    import nest

    def population() -> int:
        nest.ResetKernel()
        nest.set_verbosity("M_ERROR")
        nest.SetKernelStatus({"resolution": DT, "local_num_threads": os.cpu_count() or 1})
        neurons = nest.Create("iaf_psc_exp", NEURONS)
        noise = nest.Create("poisson_generator", params={"rate": RATE})  # another train to each target
        recorder = nest.Create("spike_recorder")
        nest.Connect(noise, neurons, syn_spec={"weight": WEIGHT, "delay": DT})
        nest.Connect(neurons, recorder)
        nest.Simulate(1000.0 * SECONDS)
        return int(recorder.n_events)

    return {"population": population}


def brian_families() -> dict[str, Step]:
    """C++, compiled once; a step runs the program again, with its start and the writing of its results."""
    import brian2 as b

    folder = tempfile.mkdtemp()
    b.set_device("cpp_standalone", directory=folder, build_on_run=False)
    b.prefs.devices.cpp_standalone.openmp_threads = os.cpu_count() or 1
    b.defaultclock.dt = DT * b.ms
    group = b.NeuronGroup(
        NEURONS,
        """dv/dt = -v / (10 * ms) + current / (250 * pF) : volt (unless refractory)
           dcurrent/dt = -current / (2 * ms) : amp""",
        threshold="v > 15 * mV",
        reset="v = 0 * mV",
        refractory=2 * b.ms,
        method="exact",
    )
    # of many sources: a single one spikes at most once in a step, which is no Poisson train
    poisson = b.PoissonInput(group, "current", N=100, rate=RATE / 100 * b.Hz, weight=WEIGHT * b.pA)
    monitor = b.SpikeMonitor(group, record=False)
    network = b.Network(group, poisson, monitor)
    network.run(SECONDS * b.second)
    b.device.build(directory=folder, compile=True, run=False)

    def population() -> int:
        b.device.run(folder, with_output=False, run_args=[])
        return int(monitor.num_spikes)

    return {"population": population}
