"""The workloads that are timed, by asv and by asv_bench/ratios.py alike: one place for their sizes and parameters."""

from __future__ import annotations

import numpy as np

import blocksim


class PaperLayer:
    """Taylor et al. 2023, synthetic: 1000 Poisson inputs (10 %) to 128 recurrent ALIF neurons, T = 1024, ARP 40."""

    inputs, neurons, steps = 1000, 128, 1024

    def __init__(self, batch: int = 64, dtype: type = np.float32, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.dense = rng.random((batch, self.steps, self.inputs), dtype=np.float32) < 0.1
        self.x = blocksim.Events.from_dense(self.dense)
        weights = rng.normal(0.0008, 0.02, (self.inputs, self.neurons)).astype(dtype)
        recurrent = rng.normal(0, 0.05, (self.neurons, self.neurons)).astype(dtype)
        neuron = blocksim.ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=40)
        self.layer = blocksim.Layer(neuron, weights, recurrent=recurrent)
        self.grad_spikes = rng.normal(size=(batch, self.steps, self.neurons)).astype(dtype)

    def forward(self, backend: str = "numba", method: str = "blocks") -> blocksim.Run:
        return blocksim.simulate(self.layer, self.x, backend, method)

    def step(
        self, backend: str = "numba", method: str = "blocks", x: object = None, tape: bool | str = True
    ) -> blocksim.Gradients:
        """Forward and backward pass, as for one step of training."""
        run = blocksim.simulate(self.layer, self.x if x is None else x, backend, method, tape=tape)
        return run.backward(self.grad_spikes)


class Currents:
    """Dynamics alone: currents given, potentials recorded."""

    def __init__(self, batch: int = 64, steps: int = 1024, neurons: int = 128, dtype: type = np.float32) -> None:
        rng = np.random.default_rng(1)
        self.x = rng.uniform(0, 0.1, (batch, steps, neurons)).astype(dtype)
        self.copy = self.x.copy()
        self.layer = blocksim.Layer(blocksim.ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=40))

    def run(self, backend: str = "numba") -> blocksim.Run:
        return blocksim.simulate(self.layer, self.x, backend, record=("voltage",))


class Million:
    """One neuron for a million steps, driven throughout, or once and then silent."""

    def __init__(self) -> None:
        self.active = np.random.default_rng(3).normal(0.02, 0.05, (1_000_000, 1)).astype(np.float32)
        self.silent = np.zeros_like(self.active)
        self.silent[0] = 5.0
        self.layer = blocksim.Layer(
            blocksim.ALIF(np.float32([0.99]), np.float32([0.999]), np.float32([0.2]), refractory_steps=20)
        )
        self.grad_spikes = np.zeros(self.active.shape, np.float32)
        self.grad_spikes[-1] = 1.0

    def step(self, x: np.ndarray) -> blocksim.Gradients:
        return blocksim.simulate(self.layer, x, "numba", tape=True).backward(self.grad_spikes)


class OneNeuron:
    """Three sweeps of one second at 0.1 ms, for fits: forward, and forward and backward."""

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self.x = rng.normal(0.02, 0.05, (3, 10_000, 1))
        self.layer = blocksim.Layer(
            blocksim.ALIF.from_ms(tau_mem=15, tau_adapt=100, adaptation=0.3, refractory=4, dt=0.1)
        )
        self.grad_spikes = rng.normal(size=(3, 10_000, 1))

    def forward(self, backend: str = "numba") -> blocksim.Run:
        return blocksim.simulate(self.layer, self.x, backend)

    def step(self, backend: str = "numba") -> blocksim.Gradients:
        return blocksim.simulate(self.layer, self.x, backend, tape=True).backward(self.grad_spikes)
