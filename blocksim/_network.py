"""Networks: a sequence of layers, closed by a readout that turns the last layer's spikes into one number a class.

Owns what a network is, and its parameters by name; how it is run is `blocksim._network_run`, how its weights are made
`blocksim.initialisers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from blocksim._connections import matrix
from blocksim._layer import Layer
from blocksim._parameters import decay, decay_factor, held, parameter, replacements, trained, values
from blocksim._validation import choice, found, milliseconds
from blocksim._validation import parameter as checked
from blocksim.errors import ArgumentError
from blocksim.transforms import Decay, Transform

T = TypeVar("T")
DECODES = ("sum", "mean", "last", "max")


@dataclass(frozen=True, eq=False)
class LeakyReadout:
    """A readout of leaky integrators that do not spike, equation (23), decoded into one number a class.

    Parameters
    ----------
    weights : (N, C) array
        Weights from spikes of the last layer to the classes.
    bias : float, (C,) array or None
        Constant current, None for zero.
    beta : float
        Factor by which the readout's potential U decays in one step, in [0, 1); 0 for no memory.
    decode : {"sum", "mean", "last", "max"}
        Which number U over time becomes: its sum, as in Taylor et al. 2023, its mean, its last value or its largest.

    Raises
    ------
    ArgumentError
        Shapes do not fit, or a value is out of range or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import LeakyReadout
    >>> LeakyReadout(np.zeros((64, 10)), beta=0.9).classes
    10
    """

    weights: np.ndarray = parameter("weights", axes=("neuron", "class"), unit="potential")
    bias: float | np.ndarray | None = parameter("constant current", axes=("class",), unit="potential", default=None)
    beta: float = decay("decay of the potential in one step", "tau_mem", Decay(0.5, 1e4), axes=(), default=0.9)
    decode: str = "sum"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", matrix("readout: weights", self.weights, "(neurons, classes)"))
        if self.bias is not None:
            bias = checked("readout: bias", self.bias, "finite numbers", np.isfinite)
            if np.ndim(bias) and np.size(bias) != self.classes:
                raise ArgumentError(
                    f"readout: bias: expected one number, or one for each of {self.classes} classes; "
                    f"found {np.size(bias)}"
                )
            object.__setattr__(self, "bias", bias)
        beta = checked("readout: beta", self.beta, "a decay factor in [0, 1)", decay_factor)
        if np.ndim(beta):
            raise ArgumentError(f"readout: beta: expected one decay factor for all classes; found {found(beta)}")
        object.__setattr__(self, "beta", float(beta))
        choice("readout: decode", self.decode, DECODES)

    @property
    def inputs(self) -> int:
        """Number of neurons N of the last layer."""
        return int(self.weights.shape[0])

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.weights.shape[1])


@dataclass(frozen=True)
class CountReadout:
    """The spike counts of the last layer, one class a neuron."""


@dataclass(frozen=True, eq=False)
class Network:
    """Layers of neurons, each fed by the spikes of the one before, and a readout.

    Parameters
    ----------
    layers : sequence of Layer
        Of any neurons, feed-forward or recurrent. Each but the first has weights, and as many inputs as the layer
        before has neurons.
    readout : LeakyReadout or CountReadout
    dt : float or None
        Step in ms that its time constants, which are in steps, were made or trained for; None if unknown.
        `blocksim.training` refuses samples of another step; `dataclasses.replace(network, dt=...)` declares that they
        fit.

    Raises
    ------
    ArgumentError
        Layers do not fit together, or dt is no time above 0.

    Notes
    -----
    A spike reaches the next layer, and the readout, in the step in which it is fired. Layers pass spikes to each other
    as events.

    Examples
    --------
    >>> import numpy as np
    >>> import blocksim
    >>> neuron = blocksim.ALIF(beta=0.9, p=0.98, b=0.1, refractory_steps=10)
    >>> rng = np.random.default_rng(0)
    >>> sizes = [(20, 16), (16, 8)]
    >>> layers = [blocksim.Layer(neuron, weights=rng.normal(0.2, 0.3, size)) for size in sizes]
    >>> network = blocksim.Network(layers, blocksim.LeakyReadout(rng.normal(0, 0.3, (8, 3))))
    >>> run = blocksim.simulate(network, rng.random((5, 100, 20)) < 0.1)
    >>> run.output.shape
    (5, 3)
    """

    layers: tuple[Layer, ...]
    readout: LeakyReadout | CountReadout = CountReadout()
    dt: float | None = None

    def __post_init__(self) -> None:
        if self.dt is not None:
            object.__setattr__(self, "dt", milliseconds("dt", self.dt))
        given: Any = self.layers
        if (
            isinstance(given, Layer)
            or not isinstance(given, Iterable)
            or (isinstance(given, np.ndarray) and not given.ndim)
        ):
            raise ArgumentError(f"layers: expected a sequence of blocksim.Layer; found {found(given)}")
        layers = tuple(given)
        if not layers:
            raise ArgumentError("layers: expected at least one layer; found none")
        object.__setattr__(self, "layers", layers)
        for number, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise ArgumentError(f"layers[{number}]: expected a blocksim.Layer; found {found(layer)}")
            if number and layer.inputs is None:
                raise ArgumentError(
                    f"layers[{number}]: expected a layer with weights, from {layers[number - 1].size} neurons; found "
                    "one without"
                )
            if number and layer.inputs != layers[number - 1].size:
                raise ArgumentError(
                    f"layers[{number}]: expected weights from {layers[number - 1].size} inputs, the neurons of the "
                    f"layer before; found {layer.inputs}"
                )
        size = layers[-1].size
        if size is None:
            raise ArgumentError("layers[0]: expected a layer of a known number of neurons; found neither weights nor "
                                "an array among its parameters")  # fmt: skip
        if isinstance(self.readout, LeakyReadout):
            if self.readout.inputs != size:
                raise ArgumentError(
                    f"readout: expected weights from {size} neurons, those of the last layer; found "
                    f"{self.readout.inputs}"
                )
        elif not isinstance(self.readout, CountReadout):
            raise ArgumentError(f"readout: expected a LeakyReadout or a CountReadout; found {found(self.readout)}")

    @property
    def inputs(self) -> int | None:
        """Number of inputs K; None where the first layer has no weights."""
        return self.layers[0].inputs

    @property
    def classes(self) -> int:
        """Number of classes C: columns of the output."""
        if isinstance(self.readout, LeakyReadout):
            return self.readout.classes
        size = self.layers[-1].size
        assert size is not None
        return size

    @cached_property
    def floating_dtypes(self) -> frozenset[np.dtype[Any]]:
        """The dtypes of the network's floating arrays: what the computing precision is chosen from."""
        dtypes = frozenset(dtype for layer in self.layers for dtype in layer.floating_dtypes)
        arrays = (self.readout.weights, self.readout.bias) if isinstance(self.readout, LeakyReadout) else ()
        return dtypes | {array.dtype for array in arrays if isinstance(array, np.ndarray)}

    def parameters(self) -> dict[str, np.ndarray]:
        """Every parameter by name: `layers.0.weights`, `layers.0.beta`, ..., `readout.weights`.

        Parameters that are one number for all neurons are arrays without axes. Refractory periods and latencies are
        not among them: they are whole numbers, and no gradient belongs to them.
        """
        return self.named([layer.parameters() for layer in self.layers], values(self.readout))

    def transforms(self) -> dict[str, Transform | None]:
        """What keeps each parameter within its range while it is trained, by the names of `parameters`.

        Returns
        -------
        dict
            A `Transform` for each parameter, or None where it has no bounds.
        """
        of_layers = [{name: each.known for name, each in held(layer).items()} for layer in self.layers]
        known = self.named(of_layers, trained(type(self.readout)))
        return {name: known[name].transform for name in self.parameters()}

    @staticmethod
    def named(of_layers: Sequence[Mapping[str, T]], of_readout: Mapping[str, T]) -> dict[str, T]:
        """What belongs to parameters of layers and readout, by the names of `parameters`.

        Parameters
        ----------
        of_layers : sequence of dict
            For each layer, something by the name of each parameter.
        of_readout : dict
            The same for the readout.
        """
        parts = [(f"layers.{number}.", part) for number, part in enumerate(of_layers)] + [("readout.", of_readout)]
        return {prefix + name: value for prefix, part in parts for name, value in part.items()}

    def with_parameters(self, parameters: Mapping[str, Any]) -> Network:
        """A network with these parameters in place of its own, all or some, named as `parameters` names them.

        Raises
        ------
        ArgumentError
            A name is unknown, or a value has another shape than the parameter.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim import LIF, Layer, Network
        >>> network = Network([Layer(LIF(beta=0.9), np.zeros((3, 2)))])
        >>> float(network.with_parameters({"layers.0.weights": np.ones((3, 2))}).layers[0].weights.sum())
        6.0
        """
        replacements("", self.parameters(), dict(parameters))

        def part(prefix: str) -> dict[str, Any]:
            return {
                name.removeprefix(prefix): value if np.ndim(value) else float(value)
                for name, value in parameters.items()
                if name.startswith(prefix)
            }

        layers = [layer.with_parameters(part(f"layers.{number}.")) for number, layer in enumerate(self.layers)]
        readout = self.readout
        if isinstance(readout, LeakyReadout):
            readout = replace(readout, **part("readout."))
        return Network(tuple(layers), readout, self.dt)

    def summary(self, dt: float | None = None) -> str:
        """A table for people: sizes, neurons, time constants, block lengths and numbers of parameters.

        Parameters
        ----------
        dt : float or None
            Step in ms; times are in steps without it.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim import ALIF, Layer, Network
        >>> neuron = ALIF.from_ms(tau_mem=20, tau_adapt=200, adaptation=0.1, refractory=4, dt=1)
        >>> print(Network([Layer(neuron, np.zeros((30, 8)), recurrent=np.zeros((8, 8)))]).summary(dt=1))
        layer   neurons                  tau_mem (ms)  tau_adapt (ms)  refractory (ms)  block (steps)  parameters
        0       30 -> 8 ALIF, recurrent  20            200             4                5              308
        counts  8 classes                -             -               -                -              0
        308 parameters
        """
        unit, step = ("steps", 1.0) if dt is None else ("ms", float(dt))

        def tau(decay: Any) -> str:
            with np.errstate(divide="ignore"):
                values = -step / np.log(np.asarray(decay, np.float64))
            return _range(np.where(np.asarray(decay) > 0, values, 0.0))

        def times_of(owner: Any) -> dict[str, str]:
            """Each time constant; where there are several, as of components, one after the other."""
            found: dict[str, list[str]] = {}
            for known, value in held(owner).values():
                if known.time_constant:
                    found.setdefault(known.time_constant, []).append(tau(value))
            return {name: ", ".join(values) for name, values in found.items()}

        each = [times_of(layer) for layer in self.layers]
        of_readout = times_of(self.readout) if isinstance(self.readout, LeakyReadout) else {}
        times = list(dict.fromkeys(["tau_mem", "tau_adapt", *(name for found in each for name in found)]))

        def cells(found: Mapping[str, str]) -> list[str]:
            return [found.get(name, "-") for name in times]

        header = ["layer", "neurons", *(f"{time} ({unit})" for time in times), f"refractory ({unit})",
                  "block (steps)", "parameters"]  # fmt: skip
        parameters = self.parameters()
        rows = []
        for number, layer in enumerate(self.layers):
            neuron = layer.neuron
            kind = type(neuron).__name__ + (", recurrent" if layer.recurrent is not None else "")
            rows.append([
                str(number), f"{layer.inputs or '-'} -> {layer.size} {kind}", *cells(each[number]),
                _range(np.asarray(neuron.refractory_steps) * step), str(layer.block_length),
                str(sum(value.size for name, value in parameters.items() if name.startswith(f"layers.{number}."))),
            ])  # fmt: skip
        if isinstance(self.readout, LeakyReadout):
            size = sum(value.size for name, value in parameters.items() if name.startswith("readout."))
            rows.append(["leaky", f"{self.readout.inputs} -> {self.readout.classes} classes, {self.readout.decode}",
                         *cells(of_readout), "-", "-", str(size)])  # fmt: skip
        else:
            rows.append(["counts", f"{self.classes} classes", *["-"] * (len(times) + 2), "0"])
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                 for row in [header, *rows]]  # fmt: skip
        total = sum(value.size for value in parameters.values())
        return "\n".join([*lines, f"{total} parameters"])


def _range(values: np.ndarray) -> str:
    """One number, or the lowest and highest of several."""
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.4g}" if low == high else f"{low:.3g} to {high:.3g}"
