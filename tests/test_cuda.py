"""The GPU's kernels without a GPU: compiled by NVIDIA's compiler for every architecture, and run in CPU emulation.

That they compute the same as the other backends is shown by the whole suite, which runs in CPU emulation too; here is
what is particular to threads: launches of many blocks of threads, their order, and bugs planted in the kernels' text,
each of which something here must catch.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from blocksim.backends.cupy_cuda.backend import OPTIONS, SOURCE, CupyBackend

import blocksim

from .cuda_emulation import emulated_cupy, nvrtc
from .helpers import assert_close, assert_same_run, make_case

TEXT = SOURCE.read_text()
KINDS = range(6)
NAMES = ["rows_of_events"] + [
    name
    for kind in ("float", "double")
    for name in (
        *(f"{kernel}<{kind}>" for kernel in ("forward", "add_events", "add_spikes", "gather_gradient", "leaky_filter")),
        f"forward_scan<{kind}>",
        *(f"{name}<{kind}, {number}>" for name in ("adjoint", "adjoint_of_paper", "adjoint_scan") for number in KINDS),
    )
]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="CPU emulation needs g++, which is not here")


def budget(name):
    """Registers a thread may take: 64 leave half of a multiprocessor's threads their place, 96 a third.

    A scan is for few neurons, which do not fill a device in any case.
    """
    if "scan" in name:
        return 128 if "double" in name else 80
    return 96 if "double" in name else 72 if "paper" in name else 64


@pytest.mark.parametrize("architecture", [70, 80, 90, 120])
def test_kernels_compile_without_spills_or_warnings(architecture):
    library = nvrtc.library()
    if library is None:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed (it is for x86-64 Linux)")
    compiled, warnings = nvrtc.compile_kernels(library, TEXT, OPTIONS, NAMES, architecture)
    assert {kernel.name for kernel in compiled} == set(NAMES)
    assert not [line for line in warnings if "deprecated" not in line]
    for kernel in compiled:
        assert kernel.spilled == kernel.stack == 0, kernel
        assert kernel.registers <= budget(kernel.name), kernel


def test_a_kernel_that_spills_is_noticed():
    library = nvrtc.library()
    if library is None:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed (it is for x86-64 Linux)")
    text = """template <int N> __global__ void indexed(float* x, int n) {
        float held[N];
        for (int i = 0; i < N; ++i) held[i] = x[i];
        for (int i = 0; i < n; ++i) x[i] = held[(i * 7 + n) % N];
    }"""
    (kernel,), warnings = nvrtc.compile_kernels(library, text, OPTIONS, ["indexed<64>"], 80)
    assert kernel.stack >= 64 * 4
    assert any("local memory" in line.lower() for line in warnings), warnings


# samples x neurons of more than one block of threads; neurons, steps and inputs that fill no block, warp or word
SHAPES = [
    {"batch": 3, "neurons": 150, "inputs": 70, "steps": 50},
    {"batch": 130, "neurons": 1, "inputs": 33, "steps": 35},
    {"batch": 1, "neurons": 1, "inputs": 1, "steps": 1},
    {"batch": 2, "neurons": 64, "inputs": 5, "steps": 64},
]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("gradient", ["standard", "paper"])
def test_launches_of_many_blocks_of_threads(shape, recurrent, gradient):
    case = make_case(5, recurrent=recurrent, refractory=(2, 6), extra_latency=1, **shape)
    g_s, g_v = np.random.default_rng(0).normal(size=(2, shape["batch"], shape["steps"], shape["neurons"]))
    options = {"tape": True, "gradient": gradient, "detach": ()}
    run, expected = (case.simulate(engine, **options) for engine in (CupyBackend(emulated_cupy), "numpy"))
    assert_same_run(run, expected)
    assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-12)


@needs_compiler
@pytest.mark.parametrize("shape", [*SHAPES, {"batch": 1, "neurons": 1, "steps": 1000, "inputs": 3},
                                   {"batch": 2, "neurons": 3, "steps": 97, "weights": False},
                                   {"batch": 2, "neurons": 3, "steps": 97, "weights": False, "shared": True},
                                   {"batch": 2, "neurons": 3, "steps": 64, "adaptive": False}])  # fmt: skip
@pytest.mark.parametrize("refractory", [0, (1, 7), 50])
@pytest.mark.parametrize("detach", [(), ("reset",), ("adaptation",)])
def test_a_scan_is_the_same_to_rounding(shape, refractory, detach):
    """In float64: the same spikes, potentials within 1e-12, gradients within 1e-10 of their norm."""
    case = make_case(41, refractory=refractory, **shape)
    scanning = CupyBackend(emulated_cupy, scan=True)
    state = case.simulate("numpy").state
    runs = [case.simulate(engine, tape=True, detach=detach, state=state) for engine in (scanning, "numpy")]
    np.testing.assert_array_equal(runs[0].spikes, runs[1].spikes)
    for name in ("voltage", "threshold"):
        np.testing.assert_allclose(getattr(runs[0], name), getattr(runs[1], name), rtol=0, atol=1e-12)
    for name in ("voltage", "adaptation", "refractory"):
        np.testing.assert_allclose(getattr(runs[0].state, name), getattr(runs[1].state, name), rtol=0, atol=1e-12)
    g_s, g_v = np.random.default_rng(0).normal(size=(2, *runs[0].spikes.shape))
    after = blocksim.StateGradient(state.voltage + 1, state.adaptation + 1, np.zeros(state.spikes.shape))
    assert_close(*(run.backward(g_s, g_v, after) for run in runs), 1e-10)
    assert_close(*(run.backward(grad_spikes=g_s) for run in runs), 1e-10)


@needs_compiler
def test_the_papers_gradient_and_recurrence_are_not_scanned():
    for options in ({"gradient": "paper"}, {}):
        case = make_case(42, recurrent=not options)
        runs = [case.simulate(each, tape=True, **options) for each in (CupyBackend(emulated_cupy, scan=True), "numpy")]
        assert_same_run(*runs)
        assert_close(*(run.backward(np.ones(run.spikes.shape)) for run in runs), 1e-12)


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


def exercise(engine):
    """Raises if anything is wrong: two shapes, forward and backward, against the reference."""
    for recurrent in (False, True):
        for gradient in ("standard", "paper"):
            case = make_case(7, batch=3, neurons=50, inputs=40, recurrent=recurrent, refractory=3, dtype=np.float32)
            g_s, g_v = np.random.default_rng(0).normal(size=(2, 3, 30, 50)).astype(np.float32)
            options = {"tape": True, "gradient": gradient, "detach": ()}
            run, expected = (case.simulate(each, **options) for each in (engine, "numpy"))
            assert_same_run(run, expected)
            assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-5)
    case = make_case(7, batch=3, neurons=5, steps=70, refractory=3)
    g_s, g_v = np.random.default_rng(0).normal(size=(2, 3, 70, 5))
    scanning = CupyBackend(engine.cupy, scan=True)
    run, expected = (case.simulate(each, tape=True, detach=()) for each in (scanning, "numpy"))
    np.testing.assert_allclose(run.voltage, expected.voltage, rtol=0, atol=1e-12)
    assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-10)


PLANTED = {
    "contracted to one rounding": (
        "float add(float x, float y) { return __fadd_rn(x, y); }",
        "float add(float x, float y) { return __fmaf_rn(x, 1.0000001f, y); }",
    ),
    "threads beyond the last neuron": ("if (unit >= units) return;\n    const Index sample", "const Index sample"),
    "a crossing at the threshold counts": ("live && v > theta", "live && v >= theta * 0.999f"),
    "refractory one step too long": ("live ? 0 : left - 1", "live ? 0 : left"),
    "state of the block before": ("(Index)(t / block_length) * units", "(Index)(t / block_length / 2) * units"),
    "a lane too few in the vote": ("first + lane < inputs", "first + lane + 1 < inputs"),
    "vote without every lane": (
        "for (int first = 0; first < inputs; first += 32) {",
        "if (n < neurons) for (int first = 0; first < inputs; first += 32) {",
    ),
    "flags of one step later": ("ago = t - latency", "ago = t - latency + 1"),
    "events in descending order of addition": (
        "for (Index event = indptr[row]; event < indptr[row + 1]; ++event)\n        total = add",
        "for (Index event = indptr[row + 1] - 1; event >= indptr[row]; --event)\n        total = add",
    ),
    "an input's last event left out": ("event < starts[input + 1]", "event + 1 < starts[input + 1]"),
    "gradient where refractory": ("const T current = live ? lambda_v : T(0);", "const T current = lambda_v;"),
    "the reset's path with the wrong sign": ("lambda_s -= v * into_v", "lambda_s += v * into_v"),
    "sums of one parameter in another's place": ("sums[units + unit] += sum_p", "sums[2 * units + unit] += sum_p"),
    "a scan that forgets what it is handed": ("if (lane == start) x += neuron.beta * v;", ""),
    "a scan that is a lane short": ("if (lane + j < 32)", "if (lane + j < 31)"),
    "steps composed in the wrong order": ("mine = mine.after(later)", "mine = later.after(mine)"),
    "liveness after the first spike, not the last": ("__clz((int)before)", "__clz((int)(before & -before))"),
    "the ramp without its sum": ("ramp += plain;  ", "ramp = plain;  "),
}


@needs_compiler
def test_nothing_planted_nothing_found(tmp_path):
    done = run_apart(TEXT, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "clean" in done.stdout


@needs_compiler
@pytest.mark.parametrize(("change", "words"), [
    (lambda arguments: arguments[:-1], "parameters"),
    (lambda arguments: [*arguments[:-1], 1.0], "for a number"),
    (lambda arguments: [arguments[0].astype(np.float64), *arguments[1:]], "dtype"),
    (lambda arguments: [arguments[0][:, ::2], *arguments[1:]], "contiguous"),
])  # fmt: skip
def test_wrong_arguments_of_a_kernel_are_caught(change, words):
    """What a driver would not notice, and CuPy neither."""
    engine = CupyBackend(emulated_cupy)
    x = engine.asarray(np.ones((1, 4, 2), np.float32))
    numbers = (np.float32(0.5), np.int32(0), np.int64(2), np.int32(2), np.int32(4), np.float32(1e-30))
    arguments = [x, engine.empty(x.shape, np.float32), *numbers]
    kernel = engine._kernel("leaky_filter<float>")
    kernel((1,), (128,), arguments)
    with pytest.raises(TypeError, match=words):
        kernel((1,), (128,), change(arguments))


def test_without_a_device_the_backend_says_so():
    class NoDevice:
        cuda = type("cuda", (), {"is_available": staticmethod(lambda: False)})

    with pytest.raises(blocksim.MissingLibraryError, match="NVIDIA GPU and its driver"):
        CupyBackend(NoDevice)


@needs_compiler
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.float64])
def test_what_is_on_the_device_stays_there(kind, batched):
    engine, case = CupyBackend(emulated_cupy), make_case(9, batch=1, recurrent=True)
    x = case.x.astype(kind) if batched else case.x[0].astype(kind)
    g = np.random.default_rng(0).normal(size=(*x.shape[:-1], 5))
    on_device = blocksim.simulate(case.layer, engine.asarray(x), engine, record="voltage", tape=True)
    on_host = blocksim.simulate(case.layer, x, engine, record="voltage", tape=True)
    gradients, expected = on_device.backward(engine.asarray(g)), on_host.backward(g)
    pairs = [(on_device.spikes, on_host.spikes), (on_device.voltage, on_host.voltage)]
    pairs += [(getattr(gradients, name), getattr(expected, name)) for name in ("x", "current", "weights", "recurrent")]
    for found, wanted in pairs:
        assert isinstance(found, emulated_cupy.ndarray)
        assert isinstance(wanted, np.ndarray)
        np.testing.assert_allclose(found.get(), wanted, rtol=1e-12, atol=1e-12)
    assert isinstance(on_device.state.voltage, np.ndarray)
    np.testing.assert_allclose(gradients.p, expected.p, rtol=1e-12)


@needs_compiler
def test_wrong_arrays_on_the_device_are_named():
    engine, case = CupyBackend(emulated_cupy), make_case(9)
    x = engine.asarray(case.x.astype(np.float64))
    x[1, 2, 3] = np.nan
    with pytest.raises(blocksim.ArgumentError, match=r"x: expected finite numbers; found nan at index \(1, 2, 3\)"):
        blocksim.simulate(case.layer, x, engine)
    run = blocksim.simulate(case.layer, engine.asarray(case.x), engine, tape=True)
    with pytest.raises(blocksim.ArgumentError, match="grad_spikes: expected shape"):
        run.backward(engine.empty((2, 3, 4), np.float64))
    with pytest.raises(blocksim.ArgumentError, match="x: expected a NumPy array or a number"):
        blocksim.simulate(case.layer, x, "numba")


@needs_compiler
def test_too_little_memory_is_said_with_what_to_do(monkeypatch):
    engine, case = CupyBackend(emulated_cupy), make_case(8, steps=200, neurons=20)
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
        make_case(8).simulate(CupyBackend(emulated_cupy))


SANITIZERS = {
    "address and undefined behaviour": ("address,undefined", ("libasan.so", "libubsan.so")),
    "threads": ("thread", ("libtsan.so",)),
}


def run_apart(text, tmp_path, environment=(), prefix=()):
    """Run `exercise` on a kernel text in a process of its own, which may crash."""
    source = tmp_path / "kernels.cu"
    source.write_text(text)
    program = (
        "import sys; from pathlib import Path\n"
        "from blocksim.backends.cupy_cuda import backend\n"
        "from tests import test_cuda\n"
        "backend.SOURCE = Path(sys.argv[1])\n"
        "test_cuda.exercise(backend.CupyBackend(test_cuda.emulated_cupy))\n"
        "print('clean')\n"
    )
    return subprocess.run(
        [*prefix, sys.executable, "-c", program, str(source)], env=os.environ | dict(environment), capture_output=True,
        cwd=Path(__file__).parents[1], text=True, errors="replace", timeout=300, check=False,
    )  # fmt: skip


def run_sanitized(kind, text, tmp_path):
    """The same, watched by a sanitizer."""
    flags, libraries = SANITIZERS[kind]
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in libraries
    ]
    if not all(os.path.isabs(path) for path in found):
        pytest.skip(f"g++ has no {', '.join(libraries)}")
    environment = {
        "LD_PRELOAD": ":".join(found),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=66",
        "BLOCKSIM_EMULATION_FLAGS": f"-O1 -g -fsanitize={flags} -fno-omit-frame-pointer"
        + (" -fno-sanitize-recover=undefined -DCOC_PLAIN_SHARED" if kind != "threads" else ""),
        "OPENBLAS_NUM_THREADS": "1",
    }
    # the thread sanitizer wants its shadow where address randomisation may put libraries
    prefix = ("setarch", platform.machine(), "-R") if kind == "threads" else ()
    return run_apart(text, tmp_path, environment, prefix)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_caught(bug, tmp_path):
    good, bad = PLANTED[bug]
    assert good in TEXT
    done = run_apart(TEXT.replace(good, bad), tmp_path)
    assert done.returncode != 0, f"not caught: {bug}"
    # by a comparison, a barrier's own check, or a crash
    caught = "AssertionError" in done.stderr or "deadlock" in done.stderr or done.returncode < 0
    assert caught, done.stderr[-2000:]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", SANITIZERS)
def test_kernels_are_clean_under(kind, tmp_path):
    done = run_sanitized(kind, TEXT, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "clean" in done.stdout


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "good", "bad", "said"), [
    (
        "address and undefined behaviour",
        "total = add(total, weights[(Index)source * neurons + n]);",
        "total = add(total, weights[(Index)(source + inputs) * neurons + n]);",
        "AddressSanitizer",
    ),
    (
        "threads",
        "grad[input * neurons + n] = total;",
        "grad[input * neurons + n] = total; grad[0] += T(0);",
        "ThreadSanitizer",
    ),
])  # fmt: skip
def test_sanitizers_catch(kind, good, bad, said, tmp_path):
    assert good in TEXT
    done = run_sanitized(kind, TEXT.replace(good, bad), tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
