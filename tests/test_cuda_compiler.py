"""The GPU's kernels as NVIDIA's compiler and the real CuPy see them, which both need no GPU."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import pytest
from blocksim.backends.cupy_cuda import backend
from blocksim.backends.cupy_cuda.kernels import FILES, OPTIONS, TOGETHER, text

from blocksim.surrogates import SURROGATES, Hazard, get_surrogate

from .cuda_emulation import emulated_cupy, nvrtc

TEXT = text()
KINDS = sorted({get_surrogate(name).kind for name in SURROGATES})
NAMES = ["rows_of_events", "bytes_as_bfloat", "floats_in_thirds"] + [
    name
    for kind in ("float", "double")
    for name in (
        *(f"{kernel}<{kind}>" for kernel in ("add_events", "gather_gradient", "leaky_filter")),
        *(f"add_spikes<{kind}, {counts}>" for counts in (0, 1)),
        *(f"add_input<{kind}, {counts}, {across}>" for counts in (0, 1) for across in (1, 2, 4)),
        f"forward_scan<{kind}>",
        *(f"adjoint_scan<{kind}, {number}>" for number in KINDS),
        *(f"forward<{kind}, {recurrent}>" for recurrent in (0, 1)),
        *(
            f"{name}<{kind}, {number}, {recurrent}>"
            for name in ("adjoint", "adjoint_of_paper")
            for number in KINDS
            for recurrent in (0, 1)
        ),
        *(
            f"linear_forward<{kind}, {c}, {r}, 0, 0, {recurrent}>"
            for c in range(5)
            for r in range(3)
            for recurrent in (0, 1)
        ),
        *(f"linear_forward<{kind}, {c}, 2, {above}, 0, 0>" for c in range(1, 5) for above in (1, 2)),
        *(f"linear_forward<{kind}, {c}, 0, {int(c > 0)}, 1, 0>" for c in range(5)),
        *(f"linear_forward<{kind}, {c}, 0, {int(c > 0)}, 2, 0>" for c in (0, 4)),
        f"linear_forward<{kind}, 4, 2, 1, 1, 1>",
        *(
            f"linear_adjoint<{kind}, {c}, {number}, 0, 0, {recurrent}>"
            for c in range(5)
            for number in KINDS
            for recurrent in (0, 1)
        ),
        *(
            f"linear_adjoint<{kind}, {c}, 0, {above}, 0, {recurrent}>"
            for c in range(1, 5)
            for above in (1, 2)
            for recurrent in (0, 1)
        ),
        *(f"linear_adjoint<{kind}, {c}, {Hazard.kind}, {int(c > 0)}, 1, 0>" for c in range(5)),
        *(f"linear_adjoint<{kind}, 4, {Hazard.kind}, {above}, 1, 1>" for above in (0, 1)),
        f"synapses_adjoint<{kind}>",
    )
]


@pytest.fixture(scope="module")
def library():
    """The compiler."""
    found = nvrtc.library()
    if found is None:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed (it is for x86-64 Linux)")
    return found


def budget(name):
    """Registers a thread may take: 64 leave half of a multiprocessor's threads their place, 128 a quarter.

    What a thread reads ahead takes registers, and is worth more than other threads (docs/performance.md). A scan is for
    few neurons, which do not fill a device in any case.
    """
    double = "double" in name
    if re.match(r"(forward|adjoint).*, 1>", name):  # 65536 for the threads of a block that has a sample
        return 65536 // (TOGETHER["float64" if double else "float32"] * 3 // (2 if name.startswith("forward") else 3))
    if name.startswith("linear"):
        components, _, rectified, noise, recurrent = map(int, name.strip(">").split(",")[1:])
        return 255 if double or recurrent else 152 + 6 * components + 48 * rectified + 12 * (noise > 0)
    if "scan" in name:
        return 128 if double else 80
    return 160 if double else 96


# of one precision, and one surrogate
OTHERS = re.compile(
    r"double|linear_adjoint<float, \d, [1-5]|^adjoint\w*<float, [1-9]|linear_\w+<float, [123]|_forward<float, \d, 1"
    r"|linear_\w+<float, 0, .* 1>|linear_forward<float, 4, 0|linear_adjoint<float, 4, \d, \d, 0, 0>"
)
FEW = [name for name in NAMES if not OTHERS.search(name)]


# all kernels take half a minute: with --slow, and where CI=true
@pytest.mark.parametrize(
    ("architecture", "names"),
    [(90, FEW), *(pytest.param(each, NAMES, marks=pytest.mark.slow) for each in (70, 80, 90, 120))],
)
def test_kernels_compile_without_spills_or_warnings(library, architecture, names):
    compiled, warnings = nvrtc.compile_kernels(library, TEXT, OPTIONS, names, architecture)
    assert {kernel.name for kernel in compiled} >= set(names)
    assert not [line for line in warnings if "deprecated" not in line]
    for kernel in compiled:
        assert kernel.spilled == kernel.stack == 0, kernel
        assert kernel.registers <= budget(kernel.name), kernel


def test_a_kernel_that_spills_is_noticed(library):
    text = """template <int N> __global__ void indexed(float* x, int n) {
        float held[N];
        for (int i = 0; i < N; ++i) held[i] = x[i];
        for (int i = 0; i < n; ++i) x[i] = held[(i * 7 + n) % N];
    }"""
    (kernel,), warnings = nvrtc.compile_kernels(library, text, OPTIONS, ["indexed<64>"], 80)
    assert kernel.stack >= 64 * 4
    assert any("local memory" in line.lower() for line in warnings), warnings


def test_every_file_of_kernels_is_compiled():
    folder = Path(backend.__file__).parent
    assert set(FILES) == {path.name for path in folder.glob("*.cu*")}


def test_a_message_of_the_compiler_names_the_file(library):
    with pytest.raises(RuntimeError, match=r"spikes\.cu\(\d+\)"):
        nvrtc.compile_kernels(library, TEXT.replace("indptr[row]", "nowhere[row]"), OPTIONS, ["rows_of_events"], 80)


OF_ANY_CLASS = {"__module__", "__dict__", "__weakref__"}
# What the emulation has of its own, beside what it has of CuPy's.
OF_THE_EMULATION = {"Kernel", "Device"}


@pytest.fixture(scope="module")
def real():
    """CuPy itself, which imports without a driver."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed (python -m pip install 'blocksim[gpu-cuda12]'); it needs no GPU here")
    return importlib.import_module("cupy")


