"""The Numba backend: the interface to its kernels, and the host side of those of `events`.

Owns the conversion of dense spikes to events, and the weight gradients; `launch` has the kernels of whole layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from blocksim import _distances, _imposed, _poisson
from blocksim._events import Events
from blocksim._linear import input_weight_gradients, receiving
from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Carry,
    Drive,
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
from blocksim.backend import FusedBackend, HostBackend
from blocksim.numerics import MAX_SPIKES, spike_rows
from blocksim.surrogates import Surrogate, require_compiled

from . import events, filters, forward, imposed, launch, linear_launch, poisson
from .buffers import as_rows, empty, plain, release
from .launch import FORWARD_BYTES, width_of
from .simd import number_of_lanes, width_for
from .threads import number_of_threads

F = TypeVar("F", bound=Callable[..., Any])
FEWEST = 4  # neurons from which their own kernel compares trains
GRADIENT_ITEMS = 8  # at least so many items of work in a weight gradient, each with a sum of its own


class NumbaBackend(FusedBackend, HostBackend):
    """Fused parallel loops on the CPU; arrays are NumPy's."""

    name = "numba"

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new array, of memory that was used before if there is some."""
        return empty(shape, dtype)

    def events(self, x: np.ndarray) -> Events | None:
        """Events of spike counts x (B, T, K) by parallel passes; None if x is something else, or many."""
        flat = plain(as_rows(x))
        # most real-valued input shows itself in its first row, without a pass over all of it
        return _listed(flat, x.shape) if spike_rows(flat[:1]).all() else None

    def leaky_filter(self, x: np.ndarray, decay: float, reverse: bool = False) -> np.ndarray:
        """Equation (18), many neurons at once."""
        return launch.leaky_filter(x, decay, reverse)

    def fast(self, function: F) -> F:
        """The distance of fits in a pass forward and one back; recorded sweeps and Poisson input in compiled loops."""
        own: Any = FAST.get(function, function)
        return own  # type: ignore[no-any-return]

    def release_memory(self) -> None:
        """Give back the memory that large arrays have left."""
        release()

    def describe(self) -> dict[str, str]:
        """Threads, and where compiled kernels are kept between processes, which NUMBA_CACHE_DIR may decide."""
        return {
            "threads": str(number_of_threads()),
            "kernel cache": forward.layer_forward.cache_path or f"none: {forward.layer_forward.why_not_kept}",
        }

    def check_surrogate(self, surrogate: Surrogate) -> None:
        """Kernels hold copies of the package's own surrogates only."""
        require_compiled(surrogate, self.name)

    def projection(self, x: Input, weights: np.ndarray, out: np.ndarray) -> None:
        """Equation (2), event by event or row by row."""
        total = np.ascontiguousarray(out)
        launch.project(_spikes_as_events(x), weights, total)
        if total is not out:
            out[...] = total

    def projection_adjoint(self, x: Input, grad_current: np.ndarray) -> np.ndarray:
        """Equation (11), by marked events or as a matrix product."""
        if isinstance(x, Events):
            return _event_gradient(x, np.ascontiguousarray(grad_current))
        if x.dtype == np.bool_:
            return _spike_gradient(x, np.ascontiguousarray(grad_current), 0)
        size = grad_current.shape[2]
        product: np.ndarray = x.reshape(-1, x.shape[2]).T @ grad_current.reshape(-1, size)
        return product

    def input_adjoint(self, grad_current: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Equation (11), without BLAS: its threads would hold the processors that the next kernel needs."""
        return launch.input_adjoint(grad_current, weights)

    def layer_forward(
        self, layer: LayerArrays, x: Input, carry: Carry, history: np.ndarray, plan: Plan
    ) -> ForwardResult:
        """Simulate a whole layer in one parallel region."""
        return launch.layer_forward(self, layer, x, carry, history, plan)

    def layer_adjoint(
        self,
        layer: LayerArrays,
        x: Input,
        tape: Tape,
        rule: AdjointRule,
        grad_spikes: SpikeGradient,
        grad_voltage: np.ndarray | None,
        grad_carry: AdjointCarry,
        grad_history: np.ndarray,
    ) -> AdjointResult:
        """Differentiate a whole layer in one parallel region, and its weights in another."""
        result = launch.layer_adjoint(self, layer, tape, rule, grad_spikes, grad_voltage, grad_carry, grad_history)
        weights = None if layer.weights is None else self.projection_adjoint(x, result.current)
        recurrent = None
        if layer.recurrent is not None:
            recurrent = _delayed_gradient(tape.spikes, tape.history, result.current, tape.history.shape[1])
        return replace(result, weights=weights, recurrent=recurrent)

    def linear_layer_forward(
        self, layer: LinearLayer, x: Input, carry: LinearCarry, history: np.ndarray, plan: Plan
    ) -> ForwardResult:
        """Simulate a whole layer of the linear family in one parallel region."""
        return linear_launch.layer_forward(self, layer, x, carry, history, plan)

    def linear_layer_adjoint(
        self,
        layer: LinearLayer,
        x: Input,
        tape: LinearTape,
        rule: AdjointRule,
        grad_spikes: SpikeGradient,
        grad_voltage: np.ndarray | None,
        grad_carry: LinearAdjointCarry,
        grad_history: np.ndarray,
    ) -> AdjointResult:
        """Differentiate a whole layer of the linear family in one parallel region, and its weights in others."""
        result = linear_launch.layer_adjoint(
            self, layer, tape, rule, grad_spikes, grad_voltage, grad_carry, grad_history
        )
        grad = Drive(result.current, result.filtered)
        recurrent = tuple(
            _delayed_gradient(
                tape.traces.spikes, tape.history, np.ascontiguousarray(receiving(grad, each.receptor)), each.delay
            )
            for each in layer.recurrent
        )
        return replace(result, weights=input_weight_gradients(self, layer, x, grad), recurrent=recurrent)


def _train_distance(
    engine: NumbaBackend, spikes: np.ndarray, *others: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """`blocksim._distances.composed`; neurons too few to fill lanes go with other samples."""
    if spikes.shape[2] < FEWEST:
        return _distances.composed(engine, spikes, *others)
    return launch.train_distance(spikes, *others)


FAST: dict[Callable[..., Any], Callable[..., Any]] = {
    _distances.composed: _train_distance,
    _distances.potential_sums: filters.potential_sums,
    _imposed.impose: imposed.impose,
    _imposed.potential_products: imposed.potential_products,
    _imposed.threshold_regressors: imposed.threshold_regressors,
    _poisson.counts: poisson.counts,
}


def _delayed_gradient(spikes: np.ndarray, history: np.ndarray, grad_current: np.ndarray, delay: int) -> np.ndarray:
    """Sum over spikes (B, T, N), and those of `history` before them, of dLoss/dI `delay` steps later: (N, N)."""
    gradient = _spike_gradient(spikes, grad_current, delay)
    last = history[:, history.shape[1] - delay :]
    if last.any():
        early = np.ascontiguousarray(grad_current[:, : min(delay, spikes.shape[1])])
        gradient += _spike_gradient(last[:, : early.shape[1]], early, 0)
    return gradient


def _spikes_as_events(x: Input) -> Input:
    return _all_events(x) if isinstance(x, np.ndarray) and x.dtype == np.bool_ else x


def _all_events(spikes: np.ndarray) -> Events:
    """Events of a bool array (B, T, N)."""
    events = _listed(as_rows(np.ascontiguousarray(spikes)), spikes.shape)
    assert events is not None
    return events


def _listed(flat: np.ndarray, shape: tuple[int, ...]) -> Events | None:
    """Events of spike counts (rows, K); None where they are something else, or many."""
    flat = flat.view(np.uint8) if flat.dtype == np.bool_ else flat
    rows, inputs = flat.shape
    words = empty((rows, -(-inputs // 64)), np.uint64)
    counts = empty(rows, np.int64)
    events.pack(rows, flat, words, counts, width_for(64))
    packed = not rows or counts.min() >= 0
    if not packed:
        events.count(rows, flat, MAX_SPIKES * inputs, counts)
        if counts.min() < 0:
            return None
    indptr = np.zeros(rows + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    indices = empty(indptr[-1], np.int32)
    if packed:
        events.unpack(rows, words, indptr, indices)
    else:
        events.repeat(rows, flat, indptr, indices)
    return Events.trusted(indptr, indices, shape)


def _event_gradient(x: Events, grad_current: np.ndarray) -> np.ndarray:
    """Sum over events of dLoss/dI: (K, N)."""
    batch, steps, inputs = x.shape
    spans = -(-steps // events.SPAN)
    marks = empty((batch, spans, inputs), np.uint64)
    repeats = empty(batch * spans, np.uint64)
    indptr, indices = plain(x.indptr), plain(x.indices)
    events.mark_events(batch * spans, indptr, indices, steps, marks, repeats)
    grad = _marks_gradient(marks, grad_current, 0)
    if repeats.any():
        width = width_of(FORWARD_BYTES, grad_current)
        tiles = -(-grad_current.shape[2] // number_of_lanes(width))
        events.add_repeats(tiles, indptr, indices, as_rows(grad_current), grad, width)
    return grad


def _spike_gradient(spikes: np.ndarray, grad_current: np.ndarray, shift: int) -> np.ndarray:
    """Sum over spikes (B, T, K) bool of dLoss/dI `shift` steps later: (K, N)."""
    batch, steps, size = spikes.shape
    spans = -(-steps // events.SPAN)
    marks = empty((batch, spans, size), np.uint64)
    events.mark_spikes(batch * spans, plain(spikes), marks, width_for(events.SPAN))
    return _marks_gradient(marks, grad_current, shift)


def _marks_gradient(marks: np.ndarray, grad_current: np.ndarray, shift: int) -> np.ndarray:
    """Sum over marks of dLoss/dI `shift` steps later: (K, N)."""
    batch, spans, inputs = marks.shape
    steps, size = grad_current.shape[1:]
    dtype = grad_current.dtype
    width = width_of(FORWARD_BYTES, grad_current)
    if size > number_of_lanes(width):  # twice as many columns share the reading of the marks
        width = width_for(2 * number_of_lanes(width))
    tiles = -(-size // number_of_lanes(width))
    # not the number of threads: the order of summation is the same on every machine
    shares = min(-(-GRADIENT_ITEMS // tiles), batch * spans)
    totals = empty((tiles, shares, inputs, number_of_lanes(width)), dtype)
    events.weight_gradient(
        tiles * shares, marks, plain(as_rows(grad_current)), steps, shift, shares,
        empty((tiles * shares, events.SPAN, number_of_lanes(width)), dtype), totals, width,
    )  # fmt: skip
    grad = empty((inputs, size), dtype)
    events.hand_out(inputs, totals, grad, width)
    return grad
