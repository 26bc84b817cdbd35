"""blocksim: exact simulation, gradients and fitting of integrate-and-fire neurons in blocks of time, from NumPy arrays.

>>> import numpy as np
>>> import blocksim
>>> neuron = blocksim.ALIF.from_ms(tau_mem=20, tau_adapt=200, adaptation=0.2, refractory=4, dt=0.1)
>>> run = blocksim.simulate(blocksim.Layer(neuron), np.full((1000, 1), 0.02), backend="numpy")
>>> int(run.spikes.sum())
7
"""

from pathlib import Path as _Path

from blocksim._connections import Alpha, Connection, Exponential
from blocksim._escape import Escape
from blocksim._events import Events
from blocksim._layer import Layer
from blocksim._linear_neurons import Component, LinearIF, Rectified, Softplus
from blocksim._network import CountReadout, LeakyReadout, Network
from blocksim._network_run import NetworkGradients, NetworkRun, NetworkState, NetworkStateGradient
from blocksim._neurons import ALIF, LIF
from blocksim._poisson import poisson_input
from blocksim._presets import GIF, GLIF, MAT, AdLIF, CubaLIF
from blocksim._readout import ReadoutGradients
from blocksim._run import Gradients, Run
from blocksim._simulation import simulate
from blocksim._state import LinearState, LinearStateGradient, State, StateGradient
from blocksim.backend import Backend, BackendEntry, available_backends, get_backend
from blocksim.errors import (
    ArgumentError,
    BlocksimError,
    BlocksimWarning,
    DeviceError,
    DivergenceError,
    ExecutorError,
    FileError,
    MissingLibraryError,
)
from blocksim.surrogates import Surrogate

__version__ = "0.1.0"

# Python started in a checkout finds the package there, whatever is installed; and there the backends lie beside it
_here = _Path(__file__).resolve().parent
if not (_here / "backends").is_dir() and (_here.parent / "backends").is_dir():
    __path__.append(str(_here.parent))

__all__ = [
    "ALIF",
    "GIF",
    "GLIF",
    "LIF",
    "MAT",
    "AdLIF",
    "Alpha",
    "ArgumentError",
    "Backend",
    "BackendEntry",
    "BlocksimError",
    "BlocksimWarning",
    "Component",
    "Connection",
    "CountReadout",
    "CubaLIF",
    "DeviceError",
    "DivergenceError",
    "Escape",
    "Events",
    "ExecutorError",
    "Exponential",
    "FileError",
    "Gradients",
    "Layer",
    "LeakyReadout",
    "LinearIF",
    "LinearState",
    "LinearStateGradient",
    "MissingLibraryError",
    "Network",
    "NetworkGradients",
    "NetworkRun",
    "NetworkState",
    "NetworkStateGradient",
    "ReadoutGradients",
    "Rectified",
    "Run",
    "Softplus",
    "State",
    "StateGradient",
    "Surrogate",
    "available_backends",
    "get_backend",
    "poisson_input",
    "simulate",
]
