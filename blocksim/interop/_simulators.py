"""Neurons of other tools as layers: NEST's models, and the Allen Institute's GLIF files.

Owns the translation of their names, units and conventions; what they compute beyond the linear family is refused, with
the reason. Potentials are in mV relative to the resting potential E_L.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from blocksim._connections import Alpha, Connection, Exponential
from blocksim._layer import Layer
from blocksim._linear_neurons import Component, LinearIF
from blocksim._milliseconds import propagators, steps_of_ms
from blocksim._validation import choice, found, items, milliseconds, number
from blocksim.errors import ArgumentError

# the parameters of NEST 3.10's models and their default values
_IAF = {"E_L": -70.0, "C_m": 250.0, "tau_m": 10.0, "t_ref": 2.0, "V_th": -55.0, "V_reset": -70.0, "I_e": 0.0}
_SYNAPSES = {"tau_syn_ex": 2.0, "tau_syn_in": 2.0}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "iaf_psc_delta": _IAF,
    "iaf_psc_exp": _IAF | _SYNAPSES,
    "iaf_psc_alpha": _IAF | _SYNAPSES,
    "mat2_psc_exp": {
        "E_L": -70.0, "C_m": 100.0, "tau_m": 5.0, "t_ref": 2.0, "tau_syn_ex": 1.0, "tau_syn_in": 3.0, "I_e": 0.0,
        "tau_1": 10.0, "tau_2": 200.0, "alpha_1": 37.0, "alpha_2": 2.0, "omega": -51.0,
    },
    "glif_psc": {
        "g": 9.43, "E_L": -78.85, "V_th": -51.68, "C_m": 58.72, "t_ref": 3.75, "V_reset": -78.85,
        "after_spike_currents": False, "asc_decay": (0.003, 0.1), "asc_amps": (-9.18, -198.94),
        "asc_r": (1.0, 1.0), "tau_syn": (2.0,),
    },
}  # fmt: skip
# switches, and the one value of each that is in the family
_OFF: dict[str, tuple[Any, str]] = {
    "delta": (0.0, "stochastic spikes"),
    "refractory_input": (False, "input saved up while refractory"),
    "spike_dependent_threshold": (False, "a reset from the potential of the step before"),
    "adapting_threshold": (False, "a threshold that integrates the current"),
}
_OUT_OF_REACH = {
    "gif_psc_exp": "its spikes are stochastic",
    "iaf_cond_exp": "the membrane's time constant depends on the conductances",
    "iaf_cond_alpha": "the membrane's time constant depends on the conductances",
    "aeif_psc_exp": "an exponential of the potential drives the potential",
    "aeif_cond_alpha": "an exponential of the potential drives the potential",
    "hh_psc_alpha": "its gates are not linear in the potential",
    "izhikevich": "the square of the potential drives the potential",
}


def from_nest(model: str, params: Mapping[str, Any], dt: float, weights: Any = (1, 1)) -> Layer:
    """A neuron of NEST as a layer of one neuron with two inputs.

    Parameters
    ----------
    model : {"iaf_psc_delta", "iaf_psc_exp", "iaf_psc_alpha", "mat2_psc_exp", "glif_psc"}
    params : dict
        NEST's parameters by NEST's names, in NEST's units (mV, pF, nS, pA, ms); those left out have NEST's defaults.
    dt : float
        Step in ms, NEST's resolution.
    weights : (float, float)
        Weights of an excitatory and of an inhibitory input, in NEST's unit: mV for iaf_psc_delta, else pA.

    Returns
    -------
    Layer
        Input 0 acts on receptor 0, the excitatory one, input 1 on receptor 1, the inhibitory one. An input event at
        index k is a spike that arrives at (k + 1) dt; a spike at index k is at (k + 1) dt. Potentials are in mV
        relative to E_L.

    Raises
    ------
    ArgumentError
        Model or parameter is unknown, a value is out of range, or asks for what is not linear between spikes.

    Notes
    -----
    Gains are the exact propagators of the subthreshold equations (Rotter, Diesmann, "Exact digital simulation of
    time-invariant linear systems with applications to neuronal modeling", Biological Cybernetics 81, 1999), so spike
    times are NEST's (version 3.10). A NEST neuron spikes when it reaches its threshold, one of blocksim when it is
    above: so the layer's threshold is the next smaller number. glif_psc is in the family at levels 1 and 3, with asc_r
    = 1.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import simulate
    >>> from blocksim.interop import from_nest
    >>> layer = from_nest("iaf_psc_exp", {"I_e": 500.0}, dt=0.1)
    >>> run = simulate(layer, np.zeros((1000, 2), bool), backend="numpy")
    >>> (np.flatnonzero(run.spikes[:, 0])[:2] + 1) * 0.1
    array([13.9, 29.8])
    """
    if isinstance(model, str) and model in _OUT_OF_REACH:
        raise ArgumentError(
            f"model: expected one that is linear between spikes; found {model!r}, which is not: {_OUT_OF_REACH[model]}"
        )
    choice("model", model, _DEFAULTS)
    dt = milliseconds("dt", dt)
    given = _parameters(model, params)
    numbers = [number("weights", weight) for weight in items("weights", weights, "two weights", 2)]
    neuron, synapses, delay, bias = (_glif if model == "glif_psc" else _iaf)(model, given, dt)
    return Layer(
        neuron,
        bias=bias,
        inputs=[
            Connection(np.where(np.arange(2)[:, None] == place, weight, 0.0), delay, place)
            for place, weight in enumerate(numbers)
        ],
        synapses=synapses,
    )


def _parameters(model: str, params: Any) -> dict[str, Any]:
    """NEST's parameters, with defaults where none are given."""
    if not isinstance(params, Mapping):
        raise ArgumentError(f"params: expected a dict of NEST's parameters; found {found(params)}")
    known, given = _DEFAULTS[model], dict(params)
    for name, (off, reason) in _OFF.items():
        value = given.pop(name, off)
        if value != off:
            raise ArgumentError(f"params: {name}: expected {off}; found {value!r}: {reason} is not in the family")
    lowest = given.pop("V_min", None)
    if lowest is not None and lowest > -1e300:
        raise ArgumentError(f"params: V_min: expected no lower bound; found {lowest!r}, which is not linear")
    given.pop("rho", None)  # of no meaning without delta
    rest = given.get("E_L", known["E_L"])
    start = given.pop("V_m", rest)
    if start != rest:
        raise ArgumentError(f"params: V_m: expected the state at rest, E_L = {rest!r}; found {start!r}")
    for name in given:
        if name not in known:
            raise ArgumentError(f"params: expected parameters of {model}, {', '.join(known)}; found {name!r}")
    return dict(known) | given


def _exponential(tau: float, tau_m: float, capacity: float, dt: float) -> Exponential:
    """A current that decays with tau, as the potential that it makes in a step."""
    return Exponential(math.exp(-dt / tau), propagators(tau, tau_m, dt)[0] * tau_m / capacity)


def _alpha(tau: float, tau_m: float, capacity: float, dt: float) -> Alpha:
    """A current t e^(1 - t / tau) / tau."""
    of_s, of_z = (each * tau_m / capacity for each in propagators(tau, tau_m, dt))
    return Alpha(math.exp(-dt / tau), of_s, math.e / tau * of_z)


def _below(threshold: float) -> float:
    return float(np.nextafter(threshold, -np.inf))


def _positive(given: Mapping[str, Any], name: str) -> float:
    return number(f"params: {name}", given[name], above=0)


def _iaf(model: str, given: Mapping[str, Any], dt: float) -> tuple[LinearIF, list[Any], int, float]:
    """Neuron, synapses, delay of the inputs, and bias."""
    rest, tau_m, capacity = number("params: E_L", given["E_L"]), _positive(given, "tau_m"), _positive(given, "C_m")
    beta, step = math.exp(-dt / tau_m), -math.expm1(-dt / tau_m) * tau_m / capacity  # mV for a current of 1 pA
    refractory = steps_of_ms("params: t_ref", given["t_ref"], dt, None)
    if model == "mat2_psc_exp":
        neuron = LinearIF(
            beta,
            _below(number("params: omega", given["omega"]) - rest),
            refractory,
            # thresholds decay before the spike of a step adds to them
            [_threshold(_positive(given, f"tau_{place}"), number(f"params: alpha_{place}", given[f"alpha_{place}"]), dt)
             for place in (1, 2)],
            reset_factor=1.0,
            refractory="integrate",
        )  # fmt: skip
    else:
        threshold, reset = (number(f"params: {name}", given[name]) - rest for name in ("V_th", "V_reset"))
        if reset >= threshold:
            raise ArgumentError(f"params: V_reset: expected less than V_th; found {given['V_reset']!r}")
        neuron = LinearIF(beta, _below(threshold), refractory, v_reset=reset, refractory="hold")
    bias = number("params: I_e", given["I_e"]) * step
    if model == "iaf_psc_delta":
        return neuron, [], 0, bias
    kind: Callable[..., Any] = _alpha if model == "iaf_psc_alpha" else _exponential
    taus = [_positive(given, name) for name in ("tau_syn_ex", "tau_syn_in")]
    # the potential sees a current from the step after its arrival on
    return neuron, [kind(tau, tau_m, capacity, dt) for tau in taus], 1, bias


def _threshold(tau: float, rise: float, dt: float) -> Component:
    decay = math.exp(-dt / tau)
    return Component(decay, jump=decay * rise, to_threshold=1.0)


def _glif(model: str, given: Mapping[str, Any], dt: float) -> tuple[LinearIF, list[Any], int, float]:
    """Levels 1 and 3 of glif_psc: the same."""
    rest, conductance, capacity = number("params: E_L", given["E_L"]), _positive(given, "g"), _positive(given, "C_m")
    tau_m = capacity / conductance
    beta, step = math.exp(-dt / tau_m), -math.expm1(-dt / tau_m) * tau_m / capacity  # mV for a current of 1 pA
    refractory = steps_of_ms("params: t_ref", given["t_ref"], dt, None)
    components: list[Component] = []
    if given["after_spike_currents"]:
        each = [np.atleast_1d(given[name]) for name in ("asc_decay", "asc_amps", "asc_r")]
        if len({len(array) for array in each}) > 1:
            raise ArgumentError("params: asc_decay, asc_amps, asc_r: expected one length; found several")
        for rate, amplitude, kept in zip(*each, strict=True):
            if kept != 1:
                raise ArgumentError(
                    f"params: asc_r: expected 1; found {kept}: a spike that multiplies a current is not in the family"
                )
            decay = math.exp(-number("params: asc_decay", rate, above=0) * dt)
            # the amplitude is that of the first step after the refractory period; g is for the mean of a step
            jump = number("params: asc_amps", amplitude) * decay**-refractory
            components.append(Component(decay, jump, to_voltage=step * (1 - decay) / (rate * dt)))
    threshold, reset = (number(f"params: {name}", given[name]) - rest for name in ("V_th", "V_reset"))
    neuron = LinearIF(beta, threshold, refractory, components, v_reset=reset, refractory="hold")
    taus = [number("params: tau_syn", tau, above=0) for tau in np.atleast_1d(given["tau_syn"])]
    if len(taus) not in (1, 2):
        raise ArgumentError(f"params: tau_syn: expected one time constant, or one for each input; found {len(taus)}")
    return neuron, [_alpha(tau, tau_m, capacity, dt) for tau in (taus * 2)[:2]], 1, 0.0


def from_allen(config: Mapping[str, Any]) -> Layer:
    """A GLIF neuron of the Allen Institute's Cell Types Database as a layer of one neuron with one input.

    Parameters
    ----------
    config : dict
        A neuron_config file as `json` reads it: in SI units, with its own step, `dt` in s.

    Returns
    -------
    Layer
        Its input is the injected current in pA, one value for each step of `dt`. Potentials are in mV relative to El.
        A spike at index k is one at AllenSDK's time step k.

    Raises
    ------
    ArgumentError
        A part is missing, or asks for what is not in the linear family: level 5, whose threshold integrates the
        current, and after-spike currents that a spike multiplies (r other than 1).

    Notes
    -----
    Levels 1 to 4 (LIF, LIF_R, LIF_ASC, LIF_R_ASC), step by step those of AllenSDK 2.16: forward Euler, and
    spike_cut_length refractory steps in which the potential stays where it was reset.

    Source: Teeter et al., "Generalized leaky integrate-and-fire models classify multiple neuron types", Nature
    Communications 9, 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import simulate
    >>> from blocksim.interop import from_allen
    >>> config = {
    ...     "El": 0.0, "dt": 5e-5, "R_input": 1.5e8, "C": 1e-10, "th_inf": 0.02, "spike_cut_length": 40, "coeffs": {},
    ...     "asc_tau_array": [0.1], "asc_amp_array": [-2e-11],
    ...     "AScurrent_dynamics_method": {"name": "exp", "params": {}},
    ...     "AScurrent_reset_method": {"name": "sum", "params": {"r": [1.0]}},
    ...     "threshold_dynamics_method": {"name": "inf", "params": {}},
    ...     "threshold_reset_method": {"name": "inf", "params": {}},
    ...     "voltage_dynamics_method": {"name": "linear_forward_euler", "params": {}},
    ...     "voltage_reset_method": {"name": "zero", "params": {}},
    ... }
    >>> run = simulate(from_allen(config), np.full((4000, 1), 200.0), backend="numpy")
    >>> np.flatnonzero(run.spikes[:, 0])[:3]
    array([ 329,  764, 1272])
    """
    if not isinstance(config, Mapping):
        raise ArgumentError(f"config: expected a neuron_config file as a dict; found {found(config)}")
    try:
        return _allen(config)
    except ArgumentError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArgumentError(f"config: expected the parts of a GLIF neuron_config; found {error!r}") from error


def _allen(config: Mapping[str, Any]) -> Layer:
    def value(name: str, given: Mapping[str, Any] = config, **bounds: float) -> float:
        return number(f"config: {name}", given[name], **bounds)  # type: ignore[arg-type]

    def method(part: str, *allowed: str) -> tuple[str, Mapping[str, Any]]:
        used = config[f"{part}_method"]
        if used["name"] not in allowed:
            raise ArgumentError(
                f"config: {part}_method: expected {' or '.join(allowed)}, which are in the linear family; found "
                f"{used['name']!r}"
            )
        return used["name"], used.get("params") or {}

    scale = {"th_inf": 1.0, "C": 1.0, "G": 1.0, "asc_amp_array": 1.0} | dict(config.get("coeffs") or {})
    method("voltage_dynamics", "linear_forward_euler")
    dt, rest = value("dt", above=0), value("El")
    conductance = scale["G"] / value("R_input", above=0)
    capacity = value("C", above=0) * scale["C"]
    step = 1e-9 * dt / capacity  # mV for a current of 1 pA
    refractory = int(value("spike_cut_length", least=0))
    components = []
    if method("AScurrent_dynamics", "none", "exp")[0] == "exp":
        _, reset = method("AScurrent_reset", "sum")
        amplitudes = np.asarray(config["asc_amp_array"], float) * np.asarray(scale["asc_amp_array"], float)
        kept = np.broadcast_to(np.asarray(reset["r"], float), amplitudes.shape)
        if (kept != 1).any():
            raise ArgumentError(
                f"config: AScurrent_reset_method: expected r = 1; found {kept.tolist()}: a spike that multiplies a "
                "current is not in the family"
            )
        for tau, amplitude in zip(config["asc_tau_array"], amplitudes, strict=True):
            decay = math.exp(-dt / number("config: asc_tau_array", tau, above=0))
            # amplitudes are those after the refractory period
            components.append(Component(decay, 1e12 * amplitude * decay**-refractory, to_voltage=step))
    if method("threshold_dynamics", "inf", "spike_component")[0] == "spike_component":
        _, params = method("threshold_reset", "three_components")
        decay = math.exp(-dt * value("b_spike", params, above=0))
        components.append(
            Component(decay, 1e3 * value("a_spike", params) * decay ** (1 - refractory), to_threshold=1.0)
        )
    name, reset = method("voltage_reset", "zero", "v_before")
    factor, offset = (value("a", reset), value("b", reset)) if name == "v_before" else (0.0, 0.0)
    neuron = LinearIF(
        beta=1 - dt * conductance / capacity,
        theta=1e3 * (value("th_inf") * scale["th_inf"] - rest),
        refractory_steps=refractory,
        components=components,
        v_reset=1e3 * (offset + (factor - 1) * rest),
        reset_factor=factor,
        refractory="hold",
    )
    return Layer(neuron, weights=[[step]])
