"""Recordings held in memory by Neo: its blocks and segments as a `Recording`.

Owns the choice of signals. Neo's objects are told by what they have; Neo itself is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from blocksim._units import in_unit, unit_of
from blocksim._validation import found
from blocksim.ephys._recordings.detection import Detection
from blocksim.ephys._recordings.recording import Recording
from blocksim.errors import ArgumentError

KINDS = {"current": "pA", "voltage": "mV"}


class _Signal(NamedTuple):
    """One channel."""

    name: str
    values: np.ndarray  # (T,), in the unit of its kind
    rate: float  # Hz
    start: float  # ms


def recording_of(
    source: Any, current: str | int | None, voltage: str | int | None, detection: Detection | None, name: str | None
) -> Recording:
    """A recording of a Block, a Segment, or several Segments: each is a sweep."""
    segments = _segments(source)
    chosen: dict[str, list[_Signal]] = {kind: [] for kind in KINDS}
    wanted = {"current": current, "voltage": voltage}
    for number, segment in enumerate(segments):
        for kind, unit in KINDS.items():
            chosen[kind].append(_choose(kind, wanted[kind], _signals(segment, unit), number))
    rates = {signal.rate for each in chosen.values() for signal in each}
    if len(rates) > 1:
        shown = ", ".join(f"{rate:g} Hz" for rate in sorted(rates))
        raise ArgumentError(f"source: expected signals of one sampling rate; found {shown}")
    for number, (one, other) in enumerate(zip(chosen["current"], chosen["voltage"], strict=True)):
        if abs(one.start - other.start) > 500 / one.rate:
            raise ArgumentError(
                f"source: expected current and potential of segment {number} to begin together; found {one.start:g} ms "
                f"and {other.start:g} ms"
            )
    lengths = {len(signal.values) for each in chosen.values() for signal in each}
    if len(lengths) > 1:
        raise ArgumentError(
            f"source: expected signals of one length; found {', '.join(map(str, sorted(lengths)))} samples (leave "
            "segments out, or cut them)"
        )
    trains: Any = detection
    if detection is None and all(len(segment.spiketrains) == 1 for segment in segments):
        trains = [
            in_unit("spiketrains", segment.spiketrains[0], "ms") - signal.start
            for segment, signal in zip(segments, chosen["voltage"], strict=True)
        ]
    labels = [str(getattr(segment, "name", None) or number) for number, segment in enumerate(segments)]
    arrays = {kind: np.stack([signal.values for signal in each]) for kind, each in chosen.items()}
    own = getattr(source, "name", None) if name is None else name
    return Recording(
        arrays["current"], arrays["voltage"], rates.pop(), trains, tuple(labels), str(own or ""),
        str(getattr(source, "file_origin", None) or ""),
    )  # fmt: skip


def _segments(source: Any) -> list[Any]:
    """The segments of what was given."""
    given = source.segments if hasattr(source, "segments") and not hasattr(source, "analogsignals") else source
    segments = list(given) if isinstance(given, Sequence) or hasattr(given, "__len__") else [given]
    if not segments or not all(hasattr(each, "analogsignals") for each in segments):
        raise ArgumentError(
            f"source: expected a neo Block, a Segment, or a sequence of Segments; found {found(source)}"
        )
    return segments


def _signals(segment: Any, unit: str) -> list[_Signal]:
    """The channels of a segment that are of the unit's kind."""
    signals = []
    for signal in segment.analogsignals:
        loaded = signal.load() if hasattr(signal, "load") else signal
        if unit_of(loaded) is None:
            continue
        try:
            values = in_unit("signal", loaded, unit)
        except ArgumentError:
            continue  # of another kind
        rate = float(in_unit("sampling_rate", loaded.sampling_rate, "Hz"))
        start = float(in_unit("t_start", loaded.t_start, "ms"))
        names = getattr(loaded, "array_annotations", {}).get("channel_names", [])
        columns = np.atleast_2d(values.T)
        for place, column in enumerate(columns):
            own = str(names[place]) if len(names) == len(columns) else str(getattr(loaded, "name", None) or "")
            signals.append(_Signal(own, np.ascontiguousarray(column), rate, start))
    return signals


def _choose(kind: str, wanted: str | int | None, signals: list[_Signal], number: int) -> _Signal:
    """The signal of that name or number; the only one where none is asked for."""
    there = ", ".join(repr(signal.name) for signal in signals) or "none"
    if isinstance(wanted, str):
        named = [signal for signal in signals if signal.name == wanted]
        if len(named) == 1:
            return named[0]
    elif wanted is not None and not isinstance(wanted, bool) and isinstance(wanted, (int, np.integer)):
        if 0 <= wanted < len(signals):
            return signals[int(wanted)]
    elif wanted is None and len(signals) == 1:
        return signals[0]
    what = "one" if wanted is None else f"{wanted!r}"
    raise ArgumentError(
        f"{kind}: expected {what} among the signals in {KINDS[kind]}, or a unit of that kind, of segment {number}; "
        f"found {there} ({kind}= takes a name, or a number from 0 on)"
    )
