"""Files of arrays and JSON: one `.npz` file, without pickle, with the name and version of what it holds.

Owns how such a file is recognised, and the errors for one that is damaged, foreign or newer. What the arrays
mean is for others to say: `blocksim.models`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._array_io import write_npz
from blocksim._atomic_io import check_folder, named
from blocksim._npy import DAMAGED, ZIP_MAGIC, Archive, Header, npz_archive, one_line, opened
from blocksim.errors import ArgumentError, FileError

# the array that holds the JSON text; no name of ours begins so
META = "meta"
# characters of it
MAX_META = 2**24


def write_container(
    path: str | Path, kind: str, version: int, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write arrays and a JSON object as one file, whole or not at all.

    Parameters
    ----------
    path : str or Path
        Ends in `.npz`.
    kind, version : str, int
        What the file holds, "blocksim network" say, and the version of its layout.
    meta : dict
        Anything JSON can say; numbers come back the same bit for bit, except NaN and infinity, which are refused.
    arrays : dict of arrays
        By name; numbers, bool or texts.

    Raises
    ------
    ArgumentError
        An array holds Python objects.
    FileError
        The name does not end in .npz, or the file cannot be written.
    """
    path = named(path)
    if path.suffix.lower() != ".npz":
        raise FileError(f"{path}: expected a name that ends in .npz; found {path.name!r}")
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in "biufcSUmM":
            raise ArgumentError(f"{name}: expected numbers or texts; found dtype {np.asarray(array).dtype}")
    check_folder(path.parent)
    text = json.dumps({"kind": kind, "version": version, **meta}, allow_nan=False)
    write_npz(path, {META: np.array(text), **{name: np.asarray(array) for name, array in arrays.items()}})


@dataclass(frozen=True, eq=False)
class Container:
    """A file that `write_container` wrote, open for reading.

    Attributes
    ----------
    path : Path
    meta : dict
        The JSON object.
    headers : dict of Header
        Shape and dtype of each array, by name: nothing of the arrays has been read yet.
    """

    path: Path
    meta: dict[str, Any]
    headers: dict[str, Header]
    _archive: Archive = field(repr=False)

    def __getitem__(self, name: str) -> np.ndarray:
        """An array, its checksum verified."""
        return self._archive[name]


@contextlib.contextmanager
def open_container(path: str | Path, kind: str, version: int) -> Iterator[Container]:
    """Open what `write_container` wrote: the JSON object and the headers are read, each array when it is asked for.

    Raises
    ------
    FileError
        The file cannot be read, is truncated or damaged, holds something else, or is of a newer version; from within
        the block too.
    """
    path = named(path)
    expected = f"{path}: expected a whole {kind} file"
    with opened(path) as file:
        magic = file.read(4)
    if magic != ZIP_MAGIC:
        raise FileError(f"{expected}; found {f'one that begins with {magic!r}' if magic else 'an empty one'}")
    try:
        with npz_archive(path) as archive:
            headers = {name: archive.header(name) for name in archive.files}
            meta = _meta(expected, archive, headers, kind)
            if meta["version"] > version:
                raise FileError(
                    f"{path}: expected version {version} or older of a {kind} file; found version {meta['version']}, "
                    "of a newer blocksim (python -m pip install --upgrade blocksim)"
                )
            yield Container(path, meta, headers, archive)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read; found: {error.strerror or error}") from error
    except DAMAGED as error:
        raise FileError(f"{expected}; found one that is truncated or damaged ({one_line(error)})") from error


def read_container(path: str | Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write_container` wrote: the JSON object and the arrays, every checksum verified.

    Raises
    ------
    FileError
        As `open_container`.
    """
    with open_container(path, kind, version) as container:
        return container.meta, {name: container[name] for name in container.headers}


def _meta(expected: str, archive: Archive, headers: dict[str, Header], kind: str) -> dict[str, Any]:
    """The JSON object, found to be of that kind; its header is taken out of the others."""
    header = headers.pop(META, None)
    meta: Any = None
    # other programs store texts as bytes
    if header is not None and header.size == 1 and header.dtype.kind in "US":
        if header.nbytes > 4 * MAX_META:
            raise FileError(f"{expected}; found one with {header.nbytes} bytes of description")
        text = archive[META].item()
        with contextlib.suppress(ValueError, RecursionError):
            meta = json.loads(text)
    number = meta.get("version") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(meta.get("kind"), str) or type(number) is not int or number < 1:
        names = ", ".join(sorted(headers)[:6]) or "none"
        raise FileError(f"{expected}; found a .npz file of another origin, with the arrays {names}")
    if meta["kind"] != kind:
        raise FileError(f"{expected}; found a {one_line(meta['kind'])[:40]} file")
    return meta
