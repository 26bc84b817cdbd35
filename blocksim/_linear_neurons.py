"""The linear family's neurons: any number of components, any affine reset, three kinds of refractory period.

Owns `LinearIF` and its components, equations (30)-(34).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from blocksim._escape import Escape
from blocksim._milliseconds import decay_of_ms
from blocksim._neurons import Neuron, Number, membrane, refractory_period, threshold
from blocksim._parameters import check_fields, decay, parameter, parts, setting, tuple_of
from blocksim._validation import found, milliseconds
from blocksim.arrays import ABOVE, AFTER, BEFORE, SOFTPLUS
from blocksim.errors import ArgumentError
from blocksim.transforms import Decay, Positive

REFRACTORY = ("ignore", "hold", "integrate")


@dataclass(frozen=True, eq=False)
class Component:
    """A quantity c that decays, is moved by spikes and the potential, and acts on either: equation (34).

    Parameters
    ----------
    decay : float or (N,) array
        Factor by which it decays in one step, exp(-dt / tau), in [0, 1): q.
    jump : float or (N,) array
        What a spike adds to it: d.
    from_voltage : float or (N,) array
        What a unit of the potential U adds to it in a step: k, for subthreshold adaptation.
    to_voltage : float or (N,) array
        What a unit of it adds to the current: g, for after-spike currents.
    to_threshold : float or (N,) array
        What a unit of it adds to the threshold: h.
    listens : {"before", "after"}
        Which potential `from_voltage` multiplies in the step of a spike: U before the reset, or V after it.

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite.

    Examples
    --------
    >>> from blocksim import Component
    >>> Component.from_ms(tau=100, dt=1, to_threshold=0.2)
    Component(decay=0.990049833749168, jump=1.0, from_voltage=0.0, to_voltage=0.0, to_threshold=0.2, listens='before')
    """

    decay: Number = decay("decay of the component in one step", "tau_adapt", Decay(0.05, 1e6))
    jump: Number = parameter("what a spike adds to the component", default=1.0)
    from_voltage: Number = parameter("what a unit of the potential adds to the component", default=0.0)
    to_voltage: Number = parameter("current for a unit of the component", default=0.0)
    to_threshold: Number = parameter("rise of the threshold for a unit of the component", default=0.0)
    listens: str = setting(BEFORE, (BEFORE, AFTER))

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def from_ms(cls, tau: Any, dt: float, **others: Any) -> Self:
        """Make a component from its time constant in milliseconds.

        Parameters
        ----------
        tau : float or (N,) array
            Time constant in ms, > 0; decay = exp(-dt / tau).
        dt : float
            Time step in ms, > 0.
        **others
            The other parameters, as for `Component`.

        Raises
        ------
        ArgumentError
            tau or dt is not a time above 0, the decay factor would round to 1, or another parameter is out of range.

        Examples
        --------
        >>> from blocksim import Component
        >>> round(Component.from_ms(tau=100, dt=1, jump=-0.2, to_voltage=1.0).decay, 4)
        0.99
        """
        return cls(decay_of_ms("tau", tau, milliseconds("dt", dt)), **others)


@dataclass(frozen=True, eq=False)
class Rectified:
    """A quantity that follows the potential where it is above a knot, and moves the threshold alone: equation (34).

    The potential stays linear, so that blocks are exact. Several of one decay and different knots make any piecewise
    linear function of the potential. A threshold that rises with the potential models the inactivation of sodium
    channels, as in the iGIF neuron. Source: Platkiewicz, Brette, "A threshold equation for action potential
    initiation", PLoS Computational Biology 6, 2010; Mensi et al., "Enhanced responsiveness to rapid synaptic inputs due
    to nonlinear threshold dynamics", PLoS Computational Biology 12, 2016.

    Parameters
    ----------
    decay : float or (N,) array
        Factor by which it decays in one step, exp(-dt / tau), in [0, 1): q.
    knot : float or (N,) array
        Potential above which it listens, in the unit of the membrane potential.
    jump : float or (N,) array
        What a spike adds to it: d.
    from_voltage : float or (N,) array
        What a unit of max(U - knot, 0) adds to it in a step: k.
    to_threshold : float or (N,) array
        What a unit of it adds to the threshold: h.

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite.

    Examples
    --------
    >>> from blocksim import LinearIF, Rectified
    >>> coupling = Rectified.from_ms(tau=5, dt=0.1, knot=10, to_threshold=0.4)
    >>> neuron = LinearIF(0.99, theta=15, refractory_steps=40, components=[coupling])
    >>> float(neuron.parameters()["components.0.knot"])
    10.0
    """

    decay: Number = decay("decay of the component in one step", "tau_adapt", Decay(0.05, 1e6))
    knot: Number = parameter("potential above which the component listens", unit="potential", default=0.0)
    jump: Number = parameter("what a spike adds to the component", default=0.0)
    from_voltage: Number = parameter("what a unit of the potential above the knot adds to the component", default=1.0)
    to_threshold: Number = parameter("rise of the threshold for a unit of the component", default=1.0)

    listens: ClassVar[str] = ABOVE

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def from_ms(cls, tau: Any, dt: float, **others: Any) -> Self:
        """Make a component from its time constant in milliseconds.

        Where `from_voltage` is not given it is 1 - decay: at a constant potential the component settles at its distance
        from the knot.

        Parameters
        ----------
        tau, dt
            As in `Component.from_ms`.
        **others
            The other parameters, as for `Rectified`.

        Raises
        ------
        ArgumentError
            As `Component.from_ms`.

        Examples
        --------
        >>> from blocksim import Rectified
        >>> component = Rectified.from_ms(tau=10, dt=1, knot=0.5, to_threshold=0.3)
        >>> round(component.from_voltage, 4)
        0.0952
        """
        factor = decay_of_ms("tau", tau, milliseconds("dt", dt))
        return cls(**{"decay": factor, "from_voltage": 1 - factor, **others})


@dataclass(frozen=True, eq=False)
class Softplus(Rectified):
    """A quantity that follows a smooth function of the potential, and moves the threshold alone: equation (34).

    As `Rectified`, with softness log(1 + exp((U - knot) / softness)) in place of max(U - knot, 0), which it approaches
    on both sides of the knot. Its slope, the sigmoid of a channel's steady state, has no jump. Source: Mensi et al.,
    "Enhanced responsiveness to rapid synaptic inputs due to nonlinear threshold dynamics", PLoS Computational Biology
    12, 2016, whose threshold settles at this function.

    Parameters
    ----------
    decay, knot, jump, from_voltage, to_threshold : float or (N,) array
        As for `Rectified`.
    softness : float or (N,) array
        How far from the knot the function bends, in the unit of the membrane potential, > 0: k_i, the slope factor of
        the channel's inactivation. At the knot it is 0.69 softness above the rectified function, five times as far
        away less than 0.01 softness.

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite.

    Examples
    --------
    >>> from blocksim import LinearIF, Softplus
    >>> coupling = Softplus.from_ms(tau=5, dt=0.1, knot=10, softness=2, to_threshold=0.4)
    >>> neuron = LinearIF(0.99, theta=15, refractory_steps=40, components=[coupling])
    >>> float(neuron.parameters()["components.0.softness"])
    2.0
    """

    softness: Number = parameter(
        "distance from the knot over which the function bends", expected="numbers above 0",
        valid=lambda value: value > 0, unit="potential", default=1.0, transform=Positive(),
    )  # fmt: skip

    listens: ClassVar[str] = SOFTPLUS


@dataclass(frozen=True, eq=False)
class LinearIF(Neuron):
    """Integrate-and-fire neurons that are linear between spikes, equations (30)-(34).

    LIF and ALIF are instances of it, and so are GIF, MAT, AdLIF and GLIF neurons.

    Parameters
    ----------
    beta : float or (N,) array
        Factor by which the membrane potential decays in one step, exp(-dt / tau_mem), in [0, 1).
    theta : float or (N,) array
        Threshold with all components at zero (theta_0), in the unit of the membrane potential.
    refractory_steps : int or (N,) integer array
        Steps after a spike during which the neuron cannot spike.
    components : sequence of Component, Rectified or Softplus
    v_reset, reset_factor : float or (N,) array
        After a spike the potential is reset_factor U + v_reset: to zero by default; by subtraction with factor 1 and
        -theta; not at all with factor 1 and 0.
    refractory : {"ignore", "hold", "integrate"}
        What the potential does while refractory: it decays, without current; it stays; it goes on as always.
    spike : Escape or None
        Noise of the spikes; None: a neuron spikes where its potential is above the threshold, (32).

    Raises
    ------
    ArgumentError
        A parameter is out of range or not finite, or the arrays differ in length.

    Examples
    --------
    An adaptive threshold with two time constants, and an after-spike current:

    >>> from blocksim import Component, LinearIF
    >>> fast, slow = Component(0.9, to_threshold=0.5), Component(0.99, to_threshold=0.1)
    >>> neuron = LinearIF(0.95, refractory_steps=4, components=[fast, slow, Component(0.8, to_voltage=-0.05)])
    >>> sorted(neuron.parameters())[:3]
    ['beta', 'components.0.decay', 'components.0.from_voltage']
    """

    beta: Number = membrane()
    theta: Number = threshold()
    refractory_steps: int | np.ndarray = refractory_period()
    components: Sequence[Component | Rectified] = parts("components", default=())
    v_reset: Number = parameter("potential after a spike, beside the part that is kept", unit="potential", default=0.0)
    reset_factor: Number = parameter("part of the potential that is kept after a spike", default=0.0)
    refractory: str = setting("ignore", REFRACTORY)
    spike: Escape | None = parts("spike", default=None)

    def __post_init__(self) -> None:
        components = tuple_of(self.components)
        for place, each in enumerate(components):
            if not isinstance(each, (Component, Rectified)):
                raise ArgumentError(f"components: expected a sequence of Component, Rectified or Softplus; found "
                                    f"{found(each)} at index {place}")  # fmt: skip
        object.__setattr__(self, "components", components)
        if self.spike is not None and not isinstance(self.spike, Escape):
            raise ArgumentError(f"spike: expected a blocksim.Escape or None; found {found(self.spike)}")
        super().__post_init__()

    def listens(self, components: int) -> tuple[str, ...]:
        """What each component listens to.

        Returns
        -------
        tuple of str
            For each component "before" or "after", "above" of a `Rectified`, "softplus" of a `Softplus`.
        """
        own = tuple(component.listens for component in self.components)
        return own if len(own) == components else super().listens(components)
