"""The Backend that the core is written against, and how backends are found.

Owns the interface and the registry. A backend is a class of seven small methods; `layer_forward` and `layer_adjoint`
compose them into whole runs and may be replaced by fused ones, which tests hold equal to the composed ones. Backends
register through the entry-point group ``blocksim.backends``, ours and other people's alike; the core imports none.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from blocksim import _blocks
from blocksim._events import Events
from blocksim._validation import found
from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    BlockOutputs,
    Carry,
    ForwardResult,
    Input,
    LayerArrays,
    ParameterSums,
    Plan,
    SpikeGradient,
    Tape,
)
from blocksim.errors import ArgumentError, MissingLibraryError
from blocksim.numerics import spike_rows, tiny
from blocksim.surrogates import Surrogate

GROUP = "blocksim.backends"


T = TypeVar("T")
# what backends have made of things that do not change; it goes when they go
_MADE: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


class Backend(ABC):
    """One way to compute. Arrays that methods take and return are the backend's own, C-contiguous or views of such.

    Methods check nothing: `blocksim.simulate` has. IN arrays are never written to.
    """

    name: str

    @abstractmethod
    def asarray(self, array: np.ndarray, dtype: Any = None) -> Array:
        """The backend's array with these values, C-contiguous; the same memory where that is possible."""

    @abstractmethod
    def to_numpy(self, array: Array) -> np.ndarray:
        """The NumPy array with these values."""

    def fetch(self, arrays: Sequence[Array]) -> list[np.ndarray]:
        """Small arrays as `to_numpy` gives them; a backend may copy them together."""
        return [self.to_numpy(array) for array in arrays]

    def owns(self, array: Any) -> bool:
        """Whether an array that a caller passes lies on this backend's device; what is computed of it then stays there.

        NumPy arrays never do.
        """
        del array
        return False

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A new array, uninitialised."""

    @abstractmethod
    def projection(self, x: Input, weights: Array, out: Array) -> None:
        """Add x @ weights to `out`: the first and the last term of (2).

        In ascending order of the input, so that every backend gives the same bits: rows of spikes (events, or rows of
        an array that `blocksim.numerics.spike_rows` takes for spikes) are added to `out` one spike at a time; in other
        rows each value is multiplied with its weights, and the product is rounded and added.

        Parameters: x IN (B, T, K); weights IN (K, N); out INOUT (B, T, N).
        """

    @abstractmethod
    def projection_adjoint(self, x: Input, grad_current: Array) -> Array:
        """Sum over samples and steps of x^T grad_current, equation (11), in an order fixed by the shapes alone.

        Parameters: x IN (B, T, K); grad_current IN (B, T, N). Returns (K, N).
        """

    def input_adjoint(self, grad_current: Array, weights: Array) -> Array:
        """dLoss/dx, equation (11): grad_current times the transpose of the weights. A backend may replace it.

        Parameters: grad_current IN (B, T, N); weights IN (K, N). Returns a new array (B, T, K).
        """
        batch, steps, size = grad_current.shape
        return (grad_current.reshape(batch * steps, size) @ weights.T).reshape(batch, steps, weights.shape[0])

    @abstractmethod
    def block_forward(self, current: Array, carry: Carry, layer: LayerArrays, out: BlockOutputs) -> Carry:
        """Compute one block, equations (1) and (3)-(6).

        Parameters: current IN (B, L, N); carry IN; out OUT. Returns what the next block is handed.
        """

    @abstractmethod
    def block_adjoint(
        self,
        voltage: Array,
        spikes: Array,
        start: Carry,
        layer: LayerArrays,
        rule: AdjointRule,
        grad_spikes: Array,
        grad_voltage: Array | None,
        grad_carry: AdjointCarry,
        grad_current: Array,
        sums: ParameterSums,
    ) -> AdjointCarry:
        """Differentiate one block, equations (7)-(10), (12) and the first of (11).

        Parameters: voltage IN (B, L, N), from the tape; spikes IN (B, L, N); start IN, what the block was handed;
        grad_spikes IN (B, L, N), with the recurrent term of (7) already in it; grad_voltage IN (B, L, N) or None;
        grad_carry IN, from the later block; grad_current OUT (B, L, N); sums INOUT. Returns what the earlier block
        is handed.
        """

    def events(self, x: Array) -> Input | None:
        """The events of x (B, T, K) where every row is spikes by `blocksim.numerics.spike_rows`; else None.

        A backend may replace it by a faster one, and return spikes in whatever form its own `projection`,
        `projection_adjoint` and `asarray` take. x is a NumPy array, or integers or flags that the backend `owns`.
        """
        rows = x.reshape(-1, x.shape[2])
        return Events.from_dense(x) if spike_rows(rows[:1]).all() and spike_rows(rows).all() else None

    def leaky_filter(self, x: Array, decay: float, reverse: bool = False) -> Array:
        """y[t] = decay y[t - 1] + x[t], equation (18), or from the last step on, y[t] = decay y[t + 1] + x[t].

        Parameters: x IN (B, T, N). Returns a new array of its shape and dtype. A backend may replace it by a
        faster one.
        """
        y = self.empty(x.shape, x.dtype)
        total = 0 * x[:, 0]
        steps = x.shape[1]
        for t in reversed(range(steps)) if reverse else range(steps):
            total = decay * total + x[:, t]
            total[abs(total) < tiny(x.dtype)] = 0
            y[:, t] = total
        return y

    def train_distance(
        self, spikes: Array, target: Array, columns: Array, decay: float, first: int, stops: Array, gradient: bool
    ) -> tuple[Array, Array, Array | None]:
        """Squared difference of filtered trains, the sum of (19), in two parts of time, and the filter back of (19).

        With y of (18) for x = S - S* from step `first` on, and no differences before it: `before` is the sum of y^2
        over the steps first .. stop - 1, `after` that over the steps from stop on, and the third, if wanted, is z of
        (19) for `before` alone, z[t] = decay z[t + 1] + y[t] for t < stop.

        Parameters: spikes IN (B, T, N) bool; target IN (B, T, C) dtype; columns IN (N,) int64, which target each
        neuron has; stops IN (B,) int64 on the host, first <= stop <= T. Returns before (B, N) float64, after (B, N)
        float64, z (B, T, N) dtype or None. A backend may replace it by a faster one.
        """
        x = spikes - target[:, :, columns]
        x[:, :first] = 0
        y = self.leaky_filter(x, decay)
        squares = (y * y).astype(np.float64)
        before, after = (self.empty((x.shape[0], x.shape[2]), np.float64) for _ in range(2))
        for sample, stop in enumerate(stops):
            before[sample] = squares[sample, :stop].sum(axis=0)
            after[sample] = squares[sample, stop:].sum(axis=0)
            y[sample, stop:] = 0
        if not gradient:
            return before, after, None
        z = self.leaky_filter(y, decay, reverse=True)
        z[:, :first] = 0
        return before, after, z

    def once(self, owner: Any, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, made when first asked for and kept for as long as `owner`, which does not change.

        A backend whose arrays lie on one of several devices keeps one of each.
        """
        made: dict[Any, T] = _MADE.setdefault(owner, {})
        place = (self, key)
        if place not in made:
            made[place] = make()
        return made[place]

    def release_memory(self) -> None:  # noqa: B027
        """Give back memory that lies idle, kept for the next arrays; a backend that keeps some replaces this.

        CuPy's pool is CuPy's: ``cupy.get_default_memory_pool().free_all_blocks()``.
        """

    def describe(self) -> dict[str, str]:
        """What a person may want to know about this backend on this machine, by name: for `blocksim info`."""
        return {}

    def check_surrogate(self, surrogate: Surrogate) -> None:
        """Raise `ArgumentError` if this backend cannot compute this surrogate; called before a run with a tape."""
        del surrogate  # any, unless a backend says otherwise

    def takes_products(self, layer: LayerArrays, rule: AdjointRule) -> bool:
        """Whether `layer_adjoint` of that layer takes dLoss/dS as a `FromAbove`; otherwise it is given the array."""
        del layer, rule
        return False

    def layer_forward(self, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan) -> ForwardResult:
        """Simulate a whole layer; composed of the methods above unless a backend replaces it."""
        return _blocks.forward(self, layer, x, carry, history, plan)

    def layer_adjoint(
        self,
        layer: LayerArrays,
        x: Input,
        tape: Tape,
        rule: AdjointRule,
        grad_spikes: SpikeGradient | None,
        grad_voltage: Array | None,
        grad_carry: AdjointCarry,
        grad_history: Array,
    ) -> AdjointResult:
        """Differentiate a whole layer; composed of the methods above unless a backend replaces it.

        `grad_spikes` is a `FromAbove` only where `takes_products` says so.
        """
        return _blocks.adjoint(self, layer, x, tape, rule, grad_spikes, grad_voltage, grad_carry, grad_history)


