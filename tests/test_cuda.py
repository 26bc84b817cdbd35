"""The CuPy backend's host side: launches of many blocks of threads, what stays on the device, copies, errors.

That it computes the same as the other backends is shown by the whole suite, which runs in CPU emulation too. What takes
the fixture `cupy` runs in CPU emulation, and again on a GPU where there is one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import astuple

import numpy as np
import pytest
from blocksim.backends.cupy_cuda import backend, dynamics, linear
from blocksim.backends.cupy_cuda.backend import CupyBackend
from blocksim.backends.cupy_cuda.kernels import Kernels

import blocksim

from .cuda_emulation import emulated_cupy
from .helpers import assert_close, assert_same_bits, assert_same_run, make_case

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="CPU emulation needs g++, which is not here")

# samples x neurons of more than one block of threads; neurons, steps and inputs that fill no block, warp or word
SHAPES = [
    {"batch": 3, "neurons": 150, "inputs": 70, "steps": 50},
    {"batch": 130, "neurons": 1, "inputs": 33, "steps": 35},
    {"batch": 1, "neurons": 1, "inputs": 1, "steps": 1},
    {"batch": 2, "neurons": 64, "inputs": 5, "steps": 64},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("gradient", ["standard", "paper"])
@pytest.mark.parametrize("most", [256, 64])
def test_launches_of_many_blocks_of_threads(cupy, monkeypatch, shape, recurrent, gradient, most):
    if most < shape["neurons"] and not recurrent:
        pytest.skip("without recurrence a launch has all neurons, however many")
    monkeypatch.setitem(dynamics.TOGETHER, "float64", most)
    case = make_case(5, recurrent=recurrent, refractory=(2, 6), extra_latency=1, **shape)
    g_s, g_v = np.random.default_rng(0).normal(size=(2, shape["batch"], shape["steps"], shape["neurons"]))
    options = {"tape": True, "gradient": gradient, "detach": ()}
    run, expected = (case.simulate(engine, **options) for engine in (CupyBackend(cupy, scan=False), "numpy"))
    assert_same_run(run, expected)
    assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-12)


@needs_compiler
def test_the_order_of_threads_does_not_matter(monkeypatch):
    def work():
        case = make_case(6, batch=5, neurons=70, inputs=40, recurrent=True, dtype=np.float32)
        run = case.simulate(CupyBackend(emulated_cupy), tape=True)
        gradients = run.backward(np.ones(run.spikes.shape, np.float32))
        return run.spikes.tobytes() + gradients.weights.tobytes() + gradients.recurrent.tobytes()

    found = set()
    for order in (0, 1, 2, 3):
        monkeypatch.setattr(emulated_cupy, "ORDER", order)
        found.add(work())
    assert len(found) == 1


@needs_compiler
@pytest.mark.parametrize("method", ["blocks", "standard"])
@pytest.mark.parametrize(("recurrent", "most"), [(False, 256), (True, 256), (True, 4)])
def test_as_many_launches_as_the_docs_say(monkeypatch, method, recurrent, most):
    """docs/performance.md: one each way; for more neurons than a block's threads two a block forward, one backward."""
    monkeypatch.setattr(emulated_cupy, "LAUNCHED", Counter())
    monkeypatch.setitem(dynamics.TOGETHER, "float64", most)
    case = make_case(6, steps=50, refractory=3, recurrent=recurrent)
    run = case.simulate(CupyBackend(emulated_cupy, scan=False), tape=True, method=method)
    run.backward(np.ones(run.spikes.shape))
    together = int(recurrent and most == 256)
    blocks = {"blocks": 13, "standard": 50}[method] if recurrent and not together else 1
    projections = {"add_events<double>": 1} | ({"add_spikes<double, 0>": blocks} if blocks > 1 else {})
    gradients = {"rows_of_events": 1, "gather_gradient<double>": 1}
    launched = {f"forward<double, {together}>": blocks, f"adjoint<double, 0, {together}>": blocks}
    if recurrent:
        # backward, a call of cuBLAS for (13), and one for the recurrent term of (7) of each block that acts in the run
        length = 4 if method == "blocks" else 1
        launched["gemmStridedBatched"] = 1 + (0 if together else len(range(0, 50 - 4, length)))
    assert launched | projections | gradients == emulated_cupy.LAUNCHED


