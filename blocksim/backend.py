"""The Backend interface, and how backends are found.

Owns the interface and the registry. A backend is a class of seven small methods; `layer_forward` and `layer_adjoint`
compose them into whole runs and may be replaced by fused ones, which tests hold equal to the composed ones. Backends
register through the entry-point group ``blocksim.backends``, ours and other people's alike; the core imports none.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from blocksim import _blocks, _linear
from blocksim._events import Events
from blocksim._validation import found
from blocksim.arrays import (
    AdjointCarry,
    AdjointResult,
    AdjointRule,
    Array,
    BlockOutputs,
    Carry,
    Drive,
    ForwardResult,
    Input,
    LayerArrays,
    LinearAdjointCarry,
    LinearCarry,
    LinearLayer,
    LinearParameters,
    LinearTape,
    LinearTraces,
    NeuronArrays,
    Parameters,
    Plan,
    SpikeGradient,
    Tape,
)
from blocksim.errors import ArgumentError, MissingLibraryError
from blocksim.numerics import spike_rows, tiny
from blocksim.surrogates import Surrogate

GROUP = "blocksim.backends"


T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
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
        an array that ``blocksim.numerics.spike_rows`` takes for spikes) are added to `out` one spike at a time; in
        other rows each value is multiplied with its weights, and the product is rounded and added.

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
        sums: Parameters,
    ) -> AdjointCarry:
        """Differentiate one block, equations (7)-(10), (12) and the first of (11).

        Parameters: voltage IN (B, L, N), from the tape; spikes IN (B, L, N); start IN, what the block was handed;
        grad_spikes IN (B, L, N), with the recurrent term of (7) already in it; grad_voltage IN (B, L, N) or None;
        grad_carry IN, from the later block; grad_current OUT (B, L, N); sums INOUT. Returns what the earlier block
        is handed.
        """

    def linear_block_forward(
        self, drive: Drive, carry: LinearCarry, layer: LinearLayer, out: LinearTraces
    ) -> LinearCarry:
        """Compute one block of the linear family, equations (28)-(34) or, of stochastic layers, (39) for (32).

        A backend may lack it. Parameters: drive IN, with recurrent currents; carry IN; out OUT. Returns what the next
        block is handed; `remaining` of neurons that spiked is drawn by the core afterwards. Where `layer.imposed`,
        `out.spikes` is IN: neurons spike where it says so, if they are not refractory, and `remaining` stays.
        """
        raise NotImplementedError(f"backend {self.name!r} computes LIF and ALIF only")

    def linear_block_adjoint(
        self,
        traces: LinearTraces,
        start: LinearCarry,
        layer: LinearLayer,
        rule: AdjointRule,
        grad_spikes: Array,
        grad_voltage: Array | None,
        grad_carry: LinearAdjointCarry,
        grad: Drive,
        sums: LinearParameters,
    ) -> LinearAdjointCarry:
        """Differentiate one block of the linear family, equations (35)-(38); a backend may lack it.

        Parameters: traces IN, from the tape; start IN, what the block was handed; grad_spikes IN (B, L, N), with the
        recurrent term of (35) already in it; grad_voltage IN (B, L, N) or None; grad_carry IN, from the later block;
        grad OUT; sums INOUT. Returns what the earlier block is handed.
        """
        raise NotImplementedError(f"backend {self.name!r} computes LIF and ALIF only")

    def events(self, x: Array) -> Input | None:
        """The events of x (B, T, K) where every row is spikes by ``blocksim.numerics.spike_rows``; else None.

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

    def fast(self, function: F) -> F:
        """This backend's own version of a function that is composed of these methods; the function, if it has none."""
        return function

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

    @property
    def computes_family(self) -> bool:
        """Whether it computes layers of the linear family, and not LIF and ALIF alone."""
        kind = type(self)
        return (
            kind.linear_block_forward is not Backend.linear_block_forward
            or kind.linear_layer_forward is not Backend.linear_layer_forward
        )

    def of(self, layer: NeuronArrays) -> tuple[Callable[..., ForwardResult], Callable[..., AdjointResult]]:
        """What simulates a whole layer, and what differentiates it."""
        if isinstance(layer, LinearLayer):
            return self.linear_layer_forward, self.linear_layer_adjoint
        return self.layer_forward, self.layer_adjoint

    def adds_up(self, layer: NeuronArrays) -> bool:
        """Whether the adjoint of a layer adds up the parts of a `SpikeGradient` before anything else."""
        if isinstance(layer, LinearLayer):
            return type(self).linear_layer_adjoint is Backend.linear_layer_adjoint
        return type(self).layer_adjoint is Backend.layer_adjoint

    def layer_forward(self, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan) -> ForwardResult:
        """Simulate a whole layer; composed of the methods above unless a backend replaces it.

        Returns
        -------
        ForwardResult
            Spikes, the traces and the tape that `plan` asks for, and the carry after the last step.
        """
        return _blocks.forward(self, layer, x, carry, history, plan)

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
        """Differentiate a whole layer; composed of the methods above unless a backend replaces it.

        Returns
        -------
        AdjointResult
            Equations (11)-(13).
        """
        return _blocks.adjoint(self, layer, x, tape, rule, grad_spikes, grad_voltage, grad_carry, grad_history)

    def linear_layer_forward(
        self, layer: LinearLayer, x: Input, carry: LinearCarry, history: Array, plan: Plan
    ) -> ForwardResult:
        """Simulate a whole layer of the linear family; composed of the methods above unless a backend replaces it.

        x begins with the ``layer.lead`` steps before the run.

        Returns
        -------
        ForwardResult
            As from `layer_forward`.
        """
        return _linear.forward(self, layer, x, carry, history, plan)

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
        """Differentiate a whole layer of the linear family; composed as above.

        Returns
        -------
        AdjointResult
            Equations (35)-(38).
        """
        return _linear.adjoint(self, layer, x, tape, rule, grad_spikes, grad_voltage, grad_carry, grad_history)


