"""Experiments: from a file of samples to a trained model, as `blocksim train` runs them, in one description.

Owns the configuration, its names in a TOML file, and the order: open the data, draw and calibrate a network, train it,
write down what came of it. A grid of experiments is a list of them, run by any executor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._array_io import plain, write_json
from blocksim._network import Network
from blocksim._settings import check_names, make, read_settings, section
from blocksim._validation import choice, found, instance, items, milliseconds, whole_number
from blocksim.data import Augmentation, EventDataset, open_dataset
from blocksim.errors import ArgumentError
from blocksim.initialisers import calibrate, make_network
from blocksim.optimisers import SGD, Adam, AdamW, Optimiser
from blocksim.training._evaluation import Variations
from blocksim.training._settings import RatePenalty, Training, described
from blocksim.training._trainer import fit

OPTIMISERS: dict[str, type[Optimiser]] = {"adamw": AdamW, "adam": Adam, "sgd": SGD}
AXES = ("refractory", "method", "gradient")  # of a grid
# samples that the first weights are calibrated on
CALIBRATION = 64
# of the highest rate that a refractory period allows, how much a layer begins with at most
MAX_RATE = 0.3
# of a sample: indices of events are 32-bit numbers in some backends
MAX_STEPS = 2**31 - 1
# of a result, besides loss and accuracy
SECONDS = ("seconds_an_epoch", "seconds")
VALIDATION = ("validation_loss", "validation_accuracy")


@dataclass(frozen=True)
class DataChoices:
    """How samples are binned.

    Parameters
    ----------
    dt : float
        Step in ms.
    duration : float or None
        Of every sample, in ms; None: that of the longest training sample, and the longest delay.
    pool : int
        Neighbouring channels that become one.
    clip : bool
        Whether several spikes of a channel in one step count as one.
    trim : float or None
        Samples begin where this share of their events has passed; None: at time 0.
    span : float or None
        ms that the events of a sample last, but for that share at either end; None: as long as they do.
    delays : tuple of float
        ms; every channel enters once for each of them.
    """

    dt: float = 2.0
    duration: float | None = None
    pool: int = 1
    clip: bool = False
    trim: float | None = None
    span: float | None = None
    delays: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class NetworkChoices:
    """How the network is drawn: as `blocksim.initialisers.make_network` has it, and calibrated to `rate`.

    Parameters
    ----------
    hidden : tuple of int
    refractory : float
        ms; rounded to the nearest whole number of steps.
    recurrent : bool
    recurrent_share : float
    tau_mem, tau_adapt : float or (float, float)
        ms.
    adaptation : float
    neuron : str
    tau_syn : float, (float, float) or None
        ms.
    tau_out : float
        ms.
    decode : str
    rate : float
        Firing rate in Hz that each layer begins with while a sample lasts, or 0.3 of the highest that the refractory
        period allows, if that is less.
    """

    hidden: tuple[int, ...] = (256, 256)
    refractory: float = 20.0
    recurrent: bool = True
    recurrent_share: float = 0.05
    tau_mem: float | tuple[float, float] = (10.0, 300.0)
    tau_adapt: float | tuple[float, float] = (50.0, 500.0)
    adaptation: float = 0.2
    neuron: str = "alif"
    tau_syn: float | tuple[float, float] | None = None
    tau_out: float = 80.0
    decode: str = "mean"
    rate: float = 5.0


@dataclass(frozen=True)
class Experiment:
    """One training, described.

    Parameters
    ----------
    path : str
        Of the training samples, as `blocksim.data.open_dataset` takes it.
    folder : str
        Where results go.
    data : DataChoices
    network : NetworkChoices
    training : Training
        Its seed draws the network too.
    backend : str
    variations : Variations
        Of test samples, for `blocksim evaluate`; training does without.
    """

    path: str
    folder: str
    data: DataChoices = DataChoices()
    network: NetworkChoices = NetworkChoices()
    training: Training = field(default_factory=Training)
    backend: str = "numba"
    variations: Variations = field(default_factory=Variations)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration file, TOML or JSON, as a dictionary for `experiment_of`.

    Raises
    ------
    FileError
        It cannot be read, is not UTF-8, is neither, or is nested too deeply.
    ArgumentError
        It holds something other than a table of settings.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from blocksim.training.experiment import read_config
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "choices.toml"
    ...     _ = path.write_text("[training]\\nepochs = 5")
    ...     read_config(path)
    {'training': {'epochs': 5}}
    """
    return read_settings(path)


