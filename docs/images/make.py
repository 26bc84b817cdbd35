"""Draws overview.png of the README: python docs/images/make.py (needs the extra `plot`)."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import blocksim
from blocksim.plotting import GRID, RATE, SPIKE

DT = 0.1


def one_neuron(axes):
    neuron = blocksim.ALIF.from_ms(tau_mem=12, tau_adapt=60, adaptation=0.25, refractory=4, dt=DT)
    rng = np.random.default_rng(3)
    noise = np.convolve(rng.normal(size=1400), np.exp(-np.arange(60) / 30), "same")
    current = (0.0135 + 0.0045 * noise)[:1200, None]
    run = blocksim.simulate(blocksim.Layer(neuron), current, "numpy", record=("voltage", "threshold"))
    time = np.arange(len(current)) * DT
    length = run.block_length * DT
    for start in np.arange(0, time[-1], 2 * length):
        axes.axvspan(start, min(start + length, time[-1]), color="#eef2f6", linewidth=0)
    axes.plot(time, run.voltage[:, 0], color=SPIKE, linewidth=1.3, label="potential")
    axes.plot(time, run.threshold[:, 0], color=RATE, linewidth=1.3, label="threshold")
    spikes = time[run.spikes[:, 0]]
    axes.plot(spikes, np.full(len(spikes), 2.05), "v", color=SPIKE, markersize=6, label="spike")
    axes.set(xlim=(0, time[-1]), ylim=(min(-0.1, run.voltage.min()), 2.55), xlabel="time (ms)", ylabel="potential")
    axes.set_title("one neuron; blocks of 4.1 ms shaded", fontsize=10, loc="left")
    axes.legend(loc="upper right", frameon=False, ncols=3, fontsize=9)


def layer(raster, rate):
    rng = np.random.default_rng(0)
    size, inputs, steps = 128, 200, 4000
    drive = 0.012 * (1 + 0.8 * np.sin(np.arange(steps) * DT * 2 * np.pi / 100))
    x = rng.random((1, steps, inputs)) < drive[None, :, None]
    neuron = blocksim.ALIF.from_ms(tau_mem=12, tau_adapt=100, adaptation=0.15, refractory=4, dt=DT)
    weights = rng.normal(0.006, 0.05, (inputs, size))
    run = blocksim.simulate(blocksim.Layer(neuron, weights, recurrent=rng.normal(0, 0.08, (size, size))), x, "numpy")
    step, unit = np.nonzero(run.spikes[0])
    raster.plot(step * DT, unit, "|", color=SPIKE, markersize=2.6, markeredgewidth=0.9)
    raster.set(ylim=(-1, size), ylabel="neuron")
    raster.set_title("a recurrent layer of 128", fontsize=10, loc="left")
    raster.tick_params(labelbottom=False)
    counts, edges = np.histogram(step * DT, bins=100, range=(0, steps * DT))
    rate.stairs(counts / size / ((edges[1] - edges[0]) / 1000), edges, fill=True, color=RATE, alpha=0.85)
    rate.set(xlim=(0, steps * DT), xlabel="time (ms)", ylabel="rate (Hz)")


figure = Figure(figsize=(11, 4), dpi=140, layout="constrained", facecolor="white")
grid = figure.add_gridspec(2, 2, height_ratios=[2.6, 1])
left = figure.add_subplot(grid[:, 0])
bottom = figure.add_subplot(grid[1, 1])
top = figure.add_subplot(grid[0, 1], sharex=bottom)
one_neuron(left)
layer(top, bottom)
for axes in figure.axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
figure.savefig(Path(__file__).with_name("overview.png"))
