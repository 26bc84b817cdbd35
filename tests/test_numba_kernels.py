"""What is particular to the compiled kernels: packed instructions, cache, and that they keep what they compiled."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pkgutil
import platform
import re
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from blocksim.backends import numba_cpu
from blocksim.backends.numba_cpu import adjoint, buffers, compiling, forward, launch, simd, threads, transposed_products
from blocksim.backends.numba_cpu.backend import NumbaBackend

import blocksim

from .helpers import assert_close, assert_same_run, make_case

MODULES = [
    importlib.import_module(f"{numba_cpu.__name__}.{module.name}")
    for module in pkgutil.iter_modules(numba_cpu.__path__)
]
KERNELS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, compiling.Kernel)
}


@contextlib.contextmanager
def numba_threads(count):
    """As if Numba had been told to use `count` threads, more than this machine may have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "number_of_threads", lambda: count)
        yield


def source_of(kernel, dtype):
    """Assembly of the instances that were compiled for this dtype."""
    name = "float32" if dtype == np.float32 else "float64"
    chosen = [text for signature, text in kernel.dispatcher.inspect_asm().items() if name in str(signature)]
    assert chosen
    return "\n".join(chosen)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_loops_over_neurons_are_packed_simd(dtype, monkeypatch, tmp_path):
    """Arithmetic on vectors, not on single numbers, in forward and adjoint: what the speed rests on."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"reads x86-64 assembly, and this is {platform.machine()}")
    # kernels taken from the cache have no assembly to look at: compile here
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    case = make_case(1, neurons=130, inputs=20, recurrent=True, dtype=dtype)
    suffix = "s" if dtype == np.float32 else "d"
    fresh = {
        "layer_forward": compiling.kernel(forward.layer_forward.dispatcher.py_func),
        "layer_adjoint": compiling.kernel(adjoint.layer_adjoint.dispatcher.py_func),
    }
    monkeypatch.setattr(forward, "layer_forward", fresh["layer_forward"])
    monkeypatch.setattr(adjoint, "layer_adjoint", fresh["layer_adjoint"])
    case.simulate("numba", tape=True).backward(np.ones((2, 30, 130), dtype))
    for name, kernel in fresh.items():
        text = source_of(kernel, dtype)
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

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    assert [hits("one"), hits("one"), hits("two"), hits("two")] == [0, 1, 0, 1]


def add_one(first_item, stop_item, slot, x):
    for i in range(first_item, stop_item):
        x[i] += 1


def hits(mark):
    """How often a kernel of this mark is found among the kept ones, when it is called by a new process."""
    kernel = compiling.kernel(add_one, mark)
    x = np.zeros(5)
    kernel(5, x)
    assert (x == 1).all()
    return sum(kernel.dispatcher.stats.cache_hits.values())


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_bears_the_mark(kernel):
    assert KERNELS[kernel].dispatcher._cache._cache_file._source_stamp == compiling.MARK


def test_damaged_kept_kernels_are_compiled_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert [hits("one"), hits("one")] == [0, 1]
    for damage in (b"", b"not a pickle", b"\x80"):
        for suffix in ("nbi", "nbc"):
            for file in tmp_path.rglob(f"*.{suffix}"):
                file.write_bytes(damage)
            assert [hits("one"), hits("one")] == [0, 1], (damage, suffix)


def test_what_is_compiled_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling, "_announced", set())
    caplog.set_level("INFO", "blocksim")
    assert [hits("one"), hits("one"), hits("two")] == [0, 1, 0]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"compiling kernels for float64, once, and keeping them in {tmp_path}")


@pytest.mark.parametrize("stage", ["no folder", "full disk"])
def test_kernels_that_cannot_be_kept_are_compiled_all_the_same(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "_warned", False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def fails(*arguments, **options):
        if stage == "no folder":
            raise RuntimeError("cannot cache function: no locator available")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiling.FunctionCache, "__init__" if stage == "no folder" else "save_overload", fails)
    with pytest.warns(blocksim.BlocksimWarning, match="NUMBA_CACHE_DIR"):
        assert hits("one") == 0
    assert hits("one") == 0  # said once
    if stage == "no folder":
        assert compiling.kernel(add_one).cache_path is None


def test_helpers_are_called_by_kernels_only():
    with pytest.raises(TypeError, match="flush"):
        forward.flush(1.0, 2.0, 3.0)


@pytest.mark.parametrize(("count", "items"), [(1, 7), (2, 0), (2, 1), (2, 2), (3, 1000), (8, 100)])
def test_threads_compute_every_item_once_each_with_memory_of_its_own(count, items):
    times, slots, busy = [0] * items, set(), set()

    def compute(first, last, slot, sums):
        assert slot not in busy
        busy.add(slot)
        slots.add(slot)
        for item in range(first, last):
            time.sleep(1e-5)
            sums[item] += 1
        busy.discard(slot)

    with numba_threads(count):
        threads.share(compute, items, (times,))
    assert times == [1] * items
    assert slots <= set(range(count))


def test_an_error_in_a_thread_is_raised_in_the_caller():
    def compute(first, last, slot):
        raise ValueError(f"{first}")

    with numba_threads(2), pytest.raises(ValueError, match=r"\d"):
        threads.share(compute, 100, ())


@numba.njit(nogil=True)
def _busy(first, last, slot, done, rounds):
    """About as long for each item; nothing interrupts it."""
    for item in range(first, last):
        value = 0.5
        for _ in range(rounds):
            value = value * 0.999 + 0.001 * np.cos(value)
        done[item] = 1 + value * 0


@pytest.mark.parametrize("number", [1, 2])
def test_a_long_kernel_is_interrupted_between_its_parts(number):
    """By Ctrl-C, as in a notebook: what is being computed ends, nothing more is begun, and the next call is sound."""
    items, done = 800, np.zeros(800)
    _busy(0, 1, 0, done, 1)
    began = time.perf_counter()
    _busy(0, 1, 0, done, 10_000)
    rounds = max(1, int(10_000 * 0.008 / (time.perf_counter() - began)))  # 6 s of one processor
    before, own = numba.get_num_threads(), done
    own[:] = 0
    numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
    try:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            threads.share(_busy, items, (own, rounds))
        timer.join()
        after = int(own.sum())
        assert after < items
        time.sleep(0.2)
        assert own.sum() == after, "threads went on with what was interrupted"
        again = np.zeros(items)
        threads.share(_busy, items, (again, 1))
        assert again.all()
    finally:
        numba.set_num_threads(before)


def test_parts_of_long_pieces_cover_every_item(monkeypatch):
    monkeypatch.setattr(threads, "LONGEST", 0.004)
    for items in (1, 2, 5, 63, 64, 200):
        counted = np.zeros(items, int)

        def compute(first, last, slot, counted=counted):
            counted[first:last] += 1
            time.sleep(0.0005 * (last - first))

        threads.share(compute, items, ())
        assert (counted == 1).all(), items


def test_many_python_threads_at_once():
    case = make_case(5, batch=9, steps=200, neurons=70)
    expected = case.simulate("numba")
    with ThreadPoolExecutor(4) as pool:
        for run in pool.map(lambda _: case.simulate("numba"), range(40)):
            assert_same_run(run, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_computes_with_threads_of_its_own():
    case = make_case(5, batch=9, steps=200, neurons=70)
    expected = case.simulate("numba", tape=True)
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def child():
        run = case.simulate("numba", tape=True)
        sender.send((run.spikes, run.backward(np.ones(run.spikes.shape)).weights))

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of Python 3.12 on: fork with threads, which is the case here
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
    assert receiver.poll(60), "no result from the forked process"
    spikes, weights = receiver.recv()
    process.join(10)
    assert process.exitcode == 0
    np.testing.assert_array_equal(spikes, expected.spikes)
    np.testing.assert_array_equal(weights, expected.backward(np.ones(spikes.shape)).weights)


def test_a_surrogate_unknown_to_a_kernel_has_no_slope(monkeypatch):
    """Not another one's: where a kernel and the list of surrogates disagree, gradients are not numbers."""
    for neurons in (3, 70):
        case = make_case(7, neurons=neurons)
        run = case.simulate("numba", tape=True)
        with monkeypatch.context() as patch:
            patch.setattr(type(run._pass.rule.surrogate), "kind", 6)
            assert np.isnan(run.backward(np.ones(run.spikes.shape)).bias).all()


