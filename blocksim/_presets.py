"""Models of the linear family that have names: CubaLIF, GIF, MAT, AdLIF and GLIF neurons.

Owns what their published parameters are in the terms of the family; each is a `LinearIF` or `LIF`, and nothing else.
Between spikes all are exact for input that is constant within a step, unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from blocksim._connections import Exponential, Synapse
from blocksim._escape import Escape
from blocksim._linear_neurons import Component, LinearIF, Rectified, Softplus
from blocksim._milliseconds import decay_of_ms, propagators
from blocksim._neurons import LIF, membrane_of_ms
from blocksim._parameters import parts, tuple_of
from blocksim._validation import choice, finite, found, milliseconds, real_array
from blocksim.errors import ArgumentError

DISCRETISATIONS = ("symplectic", "exact")


@dataclass(frozen=True, eq=False)
class CubaLIF(LIF):
    """Current-based LIF neurons: input is filtered by exponential synapses before it reaches the potential.

    Parameters
    ----------
    beta, theta, refractory_steps
        As in `LIF`.
    synapses : sequence of Exponential or Alpha
        The receptors of a layer of these neurons, which then has no `synapses` of its own.

    Raises
    ------
    ArgumentError
        There is no synapse, or one is no `Exponential` or `Alpha`; or as `LIF`.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import CubaLIF, Layer, simulate
    >>> neuron = CubaLIF.from_ms(tau_mem=20, tau_syn=5, refractory=2, dt=1)
    >>> layer = Layer(neuron, weights=np.full((1, 1), 0.1))
    >>> run = simulate(layer, np.eye(20, 1, dtype=bool), backend="numpy", record="voltage")
    >>> int(run.voltage.argmax())
    8
    """

    synapses: Sequence[Synapse] = parts("synapses", default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "synapses", tuple_of(self.synapses))
        if not self.synapses or not all(isinstance(each, Synapse) for each in self.synapses):
            raise ArgumentError(f"synapses: expected at least one Exponential or Alpha; found {found(self.synapses)}")
        super().__post_init__()

    @classmethod
    def from_ms(  # type: ignore[override]
        cls,
        *,
        tau_mem: Any,
        tau_syn: Any,
        dt: float,
        refractory: Any = 0.0,
        theta: Any = 1.0,
        gain: Any = 1.0,
        rounding: str | None = None,
    ) -> Self:
        """Make neurons from time constants in milliseconds.

        Parameters
        ----------
        tau_mem, dt, refractory, theta, rounding
            As in `LIF.from_ms`.
        tau_syn : float, (N,) array, or a tuple of them
            Synaptic time constant in ms; several make a receptor each.
        gain : float or (N,) array
            Current for a unit of synaptic state.

        Raises
        ------
        ArgumentError
            As `LIF.from_ms`; or `tau_syn` is empty.
        """
        dt = milliseconds("dt", dt)
        taus = tau_syn if isinstance(tau_syn, (tuple, list)) else (tau_syn,)
        synapses = tuple(Exponential(decay_of_ms("tau_syn", tau, dt), gain) for tau in taus)
        return cls(**membrane_of_ms(tau_mem, dt, theta, refractory, rounding), synapses=synapses)


class GIF(LinearIF):
    """Generalised integrate-and-fire neurons: spikes leave currents and raise the threshold, each with several decays.

    Source: Mensi et al., "Parameter extraction and classification of three cortical neuron types reveals two distinct
    adaptation mechanisms", Journal of Neurophysiology 107, 2012; Pozzorini et al., "Automated high-throughput
    characterization of single neurons by means of simplified spiking models", PLoS Computational Biology 11, 2015. With
    `coupling` it is the iGIF neuron of Mensi et al., PLoS Computational Biology 12, 2016.

    Examples
    --------
    >>> from blocksim import GIF
    >>> rises = [(30, 0.5), (300, 0.1)]
    >>> neuron = GIF.from_ms(tau_mem=20, dt=0.1, refractory=4, currents=[(100, -0.2)], thresholds=rises)
    >>> len(neuron.components), neuron.refractory
    (3, 'hold')
    """

    @classmethod
    def from_ms(
        cls,
        *,
        tau_mem: Any,
        dt: float,
        theta: Any = 1.0,
        refractory: Any = 0.0,
        v_reset: Any = 0.0,
        reset_factor: Any = 0.0,
        currents: Any = (),
        thresholds: Any = (),
        coupling: Any = (),
        rounding: str | None = None,
        spike: Escape | None = None,
    ) -> Self:
        """Make neurons from time constants in milliseconds.

        Parameters
        ----------
        tau_mem : float or (N,) array
            Membrane time constant in ms.
        dt, refractory, rounding
            As in `LIF.from_ms`. While refractory the potential stays.
        theta, v_reset : float or (N,) array
            Threshold at rest, and potential after a spike, above the resting potential: in mV, say.
        reset_factor : float or (N,) array
            Part of the potential that is kept after a spike, beside `v_reset`.
        currents : sequence of (tau, amplitude)
            After-spike currents: time constant in ms, and the potential that the current would hold at its start,
            negative for one that hinders spikes. A current of I pA across a leak of g nS would hold I / g mV.
        thresholds : sequence of (tau, amplitude)
            Rises of the threshold: time constant in ms, and rise at a spike, in the unit of the potential.
        coupling : sequence of (tau, knot, slope) or (tau, knot, slope, softness)
            What the potential does to the threshold, as in the iGIF neuron (`Rectified`): time constant in ms; the
            potential above which it acts, None for the potential itself, on both sides of rest; and the rise of the
            threshold, once settled, for each unit above it. With a softness, the potential over which that begins, it
            is a smooth function (`Softplus`).
        spike : Escape or None
            Noise of the spikes, as in the GIF neuron of Pozzorini et al.

        Raises
        ------
        ArgumentError
            A time constant is not a positive number of ms, or what describes a component is no pair or triple.
        """
        dt = milliseconds("dt", dt)
        coupled = tuple(_follower(each, dt) for each in _tuples("coupling", coupling, "knot", "slope", last="softness"))
        return cls(
            **membrane_of_ms(tau_mem, dt, theta, refractory, rounding),
            components=[*_components(currents, thresholds, tau_mem, dt), *coupled],
            v_reset=v_reset,
            reset_factor=reset_factor,
            refractory="hold",
            spike=spike,
        )


class MAT(LinearIF):
    """Multi-timescale adaptive threshold neurons: the potential is never reset, spikes raise the threshold.

    Make these neurons with `from_ms`; the constructor's parameters are those of `LinearIF`.

    Source: Kobayashi, Tsubo, Shinomoto, "Made-to-order spiking neuron model equipped with a multi-timescale adaptive
    threshold", Frontiers in Computational Neuroscience 3, 2009.

    Examples
    --------
    >>> from blocksim import MAT
    >>> neuron = MAT.from_ms(tau_mem=5, dt=0.1, theta=19, refractory=2, thresholds=[(10, 37), (200, 2)])
    >>> neuron.reset_factor, neuron.refractory
    (1.0, 'integrate')
    """

    @classmethod
    def from_ms(
        cls,
        *,
        tau_mem: Any,
        dt: float,
        theta: Any = 1.0,
        refractory: Any = 0.0,
        thresholds: Any = (),
        rounding: str | None = None,
        spike: Escape | None = None,
    ) -> Self:
        """Make neurons from time constants in milliseconds.

        Parameters
        ----------
        tau_mem, dt, refractory, rounding
            As in `LIF.from_ms`. While refractory the neuron integrates, and cannot spike.
        theta : float or (N,) array
            Threshold at rest (omega) above the resting potential: in mV, say.
        thresholds : sequence of (tau, amplitude)
            Rises of the threshold: time constant in ms, and rise at a spike, in the unit of the potential.
        spike : Escape or None
            Noise of the spikes.

        Raises
        ------
        ArgumentError
            As `LIF.from_ms`; or an entry of `thresholds` is no (tau, amplitude).
        """
        dt = milliseconds("dt", dt)
        return cls(
            **membrane_of_ms(tau_mem, dt, theta, refractory, rounding),
            components=_components((), thresholds, tau_mem, dt),
            reset_factor=1.0,
            refractory="integrate",
            spike=spike,
        )


class GLIF(LinearIF):
    """Generalised leaky integrate-and-fire neurons of levels 1 to 4.

    Level 1 has no components; level 2 has `thresholds` and a reset that keeps a part of the potential; level 3 has
    `currents`; level 4 has all of these. Level 5, whose threshold integrates the current, is not in the family. The
    Allen Institute's files: `blocksim.interop.from_allen`.

    Make these neurons with `from_ms`; the constructor's parameters are those of `LinearIF`.

    Source: Teeter et al., "Generalized leaky integrate-and-fire models classify multiple neuron types", Nature
    Communications 9, 2018.

    Examples
    --------
    >>> from blocksim import GLIF
    >>> level2 = {"reset_factor": 0.2, "v_reset": 2, "thresholds": [(50, 4)]}
    >>> neuron = GLIF.from_ms(tau_mem=15, dt=0.1, theta=25, refractory=3, **level2)
    >>> neuron.reset_factor
    0.2
    """

    @classmethod
    def from_ms(
        cls,
        *,
        tau_mem: Any,
        dt: float,
        theta: Any = 1.0,
        refractory: Any = 0.0,
        v_reset: Any = 0.0,
        reset_factor: Any = 0.0,
        currents: Any = (),
        thresholds: Any = (),
        rounding: str | None = None,
        spike: Escape | None = None,
    ) -> Self:
        """Make neurons from time constants in milliseconds.

        Parameters
        ----------
        tau_mem, dt, theta, refractory, rounding, spike
            As in `GIF.from_ms`.
        v_reset, reset_factor : float or (N,) array
            After a spike the potential is reset_factor times what it was, plus v_reset.
        currents, thresholds : sequences of (tau, amplitude)
            As in `GIF.from_ms`, but that amplitudes are those at the end of the refractory period.

        Raises
        ------
        ArgumentError
            As `LIF.from_ms`; or an entry of `currents` or `thresholds` is no (tau, amplitude).
        """
        dt = milliseconds("dt", dt)
        common = membrane_of_ms(tau_mem, dt, theta, refractory, rounding)
        steps = np.asarray(common["refractory_steps"], np.float64)
        return cls(
            **common,
            components=[
                replace(each, jump=_like(each.jump * np.asarray(each.decay) ** -steps, each.jump, each.decay))
                for each in _components(currents, thresholds, tau_mem, dt)
            ],
            v_reset=v_reset,
            reset_factor=reset_factor,
            refractory="hold",
            spike=spike,
        )


class AdLIF(LinearIF):
    """Adaptive LIF neurons with subthreshold adaptation: tau_mem du/dt = -u + I - w, tau_adapt dw/dt = -w + a u + b S.

    Make these neurons with `from_ms`; the constructor's parameters are those of `LinearIF`.

    Source: Bittar, Garner, "A surrogate gradient spiking baseline for speech command recognition", Frontiers in
    Neuroscience 16, 2022; Baronig et al., "Advancing spatio-temporal processing through adaptation in spiking neural
    networks", Nature Communications 16, 2025 (arXiv 2408.07517).

    Examples
    --------
    >>> from blocksim import AdLIF
    >>> neuron = AdLIF.from_ms(tau_mem=10, tau_adapt=60, a=0.5, b=1.0, dt=1)
    >>> [component.listens for component in neuron.components]
    ['after']
    """

    @classmethod
    def from_ms(
        cls,
        *,
        tau_mem: Any,
        tau_adapt: Any,
        a: Any,
        b: Any,
        dt: float,
        theta: Any = 1.0,
        refractory: Any = 0.0,
        discretisation: str = "symplectic",
        rounding: str | None = None,
        spike: Escape | None = None,
    ) -> Self:
        """Make neurons from time constants in milliseconds.

        Parameters
        ----------
        tau_mem, tau_adapt : float or (N,) array
            Time constants of membrane and adaptation in ms.
        a, b : float or (N,) array
            What the potential and a spike add to the adaptation.
        dt, theta, refractory, rounding
            As in `LIF.from_ms`. The potential is reset to 0.
        spike : Escape or None
            Noise of the spikes.
        discretisation : {"symplectic", "exact"}
            "symplectic" is SE-adLIF: u of a step from w of the step before, w from u of the same step, after its reset.
            "exact" solves the two equations together, for a current that is constant within a step.

        Raises
        ------
        ArgumentError
            As `LIF.from_ms`; `discretisation` is unknown; or a or b is not of finite real numbers.

        Notes
        -----
        The source's current is multiplied by 1 - exp(-dt / tau_mem), `current_gain(...)`, before it is added to u; here
        that factor belongs to the weights.
        """
        choice("discretisation", discretisation, DISCRETISATIONS)
        dt = milliseconds("dt", dt)
        common = membrane_of_ms(tau_mem, dt, theta, refractory, rounding)
        beta, decay = common["beta"], decay_of_ms("tau_adapt", tau_adapt, dt)
        a, b = _finite_array("a", a), _finite_array("b", b)
        jump = (1 - decay) * b
        if discretisation == "symplectic":
            component = Component(decay, jump, (1 - decay) * a, to_voltage=-(1 - beta), listens="after")
            return cls(**common, components=[component], spike=spike)
        step, gain = _coupled(real_array("tau_mem", tau_mem, "ms"), real_array("tau_adapt", tau_adapt, "ms"), a, dt)
        # With w of the model, c = w - r V is not moved by the current, for r as below, and becomes
        # q c + (p + q r) V - r (V after the reset - U), p being what V alone makes of w - r U. A part k of V then moves
        # from this step's c to U's own decay, so that c follows from U and V of its own step.
        r = gain[1] / gain[0]
        q = step[1][1] - r * step[0][1]
        k = (step[1][0] - r * step[0][0] + r * q) / q
        own, q, r, k, drive = (
            _like(value, beta, decay, a) for value in (step[0][0] + step[0][1] * (r - k), q, r, k, step[0][1])
        )
        components = [
            Component(q, jump, r, to_voltage=drive),
            Component(q, 0.0, k - r, to_voltage=drive, listens="after"),
        ]
        return cls(**common | {"beta": own}, components=components, spike=spike)

    @staticmethod
    def current_gain(*, tau_mem: Any, dt: float, tau_adapt: Any = None, a: Any = 0.0) -> Any:
        """What a current of 1 adds to the potential in a step.

        Without `tau_adapt` for the symplectic discretisation, 1 - exp(-dt / tau_mem); with it for the exact one.

        Parameters
        ----------
        tau_mem, a, dt
            As in `AdLIF.from_ms`.
        tau_adapt : float, (N,) array or None
            As in `AdLIF.from_ms`, for the exact discretisation; None for the symplectic one.

        Raises
        ------
        ArgumentError
            dt or a time constant is not a time above 0, or so long that the decay factor would round to 1; a is not of
            finite real numbers; or arrays differ in length.

        Examples
        --------
        >>> from blocksim import AdLIF
        >>> round(AdLIF.current_gain(tau_mem=10, dt=1), 4)
        0.0952
        """
        dt = milliseconds("dt", dt)
        decay = decay_of_ms("tau_mem", tau_mem, dt)
        if tau_adapt is None:
            return 1 - decay
        decay_of_ms("tau_adapt", tau_adapt, dt)  # raises where it is none
        taus = (real_array("tau_mem", tau_mem, "ms"), real_array("tau_adapt", tau_adapt, "ms"))
        return _coupled(*taus, _finite_array("a", a), dt)[1][0]


def _finite_array(name: str, value: Any) -> np.ndarray:
    """An array of finite real numbers."""
    array = real_array(name, value)
    finite(name, array)
    return array


def _tuples(name: str, given: Any, *numbers: str, last: str | None = None) -> list[tuple[Any, ...]]:
    """What describes each component: a time constant, and numbers of these names, of which the last may be missing."""
    every = []
    required = 1 + len(numbers)
    numbers = numbers if last is None else (*numbers, last)
    for each in tuple_of(given):
        if not isinstance(each, (tuple, list, np.ndarray)) or not required <= len(each) <= 1 + len(numbers):
            names = ", ".join(("tau in ms", *numbers[: required - 1])) + (f"[, {last}]" if last else "")
            raise ArgumentError(f"{name}: expected a sequence of ({names}); found {found(each)} in it")
        tau, *values = each
        pairs = zip(numbers, values, strict=False)
        every.append((tau, *(None if value is None else real_array(number, value) for number, value in pairs)))
    return every


def _follower(coupling: tuple[Any, ...], dt: float) -> Component | Rectified:
    """What follows the potential above a knot, or the potential itself, and moves the threshold."""
    tau, knot, slope, *softness = coupling
    if softness:
        return Softplus.from_ms(tau, dt, knot=knot, to_threshold=slope, softness=softness[0])
    if knot is not None:
        return Rectified.from_ms(tau, dt, knot=knot, to_threshold=slope)
    factor = decay_of_ms("tau", tau, dt)
    return Component(factor, jump=0.0, from_voltage=1 - factor, to_threshold=slope)


def _components(currents: Any, thresholds: Any, tau_mem: Any, dt: float) -> list[Component]:
    """Currents that begin at a spike and decay, and rises of the threshold that decay from the spike on."""
    components = []
    for tau, amplitude in _tuples("currents", currents, "amplitude"):
        decay = decay_of_ms("tau", tau, dt)
        gain = _like(propagators(tau, tau_mem, dt)[0], decay, tau_mem)
        components.append(Component(decay, amplitude, to_voltage=gain))
    for tau, amplitude in _tuples("thresholds", thresholds, "amplitude"):
        decay = decay_of_ms("tau", tau, dt)
        components.append(Component(decay, _like(decay * amplitude, decay, amplitude), to_threshold=1.0))
    return components


def _like(value: Any, *others: Any) -> Any:
    """A value in the precision of the floating arrays among what it was made from; of plain numbers, as it is."""
    dtypes = [
        other.dtype for other in others if isinstance(other, np.ndarray) and other.ndim and other.dtype.kind == "f"
    ]
    return np.asarray(value).astype(np.result_type(*dtypes)) if dtypes and np.ndim(value) else value


def _coupled(tau_mem: np.ndarray, tau_adapt: np.ndarray, a: np.ndarray, dt: float) -> tuple[Any, Any]:
    """How u and w of an adaptive LIF neuron move in a step: the matrix of (u, w), and what a current of 1 adds to both.

    The exponential of the equations' matrix by its series, for a step so short that it ends soon, and squared.
    """
    given = [np.asarray(each, np.float64) for each in (tau_mem, tau_adapt, a)]
    sizes = {each.size for each in given if each.ndim}
    if len(sizes) > 1 or any(each.ndim > 1 for each in given):
        shapes = ", ".join(str(each.shape) for each in given)
        raise ArgumentError(
            f"tau_mem, tau_adapt, a: expected arrays of one length, one value a neuron; found shapes {shapes}"
        )
    tau_mem, tau_adapt, a = np.broadcast_arrays(*given)
    zero = np.zeros_like(a)
    rates = np.array([
        [-1 / tau_mem, -1 / tau_mem, 1 / tau_mem],
        [a / tau_adapt, -1 / tau_adapt, zero],
        [zero, zero, zero],
    ])  # fmt: skip
    rates = np.moveaxis(rates, (0, 1), (-2, -1)) * dt
    halvings = 10 + int(np.ceil(np.log2(1 + np.abs(rates).max())))
    small = rates / 2.0**halvings
    total = term = np.broadcast_to(np.eye(3), rates.shape)
    for n in range(1, 8):
        term = term @ small / n
        total = total + term
    for _ in range(halvings):
        total = total @ total
    step = [[total[..., row, column][()] for column in range(2)] for row in range(2)]
    return step, [total[..., row, 2][()] for row in range(2)]
