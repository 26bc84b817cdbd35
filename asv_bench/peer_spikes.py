"""A spike whose slope is the fast sigmoid's, as PyTorch and JAX are told of it, for asv_bench/peers.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def torch_spike() -> Callable[[Any], Any]:
    """Of the distance from the threshold."""
    import torch

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, m: Any) -> Any:
            ctx.save_for_backward(m)
            return (m > 0).to(m.dtype)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (m,) = ctx.saved_tensors
            return grad / (1 + 10 * m.abs()) ** 2

    return Spike.apply  # type: ignore[no-any-return]


def jax_spike() -> Callable[[Any], Any]:
    """The same."""
    import jax
    import jax.numpy as jnp

    @jax.custom_jvp
    def spike(m: Any) -> Any:
        return (m > 0).astype(m.dtype)

    @spike.defjvp
    def spike_jvp(primals: Any, tangents: Any) -> Any:
        (m,), (dm,) = primals, tangents
        return spike(m), dm / (1 + 10 * jnp.abs(m)) ** 2

    return spike  # type: ignore[no-any-return]
