"""Values with a unit or a mask: recognised, and converted or refused.

Owns what is known of the libraries of units: quantities (and neo, which is made of it), pint, astropy and unyt. None is
imported: their values are told by their methods.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from blocksim.errors import ArgumentError

# methods by which values convert: of quantities and neo, of pint, of astropy and unyt, and of others
CONVERSIONS = ("rescale", "m_as", "to_value", "to")


def unit_of(value: Any) -> str | None:
    """The unit that a value carries, as its library writes it; None for a value that carries none."""
    if isinstance(value, (np.generic, int, float, str)) or type(value) is np.ndarray:
        return None
    names = ("dimensionality", "units", "unit") if hasattr(value, "rescale") else ("units", "unit")
    own = next((getattr(value, name) for name in names if hasattr(value, name)), None)
    return str(own) if own is not None and any(hasattr(value, name) for name in CONVERSIONS) else None


def in_unit(argument: str, value: Any, unit: str | None) -> Any:
    """The plain numbers of a value that carries a unit, in `unit`; None for numbers without a dimension.

    A value that carries none is returned as it is; a masked array as a plain one, where nothing is masked. Sequences of
    values with units become lists of plain ones.

    Raises
    ------
    ArgumentError
        The value is of another dimension, or entries are masked.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim._units import in_unit
    >>> in_unit("times", np.ma.array([1.0, 2.0]), "ms")
    array([1., 2.])
    """
    if isinstance(value, (list, tuple)) and any(unit_of(item) is not None for item in value):
        return [in_unit(argument, item, unit) for item in value]
    if isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(value).sum())
        if masked:
            raise ArgumentError(
                f"{argument}: expected an array without a mask; found one with {masked} of {value.size} values masked "
                "(fill or leave them out first)"
            )
        return np.asarray(value.data)
    has = unit_of(value)
    if has is None:
        return value
    wanted = unit or ("" if hasattr(value, "to_value") else "dimensionless")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            convert = next(getattr(value, name) for name in CONVERSIONS if hasattr(value, name))
            converted = convert(wanted)
            plain = getattr(converted, "magnitude", getattr(converted, "value", converted))
            return np.asarray(plain, np.float64)[()]
    except Exception as error:  # each library has errors of its own
        expected = f"a value in {unit}, or in a unit of that kind" if unit else "plain numbers"
        raise ArgumentError(
            f"{argument}: expected {expected}; found one in {has} (convert it, or pass its magnitude)"
        ) from error
