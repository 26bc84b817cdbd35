"""Optimisers: SGD, Adam and AdamW as functions of parameters, gradients and a state, and clipping of gradients.

Owns the update rules and the state they carry. Parameters, gradients and moments are dictionaries of arrays by name;
every rule works element by element, so that many fits may be stacked in the arrays and know nothing of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self

import numpy as np

from blocksim._validation import finite, flag, found, instance, number
from blocksim.errors import ArgumentError
from blocksim.schedules import Schedule

Arrays = dict[str, np.ndarray]
# what is decayed unless the caller names other parameters: a time constant that decays to zero is no regulariser
WEIGHTS = ("weights", "*.weights", "recurrent", "*.recurrent")


def is_named(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of the patterns, in which `*` stands for any text: "layers.*.beta"."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _patterns(decayed: Any) -> tuple[str, ...]:
    """Names of decayed parameters, checked: one, several or none."""
    given = (decayed,) if isinstance(decayed, str) else decayed
    if not isinstance(given, (tuple, list)) or not all(isinstance(name, str) for name in given):
        raise ArgumentError(f"decayed: expected names of parameters, * for any text; found {found(decayed)}")
    return tuple(given)


@dataclass(frozen=True, eq=False)
class OptimiserState:
    """What an optimiser remembers between steps.

    Attributes
    ----------
    step : int
        Steps taken.
    moments : dict of dict of arrays
        Each moment by its name ("momentum"; "first", "second"), an array of each parameter's shape and dtype.
    """

    step: int
    moments: dict[str, Arrays]

    def to_arrays(self) -> Arrays:
        """The state as arrays by name, "step" and "MOMENT/PARAMETER", to be stored."""
        flat = {f"{moment}/{name}": array for moment, arrays in self.moments.items() for name, array in arrays.items()}
        return {"step": np.array(self.step, np.int64), **flat}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The state that `to_arrays` made these arrays of; steps that follow are the same bit for bit.

        Raises
        ------
        ArgumentError
            There is no array "step" among them.
        """
        if "step" not in arrays:
            raise ArgumentError(f"arrays: expected those of an optimiser's state; found {', '.join(arrays) or 'none'}")
        moments: dict[str, Arrays] = {}
        for key, array in arrays.items():
            moment, slash, name = key.partition("/")
            if slash:
                moments.setdefault(moment, {})[name] = np.array(array)
        return cls(int(arrays["step"]), moments)