@needs_compiler
def test_what_does_not_change_is_made_once(monkeypatch):
    made = Counter()
    for name in ("stack", "argsort"):
        real = getattr(emulated_cupy, name)
        monkeypatch.setattr(emulated_cupy, name, lambda *args, name=name, real=real: made.update([name]) or real(*args))
    case, engine = make_case(6), CupyBackend(emulated_cupy)
    x = case.events
    for _ in range(3):
        run = case.simulate(engine, x, tape=True)
        run.backward(np.ones(run.spikes.shape))
    assert made == {"stack": 1, "argsort": 1}


# Spikes as a caller may pass them: a dtype, the most in a step, and whether they are on the device. Floating numbers on
# the device, and more than 255 of an input in a step there, go through a matrix product, equal to rounding only.
SPIKES = [(np.bool_, 1), (np.uint8, 1), (np.uint8, 3), (np.int8, 3), (np.int64, 3)]
SPIKES = [(*each, on_device) for each in SPIKES for on_device in (False, True)]
SPIKES += [(np.int64, 300, False), (np.float32, 1, False), (np.float32, 300, False)]


@pytest.mark.parametrize(("kind", "most", "on_device"), SPIKES)
def test_dense_spikes_are_read_as_bytes(cupy, kind, most, on_device):
    """The same bits as from events on the CPU."""
    case = make_case(10, batch=3, steps=20, neurons=140, inputs=41, density=0.04)
    counts = (case.x * np.random.default_rng(0).integers(1, most + 1, case.x.shape)).astype(kind)
    if most > 255:
        counts[counts > 0] = 1
        counts[0, 3, 5] = most
    engine = CupyBackend(cupy, scan=False)
    run = case.simulate(engine, engine.asarray(counts) if on_device else counts, tape=True)
    expected = case.simulate("numpy", blocksim.Events.from_dense(counts), tape=True)
    for name in ("spikes", "voltage", "threshold"):
        assert_same_bits(name, engine.fetch([getattr(run, name)])[0] if on_device else getattr(run, name),
                         getattr(expected, name))  # fmt: skip
    g = np.random.default_rng(0).normal(size=expected.spikes.shape)
    weights = run.backward(engine.asarray(g) if on_device else g).weights
    np.testing.assert_allclose(engine.fetch([weights])[0] if on_device else weights, expected.backward(g).weights,
                               rtol=1e-12, atol=1e-12)  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize(("inputs", "neurons"), [(300, 40), (41, 33), (700, 5)])
