"""
Neurons with several components
===============================

An adaptive threshold with two time constants, after-spike currents, subthreshold adaptation, synapses with a time
course: each is a neuron of the linear family, equations (27)-(34). This page builds a MAT neuron and a GIF neuron from
components, shows what the named models answer to a step of current, and gives a layer synapses and delays.
"""

import matplotlib.pyplot as plt
import numpy as np

import blocksim
from blocksim import plotting

plt.rcParams.update(plotting.STYLE)

# %%
# A neuron from components
# ------------------------
#
# A component decays, jumps at a spike, and may listen to the potential; it may add to the current, to the threshold, or
# to both. The multi-timescale adaptive threshold (MAT) neuron has two components that raise the threshold, a fast and a
# slow one, and its potential is never reset. Potentials are in mV above rest here.

dt = 0.1  # ms
fast = blocksim.Component.from_ms(tau=10, dt=dt, jump=30.0, to_threshold=1.0)
slow = blocksim.Component.from_ms(tau=200, dt=dt, jump=2.0, to_threshold=1.0)
neuron = blocksim.LinearIF(
    beta=np.exp(-dt / 5),
    theta=19.0,
    refractory_steps=20,
    components=[fast, slow],
    reset_factor=1.0,  # after a spike the potential is 1.0 times what it was, plus v_reset = 0
    refractory="integrate",  # while refractory it integrates as always, and cannot spike
)

# %%
# Its answer to a step. A current that would hold the potential at 40 mV adds (1 - beta) times 40 in a step.

steps = round(300 / dt)
time = np.arange(steps) * dt
size = np.where((time >= 30) & (time < 230), 40.0, 0.0)
run = blocksim.simulate(blocksim.Layer(neuron), (1 - neuron.beta) * size[:, None], record=("voltage", "threshold"))
spikes = time[run.spikes[:, 0]]
print(f"{len(spikes)} spikes; intervals of {np.diff(spikes).round(1)} ms")

figure, axes = plt.subplots(
    num="A MAT neuron's answer to a step of current over 300 ms: the potential is never reset; each spike raises the "
    "threshold by 32 mV, most of which is gone after 10 ms, and a part only after 200 ms, so that intervals grow."
)
axes.plot(time, run.voltage[:, 0], label="potential")
axes.plot(time, run.threshold[:, 0], label="threshold")
axes.plot(spikes, np.full(len(spikes), 76.0), "v", color=plotting.SPIKE, label="spike")
axes.set(xlabel="time (ms)", ylabel="mV above rest", xlim=(0, 300), ylim=(-2, 95))
axes.legend(ncols=3, loc="upper right")
plt.show()

# %%
# ``blocksim.MAT.from_ms`` makes the same neuron from its published parameters. An amplitude is the rise at the time of a
# spike, of which ``exp(-dt / tau)`` is left one step later.

same = blocksim.MAT.from_ms(tau_mem=5, dt=dt, theta=19, refractory=2, thresholds=[(10, 30.0), (200, 2.0)])
[round(component.jump, 3) for component in same.components]

# %%
# A generalised integrate-and-fire neuron
# ---------------------------------------
#
# The GIF neuron has after-spike currents and a moving threshold, any number of each, and is clamped while refractory. A
# current's amplitude is the potential that it would hold: pA over nS, with its sign.

gif = blocksim.GIF.from_ms(
    tau_mem=20,
    dt=dt,
    theta=15,
    v_reset=3,
    refractory=4,
    currents=[(20, -20.0), (150, -6.0)],
    thresholds=[(30, 3.0)],
)
gif.parameters()

# %%
# The named models side by side
# -----------------------------
#
# Each gets the same step, in units of the current that just reaches its threshold at rest.

alif = blocksim.ALIF.from_ms(tau_mem=20, tau_adapt=100, adaptation=3.0, refractory=4, theta=15, dt=dt)
adlif = blocksim.AdLIF.from_ms(tau_mem=20, tau_adapt=100, a=1.5, b=800.0, refractory=4, theta=15, dt=dt)
glif = blocksim.GLIF.from_ms(
    tau_mem=20, dt=dt, theta=15, refractory=4, reset_factor=0.5, v_reset=1, currents=[(30, -20.0)], thresholds=[(50, 2)]
)
models = {"ALIF": alif, "GIF": gif, "MAT": same, "AdLIF": adlif, "GLIF": glif}
step = np.where((time >= 30) & (time < 230), 1.0, 0.0)[:, None]

figure, all_axes = plt.subplots(
    len(models), 1, sharex=True, figsize=(7, 9),
    num="Potential and threshold of five models in answer to a step of current. ALIF and MAT adapt by a rising threshold, "
    "AdLIF by a current that hinders, GIF and GLIF by both; MAT's potential is not reset.",
)  # fmt: skip
for axes, (name, model) in zip(all_axes, models.items(), strict=True):
    rheobase = (1 - model.beta) * model.theta
    answer = blocksim.simulate(blocksim.Layer(model), 2.4 * rheobase * step, record=("voltage", "threshold"))
    times = time[answer.spikes[:, 0]]
    axes.plot(time, answer.voltage[:, 0], label="potential")
    axes.plot(time, answer.threshold[:, 0], label="threshold")
    axes.plot(times, np.full(len(times), axes.get_ylim()[1]), "v", color=plotting.SPIKE)
    axes.set(ylabel="mV", title=f"{name}: {len(times)} spikes")
all_axes[-1].set(xlabel="time (ms)", xlim=(0, 300))
all_axes[0].legend(loc="lower right")
plt.show()

# %%
# Synapses and delays
# -------------------
#
# Receptors belong to the layer, connections end in one of them. Here excitatory inputs reach an alpha synapse at once,
# inhibitory ones a slower exponential synapse after 2 ms; and spikes come back to the layer after 1 to 3 ms, each
# recurrent weight with a delay of its own.

rng = np.random.default_rng(0)
neurons, inputs = 40, 100
layer = blocksim.Layer(
    blocksim.LIF.from_ms(tau_mem=20, refractory=2, dt=dt),
    inputs=[
        blocksim.Connection(rng.gamma(2, 0.004, (inputs, neurons)), synapse=0),
        blocksim.Connection(-rng.gamma(2, 0.002, (inputs, neurons)), delay_steps=20, synapse=1),
    ],
    recurrent=[
        blocksim.Connection(
            rng.normal(0, 0.003, (neurons, neurons)),
            delay_steps=rng.integers(10, 31, (neurons, neurons)),
            synapse=1,
        )
    ],
    synapses=[blocksim.Alpha.from_ms(tau=2, dt=dt), blocksim.Exponential.from_ms(tau=10, dt=dt)],
)
run = blocksim.simulate(layer, rng.random((steps, inputs)) < 20 * dt / 1000, tape=True)
print(f"{run.spikes.mean() / dt * 1000:.1f} spikes a second; blocks of {run.block_length} steps")

# %%
# A block is as long as the shortest recurrent delay allows, at most the refractory period plus one step. Gradients are
# those of every parameter, by name:

gradients = run.backward(grad_spikes=np.ones(run.spikes.shape)).parameters()
for name, gradient in gradients.items():
    print(f"{name:20} {gradient.shape}")
