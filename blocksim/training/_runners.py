"""Where a batch is differentiated: in this process, or on a Dask cluster; both by the same shares in the same order.

Owns the split of a batch into shares, the order in which their gradients are added, and what is sent where.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np

from blocksim.errors import BlocksimError, ExecutorError
from blocksim.executors import cluster_lost
from blocksim.training._objective import (
    Share,
    ShareResult,
    backward,
    batch_penalty,
    count_sums,
    forward,
    needs_batch_rates,
    scored,
)
from blocksim.training._samples import part_of

# batches to be scored that are with the cluster at a time: what bounds the memory that they take
AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class BatchResult:
    """What a step needs to know of a batch.

    Attributes
    ----------
    loss : float
        The mean over the batch, with penalties.
    correct : int
        Samples whose highest output is that of their label.
    spikes : tuple of float
        Spikes of each layer.
    seconds : float
        Duration of a sample in s.
    gradients : dict of arrays
        Of the trained parameters.
    """

    loss: float
    correct: int
    spikes: tuple[float, ...]
    seconds: float
    gradients: dict[str, np.ndarray]


def shares_of(whole: Share) -> list[Share]:
    """A batch in `training.shares` parts of about the same size, or fewer where it has too few samples."""
    samples = len(whole.labels)
    edges = [round(samples * part / whole.training.shares) for part in range(whole.training.shares + 1)]
    return [
        Share(
            whole.network, part_of(whole.x, start, stop), whole.labels[start:stop], whole.dt, samples, whole.training,
            whole.backend, whole.noise.from_sample(start),
        )
        for start, stop in pairwise(edges)
        if stop > start
    ]  # fmt: skip


class LocalRunner:
    """Shares one after the other, in this process."""

    def gradients(self, whole: Share) -> BatchResult:
        """Differentiate a batch."""
        shares = shares_of(whole)
        if not needs_batch_rates(whole.training):
            return added(whole, [backward(share, forward(share, whole.training.tape), None) for share in shares])
        runs = [forward(share, whole.training.tape) for share in shares]
        value, of_counts = batch_penalty(whole.training, [count_sums(run) for run in runs], whole.batch, whole.seconds)
        results = [backward(share, run, of_counts) for share, run in zip(shares, runs, strict=True)]
        return added(whole, results, value)

    def scores(self, batches: Iterable[Share]) -> Iterator[tuple[float, np.ndarray, tuple[float, ...]]]:
        """What `scored` says of each batch, in order."""
        return map(scored, batches)


class DaskRunner:
    """Shares as tasks of a Dask cluster, which gives those of a lost worker to another.

    Parameters
    ----------
    client : dask.distributed.Client

    Notes
    -----
    A share travels with the task: network, samples and labels. Where a penalty is on the mean rates of the whole batch,
    shares are simulated once to count their spikes, and again, with the batch's rates, to be differentiated.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def gradients(self, whole: Share) -> BatchResult:
        """Differentiate a batch."""
        shares = shares_of(whole)
        value, of_counts = 0.0, None
        if needs_batch_rates(whole.training):
            sums = self._all(_counted, shares)
            value, of_counts = batch_penalty(whole.training, sums, whole.batch, whole.seconds)
        return added(whole, self._all(_differentiated, [(share, of_counts) for share in shares]), value)

    def scores(self, batches: Iterable[Share]) -> Iterator[tuple[float, np.ndarray, tuple[float, ...]]]:
        """What `scored` says of each batch, in order."""
        batches = iter(batches)
        while some := list(islice(batches, AT_ONCE)):
            yield from self._all(scored, some)

    def _all(self, function: Any, tasks: list[Any]) -> list[Any]:
        # not pure: two equal tasks are two tasks, and no result is kept for a later one
        futures: list[Any] = []
        try:
            futures += [self.client.submit(function, task, pure=False) for task in tasks]
            results: list[Any] = self.client.gather(futures)
        except BlocksimError:
            raise
        except Exception as error:
            if isinstance(error, CancelledError) or type(error).__name__ == "KilledWorker" or self._is_lost():
                raise ExecutorError(cluster_lost(error)) from error
            raise
        finally:
            if not self._is_lost():
                self.client.cancel(futures)
        return results

    def _is_lost(self) -> bool:
        return bool(self.client.status != "running")


def added(whole: Share, results: list[ShareResult], penalty: float = 0.0) -> BatchResult:
    """A batch's results from its shares', added in their order."""
    gradients = dict(results[0].gradients)
    for result in results[1:]:
        gradients = {name: gradient + result.gradients[name] for name, gradient in gradients.items()}
    return BatchResult(
        loss=penalty + sum(result.loss for result in results),
        correct=sum(result.correct for result in results),
        spikes=tuple(sum(layer) for layer in zip(*(result.spikes for result in results), strict=True)),
        seconds=whole.seconds,
        gradients=gradients,
    )


def _counted(share: Share) -> list[np.ndarray]:
    return count_sums(forward(share, tape=False))


def _differentiated(task: tuple[Share, Any]) -> ShareResult:
    share, of_counts = task
    return backward(share, forward(share, share.training.tape), of_counts)