@dataclass(frozen=True)
class Optimiser:
    """What the optimisers share: the learning rate, the state, and the checks of a step.

    Parameters
    ----------
    learning_rate : float or Schedule
        A number above 0, or one of `blocksim.schedules`.

    Raises
    ------
    ArgumentError
        The learning rate is neither a number above 0 nor a `Schedule`.
    """

    learning_rate: float | Schedule = 1e-3
    moments: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.learning_rate, Schedule):
            object.__setattr__(self, "learning_rate", number("learning_rate", self.learning_rate, above=0))

    def rate(self, step: int) -> float:
        """The learning rate of the step that follows `step` steps."""
        return self.learning_rate(step) if isinstance(self.learning_rate, Schedule) else self.learning_rate

    def start(self, parameters: Mapping[str, Any]) -> OptimiserState:
        """The state before the first step: all moments zero.

        Parameters
        ----------
        parameters : dict of float arrays, of any shapes
            What is to be optimised, by name.

        Raises
        ------
        ArgumentError
            The parameters are no dictionary, or an array is not of a floating dtype.
        """
        arrays = _floating("parameters", parameters)
        zeros = {moment: {name: np.zeros_like(array) for name, array in arrays.items()} for moment in self.moments}
        return OptimiserState(0, zeros)

    def step(
        self, parameters: Mapping[str, Any], gradients: Mapping[str, Any], state: OptimiserState
    ) -> tuple[Arrays, OptimiserState]:
        """One step down the gradient.

        Parameters
        ----------
        parameters, gradients : dicts of float arrays
            Of the same names and shapes as those that `start` was given. Neither is changed.
        state : OptimiserState
            From `start`, or from the step before. It is not changed either.

        Returns
        -------
        parameters, state
            New ones; each parameter keeps its dtype.

        Raises
        ------
        ArgumentError
            Names or shapes differ, or the state is that of another optimiser.

        Notes
        -----
        Gradients are not checked for NaN and infinity: they spoil the elements they belong to, and no others.
        """
        values = _floating("parameters", parameters)
        instance("gradients", gradients, Mapping, "a dictionary of arrays by name")
        slopes = {name: np.asarray(gradient) for name, gradient in gradients.items()}
        if set(slopes) != set(values):
            raise ArgumentError(
                f"gradients: expected one for each of {', '.join(values)}; found {', '.join(slopes) or 'none'}"
            )
        for name, value in values.items():
            if slopes[name].shape != value.shape or slopes[name].dtype.kind not in "biuf":
                raise ArgumentError(
                    f"gradients: expected a real array of shape {value.shape} for {name}; found {found(slopes[name])}"
                )
        if set(state.moments) != set(self.moments):
            raise ArgumentError(
                f"state: expected that of {type(self).__name__}, with the moments {self.moments}; found "
                f"{tuple(state.moments)}"
            )
        for moment, arrays in state.moments.items():
            shapes = {name: array.shape for name, array in arrays.items()}
            if shapes != {name: value.shape for name, value in values.items()}:
                raise ArgumentError(
                    f"state: expected {moment} moments of the parameters' names and shapes; found "
                    + (", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none")
                )
        rate = self.rate(state.step)
        updated: Arrays = {}
        moments: dict[str, Arrays] = {moment: {} for moment in self.moments}
        for name, value in values.items():
            before = {moment: state.moments[moment][name] for moment in self.moments}
            slope = slopes[name].astype(value.dtype, copy=False)
            new, after = self._update(name, value, slope, before, rate, state.step + 1)
            updated[name] = np.asarray(new, value.dtype)
            for moment, array in after.items():
                moments[moment][name] = np.asarray(array, value.dtype)
        return updated, OptimiserState(state.step + 1, moments)

    def _update(
        self, name: str, value: np.ndarray, slope: np.ndarray, before: Arrays, rate: float, count: int
    ) -> tuple[np.ndarray, Arrays]:
        """The new value and moments of one parameter; `count` is 1 in the first step."""
        raise NotImplementedError


