"""The CUDA kernels of this folder: their text, and their launches.

Owns how kernels are compiled (CuPy does so when one is first needed, and keeps it on disk) and how many threads a
launch has. The files are joined into one text, in the order of FILES, rather than included: CuPy knows what it has
compiled by this text, and would not see a change in a file that it includes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FILES = (
    "common.cuh",
    "surrogates.cuh",
    "escape.cuh",
    "recurrent.cuh",
    "forward.cu",
    "adjoint.cu",
    "spikes.cu",
    "scan.cu",
    "linear.cu",
)
OPTIONS = ("-std=c++17",)
THREADS = 128  # of a block of threads: whole warps, and enough blocks for small layers
MAX_THREADS = 1024
# recurrent.cuh's: the most threads of a block that has a whole sample
TOGETHER = {"float32": 512, "float64": 256}
FAMILY = 256
EACH = 8  # elements of a thread that converts them; spikes.cu's
WARP = 32  # threads, and the steps of a scan


def text() -> str:
    """All kernels; a compiler's message names the file."""
    folder = Path(__file__).parent
    return "\n".join(f'#line 1 "{name}"\n{(folder / name).read_text()}' for name in FILES)


class Kernels:
    """Kernels by name and types, compiled by a module of CuPy's names."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.compiled = cache(self._compile)

    def launch(
        self, kernel: str, dtype: Any, grid: tuple[int, ...], *numbers: int, threads: int = THREADS, shared: int = 0
    ) -> Callable[..., None]:
        """A function that launches a kernel with the arguments it is given; None is a null pointer.

        `numbers` are those among its template parameters: of components and receptors, the kind of a surrogate, whether
        spikes are counts, components have knots, spikes are stochastic. `threads` of each block, and `shared` bytes
        that they share.
        """
        types = [] if dtype is None else ["float" if dtype == np.float32 else "double"]
        types += [str(int(number)) for number in numbers]
        compiled = self.compiled(f"{kernel}<{', '.join(types)}>" if types else kernel)

        if shared:  # more than every device has must be asked for
            compiled.max_dynamic_shared_size_bytes = shared

        def launch(*arguments: Any) -> None:
            compiled(grid, (threads,), tuple(np.intp(0) if a is None else a for a in arguments), shared_mem=shared)

        return launch

    def probe(self) -> None:
        """Compile a kernel that does nothing: raises where there is no compiler."""
        name = "blocksim_probe"
        module = self.cupy.RawModule(code=f"__global__ void {name}() {{}}", options=OPTIONS, name_expressions=[name])
        module.get_function(name)

    def _compile(self, expression: str) -> Any:
        module = self.cupy.RawModule(code=text(), options=OPTIONS, name_expressions=[expression])
        return module.get_function(expression)


def units(number: int) -> tuple[int, ...]:
    """A grid of one thread each."""
    return (-(-number // THREADS),)


def tiles(rows: int, neurons: int) -> tuple[int, ...]:
    """A grid of one block of threads for each row and THREADS neurons."""
    return (rows, -(-neurons // THREADS))
