"""Model files: the same network in every bit, in any backend; what is damaged, foreign or newer is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import blocksim
from blocksim._containers import read_container, write_container
from blocksim.models import KIND, VERSION, load_model, load_network, save_model

from .helpers import assert_same_bits
from .training_tasks import network, task

NETWORKS = {
    "float32": network(),
    "float64": network(np.float64),
    "counts": network(leaky=False),
    "numbers": blocksim.Network([blocksim.Layer(blocksim.ALIF(0.9, 0.95, 0.1, 1.2, 4), np.ones((12, 3)), bias=0.1)]),
    "refractory periods": blocksim.Network(
        [blocksim.Layer(blocksim.LIF(0.9, 1.0, np.array([2, 3, 4])), np.ones((12, 3)), None, np.eye(3), 7)],
        blocksim.LeakyReadout(np.ones((3, 2)), 0.5, 0.0, "max"),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_the_same(tmp_path, name):
    net = NETWORKS[name]
    save_model(tmp_path / "m.npz", net, {"dt": 0.1, "classes": ["a", "ü"]}, {"more": np.arange(3)})
    model = load_model(tmp_path / "m.npz")
    assert model.info == {"dt": 0.1, "classes": ["a", "ü"]}
    np.testing.assert_array_equal(model.extra["more"], np.arange(3))
    back = model.network
    assert list(back.parameters()) == list(net.parameters())
    for parameter, value in net.parameters().items():
        assert_same_bits(parameter, back.parameters()[parameter], value)
    for one, other in zip(back.layers, net.layers, strict=True):
        assert type(one.neuron) is type(other.neuron)
        assert one.latency_steps == other.latency_steps
        assert np.ndim(one.neuron.beta) == np.ndim(other.neuron.beta)
        np.testing.assert_array_equal(one.neuron.refractory_steps, other.neuron.refractory_steps)
    assert type(back.readout) is type(net.readout)
    assert getattr(back.readout, "decode", None) == getattr(net.readout, "decode", None)


def test_it_runs_in_every_backend(tmp_path, backend):
    x, _ = task(3)
    save_model(tmp_path / "m.npz", NETWORKS["float64"])
    run = blocksim.simulate(load_network(tmp_path / "m.npz"), x, backend)
    expected = blocksim.simulate(NETWORKS["float64"], x, "numpy")
    np.testing.assert_allclose(run.output, expected.output, rtol=1e-9)
    np.testing.assert_array_equal(run.counts[0], expected.counts[0])


@pytest.fixture
def file(tmp_path):
    save_model(tmp_path / "model.npz", network())
    return tmp_path / "model.npz"


def refused(file, *words):
    with pytest.raises(blocksim.FileError) as error:
        load_model(file)
    for word in (file.name, *words):
        assert word in str(error.value), str(error.value)


def test_every_truncation_is_refused(file):
    whole = file.read_bytes()
    for length in [0, 1, 3, 4, 5, 100, *range(1000, len(whole), 997), len(whole) - 1]:
        file.write_bytes(whole[:length])
        refused(file, "empty" if not length else "blocksim network file")


@pytest.mark.parametrize("compressed", [False, True])
def test_every_changed_byte_is_refused_or_changes_nothing(file, compressed):
    if compressed:  # by another program
        with np.load(file) as archive:
            arrays = dict(archive)
        np.savez_compressed(file, **arrays)
    whole = file.read_bytes()
    original = network().parameters()
    refusals = 0
    for place in range(0, len(whole), 61):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        file.write_bytes(damaged)
        try:
            found = load_network(file).parameters()
        except blocksim.FileError:
            refusals += 1
        else:
            # a byte that means nothing, of a date say
            assert all(found[name].tobytes() == value.tobytes() for name, value in original.items()), place
    assert refusals > 20


def test_foreign_files_are_refused(file):
    file.write_text("a text")
    refused(file, "begins with b'a te'")
    np.savez(file, a=np.ones(3), b=np.ones(2))
    refused(file, "another origin", "a, b")
    np.savez(file, meta=np.array("{no json"), a=np.ones(3))
    refused(file, "another origin")
    np.savez(file, meta=np.ones(3))
    refused(file, "another origin")
    np.savez(file, meta=np.array({"pickled": True}))
    refused(file, "damaged", "pickle")
    write_container(file, "blocksim fit", 1, {}, {})
    refused(file, "found a blocksim fit file")
    refused(file.parent / "none.npz", "No such file")


def test_a_newer_version_is_refused(file):
    meta, arrays = read_container(file, KIND, VERSION)
    write_container(file, KIND, VERSION + 1, {k: v for k, v in meta.items() if k not in ("kind", "version")}, arrays)
    refused(file, f"version {VERSION + 1}", "newer", "upgrade")


@pytest.mark.parametrize("change", [
    lambda meta, arrays: meta["layers"][0].update(neuron="Izhikevich"),
    lambda meta, arrays: meta.pop("readout"),
    lambda meta, arrays: meta.update(layers=3),
    lambda meta, arrays: arrays.pop("layers.0.beta"),
    lambda meta, arrays: arrays.update({"layers.0.beta": np.full(8, 1.5)}),
    lambda meta, arrays: arrays.update({"layers.0.weights": np.ones((3, 5))}),
    lambda meta, arrays: arrays.update({"layers.2.weights": np.ones((3, 5))}),
    lambda meta, arrays: arrays.update({"layers.0.weights": np.full((12, 8), np.nan)}),
], ids=range(8))  # fmt: skip
def test_parts_that_make_no_network_are_refused(file, change):
    meta, arrays = read_container(file, KIND, VERSION)
    for name in ("kind", "version"):
        del meta[name]
    change(meta, arrays)
    write_container(file, KIND, VERSION, json.loads(json.dumps(meta)), arrays)
    refused(file, "expected")


WEIGHTS = "layers.0.weights"


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        (WEIGHTS, np.full((12, 8), np.nan), "finite"),
        (WEIGHTS, np.ones((12, 8), int), "dtype int64"),
        (WEIGHTS, np.ones((12, 8), complex), "dtype complex128"),
        (WEIGHTS, np.array([b"x"]), "dtype |S1"),
        (WEIGHTS, np.ones(8), "expected shape (any, 8)"),
        ("layers.1.weights", np.ones((9, 6)), "expected shape (8, 6); found (9, 6)"),
        ("layers.0.recurrent", np.ones((8, 7)), "expected shape (8, 8); found (8, 7)"),
        ("layers.0.beta", np.full(5, 0.5), "expected shape () or (8,); found (5,)"),
        ("layers.0.beta", np.full(8, 1.5), "layers.0.beta: expected a decay factor"),
        ("layers.0.refractory_steps", np.array(2.0), "whole numbers"),
        ("layers.1.bias", np.zeros((6, 1)), "expected shape"),
        ("readout.weights", np.ones((5, 3)), "expected shape (8, 3)"),
        ("readout.beta", np.array([0.5]), "expected shape ()"),
        ("layers.2.weights", np.ones((3, 5)), "others too"),
        ("optimiser", np.ones(3), "others too"),
    ],
)
def test_the_array_that_is_wrong_is_named(file, name, array, words):
    meta, arrays = read_container(file, KIND, VERSION)
    meta = {key: value for key, value in meta.items() if key not in ("kind", "version")}
    write_container(file, KIND, VERSION, meta, {**arrays, name: array})
    refused(file, name, words)


def test_foreign_byte_orders_and_a_description_in_bytes_are_read(file):
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items() if name != "meta"}
    np.savez(file, **swapped, meta=np.array(str(arrays["meta"]).encode()))
    for name, value in load_network(file).parameters().items():
        assert value.dtype.isnative
        np.testing.assert_array_equal(value, network().parameters()[name])


def test_objects_are_not_written(file):
    with pytest.raises(blocksim.ArgumentError, match="more: expected numbers or texts"):
        save_model(file, network(), extra={"more": np.array([{}])})


def test_a_file_that_exists_is_replaced_whole_or_not_at_all(file, monkeypatch):
    before = file.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        save_model(file, network(seed=2), {"rate": float("nan")})
    assert file.read_bytes() == before
    save_model(file, network(seed=2))
    assert file.read_bytes() != before
    assert [path.name for path in file.parent.iterdir()] == ["model.npz"]
    with pytest.raises(blocksim.FileError, match=r"ends in \.npz"):
        save_model(file.with_suffix(".pt"), network())
    with pytest.raises(blocksim.ArgumentError, match="Network"):
        save_model(file, network().layers[0])
