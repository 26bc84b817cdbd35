"""
Write a backend
===============

A backend is one class of seven methods: three for its arrays, two for weights, two for what happens inside a block. The
core does the rest: blocks, recurrence, states, checkpoints, networks, training, the command line. This page has one,
complete, holds it to the reference, and gives it a name.

It is a plain one, which takes the equations of :doc:`the model </model>` step by step as they stand. Yours may run on
other hardware, in other arithmetic, or count something.
"""

import time
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import lfilter

import blocksim
from blocksim import plotting
from blocksim.arrays import AdjointCarry, Carry
from blocksim.losses import van_rossum
from blocksim.numerics import spike_rows, tiny
from blocksim.testing import check_backend

plt.rcParams.update(plotting.STYLE)

# %%
# The backend
# -----------
#
# ``blocksim.Backend`` has the interface, and the docstrings of its methods say what goes in and comes out, with shapes.
# Arrays are (batch B, time, neuron N). Nothing needs to be checked: ``simulate`` has checked it.
#
# Values below the smallest that matter are set to zero after each step, in every backend; ``tiny`` knows the limit of each
# precision.


def flush(values):
    return np.where(np.abs(values) < tiny(values.dtype), 0, values)


class Plain(blocksim.Backend):
    """The equations step by step, NumPy arrays over samples and neurons."""

    name = "plain"

    # Arrays. A device would copy here; NumPy's arrays only have to be contiguous.

    def asarray(self, array, dtype=None):
        return np.ascontiguousarray(array, dtype)

    def to_numpy(self, array):
        return array

    def empty(self, shape, dtype):
        return np.empty(shape, dtype)

    # Weights. Input comes as events, as flags (recurrent spikes), or as real numbers. All are added in ascending order of the
    # input, spikes one by one: so all backends give the same bits. An array of numbers may hold steps that are spikes.

    def projection(self, x, weights, out):
        """Add x @ weights to `out` (B, T, N): equation (2)."""
        if isinstance(x, blocksim.Events):
            for row, (first, last) in enumerate(pairwise(x.indptr)):
                for source in x.indices[first:last]:
                    out[divmod(row, x.shape[1])] += weights[source]
            return
        for values, currents in zip(x, out, strict=True):
            for step, is_spikes in enumerate(spike_rows(values)):
                for source in np.flatnonzero(values[step]):
                    number = values[step, source]
                    for factor in [1] * int(number) if is_spikes else [number]:
                        currents[step] += factor * weights[source]

    def projection_adjoint(self, x, grad_current):
        """dLoss/d(weights): equation (11)."""
        dense = x.to_dense(grad_current.dtype) if isinstance(x, blocksim.Events) else x.astype(grad_current.dtype)
        return sum(inputs.T @ slopes for inputs, slopes in zip(dense, grad_current, strict=True))

    # One block. `carry` is what the block before hands on: potential, adaptation, refractory steps that are left.

    def block_forward(self, current, carry, layer, out):
        """Equations (1) and (3)-(6) for the steps of one block."""
        if out.free_voltage is not None:
            raise blocksim.ArgumentError("gradient: expected 'standard' with this backend; found 'paper'")
        neuron = layer.neuron
        v, a, left = carry.voltage, carry.adaptation, carry.refractory
        for t in range(current.shape[1]):
            live = left == 0  # (1)
            v = flush(neuron.beta * v + np.where(live, current[:, t], 0))  # (3)
            threshold = neuron.theta + neuron.b * a  # (4)
            spikes = live & (v > threshold)  # (5)
            a = flush(neuron.p * a + spikes)  # (6)
            left = np.where(spikes, layer.refractory, np.maximum(left - 1, 0))
            out.spikes[:, t] = spikes
            if out.voltage is not None:
                out.voltage[:, t] = v
            if out.threshold is not None:
                out.threshold[:, t] = threshold
            v = np.where(spikes, 0, v)
        return Carry(v, a, left.astype(np.int32))

    def block_adjoint(
        self, voltage, spikes, start, layer, rule, grad_spikes, grad_voltage, grad_carry, grad_current, sums
    ):
        """Equations (7)-(10) and (12) for the steps of one block, last step first."""
        neuron, steps = layer.neuron, voltage.shape[1]
        # forward once more for what the tape does not hold
        a, left, live, adaptation = start.adaptation, start.refractory, [], []
        for t in range(steps):
            live.append(left == 0)
            adaptation.append(a)
            a = flush(neuron.p * a + spikes[:, t])
            left = np.where(spikes[:, t], layer.refractory, np.maximum(left - 1, 0))
        into_v, into_a = grad_carry.voltage, grad_carry.adaptation  # of the step that follows
        for t in reversed(range(steps)):
            v, s, a = voltage[:, t], spikes[:, t], adaptation[t]
            lambda_s = grad_spikes[:, t]  # (7), the recurrent term already in it
            if rule.through_adaptation:
                lambda_s = lambda_s + into_a
            if rule.through_reset:
                lambda_s = lambda_s - v * into_v
            slope = rule.surrogate(v - neuron.theta - neuron.b * a)
            delta = np.where(live[t], slope * lambda_s, 0)  # (8)
            lambda_v = delta + np.where(s, 0, into_v)  # (9)
            if grad_voltage is not None:
                lambda_v = lambda_v + grad_voltage[:, t]
            lambda_v = flush(lambda_v)
            grad_current[:, t] = np.where(live[t], lambda_v, 0)  # (11)
            before = np.where(spikes[:, t - 1], 0, voltage[:, t - 1]) if t else start.voltage
            sums.bias[...] += grad_current[:, t]
            sums.beta[...] += lambda_v * before  # (12)
            sums.p[...] += into_a * a
            sums.b[...] -= delta * a
            sums.theta[...] -= delta
            into_a = flush(neuron.p * into_a - neuron.b * delta)  # (10)
            into_v = flush(neuron.beta * lambda_v)
        return AdjointCarry(into_v, into_a)