class FusedBackend(Backend):
    """A backend whose kernels compute whole layers, and no single blocks."""

    @abstractmethod
    def layer_forward(self, layer: LayerArrays, x: Input, carry: Carry, history: Array, plan: Plan) -> ForwardResult:
        """Simulate a whole layer.

        Returns
        -------
        ForwardResult
            As from `Backend.layer_forward`.
        """

    @abstractmethod
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
        """Differentiate a whole layer.

        Returns
        -------
        AdjointResult
            As from `Backend.layer_adjoint`.
        """

    def block_forward(self, current: Array, carry: Carry, layer: LayerArrays, out: BlockOutputs) -> Carry:
        """Never called: `layer_forward` computes all blocks."""
        raise NotImplementedError(f"backend {self.name!r} computes whole layers")

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
        sums: Parameters,
    ) -> AdjointCarry:
        """Never called: `layer_adjoint` computes all blocks."""
        raise NotImplementedError(f"backend {self.name!r} computes whole layers")


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
        ours = (error.name or "").startswith("blocksim")  # no library is missing where a part of the package is
        hint = "" if ours else f"; install it with: {entry.install}"
        raise MissingLibraryError(f"backend {name!r}: importing it failed: {error}{hint}") from error
    except Exception as error:  # a broken library may raise anything; what is wrong with one backend is told, not met
        raise MissingLibraryError(
            f"backend {name!r}: it failed to start: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    return backend


def get_backend(backend: Any) -> Backend:
    """Return the backend of that name, ``"auto"`` for the fastest that is ready, or a `Backend` object itself.

    Nothing falls back silently.

    Raises
    ------
    ArgumentError
        There is no backend of that name, or it is neither a name nor a `Backend`; the message lists the names.
    MissingLibraryError
        The backend's library is not installed, or fails to start; or no backend is registered, so blocksim is not
        installed. The message names what to install.

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