def test_input_of_many_rows_goes_through_shared_memory(monkeypatch, most, inputs, neurons):
    """The same bits, also in parts where the weights do not fit; where rows are few, by the kernel of few."""
    monkeypatch.setattr(emulated_cupy, "MULTIPROCESSORS", 2)
    monkeypatch.setattr(emulated_cupy, "LAUNCHED", Counter())
    case = make_case(10, batch=3, steps=40, neurons=neurons, inputs=inputs, density=0.04)
    counts = case.x.astype(np.uint8) * np.random.default_rng(0).integers(1, most + 1, case.x.shape, np.uint8)
    x = counts > 0 if most == 1 else counts
    engine = CupyBackend(emulated_cupy, scan=False)
    expected = case.simulate("numpy", x)
    across = 1 if neurons <= 32 else 2
    kernel = f"add_input<double, {int(most > 1)}, {across}>"
    assert_same_run(case.simulate(engine, x), expected)
    assert emulated_cupy.LAUNCHED[kernel] == 1
    monkeypatch.setattr(
        emulated_cupy, "SHARED_MEMORY", (inputs // 3 + 1) * across * 32 * 8 + 9
    )  # of a third of the inputs
    assert_same_run(case.simulate(engine, x), expected)
    assert emulated_cupy.LAUNCHED[kernel] == 2
    monkeypatch.setattr(emulated_cupy, "MULTIPROCESSORS", 4)  # 120 rows for 128 warps
    assert_same_run(case.simulate(engine, x), expected)
    assert emulated_cupy.LAUNCHED[kernel] == 2
    assert emulated_cupy.LAUNCHED[f"add_spikes<double, {int(most > 1)}>"] == 1


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_what_is_no_spikes_on_the_device_is_numbers(cupy, kind, monkeypatch):
    monkeypatch.setattr(emulated_cupy, "LAUNCHED", Counter())
    case, engine = make_case(10, inputs=41), CupyBackend(cupy, scan=False)
    for x in (np.full(case.x.shape, 100, kind), *([-case.x.astype(kind)] if kind == np.int16 else [])):
        run = case.simulate(engine, engine.asarray(x))
        expected = case.simulate("numpy", x.astype(np.float64))
        np.testing.assert_allclose(engine.fetch([run.voltage])[0], expected.voltage, rtol=1e-12, atol=1e-12)
    assert "add_spikes<double, 1>" not in emulated_cupy.LAUNCHED


def test_the_weight_gradient_of_bytes_takes_a_few_samples_at_a_time(cupy, monkeypatch):
    case, engine = make_case(11, batch=5), CupyBackend(cupy)
    g = np.random.default_rng(0).normal(size=(5, 30, 5))
    found = []
    for limit in (1 << 25, 30 * 4 * 2, 1):
        monkeypatch.setattr(backend, "MAX_CONVERTED", limit)
        found.append(engine.to_numpy(engine.projection_adjoint(engine.asarray(case.x > 0), engine.asarray(g))))
    expected = np.einsum("btk,btn->kn", case.x, g)
    for each in found:
        np.testing.assert_allclose(each, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.float64])
def test_what_is_on_the_device_stays_there(cupy, kind, batched):
    engine, case = CupyBackend(cupy), make_case(9, batch=1, recurrent=True)
    x = case.x.astype(kind) if batched else case.x[0].astype(kind)
    g = np.random.default_rng(0).normal(size=(*x.shape[:-1], 5))
    on_device = blocksim.simulate(case.layer, engine.asarray(x), engine, record="voltage", tape=True)
    on_host = blocksim.simulate(case.layer, x, engine, record="voltage", tape=True)
    gradients, expected = on_device.backward(engine.asarray(g)), on_host.backward(g)
    for name, value in expected.parameters().items():
        found = gradients.parameters()[name]
        assert engine.owns(found) == (name in ("weights", "recurrent"))
        found = engine.to_numpy(found) if engine.owns(found) else found
        assert found.dtype == value.dtype
        np.testing.assert_allclose(found, value, rtol=1e-10, atol=1e-10, err_msg=name)
    pairs = [(on_device.spikes, on_host.spikes), (on_device.voltage, on_host.voltage)]
    pairs += [(getattr(gradients, name), getattr(expected, name)) for name in ("x", "current", "weights", "recurrent")]
    pairs += [(getattr(on_device.state, name), getattr(on_host.state, name)) for name in vars(on_host.state)]
    pairs += [(getattr(gradients.state, name), getattr(expected.state, name)) for name in vars(expected.state)]
    for found, wanted in pairs:
        assert isinstance(found, cupy.ndarray)
        assert isinstance(wanted, np.ndarray)
        np.testing.assert_allclose(found.get(), wanted, rtol=1e-12, atol=1e-12)
    assert isinstance(gradients.p, np.ndarray)
    np.testing.assert_allclose(gradients.p, expected.p, rtol=1e-12)


