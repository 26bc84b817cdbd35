"""The workloads that are timed, by asv and by asv_bench/ratios.py alike: one place for their sizes and parameters."""

from __future__ import annotations

import numpy as np

import blocksim
from blocksim.losses import van_rossum


def require(backend: str) -> None:
    """Skip a benchmark of a backend that is not ready here, with the reason."""
    status = blocksim.available_backends().get(backend, "not there")
    if status != "ready":
        raise NotImplementedError(f"{backend}: {status}")


class PaperLayer:
    """Taylor et al. 2023, synthetic: 1000 Poisson inputs (10 %) to 128 recurrent ALIF neurons, T = 1024, ARP 40."""

    inputs, neurons, steps = 1000, 128, 1024

    def __init__(self, batch: int = 64, dtype: type = np.float32, seed: int = 0, refractory: int = 40) -> None:
        rng = np.random.default_rng(seed)
        self.dense = rng.random((batch, self.steps, self.inputs), dtype=np.float32) < 0.1
        self.x = blocksim.Events.from_dense(self.dense)
        weights = rng.normal(0.0008, 0.02, (self.inputs, self.neurons)).astype(dtype)
        recurrent = rng.normal(0, 0.05, (self.neurons, self.neurons)).astype(dtype)
        neuron = blocksim.ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=refractory)
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


class Stack:
    """Recurrent ALIF layers one on the other, on 1000 Poisson inputs (10 %), as in the paper's synthetic experiment."""

    def __init__(self, sizes: list[int], refractory: int, steps: int, batch: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.x = blocksim.Events.from_dense(rng.random((batch, steps, 1000), dtype=np.float32) < 0.1)
        neuron = blocksim.ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=refractory)
        self.layers = []
        for inputs, neurons in zip([1000, *sizes], sizes, strict=False):
            # a layer above sees few spikes, one in a refractory period at most: its weights make up for it
            scale = 0.02 if inputs == 1000 and not self.layers else 2 / np.sqrt(inputs)
            weights = rng.normal(0.04 * scale if not self.layers else 0.3 * scale, scale, (inputs, neurons))
            recurrent = rng.normal(0, 0.05, (neurons, neurons)).astype(np.float32)
            self.layers.append(blocksim.Layer(neuron, weights.astype(np.float32), recurrent=recurrent))
        self.grad_spikes = rng.normal(size=(batch, steps, sizes[-1])).astype(np.float32)

    def forward(self, backend: str = "numba", method: str = "blocks", tape: bool = False) -> list[blocksim.Run]:
        x, runs = self.x, []
        for layer in self.layers:
            runs.append(blocksim.simulate(layer, x, backend, method, tape=tape))
            x = runs[-1].spikes
        return runs

    def step(self, backend: str = "numba", method: str = "blocks") -> list[blocksim.Gradients]:
        """Forward through all layers, and backward."""
        gradients = []
        grad = self.grad_spikes
        for number, run in reversed(list(enumerate(self.forward(backend, method, tape=True)))):
            gradients.append(run.backward(grad))
            grad = gradients[-1].x if number else grad
        return gradients


class Currents:
    """Dynamics alone: currents given, potentials recorded."""

    def __init__(self, batch: int = 64, steps: int = 1024, neurons: int = 128, dtype: type = np.float32) -> None:
        rng = np.random.default_rng(1)
        self.x = rng.uniform(0, 0.1, (batch, steps, neurons)).astype(dtype)
        self.copy = self.x.copy()
        self.layer = blocksim.Layer(blocksim.ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=40))

    def run(self, backend: str = "numba") -> blocksim.Run:
        return blocksim.simulate(self.layer, self.x, backend, record=("voltage",))


class Long:
    """One current for many neurons, driven throughout, or once and then silent; or one neuron, and its gradients."""

    def __init__(self, batch: int, steps: int, neurons: int = 128) -> None:
        self.active = np.random.default_rng(3).normal(0.02, 0.05, (batch, steps, 1)).astype(np.float32)
        self.silent = np.zeros_like(self.active)
        self.silent[:, 0] = 5.0
        beta = np.full(neurons, 0.99, np.float32)
        self.layer = blocksim.Layer(blocksim.ALIF(beta, p=0.999, b=0.2, refractory_steps=20))
        # a gradient that decays from the end on: denormal, if nothing stops it
        self.grad_spikes = np.zeros((batch, steps, neurons), np.float32)
        self.grad_spikes[:, -1] = 1.0

    def forward(self, x: np.ndarray) -> blocksim.Run:
        return blocksim.simulate(self.layer, x)

    def step(self, x: np.ndarray) -> blocksim.Gradients:
        return blocksim.simulate(self.layer, x, tape=True).backward(self.grad_spikes)


class OneNeuron:
    """Three sweeps of one second at 0.1 ms, for fits: forward, and a step of a fit."""

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self.x = rng.normal(0.02, 0.05, (3, 10_000, 1))

        def layer(tau_mem: float) -> blocksim.Layer:
            neuron = blocksim.ALIF.from_ms(tau_mem=tau_mem, tau_adapt=100, adaptation=0.3, refractory=4, dt=0.1)
            return blocksim.Layer(neuron)

        self.layer = layer(15)
        self.target = blocksim.simulate(layer(20), self.x, "numpy").spikes
        self.grad_spikes = rng.normal(size=(3, 10_000, 1))

    def forward(self, backend: str = "numba") -> blocksim.Run:
        return blocksim.simulate(self.layer, self.x, backend)

    def step(self, backend: str = "numba") -> blocksim.Gradients:
        return blocksim.simulate(self.layer, self.x, backend, tape=True).backward(self.grad_spikes)

    def fit_step(self, backend: str = "numba") -> blocksim.Gradients:
        """Forward, the van Rossum distance to the target and its gradient, backward."""
        run = blocksim.simulate(self.layer, self.x, backend, tape=True)
        return run.backward(van_rossum(run.spikes, self.target, tau=10, dt=0.1, backend=backend).gradient)