# %%
# That is all. An object of the class is a backend:

rng = np.random.default_rng(0)
neuron = blocksim.ALIF.from_ms(tau_mem=15, tau_adapt=100, adaptation=0.2, refractory=4, dt=1)
layer = blocksim.Layer(neuron, rng.normal(0.1, 0.2, (30, 40)), recurrent=rng.normal(0, 0.1, (40, 40)))
x = rng.random((4, 300, 30)) < 0.03

plain = Plain()
run = blocksim.simulate(layer, x, plain, record=("voltage", "threshold"), tape=True)
print(f"{run.spikes.sum()} spikes by {run.backend}, in blocks of {run.block_length} steps")

# %%
# Hold it to the reference
# ------------------------
#
# ``blocksim.testing.check_backend`` computes random layers by a backend and by the reference. Spikes, potentials, thresholds
# and states must be the same in every bit, for every block length, in chunks, one sample alone; gradients agree to rounding.
# It raises an ``AssertionError`` that says what differs, and for which layer.

check_backend(plain)
print("60 random layers: the same bits, the same gradients")

# %%
# A test must be able to fail. A backend that lets a refractory neuron listen, at the start of a block, is caught:


class Wrong(Plain):
    name = "wrong"

    def block_forward(self, current, carry, layer, out):
        listening = Carry(carry.voltage, carry.adaptation, 0 * carry.refractory)
        return super().block_forward(current, listening, layer, out)


try:
    check_backend(Wrong())
except AssertionError as error:
    print(error)
else:
    raise RuntimeError("the check above cannot fail")

# %%
# The potential of one neuron by both, and the spikes of all:

reference = blocksim.simulate(layer, x, "numpy", record="voltage")
figure, (top, bottom) = plt.subplots(
    2, 1, sharex=True, figsize=(7.5, 4.6),
    num="Above, the potential of one neuron by the reference, a broad line, and by the new backend, a thin one on it. "
    "Below, the spikes of all 40 neurons: those of the new backend lie on those of the reference.",
)  # fmt: skip
top.plot(reference.voltage[0, :, 7], color=plotting.RATE, linewidth=3.5, alpha=0.5, label="reference")
top.plot(run.voltage[0, :, 7], color=plotting.SPIKE, linewidth=1, label="plain")
top.set_ylabel("potential")
top.legend(ncols=2, loc="lower right", fontsize="small")
for spikes, colour, size, width in (
    (reference.spikes, plotting.RATE, 6, 3), (run.spikes, plotting.SPIKE, 3, 1)
):  # fmt: skip
    step, row = np.nonzero(spikes[0])
    bottom.plot(step, row, "|", color=colour, markersize=size, markeredgewidth=width)
bottom.set(xlabel="time (ms)", ylabel="neuron", xlim=(0, 300), ylim=(-1, 40))
plt.show()

