"""A layer: neurons with their connections, synapses and bias, equations (2) and (27), checked once and frozen.

Owns the shapes that belong together; `blocksim._layer_arrays` turns a layer into the arrays a backend computes with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from blocksim._connections import Connection, Synapse, matrix
from blocksim._milliseconds import MAX_STEPS
from blocksim._neurons import Neuron
from blocksim._parameters import held, parameter, parts, replacements, tuple_of, values, with_values
from blocksim._validation import found, whole_number
from blocksim._validation import parameter as checked
from blocksim.errors import ArgumentError


@dataclass(frozen=True, eq=False, init=False)
class Layer:
    """One layer of neurons and its connections.

    Parameters
    ----------
    neuron : LIF, ALIF, LinearIF or another neuron
        The neurons; parameters given as arrays must have one value a neuron.
    weights : (K, N) array or None
        Input weights: x[t] @ weights is the current. None without `inputs`: the input is the current itself, of shape
        (..., N), or (..., 1) for one current shared by all neurons.
    bias : float, (N,) array or None
        Constant current, None for zero.
    recurrent : (N, N) array, sequence of Connection, or None
        Weights from spikes of this layer, row = from, column = to. None: no recurrence.
    latency_steps : int or None
        Steps D from a spike to its recurrent current, at least 1, where `recurrent` is an array; Connections have
        delays of their own. None gives the (shortest) refractory period + 1, the longest block; with a shorter latency,
        blocks are only that long.
    inputs : sequence of Connection
        Connections that read x, in place of `weights`; each with a delay and a receptor of its own. They are kept as
        the field `input_connections`, because `inputs` is the number of inputs.
    synapses : sequence of Exponential, Alpha or None
        The receptors by number. None, or a number beyond them: a receptor without a time course. `weights`, an array
        `recurrent`, and an input that is the current itself, act on receptor 0.

    Raises
    ------
    ArgumentError
        Shapes do not fit together, values are not finite, or the latency is no whole number of steps, 1 or more.

    Notes
    -----
    Arrays are copied: a layer does not change when the arrays it was made from do. Make a changed layer with
    `dataclasses.replace(layer, weights=...)`.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import LIF, Connection, Exponential, Layer
    >>> layer = Layer(LIF(beta=0.9, refractory_steps=4), weights=np.ones((3, 2)), recurrent=np.zeros((2, 2)))
    >>> layer.inputs, layer.size, layer.latency_steps
    (3, 2, 5)
    >>> Layer(LIF(beta=0.9, refractory_steps=4), recurrent=np.zeros((2, 2)), latency_steps=2).block_length
    2

    Excitatory and inhibitory inputs, each with a synapse and a delay:

    >>> excitatory = Connection(np.ones((3, 2)), delay_steps=1, synapse=0)
    >>> inhibitory = Connection(-np.ones((3, 2)), delay_steps=2, synapse=1)
    >>> layer = Layer(LIF(beta=0.9), inputs=[excitatory, inhibitory], synapses=[Exponential(0.8), Exponential(0.9)])
    >>> list(layer.parameters())[:4]
    ['beta', 'theta', 'inputs.0.weights', 'inputs.1.weights']
    """

    neuron: Neuron = parts("")
    weights: np.ndarray | None = parameter("input weights", axes=("input", "neuron"), unit="potential", default=None)
    bias: float | np.ndarray | None = parameter("constant current", unit="potential", default=None)
    recurrent: np.ndarray | tuple[Connection, ...] | None = parameter(
        "recurrent weights", axes=("neuron", "neuron"), unit="potential", default=None, parts="recurrent"
    )
    latency_steps: int | None = None
    input_connections: tuple[Connection, ...] = parts("inputs", default=())
    synapses: tuple[Synapse | None, ...] = parts("synapses", default=())

    def __init__(
        self,
        neuron: Neuron,
        weights: Any = None,
        bias: Any = None,
        recurrent: Any = None,
        latency_steps: int | None = None,
        *,
        inputs: Any = (),
        synapses: Any = (),
        input_connections: Any = (),
    ) -> None:
        given = {
            "neuron": neuron, "weights": weights, "bias": bias, "latency_steps": latency_steps,
            # an iterator is used up by the first look at it
            "recurrent": tuple(recurrent) if isinstance(recurrent, Iterator) else recurrent,
            "input_connections": tuple_of(inputs) or input_connections, "synapses": synapses,
        }  # fmt: skip
        for name, value in given.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        if not isinstance(self.neuron, Neuron):
            raise ArgumentError(
                f"neuron: expected neurons, such as blocksim.LIF or blocksim.ALIF; found {found(self.neuron)}"
            )
        set_field = object.__setattr__
        sizes = {"neuron": self.neuron.size}
        set_field(self, "input_connections", _connections("inputs", self.input_connections))
        set_field(self, "synapses", _synapses(self.synapses))
        if self.synapses and self.neuron.synapses:
            raise ArgumentError(
                f"synapses: expected none for {type(self.neuron).__name__} neurons, which bring their own; found "
                f"{len(self.synapses)}"
            )
        if self.weights is not None:
            if self.input_connections:
                raise ArgumentError("weights, inputs: expected one of them; found both (inputs=[Connection(weights)])")
            set_field(self, "weights", matrix("weights", self.weights, "(inputs, neurons)"))
            sizes["weights"] = self.weights.shape[1]
        numbers = {each.weights.shape[0] for each in self.input_connections}
        if len(numbers) > 1:
            raise ArgumentError(
                f"inputs: expected connections from the same inputs; found {' and '.join(map(str, sorted(numbers)))} "
                "rows of weights"
            )
        if self.recurrent is not None and not _is_matrix(self.recurrent):
            if self.latency_steps is not None:
                raise ArgumentError(
                    "latency_steps: expected None where recurrent is a sequence of Connection, which have delays of "
                    f"their own; found {found(self.latency_steps)}"
                )
            set_field(self, "recurrent", _connections("recurrent", self.recurrent) or None)
        elif self.recurrent is not None:
            set_field(self, "recurrent", matrix("recurrent", self.recurrent, "(neurons, neurons)"))
            sizes["recurrent"] = square("recurrent", self.recurrent)
        for place, each in enumerate(self.input_connections):
            sizes[f"inputs[{place}]"] = each.weights.shape[1]
        for place, each in enumerate(self.recurrent_connections):
            sizes[f"recurrent[{place}]"] = square(f"recurrent[{place}]", each.weights)
            if each.shortest_delay < 1:
                raise ArgumentError(
                    f"recurrent[{place}]: expected a delay of at least 1 step; found 0 (a spike cannot act in the step "
                    "in which it is fired)"
                )
        for place, synapse in enumerate(self.synapses):
            sizes[f"synapses[{place}]"] = None if synapse is None else synapse.size
        if self.bias is not None:
            set_field(self, "bias", checked("bias", self.bias, "finite numbers", np.isfinite))
            sizes["bias"] = np.size(self.bias) if np.ndim(self.bias) else None
        known = {name: size for name, size in sizes.items() if size is not None}
        if len(set(known.values())) > 1:
            raise ArgumentError(
                "layer: expected one number of neurons throughout; found "
                + ", ".join(f"{size} from {name}" for name, size in known.items())
            )
        set_field(self, "_size", next(iter(known.values()), None))
        if self.recurrent_connections:
            return
        default = self.neuron.block_length
        latency = default if self.latency_steps is None else whole_number("latency_steps", self.latency_steps, 1)
        if latency > MAX_STEPS + 1:
            raise ArgumentError(f"latency_steps: expected at most {MAX_STEPS + 1}; found {latency}")
        set_field(self, "latency_steps", latency)

    @property
    def size(self) -> int | None:
        """Number of neurons N; None where nothing in the layer fixes it (then the input does)."""
        size: int | None = self._size  # type: ignore[attr-defined]
        return size

    @property
    def recurrent_connections(self) -> tuple[Connection, ...]:
        """The Connections of `recurrent`; none where it is an array."""
        return self.recurrent if isinstance(self.recurrent, tuple) else ()

    @property
    def receptors(self) -> tuple[Synapse | None, ...]:
        """The receptors by number: the layer's `synapses`, or those that its neurons bring."""
        return self.synapses or tuple(self.neuron.synapses)

    @cached_property
    def is_simple(self) -> bool:
        """Whether equations (1)-(6) describe it: LIF or ALIF neurons, without synapses or connections of their own."""
        others = (*self.receptors, *self.input_connections, *self.recurrent_connections)
        return self.neuron.is_simple and not any(part is not None for part in others)

    @cached_property
    def recurrent_delays(self) -> tuple[int, int] | None:
        """The shortest and the longest recurrent delay in steps; None without recurrence."""
        each = self.recurrent_connections
        if each:
            return min(one.shortest_delay for one in each), max(one.longest_delay for one in each)
        if self.recurrent is None:
            return None
        assert self.latency_steps is not None
        return self.latency_steps, self.latency_steps

    @cached_property
    def block_length(self) -> int:
        """Longest exact block in steps: the shortest refractory period plus one, or the shortest recurrent delay."""
        longest = self.neuron.block_length
        return longest if self.recurrent_delays is None else min(longest, self.recurrent_delays[0])

    @property
    def inputs(self) -> int | None:
        """Number of inputs K; None without weights."""
        for array in (self.weights, *(each.weights for each in self.input_connections)):
            if array is not None:
                return int(array.shape[0])
        return None

    @cached_property
    def floating_dtypes(self) -> frozenset[np.dtype[Any]]:
        """The dtypes of the layer's floating arrays: what the computing precision is chosen from."""
        arrays = [each.value for each in held(self).values()]
        return frozenset(a.dtype for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f")

    def parameters(self) -> dict[str, np.ndarray]:
        """The layer's parameters and those of its neurons, connections and synapses, by name: all that have a gradient.

        Parameters that are one number for all neurons are arrays without axes. Those of connection i of the inputs
        begin with "inputs.i.", of recurrent ones with "recurrent.i.", of synapse i with "synapses.i.", of component i
        of the neurons with "components.i.".
        """
        return dict(self._values)

    @cached_property
    def _values(self) -> dict[str, np.ndarray]:
        return values(self)

    def with_parameters(self, parameters: Mapping[str, Any]) -> Layer:
        """A layer with these parameters in place of its own, all or some, named as `parameters` names them.

        Raises
        ------
        ArgumentError
            A name is unknown, or a value has another shape than the parameter, or is out of its range.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim import LIF, Layer
        >>> Layer(LIF(beta=0.9), np.ones((2, 3))).with_parameters({"beta": 0.5}).neuron.beta
        0.5
        """
        return with_values(self, replacements("", self.parameters(), dict(parameters)))


def square(name: str, weights: Any) -> int:
    """The number of neurons of recurrent weights; raises `ArgumentError` unless they are square."""
    rows, columns = weights.shape
    if rows != columns:
        raise ArgumentError(f"{name}: expected a square (neurons, neurons) array; found {rows} x {columns}")
    return int(columns)


def _is_matrix(value: Any) -> bool:
    """Whether recurrent weights are an array, and no Connections."""
    given = tuple_of(value)
    return isinstance(value, np.ndarray) or (bool(given) and not any(isinstance(each, Connection) for each in given))


def _connections(name: str, value: Any) -> tuple[Connection, ...]:
    given: tuple[Connection, ...] = tuple_of(value)
    for each in given:
        if not isinstance(each, Connection):
            raise ArgumentError(f"{name}: expected a sequence of blocksim.Connection; found {found(each)}")
    return given


def _synapses(value: Any) -> tuple[Synapse | None, ...]:
    given: tuple[Synapse | None, ...] = tuple_of(value)
    for each in given:
        if each is not None and not isinstance(each, Synapse):
            raise ArgumentError(
                f"synapses: expected a sequence of blocksim.Exponential, blocksim.Alpha or None; found {found(each)}"
            )
    return given
