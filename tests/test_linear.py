"""The linear family, equations (27)-(38): golden values of an independent autograd, bits, states, delays, files.

Golden values are read from ../shared/data/golden and skipped where it is not there.
"""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

import blocksim
from blocksim import ALIF, LIF, Alpha, Component, Connection, Exponential, Layer, LinearIF, Network, Rectified, simulate
from blocksim._neurons import Number
from blocksim._parameters import parameter
from blocksim.models import load_network, save_model
from blocksim.transforms import Positive

from .conftest import engine_names
from .helpers import (
    assert_close,
    assert_refused,
    assert_same_bits,
    assert_same_in_blocks_and_chunks,
    assert_same_run,
    assert_threshold_follows,
    relative,
    steps_of,
)

TOLERANCE = 1e-10


@pytest.fixture(scope="module")
def golden(shared_data):
    with np.load(shared_data / "golden" / "general.npz") as archive:
        return {name: archive[name] for name in archive.files}


def case_of(golden, number):
    prefix = f"case{number}/"
    arrays = {name.removeprefix(prefix): array for name, array in golden.items() if name.startswith(prefix)}
    return arrays, json.loads(str(arrays.pop("json")))


def layer_of(arrays, how):
    """The layer; the gain of a receptor without a time course is part of its weights."""
    names = {"decay": "q", "jump": "d", "from_voltage": "k", "to_voltage": "g", "to_threshold": "h"}
    components = [
        Component(**{name: arrays[own][place] for name, own in names.items()}) for place in range(len(arrays["q"]))
    ]

    def synapse(number, kind):
        if kind == "delta":
            return None
        if kind == "exponential":
            return Exponential(arrays["sigma"][number], arrays["gain"][number])
        return Alpha(arrays["sigma"][number], arrays["gain"][number], arrays["gain2"][number])

    def connection(weights, delay, number):
        return Connection(weights * (arrays["gain"][number] if how["kinds"][number] == "delta" else 1), delay, number)

    return Layer(
        LinearIF(
            arrays["beta"], arrays["theta"], arrays["arp"], components, arrays["v_reset"], arrays["f"],
            how["refractory"],
        ),
        bias=arrays["bias"],
        recurrent=[
            connection(arrays[f"R{number}"], delay, receptor)
            for number, (delay, receptor) in enumerate(how["recurrent"])
        ],
        inputs=[connection(weights, 0, number) for number, weights in enumerate(arrays["W"])],
        synapses=[synapse(number, kind) for number, kind in enumerate(how["kinds"])],
    )  # fmt: skip


# kernels are compiled for each number of components: other cases of theirs with --slow, and where CI=true
FEW = (2, 4, 9, 11, 18, 20, 27, 29)


