"""Layers of several connections and synapses, as graphs of the Neuromorphic Intermediate Representation."""

import itertools
import json
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from blocksim import ALIF, LIF, Connection, CountReadout, CubaLIF, Exponential, Layer, LeakyReadout, Network, simulate
from blocksim._parameters import held
from blocksim.errors import BlocksimWarning
from blocksim.interop.nir import from_nir, to_nir, write_nir

from .helpers import assert_refused, assert_same_bits
from .nir_euler import euler

nir = pytest.importorskip("nir", reason="nir is not installed: python -m pip install 'blocksim[nir]'")


def random_layer(rng, inputs, size, dtypes=(np.float32, np.float64), plain=False):
    """A layer that NIR can hold; `plain`: of LIF or CubaLIF, and nothing that other tools do not see."""

    def some(*choices):
        return choices[rng.integers(len(choices))]

    def each(low, high):
        one = some(size, size, None)  # None: a number for all neurons
        return float(rng.uniform(low, high)) if one is None else rng.uniform(low, high, one).astype(some(*dtypes))

    def weights(rows, scale):
        return rng.normal(0.2 * scale, scale, (rows, size)).astype(some(*dtypes))

    def exponential():
        return Exponential(each(0.3, 0.9), some(1.0, each(0.2, 0.8), *([] if plain else [0.0])))

    def connections(rows, least, scale):
        made = []
        for _ in range(rng.integers(1, 4)):
            delays = some(least, least + int(rng.integers(0, 4)), least + rng.integers(0, 3, (rows, size)))
            present = some(None, rng.random((rows, size)) < 0.7)
            made.append(Connection(weights(rows, scale), delays, int(rng.integers(0, 4)), present))
        return made

    common = {"beta": each(0.6, 0.97), "theta": each(0.6, 1.2)}
    if not plain:
        common["refractory_steps"] = some(0, int(rng.integers(0, 4)), rng.integers(0, 4, size))
    receptors = [some(None, exponential(), exponential()) for _ in range(rng.integers(0, 4))]
    kind = some(LIF, CubaLIF) if plain else some(LIF, ALIF, CubaLIF)
    if kind is CubaLIF:
        neuron = CubaLIF(**common, synapses=[exponential() for _ in range(rng.integers(1, 4))])
        receptors = []
    else:
        neuron = kind(**common, **({"p": each(0.5, 0.99), "b": each(0.0, 0.3)} if kind is ALIF else {}))
    arrive = {"weights": weights(inputs, 0.5)} if rng.random() < 0.4 else {"inputs": connections(inputs, 0, 0.4)}
    loops = some(
        {},
        {"recurrent": weights(size, 0.2), "latency_steps": some(None, int(rng.integers(1, 5)))},
        {"recurrent": connections(size, 1, 0.2)},
    )
    return Layer(neuron, bias=some(None, each(0.0, 0.1)), synapses=receptors, **arrive, **loops)


def assert_same_layer(got, expected):
    """Equal in all that a layer holds, bit for bit."""
    assert type(got.neuron) is type(expected.neuron)
    assert got.latency_steps == expected.latency_steps
    assert [type(each) for each in got.receptors] == [type(each) for each in expected.receptors]
    for name in ("input_connections", "recurrent_connections"):
        ours, theirs = getattr(got, name), getattr(expected, name)
        assert [each.synapse for each in ours] == [each.synapse for each in theirs]
    own, wanted = held(got), held(expected)
    assert set(own) == set(wanted)
    for name, one in wanted.items():
        assert type(own[name].value) is type(one.value)
        assert_same_bits(name, np.asarray(own[name].value), np.asarray(one.value))


@given(seed=st.integers(0, 2**32 - 1), in_file=st.booleans())
def test_random_layers_come_back_bit_for_bit(seed, in_file, tmp_path_factory):
    rng = np.random.default_rng(seed)
    layers = [random_layer(rng, 4, 5), random_layer(rng, 5, 3)]
    bias = [None, 0.1, rng.normal(0, 0.1, 2)][rng.integers(3)]
    readout = [CountReadout(), LeakyReadout(rng.normal(0, 1, (3, 2)).astype(np.float32), bias, 0.9, "mean")][seed % 2]
    network = Network(layers, readout, dt=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlocksimWarning)
        graph = to_nir(network)
        if in_file:
            graph = tmp_path_factory.mktemp("nir") / "network.nir"
            write_nir(graph, network)
    back = from_nir(graph)
    for got, expected in zip(back.layers, layers, strict=True):
        assert_same_layer(got, expected)
    assert set(held(back.readout)) == set(held(readout))
    for name, one in held(readout).items():
        assert_same_bits(name, np.asarray(held(back.readout)[name].value), np.asarray(one.value))
    x = rng.random((2, 30, 4)) < 0.4
    one, other = (simulate(each, x, "numpy", record="voltage") for each in (network, back))
    assert_same_bits("output", other.output, one.output)
    for ours, theirs in zip(other.layers, one.layers, strict=True):
        assert_same_bits("spikes", ours.spikes, theirs.spikes)
        assert_same_bits("voltage", ours.voltage, theirs.voltage)


