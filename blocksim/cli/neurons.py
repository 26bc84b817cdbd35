"""Neurons of `blocksim simulate`: from its flags, or a model of the linear family from a file of settings.

Owns the tables [neuron] and [[synapses]] of that file, whose names are those of `from_ms`.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import blocksim
from blocksim._settings import check_names, read_settings, section
from blocksim._validation import choice, found
from blocksim.errors import ArgumentError

MODELS: dict[str, Any] = {
    "lif": blocksim.LIF, "alif": blocksim.ALIF, "cubalif": blocksim.CubaLIF, "gif": blocksim.GIF, "mat": blocksim.MAT,
    "adlif": blocksim.AdLIF, "glif": blocksim.GLIF,
}  # fmt: skip
SYNAPSES: dict[str, Any] = {"exponential": blocksim.Exponential, "alpha": blocksim.Alpha}


def read_neuron(model: str, config: Path | None, flags: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The neurons and synapses of a settings file; `flags` are arguments of `from_ms` that the file may replace."""
    settings = {} if config is None else read_settings(config)
    check_names(str(config), settings, ("neuron", "synapses"))
    table = section("neuron", settings)
    known = [name for name in inspect.signature(MODELS[model].from_ms).parameters if name not in ("dt", "rounding")]
    check_names("[neuron]", table, known)
    given = {name: value for name, value in flags.items() if name in (*known, "dt", "rounding")} | table
    synapses = settings.get("synapses", [])
    if not isinstance(synapses, list) or not all(isinstance(each, dict) for each in synapses):
        raise ArgumentError(f"synapses: expected tables [[synapses]]; found {found(synapses)}")
    try:
        neuron = MODELS[model].from_ms(**{name: _tuples(value) for name, value in given.items()})
    except TypeError as error:  # an argument without a default is missing
        raise ArgumentError(f"[neuron]: expected values for {', '.join(known)}; found: {error}") from error
    return neuron, [_synapse(each, flags["dt"]) for each in synapses]


def _synapse(table: dict[str, Any], dt: float) -> Any:
    kind = choice("[[synapses]] kind", table.get("kind", "exponential"), SYNAPSES)
    check_names("[[synapses]]", table, ("kind", "tau", "gain", *(("gain_rising",) if kind == "alpha" else ())))
    values = {name: value for name, value in table.items() if name != "kind"}
    if "tau" not in values:
        raise ArgumentError(f"[[synapses]]: expected tau, in ms; found {found(table)}")
    return SYNAPSES[kind].from_ms(dt=dt, **values)


def _tuples(value: Any) -> Any:
    """Lists of a settings file as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