class FusedBackend(Backend):
    """A backend whose kernels compute whole layers: one block is a run of its own, of a layer without connections."""

    @abstractmethod
    def fused_forward(self, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan) -> ForwardResult:
        """What `layer_forward` promises."""

    @abstractmethod
    def fused_adjoint(
        self,
        layer: LayerArrays,
        x: Input,
        tape: Tape,
        rule: AdjointRule,
        grad_spikes: SpikeGradient | None,
        grad_voltage: Array | None,
        grad_carry: AdjointCarry,
        grad_history: Array,
    ) -> AdjointResult:
        """What `layer_adjoint` promises."""

    def layer_forward(self, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan) -> ForwardResult:
        """Simulate a whole layer by the fused kernels."""
        return self.fused_forward(layer, x, carry, history, plan)

    def layer_adjoint(
        self,
        layer: LayerArrays,
        x: Input,
        tape: Tape,
        rule: AdjointRule,
        grad_spikes: SpikeGradient | None,
        grad_voltage: Array | None,
        grad_carry: AdjointCarry,
        grad_history: Array,
    ) -> AdjointResult:
        """Differentiate a whole layer by the fused kernels."""
        return self.fused_adjoint(layer, x, tape, rule, grad_spikes, grad_voltage, grad_carry, grad_history)

    def block_forward(self, current: Array, carry: Carry, layer: LayerArrays, out: BlockOutputs) -> Carry:
        """The fused kernels, given one block's currents, the bias among them."""
        alone = replace(layer, bias=0 * layer.bias, weights=None, recurrent=None, latency=0)
        free = out.free_voltage is not None
        plan = Plan(
            batch=current.shape[0],
            block_length=current.shape[1],
            record_voltage=out.voltage is not None,
            record_threshold=out.threshold is not None,
            tape=free,
            paper=free,
        )
        nothing = self.empty((current.shape[0], 0, current.shape[2]), np.bool_)
        result = self.fused_forward(alone, self.asarray(current), carry, nothing, plan)
        traces = ((out.spikes, result.spikes), (out.voltage, result.voltage), (out.threshold, result.threshold))
        for target, source in traces:
            if target is not None:
                target[...] = source
        if out.free_voltage is not None and result.tape is not None:
            out.free_voltage[...] = result.tape.voltage
        return result.carry

    def block_adjoint(
        self,
        voltage: Array,
        spikes: Array,
        start: Carry,
        layer: LayerArrays,
        rule: AdjointRule,
        grad_spikes: Array,
        grad_voltage: Array | None,
        grad_carry: AdjointCarry,
        grad_current: Array,
        sums: ParameterSums,
    ) -> AdjointCarry:
        """The fused kernels on one block."""
        batch, length, size = spikes.shape
        alone = replace(layer, weights=None, recurrent=None, latency=0)
        starts = Carry(start.voltage[None], start.adaptation[None], start.refractory[None])
        voltage = self.asarray(voltage)
        tape = Tape(length, voltage, self.asarray(spikes), starts, self.empty((batch, 0, size), np.bool_))
        result = self.fused_adjoint(
            alone,
            voltage,  # stands for the input, which nothing is asked of without weights
            tape,
            rule,
            grad_spikes,
            None if grad_voltage is None else self.asarray(grad_voltage),
            grad_carry,
            self.empty((batch, 0, size), voltage.dtype),
        )
        grad_current[...] = result.current
        for name, total in vars(sums).items():
            total[...] += getattr(result.sums, name)
        return result.carry


