"""Draws the pictures of docs/block.md and docs/adjoint.md beside itself: python docs/images/method.py (extra `plot`).

Potentials, thresholds, spikes and gradients are blocksim's own; the pictures of order and flow are diagrams.
"""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

import blocksim
from blocksim.plotting import COLOURS

SPIKE, RATE, THIRD, FOURTH = COLOURS
SHADE, DEAD, FAINT = "#eef2f6", "#d5d8dc", "#8a94a0"
NEVER = 1e9  # a threshold that nothing reaches


def figure(width, height):
    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def save(drawn, name):
    drawn.savefig(Path(__file__).with_name(name), facecolor="white")


def one_neuron():
    """A layer of one neuron, its current for seven blocks, and the time step in ms."""
    dt = 0.1
    neuron = blocksim.ALIF.from_ms(tau_mem=8, tau_adapt=60, adaptation=0.3, refractory=4.9, dt=dt)
    rng = np.random.default_rng(3)
    noise = np.convolve(rng.normal(size=500), np.exp(-np.arange(60) / 25), "same")
    return blocksim.Layer(neuron), (0.026 + 0.0035 * noise)[:350, None], dt


def as_if_no_spike(layer, current, run):
    """In each block, the potential that it would have without a spike: (T,)."""
    without = replace(layer, neuron=replace(layer.neuron, theta=NEVER))
    free, state, length = [], None, run.block_length
    for start in range(0, len(current), length):
        block = current[start : start + length]
        free.append(blocksim.simulate(without, block, record=("voltage",), state=state).voltage[:, 0])
        state = blocksim.simulate(layer, block, state=state).state
    return np.concatenate(free)


