"""Electrophysiological recordings: files in the field's formats read into one type, spikes found, time steps changed.

>>> import numpy as np
>>> from blocksim.ephys import Recording
>>> recording = Recording(np.zeros(1000), np.full(1000, -70.0), sampling_rate=10_000)
>>> recording.at_dt(0.5).steps
200
"""

from blocksim.ephys.formats import open_parts, open_recording
from blocksim.ephys.recording import Recording
from blocksim.ephys.resampling import resample
from blocksim.ephys.spikes import Detection, detect_spikes, missed

__all__ = ["Detection", "Recording", "detect_spikes", "missed", "open_parts", "open_recording", "resample"]
