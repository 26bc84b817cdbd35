"""What a parameter is, declared once: where a neuron, a layer, a synapse or a readout names it as a field.

Owns the declaration, and what follows from it wherever parameters are listed: checks, names, gradients, model files,
reparametrisations and tables all ask `declared` (of a class) or `held` (of an object, with those of its parts). A field
that is not declared is an error when its class is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np

from blocksim._milliseconds import MAX_STEPS
from blocksim._validation import choice, found, frozen, real_array
from blocksim._validation import parameter as checked
from blocksim.errors import ArgumentError
from blocksim.transforms import Decay, Transform

T = TypeVar("T")


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
    flags : bool
        Whether its values are true and false; what is neither trained nor flags is whole numbers.
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
    flags: bool = False
    time_constant: str | None = None


class Held(NamedTuple):
    """A parameter of an object: its declaration and its value."""

    known: Parameter
    value: Any


def parameter(meaning: str, *, default: Any = MISSING, parts: str | None = None, **known: Any) -> Any:
    """A dataclass field that declares a parameter; `known` are the attributes of `Parameter`.

    With `parts` it may hold objects with parameters instead, as in `parts`.
    """
    return field(default=default, metadata={"parameter": Parameter(meaning, **known), "parts": parts})


def parts(name: str, **more: Any) -> Any:
    """A field that holds an object with parameters of its own, or a tuple of such objects and of None.

    Object i of a tuple has its parameters under `name`.i, a single object under `name`, or without a name under their
    own names.
    """
    return field(metadata={"parts": name}, **more)


def setting(default: str, choices: tuple[str, ...]) -> Any:
    """A field that is one of several words, and no parameter."""
    return field(default=default, metadata={"choices": choices})


def decay_factor(value: np.ndarray) -> np.ndarray:
    """Where a value can be the factor by which something decays in one step."""
    return (value >= 0) & (value < 1)


def decay(meaning: str, time_constant: str, transform: Decay, **known: Any) -> Any:
    """A field that declares the factor by which something decays in one step."""
    known = {"expected": "a decay factor in [0, 1)", "valid": decay_factor, **known}
    return parameter(meaning, transform=transform, time_constant=time_constant, **known)


def declared(kind: type) -> dict[str, Parameter]:
    """The parameters of a dataclass by name, in the order of its fields; not those of its parts."""
    return {item.name: item.metadata["parameter"] for item in fields(kind) if "parameter" in item.metadata}


def trained(kind: type) -> dict[str, Parameter]:
    """Those of `declared` that a gradient belongs to."""
    return {name: known for name, known in declared(kind).items() if known.trained}


def held(owner: Any) -> dict[str, Held]:
    """The parameters of an object and of its parts, by name; those that are None are left out."""
    own: dict[str, Held] = {}
    of_parts: dict[str, Held] = {}
    for item in fields(owner):
        value = getattr(owner, item.name)
        if _has_parts(item, value):
            for prefix, part in _named_parts(item, value):
                of_parts |= {prefix + name: each for name, each in held(part).items()}
        elif "parameter" in item.metadata and value is not None:
            own[item.name] = Held(item.metadata["parameter"], value)
    return own | of_parts


def settings(owner: Any) -> dict[str, str]:
    """The settings of an object, by name."""
    return {item.name: getattr(owner, item.name) for item in fields(owner) if "choices" in item.metadata}


def values(owner: Any) -> dict[str, np.ndarray]:
    """The trained parameters of an object and of its parts as arrays, by name."""
    return {name: np.asarray(each.value) for name, each in held(owner).items() if each.known.trained}


def replacements(prefix: str, own: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, Any]:
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


def with_values(owner: T, given: Mapping[str, Any]) -> T:
    """The object, checked anew, with these values in place of its own; names as `held` has them.

    It is made from its fields, whatever its class's constructor takes.
    """
    own = {}
    for item in fields(owner):  # type: ignore[arg-type]
        value = getattr(owner, item.name)
        if _has_parts(item, value):
            changed = [_changed(prefix, part, given) for prefix, part in _named_parts(item, value)]
            if isinstance(value, tuple):
                rest = iter(changed)
                value = tuple(None if part is None else next(rest) for part in value)
            elif changed:
                (value,) = changed
        own[item.name] = given.get(item.name, value)
    return made(type(owner), own)


def made(kind: type[T], given: Mapping[str, Any]) -> T:
    """An object of a frozen dataclass from its fields, checked, whatever its constructor takes."""
    new: T = object.__new__(kind)
    for item in fields(kind):  # type: ignore[arg-type]
        if item.name not in given and item.default is MISSING:
            raise ArgumentError(f"{item.name}: expected a value; found none")
        object.__setattr__(new, item.name, given.get(item.name, item.default))
    new.__post_init__()  # type: ignore[attr-defined]
    return new


def tuple_of(value: Any) -> tuple[Any, ...]:
    """A sequence of parts as a tuple; anything else, an array or a string too, as a tuple of one."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, np.ndarray)):
        return tuple(value)
    return (value,)


