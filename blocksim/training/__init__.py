"""Training of networks on labelled samples: `fit`, with every choice in a `Training`.

>>> from blocksim.training import Training
>>> Training(epochs=5, batch_size=32).loss
'cross_entropy'
"""

from blocksim.training._evaluation import Evaluation, Variations, evaluate
from blocksim.training._objective import BatchLoss
from blocksim.training._settings import RatePenalty, Training
from blocksim.training._trainer import Trained, fit

__all__ = ["BatchLoss", "Evaluation", "RatePenalty", "Trained", "Training", "Variations", "evaluate", "fit"]
