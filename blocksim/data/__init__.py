"""Event data sets: files of spikes, opened lazily, binned to a time step of your choice and served in batches.

>>> from blocksim.data import from_lists
>>> data = from_lists([[0.5, 2.0], [1.0]], [[0, 1], [2]], labels=[0, 1], channels=3)
>>> [batch.x.shape for batch in data.batches(batch_size=1)]
[(1, 3, 3), (1, 2, 3)]
"""

from blocksim.data._augmentation import Augmentation
from blocksim.data._dataset import Batch, EventDataset, from_lists
from blocksim.data._npz import write_events
from blocksim.data._open import open_dataset
from blocksim.data._splits import folds, split
from blocksim.data.public import download

__all__ = [
    "Augmentation",
    "Batch",
    "EventDataset",
    "download",
    "folds",
    "from_lists",
    "open_dataset",
    "split",
    "write_events",
]
