"""Optional libraries: imported when they are first needed.

Owns what is said where one is missing: the extra of blocksim that installs it.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np

from blocksim.errors import MissingLibraryError


def library(name: str, extra: str, what: str) -> Any:
    """The module of that name, imported; else `MissingLibraryError`. `what` is what needs it, for the message.

    Examples
    --------
    >>> from blocksim._libraries import library
    >>> library("math", "arithmetic", "sums").pi
    3.141592653589793
    """
    try:
        # other people's deprecations are not our caller's; and pyabf, imported, changes how NumPy prints
        with warnings.catch_warnings(), np.printoptions():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package
        why = "which is not installed" if missing else f"whose import failed: {error}"
        raise MissingLibraryError(
            f"{what}: expected the library {package}, {why}; install it with: python -m pip install 'blocksim[{extra}]'"
        ) from error
