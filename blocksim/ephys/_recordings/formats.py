"""Recordings opened, whatever their format: told by content, converted to pA and mV, checked for plausibility.

Owns what a file must hold to be a recording, and the messages about files that do not. What lies in a file of which
format is `blocksim.ephys._recordings.readers`'s.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._validation import found, frozen, number
from blocksim.ephys._recordings.detection import Detection
from blocksim.ephys._recordings.plausibility import doubt
from blocksim.ephys._recordings.readers.base import CURRENT_UNITS, VOLTAGE_UNITS, Request, Traces, reading
from blocksim.ephys._recordings.recording import Recording, Sweeps
from blocksim.errors import ArgumentError, FileError
from blocksim.trains import SpikeTrains

# samples of exactly 0 mV at an end of a sweep, more than any amplifier gives
PADDING = 10


@dataclass(frozen=True)
class _Format:
    """A format: its reader's module, its name in messages, its suffixes, and whether it keeps one channel a file."""

    reader: str
    name: str
    suffixes: tuple[str, ...]
    separate: bool = False


FORMATS = (
    _Format("npz", "NumPy .npz", (".npz",)),
    _Format("arrays", "NumPy .npy", (".npy",), separate=True),
    _Format("table", "text table", (".csv", ".tsv", ".txt")),
    _Format("abf", "Axon ABF", (".abf",)),
    _Format("igor", "Igor binary wave", (".ibw", ".bwav"), separate=True),
    _Format("nwb", "NWB 2", (".nwb",)),
    _Format("allen", "Allen Cell Types NWB 1", (".nwb", ".h5", ".hdf5")),
)


def open_recording(
    path: str | Path | Sequence[str | Path],
    *,
    voltage: str | Path | Sequence[str | Path] | None = None,
    part: str | None = None,
    sweeps: Sweeps | None = None,
    sampling_rate: float | None = None,
    current_unit: str | None = None,
    voltage_unit: str | None = None,
    current_offset: float = 0.0,
    current_channel: str | int | None = None,
    voltage_channel: str | int | None = None,
    swap: bool = False,
    plausible: bool = True,
    detection: Detection | None = None,
    name: str | None = None,
) -> Recording:
    """Open a recording; its format is recognised by content.

    Parameters
    ----------
    path : str, Path or sequence of them
        A file: `.npz`, `.csv`, Axon `.abf`, NWB 2 `.nwb`, or the Allen Cell Types Database's NWB 1 `.nwb`; or the file
        of the current where each channel has a file of its own: `.npy`, Igor `.ibw`. Of several files each holds one
        or more sweeps, all of one length and rate.
    voltage : the same, or None
        The files of the potential, one for each of `path`, where they are separate.
    part : str or None
        Which recording of a file that holds several: see `open_parts`. None: the first of them, for training.
    sweeps : int, str, sequence of them, or None
        Sweeps to read, by number or label, as for `Recording.select`. None: all.
    sampling_rate : float or None
        In Hz, in place of the file's; needed where the file does not say.
    current_unit, voltage_unit : str or None
        Units, in place of the file's: pA, nA, uA, mA, A; mV, uV, V. Files that state none are taken as pA and mV.
    current_offset : float
        Added to the current, in pA: -5 removes a measured zero of 5 pA.
    current_channel, voltage_channel : str, int or None
        Channels by name or number, for formats that have them. For ABF, ``current_channel="command"`` is the stimulus
        that was commanded, ``"command:OUTPUT"`` that of an output by name or number.
    swap : bool
        Current and potential have changed places in the file.
    plausible : bool
        Whether to refuse currents beyond 5 nA, potentials beyond 200 mV, what looks like the other, or like another
        unit, and sweeps that end or begin in zeros.
    detection : Detection or None
        How to find spikes. None: the file's own spikes if it holds any, else the default of `Detection`.
    name : str or None
        A name for the cell; None: the file's.

    Returns
    -------
    Recording

    Raises
    ------
    FileError
        The file is of no known format, damaged or empty; a channel, or the rate, is missing; current and potential, or
        sweeps, differ in length; rates differ; values are not finite or not plausible.
    MissingLibraryError
        The format's library is not installed; the message names the extra.
    ArgumentError
        An argument is wrong whatever the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from blocksim.ephys import open_recording
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "cell.npz"
    ...     np.savez(path, current_nA=np.full(2000, 0.1), voltage_mV=np.full(2000, -65.0), sampling_rate=10_000)
    ...     recording = open_recording(path)
    >>> recording
    Recording('cell', 1 sweeps of 200 ms at 10000 Hz, 0 spikes)
    >>> recording.current[0, :3]
    array([100., 100., 100.])
    """
    files, others = _files("path", path), None if voltage is None else _files("voltage", voltage)
    if others is not None and len(others) != len(files):
        raise ArgumentError(f"voltage: expected a file for each of {len(files)} of path; found {len(others)}")
    for argument, value, known in (
        ("current_unit", current_unit, CURRENT_UNITS), ("voltage_unit", voltage_unit, VOLTAGE_UNITS)
    ):  # fmt: skip
        if value is not None and value not in known:
            raise ArgumentError(f"{argument}: expected one of {', '.join(known)}; found {found(value)}")
    rate = None if sampling_rate is None else number("sampling_rate", sampling_rate, above=0, what="a rate in Hz")
    opened = []
    for index, file in enumerate(files):
        kind = _told(file)
        other = None if others is None else others[index]
        if other is not None and not kind.separate:
            raise FileError(f"{other}: expected no file of its own for the voltage of a {kind.name} file; found one")
        reader = importlib.import_module(f"blocksim.ephys._recordings.readers.{kind.reader}")
        available = reader.parts(file)
        if part is not None and part not in available:
            raise FileError(f"{file}: expected a part named {part!r}; found {', '.join(available)}")
        request = Request(available[0] if part is None else part, sweeps, rate, other, current_channel, voltage_channel)
        with reading(file, kind.name):
            traces = reader.read(file, request)
        if swap:
            traces = Traces(
                traces.voltage, traces.current, None, None, traces.rates, traces.labels, traces.spikes,
                traces.voltage_gains, traces.current_gains,
            )  # fmt: skip
        opened.append(_converted(file, traces, current_unit, voltage_unit, current_offset, plausible))
    rates = {one.sampling_rate for one in opened}
    lengths = {one.steps for one in opened}
    for what, values in (("sampling rate", rates), ("length", lengths)):
        if len(values) > 1:
            raise FileError(
                f"{', '.join(map(str, files))}: expected files of one {what}; found "
                + ", ".join(f"{one.sampling_rate:g} Hz and {one.steps} samples" for one in opened)
            )
    stored = all(one.spikes is not None for one in opened) and detection is None
    labels = [label for one in opened for label in one.labels]
    if len(files) > 1 and len(set(labels)) < len(labels):
        labels = [f"{file.stem} {label}" for file, one in zip(files, opened, strict=True) for label in one.labels]
    spikes = SpikeTrains.of([train for one in opened for train in one.spikes or ()]) if stored else detection
    try:
        return Recording(
            frozen(np.concatenate([one.current for one in opened])),
            frozen(np.concatenate([one.voltage for one in opened])),
            opened[0].sampling_rate,
            spikes,  # type: ignore[arg-type]
            tuple(labels),
            files[0].stem if name is None else name,
            ", ".join(file.name for file in files),
        )
    except ArgumentError as error:
        raise FileError(f"{', '.join(map(str, files))}: {error}") from error


