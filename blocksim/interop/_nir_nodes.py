"""Nodes of the Neuromorphic Intermediate Representation in our terms, and the metadata that blocksim leaves in them.

Owns the factors between NIR's weights and ours: NIR's neurons and synapses multiply what arrives by dt / tau in a step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from blocksim._connections import Exponential, Synapse
from blocksim._milliseconds import MAX_STEPS
from blocksim._neurons import ALIF, LIF
from blocksim._presets import CubaLIF
from blocksim._validation import found
from blocksim.errors import ArgumentError
from blocksim.interop._nir_graph import kind_of

KEY = "blocksim"  # of our metadata
WEIGHTED = ("Linear", "Affine")
# what neurons and leaky integrators are given by
FIELDS = ("tau", "tau_mem", "tau_syn", "r", "w_in", "v_leak", "v_threshold", "v_reset")
NEURONS: dict[str, type[LIF | ALIF]] = {"LIF": LIF, "ALIF": ALIF, "CubaLIF": CubaLIF}
# those of a neuron's parameters that are kept in its metadata
PARAMETERS = ("beta", "theta", "refractory_steps", "p", "b")


def kept(value: Any) -> Any:
    """A number, an array of one axis or None, as JSON has it, with every bit."""
    if value is None or not np.ndim(value):
        return value
    return {"dtype": str(value.dtype), "values": value.tolist()}


def given(value: Any) -> Any:
    """What `kept` made JSON of."""
    return np.asarray(value["values"], value["dtype"]) if isinstance(value, dict) else value


def described(own: Mapping[str, Any]) -> dict[str, Any]:
    """Our metadata as NIR's nodes hold it."""
    return {KEY: json.dumps(own)}


def own_of(node: Any) -> dict[str, Any]:
    """Our metadata of a node, or of what has its metadata; empty where there is none."""
    text = (getattr(node, "metadata", None) or {}).get(KEY)
    if text is None:
        return {}
    try:
        read = json.loads(text.decode() if isinstance(text, bytes) else str(text))
    except ValueError as error:
        raise ArgumentError("source: expected blocksim's metadata as it wrote it; found other text") from error
    return read if isinstance(read, dict) else {}


def unseen(refractory_steps: Any, adapts: bool) -> str:
    """What neurons have that is kept in metadata alone, in words; empty where there is nothing."""
    every = ["a refractory period"] * bool(np.any(refractory_steps)) + ["adaptation"] * adapts
    return " and ".join(every)


def factors(beta: Any, synapses: tuple[Synapse | None, ...], size: int, inside: bool = False) -> list[np.ndarray]:
    """What our weights to each receptor are multiplied by to be NIR's, (N,); the last is without a time course.

    NIR's resistances are 1; but `inside` a CubaLIF both of its own take away dt / tau, as snnTorch and SpikingJelly
    want it.
    """
    direct = 1 / (1 - np.broadcast_to(np.asarray(beta, np.float64), size))
    each: list[np.ndarray] = []
    for synapse in synapses:
        gain = np.broadcast_to(np.asarray(getattr(synapse, "gain", 1.0), np.float64), size)
        if not inside:
            gain = gain * direct / (1 - np.asarray(getattr(synapse, "decay", 0.0), np.float64))
        each.append(gain)
    return [*each, direct]


def neuron_of(own: Mapping[str, Any]) -> tuple[LIF | ALIF, tuple[Synapse | None, ...]]:
    """A neuron, and its layer's receptors, as `neuron_kept` described them."""
    kind = NEURONS.get(own["kind"])
    if kind is None:
        raise ArgumentError(f"source: expected {', '.join(NEURONS)} in blocksim's metadata; found {found(own['kind'])}")
    synapses = tuple(
        None if each is None else Exponential(given(each["decay"]), given(each["gain"])) for each in own["synapses"]
    )
    values = {name: given(own[name]) for name in PARAMETERS if name in own}
    if issubclass(kind, CubaLIF):
        values["synapses"] = synapses
    return kind(**values), synapses


