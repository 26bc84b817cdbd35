"""Wrong arguments: every public function answers, or refuses in one line, within bounds of time and memory."""

from __future__ import annotations

import datetime
import importlib
import inspect
import resource
import time

import numpy as np
import pytest

from blocksim import ALIF, LIF, Component, Escape, Events, Exponential, Layer, LinearIF, simulate
from blocksim.data import from_lists
from blocksim.ephys import Cell, ElectrodeKernel, Recording, step_responses
from blocksim.errors import BlocksimError
from blocksim.initialisers import make_network
from blocksim.plotting import raster
from blocksim.trains import SpikeTrains

MODULES = (
    "blocksim", "blocksim.initialisers", "blocksim.losses", "blocksim.metrics", "blocksim.optimisers",
    "blocksim.schedules", "blocksim.surrogates", "blocksim.transforms", "blocksim.trains", "blocksim.classification",
    "blocksim.data", "blocksim.models", "blocksim.training", "blocksim.ephys", "blocksim.testing", "blocksim.interop",
    "blocksim.plotting",
)  # fmt: skip

rng = np.random.default_rng(0)
X = rng.random((2, 30, 3)) < 0.2
LAYER = Layer(ALIF(beta=0.9, p=0.95, b=0.1, refractory_steps=2), np.ones((3, 4)), recurrent=np.zeros((4, 4)))
IMPOSED = simulate(
    Layer(LinearIF(0.9, spike=Escape(0.1, 0.3)), np.ones((3, 2))),
    X,
    "numpy",
    record=("voltage", "threshold"),
    tape=True,
    impose=np.zeros((2, 30, 2), bool),
)
CELL = Cell(20.0, 100.0, 0.3, 0.01, 0.0, 3.0)
NETWORK = make_network(3, [4], 2, dt=1.0, refractory=2.0)
TRAINS = SpikeTrains.of([[1.0, 5.0, 9.0], [2.0, 7.0]])
DATA = from_lists([[1.0, 2.0]] * 6, [[0, 2]] * 6, [0, 1] * 3, channels=3, steps=30)
CURVE = step_responses(CELL, np.array([100.0, 300.0]), dt=0.5, duration=20.0).f_i_curve()
HISTORY = {
    name: np.ones(1) for name in ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "rate_0")
}
GRADIENTS = {"w": np.ones((3, 4))}