def open_parts(path: str | Path, **options: Any) -> dict[str, Recording]:
    """All recordings of one file, by name: of most files one, ``"main"``; of some, ``"training"`` and ``"test"``.

    Parameters
    ----------
    path : str or Path
        The file.
    **options
        As for `open_recording`.

    Raises
    ------
    FileError, MissingLibraryError, ArgumentError
        As `open_recording`.
    """
    (file,) = _files("path", path)
    reader = importlib.import_module(f"blocksim.ephys._recordings.readers.{_told(file).reader}")
    return {part: open_recording(file, part=part, **options) for part in reader.parts(file)}


def _files(argument: str, value: Any) -> list[Path]:
    items = [value] if isinstance(value, (str, Path)) else value
    try:
        files = [Path(item) for item in items]
    except TypeError:
        files = []
    if not files:
        raise ArgumentError(f"{argument}: expected a file, or a sequence of files; found {found(value)}")
    return files


def _told(path: Path) -> _Format:
    """The format of a file, by its first bytes, and where they say nothing by its suffix."""
    by_reader = {kind.reader: kind for kind in FORMATS}
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        why = getattr(error, "strerror", None) or error
        raise FileError(f"{path}: expected a file that can be read; found: {why}") from error
    if not head:
        raise FileError(f"{path}: expected a recording; found an empty file")
    for magic, reader in ((b"PK\x03\x04", "npz"), (b"\x93NUMPY", "arrays"), (b"ABF ", "abf"), (b"ABF2", "abf")):
        if head.startswith(magic):
            return by_reader[reader]
    if head == b"\x89HDF\r\n\x1a\n":
        from blocksim.ephys._recordings.readers.allen import is_allen

        return by_reader["allen" if is_allen(path) else "nwb"]
    if head[:2] in (b"\x02\x00", b"\x00\x02", b"\x05\x00", b"\x00\x05"):
        return by_reader["igor"]
    text = all(byte >= 32 or byte in b"\t\r\n" for byte in head)
    if text and suffix in by_reader["table"].suffixes:
        return by_reader["table"]
    expected = next((kind.name for kind in FORMATS if suffix in kind.suffixes), None)
    known = ", ".join(dict.fromkeys(suffix for kind in FORMATS for suffix in kind.suffixes))
    raise FileError(
        f"{path}: expected {f'a file in the {expected} format' if expected else f'a recording ({known})'}; "
        f"found one that begins with {head!r}"
    )