def test_a_sequence_in_pieces_on_the_device(cupy):
    """State and its gradient are handed on without leaving the device, and are not changed by those who take them."""
    engine, case = CupyBackend(cupy, scan=False), make_case(12, steps=40, recurrent=True, refractory=4)
    x = engine.asarray(case.x > 0)
    g = np.random.default_rng(0).normal(size=(2, 40, 5))
    whole = case.simulate(engine, case.events, tape=True)
    expected = whole.backward(g)
    first = case.simulate(engine, x[:, :17], tape=True)
    before = engine.fetch(list(vars(first.state).values()))
    second = case.simulate(engine, x[:, 17:], state=first.state, tape=True)
    for name, kept in zip(vars(first.state), before, strict=True):
        assert_same_bits(name, engine.fetch([getattr(first.state, name)])[0], kept)
    for name, value in vars(whole.state).items():
        assert_same_bits(name, engine.fetch([getattr(second.state, name)])[0], value)
    device_g = engine.asarray(g)
    late = second.backward(device_g[:, 17:])
    early = first.backward(device_g[:, :17], grad_state=late.state)
    np.testing.assert_allclose(
        engine.fetch([early.weights + late.weights])[0], expected.weights, rtol=1e-12, atol=1e-12
    )
    # a state may be handed on from host to device, and back
    host = blocksim.State(*before)
    again = case.simulate(engine, x[:, 17:], state=host)
    back = case.simulate(engine, case.events[17:], state=first.state)
    for name, value in vars(whole.state).items():
        assert_same_bits(name, engine.fetch([getattr(again.state, name)])[0], value)
        assert_same_bits(name, getattr(back.state, name), value)


def test_wrong_arrays_on_the_device_are_named(cupy):
    engine, case = CupyBackend(cupy), make_case(9)
    x = engine.asarray(case.x.astype(np.float64))
    state = blocksim.simulate(case.layer, x, engine).state
    x[1, 2, 3] = np.nan
    with pytest.raises(blocksim.ArgumentError, match=r"x: expected finite numbers; found nan at index \(1, 2, 3\)"):
        blocksim.simulate(case.layer, x, engine)
    run = blocksim.simulate(case.layer, engine.asarray(case.x), engine, tape=True)
    with pytest.raises(blocksim.ArgumentError, match="grad_spikes: expected shape"):
        run.backward(engine.empty((2, 3, 4), np.float64))
    with pytest.raises(blocksim.ArgumentError, match="x: expected a NumPy array or a number"):
        blocksim.simulate(case.layer, x, "numba")
    state.adaptation[1, 2] = np.inf
    with pytest.raises(blocksim.ArgumentError, match=r"state.adaptation: expected finite numbers; found inf at .*1, 2"):
        blocksim.simulate(case.layer, case.events, engine, state=state)
    with pytest.raises(blocksim.ArgumentError, match=r"state.voltage: expected a NumPy array or a number"):
        blocksim.simulate(case.layer, case.events, "numba", state=state)
    after = blocksim.StateGradient(state.voltage, state.adaptation, state.spikes)
    with pytest.raises(blocksim.ArgumentError, match=r"grad_state.adaptation: expected finite numbers"):
        run.backward(grad_state=after)


class Crossings:
    """Copies of a backend, and those that the emulation saw, since the last time it was asked."""

    def __init__(self, engine):
        self.engine = engine
        self.new()

    def new(self):
        """(copies to the device, their bytes, copies to the host, their bytes)."""
        counted = np.array(astuple(self.engine.copies))
        if self.engine.cupy is emulated_cupy:
            names = ("to_device", "bytes_to_device", "to_host", "bytes_to_host")
            seen = np.array([emulated_cupy.CROSSED[name] for name in names])
            if hasattr(self, "seen"):
                assert tuple(seen - self.seen) == tuple(counted - self.counted), "a copy that is not counted"
            self.seen = seen
        since = counted - getattr(self, "counted", counted)
        self.counted = counted
        return tuple(int(each) for each in since)