def check_fields(owner: Any) -> None:
    """Check an object's own parameters and settings, and put arrays of its own in their place; parts check themselves.

    Raises `ArgumentError` for a field that declares nothing, or a value out of its range.
    """
    for item in fields(owner):
        value = getattr(owner, item.name)
        if "choices" in item.metadata:
            choice(item.name, value, item.metadata["choices"])
        elif "parameter" in item.metadata:
            known = item.metadata["parameter"]
            if known.trained:
                value = checked(item.name, value, known.expected, known.valid)
            else:
                value = whole_numbers(item.name, value)
            object.__setattr__(owner, item.name, value)
        elif "parts" not in item.metadata:
            raise ArgumentError(
                f"{type(owner).__name__}: expected every field to declare a parameter; found {item.name} "
                "(see docs/contributing.md)"
            )


def whole_numbers(
    name: str, value: Any, each: str = "one a neuron", hint: str = "periods in ms: use from_ms"
) -> int | np.ndarray:
    """Check steps: an int, or an integer array, as int32 of its own. `each`, `hint`: words of the error."""
    array = real_array(name, value)
    whole = array.dtype.kind in "iu"
    if not whole or array.ndim > 1 or (array < 0).any() or (array > MAX_STEPS).any():
        shown = array[(array < 0)].flat[0] if whole and (array < 0).any() else found(value)
        raise ArgumentError(
            f"{name}: expected whole numbers of steps, from 0 to {MAX_STEPS}, one number or {each}; found {shown} "
            f"({hint})"
        )
    return int(array) if array.ndim == 0 else frozen(array.astype(np.int32))


def one_length(what: str, owner: Any) -> int | None:
    """The length of the arrays among an object's parameters; None where all are numbers, which fit any layer.

    Raises `ArgumentError` unless arrays have one length, not zero: one value a neuron.
    """
    lengths = {name: np.size(each.value) for name, each in held(owner).items() if np.ndim(each.value)}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ArgumentError(
            f"{what}: expected arrays of one length, one value a neuron; found "
            + ", ".join(f"{name} of length {length}" for name, length in lengths.items())
        )
    return next(iter(lengths.values()), None)


def _changed(prefix: str, part: Any, given: Mapping[str, Any]) -> Any:
    """A part with those of the given values that are its own; itself where there are none."""
    own = {name: given[prefix + name] for name in held(part) if prefix + name in given}
    try:
        return with_values(part, own) if own else part
    except ArgumentError as error:
        raise ArgumentError(f"{prefix}{error}") from error


def _has_parts(item: Any, value: Any) -> bool:
    if item.metadata.get("parts") is None:
        return False
    return isinstance(value, tuple) or "parameter" not in item.metadata


def _named_parts(item: Any, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, tuple):
        for number, part in enumerate(value):
            if part is not None:
                yield f"{item.metadata['parts']}.{number}.", part
    elif value is not None:
        name = item.metadata["parts"]
        yield f"{name}." if name else "", value
