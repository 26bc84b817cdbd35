"""How kernels are compiled and kept between processes.

Owns the compiler's options and the mark by which a kept kernel is known to be stale. Numba marks a kept kernel with the
size and time of the file it stands in, and does not see that a helper in another file has changed; here the mark is the
text of every file of this folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from numba import njit

# no checks for division by zero; other Python threads may run
OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}


def folder_mark(folder: Path) -> str:
    """A digest of the sources in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


MARK = folder_mark(Path(__file__).parent)


def helper(function: Any) -> Any:
    """Compile a function that kernels call."""
    return njit(**OPTIONS)(function)


def inlined(function: Any) -> Any:
    """Compile a function into the inner loops that call it: a call costs more than what it does."""
    return njit(forceinline=True, **OPTIONS)(function)


def kernel(function: Any, mark: str = MARK) -> Any:
    """Compile a function with parallel loops, and keep the result between processes."""
    dispatcher = njit(parallel=True, cache=True, **OPTIONS)(function)
    # Numba offers no public way to say what a kept kernel depends on; a test shows that this one works
    dispatcher._cache._cache_file._source_stamp = mark
    return dispatcher