class HostBackend(Backend):
    """A backend whose arrays are NumPy's."""

    def asarray(self, array: np.ndarray, dtype: Any = None) -> np.ndarray:
        """A C-contiguous NumPy array."""
        return np.ascontiguousarray(array, dtype=dtype)

    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        """The array itself."""
        return array

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """numpy.empty."""
        return np.empty(shape, dtype)


@dataclass(frozen=True)
class BackendEntry:
    """What an entry point of the group ``blocksim.backends`` names: enough to say if the backend is ready.

    Attributes
    ----------
    module, attribute : str
        Where the `Backend` class is; imported only when the backend is used.
    requires : tuple of str
        Import names of the libraries it needs.
    install : str
        Command that installs them.
    rank : int
        ``backend="auto"`` takes the highest that is ready. Those of blocksim: numpy 0, numba 10, cupy 20.
    """

    module: str
    attribute: str
    requires: tuple[str, ...]
    install: str
    rank: int = 0

    def missing(self) -> list[str]:
        """The required libraries that are not installed; found without importing them."""
        return [name for name in self.requires if importlib.util.find_spec(name) is None]


@cache
def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


@cache
def _load(name: str) -> Backend:
    entry: BackendEntry = _registered()[name].load()
    missing = entry.missing()
    if missing:
        raise MissingLibraryError(
            f"backend {name!r}: expected the library {', '.join(missing)}, which is not installed; "
            f"install it with: {entry.install}"
        )
    try:
        backend: Backend = getattr(importlib.import_module(entry.module), entry.attribute)()
    except MissingLibraryError:
        raise
    except ImportError as error:
        raise MissingLibraryError(
            f"backend {name!r}: importing it failed: {error}; install it with: {entry.install}"
        ) from error
    except Exception as error:  # a broken library may raise anything; what is wrong with one backend is told, not met
        raise MissingLibraryError(
            f"backend {name!r}: it failed to start: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    return backend


def get_backend(backend: Any) -> Backend:
    """Return the backend of that name, ``"auto"`` for the fastest that is ready, or a `Backend` object itself.

    Nothing falls back silently: a backend that is not ready raises `MissingLibraryError` naming what to install, an
    unknown name raises `ArgumentError` listing the names.

    Examples
    --------
    >>> from blocksim import get_backend
    >>> get_backend("numpy").name
    'numpy'
    """
    if isinstance(backend, Backend):
        return backend
    registered = _registered()
    if not registered:
        raise MissingLibraryError(
            "backends: expected entry points of the group 'blocksim.backends'; found none, so blocksim is not "
            "installed (python -m pip install .)"
        )
    if isinstance(backend, str) and backend == "auto":
        ready = [name for name, status in available_backends().items() if status == "ready"]
        return _load(max(ready, key=lambda name: registered[name].load().rank))
    if not isinstance(backend, str) or backend not in registered:
        raise ArgumentError(
            f"backend: expected one of {', '.join(map(repr, [*registered, 'auto']))}, or a blocksim.Backend object; "
            f"found {found(backend)}"
        )
    return _load(backend)


def available_backends() -> dict[str, str]:
    """Every registered backend by name: ``"ready"``, or why it is not and what to install.

    Examples
    --------
    >>> import blocksim
    >>> blocksim.available_backends()["numpy"]
    'ready'
    """
    status = {}
    for name in _registered():
        try:
            _load(name)
            status[name] = "ready"
        except MissingLibraryError as error:
            status[name] = str(error).removeprefix(f"backend {name!r}: ")
    return status
