"""Numbers that every backend must agree on."""

from __future__ import annotations

from typing import Any

import numpy as np


def tiny(dtype: Any) -> float:
    """Magnitude below which potentials, adaptations and adjoint variables are set to zero, docs/model.md."""
    return 1e-30 if np.dtype(dtype) == np.float32 else 1e-290
