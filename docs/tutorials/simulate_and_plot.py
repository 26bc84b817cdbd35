"""
Simulate and plot
=================

From a current to potentials and spikes: one adaptive neuron, its rate as a function of the current, a recurrent layer
driven by spikes, a long run in pieces, and the choice of a backend.

Everything goes in and comes out as NumPy arrays. The pictures are matplotlib's; ``blocksim.plotting`` has their colours.
"""

import matplotlib.pyplot as plt
import numpy as np

import blocksim
from blocksim import plotting

plt.rcParams.update(plotting.STYLE)

# %%
# One neuron
# ----------
#
# Time constants and refractory periods are in milliseconds, and so is the step ``dt``. ``from_ms`` makes factors and
# whole steps of them, once; from there on the neuron knows nothing of milliseconds. So ``dt`` stays with you.

dt = 0.1  # ms
neuron = blocksim.ALIF.from_ms(tau_mem=20, tau_adapt=150, adaptation=0.3, refractory=4, dt=dt)
neuron

# %%
# A refractory period that is no whole number of steps is an error, and never rounded in silence:

try:
    blocksim.ALIF.from_ms(tau_mem=20, tau_adapt=150, adaptation=0.3, refractory=1.25, dt=dt)
except blocksim.ArgumentError as error:
    print(error)

# %%
# Potentials are relative: 0 is rest and reset, 1 the threshold of a neuron that has not spiked for long. The current is
# what is added to the potential in one step, equation (3). A constant current `I` takes the potential to
# `I / (1 - beta)`; so it is convenient to think in multiples of the current that just reaches threshold, the *rheobase*.
#
# Here the neuron gets 1.8 times its rheobase for 300 ms, with some noise. A layer without weights takes its input as the
# current, of shape (time, neurons).

rng = np.random.default_rng(1)
steps = round(400 / dt)
time = np.arange(steps) * dt
drive = np.where((time >= 50) & (time < 350), 1.8, 0) + rng.normal(0, 1.0, steps)  # in rheobases
current = (1 - neuron.beta) * drive[:, None]

run = blocksim.simulate(blocksim.Layer(neuron), current, record=("voltage", "threshold"))
run.spikes.shape, run.spikes.dtype, run.voltage.dtype, run.block_length

# %%
# Spikes always come back, as booleans. Potential and threshold come back because ``record`` asked for them: they take
# eight times the memory. ``run.voltage`` is the potential *before* reset, the one that was compared with the threshold,
# so a spike shows as a crossing. Each spike raises the threshold by 0.3, which decays with 150 ms: the intervals grow.
#
# (``num`` is matplotlib's title of a window; here it says in words what a picture shows, for those who do not see it.)

spike_times = time[run.spikes[:, 0]]
print(f"{len(spike_times)} spikes; intervals of {np.diff(spike_times).round(1)} ms")

figure, axes = plt.subplots(
    num="Potential, threshold and spikes of one adaptive neuron over 400 ms. The potential climbs to the threshold and "
    "is reset; the threshold jumps at each spike and decays, so that intervals between spikes grow."
)
axes.plot(time, run.voltage[:, 0], label="potential")
axes.plot(time, run.threshold[:, 0], label="threshold")
axes.plot(spike_times, np.full(len(spike_times), 2.5), "v", color=plotting.SPIKE, label="spike")
axes.set(xlabel="time (ms)", ylabel="potential", xlim=(0, 400), ylim=(-0.4, 3.2))
axes.legend(ncols=3, loc="upper right")
plt.show()

# %%
# The rate as a function of the current
# -------------------------------------
#
# Neurons of a layer without connections are independent: one column of the current each. So an f-I curve is one run, of
# as many neurons as there are currents. One number is shared by all neurons of a layer; an array gives each its own.

