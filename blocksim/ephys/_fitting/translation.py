"""Cells in physical units, and neurons in the simulator's: the translation, both ways.

Owns it for single cells and for candidates of a fit, with the gradients. The membrane potential v is 0 at reset and 1
at the threshold of a rested neuron, and follows, between spikes,

    tau_mem dv/dt = -v + gain i + bias,        theta = 1 + adaptation a,        tau_adapt da/dt = -a,

with a raised by 1 by each spike, i in pA. One step of dt is exact for a current that is constant within it: (3) with
beta = exp(-dt / tau_mem), and I = reach (gain i + bias), reach = 1 - beta. A fit searches, instead of bias and
adaptation, the rheobase (1 - bias) / gain and the adaptation in pA, adaptation / gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blocksim._layer import Layer
from blocksim._neurons import ALIF
from blocksim._run import Gradients
from blocksim._validation import precision
from blocksim.errors import ArgumentError

if TYPE_CHECKING:
    from blocksim.ephys._fitting.model import Cell

# what a gradient belongs to; the refractory period is chosen, not descended
PARAMETERS = ("tau_mem", "tau_adapt", "gain", "rheobase", "adaptation_pa")
Values = Mapping[str, np.ndarray]  # PARAMETERS and "refractory" (steps), each (N,)


def layer_of(cell: Cell, dt: float, dtype: Any, rounding: str | None) -> Layer:
    """A cell as a layer of one neuron, whose one input is a current in pA."""
    kind = precision("dtype", dtype)
    values = {name: np.array([getattr(cell, name)]) for name in ("tau_mem", "tau_adapt", "adaptation")}
    neuron = ALIF.from_ms(
        tau_mem=values["tau_mem"], tau_adapt=values["tau_adapt"], adaptation=values["adaptation"].astype(kind),
        refractory=np.array([cell.refractory]), theta=np.ones(1, kind), dt=dt, rounding=rounding,
    )  # fmt: skip
    reach = 1 - neuron.beta
    return Layer(
        ALIF(np.asarray(neuron.beta, kind), np.asarray(neuron.p, kind), neuron.b, neuron.theta,
             neuron.refractory_steps),
        weights=np.asarray(cell.gain * reach, kind)[None],
        bias=np.asarray(cell.bias * reach, kind),
    )  # fmt: skip


def parameters_of(layer: Layer, dt: float) -> dict[str, float]:
    """The parameters of the cell that a layer of one ALIF neuron with one input in pA stands for."""
    neuron = layer.neuron
    if not isinstance(neuron, ALIF) or layer.size != 1 or layer.inputs != 1 or layer.recurrent is not None:
        raise ArgumentError("layer: expected one ALIF neuron with one input, without recurrence; found another")
    beta, p, b, theta = (float(np.ravel(getattr(neuron, name))[0]) for name in ("beta", "p", "b", "theta"))
    if theta <= 0 or not 0 < beta < 1 or not 0 < p < 1 or layer.weights is None:
        raise ArgumentError(
            f"layer: expected a threshold above reset and decay factors above 0; found theta {theta:g}, beta "
            f"{beta:g}, p {p:g}"
        )
    bias = 0.0 if layer.bias is None else float(np.ravel(layer.bias)[0])
    return {
        "tau_mem": -dt / float(np.log(beta)),
        "tau_adapt": -dt / float(np.log(p)),
        "adaptation": b / theta,
        "gain": float(layer.weights[0, 0]) / ((1 - beta) * theta),
        "bias": bias / ((1 - beta) * theta),
        "refractory": dt * int(np.ravel(neuron.refractory_steps)[0]),
    }


class Candidates(NamedTuple):
    """Candidates as neurons: a layer without weights, and the current of 1 pA."""

    layer: Layer
    drive: np.ndarray  # (N,) float32
    reach: np.ndarray  # (N,), 1 - beta


def candidates_of(values: Values, dt: float) -> Candidates:
    """Candidates of a fit as neurons, in float32."""
    beta, gain = np.exp(-dt / values["tau_mem"]), values["gain"]
    reach = -np.expm1(-dt / values["tau_mem"])
    neuron = ALIF(
        beta=beta.astype(np.float32),
        p=np.exp(-dt / values["tau_adapt"]).astype(np.float32),
        b=(values["adaptation_pa"] * gain).astype(np.float32),
        refractory_steps=values["refractory"].astype(np.int32),
    )
    bias = ((1 - gain * values["rheobase"]) * reach).astype(np.float32)
    return Candidates(Layer(neuron, bias=bias), (gain * reach).astype(np.float32), reach)


def pullback(values: Values, dt: float, gradients: Gradients, current: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients of `PARAMETERS`, each (N,) float64, from those of a run of the candidates; `current` in pA."""
    gain, tau_mem, tau_adapt = values["gain"], values["tau_mem"], values["tau_adapt"]
    reach = -np.expm1(-dt / tau_mem)
    current = np.broadcast_to(current, gradients.current.shape)
    by_drive = np.einsum("btn,btn->n", gradients.current, current)
    by_drive = by_drive.astype(np.float64) * reach
    by_bias = np.asarray(gradients.bias, np.float64)
    bias = 1 - gain * values["rheobase"]
    by_b = np.asarray(gradients.b, np.float64)
    by_beta = np.asarray(gradients.beta, np.float64) - (by_drive * gain / reach + by_bias * bias)
    by_p = np.asarray(gradients.p, np.float64)
    by_bias = by_bias * reach
    return {
        "tau_mem": by_beta * np.exp(-dt / tau_mem) * dt / tau_mem**2,
        "tau_adapt": by_p * np.exp(-dt / tau_adapt) * dt / tau_adapt**2,
        "gain": by_drive - by_bias * values["rheobase"] + by_b * values["adaptation_pa"],
        "rheobase": -by_bias * gain,
        "adaptation_pa": by_b * gain,
    }


def in_units_of_cells(values: Values, dt: float) -> dict[str, np.ndarray]:
    """Parameters of candidates in the units of `Cell`, and those that were searched."""
    gain = values["gain"]
    return {
        "tau_mem": values["tau_mem"], "tau_adapt": values["tau_adapt"], "adaptation": values["adaptation_pa"] * gain,
        "gain": gain, "bias": 1 - gain * values["rheobase"], "refractory": values["refractory"] * dt,
        "rheobase": values["rheobase"], "adaptation_pa": values["adaptation_pa"],
    }  # fmt: skip