class DigitsNetwork:
    """Two recurrent ALIF layers of 256 and a leaky readout, on 700 channels: 500 steps of 2 ms, ARP 20 ms, float32.

    Made up: 8000 events a sample, evenly over channels and time, of ten classes. With `path`, the samples of a file.
    A learning rate too small to matter makes every step the same work.
    """

    channels, hidden, steps, dt, rate = 700, (256, 256), 500, 2.0, 10.0

    def __init__(
        self,
        batch: int = 64,
        samples: int = 64,
        path: str | None = None,
        refractory: float = 20.0,
        surrogate: str = "fast_sigmoid",
    ) -> None:
        # here, for commits that asv goes back to have no networks
        from blocksim.data import from_lists, open_dataset
        from blocksim.initialisers import calibrate, make_network
        from blocksim.optimisers import Adam

        rng = np.random.default_rng(4)
        if path is None:
            events = rng.poisson(8000, samples)
            self.data = from_lists(
                [rng.uniform(0, self.steps * self.dt, n) for n in events],
                [rng.integers(0, self.channels, n) for n in events],
                np.arange(samples) % 10, channels=self.channels, dt=self.dt, steps=self.steps,
            )  # fmt: skip
        else:
            self.data = open_dataset(path, self.dt, self.steps)
        chosen = self.data.batch(rng.permutation(len(self.data))[:batch])
        self.x, self.labels = chosen.x, chosen.labels
        network = make_network(
            self.data.channels, self.hidden, len(self.data.class_names), dt=self.dt, refractory=refractory,
            rounding="nearest", input_rate=self.x.density / (self.dt / 1000), rate=self.rate,
        )  # fmt: skip
        self.network = calibrate(network, self.x, rate=self.rate, dt=self.dt)
        self.surrogate = surrogate
        trained = ("weights", "recurrent", "bias")
        values = self.network.parameters()
        self.values = {name: value for name, value in values.items() if name.rpartition(".")[2] in trained}
        self.adam = Adam(1e-9)
        self.moments = self.adam.start(self.values)

    def forward(self, backend: str = "numba", method: str = "blocks", tape: bool | str = True) -> blocksim.NetworkRun:
        network = self.network.with_parameters(self.values)
        return blocksim.simulate(network, self.x, backend, method, tape=tape, surrogate=self.surrogate)

    def backward(self, run: blocksim.NetworkRun) -> dict[str, np.ndarray]:
        """Cross-entropy, and the gradients of what is trained."""
        from blocksim.losses import cross_entropy

        gradients = run.backward(cross_entropy(run.output, self.labels).gradient).parameters()
        return {name: gradients[name] for name in self.values}

    def update(self, gradients: dict[str, np.ndarray]) -> None:
        self.values, self.moments = self.adam.step(self.values, gradients, self.moments)

    def step(self, backend: str = "numba", method: str = "blocks", tape: bool | str = True) -> blocksim.NetworkRun:
        """One whole step of training: forward, loss, backward, Adam."""
        run = self.forward(backend, method, tape)
        self.update(self.backward(run))
        return run


class Family:
    """Neurons of the linear family with the paper's sizes, or one neuron, currents given; ALIF beside them."""

    models = ("alif", "cuba", "gif")

    def __init__(self, model: str, few: bool = False, dtype: type = np.float32) -> None:
        batch, steps, size = (3, 10_000, 1) if few else (64, 1024, 128)
        rng = np.random.default_rng(0)
        self.x = rng.normal(0.08, 0.15, (batch, steps, size)).astype(dtype)
        self.grad_spikes = rng.normal(size=self.x.shape).astype(dtype)

        def each(value: float) -> np.ndarray:
            return np.full(size, value, dtype)

        common = {"beta": each(0.95), "theta": each(1.0), "refractory_steps": 20}
        if model == "alif":
            self.layer = blocksim.Layer(blocksim.ALIF(p=each(0.99), b=each(0.2), **common))
        elif model == "cuba":
            synapse = blocksim.Exponential(each(0.8), each(0.3))
            self.layer = blocksim.Layer(blocksim.LIF(**common), synapses=[synapse])
        else:
            components = [
                blocksim.Component(each(decay), each(1.0), each(0.0), each(current), each(rise))
                for decay, current, rise in ((0.99, -0.01, 0), (0.9, -0.02, 0), (0.99, 0, 0.1), (0.95, 0, 0.1))
            ]
            gif = blocksim.LinearIF(**common, components=components, refractory="hold")
            self.layer = blocksim.Layer(gif)

    def forward(self, backend: str = "numba") -> blocksim.Run:
        return blocksim.simulate(self.layer, self.x, backend)

    def step(self, backend: str = "numba") -> blocksim.Gradients:
        return blocksim.simulate(self.layer, self.x, backend, tape=True).backward(self.grad_spikes)
