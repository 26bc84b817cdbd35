"""The CuPy backend: the interface to its kernels, arrays on the device, and currents from spikes.

Owns the copies between host and device, which it counts; the forms in which spikes are read; and whether a layer is
scanned. `dynamics` has the launches of whole layers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from threading import local
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from blocksim._events import Events
from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    Carry,
    ForwardResult,
    Input,
    LayerArrays,
    LinearAdjointCarry,
    LinearCarry,
    LinearLayer,
    LinearTape,
    Plan,
    SpikeGradient,
    Tape,
)
from blocksim.backend import FusedBackend
from blocksim.errors import DeviceError, MissingLibraryError
from blocksim.numerics import MAX_SPIKES, spike_rows, tiny
from blocksim.surrogates import Surrogate, require_compiled

from . import dynamics, linear
from .copies import Copies
from .kernels import EACH, MAX_THREADS, WARP, Kernels, tiles, units

BYTE = 255  # the most spikes of an input in a step that a byte holds
# neurons that a read of memory brings at once: with fewer in a layer, one thread each wastes a part of every read
SIDE_BY_SIDE = 8
MAX_CONVERTED = 1 << 26  # as many spikes are made numbers at a time, for a product


T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _guarded(doing: str) -> Callable[[F], F]:
    """A method whose errors of the device are ours."""

    def decorate(method: F) -> F:
        @wraps(method)
        def guarded(self: CupyBackend, *arguments: Any, **options: Any) -> Any:
            with self._device(doing):
                return method(self, *arguments, **options)

        return guarded  # type: ignore[return-value]

    return decorate


class CupyBackend(FusedBackend):
    """Arrays of CuPy on the current device.

    Parameters
    ----------
    cupy : module or None
        CuPy, or a module of its names, which tests emulate it by.
    scan : bool or None
        In layers without recurrence a warp can take 32 steps of a neuron at once, by a parallel scan: faster where few
        neurons of few samples leave most of a device idle. Potentials and gradients are then equal to rounding
        (docs/backends.md says how near), and not to the last bit, so that a spike may differ where a potential all
        but touches the threshold. None scans where the warps of all neurons of all samples fill at most three
        quarters of the device, 6336 neurons of samples on an H100, and up to eight times as many where a layer has
        fewer than eight neurons. True scans whatever the size, False never. gradient="paper" is not scanned, nor are
        neurons and synapses of the linear family.

    Raises
    ------
    MissingLibraryError
        There is no GPU or no driver, or the compiler (NVRTC) or cuBLAS cannot be used.

    Attributes
    ----------
    copies : Copies
        Copies between host and device so far, and their bytes.
    """

    name = "cupy"

    def __init__(self, cupy: Any = None, scan: bool | None = None) -> None:
        self.scan = scan
        self.copies = Copies()
        self.cupy = importlib.import_module("cupy") if cupy is None else cupy
        if not self.cupy.cuda.is_available():
            raise MissingLibraryError(
                "backend 'cupy': expected an NVIDIA GPU and its driver; CuPy is installed but found none "
                "(nvidia-smi says what the driver sees)"
            )
        self._probe()
        self.launch = Kernels(self.cupy).launch
        self._within = local()
        # by owner: what was made on each device, and when on that device it was ready
        self._made: WeakKeyDictionary[Any, dict[Any, tuple[Any, Any, int]]] = WeakKeyDictionary()

    def _probe(self) -> None:
        """Raise unless the libraries that are loaded when first used are there: the compiler and cuBLAS."""
        for what, use in (
            ("NVRTC, CUDA's compiler", lambda: Kernels(self.cupy).probe()),
            ("cuBLAS", lambda: self.cupy.cuda.device.get_cublas_handle()),
        ):
            try:
                use()
            except Exception as error:  # of a library that is missing, CuPy raises what it likes
                raise MissingLibraryError(
                    f"backend 'cupy': expected {what}; found that it cannot be used ({type(error).__name__}: {error}); "
                    "install it with: python -m pip install 'blocksim[gpu-cuda12]' (or gpu-cuda13)"
                ) from error

    @_guarded("preparing a layer or its input")
    def once(self, owner: Any, key: Hashable, make: Callable[[], T]) -> T:
        """One on each device, that any stream of it may use: those that did not make it wait until it is there."""
        cuda = self.cupy.cuda
        made = self._made.setdefault(owner, {})
        place = (key, cuda.Device().id)
        stream = cuda.get_current_stream()
        if place not in made:
            value = make()
            ready = cuda.Event(disable_timing=True)
            ready.record(stream)
            made[place] = (value, ready, stream.ptr)
        value, ready, maker = made[place]
        if stream.ptr != maker:
            stream.wait_event(ready)
        return value

    def owns(self, array: Any) -> bool:
        """Arrays of CuPy."""
        return isinstance(array, self.cupy.ndarray)

    @_guarded("copying an array to the device")
    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """On the device, C-contiguous; what is on the host is converted there."""
        if self.owns(array):
            return self.cupy.ascontiguousarray(array, dtype=dtype)
        array = np.ascontiguousarray(array, dtype=dtype)
        self.copies.count_to_device(array.nbytes)
        return self.cupy.asarray(array)

    def to_numpy(self, array: Array) -> np.ndarray:
        """On the host."""
        self.copies.count_to_host(array.nbytes)
        with self._device("copying a result to the host"):  # where a kernel's failure shows itself
            found: np.ndarray = self.cupy.asnumpy(array)
        return found

    @_guarded("copying results to the host")
    def fetch(self, arrays: Sequence[Array]) -> list[np.ndarray]:
        """On the host, by one copy: for small arrays, which it would take longer to wait for one by one."""
        joined = self.to_numpy(self.cupy.concatenate([array.ravel().view(np.uint8) for array in arrays]))
        parts = np.split(joined, np.cumsum([array.nbytes for array in arrays])[:-1])
        return [part.copy().view(array.dtype).reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]

    @_guarded("allocating an array")
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """cupy.empty."""
        return self.cupy.empty(shape, dtype)

    def describe(self) -> dict[str, str]:
        """The device, and what is scanned there."""
        device = self.cupy.cuda.Device()
        name = self.cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
        scanned = {True: "all", False: "none", None: f"up to {self._most_scanned(SIDE_BY_SIDE)} neurons x samples"}[
            self.scan
        ]
        return {
            "device": f"{device.id}, {name}, compute capability {device.compute_capability}",
            "scanned over time": f"{scanned}, without recurrence: equal to rounding, not to the last bit",
        }

    def check_surrogate(self, surrogate: Surrogate) -> None:
        """Kernels hold copies of the package's own surrogates only."""
        require_compiled(surrogate, self.name)

    @_guarded("looking for spikes in the input")
    def events(self, x: Array) -> Input | None:
        """Spike counts as bytes on the device, which kernels read as they are (docs/performance.md, "On a GPU").

        x may be on the host or on the device. Flags that are there already are taken as they are, unseen.
        """
        if self.owns(x) and x.dtype == np.bool_:
            return self.asarray(x)
        inputs = x.shape[2]
        if x.dtype.itemsize == 1 or self.owns(x):
            x = self.asarray(x)
            counts = x.view(np.uint8) if x.dtype == np.bool_ else x
            row = counts.reshape(-1, inputs).sum(axis=1, dtype=np.float64)
            least, most, spikes = self.fetch([counts.min(), counts.max(), row.max()])
            if least < 0 or most > BYTE or spikes > MAX_SPIKES * inputs:
                return None
            return x if x.dtype == np.bool_ else counts.astype(np.uint8, copy=False)
        rows = x.reshape(-1, inputs)
        if not spike_rows(rows[:1]).all() or not spike_rows(rows).all():
            return None
        return self.asarray(x, np.uint8) if x.max() <= BYTE else Events.from_dense(x)

    @_guarded("computing input currents")
    def projection(self, x: Input, weights: Array, out: Array) -> None:
        """Equation (2): event by event, from bytes, or for real-valued input cuBLAS' matrix product."""
        whole = self.asarray(out)
        if isinstance(x, Events):
            indptr, indices = self._on_device(x)
            self.launch("add_events", weights.dtype, tiles(x.shape[0] * x.shape[1], weights.shape[1]))(
                indptr, indices, weights, whole, np.int32(weights.shape[1])
            )
        elif x.dtype.itemsize == 1:
            self._add_input(self.asarray(x), weights, whole)
        else:
            whole += x @ weights
        if whole is not out:
            out[...] = whole

    @_guarded("computing the gradient of weights")
    def projection_adjoint(self, x: Input, grad_current: Array) -> Array:
        """Equation (11): a sum over each input's events, or a matrix product."""
        size = grad_current.shape[2]
        grad_current = self.asarray(grad_current)
        batch, steps, inputs = x.shape
        if not isinstance(x, Events):
            # spikes as numbers take two, four or eight times their memory: so many samples at a time
            samples = batch if x.dtype == grad_current.dtype else max(MAX_CONVERTED // (steps * inputs), 1)
            on_tensor_cores = x.dtype.itemsize == 1 and grad_current.dtype == np.float32
            grad = None
            for start in range(0, batch, samples):
                rows = x[start : start + samples].reshape(-1, inputs)
                above = grad_current[start : start + samples].reshape(-1, size)
                if on_tensor_cores:
                    part = self._product_of_bytes(rows, above)
                else:
                    part = rows.astype(grad_current.dtype, copy=False).T @ above
                grad = part if grad is None else grad + part
            return grad
        row_of, starts = self._by_input(x)
        grad = self.empty((inputs, size), grad_current.dtype)
        self.launch("gather_gradient", grad_current.dtype, tiles(inputs, size))(
            row_of, starts, grad_current, grad, np.int32(size)
        )
        return grad

    def _product_of_bytes(self, rows: Array, above: Array) -> Array:
        """rows (M, K), bytes, transposed, times above (M, N), float32: on tensor cores, at full precision.

        Bytes are bfloat16 exactly, and a float is the sum of three of them; products of bfloat16 are summed in float32.
        """
        cublas, runtime = self.cupy.cuda.cublas, self.cupy.cuda.runtime
        (number, inputs), size = rows.shape, above.shape[1]
        left, right = self.empty(rows.shape, np.uint16), self.empty((number, 3 * size), np.uint16)
        thirds = self.empty((inputs, 3 * size), np.float32)
        self.launch("bytes_as_bfloat", None, units(-(-rows.size // EACH)))(
            self.asarray(rows), left, np.int64(rows.size)
        )
        self.launch("floats_in_thirds", None, tiles(-(-number // EACH), size))(
            above, right, np.int64(number), np.int32(size)
        )
        with self._of_host(np.ones(1, np.float32), np.zeros(1, np.float32)) as (handle, one, zero):
            # as in add_product, cuBLAS sees the transposes
            cublas.gemmEx(
                handle, cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T, 3 * size, inputs, number, one, right.data.ptr,
                runtime.CUDA_R_16BF, 3 * size, left.data.ptr, runtime.CUDA_R_16BF, inputs, zero, thirds.data.ptr,
                runtime.CUDA_R_32F, 3 * size, cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT,
            )  # fmt: skip
        return thirds.reshape(inputs, 3, size).sum(axis=1)

    @_guarded("filtering")
    def leaky_filter(self, x: Array, decay: float, reverse: bool = False) -> Array:
        """Equation (18), one thread a neuron of a sample."""
        batch, steps, size = x.shape
        kind = x.dtype.type
        y = self.empty(x.shape, x.dtype)
        self.launch("leaky_filter", x.dtype, units(batch * size))(
            self.asarray(x), y, kind(decay), np.int32(reverse), np.int64(batch * size), np.int32(size), np.int32(steps),
            kind(tiny(x.dtype)),
        )  # fmt: skip
        return y

    def layer_forward(self, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan) -> ForwardResult:
        """Simulate a layer."""
        batch, steps = x.shape[:2]
        traces = 1 + plan.record_threshold + (plan.record_voltage or plan.tape)
        needed = batch * steps * layer.size * (1 + traces * layer.dtype.itemsize)
        with self._device(f"simulating {batch} samples of {steps} steps, about {needed / 1e9:.3g} GB"):
            return dynamics.forward(self, layer, x, carry, history, plan, self._scans(layer, plan))

    def layer_adjoint(
        self,
        layer: LayerArrays,
        x: Input,
        tape: Tape,
        rule: AdjointRule,
        grad_spikes: SpikeGradient,
        grad_voltage: Array | None,
        grad_carry: AdjointCarry,
        grad_history: Array,
    ) -> AdjointResult:
        """Differentiate a layer."""
        batch, steps, size = tape.spikes.shape
        needed = 2 * batch * steps * size * layer.dtype.itemsize
        with self._device(f"differentiating {batch} samples of {steps} steps, about {needed / 1e9:.3g} GB"):
            return dynamics.adjoint(self, layer, x, tape, rule, grad_spikes, grad_voltage, grad_carry, grad_history)

    def linear_layer_forward(
        self, layer: LinearLayer, x: Input, carry: LinearCarry, history: Array, plan: Plan
    ) -> ForwardResult:
        """Simulate a layer of the linear family."""
        batch, steps = x.shape[0], x.shape[1] - layer.lead
        kept = (1 + 2 * len(layer.alpha)) * plan.tape + (not plan.tape and plan.record_voltage) + plan.record_threshold
        currents = 1 + len(layer.alpha) if layer.inputs or layer.recurrent else 0
        needed = batch * steps * layer.size * (1 + (kept + currents) * layer.dtype.itemsize)
        with self._device(f"simulating {batch} samples of {steps} steps, about {needed / 1e9:.3g} GB"):
            return linear.forward(self, layer, x, carry, history, plan)

    def linear_layer_adjoint(
        self,
        layer: LinearLayer,
        x: Input,
        tape: LinearTape,
        rule: AdjointRule,
        grad_spikes: SpikeGradient,
        grad_voltage: Array | None,
        grad_carry: LinearAdjointCarry,
        grad_history: Array,
    ) -> AdjointResult:
        """Differentiate a layer of the linear family."""
        batch, steps, size = tape.traces.spikes.shape
        needed = (2 + len(layer.alpha)) * batch * steps * size * layer.dtype.itemsize
        with self._device(f"differentiating {batch} samples of {steps} steps, about {needed / 1e9:.3g} GB"):
            return linear.adjoint(self, layer, x, tape, rule, grad_spikes, grad_voltage, grad_carry, grad_history)

    @_guarded("adding recurrent currents")
    def add_spikes(
        self, spikes: Array, history: Array | None, weights: Array, out: Array, begin: int, rows: int, latency: int
    ) -> None:
        """Add the currents of bytes `latency` steps ago to steps begin .. begin + rows of `out`."""
        batch, steps, inputs = spikes.shape
        size = weights.shape[1]
        counts = int(spikes.dtype == np.uint8)
        self.launch("add_spikes", weights.dtype, tiles(batch * rows, size), counts)(
            spikes, history, weights, out, np.int32(inputs), np.int32(size), np.int32(steps), np.int32(begin),
            np.int32(rows), np.int32(latency),
        )  # fmt: skip

    def _add_input(self, x: Array, weights: Array, out: Array) -> None:
        """Add the currents of bytes to `out`: with the weights in shared memory, part by part, where rows are many."""
        inputs, size = weights.shape
        rows = x.shape[0] * x.shape[1]
        multiprocessors = self.of_device("MultiProcessorCount")
        if rows < multiprocessors * WARP:
            self.add_spikes(x, None, weights, out, 0, x.shape[1], 0)
            return
        wide = 1 if size <= WARP else 2 if size <= 2 * WARP else 4
        row = wide * WARP * weights.itemsize  # bytes of an input's weights
        most = self.of_device("MaxSharedMemoryPerBlockOptin")
        parts = -(-inputs * row // (most // row * row))
        part = -(-inputs // parts)
        slices = -(-size // (wide * WARP))
        grid = (max(multiprocessors * (2 if 2 * part * row <= most else 1) // slices, 1), slices)
        counts = int(x.dtype == np.uint8)
        self.launch("add_input", weights.dtype, grid, counts, wide, threads=MAX_THREADS, shared=part * row)(
            x, weights, out, np.int32(inputs), np.int32(size), np.int64(rows), np.int32(part)
        )

    @contextmanager
    def _device(self, doing: str) -> Iterator[None]:
        """Turn the device's errors into ours; within another such block the outer one words them."""
        if getattr(self._within, "guarded", False):
            yield
            return
        cuda = self.cupy.cuda
        self._within.guarded = True
        try:
            yield
        except cuda.memory.OutOfMemoryError as error:
            free, total = cuda.Device().mem_info
            raise DeviceError(
                f"backend 'cupy': expected enough device memory for {doing}; found {free / 1e9:.3g} GB free of "
                f"{total / 1e9:.3g} GB ({error}); use tape='checkpoint', a smaller batch, or record less"
            ) from error
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError, cuda.cublas.CUBLASError) as error:
            raise DeviceError(
                f"backend 'cupy': the device failed while {doing}: {error}; results since are lost, and the process "
                "may have to be started anew"
            ) from error
        finally:
            self._within.guarded = False

    def _scans(self, layer: LayerArrays, plan: Plan) -> bool:
        """Whether a layer is scanned: decided by the whole run, so that parts of it computed again are, too."""
        if layer.recurrent is not None or plan.paper or self.scan is False:
            return False
        return self.scan is True or plan.batch * layer.size <= self._most_scanned(layer.size)

    def _most_scanned(self, neurons: int) -> int:
        """Up to how many neurons of samples a scan is the faster: measured (docs/performance.md, "On a GPU")."""
        resident = self.of_device("MultiProcessorCount") * self.of_device("MaxThreadsPerMultiProcessor")
        return resident // WARP * 3 // 4 * SIDE_BY_SIDE // min(neurons, SIDE_BY_SIDE)

    def of_device(self, attribute: str) -> int:
        """An attribute of the current device, by CUDA's name."""
        runtime = self.cupy.cuda.runtime
        return int(runtime.deviceGetAttribute(getattr(runtime, f"cudaDevAttr{attribute}"), self.cupy.cuda.Device().id))

    def values(self, layer: LayerArrays) -> Array:
        """A layer's parameters as kernels read them."""
        stack = self.cupy.stack
        return self.once(layer, "values", lambda: stack(layer.neuron.arrays()))

    def _on_device(self, x: Events) -> tuple[Array, Array]:
        """The events' arrays."""
        return self.once(x, "events", lambda: (self.asarray(x.indptr), self.asarray(x.indices)))

    def _by_input(self, x: Events) -> tuple[Array, Array]:
        """Rows of events, sorted by input and then by row; and where each input's begin."""
        return self.once(x, "by input", lambda: self._sorted_by_input(x))

    def _sorted_by_input(self, x: Events) -> tuple[Array, Array]:
        indptr, indices = self._on_device(x)
        rows = x.shape[0] * x.shape[1]
        row_of = self.empty(indices.shape, np.int64)
        self.launch("rows_of_events", None, units(rows))(indptr, np.int64(rows), row_of)
        order = self.cupy.argsort(indices.astype(np.int64) * rows + row_of)
        edges = self.cupy.arange(x.shape[2] + 1, dtype=np.int32)
        starts = self.cupy.searchsorted(indices[order], edges).astype(np.int64)
        return row_of[order], starts

    @_guarded("differentiating recurrent connections")
    def add_product(self, rows: Array, weights: Array, out: Array) -> None:
        """out INOUT (B, t, N) += rows IN (B, t, M) times the transpose of weights IN (N, M), the recurrent term of (7).

        The first two are stretches of time of C-contiguous arrays: one call of cuBLAS that reads and adds in place, of
        whatever stride from sample to sample. (A product of CuPy's would copy both, and add in a launch of its own.)
        """
        cublas = self.cupy.cuda.cublas
        batch, steps, inner = rows.shape
        size = weights.shape[0]
        kind, product = (
            (np.float32, cublas.sgemmStridedBatched) if rows.dtype == np.float32
            else (np.float64, cublas.dgemmStridedBatched)
        )  # fmt: skip
        with self._of_host(np.ones(1, kind)) as (handle, one):
            # cuBLAS counts columns first: what it sees are the transposes of these arrays, and of their product
            product(
                handle, cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, size, steps, inner, one, weights.data.ptr, inner, 0,
                rows.data.ptr, inner, rows.strides[0] // rows.itemsize, one, out.data.ptr, size,
                out.strides[0] // out.itemsize, batch,
            )  # fmt: skip

    @contextmanager
    def _of_host(self, *numbers: np.ndarray) -> Iterator[tuple[int, ...]]:
        """A handle of cuBLAS, and where numbers of the host are, which cuBLAS reads before it returns."""
        cublas = self.cupy.cuda.cublas
        handle = self.cupy.cuda.device.get_cublas_handle()
        before = cublas.getPointerMode(handle)
        cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_HOST)
        try:
            yield (handle, *(number.ctypes.data for number in numbers))
        finally:
            cublas.setPointerMode(handle, before)
