"""
Fit a neuron with noise
=======================

Real cells do not repeat themselves: the same current, injected again, gives other spikes. ``fit_gif`` fits neurons that spike at
random, the more readily the nearer they are to their threshold. It takes well under a second, and reports how certain its
numbers are.

The recording is made up here, of a hidden neuron, so that what was found can be held to the truth.
"""

import matplotlib.pyplot as plt
import numpy as np

from blocksim import plotting, simulate
from blocksim.ephys import GIFCell, GIFConfig, Recording, evaluate, fit_gif, population, step_responses
from blocksim.ephys import spike_triggered_average as triggered

plt.rcParams.update(plotting.STYLE)

# %%
# A hidden neuron, and a recording of it
# --------------------------------------
#
# After each spike a current hinders the next one, for 50 ms; the threshold rises, and it follows the potential. Six trials
# of one fluctuating current, 20 s at 0.2 ms, in pA.

DT, SECONDS, TRIALS = 0.2, 20, 6
hidden = GIFCell(
    capacitance=120, conductance=8, rest=-70, reset=-62, threshold=-52, width=1.2, refractory=4,
    currents=[(50, -25)], thresholds=[(10, 4), (200, 1)], coupling=[(12, None, 0.2)],
)  # fmt: skip
steps = round(1000 * SECONDS / DT)
rng = np.random.default_rng(0)
kernel = np.exp(-np.arange(0, 24, DT) / 3)
fluctuating = np.convolve(rng.normal(size=steps + len(kernel) - 1), kernel, "valid") * np.sqrt(1 - np.exp(-2 * DT / 3))
current = 190 + 140 * fluctuating

spikes = hidden.sample(current, DT, repeats=TRIALS, seed=1)
everyone = np.repeat(current[None], TRIALS, axis=0)
voltage = hidden.impose(everyone, spikes.to_steps(DT, steps) > 0, DT).potential + rng.normal(0, 0.3, everyone.shape)
recording = Recording(everyone, voltage, 1000 / DT, spikes, name="hidden")
print(recording)

# %%
# Fit
# ---
#
# The first 15 s are for the fit. The model is named here, for we know what the neuron has; the default lets the threshold
# follow the potential above several knots too.

training, test = recording.split(at=15_000)
fit = fit_gif(training, GIFConfig(currents=(50.0,), thresholds=(10.0, 200.0), coupling=(12.0,), knots=()))
print(fit)

# %%
# Each number comes with its standard error. Those of the hidden neuron lie within two of them, or nearly:

for name in ("tau_mem", "resistance", "rest", "reset", "threshold", "width"):
    value, true, error = getattr(fit.cell, name), getattr(hidden, name), fit.errors[name]
    print(f"{name:11} {value:8.3f} +- {error:.3f}   hidden {true:8.3f}   {(value - true) / error:+.1f} standard errors")

# %%
# What a spike leaves behind, with bands of 95 %:

times = np.linspace(0, 250, 300)
figure, axes = plt.subplots(
    1, 2, figsize=(7.5, 3),
    num="After-spike current and rise of the threshold over time after a spike: the fitted curves with narrow bands, and "
    "those of the hidden neuron, dashed, within them.",
)  # fmt: skip
for ax, (name, words) in zip(axes, (("currents", "current (pA)"), ("thresholds", "threshold (mV)")), strict=True):
    found = fit.kernel(name, times)
    true = sum(amplitude * np.exp(-times / tau) for tau, amplitude in getattr(hidden, name))
    ax.fill_between(times, found.low, found.high, color=plotting.RATE, alpha=0.3, linewidth=0)
    ax.plot(times, found.value, color=plotting.RATE, label="fitted")
    ax.plot(times, true, color=plotting.SPIKE, linestyle="--", label="hidden")
    ax.set(xlabel="time after the spike (ms)", ylabel=words)
axes[0].legend()
plt.show()

# %%
# Judge
# -----
#
# On the five seconds that the fit has not seen, 200 repetitions of the model beside the trials. Md* is 1 where both agree
# as well as each does with itself; ETV compares the mean rates.

scores = evaluate(fit.cell, test, before=training, repeats=200)
for name in ("md_star", "etv", "bits", "potential_r2", "rate_hz", "rate_recorded_hz"):
    print(f"{name:17} {scores[name]:.3f}")

shown = fit.cell.sample(current, DT, repeats=TRIALS, seed=2).window(15_000, 17_000)
figure, ax = plt.subplots(
    figsize=(7.5, 2.8),
    num="Raster of six recorded trials below and six repetitions of the model above, over two seconds: the same events, "
    "with the same jitter.",
)  # fmt: skip
for row, train in enumerate([*test.spikes.window(0, 2000), *shown]):
    ax.plot(
        train, np.full(len(train), row), "|", color=plotting.RATE if row >= TRIALS else plotting.SPIKE, markersize=7
    )
ax.set(xlabel="time in the test part (ms)", xlim=(0, 2000))
ax.set_yticks([(TRIALS - 1) / 2, TRIALS + (TRIALS - 1) / 2], ["trials", "model"])
plt.show()

# %%
# Use
# ---
#
# The answers to step currents, and what the current is before a spike:

responses = step_responses(fit.cell, np.arange(0, 500, 50), dt=DT, repeats=20, seed=1)
curve = responses.f_i_curve()
print(f"rheobase {curve.rheobase:g} pA, rates", curve.rate.round(1))
average = triggered(recording.current, recording.spikes, dt=DT, before=40, after=5, centred=True)
figure, (left, right) = plt.subplots(
    1, 2, figsize=(7.5, 3),
    num="Left, firing rate over the step current, which rises from zero at the rheobase. Right, the spike-triggered average "
    "of the current, which rises in the 20 ms before a spike.",
)  # fmt: skip
left.plot(curve.amplitudes, curve.rate, "o-", color=plotting.RATE)
left.set(xlabel="step current (pA)", ylabel="rate (Hz)")
right.plot(average.times, average.average, color=plotting.SPIKE)
right.set(xlabel="time from the spike (ms)", ylabel="current above its mean (pA)")
plt.show()

# %%
# Fitted cells side by side are a layer, with gradients and all that layers have:

layer = population([fit.cell, hidden], DT, shared=True)
run = simulate(layer, current[:, None], seed=3)
print("spikes of the fitted and of the hidden cell in 20 s:", run.spikes.sum(axis=0))

# %%
# On the command line ``blocksim fit cell.npz -o cell`` does all of this for a file, and ``blocksim simulate stimulus.npy --fit
# cell -o out.npz`` runs the cell again. :doc:`Fits </fitting>` says how it is done.
