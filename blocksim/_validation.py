"""Checks shared by the public functions: each raises `ArgumentError` naming the argument, expected and found.

Owns the wording of these messages. Kernels check nothing; whatever reaches them has passed through here.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from blocksim._units import in_unit
from blocksim.errors import ArgumentError

# of times, in ms: a femtosecond, and thirty years
SHORTEST, LONGEST = 1e-12, 1e12
# of neurons, inputs and classes: what indices of 32 bits reach
MAX_SIZE = 2**31 - 1


def found(value: Any) -> str:
    """Short description of a value for an error message: shape and dtype of an array, else its repr, cut short."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = " ".join(repr(value).split())  # one line
    return text if len(text) <= 80 else text[:77] + "..."


def choice(argument: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`, else raise and list them."""
    names = list(choices)
    if isinstance(value, str) and value in names:
        return value
    raise ArgumentError(f"{argument}: expected one of {', '.join(map(repr, names))}; found {found(value)}")


def choices(argument: str, value: Any, allowed: Iterable[str]) -> tuple[str, ...]:
    """Return `value`, a sequence of names (or one name), as a tuple of names out of `allowed`, each once."""
    names = list(allowed)
    given = (value,) if isinstance(value, str) else value
    items = tuple(given) if isinstance(given, (list, tuple, set, frozenset, Iterator)) else (given,)
    for item in items:
        if not isinstance(item, str) or item not in names:
            raise ArgumentError(
                f"{argument}: expected names out of {', '.join(map(repr, names))}; found {found(value)}"
            )
    return tuple(name for name in names if name in items)


def items(argument: str, value: Any, what: str, number: int | None = None) -> tuple[Any, ...]:
    """Return `value` as a tuple if it is a sequence of `number` items, or of at least one; `what` says of what."""
    scalar = isinstance(value, (str, bytes)) or (isinstance(value, np.ndarray) and not value.ndim)
    if isinstance(value, Iterable) and not scalar:
        values = tuple(value)
        if len(values) == number or (number is None and values):
            return values
    raise ArgumentError(f"{argument}: expected {what}; found {found(value)}")


def whole_number(argument: str, value: Any, minimum: int, most: int | None = None) -> int:
    """Return `value` as an int if it is a whole number of at least `minimum`, and at most `most`."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    if not is_whole or value < minimum or (most is not None and value > most):
        bounds = f"of at least {minimum}" if most is None else f"from {minimum} to {most}"
        raise ArgumentError(f"{argument}: expected a whole number {bounds}; found {found(value)}")
    return int(value)


def flag(argument: str, value: Any) -> bool:
    """Return `value` as a bool if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{argument}: expected True or False; found {found(value)}")
    return bool(value)


def instance(argument: str, value: Any, kind: Any, what: str) -> Any:
    """Return `value` if it is of a class; `what` words which."""
    if not isinstance(value, kind):
        raise ArgumentError(f"{argument}: expected {what}; found {found(value)}")
    return value


def number(
    argument: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    what: str = "a finite number",
) -> float:
    """Return `value` as a float if it is one finite number: above `above`, at least `least`, below `below`.

    `what` words what the number is for the message.
    """
    value = decimal(value)
    good = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if good:
        try:
            result = float(value)
        except OverflowError:  # an int beyond all floats
            result = math.inf
        good = (
            math.isfinite(result)
            and (above is None or result > above)
            and (least is None or result >= least)
            and (below is None or result < below)
        )
    if not good:
        words = [f"{word} {bound:g}" for word, bound in (("above", above), ("of at least", least), ("below", below))
                 if bound is not None]  # fmt: skip
        raise ArgumentError(f"{argument}: expected {what} {' and '.join(words)}".rstrip() + f"; found {found(value)}")
    return result


def numbers_by_name(argument: str, value: Any, above: Mapping[str, float | None]) -> dict[str, float]:
    """Return `value`, numbers by name, as a dict; `above` says what that of each name must be above, if anything."""
    instance(argument, value, Mapping, "a dict of numbers by name")
    choices(argument, tuple(value), tuple(above))
    return {name: number(f"{argument}: {name}", each, above=above[name]) for name, each in value.items()}


def milliseconds(argument: str, value: Any, *, zero: bool = False) -> float:
    """Return `value` as a float if it is a time in ms above 0, or with `zero` of at least 0.

    A value that carries a unit of time is converted. Times that no experiment has are refused: what is computed of them
    would overflow.
    """
    bounds: dict[str, float] = {"least": 0} if zero else {"above": 0}
    time = number(argument, in_unit(argument, value, "ms"), **bounds, what="a time in ms")
    if time and not SHORTEST <= time <= LONGEST:
        raise ArgumentError(f"{argument}: expected a time from {SHORTEST:g} to {LONGEST:g} ms; found {time:g}")
    return time


def decimal(value: Any) -> Any:
    """Numbers of half and single precision as the shortest decimals that they stand for, in float64.

    Others are returned as they are.

    numpy.float32(0.1) is 0.10000000149, which nobody means: as a step of 0.1 ms it moves spikes and lengthens
    recordings. For arrays of few numbers; times of spikes have a rule of their own in `blocksim.trains`.
    """
    if isinstance(value, np.generic) and value.dtype.kind == "f" and value.dtype.itemsize < 8:
        return float(str(value))
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype.itemsize < 8:
        return value.astype(np.str_).astype(np.float64)
    return value


def precision(argument: str, value: Any) -> np.dtype[Any]:
    """Return `value` as a NumPy dtype if it is float32 or float64."""
    with contextlib.suppress(TypeError):
        dtype: np.dtype[Any] = np.dtype(value)
        if dtype in (np.float32, np.float64):
            return dtype
    raise ArgumentError(f"{argument}: expected float32 or float64; found {found(value)}")


def real_array(argument: str, value: Any, unit: str | None = None) -> np.ndarray:
    """Return `value` as a NumPy array of real numbers (bool, integer, float32 or float64), or raise.

    Anything that gives an array by `__array__` is taken, as a pandas Series does, unless that would drop what it means:
    masked values are refused, and values that carry a unit are converted to `unit`, or refused where none is named.
    """
    plain = _plain(argument, value, unit)
    if plain.dtype.kind not in "biuf":
        raise ArgumentError(f"{argument}: expected real numbers; found {found(plain)}")
    if plain.dtype.kind == "f" and plain.dtype.itemsize > 8:
        raise ArgumentError(f"{argument}: expected float64 at most; found {found(plain)} (use astype(numpy.float64))")
    return plain


def sweep_array(argument: str, value: Any, unit: str | None = None) -> np.ndarray:
    """Return `value` as an array of real and finite numbers over time, of one sweep (T,) or several (sweeps, T).

    As `real_array` takes it, and in the shape that it has.
    """
    array = real_array(argument, value, unit)
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ArgumentError(f"{argument}: expected a non-empty array (T,) or (sweeps, T); found {found(array)}")
    finite(argument, array)
    return array


def _plain(argument: str, value: Any, unit: str | None) -> np.ndarray:
    """The value as an array of NumPy's own class."""
    if type(value) is np.ndarray:
        return value
    value = in_unit(argument, value, unit)
    if not isinstance(value, (list, tuple)) and not np.isscalar(value) and not hasattr(value, "__array__"):
        advice = ".toarray()" if hasattr(value, "toarray") else "numpy.asarray"
        raise ArgumentError(
            f"{argument}: expected a NumPy array or a number; found {type(value).__name__} (convert it with {advice} "
            "first)"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(value)
    except Exception as error:  # lists of unequal length, and whatever another library's __array__ raises
        raise ArgumentError(
            f"{argument}: expected a NumPy array or a number; found {type(value).__name__} ({error})"
        ) from error


def finite(argument: str, value: np.ndarray, to_numpy: Callable[[Any], Any] = np.asarray) -> None:
    """Raise if the array holds NaN or infinity, naming the first place.

    A backend's array needs the backend's `to_numpy`.

    One reduction, at memory speed: a sum is finite unless an element is not, or it overflows, and only then is every
    element looked at.
    """
    if value.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):
        if np.isfinite(to_numpy(np.sum(value))):
            return
    bad = ~np.isfinite(value)
    if bad.any():
        where = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), value.shape))
        place = f" at index {where}" if where else ""
        raise ArgumentError(
            f"{argument}: expected finite numbers; found {value[where]}{place} "
            f"({int(bad.sum())} of {value.size} values)"
        )


def parameter(argument: str, value: Any, expected: str, valid: Callable[[np.ndarray], Any]) -> float | np.ndarray:
    """Return a neuron parameter as a float or a read-only (N,) array of its own, in range according to `valid`.

    An array keeps its floating dtype; integers become float64. `expected` words the range for the message.
    """
    array = real_array(argument, value)
    if array.ndim > 1:
        raise ArgumentError(f"{argument}: expected a number or an array of shape (neurons,); found {found(array)}")
    finite(argument, array)
    ok = np.asarray(valid(array))
    if not ok.all():
        worst = array if not array.ndim else array[int(np.argmin(ok))]
        raise ArgumentError(f"{argument}: expected {expected}; found {worst}")
    if array.ndim == 0:
        return float(array)
    return frozen(array.astype(np.float64 if array.dtype.kind != "f" else array.dtype, copy=True))


def frozen(array: np.ndarray) -> np.ndarray:
    """Mark an array of our own read-only and return it."""
    array.flags.writeable = False
    return array
