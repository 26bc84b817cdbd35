"""Neuron models: their parameters, declared and checked, and what these make of the equations' own.

Owns what a neuron is, with LIF and ALIF; models of several components are `blocksim._linear_neurons`. How neurons are
connected is `blocksim._layer`, how they are computed is `blocksim._blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from blocksim._milliseconds import decay_of_ms, steps_of_ms
from blocksim._parameters import check_fields, decay, held, one_length, parameter, trained
from blocksim._validation import milliseconds
from blocksim.arrays import BEFORE
from blocksim.errors import ArgumentError
from blocksim.transforms import Decay, Positive

Number = float | np.ndarray
# the parameters of equations (1)-(6); a neuron may leave out those that have a value here
SIMPLE: dict[str, float | None] = {"beta": None, "p": 0.0, "b": 0.0, "theta": None}
# those of the linear family, (30)-(34), and of each of its components, in the order of `LinearParameters`
FAMILY: dict[str, float | None] = {"beta": None, "theta": None, "v_reset": 0.0, "reset_factor": 0.0}
COMPONENT: dict[str, float | None] = {
    "decay": None, "jump": 1.0, "from_voltage": 0.0, "to_voltage": 0.0, "to_threshold": 0.0, "knot": 0.0,
    "softness": 1.0,
}  # fmt: skip
# of the membrane and of stochastic spikes, but for the width, as kernels read them: its inverse follows
MEMBRANE = ("beta", "theta", "bias", "reset_factor", "v_reset", "rate")
# those of stochastic spikes, (39), under "spike."; and what stands for them where spikes are not stochastic
NOISE: dict[str, float] = {"rate": 0.0, "width": 1.0}
DERIVATIVE_STEP = 1e-30


class Neuron:
    """A model of neurons: a frozen dataclass whose fields declare its parameters.

    A model of its own parameters is a subclass that says, in `linear`, which parameters of the equations they make.
    """

    _kinds: ClassVar[dict[str, type[Neuron]]] = {}
    refractory_steps: int | np.ndarray
    refractory: str = "ignore"  # what the potential does meanwhile, (30)
    synapses: Any = ()  # receptors that a layer of these neurons has
    _size: int | None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Neuron._kinds[cls.kind()] = cls

    @classmethod
    def kind(cls) -> str:
        """The name by which files know the class: that of its module before it, unless it is one of blocksim's."""
        ours = cls.__module__.split(".")[0] == __name__.split(".")[0]
        return cls.__qualname__ if ours else f"{cls.__module__}.{cls.__qualname__}"

    @classmethod
    def of_kind(cls, name: Any) -> type[Neuron] | None:
        """The class of that name; None where there is none, or its module has not been imported."""
        return cls._kinds.get(name) if isinstance(name, str) else None

    @classmethod
    def kinds(cls) -> list[str]:
        """The names of all classes there are."""
        return list(cls._kinds)

    @classmethod
    def all_parameters(cls) -> set[str]:
        """The names of the trained parameters of every class there is."""
        return {name for kind in cls._kinds.values() for name in trained(kind)}

    @classmethod
    def linear(cls, **own: Any) -> dict[str, Any]:
        """The parameters of the equations from those that the class declares.

        A subclass with parameters of other names replaces it, and returns those of (1)-(6), beta, theta, p and b (the
        last two may be left out, for no adaptation); or those of the linear family, (30)-(34): beta, theta, v_reset,
        reset_factor, and components, a sequence of dicts with decay, jump, from_voltage, to_voltage, to_threshold and
        knot, of which all but decay may be left out; and "spike.rate" and "spike.width" of (39). It is called with
        numbers or (N,) arrays, which may be complex: gradients are taken through it by steps along the imaginary axis,
        exact to rounding, so it is written with arithmetic and NumPy's analytic functions, element by element.
        """
        return own

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "_size", one_length("neuron parameters", self))
        self.linear_parameters()

    def parameters(self) -> dict[str, Any]:
        """Every parameter by name, each a number or an (N,) array; time constants as factors, periods in steps."""
        return {name: each.value for name, each in held(self).items()}

    def linear_parameters(self) -> dict[str, Any]:
        """The parameters of the equations by name, each a number or an (N,) array.

        Those of (1)-(6); or of the family, component i's as "components.i.decay" and so on.
        """
        every = flat(self.linear(**self._trained))
        found = {name: value for name, value in every.items() if not name.startswith("synapses.")}
        known = dict(SIMPLE)
        if set(found) - set(SIMPLE):
            components = {name.split(".")[1] for name in found if name.startswith("components.")}
            known = FAMILY | {
                f"components.{place}.{name}": COMPONENT[name] for place in components for name in COMPONENT
            }
            if any(name.startswith("spike.") for name in found):
                known |= dict.fromkeys(f"spike.{name}" for name in NOISE)
        complete = {name: value for name, value in known.items() if value is not None} | found
        unknown = set(complete) ^ set(known)
        if unknown:
            raise ArgumentError(
                f"{type(self).__name__}.linear: expected the parameters {', '.join(SIMPLE)}, or those of the linear "
                f"family; found a difference in {', '.join(sorted(unknown))}"
            )
        return complete

    @cached_property
    def is_stochastic(self) -> bool:
        """Whether its spikes have escape noise, (39)."""
        return "spike.rate" in self.linear_parameters()

    @cached_property
    def is_simple(self) -> bool:
        """Whether (1)-(6) describe it: LIF or ALIF."""
        return self.refractory == "ignore" and set(self.linear_parameters()) == set(SIMPLE)

    def listens(self, components: int) -> tuple[str, ...]:
        """What each of its components listens to: one of `blocksim.arrays.LISTENS`."""
        return (BEFORE,) * components

    def pullback(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Gradients of the class's own parameters, (N,), from those of the parameters of the equations."""
        own = self._trained
        if type(self).linear.__func__ is Neuron.linear.__func__:  # type: ignore[attr-defined]
            return {name: gradients[name] for name in own}
        found_gradients = {}
        for name, value in own.items():
            moved = {**own, name: np.asarray(value, np.float64) + 1j * DERIVATIVE_STEP}
            slopes = {
                each: np.imag(result) / DERIVATIVE_STEP
                for each, result in flat(self.linear(**moved)).items()
                if np.iscomplexobj(result)
            }
            found_gradients[name] = sum(
                (slope * gradients[each] for each, slope in slopes.items()), np.zeros_like(gradients["beta"])
            )
        return found_gradients

    @cached_property
    def _trained(self) -> dict[str, Any]:
        return {name: each.value for name, each in held(self).items() if each.known.trained}

    @property
    def size(self) -> int | None:
        """Number of neurons where a parameter is an array; None where all are numbers (they fit any layer)."""
        return self._size

    @cached_property
    def block_length(self) -> int:
        """Longest exact block in steps: the shortest refractory period plus one."""
        return int(np.min(self.refractory_steps)) + 1


def flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the equations with those of components by flat names."""
    found = {name: value for name, value in given.items() if name != "components"}
    for place, component in enumerate(given.get("components", ())):
        found |= {f"components.{place}.{name}": value for name, value in component.items()}
    return found


def membrane() -> Any:
    """The field beta."""
    return decay("decay of the membrane in one step", "tau_mem", Decay(0.5, 1e4))


def membrane_of_ms(tau_mem: Any, dt: float, theta: Any, refractory: Any, rounding: str | None) -> dict[str, Any]:
    """The fields that every neuron has, from times in ms; dt is checked already."""
    return {
        "beta": decay_of_ms("tau_mem", tau_mem, dt),
        "theta": theta,
        "refractory_steps": steps_of_ms("refractory", refractory, dt, rounding),
    }


def threshold() -> Any:
    """The field theta."""
    return parameter(
        "threshold at rest", expected="a finite threshold", unit="potential", transform=Positive(), default=1.0
    )


def refractory_period() -> Any:
    """The field refractory_steps."""
    return parameter("absolute refractory period", expected="whole numbers", unit="steps", trained=False, default=0)


@dataclass(frozen=True, eq=False)
class LIF(Neuron):
    """Leaky integrate-and-fire neurons with an absolute refractory period: equations (1)-(3) and (5).

    Parameters
    ----------
    beta : float or (N,) array
        Factor by which the membrane potential decays in one step, exp(-dt / tau_mem), in [0, 1).
    theta : float or (N,) array
        Firing threshold, in the unit of the membrane potential.
    refractory_steps : int or (N,) integer array
        Steps after a spike during which the neuron ignores its input and cannot spike.

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite, or the arrays differ in length.

    Examples
    --------
    >>> from blocksim import LIF
    >>> LIF(beta=0.95, refractory_steps=20).block_length
    21
    """

    beta: Number = membrane()
    theta: Number = threshold()
    refractory_steps: int | np.ndarray = refractory_period()

    @classmethod
    def from_ms(
        cls, *, tau_mem: Any, dt: float, refractory: Any = 0.0, theta: Any = 1.0, rounding: str | None = None
    ) -> Self:
        """Make LIF neurons from time constants in milliseconds.

        Parameters
        ----------
        tau_mem : float or (N,) array
            Membrane time constant in ms, > 0; beta = exp(-dt / tau_mem).
        dt : float
            Time step in ms, > 0.
        refractory : float or (N,) array
            Absolute refractory period in ms, >= 0: a whole number of steps to within 1e-6 unless `rounding` is given.
        theta : float or (N,) array
            Firing threshold.
        rounding : {None, "nearest", "down", "up"}
            What to do with a refractory period that is no whole number of steps; None raises.

        Raises
        ------
        ArgumentError
            A time constant or `dt` is not a finite number of ms above 0, or a decay factor would round to 1; the
            refractory period is no whole number of steps and `rounding` is None; `rounding` is unknown; or another
            value is out of range, or arrays differ in length.

        Examples
        --------
        >>> from blocksim import LIF
        >>> LIF.from_ms(tau_mem=20, refractory=2, dt=0.1).refractory_steps
        20
        """
        return cls(**membrane_of_ms(tau_mem, milliseconds("dt", dt), theta, refractory, rounding))


@dataclass(frozen=True, eq=False)
class ALIF(Neuron):
    """Adaptive leaky integrate-and-fire neurons: each spike raises the threshold, equations (1)-(6).

    Parameters
    ----------
    beta : float or (N,) array
        Factor by which the membrane potential decays in one step, exp(-dt / tau_mem), in [0, 1).
    p : float or (N,) array
        Factor by which the adaptation decays in one step, exp(-dt / tau_adapt), in [0, 1).
    b : float or (N,) array
        Rise of the threshold for each unit of adaptation; a spike adds one unit.
    theta : float or (N,) array
        Firing threshold of a neuron at rest (theta_0), in the unit of the membrane potential.
    refractory_steps : int or (N,) integer array
        Steps after a spike during which the neuron ignores its input and cannot spike.

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite, or the arrays differ in length.

    Examples
    --------
    >>> from blocksim import ALIF
    >>> ALIF(beta=0.95, p=0.99, b=0.2, refractory_steps=40)
    ALIF(beta=0.95, p=0.99, b=0.2, theta=1.0, refractory_steps=40)
    """

    beta: Number = membrane()
    p: Number = decay("decay of the adaptation in one step", "tau_adapt", Decay(0.5, 1e5))
    b: Number = parameter(
        "rise of the threshold for a unit of adaptation", expected="a finite adaptation strength", unit="potential"
    )
    theta: Number = threshold()
    refractory_steps: int | np.ndarray = refractory_period()

    @classmethod
    def from_ms(
        cls,
        *,
        tau_mem: Any,
        tau_adapt: Any,
        adaptation: Any,
        dt: float,
        refractory: Any = 0.0,
        theta: Any = 1.0,
        rounding: str | None = None,
    ) -> Self:
        """Make ALIF neurons from time constants in milliseconds.

        Parameters
        ----------
        tau_mem, tau_adapt : float or (N,) array
            Time constants of membrane and adaptation in ms, > 0; beta = exp(-dt / tau_mem), p = exp(-dt / tau_adapt).
        adaptation : float or (N,) array
            Rise of the threshold at each spike (b).
        dt, refractory, theta, rounding
            As in `LIF.from_ms`.

        Raises
        ------
        ArgumentError
            As `LIF.from_ms`.

        Examples
        --------
        >>> from blocksim import ALIF
        >>> ALIF.from_ms(tau_mem=20, tau_adapt=200, adaptation=0.2, refractory=4, dt=0.1).block_length
        41
        """
        dt = milliseconds("dt", dt)
        return cls(
            p=decay_of_ms("tau_adapt", tau_adapt, dt),
            b=adaptation,
            **membrane_of_ms(tau_mem, dt, theta, refractory, rounding),
        )
