"""Learning rates that change with the number of steps taken; a schedule is called with that number, from 0 on.

Owns their formulas. An optimiser takes a schedule where it takes a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from blocksim._validation import found, number, whole_number
from blocksim.errors import ArgumentError


@dataclass(frozen=True)
class Schedule:
    """A learning rate as a function of the steps taken so far; subclasses hold their formula in `__call__`."""

    def __call__(self, step: int) -> float:
        """The learning rate of the step that follows `step` steps."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate in every step.

    Parameters
    ----------
    rate : float
        Learning rate, above 0.

    Raises
    ------
    ArgumentError
        The rate is not above 0.

    Examples
    --------
    >>> from blocksim.schedules import Constant
    >>> Constant(0.01)(100)
    0.01
    """

    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", number("rate", self.rate, above=0))

    def __call__(self, step: int) -> float:
        """The rate."""
        return self.rate


@dataclass(frozen=True)
class Milestones(Schedule):
    """A learning rate that is multiplied by a factor at given steps.

    Parameters
    ----------
    rate : float
        Learning rate of the first step, above 0.
    steps : sequence of int
        Ascending numbers of steps after which the rate is multiplied.
    factor : float
        What it is multiplied by each time, above 0.

    Raises
    ------
    ArgumentError
        The rate or the factor is not above 0, or the steps are not ascending whole numbers of 1 or more.

    Examples
    --------
    >>> from blocksim.schedules import Milestones
    >>> schedule = Milestones(0.1, steps=(10, 20), factor=0.5)
    >>> [schedule(step) for step in (9, 10, 20)]
    [0.1, 0.05, 0.025]
    """

    rate: float
    steps: Sequence[int]
    factor: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", number("rate", self.rate, above=0))
        object.__setattr__(self, "factor", number("factor", self.factor, above=0))
        if not isinstance(self.steps, Sequence):
            raise ArgumentError(f"steps: expected a sequence of numbers of steps; found {found(self.steps)}")
        steps = tuple(whole_number("steps", step, 1) for step in self.steps)
        if any(after <= before for before, after in pairwise(steps)):
            raise ArgumentError(f"steps: expected ascending numbers of steps; found {steps}")
        object.__setattr__(self, "steps", steps)

    def __call__(self, step: int) -> float:
        """The rate times the factor, to the power of the milestones passed."""
        return self.rate * self.factor ** sum(milestone <= step for milestone in self.steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Linear warm-up to a learning rate, then half a period of a cosine down to a final one.

    In the warm-up of w steps, step n (from 0 on) has rate (n + 1) / w; after it, with q = (n - w) / (steps - w), the
    rate is final + (rate - final) (1 + cos(pi q)) / 2; from `steps` on it is the final one.

    Parameters
    ----------
    rate : float
        Highest learning rate, above 0.
    steps : int
        Steps in all, the warm-up among them.
    warmup : int
        Steps of the warm-up, fewer than `steps`.
    final : float
        Learning rate at the end, 0 or above.

    Raises
    ------
    ArgumentError
        A number is out of range, or the warm-up is not shorter than all steps.

    Notes
    -----
    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, without restarts.

    Examples
    --------
    >>> from blocksim.schedules import Cosine
    >>> schedule = Cosine(0.1, steps=12, warmup=2)
    >>> [round(schedule(step), 6) for step in (0, 1, 2, 7, 12)]
    [0.05, 0.1, 0.1, 0.05, 0.0]
    """

    rate: float
    steps: int
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", number("rate", self.rate, above=0))
        object.__setattr__(self, "final", number("final", self.final, least=0))
        object.__setattr__(self, "steps", whole_number("steps", self.steps, 1))
        object.__setattr__(self, "warmup", whole_number("warmup", self.warmup, 0))
        if self.warmup >= self.steps:
            raise ArgumentError(f"warmup: expected fewer steps than all {self.steps}; found {self.warmup}")

    def __call__(self, step: int) -> float:
        """The rate by the formula above."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        passed = min((step - self.warmup) / (self.steps - self.warmup), 1.0)
        return self.final + (self.rate - self.final) * (1 + math.cos(math.pi * passed)) / 2