@pytest.mark.parametrize("method", ["blocks", "standard"])
@pytest.mark.parametrize(
    ("backend", "number"),
    [
        pytest.param(name, number, marks=() if name in ("numpy", "cupy") or number in FEW else pytest.mark.slow)
        for name in engine_names()
        for number in range(90)
    ],
    indirect=["backend"],
)
def test_golden_values(golden, backend, number, method):
    arrays, how = case_of(golden, number)
    layer = layer_of(arrays, how)
    run = simulate(
        layer, arrays["x"], backend, method, record=("voltage", "threshold"), tape=True, surrogate=how["surrogate"],
        detach=tuple(how["detach"]),
    )  # fmt: skip
    np.testing.assert_array_equal(run.spikes, arrays["spikes"])
    gradients = run.backward(arrays["grad_spikes"], arrays["grad_voltage"])
    pairs = {name: (getattr(run, name), arrays[name]) for name in ("voltage", "threshold")}
    pairs["x"] = (gradients.x, arrays["grad_x"])
    wanted = {"beta": "beta", "theta": "theta", "bias": "bias", "reset_factor": "f", "v_reset": "v_reset"}
    expected = {name: arrays[f"grad_{own}"] for name, own in wanted.items()}
    names = {"decay": "q", "jump": "d", "from_voltage": "k", "to_voltage": "g", "to_threshold": "h"}
    for place in range(len(arrays["q"])):
        expected |= {f"components.{place}.{name}": arrays[f"grad_{own}"][place] for name, own in names.items()}
    for place, kind in enumerate(how["kinds"]):
        if kind != "delta":
            expected |= {f"synapses.{place}.{name}": arrays[f"grad_{own}"][place]
                         for name, own in {"decay": "sigma", "gain": "gain"}.items()}  # fmt: skip
        if kind == "alpha":
            expected[f"synapses.{place}.gain_rising"] = arrays["grad_gain2"][place]

    def of_weights(name, gradient, receptor):
        delta = how["kinds"][receptor] == "delta"
        return gradients.parameters()[name] * (arrays["gain"][receptor] if delta else 1), gradient

    for place in range(len(arrays["W"])):
        pairs[f"W{place}"] = of_weights(f"inputs.{place}.weights", arrays["grad_W"][place], place)
    for place, (_, receptor) in enumerate(how["recurrent"]):
        pairs[f"R{place}"] = of_weights(f"recurrent.{place}.weights", arrays[f"grad_R{place}"], receptor)
    assert set(expected) == {name for name in gradients.parameters() if not name.endswith("weights")}
    pairs |= {name: (gradients.parameters()[name], value) for name, value in expected.items()}
    for name, (got, value) in pairs.items():
        np.testing.assert_allclose(got, value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def random_layer(rng, dtype, size=5, inputs=4):
    alpha = (True, False)[: int(rng.integers(0, 3))]

    def each(low, high):
        return rng.uniform(low, high, size).astype(dtype)

    def connections(rows, scale, delays):
        receptors = rng.integers(0, len(alpha) + 1, len(delays))
        return [
            Connection(rng.normal(0.1, scale, (rows, size)).astype(dtype), delay, int(receptor))
            for delay, receptor in zip(delays, receptors, strict=True)
        ]

    delays = [int(delay) for delay in rng.integers(0, 4, 2)]
    recurrent = [int(delay) for delay in rng.integers(1, 9, int(rng.integers(0, 2)))]
    if rng.random() < 0.3:
        recurrent.append(rng.integers(1, 9, (size, size)))
    return Layer(
        LinearIF(
            each(0.6, 0.98), each(0.4, 1.0), rng.integers(0, 7, size) + int(rng.integers(0, 4)),
            [
                Rectified(each(0.5, 0.99), each(-0.2, 0.6), each(-0.2, 0.2), each(-0.3, 0.3), each(-0.1, 0.4))
                if rng.random() < 0.3
                else Component(each(0.5, 0.99), each(-0.5, 1.0), each(-0.1, 0.1), each(-0.2, 0.1), each(-0.1, 0.4),
                               str(rng.choice(["before", "after"])))
                for _ in range(2 * int(rng.integers(0, 2)))
            ],
            each(-0.4, 0.2), each(-0.3, 0.6), str(rng.choice(["ignore", "hold", "integrate"])),
        ),
        bias=each(0.0, 0.2),
        recurrent=connections(size, 0.4, recurrent),
        inputs=connections(inputs, 0.6, delays),
        synapses=[
            (Alpha if rising else Exponential)(each(0.5, 0.95), each(0.3, 1.0), *([each(-0.3, 0.3)] if rising else []))
            for rising in alpha
        ],
    )  # fmt: skip


def random_input(rng, steps, dtype, bits=None):
    """Spikes, real values, or events. A GPU multiplies real values in another order: none where `bits` count."""
    spikes = rng.random((2, steps, 4)) < 0.4
    kind = int(rng.integers(0, 3))
    if bits is not None and bits.name.startswith("cupy"):
        kind = kind // 2 * 2
    return [spikes, (spikes * rng.uniform(0, 1.5, spikes.shape)).astype(dtype), blocksim.Events.from_dense(spikes)][
        kind
    ]


@pytest.mark.parametrize("seed", range(60))
def test_block_lengths_and_chunks_give_the_same_bits(backend, seed):
    rng = np.random.default_rng(seed)
    dtype = (np.float32, np.float64)[seed % 2]
    layer = random_layer(rng, dtype, size=(5, 33)[seed % 6 == 0])
    steps, cut = 31, int(rng.integers(1, 31))
    x, record = random_input(rng, steps, dtype, backend), ("voltage", "threshold")
    whole = simulate(layer, x, "numpy", "standard", record=record)
    assert whole.spikes.any()
    assert_same_in_blocks_and_chunks(backend, layer, x, cut, whole)
    alone = x.samples(1, 2) if isinstance(x, blocksim.Events) else x[1:]
    assert_same_bits("a sample alone", simulate(layer, alone, backend, record=record).voltage, whole.voltage[1:])


@pytest.mark.parametrize("seed", range(16))
def test_gradients_of_chunks_and_checkpoints_are_those_of_one_run(backend, seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, np.float64)
    steps, cut = 24, 11
    x = random_input(rng, steps, np.float64)
    cotangents = rng.normal(size=(2, 2, steps, layer.size))
    options = {"tape": True, "detach": ()}
    whole = simulate(layer, x, "numpy", **options)
    first = simulate(layer, steps_of(x, 0, cut), backend, **options)
    second = simulate(layer, steps_of(x, cut, steps), backend, state=first.state, **options)
    end = whole.backward(*cotangents).state
    end = replace(end, **{name: rng.normal(size=array.shape) for name, array in vars(end).items()})
    expected = whole.backward(*cotangents, grad_state=end).arrays()
    assert_close(simulate(layer, x, backend, **options).backward(*cotangents, grad_state=end), expected, TOLERANCE)
    checkpoints = simulate(layer, x, backend, tape="checkpoint", detach=())
    assert_close(checkpoints.backward(*cotangents, grad_state=end), expected, TOLERANCE)
    later = second.backward(*cotangents[:, :, cut:], grad_state=end).arrays()
    sooner = first.backward(*cotangents[:, :, :cut], grad_state=second.backward(
        *cotangents[:, :, cut:], grad_state=end).state).arrays()  # fmt: skip
    for name, value in expected.items():
        if name in ("x", "current"):
            joined = np.concatenate([sooner[name], later[name]], axis=1)
        else:
            joined = sooner[name] if name.startswith("state.") else sooner[name] + later[name]
        assert relative(joined, value) < 1e-9, name


@pytest.mark.parametrize("seed", range(16))
def test_finite_differences_with_spikes_frozen(backend, seed):
    """A box so narrow that no potential lies in it is a surrogate whose gradient is that of the potentials alone."""
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, np.float64)
    x, cotangent = random_input(rng, 20, np.float64), rng.normal(size=(2, 20, layer.size))
    run = simulate(layer, x, backend, tape=True, surrogate=blocksim.surrogates.BoxCar(width=1e-9), detach=())
    gradients = run.backward(grad_voltage=cotangent).parameters()
    small = 1e-6
    for name, value in layer.parameters().items():
        direction = rng.normal(size=value.shape)
        losses = []
        for sign in (1, -1):
            moved = layer.with_parameters({name: value + sign * small * direction})
            other = simulate(moved, x, "numpy", record="voltage")
            np.testing.assert_array_equal(other.spikes, run.spikes)
            losses.append(float((other.voltage * cotangent).sum()))
        slope = (losses[0] - losses[1]) / (2 * small)
        assert float((gradients[name] * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-6), name


def alif_layers(rng, dtype):
    """An ALIF layer, and the same with connections of its own, which make it one of the family."""
    size = 6
    beta, p, b = (rng.uniform(low, high, size).astype(dtype) for low, high in ((0.6, 0.98), (0.6, 0.99), (0, 0.4)))
    weights, recurrent = rng.normal(0.4, 0.5, (4, size)).astype(dtype), rng.normal(0, 0.3, (size, size)).astype(dtype)
    bias = rng.uniform(0, 0.2, size).astype(dtype)
    neuron = ALIF(beta, p, b, np.ones(size, dtype), 3)
    return (
        Layer(neuron, weights, bias, recurrent, 4),
        Layer(neuron, bias=bias, recurrent=[Connection(recurrent, 4)], inputs=[Connection(weights)]),
    )


def test_alif_is_an_instance_with_its_bits_and_gradients(backend):
    rng = np.random.default_rng(3)
    x = rng.random((2, 50, 4)) < 0.4
    plain, family = alif_layers(rng, np.float32)
    assert plain.is_simple
    assert not family.is_simple
    expected = simulate(plain, x, "numpy", record=("voltage", "threshold"), tape=True)
    got = simulate(family, x, backend, record=("voltage", "threshold"), tape=True)
    for name in ("spikes", "voltage", "threshold"):
        assert_same_bits(name, getattr(got, name), getattr(expected, name))
    of_plain, of_family = (run.backward(np.ones((2, 50, 6))).parameters() for run in (expected, got))
    names = {"inputs.0.weights": "weights", "recurrent.0.weights": "recurrent"}
    assert {names.get(name, name) for name in of_family} == set(of_plain)
    for name, gradient in of_family.items():
        assert relative(gradient, of_plain[names.get(name, name)]) < 1e-5, name


def test_a_threshold_that_follows_the_potential(backend):
    """Step by step, from its definition; and a piecewise linear function of several knots."""
    decay, knots, slopes = 0.9, np.array([0.1, 0.4]), np.array([0.3, 0.5])
    components = [Rectified(decay, knot, from_voltage=0.1, to_threshold=slope)
                  for knot, slope in zip(knots, slopes, strict=True)]  # fmt: skip

    def level_after(level, v, spike):
        return decay * level + 0.1 * np.maximum(v - knots, 0)

    assert_threshold_follows(backend, components, slopes, level_after)


def test_delays_of_single_synapses_are_connections_of_one_delay_each(backend):
    rng = np.random.default_rng(5)
    weights, delays = rng.normal(0.4, 0.4, (4, 3)), rng.integers(0, 3, (4, 3))
    recurrent, own = rng.normal(0, 0.4, (3, 3)), rng.integers(2, 4, (3, 3))
    neuron = LinearIF(0.9, 1.0, 2, [Component(0.9, to_threshold=0.2), Component(0.5, to_voltage=-0.1)])
    x = rng.random((2, 40, 4)) < 0.3
    one = Layer(neuron, inputs=[Connection(weights, delays)], recurrent=[Connection(recurrent, own)])
    several = Layer(
        neuron,
        inputs=[Connection(weights * (delays == delay), delay) for delay in range(3)],
        recurrent=[Connection(recurrent * (own == delay), delay) for delay in (2, 3)],
    )
    runs = [simulate(layer, x, backend, tape=True, record="voltage") for layer in (one, several)]
    assert runs[0].spikes.any()
    assert_same_bits("voltage", runs[0].voltage, runs[1].voltage)
    got, parts = (run.backward(np.ones(run.spikes.shape)).parameters() for run in runs)
    expected = sum(parts[f"inputs.{delay}.weights"] * (delays == delay) for delay in range(3))
    np.testing.assert_allclose(got["inputs.0.weights"], expected, rtol=1e-12)
    expected = sum(parts[f"recurrent.{place}.weights"] * (own == delay) for place, delay in enumerate((2, 3)))
    np.testing.assert_allclose(got["recurrent.0.weights"], expected, rtol=1e-12)


def test_sparse_weights_stay_sparse(backend, tmp_path):
    """As an array of the same weights; what a sparse matrix does not store has no gradient, and a stored zero has."""
    sparse = pytest.importorskip("scipy.sparse", reason="needs the extra sparse")
    rng = np.random.default_rng(0)
    weights = rng.normal(0.1, 0.5, (4, 5)) * (rng.random((4, 5)) < 0.5)
    own = rng.normal(0, 0.4, (5, 5)) * (rng.random((5, 5)) < 0.5)
    delays = np.where(own != 0, rng.integers(1, 6, (5, 5)), 1)
    stored = sparse.csr_array(weights)
    stored.data[0] = 0
    present = stored.toarray() != 0
    present[tuple(np.argwhere(weights)[0])] = True
    neuron = LinearIF(0.9, 0.5, 2, [Component(0.9, to_threshold=0.2), Component(0.5, to_voltage=-0.1)])

    def layer(*of):
        return Layer(neuron, inputs=[Connection(of[0], 1)], recurrent=[Connection(of[1], of[2])])

    x, grad = rng.random((2, 40, 4)) < 0.3, rng.normal(size=(2, 40, 5))
    thin = layer(stored, sparse.coo_matrix(own), delays)
    options = {"tape": True, "record": ("voltage", "threshold")}
    runs = [simulate(each, x, backend, **options) for each in (thin, layer(stored.toarray(), own, delays))]
    assert runs[0].spikes.any()
    assert_same_run(*runs)
    gradients, all_gradients = (run.backward(grad).parameters() for run in runs)
    for name, where in (("inputs.0.weights", present), ("recurrent.0.weights", own != 0)):
        np.testing.assert_array_equal(gradients[name], np.where(where, all_gradients[name], 0))
        assert all_gradients[name][~where].any()
    save_model(tmp_path / "thin.npz", Network([thin], blocksim.CountReadout()))
    kept = load_network(tmp_path / "thin.npz").layers[0]
    np.testing.assert_array_equal(kept.input_connections[0].present, present)
    moved = kept.with_parameters({"inputs.0.weights": np.ones((4, 5))})
    np.testing.assert_array_equal(moved.input_connections[0].weights, present)
    assert_refused(lambda: Connection(np.ones((2, 3)), present=np.ones((3, 2), bool)), ["present", "(2, 3)"])
    assert_refused(lambda: Connection(sparse.coo_array(np.ones(3))), ["weights", "(inputs, neurons)"])
    # which of its weights there are, a layer's plain array could not say
    assert_refused(lambda: Layer(LIF(0.9), stored), ["weights", "toarray"])


@pytest.mark.parametrize("synapses", [(), (Exponential(0.8),)])
@pytest.mark.parametrize("columns", [1, 3])
def test_a_current_is_the_input_of_a_layer_without_connections(backend, synapses, columns):
    rng = np.random.default_rng(6)
    neuron = LinearIF(np.full(3, 0.9), components=[Component(0.9, to_threshold=0.3)] * 2, refractory_steps=1)
    current = rng.uniform(0, 0.3, (30, columns))
    given = simulate(Layer(neuron, synapses=synapses), current, backend, tape=True, record="voltage")
    weights = np.eye(3) if columns == 3 else np.ones((1, 3))
    connected = simulate(Layer(neuron, weights, synapses=synapses), current, backend, tape=True, record="voltage")
    assert given.spikes.any()
    np.testing.assert_allclose(given.voltage, connected.voltage, rtol=1e-12)
    cotangent = rng.normal(size=given.spikes.shape)
    np.testing.assert_allclose(given.backward(cotangent).x, connected.backward(cotangent).x, rtol=1e-10, atol=1e-12)


def mixed_network(rng):
    """The family below LIF below the family, the last with a delay."""
    last = LinearIF(0.9, components=[Component(0.95, from_voltage=0.02, to_voltage=-0.1)], refractory_steps=2)
    return Network([
        random_layer(rng, np.float64),
        Layer(LIF(0.9, refractory_steps=2), rng.normal(0.4, 0.4, (5, 3))),
        Layer(last, inputs=[Connection(rng.normal(0.5, 0.5, (3, 4)), 3)], synapses=[Exponential(0.7)]),
    ], blocksim.LeakyReadout(rng.normal(0, 0.5, (4, 2))))  # fmt: skip


def test_layers_of_several_kinds_make_a_network(backend, tmp_path):
    rng = np.random.default_rng(11)
    network = mixed_network(rng)
    x = rng.random((3, 40, 4)) < 0.4
    run = simulate(network, x, backend, tape=True)
    assert all(counts.any() for counts in run.counts)
    gradients = run.backward(grad_output=np.ones((3, 2)))
    assert set(gradients.parameters()) == set(network.parameters()) == set(network.transforms())
    expected = simulate(network, x, "numpy", tape=True).backward(grad_output=np.ones((3, 2)))
    assert_close(gradients.parameters(), expected.parameters(), TOLERANCE)
    save_model(tmp_path / "network.npz", network)
    back = load_network(tmp_path / "network.npz")
    assert_same_bits("output", simulate(back, x, backend).output, run.output)
    assert back.parameters().keys() == network.parameters().keys()
    first = simulate(network, x[:, :17], backend, tape=True)
    second = simulate(network, x[:, 17:], backend, tape=True, state=first.state)
    assert_same_bits("readout", second.state.readout, run.state.readout)
    later = second.backward(grad_readout=np.ones((3, 23, 2)))
    sooner = first.backward(grad_readout=np.ones((3, 17, 2)), grad_state=later.state).parameters()
    whole = run.backward(grad_readout=np.ones((3, 40, 2))).parameters()
    for name, value in whole.items():
        assert relative(sooner[name] + later.parameters()[name], value) < 1e-9, name


def test_parameters_are_changed_by_their_names():
    layer = random_layer(np.random.default_rng(12), np.float64)
    own = layer.parameters()
    moved = layer.with_parameters({name: value * 0.5 for name, value in own.items()})
    for name, value in moved.parameters().items():
        np.testing.assert_array_equal(value, own[name] * 0.5, err_msg=name)
    assert_refused(
        lambda: layer.with_parameters({"components.0.decay": np.full(5, 1.5)}), ["components.0.decay", "1.5"]
    )
    assert replace(layer, bias=np.zeros(5)).parameters().keys() == own.keys()


@dataclass(frozen=True, eq=False)
class Tied(LinearIF):
    """A component whose jump and pull are one number: two parameters that its family lacks."""

    strength: Number = parameter("jump and pull of the component", transform=Positive(), default=0.3)
    tau: Number = parameter("time constant in steps", transform=Positive(), default=10.0)

    @classmethod
    def linear(cls, *, strength, tau, **own):
        decay = np.exp(-1 / tau)
        return own | {"components": [{"decay": decay, "jump": strength, "to_voltage": -strength}]}


class Preset(LinearIF):
    """Fewer arguments, and no parameters of its own."""

    def __init__(self, size):
        super().__init__(np.full(size, 0.9), components=[Component(0.8, to_threshold=0.2)], reset_factor=0.5)


def test_a_class_of_a_users_own(backend, tmp_path):
    x = np.random.default_rng(0).random((2, 60, 3)) < 0.3
    weights = np.random.default_rng(1).normal(0.5, 0.3, (3, 4))

    def gradients(neuron):
        run = simulate(Layer(neuron, weights), x, backend, tape=True, detach=())
        return run.spikes, run.backward(np.ones((2, 60, 4))).parameters()

    decay = np.exp(-1 / 10)
    spikes, got = gradients(Tied(0.9))
    plain, expected = gradients(LinearIF(0.9, components=[Component(decay, 0.3, to_voltage=-0.3)]))
    np.testing.assert_array_equal(spikes, plain)
    of = {name: expected[f"components.0.{name}"] for name in ("decay", "jump", "to_voltage")}
    np.testing.assert_allclose(got["strength"], of["jump"] - of["to_voltage"], rtol=1e-10)
    np.testing.assert_allclose(got["tau"], of["decay"] * decay / 100, rtol=1e-10)
    network = Network([Layer(Preset(4), weights), Layer(Tied(0.9), np.ones((4, 2)))])
    network = network.with_parameters({"layers.0.components.0.jump": 0.7})
    save_model(tmp_path / "own.npz", network)
    back = load_network(tmp_path / "own.npz")
    assert [type(layer.neuron) for layer in back.layers] == [Preset, Tied]
    assert back.layers[0].neuron.components[0].jump == 0.7
    assert_same_bits("output", simulate(back, x, backend).output, simulate(network, x, backend).output)


CONNECTION = Connection(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Component(1.0), ["decay", "[0, 1)", "1.0"]),
        (lambda: Alpha(0.0), ["decay", "(0, 1)"]),
        (lambda: LinearIF(0.9, components=[0.5]), ["components", "Component", "0.5"]),
        (lambda: LinearIF(0.9, refractory="clamp"), ["refractory", "hold", "clamp"]),
        (lambda: LinearIF(0.9, components=[Component(np.full(2, 0.5)), Component(np.full(3, 0.5))]), ["one length"]),
        (lambda: Connection(np.ones(3)), ["weights", "(inputs, neurons)"]),
        (lambda: Connection(np.ones((2, 3)), -1), ["delay_steps", "-1"]),
        (lambda: Connection(np.ones((2, 3)), np.ones((3, 2), int)), ["delay_steps", "(2, 3)"]),
        (lambda: Layer(LIF(0.9), np.ones((2, 3)), inputs=[CONNECTION]), ["weights, inputs"]),
        (lambda: Layer(LIF(0.9), inputs=[np.ones((2, 3))]), ["inputs", "Connection"]),
        (lambda: Layer(LIF(0.9), inputs=[CONNECTION, Connection(np.ones((3, 3)))]), ["same inputs"]),
        (lambda: Layer(LIF(0.9), recurrent=[Connection(np.ones((3, 3)))]), ["recurrent[0]", "at least 1 step"]),
        (lambda: Layer(LIF(0.9), recurrent=[Connection(np.ones((3, 3)), 2)], latency_steps=2), ["latency_steps"]),
        (lambda: Layer(LIF(0.9), np.ones((2, 3)), synapses=[0.9]), ["synapses", "Exponential"]),
        (lambda: Layer(LIF(0.9), np.ones((2, 3)), synapses=[Exponential(np.full(4, 0.9))]), ["synapses[0]"]),
        (
            lambda: simulate(Layer(LinearIF(0.9)), np.ones((3, 1)), "numpy", tape=True, gradient="paper"),
            ["gradient", "LinearIF"],
        ),
        (
            lambda: simulate(Layer(LinearIF(0.9)), np.ones((3, 1)), "numpy", state=simulate(
                Layer(LIF(0.9)), np.ones((3, 1)), "numpy").state),
            ["state", "LinearState"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(make, words):
    assert_refused(make, words)


def test_delays_longer_than_the_run(backend):
    rng = np.random.default_rng(0)
    weights, own = rng.normal(0.4, 0.4, (4, 3)), rng.normal(0.2, 0.3, (3, 3))
    inputs = [Connection(weights), Connection(weights, 25)]
    layer = Layer(LinearIF(0.9, refractory_steps=2), inputs=inputs, recurrent=[Connection(own, 17)])
    x = rng.random((2, 60, 4)) < 0.3
    whole = simulate(layer, x, backend, tape=True, record="voltage")
    parts, state = [], None
    for start in range(0, 60, 10):
        parts.append(simulate(layer, x[:, start : start + 10], backend, tape=True, record="voltage", state=state))
        state = parts[-1].state
    assert whole.spikes.any()
    assert_same_bits("voltage", np.concatenate([part.voltage for part in parts], axis=1), whole.voltage)
    cotangent, after, total = rng.normal(size=whole.spikes.shape), None, {}
    for number in reversed(range(6)):
        gradients = parts[number].backward(cotangent[:, 10 * number : 10 * number + 10], grad_state=after)
        after = gradients.state
        total = {name: value + total.get(name, 0) for name, value in gradients.parameters().items()}
    for name, value in whole.backward(cotangent).parameters().items():
        assert relative(total[name], value) < 1e-9, name


def test_a_delay_that_takes_all_memory_is_refused(backend):
    layer = Layer(LIF(0.9), inputs=[Connection(np.ones((1000, 2)), 2**30)])
    assert_refused(lambda: simulate(layer, np.ones((5, 1000), bool), backend), ["delay_steps", "bytes"])


def test_generators_of_parts_are_used_up_once():
    rng = np.random.default_rng(0)
    each = [Connection(rng.normal(size=(3, 3)), 1) for _ in range(2)]
    listed = Layer(LIF(0.9), inputs=each, recurrent=each, synapses=[Exponential(0.5)])
    given = Layer(LIF(0.9), inputs=iter(each), recurrent=iter(each), synapses=iter([Exponential(0.5)]))
    assert list(given.parameters()) == list(listed.parameters())
    assert LinearIF(0.9, components=iter([Component(0.5)])).components[0].decay == 0.5