B, T, K, N, D = 2, 30, 4, 5, 4
STATE = B * N * (8 + 8 + 4)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "numbers", "events", "on the device", "numbers on the device"])
def test_copies_are_few_and_counted(cupy, kind, recurrent):
    """The exact number, the second time a layer runs: the first takes its parameters to the device."""
    engine = CupyBackend(cupy, scan=False)
    case = make_case(9, batch=B, steps=T, inputs=K, neurons=N, refractory=D - 1, recurrent=recurrent)
    real = np.random.default_rng(0).normal(size=case.x.shape)
    g = np.ones((B, T, N))
    make = {
        "bytes": lambda: case.x,
        "numbers": lambda: real,
        "events": lambda: case.events,
        "on the device": lambda: engine.asarray(case.x > 0),
        "numbers on the device": lambda: engine.asarray(real),
    }
    x = make[kind]()  # fmt: skip
    device = "device" in kind
    g = engine.asarray(g) if device else g
    crossings = Crossings(engine)
    case.simulate(engine, x, record=())
    parameters = 6 + 1 + recurrent
    assert crossings.new()[0] == parameters + {"bytes": 1, "numbers": 1, "events": 2}.get(kind, 0)

    run = case.simulate(engine, x, record=(), tape=True)
    history = B * D * N * recurrent
    copies = {
        # x there; whether it is sparse, spikes and state here
        "bytes": (1, B * T * K, 3, 2 + 8 + B * T * N + STATE + history),
        "numbers": (1, B * T * K * 8, 2, B * T * N + STATE + history),
        "events": (0, 0, 2, B * T * N + STATE + history),
        "on the device": (0, 0, 0, 0),
        "numbers on the device": (0, 0, 1, 8),  # whether they are finite
    }
    assert crossings.new() == copies[kind]

    gradients = run.backward(g)
    sums = 5 * N * 8
    if device:  # is it finite; and the gradients of the parameters
        assert crossings.new() == (0, 0, 2, 8 + sums)
    else:
        arrays = K * N + recurrent * N * N
        rest = sums + 2 * B * N * 8 + B * D * N * 8 * recurrent
        assert crossings.new() == (1, B * T * N * 8, 2 + recurrent, arrays * 8 + rest)
        for copies_of_current in (1, 0):  # when it is first asked for
            assert gradients.current.shape == (B, T, N)
            assert crossings.new() == (0, 0, copies_of_current, copies_of_current * B * T * N * 8)

    state = run.state
    case.simulate(engine, x, record=(), state=state)
    handed = (0, 0, 1, STATE + history) if device else (3 + recurrent, STATE + history, 0, 0)
    assert crossings.new() == tuple(np.add(copies[kind], handed))


@needs_compiler
def test_a_copy_behind_the_backends_back_is_noticed():
    engine = CupyBackend(emulated_cupy)
    crossings = Crossings(engine)
    engine.asarray(np.ones(3))
    assert crossings.new() == (1, 24, 0, 0)
    assert bool(engine.empty((1,), np.bool_).any())
    with pytest.raises(AssertionError, match="not counted"):
        crossings.new()


@needs_compiler
@pytest.mark.parametrize(("change", "words"), [
    (lambda arguments: arguments[:-1], "parameters"),
    (lambda arguments: [*arguments[:-1], 1.0], "for a number"),
    (lambda arguments: [arguments[0].astype(np.float64), *arguments[1:]], "dtype"),
    (lambda arguments: [arguments[0][:, ::2], *arguments[1:]], "contiguous"),
])  # fmt: skip
def test_wrong_arguments_of_a_kernel_are_caught(change, words):
    """What a driver would not notice, and CuPy neither."""
    engine = CupyBackend(emulated_cupy, scan=False)
    x = engine.asarray(np.ones((1, 4, 2), np.float32))
    numbers = (np.float32(0.5), np.int32(0), np.int64(2), np.int32(2), np.int32(4), np.float32(1e-30))
    arguments = [x, engine.empty(x.shape, np.float32), *numbers]
    kernel = Kernels(emulated_cupy).compiled("leaky_filter<float>")
    kernel((1,), (128,), arguments)
    with pytest.raises(TypeError, match=words):
        kernel((1,), (128,), change(arguments))