# arguments with which each function succeeds; an odd value then takes the place of one of them
VALID = {
    "blocksim.ALIF": {"beta": 0.9, "p": 0.95, "b": 0.1, "theta": 1.0, "refractory_steps": 2},
    "blocksim.LinearIF": {"beta": 0.9, "theta": 1.0, "refractory_steps": 2, "components": (Component(0.9),),
                          "v_reset": 0.0, "reset_factor": 0.5, "refractory": "hold"},
    "blocksim.GIF": {"beta": 0.9, "refractory_steps": 2}, "blocksim.MAT": {"beta": 0.9, "refractory_steps": 2},
    "blocksim.GLIF": {"beta": 0.9, "theta": 1.0}, "blocksim.AdLIF": {"beta": 0.9, "theta": 1.0},
    "blocksim.CubaLIF": {"beta": 0.9, "synapses": (Exponential(0.8),)},
    "blocksim.Rectified": {"decay": 0.9, "knot": 0.2, "jump": 0.1, "from_voltage": 0.1, "to_threshold": 0.1},
    "blocksim.Softplus": {"decay": 0.9, "knot": 0.2, "jump": 0.1, "from_voltage": 0.1, "to_threshold": 0.1, "softness": 1},
    "blocksim.Escape": {"rate": 0.1, "width": 0.5},
    "blocksim.surrogates.Hazard": {},
    "blocksim.ephys.GIFConfig": {"model": "gif", "dt": 0.1, "refractory": 4.0, "currents": (10.0,), "thresholds": (20.0,),
                                 "coupling": (), "knots": (0.5,), "tau_mem": (2.0, 50.0), "electrode": "none",
                                 "validation": 0.1, "ridge": 0.0, "seed": 1, "select": True,
                                 "fixed": {"rest": -70.0}, "refine": "joint", "noise": True,
                                 "basis": "exponential", "bins": (0.0, 5.0, 50.0)},
    "blocksim.ephys.ElectrodeKernel": {"dt": 0.1, "kernel": np.ones(3), "tau_mem": 10.0, "membrane_resistance": 100.0,
                                       "full": np.ones(5)},
    "blocksim.ephys.compensate": {"data": Recording(np.full(9, 100.0), np.full(9, -60.0), 1000),
                                  "kernel": ElectrodeKernel(1.0, np.ones(3))},
    "blocksim.ephys.GIFCell": {"capacitance": 100.0, "conductance": 5.0, "rest": -70.0, "reset": -60.0, "threshold": -50.0,
                               "width": 1.0, "refractory": 4.0, "currents": ((10.0, -5.0),), "rate": 1.0,
                               "reset_factor": 0.2},
    "blocksim.Component": {"decay": 0.9, "jump": 1.0, "from_voltage": 0.1, "to_voltage": 0.1, "to_threshold": 0.1,
                           "listens": "after"},
    "blocksim.Exponential": {"decay": 0.9, "gain": 1.0},
    "blocksim.Alpha": {"decay": 0.9, "gain": 1.0, "gain_rising": 0.1},
    "blocksim.Connection": {"weights": np.ones((3, 2)), "delay_steps": 2, "synapse": 1, "present": np.ones((3, 2), bool)},
    "blocksim.interop.from_nest": {"model": "iaf_psc_exp", "params": {"tau_m": 12.0}, "dt": 0.1, "weights": (1.0, -1.0)},
    "blocksim.interop.from_allen": {"config": {"El": 0.0, "dt": 5e-5, "R_input": 1e8, "C": 1e-10, "th_inf": 0.02,
        "spike_cut_length": 3, "voltage_dynamics_method": {"name": "linear_forward_euler"},
        "AScurrent_dynamics_method": {"name": "none"}, "threshold_dynamics_method": {"name": "inf"},
        "voltage_reset_method": {"name": "zero"}}},
    "blocksim.LIF": {"beta": 0.9, "theta": 1.0, "refractory_steps": 2},
    "blocksim.Events": {"indptr": np.array([0, 1, 2]), "indices": np.array([0, 1]), "shape": (1, 2, 3)},
    "blocksim.Layer": {"neuron": LIF(beta=0.9), "weights": np.ones((3, 2)), "bias": 0.1, "recurrent": np.ones((2, 2)),
                       "latency_steps": 1, "inputs": (), "synapses": (Exponential(0.9),), "input_connections": ()},
    "blocksim.LeakyReadout": {"weights": np.ones((3, 2)), "bias": np.zeros(2), "beta": 0.9, "decode": "sum"},
    "blocksim.CountReadout": {},
    "blocksim.Network": {"layers": NETWORK.layers, "readout": NETWORK.readout, "dt": 1.0},
    "blocksim.State": {"voltage": np.zeros((1, 2)), "adaptation": np.zeros((1, 2)), "refractory": np.zeros((1, 2), int),
                       "spikes": np.zeros((1, 0, 2), bool)},
    "blocksim.poisson_input": {"rate": np.full((5, 2), 10.0), "steps": 5, "dt": 1.0, "neurons": 2, "batch": 1, "weight": 0.5,
                               "seed": 1, "first_step": 3, "dtype": np.float32},
    "blocksim.get_backend": {"backend": "numpy"},
    "blocksim.available_backends": {},
    "blocksim.simulate": {"layer": LAYER, "x": X, "backend": "numpy", "method": "blocks", "block_length": 2, "state": None,
                          "record": ("voltage",), "tape": True, "surrogate": "fast_sigmoid", "gradient": "standard",
                          "detach": ("reset",), "batch_size": None, "seed": 1, "impose": None},
    "blocksim.initialisers.log_uniform": {"low": 1.0, "high": 2.0, "size": 3, "rng": np.random.default_rng(0),
                                          "dtype": np.float32},
    "blocksim.initialisers.fluctuating_weights": {"inputs": 3, "neurons": 4, "density": 0.1, "beta": 0.9,
                                                  "rng": np.random.default_rng(0), "deviation": 1.0, "synapse": 0.5},
    "blocksim.initialisers.make_network": {
        "inputs": 3, "hidden": [4], "classes": 2, "dt": 1.0, "refractory": 2.0, "tau_mem": (5.0, 9.0), "tau_adapt": 9.0,
        "adaptation": 0.1, "neuron": "adlif", "tau_syn": 5.0, "recurrent": True, "recurrent_share": 0.1, "tau_out": 10.0, "decode": "mean", "input_rate": 9.0,
        "rate": 5.0, "rounding": None, "seed": 0, "dtype": np.float32,
    },
    "blocksim.initialisers.calibrate": {"network": NETWORK, "x": X, "rate": 50.0, "dt": 1.0, "backend": "numpy"},
    "blocksim.losses.van_rossum": {"spikes": X, "target": ~X, "tau": 5.0, "dt": 1.0, "backend": "numpy",
                                   "dtype": np.float64},
    "blocksim.losses.log_likelihood": {"run": IMPOSED},
    "blocksim.losses.cross_entropy": {"scores": np.ones((2, 3)), "labels": [0, 1], "label_smoothing": 0.1},
    "blocksim.losses.mean_squared_count": {"counts": np.ones((2, 3)), "target": np.ones((2, 3))},
    "blocksim.losses.rate_penalty": {"counts": np.ones((2, 3)), "duration": 10.0, "lower": 1.0, "upper": 2.0, "over": "batch"},
    "blocksim.metrics.van_rossum": {"models": TRAINS, "trials": TRAINS, "tau": 5.0},
    "blocksim.metrics.explained_variance": {"models": TRAINS, "trials": TRAINS, "sigma": 5.0, "duration": 10.0,
                                            "windows": None},
    "blocksim.metrics.reliability": {"trials": TRAINS, "sigma": 5.0, "duration": 10.0, "windows": [(0.0, 10.0)]},
    "blocksim.metrics.explained_temporal_variance": {"models": TRAINS, "trials": TRAINS, "duration": 10.0, "sigma": 5.0,
                                                     "normalise": True, "pooled": False},
    "blocksim.metrics.smoothed_rate": {"trains": TRAINS, "sigma": 5.0, "duration": 10.0, "dt": 1.0},
    "blocksim.metrics.coincidences": {"models": TRAINS, "trials": TRAINS, "window": 2.0, "once": False},
    "blocksim.metrics.gamma_factor": {"models": TRAINS, "trials": TRAINS, "window": 2.0, "duration": 10.0},
    "blocksim.metrics.md_star": {"models": TRAINS, "trials": TRAINS, "window": 2.0, "model_pairs": "all"},
    "blocksim.metrics.intrinsic_reliability": {"trials": TRAINS, "window": 2.0},
    "blocksim.metrics.train_statistics": {"trains": TRAINS, "duration": 10.0},
    "blocksim.optimisers.SGD": {"learning_rate": 0.1, "momentum": 0.5, "nesterov": False, "weight_decay": 0.0},
    "blocksim.optimisers.Adam": {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8},
    "blocksim.optimisers.AdamW": {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1,
                                  "decayed": ("*.weights",)},
    "blocksim.optimisers.clip_by_norm": {"gradients": GRADIENTS, "limit": 1.0, "columns": False},
    "blocksim.schedules.Constant": {"rate": 0.1},
    "blocksim.schedules.Milestones": {"rate": 0.1, "steps": [3, 5], "factor": 0.1},
    "blocksim.schedules.Cosine": {"rate": 0.1, "steps": 10, "warmup": 2, "final": 0.0},
    "blocksim.surrogates.FastSigmoid": {"k": 10.0},
    "blocksim.surrogates.BoxCar": {"width": 1.0},
    "blocksim.surrogates.MultiGaussian": {"s": 0.5, "h": 0.1, "gamma": 0.5},
    "blocksim.surrogates.Arctan": {"k": 2.0},
    "blocksim.surrogates.Sigmoid": {"k": 4.0},
    "blocksim.surrogates.Triangle": {"gamma": 0.3},
    "blocksim.surrogates.get_surrogate": {"surrogate": "sigmoid"},
    "blocksim.transforms.Bounded": {"low": 0.0, "high": 1.0, "scale": "linear"},
    "blocksim.transforms.Positive": {"scale": 1.0},
    "blocksim.transforms.Decay": {"low": 1.0, "high": 10.0},
    "blocksim.trains.SpikeTrains": {"times": np.array([1.0, 2.0]), "offsets": np.array([0, 2])},
    "blocksim.classification.accuracy": {"scores": np.ones((2, 3)), "labels": [0, 1]},
    "blocksim.classification.confusion_matrix": {"labels": [0, 1], "predicted": [0, 1], "classes": 2},
    "blocksim.data.Augmentation": {"blend": 0.1, "stretch": 0.1, "time_shift": 1.0, "time_jitter": 1.0, "channel_shift": 1,
                                   "mask_time": 1.0, "mask_channels": 1, "drop": 0.1},
    "blocksim.data.from_lists": {"times": [[1.0], [2.0]], "units": [[0], [1]], "labels": [0, 1], "channels": 3, "dt": 1.0,
                                 "steps": 5},
    "blocksim.data.split": {"dataset": DATA, "fraction": 0.5, "by": "sample", "seed": 0},
    "blocksim.data.folds": {"dataset": DATA, "k": 2, "by": "sample", "seed": 0},
    "blocksim.training.RatePenalty": {"strength": 1.0, "lower": 0.0, "upper": 5.0, "layers": None, "over": "batch"},
    "blocksim.training.Variations": {"rounds": 0, "seed": 0},
    "blocksim.training.evaluate": {"network": NETWORK, "data": DATA, "backend": "numpy"},
    "blocksim.ephys.Detection": {"method": "threshold", "threshold": 0.0, "dvdt": 20.0, "dead_time": 1.0, "rise": 1.0},
    "blocksim.ephys.FitConfig": {"dt": 0.5, "tau": 40.0, "refractory": (2.0,), "candidates": 8, "restarts": 1, "seed": 0,
                                 "bounds": {"tau_mem": (5.0, 50.0)}, "validation": 0.2, "spike_window": (2.0, 8.0),
                                 "fixed": {"tau_adapt": 100.0}},
    "blocksim.ephys.Recording": {"current": np.zeros((1, 40)), "voltage": np.full((1, 40), -65.0), "sampling_rate": 1000.0,
                                 "name": "cell"},
    "blocksim.ephys.VanRossum": {"tau": 40.0},
    "blocksim.ephys.detect_spikes": {"voltage": np.full((1, 40), -65.0), "dt": 0.1, "detection": None},
    "blocksim.ephys.step_responses": {"cell": CELL, "amplitudes": np.array([100.0, 300.0]), "dt": 0.5, "duration": 20.0,
                                      "before": 5.0, "after": 5.0, "holding": 0.0, "repeats": 1, "seed": 0, "backend": "numpy"},
    "blocksim.ephys.spike_triggered_average": {"signal": np.zeros((1, 40)), "spikes": [np.array([2.0])], "dt": 0.1,
                                               "before": 1.0, "after": 1.0, "centred": False},
    "blocksim.ephys.population": {"cells": [CELL], "dt": 0.1, "shared": False, "dtype": np.float64},
    "blocksim.ephys.missed": {"voltage": np.full((1, 40), -65.0), "dt": 0.1, "spikes": SpikeTrains.of([[]]), "dvdt": 20.0},
    "blocksim.plotting.raster": {"times": np.array([1.0, 4.0]), "rows": np.array([0, 1]), "count": 2, "duration": 9.0,
                                 "label": "neuron", "title": "", "axes": None, "figure": None},
    "blocksim.plotting.plain_raster": {"times": np.array([1.0, 4.0]), "rows": np.array([0, 1]), "count": 2, "duration": 9.0,
                                       "title": ""},
    "blocksim.plotting.rates": {"times": np.array([1.0, 4.0]), "count": 2, "duration": 9.0, "width": 1.0, "ax": None},
    "blocksim.plotting.traces": {"voltage": np.zeros((2, 40)), "dt": 0.1, "spikes": TRAINS, "threshold": np.ones((2, 40)),
                                 "components": {"a": np.ones((2, 40))}, "current": np.ones(40), "unit": "mV", "axes": None},
    "blocksim.plotting.weights": {"weights": LAYER, "name": "recurrent", "ax": None},
    "blocksim.plotting.learning_curve": {"history": HISTORY, "best_epoch": 1, "axes": None, "figure": None},
    "blocksim.plotting.confusion": {"matrix": np.eye(2, dtype=int), "names": ["a", "b"], "ax": None, "figure": None},
    "blocksim.plotting.f_i_curve": {"curves": {"a": CURVE}, "axes": None, "figure": None},
    "blocksim.plotting.residuals": {"recording": Recording(np.zeros((1, 90)), np.full((1, 90), -65.0), 1000, [[9.0]]),
                                    "potential": np.full((1, 90), -66.0), "spikes": [[5.0]], "window": (2.0, 8.0),
                                    "axes": None, "figure": None},
    "blocksim.plotting.figure_of": {"drawn": raster([1.0], [0], 1, 9.0)},
    "blocksim.ephys.resample": {"trace": np.zeros((1, 40)), "dt": 0.1, "new_dt": 0.2, "end": "zero"},
}  # fmt: skip
# What is not called with random arguments, and why.
LEFT_OUT = {
    "result": "made by the package, not by people",
    "file": "files have fuzzers of their own, test_fuzz_files.py and others",
    "long": "test_fuzz_training.py and test_fitting.py: trainings and fits",
    "type": "an interface, or an error",
}
OTHERS = {
    "blocksim.Backend": "type", "blocksim.BackendEntry": "type", "blocksim.Surrogate": "type",
    "blocksim.surrogates.Surrogate": "type", "blocksim.Gradients": "result",
    "blocksim.LinearState": "result", "blocksim.LinearStateGradient": "result", "blocksim.NetworkGradients": "result",
    "blocksim.NetworkRun": "result", "blocksim.NetworkState": "result", "blocksim.NetworkStateGradient": "result",
    "blocksim.ReadoutGradients": "result", "blocksim.Run": "result", "blocksim.StateGradient": "result",
    "blocksim.losses.Loss": "result", "blocksim.losses.LogLikelihood": "result", "blocksim.metrics.TrainStatistics": "result",
    "blocksim.optimisers.OptimiserState": "result", "blocksim.optimisers.Optimiser": "type",
    "blocksim.optimisers.Clipped": "result", "blocksim.optimisers.is_named": "type", "blocksim.schedules.Schedule": "type",
    "blocksim.surrogates.kernel_scales": "type", "blocksim.surrogates.require_compiled": "type",
    "blocksim.transforms.Transform": "type", "blocksim.trains.steps_of": "type",
    "blocksim.trains.before": "type", "blocksim.trains.plausible_rows": "type", "blocksim.trains.given_times": "type",
    "blocksim.trains.exact_times": "type", "blocksim.trains.near_spikes": "type", "blocksim.trains.nearest_steps": "type",
    "blocksim.trains.steps_that_hold": "type", "blocksim.trains.checked_window": "type",
    "blocksim.classification.class_labels": "type", "blocksim.classification.class_scores": "type",
    "blocksim.data.Batch": "result", "blocksim.data.EventDataset": "file", "blocksim.data.download": "file",
    "blocksim.data.open_dataset": "file", "blocksim.data.write_events": "file", "blocksim.models.Model": "result",
    "blocksim.models.save_model": "file", "blocksim.models.load_model": "file", "blocksim.models.load_network": "file",
    "blocksim.training.BatchLoss": "result", "blocksim.training.Evaluation": "result",
    "blocksim.training.Trained": "result", "blocksim.training.Training": "long", "blocksim.training.fit": "long",
    "blocksim.ephys.FICurve": "result", "blocksim.ephys.StepResponses": "result", "blocksim.ephys.FittedCell": "result",
    "blocksim.ephys.TriggeredAverage": "result", "blocksim.ephys.load_cell": "file",
    "blocksim.ephys.GIFFit": "result", "blocksim.ephys.Imposed": "result", "blocksim.ephys.Kernel": "result", "blocksim.ephys.Rectangles": "result",
    "blocksim.ephys.fit_gif": "long", "blocksim.ephys.electrode_kernel": "long", "blocksim.ephys.evaluate": "long",
    "blocksim.ephys.Cell": "result", "blocksim.ephys.Fit": "result", "blocksim.ephys.FitData": "result",
    "blocksim.ephys.Prediction": "result", "blocksim.ephys.SpikeLoss": "type", "blocksim.ephys.fit": "long", "blocksim.ephys.fit_cells": "long",
    "blocksim.plotting.require_matplotlib": "type", "blocksim.plotting.save": "file", "blocksim.plotting.tidy": "type",
    "blocksim.ephys.open_parts": "file", "blocksim.ephys.open_recording": "file", "blocksim.ephys.write_nwb": "file",
    "blocksim.testing.check_backend": "long",
}  # fmt: skip


