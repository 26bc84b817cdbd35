"""Networks that go to the Neuromorphic Intermediate Representation and come back."""

import itertools
import sys
import warnings

import numpy as np
import pytest

from blocksim import (
    ALIF,
    LIF,
    Alpha,
    Connection,
    CountReadout,
    CubaLIF,
    Escape,
    Exponential,
    Layer,
    LeakyReadout,
    LinearIF,
    Network,
    simulate,
)
from blocksim.errors import BlocksimWarning, FileError, MissingLibraryError
from blocksim.interop.nir import from_nir, to_nir, write_nir

from .helpers import assert_refused, assert_same_bits
from .nir_euler import euler

nir = pytest.importorskip("nir", reason="nir is not installed: python -m pip install 'blocksim[nir]'")


def network(kind="lif", dtype=np.float32, refractory=0, latency=1, recurrent=True, readout=True, seed=0):
    rng = np.random.default_rng(seed)

    def each(low, high, size):
        return rng.uniform(low, high, size).astype(dtype)

    def weights(rows, columns, mean=0.1):
        return rng.normal(mean, 0.3, (rows, columns)).astype(dtype)

    common = {"beta": each(0.8, 0.97, 9), "theta": each(0.7, 1.3, 9), "refractory_steps": refractory}
    if kind == "alif":
        hidden = ALIF(p=each(0.9, 0.99, 9), b=each(0, 0.3, 9), **common)
    elif kind == "cubalif":
        hidden = CubaLIF(**common, synapses=(Exponential(each(0.6, 0.9, 9), each(0.1, 0.5, 9)),))
    else:
        hidden = LIF(**common)
    layers = [
        Layer(hidden, weights(5, 9), None if kind == "cubalif" else each(0, 0.1, 9),
              weights(9, 9, 0) if recurrent else None, latency if recurrent else None),
        Layer(LIF(beta=0.9, theta=1.1), weights(9, 4)),
    ]  # fmt: skip
    end = LeakyReadout(weights(4, 3), each(-0.1, 0.1, 3), 0.93, "max") if readout else CountReadout()
    return Network(layers, end, dt=0.5)


def quietly(call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlocksimWarning)
        return call()


def assert_same_network(got, expected):
    assert len(got.layers) == len(expected.layers)
    for mine, theirs in zip(got.layers, expected.layers, strict=True):
        assert type(mine.neuron) is type(theirs.neuron)
        assert mine.latency_steps == theirs.latency_steps
        np.testing.assert_array_equal(mine.neuron.refractory_steps, theirs.neuron.refractory_steps)
    own, wanted = got.parameters(), expected.parameters()
    assert set(own) == set(wanted)
    for name, value in wanted.items():
        assert_same_bits(name, np.asarray(own[name]), np.asarray(value))
    assert got.dt == expected.dt
    assert type(got.readout) is type(expected.readout)
    assert getattr(got.readout, "decode", None) == getattr(expected.readout, "decode", None)


