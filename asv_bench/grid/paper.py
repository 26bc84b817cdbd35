"""The paper's grid, which takes hours: `asv run --config asv.grid.conf.json`, apart from what is followed every day."""

from __future__ import annotations

from benchmarks.workloads import Stack, require


class Time:
    """One layer: refractory period, length, batch and method."""

    params = (
        ["numba", "cupy"],
        ["blocks", "standard"],
        list(range(10, 101, 10)),
        [512, 1024, 2048],
        [32, 64, 128],
    )
    param_names = ("backend", "method", "refractory", "steps", "batch")
    timeout = 300

    def setup(self, backend, method, refractory, steps, batch):
        require(backend)
        self.work = Stack([128], refractory, steps, batch)
        self.work.step(backend, method)

    def time_forward(self, backend, method, refractory, steps, batch):
        self.work.forward(backend, method)

    def time_forward_and_backward(self, backend, method, refractory, steps, batch):
        self.work.step(backend, method)


class Layers:
    """Layers one on the other: their number and width."""

    params = (["numba", "cupy"], ["blocks", "standard"], [2, 3, 4, 5], [128, 256, 512])
    param_names = ("backend", "method", "layers", "neurons")
    timeout = 300

    def setup(self, backend, method, layers, neurons):
        require(backend)
        self.work = Stack([neurons] * layers, 40, 1024, 64)
        self.work.step(backend, method)

    def time_forward(self, backend, method, layers, neurons):
        self.work.forward(backend, method)

    def time_forward_and_backward(self, backend, method, layers, neurons):
        self.work.step(backend, method)

    def peakmem_forward_and_backward(self, backend, method, layers, neurons):
        self.work.step(backend, method)