def experiment_of(config: Mapping[str, Any], path: str, folder: str, backend: str = "numba") -> Experiment:
    """An experiment from nested dictionaries, as a TOML file holds them.

    Parameters
    ----------
    config : dict
        Tables `data`, `network`, `training` and `variations`, with the fields of `DataChoices`, `NetworkChoices`,
        `Training` and `Variations`. In `training`, `optimiser` is "adamw", "adam" or "sgd", with `learning_rate`,
        `weight_decay`, `decayed` and `momentum` beside it; `penalties` is a list of tables with the fields of
        `RatePenalty`. `augmentation`, there and in `variations`, is a table with those of `blocksim.data.Augmentation`.
    path, folder, backend
        As in `Experiment`.

    Raises
    ------
    ArgumentError
        A name is unknown, or a value wrong; says in which table.

    Examples
    --------
    >>> from blocksim.training.experiment import experiment_of
    >>> experiment = experiment_of({"network": {"hidden": [64]}, "training": {"learning_rate": 0.01}}, "a.h5", "out")
    >>> experiment.network.hidden, experiment.training.optimiser
    ((64,), AdamW(learning_rate=0.01, ...))
    """
    check_names("configuration", config, ("data", "network", "training", "variations"))
    training = section("training", config)
    names = [item.name for item in fields(Training) if item.name != "transforms"]
    of_optimiser = ("learning_rate", "weight_decay", "decayed", "momentum")
    check_names("[training]", training, [*names, *of_optimiser])
    kind = OPTIMISERS[choice("[training] optimiser", training.pop("optimiser", "adamw"), OPTIMISERS)]
    given = {name: training.pop(name) for name in of_optimiser if name in training}
    check_names(f"[training] optimiser {kind.__name__}", given, [item.name for item in fields(kind)])
    default: Any = {"learning_rate": Training.optimiser.learning_rate}
    if kind is AdamW:
        default["weight_decay"] = vars(Training.optimiser)["weight_decay"]
    training["optimiser"] = make(kind, "[training]", {**default, **given})
    penalties = training.get("penalties", ())
    if not isinstance(penalties, (list, tuple)):
        raise ArgumentError(f"[training] penalties: expected a list of tables; found {found(penalties)}")
    training["penalties"] = tuple(make(RatePenalty, "[[training.penalties]]", part) for part in penalties)
    variations = section("variations", config)
    for name, table in (("training", training), ("variations", variations)):
        if "augmentation" in table:
            table["augmentation"] = make(Augmentation, f"[{name}.augmentation]", table["augmentation"])
    return Experiment(
        str(path),
        str(folder),
        make(DataChoices, "[data]", section("data", config)),
        make(NetworkChoices, "[network]", section("network", config)),
        make(Training, "[training]", training),
        backend,
        make(Variations, "[variations]", variations),
    )


def grid_of(experiment: Experiment, seeds: int = 1, **axes: Sequence[Any]) -> list[Experiment]:
    """Experiments over every combination of values.

    Parameters
    ----------
    experiment : Experiment
        What they have in common.
    seeds : int
        Seeds a combination: that of the experiment, and those after it.
    **axes : sequences
        Values of `refractory` (ms), `method` and `gradient`.

    Returns
    -------
    list of Experiment
        One in the experiment's folder itself; several in folders below it, named after what differs.

    Raises
    ------
    ArgumentError
        It is no experiment; `seeds` is below 1; an axis is none of these, or no sequence; a refractory period is not a
        time of at least 0; or a method or gradient is unknown.

    Examples
    --------
    >>> from blocksim.training.experiment import Experiment, grid_of
    >>> [each.folder for each in grid_of(Experiment("a.h5", "out"), seeds=2, refractory=[20, 40])]
    ['out/refractory20-seed0', 'out/refractory20-seed1', 'out/refractory40-seed0', 'out/refractory40-seed1']
    """
    instance("experiment", experiment, Experiment, "an Experiment")
    seeds = whole_number("seeds", seeds, 1)
    check_names("axes", axes, AXES)
    some = {name: values for name, values in axes.items() if not (isinstance(values, (list, tuple)) and not values)}
    axes = {name: items(name, values, "a sequence of values") for name, values in some.items()}
    if "refractory" in axes:
        axes["refractory"] = [milliseconds("refractory", value, zero=True) for value in axes["refractory"]]
    made = []
    for values in product(*axes.values(), range(seeds)):
        chosen = dict(zip([*axes, "seed"], values, strict=True))
        seed = experiment.training.seed + chosen.pop("seed")
        network, training = experiment.network, replace(experiment.training, seed=seed)
        parts = []
        for name, value in chosen.items():
            if name == "refractory":
                network = replace(network, refractory=value)
            else:
                training = replace(training, **{name: value})
            if len(axes[name]) > 1:
                parts.append(f"{name}{value:g}" if isinstance(value, (int, float)) else str(value))
        if seeds > 1:
            parts.append(f"seed{seed}")
        folder = Path(experiment.folder, "-".join(parts)) if parts else Path(experiment.folder)
        made.append(replace(experiment, network=network, training=training, folder=str(folder)))
    return made


