"""CPU emulation of the part of CuPy that the backend uses: its host code and kernels run without a GPU.

"Device" arrays hold NumPy arrays out of NumPy's reach, so that the two cannot be mixed unseen, as in CuPy; new ones
hold NaN, never zeros. An array may be used only on the device where it was made, and on another stream than the one
that made it only after that stream was waited for. Whatever crosses between host and device is counted, wherever it is
asked for. Kernels are built by g++ from the text that CuPy would compile (cuda_on_cpu.h), once, and kept under the name
of their text. Arguments are checked as no driver would: number, dtype, contiguity. Only functions that CuPy has with
the same meaning are here, each by name: what is missing fails, instead of running NumPy's.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import re
import subprocess
import tempfile
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
HEADER = HERE / "cuda_on_cpu.h"
CACHE = Path(os.environ.get("BLOCKSIM_EMULATION_CACHE", Path(tempfile.gettempdir()) / "blocksim-cuda-emulation"))
FLAGS = os.environ.get("BLOCKSIM_EMULATION_FLAGS", "-O0").split()  # compiling takes longer than running
ORDER = 0  # of threads: 0 as they come, 1 reversed, more: shuffled
MEMORY = 1 << 40  # bytes that one array may take
MULTIPROCESSORS, RESIDENT_THREADS, SHARED_MEMORY = 132, 2048, 227 * 1024  # of the device; those of an H100
CROSSED: Counter[str] = Counter()  # copies between host and device, and their bytes, each way
LAUNCHED: Counter[str] = Counter()  # launches of each kernel


def _check_device(array):
    device, stream, time = array._made
    if device != Device._current:
        raise CUDARuntimeError(f"cudaErrorIllegalAddress: an array of device {device} on device {Device._current}")
    if not Stream._current.knows(stream, time):
        raise AssertionError("an array is read on another stream than the one that makes it, which may not be done")


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """A device array."""

    __array_priority__ = 100

    def __init__(self, host, made=None):
        self._host = host
        # where and when: device, stream, and how much that stream had done
        self._made = made or (Device._current, *Stream._current.tick())

    def _part(self, host):
        """A view: it is there when this array is."""
        return ndarray(np.asarray(host), self._made)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if out is not None:
            options["out"] = tuple(_host(o) for o in out)
        found = getattr(ufunc, method)(*map(_host, inputs), **options)
        return out[0] if out is not None else _device(found)

    def __array_function__(self, function, types, args, kwargs):
        if function not in (np.sum, np.argmax):
            raise TypeError(f"{function.__name__}: not emulated")
        return _device(function(*map(_host, args), **kwargs))

    def __invert__(self):
        return _device(~self._host)

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def any(self):
        return _device(self._host.any())

    def min(self):
        return _device(self._host.min())

    def max(self, axis=None):
        return _device(self._host.max(axis))

    def get(self):
        _check_device(self)
        _cross("to_host", self._host)
        Stream.host.learn(Stream._current)  # the host waits for the stream
        return self._host.copy()

    def __getitem__(self, index):
        return self._part(self._host[_index(index)])

    def __setitem__(self, index, value):
        self._host[_index(index)] = _host(value)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self._part(each) for each in self._host)

    def reshape(self, *shape):
        return self._part(self._host.reshape(*shape))

    def ravel(self):
        return self._part(self._host.ravel())

    def view(self, dtype):
        return self._part(self._host.view(dtype))

    def astype(self, dtype, copy=True):
        return _device(self._host.astype(dtype, copy=copy))

    def copy(self):
        return _device(np.ascontiguousarray(self._host).copy())

    def sum(self, *args, **kwargs):
        return _device(self._host.sum(*args, **kwargs))

    def argmax(self, axis):
        return _device(self._host.argmax(axis))

    def __float__(self):
        return float(self.get())

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    ndim = property(lambda self: self._host.ndim)
    nbytes = property(lambda self: self._host.nbytes)

    def __format__(self, how):
        return format(self.get(), how)

    strides = property(lambda self: self._host.strides)
    itemsize = property(lambda self: self._host.itemsize)

    @property
    def data(self):
        _check_device(self)
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    T = property(lambda self: self._part(self._host.T))


def _cross(way, host):
    """Count a copy; one of no bytes is none."""
    if host.nbytes:
        CROSSED[way] += 1
        CROSSED[f"bytes_{way}"] += host.nbytes


def _device(found):
    return ndarray(np.asarray(found)) if isinstance(found, (np.ndarray, np.generic)) else found


def _host(value):
    """The NumPy array of a device array; a NumPy array among device arrays is refused, as CuPy refuses it."""
    if isinstance(value, ndarray):
        _check_device(value)
        return value._host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _index(index):
    return tuple(map(_host, index)) if isinstance(index, tuple) else _host(index)


def asarray(array, dtype=None):
    if isinstance(array, ndarray):
        return _device(np.array(array._host, dtype=dtype, copy=None))
    host = np.array(array, dtype=dtype)  # a copy: what the caller does to his array is not seen on a device
    _cross("to_device", host)
    return _device(host)


def ascontiguousarray(array, dtype=None):
    host = array._host
    if host.flags.c_contiguous and (dtype is None or dtype == host.dtype):  # dtype("f8") == None is true
        return array
    return _device(np.ascontiguousarray(host, dtype=dtype))


def asnumpy(array):
    return array.get() if isinstance(array, ndarray) else np.asarray(array)


class Stream:
    """cupy.cuda.Stream: what it has done, and what it knows that others have."""

    _current: Stream
    host: Stream
    numbers = itertools.count()

    def __init__(self, non_blocking=False):
        self.ptr = next(self.numbers)
        self.known = Counter()

    def tick(self):
        self.known[self.ptr] += 1
        return self.ptr, self.known[self.ptr]

    def knows(self, stream, time):
        return max(self.known[stream], Stream.host.known[stream]) >= time

    def learn(self, other):
        self.known |= other.known

    def wait_event(self, event):
        self.learn(event)

    def synchronize(self):
        Stream.host.learn(self)

    def __enter__(self):
        self.before, Stream._current = Stream._current, self
        return self

    def __exit__(self, *error):
        Stream._current = self.before


Stream._current, Stream.host = Stream(), Stream()


class Event:
    """cupy.cuda.Event: what a stream had done when it was recorded, and when that was."""

    def __init__(self, disable_timing=False):
        self.known = Counter()

    def record(self, stream=None):
        self.known = (stream or Stream._current).known.copy()
        self._time = time.perf_counter()


def _elapsed_time(start_event, end_event):
    """Milliseconds; a launch here has ended when it returns."""
    return (end_event._time - start_event._time) * 1e3


class CUBLASError(RuntimeError):
    """cupy.cuda.cublas.CUBLASError."""


def _gemm(dtype):
    """cublas?gemmStridedBatched, of arrays that count columns first: C = alpha op(A) op(B) + beta C."""

    def matrix(pointer, rows, columns, pitch, stride, batch):
        length = ((batch - 1) * stride + (columns - 1) * pitch + rows) if batch and columns and rows else 0
        flat = np.ctypeslib.as_array((ctypes.c_char * (length * np.dtype(dtype).itemsize)).from_address(pointer)).view(
            dtype
        )
        item = flat.itemsize
        return np.lib.stride_tricks.as_strided(flat, (batch, rows, columns), (stride * item, item, pitch * item))

    def gemm(handle, op_a, op_b, m, n, k, alpha, a, lda, stride_a, b, ldb, stride_b, beta, c, ldc, stride_c, batch):
        LAUNCHED["gemmStridedBatched"] += 1
        alpha, beta = (np.ctypeslib.as_array((ctypes.c_char * np.dtype(dtype).itemsize).from_address(p)).view(dtype)[0]
                       for p in (alpha, beta))  # fmt: skip
        first = matrix(a, k, m, lda, stride_a, batch).swapaxes(1, 2) if op_a else matrix(a, m, k, lda, stride_a, batch)
        second = matrix(b, n, k, ldb, stride_b, batch).swapaxes(1, 2) if op_b else matrix(b, k, n, ldb, stride_b, batch)
        out = matrix(c, m, n, ldc, stride_c, batch)
        out[...] = alpha * (first @ second) + beta * out

    return gemm


def _gemm_ex(handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c, type_c, ldc, compute, algo):
    """cublasGemmEx of bfloat16 (columns first): C = alpha A B^T + beta C, in float32."""
    LAUNCHED["gemmEx"] += 1
    assert (op_a, op_b, type_a, type_b, type_c, compute) == (0, 1, 14, 14, 0, 68), "not emulated"

    def array(pointer, dtype, shape):
        length = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.ctypeslib.as_array((ctypes.c_char * length).from_address(pointer)).view(dtype).reshape(shape)

    assert (lda, ldb, ldc) == (m, n, m), "not emulated"
    scale, keep = (array(each, np.float32, (1,))[0] for each in (alpha, beta))
    left, right = ((array(each, np.uint16, (k, size)).astype(np.uint32) << 16).view(np.float32)
                   for each, size in ((a, m), (b, n)))  # fmt: skip
    out = array(c, np.float32, (n, m))
    out[...] = scale * (right.T @ left) + (keep * out if keep else 0)


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


class CUDADriverError(RuntimeError):
    """cupy.cuda.driver.CUDADriverError."""


def empty(shape, dtype=float):
    host = np.empty(shape, dtype)
    if host.nbytes > MEMORY:
        raise OutOfMemoryError(f"Out of memory allocating {host.nbytes:,} bytes")
    if host.size:
        host.reshape(-1).view(np.uint8)[...] = 1 if host.dtype == np.bool_ else 0xFF
    return _device(host)


def arange(stop, dtype=None):
    return _device(np.arange(stop, dtype=dtype))


def argsort(array):
    # CuPy does not promise the order of equal elements: neither does this
    host = _host(array)
    return _device(len(host) - 1 - np.argsort(host[::-1], kind="stable"))


def searchsorted(array, values):
    return _device(np.searchsorted(_host(array), _host(values)))


def concatenate(arrays):
    return _device(np.concatenate([_host(array) for array in arrays]))


def stack(arrays):
    return _device(np.stack([_host(array) for array in arrays]))


# what C calls the types of arrays and scalars; CuPy passes a Python int as int64 and a float as float64
LETTERS = {"f": "f", "d": "d", "i": "i", "I": "I", "q": "ql", "Q": "QL", "h": "hH", "b": "bB?"}


def _mark(*texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def _compiled_header(options):
    """The folder of the header as g++ reads it fastest, which takes most of a build otherwise."""
    text = HEADER.read_text()
    folder = CACHE / _mark(text, *options, *FLAGS)
    built = folder / f"{HEADER.name}.gch"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _build(built, text, [*options, "-x", "c++-header"], HEADER.name)
    return folder


def _build(built, text, options, what):
    """Have g++ make a file of a text; another process may make the same one."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        source, made = Path(folder) / "kernels.cpp", Path(folder) / "made"
        source.write_text(text)
        command = ["g++", *FLAGS, "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas", *options, f"-I{HERE}"]
        done = subprocess.run([*command, str(source), "-o", str(made)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"compiling {what}:\n{done.stderr}")
        os.replace(made, built)


class RawModule:
    """Kernels of one text, built by g++."""

    def __init__(self, code, options=(), name_expressions=()):
        self.names = {name: f"kernel{number}" for number, name in enumerate(name_expressions)}
        exports = "\n".join(f"COC_EXPORT({symbol}, {name})" for name, symbol in self.names.items())
        # dynamic shared memory is what no macro can spell
        code = re.sub(
            r"extern\s+__shared__\s+([\w:\s<>,]+?)\s*(\w+)\s*\[\s*\]\s*;", r"\1* \2 = (\1*)coc::dynamic_shared;", code
        )
        text = f'#include "cuda_on_cpu.h"\n#line 1 "kernels.cu"\n{code}\n#line 1 "exports"\n{exports}\n'
        wanted = [option for option in options if option.startswith(("-std", "-D"))]
        mark = _mark(text, HEADER.read_text(), *wanted, *FLAGS)
        library = CACHE / f"{mark}.so"
        if not library.exists():
            folder = _compiled_header([option for option in wanted if option.startswith("-std")])
            _build(library, text, [*wanted, "-shared", f"-I{folder}"], ", ".join(self.names))
        self.library = ctypes.CDLL(str(library))

    def get_function(self, name):
        return Kernel(self.library, self.names[name], name)


class Kernel:
    """A kernel that is called as CuPy's are: (grid, block, arguments)."""

    def __init__(self, library, symbol, name):
        self.name, self.library = name, library
        self.function = getattr(library, f"coc_launch_{symbol}")
        self.function.restype = ctypes.c_char_p
        signature = getattr(library, f"coc_sig_{symbol}")
        signature.restype = ctypes.c_char_p
        self.signature = signature().decode().split()

    def __call__(self, grid, block, arguments, shared_mem=0):
        if len(arguments) != len(self.signature):
            raise TypeError(f"{self.name}: {len(self.signature)} parameters, {len(arguments)} arguments")
        LAUNCHED[self.name] += 1
        kept = [self._argument(*each) for each in enumerate(zip(arguments, self.signature, strict=True))]
        pointers = (ctypes.c_void_p * len(kept))(*(each.ctypes.data for each in kept))
        three = ctypes.c_uint * 3
        self.library.coc_set(ORDER, 0)
        sizes = three(*([*grid, 1, 1][:3])), three(*([*block, 1, 1][:3]))
        error = self.function(*sizes, ctypes.c_size_t(shared_mem), pointers)
        if error:
            raise RuntimeError(f"{self.name}: {error.decode()}")

    def _argument(self, number, pair):
        """The bytes of one argument, as an array of one element."""
        value, parameter = pair
        place = f"{self.name}, argument {number}"
        if isinstance(value, ndarray):
            _check_device(value)
            if parameter[0] != "P":
                raise TypeError(f"{place}: an array for a number")
            if value.dtype.char not in LETTERS[parameter[1]]:
                raise TypeError(f"{place}: dtype {value.dtype} for a pointer to {parameter[1]}")
            if not value._host.flags.c_contiguous:
                raise TypeError(f"{place}: not C-contiguous, and a kernel sees only the pointer")
            return np.array([value._host.ctypes.data], np.uintp)
        if parameter[0] == "P":
            if not isinstance(value, np.intp) or value != 0:
                raise TypeError(f"{place}: {value!r} for a pointer")
            return np.array([0], np.uintp)
        if not isinstance(value, np.generic) or value.dtype.char not in LETTERS[parameter[0]]:
            raise TypeError(f"{place}: {value!r} for a number of type {parameter[0]}")
        return np.array([value])


class Device:
    """cupy.cuda.Device, the current one; a launch here has ended when it returns."""

    compute_capability = "none"
    _current = 0

    def __init__(self, device=None):
        self.id = Device._current if device is None else device

    def __enter__(self):
        self.before, Device._current = Device._current, self.id
        return self

    def __exit__(self, *error):
        Device._current = self.before

    mem_info = property(lambda self: (MEMORY, MEMORY))

    def synchronize(self):
        pass


ATTRIBUTES = {16: lambda: MULTIPROCESSORS, 39: lambda: RESIDENT_THREADS, 97: lambda: SHARED_MEMORY}
cuda = types.SimpleNamespace(
    is_available=lambda: True,
    Device=Device,
    Stream=Stream,
    Event=Event,
    get_elapsed_time=_elapsed_time,
    get_current_stream=lambda: Stream._current,
    device=types.SimpleNamespace(get_cublas_handle=lambda: 1),
    cublas=types.SimpleNamespace(
        CUBLASError=CUBLASError,
        CUBLAS_OP_N=0,
        CUBLAS_OP_T=1,
        CUBLAS_POINTER_MODE_HOST=0,
        getPointerMode=lambda handle: 0,
        setPointerMode=lambda handle, mode: None,
        sgemmStridedBatched=_gemm(np.float32),
        dgemmStridedBatched=_gemm(np.float64),
        gemmEx=_gemm_ex,
        CUBLAS_COMPUTE_32F=68,
        CUBLAS_GEMM_DEFAULT=-1,
    ),
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        driverGetVersion=lambda: 0,
        runtimeGetVersion=lambda: 0,
        getDeviceProperties=lambda device: {"name": b"CPU emulation"},
        CUDA_R_32F=0,
        CUDA_R_16BF=14,
        cudaDevAttrMultiProcessorCount=16,
        cudaDevAttrMaxThreadsPerMultiProcessor=39,
        cudaDevAttrMaxSharedMemoryPerBlockOptin=97,
        deviceGetAttribute=lambda attribute, device: ATTRIBUTES[attribute](),
    ),
    driver=types.SimpleNamespace(CUDADriverError=CUDADriverError),
)
