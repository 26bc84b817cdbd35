"""The CuPy backend's host side: allocates what kernels write, launches, and composes launches over blocks.

Owns the choice of launches. A layer without recurrence is one launch of the dynamics for the whole run, a recurrent one
two for each block: the spikes of D steps ago are in earlier blocks. Kernels are in kernels.cu, which cites the
equations; each template is compiled when first needed, and kept by CuPy.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    Carry,
    ForwardResult,
    Input,
    LayerArrays,
    ParameterSums,
    Plan,
    Tape,
)
from blocksim.backend import FusedBackend
from blocksim.blocks import spans
from blocksim.errors import DeviceError, MissingLibraryError
from blocksim.events import Events
from blocksim.numerics import tiny
from blocksim.surrogates import Surrogate, kernel_scales, require_compiled

THREADS = 128  # of a block of threads: whole warps, and enough blocks for small layers
SOURCE = Path(__file__).with_name("kernels.cu")
OPTIONS = ("-std=c++17",)
WARP = 32  # threads, and the steps of a scan


class CupyBackend(FusedBackend):
    """Arrays of CuPy on the current device.

    `scan`: in layers without recurrence, a warp takes 32 steps of a neuron at once, by a parallel scan: for few neurons
    and long recordings. Potentials and gradients are then equal to rounding, and not to the last bit, so that a spike
    may differ where a potential all but touches the threshold. (gradient="paper" is not scanned.) `cupy` may be a
    module of the same names, which tests emulate it by.
    """

    name = "cupy"

    def __init__(self, cupy: Any = None, scan: bool = False) -> None:
        self.scan = scan
        self.cupy = importlib.import_module("cupy") if cupy is None else cupy
        if not self.cupy.cuda.is_available():
            raise MissingLibraryError(
                "backend 'cupy': expected an NVIDIA GPU and its driver; CuPy is installed but found none "
                "(nvidia-smi says what the driver sees)"
            )
        self._uploaded: WeakKeyDictionary[Events, tuple[Array, Array]] = WeakKeyDictionary()
        self._kernel = cache(self._compile)

    def owns(self, array: Any) -> bool:
        """Arrays of CuPy."""
        return isinstance(array, self.cupy.ndarray)

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """On the device, C-contiguous."""
        return self.cupy.ascontiguousarray(self.cupy.asarray(array, dtype=dtype))

    def to_numpy(self, array: Array) -> np.ndarray:
        """On the host."""
        with self._device("copying a result to the host"):  # where a kernel's failure shows itself
            found: np.ndarray = self.cupy.asnumpy(array)
        return found

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """cupy.empty."""
        return self.cupy.empty(shape, dtype)

    def describe(self) -> dict[str, str]:
        """The device."""
        device = self.cupy.cuda.Device()
        return {"device": f"{device.id}, compute capability {device.compute_capability}"}

    def check_surrogate(self, surrogate: Surrogate) -> None:
        """Kernels hold copies of the package's own surrogates only."""
        require_compiled(surrogate, self.name)

    def projection(self, x: Input, weights: Array, out: Array) -> None:
        """Equation (2): event by event, from flags, or a matrix product."""
        whole = self.asarray(out)
        if isinstance(x, Events):
            indptr, indices = self._on_device(x)
            self._launch("add_events", weights.dtype, self._grid(x.shape[0] * x.shape[1], weights.shape[1]))(
                indptr, indices, weights, whole, np.int32(weights.shape[1])
            )
        elif x.dtype == np.bool_:
            self._add_spikes(self.asarray(x), None, weights, whole, 0, x.shape[1], 0)
        else:
            whole += x @ weights
        if whole is not out:
            out[...] = whole

    def projection_adjoint(self, x: Input, grad_current: Array) -> Array:
        """Equation (11): a sum over each input's events, or a matrix product."""
        size = grad_current.shape[2]
        grad_current = self.asarray(grad_current)
        if not isinstance(x, Events):
            rows = x.reshape(-1, x.shape[2]).astype(grad_current.dtype)
            return rows.T @ grad_current.reshape(-1, size)
        batch, steps, inputs = x.shape
        indptr, indices = self._on_device(x)
        row_of = self.empty(indices.shape, np.int64)
        rows = batch * steps
        self._launch("rows_of_events", None, self._units(rows))(indptr, np.int64(rows), row_of)
        # events lie row by row: by input, and by row among those of an input
        order = self.cupy.argsort(indices.astype(np.int64) * rows + row_of)
        edges = self.cupy.arange(inputs + 1, dtype=np.int32)
        starts = self.cupy.searchsorted(indices[order], edges).astype(np.int64)
        grad = self.empty((inputs, size), grad_current.dtype)
        self._launch("gather_gradient", grad_current.dtype, self._grid(inputs, size))(
            row_of[order], starts, grad_current, grad, np.int32(size)
        )
        return grad

    def leaky_filter(self, x: Array, decay: float, reverse: bool = False) -> Array:
        """Equation (18), one thread a neuron of a sample."""
        batch, steps, size = x.shape
        kind = x.dtype.type
        y = self.empty(x.shape, x.dtype)
        self._launch("leaky_filter", x.dtype, self._units(batch * size))(
            self.asarray(x), y, kind(decay), np.int32(reverse), np.int64(batch * size), np.int32(size), np.int32(steps),
            kind(tiny(x.dtype)),
        )  # fmt: skip
        return y

    def layer_forward(self, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan) -> ForwardResult:
        """Simulate a layer."""
        batch, steps = x.shape[:2]
        traces = 1 + plan.record_threshold + (plan.record_voltage or plan.tape)
        needed = batch * steps * layer.beta.shape[0] * (1 + traces * layer.beta.dtype.itemsize)
        with self._device(f"simulating {batch} samples of {steps} steps, about {needed / 1e9:.3g} GB"):
            return self.fused_forward(layer, x, carry, history, plan, self.scan)

    def layer_adjoint(
        self,
        layer: LayerArrays,
        x: Input,
        tape: Tape,
        rule: AdjointRule,
        grad_spikes: Array | None,
        grad_voltage: Array | None,
        grad_carry: AdjointCarry,
        grad_history: Array,
    ) -> AdjointResult:
        """Differentiate a layer."""
        batch, steps, size = tape.spikes.shape
        needed = 2 * batch * steps * size * layer.beta.dtype.itemsize
        with self._device(f"differentiating {batch} samples of {steps} steps, about {needed / 1e9:.3g} GB"):
            return self.fused_adjoint(
                layer, x, tape, rule, grad_spikes, grad_voltage, grad_carry, grad_history, self.scan
            )

    def fused_forward(
        self, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan, scan: bool = False
    ) -> ForwardResult:
        """Simulate a layer: one launch of the dynamics, or one for each block of a recurrent layer."""
        scan = scan and layer.recurrent is None and not (plan.tape and plan.paper)
        length = WARP if scan else plan.block_length
        dtype = layer.beta.dtype
        batch, steps = x.shape[:2]
        size = layer.beta.shape[0]
        shape = (batch, steps, size)
        given = layer.weights is None and layer.recurrent is None
        if given:
            current = x
        else:
            current = self.empty(shape, dtype)
            current[...] = layer.bias
            if layer.weights is None:
                current += x
            else:
                self.projection(x, layer.weights, current)
        shared = current.shape[2] == 1 and size > 1

        def trace(wanted: bool) -> Array | None:
            return self.empty(shape, dtype) if wanted else None

        spikes = self.empty(shape, np.bool_)
        voltage = trace(plan.record_voltage or (plan.tape and not plan.paper))
        threshold = trace(plan.record_threshold)
        free_voltage = trace(plan.tape and plan.paper)
        after = Carry(carry.voltage.copy(), carry.adaptation.copy(), carry.refractory.copy())
        starts = None
        if plan.tape:
            of_starts = (-(-steps // length), batch, size)
            starts = Carry(*(self.empty(of_starts, kind) for kind in (dtype, dtype, np.int32)))
        values = self._values(layer)
        pitches = (np.int64(steps * current.shape[2]), np.int64(current.shape[2]), np.int64(0 if shared else 1))
        before = (values, layer.refractory, current, *pitches, np.int32(given))
        state = (after.voltage, after.adaptation, after.refractory)
        shape_of_run = (np.int64(batch * size), np.int32(size), np.int32(steps))
        smallest = dtype.type(tiny(dtype))
        if scan:
            self._launch("forward_scan", dtype, self._units(batch * size * WARP))(
                *before, *state, spikes, voltage, threshold, *_three(starts), *shape_of_run, smallest
            )
        else:
            launch = self._launch("forward", dtype, self._units(batch * size))
            for start, stop in self._launches(layer, steps, length):
                if layer.recurrent is not None:
                    self._add_spikes(spikes, history, layer.recurrent, current, start, stop - start, history.shape[1])
                launch(
                    *before, *state, spikes, voltage, threshold, free_voltage, *_three(starts), *shape_of_run,
                    np.int32(start), np.int32(stop), np.int32(length), smallest,
                )  # fmt: skip
        tape = None
        if starts is not None:
            tape = Tape(length, free_voltage if plan.paper else voltage, spikes, starts, history)
        return ForwardResult(spikes, voltage if plan.record_voltage else None, threshold, after, tape)

    def fused_adjoint(
        self,
        layer: LayerArrays,
        x: Input,
        tape: Tape,
        rule: AdjointRule,
        grad_spikes: Array | None,
        grad_voltage: Array | None,
        grad_carry: AdjointCarry,
        grad_history: Array,
        scan: bool = False,
    ) -> AdjointResult:
        """Differentiate a layer: launches as in the forward pass, the last first."""
        dtype = layer.beta.dtype
        batch, steps, size = tape.spikes.shape
        latency = tape.history.shape[1]
        lambda_s = self.empty((batch, steps, size), dtype)
        lambda_s[...] = 0 if grad_spikes is None else grad_spikes
        before = self.empty((batch, latency, size), dtype)
        before[...] = 0
        held = min(latency, steps)  # spikes that the state after the run still holds
        if held:
            lambda_s[:, steps - held :] += grad_history[:, latency - held :]
            before[:, steps:] = grad_history[:, : latency - held]
        grad_current = self.empty((batch, steps, size), dtype)
        sums = self.empty((5, batch, size), np.float64)
        sums[...] = 0
        into = AdjointCarry(grad_carry.voltage.copy(), grad_carry.adaptation.copy())
        scan = scan and layer.recurrent is None and not rule.paper
        kind, smallest = rule.surrogate.kind, dtype.type(tiny(dtype))
        of_tape = (self._values(layer), layer.refractory, tape.voltage, tape.spikes, *_three(tape.starts))
        out = (lambda_s, grad_voltage, into.voltage, into.adaptation, grad_current, sums)
        rules = (*kernel_scales(rule.surrogate, dtype), np.int32(rule.through_reset), np.int32(rule.through_adaptation))
        shape_of_run = (np.int64(batch * size), np.int32(size), np.int32(steps))
        transposed = layer.recurrent.T if layer.recurrent is not None and rule.through_recurrent else None
        if scan:
            self._launch("adjoint_scan", dtype, self._units(batch * size * WARP), kind)(
                *of_tape, *out, *rules, *shape_of_run, smallest
            )
        else:
            kernel = "adjoint_of_paper" if rule.paper else "adjoint"
            launch = self._launch(kernel, dtype, self._units(batch * size), kind)
            scratch = self.empty(((2 if rule.paper else 1) * tape.block_length, batch, size), dtype)
            for start, stop in reversed(self._launches(layer, steps, tape.block_length)):
                if transposed is not None and start + latency < steps:  # the recurrent term of (7), one product a block
                    last = min(stop + latency, steps)
                    lambda_s[:, start : last - latency] += grad_current[:, start + latency : last] @ transposed
                launch(
                    *of_tape, *out, scratch, *rules, *shape_of_run, np.int32(start), np.int32(stop),
                    np.int32(tape.block_length), smallest,
                )  # fmt: skip
        recurrent = None
        if layer.recurrent is not None:
            early = min(latency, steps)
            if transposed is not None:  # (13)
                before[:, :early] += grad_current[:, :early] @ transposed
            recurrent = self.projection_adjoint(tape.history[:, :early], grad_current[:, :early])
            if steps > latency:
                recurrent += self.projection_adjoint(tape.spikes[:, : steps - latency], grad_current[:, latency:])
        weights = None if layer.weights is None else self.projection_adjoint(x, grad_current)
        return AdjointResult(grad_current, weights, recurrent, ParameterSums(*sums), into, before)

    def _add_spikes(
        self, spikes: Array, history: Array | None, weights: Array, out: Array, begin: int, rows: int, latency: int
    ) -> None:
        """Add the currents of flags `latency` steps ago to steps begin .. begin + rows of `out`."""
        batch, steps, inputs = spikes.shape
        size = weights.shape[1]
        self._launch("add_spikes", weights.dtype, self._grid(batch * rows, size))(
            spikes, history, weights, out, np.int32(inputs), np.int32(size), np.int32(steps), np.int32(begin),
            np.int32(rows), np.int32(latency),
        )  # fmt: skip

    @contextmanager
    def _device(self, doing: str) -> Iterator[None]:
        """Turn the device's errors into ours."""
        cuda = self.cupy.cuda
        try:
            yield
        except cuda.memory.OutOfMemoryError as error:
            free, total = cuda.Device().mem_info
            raise DeviceError(
                f"backend 'cupy': expected enough device memory for {doing}; found {free / 1e9:.3g} GB free of "
                f"{total / 1e9:.3g} GB ({error}); use tape='checkpoint', a smaller batch, or record less"
            ) from error
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            raise DeviceError(
                f"backend 'cupy': the device failed while {doing}: {error}; results since are lost, and the process "
                "may have to be started anew"
            ) from error

    def _launches(self, layer: LayerArrays, steps: int, length: int) -> list[tuple[int, int]]:
        if layer.recurrent is None:
            return [(0, steps)]
        return [(start, stop) for _, start, stop in spans(steps, length)]

    def _values(self, layer: LayerArrays) -> Array:
        return self.cupy.stack([layer.beta, layer.p, layer.b, layer.theta, layer.bias])

    def _on_device(self, x: Events) -> tuple[Array, Array]:
        """The events' arrays, copied to the device once."""
        if x not in self._uploaded:
            self._uploaded[x] = (self.asarray(x.indptr), self.asarray(x.indices))
        return self._uploaded[x]

    def _units(self, number: int) -> tuple[int, ...]:
        return (-(-number // THREADS),)

    def _grid(self, rows: int, neurons: int) -> tuple[int, ...]:
        return (rows, -(-neurons // THREADS))

    def _launch(self, kernel: str, dtype: Any, grid: tuple[int, ...], kind: int | None = None) -> Any:
        """A function that launches the kernel of this name and types with the arguments it is given."""
        types = [] if dtype is None else ["float" if dtype == np.float32 else "double"]
        types += [] if kind is None else [str(kind)]
        compiled = self._kernel(f"{kernel}<{', '.join(types)}>" if types else kernel)

        def launch(*arguments: Any) -> None:
            # a null pointer for what is not there
            compiled(grid, (THREADS,), tuple(np.intp(0) if a is None else a for a in arguments))

        return launch

    def _compile(self, expression: str) -> Any:
        module = self.cupy.RawModule(code=SOURCE.read_text(), options=OPTIONS, name_expressions=[expression])
        return module.get_function(expression)


def _three(starts: Carry | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if starts is None else (starts.voltage, starts.adaptation, starts.refractory)