def odd_values():
    """What people and programs pass by mistake; new ones each time, for some are used up."""
    return [
        None, True, False, 0, -1, 1, 2.5, -0.5, 10**30, -(10**30), 1e308, 1e-320, float("nan"), float("inf"), "", "x", "7",
        b"x", 1 + 2j, [], [1], [1, 2, 3], [[1], [1, 2]], (0.5, "x"), {}, {"a": 1}, {1, 2}, lambda: 1, object(), Ellipsis,
        iter([1.0, 2.0]), range(3), datetime.date(2020, 1, 1), np.float32(0.1), np.int8(-3), np.bool_(True),
        np.datetime64("2020-01-01"), np.zeros(0), np.zeros((0, 3)), np.zeros((2, 2, 2, 2)), np.full((2, 3), np.nan),
        np.array(["a", "b"]), np.array([None, 1]), np.zeros(3, complex), np.array(5.0), np.zeros((3, 3), bool),
        np.ma.masked_equal([1.0, 2.0], 1.0), np.zeros(3, np.longdouble), np.zeros(2, [("a", int)]), np.full((2, 2), 1e300),
        np.array([2**63], np.uint64), np.ones((3, 4), np.float16), np.ones((2, 3), ">f8"), LAYER, X, TRAINS, int, Events,
        type("Sized", (), {"__len__": lambda self: 10**9})(), "a\nb", np.broadcast_to(1.0, (2000, 2000)),
    ]  # fmt: skip