def neuron_kept(neuron: Any, synapses: tuple[Synapse | None, ...]) -> dict[str, Any]:
    """All there is to know of a neuron and its layer's receptors, which are `Exponential` or None."""
    values = {name: kept(getattr(neuron, name)) for name in PARAMETERS if hasattr(neuron, name)}
    each: list[Any] = [
        {"decay": kept(one.decay), "gain": kept(one.gain)} if isinstance(one, Exponential) else None for one in synapses
    ]
    return {"kind": type(neuron).__name__, "synapses": each} | values


class Weights(NamedTuple):
    """A node of weights, as NIR has them."""

    name: str
    matrix: np.ndarray  # (N, K)
    bias: np.ndarray | None  # (N,)
    dtype: np.dtype[Any]
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, node: Any) -> Weights:
        """As they are in a node."""
        matrix = reals(name, node.weight)
        if matrix.ndim != 2:
            raise ArgumentError(f"source: expected weights with two axes; found {matrix.ndim}, node {name!r}")
        bias = getattr(node, "bias", None)
        metadata = getattr(node, "metadata", None) or {}
        return cls(
            name,
            matrix,
            None if bias is None else spread(name, bias, len(matrix)),
            floating(own_of(node).get("dtype", np.asarray(node.weight).dtype)),
            metadata,
        )

    @classmethod
    def one_to_one(cls, name: str, size: int, dtype: np.dtype[Any]) -> Weights:
        """Those of neurons that hear a signal itself; `name` is theirs."""
        return cls(name, np.eye(size), None, dtype, {})

    def over(self, factor: np.ndarray) -> np.ndarray:
        """Weights (K, N) in our units; `factor`, (N,), is what ours are multiplied by to be NIR's."""
        return np.asarray((self.matrix / factor[:, None]).T, self.dtype)

    def as_written(self, factor: np.ndarray) -> np.ndarray:
        """The weights (K, N) that `weights_node` was given, bit for bit, unless the node's were changed since."""
        known = self.kept("weights")
        same = known is not None and np.array_equal(_in_nir(np.asarray(known), factor), self.matrix)
        return np.asarray(known) if same else self.over(factor)

    def bias_as_written(self, factor: np.ndarray) -> Any:
        """The bias that `weights_node` was given, likewise."""
        if self.bias is None:
            return None
        known = given(own_of(self).get("bias"))
        same = known is not None and np.array_equal(np.broadcast_to(known * factor, self.bias.shape), self.bias)
        return known if same else (self.bias / factor).astype(self.dtype)

    def kept(self, what: str) -> Any:
        """An array of our metadata; None where there is none."""
        return self.metadata.get(f"{KEY}_{what}")


def weights_node(nir: Any, weights: np.ndarray, factor: np.ndarray, bias: Any = None, **own: Any) -> Any:
    """A node of weights (K, N) of ours and a bias; `own` goes into its metadata, with what gives them back."""
    matrix = _in_nir(weights, factor)
    own |= {"dtype": str(weights.dtype)}
    arrays: dict[str, Any] = {}
    with np.errstate(divide="ignore", invalid="ignore"):  # of a gain of 0
        comes_off = (matrix / factor[:, None]).T.astype(weights.dtype)
    if comes_off.tobytes() != weights.tobytes():
        arrays[f"{KEY}_weights"] = weights
    if bias is None:
        return nir.Linear(matrix, metadata=arrays | described(own))
    own["bias"] = kept(bias)
    return nir.Affine(matrix, np.broadcast_to(bias * factor, len(matrix)).copy(), metadata=arrays | described(own))


