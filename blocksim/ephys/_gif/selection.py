"""The choice between models of a stochastic neuron, and of their number of time constants, on data held out.

Owns what is compared with what. Each is fitted to the first part of every sweep, and scored by the bits for each spike
on the rest. A model is kept for its score; of numbers of time constants, the lowest that is within one standard error
of the best (Breiman et al., "Classification and Regression Trees", 1984).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blocksim.ephys._gif.config import MODELS, PARTS, GIFConfig
from blocksim.ephys._gif.estimate import Estimate, Score, estimate, score
from blocksim.ephys._gif.recorded import Recorded
from blocksim.ephys._gif.refinement import refined

MIN_SPIKES = 5  # in each part


@dataclass(frozen=True, eq=False)
class Selection:
    """The settings that were chosen, and the held-out scores: of all that were compared, and of the chosen ones."""

    config: GIFConfig
    compared: dict[str, float]
    bits: float
    r2: float

    @property
    def name(self) -> str:
        """What is chosen, as it is named among what was compared."""
        return _name(self.config)

    @property
    def refined_name(self) -> str:
        """The same, refined."""
        return f"{self.name}, refined"


def select(known: Recorded, config: GIFConfig, tell: Callable[[str, int, int], None]) -> Selection:
    """The model and the time constants that predict the held-out part best; as they are where nothing is held out."""
    models = list(MODELS) if config.model == "auto" else [config.model]
    options = [replace(config, model=model, fixed=_known(config, model)) for model in models]
    stop = round((1 - config.validation) * known.current.shape[1])
    parts = known.spikes[:, :stop], known.spikes[:, stop:]
    if not (0 < stop < known.current.shape[1] and all(part.sum() >= MIN_SPIKES for part in parts)):
        return Selection(options[-1], {}, float("nan"), float("nan"))
    earlier = known.until(stop)
    compared: dict[str, float] = {}
    total = len(options) + sum(len(getattr(options[-1], part)) for part in PARTS) * config.select

    def scored(option: GIFConfig, name: str, fit: Callable[[Recorded, GIFConfig], Estimate]) -> Score:
        tell(f"{option.model}, a part held out", len(compared), total)
        result = score(known, fit(earlier, option), stop)
        compared[name] = result.bits
        return result

    results = [scored(option, _name(option), estimate) for option in options]
    best = int(np.argmax([result.bits for result in results]))
    chosen, result = options[best], results[best]
    for part in PARTS[::-1] if config.select else ():
        taus: tuple[float, ...] = getattr(chosen, part)
        changes: list[dict[str, Any]] = [{part: spread(taus, number)} for number in range(len(taus))]
        fewer = [replace(chosen, **change) for change in changes]
        tried = [*((scored(option, _name(option), estimate), option) for option in fewer), (result, chosen)]
        highest = max((found for found, _ in tried), key=lambda found: found.bits)
        # of those that are about as good, the one with fewest
        result, chosen = next(each for each in tried if not each[0].surely_worse(highest))
    selection = Selection(chosen, compared, result.bits, result.r2)
    if config.refine == "none":
        return selection
    result = scored(chosen, selection.refined_name, refined)
    return replace(selection, bits=result.bits, r2=result.r2)


def _known(config: GIFConfig, model: str) -> dict[str, float]:
    """The numbers that are known of what the model has."""
    return {name: value for name, value in config.fixed.items() if name != "reset_factor" or MODELS[model].reset_factor}


def spread(taus: tuple[float, ...], number: int) -> tuple[float, ...]:
    """So many time constants, spread over the range of these as evenly as these are.

    Examples
    --------
    >>> from blocksim.ephys._gif.selection import spread
    >>> spread((4.0, 16.0, 64.0), 1), spread((4.0, 16.0), 1), spread((4.0, 16.0), 2)
    ((16.0,), (8.0,), (4.0, 16.0))
    """
    places = (np.arange(number) + 0.5) / max(number, 1) * len(taus) - 0.5
    ordered = np.log(np.sort(taus))
    return tuple(np.round(np.exp(np.interp(places, np.arange(len(taus)), ordered)), 9).tolist())


def _name(config: GIFConfig) -> str:
    """The model; where time constants are selected, also their number in each part."""
    parts = "/".join(str(len(getattr(config, part))) for part in PARTS)
    return f"{config.model} {parts}" if config.select else config.model