# %%
# A name of its own
# -----------------
#
# To be had by ``backend="plain"``, and in ``blocksim info``, it is registered under the entry-point group
# ``blocksim.backends``, by the distribution that holds it. The entry names a ``BackendEntry``: where the class is, which
# libraries it needs, and what installs them; so the class is not imported before it is used. In ``pyproject.toml``:
#
# .. code-block:: toml
#
#    [project.entry-points."blocksim.backends"]
#    plain = "plain_backend:ENTRY"
#
# and in ``plain_backend/__init__.py``
#
# .. code-block:: python
#
#    from blocksim import BackendEntry
#
#    ENTRY = BackendEntry("plain_backend.plain", "Plain", requires=(), install="python -m pip install plain-backend")
#
# ``rank=`` says where it stands among those that ``backend="auto"`` tries: numpy has 0, numba 10, cupy 20.
#
# Registered, it is under this project's own tests: in a checkout with your package installed, ``pytest -k plain`` runs all
# that take a backend, against the golden data, the oracle and the other backends. They pass, but for those that ask for
# ``gradient="paper"``, which this backend refuses: for that gradient, ``block_forward`` fills ``out.free_voltage`` too, and
# ``block_adjoint`` computes equations (14)-(17) where ``rule.paper`` is set.
#
# What is optional
# ----------------
#
# Everything else has a default, which is composed of the seven; replace it where yours can do better.
#
# ====================================  ==============================================================================
# method                                for
# ====================================  ==============================================================================
# ``layer_forward``, ``layer_adjoint``  a whole layer, and its adjoint, in one go: where most speed is
# ``events``                            finding the spikes of an array; may return them in a form of the backend's own
# ``input_adjoint``                     dLoss/dx
# ``leaky_filter``                      the filter (18) of losses
# ``fast``                              functions of the core of which the backend has its own version
# ``fetch``                             copying several small arrays at once, from a device
# ``owns``                              which arrays of a caller's lie on the device already, and stay there
# ``check_surrogate``                   refusing a surrogate that kernels have no copy of
# ``release_memory``                    giving back memory that is kept for later
# ``describe``                          what ``blocksim info`` prints
# ====================================  ==============================================================================
#
# A backend that computes whole layers only is a ``blocksim.backend.FusedBackend``: ``layer_forward`` and ``layer_adjoint``
# take the place of the two methods of blocks.
#
# One of them, as an example. The default of ``leaky_filter`` is a loop over steps; SciPy has it in compiled code. (It does
# not flush, so a long silence may cost time, but changes no result that matters.)


class Filtering(Plain):
    """With a faster filter."""

    name = "filtering"

    def leaky_filter(self, x, decay, reverse=False):
        """y[t] = decay y[t - 1] + x[t], or from the last step on."""
        ahead = x[:, ::-1] if reverse else x
        y = lfilter([1.0], [1.0, -decay], ahead, axis=1).astype(x.dtype)
        return np.ascontiguousarray(y[:, ::-1] if reverse else y)


target = np.roll(run.spikes, 3, axis=1)
expected = van_rossum(run.spikes, target, tau=10, dt=1, backend="numpy")
filtered = van_rossum(run.spikes, target, tau=10, dt=1, backend=Filtering())
assert np.isclose(filtered.value, expected.value, rtol=1e-12)
assert np.allclose(filtered.gradient, expected.gradient, rtol=1e-12, atol=1e-14)

# %%
# Where it stands
# ---------------
#
# Seconds for a training step of the layer above, forward and backward, on the machine that built this page. A loop in
# Python is slow whatever it computes; the numba backend replaces both loops over a whole layer by compiled ones.

seconds = {}
for engine in (plain, "numpy", "numba"):
    for _ in range(2):  # the second time, kernels are compiled
        began = time.perf_counter()
        again = blocksim.simulate(layer, x, engine, tape=True)
        again.backward(np.ones(again.spikes.shape))
        seconds[again.backend] = time.perf_counter() - began

figure, axes = plt.subplots(
    figsize=(7.5, 2.4),
    num="Time of a training step on a logarithmic axis: "
    + ", ".join(f"{name} {1000 * took:.3g} ms" for name, took in seconds.items()),
)
bars = axes.barh(list(seconds), [1000 * took for took in seconds.values()], color=plotting.SPIKE, height=0.6)
axes.bar_label(bars, fmt="%.3g ms", padding=4)
axes.set(xscale="log", xlabel="training step (ms)", xlim=(0.1, 20_000))
axes.invert_yaxis()
plt.show()

# %%
# :doc:`Backends </backends>` says what the three that come with blocksim do, and what each promises.