def _in_nir(weights: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Weights (K, N) of ours as those of a node, (N, K)."""
    return np.asarray(weights.astype(np.float64).T * factor[:, None])


def same_numbers(one: Any, other: Any) -> bool:
    """Whether two nodes of neurons or leaky integrators are equal to the bit; both may be None."""
    return kind_of(one) == kind_of(other) and all(
        np.array_equal(getattr(one, name, 0.0), getattr(other, name, 0.0)) for name in FIELDS
    )


def reals(name: str, value: Any) -> np.ndarray:
    """A node's numbers as float64."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ArgumentError(f"source: expected real numbers; found {found(value)}, node {name!r}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ArgumentError(
            f"source: expected finite numbers; found {array[~np.isfinite(array)].flat[0]}, node {name!r}"
        )
    return array


def floating(dtype: Any) -> np.dtype[Any]:
    """A dtype that layers compute with: float32 or float64, which stands for all others."""
    return np.dtype(np.float32 if str(dtype) == "float32" else np.float64)


def spread(name: str, value: Any, size: int) -> np.ndarray:
    """A node's parameter as one number a neuron, (N,) of float64."""
    array = reals(name, value)
    if array.shape not in ((), (1,), (size,)):
        raise ArgumentError(
            f"source: expected one number, or one for each of {size} neurons; found an array of shape {array.shape}, "
            f"node {name!r}"
        )
    return np.broadcast_to(array, size)


def decay_of(name: str, tau: np.ndarray, dt: float, exact: bool) -> np.ndarray:
    """The decay factor in a step of dt ms, of time constants in seconds."""
    if (tau < 0).any():
        raise ArgumentError(
            f"source: expected time constants above 0; found {1000 * float(tau.min()):g} ms, node {name!r}"
        )
    with np.errstate(divide="ignore"):
        ratio = dt / 1000 / tau
    if exact:
        return np.asarray(np.exp(-ratio))
    if not (ratio <= 1 + 1e-9).all():
        raise ArgumentError(
            f"source: expected time constants of at least the time step, {dt:g} ms; found "
            f"{dt / float(ratio.max()):.3g} ms, node {name!r} (a smaller dt, or discretisation='exact')"
        )
    return np.asarray(np.maximum(1 - ratio, 0.0))


def steps_of(name: str, node: Any, dt: float) -> np.ndarray:
    """The delays of a Delay node in steps of dt ms, (N,) or (1,)."""
    steps = np.atleast_1d(np.asarray(node.delay, np.float64)) * 1000 / dt
    whole = np.rint(steps)
    if steps.ndim != 1 or not ((np.abs(steps - whole) <= 1e-6) & (whole >= 0) & (whole <= MAX_STEPS)).all():
        raise ArgumentError(
            f"source: expected delays of whole numbers of steps of {dt:g} ms; found others, node {name!r}"
        )
    return whole.astype(np.int64)


class Neurons(NamedTuple):
    """A node of another tool's neurons, (N,) each."""

    beta: np.ndarray
    decay: np.ndarray | None  # of the synapse; None of LIF
    leak: np.ndarray
    theta: np.ndarray
    reset: np.ndarray
    factor: np.ndarray  # of our weights, to be NIR's

    @classmethod
    def of(cls, name: str, node: Any, size: int, dt: float, exact: bool) -> Neurons:
        """As they are in a node."""
        cuba, decay = kind_of(node) == "CubaLIF", None

        def each(value: Any) -> np.ndarray:
            return spread(name, value, size)

        beta = decay_of(name, each(node.tau_mem if cuba else node.tau), dt, exact)
        gain = (1 - beta) * each(node.r)
        if cuba:
            decay = decay_of(name, each(node.tau_syn), dt, exact)
            gain = gain * (1 - decay) * each(node.w_in)
        return cls(beta, decay, each(node.v_leak), each(node.v_threshold), each(node.v_reset), over(name, gain))


def over(name: str, gain: np.ndarray) -> np.ndarray:
    """1 / gain, of a node that multiplies what arrives by it."""
    if (gain == 0).any():
        raise ArgumentError(f"source: expected resistances and weights that are not 0; found 0, node {name!r}")
    return 1 / gain
