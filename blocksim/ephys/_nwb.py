"""Recordings, predictions and fits as files of Neurodata Without Borders (NWB 2), by pynwb.

Owns what lies where in such a file; the columns by which a recording is read back are the reader's.
"""

from __future__ import annotations

import json
import math
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import blocksim
from blocksim._array_io import check_output, written
from blocksim._libraries import library
from blocksim._validation import choices, found, instance, milliseconds
from blocksim.ephys._fitted import FittedCell, check_cell
from blocksim.ephys._fitting.fit import Fit
from blocksim.ephys._gif.result import GIFFit
from blocksim.ephys._recordings.readers.base import MAIN
from blocksim.ephys._recordings.readers.nwb import LABEL, PART, SPIKES
from blocksim.ephys._recordings.recording import Recording
from blocksim.ephys.evaluation import Predicted
from blocksim.errors import ArgumentError, FileError
from blocksim.trains import SpikeTrains

# fields of NWB that a caller may give: texts, and lists of them
METADATA = ("data_collection", "experiment_description", "experimenter", "institution", "keywords", "lab", "notes",
            "pharmacology", "protocol", "related_publications", "session_id", "slices", "stimulus_notes", "surgery",
            "virus")  # fmt: skip
SUBJECT = ("age", "date_of_birth", "description", "genotype", "sex", "species", "strain", "subject_id", "weight")
ELECTRODE = ("description", "filtering", "initial_access_resistance", "location", "resistance", "seal", "slice")
COLUMNS = {
    PART: "Part of the recording, such as training or test; main where there is one.",
    LABEL: "Name of the sweep.",
    SPIKES: "Times of the recorded spikes in ms from the start of the sweep.",
}
# what Neo sorts signals and trains by: in the comments of a series, as JSON, and in columns of its own
NEO = {"block": "Part of the recording.", "segment": "Name of the sweep, with its number where several have it."}
ALIKE = 1e-6  # what a current may be off from itself, resampled in other steps, of its largest value
OF_FIT = {
    "parameter": "Its name in blocksim.", "value": "Its value, in the unit.", "unit": "Its unit; 1 where it has none.",
    "standard_error": "Its standard error, in the unit; NaN where it was not fitted.",
}  # fmt: skip
PAUSE = 1.0  # s between sweeps on the file's clock, so that no spike lies in two


