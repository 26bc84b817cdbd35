"""
Train on events
===============

A data set of your own, from spike times to a file; a network that learns to tell its classes apart; what it learned,
what it confuses; and the model saved, loaded, resumed and taken elsewhere.

The data are made up here: chirps heard by a cochlea of 100 channels. Replace the first section by your events, and the
rest stays as it is.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from blocksim import plotting, simulate
from blocksim.data import Augmentation, open_dataset, write_events
from blocksim.initialisers import calibrate, make_network
from blocksim.models import load_model, save_model
from blocksim.optimisers import AdamW
from blocksim.training import RatePenalty, Training, evaluate, fit

plt.rcParams.update(plotting.STYLE)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

# %%
# Events
# ------
#
# A sample is two arrays: times in milliseconds, and the channel of each spike. Six classes of chirps: the pitch goes up,
# down, up and down, down and up, stays, or jumps. Each sample begins at another time and pitch, lasts longer or shorter,
# and stands in noise, so that no single channel and no single time gives its class away.

CHANNELS, DURATION = 100, 250.0
SHAPES = {
    "up": lambda u: u,
    "down": lambda u: 1 - u,
    "up and down": lambda u: 1 - np.abs(2 * u - 1),
    "down and up": lambda u: np.abs(2 * u - 1),
    "level": lambda u: 0.5 + 0 * u,
    "jump": lambda u: (u > 0.5).astype(float),
}


def chirp(shape, rng):
    """Times in ms and channels of one sample."""
    length, start = rng.uniform(120, 180), rng.uniform(10, 60)
    low, range_ = rng.uniform(10, 40), rng.uniform(25, 45)
    u = np.sort(rng.uniform(0, 1, rng.poisson(260)))
    channel = low + range_ * shape(u) + rng.normal(0, 3, len(u))
    noise = rng.poisson(120)
    times = np.concatenate([start + length * u, rng.uniform(0, DURATION, noise)])
    channels = np.concatenate([np.clip(np.rint(channel), 0, CHANNELS - 1), rng.integers(0, CHANNELS, noise)])
    return times, channels.astype(int)


rng = np.random.default_rng(0)
for name, number in (("train", 480), ("test", 180)):
    labels = np.arange(number) % len(SHAPES)
    samples = [chirp(list(SHAPES.values())[label], rng) for label in labels]
    write_events(
        folder / f"{name}.npz", [times for times, _ in samples], [units for _, units in samples], labels,
        channels=CHANNELS, class_names=list(SHAPES),
    )  # fmt: skip

# %%
# ``write_events`` checks what it is given, and makes one ``.npz`` file. :doc:`Other formats </data>` open the same way.
#
# Opening bins the spikes to steps: here 2.5 ms, so a sample has 100 of them. Samples are read when they are asked for.

DT = 2.5  # ms
data = open_dataset(folder / "train.npz", dt=DT, steps=100)
test = open_dataset(folder / "test.npz", dt=DT, steps=100)
print(data.summary())

# %%
# A look at one sample of each class. A batch's ``x`` is a ``blocksim.Events``, which knows where its spikes are.

figure, axes = plt.subplots(
    2, 3, sharex=True, sharey=True, figsize=(7.5, 4.4),
    num="One sample of each of the six classes, channel over time: a band of spikes that goes up, down, up and down, "
    "down and up, stays level or jumps, in scattered noise.",
)  # fmt: skip
for label, ax in enumerate(axes.flat):
    _, step, channel = data.batch([label]).x.to_dense(bool).nonzero()
    ax.plot(step * DT, channel, ".", markersize=2.5)
    ax.set_title(data.class_names[label], fontsize="medium")
    ax.set(xlim=(0, DURATION), ylim=(0, CHANNELS))
figure.supxlabel("time (ms)", fontsize="medium")
figure.supylabel("channel", fontsize="medium")
plt.show()

# %%
# A network that begins well
# --------------------------
#
# ``make_network`` draws one recurrent layer of 64 adaptive neurons and a leaky readout, with time constants spread over
# a range. A layer that is silent, or never silent, learns badly: ``calibrate`` scales its weights until it fires at 10 Hz
# on samples of yours.

network = make_network(CHANNELS, [64], len(SHAPES), dt=DT, refractory=10, tau_mem=(10, 60), tau_adapt=(50, 200))
network = calibrate(network, data.batch(np.arange(60)).x, rate=10, dt=DT)
print(network.summary(dt=DT))

# %%
# Training
# --------
#
# Every choice is in one ``Training``, each with a default; :doc:`Training networks </training>` has the whole list. A
# fifth of the *training* samples is held out, and chooses the best epoch; the test file has no part in it. Samples are
# shifted a little, in time and in pitch, each time they are seen. Time constants of the membranes (``*.beta``) learn too.

training = Training(
    epochs=18,
    batch_size=32,
    optimiser=AdamW(2e-2, weight_decay=0.01),
    penalties=(RatePenalty(1e-4, lower=2, upper=50),),  # Hz
    trained=("*.weights", "*.recurrent", "*.bias", "*.beta"),
    augmentation=Augmentation(time_shift=10, channel_shift=3),
    validation=0.2,
    seed=1,
)
trained = fit(network, data, training, folder=folder / "run", progress=False)
print(f"best epoch {trained.best_epoch}, accuracy on held-out samples "
      f"{trained.history['validation_accuracy'][trained.best_epoch - 1]:.1%}")  # fmt: skip

plotting.learning_curve(
    trained.history,
    trained.best_epoch,
    figure=plt.figure(
        figsize=(7.5, 3.2),
        num="Loss, accuracy and firing rate over the epochs. Loss falls and accuracy rises, on training and validation "
        "samples alike; the firing rate stays near 10 Hz.",
    ),
)
plt.show()

# %%
# Once, at the end, the test file:

found = evaluate(trained.network, test)
print(f"test accuracy {found.accuracy:.1%}, loss {found.loss:.3f}, rates {[f'{rate:.1f} Hz' for rate in found.rates]}")

plotting.confusion(
    found.confusion,
    data.class_names,
    figure=plt.figure(
        figsize=(5.2, 4.6),
        num="Confusion matrix of the six classes on the test samples: nearly all counts are on the diagonal.",
    ),
)
plt.show()

# %%
# What the network does with one sample: ``run.layers`` has the run of each layer, with its spikes, and ``run.readout`` the
# potentials of the readout, of which the highest mean is the class.

sample = test.batch([2])
run = simulate(trained.network, sample.x, record=("readout",))
figure, (top, bottom) = plt.subplots(
    2, 1, sharex=True, figsize=(7.5, 5),
    num="Spikes of the 64 hidden neurons for a sample of the class up and down, and below the six potentials of the "
    "readout: that of the right class ends above the others.",
)  # fmt: skip
step, row = run.layers[0].spikes[0].nonzero()
top.plot(step * DT, row, "|", markersize=3)
top.set(ylabel="hidden neuron", ylim=(-1, 64))
for label, name in enumerate(data.class_names):
    right = label == sample.labels[0]
    bottom.plot(np.arange(100) * DT, run.readout[0, :, label], color=plotting.RATE if right else "0.6",
                linewidth=2 if right else 1, label=name if right else None)  # fmt: skip
bottom.set(xlabel="time (ms)", ylabel="readout", xlim=(0, DURATION))
bottom.legend(loc="upper left")
plt.show()

# %%
# Stop and go on
# --------------
#
# ``folder`` holds a checkpoint, written after each epoch, and on Ctrl-C. ``resume=True`` goes on from it; what comes of it
# is what an uninterrupted training gives, to the last bit. To show it, a training that its callback stops after two epochs
# of four:

short = replace(training, epochs=4)
stopped = fit(network, data, short, folder=folder / "short", progress=False, callbacks=[lambda row: row["epoch"] == 2])
print(f"stopped by {stopped.stopped} after {len(stopped.history['epoch'])} epochs")
resumed = fit(network, data, short, folder=folder / "short", progress=False, resume=True)
whole = fit(network, data, short, progress=False)
for name, value in whole.last.parameters().items():
    assert (resumed.last.parameters()[name] == value).all()
print(f"resumed: {len(resumed.history['epoch'])} epochs, the same weights as without the stop")

# %%
# Save, load, export
# ------------------
#
# ``best.npz`` in the folder is the model already. ``save_model`` writes one anywhere, with notes that JSON can hold;
# ``load_model`` gives it back, for any backend. It is a ``.npz`` file of plain arrays, without pickle, so any tool that
# reads NumPy's format has the weights; ``network.parameters()`` has the same arrays by name.

save_model(folder / "chirps.npz", trained.network, info={"dt": DT, "classes": list(SHAPES)})
model = load_model(folder / "chirps.npz")
assert evaluate(model.network, test).accuracy == found.accuracy
print(model.info)
for name, value in model.network.parameters().items():
    print(f"{name:20} {value.shape!s:10} {value.dtype}")

# %%
# The same from the shell, for files of any format that ``open_dataset`` opens:
#
# .. code-block:: bash
#
#    blocksim train --data train.npz -o run && blocksim evaluate run/best.npz --data test.npz --plot confusion.png
#
# The files that were made here go again:

temporary.cleanup()
