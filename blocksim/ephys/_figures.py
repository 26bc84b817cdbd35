"""The figures of a fit's report: traces, rasters, kernels, hazard, and what a search found.

Owns how they look. matplotlib is the extra `plot`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from blocksim import metrics
from blocksim.ephys._fitting.fit import Fit
from blocksim.ephys._gif.result import BAND, GIFFit
from blocksim.ephys._gif.spikes import ks_critical, rescaled_times
from blocksim.ephys._recordings.recording import Recording
from blocksim.ephys.evaluation import NEAR, SIGMA, Predicted
from blocksim.plotting import RATE, SPIKE, require_matplotlib, tidy
from blocksim.trains import SpikeTrains, near_spikes

EXCERPT = 2000.0  # ms of traces that are drawn
SHOWN = 10_000.0  # ms of rasters
KERNEL_WORDS = {"currents": ("after-spike current", "pA"), "thresholds": ("rise of the threshold", "mV")}


def _new(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, height), dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        tidy(ax, "x")
    return figure, axes


def traces(predicted: Predicted) -> Any:
    """Figure of a stretch: spikes, recorded and predicted potential of the first group of repeats, their difference."""
    recording, dt = predicted.recording, predicted.recording.dt
    group = predicted.groups[0]
    trials, model = recording.spikes.take(group), predicted.trains[0]  # of a stochastic model the first repetition
    start, stop, first, last = _excerpt(np.concatenate([trials.times, model]), recording)
    time = np.arange(first, last) * dt
    recorded = recording.voltage[group[0], first:last]
    modelled, threshold = (trace[0, first:last] for trace in predicted.traces[1:])
    figure, axes = _new(6.6, 3, sharex=True, height_ratios=[0.8, 3, 1.2])
    top, middle, bottom = axes[:, 0]
    for row, times in enumerate([*trials, model]):
        colour = RATE if row == len(trials) else SPIKE
        top.eventplot(
            times[(times >= start) & (times < stop)], lineoffsets=row, linelengths=0.8, colors=colour, linewidths=1
        )
    top.set_yticks([(len(trials) - 1) / 2, len(trials)], ["trials", "model"])
    middle.plot(time, recorded, color=SPIKE, linewidth=0.8, label="recorded")
    middle.plot(time, modelled, color=RATE, linewidth=0.8, alpha=0.9, label="model")
    middle.plot(time, threshold, color=RATE, linewidth=0.8, linestyle=":", label="threshold")
    inside = model[(model >= start) & (model < stop)]
    level = np.interp(inside, time, threshold) if len(time) else inside
    peak = max(20.0, float(recorded.max()))
    middle.vlines(inside, level, peak, color=RATE, linewidth=1)
    middle.set_ylabel("potential (mV)")
    middle.set_ylim(min(float(recorded.min()), float(modelled.min())) - 2, peak + 4)
    middle.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False, ncols=3, fontsize=9)
    both = SpikeTrains.of([trials[0], model])
    near = near_spikes(both, NEAR, dt, recording.steps)[:, first:last]
    bottom.plot(time, np.where(near.any(axis=0), np.nan, recorded - modelled), color=SPIKE, linewidth=0.8)
    bottom.axhline(0, color="black", linewidth=0.6)
    bottom.set_ylabel("residual (mV)")
    bottom.set_xlabel("time in the test part (ms)")
    bottom.set_xlim(start, stop)
    figure.align_ylabels()
    return figure


def _excerpt(times: np.ndarray, recording: Recording) -> tuple[float, float, int, int]:
    """The stretch with most of these times: its start and stop in ms, and its first step and the one after its last."""
    start = _busiest(times, recording.duration)
    stop = min(start + EXCERPT, recording.duration)
    return start, stop, int(start / recording.dt), int(stop / recording.dt)


def _busiest(times: np.ndarray, duration: float) -> float:
    if duration <= EXCERPT:
        return 0.0
    starts = np.arange(0, duration - EXCERPT + 1, EXCERPT / 4)
    counts = [((times >= start) & (times < start + EXCERPT)).sum() for start in starts]
    return float(starts[int(np.argmax(counts))])


def rasters(predicted: Predicted) -> Any:
    """Figure of the first group of repeats: spikes of trials and model, smoothed rates, and their difference."""
    recording = predicted.recording
    group = predicted.groups[0]
    stop = min(recording.duration, SHOWN)
    trials, model = recording.spikes.take(group).window(0, stop), predicted.of_group(0).window(0, stop)
    shown = [model[row] for row in range(min(len(model), len(trials)))]
    figure, axes = _new(6.4, 3, sharex=True, height_ratios=[2.2, 1.4, 1])
    top, middle, bottom = axes[:, 0]
    for row, times in enumerate([*trials, *shown]):
        colour = RATE if row >= len(trials) else SPIKE
        top.eventplot(times, lineoffsets=row, linelengths=0.8, colors=colour, linewidths=0.9)
    middle_of_model = len(trials) + (len(shown) - 1) / 2
    top.set_yticks([0, len(trials) - 1, middle_of_model] if len(trials) > 1 else [0, middle_of_model],
                   ["trial 1", f"{len(trials)}", "model"] if len(trials) > 1 else ["recorded", "model"])  # fmt: skip
    rates = [metrics.smoothed_rate(part, sigma=SIGMA, duration=stop, dt=1.0) for part in (trials, model)]
    time = np.arange(len(rates[0])) + 0.5
    middle.fill_between(time, rates[0], color=SPIKE, alpha=0.35, linewidth=0, label="recorded, mean of trials")
    middle.plot(time, rates[1], color=RATE, linewidth=0.9, label="model")
    middle.set_ylabel("rate (Hz)")
    middle.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False, ncols=2, fontsize=9)
    bottom.plot(time, rates[1] - rates[0], color=SPIKE, linewidth=0.8)
    bottom.axhline(0, color="black", linewidth=0.6)
    bottom.set_ylabel("model less\nrecorded (Hz)")
    bottom.set_xlabel("time in the test part (ms)")
    bottom.set_xlim(0, stop)
    figure.align_ylabels()
    return figure


def kernels(result: GIFFit) -> Any:
    """Figure of after-spike current and rise of the threshold, and of the threshold over a held potential."""
    require_matplotlib()
    cell = result.cell
    figure, axes = _new(3.2, 1, 3)
    for ax, (name, (words, unit)) in zip(axes[0], KERNEL_WORDS.items(), strict=False):
        longest = max((tau for tau, _ in getattr(cell, name)), default=100.0)
        times = np.linspace(0, 2 * longest, 400)
        kernel = result.kernel(name, times)
        ax.fill_between(times, kernel.low, kernel.high, color=RATE, alpha=0.25, linewidth=0)
        ax.plot(times, kernel.value, color=RATE, linewidth=1.2)
        if name in result.rectangles:
            found = result.rectangles[name]
            ax.stairs(found.value, found.edges, baseline=None, color=SPIKE, linewidth=1)
            middle = (found.edges[1:] + found.edges[:-1]) / 2
            ax.errorbar(middle, found.value, BAND * found.error, fmt="none", ecolor=SPIKE, elinewidth=1)
            ax.set_xlim(0, found.edges[-1])
        ax.axhline(0, color="black", linewidth=0.6)
        ax.set_title(f"{words} ({unit})", fontsize=9)
        ax.set_xlabel("time after the spike (ms)", fontsize=9)
    ax = axes[0][2]
    held = np.linspace(cell.rest - 10, max(cell.threshold, cell.rest) + 25, 200)
    threshold = result.threshold_at(held)
    ax.fill_between(held, threshold.low, threshold.high, color=RATE, alpha=0.25, linewidth=0)
    ax.plot(held, threshold.value, color=RATE, linewidth=1.2, label="threshold")
    ax.plot(held, held, color=SPIKE, linewidth=0.8, linestyle="--", label="potential")
    ax.set_title("threshold once settled (mV)", fontsize=9)
    ax.set_xlabel("potential that is held (mV)", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    return figure


def hazards(predicted: Predicted) -> Any:
    """Figure of the hazard with the recorded spikes imposed, in a stretch, and of all rescaled intervals."""
    imposed = predicted.imposed
    assert imposed is not None
    assert imposed.hazard is not None
    assert imposed.log_hazard is not None
    recording, hazard, dt = predicted.recording, imposed.hazard, predicted.recording.dt
    spikes = recording.spikes[predicted.groups[0][0]]
    start, _, first, last = _excerpt(spikes, recording)
    figure, axes = _new(3.2, 1, 2, width_ratios=[2.2, 1])
    left, right = axes[0]
    time = np.arange(first, last) * dt
    rate = 1000 * hazard[predicted.groups[0][0], first:last] / dt
    left.semilogy(time, np.maximum(rate, 1e-3), color=RATE, linewidth=0.7)
    inside = spikes[(spikes >= start) & (spikes < last * dt)]
    left.eventplot(inside, lineoffsets=0.97, linelengths=0.06, colors=SPIKE, linewidths=1,
                   transform=left.get_xaxis_transform())  # fmt: skip
    left.set_ylabel("hazard (Hz)")
    left.set_xlabel("time in the test part (ms)")
    uniform = np.sort(rescaled_times(imposed.log_hazard, recording.spike_counts() > 0))
    number = len(uniform)
    if number:
        share = (np.arange(number) + 0.5) / number
        band = ks_critical(number)
        right.fill_between([0, 1], [-band, 1 - band], [band, 1 + band], color=SPIKE, alpha=0.2, linewidth=0)
        right.plot(uniform, share, color=RATE, linewidth=1.2)
    else:
        right.text(0.5, 0.5, "no intervals", ha="center", transform=right.transAxes)
    right.set(xlim=(0, 1), ylim=(0, 1))
    right.set_xlabel("rescaled interval")
    right.set_ylabel("share below")
    return figure


def losses(result: Fit) -> Any:
    """Figure of the loss over the epochs of the descent, and over the generations of the refinement."""
    figure, axes = _new(3.4, 1, 2, sharey=True)
    left, right = axes[0]
    fitted, held = result.history["fit"], result.history["validation"]
    if len(fitted):
        left.plot(fitted, color=SPIKE, linewidth=0.8, alpha=0.6)
        if np.isfinite(held).any():
            left.plot(held, color=RATE, linewidth=0.7, alpha=0.5, linestyle="--")
        left.plot([], [], color=SPIKE, label="fitted part")
        left.plot([], [], color=RATE, linestyle="--", label="held out")
        left.legend(frameon=False, fontsize=9)
    else:
        left.text(0.5, 0.5, "no descent", ha="center", transform=left.transAxes)
    left.set_xlabel("epoch of the descent")
    left.set_ylabel("loss")
    if len(result.history["training"]):
        right.plot(result.history["training"], color=SPIKE)
    else:
        right.text(0.5, 0.5, "no refinement", ha="center", transform=right.transAxes)
    right.set_xlabel("generation of the refinement")
    left.set_ylim(bottom=0)
    return figure


def parameters(result: Fit) -> Any:
    """Figure of each parameter of all restarts, and the final value."""
    shown = {
        "tau_mem": "tau_mem (ms)", "tau_adapt": "tau_adapt (ms)", "rheobase": "rheobase (pA)", "gain": "gain (1/pA)",
        "adaptation_pa": "adaptation (pA)", "refractory": "refractory (ms)",
    }  # fmt: skip
    figure, axes = _new(3.0, 1, len(shown))
    rng = np.random.default_rng(0)  # sideways scatter, for the eye alone
    loss = result.restarts["fit"]
    for ax, (name, words) in zip(axes[0], shown.items(), strict=True):
        values = result.restarts[name]
        ax.scatter(rng.uniform(-0.3, 0.3, len(values)), values, c=loss, cmap="Blues_r", edgecolor=SPIKE, linewidth=0.5,
                   s=26, vmin=loss.min(), vmax=max(loss.max(), loss.min() + 1e-9) * 1.3)  # fmt: skip
        ax.axhline(getattr(result.cell, name), color=RATE, linewidth=1.4)
        ax.set_title(words, fontsize=9)
        ax.set_xticks([])
        ax.set_xlim(-0.6, 0.6)
    return figure
