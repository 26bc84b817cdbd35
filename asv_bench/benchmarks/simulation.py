"""What is followed from commit to commit, in under three minutes: `asv run --quick`, or without it for better figures.

A backend that is not ready here is skipped (NotImplementedError), not counted as fast.
"""

from __future__ import annotations

import numpy as np

import blocksim

from .workloads import Currents, DigitsNetwork, Family, Long, OneNeuron, PaperLayer, require


class Layer:
    """The paper's layer, by method and kind of input."""

    params = (["numba", "numpy", "cupy"], ["blocks", "standard"])
    param_names = ("backend", "method")
    timeout = 120

    def setup(self, backend, method):
        require(backend)
        # the reference is for reading: a small batch shows its course as well
        self.work = PaperLayer(64 if backend != "numpy" else 4)
        self.counts = self.work.dense.astype(np.uint8)
        self.work.step(backend, method)  # compiles

    def time_forward(self, backend, method):
        self.work.forward(backend, method)

    def time_forward_and_backward(self, backend, method):
        self.work.step(backend, method)

    def time_forward_and_backward_of_a_dense_array(self, backend, method):
        self.work.step(backend, method, x=self.counts)

    def time_forward_and_backward_with_checkpoints(self, backend, method):
        self.work.step(backend, method, tape="checkpoint")

    def peakmem_forward_and_backward(self, backend, method):
        self.work.step(backend, method)

    def peakmem_forward_and_backward_with_checkpoints(self, backend, method):
        self.work.step(backend, method, tape="checkpoint")


class Network:
    """One step of training of two recurrent layers of 256: forward, cross-entropy, backward, Adam."""

    params = (["numba", "numpy", "cupy"], ["blocks", "standard"])
    param_names = ("backend", "method")
    timeout = 120

    def setup(self, backend, method):
        require(backend)
        if not hasattr(blocksim, "Network"):
            raise NotImplementedError("this commit has no networks")
        samples = 64 if backend != "numpy" else 2
        self.work = DigitsNetwork(samples, samples)
        self.work.step(backend, method)  # compiles

    def time_training_step(self, backend, method):
        self.work.step(backend, method)

    def time_training_step_with_a_box_car(self, backend, method):
        self.work.surrogate = "box_car"
        self.work.step(backend, method)

    def peakmem_training_step(self, backend, method):
        self.work.step(backend, method)

    def peakmem_training_step_with_checkpoints(self, backend, method):
        self.work.step(backend, method, tape="checkpoint")


class Threads:
    """The paper's layer on one thread and on two."""

    params = ([1, 2],)
    param_names = ("threads",)

    def setup(self, threads):
        require("numba")
        import numba

        if threads > numba.config.NUMBA_NUM_THREADS:
            raise NotImplementedError(f"{numba.config.NUMBA_NUM_THREADS} threads here")
        numba.set_num_threads(threads)
        self.work = PaperLayer()
        self.work.step()

    def time_forward_and_backward(self, threads):
        self.work.step()


class Dynamics:
    """Currents given: many neurons, and one."""

    params = (["numba", "cupy"],)
    param_names = ("backend",)

    def setup(self, backend):
        require(backend)
        self.many, self.one = Currents(), OneNeuron()
        self.many.run(backend)
        self.one.fit_step(backend)

    def time_many_neurons(self, backend):
        self.many.run(backend)

    def time_one_neuron(self, backend):
        self.one.forward(backend)

    def time_fit_step_of_one_neuron(self, backend):
        self.one.fit_step(backend)


class LinearFamily:
    """One exponential synapse, and a GIF of two currents and two thresholds, beside ALIF; currents given."""

    params = (list(Family.models), [False, True])
    param_names = ("model", "few")
    timeout = 120

    def setup(self, model, few):
        require("numba")
        if not hasattr(blocksim, "LinearIF"):
            raise NotImplementedError("this commit has no linear family")
        self.work = Family(model, few)
        self.work.step()  # compiles

    def time_forward(self, model, few):
        self.work.forward()

    def time_forward_and_backward(self, model, few):
        self.work.step()


class Silence:
    """A million steps of one neuron, driven throughout, or once and then silent: no trap of denormal numbers."""

    params = (["active", "silent"],)
    param_names = ("drive",)

    def setup(self, drive):
        require("numba")
        self.work = Long(1, 1_000_000, neurons=1)
        self.x = getattr(self.work, drive)
        self.work.step(self.x)

    def time_forward_and_backward(self, drive):
        self.work.step(self.x)


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