currents = np.linspace(0.8, 4, 65)  # in rheobases
long = round(2000 / dt)
curves = {}
for name, strength in {"adaptation 0": 0.0, "adaptation 0.1": 0.1, "adaptation 0.3": 0.3}.items():
    cells = blocksim.ALIF.from_ms(tau_mem=20, tau_adapt=150, adaptation=strength, refractory=4, dt=dt)
    x = np.broadcast_to((1 - cells.beta) * currents, (long, len(currents)))
    spikes = blocksim.simulate(blocksim.Layer(cells), x).spikes
    curves[name] = spikes[long // 2 :].sum(axis=0)  # in the second of the two seconds: in Hz

# %%
# Without adaptation the interval is known: the refractory period, and the steps `k` after which
# `I (1 - beta^k) / (1 - beta)` is above 1. The simulation must agree to one spike, which may fall to either side of
# the second's edge.

above = currents[currents > 1.001]
interval = neuron.refractory_steps + np.ceil(np.log(1 - 1 / above) / np.log(neuron.beta))
expected = 1000 / (interval * dt)
assert np.abs(curves["adaptation 0"][currents > 1.001] - expected).max() <= 1

figure, axes = plt.subplots(
    num="Firing rate over constant current, for three strengths of adaptation. All start at the rheobase; without "
    "adaptation the rate bends towards the limit of the refractory period, with adaptation it rises slowly and nearly "
    "straight. The curve without adaptation lies on the formula."
)
for name, rates in curves.items():
    axes.plot(currents, rates, label=name)
axes.plot(above, expected, "--", color="black", linewidth=0.8, label="formula")
axes.set(xlabel="current (rheobases)", ylabel="rate (Hz)", xlim=(0.8, 4), ylim=(0, None))
axes.legend()
plt.show()

# %%
# A recurrent layer, driven by spikes
# -----------------------------------
#
# With ``weights`` of shape (inputs, neurons) the input is spikes, or any numbers: here 8 samples of 100 inputs, each of
# which fires at about 20 Hz, modulated at 5 Hz. Arrays are (batch, time, neuron) throughout. ``recurrent`` goes from row
# to column, and acts after the refractory period and one more step, unless ``latency_steps`` says later.
#
# Parameters given as arrays hold one value a neuron; here membrane time constants from 10 to 40 ms. The layer is of
# float32 arrays, so it is computed in float32.

batch, inputs, size = 8, 100, 120
dt, duration = 0.5, 1000  # ms
steps = round(duration / dt)
rate = 20 * (1 + 0.9 * np.sin(2 * np.pi * 5 * np.arange(steps) * dt / 1000))  # Hz
x = rng.random((batch, steps, inputs)) < (rate * dt / 1000)[:, None]

neurons = blocksim.ALIF.from_ms(
    tau_mem=rng.uniform(10, 40, size).astype(np.float32), tau_adapt=150, adaptation=0.1, refractory=4, dt=dt
)
layer = blocksim.Layer(
    neurons,
    weights=rng.normal(0.05, 0.15, (inputs, size)).astype(np.float32),
    recurrent=rng.normal(-0.01, 0.05, (size, size)).astype(np.float32),
)
run = blocksim.simulate(layer, x, record="voltage")
print(f"{run.spikes.shape}, {run.voltage.dtype}, blocks of {run.block_length} steps, computed by {run.backend}")

# %%
# A raster wants times and rows, which ``np.nonzero`` gives.

step, row = np.nonzero(run.spikes[0])
plotting.raster(
    step * dt,
    row,
    size,
    duration,
    figure=plt.figure(
        figsize=(7.5, 4.6),
        num="Raster of 120 recurrent neurons over one second, with the mean rate below: five waves of activity, one for "
        "each period of the input.",
    ),
)
plt.show()

# %%
# A long run in pieces
# --------------------
#
# ``run.state`` is everything that the future depends on: potentials, adaptation, refractory steps that are left, and
# spikes still on their way. Handed to the next run, it makes two runs equal to one long run, in every bit. :doc:`An hour
# in bounded memory <long_recordings>` is made so.

state, pieces = None, []
for start in range(0, steps, 300):
    part = blocksim.simulate(layer, x[:, start : start + 300], state=state)
    pieces.append(part.spikes)
    state = part.state
assert (np.concatenate(pieces, axis=1) == run.spikes).all()

# %%
# Backends and methods
# --------------------
#
# ``backend`` is a name. ``"numba"``, the default, runs on all cores of the CPU; ``"numpy"`` is the reference, to be read;
# ``"cupy"`` runs on an NVIDIA GPU. ``"auto"`` takes the fastest that is ready, and ``run.backend`` says which that was.
# Nothing falls back by itself: a backend that is not ready raises, and says what to install. :doc:`Backends </backends>`
# says more.

for name, status in blocksim.available_backends().items():
    print(f"{name}: {status}")

# %%
# All of them, and both methods, give the same spikes and potentials, bit for bit. (Only the GPU may, for few neurons, add
# in another order.) Blocks are not an approximation: ``method="standard"`` goes step by step, and finds the same.

for backend in ("numpy", "numba"):
    for method in ("blocks", "standard"):
        other = blocksim.simulate(layer, x, backend, method, record="voltage")
        assert (other.spikes == run.spikes).all()
        assert (other.voltage == run.voltage).all()
        print(f"{backend}, {method}: {other.spikes.sum()} spikes, in blocks of {other.block_length}")

# %%
# Next: :doc:`gradients <gradients_by_hand>` of what was computed here, or :doc:`a network <train_on_events>` of such
# layers.
