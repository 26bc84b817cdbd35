"""Neurons, layers and networks in other people's tools: NEST, the Allen Institute's GLIF neurons, PyTorch, JAX.

`from_nest` and `from_allen` make layers of other simulators' neurons. `blocksim.interop.torch` has a layer or a network
as a module of PyTorch, `blocksim.interop.jax` as a function of JAX; each imports its tool, so it is imported by itself.
`blocksim.interop.nir` reads and writes networks that other tools exchange.
"""

from blocksim.interop._simulators import from_allen, from_nest

__all__ = ["from_allen", "from_nest"]
