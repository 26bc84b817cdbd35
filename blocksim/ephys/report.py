"""The report of a fit: one HTML file with its pictures inside.

Owns the page and its tables; `blocksim.ephys._figures` draws, and the numbers are the fit's. matplotlib is the extra
`plot`.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from blocksim.ephys._figures import KERNEL_WORDS, hazards, kernels, losses, parameters, rasters, traces
from blocksim.ephys._fitting.fit import Fit
from blocksim.ephys._gif.config import MODELS
from blocksim.ephys._gif.result import GIFFit
from blocksim.ephys._recordings.recording import Recording
from blocksim.ephys.evaluation import Predicted
from blocksim.plotting import require_matplotlib

MODEL_WORDS = {
    "lif": "Leaky integrate-and-fire neuron with escape noise",
    "alif": "Adaptive leaky integrate-and-fire neuron with escape noise",
    "glif": "Generalised leaky integrate-and-fire neuron with escape noise (GLIF)",
    "gif": "Generalised integrate-and-fire neuron with escape noise (GIF)",
    "igif": "Generalised integrate-and-fire neuron with escape noise and a threshold that follows the potential (iGIF)",
}
# of a deterministic model, and of a stochastic one
OF_TRACES = (
    "The model's potential is scaled to mV by regression on the training part; its spikes are instants, drawn as bars.",
    "The model's potential and threshold have the recorded spikes imposed; its own spikes, drawn as bars, are those of "
    "one repetition.",
)
WORDS = {
    "rate_hz": ("rate of the model", "Hz"), "rate_recorded_hz": ("rate recorded", "Hz"),
    "etv": ("ETV, normalised (Gaussian of 10 ms)", ""), "etv_raw": ("ETV, not normalised", ""),
    "etv_reliability": ("&emsp;of the trials themselves", ""), "gamma": ("Gamma (4 ms)", ""),
    "md_star": ("Md* (4 ms)", ""), "md_star_2ms": ("Md* (2 ms)", ""), "md_star_8ms": ("Md* (8 ms)", ""),
    "intrinsic_reliability": ("&emsp;intrinsic reliability of the trials (4 ms)", ""),
    "potential_r2": ("potential away from spikes, R²", ""), "bits": ("bits for each spike", ""),
    "ks": ("Kolmogorov-Smirnov distance of rescaled intervals", ""),
}  # fmt: skip


def page(
    name: str, result: Fit | GIFFit, predicted: Mapping[str, Predicted], measured: Mapping[str, Mapping[str, float]]
) -> str:
    """The page as text.

    Parameters
    ----------
    name : str
        The recording's.
    result : Fit or GIFFit
    predicted, measured : mappings
        "training" and "test": predictions, and their scores.

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    """
    require_matplotlib()
    test = predicted["test"]
    sections = [
        _figure(
            traces(test),
            "Test part: recorded potential and the model's",
            "Recorded potential of one sweep with the spikes of all its trials above, the model's potential and "
            "threshold with its spikes, and the difference between both potentials away from spikes.",
            "The stretch with most spikes. Bars above: recorded spikes (dark) and the model's (red). "
            + OF_TRACES[isinstance(result, GIFFit)],
        ),
        _figure(
            rasters(test),
            "Test part: trials and rates",
            "Raster of recorded trials with the model's spikes on top; smoothed rates of both, and their difference.",
            "Rates are smoothed with a Gaussian of 10 ms, as in ETV.",
        ),
        *(_of_gif_neuron(result, predicted) if isinstance(result, GIFFit) else _of_search(result)),
    ]
    template = Template(files("blocksim.ephys").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        name=html.escape(name),
        summary=html.escape(_summary(result, predicted)),
        parameters=_parameter_table(result),
        scores=_score_table(measured),
        compared=_compared(result),
        figures="\n".join(sections),
        settings=html.escape(json.dumps(result.config.to_dict(), indent=1)),
    )


def _of_search(result: Fit) -> list[str]:
    """What there is to see of a search and a descent."""
    return [
        _figure(
            losses(result),
            "Loss",
            "Loss of each restart over the epochs of the descent, and best loss over generations of the refinement.",
            "1 is a cell that never spikes. Left: each restart on the fitted part, and on the part held out (dashed). "
            "Right: the best candidate on all of the training part.",
        ),
        _figure(
            parameters(result),
            "Parameters",
            "Each parameter of all restarts after the descent, and the final value as a line.",
            "Dots: where restarts ended, darker for a lower loss. Line: the final parameters.",
        ),
    ]


def _of_gif_neuron(result: GIFFit, predicted: Mapping[str, Predicted]) -> list[str]:
    """What there is to see of a GIF neuron."""
    steps = " Dark steps: kernels without time constants, with 95 % of their errors." if result.rectangles else ""
    held = "the cell spikes" + (f" at {result.cell.rate:g} Hz" if result.cell.is_stochastic else "")
    figures = [
        _figure(
            kernels(result),
            "What spikes and the potential do",
            "After-spike current and rise of the threshold over time after a spike, with bands, and the threshold over "
            "a potential that is held.",
            "Bands: 95 %, of the standard errors. Right: the threshold that a constant potential leads to; "
            f"{held} where the two are equal.{steps}",
        ),
    ]
    if not result.cell.is_stochastic:
        return figures
    return [
        *figures,
        _figure(
            hazards(predicted["test"]),
            "Test part: hazard and rescaled intervals",
            "Hazard with the recorded spikes imposed, and the distribution of rescaled intervals, which should be "
            "uniform.",
            "Left: the stretch with most spikes of one sweep; bars: its recorded spikes. Right: intervals between "
            "spikes, rescaled by the hazard, are uniform if the model is right: the line is within the band of 95 %.",
        ),
    ]


def _summary(result: Fit | GIFFit, predicted: Mapping[str, Predicted]) -> str:
    training, test = predicted["training"].recording, predicted["test"].recording
    if isinstance(result, GIFFit):
        what, how = MODEL_WORDS[result.config.model], f"Fitted in {result.seconds:.3g} s."
        what += "" if result.cell.is_stochastic else ", without its noise"
    else:
        what = "Adaptive leaky integrate-and-fire neuron"
        how = f"{len(result.restarts['fit'])} restarts, fitted in {sum(result.seconds.values()):.3g} s."
    how += "".join(f" Warning: {each}." for each in result.warnings)
    return f"{what}, time step {result.dt:g} ms. Training: {_extent(training)}. Test: {_extent(test)}. {how}"


def _extent(recording: Recording) -> str:
    sweeps = "1 sweep" if recording.sweeps == 1 else f"{recording.sweeps} sweeps"
    return f"{sweeps} of {recording.duration / 1000:g} s, {len(recording.spikes.times)} spikes"


def _parameter_table(result: Fit | GIFFit) -> str:
    rows = _of_gif(result) if isinstance(result, GIFFit) else _of_alif(result)
    return "\n".join(f"<tr><th scope='row'>{name}</th><td>{value}</td></tr>" for name, value in rows)


def _of_gif(result: GIFFit) -> list[tuple[str, str]]:
    cell, errors = result.cell, result.errors
    numbers = {
        "tau_mem": ("membrane time constant", cell.tau_mem, "ms"),
        "resistance": ("input resistance", cell.resistance, "MOhm"), "rest": ("rest", cell.rest, "mV"),
        "reset": ("reset", cell.reset, "mV"), "threshold": ("threshold at rest", cell.threshold, "mV"),
    } | ({"width": ("width of the noise", cell.width, "mV")} if cell.is_stochastic else {})  # fmt: skip
    if MODELS[result.config.model].reset_factor:
        numbers["reset_factor"] = ("part of the potential kept after a spike", cell.reset_factor, "")
    rows = [(words, _with_error(value, errors.get(name), unit)) for name, (words, value, unit) in numbers.items()]
    rows.append(("absolute refractory period", f"{cell.refractory:.4g} ms"))
    for part, (words, unit) in KERNEL_WORDS.items():
        for place, (tau, amplitude) in enumerate(getattr(cell, part)):
            of_tau = errors.get(f"{part}.{place}.tau")
            time = f"{tau:g} ms" if of_tau is None else f"{tau:.3g} &plusmn; {of_tau:.2g} ms"
            rows.append((f"{words}, {time}", _with_error(amplitude, errors.get(f"{part}.{place}"), unit)))
    if result.series_resistance:
        rows.append(
            ("series resistance", _with_error(result.series_resistance, errors.get("series_resistance"), "MOhm"))
        )
    return rows


def _with_error(value: float, error: float | None, unit: str) -> str:
    """A number with its standard error; without one it was given."""
    return f"{value:.4g} " + (f"&plusmn; {error:.2g} {unit}" if error is not None else f"{unit} (fixed)")


def _compared(result: Fit | GIFFit) -> str:
    """A table of the models that were compared on held-out data, where there were several."""
    if not isinstance(result, GIFFit) or len(result.compared) < 2:
        return ""
    ranked = result.ranked()
    best = ranked[0][1]
    rows = "\n".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td>{bits:.3f}</td><td>{bits - best:.3f}</td></tr>"
        for name, bits in ranked
    )
    counted = " (time constants of currents / rises / coupling)" if result.config.select else ""
    return (
        f"<table><caption>Bits for each held-out spike{counted}</caption><thead><tr><th></th><th scope='col'>bits</th>"
        f"<th scope='col'>less than the best</th></tr></thead><tbody>\n{rows}\n</tbody></table>"
    )


def _of_alif(result: Fit) -> list[tuple[str, str]]:
    cell = result.cell
    rows = [
        ("membrane time constant", f"{cell.tau_mem:.4g} ms"), ("adaptation time constant", f"{cell.tau_adapt:.4g} ms"),
        ("rheobase", f"{cell.rheobase:.4g} pA"),
        ("threshold rise at a spike, as a current", f"{cell.adaptation_pa:.4g} pA"),
        ("gain", f"{cell.gain:.4g} /pA"), ("bias", f"{cell.bias:.4g}"), ("adaptation", f"{cell.adaptation:.4g}"),
        ("absolute refractory period", f"{cell.refractory:.4g} ms"),
    ]  # fmt: skip
    for name, value in (cell.millivolts or {}).items():
        of_resistance = name.endswith(" (MOhm)")
        rows.append((name.removesuffix(" (MOhm)"), f"{value:.4g} {'MOhm' if of_resistance else 'mV'}"))
    return rows


def _score_table(measured: Mapping[str, Mapping[str, float]]) -> str:
    lines = []
    for key, (words, unit) in WORDS.items():
        if key not in measured["test"]:
            continue
        cells = "".join(f"<td>{_number(measured[part][key], unit)}</td>" for part in ("training", "test"))
        lines.append(f"<tr><th scope='row'>{words}</th>{cells}</tr>")
    return "\n".join(lines)


def _number(value: float, unit: str) -> str:
    return "-" if not np.isfinite(value) else f"{value:.3f}" + (f" {unit}" if unit else "")


def _figure(figure: Any, title: str, alternative: str, caption: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", facecolor="white")
    picture = base64.b64encode(data.getvalue()).decode()
    return (
        f"<h2>{html.escape(title)}</h2>\n<figure><img alt='{html.escape(alternative, quote=True)}' "
        f"src='data:image/png;base64,{picture}'><figcaption>{html.escape(caption)}</figcaption></figure>"
    )