@dataclass(frozen=True)
class SGD(Optimiser):
    """Gradient descent, with momentum if wanted.

    With momentum mu: u = mu u + g; the step is -rate u, and -rate (g + mu u) with Nesterov's.

    Parameters
    ----------
    learning_rate : float or Schedule
        A number above 0, or one of `blocksim.schedules`.
    momentum : float
        mu, from 0 to below 1.
    nesterov : bool
        Nesterov's form; needs a momentum above 0.
    weight_decay : float
        Added to the gradient as weight_decay times the parameter, for the names in `decayed`.
    decayed : tuple of str
        Names of decayed parameters; `*` stands for any text.

    Raises
    ------
    ArgumentError
        A number is out of range, nesterov is not a bool or has no momentum, or `decayed` is not of names.

    Notes
    -----
    Source: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning",
    ICML 2013, in the form in which PyTorch has it.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.optimisers import SGD
    >>> optimiser, parameters = SGD(0.1, momentum=0.9), {"w": np.array([1.0, 2.0])}
    >>> state = optimiser.start(parameters)
    >>> for _ in range(2):
    ...     parameters, state = optimiser.step(parameters, {"w": np.array([1.0, 0.0])}, state)
    >>> parameters["w"], state.step
    (array([0.71, 2. ]), 2)
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decayed: tuple[str, ...] = WEIGHTS
    moments: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "momentum", number("momentum", self.momentum, least=0, below=1))
        object.__setattr__(self, "weight_decay", number("weight_decay", self.weight_decay, least=0))
        object.__setattr__(self, "decayed", _patterns(self.decayed))
        object.__setattr__(self, "nesterov", flag("nesterov", self.nesterov))
        if self.nesterov and not self.momentum:
            raise ArgumentError("nesterov: expected a momentum above 0 with it; found 0")

    def _update(
        self, name: str, value: np.ndarray, slope: np.ndarray, before: Arrays, rate: float, count: int
    ) -> tuple[np.ndarray, Arrays]:
        if self.weight_decay and is_named(name, self.decayed):
            slope = slope + self.weight_decay * value
        if not self.momentum:
            return value - rate * slope, before
        velocity = self.momentum * before["momentum"] + slope
        return value - rate * (slope + self.momentum * velocity if self.nesterov else velocity), {"momentum": velocity}


@dataclass(frozen=True)
class Adam(Optimiser):
    """Adam: steps of a running mean of the gradient over the root of a running mean of its square.

    Parameters
    ----------
    learning_rate : float or Schedule
        A number above 0, or one of `blocksim.schedules`.
    beta1, beta2 : float
        Decay of the running means of the gradient and of its square, from 0 to below 1.
    epsilon : float
        Added to the root, above 0.

    Raises
    ------
    ArgumentError
        A number is out of range.

    Notes
    -----
    Source: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, with the bias corrections.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.optimisers import Adam
    >>> optimiser, parameters = Adam(0.1), {"w": np.array([1.0, 2.0])}
    >>> parameters, state = optimiser.step(parameters, {"w": np.array([5.0, -0.01])}, optimiser.start(parameters))
    >>> parameters["w"].round(6)
    array([0.9, 2.1])
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    moments: ClassVar[tuple[str, ...]] = ("first", "second")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            object.__setattr__(self, name, number(name, getattr(self, name), least=0, below=1))
        object.__setattr__(self, "epsilon", number("epsilon", self.epsilon, above=0))

    def _update(
        self, name: str, value: np.ndarray, slope: np.ndarray, before: Arrays, rate: float, count: int
    ) -> tuple[np.ndarray, Arrays]:
        first = self.beta1 * before["first"] + (1 - self.beta1) * slope
        second = self.beta2 * before["second"] + (1 - self.beta2) * (slope * slope)
        root = np.sqrt(second) / float(np.sqrt(1 - self.beta2**count)) + self.epsilon
        return value - rate / (1 - self.beta1**count) * first / root, {"first": first, "second": second}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay apart from the gradient: each step first multiplies by 1 - rate * weight_decay.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As in `Adam`.
    weight_decay : float
        Decay of the parameters in `decayed`, 0 or above.
    decayed : tuple of str
        Names of decayed parameters; `*` stands for any text. The default is weights and recurrent weights: time
        constants, thresholds and biases do not decay.

    Raises
    ------
    ArgumentError
        A number is out of range, or `decayed` is not of names.

    Notes
    -----
    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.optimisers import AdamW
    >>> optimiser = AdamW(0.1, weight_decay=0.5)
    >>> parameters = {"layers.0.weights": np.ones(1), "layers.0.beta": np.ones(1)}
    >>> none = {name: np.zeros(1) for name in parameters}
    >>> parameters, state = optimiser.step(parameters, none, optimiser.start(parameters))
    >>> parameters["layers.0.weights"], parameters["layers.0.beta"]
    (array([0.95]), array([1.]))
    """

    weight_decay: float = 0.01
    decayed: tuple[str, ...] = WEIGHTS

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weight_decay", number("weight_decay", self.weight_decay, least=0))
        object.__setattr__(self, "decayed", _patterns(self.decayed))

    def _update(
        self, name: str, value: np.ndarray, slope: np.ndarray, before: Arrays, rate: float, count: int
    ) -> tuple[np.ndarray, Arrays]:
        if self.weight_decay and is_named(name, self.decayed):
            value = value * (1 - rate * self.weight_decay)
        return super()._update(name, value, slope, before, rate, count)


@dataclass(frozen=True, eq=False)
class Clipped:
    """Gradients after clipping, and what their norm was.

    Attributes
    ----------
    gradients : dict of arrays
        None of them longer, taken together, than the limit.
    norm : float or (C,) float64 array
        Norm before clipping: of all, or of each column; NaN for a column that is not finite.
    """

    gradients: Arrays = field(repr=False)
    norm: float | np.ndarray


def clip_by_norm(gradients: Mapping[str, Any], limit: float, *, columns: bool = False) -> Clipped:
    """Shorten gradients to a norm of at most `limit`, taken over all arrays together.

    Parameters
    ----------
    gradients : dict of float arrays
        By name; they are not changed.
    limit : float
        Largest Euclidean norm, above 0.
    columns : bool
        The last axis of every array counts independent fits: each is clipped by its own norm, and knows nothing of
        the others. A column that holds NaN or infinity is handed back as it is.

    Returns
    -------
    Clipped
        The gradients, of the same names, shapes and dtypes, and the norm that they had.

    Raises
    ------
    ArgumentError
        The limit is not above 0; last axes differ in length; or, without `columns`, a gradient is not finite.

    Notes
    -----
    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013. Norms are
    added up in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.optimisers import clip_by_norm
    >>> clipped = clip_by_norm({"w": np.array([3.0, 0.0]), "bias": np.array([4.0])}, 1.0)
    >>> clipped.gradients["w"], clipped.gradients["bias"], clipped.norm
    (array([0.6, 0. ]), array([0.8]), 5.0)
    """
    limit = number("limit", limit, above=0)
    arrays = _floating("gradients", gradients)
    if not flag("columns", columns):
        for name, array in arrays.items():
            finite(f"gradients[{name!r}]", array)
        # over the largest, whose square might overflow
        peak = max((float(np.abs(array).max(initial=0)) for array in arrays.values()), default=0.0)
        scaled = (_wide(array) / (peak or 1.0) for array in arrays.values())
        norm = peak * math.sqrt(sum(float(np.square(part).sum()) for part in scaled))
        if norm <= limit:
            return Clipped(arrays, norm)
        return Clipped({name: array * array.dtype.type(limit / norm) for name, array in arrays.items()}, norm)
    lengths = {name: array.shape[-1:] for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        raise ArgumentError(
            "gradients: expected last axes of one length, one column for each fit; found "
            + ", ".join(f"{name} {arrays[name].shape}" for name in arrays)
        )
    # each column contiguous: the order of its sum does not depend on how many there are
    rows = [np.ascontiguousarray(_wide(array).reshape(-1, array.shape[-1]).T) for array in arrays.values()]
    peaks = np.max([np.abs(row).max(axis=1, initial=0) for row in rows], axis=0) if rows else np.zeros(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # over the largest, whose square might overflow
        parts = [np.square(row / np.where(peaks > 0, peaks, 1)[:, None]).sum(axis=1) for row in rows]
        norms = peaks * np.sqrt(np.sum(parts, axis=0))
        factor = np.where(np.isfinite(norms) & (norms > limit), limit / norms, 1.0)
    return Clipped({name: array * factor.astype(array.dtype) for name, array in arrays.items()}, norms)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64, copy=False)


def _floating(argument: str, arrays: Mapping[str, Any]) -> Arrays:
    """Arrays by name, each of a floating dtype: a plain number becomes a float64 array without axes."""
    if not isinstance(arrays, Mapping):
        raise ArgumentError(f"{argument}: expected a dictionary of arrays by name; found {found(arrays)}")
    checked = {}
    for name, array in arrays.items():
        value = np.asarray(array, np.float64 if isinstance(array, (int, float)) else None)
        if value.dtype.kind != "f":
            raise ArgumentError(f"{argument}: expected a floating dtype for {name}; found {found(array)}")
        checked[name] = value
    return checked
