"""Spike events as a compressed sparse row structure: what event-driven kernels read.

Owns the `Events` type and its constructors. A row is one time step of one sample; it lists the inputs that spike then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np

from blocksim._units import in_unit
from blocksim._validation import found, frozen, items, milliseconds, real_array, whole_number
from blocksim.errors import ArgumentError
from blocksim.trains import FREE_SPIKES, MAX_ROWS, SPIKES_A_STEP, given_times, plausible_rows, steps_of


@dataclass(frozen=True, eq=False)
class Events:
    """Spikes of a batch of samples, stored as the indices of the inputs that spike.

    Parameters
    ----------
    indptr : (batch * time + 1,) int64 array
        Row r = sample * time + step holds the events indices[indptr[r]:indptr[r + 1]].
    indices : (events,) int32 array
        Inputs, ascending within a row. An input named twice in a row spikes twice in that step.
    shape : (batch, time, K)
        Shape of the dense array the events stand for.

    Raises
    ------
    ArgumentError
        The three do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from blocksim import Events
    >>> events = Events.from_dense(np.array([[0, 1, 1], [0, 0, 0]]))
    >>> events.indices, events.shape
    (array([1, 2], dtype=int32), (1, 2, 3))
    """

    indptr: np.ndarray
    indices: np.ndarray
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        try:
            batch, time, inputs = self.shape
        except (TypeError, ValueError):
            raise ArgumentError(f"shape: expected (batch, time, K); found {found(self.shape)}") from None
        shape = (
            whole_number("shape: batch", batch, 1),
            whole_number("shape: time", time, 1),
            whole_number("shape: K", inputs, 1),
        )
        if shape[2] > np.iinfo(np.int32).max:
            raise ArgumentError(f"shape: expected at most 2**31 - 1 inputs; found {shape[2]}")
        indptr, indices = real_array("indptr", self.indptr), real_array("indices", self.indices)
        for name, array in (("indptr", indptr), ("indices", indices)):
            if array.dtype.kind not in "iu" or array.ndim != 1:
                raise ArgumentError(f"{name}: expected a one-dimensional integer array; found {found(array)}")
        rows = shape[0] * shape[1]
        if len(indptr) != rows + 1:
            raise ArgumentError(f"indptr: expected batch * time + 1 = {rows + 1} entries; found {len(indptr)}")
        if indptr[0] != 0 or indptr[-1] != len(indices) or (indptr[1:] < indptr[:-1]).any():
            raise ArgumentError(
                f"indptr: expected an ascending array from 0 to the number of events, {len(indices)}; found one "
                f"from {indptr[0]} to {indptr[-1]}" + (", not ascending" if (indptr[1:] < indptr[:-1]).any() else "")
            )
        if len(indices) and not 0 <= indices.min() <= indices.max() < shape[2]:
            worst = indices.min() if indices.min() < 0 else indices.max()
            raise ArgumentError(f"indices: expected inputs from 0 to {shape[2] - 1}; found {worst}")
        indptr = indptr.astype(np.int64, copy=False)
        indices = indices.astype(np.int32, copy=False)
        descents = indices[1:] < indices[:-1]
        if descents.any():
            descents[indptr[1:-1][(indptr[1:-1] > 0) & (indptr[1:-1] < len(indices))] - 1] = False
            if descents.any():
                row_of = np.repeat(np.arange(rows), np.diff(indptr))
                indices = indices[np.lexsort((indices, row_of))]
        for name, value in (("indptr", indptr), ("indices", indices), ("shape", shape)):
            object.__setattr__(self, name, frozen(value.view()) if isinstance(value, np.ndarray) else value)

    def __repr__(self) -> str:
        return f"Events({len(self.indices)} events, shape={self.shape}, density={self.density:.3g})"

    @property
    def density(self) -> float:
        """Events per input and step."""
        return len(self.indices) / float(np.prod(self.shape, dtype=np.float64))

    @classmethod
    def from_dense(cls, x: np.ndarray) -> Self:
        """Make events from an array of spike counts.

        Parameters
        ----------
        x : (time, K) or (batch, time, K) array of bool, or of whole numbers >= 0 in any integer or float dtype
            Number of spikes of each input in each step.

        Raises
        ------
        ArgumentError
            Another rank, empty, or values that are no spike counts: more than 8 an input and step, and 2**24 in all.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim import Events
        >>> Events.from_dense(np.eye(3, dtype=bool)[None])
        Events(3 events, shape=(1, 3, 3), density=0.333)
        """
        x = real_array("x", x)
        if x.ndim == 2:
            x = x[None]
        if x.ndim != 3 or 0 in x.shape:
            raise ArgumentError(f"x: expected a non-empty array of shape (batch, time, K); found {found(x)}")
        batch, time, inputs = x.shape
        flat = x.reshape(batch * time, inputs)
        rows, columns = np.nonzero(flat)
        if x.dtype != np.bool_:
            counts = flat[rows, columns]
            right = is_count(counts)
            if not right.all():
                bad = counts[~right][0]
                raise ArgumentError(f"x: expected spike counts, whole numbers of 0 or more; found {bad}")
            if (counts > 1).any():
                repeats = _repeats(counts, x.size)
                rows, columns = np.repeat(rows, repeats), np.repeat(columns, repeats)
        return cls(_row_starts(rows, batch * time), columns.astype(np.int32), (batch, time, inputs))

    @classmethod
    def from_lists(
        cls,
        times: Sequence[Any],
        units: Sequence[Any],
        *,
        channels: int,
        dt: float = 1.0,
        steps: int | None = None,
    ) -> Self:
        """Make events from spike times and the inputs they arrive on, one pair of arrays a sample.

        Parameters
        ----------
        times : sequence of (events,) arrays
            Spike times of each sample in ms, in any order. A time t falls into step floor(t / dt); a time within
            1e-6 steps below an edge counts as on it, so that 0.3 ms at dt = 0.1 ms is step 3.
        units : sequence of (events,) integer arrays
            Input of each spike, 0 .. channels - 1.
        channels : int
            Number of inputs K.
        dt : float
            Length of a step in ms.
        steps : int or None
            Number of steps; None: as many as the latest spike of the batch needs.

        Raises
        ------
        ArgumentError
            Lists of different lengths, other than numbers in them, a spike before 0 or after the last step (at the
            very end among them), an input out of range; without `steps`, a spike so late that the steps before it would
            take all memory: over 2**24 steps in all, and 1000 an event.

        Examples
        --------
        >>> from blocksim import Events
        >>> Events.from_lists([[0.3, 1.2], [0.0]], [[0, 1], [1]], channels=2, dt=0.5)
        Events(3 events, shape=(2, 3, 2), density=0.25)
        """
        channels = whole_number("channels", channels, 1)
        dt = milliseconds("dt", dt)
        if channels > np.iinfo(np.int32).max:
            raise ArgumentError(f"channels: expected at most 2**31 - 1 inputs; found {channels}")
        pairs = given_pairs(times, units)
        if not pairs:
            raise ArgumentError("times, units: expected one array of each for every sample; found none")
        bins, inputs = [], []
        for sample, (when, which) in enumerate(pairs):
            if not np.isfinite(when).all():
                raise ArgumentError(f"times: expected finite times in ms for sample {sample}; found NaN or infinity")
            if which.size and not 0 <= which.min() <= which.max() < channels:
                worst = which.min() if which.min() < 0 else which.max()
                raise ArgumentError(f"units: expected inputs 0 to {channels - 1} for sample {sample}; found {worst}")
            bins.append(steps_of(when, dt))
            inputs.append(which.astype(np.int32))
        last = max((int(b.max()) for b in bins if b.size), default=0)
        total = last + 1 if steps is None else whole_number("steps", steps, 1)
        number, events = len(bins) * total, sum(len(b) for b in bins)
        if steps is None and not plausible_rows(number, events):
            latest = int(np.argmax([b.max(initial=0) for b in bins]))
            raise ArgumentError(
                f"times: expected times in ms, {events} events in a plausible number of steps of {dt:g} ms; found one "
                f"at {last * dt:g} ms in sample {latest}, step {last} (is the unit right? steps= fixes the duration)"
            )
        if number > MAX_ROWS:
            raise ArgumentError(f"steps: expected at most 2**31 steps of all samples together; found {number}")
        for sample, when in enumerate(bins):
            if when.size and not 0 <= when.min() <= when.max() < total:
                worst = when.min() if when.min() < 0 else when.max()
                raise ArgumentError(
                    f"times: expected times from 0 to below {total * dt:g} ms ({total} steps) for sample {sample}; "
                    f"found one in step {worst}"
                )
        rows = np.concatenate([sample * total + when for sample, when in enumerate(bins)])
        columns = np.concatenate(inputs)
        order = np.lexsort((columns, rows))
        return cls(_row_starts(rows[order], len(times) * total), columns[order], (len(times), total, channels))

    @classmethod
    def from_csr(cls, matrix: Any, batch: int) -> Self:
        """Make events from a SciPy CSR array of shape (batch * time, K) that holds spike counts.

        Parameters
        ----------
        matrix : SciPy CSR array (batch * time, K)
            Spike counts; row = sample * time + step.
        batch : int
            Number of samples.

        Raises
        ------
        ArgumentError
            It is no CSR array, `batch` is no divisor of the rows, or values are no spike counts.

        Examples
        --------
        >>> from scipy.sparse import csr_array
        >>> from blocksim import Events
        >>> Events.from_csr(csr_array([[0, 1], [1, 0], [0, 0], [0, 2]]), batch=2)
        Events(4 events, shape=(2, 2, 2), density=0.5)
        """
        kind = getattr(matrix, "format", None)
        if kind != "csr" or len(matrix.shape) != 2:
            advice = " (call its .tocsr() first)" if kind != "csr" and hasattr(matrix, "tocsr") else ""
            raise ArgumentError(
                f"matrix: expected a SciPy CSR array of shape (batch * time, K); found {found(matrix)}{advice}"
            )
        batch = whole_number("batch_size", batch, 1)
        rows, inputs = matrix.shape
        if rows % batch:
            raise ArgumentError(
                f"batch_size: expected a divisor of the {rows} rows (batch * time) of the CSR array; found {batch}"
            )
        data = np.asarray(matrix.data)
        indptr, indices = real_array("indptr", matrix.indptr), real_array("indices", matrix.indices)
        if data.size and not (data == 1).all():
            if data.dtype.kind not in "biuf" or not (np.isfinite(data) & is_count(data)).all():
                raise ArgumentError(
                    "x: expected a CSR array of spike counts, whole numbers of 0 or more; found other values "
                    "(real-valued input: pass x.toarray() reshaped to (batch, time, K))"
                )
            counts = _repeats(data, rows * inputs)
            row_of = np.repeat(np.repeat(np.arange(rows), np.diff(indptr)), counts)
            indptr, indices = _row_starts(row_of, rows), np.repeat(indices, counts)
        return cls(indptr, indices, (batch, rows // batch, inputs))

    @classmethod
    def trusted(cls, indptr: np.ndarray, indices: np.ndarray, shape: tuple[int, ...]) -> Self:
        """Events from arrays that are known to be as the class describes: made by a kernel, say. Nothing is checked.

        Parameters
        ----------
        indptr, indices, shape
            As for `Events`; the arrays are not copied, but seen through read-only views.
        """
        events = object.__new__(cls)
        for name, value in (("indptr", frozen(indptr.view())), ("indices", frozen(indices.view())), ("shape", shape)):
            object.__setattr__(events, name, value)
        return events

    def to_dense(self, dtype: Any = None) -> np.ndarray:
        """The (batch, time, K) array of spike counts these events stand for.

        Parameters
        ----------
        dtype : dtype or None
            Of real numbers; bool says where there are any. None: uint8, or as many bits more as the counts need.

        Raises
        ------
        ArgumentError
            `dtype` is none of real numbers, or does not hold the counts.

        Examples
        --------
        >>> from blocksim import Events
        >>> Events.from_lists([[0.3, 1.2]], [[0, 1]], channels=2).to_dense()
        array([[[1, 0],
                [0, 1]]], dtype=uint8)
        """
        batch, time, inputs = self.shape
        row_of = np.repeat(np.arange(batch * time), np.diff(self.indptr))

        def over(most: int) -> bool:
            """Whether an input spikes more often in a step: sorted, that many events lie side by side."""
            if most >= len(self.indices):
                return False
            same = (self.indices[most:] == self.indices[:-most]) & (row_of[most:] == row_of[:-most])
            return bool(same.any())

        if dtype is None:
            kind = next(kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if not over(np.iinfo(kind).max))
            dtype = np.dtype(kind)
        try:
            dtype = np.dtype(dtype)
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind not in "biuf":
            raise ArgumentError(f"dtype: expected a dtype of real numbers; found {found(dtype)}")
        if dtype.kind != "b":
            most = int(np.iinfo(dtype).max) if dtype.kind in "iu" else 2 ** (np.finfo(dtype).nmant + 1)
            if over(most):
                raise ArgumentError(f"dtype: expected one that holds the counts; found {dtype}, and counts over {most}")
        dense = np.zeros((batch * time, inputs), dtype=dtype)
        np.add.at(dense, (row_of, self.indices), 1)
        return dense.reshape(self.shape)

    def __getitem__(self, steps: slice) -> Events:
        """The events of a stretch of time, ``events[start:stop]``: as a dense array's ``x[:, start:stop]``."""
        ends = (steps.start, steps.stop) if isinstance(steps, slice) and steps.step in (None, 1) else (0.5,)
        if not all(end is None or (isinstance(end, (int, np.integer)) and not isinstance(end, bool)) for end in ends):
            raise ArgumentError(f"events[...]: expected a slice of steps, events[start:stop]; found {found(steps)}")
        batch, time, inputs = self.shape
        start, stop, _ = steps.indices(time)
        if stop <= start:
            raise ArgumentError(f"events[...]: expected at least one step; found {start}:{stop} of {time}")
        if (start, stop) == (0, time):
            return self
        edges = self.indptr[:-1].reshape(batch, time)[:, start]
        stops = self.indptr[1:].reshape(batch, time)[:, stop - 1]
        indices = np.concatenate([self.indices[a:b] for a, b in zip(edges, stops, strict=True)])
        counts = np.diff(self.indptr).reshape(batch, time)[:, start:stop].ravel()
        return Events.trusted(np.concatenate([[0], np.cumsum(counts)]), indices, (batch, stop - start, inputs))

    def followed_by(self, later: Events) -> Events:
        """The events of these steps and then of those, of the same samples and inputs.

        Raises
        ------
        ArgumentError
            `later` is no Events, or of another number of samples or of inputs.
        """
        batch, time, inputs = self.shape
        if not isinstance(later, Events) or later.shape[::2] != (batch, inputs):
            raise ArgumentError(f"later: expected events of {batch} samples and {inputs} inputs; found {found(later)}")
        parts = [part for sample in range(batch) for events in (self, later) for part in [events._of_sample(sample)]]
        counts = [np.diff(events.indptr).reshape(batch, -1) for events in (self, later)]
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts, axis=1))])
        return Events.trusted(indptr, np.concatenate(parts), (batch, time + later.shape[1], inputs))

    def _of_sample(self, sample: int) -> np.ndarray:
        """The indices of one sample."""
        time = self.shape[1]
        return self.indices[self.indptr[sample * time] : self.indptr[(sample + 1) * time]]

    def delayed(self, delays: Sequence[int]) -> Events:
        """The same spikes, each input repeated once for each of several delays.

        Input k of the delay of index i is input i * K + k of the result. With weights of their own to each of them, the
        neurons of a layer tell not only which inputs spike but in what order. What arrives after the last step is lost.

        Parameters
        ----------
        delays : sequence of int
            Steps, 0 or more, ascending.

        Returns
        -------
        Events
            (batch, time, K * number of delays).

        Raises
        ------
        ArgumentError
            No delays, or they are not as described.

        Examples
        --------
        >>> import numpy as np
        >>> from blocksim import Events
        >>> Events.from_dense(np.array([[1, 0], [0, 1], [0, 0]])).delayed([0, 1]).to_dense()[0]
        array([[1, 0, 0, 0],
               [0, 1, 1, 0],
               [0, 0, 0, 1]], dtype=uint8)
        """
        wanted = "steps in ascending order, at least one"
        shifts = [whole_number("delays", delay, 0) for delay in items("delays", delays, wanted)]
        if not shifts or any(later <= sooner for sooner, later in pairwise(shifts)):
            raise ArgumentError(f"delays: expected {wanted}; found {shifts}")
        batch, time, inputs = self.shape
        if inputs * len(shifts) > np.iinfo(np.int32).max:
            raise ArgumentError(f"delays: expected at most 2**31 - 1 inputs in all; found {inputs * len(shifts)}")
        counts = np.diff(self.indptr).reshape(batch, time)
        arriving = np.zeros((len(shifts), batch, time), np.int64)  # events of each line, by the step of their arrival
        for line, shift in enumerate(shifts):
            arriving[line, :, shift:] = counts[:, : max(time - shift, 0)]
        indptr = np.concatenate([[0], np.cumsum(arriving.sum(axis=0))])
        # within a row the lines stand one after the other
        starts = indptr[:-1].reshape(batch, time) + np.cumsum(arriving, axis=0) - arriving
        indices = np.empty(indptr[-1], np.int32)
        own = self.indptr[:-1].reshape(batch, time)
        for line, shift in enumerate(shifts):
            kept = counts[:, : max(time - shift, 0)]
            begin = own[:, : kept.shape[1]]
            running = np.cumsum(kept).reshape(kept.shape) - kept
            within = np.arange(kept.sum())
            source = within + np.repeat((begin - running).ravel(), kept.ravel())
            target = within + np.repeat((starts[line, :, shift:] - running).ravel(), kept.ravel())
            indices[target] = self.indices[source] + np.int32(line * inputs)
        return Events.trusted(indptr, indices, (batch, time, inputs * len(shifts)))

    def samples(self, start: int, stop: int) -> Events:
        """The events of samples start .. stop: as a dense array's ``x[start:stop]``. Shares the indices.

        Parameters
        ----------
        start, stop : int
            First sample, and the one after the last.

        Raises
        ------
        ArgumentError
            start and stop are not whole numbers with 0 <= start < stop <= batch.

        Examples
        --------
        >>> from blocksim import Events
        >>> Events.from_lists([[0.3, 1.2], [0.0]], [[0, 1], [1]], channels=2).samples(1, 2).shape
        (1, 2, 2)
        """
        batch, time, inputs = self.shape
        start, stop = whole_number("events.samples: start", start, 0), whole_number("events.samples: stop", stop, 0)
        if not start < stop <= batch:
            raise ArgumentError(f"events.samples: expected 0 <= start < stop <= {batch}; found {start}, {stop}")
        indptr = self.indptr[start * time : stop * time + 1]
        return Events.trusted(indptr - indptr[0], self.indices[indptr[0] : indptr[-1]], (stop - start, time, inputs))


