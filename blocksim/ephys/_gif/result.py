"""What a fit of a stochastic neuron found.

Owns its numbers, their uncertainty as it is shown, and its file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from blocksim import _notebook
from blocksim._array_io import plain, write_json
from blocksim._atomic_io import named
from blocksim._validation import choice, instance, real_array
from blocksim.ephys._fitting.model import parameter_table
from blocksim.ephys._gif.cell import GIFCell, shared_taus
from blocksim.ephys._gif.config import GIFConfig
from blocksim.ephys._gif.estimate import Rectangles
from blocksim.ephys._recordings.electrode import ElectrodeKernel
from blocksim.errors import ArgumentError, FileError

KERNELS = ("currents", "thresholds")
BAND = 1.96  # standard deviations of a band of 95 %

T = TypeVar("T")


class Kernel(NamedTuple):
    """A sum of exponentials over time, and its 95 % band."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class GIFFit:
    """A finished fit of a stochastic neuron.

    Attributes
    ----------
    cell : GIFCell
        The parameters.
    dt : float
        Time step in ms that they were fitted with.
    names : tuple of str
        Names of the fitted numbers: "tau_mem", "rest", "resistance", "currents.0" (an amplitude) and so on; of a
        refined fit also "currents.0.tau", "thresholds.0.tau", "coupling.tau.0".
    covariance : (P, P) array
        Of the fitted numbers, in their units; unless refined together, those of potential and threshold are taken as
        independent.
    scores : dict of float
        "bits" and "r2" of all of the data, and "held_out_bits" and "held_out_r2" of a fit to the rest (NaN where
        nothing was held out). Bits: by how much the model is more likely than a Poisson neuron, for each spike; R2: the
        share of the potential's variance explained, 1 - SSE / VAR, with recorded spikes imposed. "ks" is the
        Kolmogorov-Smirnov distance of the rescaled intervals, "ks_critical" what it exceeds by chance in 5 % of fits.
        All are of the neuron with its noise, also where `config.noise` takes it away afterwards.
    compared : dict of float
        The held-out bits of each model that was tried.
    warnings : tuple of str
        What a reader of the numbers must know.
    series_resistance : float
        In MOhm; 0 where it was not fitted.
    seconds : float
        Wall-clock time.
    config : GIFConfig
        Settings.
    rectangles : dict of Rectangles
        With a rectangular basis, what spikes leave behind without time constants: "currents" (pA) and "thresholds"
        (mV). Else empty.
    """

    cell: GIFCell
    dt: float
    names: tuple[str, ...]
    covariance: np.ndarray
    scores: dict[str, float]
    compared: dict[str, float]
    warnings: tuple[str, ...]
    series_resistance: float
    seconds: float
    config: GIFConfig
    rectangles: dict[str, Rectangles] = field(default_factory=dict)

    def ranked(self) -> list[tuple[str, float]]:
        """The models that were tried and their held-out bits a spike, the best first.

        Returns
        -------
        list of (str, float)
            A pair for each of `compared`.
        """
        return sorted(self.compared.items(), key=lambda item: -item[1])

    def __str__(self) -> str:
        cell, errors = self.cell, self.errors

        def shown(name: str, value: float, unit: str) -> str:
            error = errors.get(name)
            return f"  {name:18}{value:10.4g}" + (f" +- {error:.2g}" if error is not None else "") + f" {unit}"

        lines = [f"{self.config.model} fit, dt {self.dt:g} ms, {self.seconds:.2g} s"]
        lines += [
            shown("tau_mem", cell.tau_mem, "ms"), shown("resistance", cell.resistance, "MOhm"),
            shown("rest", cell.rest, "mV"), shown("reset", cell.reset, "mV"),
            shown("threshold", cell.threshold, "mV"),
            shown("width", cell.width, "mV") if cell.is_stochastic else "  without noise",
        ]  # fmt: skip
        for name, unit in (("currents", "pA"), ("thresholds", "mV")):
            for place, (tau, amplitude) in enumerate(getattr(cell, name)):
                lines.append(shown(f"{name}.{place}", amplitude, f"{unit}, {tau:g} ms"))
        held = self.scores["held_out_bits"]
        lines.append(
            f"  bits per spike {self.scores['bits']:.2f}" + (f" (held out {held:.2f})" if np.isfinite(held) else "")
            + f", R2 of the potential {self.scores['r2']:.3f}"
        )  # fmt: skip
        return "\n".join([*lines, *(f"  warning: {each}" for each in self.warnings)])

    def _repr_html_(self) -> str:
        """In a notebook: the numbers, and the kernels with their bands."""
        from blocksim.ephys._figures import kernels  # which shows these fits, and so knows them

        return _notebook.shown(str(self), lambda: kernels(self))

    @property
    def errors(self) -> dict[str, float]:
        """The standard error of each fitted number."""
        return dict(zip(self.names, np.sqrt(np.maximum(np.diagonal(self.covariance), 0)).tolist(), strict=True))

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row each parameter: `pandas.DataFrame` takes them, and a CSV file.

        Returns
        -------
        dict of (P,) arrays
            "parameter", "value", "unit": those of `GIFCell.table`, and "series_resistance" in MOhm where it was fitted;
            "standard_error" in the same unit, NaN of what was not fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim.ephys import GIFCell, GIFConfig, Recording, fit_gif
        >>> rng = np.random.default_rng(0)
        >>> current = 150 + 120 * np.repeat(rng.normal(size=(1, 2000)), 10, axis=1)
        >>> true = GIFCell(capacitance=100, conductance=8, rest=-70, reset=-60, threshold=-48, width=1.5, refractory=4)
        >>> spikes = true.sample(current[0], dt=0.5, repeats=1, seed=1)
        >>> voltage = true.impose(current, spikes.to_steps(0.5, 20_000) > 0, dt=0.5).potential
        >>> table = fit_gif(Recording(current, voltage, 2000, spikes), GIFConfig(model="lif")).table()
        >>> list(table), table["parameter"][:2].tolist()
        (['parameter', 'value', 'standard_error', 'unit'], ['tau_mem', 'resistance'])
        """
        own, errors = self.cell.table(), self.errors
        errors |= {
            f"coupling.{number}.tau": errors[name] for number, name in enumerate(shared_taus(self.cell))
            if name in errors
        }  # fmt: skip
        if not self.cell.is_stochastic:
            errors.pop("width", None)  # of the noise that was taken away
        if self.config.electrode == "series":
            more = parameter_table({"series_resistance": (self.series_resistance, "MOhm")})
            own = {column: np.concatenate([values, more[column]]) for column, values in own.items()}
        found = np.array([errors.get(name, np.nan) for name in own["parameter"].tolist()])
        return {"parameter": own["parameter"], "value": own["value"], "standard_error": found, "unit": own["unit"]}

    @property
    def electrode(self) -> ElectrodeKernel:
        """The series resistance as the kernel of an electrode, for `compensate`."""
        return ElectrodeKernel(self.dt, np.array([self.series_resistance]))

    @property
    def correlation(self) -> np.ndarray:
        """(P, P): correlations of the fitted numbers, in the order of `names`."""
        spread = np.sqrt(np.maximum(np.diagonal(self.covariance), 1e-300))
        return np.asarray(self.covariance / np.outer(spread, spread))

    def kernel(self, name: str, times: Any) -> Kernel:
        """What a spike leaves behind at times after it, with a 95 % band.

        Parameters
        ----------
        name : {"currents", "thresholds"}
            The after-spike current in pA, or the rise of the threshold in mV.
        times : (n,) array
            In ms.

        Returns
        -------
        Kernel

        Raises
        ------
        ArgumentError
            The name is another, or the times are no numbers.
        """
        choice("name", name, KERNELS)
        after = real_array("times", times, "ms").astype(np.float64)
        entries = getattr(self.cell, name)
        taus, amplitudes = (np.array([entry[place] for entry in entries], np.float64) for place in (0, 1))
        shapes = np.exp(-after[:, None] / taus)
        slopes = {f"{name}.{k}": shapes[:, k] for k in range(len(taus))}
        slopes |= {f"{name}.{k}.tau": amplitudes[k] * shapes[:, k] * after / taus[k] ** 2 for k in range(len(taus))}
        return self._band(shapes @ amplitudes, slopes)

    def threshold_at(self, potential: Any) -> Kernel:
        """The threshold that a potential leads to where it is held, with a 95 % band.

        Parameters
        ----------
        potential : (n,) array
            In mV.

        Returns
        -------
        Kernel
            Of thresholds in mV.
        """
        held = real_array("potential", potential, "mV").astype(np.float64)
        cell = self.cell
        above = [held - cell.rest if knot is None else np.maximum(held - knot, 0) for _, knot, _ in cell.coupling]
        slopes = {f"coupling.{k}": each for k, each in enumerate(above)} | {"threshold": np.ones(len(held))}
        value = cell.threshold + sum(slope * each for (_, _, slope), each in zip(cell.coupling, above, strict=True))
        return self._band(np.broadcast_to(value, held.shape), slopes)

    def _band(self, value: np.ndarray, slopes: Mapping[str, np.ndarray]) -> Kernel:
        """Values with the band that follows from their derivatives in the fitted numbers."""
        known = [name for name in slopes if name in self.names]
        places = [self.names.index(name) for name in known]
        derivatives = np.array([slopes[name] for name in known]).reshape(len(known), len(value))
        variance = np.einsum("it,ij,jt->t", derivatives, self.covariance[np.ix_(places, places)], derivatives)
        width = BAND * np.sqrt(np.maximum(variance, 0))
        return Kernel(value, value - width, value + width)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON: NaN as null."""
        everything: dict[str, Any] = plain({
            "kind": "gif", "cell": self.cell.to_dict(), "dt": self.dt, "names": self.names, "errors": self.errors,
            "covariance": self.covariance, "scores": self.scores, "compared": self.compared,
            "warnings": self.warnings, "series_resistance": self.series_resistance, "seconds": self.seconds,
            "config": self.config.to_dict(),
            "rectangles": {part: each._asdict() for part, each in self.rectangles.items()},
        })  # fmt: skip
        return everything

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The fit of `to_dict`.

        Raises
        ------
        ArgumentError
            It is no dict, or something is missing.
        """
        instance("values", values, Mapping, "a dict, as GIFFit.to_dict returns it")
        names = ("cell", "config", "covariance", "names", "scores", "compared", "warnings", "dt", "series_resistance",
                 "seconds")  # fmt: skip
        missing = [name for name in names if name not in values]
        if missing:
            raise ArgumentError(f"fit: expected what GIFFit.to_dict returns; found no {', '.join(missing)}")

        def numbers(given: Mapping[str, Any]) -> dict[str, float]:
            return {name: float("nan") if value is None else float(value) for name, value in given.items()}

        covariance = np.array(values["covariance"], np.float64)  # None becomes NaN
        return cls(
            GIFCell.from_dict(values["cell"]), float(values["dt"]), tuple(values["names"]), covariance,
            numbers(values["scores"]), numbers(values["compared"]), tuple(values["warnings"]),
            float(values["series_resistance"]), float(values["seconds"]), GIFConfig.from_dict(values["config"]),
            {part: Rectangles(**{name: np.array(array, np.float64) for name, array in each.items()})
             for part, each in values.get("rectangles", {}).items()},
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write the fit as JSON; a file that is there is replaced as a whole."""
        write_json(named(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The fit that `save` or `blocksim fit` wrote.

        Raises
        ------
        ArgumentError
            `path` is no name of a file.
        FileError
            It is no file of a fit of a stochastic neuron.
        """
        return read_fit(named(path), "a fit of a stochastic neuron, as GIFFit.save writes it", cls.from_dict)


def read_fit(path: Path, expected: str, make: Callable[[dict[str, Any]], T]) -> T:
    """What `make` makes of the fit in a file, which `blocksim fit` wrote, or `GIFFit.save`."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return make(saved.get("fit", saved))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArgumentError) as error:
        raise FileError(f"{path}: expected {expected}; found another file ({error})") from error