def test_read_only_arrays_do_not_compile_anew():
    case = make_case(3)
    case.simulate("numba")
    before = len(forward.layer_forward.dispatcher.signatures)
    locked = case.x.copy()
    locked.flags.writeable = False
    blocksim.simulate(case.layer, locked, "numba", record=("voltage", "threshold"))
    assert len(forward.layer_forward.dispatcher.signatures) == before


def test_lanes_stop_where_the_array_does():
    @numba.njit
    def copy(source, target, valid, width):
        simd.store(simd.load(source, 0, 0, valid, width), target, 0, 0, valid)

    source = np.arange(1.0, 9.0)[None]
    for valid in range(9):
        target = np.full((1, 8), -1.0)
        copy(source, target, valid, simd.width_for(8))
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


@numba.njit
def add_product(connection, row, rows, slope, offset, masked, begin, end, places, grad_spikes, width):
    transposed_products.add_product(
        connection, row, rows, slope, offset, masked, begin, end, places, grad_spikes, width
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize(("rows", "size", "above"), [(1, 1, 1), (5, 9, 40), (7, 33, 7), (10, 70, 65), (12, 9, 9)])
def test_a_product_is_whole_or_where_it_matters(rows, size, above, share, dtype):
    """Of the rows of dLoss/dI with the transposed weights: needed places are few, many, all or none."""
    rng = np.random.default_rng(size)
    width = simd.width_for(8)
    begin, padded = 0 if size < 20 else 8, -(-size // 8) * 8
    gradient = rng.normal(size=(rows + 3, above)).astype(dtype)
    gradient[rng.random(gradient.shape) < 0.3] = 0
    weights = rng.normal(size=(size, above)).astype(dtype)
    slope = np.ones((rows + 2, padded), dtype)  # beyond the last neuron too
    slope[:, :size][rng.random((rows + 2, size)) >= share] = 0
    start = rng.normal(size=(rows + 4, padded)).astype(dtype)
    connection = transposed_products.Connection(gradient, weights, np.ascontiguousarray(weights.T))
    places = np.zeros(max(size, above) + 1, np.int64)
    found = {}
    for masked in (False, True):
        found[masked] = start.copy()
        add_product(connection, 2, rows, slope, 2, masked, begin, size, places, found[masked], width)
        np.testing.assert_array_equal(found[masked][rows:], start[rows:])
    expected = start[:rows, :size] + gradient[2 : 2 + rows].astype(float) @ weights.T.astype(float)
    expected[:, :begin] = start[:rows, :begin]
    needed = slope[2:, :size] != 0
    tolerance = {"rtol": 0, "atol": 1e-4 if dtype == np.float32 else 1e-12}
    np.testing.assert_allclose(found[False][:rows, :size], expected, **tolerance)
    np.testing.assert_allclose(found[True][:rows, :size][needed], expected[needed], **tolerance)
    # what is not needed is left alone where needed places are few
    seldom = transposed_products.COST * needed[:, begin:].sum() < rows * (size - begin)
    untouched = (found[True][:rows, :size] == start[:rows, :size])[~needed]
    assert untouched.all() if seldom else np.array_equal(found[True], found[False])


def test_memory_is_used_again_only_when_no_array_is_left_in_it():
    shape = (buffers.LARGE // 4,)
    first = buffers.empty(shape, np.float32)
    first[:] = 1
    part, place = first[5:], first.ctypes.data
    del first
    second = buffers.empty(shape, np.float32)
    second[:] = 2
    assert (part == 1).all()
    assert second.ctypes.data % buffers.LINE == 0
    del part
    assert buffers.empty(shape, np.float32).ctypes.data == place
    many = [buffers.empty(buffers.KEPT // 4, np.uint8) for _ in range(6)]
    del many, second
    assert sum(size * len(idle) for size, idle in buffers._idle.items()) <= buffers.KEPT
    blocksim.get_backend("numba").release_memory()
    assert not buffers._idle


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
