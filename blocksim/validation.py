"""Checks shared by the public functions: each raises `ArgumentError` naming the argument, expected and found.

Owns the wording of these messages. Kernels check nothing; whatever reaches them has passed through here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from blocksim.errors import ArgumentError


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
    raise ArgumentError(f"{argument}: expected one of {', '.join(map(repr, names))}; found {value!r}")


def choices(argument: str, value: Any, allowed: Iterable[str]) -> tuple[str, ...]:
    """Return `value`, a sequence of names (or one name), as a tuple of names out of `allowed`, each once."""
    names = list(allowed)
    given = (value,) if isinstance(value, str) else value
    try:
        items = tuple(given)
    except TypeError:
        items = (given,)
    for item in items:
        if item not in names:
            raise ArgumentError(f"{argument}: expected names out of {', '.join(map(repr, names))}; found {value!r}")
    return tuple(name for name in names if name in items)


def items(argument: str, value: Any, what: str, number: int | None = None) -> tuple[Any, ...]:
    """Return `value` as a tuple if it is a sequence of `number` items, or of at least one; `what` says of what."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        values = tuple(value)
        if len(values) == number or (number is None and values):
            return values
    raise ArgumentError(f"{argument}: expected {what}; found {found(value)}")


def whole(argument: str, value: Any, minimum: int) -> int:
    """Return `value` as an int if it is a whole number of at least `minimum`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < minimum:
        raise ArgumentError(f"{argument}: expected a whole number of at least {minimum}; found {found(value)}")
    return int(value)


def flag(argument: str, value: Any) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{argument}: expected True or False; found {found(value)}")
    return bool(value)


def decimal(value: Any) -> Any:
    """A half- or single-precision number as float64: the shortest decimal that it stands for; others as they are.

    >>> import numpy as np
    >>> from blocksim.validation import decimal
    >>> decimal(np.float32(0.1)), float(np.float32(0.1))
    (0.1, 0.10000000149011612)
    """
    return float(str(value)) if isinstance(value, (np.float16, np.float32)) else value


def in_unit(argument: str, value: Any, unit: str) -> Any:
    """Numbers with a unit, of quantities, neo, pint or astropy, as plain ones in `unit`; what has none as it is.

    A masked array is a plain one where nothing is masked.

    Raises
    ------
    ArgumentError
        The unit does not convert, or cannot be converted here; or an entry is masked.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.validation import in_unit
    >>> in_unit("times", np.ma.array([1.0, 2.0]), "ms")
    array([1., 2.])
    """
    if isinstance(value, (list, tuple)) and any(hasattr(item, "units") or hasattr(item, "unit") for item in value):
        return [in_unit(argument, item, unit) for item in value]
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.getmaskarray(value).any():
            raise ArgumentError(
                f"{argument}: expected no masked entries; found {int(np.ma.getmaskarray(value).sum())} of {value.size} "
                "(leave them out, or fill them)"
            )
        return np.asarray(np.ma.getdata(value))
    own = getattr(value, "units", getattr(value, "unit", None))
    if own is None:
        return value
    # quantities and neo; pint and astropy
    convert = getattr(value, "rescale", getattr(value, "to", None))
    try:
        converted = convert(unit)  # type: ignore[misc]
        return np.asarray(getattr(converted, "magnitude", getattr(converted, "value", None)), dtype=float)[()]
    except Exception as error:  # each library has errors of its own
        raise ArgumentError(
            f"{argument}: expected values in {unit}; found them in {' '.join(str(own).split())}"
        ) from error


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
        good = bool(
            np.isfinite(value)
            and (above is None or value > above)
            and (least is None or value >= least)
            and (below is None or value < below)
        )
    if not good:
        words = [f"{word} {bound:g}" for word, bound in (("above", above), ("of at least", least), ("below", below))
                 if bound is not None]  # fmt: skip
        raise ArgumentError(f"{argument}: expected {' '.join([what, *words])}; found {found(value)}")
    return float(value)


def milliseconds(argument: str, value: Any, *, zero: bool = False) -> float:
    """Return `value` as a float if it is a finite time in ms above 0, or with `zero` of at least 0."""
    value = in_unit(argument, value, "ms")
    return number(argument, value, **({"least": 0} if zero else {"above": 0}), what="a time in ms")


def precision(argument: str, value: Any) -> np.dtype[Any]:
    """Return `value` as a NumPy dtype if it is float32 or float64."""
    with contextlib.suppress(TypeError):
        dtype: np.dtype[Any] = np.dtype(value)
        if dtype in (np.float32, np.float64):
            return dtype
    raise ArgumentError(f"{argument}: expected float32 or float64; found {found(value)}")


def real_array(argument: str, value: Any) -> np.ndarray:
    """Return `value` as a NumPy array of real numbers (bool, integer, float32 or float64), or raise."""
    if isinstance(value, (list, tuple)) or np.isscalar(value):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise ArgumentError(
            f"{argument}: expected a NumPy array or a number; found {type(value).__name__} "
            "(convert it with numpy.asarray first)"
        )
    if value.dtype.kind not in "biuf":
        raise ArgumentError(f"{argument}: expected real numbers; found {found(value)}")
    if value.dtype.kind == "f" and value.dtype.itemsize > 8:
        raise ArgumentError(f"{argument}: expected float64 at most; found {found(value)} (use astype(numpy.float64))")
    return value


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
