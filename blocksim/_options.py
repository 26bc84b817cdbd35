"""How to run: the options of `simulate`, checked once.

Owns their names and checks. Training and fits have some of them among their own settings, checked here too, and hand
them to `simulate`, which makes an `Options` of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blocksim._escape import Noise, checked_seed
from blocksim._layer import Layer
from blocksim._validation import choice, choices, whole_number
from blocksim.arrays import AdjointRule, Plan
from blocksim.backend import Backend, get_backend
from blocksim.errors import ArgumentError
from blocksim.surrogates import BoxCar, Hazard, Surrogate, get_surrogate

METHODS = ("blocks", "standard")
GRADIENTS = ("standard", "paper")
DETACH = ("reset", "recurrent", "adaptation")
DEFAULT_SURROGATE = "fast_sigmoid"  # surrogate of spikes that are not stochastic; of those that are, their own

EVERYWHERE = BoxCar(width=1e15)  # a slope of 1


def adjoint_rule(surrogate: str | Surrogate | None, gradient: str, detach: Any) -> AdjointRule:
    """Which gradient to take; raises `ArgumentError` naming the argument that is wrong."""
    cut = choices("detach", detach, DETACH)
    return AdjointRule(
        surrogate=get_surrogate(DEFAULT_SURROGATE if surrogate is None else surrogate),
        paper=choice("gradient", gradient, GRADIENTS) == "paper",
        **{f"through_{path}": path not in cut for path in DETACH},
    )


def check_choices(settings: Any) -> None:
    """Check the fields of a frozen dataclass that are options of `simulate`; `detach` becomes a tuple.

    Those are "method", "surrogate", "detach" and, where it has one, "gradient".
    """
    choice("method", settings.method, METHODS)
    adjoint_rule(settings.surrogate, getattr(settings, "gradient", "standard"), settings.detach)
    object.__setattr__(settings, "detach", choices("detach", settings.detach, DETACH))


@dataclass(frozen=True)
class Options:
    """How to run, the same for every layer of a network."""

    backend: Backend
    method: str
    block_length: int | None  # None: as long as each layer allows
    record: tuple[str, ...]
    tape: bool | str
    rule: AdjointRule
    own_surrogate: bool  # none was asked for
    noise: Noise  # of the first layer
    impose: tuple[Any, ...] = ()  # spikes that each layer is given, or None; empty: none is

    @classmethod
    def checked(
        cls,
        backend: Any,
        method: str,
        block_length: int | None,
        record: Any,
        recordable: tuple[str, ...],
        tape: Any,
        surrogate: str | Surrogate | None,
        gradient: str,
        detach: Any,
        seed: int | Noise | None,
        impose: tuple[Any, ...] = (),
    ) -> Options:
        """From what a caller passes; raises `ArgumentError` naming the argument."""
        choice("method", method, METHODS)
        record = choices("record", record, recordable)
        if not (isinstance(tape, (bool, np.bool_)) or (isinstance(tape, str) and tape == "checkpoint")):
            raise ArgumentError(f"tape: expected True, False or 'checkpoint'; found {tape!r}")
        rule = adjoint_rule(surrogate, gradient, detach)
        engine = get_backend(backend)
        if tape:
            engine.check_surrogate(rule.surrogate)
        noise = seed if isinstance(seed, Noise) else Noise(checked_seed(seed))
        kept = tape if isinstance(tape, str) else bool(tape)
        return cls(engine, method, block_length, record, kept, rule, surrogate is None, noise, impose)

    def imposed(self, place: int) -> Any:
        """The spikes that the layer of that place is given; None where it has its own."""
        return self.impose[place] if self.impose else None

    def rule_of(self, layer: Layer, place: int) -> AdjointRule:
        """Which gradient to take of a layer: of given spikes, which nothing changes, that of a loss of U - theta."""
        if self.imposed(place) is not None:
            return replace(self.rule, surrogate=EVERYWHERE, **{f"through_{path}": False for path in DETACH})
        if self.own_surrogate and layer.neuron.is_stochastic:
            return replace(self.rule, surrogate=Hazard())
        return self.rule

    def check_layer(self, layer: Layer) -> None:
        """Raise `ArgumentError` where the backend, or the gradient asked for, is not for this layer."""
        if isinstance(self.rule.surrogate, Hazard) and not layer.neuron.is_stochastic:
            raise ArgumentError(
                f"surrogate: expected one of spikes at a threshold for {type(layer.neuron).__name__} neurons without "
                "noise; found 'hazard', which is that of stochastic spikes (Escape)"
            )
        if layer.is_simple:
            return
        what = f"{type(layer.neuron).__name__} neurons" if not layer.neuron.is_simple else "synapses or connections"
        if not self.backend.computes_family:
            raise ArgumentError(
                f"backend: expected one that computes the linear family, for a layer of {what}; found "
                f"{self.backend.name!r} (numpy, numba and cupy do)"
            )
        if self.rule.paper:
            raise ArgumentError(
                f"gradient: expected 'standard' for a layer of {what}; found 'paper', which is that of LIF and ALIF "
                "with plain weights"
            )

    def plan(self, layer: Layer, batch: int, steps: int, place: int) -> Plan:
        """How one layer runs, of that place in a network."""
        return Plan(
            batch=batch,
            # no longer than the run, for which the adjoint's memory is taken
            block_length=min(self.block_length_of(layer), steps),
            record_voltage="voltage" in self.record,
            record_threshold="threshold" in self.record,
            tape=bool(self.tape),
            paper=self.rule.paper,
            noise=self.noise._replace(place=place) if layer.neuron.is_stochastic else None,
        )

    def block_length_of(self, layer: Layer) -> int:
        """The block length to run a layer with; raises `ArgumentError` where it is too long for the layer."""
        longest = layer.block_length
        if self.block_length is None:
            return longest if self.method == "blocks" else 1
        length = whole_number("block_length", self.block_length, 1)
        if self.method == "standard" and length != 1:
            raise ArgumentError(f"block_length: expected 1 or None for method='standard'; found {length}")
        if length > longest:
            why = "the recurrent latency (a longer block would feed back on itself)"
            if longest == layer.neuron.block_length:
                why = (
                    f"the shortest refractory period of {longest - 1} steps plus one (in a longer block a neuron could "
                    "spike twice)"
                )
            raise ArgumentError(f"block_length: expected at most {longest}, {why}; found {length}")
        return length