# ------------------------------------------------------------------------------------------------------------ the idea
def idea():
    layer, current, dt = one_neuron()
    run = blocksim.simulate(layer, current, record=("voltage", "threshold"))
    free = as_if_no_spike(layer, current, run)
    length, time = run.block_length, np.arange(len(current)) * dt

    drawn = figure(8, 3.7)
    axes = drawn.add_subplot()
    for number, start in enumerate(range(0, len(current), length)):
        left, right = start * dt, (start + length) * dt
        if number % 2 == 0:
            axes.axvspan(left, right, color=SHADE, linewidth=0)
        axes.text((left + right) / 2, 2.62, f"block {number + 1}", ha="center", va="top", fontsize=11, color=FAINT)
        now = slice(start, start + length)
        spike = np.flatnonzero(run.spikes[now, 0])
        assert len(spike) <= 1
        if len(spike):
            rest = slice(start + spike[0], start + length)
            axes.plot(time[rest], free[rest], "--", color=SPIKE, linewidth=1.5, dashes=(2.5, 1.6))
    axes.plot(time, run.threshold[:, 0], color=RATE, linewidth=2)
    axes.plot(time, run.voltage[:, 0], color=SPIKE, linewidth=2)
    spikes = time[run.spikes[:, 0]]
    axes.plot(spikes, np.full(len(spikes), 2.2), "v", color=SPIKE, markersize=9)
    for spike in spikes:
        axes.plot([spike, min(spike + 4.9, time[-1])], [-0.12, -0.12], color=DEAD, linewidth=6, solid_capstyle="butt")
    handles = [
        axes.plot([], [], color=SPIKE, linewidth=2, label="potential")[0],
        axes.plot([], [], "--", color=SPIKE, linewidth=1.5, dashes=(2.5, 1.6), label="as if there were no spike")[0],
        axes.plot([], [], color=RATE, linewidth=2, label="threshold")[0],
        axes.plot([], [], "v", color=SPIKE, markersize=9, label="spike")[0],
        axes.plot([], [], color=DEAD, linewidth=6, label="refractory")[0],
    ]
    drawn.legend(
        handles=handles,
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=11.5,
        columnspacing=1.3,
        handlelength=1.6,
    )
    axes.set(xlim=(0, 35), ylim=(-0.2, 2.68), yticks=(0, 1, 2))
    axes.set_xlabel("time (ms)", fontsize=12)
    axes.tick_params(labelsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    save(drawn, "block-idea.png")


# -------------------------------------------------------------------------------------------------------- one block
def inside():
    layer = blocksim.Layer(blocksim.ALIF(beta=0.5, p=0.8, b=1.0, refractory_steps=5))
    current = np.full((12, 1), 0.7)
    run = blocksim.simulate(layer, current, record=("voltage", "threshold"))
    free = as_if_no_spike(layer, current, run)[6:]
    steps, voltage, threshold = np.arange(6, 12), run.voltage[6:, 0], run.threshold[6:, 0]
    adaptation = float(np.ravel(blocksim.simulate(layer, current[:6]).state.adaptation)[0])
    free_threshold = 1 + adaptation * 0.8 ** np.arange(6)
    (spike,) = np.flatnonzero(run.spikes[6:, 0])

    def staircase(axes, values, **look):
        axes.hlines(values, steps - 0.45, steps + 0.45, color=RATE, linewidth=2.6, **look)

    def stems(axes, values, chosen, **look):
        axes.vlines(steps[chosen], 0, values[chosen], color=SPIKE, linewidth=2, **look)
        axes.plot(steps[chosen], values[chosen], "o", color=SPIKE, markersize=8, **look)

    drawn = figure(8, 6)
    titles = (
        "1  As if there were no spike",
        "2  The first crossing is the spike",
        "3  Mask the rest",
        "4  Hand on to the next block",
    )
    all_axes = drawn.subplots(2, 2, sharex=True, sharey=True).ravel()
    everything = np.arange(6)
    for axes, title in zip(all_axes, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=14, pad=9)
        axes.set(xlim=(5.4, 13.1), ylim=(-0.08, 2.62), xticks=steps, yticks=(0, 1, 2))
        axes.axvspan(5.5, 11.5, color=SHADE, linewidth=0)
        axes.axvspan(5.5, 6.5, color=DEAD, linewidth=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines["bottom"].set_bounds(5.4, 11.5)
        axes.tick_params(labelsize=12)
    for axes in all_axes[2:]:
        axes.set_xlabel("step", fontsize=12, x=0.4)
    first, second, third, fourth = all_axes

    staircase(first, free_threshold)
    stems(first, free, everything)
    first.text(6, 0.73, "still refractory", ha="center", va="center", rotation=90, fontsize=10)
    first.text(9.7, 1.62, "potential", color=SPIKE, fontsize=12)
    first.text(7.0, 1.55, "threshold", color=RATE, fontsize=12)

    staircase(second, free_threshold)
    stems(second, free, everything < spike)
    stems(second, free, everything > spike, alpha=0.3)
    second.vlines(9, 0, free[spike], color=SPIKE, linewidth=2)
    second.plot(9, free[spike], "o", color=SPIKE, markersize=12)
    second.annotate("first above", (9, free[spike] + 0.08), (9, 1.95), ha="center", fontsize=12, color=SPIKE,
                    arrowprops={"arrowstyle": "-|>", "color": SPIKE, "shrinkB": 5})  # fmt: skip

    third.axvspan(9.5, 11.5, color=DEAD, linewidth=0)
    staircase(third, threshold)
    stems(third, voltage, everything)
    third.plot(9, 1.62, "v", color=SPIKE, markersize=11)
    third.text(10.5, 0.42, "reset and\nrefractory", ha="center", fontsize=11.5)

    fourth.axvspan(9.5, 11.5, color=DEAD, linewidth=0)
    state = run.state
    told = (
        f"potential   {float(np.ravel(state.voltage)[0]):.0f}",
        f"adaptation   {float(np.ravel(state.adaptation)[0]):.2f}",
        f"refractory   {int(np.ravel(state.refractory)[0])} steps",
    )
    for height, text in zip((2.05, 1.3, 0.55), told, strict=True):
        fourth.text(11.15, height, text, ha="right", va="center", fontsize=14, color=SPIKE)
        arrow = {"arrowstyle": "-|>", "color": SPIKE, "linewidth": 2.2}
        fourth.annotate("", (13.0, height), (11.5, height), arrowprops=arrow)
    save(drawn, "block-inside.png")


# ---------------------------------------------------------------------------------------------------- delays, order
def delay():
    rng = np.random.default_rng(6)
    length, size, blocks = 8, 3, 4
    neuron = blocksim.LIF(beta=0.9, refractory_steps=length - 1)
    layer = blocksim.Layer(neuron, recurrent=0.2 * (1 - np.eye(size)))
    current = 0.11 + 0.16 * rng.random((length * blocks, size))
    run = blocksim.simulate(layer, current)

    drawn = figure(8, 3.5)
    axes = drawn.add_subplot()
    for block in range(blocks):
        left = block * length - 0.5
        if block % 2 == 0:
            axes.axvspan(left, left + length, color=SHADE, linewidth=0)
        axes.text(left + length / 2, 3.12, f"block {block + 1}", ha="center", fontsize=12, color=FAINT)
    for unit in range(size):
        height = size - 1 - unit
        axes.axhline(height + 0.25, color=DEAD, linewidth=1, zorder=1)
        axes.text(-1.1, height + 0.25, f"neuron {unit + 1}", ha="right", va="center", fontsize=12)
        for step in np.flatnonzero(run.spikes[:, unit]):
            axes.vlines(step, height + 0.02, height + 0.55, color=SPIKE, linewidth=4, zorder=3)
            for other in set(range(size)) - {unit} if step + length < length * blocks else ():
                arrow = FancyArrowPatch(
                    (step + 0.15, height + 0.3), (step + length, size - 1 - other + 0.25),
                    connectionstyle=f"arc3,rad={0.12 if other > unit else -0.12}", arrowstyle="-|>", mutation_scale=13,
                    color=RATE, linewidth=1.3, shrinkA=0, shrinkB=0, zorder=2,
                )  # fmt: skip
                axes.add_patch(arrow)
    axes.text(13.6, 2.62, "$D$ steps", ha="center", fontsize=12, color=RATE)
    axes.set(xlim=(-0.5, length * blocks - 0.5), ylim=(-0.05, 3.4), yticks=[], xticks=np.arange(0, 32, 8) - 0.5)
    axes.set_xticklabels(["$t_0$", "$t_0 + L$", "$t_0 + 2L$", "$t_0 + 3L$"], fontsize=12)
    axes.spines[["top", "right", "left"]].set_visible(False)
    save(drawn, "block-delay.png")


def order():
    steps, size, length = 12, 4, 4
    drawn = figure(8, 5.2)
    upper, lower = drawn.subplots(2, 1)
    shades = matplotlib.colors.LinearSegmentedColormap.from_list("order", ["#dfe7ef", SPIKE])
    for axes, width, title in (
        (upper, 1, f"step by step: {steps} rounds, one after the other"),
        (lower, length, f"blocks of {length} steps: {steps // length} rounds"),
    ):
        rounds = steps // width
        axes.set_title(title, loc="left", fontsize=14, pad=8)
        for number in range(rounds):
            left = number * width
            colour = shades(0.15 + 0.75 * number / (rounds - 1))
            for unit in range(size):
                for step in range(left, left + width):
                    axes.add_patch(Rectangle((step + 0.06, unit + 0.06), 0.88, 0.88, facecolor=colour, linewidth=0))
            axes.add_patch(Circle((left + width / 2, size / 2), 0.42, facecolor="white", linewidth=0))
            axes.text(left + width / 2, size / 2, number + 1, ha="center", va="center", fontsize=17, color=SPIKE)
            if number:
                axes.axvline(left, color=RATE, linewidth=2.5)
        axes.set(xlim=(-0.1, steps + 0.1), ylim=(-0.1, size + 0.1), xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
        axes.set_ylabel("neurons", fontsize=13)
    lower.set_xlabel("time, in steps", fontsize=13)
    save(drawn, "block-order.png")


# ----------------------------------------------------------------------------------------------------------- adjoint
def flow():
    drawn = figure(8, 4.9)
    axes = drawn.add_subplot()
    axes.set_axis_off()
    names, spike, first_live = ("V", "S", "a"), 3, 1
    height = {"V": 4.0, "S": 2.0, "a": 0.0}
    axes.add_patch(Rectangle((-0.5, -0.75), 6, 6.3, facecolor=SHADE, linewidth=0))
    for step in range(6):
        if not first_live <= step <= spike:
            axes.add_patch(Rectangle((step - 0.5, -0.75), 1, 6.3, facecolor=DEAD, linewidth=0))
        for name in names:
            dead = name != "a" and not first_live <= step <= spike
            if name == "S" and step > spike:
                continue  # nothing passes
            axes.plot(step, height[name], "o", markersize=20, markeredgewidth=1.5, zorder=3,
                      color="white" if dead else SPIKE, markeredgecolor=FAINT if dead else SPIKE)  # fmt: skip
            if name == "S" and step == spike:
                axes.text(step, height[name], "1", color="white", ha="center", va="center", fontsize=12, zorder=4)
    for step, label in ((0, "refractory"), (spike, "spike"), (4.5, "refractory")):
        axes.text(step, -1.12, label, ha="center", fontsize=12, color="black")

    def arrow(start, end, colour, **look):
        look = {"linewidth": 2, "arrowstyle": "-|>", "mutation_scale": 15, "shrinkA": 13, "shrinkB": 13, **look}
        axes.add_patch(FancyArrowPatch(start, end, color=colour, zorder=2, **look))

    def at(name, step):
        return step, height[name]

    for step in range(-1, 6):
        end, start = at("a", step), at("a", step + 1)
        arrow(start, end, FOURTH)
    for step in (-1, 0, 1, 2, 4):
        arrow(at("V", step + 1), at("V", step), SPIKE)
    cut = spike + 0.5
    for sign in (1, -1):
        axes.plot([cut - 0.13, cut + 0.13], [4 - 0.26 * sign, 4 + 0.26 * sign], color=SPIKE, linewidth=2.5)
    for step in range(first_live, spike + 1):
        arrow(at("S", step), at("V", step), THIRD)
        arrow(at("S", step), at("a", step), THIRD)
        arrow(at("a", step + 1), at("S", step), FOURTH, linestyle=(0, (2.5, 1.2)), linewidth=1.6)
        arrow(at("V", step + 1), at("S", step), SPIKE, linestyle=(0, (2.5, 1.2)), linewidth=1.6)
        arrow(at("V", step), (step, 5.45), "black", shrinkB=0)
    arrow((7.1, 2), (spike + 0.25, 2), RATE, linewidth=2.6, shrinkA=0, shrinkB=6, mutation_scale=18)
    axes.text(
        7.15, 2.0, "recurrent spikes,\nfrom later blocks,\nto every live step", va="center", fontsize=12, color=RATE
    )
    axes.text(7.15, 0.0, "adaptation", va="center", fontsize=12, color="#8a6d12")
    arrow((7.1, 0), at("a", 5), FOURTH, shrinkA=0)
    axes.text(-1.55, 4.0, r"$\lambda_V$", va="center", fontsize=17)
    axes.text(-1.55, 2.0, r"$\lambda_S$", va="center", fontsize=17)
    axes.text(-1.55, 0.0, r"$\lambda_a$", va="center", fontsize=17)
    axes.text(2, 5.62, "gradient of the current", ha="center", fontsize=12)
    axes.text(cut + 0.05, 4.75, "cut by the reset", fontsize=12, va="center", color=SPIKE)
    axes.text(7.15, 4.0, "potential", va="center", fontsize=12, color=SPIKE)
    arrow((7.1, 4), at("V", 5), SPIKE, shrinkA=0)
    axes.text(0.9, 2.85, r"$\delta$", fontsize=15, color=THIRD, ha="right")
    axes.text(0.9, 1.05, r"$-b\,\delta$", fontsize=13, color=THIRD, ha="right")
    axes.text(1.5, 4.18, r"$\beta$", fontsize=14, color=SPIKE, ha="center")
    axes.text(0.5, 0.2, "$p$", fontsize=14, color="#8a6d12", ha="center")
    axes.annotate("", (-0.5, 6.35), (5.5, 6.35), arrowprops={"arrowstyle": "-|>", "color": FAINT, "linewidth": 1.5})
    axes.text(5.6, 6.35, "backward in time", va="center", fontsize=12, color=FAINT)
    axes.set(xlim=(-1.7, 8.7), ylim=(-1.3, 6.6))
    save(drawn, "adjoint-flow.png")


def gradients():
    layer, current, dt = one_neuron()
    time = np.arange(len(current)) * dt
    run = blocksim.simulate(layer, current, record=("voltage", "threshold"))
    length = run.block_length
    drawn = figure(8, 5.6)
    top, middle, bottom = drawn.subplots(3, 1, sharex=True, height_ratios=[1.2, 1, 1])
    for axes in (top, middle, bottom):
        for start in range(0, len(current), 2 * length):
            axes.axvspan(start * dt, (start + length) * dt, color=SHADE, linewidth=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=12)
        axes.set(xlim=(0, len(current) * dt))
    top.plot(time, run.threshold[:, 0], color=RATE, linewidth=2)
    top.plot(time, run.voltage[:, 0], color=SPIKE, linewidth=2)
    top.set_title("potential and threshold", loc="left", fontsize=13)
    for axes, gradient, colour in ((middle, "standard", THIRD), (bottom, "paper", FOURTH)):
        taped = blocksim.simulate(layer, current, tape=True, gradient=gradient, detach=("reset", "adaptation"))
        of_current = taped.backward(grad_spikes=np.ones((len(current), 1))).current[:, 0]
        axes.fill_between(time, of_current, step="mid", color=colour, linewidth=0)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(
            f'gradient of the number of spikes by the current, gradient="{gradient}"', loc="left", fontsize=13
        )
    bottom.set_xlabel("time (ms)", fontsize=12)
    drawn.align_ylabels()
    save(drawn, "adjoint-gradients.png")


if __name__ == "__main__":
    idea()
    inside()
    delay()
    order()
    flow()
    gradients()
