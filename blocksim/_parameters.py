"""What a parameter is, declared once: where a neuron, a layer or a readout names it as a field.

Owns the declaration, and what follows from it wherever parameters are listed: checks, names, gradients, model files,
reparametrisations and tables all ask `declared`. A field that is not declared is an error when its class is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np

from blocksim.errors import ArgumentError
from blocksim.transforms import Transform


@dataclass(frozen=True)
class Parameter:
    """What is known of one parameter.

    Attributes
    ----------
    meaning : str
        What it is, in a few words, for tables.
    expected : str
        Its range in words, for errors.
    valid : function
        Where an array of values lies in that range: an array of bool.
    axes : tuple of str
        Its axes, out of "input", "neuron", "class"; a parameter with the single axis "neuron" or "class" may be one
        number for all of them.
    unit : str
    transform : Transform or None
        What keeps it in its range while it is trained; None: nothing needs to.
    trained : bool
        Whether a gradient belongs to it; whole numbers have none.
    time_constant : str or None
        Name of the time constant whose decay in one step it is.
    """

    meaning: str
    expected: str = "finite numbers"
    valid: Callable[[np.ndarray], Any] = np.isfinite
    axes: tuple[str, ...] = ("neuron",)
    unit: str = ""
    transform: Transform | None = None
    trained: bool = True
    time_constant: str | None = None


def parameter(meaning: str, *, default: Any = MISSING, **known: Any) -> Any:
    """A dataclass field that declares a parameter; `known` are the attributes of `Parameter`."""
    return field(default=default, metadata={"parameter": Parameter(meaning, **known)})


def declared(kind: type) -> dict[str, Parameter]:
    """The parameters of a dataclass by name, in the order of its fields."""
    return {item.name: item.metadata["parameter"] for item in fields(kind) if "parameter" in item.metadata}


def trained(kind: type) -> dict[str, Parameter]:
    """Those of `declared` that a gradient belongs to."""
    return {name: known for name, known in declared(kind).items() if known.trained}


def values(owner: Any) -> dict[str, np.ndarray]:
    """The trained parameters of an object as arrays, by name; those that are None are left out."""
    of_owner = {name: getattr(owner, name) for name in trained(type(owner))}
    return {name: np.asarray(value) for name, value in of_owner.items() if value is not None}


def replacements(prefix: str, own: dict[str, np.ndarray], given: dict[str, Any]) -> dict[str, Any]:
    """Given values of an object's own parameters, as its constructor takes them.

    Raises
    ------
    ArgumentError
        A name is unknown, or a value has another shape than the parameter.
    """
    for name, value in given.items():
        if name not in own:
            raise ArgumentError(f"parameters: expected names out of {', '.join(own)}; found {name!r}")
        if np.shape(value) != own[name].shape:
            raise ArgumentError(f"{prefix}{name}: expected shape {own[name].shape}; found {np.shape(value)}")
    return {name: value if np.ndim(value) else float(value) for name, value in given.items()}
