"""Time and memory of simulations and their gradients, followed from commit to commit by asv.

A backend that is not ready here is skipped (NotImplementedError), not counted as fast.
"""

from __future__ import annotations

import blocksim

from .workloads import Currents, OneNeuron, PaperLayer


def require(backend):
    status = blocksim.available_backends().get(backend, "not there")
    if status != "ready":
        raise NotImplementedError(f"{backend}: {status}")


class Layers:
    """The paper's layer."""

    params = (["numba", "numpy", "cupy"], ["blocks", "standard"])
    param_names = ("backend", "method")
    timeout = 120

    def setup(self, backend, method):
        require(backend)
        # the reference is for reading: a small batch shows its course as well
        self.work = PaperLayer(64 if backend != "numpy" else 4)
        self.work.step(backend, method)  # compiles

    def time_forward(self, backend, method):
        self.work.forward(backend, method)

    def time_forward_and_backward(self, backend, method):
        self.work.step(backend, method)

    def time_forward_and_backward_with_checkpoints(self, backend, method):
        self.work.step(backend, method, tape="checkpoint")

    def peakmem_forward_and_backward(self, backend, method):
        self.work.step(backend, method)

    def peakmem_forward_and_backward_with_checkpoints(self, backend, method):
        self.work.step(backend, method, tape="checkpoint")


class Dynamics:
    """Currents given."""

    params = (["numba", "cupy"],)
    param_names = ("backend",)

    def setup(self, backend):
        require(backend)
        self.many, self.one = Currents(), OneNeuron()
        self.many.run(backend)
        self.one.step(backend)

    def time_many_neurons(self, backend):
        self.many.run(backend)

    def time_one_neuron(self, backend):
        self.one.forward(backend)

    def time_one_neuron_with_gradient(self, backend):
        self.one.step(backend)


class Start:
    """What a process pays before its first step."""

    def timeraw_import(self):
        return "import blocksim"

    def timeraw_numpy_import_for_comparison(self):
        return "import numpy"

    def timeraw_first_simulation(self):
        return """
        import numpy as np
        import blocksim
        layer = blocksim.Layer(blocksim.LIF(0.9, refractory_steps=3))
        blocksim.simulate(layer, np.ones((10, 4), np.float32))
        """