@pytest.mark.parametrize("kind", ["lif", "alif", "cubalif"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("refractory", "latency", "recurrent", "readout"), [
    (0, 1, True, True), (3, 4, True, True), (2, 1, False, False),
])  # fmt: skip
def test_what_is_written_comes_back_bit_for_bit(kind, dtype, refractory, latency, recurrent, readout, tmp_path):
    given = network(kind, dtype, refractory, latency, recurrent, readout)
    assert_same_network(from_nir(quietly(lambda: to_nir(given))), given)
    quietly(lambda: write_nir(tmp_path / "network.nir", given))
    back = from_nir(tmp_path / "network.nir")
    assert_same_network(back, given)
    x = np.random.default_rng(1).random((3, 80, 5)) < 0.3
    one, other = simulate(given, x, "numpy"), simulate(back, x, "numpy")
    assert one.layers[0].spikes.any()
    assert_same_bits("output", other.output, one.output)


@pytest.mark.parametrize("kind", ["lif", "cubalif"])
@pytest.mark.parametrize("recurrent", [True, False])
def test_the_graph_means_what_the_network_does(kind, recurrent):
    """Stepped from NIR's own equations by Euler's rule, it has our spikes."""
    given = network(kind, np.float64, recurrent=recurrent, readout=False, seed=3)
    x = np.random.default_rng(1).random((200, 5)) < 0.3
    run = simulate(given, x, "numpy")
    spikes = run.layers[-1].spikes
    assert spikes.sum() > 20
    np.testing.assert_array_equal(euler(to_nir(given), x, 0.5), spikes)
    leaky = network(kind, np.float64, recurrent=recurrent, seed=3)
    potential = simulate(leaky, x, "numpy", record="readout").readout
    np.testing.assert_allclose(euler(to_nir(leaky), x, 0.5), potential, atol=1e-9)


def graph_of(neurons, weights=None, bias=None, more=(), edges=None):
    size = len(neurons.v_threshold)
    weights = np.eye(size) if weights is None else weights
    nodes = {
        "in": nir.Input(np.array([weights.shape[1]])),
        "w": nir.Linear(weights) if bias is None else nir.Affine(weights, bias), "n": neurons,
        "out": nir.Output(np.array([size])), **dict(more),
    }  # fmt: skip
    return nir.NIRGraph(nodes, edges or [("in", "w"), ("w", "n"), ("n", "out")])


def lif(size=3, tau=0.01, r=2.0, leak=0.0, reset=0.0):
    def full(value):
        return np.full(size, value)

    return nir.LIF(full(tau), full(r), full(leak), full(1.0), full(reset))


@pytest.mark.parametrize("reset", [0.0, -0.5])
def test_a_graph_of_another_tool_is_read(reset):
    rng = np.random.default_rng(0)
    graph = graph_of(lif(leak=0.2, reset=reset), rng.normal(0.4, 0.3, (3, 5)), rng.normal(0.3, 0.1, 3))
    read = from_nir(graph, dt=1.0)
    assert read.dt == 1.0
    assert type(read.layers[0].neuron) is (LinearIF if reset else LIF)
    np.testing.assert_allclose(read.layers[0].neuron.beta, 0.9)
    np.testing.assert_allclose(read.layers[0].weights, 0.2 * graph.nodes["w"].weight.T)
    x = rng.random((100, 5)) < 0.4
    spikes = simulate(read, x, "numpy").layers[0].spikes
    assert spikes.sum() > 5
    np.testing.assert_array_equal(spikes, euler(graph, x, 1.0))
    exact = from_nir(graph, dt=1.0, discretisation="exact")
    np.testing.assert_allclose(exact.layers[0].neuron.beta, np.exp(-0.1))


@pytest.mark.parametrize(
    "metadata", ["{", '{"kind": "LIF"}', '{"kind": "QIF", "beta": 0.9, "theta": 1, "refractory_steps": 0}']
)
def test_metadata_that_is_damaged_is_refused(metadata):
    graph = to_nir(network(recurrent=False))
    graph.nodes["0.neurons"].metadata["blocksim"] = metadata
    assert_refused(lambda: from_nir(graph), ["source", "metadata"])


def changed(given, name, attribute, change):
    """The graph of a network with other numbers in one of its nodes, as if another tool had trained it."""
    graph = quietly(lambda: to_nir(given))
    node = graph
    for part in name.split("/"):
        node = node.nodes[part]
    setattr(node, attribute, change(getattr(node, attribute)))
    return graph


NUMBERS = [
    ("0.weights", "weight"), ("0/recurrent", "weight"), ("0/delay", "delay"), ("0/neurons", "v_threshold"),
    ("0/neurons", "r"), ("0/neurons", "v_leak"), ("0/neurons", "v_reset"), ("1.weights", "weight"),
    ("readout.weights", "weight"), ("readout.weights", "bias"), ("readout.neurons", "tau"), ("readout.neurons", "r"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "attribute"),
    [
        *(("lif", *each) for each in [*NUMBERS, ("0.weights", "bias"), ("0/neurons", "tau")]),
        *(("cubalif", *each) for each in [*NUMBERS, *(("0/neurons", each) for each in ("tau_mem", "tau_syn", "w_in"))]),
    ],
)
def test_a_graph_that_was_changed_counts_as_it_is(kind, name, attribute):
    """Not what blocksim's metadata says of it: nothing of a change is lost."""
    given = network(kind, np.float64, latency=3, seed=3)
    more = 0.1 if attribute in ("v_leak", "v_reset") else 0.0
    graph = changed(given, name, attribute, lambda value: value + (more or value))
    x = np.random.default_rng(1).random((100, 5)) < 0.4
    run = simulate(from_nir(graph), x, "numpy", record="readout")
    np.testing.assert_allclose(run.readout, euler(graph, x, 0.5), atol=1e-9)
    assert np.abs(run.readout - simulate(given, x, "numpy", record="readout").readout).max() > 1e-3
    assert from_nir(graph).readout.decode == "max"


def test_weights_may_change_beside_what_only_blocksim_knows():
    given = network("alif", np.float64, refractory=2)
    for name in ("0.weights", "0/recurrent"):
        graph = changed(given, name, "weight", lambda value: 2 * value)
        layer = from_nir(graph).layers[0]
        assert_same_bits("b", layer.neuron.b, given.layers[0].neuron.b)
        assert layer.neuron.refractory_steps == 2
        what = "weights" if name == "0.weights" else "recurrent"
        np.testing.assert_allclose(getattr(layer, what), 2 * getattr(given.layers[0], what), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "how", "why"),
    [
        (2.0, {}, "the graph was changed since"),
        (1.0, {"dt": 0.25}, "another time step or rule"),
        (1.0, {"discretisation": "exact"}, "another time step or rule"),
    ],
)
def test_what_is_lost_on_the_way_back_is_told(change, how, why):
    graph = changed(network("alif", refractory=2), "0/neurons", "v_threshold", lambda value: change * value)
    with pytest.warns(
        BlocksimWarning, match=f"'0.neurons'.* has a refractory period and adaptation.*: .*{why}"
    ) as told:
        got = from_nir(graph, **how)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert type(got.layers[0].neuron) is LIF
    assert got.readout.decode == "max"


