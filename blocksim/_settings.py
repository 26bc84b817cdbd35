"""Settings from configuration files: read, and held to the types that dataclasses and functions declare.

Owns the one check of a setting's name and type. Ranges are checked by what the settings are for.
"""

from __future__ import annotations

import difflib
import inspect
import json
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Mapping as AbstractMapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from blocksim._atomic_io import named
from blocksim._npy import opened
from blocksim._validation import found
from blocksim.errors import ArgumentError, FileError

MAX_BYTES = 1 << 20  # of a configuration file; people write them by hand


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read a TOML file, or a JSON file whose name ends in ``.json``, as a dictionary.

    Raises
    ------
    FileError
        It cannot be read, is not UTF-8, is neither, or is nested too deeply.
    ArgumentError
        It holds something else than a table of settings.
    """
    path = named(path)
    kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
    with opened(path) as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise FileError(f"{path}: expected a {kind} file of settings; found more than {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")  # some editors begin a file with a byte-order mark
        read = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path}: expected text in UTF-8; found the byte 0x{raw[error.start]:02x} at {error.start}"
        ) from error
    except RecursionError as error:
        raise FileError(f"{path}: expected a {kind} file of settings; found one that is nested too deeply") from error
    except ValueError as error:
        raise FileError(f"{path}: expected a {kind} file; found: {' '.join(str(error).split())}") from error
    if not isinstance(read, dict):
        raise ArgumentError(f"{path}: expected tables of settings; found {found(read)}")
    return read


def section(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The table of that name, a copy; empty where there is none."""
    table = settings.get(name, {})
    if not isinstance(table, AbstractMapping):
        raise ArgumentError(f"{name}: expected a table [{name}]; found {found(table)}")
    return dict(table)


def check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `ArgumentError` for a name that is not known, with the nearest that is."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ArgumentError(f"{where}: expected names out of {', '.join(known)}; found {name!r}{hint}")


def of_fields(kind: type, where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a dataclass by name, as its own `to_dict` has them once they were JSON; lists become tuples.

    Their types are for the dataclass to check.
    """
    check_names(where, given, [item.name for item in fields(kind)])
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def make(kind: Callable[..., Any], where: str, given: Any) -> Any:
    """An object of a dataclass, from a table of its fields. Errors name the table, as `where` has it, and the field."""
    values = checked(kind, where, given, [item.name for item in fields(kind)])  # type: ignore[arg-type]
    try:
        return kind(**values)
    except ArgumentError as error:
        raise ArgumentError(f"{where} {error}") from error
    except TypeError as error:  # a field without a default is missing
        raise ArgumentError(f"{where}: expected a value for each of its names; found {error}") from error


def checked(kind: Callable[..., Any], where: str, given: Any, names: Iterable[str] | None = None) -> dict[str, Any]:
    """A table of keyword arguments of `kind`, each of the type that is declared there; lists become tuples.

    `names` are those that may be given; None: all that `kind` takes.
    """
    if not isinstance(given, AbstractMapping):
        raise ArgumentError(f"{where}: expected a table; found {found(given)}")
    check_names(where, given, inspect.signature(kind).parameters if names is None else names)
    declared = get_type_hints(kind)
    return {name: _typed(f"{where} {name}", declared.get(name, Any), value) for name, value in given.items()}


def _typed(where: str, declared: Any, value: Any) -> Any:
    """The value as the declared type has it, or raise."""
    for option in _options(declared):
        fits, converted = _as(option, value)
        if fits:
            return converted
    words = list(dict.fromkeys(word for option in _options(declared) if (word := _words(option))))
    raise ArgumentError(f"{where}: expected {' or '.join(words)}; found {found(value)}")


def _options(declared: Any) -> tuple[Any, ...]:
    return get_args(declared) if get_origin(declared) in (Union, types.UnionType) else (declared,)


def _as(declared: Any, value: Any) -> tuple[bool, Any]:
    """Whether a value is of one declared type, and the value as that."""
    origin, arguments = get_origin(declared), get_args(declared)
    if declared is Any:
        return True, value
    if declared is types.NoneType or declared is bool or declared is str:
        return isinstance(value, declared), value
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if declared is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        try:
            return number, float(value) if number else value
        except OverflowError:
            return False, value
    if origin is Literal:
        return value in arguments, value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False, value
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            return False, value
        parts = [_one_of(kind, part) for kind, part in zip(kinds, value, strict=True)]
        return all(fits for fits, _ in parts), tuple(part for _, part in parts)
    if origin is not None and isinstance(origin, type) and issubclass(origin, AbstractMapping):
        if not isinstance(value, AbstractMapping):
            return False, value
        pairs = {name: _one_of(arguments[1], part) for name, part in value.items()}
        return all(fits for fits, _ in pairs.values()), {name: part for name, (_, part) in pairs.items()}
    # an object, which a file cannot hold: made of a table beforehand
    return isinstance(declared, type) and isinstance(value, declared), value


def _one_of(declared: Any, value: Any) -> tuple[bool, Any]:
    return next((result for option in _options(declared) if (result := _as(option, value))[0]), (False, value))


def _words(declared: Any) -> str:
    """What a person calls a value of a type; empty for what a file cannot hold."""
    origin, arguments = get_origin(declared), get_args(declared)
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if declared in simple:
        return simple[declared]
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, of each {' or '.join(_words(option) for option in _options(arguments[0]))}"
        return f"a list of {len(arguments)}, each {_words(_options(arguments[0])[0])}"
    if origin is not None and isinstance(origin, type) and issubclass(origin, AbstractMapping):
        return f"a table, of each {_words(arguments[1])}"
    return ""
