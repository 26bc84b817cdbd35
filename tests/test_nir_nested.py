"""Graphs of the Neuromorphic Intermediate Representation within graphs, as snnTorch, Rockpool and others build them."""

import warnings

import numpy as np
import pytest

from blocksim import LIF, CubaLIF, simulate
from blocksim.interop.nir import from_nir

from .helpers import assert_refused
from .nir_euler import euler

nir = pytest.importorskip("nir", reason="nir is not installed: python -m pip install 'blocksim[nir]'")
RNG = np.random.default_rng(0)
X = RNG.random((120, 5)) < 0.3


def ports(size_in, size_out):
    return {"input": nir.Input(np.array([size_in])), "output": nir.Output(np.array([size_out]))}


def graph(nodes, edges, check=True):
    return nir.NIRGraph(nodes, [tuple(each.split()) for each in edges.split(", ")], type_check=check)


def neurons(kind="LIF", size=4):
    values = {"r": 10.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
    values |= {"tau": 0.01} if kind == "LIF" else {"tau_mem": 0.01, "tau_syn": 0.004, "w_in": 4.0}
    return getattr(nir, kind)(**{name: np.full(size, value) for name, value in values.items()})


def weights(rows=4, columns=5, scale=0.3):
    return nir.Linear(np.random.default_rng(rows).normal(0.1, scale, (rows, columns)))


def recurrent(kind="LIF", bias=None):
    """Neurons with their recurrent weights, as snnTorch's RLeaky and RSynaptic and Rockpool's LIF are in NIR."""
    back = weights(4, 4, 0.2)
    back = back if bias is None else nir.Affine(back.weight, bias)
    return graph(
        ports(4, 4) | {"lif": neurons(kind), "w_rec": back}, "input lif, lif w_rec, w_rec lif, lif output"
    )  # fmt: skip


def around(inner, edges="input w, w sub, sub v, v lif, lif output", more=None, check=True):
    """A nested graph in the middle of a network."""
    nodes = {"w": weights(), "sub": inner, "v": weights(3, 4, 0.8), "lif": neurons(size=3)}
    return graph(ports(5, 3) | nodes | (more or {}), edges, check)


def assert_meant(read, given):
    """What was read does what the graph says, nested as it is."""
    spikes = simulate(read, X, "numpy").layers[-1].spikes
    assert spikes.sum() > 10
    np.testing.assert_array_equal(spikes, euler(given, X, 1.0))


@pytest.mark.parametrize(("kind", "bias"), [
    ("LIF", None), ("CubaLIF", None), ("LIF", np.array([0.1, 0.0, -0.1, 0.05])), ("CubaLIF", np.zeros(4)),
])  # fmt: skip
def test_a_recurrent_graph_becomes_a_recurrent_layer(kind, bias, tmp_path):
    given = around(recurrent(kind, bias))
    nir.write(tmp_path / "nested.nir", given)
    for source in (given, tmp_path / "nested.nir"):
        read = from_nir(source, dt=1.0)
        first, second = read.layers
        assert type(first.neuron) is (LIF if kind == "LIF" else CubaLIF)
        assert first.latency_steps == 1
        assert second.recurrent is None
        np.testing.assert_allclose(first.recurrent, given.nodes["sub"].nodes["w_rec"].weight.T)
        assert_meant(read, given)


def test_graphs_are_nested_to_any_depth():
    given = around(recurrent())
    deep = around(recurrent())
    for _ in range(60):
        deep = graph(ports(5, 3) | {"in": deep}, "input in, in output", check=False)
    read, expected = from_nir(deep, dt=1.0), from_nir(given, dt=1.0)
    for name, value in expected.parameters().items():
        np.testing.assert_array_equal(read.parameters()[name], value)


@pytest.mark.parametrize(
    ("inner", "edges", "more"),
    [
        # the recurrent weights outside of the graph with the neurons, and the neurons outside of that with the weights
        (graph(ports(4, 4) | {"lif": neurons()}, "input lif, lif output"),
         "input w, w sub, sub back, back sub, sub v, v lif, lif output", {"back": weights(4, 4, 0.2)}),
        (graph(ports(4, 4) | {"w": weights(4, 4, 0.2)}, "input w, w output"),
         "input w, w n, n sub, sub n, n v, v lif, lif output", {"n": neurons()}),
        # a graph of two layers; a graph in a graph, whose edges lead from port to port
        (graph(ports(4, 4) | {"a": neurons(), "w": weights(4, 4, 0.5), "b": neurons()},
               "input a, a w, w b, b output"), "input w, w sub, sub v, v lif, lif output", {}),
        (graph(ports(4, 4) | {"deeper": recurrent()}, "input deeper, deeper output"),
         "input w, w sub, sub v, v lif, lif output", {}),
        # a graph that passes on what it hears
        (graph(ports(4, 4), "input output"), "input w, w sub, sub n, n v, v lif, lif output", {"n": neurons()}),
        # a synapse of its own, beside the way past it
        (graph(ports(4, 4) | {"li": nir.LI(np.full(4, 0.02), np.full(4, 0.2), np.zeros(4))}, "input li, li output"),
         "input w, w sub, sub n, w n, n v, v lif, lif output", {"n": neurons()}),
    ],
)  # fmt: skip
def test_edges_are_joined_at_ports(inner, edges, more):
    given = around(inner, edges, more)
    assert_meant(from_nir(given, dt=1.0), given)


def within_itself():
    inner = graph(ports(4, 4), "input output")
    inner.nodes["self"] = inner
    return around(inner, check=False)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        # several ports of one kind, of which an edge cannot say one; or none
        (lambda: around(graph(ports(4, 4) | {"second": nir.Input(np.array([4])), "n": neurons()},
                              "input n, second n, n output"), check=False),
         ["one Input node", "'sub'", "found 2"]),
        (lambda: around(graph(ports(4, 4) | {"second": nir.Output(np.array([4])), "n": neurons()},
                              "input n, n second, n output"), check=False),
         ["one Output node", "'sub'", "found 2"]),
        (lambda: around(graph({"n": neurons(), "output": nir.Output(np.array([4]))}, "n output", False), check=False),
         ["one Input node", "'sub'", "found 0"]),
        # ports that lead nowhere, or that nothing leads to
        (lambda: around(graph(ports(4, 4) | {"n": neurons()}, "n output", False), check=False),
         ["on from 'sub.input'", "none"]),
        (lambda: around(graph(ports(4, 4) | {"n": neurons()}, "input n", False), check=False),
         ["a way to 'sub.output'", "none"]),
        (lambda: around(recurrent(), "input w, w lif, sub v, v lif, lif output", check=False),
         ["a way to 'sub.input'", "none"]),
        (lambda: around(recurrent(), "input w, w sub, w v, v lif, lif output", check=False),
         ["on from 'sub.output'", "none"]),
        # loops without neurons: of ports alone, and of weights in a nested graph and outside it
        (lambda: around(graph(ports(4, 4), "input output"), "input w, w sub, sub sub, sub v, v lif, lif output",
                        check=False),
         ["every loop", "sub.input (Input), sub.output (Output)"]),
        (lambda: around(graph(ports(4, 4) | {"a": weights(4, 4)}, "input a, a output"),
                        "input w, w sub, sub back, back sub, sub v, v lif, lif output", {"back": weights(4, 4)}),
         ["every loop", "back (Linear)", "sub.a (Linear)"]),
        # the same signal twice, through two graphs that pass it on
        (lambda: around(graph(ports(4, 4), "input output"), "input w, w sub, w s, sub n, s n, n v, v lif, lif output",
                        {"s": graph(ports(4, 4), "input output"), "n": neurons()}),
         ["one edge from 'w' to 'n'", "two"]),
        (lambda: around(graph(ports(4, 4) | {"n": nir.IF(np.ones(4), np.ones(4))}, "input n, n output")),
         ["IF", "'sub.n'"]),
        (lambda: around(recurrent(), more={"sub.lif": neurons()}, check=False), ["'sub.lif' twice"]),
        (lambda: around(recurrent(), "input w, w sub, sub.lif v, v lif, lif output", check=False),
         ["'sub.lif'", "none"]),
        (within_itself, ["'sub.self' inside itself"]),
        (lambda: around(recurrent("CubaLIF", np.ones(4))), ["bias before a synapse", "'sub.w_rec'"]),
    ],
)  # fmt: skip
def test_what_cannot_be_made_flat_is_refused(call, words):
    assert_refused(lambda: from_nir(call(), dt=1.0), words)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic", "one to one"])