@dataclass(frozen=True)
class _Converted:
    current: np.ndarray  # (sweeps, T) float64, pA
    voltage: np.ndarray  # (sweeps, T) float64, mV
    sampling_rate: float
    labels: list[str]
    spikes: list[np.ndarray] | None  # ms

    @property
    def steps(self) -> int:
        return int(self.current.shape[1])


def _converted(
    path: Path, traces: Traces, current_unit: str | None, voltage_unit: str | None, offset: float, plausible: bool
) -> _Converted:
    """Traces of one file, checked, in pA and mV."""
    if not traces.labels:
        raise FileError(f"{path}: expected at least one sweep; found none")
    for label, current, voltage in zip(traces.labels, traces.current, traces.voltage, strict=True):
        if len(current) != len(voltage):
            raise FileError(
                f"{path}, sweep {label}: expected current and voltage of one length; found {len(current)} and "
                f"{len(voltage)} samples"
            )
        if not len(current):
            raise FileError(f"{path}, sweep {label}: expected samples; found none")
    _same(path, "length", "samples", [len(current) for current in traces.current], traces.labels)
    _same(path, "sampling rate", "Hz", traces.rates, traces.labels)
    arrays = {}
    for channel, samples, gains, stated, given, known in (
        ("current", traces.current, traces.current_gains, traces.current_unit, current_unit, CURRENT_UNITS),
        ("voltage", traces.voltage, traces.voltage_gains, traces.voltage_unit, voltage_unit, VOLTAGE_UNITS),
    ):
        used = given or stated or next(iter(known))
        if used not in known:
            raise FileError(
                f"{path}: expected the {channel} in one of {', '.join(known)}; found the unit {used!r} "
                f"({channel}_unit=UNIT says what it is)"
            )
        array = np.stack([np.asarray(one, np.float64) for one in samples])
        array *= known[used] * np.array(gains or [1.0])[:, None]
        bad = ~np.isfinite(array)
        if bad.any():
            sweep, step = (int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
            raise FileError(
                f"{path}: expected finite numbers; found {int(bad.sum())} that are not in the {channel}, the first, "
                f"{array[sweep, step]}, in sweep {traces.labels[sweep]} at sample {step}"
            )
        arrays[channel] = array
    if plausible:
        _check_plausible(path, arrays["current"], arrays["voltage"])
        _check_padding(path, arrays["voltage"], traces.labels)
    arrays["current"] += offset
    return _Converted(arrays["current"], arrays["voltage"], traces.rates[0], traces.labels, traces.spikes)


def _same(path: Path, what: str, unit: str, values: Sequence[float], labels: Sequence[str]) -> None:
    if len(set(values)) <= 1:
        return
    groups = {value: [label for label, own in zip(labels, values, strict=True) if own == value] for value in values}
    listed = "; ".join(
        f"{value:g} {unit}: {', '.join(group[:5])}{', ...' if len(group) > 5 else ''}"
        for value, group in groups.items()
    )
    raise FileError(f"{path}: expected sweeps of one {what}; found {listed} (sweeps=... chooses some)")


def _check_plausible(path: Path, current: np.ndarray, voltage: np.ndarray) -> None:
    """Raise unless the two can be an injected current in pA and a membrane potential in mV."""
    wrong = doubt(current, voltage)
    if wrong is not None:
        how = f"{wrong.mended}; plausible=False takes it as it is"
        raise FileError(f"{path}: expected {wrong.expected}; found {wrong.found} ({how})")


def _check_padding(path: Path, voltage: np.ndarray, labels: Sequence[str]) -> None:
    """Raise where a sweep ends or begins in zeros: programs fill up with them what was not recorded."""
    for label, trace in zip(labels, voltage, strict=True):
        for side, values in (("ends", trace[::-1]), ("begins", trace)):
            zeros = int(np.argmax(values != 0)) if values.any() else 0
            if zeros >= PADDING:
                raise FileError(
                    f"{path}, sweep {label}: expected a membrane potential; found that it {side} in {zeros} samples of "
                    "exactly 0 mV, as where a sweep that was stopped was filled up (sweeps=... chooses others; "
                    "plausible=False takes it as it is)"
                )
