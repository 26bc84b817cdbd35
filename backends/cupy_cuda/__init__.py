"""The CuPy backend: raw CUDA kernels over blocks of time, for NVIDIA GPUs."""

from blocksim.backend import BackendEntry

ENTRY = BackendEntry(
    module="blocksim.backends.cupy_cuda.backend",
    attribute="CupyBackend",
    requires=("cupy",),
    install="python -m pip install 'blocksim[gpu-cuda12]' (or gpu-cuda13)",
    rank=20,
)