def plain_network(rng):
    """Two layers of what other tools have too, and spikes for them."""
    layers = [random_layer(rng, 4, 5, [np.float64], plain=True), random_layer(rng, 5, 3, [np.float64], plain=True)]
    return Network(layers, dt=0.25), rng.random((60, 4)) < 0.4


@pytest.mark.parametrize("seed", range(20))
def test_the_graph_means_what_the_layers_do(seed):
    """Stepped from NIR's own equations by Euler's rule, and read as another tool's, it has our spikes."""
    network, x = plain_network(np.random.default_rng(seed))
    run = simulate(network, x, "numpy")
    assert run.layers[0].spikes.any()
    spikes, graph = run.layers[-1].spikes, to_nir(network)
    np.testing.assert_array_equal(euler(graph, x, 0.25), spikes)
    graph.metadata.clear()
    np.testing.assert_array_equal(simulate(from_nir(graph, dt=0.25), x, "numpy").layers[-1].spikes, spikes)


def test_two_synapses_are_two_leaky_integrators():
    excitatory, inhibitory = Connection(np.ones((3, 2)), 1, 0), Connection(-np.ones((3, 2)), 4, 1)
    layer = Layer(LIF(0.9), inputs=[excitatory, inhibitory], synapses=[Exponential(0.8), Exponential(0.95)])
    graph = to_nir(Network([layer], dt=1.0))
    assert {name: type(node).__name__ for name, node in graph.nodes.items()} == {
        "input": "Input", "0.inputs.0.weights": "Linear", "0.inputs.0.delay": "Delay", "0.synapses.0": "LI",
        "0.inputs.1.weights": "Linear", "0.inputs.1.delay": "Delay", "0.synapses.1": "LI", "0.neurons": "LIF",
        "output": "Output",
    }  # fmt: skip
    np.testing.assert_allclose(graph.nodes["0.synapses.1"].tau, 0.02)
    np.testing.assert_allclose(graph.nodes["0.inputs.1.delay"].delay, 0.004)
    finer = from_nir(graph, dt=0.5).layers[0]
    assert [each.delay_steps for each in finer.input_connections] == [2, 8]
    np.testing.assert_allclose([each.decay[0] for each in finer.synapses], [0.9, 0.975])


@pytest.mark.parametrize("owner", ["neurons", "layer"])
def test_one_synapse_is_a_part_of_the_neurons(owner):
    """So that tools without leaky integrators read it; but not beside a bias, which goes past it."""
    synapses = [Exponential(0.8)]
    own = {"neuron": LIF(0.9), "synapses": synapses}
    if owner == "neurons":
        own = {"neuron": CubaLIF(0.9, synapses=synapses)}
    delayed = Layer(inputs=[Connection(np.ones((3, 2)), 2)], recurrent=np.ones((2, 2)), **own)
    assert type(to_nir(Network([delayed], dt=1.0)).nodes["0"].nodes["neurons"]) is nir.CubaLIF
    biased = to_nir(Network([Layer(weights=np.ones((3, 2)), bias=0.1, **own)], dt=1.0)).nodes
    assert type(biased["0.neurons"]) is nir.LIF
    np.testing.assert_allclose(biased["0.neurons"].v_leak, 1.0)


