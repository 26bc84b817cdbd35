"""The linear family, equations (27)-(38): the reference against golden values of an independent autograd.

Golden values are read from ../shared/data/golden and skipped where it is not there.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

import blocksim
from backends.numpy_reference.reference import NumpyBackend
from blocksim import _linear
from blocksim._linear import DIRECT, Drive, LinearCarry, LinearConnection, LinearLayer, LinearParameters
from blocksim.arrays import AdjointRule
from blocksim.surrogates import get_surrogate

from .helpers import assert_same_bits

ENGINE = NumpyBackend()
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
    kinds = how["kinds"]
    filtered = [number for number, kind in enumerate(kinds) if kind != "delta"]

    def connection(weights, delay, number):
        if number in filtered:
            return LinearConnection(weights, delay, filtered.index(number))
        return LinearConnection(weights * arrays["gain"][number], delay, DIRECT)

    return LinearLayer(
        neuron=LinearParameters(
            *(arrays[name] for name in ("beta", "theta", "bias", "f", "v_reset", "q", "d", "k", "g", "h")),
            *(arrays[name][filtered] for name in ("sigma", "gain", "gain2")),
        ),
        refractory=arrays["arp"].astype(np.int32),
        mode=how["refractory"],
        alpha=tuple(kinds[number] == "alpha" for number in filtered),
        inputs=tuple(connection(weights, 0, number) for number, weights in enumerate(arrays["W"])),
        recurrent=tuple(
            connection(arrays[f"R{number}"], delay, receptor)
            for number, (delay, receptor) in enumerate(how["recurrent"])
        ),
    )


def at_rest(layer, batch):
    neuron, size = layer.neuron, layer.size
    receptors = np.zeros((len(neuron.gain), batch, size))
    return LinearCarry(
        np.zeros((batch, size)), np.zeros((len(neuron.decay), batch, size)), receptors, receptors.copy(),
        np.zeros((batch, size), np.int32),
    )  # fmt: skip


def longest_block(layer):
    return int(min([layer.refractory.min() + 1, *(each.delay for each in layer.recurrent)]))


def run(layer, x, length, carry=None, history=None):
    carry = at_rest(layer, len(x)) if carry is None else carry
    history = np.zeros((len(x), layer.latency, layer.size), bool) if history is None else history
    return _linear.forward(ENGINE, layer, _linear.drive_of(ENGINE, layer, x), carry, history, length)


@pytest.mark.parametrize("standard", [False, True], ids=["blocks", "standard"])
@pytest.mark.parametrize("number", range(90))
def test_golden_values(golden, number, standard):
    arrays, how = case_of(golden, number)
    layer, x = layer_of(arrays, how), arrays["x"].astype(np.float64)
    cut, batch = how["detach"], len(x)
    rule = AdjointRule(
        get_surrogate(how["surrogate"]), False, "reset" not in cut, "recurrent" not in cut, "adaptation" not in cut
    )
    out, after, tape = run(layer, x, 1 if standard else longest_block(layer))
    np.testing.assert_array_equal(out.spikes, arrays["spikes"])
    nothing = _linear.LinearAdjointCarry(
        *(np.zeros_like(array) for name, array in after.items() if name != "refractory")
    )
    result = _linear.adjoint(
        ENGINE, layer, x, tape, rule, arrays["grad_spikes"], arrays["grad_voltage"], nothing,
        np.zeros((batch, layer.latency, layer.size)),
    )  # fmt: skip
    sums = result.sums.map(lambda total: total.sum(axis=-2))
    filtered = [number for number, kind in enumerate(how["kinds"]) if kind != "delta"]
    names = {
        "beta": "beta", "theta": "theta", "bias": "bias", "f": "reset_factor", "v_reset": "v_reset", "q": "decay",
        "d": "jump", "k": "from_voltage", "g": "to_voltage", "h": "to_threshold",
    }  # fmt: skip
    pairs = {name: (getattr(sums, own), arrays[f"grad_{name}"]) for name, own in names.items()}
    pairs |= {name: (getattr(out, name), arrays[name]) for name in ("voltage", "threshold")}
    pairs |= {
        name: (getattr(sums, own), arrays[f"grad_{name}"][filtered])
        for name, own in {"sigma": "synapse_decay", "gain": "gain", "gain2": "gain_rising"}.items()
    }
    pairs["x"] = (_linear.input_gradient(ENGINE, layer, result.drive), arrays["grad_x"])
    gain = [1.0 if receptor in filtered else arrays["gain"][receptor] for receptor in range(len(how["kinds"]))]
    for receptor, weights in enumerate(result.inputs):
        pairs[f"W{receptor}"] = (weights * gain[receptor], arrays["grad_W"][receptor])
    for place, (_, receptor) in enumerate(how["recurrent"]):
        pairs[f"R{place}"] = (result.recurrent[place] * gain[receptor], arrays[f"grad_R{place}"])
    for name, (got, expected) in pairs.items():
        np.testing.assert_allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def random_layer(rng, dtype):
    size, inputs, components, alpha = 5, 4, int(rng.integers(0, 4)), (True, False)[: int(rng.integers(0, 3))]

    def each(low, high, *lead):
        return rng.uniform(low, high, (*lead, size)).astype(dtype)

    def connections(rows, scale, delays):
        receptors = rng.integers(DIRECT, len(alpha), len(delays))
        return tuple(
            LinearConnection(rng.normal(0.1, scale, (rows, size)).astype(dtype), int(delay), int(receptor))
            for delay, receptor in zip(delays, receptors, strict=True)
        )

    lead = (components,)
    return LinearLayer(
        neuron=LinearParameters(
            each(0.6, 0.98), each(0.4, 1.0), each(0.0, 0.2), each(-0.3, 0.6), each(-0.4, 0.2), each(0.5, 0.99, *lead),
            each(-0.5, 1.0, *lead), each(-0.1, 0.1, *lead), each(-0.2, 0.1, *lead), each(-0.1, 0.4, *lead),
            each(0.5, 0.95, len(alpha)), each(0.3, 1.0, len(alpha)), each(-0.3, 0.3, len(alpha)),
        ),
        refractory=rng.integers(0, 7, size).astype(np.int32) + int(rng.integers(0, 4)),
        mode=str(rng.choice(["ignore", "hold", "integrate"])),
        alpha=alpha,
        inputs=connections(inputs, 0.6, rng.integers(0, 4, 2)),
        recurrent=connections(size, 0.4, rng.integers(1, 9, int(rng.integers(0, 3)))),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_block_lengths_and_chunks_give_the_same_bits(seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, (np.float32, np.float64)[seed % 2])
    steps, cut = 31, int(rng.integers(1, 31))
    x = rng.random((2, layer.lead + steps, 4)) < 0.4
    whole, last, _ = run(layer, x, 1)
    assert whole.spikes.any()
    blocks, after, _ = run(layer, x, longest_block(layer))
    one, middle, _ = run(layer, x[:, : layer.lead + cut], longest_block(layer))
    together = np.concatenate([np.zeros((2, layer.latency, layer.size), bool), one.spikes], axis=1)
    history = together[:, together.shape[1] - layer.latency :]
    two, end, _ = run(layer, x[:, cut:], longest_block(layer), middle, history)
    for name, expected in whole.items():
        assert_same_bits(name, getattr(blocks, name), expected)
        chunks = np.concatenate([getattr(one, name), getattr(two, name)], axis=-2)
        assert_same_bits(f"{name} of chunks", chunks, expected)
    for name, expected in last.items():
        assert_same_bits(f"carry.{name}", getattr(after, name), expected)
        assert_same_bits(f"carry.{name} of chunks", getattr(end, name), expected)


@pytest.mark.parametrize("seed", range(12))
def test_gradients_through_the_state_are_those_of_one_run(seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, np.float64)
    steps, cut, length = 24, 11, longest_block(layer)
    x = rng.random((2, layer.lead + steps, 4)) < 0.4
    rule = AdjointRule(get_surrogate("fast_sigmoid"), False, True, True, True)
    shape = (2, steps, layer.size)
    grad_s, grad_v = rng.normal(size=shape), rng.normal(size=shape)

    def back(x, tape, now, into, history):
        return _linear.adjoint(ENGINE, layer, x, tape, rule, grad_s[:, now], grad_v[:, now], into, history)

    rest = at_rest(layer, 2)
    zero = _linear.LinearAdjointCarry(*(array for name, array in rest.items() if name != "refractory"))
    no_history = np.zeros((2, layer.latency, layer.size))
    expected = back(x, run(layer, x, length)[2], slice(None), zero, no_history)

    first, second = x[:, : layer.lead + cut], x[:, cut:]
    one, middle, tape = run(layer, first, length)
    together = np.concatenate([np.zeros((2, layer.latency, layer.size), bool), one.spikes], axis=1)
    _, _, later_tape = run(layer, second, length, middle, together[:, together.shape[1] - layer.latency :])
    later = back(second, later_tape, slice(cut, None), zero, no_history)
    sooner = back(first, tape, slice(0, cut), later.carry, later.history)
    for name, total in expected.sums.items():
        parts = getattr(sooner.sums, name) + getattr(later.sums, name)
        np.testing.assert_allclose(parts, total, rtol=1e-9, atol=1e-9, err_msg=name)
    drive = Drive(
        *(np.concatenate(parts, axis=-2) for parts in zip(sooner.drive.arrays(), later.drive.arrays(), strict=True))
    )
    for name, total in expected.drive.items():
        np.testing.assert_allclose(getattr(drive, name), total, rtol=1e-9, atol=1e-9, err_msg=name)


def test_alif_is_an_instance_with_its_bits():
    rng = np.random.default_rng(3)
    size, dtype = 6, np.float32
    beta, p, b = (rng.uniform(low, high, size).astype(dtype) for low, high in ((0.6, 0.98), (0.6, 0.99), (0, 0.4)))
    weights, recurrent = rng.normal(0.4, 0.5, (4, size)).astype(dtype), rng.normal(0, 0.3, (size, size)).astype(dtype)
    bias = rng.uniform(0, 0.2, size).astype(dtype)
    x = rng.random((2, 50, 4)) < 0.4
    alif = blocksim.Layer(blocksim.ALIF(beta, p, b, 1.0, 3), weights, bias, recurrent, 4)
    expected = blocksim.simulate(alif, x, "numpy", record=("voltage", "threshold"))
    none, one = np.zeros((0, size), dtype), np.ones(size, dtype)
    layer = LinearLayer(
        LinearParameters(beta, one, bias, 0 * one, 0 * one, p[None], one[None], 0 * one[None], 0 * one[None], b[None],
                         none, none, none),
        np.full(size, 3, np.int32), "ignore", (), (LinearConnection(weights, 0, DIRECT),),
        (LinearConnection(recurrent, 4, DIRECT),),
    )  # fmt: skip
    rest = at_rest(layer, 2)
    rest = replace(rest, voltage=rest.voltage.astype(dtype), components=rest.components.astype(dtype))
    got, _, _ = run(layer, x, 4, rest)
    for name in ("spikes", "voltage", "threshold"):
        assert_same_bits(name, getattr(got, name), getattr(expected, name))
