"""
Gradients by hand
=================

A loss of your own in NumPy, its gradient with respect to weights and time constants, checks of that gradient, and
training loops of a few lines: first without any optimiser, then with Adam.

There is no automatic differentiation here. You write the loss and its derivative with respect to spikes or potentials,
which is one line for most losses; ``run.backward`` takes it back through time, equations (7)-(13), block by block.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import blocksim
from blocksim import plotting
from blocksim.losses import van_rossum
from blocksim.optimisers import Adam
from blocksim.surrogates import SURROGATES, FastSigmoid

plt.rcParams.update(plotting.STYLE)
rng = np.random.default_rng(3)

# %%
# Tape and backward
# -----------------
#
# Ten neurons with 200 inputs. ``tape=True`` keeps what the way back needs: the potentials, and a state for each block.

dt, steps, inputs, size = 1.0, 400, 200, 10
neuron = blocksim.ALIF.from_ms(tau_mem=20, tau_adapt=100, adaptation=0.1, refractory=4, dt=dt)
layer = blocksim.Layer(neuron, weights=rng.normal(0.04, 0.1, (inputs, size)), bias=np.zeros(size))
x = rng.random((steps, inputs)) < 0.01  # spikes at 10 Hz

run = blocksim.simulate(layer, x, record="voltage", tape=True)

# %%
# A loss on the potentials: their squared distance from 0.4, summed. What ``backward`` wants is its derivative with respect
# to each potential, an array of the shape of ``run.voltage``.


def loss_of(run):
    return 0.5 * np.square(run.voltage - 0.4).sum()


gradients = run.backward(grad_voltage=run.voltage - 0.4)
for name in ("weights", "bias", "beta", "p", "b", "theta", "x"):
    print(f"{name:8} {np.shape(getattr(gradients, name))}")

# %%
# Every gradient has the shape of what it belongs to: ``beta`` is one number for all neurons, and so is its gradient. The
# gradient with respect to the input, ``x``, is computed when it is first asked for.
#
# A check by finite differences
# -----------------------------
#
# Spikes are a step function of everything: for a change that is small enough no spike moves, so their true derivative is
# zero wherever it exists. The loss on potentials has a true derivative, then: that with the spikes as they are. Cutting
# all three paths by which a spike acts on the neuron, ``detach``, gives it, and finite differences must agree.

frozen = ("reset", "recurrent", "adaptation")
run = blocksim.simulate(layer, x, record="voltage", tape=True, detach=frozen)
gradients = run.backward(grad_voltage=run.voltage - 0.4)


def slope(changed):
    """Central difference of the loss, from two layers that differ by 2e-6 in one parameter."""
    plus, minus = (blocksim.simulate(changed(step), x, record="voltage") for step in (1e-6, -1e-6))
    assert (plus.spikes == run.spikes).all()  # else the difference would be across a jump
    assert (minus.spikes == run.spikes).all()
    return (loss_of(plus) - loss_of(minus)) / 2e-6


def weight_changed(step):
    weights = layer.weights.copy()
    weights[17, 3] += step
    return replace(layer, weights=weights)


def beta_changed(step):
    return replace(layer, neuron=replace(neuron, beta=neuron.beta + step))


for name, exact, changed in (
    ("weights[17, 3]", gradients.weights[17, 3], weight_changed),
    ("beta", gradients.beta, beta_changed),
):
    found = slope(changed)
    print(f"{name:15} by hand {exact:14.8f}, by differences {found:14.8f}")
    assert np.isclose(exact, found, rtol=1e-6)

# %%
# Surrogates
# ----------
#
# A loss on spikes has no useful true derivative: it jumps. So the way back takes the derivative of a smooth function,
# the *surrogate*, for that of the step: `sigma'(V - theta)` in equation (8). ``surrogate`` names it, or is an object that
# carries its scale. A narrow one stays close to the neuron that spikes; a wide one hears of neurons that are far from
# threshold.

distance = np.linspace(-1.5, 1.5, 601)
figure, axes = plt.subplots(
    num="The seven surrogate derivatives over the distance of the potential from the threshold: all have their maximum at "
    "or about zero; superspike and fast_sigmoid are the narrowest, triangle the lowest."
)
for number, (name, make) in enumerate(SURROGATES.items()):
    style = "-" if number < 4 else "--"
    axes.plot(distance, make()(distance), style, label=name)
axes.set(xlabel="potential less threshold", ylabel="surrogate derivative", xlim=(-1.5, 1.5), ylim=(-0.05, 1.1))
axes.legend(fontsize="small")
plt.show()

# %%
# A loss on spikes of your own
# ----------------------------
#
# The van Rossum distance from wanted spike times, equation (19): both trains are filtered by a decaying exponential, and
# the squared difference is summed. The filter is a convolution, and its derivative the same convolution backwards in
# time. That is the whole of it:

tau = 10.0  # ms
kernel = np.exp(-dt / tau) ** np.arange(steps)


def filtered(trains):
    return np.stack([np.convolve(train, kernel)[:steps] for train in trains.T], axis=1)


def my_loss(spikes, target):
    """The distance and its derivative with respect to the spikes."""
    trace = filtered(spikes * 1.0 - target)
    return dt / tau * np.square(trace).sum(), 2 * dt / tau * filtered(trace[::-1])[::-1]


target = np.zeros((steps, size), bool)
for column in range(size):
    target[rng.choice(np.arange(20, steps, 40), 5, replace=False), column] = True

# %%
# ``blocksim.losses`` has this one ready, and it must agree; a loss that it lacks is as few lines.

value, slopes = my_loss(run.spikes, target)
ready = van_rossum(run.spikes, target, tau=tau, dt=dt)
assert np.isclose(value, ready.value)
assert np.allclose(slopes, ready.gradient)

# %%
# What the loss and its surrogate gradient look like: all weights multiplied by one gain. The loss is a staircase: flat
# while the neurons are silent, then rising, for spikes that come at any time cost more than none. The surrogate gradient is
# not its derivative; it is smooth, and tells a silent neuron to spike, which the staircase does not.

gains = np.linspace(0, 1, 101)
losses, along = [], {"fast_sigmoid": [], "sigmoid": []}
for gain in gains:
    scaled = replace(layer, weights=gain * layer.weights)
    for name, found in along.items():
        run = blocksim.simulate(scaled, x, tape=True, surrogate=name)
        value, slopes = my_loss(run.spikes, target)
        found.append((run.backward(slopes).weights * layer.weights).sum())
    losses.append(value)

figure, (top, bottom) = plt.subplots(
    2, 1, sharex=True, figsize=(7.5, 5),
    num="Above, the loss over the gain of all weights: a staircase, flat while the neurons are silent, that rises from a gain of one "
    "third on. Below, the surrogate "
    "gradient along the gain for two surrogates: negative for small gains, positive for large ones.",
)  # fmt: skip
top.plot(gains, losses)
top.set(ylabel="loss")
for name, found in along.items():
    bottom.plot(gains, found, label=name)
bottom.axhline(0, color="black", linewidth=0.6)
bottom.set(xlabel="gain of all weights", ylabel="surrogate gradient", xlim=(0, 1))
bottom.legend()
plt.show()

# %%
# Gradient descent without an optimiser
# -------------------------------------
#
# A layer does not change; ``dataclasses.replace`` makes a changed one. Step, loss, gradient, new weights:

trained, plain = layer, []
for _ in range(250):
    run = blocksim.simulate(trained, x, tape=True)
    value, slopes = my_loss(run.spikes, target)
    plain.append(value)
    trained = replace(trained, weights=trained.weights - 2e-3 * run.backward(slopes).weights)
before, after = blocksim.simulate(layer, x).spikes, blocksim.simulate(trained, x).spikes
print(f"loss {plain[0]:.1f} at first, {plain[-1]:.1f} in the end")

# %%
# With Adam
# ---------
#
# ``blocksim.optimisers`` are functions of parameters, gradients and a state: dictionaries of arrays by name go in, new
# ones come out, nothing is changed in place. Here the biases learn too.


def descend(count=250, **options):
    """Losses over the steps of Adam, and the layer in the end."""
    optimiser = Adam(5e-3)
    parameters = {"weights": layer.weights, "bias": layer.bias}
    state, losses, current = optimiser.start(parameters), [], layer
    for _ in range(count):
        run = blocksim.simulate(current, x, tape=True, **options)
        value, slopes = my_loss(run.spikes, target)
        gradients = run.backward(slopes)
        losses.append(value)
        parameters, state = optimiser.step(parameters, {name: getattr(gradients, name) for name in parameters}, state)
        current = replace(layer, **parameters)
    return losses, current


adam, trained = descend()
after = blocksim.simulate(trained, x).spikes
print(f"loss {adam[0]:.1f} at first, {adam[-1]:.1f} in the end; {(after & target).sum()} of {target.sum()} spikes in "
      f"the very step, {after.sum() - (after & target).sum()} others")  # fmt: skip

figure, axes = plt.subplots(
    1, 2, sharey=True, figsize=(7.5, 3.4),
    num="Spikes of ten neurons and the wanted times, before and after training: before, spikes are scattered over all "
    "times; afterwards they sit in the circles that mark the wanted ones.",
)  # fmt: skip
for ax, spikes, title in zip(axes, (before, after), ("before", "after"), strict=True):
    step, row = np.nonzero(target)
    ax.plot(step * dt, row, "o", color=plotting.RATE, fillstyle="none", markersize=9, label="wanted")
    step, row = np.nonzero(spikes)
    ax.plot(step * dt, row, "|", color=plotting.SPIKE, markersize=11, markeredgewidth=1.4, label="spike")
    ax.set(xlabel="time (ms)", title=title, xlim=(0, steps * dt), ylim=(-0.7, size + 1))
axes[0].set(ylabel="neuron", yticks=range(0, size, 3))
axes[1].legend(fontsize="small", loc="upper right", ncols=2)
plt.show()

# %%
# Which gradient
# --------------
#
# Several choices make the gradient another one, and none of them changes a spike:
#
# - ``surrogate``, its shape and scale;
# - ``detach``, paths that are cut. The default cuts the reset, as is usual: through it, the gradient says that a spike
#   is bad for the spikes that follow, which is true and makes learning noisy. Adaptation and recurrence are kept.
# - ``gradient="standard"`` is the surrogate gradient of the step-by-step model. ``"paper"`` is that of the formula by
#   which Taylor et al. (2023) compute a block, equations (14)-(17): there a crossing receives the gradient of all later
#   spike variables of its block, the more the longer ago. It depends on the block length, and is much larger.

choices = {
    "standard": {},
    "through the reset too": {"detach": ()},
    "not through adaptation": {"detach": ("reset", "adaptation")},
    "surrogate with k = 2": {"surrogate": FastSigmoid(k=2)},
    "paper": {"gradient": "paper"},
}
first = {}
for name, options in choices.items():
    run = blocksim.simulate(layer, x, tape=True, **options)
    first[name] = run.backward(my_loss(run.spikes, target)[1]).weights.ravel()
usual = first["standard"]
for name, found in first.items():
    cosine = found @ usual / np.linalg.norm(found) / np.linalg.norm(usual)
    print(f"{name:24} norm {np.linalg.norm(found):8.2f}, cosine to the standard one {cosine:.2f}")

figure, axes = plt.subplots(
    num="Loss over 250 steps of Adam for five choices of the gradient, on a logarithmic axis. All fall; the "
    "paper's levels off highest."
)
for number, (name, options) in enumerate(choices.items()):
    axes.semilogy(descend(**options)[0], "-" if number < 4 else "--", label=name)
axes.set(xlabel="step", ylabel="loss", xlim=(0, 250))
axes.legend(fontsize="small")
plt.show()

# %%
# One task is no comparison; try them on yours. Networks of several layers go back the same way: ``run.backward`` takes
# the gradient of the output, and ``.parameters()`` of what it returns has the names that the optimiser takes, as
# :doc:`the next page <train_on_events>` lets ``fit`` do it.