def write_nwb(
    path: str | Path,
    recording: Recording | Mapping[str, Recording],
    *,
    prediction: Predicted | Mapping[str, Predicted] | None = None,
    fit: Fit | GIFFit | FittedCell | None = None,
    session_start_time: datetime | None = None,
    session_description: str | None = None,
    identifier: str | None = None,
    subject: Mapping[str, Any] | None = None,
    electrode: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a recording, and what a model makes of it, as a file of Neurodata Without Borders (NWB 2).

    Parameters
    ----------
    path : str or Path
        A name that ends in .nwb. Written whole or not at all.
    recording : Recording, or dict of them by the name of the part
        Parts, such as training and test, may differ in length and sampling rate; `open_parts` returns them.
    prediction : blocksim.ephys.evaluation.Predicted, or dict of them by part, or None
        What ``blocksim.ephys.evaluation.predict`` makes of the recording, at any time step.
    fit : Fit, GIFFit, FittedCell or None
        Whose parameters to write.
    session_start_time : datetime or None
        When the recording began, in local time unless it says which. None: now, and the description says so.
    session_description, identifier : str or None
        None: the cell's name, and a random identifier.
    subject, electrode, metadata : dict or None
        Fields of NWB's subject ("subject_id", "species", "age", "sex", ...), of its electrode ("location",
        "resistance", ...) and of the file ("experimenter", "lab", "institution", ...), by their names there.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    ArgumentError
        The prediction is of another recording or part: of another current, or with other spikes imposed. A field is
        unknown, or an argument is of another type.
    FileError
        There is such a file, or it cannot be written.
    MissingLibraryError
        pynwb is not installed: the extra `nwb`.

    Notes
    -----
    `open_recording` and `open_parts` read the same recording, to the bit: samples are kept in pA and mV as they are,
    with NWB's `conversion` to A and V. Name and source are those of the file then; NWB has the name as `cell_id`.
    Sweeps lie one after the other on the file's clock, for a `Recording` does not know when they were.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from blocksim.ephys import Recording, open_recording, write_nwb
    >>> recording = Recording(np.full((2, 1000), 80.1), np.full((2, 1000), -70.0), 10_000, [[5.0], []], ("a", "b"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_nwb(Path(folder) / "cell.nwb", recording, subject={"subject_id": "A10", "species": "Mus musculus"})
    ...     again = open_recording(Path(folder) / "cell.nwb")
    >>> again, again.labels, bool((again.current == recording.current).all())
    (Recording('cell', 2 sweeps of 100 ms at 10000 Hz, 1 spikes), ('a', 'b'), True)
    """
    path = check_output(path, (".nwb",), overwrite)
    recordings = _by_part("recording", recording, Recording, "a Recording")
    predictions = {} if prediction is None else _by_part(
        "prediction", prediction, Predicted, "a prediction of blocksim.ephys.evaluation.predict"
    )  # fmt: skip
    _check_together(recordings, predictions)
    if fit is not None:
        instance("fit", fit, (Fit, GIFFit, FittedCell), "a Fit, a GIFFit or a FittedCell")
        if isinstance(fit, FittedCell):  # a tuple, of anything
            fit = FittedCell(check_cell(fit.cell), milliseconds("fit: dt", fit.dt))
    given = {
        "subject": _fields("subject", subject, SUBJECT), "electrode": _fields("electrode", electrode, ELECTRODE),
        "metadata": _fields("metadata", metadata, METADATA),
    }  # fmt: skip
    session = _session(recordings, session_start_time, session_description, identifier)
    pynwb = library("pynwb", "nwb", "write_nwb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between pynwb and its own libraries
        file = _made("metadata", pynwb.NWBFile, **session, **given["metadata"])
        if given["subject"]:
            file.subject = _made("subject", pynwb.file.Subject, **given["subject"])
        places = _add_recordings(pynwb, file, recordings, given["electrode"])
        if predictions or fit is not None:
            words = f"What models make of the recordings in this file: written by blocksim {blocksim.__version__}."
            module = file.create_processing_module(name="blocksim", description=words)
            if predictions:
                _add_predictions(pynwb, file, module, predictions, places)
            if fit is not None:
                _add_fit(pynwb, module, fit)
        with written(path) as part:
            try:
                with pynwb.NWBHDF5IO(str(part), mode="w") as io:
                    io.write(file)
            except OSError:
                raise
            except Exception as error:  # of a text that HDF5 does not hold, say: the library raises what comes
                why = f"{type(error).__name__}: {error.__cause__ or error}"
                raise FileError(f"{path}: expected to be able to write it; found: {_short(why)}") from error


def _by_part(argument: str, given: Any, kind: type, what: str) -> dict[str, Any]:
    """The parts by name; what was given by itself is the only one."""
    parts = dict(given) if isinstance(given, Mapping) else {MAIN: given}
    if not parts or not all(isinstance(name, str) and isinstance(each, kind) for name, each in parts.items()):
        raise ArgumentError(f"{argument}: expected {what}, or a dict of them by part; found {found(given)}")
    return parts


def _check_together(recordings: Mapping[str, Recording], predictions: Mapping[str, Predicted]) -> None:
    """Raise unless each prediction can be one of the part of its name."""
    for part, predicted in predictions.items():
        if part not in recordings:
            raise ArgumentError(
                f"prediction: expected predictions of {', '.join(map(repr, recordings))}; found one of {part!r} "
                "(a dict names the parts)"
            )
        recorded, at = recordings[part], predicted.recording
        # the last step of a prediction may be longer than what is left of the sweep
        if at.sweeps != recorded.sweeps or abs(at.duration - recorded.duration) > max(at.dt, recorded.dt):
            raise ArgumentError(
                f"prediction: expected one of {part!r}, {recorded.sweeps} sweeps of {recorded.duration:g} ms; found "
                f"one of {at.sweeps} sweeps of {at.duration:g} ms"
            )
        current = recorded.at_dt(at.dt).current
        if current.shape != at.current.shape or np.abs(current - at.current).max() > ALIKE * np.abs(current).max():
            raise ArgumentError(
                f"prediction: expected one of {part!r}, for its current; found one for another current (predict the "
                "recording that is written)"
            )
        ours, theirs = recorded.spikes, at.spikes
        alike = np.array_equal(ours.times, theirs.times) and np.array_equal(ours.offsets, theirs.offsets)
        if predicted.imposed is not None and not alike:
            raise ArgumentError(
                f"prediction: expected one of {part!r}, with its {len(ours.times)} spikes imposed; found one with "
                f"{len(theirs.times)} others (predict the recording that is written)"
            )


def _fields(argument: str, given: Any, known: Iterable[str]) -> dict[str, Any]:
    """A caller's fields of NWB, by name."""
    if given is None:
        return {}
    fields = dict(instance(argument, given, Mapping, "a dict of fields by name"))
    choices(argument, tuple(fields), known)
    for name, value in fields.items():
        for each in value if isinstance(value, (list, tuple)) else ():
            instance(f"{argument}: {name}", each, str, "texts")
        if isinstance(value, datetime):
            _moment(f"{argument}: {name}", value)
    return fields


def _moment(argument: str, given: Any) -> datetime:
    """A time, if it is one."""
    moment: datetime = instance(argument, given, datetime, "a datetime")
    if moment.isoformat() == "NaT":  # what pandas has where there is no time is one by its class
        raise ArgumentError(f"{argument}: expected a datetime; found {given}")
    return moment


def _made(argument: str, make: Callable[..., Any], **fields: Any) -> Any:
    """What pynwb makes of fields, or an error of ours where one is of another type."""
    try:
        return make(**fields)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{argument}: expected fields as NWB has them; found others ({_short(error)})") from error


def _short(error: object) -> str:
    """What a library says, in one line that can be read."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _session(
    recordings: Mapping[str, Recording], began: datetime | None, described: str | None, identifier: str | None
) -> dict[str, Any]:
    """The fields that a file must have."""
    first = next(iter(recordings.values()))
    words = f"Current clamp of {first.name or first.source or 'a cell'}"
    if began is None:
        words += "; when it was recorded is not known, and the session's start is when this file was written"
    # pynwb takes a time without a zone for local time
    start = datetime.now() if began is None else _moment("session_start_time", began)
    text = {"session_description": words if described is None else described,
            "identifier": str(uuid.uuid4()) if identifier is None else identifier}  # fmt: skip
    for name, value in text.items():
        instance(name, value, str, "a text")
    return {**text, "session_start_time": start}


class _Place(NamedTuple):
    """Where a part lies: its first row of the table, and when its sweeps begin on the file's clock, in s."""

    row: int
    starts: list[float]


def _add_recordings(
    pynwb: Any, file: Any, recordings: Mapping[str, Recording], given: Mapping[str, str]
) -> dict[str, _Place]:
    """Series, table and spikes of all sweeps, one after the other."""
    table = file.get_intracellular_recordings()
    for name, words in COLUMNS.items():
        table.add_column(name=name, description=words, index=name == SPIKES)
    cell = next(iter(recordings.values()))
    fields = {"description": "Injects the current and records the potential.", **given}
    if cell.name:
        fields["cell_id"] = cell.name
    device = file.create_device(name="amplifier", description="Amplifier in current clamp.")
    electrode = _made("electrode", file.create_icephys_electrode, name="electrode", device=device, **fields)
    units = _units(pynwb, "units", "Recorded spikes of the cell: a row each sweep.", recordings.values())
    for column, words in NEO.items():
        units.add_column(name=column, description=words)
    places: dict[str, _Place] = {}
    clock = 0.0
    for part, recording in recordings.items():
        places[part] = _Place(len(table), [])
        for sweep, (label, segment) in enumerate(zip(recording.labels, _segments(recording.labels), strict=True)):
            number = len(table)
            neo = {"block": part, "segment": segment}
            common = {
                "electrode": electrode, "rate": recording.sampling_rate, "starting_time": clock,
                "sweep_number": np.uint32(number), "description": f"Sweep {label!r} of part {part!r}.",
                "comments": json.dumps(neo),
            }  # fmt: skip
            stimulus = pynwb.icephys.CurrentClampStimulusSeries(
                name=f"stimulus_{number:03}", data=recording.current[sweep], conversion=1e-12, **common
            )
            response = pynwb.icephys.CurrentClampSeries(
                name=f"response_{number:03}", data=recording.voltage[sweep], conversion=1e-3, **common
            )
            spikes = recording.spikes[sweep]
            file.add_intracellular_recording(
                electrode=electrode, stimulus=stimulus, response=response, **{PART: part, LABEL: label, SPIKES: spikes}
            )
            interval = np.array([[clock, clock + recording.duration / 1000]])
            units.add_unit(spike_times=clock + spikes / 1000, obs_intervals=interval, **neo)
            places[part].starts.append(clock)
            clock += math.ceil(recording.duration / 1000) + PAUSE
    # an array says of what type the times are, also where there are none
    table[SPIKES].target.transform(lambda times: np.array(times, np.float64))
    file.units = units
    return places


def _segments(labels: Sequence[str]) -> list[str]:
    """A name for each sweep that no other has, for Neo puts those of one name together."""
    counts = Counter(labels)
    names: list[str] = []
    taken = {label for label, count in counts.items() if count == 1}
    for sweep, label in enumerate(labels):
        name = label
        while counts[label] > 1 and (name == label or name in taken):
            name = f"{name} {sweep}"
        taken.add(name)
        names.append(name)
    return names


def _add_predictions(
    pynwb: Any, file: Any, module: Any, predictions: Mapping[str, Predicted], places: Mapping[str, _Place]
) -> None:
    """Predicted spikes as units, a row each repetition, and predicted potentials and thresholds as series."""
    words = (
        "Predicted spikes: a row each repetition, for all sweeps that repeat one current, when the first of them is."
    )
    units = _units(pynwb, "predicted_spikes", words, [predicted.recording for predicted in predictions.values()])
    units.add_column(name=PART, description=COLUMNS[PART])
    units.add_column(name="repetition", description="Number of the repetition, from 0.")
    units.add_column(
        name="recordings", description="Rows of intracellular_recordings that repeat the current.", index=True,
        table=file.intracellular_recordings,
    )  # fmt: skip
    number = 0
    for part, predicted in predictions.items():
        place, at = places[part], predicted.recording
        how = ", with the recorded spikes imposed" if predicted.imposed is not None else ""
        in_volts = predicted.unit == "mV"
        unit = {"unit": "volts", "conversion": 1e-3} if in_volts else {"unit": "1"}
        how += "" if in_volts else "; 0 is reset and 1 the threshold of a rested neuron"
        for index, group in enumerate(predicted.groups):
            rows, start = [place.row + sweep for sweep in group], place.starts[group[0]]
            interval = np.array([[start, start + at.duration / 1000]])
            trains: SpikeTrains = predicted.of_group(index)
            for repetition, train in enumerate(trains):
                units.add_unit(
                    spike_times=start + train / 1000, obs_intervals=interval, recordings=rows,
                    **{PART: part, "repetition": repetition},
                )  # fmt: skip
            for what, values in (("potential", predicted.traces.voltage), ("threshold", predicted.traces.threshold)):
                words = f"Predicted {what} of the intracellular recordings {', '.join(map(str, rows))}{how}."
                module.add(
                    pynwb.TimeSeries(
                        name=f"predicted_{what}_{number:03}", data=values[index], rate=at.sampling_rate,
                        starting_time=start, description=words, **unit,
                    )
                )  # fmt: skip
            number += 1
    module.add(units)


def _units(pynwb: Any, name: str, words: str, recordings: Iterable[Recording]) -> Any:
    """An empty table of spikes on the grid of the recordings."""
    resolution = min(recording.dt for recording in recordings) / 1000
    return pynwb.misc.Units(name=name, description=words, resolution=resolution)


def _add_fit(pynwb: Any, module: Any, fit: Fit | GIFFit | FittedCell) -> None:
    """Parameters as a table, and everything as JSON."""
    table = (fit.cell if isinstance(fit, FittedCell) else fit).table()
    columns = {name: (OF_FIT[name], values.tolist()) for name, values in table.items()}
    module.add(_table(pynwb, "fit_parameters", "Parameters of the fitted cell.", columns))
    saved = {"cell": fit.cell.to_dict(), "dt": fit.dt} if isinstance(fit, FittedCell) else fit.to_dict()
    whole: dict[str, tuple[str, list[Any]]] = {
        "cell": ("The class of blocksim.ephys that the cell is of.", [type(fit.cell).__name__]),
        "dt_ms": ("Time step in ms that it was fitted with.", [fit.dt]),
        "json": ("The fit with its settings, as blocksim keeps it.", [json.dumps(saved, allow_nan=False)]),
    }
    module.add(_table(pynwb, "fit", "The fit: one row.", whole))


def _table(pynwb: Any, name: str, words: str, columns: Mapping[str, tuple[str, list[Any]]]) -> Any:
    made = [pynwb.core.VectorData(name=each, description=said, data=data) for each, (said, data) in columns.items()]
    return pynwb.core.DynamicTable(name=name, description=words, columns=made)
