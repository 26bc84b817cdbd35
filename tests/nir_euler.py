"""A graph of NIR stepped by Euler's rule, from NIR's equations alone: nothing of blocksim is used.

A node hears the sum of what leads to it. Neurons hear their own spikes a step late. Nested graphs are stepped as they
are: what a nested graph hears is the value of its Input, and its own value is that of its Output.
"""

from __future__ import annotations

import numpy as np


def euler(graph, x, dt):
    """What the graph gives out, (T, N), for x (T, K); dt in ms."""
    return Stepped(graph, dt).run(x)


class Stepped:
    def __init__(self, graph, dt):
        self.dt, self.nodes, self.before, self.state = dt, {}, {}, {}
        self._enter((), graph)

    def _enter(self, at, graph):
        self.nodes[at] = graph
        for name, node in graph.nodes.items():
            if type(node).__name__ == "NIRGraph":
                self._enter((*at, name), node)
            self.nodes[(*at, name)] = node
        for start, stop in graph.edges:
            self.before.setdefault((*at, stop), []).append((*at, start))

    def run(self, x):
        self.x = np.asarray(x, np.float64)
        (out,) = (name for name, node in self.nodes[()].nodes.items() if type(node).__name__ == "Output")
        return np.array([self.value((out,), t, None) for t in range(len(self.x))])

    def heard(self, at, t, neurons):
        return sum(self.value(each, t, neurons) for each in self.before[at])

    def value(self, at, t, neurons):
        """A node's value at a step; `neurons` are those on whose account it is asked for."""
        node = self.nodes[at]
        kind = type(node).__name__
        if kind == "NIRGraph":
            (out,) = (name for name, each in node.nodes.items() if type(each).__name__ == "Output")
            return self.value((*at, out), t, neurons)
        if kind == "Input":
            if len(at) > 1:
                return self.heard(at[:-1], t, neurons)
            return self.x[t] if t >= 0 else np.zeros(self.x.shape[1])
        if kind == "Output":
            return self.heard(at, t, neurons)
        if kind in ("Linear", "Affine"):
            return node.weight @ self.value_before(at, t, neurons) + getattr(node, "bias", 0)
        if kind == "Delay":
            late = np.rint(node.delay * 1000 / self.dt).astype(int)
            heard = [np.broadcast_to(self.heard(at, t - steps, neurons), late.shape) for steps in late]
            return np.array([values[place] for place, values in enumerate(heard)])
        if kind in ("LIF", "CubaLIF") and at == neurons:
            t, neurons = t - 1, None
        if t < 0:
            return np.zeros(1)
        if (at, t) not in self.state:
            self.state[at, t] = self.stepped(at, node, t, at if hasattr(node, "v_threshold") else neurons)
        return self.state[at, t][0]

    def value_before(self, at, t, neurons):
        size = self.nodes[at].weight.shape[1]
        return np.broadcast_to(self.heard(at, t, neurons), size)

    def stepped(self, at, node, t, neurons):
        """Value, potential and current after a step."""
        step = self.dt / 1000
        _, v, i = self.state.get((at, t - 1), (None, 0.0, 0.0))
        current = self.heard(at, t, neurons)
        if type(node).__name__ == "CubaLIF":
            i = i + step / node.tau_syn * (-i + node.w_in * current)
            current, tau = i, node.tau_mem
        else:
            tau = node.tau
        v = v + step / tau * (node.v_leak - v + node.r * current)
        if not hasattr(node, "v_threshold"):
            return v, v, i
        spikes = (v > node.v_threshold).astype(np.float64)
        return spikes, np.where(spikes > 0, node.v_reset, v), i
