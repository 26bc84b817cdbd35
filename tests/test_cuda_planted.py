"""Tests of the tests of CUDA kernels: bugs planted in their text, which something must catch; and sanitizers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from blocksim.backends.cupy_cuda.backend import CupyBackend
from blocksim.backends.cupy_cuda.kernels import text

from .helpers import assert_close, assert_same_run, make_case

TEXT = text()
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="CPU emulation needs g++, which is not here")


def exercise(cupy):
    """Raises if anything is wrong: two shapes, forward and backward, against the reference."""
    for recurrent in (False, True):
        for gradient in ("standard", "paper"):
            case = make_case(7, batch=3, neurons=50, inputs=40, recurrent=recurrent, refractory=3, dtype=np.float32)
            g_s, g_v = np.random.default_rng(0).normal(size=(2, 3, 30, 50)).astype(np.float32)
            options = {"tape": True, "gradient": gradient, "detach": ()}
            run, expected = (case.simulate(each, **options) for each in (CupyBackend(cupy, scan=False), "numpy"))
            assert_same_run(run, expected)
            assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-5)
    case = make_case(7, batch=3, neurons=50, inputs=40, refractory=3, density=0.04)
    counts = case.x * np.random.default_rng(0).integers(1, 4, case.x.shape).astype(np.uint8)
    runs = [case.simulate(each, counts) for each in (CupyBackend(cupy, scan=False), "numpy")]
    assert_same_run(*runs)
    case = make_case(7, batch=3, neurons=5, steps=70, refractory=3)
    g_s, g_v = np.random.default_rng(0).normal(size=(2, 3, 70, 5))
    scanning = CupyBackend(cupy, scan=True)
    run, expected = (case.simulate(each, tape=True, detach=()) for each in (scanning, "numpy"))
    np.testing.assert_allclose(run.voltage, expected.voltage, rtol=0, atol=1e-12)
    assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-10)


PLANTED = {
    "contracted to one rounding": (
        "float add(float x, float y) { return __fadd_rn(x, y); }",
        "float add(float x, float y) { return __fmaf_rn(x, 1.0000001f, y); }",
    ),
    "threads beyond the last neuron": ("if (unit >= units) return;\n    const Place place", "const Place place"),
    "a crossing at the threshold counts": ("live && v > theta", "live && v >= theta * 0.999f"),
    "refractory one step too long": ("live ? 0 : left - 1", "live ? 0 : left"),
    "state of the block before": ("(Index)(t / block_length) * units", "(Index)(t / block_length / 2) * units"),
    "a lane too few in the vote": ("first + lane < inputs", "first + lane + 1 < inputs"),
    "vote without every lane": (
        "for (int first = 0; first < inputs; first += 32) {",
        "if (n < neurons) for (int first = 0; first < inputs; first += 32) {",
    ),
    "counts taken for flags": ("COUNTS ? fired[source] : 1", "1"),
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
        "from blocksim.backends.cupy_cuda import kernels\n"
        "from tests import test_cuda_planted\n"
        "from tests.cuda_emulation import emulated_cupy\n"
        "kernels.text = Path(sys.argv[1]).read_text\n"
        "test_cuda_planted.exercise(emulated_cupy)\n"
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
        "weights[(Index)source * neurons + n]",
        "weights[(Index)(source + inputs) * neurons + n]",
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
