"""What is particular to the compiled kernels: packed instructions, cache, and that they keep what they compiled."""

from __future__ import annotations

import platform
import re

import numba
import numpy as np
import pytest
from blocksim.backends.numba_cpu import adjoint, compiling, events, few, forward, lanes, launch, memory, products
from blocksim.backends.numba_cpu.backend import NumbaBackend

import blocksim

from .helpers import assert_close, assert_same_run, make_case


def source_of(kernel, dtype):
    """Assembly of the instances that were compiled for this dtype."""
    name = "float32" if dtype == np.float32 else "float64"
    chosen = [text for signature, text in kernel.inspect_asm().items() if name in str(signature)]
    assert chosen
    return "\n".join(chosen)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loops_over_neurons_are_packed_simd(dtype, monkeypatch):
    """Arithmetic on vectors, not on single numbers, in forward and adjoint: what the speed rests on."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"reads x86-64 assembly, and this is {platform.machine()}")
    # kernels taken from the cache have no assembly to look at: compile here
    case = make_case(1, neurons=130, inputs=20, recurrent=True, dtype=dtype)
    suffix = "s" if dtype == np.float32 else "d"
    fresh = {
        "layer_forward": compiling.njit(parallel=True, **compiling.OPTIONS)(forward.layer_forward.py_func),
        "layer_adjoint": compiling.njit(parallel=True, **compiling.OPTIONS)(adjoint.layer_adjoint.py_func),
    }
    monkeypatch.setattr(forward, "layer_forward", fresh["layer_forward"])
    monkeypatch.setattr(adjoint, "layer_adjoint", fresh["layer_adjoint"])
    case.simulate("numba", tape=True).backward(np.ones((2, 30, 130), dtype))
    for name, dispatcher in fresh.items():
        text = source_of(dispatcher, dtype)
        for operation in ("mul", "add"):
            packed = len(re.findall(rf"\bv?{operation}p{suffix}\b", text))
            single = len(re.findall(rf"\bv?{operation}s{suffix}\b", text))
            # the three products of (3), (4), (6) alone are 12 instructions of the widest registers there are
            assert packed >= 12, f"{name}: {packed} packed {operation}"
            assert packed > 3 * single, f"{name}: {packed} packed {operation}, {single} single"


def test_a_kept_kernel_is_stale_when_any_file_changes(tmp_path, monkeypatch):
    first = compiling.folder_mark(tmp_path)
    (tmp_path / "helper.py").write_text("a = 1")
    second = compiling.folder_mark(tmp_path)
    (tmp_path / "helper.py").write_text("a = 2")
    assert len({first, second, compiling.folder_mark(tmp_path)}) == 3

    def work(x):
        for i in numba.prange(len(x)):
            x[i] += 1

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))

    def hits(mark):
        kernel = compiling.kernel(work, mark)
        kernel(np.zeros(4))
        return sum(kernel.stats.cache_hits.values())

    assert [hits("one"), hits("one"), hits("two"), hits("two")] == [0, 1, 0, 1]


def test_every_kernel_bears_the_mark():
    modules = (adjoint, events, few, forward)
    kernels = {name: value for module in modules for name, value in vars(module).items() if hasattr(value, "_cache")}
    kernels = {name: value for name, value in kernels.items() if value.targetoptions.get("parallel")}
    assert {"layer_forward", "project", "layer_adjoint", "pack", "weight_gradient"} <= set(kernels)
    for kernel in kernels.values():
        assert kernel._cache._cache_file._source_stamp == compiling.MARK


def test_read_only_arrays_do_not_compile_anew():
    case = make_case(3)
    case.simulate("numba")
    before = len(forward.layer_forward.signatures)
    locked = case.x.copy()
    locked.flags.writeable = False
    blocksim.simulate(case.layer, locked, "numba", record=("voltage", "threshold"))
    assert len(forward.layer_forward.signatures) == before


def test_lanes_stop_where_the_array_does():
    @numba.njit
    def copy(source, target, valid, width):
        lanes.store(lanes.load(source, 0, 0, valid, width), target, 0, 0, valid)

    source = np.arange(1.0, 9.0)[None]
    for valid in range(9):
        target = np.full((1, 8), -1.0)
        copy(source, target, valid, (0,) * 8)
        np.testing.assert_array_equal(target[0], np.where(np.arange(8) < valid, source[0], -1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 8, 9, 64, 65, 130, 300])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (2, 64), (3, 150), (20, 65)])
def test_weight_gradient_of_events_is_the_dense_product(dtype, size, batch, steps):
    """Tiles of columns, spans of steps, shares of spans, and inputs that spike more than once in a step."""
    rng = np.random.default_rng(size)
    counts = rng.poisson(0.2, (batch, steps, 11))
    grad_current = rng.normal(size=(batch, steps, size)).astype(dtype)
    found = NumbaBackend().projection_adjoint(blocksim.Events.from_dense(counts), grad_current)
    expected = counts.reshape(-1, 11).T @ grad_current.reshape(-1, size).astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)
    found = NumbaBackend().projection_adjoint(counts > 0, grad_current)
    expected = (counts > 0).reshape(-1, 11).T @ grad_current.reshape(-1, size).astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize(("rows", "size", "above"), [(1, 1, 1), (5, 9, 40), (7, 33, 7), (10, 70, 65), (12, 9, 9)])
def test_a_product_is_whole_or_where_it_matters(rows, size, above, share, dtype):
    """Of the rows of dLoss/dI with the transposed weights: needed places are few, many, all or none."""
    rng = np.random.default_rng(size)
    width = (0,) * 8
    begin, padded = 0 if size < 20 else 8, -(-size // 8) * 8
    gradient = rng.normal(size=(rows + 3, above)).astype(dtype)
    gradient[rng.random(gradient.shape) < 0.3] = 0
    weights = rng.normal(size=(size, above)).astype(dtype)
    slope = np.ones((rows + 2, padded), dtype)  # beyond the last neuron too
    slope[:, :size][rng.random((rows + 2, size)) >= share] = 0
    start = rng.normal(size=(rows + 4, padded)).astype(dtype)
    connection = products.Connection(gradient, weights, np.ascontiguousarray(weights.T))
    places = np.zeros(max(size, above) + 1, np.int64)
    found = {}
    for masked in (False, True):
        found[masked] = start.copy()
        products.add_product(connection, 2, rows, slope, 2, masked, begin, size, places, found[masked], width)
        np.testing.assert_array_equal(found[masked][rows:], start[rows:])
    expected = start[:rows, :size] + gradient[2 : 2 + rows].astype(float) @ weights.T.astype(float)
    expected[:, :begin] = start[:rows, :begin]
    needed = slope[2:, :size] != 0
    tolerance = {"rtol": 0, "atol": 1e-4 if dtype == np.float32 else 1e-12}
    np.testing.assert_allclose(found[False][:rows, :size], expected, **tolerance)
    np.testing.assert_allclose(found[True][:rows, :size][needed], expected[needed], **tolerance)
    # what is not needed is left alone where needed places are few
    seldom = products.COST * needed[:, begin:].sum() < rows * (size - begin)
    untouched = (found[True][:rows, :size] == start[:rows, :size])[~needed]
    assert untouched.all() if seldom else np.array_equal(found[True], found[False])


def test_memory_is_used_again_only_when_no_array_is_left_in_it():
    shape = (memory.LARGE // 4,)
    first = memory.empty(shape, np.float32)
    first[:] = 1
    part, place = first[5:], first.ctypes.data
    del first
    second = memory.empty(shape, np.float32)
    second[:] = 2
    assert (part == 1).all()
    assert second.ctypes.data % memory.LINE == 0
    del part
    assert memory.empty(shape, np.float32).ctypes.data == place
    many = [memory.empty(memory.KEPT // 4, np.uint8) for _ in range(6)]
    del many, second
    assert sum(size * len(idle) for size, idle in memory._idle.items()) <= memory.KEPT
    blocksim.get_backend("numba").release_memory()
    assert not memory._idle


@pytest.mark.parametrize("options", [
    {}, {"weights": False}, {"weights": False, "shared": True}, {"adaptive": False}, {"dtype": np.float32},
    {"neurons": 1, "weights": False}, {"neurons": 1, "batch": 9}, {"neurons": 3, "batch": 1, "refractory": (0, 4)},
    {"neurons": 7, "batch": 4, "refractory": 0},
])  # fmt: skip
@pytest.mark.parametrize("detach", [(), ("reset",), ("adaptation",)])
def test_few_neurons_are_computed_as_many_are(options, detach, monkeypatch):
    """Lanes of neurons of all samples, and lanes of neurons of one: the same bits, and gradients to rounding."""
    case = make_case(31, steps=150, **options)
    dtype = case.dtype
    g_s, g_v = np.random.default_rng(3).normal(size=(2, *case.simulate("numba").spikes.shape)).astype(dtype)

    def work():
        run = case.simulate("numba", tape=True, detach=detach)
        return run, run.backward(g_s, g_v), run.backward(g_s)

    few_of_them = work()
    monkeypatch.setattr(launch, "FEW_BYTES", 0)
    many = work()
    assert many[0].spikes.any()
    assert_same_run(few_of_them[0], many[0])
    for one, other in zip(few_of_them[1:], many[1:], strict=True):
        assert_close(one, other, 1e-5 if dtype == np.float32 else 1e-12)