def public():
    found = {}
    for module in MODULES:
        loaded = importlib.import_module(module)
        for name in getattr(loaded, "__all__", None) or vars(loaded):
            value = getattr(loaded, name)
            own = hasattr(loaded, "__all__") or getattr(value, "__module__", None) == module
            error = inspect.isclass(value) and issubclass(value, (BlocksimError, Warning))
            if callable(value) and own and not name.startswith("_") and not error:
                found[f"{module}.{name}"] = value
    return found


PUBLIC = public()


def test_every_public_function_is_listed():
    """Here, with arguments that it takes; or with the reason why it is not."""
    assert set(PUBLIC) == set(VALID) | set(OTHERS)
    assert set(OTHERS.values()) == set(LEFT_OUT)


@pytest.mark.parametrize("name", VALID)
def test_valid_arguments_are_taken(name):
    PUBLIC[name](**VALID[name])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, arguments in VALID.items() if arguments])
def test_an_odd_argument_is_taken_or_refused_in_one_line(name):
    """Each argument in turn, each odd value: some 8,000 calls in all."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    foreign = {}
    for argument in VALID[name]:
        for number, value in enumerate(odd_values()):
            began = time.perf_counter()
            try:
                PUBLIC[name](**{**VALID[name], argument: value})
            except BlocksimError as error:
                if "\n" in str(error) or not str(error):
                    foreign[argument, number] = f"several lines: {error}"
            except Exception as error:
                foreign[argument, number] = f"{type(error).__name__}: {error}"[:150]
            if time.perf_counter() - began > 10:
                foreign[argument, number] = f"{time.perf_counter() - began:.0f} s"
    assert not foreign, "\n".join(
        f"{argument}={odd_values()[number]!r:.60}: {what}" for (argument, number), what in foreign.items()
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
