"""How results show themselves in a notebook: a few words, and a picture where matplotlib is installed.

Owns the HTML. A class that shows itself has `_repr_html_`, which says what to draw.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from blocksim import plotting
from blocksim.errors import MissingLibraryError

MAX_SPIKES = 100_000  # of a raster: more are ink alone, and slow


def shown(words: str, draw: Callable[[], Any]) -> str:
    """Words, and the figure, or the figure of the axes, that `draw` returns."""
    text = f"<pre>{html.escape(words)}</pre>"
    try:
        figure = plotting.figure_of(draw())
    except MissingLibraryError:
        return text
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    picture = base64.b64encode(data.getvalue()).decode()
    alternative = html.escape(words, quote=True)
    return f'{text}<img alt="{alternative}" style="max-width:100%" src="data:image/png;base64,{picture}">'


def run(spikes: Any, how: str) -> str:
    """A run's spikes, (T, N) or (B, T, N), which may lie on a device."""
    array = np.asarray(spikes.get() if hasattr(spikes, "get") else spikes)
    samples = f"{array.shape[0]} samples, " if array.ndim == 3 else ""
    words = f"{array.shape[-1]} neurons, {samples}{array.shape[-2]} steps: {int(array.sum())} spikes ({how})"
    return shown(words, lambda: _raster(array.reshape(-1, *array.shape[-2:])))


def _raster(batch: np.ndarray) -> Any:
    """Axes of spikes (B, T, N): of one neuron those of all samples, else those of the first sample."""
    rows, label = (batch[..., 0], "sample") if batch.shape[2] == 1 else (batch[0].T, "neuron")
    row, step = np.nonzero(rows)
    every = max(1, -(-len(step) // MAX_SPIKES))
    axes = plotting.raster(step[::every].astype(np.float64), row[::every], len(rows), rows.shape[1], label=label)
    top, bottom = axes
    bottom.set_xlabel("step")
    bottom.set_ylabel("spikes in\n1000 steps")
    if len(batch) > 1 and label == "neuron":
        top.set_title(f"the first of {len(batch)} samples", fontsize="small", loc="left")
    return axes
