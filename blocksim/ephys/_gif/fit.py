"""Fitting generalised integrate-and-fire neurons with escape noise: `fit_gif`.

Owns the order of a fit, and what its reader is warned of: the model is chosen by fits to a part of the data and their
scores on the rest; then it is fitted to all of it, the potential by least squares with the spikes imposed, the
threshold by Newton's ascent of the likelihood (40), and both are refined if that is wanted. Sources: Mensi et al.,
Journal of Neurophysiology 107, 2012; Pozzorini et al., PLoS Computational Biology 11, 2015.
"""

from __future__ import annotations

import time

import numpy as np

from blocksim._validation import found
from blocksim.ephys._fitting.descent import Progress
from blocksim.ephys._fitting.doubts import poorly_explained, several_cells
from blocksim.ephys._gif.config import GIFConfig
from blocksim.ephys._gif.estimate import Estimate, estimate, rectangles
from blocksim.ephys._gif.noiseless import without_noise
from blocksim.ephys._gif.recorded import Recorded
from blocksim.ephys._gif.refinement import optimiser, refine
from blocksim.ephys._gif.result import GIFFit
from blocksim.ephys._gif.selection import Selection, select
from blocksim.ephys._gif.spikes import bits_per_spike, ks_critical, ks_distance, rescaled_times
from blocksim.ephys._recordings.recording import Recording
from blocksim.errors import ArgumentError
from blocksim.trains import nearest_steps

FEW_SPIKES = 50  # below, a fit of many numbers is not to be trusted
WIDEST = 50.0  # mV: noise so wide hides the threshold


def fit_gif(data: Recording, config: GIFConfig | None = None, progress: Progress | None = None) -> GIFFit:
    """Fit a generalised integrate-and-fire neuron with escape noise to the training part of a recording.

    Parameters
    ----------
    data : Recording
        What to fit: the training part; the test part is not among it.
    config : GIFConfig or None
        Settings.
    progress : callable or None
        Called now and then with the name of the stage, the steps done and their number.

    Returns
    -------
    GIFFit

    Raises
    ------
    ArgumentError
        There is no spike, the current does not vary, or the potential does not rise with the current.

    Notes
    -----
    The potential is the recorded one, away from spikes. Each sweep begins at rest.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim.ephys import GIFCell, GIFConfig, Recording, fit_gif
    >>> rng = np.random.default_rng(0)
    >>> current = 150 + 120 * np.repeat(rng.normal(size=(1, 4000)), 10, axis=1)  # 20 s at 0.5 ms
    >>> true = GIFCell(capacitance=100, conductance=8, rest=-70, reset=-60, threshold=-48, width=1.5, refractory=4)
    >>> spikes = true.sample(current[0], dt=0.5, repeats=1, seed=1)
    >>> imposed = true.impose(current, spikes.to_steps(0.5, 40_000) > 0, dt=0.5)
    >>> fit = fit_gif(Recording(current, imposed.potential, 2000, spikes), GIFConfig(model="lif"))
    >>> round(fit.cell.tau_mem, 1), abs(fit.cell.width - 1.5) < 0.5
    (12.5, True)
    """
    config = GIFConfig() if config is None else config
    if not isinstance(data, Recording):
        raise ArgumentError(f"data: expected a Recording; found {found(data)}")
    if config.refine != "none":
        optimiser()  # what is missing is told before work begins
    began = time.perf_counter()
    tell = progress or (lambda stage, done, total: None)
    known = Recorded.of(data, config)
    chosen = select(known, config, tell)
    own = chosen.config
    tell(own.model, 0, 1)
    result = estimate(known, own)
    if own.refine != "none":
        result = refine(known, own, result, tell)
    uniform = rescaled_times(result.log_hazard, known.spikes)
    scores = {
        "bits": bits_per_spike(result.log_hazard, known.spikes), "r2": result.r2,
        "held_out_bits": chosen.bits, "held_out_r2": chosen.r2, "ks": ks_distance(uniform),
        "ks_critical": ks_critical(len(uniform)),
    }  # fmt: skip
    cell = result.cell if own.noise else without_noise(result.cell, known.current, known.spikes, known.dt)
    tell(own.model, 1, 1)
    steps = rectangles(known, own) if own.basis == "rectangular" else {}
    told = (*several_cells(data.labels), *_warnings(known, result, chosen, config, scores["bits"]))
    return GIFFit(
        cell, known.dt, result.names, result.covariance, scores, chosen.compared,
        told, result.series_resistance, time.perf_counter() - began, own, steps,
    )  # fmt: skip


def _warnings(known: Recorded, result: Estimate, chosen: Selection, wanted: GIFConfig, bits: float) -> list[str]:
    """What a reader of the numbers must know, in words."""
    config, cell = chosen.config, result.cell
    told = poorly_explained(result.r2, "mV, MOhm and pF")
    number, numbers = int(known.spikes.sum()), 2 + len(cell.thresholds) + len(cell.coupling)
    low, high = config.tau_mem
    if not low <= cell.tau_mem <= high and "tau_mem" not in config.fixed:
        told.append(f"refined, tau_mem left its range, {low:g} to {high:g} ms")
    elif result.at_edge:
        told.append(f"tau_mem lies at the edge of its range, {low:g} to {high:g} ms (widen tau_mem)")
    if number < max(FEW_SPIKES, 5 * numbers):
        told.append(f"{number} spikes determine {numbers} numbers of the threshold poorly")
    if bits < 0:
        told.append(
            f"the spikes are less likely than a Poisson neuron's ({bits:.3g} bits each): the model does not fit"
        )
    if not chosen.compared and (wanted.model == "auto" or wanted.select):
        told.append(
            f"nothing could be held out, so nothing was compared: {config.model} has the most numbers (fewer than 5 "
            "spikes in a part, or validation=0)"
        )
    plain, refined = (chosen.compared.get(name, np.nan) for name in (chosen.name, chosen.refined_name))
    if refined < plain:
        told.append(
            f"refined, the model predicts held-out spikes worse: {refined:.2f} bits each in place of {plain:.2f} "
            "(leave refine out)"
        )
    if result.at_bound or cell.width > WIDEST:
        told.append(f"the noise is as wide as {cell.width:.3g} mV: spikes hardly depend on the potential itself")
    if not result.converged:
        told.append("the ascent of the likelihood did not end: the threshold's numbers are not its maximum")
    if known.refractory < nearest_steps(config.refractory, known.dt):
        told.append(
            f"the refractory period is {known.refractory * known.dt:g} ms, for spikes come "
            f"{known.shortest * known.dt:g} ms apart (were some detected twice?)"
        )
    return told