def open_samples(path: str | Path, choices: DataChoices) -> EventDataset:
    """Open samples as an experiment bins them, every one of the same duration."""
    dt = milliseconds("dt", choices.dt)
    binning: dict[str, Any] = {name: getattr(choices, name) for name in ("pool", "clip", "trim", "span", "delays")}
    data = open_dataset(path, dt, **binning)
    duration = choices.duration
    if duration is None:
        duration = data.statistics()["duration_ms"]["max"] + data.delays[-1] * dt
    number = milliseconds("duration", duration) / dt
    if number > MAX_STEPS:
        raise ArgumentError(f"duration: expected at most {MAX_STEPS} steps of {dt:g} ms; found {duration:g} ms")
    steps = max(1, math.floor(number + 1e-6))
    return open_dataset(path, dt, steps, **binning)


def first_network(data: EventDataset, experiment: Experiment) -> Network:
    """The network before training: drawn by the training's seed, each layer calibrated to its rate on some samples."""
    choices = {name: getattr(experiment.network, name) for name in vars(experiment.network)}
    rate, hidden = choices.pop("rate"), choices.pop("hidden")
    seed = experiment.training.seed
    rng = np.random.default_rng([seed, CALIBRATION])
    some = data.batch(np.sort(rng.permutation(len(data))[:CALIBRATION])).x
    input_rate = max(some.density / (data.dt / 1000), 1e-3)
    rate = min(rate, MAX_RATE / ((experiment.network.refractory + data.dt) / 1000))
    # samples end in silence, as long as they are all of the longest one's duration
    assert data.steps is not None
    rate *= min(1.0, data.statistics()["duration_ms"]["mean"] / (data.steps * data.dt))
    network = make_network(
        data.channels, hidden, len(data.class_names), dt=data.dt, rounding="nearest", input_rate=input_rate, rate=rate,
        seed=seed, **choices,
    )  # fmt: skip
    return calibrate(network, some, rate=rate, dt=data.dt, backend=experiment.backend)


def run_experiment(
    experiment: Experiment, *, resume: bool = False, progress: bool = True, dask: Any = None
) -> dict[str, Any]:
    """Open, draw, train, and write `result.json` to the folder, next to the model, the checkpoint and the history.

    Parameters
    ----------
    experiment : Experiment
    resume : bool
        Go on where the folder's checkpoint stands; where there is a result of the same experiment, return it.
    progress, dask
        As for `fit`.

    Returns
    -------
    dict
        What `result.json` holds: the experiment, the best epoch, its losses and accuracies, rates, times.

    Raises
    ------
    ArgumentError
        The experiment's choices are out of range, or do not fit its data.
    FileError
        The data cannot be read, or the folder cannot be written to, or holds another training.
    DivergenceError, DeviceError, ExecutorError, MissingLibraryError
        As `fit` raises them.
    """
    folder = Path(experiment.folder)
    description = json.loads(json.dumps(described(experiment)))
    if resume:
        done = read_result(folder)
        if done is not None and done["experiment"] == description:
            return done
    data = open_samples(experiment.path, experiment.data)
    assert data.steps is not None
    info = {
        "data": {**asdict(experiment.data), "duration": data.steps * data.dt},
        "class_names": list(data.class_names),
        "variations": asdict(experiment.variations),
        "experiment": description,
    }
    network = first_network(data, experiment)
    folder.mkdir(parents=True, exist_ok=True)  # not before: what is wrong leaves none
    trained = fit(
        network, data, experiment.training, backend=experiment.backend, folder=folder, resume=resume, info=info,
        progress=progress, dask=dask,
    )  # fmt: skip
    history = trained.history
    at = trained.best_epoch - 1
    result = {
        "experiment": description,
        "stopped": trained.stopped,
        "epochs": len(history["epoch"]),
        "best_epoch": trained.best_epoch,
        **{name: plain(float(column[at])) for name, column in history.items() if name != "epoch"},
        "seconds_an_epoch": float(np.median(history["seconds"])),
        "seconds": float(history["seconds"].sum()),
    }
    write_json(folder / "result.json", result)
    return result


def variations_of(info: Mapping[str, Any]) -> Variations:
    """The variations of test samples that a model's `info` asks for, as `run_experiment` writes it; none by default."""
    table = section("variations", info)
    if table.get("augmentation") is not None:
        table["augmentation"] = make(Augmentation, "variations augmentation", table["augmentation"])
    variations: Variations = make(Variations, "variations", table)
    return variations


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result in a folder; None where there is none, or none that can be read: the training is then resumed."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(result, dict) or not isinstance(result.get("experiment"), dict):
        return None
    whole = all(isinstance(result.get(name), int) for name in ("epochs", "best_epoch"))
    numbers = all(isinstance(result.get(name), (int, float)) for name in ("loss", "accuracy", *SECONDS))
    held = all(isinstance(result.get(name, ""), (int, float, type(None))) for name in VALIDATION)
    return result if whole and numbers and held else None
