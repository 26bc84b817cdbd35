"""
Long recordings in bounded memory
=================================

An hour at 0.1 ms is 36 million steps. Worked off in pieces it takes the memory of one piece, whatever the length; and what
comes out is the same, bit for bit. Gradients go the same way.

This page is built often, so it takes two minutes of data. Set ``MINUTES`` to 60 for the hour: everything else stays as it
is, and so does the memory; the time grows in proportion.
"""

import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import blocksim
from blocksim import plotting

plt.rcParams.update(plotting.STYLE)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

MINUTES = 2
DT = 0.1  # ms
STEPS = round(MINUTES * 60_000 / DT)
PIECE = 100_000  # steps: 10 s

# %%
# A long file
# -----------
#
# A current in pA, as a ``.npy`` file of single precision. It is written in pieces, too: ``open_memmap`` makes an array that
# lies on disk.

current = np.lib.format.open_memmap(folder / "current.npy", "w+", np.float32, (STEPS,))
rng = np.random.default_rng(0)
for start in range(0, STEPS, PIECE):
    piece = current[start : start + PIECE]
    seconds = (start + np.arange(len(piece))) * DT / 1000
    noise = np.repeat(rng.normal(0, 250, len(piece) // 20), 20)  # new every 2 ms
    piece[:] = 90 + 50 * np.sin(2 * np.pi * seconds / 40) + noise
current.flush()
print(f"{STEPS} steps, {current.nbytes / 1e6:.0f} MB on disk; an hour has {36e6 * 4 / 1e6:.0f} MB")

# %%
# Piece by piece
# --------------
#
# ``np.load(..., mmap_mode="r")`` reads what is asked for, when it is asked for. ``run.state`` of one piece is handed to the
# next: potential, adaptation, refractory steps that are left, and, in a recurrent layer, spikes on their way. Of the
# spikes, their times are kept.

GAIN = np.float32(0.0001)  # potential for each pA in one step
neuron = blocksim.ALIF.from_ms(tau_mem=10, tau_adapt=200, adaptation=0.1, refractory=3, dt=DT)
layer = blocksim.Layer(neuron)


def spike_times(path, piece):
    """Times in ms of one neuron's spikes, the file read and computed in pieces of so many steps."""
    current, state, found = np.load(path, mmap_mode="r"), None, []
    for start in range(0, len(current), piece):
        x = current[start : start + piece, None] * GAIN
        run = blocksim.simulate(layer, x, state=state)
        state = run.state
        found.append((start + np.flatnonzero(run.spikes)) * DT)
    return np.concatenate(found)


began = time.perf_counter()
times = spike_times(folder / "current.npy", PIECE)
took = time.perf_counter() - began
print(f"{len(times)} spikes in {MINUTES} minutes, computed in {took:.2f} s")

# %%
# The length of the pieces changes nothing, not one bit:

for piece in (STEPS, 12_345):
    assert (spike_times(folder / "current.npy", piece) == times).all()

figure, axes = plt.subplots(
    figsize=(7.5, 2.8),
    num="Firing rate in bins of one second over the whole recording: it follows the slow sine of the current.",
)
axes.stairs(*np.histogram(times / 1000, bins=np.arange(0, MINUTES * 60 + 1)), fill=True, alpha=0.85)
axes.set(xlabel="time (s)", ylabel="rate (Hz)", xlim=(0, MINUTES * 60))
plt.show()

# %%
# Memory, measured
# ----------------
#
# ``tracemalloc`` counts what NumPy allocates. (The numba backend keeps the memory of large arrays for the next ones, up to
# 256 MB; it is released first, so that all is counted.) The same run over longer and longer parts of the file, at once and
# in pieces:


def peak(work, *arguments):
    """Most memory in MB that was allocated at a time."""
    blocksim.get_backend("numba").release_memory()
    tracemalloc.start()
    work(*arguments)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6


minutes = np.array([0.5, 1, 1.5, 2]) * MINUTES / 2
at_once, in_pieces = [], []
for length in minutes:
    steps = round(length * 60_000 / DT)
    np.save(folder / "part.npy", current[:steps])
    at_once.append(peak(spike_times, folder / "part.npy", steps))
    in_pieces.append(peak(spike_times, folder / "part.npy", PIECE))
    print(f"{length:4.1f} minutes: {at_once[-1]:6.1f} MB at once, {in_pieces[-1]:5.1f} MB in pieces of 10 s")
print(f"an hour: {at_once[-1] * 60 / minutes[-1]:.0f} MB at once, if it goes on so; in pieces {in_pieces[-1]:.1f} MB")

figure, axes = plt.subplots(
    num="Peak memory over the length of the recording: at once it grows in proportion, in pieces it stays the same."
)
axes.plot(minutes, at_once, "o-", label="at once")
axes.plot(minutes, in_pieces, "o-", label="in pieces of 10 s")
axes.set(xlabel="minutes of recording", ylabel="peak memory (MB)", xlim=(0, None), ylim=(0, None))
axes.legend()
plt.show()

# %%
# From the shell
# --------------
#
# ``blocksim simulate`` does the same with a file, in pieces of 64 MB, or of ``--chunk`` steps. Recorded traces
# (``--record voltage``) are written to disk as they come. In a terminal it is one line,
#
# .. code-block:: bash
#
#    blocksim simulate current.npy -o out.npz --dt 0.1 --tau-mem 10 --adaptation 0.1 --tau-adapt 200 --refractory 3 \
#        --gain 0.0001 --chunk 100000
#
# and here, as the script must find its own Python:

options = "--dt 0.1 --tau-mem 10 --adaptation 0.1 --tau-adapt 200 --refractory 3 --gain 0.0001 --chunk 100000"
command = [sys.executable, "-m", "blocksim", "simulate", "current.npy", "-o", "out.npz", *options.split()]
print(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)
with np.load(folder / "out.npz") as out:
    assert np.array_equal(out["spike_time_ms"], times)

# %%
# Gradients over a long time
# --------------------------
#
# A tape keeps every potential: 5 bytes for each neuron and step in single precision. ``tape="checkpoint"`` keeps a few
# states instead, and computes the rest again on the way back, part by part; gradients are the same to rounding. What is
# left then is the gradient that you hand in and dLoss/dI, each as large as a trace. Here 20 s of 100 neurons with a loss on
# their spike counts.

SIZE, LONG = 100, 200_000
cells = blocksim.ALIF.from_ms(
    tau_mem=np.linspace(5, 30, SIZE).astype(np.float32), tau_adapt=200, adaptation=0.1, refractory=3, dt=DT
)
wide = blocksim.Layer(cells)
x = np.array(current[:LONG, None]) * GAIN  # one current that all neurons share
slopes = np.broadcast_to(np.float32(1), (LONG, SIZE))  # of the number of spikes


def gradient(tape):
    return blocksim.simulate(wide, x, tape=tape).backward(slopes).beta


kept, again = gradient(True), gradient("checkpoint")
assert np.allclose(kept, again, rtol=1e-4)
memory = {name: peak(gradient, tape) for name, tape in (("tape=True", True), ('tape="checkpoint"', "checkpoint"))}

# %%
# Less still, for any length: go back piece by piece. Forward, keep the state at the start of each piece. Backward, from the
# last piece to the first, run each again from its state, with a tape, and hand ``gradients.state`` to the piece before. What
# adds up is the gradient of the whole.


def in_parts(piece=20_000):
    states, starts = [None], range(0, LONG, piece)
    for start in starts[:-1]:
        states.append(blocksim.simulate(wide, x[start : start + piece], state=states[-1]).state)
    total, later = 0, None
    for start, state in zip(reversed(starts), reversed(states), strict=True):
        run = blocksim.simulate(wide, x[start : start + piece], state=state, tape=True)
        gradients = run.backward(slopes[start : start + piece], grad_state=later)
        total, later = total + gradients.beta, gradients.state
    return total


assert np.allclose(in_parts(), kept, rtol=1e-4)
memory["pieces of 2 s"] = peak(in_parts)
for name, most in memory.items():
    print(f"{name:18} {most:6.1f} MB")

figure, axes = plt.subplots(
    figsize=(7.5, 2.6),
    num="Peak memory of a gradient over 20 s of 100 neurons: "
    + ", ".join(f"{most:.0f} MB with {name}" for name, most in memory.items()),
)
bars = axes.barh(list(memory), list(memory.values()), color=plotting.SPIKE, height=0.6)
axes.bar_label(bars, fmt="%.0f MB", padding=4)
axes.set(xlabel="peak memory (MB)", xlim=(0, 1.15 * max(memory.values())))
axes.invert_yaxis()
plt.show()

# %%
# :doc:`Types, precision and memory </types>` has the bytes of everything.

temporary.cleanup()
