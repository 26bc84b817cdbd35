"""Files of arrays and JSON: one `.npz` file, without pickle, with the name and version of what it holds.

Owns how such a file is told from others, and what is said of one that is damaged, foreign or newer. What the arrays
mean is for others to say: `blocksim.models`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blocksim.errors import FileError
from blocksim.files import DAMAGED, check_folder, npz_archive, write_npz

# the array that holds the JSON text; no name of ours begins so
META = "meta"


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
        By name.

    Raises
    ------
    FileError
        The name does not end in .npz, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise FileError(f"{path}: expected a name that ends in .npz; found {path.name!r}")
    check_folder(path.parent)
    text = json.dumps({"kind": kind, "version": version, **meta}, allow_nan=False)
    write_npz(path, {META: np.array(text), **arrays})


def read_container(path: str | Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write_container` wrote: the JSON object and the arrays, every checksum verified.

    Raises
    ------
    FileError
        The file cannot be read, is truncated or damaged, holds something else, or is of a newer version.
    """
    path = Path(path)
    expected = f"{path}: expected a whole {kind} file"
    try:
        with path.open("rb") as opened:
            magic = opened.read(4)
        if magic != b"PK\x03\x04":
            raise FileError(f"{expected}; found {f'one that begins with {magic!r}' if magic else 'an empty one'}")
        with npz_archive(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read; found: {error.strerror or error}") from error
    except DAMAGED as error:
        raise FileError(f"{expected}; found one that is truncated or damaged ({error})") from error
    text = arrays.pop(META, None)
    try:
        meta = json.loads(str(text[()])) if text is not None and text.dtype.kind == "U" else None
    except json.JSONDecodeError:
        meta = None
    if not isinstance(meta, dict) or "kind" not in meta or not isinstance(meta.get("version"), int):
        names = ", ".join(sorted(arrays)[:6]) or "none"
        raise FileError(f"{expected}; found a .npz file of another origin, with the arrays {names}")
    if meta["kind"] != kind:
        raise FileError(f"{expected}; found a {meta['kind']} file")
    if meta["version"] > version:
        raise FileError(
            f"{path}: expected version {version} or older of a {kind} file; found version {meta['version']}, of a "
            "newer blocksim (python -m pip install --upgrade blocksim)"
        )
    return meta, arrays