def test_what_snntorch_writes_has_its_spikes(kind, nested):
    """Flat, as snnTorch's export writes it; and nested, as it makes a layer, which NIRTorch's newer export keeps."""
    how = "python -m pip install 'blocksim[peer-snntorch]' nirtorch"
    snn = pytest.importorskip("snntorch", reason=f"snntorch is not installed: {how}")
    nirtorch = pytest.importorskip("nirtorch", reason=f"nirtorch is not installed: {how}")
    torch = pytest.importorskip("torch")
    from snntorch.export_nir import _extract_snntorch_module, export_to_nir

    torch.manual_seed(1)
    common = {"init_hidden": True, "reset_mechanism": "zero"}
    if kind == "RSynaptic":
        hidden = snn.RSynaptic(0.6, 0.9, linear_features=4, **common)
        torch.nn.init.zeros_(hidden.recurrent.bias)  # a bias would go through the synapse
    else:
        one_to_one = {"V": torch.tensor([0.1, -0.2, 0.3, -0.1]), "all_to_all": False}
        more = {"linear_features": 4} if kind == "RLeaky" else one_to_one
        hidden = snn.RLeaky(0.9, **more, **common, reset_delay=False)
    last = snn.Leaky(torch.full((3,), 0.8), threshold=torch.ones(3), **common, reset_delay=False)
    net = torch.nn.Sequential(torch.nn.Linear(5, 4, bias=False), hidden, torch.nn.Linear(4, 3), last)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NIRTorch's older export
        net[0].weight.abs_()
        net[2].weight.abs_()
        if nested:
            given = nirtorch.torch_to_nir(net, {type(each): _extract_snntorch_module for each in net})
        else:
            given = export_to_nir(net, torch.ones(1, 5), ignore_dims=[0])
        for each in (hidden, last):
            each.reset_mem()
        theirs = np.array([net(torch.tensor(row[None].astype(np.float32))).numpy()[0] for row in X])
    assert any(type(node) is nir.NIRGraph for node in given.nodes.values()) == nested
    read = from_nir(given, dt=0.1)  # snnTorch's own
    assert [layer.recurrent is not None for layer in read.layers] == [True, False]
    if kind == "RSynaptic":  # snnTorch 1.0 cannot run it unless its reset is a step late
        theirs = euler(given, X, 0.1)
    assert theirs.sum() > 10
    np.testing.assert_array_equal(simulate(read, X, "numpy").layers[-1].spikes, theirs)