@pytest.mark.parametrize(("start", "connections"), [("input", (2, 1)), ("0", (1, 2))])
def test_ways_that_were_added_are_read(start, connections):
    given = network("lif", np.float64, readout=False)
    graph = to_nir(given)
    graph.nodes["more"] = nir.Linear(np.random.default_rng(2).normal(0.2, 0.3, (9, 5 if start == "input" else 9)))
    graph.edges += [(start, "more"), ("more", "0")]
    layer = from_nir(graph).layers[0]
    assert (len(layer.input_connections), len(layer.recurrent_connections)) == connections
    x = np.random.default_rng(1).random((100, 5)) < 0.4
    np.testing.assert_array_equal(simulate(from_nir(graph), x, "numpy").layers[-1].spikes, euler(graph, x, 0.5))


def test_another_time_step_has_other_decays():
    given = network("lif", np.float64, recurrent=False)
    coarse = from_nir(to_nir(given), dt=0.25)
    np.testing.assert_allclose(1 - coarse.layers[0].neuron.beta, (1 - given.layers[0].neuron.beta) / 2)
    np.testing.assert_allclose(coarse.layers[0].weights, given.layers[0].weights / 2)


def test_what_others_do_not_see_is_told():
    with pytest.warns(BlocksimWarning, match=r"layer 0: .*refractory period and adaptation.*metadata"):
        to_nir(network("alif", refractory=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_nir(network("lif"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: to_nir(3), ["network", "blocksim.Network"]),
        (lambda: to_nir(Network([Layer(LIF(0.9), np.ones((2, 3)))])), ["dt", "time step"]),
        (lambda: to_nir(Network([Layer(LinearIF(0.9, spike=Escape(0.1, 1.0)), np.ones((2, 3)))]), 1.0),
         ["layer 0", "LinearIF"]),
        (lambda: to_nir(Network([Layer(LIF(np.full(3, 0.9)))]), 1.0), ["layer 0", "weights or inputs"]),
        (lambda: to_nir(Network([Layer(LIF(0.9), np.ones((2, 3)), synapses=[Exponential(0.9), Alpha(0.9)])]), 1.0),
         ["layer 0", "exponential", "Alpha"]),
        (lambda: to_nir(Network([Layer(CubaLIF(0.9, synapses=[Alpha(0.9)]), np.ones((2, 3)))]), 1.0), ["exponential"]),
        (lambda: from_nir(3), ["source", "NIRGraph"]),
        (lambda: from_nir(graph_of(lif())), ["dt", "time step"]),
        (lambda: from_nir(graph_of(lif()), dt=1.0, discretisation="midpoint"), ["discretisation", "euler"]),
        (lambda: from_nir(graph_of(lif(tau=0.0005)), dt=1.0), ["0.5 ms", "'n'"]),
        (lambda: from_nir(graph_of(nir.IF(np.ones(3), np.ones(3))), dt=1.0), ["IF", "'n'"]),
        (lambda: from_nir(graph_of(lif(), more={"extra": nir.Linear(np.eye(3))},
                                   edges=[("in", "w"), ("w", "n"), ("n", "out"), ("n", "extra"), ("extra", "out")]),
                          dt=1.0),
         ["one node after 'n'", "extra"]),
        (lambda: from_nir(graph_of(lif(r=0.0)), dt=1.0), ["not 0"]),
        (lambda: from_nir(graph_of(lif(r=np.inf)), dt=1.0), ["finite", "inf", "'n'"]),
        (lambda: from_nir(graph_of(lif(leak=np.nan)), dt=1.0), ["finite", "nan", "'n'"]),
        (lambda: from_nir(graph_of(lif(tau=np.inf)), dt=1.0), ["finite", "inf", "'n'"]),
        (lambda: from_nir(graph_of(lif(tau=-0.01)), dt=1.0), ["time constants above 0", "-10 ms", "'n'"]),
        (lambda: from_nir(graph_of(lif(tau=-0.01)), dt=1.0, discretisation="exact"), ["time constants above 0", "'n'"]),
        (lambda: from_nir(graph_of(lif(), np.full((3, 5), np.nan)), dt=1.0), ["finite", "nan", "'w'"]),
        (lambda: from_nir(graph_of(lif(), np.ones((3, 5), complex)), dt=1.0), ["real numbers", "complex", "'w'"]),
        (lambda: from_nir(graph_of(lif(), np.full((3, 5), "1")), dt=1.0), ["real numbers", "'w'"]),
        (lambda: write_nir(3, network(recurrent=False)), ["path", "the name of a file"]),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(call, words):
    assert_refused(call, words)


def counted_by_norse(graph, x):
    import norse.torch

    module, state, total = norse.torch.from_nir(graph, dt=1e-4), None, 0.0
    for step in range(x.shape[1]):
        spikes, state = module(x[:, step], state)
        total += float(spikes.detach().sum())
    return total


def counted_by_snntorch(graph, x):
    from snntorch.import_nir import import_from_nir

    module, state, total = import_from_nir(graph), None, 0.0  # its time step is 0.1 ms
    for step in range(x.shape[1]):
        spikes, state = module(x[:, step], state)
        total += float(spikes.detach().sum())
    return total


def counted_by_spikingjelly(graph, x):
    from spikingjelly.activation_based import nir_exchange

    module, given, total = nir_exchange.import_from_nir(graph, dt=1e-4), (), 0.0
    for step in range(x.shape[1]):
        spikes, state = module(x[:, step], *given)
        given, total = (state,), total + float(spikes.detach().sum())
    return total


TOOLS = {"norse": counted_by_norse, "snntorch": counted_by_snntorch, "spikingjelly": counted_by_spikingjelly}


def assert_same_counts(tool, given, x):
    """The tool's network, made of ours, spikes as often."""
    pytest.importorskip(tool, reason=f"{tool} is not installed: python -m pip install 'blocksim[peer-{tool}]' nirtorch")
    torch = pytest.importorskip("torch")
    own = simulate(given, x, "numpy").layers[-1].spikes.sum()
    assert own > 1000
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # theirs
        found = TOOLS[tool](to_nir(given), torch.tensor(x.astype(np.float32)))
    assert abs(found / own - 1) < 0.01


def alike(size, value):
    return np.full(size, value, np.float32)  # SpikingJelly wants one for all


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("kind", ["lif", "cubalif", "recurrent", "recurrent cubalif"])
@pytest.mark.parametrize(("seed", "sizes", "beta"), [
    (0, (20, 30, 10), 0.9), (1, (50, 100), 0.95), (2, (10, 40, 40, 20), 0.8),
])  # fmt: skip
def test_other_tools_count_the_same_spikes(tool, kind, seed, sizes, beta):
    rng = np.random.default_rng(seed)
    layers = []
    for rows, size in itertools.pairwise(sizes):
        neuron = LIF(alike(size, beta), alike(size, 1))
        if kind.endswith("cubalif"):
            neuron = CubaLIF(alike(size, beta), alike(size, 1), synapses=[Exponential(alike(size, 0.6), 0.5)])
        weights = rng.normal(0.15, 0.3, (rows, size)).astype(np.float32)
        loops = {}
        if kind.startswith("recurrent"):
            loops = {"recurrent": rng.normal(0, 0.05, (size, size)).astype(np.float32), "latency_steps": 1}
        layers.append(Layer(neuron, weights, **loops))
    assert_same_counts(tool, Network(layers, dt=0.1), rng.random((4, 300, sizes[0])) < 0.1)


@pytest.mark.parametrize("tool", ["snntorch", "spikingjelly"])  # Norse 1.1 runs neurons before all that they hear
@pytest.mark.parametrize("synapses", [[], [Exponential(alike(30, 0.6))]])
def test_other_tools_add_up_what_several_connections_bring(tool, synapses):
    rng = np.random.default_rng(0)
    weights = rng.normal(0.1, 0.3, (2, 20, 30)).astype(np.float32)
    layer = Layer(LIF(alike(30, 0.9), alike(30, 1)), inputs=map(Connection, weights), synapses=synapses)
    assert_same_counts(tool, Network([layer], dt=0.1), rng.random((4, 300, 20)) < 0.1)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.nir").write_text("nothing")
    for name in ("text.nir", "missing.nir"):
        with pytest.raises(FileError, match=name):
            from_nir(tmp_path / name, dt=1.0)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(MissingLibraryError, match=r"blocksim\[nir\]"):
        to_nir(network())
