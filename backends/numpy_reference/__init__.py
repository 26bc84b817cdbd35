"""The NumPy reference backend: every equation in the order of the paper, for reading and for checking the others."""

from blocksim.backend import BackendEntry

ENTRY = BackendEntry(
    module="blocksim.backends.numpy_reference.reference",
    attribute="NumpyBackend",
    requires=("numpy",),
    install="python -m pip install numpy",
)
