"""Electrophysiological recordings: files in the field's formats read into one type, spikes found, time steps changed.

>>> import numpy as np
>>> from blocksim.ephys import Recording
>>> recording = Recording(np.zeros(1000), np.full(1000, -70.0), sampling_rate=10_000)
>>> recording.at_dt(0.5).steps
200
"""

from blocksim.ephys._fitted import FittedCell, load_cell, population
from blocksim.ephys._fitting.config import FitConfig
from blocksim.ephys._fitting.data import FitData
from blocksim.ephys._fitting.fit import Fit, fit, fit_cells
from blocksim.ephys._fitting.losses import SpikeLoss, VanRossum
from blocksim.ephys._fitting.model import Cell, Prediction
from blocksim.ephys._gif.cell import GIFCell, Imposed
from blocksim.ephys._gif.config import GIFConfig
from blocksim.ephys._gif.estimate import Rectangles
from blocksim.ephys._gif.fit import fit_gif
from blocksim.ephys._gif.result import GIFFit, Kernel
from blocksim.ephys._nwb import write_nwb
from blocksim.ephys._protocols import (
    FICurve,
    StepResponses,
    TriggeredAverage,
    spike_triggered_average,
    step_responses,
)
from blocksim.ephys._recordings.detection import Detection, detect_spikes, missed
from blocksim.ephys._recordings.electrode import ElectrodeKernel, compensate, electrode_kernel
from blocksim.ephys._recordings.formats import open_parts, open_recording
from blocksim.ephys._recordings.recording import Recording
from blocksim.ephys._recordings.resampling import resample
from blocksim.ephys.evaluation import evaluate

__all__ = [
    "Cell", "Detection", "ElectrodeKernel", "FICurve", "Fit", "FitConfig", "FitData", "FittedCell", "GIFCell",
    "GIFConfig", "GIFFit", "Imposed", "Kernel", "Prediction", "Recording", "Rectangles", "SpikeLoss", "StepResponses",
    "TriggeredAverage", "VanRossum", "compensate", "detect_spikes", "electrode_kernel", "evaluate", "fit", "fit_cells",
    "fit_gif", "load_cell", "missed", "open_parts", "open_recording", "population",
    "resample", "spike_triggered_average", "step_responses", "write_nwb",
]  # fmt: skip