BACKEND_TEXT = "".join(path.read_text() for path in Path(backend.__file__).parent.glob("*.py"))


def public(thing):
    """Names that a module or class defines itself: not what it imports."""
    for name, value in vars(thing).items():
        if name.startswith("_") or name.isupper() or inspect.ismodule(value) or name in OF_THE_EMULATION:
            continue
        if getattr(value, "__module__", emulated_cupy.__name__) == emulated_cupy.__name__ or name in ("cuda", "T"):
            yield name, value


def test_the_emulation_has_nothing_that_cupy_has_not(real):
    """The suite passes on the emulation, so all that the backend uses is there: it must be in CuPy, too."""
    functions = {name: value for name, value in public(emulated_cupy) if inspect.isfunction(value)}
    assert {"asarray", "empty", "stack", "concatenate"} <= set(functions)
    for name, function in functions.items():
        there = set(inspect.signature(getattr(real, name)).parameters) | {"array", "arrays", "values"}
        assert set(inspect.signature(function).parameters) <= there, name
    for emulated, there in ((emulated_cupy.ndarray, real.ndarray), (emulated_cupy.Device, real.cuda.Device)):
        for name in set(vars(emulated)) - set(vars(object)) - OF_ANY_CLASS:
            # helpers of the emulation's own; the backend uses none of their names
            own = name.startswith("_") and not name.startswith("__") and f".{name}" not in BACKEND_TEXT
            assert own or hasattr(there, name), name
    assert hasattr(real, "RawModule")
    assert not inspect.isfunction(real.RawModule)
    for name, value in vars(emulated_cupy.cuda).items():
        assert hasattr(real.cuda, name), name
        if isinstance(value, types.SimpleNamespace):
            for inner in vars(value):
                assert hasattr(getattr(real.cuda, name), inner), f"cuda.{name}.{inner}"


def chains(source):
    """Every a.b.c under self.cupy in a source, and under what it calls `cuda` or `runtime` for short."""
    short = {"cuda": "cuda", "runtime": "cuda.runtime"}
    for node in ast.walk(ast.parse(source)):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and parts:
            path = ".".join(reversed(parts))
            if node.id == "self" and path.startswith("cupy."):
                yield path.removeprefix("cupy.")
            elif node.id in short:
                yield f"{short[node.id]}.{path}"


def test_every_name_that_the_backend_uses_is_in_cupy(real):
    folder = Path(backend.__file__).parent
    used = {chain for path in folder.glob("*.py") for chain in chains(path.read_text())}
    assert {"ndarray", "cuda.memory.OutOfMemoryError", "cuda.runtime.deviceGetAttribute", "RawModule"} <= used
    for chain in sorted(used):
        thing = real
        for part in chain.split("."):
            assert hasattr(thing, part), chain
            thing = getattr(thing, part)


def test_without_a_driver_cupy_says_so(real):
    if real.cuda.is_available():
        pytest.skip("there is a GPU here")
    code = "import blocksim, numpy; blocksim.simulate(blocksim.Layer(blocksim.LIF(0.9)), numpy.ones((3, 1)), 'cupy')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "MissingLibraryError: backend 'cupy': expected an NVIDIA GPU and its driver" in done.stderr


def test_cupy_compiles_with_the_options_that_are_tested_here(real):
    """CuPy's own path to the compiler, with the device's architecture filled in; and names of templates found again."""
    compiler = importlib.import_module("cupy.cuda.compiler")
    given = []
    compile_ = compiler._NVRTCProgram.compile

    def noted(self, options=(), log_stream=None):
        given.append(options)
        return compile_(self, options, log_stream)

    names = ["forward<float, 0>", "add_spikes<double, 1>"]
    with (
        mock.patch.object(compiler._NVRTCProgram, "compile", noted),
        mock.patch.object(compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: (f"-arch=sm_{arch}", "cubin")),
    ):
        # -ftz=true is added a level above, where a device is asked for
        code, mapping = compiler.compile_using_nvrtc(TEXT, (*OPTIONS, "-ftz=true"), "90", name_expressions=names)
    assert set(mapping) == set(names)
    assert code[:4] == b"\x7fELF"
    assert set(given[0]) == {*OPTIONS, *nvrtc.CUPYS, "-arch=sm_90"}
    above = inspect.getsource(compiler._compile_with_cache_cuda)
    assert re.findall(r"options \+= \(('-f[^)]*)\)", above) == ["'-ftz=true',"]