def test_without_a_device_the_backend_says_so():
    class NoDevice:
        cuda = type("cuda", (), {"is_available": staticmethod(lambda: False)})

    with pytest.raises(blocksim.MissingLibraryError, match="NVIDIA GPU and its driver"):
        CupyBackend(NoDevice)


@needs_compiler
def test_too_little_memory_is_said_with_what_to_do(monkeypatch):
    engine, case = CupyBackend(emulated_cupy, scan=False), make_case(8, steps=200, neurons=20)
    run = case.simulate(engine, tape=True)
    monkeypatch.setattr(emulated_cupy, "MEMORY", 10_000)
    for work in (lambda: case.simulate(engine), lambda: run.backward(np.ones(run.spikes.shape))):
        with pytest.raises(blocksim.DeviceError) as error:
            work()
        for words in ("device memory", "200 steps", "GB", "tape='checkpoint'", "smaller batch"):
            assert words in str(error.value)


@needs_compiler
def test_a_failing_device_is_said(monkeypatch):
    def fail(array):
        raise emulated_cupy.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    monkeypatch.setattr(emulated_cupy, "asnumpy", fail)
    with pytest.raises(blocksim.DeviceError, match=r"the device failed while copying.*illegal memory access"):
        make_case(8).simulate(CupyBackend(emulated_cupy, scan=False))


@needs_compiler
def test_every_device_has_arrays_of_its_own(monkeypatch):
    """The same layer on device 0 and then on 1: what was made on the one is of no use on the other."""
    case, engine = make_case(6, recurrent=True), CupyBackend(emulated_cupy, scan=False)
    expected = case.simulate("numpy", tape=True)
    g = np.random.default_rng(0).normal(size=expected.spikes.shape)
    for device in (0, 1, 0):
        with emulated_cupy.cuda.Device(device):
            run = case.simulate(engine, tape=True)
            assert_same_run(run, expected)
            assert_close(run.backward(g), expected.backward(g), 1e-12)