def neurons(kind, **values):
    values = {"v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, "r": 2.0} | values
    return getattr(nir, kind)(**{name: np.full(2, value) for name, value in values.items()})


def integrators(tau, r=1.0, leak=0.0, size=2):
    return nir.LI(np.broadcast_to(tau, size).astype(float), np.full(size, r), np.full(size, leak))


def delay(*ms):
    return nir.Delay(np.array(ms) / 1000)


def graph_of(edges, **more):
    """A graph of chains of nodes, from 3 inputs to 2 neurons."""
    nodes = {
        "in": nir.Input(np.array([3])), "out": nir.Output(np.array([2])),
        "w": nir.Linear(np.array([[1.5, 0.8, 0.4], [0.7, 1.9, 1.3]])),
        "u": nir.Linear(np.array([[0.6, 1.5, 1.1], [1.2, 0.8, 0.3]])),
        "back": nir.Linear(np.array([[0.1, -1.2], [-0.8, 0.2]])),
        "fast": integrators(0.004, 3.0), "slow": integrators([0.02, 0.03], 4.0), "n": neurons("LIF", tau=0.01),
    } | more  # fmt: skip
    pairs = list(dict.fromkeys(pair for chain in edges.split(",") for pair in itertools.pairwise(chain.split())))
    used = set(itertools.chain(*pairs))
    return nir.NIRGraph({name: node for name, node in nodes.items() if name in used}, pairs, type_check=False)


@pytest.mark.parametrize(
    ("edges", "more", "receptors", "connections"),
    [
        ("in w n out", {}, 0, (0, 0)),
        ("in w fast n out, in u slow n", {}, 2, (2, 0)),
        ("in w fast n out, in u n", {}, 1, (2, 0)),
        ("in w fast n out, w slow n", {}, 2, (2, 0)),
        ("in w n out, in u n", {}, 0, (2, 0)),
        ("in w fast n back fast, n out", {}, 1, (0, 0)),
        ("in w fast n back slow n out", {}, 2, (1, 1)),
        ("in d w n out", {"d": delay(1, 1, 1)}, 0, (1, 0)),
        ("in d w n out", {"d": delay(0, 3, 1)}, 0, (1, 0)),
        ("in d w e fast f n back n, n out", {"d": delay(0, 3, 1), "e": delay(2, 0), "f": delay(1, 1)}, 1, (1, 1)),
        ("in w n back d n out", {"d": delay(3, 3)}, 0, (0, 0)),
        ("in w n back d n out", {"d": delay(3, 0)}, 0, (1, 1)),
        ("in w n n out", {}, 0, (0, 0)),
        ("in w n out, n d n", {"d": delay(2, 2)}, 0, (0, 0)),
        ("in w n out", {"n": neurons("LIF", tau=0.01, v_leak=0.4)}, 0, (0, 0)),
        ("in w n out, in u n", {"u": nir.Affine(np.ones((2, 3)), np.array([0.2, 0.1]))}, 0, (2, 0)),
        ("in w n back n out", {"back": nir.Affine(np.ones((2, 2)) * -0.2, np.array([0.2, 0.1]))}, 0, (0, 0)),
        ("in w slow n out", {"n": neurons("LIF", tau=0.01, v_leak=0.4, v_reset=-0.3)}, 1, (0, 0)),
        ("in w n out, in u n", {"n": neurons("CubaLIF", tau_mem=0.01, tau_syn=0.005)}, 1, (2, 0)),
        ("in w n out", {"n": neurons("CubaLIF", tau_mem=0.01, tau_syn=0.005, v_leak=0.4)}, 1, (0, 0)),
        ("in w n back n out", {"n": neurons("CubaLIF", tau_mem=0.01, tau_syn=0.005, v_reset=-0.3)}, 1, (0, 0)),
    ],
)  # fmt: skip
def test_graphs_of_other_tools_are_read(edges, more, receptors, connections):
    graph = graph_of(edges, **more)
    read = from_nir(graph, dt=1.0)
    (layer,) = read.layers
    assert len(layer.receptors) == receptors
    assert (len(layer.input_connections), len(layer.recurrent_connections)) == connections
    x = np.random.default_rng(0).random((150, 3)) < 0.3
    spikes = simulate(read, x, "numpy").layers[0].spikes
    assert 5 < spikes.sum() < 250
    np.testing.assert_array_equal(spikes, euler(graph, x, 1.0))


def test_a_filter_of_spikes_may_lead_to_the_next_layer_or_out():
    """Leaky integrators and neurons need no weights before them."""
    graph = graph_of("in w n fast m slow out", m=neurons("LIF", tau=0.01, r=4), slow=integrators(0.02))
    read = from_nir(graph, dt=1.0)
    assert [len(layer.receptors) for layer in read.layers] == [0, 1]
    x = np.random.default_rng(0).random((150, 3)) < 0.5
    run = simulate(read, x, "numpy", record="readout")
    assert run.layers[1].spikes.sum() > 5
    np.testing.assert_allclose(run.readout, euler(graph, x, 1.0), atol=1e-12)


@pytest.mark.parametrize(
    ("edges", "more", "words"),
    [
        ("in w n out, in u fast", {}, ["after 'fast'", "none"]),
        ("in w fast slow n out", {}, ["after 'fast'", "LI", "'slow'"]),
        ("in fast w n out", {"fast": integrators(1, size=3)}, ["after 'fast'", "Linear", "'w'"]),
        ("in w back n out", {}, ["after 'w'", "Linear", "'back'"]),
        ("in w out", {}, ["at least one layer"]),
        ("in w n back out", {}, ["before the output", "'back'"]),
        ("in w n back d fast out", {"d": delay(1, 1)}, ["no delay before the readout", "'d'"]),
        ("in w n out, n back fast out", {}, ["one node after 'n'", "back"]),
        ("in w n back m out, in u m", {"m": neurons("LIF", tau=0.01)}, ["one chain", "'in' to n and m"]),
        ("in w n back m out, m u n", {"m": neurons("LIF", tau=0.01), "u": nir.Linear(np.ones((2, 2)))},
         ["one node after 'm'", "out, u"]),
        ("in w n back m u n, out", {"m": neurons("LIF", tau=0.01), "u": nir.Linear(np.ones((2, 2)))},
         ["Output", "found 0"]),
        ("in w fast n out", {"n": neurons("CubaLIF", tau_mem=0.01, tau_syn=0.01)}, ["no LI before CubaLIF", "'fast'"]),
        ("in w fast n out", {"w": nir.Affine(np.ones((2, 3)), np.ones(2))}, ["bias before a synapse", "'w'"]),
        ("in w d n out", {"w": nir.Affine(np.ones((2, 3)), np.ones(2)), "d": delay(1, 1)}, ["behind a bias", "'d'"]),
        ("in w fast n out", {"fast": integrators(1, leak=1.0)}, ["no leak of LI", "'fast'"]),
        ("in w fast n out", {"fast": integrators(1, r=0.0)}, ["not 0", "'fast'"]),
        ("in w fast n out", {"fast": integrators(1e-4)}, ["0.1 ms", "'fast'"]),
        ("in w fast n out", {"fast": integrators(1, size=4)}, ["each of 2", "'fast'"]),
        ("in w n out, in u n", {"u": nir.Linear(np.ones((4, 3)))}, ["weights to 2 neurons", "4", "'u'"]),
        ("in w n out", {"w": nir.Linear(np.ones((4, 3)))}, ["each of 4", "(2,)", "'n'"]),
        ("in w d n out", {"d": delay(1.5, 1)}, ["whole numbers of steps", "'d'"]),
        ("in w d n out", {"d": delay(-1, 1)}, ["whole numbers of steps", "'d'"]),
        ("in w d n out", {"d": delay(1e300, 1)}, ["whole numbers of steps", "'d'"]),
        ("in w d n out", {"d": delay(np.nan, 1)}, ["whole numbers of steps", "'d'"]),
        ("in w n back back n out", {}, ["in every loop", "back (Linear)"]),
        ("in w d e d, e n out", {"d": delay(1, 1), "e": delay(1, 1)}, ["in every loop", "d (Delay), e (Delay)"]),
        ("in w n out, u fast u", {"u": nir.Linear(np.ones((2, 2)))}, ["in every loop", "u (Linear)"]),
        ("in n out", {"n": nir.LIF(*[np.array(1.0)] * 4)}, ["one axis", "'n'"]),
        ("in out", {}, ["at least one layer"]),
        ("in w n out, u fast n", {}, ["one chain", "fast, u beside it"]),
    ],
)  # fmt: skip
def test_graphs_that_no_layers_are_equal_to_are_refused(edges, more, words):
    assert_refused(lambda: from_nir(graph_of(edges, **more), dt=1.0), words)


@pytest.mark.parametrize("edges", [
    [("in", "w"), ("w", "n"), ("w", "n"), ("n", "out")], [("in", "w", "n"), ("n", "out")], ["in w", ("n", "out")],
])  # fmt: skip
def test_edges_that_mean_nothing_are_refused(edges):
    """An edge that is there twice may count once or twice; NIR's own check refuses it, too."""
    graph = graph_of("in w n out")
    graph.edges = edges
    assert_refused(lambda: from_nir(graph, dt=1.0), ["source", "edge"])


@pytest.mark.parametrize(("name", "attribute"), [
    ("0.synapses.0", "tau"), ("0.synapses.1", "r"), ("0.inputs.0.delay", "delay"),
    ("0.inputs.1.1.delay", "delay"), ("0.inputs.1.0.weights", "weight"), ("0.inputs.1.2.weights", "weight"),
    ("0.recurrent.0.delay", "delay"), ("0.neurons", "v_leak"),
])  # fmt: skip
def test_a_graph_that_was_changed_counts_as_it_is(name, attribute):
    rng = np.random.default_rng(0)
    fast, slow = rng.normal(0.5, 0.3, (2, 3, 2))
    delays, present = np.arange(6).reshape(3, 2) % 3 * 2, np.array([[True, False], [True, True], [True, True]])
    layer = Layer(
        LIF(0.9), bias=0.01, synapses=[Exponential(0.8), Exponential(0.6)],
        inputs=[Connection(fast, 1, 0), Connection(slow, delays, 1, present)],
        recurrent=[Connection(rng.normal(0, 0.3, (2, 2)), 3, 0)],
    )  # fmt: skip
    graph = to_nir(Network([layer], LeakyReadout(np.eye(2), beta=0.9), dt=1.0))
    node = graph.nodes[name]
    # a weight where there was none, and one that another delay had
    setattr(node, attribute, getattr(node, attribute) + (2e-3 if attribute == "delay" else 0.3))
    x = rng.random((80, 3)) < 0.4
    run = simulate(from_nir(graph), x, "numpy", record="readout")
    np.testing.assert_allclose(run.readout, euler(graph, x, 1.0), atol=1e-9)
    assert run.layers[0].spikes.sum() > 5


@pytest.mark.parametrize("damage", [
    {"connection": []}, {"connection": 0}, {"synapse": "a", "connection": 0, "part": 0},
])  # fmt: skip
def test_metadata_of_weights_that_is_damaged_is_refused(damage):
    graph = to_nir(Network([Layer(LIF(0.9), inputs=[Connection(np.ones((3, 2)))])], dt=1.0))
    graph.nodes["0.inputs.0.weights"].metadata["blocksim"] = json.dumps(damage)
    assert_refused(lambda: from_nir(graph), ["metadata", "0."])


def of_nirtorch(graph, dt):
    """The graph as NIRTorch runs it, with modules that step NIR's equations."""
    nirtorch = pytest.importorskip("nirtorch", reason="nirtorch is not installed: python -m pip install torch nirtorch")
    torch = pytest.importorskip("torch")

    class Integrator(torch.nn.Module):
        def __init__(self, node):
            super().__init__()
            self.rate, self.r, self.leak = (torch.tensor(a) for a in (dt / 1000 / node.tau, node.r, node.v_leak))
            self.theta = torch.tensor(getattr(node, "v_threshold", np.inf))
            self.spikes = hasattr(node, "v_threshold")

        def forward(self, current, state=None):
            v = torch.zeros_like(self.r) if state is None else state
            v = v + self.rate * (self.leak - v + self.r * current)
            fired = (v > self.theta).double()
            return (fired if self.spikes else v), v * (1 - fired)

    class Filtered(torch.nn.Module):
        def __init__(self, node):
            super().__init__()
            self.synapse = Integrator(nir.LI(node.tau_syn, node.w_in, np.zeros_like(node.w_in)))
            self.neurons = Integrator(nir.LIF(node.tau_mem, node.r, node.v_leak, node.v_threshold))

        def forward(self, current, state=None):
            first, second = (None, None) if state is None else state
            filtered, first = self.synapse(current, first)
            spikes, second = self.neurons(filtered, second)
            return spikes, (first, second)

    class Late(torch.nn.Module):
        def __init__(self, node):
            super().__init__()
            (self.steps,) = np.unique(np.rint(node.delay * 1000 / dt)).astype(int)

        def forward(self, value, state=None):
            line = [*([torch.zeros_like(value)] * self.steps if state is None else state), value]
            return line[0], line[1:]

    def affine(node):
        module = torch.nn.Linear(*node.weight.T.shape)
        module.weight.data, module.bias.data = torch.tensor(node.weight), torch.tensor(node.bias)
        return module

    modules = {nir.LI: Integrator, nir.LIF: Integrator, nir.CubaLIF: Filtered, nir.Delay: Late, nir.Affine: affine}
    return torch, nirtorch.nir_to_torch(graph, modules, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(20))
def test_nirtorch_runs_the_graph_as_we_do(seed):
    network, x = plain_network(np.random.default_rng(seed))
    torch, module = of_nirtorch(to_nir(network), 0.25)
    state, theirs = None, []
    for row in x:
        spikes, state = module(torch.tensor(row.astype(np.float64)), state)
        theirs.append(np.broadcast_to(spikes.detach().numpy(), 3))
    np.testing.assert_array_equal(theirs, simulate(network, x, "numpy").layers[-1].spikes)
