"""A parameter is declared in one place: what is said of it there is found everywhere that parameters are listed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

import blocksim
from blocksim import arrays
from blocksim._neurons import Neuron
from blocksim._parameters import declared, parameter, trained
from blocksim.models import load_network, save_model
from blocksim.training import Training, fit
from blocksim.transforms import Positive

from .helpers import assert_same_run, relative


@dataclass(frozen=True, eq=False)
class Scaled(blocksim.ALIF):
    """ALIF whose threshold and its rise share a factor."""

    gain: float | np.ndarray = parameter(
        "factor of the threshold", expected="a factor above 0", valid=lambda gain: gain > 0, transform=Positive(2.0),
        default=1.0,
    )  # fmt: skip

    @classmethod
    def linear(cls, gain, **own):
        return {**own, "theta": gain * own["theta"], "b": gain * own["b"]}


def layer(gain, neurons=5):
    rng = np.random.default_rng(0)
    neuron = Scaled(
        beta=rng.uniform(0.7, 0.95, neurons), p=0.9, b=rng.uniform(0.1, 0.3, neurons), theta=0.8, refractory_steps=3,
        gain=gain,
    )  # fmt: skip
    return blocksim.Layer(neuron, rng.normal(0.5, 0.5, (4, neurons)), recurrent=rng.normal(0, 0.2, (neurons, neurons)))


@pytest.mark.parametrize("gain", [1.3, np.array([0.7, 1.0, 1.3, 1.6, 2.0])], ids=["one", "one a neuron"])
def test_a_parameter_of_ones_own_has_a_gradient_in_every_backend(backend, gain):
    scaled = layer(gain)
    own = scaled.neuron
    plain = blocksim.ALIF(own.beta, own.p, gain * own.b, gain * own.theta, own.refractory_steps)
    x = np.random.default_rng(1).random((2, 60, 4)) < 0.3
    runs = [
        blocksim.simulate(each, x, backend, record=("voltage", "threshold"), tape=True)
        for each in (scaled, replace(scaled, neuron=plain))
    ]
    assert_same_run(*runs)
    assert runs[0].spikes.any()
    g = np.random.default_rng(2).normal(size=runs[0].spikes.shape)
    found, expected = (run.backward(g, g) for run in runs)
    each_b, each_theta = (np.broadcast_to(value, 5) for value in (expected.b, expected.theta))
    if np.ndim(expected.theta) == 0:  # a sum over neurons: the gain's is one, too
        assert np.ndim(found.gain) == 0
        assert found.gain == pytest.approx(expected.b @ own.b + expected.theta * own.theta, rel=1e-12)
        assert found.theta == pytest.approx(gain * expected.theta, rel=1e-12)
    else:
        assert relative(found.gain, each_b * own.b + each_theta * own.theta) < 1e-12
        assert found.theta == pytest.approx((gain * expected.theta).sum(), rel=1e-12)
    assert relative(found.b, gain * expected.b) < 1e-12
    np.testing.assert_array_equal(found.beta, expected.beta)
    assert list(found.parameters()) == ["weights", "recurrent", "beta", "p", "b", "theta", "gain"]
    assert expected.gain is None


def test_it_is_named_kept_in_files_and_held_in_its_range(tmp_path):
    network = blocksim.Network([layer(np.full(5, 1.5))])
    assert "layers.0.gain" in network.parameters()
    assert network.transforms()["layers.0.gain"] == Positive(2.0)
    run = blocksim.simulate(network, np.ones((30, 4), bool), "numpy", tape=True)
    assert run.backward(np.ones(5)).parameters()["layers.0.gain"].shape == (5,)
    changed = network.with_parameters({"layers.0.gain": np.full(5, 2.5)})
    assert (changed.layers[0].neuron.gain == 2.5).all()
    save_model(tmp_path / "model.npz", changed)
    back = load_network(tmp_path / "model.npz").layers[0].neuron
    assert type(back) is Scaled
    np.testing.assert_array_equal(back.gain, changed.layers[0].neuron.gain)
    rng = np.random.default_rng(0)
    spikes, labels = rng.random((40, 20, 4)) < 0.3, rng.integers(0, 5, 40)
    choices = Training(epochs=2, batch_size=10, trained=("*.gain",), validation=0)
    learnt = fit(network, (spikes, labels), choices, backend="numpy", progress=False).last.layers[0].neuron.gain
    assert (learnt > 0).all()
    assert (learnt != 1.5).all()


def test_a_value_out_of_its_range_is_refused_in_its_words():
    with pytest.raises(blocksim.ArgumentError, match=r"gain: expected a factor above 0; found -1.0"):
        layer(-1.0)


def test_a_field_that_is_not_declared_is_refused():
    @dataclass(frozen=True, eq=False)
    class Forgetful(blocksim.ALIF):
        extra: float = 1.0

    with pytest.raises(blocksim.ArgumentError, match=r"Forgetful: expected every field to declare .* found extra"):
        Forgetful(0.9, 0.9, 0.1)


@pytest.mark.parametrize("made", [{"beta": 0.9}, {"beta": 0.9, "theta": 1.0, "gamma": 2.0}])
def test_parameters_that_no_backend_knows_are_refused(made):
    @dataclass(frozen=True, eq=False)
    class Odd(blocksim.LIF):
        @classmethod
        def linear(cls, **own):
            return made

    with pytest.raises(blocksim.ArgumentError, match=r"Odd.linear: expected the parameters beta, p, b, theta"):
        Odd(0.9)


def test_a_model_of_a_class_that_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    save_model(tmp_path / "model.npz", blocksim.Network([layer(1.0)]))
    monkeypatch.delitem(Neuron._kinds, Scaled.kind())
    with pytest.raises(blocksim.FileError, match="must be imported") as error:
        load_network(tmp_path / "model.npz")
    assert "\n" not in str(error.value)


def names(record):
    return [item.name for item in fields(record)]


def test_state_and_its_gradient_follow_from_what_blocks_hand_on():
    assert names(blocksim.State) == [*names(arrays.Carry), "spikes"]
    assert names(blocksim.StateGradient) == [*names(arrays.AdjointCarry), "spikes"]
    assert set(names(arrays.AdjointCarry)) < set(names(arrays.Carry))


@pytest.mark.parametrize("kind", [blocksim.LIF, blocksim.ALIF, blocksim.Layer, blocksim.LeakyReadout])
def test_docstrings_name_every_declared_parameter(kind):
    for name in declared(kind):
        assert f"\n    {name} : " in kind.__doc__, name


def test_every_parameter_of_a_backend_comes_from_a_neuron_or_the_layer():
    of_neurons = set().union(*(trained(kind) for kind in (blocksim.LIF, blocksim.ALIF)))
    assert of_neurons | {"bias"} == set(names(arrays.Parameters))
