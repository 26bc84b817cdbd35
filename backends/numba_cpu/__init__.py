"""The Numba backend: whole layers as parallel loops, compiled for the CPU it runs on."""

from blocksim.backend import BackendEntry

ENTRY = BackendEntry(
    module="blocksim.backends.numba_cpu.backend",
    attribute="NumbaBackend",
    requires=("numba",),
    install="python -m pip install numba",
    rank=10,
)
