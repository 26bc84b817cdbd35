"""A small reverse-mode differentiator over NumPy arrays, and the two models that blocksim differentiates written in it.

Imports nothing of blocksim, and shares no formula with its adjoints: gradients come from the forward equations by the
chain rule alone. `step_model` is the layer step by step, equations (1)-(6), whose gradient is "standard";
`block_model` is the paper's formula for a block, S = g(phi * H(u - theta)), whose gradient is "paper".
"""

from __future__ import annotations

import numpy as np


class Var:
    """An array that remembers how it was computed."""

    __array_ufunc__ = None  # so that array * Var is Var.__rmul__

    def __init__(self, value, parents=()):
        self.value = np.asarray(value, float)
        self.parents = parents  # pairs of a Var and the function from this gradient to that Var's
        self.grad = np.zeros_like(self.value)

    def __add__(self, other):
        other = var(other)
        return Var(self.value + other.value, [(self, lambda g: g), (other, lambda g: g)])

    def __sub__(self, other):
        other = var(other)
        return Var(self.value - other.value, [(self, lambda g: g), (other, lambda g: -g)])

    def __rsub__(self, other):
        return var(other) - self

    def __mul__(self, other):
        other = var(other)
        return Var(self.value * other.value, [(self, lambda g: g * other.value), (other, lambda g: g * self.value)])

    def __matmul__(self, other):
        return Var(self.value @ other.value, [(self, lambda g: g @ other.value.T), (other, lambda g: self.value.T @ g)])

    def at(self, t):
        """Step t of an array with time on its second axis."""

        def place(g):
            whole = np.zeros_like(self.value)
            whole[:, t] = g
            return whole

        return Var(self.value[:, t], [(self, place)])

    __radd__ = __add__
    __rmul__ = __mul__


def var(value):
    return value if isinstance(value, Var) else Var(value)


def detach(value):
    return Var(value.value)


def replaced(value, m, slope):
    """`value`, with the gradient of a function of `m` whose derivative is `slope`: step and straight-through alike."""
    return Var(value, [(m, lambda g: g * slope)])


def backward(loss):
    """Fill in .grad of everything the loss was computed from."""
    order, seen, stack = [], set(), [(loss, False)]
    while stack:  # depth first without recursion: a run is longer than Python's stack is deep
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((parent, False) for parent, _ in node.parents)
    loss.grad = np.ones_like(loss.value)
    for node in reversed(order):
        for parent, of in node.parents:
            g = of(node.grad)
            # undo broadcasting: sum over the axes that the parent did not have
            g = g.sum(axis=tuple(range(g.ndim - parent.value.ndim)))
            g = g.sum(
                axis=tuple(i for i, n in enumerate(parent.value.shape) if n == 1 and g.shape[i] != 1), keepdims=True
            )
            parent.grad = parent.grad + g


def total(terms):
    """Sum of all elements of all terms (pairs of a Var and its weight) as one scalar Var."""
    terms = [(value, weight) for value, weight in terms if weight is not None]
    return Var(
        sum(float((value.value * weight).sum()) for value, weight in terms),
        [(value, lambda g, weight=weight: g * weight) for value, weight in terms],
    )


def _currents(q, t, spikes, latency, cut):
    """I[t] of equation (2); q holds the parameters by name, `spikes` the steps so far."""
    current = q["x"].at(t) @ q["weights"] + q["bias"] if "weights" in q else q["x"].at(t) + q["bias"]
    if "recurrent" in q:
        sent = spikes[t - latency] if t >= latency else q["history"].at(t)
        current = current + (detach(sent) if "recurrent" in cut else sent) @ q["recurrent"]
    return current


def _loss(cotangents, spikes, voltage, kept, a, q, latency):
    """Loss, linear in spikes, voltages and the final state, with the given weights; None where there is none."""
    g_s, g_v, g_kept, g_a, g_history = cotangents
    terms = [(kept, g_kept), (a, g_a)]
    terms += [(s, None if g_s is None else g_s[:, t]) for t, s in enumerate(spikes)]
    terms += [(v, None if g_v is None else g_v[:, t]) for t, v in enumerate(voltage)]
    if g_history is not None and "recurrent" in q:
        # the last D spikes; where the run is shorter than D, some are from before it
        together = [q["history"].at(i) for i in range(latency)] + spikes
        terms += [(s, g_history[:, i]) for i, s in enumerate(together[len(together) - latency :])]
    return total(terms)


def step_model(parameters, refractory, left, latency, slope, cut, cotangents):
    """Gradients of the step-by-step layer, by name; and its spikes (B, T, N).

    parameters: x, [weights], bias, [recurrent, history], beta, p, b, theta, voltage, adaptation (the last two the
    initial state); left: steps still refractory at the start; slope: surrogate derivative, a function of m; cut: the
    paths without gradient; cotangents: of spikes, voltage, and the final state's voltage, adaptation and spikes.
    """
    q = {name: Var(value) for name, value in parameters.items()}
    kept, a = q["voltage"], q["adaptation"]
    left = left.copy()
    spikes, voltage = [], []
    for t in range(q["x"].value.shape[1]):
        live = left <= 0
        v = q["beta"] * kept + live * _currents(q, t, spikes, latency, cut)
        m = v - (q["theta"] + q["b"] * a)
        s = replaced(live & (m.value > 0), m, live * slope(m.value))
        left = np.where(s.value > 0, refractory, left - 1)
        kept = v * (1 - (detach(s) if "reset" in cut else s))
        a = q["p"] * a + (detach(s) if "adaptation" in cut else s)
        spikes.append(s)
        voltage.append(v)
    backward(_loss(cotangents, spikes, voltage, kept, a, q, latency))
    return {name: value.grad for name, value in q.items()}, np.stack([s.value for s in spikes], axis=1) > 0


def block_model(parameters, refractory, left, latency, slope, cut, cotangents, length):
    """As `step_model`, but with the paper's formula for each block of `length` steps, g straight-through."""
    q = {name: Var(value) for name, value in parameters.items()}
    kept, a = q["voltage"], q["adaptation"]
    left = left.copy()
    spikes, voltage = [], []
    steps = q["x"].value.shape[1]
    for start in range(0, steps, length):
        u, free_a, h, fired = kept, a, [], Var(np.zeros_like(kept.value))
        inside = range(start, min(start + length, steps))
        currents = [_currents(q, t, spikes, latency, cut) for t in inside]
        for offset, current in enumerate(currents):
            live = left - offset <= 0
            u = q["beta"] * u + live * current
            m = u - (q["theta"] + q["b"] * free_a)
            # known to be refractory: no crossing; the paper's gradient does not know
            h.append(replaced(live & (m.value > 0), m, slope(m.value)))
            z = total_of([(offset - k + 1) * crossing for k, crossing in enumerate(h)])
            s = replaced(z.value == 1, z, 1.0)  # g, straight-through
            voltage.append(u * (1 - fired))
            fired = fired + (detach(s) if "reset" in cut else s)
            a = q["p"] * a + (detach(s) if "adaptation" in cut else s)
            free_a = q["p"] * free_a
            spikes.append(s)
        kept = u * (1 - fired)
        for offset, s in enumerate(spikes[start:]):
            left = np.where(s.value > 0, refractory - (len(currents) - 1 - offset) + len(currents), left)
        left = left - len(currents)
    backward(_loss(cotangents, spikes, voltage, kept, a, q, latency))
    return {name: value.grad for name, value in q.items()}, np.stack([s.value for s in spikes], axis=1) > 0


def total_of(terms):
    """Sum of Vars of one shape."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result
