"""Tests of the tests of CUDA kernels: bugs planted in their text, which something must catch; and sanitizers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blocksim.backends.cupy_cuda import dynamics, linear
from blocksim.backends.cupy_cuda.backend import CupyBackend
from blocksim.backends.cupy_cuda.kernels import text

from blocksim import Alpha, Component, Connection, Escape, Exponential, Layer, LinearIF, Rectified, Softplus, simulate

from .helpers import assert_close, assert_same_run, make_case

TEXT = text()
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="CPU emulation needs g++, which is not here")


def exercise(cupy):
    """Raises if anything is wrong: two shapes, forward and backward, against the reference."""
    for recurrent, together in (
        (False, 512),
        (True, 512),
        (True, 32),
    ):  # the last: more neurons than threads of a block
        dynamics.TOGETHER["float32"] = together
        for gradient in ("standard", "paper"):
            case = make_case(7, batch=3, neurons=50, inputs=40, recurrent=recurrent, refractory=3, dtype=np.float32)
            g_s, g_v = np.random.default_rng(0).normal(size=(2, 3, 30, 50)).astype(np.float32)
            options = {"tape": True, "gradient": gradient, "detach": ()}
            run, expected = (case.simulate(each, **options) for each in (CupyBackend(cupy, scan=False), "numpy"))
            assert_same_run(run, expected)
            assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-5)
    case = make_case(7, batch=3, neurons=50, inputs=40, refractory=3, density=0.04, dtype=np.float32)
    counts = case.x * np.random.default_rng(0).integers(1, 4, case.x.shape).astype(np.uint8)
    cupy.SHARED_MEMORY = 17 * 64 * 4  # the weights of 17 inputs
    for multiprocessors in (132, 2):  # rows that are few for the device, and many
        cupy.MULTIPROCESSORS = multiprocessors
        for x in (counts, counts > 0):
            run, expected = (case.simulate(each, x, tape=True) for each in (CupyBackend(cupy, scan=False), "numpy"))
            assert_same_run(run, expected)
            assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-5)
    case = make_case(7, batch=3, neurons=5, steps=70, refractory=3)
    g_s, g_v = np.random.default_rng(0).normal(size=(2, 3, 70, 5))
    scanning = CupyBackend(cupy, scan=True)
    run, expected = (case.simulate(each, tape=True, detach=()) for each in (scanning, "numpy"))
    np.testing.assert_allclose(run.voltage, expected.voltage, rtol=0, atol=1e-12)
    assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-10)


def exercise_family(cupy):
    """The same for the linear family: recurrent with several delays and receptors, and currents as they are given."""
    for seed, mode in enumerate(("ignore", "hold", "integrate")):
        rng = np.random.default_rng(seed)

        def each(low, high, rng=rng):
            return rng.uniform(low, high, 40).astype(np.float32)

        neuron = LinearIF(
            each(0.6, 0.98), each(0.4, 1.0), rng.integers(2, 7, 40),
            [Component(each(0.5, 0.99), each(-0.5, 1), each(-0.1, 0.1), each(-0.2, 0.1), each(-0.1, 0.4), heard)
             for heard in ("before", "after")]
            + [Rectified(each(0.5, 0.99), each(-0.2, 0.4), each(-0.2, 0.2), each(-0.2, 0.2), each(-0.1, 0.4)),
               Softplus(each(0.5, 0.99), each(-0.2, 0.4), each(-0.2, 0.2), each(-0.2, 0.2), each(-0.1, 0.4),
                        each(0.05, 0.5))],
            each(-0.4, 0.2), each(-0.3, 0.6), mode,
        )  # fmt: skip
        synapses = [Alpha(each(0.5, 0.95), each(0.3, 1), each(-0.3, 0.3)), Exponential(each(0.5, 0.95), each(0.3, 1))]

        def connection(rows, delay, receptor, rng=rng):
            return Connection(rng.normal(0.05, 0.2, (rows, 40)).astype(np.float32), delay, receptor)

        connected = Layer(
            neuron, bias=each(0, 0.2), synapses=synapses, inputs=[connection(20, 1, 0), connection(20, 0, 2)],
            recurrent=[connection(40, 5, 1), connection(40, 9, 2)],
        )  # fmt: skip
        given = Layer(neuron, bias=each(0, 0.2), synapses=synapses[seed % 2 :])
        noisy = replace(given, neuron=replace(neuron, spike=Escape(each(0.02, 0.2), each(0.1, 0.5))))
        spikes = rng.random((3, 70, 20)) < 0.2
        currents = rng.normal(0.2, 0.4, (3, 70, 40)).astype(np.float32)
        g_s, g_v = rng.normal(size=(2, 3, 70, 40)).astype(np.float32)
        for layer, x in ((connected, spikes), (given, currents), (noisy, currents)):
            noise = 2**40 + seed
            earlier = simulate(layer, x, "numpy", seed=noise).state
            linear.FAMILY = 32 if seed == 1 else 256  # more neurons than threads of a block, or fewer
            options = {"tape": True, "detach": (), "record": ("voltage", "threshold"), "state": earlier, "seed": noise}
            run, expected = (simulate(layer, x, each, **options) for each in (CupyBackend(cupy), "numpy"))
            assert expected.spikes.any()
            assert_same_run(run, expected)
            assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-5)
        options |= {"impose": expected.spikes, "state": earlier}  # of another seed than the state's
        run, expected = (
            simulate(noisy, currents + np.float32(0.05), each, **options) for each in (CupyBackend(cupy), "numpy")
        )
        assert_same_run(run, expected)
        assert_close(run.backward(g_s, g_v), expected.backward(g_s, g_v), 1e-5)


PLANTED = {
    "contracted to one rounding": (
        "float add(float x, float y) { return __fadd_rn(x, y); }",
        "float add(float x, float y) { return __fmaf_rn(x, 1.0000001f, y); }",
    ),
    "threads beyond the last neuron": ("if (unit >= units) return;\n    const Place place", "const Place place"),
    "a crossing at the threshold counts": ("live && v > theta", "live && v >= theta * 0.999f"),
    "refractory one step too long": ("live ? 0 : left - 1", "live ? 0 : left"),
    "state of the block before": ("Index block = begin / block_length;", "Index block = begin / block_length / 2;"),
    "a lane too few in the vote": ("flags[i] = k < inputs", "flags[i] = k + 1 < inputs"),
    "vote without every lane": (
        "T total[] = {n < neurons ? out[here] : T(0)};\n    add_weights",
        "T total[] = {n < neurons ? out[here] : T(0)};\n    if (n < neurons) add_weights",
    ),
    "counts taken for flags": ("COUNTS ? __shfl_sync(0xffffffffu, (int)flags[i], source) : 1", "1"),
    "flags of one step later": ("ago = t - latency", "ago = t - latency + 1"),
    "events in descending order of addition": (
        "for (Index event = indptr[row]; event < indptr[row + 1]; ++event)\n        total = add",
        "for (Index event = indptr[row + 1] - 1; event >= indptr[row]; --event)\n        total = add",
    ),
    "weights of the first inputs only": ("weight_of(from + 32 * i + source, j)", "weight_of(source, j)"),
    "weights of the first part only": (
        "weights[(Index)(from + i / ACROSS) * neurons",
        "weights[(Index)(i / ACROSS) * neurons",
    ),
    "a part's weights over those that are still read": (
        "        }\n        __syncthreads();\n    }\n}",
        "        }\n    }\n}",
    ),
    "a count of another input": ("__shfl_sync(0xffffffffu, (int)flags[i], source)", "(int)flags[i]"),
    "weights read before they are there": (
        "        __syncthreads();\n        for (Index row",
        "        for (Index row",
    ),
    "recurrent spikes read before they are there": (
        "walk(start, stop);\n        __syncthreads();",
        "walk(start, stop);",
    ),
    "currents read before they are there": ("__syncthreads();\n        if (threadIdx.x < neurons) walk", "walk"),
    "gradients of spikes read before they are there": (
        "latency, (neurons + 31) / 32);\n            __syncthreads();",
        "latency, (neurons + 31) / 32);",
    ),
    "gradients of currents of another step": ("(first + i + latency) * neurons", "(first + i + latency - 1) * neurons"),
    "a warp's sums of neurons beside its own": (
        "lambda_s[(Index)(first + i) * neurons + n + 32 * j] +=",
        "lambda_s[(Index)(first + i) * neurons + n] +=",
    ),
    "a third of a number's bits": ("rest -= __uint_as_float", "rest = 0 * __uint_as_float"),
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
PLANTED_IN_FAMILY = {
    "state of the block before": ("Index block = begin / block_length;", "Index block = begin / block_length / 2;"),
    "inputs of the steps after": ("read(start, given);\n        for", "read(start + 1, given);\n        for"),
    "a target's currents in another's place": ("((1ull << target) - 1)", "((2ull << target) - 1)"),
    "an alpha synapse that decays before it rises": ("add(s[r], mul(kappa[r], z[r]))", "add(s[r], z[r])"),
    "a bias left out": ("total = neuron.bias;", "total = T(0);"),
    "a potential that moves while it is held": ("mode == HOLD && !live ? v : driven", "driven"),
    "no current while it is integrated": ("live || mode == INTEGRATE ? total", "live ? total"),
    "the potential before the reset is heard": ("is_set(after, j) ? v : u;", "u;"),
    "the potential below the knot is heard": ("max(distance(j, u), T(0))", "distance(j, u)"),
    "a gradient below the knot": ("neuron.over(j, u) == T(0)", "false"),
    "a knot without a gradient": ("neurons] -= through", "neurons] -= T(0)"),
    "a softplus that is not bent": ("? add(function, mul(softness(j), bend(bent(j, u)))) :", "? function :"),
    "a softplus with the slope of a rectified one": ("return logistic(bent(j, u));", "return distance(j, u) > T(0);"),
    "a softness without a gradient": ("neuron.slope_in_softness(j, u) * through", "T(0)"),
    "the gradient of a bend that is not scaled": ("bend(size) + size * logistic(-size)", "bend(size)"),
    "another component's softness": ("knots[(Index)(C + j) * neurons]", "knots[(Index)C * neurons]"),
    "another component's sharpness": ("knots[(Index)(2 * C + j) * neurons]", "knots[(Index)2 * C * neurons]"),
    "a logarithm's series that is short": ("DEGREE<T> + 4", "DEGREE<T> - 3"),
    "a logistic function the wrong way round": ("(x > T(0) ? T(1) : y) / ", "(x > T(0) ? y : T(1)) / "),
    "a reset without its factor": ("spike ? add(mul(factor, u), reset) : u", "spike ? reset : u"),
    "components of the step after": ("kept[((Index)(t - start) * C + j) * units + unit] = c[j];",
                                     "kept[((Index)(max(t - 1 - start, 0)) * C + j) * units + unit] = c[j];"),
    "the jump's path left out": ("lambda_s += neuron.d[j] * into_c[j]", "lambda_s += T(0)"),
    "the reset's path with the wrong sign": ("(neuron.factor - T(1)) * u + neuron.reset", "(neuron.factor - T(1)) * u"),
    "what is heard is not told": ("lambda_u += through", "lambda_u += T(0)"),
    "a gradient where it is held": ("sum[0] += held ? T(0) : lambda_u * handed", "sum[0] += lambda_u * handed"),
    "a sum that is added twice": ("    part = T(0);", "    part = part / 2;"),
    "a sum's last steps left out": ("summed < STEPS_OF_A_SUM && start > first", "summed < STEPS_OF_A_SUM"),
    "the rise of an alpha synapse taken for its own": ("lambda = lambda_z;", "lambda = lambda_s;"),
    "kappa without a slope": ("(kappa - T(2.718281828459045)) * z", "kappa * z"),
    "a hazard of the potential alone": ("hazard_of(add(u, -theta), ", "hazard_of(u, "),
    "a hazard that is borne while refractory": ("if (live) remaining = add", "remaining = add"),
    "no draw after a spike": ("if (spike) remaining = (T)draw", "if (t < 0) remaining = (T)draw"),
    "the same draw again": ("first_unit + unit, drawn++", "first_unit + unit, drawn"),
    "the draw of another neuron": ("first_unit + unit, drawn", "first_unit + place.n, drawn"),
    "half of the seed": ("^ d ^ second_key", "^ d ^ first_key"),
    "an exponential series that is short": ("? 7 : 13", "? 5 : 13"),
    "the slope of the hazard, not of its probability": ("hazard * exponential(-hazard) *", "hazard *"),
    "a width without a gradient": ("sum_of_distance -= delta * m", "sum_of_distance -= T(0)"),
    "spikes that are given left out": ("spike = live && spikes[here]", "spike = spike"),
    "a draw where spikes are given": ("if (NOISE == DRAWN) {  // (39)", "if (NOISE) {  // (39)"),
    "another connection's weights": ("weights + (Index)i * neurons * neurons", "weights"),
    "another connection's gradients": ("transposed + (Index)i * neurons * neurons", "transposed"),
    "spikes of the longest delay": ("longest + longest - delay", "longest"),
    "another receptor's gradients": ("(place.sample * receptors + target - 1)", "(place.sample * receptors)"),
    "filtered before the potential is differentiated": (
        "walk(start, stop);\n        __syncthreads();\n        const int of_sample",
        "walk(start, stop);\n        const int of_sample",
    ),
    "the state before the run left out": ("t < 0 ? start_synapses[unit]", "t < 0 ? T(0)"),
}  # fmt: skip
PLANTS = [("exercise", *item) for item in PLANTED.items()]
PLANTS += [("exercise_family", *item) for item in PLANTED_IN_FAMILY.items()]


@needs_compiler
@pytest.mark.parametrize("exercise", ["exercise", "exercise_family"])
def test_nothing_planted_nothing_found(exercise, tmp_path):
    done = run_apart(exercise, TEXT, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "clean" in done.stdout


SANITIZERS = {
    "address and undefined behaviour": ("address,undefined", ("libasan.so", "libubsan.so")),
    "threads": ("thread", ("libtsan.so",)),
}


def run_apart(exercise, text, tmp_path, environment=(), prefix=()):
    """Run one of the two on a kernel text in a process of its own, which may crash."""
    source = tmp_path / "kernels.cu"
    source.write_text(text)
    program = (
        "import sys; from pathlib import Path\n"
        "from blocksim.backends.cupy_cuda import kernels\n"
        "from tests import test_cuda_planted\n"
        "from tests.cuda_emulation import emulated_cupy\n"
        "kernels.text = Path(sys.argv[1]).read_text\n"
        f"test_cuda_planted.{exercise}(emulated_cupy)\n"
        "print('clean')\n"
    )
    return subprocess.run(
        [*prefix, sys.executable, "-c", program, str(source)], env=os.environ | dict(environment), capture_output=True,
        cwd=Path(__file__).parents[1], text=True, errors="replace", timeout=300, check=False,
    )  # fmt: skip


def run_sanitized(kind, exercise, text, tmp_path):
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
    return run_apart(exercise, text, tmp_path, environment, prefix)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("exercise", "bug", "change"), PLANTS)
def test_planted_bugs_are_caught(exercise, bug, change, tmp_path):
    good, bad = change
    assert good in TEXT
    done = run_apart(exercise, TEXT.replace(good, bad), tmp_path)
    assert done.returncode != 0, f"not caught: {bug}"
    # by a comparison, a barrier's own check, or a crash
    caught = "AssertionError" in done.stderr or "deadlock" in done.stderr or done.returncode < 0
    assert caught, done.stderr[-2000:]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", SANITIZERS)
@pytest.mark.parametrize("exercise", ["exercise", "exercise_family"])
def test_kernels_are_clean_under(kind, exercise, tmp_path):
    done = run_sanitized(kind, exercise, TEXT, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "clean" in done.stdout


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "good", "bad", "said"), [
    (
        "address and undefined behaviour",
        "weights[(Index)k * neurons + n]",
        "weights[(Index)(k + inputs) * neurons + n]",
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
    done = run_sanitized(kind, "exercise", TEXT.replace(good, bad), tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
