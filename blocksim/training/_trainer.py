"""`fit`: a network trained on labelled samples, epoch by epoch, to be stopped and resumed at any batch.

Owns the loop and its order: batch, gradients, clipping, step; after an epoch validation, record, checkpoint, callbacks.
The state changes once a batch, as a whole, and every random number follows from the seed and the place in the loop: a
resumed training is the same bit for bit as one that was never stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from blocksim import _notebook, plotting
from blocksim._array_io import check_folder, write_csv
from blocksim._atomic_io import locked
from blocksim._escape import Noise
from blocksim._network import Network
from blocksim._options import DEFAULT_SURROGATE
from blocksim._validation import flag, found
from blocksim.backend import Backend, get_backend
from blocksim.data import EventDataset
from blocksim.data._randomness import HELD_OUT_NOISE, NOISE, SHUFFLE, Streams
from blocksim.errors import ArgumentError, BlocksimWarning, DivergenceError, ExecutorError, FileError
from blocksim.executors import dask_client
from blocksim.models import load_model, save_model
from blocksim.optimisers import Arrays, clip_by_norm
from blocksim.training._objective import Share, check_finite, check_fits, quiet, trained_names
from blocksim.training._progress import Progress
from blocksim.training._runners import BatchResult, DaskRunner, LocalRunner
from blocksim.training._samples import as_samples, binning_of, check_samples, check_varied, held_out, other_binning
from blocksim.training._settings import Training, described
from blocksim.training._state import Best, Totals, TrainingState, columns_of, load_state, record_of, save_state

# a checkpoint within an epoch, where an epoch takes longer than this
CHECKPOINT_SECONDS = 120.0
NO_LIMIT = float(np.finfo(np.float64).max)

Callback = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, eq=False)
class Trained:
    """What `fit` returns.

    Attributes
    ----------
    network : Network
        Of the best epoch on the held-out samples; the last where none are held out.
    last : Network
        After the last epoch.
    history : dict of arrays
        A column each: epoch, loss, accuracy, validation_loss, validation_accuracy (NaN without held-out samples),
        rate_0, ... (Hz, of each layer), learning_rate, gradient_norm (means over the epoch, before clipping),
        samples_per_s, seconds.
    best_epoch : int
        Counted from 1, as in the history.
    stopped : {"epochs", "patience", "callback"}
        Why it ended.
    """

    network: Network
    last: Network
    history: dict[str, np.ndarray] = field(repr=False)
    best_epoch: int
    stopped: str

    def _repr_html_(self) -> str:
        """In a notebook: how it ended, and the learning curve."""
        words = f"{len(self.history['epoch'])} epochs, the best is {self.best_epoch}; ended by {self.stopped}"
        return _notebook.shown(words, lambda: plotting.learning_curve(self.history, self.best_epoch))

    def table(self) -> dict[str, np.ndarray]:
        """The history, a row each epoch: `pandas.DataFrame` takes its columns, and a CSV file.

        Returns
        -------
        dict of (epochs,) arrays
            The columns of `history`, in a dict of its own.
        """
        return dict(self.history)


def fit(
    network: Network,
    data: Any,
    training: Training | None = None,
    *,
    validation: Any = None,
    backend: str | Backend = "numba",
    folder: str | Path | None = None,
    resume: bool = False,
    info: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    dask: Any = None,
) -> Trained:
    """Train a network.

    Parameters
    ----------
    network : Network
        Where training begins.
    data : EventDataset, or (x, labels) or (x, labels, dt)
        Training samples: of `blocksim.data`, or any input that `simulate` takes with a first axis of samples, (n,)
        class numbers, and the step in ms (if it is left out, the network's, or 1).
    training : Training or None
        Every choice; None for the defaults.
    validation : as data, or None
        Samples that choose the best epoch, in place of a part of `data`. Never the test set.
    backend : str or Backend
        What computes.
    folder : str, Path or None
        Where to write: `last.npz`, the checkpoint, after each epoch, every two minutes within one, and when stopped by
        Ctrl-C; `best.npz`, the model of the best epoch; `history.csv`. Both models open with
        `blocksim.models.load_model`. The folder is made if its parent is there.
    resume : bool
        Go on from the folder's `last.npz`, if it is there; the result is that of a training that was never stopped.
        `epochs` and `patience` may have changed, everything else must be as it was.
    info : dict or None
        To be kept with the models: anything JSON can say.
    callbacks : sequence of functions
        Called after each epoch with its record, a dict as a row of the history; one that returns True stops the
        training.
    progress : bool
        Show a bar on a terminal, and one line an epoch, on stderr.
    dask : str, dask.distributed.Client or None
        Address of a Dask scheduler, or a client: the `shares` of each batch are differentiated there.

    Returns
    -------
    Trained

    Raises
    ------
    ArgumentError
        Network, data and training do not fit together, in their time steps for instance; or a checkpoint is that of
        another training, or of samples that were binned in another way.
    FileError
        The folder cannot be written to, or holds a training already and `resume` is False, or another training is
        writing to it; a checkpoint is damaged.
    DeviceError, MissingLibraryError
        As `simulate` raises them.
    ExecutorError
        The Dask cluster is lost.

    Warns
    -----
    BlocksimWarning
        Once, where a layer fires on no sample of a whole epoch.
    DivergenceError
        An output, the loss, a gradient or a parameter after a step is not finite, or a parameter left the range in
        which it has a meaning. The message says in which epoch and batch, and at which learning rate; the folder keeps
        the last checkpoint and the best model.
    KeyboardInterrupt
        By Ctrl-C, after the batch at hand, with the state written to the folder. A second Ctrl-C does not wait.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import LIF, Layer, LeakyReadout, Network
    >>> from blocksim.optimisers import AdamW
    >>> from blocksim.training import Training, fit
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(40) % 2
    >>> x = rng.random((40, 50, 10)) < np.where(np.arange(10) // 5 == labels[:, None], 0.3, 0.05)[:, None]
    >>> layer = Layer(LIF(beta=0.9, refractory_steps=4), rng.normal(0.1, 0.2, (10, 16)))
    >>> network = Network([layer], LeakyReadout(rng.normal(0, 0.1, (16, 2)), decode="mean"))
    >>> training = Training(epochs=12, optimiser=AdamW(0.02), validation=0)
    >>> trained = fit(network, (x, labels), training, backend="numpy", progress=False)
    >>> bool(trained.history["accuracy"][-1] > 0.9)
    True
    """
    training = Training() if training is None else training
    if not isinstance(network, Network):
        raise ArgumentError(f"network: expected a blocksim.Network; found {found(network)}")
    if not isinstance(training, Training):
        raise ArgumentError(f"training: expected a blocksim.training.Training; found {found(training)}")
    samples = as_samples("data", data, network)
    if validation is None:
        samples, held = held_out(samples, training.validation, training.validation_by, training.seed)
    else:
        held = as_samples("validation", validation, network)
    check_fits(network, training)
    check_samples("data", network, samples)
    check_varied(samples, training.augmentation)
    if held is not None:
        _check_alike(samples, held)
        check_samples("validation", network, held)
    if dask is not None and not isinstance(backend, str):
        raise ArgumentError("backend: expected a name, which Dask's workers know too; found an object")
    get_backend(backend)
    for name, value in (("resume", resume), ("progress", progress)):
        flag(name, value)
    _check_info(info)
    if not isinstance(callbacks, Sequence) or not all(callable(each) for each in callbacks):
        raise ArgumentError(f"callbacks: expected a sequence of functions of a record; found {found(callbacks)}")
    where = _folder(folder)
    loop = _Loop(network, samples, held, training, backend, where, info, bool(progress))
    with contextlib.ExitStack() as stack:
        if dask is not None:
            loop.runner = DaskRunner(stack.enter_context(dask_client(dask)))
        if where is not None and where.is_dir():
            stack.enter_context(_alone(where))
        made = loop.begin(resume)
        if where is not None:
            if made:
                stack.enter_context(_alone(where))
            check_folder(where)  # which clears away what processes that were killed have left
        return loop.run(callbacks)


class _Loop:
    """One training; `state` is replaced as a whole, once a batch."""

    def __init__(
        self, network: Network, samples: Any, held: Any, training: Training, backend: str | Backend,
        folder: Path | None, info: Mapping[str, Any] | None, progress: bool,
    ) -> None:  # fmt: skip
        self.network, self.samples, self.held = replace(network, dt=samples.dt), samples, held
        self.training, self.backend, self.folder = training, backend, folder
        binning: Any = {}
        if isinstance(samples, EventDataset):  # as `blocksim evaluate` opens samples by it
            binning = {"data": {**samples.binning, "duration": samples.steps and samples.steps * samples.dt}}
        self.info, self.progress = {**binning, **(info or {})}, progress
        self.runner: LocalRunner | DaskRunner = LocalRunner()
        self.silence_told = False
        self._made: tuple[Arrays, Network] | None = None  # the network of the state at hand
        self.batches = -(-len(samples) // training.batch_size)
        self.optimiser = training.scheduled(training.epochs * self.batches)
        self.names = trained_names(network, training)
        self.transforms = training.transforms_of(network)
        self.description = {
            "training": described(training),
            "network": network.summary(),
            "untrained parameters": _mark(
                value for name, value in network.parameters().items() if name not in self.names
            ),
            "samples": [len(samples), 0 if held is None else len(held)],
            "labels": _mark([samples.labels, *([] if held is None else [held.labels])]),
            "binning": binning_of(samples),
        }

    def begin(self, resume: bool) -> bool:
        """Set the state: that of the checkpoint, or the first. Whether the folder had to be made."""
        parameters = self.network.parameters()
        free: Arrays = {}
        for name in self.names:
            transform = self.transforms[name]
            try:
                free[name] = parameters[name] if transform is None else np.asarray(transform.to_free(parameters[name]))
            except ArgumentError as error:
                raise ArgumentError(
                    f"{name}: expected values within the bounds of its transform; {str(error).partition('; ')[2]} "
                    "(see Training.transforms)"
                ) from error
        self.state = TrainingState(0, 0, free, self.optimiser.start(free), Totals(), None, ())
        if self.folder is None:
            if resume:
                raise ArgumentError("resume: expected a folder to resume from; found None")
            return False
        check_folder(self.folder if self.folder.exists() else self.folder.parent)
        last = self.folder / "last.npz"
        if last.exists():
            if not resume:
                raise FileError(
                    f"{self.folder}: expected a folder without a training; found last.npz (resume it, or choose "
                    "another folder)"
                )
            state, description, _ = load_state(last)
            self._check_same(last, description)
            state.check_follows(last, self.state, self.batches)
            self.state = state
            if state.best is not None:
                self._restore_best(state.best)
        made = not self.folder.exists()
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(
                f"{self.folder}: expected a folder that can be made; found: {error.strerror or error}"
            ) from error
        return made

    def _restore_best(self, best: Best) -> None:
        """The model of the best epoch is in the checkpoint too: it is written again if its file is lost or damaged."""
        assert self.folder is not None
        try:
            load_model(self.folder / "best.npz")
        except FileError:
            self._write_best(best)

    def _write_best(self, best: Best) -> None:
        assert self.folder is not None
        save_model(self.folder / "best.npz", self._network(best.free), {**self.info, "epoch": best.epoch})

    def _check_same(self, path: Path, before: dict[str, Any]) -> None:
        now = described(self.description)  # as JSON gives it back
        # checkpoints of older versions do not say
        differ = other_binning(before.get("binning", now["binning"]), now.pop("binning"))
        free_to_change = ("epochs", "patience")
        old, new = dict(before.get("training", {})), dict(now["training"])
        if not any(layer.neuron.is_stochastic for layer in self.network.layers):
            for settings in (old, new):  # of spikes at a threshold, None is the default; older checkpoints name it
                settings["surrogate"] = settings.get("surrogate") or DEFAULT_SURROGATE
        changed = [name for name in new if old.get(name) != new[name] and name not in free_to_change]
        if old.get("epochs") != new["epochs"] and self.optimiser is not self.training.optimiser:
            changed.append("epochs (the learning rate's schedule depends on it)")
        changed += [name for name in now if name != "training" and before.get(name) != now[name]]
        changed += [f"{name} of the samples ({new}, in place of {old})" for name, old, new in differ]
        if changed:
            raise ArgumentError(
                f"resume: expected the training that {path} is a checkpoint of; found another {', '.join(changed)}"
            )

    def run(self, callbacks: Sequence[Callback]) -> Trained:
        """All epochs that are left."""
        training = self.training
        stopped = "epochs"
        with Progress(training.epochs, self.batches, self.progress) as shown, _interrupts() as interrupted:
            try:
                while self.state.epoch < training.epochs and not self._patience_is_over():
                    self._epoch(shown, interrupted)
                    record = self.state.history[-1]
                    shown.epoch(record)
                    # all are called, whatever the first of them says
                    asked = [callback(dict(record)) is True for callback in callbacks]
                    if any(asked):
                        stopped = "callback"
                        break
                    if interrupted.is_set():
                        raise KeyboardInterrupt
            except (KeyboardInterrupt, ExecutorError) as error:
                self._write()
                if self.folder is None or isinstance(error, KeyboardInterrupt):
                    raise
                raise ExecutorError(f"{error}; {self.folder} holds the state: resume goes on") from error
        if stopped == "epochs" and self.state.epoch < training.epochs:
            stopped = "patience"
        last = self._network(self.state.free)
        best = self.state.best
        return Trained(
            network=last if best is None else self._network(best.free),
            last=last,
            history=columns_of(self.state.history),
            best_epoch=self.state.epoch if best is None else best.epoch,
            stopped=stopped,
        )

    @quiet
    def _epoch(self, shown: Progress, interrupted: threading.Event) -> None:
        """The batches that are left of an epoch, and what follows them."""
        training, samples = self.training, self.samples
        epoch = self.state.epoch
        order = Streams(SHUFFLE, training.seed, epoch).generator().permutation(len(samples))
        written_at = time.perf_counter()
        while self.state.batch < self.batches:
            began = time.perf_counter()
            first = self.state.batch * training.batch_size
            batch = samples.batch(
                order[first : first + training.batch_size],
                augmentation=training.augmentation, seed=training.seed, epoch=epoch,
            )  # fmt: skip
            with self._divergence_told():
                network = self._network(self.state.free)
                noise = Noise(Streams(NOISE, training.seed, epoch).seed, first=first)
                whole = Share(
                    network, batch.x, batch.labels, samples.dt, len(batch.labels), training, self.backend, noise
                )
                self._step(self.runner.gradients(whole), len(batch.labels), began)
            shown.batch(epoch + 1, self.state.batch, record_of(self.state, self._sizes(), 0.0, (math.nan, math.nan)))
            if interrupted.is_set() and self.state.batch < self.batches:
                raise KeyboardInterrupt
            if time.perf_counter() - written_at > CHECKPOINT_SECONDS and self.state.batch < self.batches:
                self._write()
                written_at = time.perf_counter()
        self._finish_epoch()

    def _step(self, result: BatchResult, samples: int, began: float) -> None:
        """One step of the optimiser, and the state after it; none where something is not finite."""
        state, training = self.state, self.training
        check_finite("loss", result.loss)
        gradients: Arrays = {}
        for name in self.names:
            transform = self.transforms[name]
            gradient = np.asarray(result.gradients[name])
            if transform is not None:
                gradient = np.asarray(transform.pullback(state.free[name], gradient))
            check_finite(f"gradient of {name}", gradient)
            gradients[name] = gradient
        clipped = clip_by_norm(gradients, NO_LIMIT if training.clip_norm is None else training.clip_norm)
        free, optimiser = self.optimiser.step(state.free, clipped.gradients, state.optimiser)
        for name, array in free.items():
            check_finite(name, array)
        for moment, arrays in optimiser.moments.items():
            for name, array in arrays.items():
                check_finite(f"{moment} moment of {name}", array)
        self._network(free)  # raises where a parameter is out of its range
        before = state.totals
        spikes = before.spikes or (0.0,) * len(result.spikes)
        totals = Totals(
            samples=before.samples + samples,
            loss=before.loss + result.loss * samples,
            correct=before.correct + result.correct,
            spikes=tuple(one + other for one, other in zip(spikes, result.spikes, strict=True)),
            simulated=before.simulated + samples * result.seconds,
            norm=before.norm + float(clipped.norm),
            batches=before.batches + 1,
            seconds=before.seconds + time.perf_counter() - began,
        )
        check_finite("sum of losses", totals.loss)
        check_finite("sum of gradients' norms", totals.norm)
        self.state = replace(state, batch=state.batch + 1, free=free, optimiser=optimiser, totals=totals)

    def _finish_epoch(self) -> None:
        state = self.state
        scores = (math.nan, math.nan)
        if self.held is not None:
            with self._divergence_told():
                scores = self._validate()
                check_finite("validation loss", scores[0])
        self._warn_of_silence()
        rate = self.optimiser.rate(max(state.optimiser.step - 1, 0))
        record = record_of(state, self._sizes(), rate, scores)
        best = state.best
        if self.held is not None:
            loss, accuracy = scores
            score = (accuracy, -loss) if self.training.monitor == "accuracy" else (-loss,)
            if best is None or score > best.score:
                best = Best(state.epoch + 1, score, state.free)
        better = best is not state.best
        # the state moves on after the best model is written: a kill in between repeats this, with the same result
        if better and best is not None and self.folder is not None:
            self._write_best(best)
        self.state = TrainingState(
            state.epoch + 1, 0, state.free, state.optimiser, Totals(), best, (*state.history, record)
        )
        self._write()

    def _warn_of_silence(self) -> None:
        """Say once that a layer did not fire in a whole epoch: from it on, nothing is seen and nothing learned."""
        totals = self.state.totals
        silent = [str(layer) for layer, spikes in enumerate(totals.spikes) if spikes == 0]
        if silent and not self.silence_told:
            self.silence_told = True
            warnings.warn(
                f"epoch {self.state.epoch + 1}: expected spikes of every layer; found none of layer "
                f"{', '.join(silent)} in {totals.samples} samples (do dt = {self.samples.dt:g} ms and the unit of the "
                "events' times fit, are weights too small? blocksim.initialisers.calibrate scales them)",
                BlocksimWarning,
                stacklevel=2,
            )

    @contextlib.contextmanager
    def _divergence_told(self) -> Iterator[None]:
        """Say of a divergence where it was met, and what to do."""
        try:
            yield
        except DivergenceError as error:
            last, where = None if self.folder is None else self.folder / "last.npz", ""
            if last is not None:
                where = f"; the last checkpoint is {last}" if last.exists() else f"; no checkpoint yet in {last}"
            state = self.state
            raise DivergenceError(
                f"epoch {state.epoch + 1}, batch {min(state.batch + 1, self.batches)}, learning rate "
                f"{self.optimiser.rate(state.optimiser.step):.3g}: {error} (lower the learning rate, or `clip_norm`"
                f"{where})"
            ) from error

    def _validate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the held-out samples."""
        network, size = self._network(self.state.free), self.training.batch_size
        loss, correct = 0.0, 0
        starts = range(0, len(self.held), size)

        def shares() -> Iterator[Share]:
            for start in starts:
                batch = self.held.batch(np.arange(start, min(start + size, len(self.held))))
                noise = Noise(Streams(HELD_OUT_NOISE, self.training.seed).seed, first=start)
                yield Share(
                    network, batch.x, batch.labels, self.held.dt, len(batch.labels), self.training, self.backend, noise
                )

        for start, (value, predicted, _) in zip(starts, self.runner.scores(shares()), strict=True):
            loss += value
            correct += int((predicted == self.held.labels[start : start + size]).sum())
        return loss / len(self.held), correct / len(self.held)

    def _network(self, free: Arrays) -> Network:
        """The network of these free numbers: `DivergenceError` where one of its parameters has no meaning."""
        if self._made is not None and self._made[0] is free:
            return self._made[1]
        values = {}
        for name, array in free.items():
            transform = self.transforms[name]
            values[name] = array if transform is None else transform.from_free(array)
        try:
            network = self.network.with_parameters(values)
        except ArgumentError as error:
            raise DivergenceError(str(error)) from error
        self._made = free, network
        return network

    def _sizes(self) -> tuple[int, ...]:
        return tuple(layer.size or 0 for layer in self.network.layers)

    def _patience_is_over(self) -> bool:
        best, patience = self.state.best, self.training.patience
        return best is not None and patience is not None and self.state.epoch - best.epoch >= patience

    def _write(self) -> None:
        """Checkpoint and history, each whole or not at all."""
        if self.folder is None:
            return
        state = self.state
        save_state(self.folder / "last.npz", self._network(state.free), state, self.info, self.description)
        if state.history:
            write_csv(self.folder / "history.csv", state.history, state.history[0])


def _folder(folder: Any) -> Path | None:
    """Where results go, as a path."""
    if folder is None:
        return None
    if not isinstance(folder, (str, Path)) or not str(folder) or "\0" in str(folder):
        raise ArgumentError(f"folder: expected the path of a folder, or None; found {found(folder)}")
    try:
        Path(folder).exists()
    except OSError as error:  # a name too long, say
        raise FileError(f"{folder}: expected the path of a folder; found: {error.strerror or error}") from error
    return Path(folder)


def _check_info(info: Any) -> None:
    """Before training, and not when the first model is written."""
    try:
        json.dumps(dict(info or {}) if info is None or isinstance(info, Mapping) else object(), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(
            f"info: expected a dictionary of what JSON can say, numbers finite; found {found(info)} "
            f"({' '.join(str(error).split())})"
        ) from error


def _mark(arrays: Iterable[np.ndarray]) -> int:
    """A checksum of arrays."""
    mark = 0
    for array in arrays:
        mark = zlib.crc32(np.ascontiguousarray(array).tobytes(), mark)
    return mark


def _check_alike(samples: Any, held: Any) -> None:
    if (held.channels, held.dt) != (samples.channels, samples.dt):
        raise ArgumentError(
            f"validation: expected {samples.channels} channels at dt = {samples.dt:g} ms, as in data; found "
            f"{held.channels} at {held.dt:g} ms"
        )


def _alone(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a folder against other trainings, which would write over this one's files."""
    return locked(folder / ".blocksim.lock", "a folder that no other training is writing to")


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets; a second one is raised at once. Elsewhere than in the main thread, never set."""
    event = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    # a worker of a pool ignores Ctrl-C: its parent sees to it
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield event
        return

    def handle(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