@needs_compiler
def test_what_one_stream_makes_another_waits_for():
    """A layer, its events and what is made of them, made on one stream and used on another."""
    case, engine = make_case(6, recurrent=True), CupyBackend(emulated_cupy, scan=False)
    expected = case.simulate("numpy", tape=True)
    g = np.random.default_rng(0).normal(size=expected.spikes.shape)
    events = case.events
    streams = [emulated_cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    for stream in (*streams, streams[0]):
        with stream:
            run = case.simulate(engine, events, tape=True)
            assert_same_run(run, expected)
            assert_close(run.backward(g), expected.backward(g), 1e-12)


@needs_compiler
def test_the_emulation_knows_devices_and_streams():
    array = emulated_cupy.asarray(np.ones(3))
    with emulated_cupy.cuda.Device(1), pytest.raises(emulated_cupy.CUDARuntimeError, match="device 0 on device 1"):
        array + array
    with emulated_cupy.cuda.Stream(), pytest.raises(AssertionError, match="another stream"):
        array[1:] + array[:2]
    event = emulated_cupy.cuda.Event()
    event.record(emulated_cupy.cuda.get_current_stream())
    with emulated_cupy.cuda.Stream() as stream:
        stream.wait_event(event)
        assert (array + array).get().tolist() == [2, 2, 2]


FAILURES = [
    (emulated_cupy.OutOfMemoryError("no room"), "expected enough device memory for"),
    (emulated_cupy.CUDARuntimeError("illegal address"), "the device failed while"),
    (emulated_cupy.CUDADriverError("launch failed"), "the device failed while"),
    (emulated_cupy.CUBLASError("not initialised"), "the device failed while"),
]


@needs_compiler
@pytest.mark.parametrize(("failure", "words"), FAILURES)
@pytest.mark.parametrize("place", [
    "empty", "asarray", "asnumpy", "concatenate", "stack", "argsort", "searchsorted", "launch", "sgemmStridedBatched",
])  # fmt: skip
def test_every_failure_of_the_device_is_ours(monkeypatch, place, failure, words):
    """Wherever CuPy fails, in a run and its adjoint: a DeviceError that says what was being done."""
    case = make_case(6, recurrent=True, dtype=np.float32)
    engine = CupyBackend(emulated_cupy, scan=False)

    def fail(*arguments, **options):
        raise failure

    if place == "launch":
        monkeypatch.setattr(emulated_cupy.Kernel, "__call__", fail)
    else:
        owner = emulated_cupy.cuda.cublas if place.startswith("sgemm") else emulated_cupy
        monkeypatch.setattr(owner, place, fail)

    def work():
        run = case.simulate(engine, blocksim.Events.from_dense(case.x), tape=True)
        run.backward(np.ones(run.spikes.shape, np.float32))

    with pytest.raises(blocksim.DeviceError, match=words) as error:
        work()
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    assert_same_run(case.simulate(engine), case.simulate("numpy"))  # and the backend goes on


@needs_compiler
@pytest.mark.parametrize(
    ("place", "words"), [("RawModule", "expected NVRTC"), ("get_cublas_handle", "expected cuBLAS")]
)
def test_a_machine_with_only_a_driver_is_told_what_to_install(monkeypatch, place, words):
    def missing(*arguments, **options):
        raise ImportError("libnvrtc.so.12: cannot open shared object file")

    monkeypatch.setattr(emulated_cupy if place == "RawModule" else emulated_cupy.cuda.device, place, missing)
    with pytest.raises(blocksim.MissingLibraryError, match=rf": {words}.*libnvrtc.*blocksim\[gpu-cuda12\]"):
        CupyBackend(emulated_cupy)


@needs_compiler
@pytest.mark.parametrize("gradient", ["standard", "paper"])
def test_a_surrogate_unknown_to_a_kernel_has_no_slope(monkeypatch, gradient):
    run = make_case(7).simulate(CupyBackend(emulated_cupy, scan=False), tape=True, gradient=gradient)
    monkeypatch.setattr(type(run._pass.rule.surrogate), "kind", 6)
    assert np.isnan(run.backward(np.ones(run.spikes.shape)).bias).all()


@pytest.mark.parametrize("most", [256, 32])
@pytest.mark.parametrize("mode", ["ignore", "hold"])
def test_the_family_in_one_launch_and_in_many(cupy, monkeypatch, most, mode):
    """Recurrent connections of several delays and receptors: the same bits either way."""
    monkeypatch.setattr(linear, "FAMILY", most)
    rng = np.random.default_rng(4)
    layer = blocksim.Layer(
        blocksim.LinearIF(0.9, 1.0, 3, [blocksim.Component(0.9, 0.2, to_threshold=0.3)], refractory=mode),
        synapses=[blocksim.Exponential(0.8), blocksim.Alpha(0.7)],
        inputs=[blocksim.Connection(rng.normal(0.1, 0.3, (20, 90)), 1, 1)],
        recurrent=[blocksim.Connection(rng.normal(0.0, 0.3, (90, 90)), delay, receptor) for delay, receptor in
                   ((4, 0), (9, 1), (5, 2))],
    )  # fmt: skip
    x = rng.random((3, 61, 20)) < 0.3
    g_s, g_v = rng.normal(size=(2, 3, 61, 90))
    options = {"tape": True, "detach": (), "record": ("voltage", "threshold")}
    run, expected = (blocksim.simulate(layer, x, each, **options) for each in (CupyBackend(cupy), "numpy"))
    assert expected.spikes.any()
    assert_same_run(run, expected)
    assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-10)
