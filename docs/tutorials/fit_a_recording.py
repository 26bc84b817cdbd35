"""
Fit a recording
===============

From a file of injected current and membrane potential to an adaptive neuron that spikes when the cell does: open, find
spikes, fit, and judge the fit on a part that it has not seen.

The recording is made up here, of a hidden neuron with noise; so at the end the fit can be compared with the truth.
Replace the first section by a file of yours.
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from blocksim import metrics, plotting
from blocksim.ephys import Cell, Detection, FitConfig, Recording, fit, fit_cells, missed, open_recording
from blocksim.ephys.evaluation import predict, scores
from blocksim.ephys.report import page

plt.rcParams.update(plotting.STYLE)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

# %%
# A recording, and its file
# -------------------------
#
# Four trials of one fluctuating current ("frozen noise"), 9 s at 5 kHz. The hidden neuron has physical units: ms, pA and
# mV. In each trial it gets a noise of its own, so that its spikes differ from trial to trial, as a cell's do; a spike gets
# a shape; and the amplifier adds 0.3 mV.

RATE, SECONDS, TRIALS = 5000, 9, 4
DT = 1000 / RATE  # ms
SHAPE = np.array([5, 40, 20, -5, -10, -8, -6, -4, -2, -1])  # mV that a spike adds to the potential, 2 ms of it


def fluctuating(rng, rows, seconds, tau):
    """An Ornstein-Uhlenbeck process of unit variance."""
    steps = round(seconds * RATE)
    kernel = np.exp(-np.arange(0, 8 * tau, DT) / tau)
    made = [np.convolve(rng.normal(size=steps + len(kernel)), kernel, "valid")[:steps] for _ in range(rows)]
    return np.stack(made) * np.sqrt(1 - np.exp(-2 * DT / tau))


def record(cell, current, seed, noise):
    """Trials of a cell with so much noise in pA: potentials in mV."""
    rng = np.random.default_rng(seed)
    made = cell.predict(current + noise * fluctuating(rng, len(current), current.shape[1] / RATE, 3.0), DT)
    voltage = made.voltage.copy()
    for trial, spikes in enumerate(made.spikes):
        voltage[trial] += np.convolve(spikes, SHAPE)[: len(spikes)]
    return voltage + rng.normal(0, 0.3, voltage.shape)


hidden = Cell(tau_mem=14, tau_adapt=90, adaptation=0.5, gain=0.011, bias=-0.8, refractory=3, reset_mv=-58, scale_mv=11)
current = 170 + 110 * fluctuating(np.random.default_rng(0), 1, SECONDS, 5.0).repeat(TRIALS, axis=0)
voltage = record(hidden, current, seed=1, noise=25)

np.savez(folder / "cell.npz", current_pA=current, voltage_mV=voltage, sampling_rate=RATE)

# %%
# A table does as well, one row a sample, if its columns have these names (here the first half second of two trials):

rows = [(trial, step * DT, current[trial, step], voltage[trial, step]) for trial in (0, 1) for step in range(RATE // 2)]
np.savetxt(folder / "cell.csv", rows, delimiter=",", header="sweep,time_ms,current_pA,voltage_mV", comments="")
print(open_recording(folder / "cell.csv"))

# %%
# Axon, NWB, Igor and others open the same way; :doc:`Recordings </recordings>` has the list.
#
# Open, and find the spikes
# -------------------------
#
# The file holds no spike times, so they are found where the potential crosses 0 mV. This cell's spikes do not get there:

print(open_recording(folder / "cell.npz"))

# %%
# The threshold is not lowered behind your back, but ``missed`` counts fast rises that are none of the spikes, and
# ``Detection`` says what a spike is.

silent = open_recording(folder / "cell.npz")
print(missed(silent.voltage, silent.dt, silent.spikes), "missed")
recording = open_recording(folder / "cell.npz", detection=Detection(threshold=-25))
print(recording, "-", missed(recording.voltage, recording.dt, recording.spikes), "missed")

figure, (top, middle, bottom) = plt.subplots(
    3, 1, sharex=True, figsize=(7.5, 5.2), height_ratios=[1, 2, 1],
    num="One second of the recording. Above, the fluctuating current; in the middle, the potential of the first trial with "
    "its spikes; below, a raster of four trials, whose spikes mostly but not always coincide.",
)  # fmt: skip
shown = slice(0, RATE)
top.plot(np.arange(RATE) * DT, recording.current[0, shown], linewidth=0.8)
top.set_ylabel("current (pA)")
middle.plot(np.arange(RATE) * DT, recording.voltage[0, shown], linewidth=0.8)
middle.axhline(-25, color=plotting.RATE, linewidth=0.8, linestyle="--")
middle.set_ylabel("potential (mV)")
for trial, times in enumerate(recording.spikes):
    bottom.plot(times, np.full(len(times), trial), "|", color=plotting.SPIKE, markersize=9)
bottom.set(xlabel="time (ms)", ylabel="trial", xlim=(0, 1000), ylim=(-0.7, TRIALS - 0.3))
figure.align_ylabels()
plt.show()

# %%
# Fit
# ---
#
# The last three of nine seconds are for the test. ``tau`` is the time constant of the distance between spike trains: at 20 ms a
# spike that is a few milliseconds off is nearly right. The refractory period is chosen from a list. The settings here are
# small, for a page that is built often; the defaults search much longer.

training, test = recording.split(at=6000)
config = FitConfig(
    dt=0.5,
    tau=20.0,
    refractory=(2.0, 3.0, 4.0),
    voltage_weight=0.3,
    candidates=256,
    restarts=8,
    epochs=60,
    generations=20,
)
result = fit(training, config)
for name, value in result.loss.items():
    print(f"loss, {name:10} {value:.3f}")

# %%
# 1 is the loss of a cell that never spikes. How far down it can go depends on the cell: its own noise is not to be had.
#
# The parameters, beside those of the hidden neuron. Rheobase and time constants are what data determine; gain and bias
# can make up for each other.

for name, unit in (
    ("tau_mem", "ms"), ("tau_adapt", "ms"), ("rheobase", "pA"), ("adaptation_pa", "pA"), ("gain", "1/pA"), ("bias", ""),
    ("refractory", "ms"), ("reset_mv", "mV"), ("scale_mv", "mV"),
):  # fmt: skip
    print(f"{name:14} fitted {getattr(result.cell, name):9.4g}   hidden {getattr(hidden, name):9.4g}  {unit}")

# %%
# Judge
# -----
#
# ``predict`` runs the fitted cell over the test part, from the state in which the training part leaves it. ``scores``
# compares: ETV, the share of the smoothed trains' variance that the model explains, over the share that the trials
# explain of each other; Md*, by coincident spikes; the potential away from spikes. 1 is perfect for all three.
# :doc:`Metrics </metrics>` has their definitions.

predicted = predict(result.cell, test, result.dt, before=training)
found = scores(predicted)
ideal = scores(predict(hidden, test, result.dt, before=training))
for name in ("rate_hz", "rate_recorded_hz", "etv", "md_star", "potential_r2"):
    print(f"{name:17} fitted {found[name]:6.3f}   hidden neuron without its noise {ideal[name]:6.3f}")

# %%
# The recorded potential and the predicted one, and the spikes of all trials with the model's:

time = np.arange(test.steps) * test.dt
modelled = np.arange(predicted.traces.voltage.shape[1]) * result.dt
figure, (top, bottom) = plt.subplots(
    2, 1, sharex=True, figsize=(7.5, 5), height_ratios=[1.6, 1],
    num="Above, recorded and predicted potential over 800 ms of the test part: they lie on each other but for the shape of "
    "the spikes. Below, spikes of four trials and of the model, most of which coincide.",
)  # fmt: skip
top.plot(time, test.voltage[0], linewidth=0.8, label="recorded, trial 1")
top.plot(modelled, predicted.traces.voltage[0], linewidth=1, label="model")
top.plot(modelled, predicted.traces.threshold[0], ":", color=plotting.RATE, linewidth=1, label="threshold")
top.set(ylabel="potential (mV)", ylim=(-75, 8))
top.legend(ncols=3, loc="upper right", fontsize="small")
for row, times in enumerate([*test.spikes, predicted.trains[0]]):
    colour = plotting.RATE if row == TRIALS else plotting.SPIKE
    bottom.plot(times, np.full(len(times), row), "|", color=colour, markersize=10, markeredgewidth=1.4)
bottom.set(xlabel="time in the test part (ms)", xlim=(0, 800), ylim=(-0.7, TRIALS + 0.7))
bottom.set_yticks(range(TRIALS + 1), [*(f"trial {trial + 1}" for trial in range(TRIALS)), "model"])
plt.show()

# %%
# And the smoothed rates, which ETV compares:

rates = [metrics.smoothed_rate(trains, sigma=10, duration=test.duration) for trains in (test.spikes, predicted.trains)]
figure, axes = plt.subplots(
    figsize=(7.5, 2.8),
    num="Smoothed firing rates over the test part: the mean of the recorded trials, filled, and the model's as a line, "
    "which follows its peaks.",
)
axes.fill_between(np.arange(len(rates[0])), rates[0], color=plotting.SPIKE, alpha=0.35, linewidth=0, label="recorded")
axes.plot(rates[1], color=plotting.RATE, linewidth=1, label="model")
axes.set(xlabel="time in the test part (ms)", ylabel="rate (Hz)", xlim=(0, 3000), ylim=(0, None))
axes.legend(ncols=2, loc="upper right")
plt.show()

# %%
# The report
# ----------
#
# One HTML file with all of this and more, restarts and losses among it, to be kept with the data:

parts = {"training": predict(result.cell, training, result.dt), "test": predicted}
html = page("cell.npz", result, parts, {name: scores(part) for name, part in parts.items()})
(folder / "report.html").write_text(html, encoding="utf-8")
(folder / "fit.json").write_text(json.dumps(result.to_dict()), encoding="utf-8")
print(f"report.html: {len(html) / 1e6:.1f} MB")

# %%
# The command line goes from file to folder in one step; ``fit.json``, ``predictions.npz`` and ``report.html`` are in it:
#
# .. code-block:: bash
#
#    blocksim fit cell.npz -o cell --detection-threshold -25 --test-from 6000 --dt 0.5 --tau 20
#
# Several cells at once
# ---------------------
#
# Cells whose data have one shape are fitted in one run, side by side. (``blocksim fit cells/*.npz -o fitted`` takes files
# of any shapes, a folder for each, and makes a table of them.) Four cells that differ in everything, with less noise, one
# trial of six seconds each:

rng = np.random.default_rng(5)
many = [
    Cell(tau_mem=rng.uniform(8, 25), tau_adapt=rng.uniform(50, 200), adaptation=rng.uniform(0.2, 0.8), gain=0.011,
         bias=rng.uniform(-1, -0.4), refractory=3, reset_mv=-58, scale_mv=11)
    for _ in range(4)
]  # fmt: skip
drive = 190 + 110 * fluctuating(rng, 1, 6, 5.0)
recordings = [
    Recording(drive, record(cell, drive, seed, noise=8), RATE, Detection(threshold=-25))
    for seed, cell in enumerate(many)
]
small = FitConfig(dt=0.5, tau=20.0, refractory=3.0, candidates=256, restarts=8, epochs=80, generations=20)
fits = fit_cells(recordings, small)

figure, axes = plt.subplots(
    1, 3, figsize=(7.5, 3),
    num="Fitted over hidden parameters of four cells: membrane time constant, adaptation time constant and rheobase. "
    "Points lie near the diagonal, closest for the rheobase.",
)  # fmt: skip
for ax, (name, words) in zip(
    axes, (("tau_mem", "membrane (ms)"), ("tau_adapt", "adaptation (ms)"), ("rheobase", "rheobase (pA)")), strict=True
):
    true, fitted = ([getattr(cell, name) for cell in cells] for cells in (many, [each.cell for each in fits]))
    span = [0.8 * min(true + fitted), 1.1 * max(true + fitted)]
    ax.plot(span, span, color=plotting.RATE, linewidth=0.8)
    ax.plot(true, fitted, "o", color=plotting.SPIKE)
    ax.set(title=words, xlabel="hidden", xlim=span, ylim=span, aspect="equal")
axes[0].set_ylabel("fitted")
plt.show()

# %%
# :doc:`Fits </fitting>` says what is minimised and how; :doc:`the experiment on recordings </experiments/recordings>`
# has real cells.

temporary.cleanup()