def is_count(values: np.ndarray) -> np.ndarray:
    """Where values are spike counts, whole numbers >= 0."""
    whole_numbers = True if values.dtype.kind in "biu" else values == np.floor(values)
    return (values >= 0) & whole_numbers


def given_pairs(times: Any, units: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Spike trains that a caller hands over, one pair of arrays a sample: times in ms, float64, and whole numbers.

    Whether times are finite, and inputs in range, is for the caller to see. Raises `ArgumentError` naming the sample.
    """
    try:
        number, other = len(times), len(units)
        lists = isinstance(times, (str, bytes, dict)) or isinstance(units, (str, bytes, dict))
    except TypeError:
        lists = True
    if lists:
        raise ArgumentError(
            f"times, units: expected one array of each for every sample; found {type(times).__name__} and "
            f"{type(units).__name__}"
        )
    if number != other:
        raise ArgumentError(f"times, units: expected one array of each for every sample; found {number} and {other}")
    pairs = []
    for sample, (first, second) in enumerate(zip(times, units, strict=True)):
        when = given_times(f"times: sample {sample}", first)
        second = in_unit(f"units: sample {sample}", second, None)
        try:
            # an empty list is an array of floats to NumPy
            which = np.asarray(second) if np.size(second) else np.zeros(np.shape(second), np.int64)
        except (TypeError, ValueError):
            which = np.asarray(None)
        if which.dtype.kind not in "iu":
            raise ArgumentError(
                f"times, units: expected whole numbers as units of sample {sample}; found dtype {which.dtype}"
            )
        if when.ndim != 1 or when.shape != which.shape:
            raise ArgumentError(
                f"times, units: expected arrays of the same length for sample {sample}, a time and a whole number for "
                f"each event; found shapes {when.shape} and {which.shape}"
            )
        pairs.append((when, which))
    return pairs


def _repeats(counts: np.ndarray, size: int) -> np.ndarray:
    """How often each input of an array of `size` values enters, int64; refused where that is more than memory holds."""
    total = float(counts.sum(dtype=np.float64))
    if not total <= max(FREE_SPIKES, SPIKES_A_STEP * size):
        raise ArgumentError(
            f"x: expected spike counts, at most {SPIKES_A_STEP} an input and step on average; found {total:g} in "
            f"{size} values (real-valued input: pass the array itself)"
        )
    return counts.astype(np.int64)


def _row_starts(rows: np.ndarray, total: int) -> np.ndarray:
    """Offsets of each of `total` rows in a sorted array of row numbers."""
    starts = np.zeros(total + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=total), out=starts[1:])
    return starts
