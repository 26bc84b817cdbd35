"""Axon Binary Format, versions 1 and 2, by pyabf.

The channels' units say which is which; their names do not: they are typed by hand, and are found swapped. Where no
current was recorded, ``current_channel="command"`` takes the waveform that was commanded, of the output that has the
number of the voltage channel, and ``"command:NAME"`` or ``"command:NUMBER"`` that of another output. pyABF reconstructs
it from the protocol; where the protocol has what pyABF does not apply, the command is not known, and is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blocksim._libraries import library
from blocksim.ephys._recordings.readers.base import (
    CURRENT_UNITS,
    MAIN,
    VOLTAGE_UNITS,
    Request,
    Traces,
    one_channel,
    reading,
    unit,
)
from blocksim.errors import FileError

COMMAND = "command"
# operation modes in which a protocol is played, and the epochs that pyABF plays as Clampex does
PLAYED_MODES = {4: "oscilloscope", 5: "episodic"}
PLAYED_EPOCHS = {0: "off", 1: "step", 2: "ramp", 3: "pulse"}


def parts(path: Path) -> list[str]:
    """One recording."""
    return [MAIN]


def read(path: Path, request: Request) -> Traces:
    """Traces of all sweeps of the two channels."""
    pyabf = library("pyabf", "abf", str(path))
    with reading(path, "Axon ABF"):
        abf = pyabf.ABF(str(path))
        names = [str(name) for name in abf.adcNames]
        units = [unit(text) for text in abf.adcUnits]
        if request.current_channel is None and request.voltage_channel is None:
            _refuse_voltage_clamp(path, abf)
        known = _listed(names, units)
        voltage = _channel(path, "voltage", request.voltage_channel, names, units, known)
        output = _output(path, abf, request.current_channel, voltage)
        current = -1 if output is not None else _channel(path, "current", request.current_channel, names, units, known)
        if output is not None:
            _refuse_unknown_command(
                path, abf, output, [k for k, own in enumerate(units) if own in CURRENT_UNITS], known
            )
        labels = [str(index) for index in range(abf.sweepCount)]
        chosen = request.choose(labels)
        traces: dict[str, list[np.ndarray]] = {"current": [], "voltage": []}
        for sweep in chosen:
            abf.setSweep(sweep, channel=voltage)
            traces["voltage"].append(np.array(abf.sweepY))
            if output is None:
                abf.setSweep(sweep, channel=current)
                traces["current"].append(np.array(abf.sweepY))
            else:
                traces["current"].append(_command(path, pyabf, abf, output, sweep))
        current_unit = units[current] if output is None else unit(abf.dacUnits[output])
        rate = request.sampling_rate or _rate(abf)
        return Traces(traces["current"], traces["voltage"], current_unit, units[voltage], [rate] * len(chosen),
                      [labels[k] for k in chosen])  # fmt: skip


def _listed(names: list[str], units: list[str | None]) -> list[str]:
    return [f"{k} {name!r} in {own or 'no unit'}" for k, (name, own) in enumerate(zip(names, units, strict=True))]


def _rate(abf: Any) -> float:
    """Sampling rate in Hz, of the interval that the header holds in microseconds: pyABF cuts it to whole Hz."""
    if abf.abfVersion["major"] == 1:
        return 1e6 / (float(abf._headerV1.fADCSampleInterval) * int(abf.channelCount))
    return 1e6 / float(abf._protocolSection.fADCSequenceInterval)


def _channel(path: Path, kind: str, given: Any, names: list[str], units: list[str | None], known: list[str]) -> int:
    argument = f"{kind}_channel"
    if given is not None:
        if isinstance(given, int) and 0 <= given < len(names):
            return given
        if given in names:
            return names.index(given)
        raise FileError(
            f"{path}: expected {argument} to be a name or number out of {'; '.join(known)}; found {given!r}"
        )
    wanted = CURRENT_UNITS if kind == "current" else VOLTAGE_UNITS
    candidates = {f"{k} {names[k]!r}": k for k, own in enumerate(units) if own in wanted}
    return int(one_channel(path, kind, argument, candidates, known))


def _outputs(abf: Any) -> int:
    """Number of outputs of which the header says whether a waveform was played."""
    header = abf._headerV1 if abf.abfVersion["major"] == 1 else abf._dacSection
    return min(len(abf.dacNames), len(abf.dacUnits), len(header.nWaveformEnable))


def _output(path: Path, abf: Any, given: Any, voltage: int) -> int | None:
    """Number of the output whose command is asked for; None where a recorded current is."""
    if not isinstance(given, str) or given.partition(":")[0] != COMMAND:
        return None
    number = _outputs(abf)
    names = [str(name) for name in abf.dacNames[:number]]
    wanted = given.partition(":")[2].strip()
    if wanted in names:
        return names.index(wanted)
    if wanted.isdigit() and int(wanted) < number:
        return int(wanted)
    if not wanted and voltage < number:
        return voltage
    known = "; ".join(_listed(names, [unit(text) for text in abf.dacUnits[:number]]))
    raise FileError(
        f"{path}: expected current_channel='{COMMAND}:OUTPUT', with a name or number out of {known or 'no outputs'}; "
        f"found {given!r}" + ("" if wanted else f", and no output {voltage}, the number of the voltage channel")
    )


def _refuse_voltage_clamp(path: Path, abf: Any) -> None:
    """Raise where the protocol commands potentials, and no current."""
    header = abf._headerV1 if abf.abfVersion["major"] == 1 else abf._dacSection
    played = [unit(abf.dacUnits[k]) for k in range(_outputs(abf)) if header.nWaveformEnable[k]]
    if played and all(own in VOLTAGE_UNITS for own in played) and "mV" in played:
        raise FileError(
            f"{path}: expected a current-clamp recording; found that the protocol commands potentials, as in voltage "
            "clamp (current_channel and voltage_channel, both given, read it all the same)"
        )


def _refuse_unknown_command(path: Path, abf: Any, output: int, recorded: list[int], known: list[str]) -> None:
    """Raise where what pyABF reconstructs need not be what was commanded."""
    why = None
    if abf.abfVersion["major"] == 1:
        why = "an ABF 1 file, of which pyABF applies neither pulses nor the holding level"
    elif abf._protocolSection.nOperationMode not in PLAYED_MODES:
        why = "a gap-free or event-driven recording, which does not say what was commanded"
    elif any(np.ravel(abf.userListEnable)):
        why = "a protocol with a user list, which pyABF does not apply"
    elif getattr(abf._protocolSection, "nAlternateDACOutputState", 0):
        why = "a protocol whose outputs alternate from sweep to sweep, which pyABF does not apply"
    else:
        section = abf._epochPerDacSection
        kinds = [kind for kind, dac in zip(section.nEpochType, section.nDACNum, strict=True) if dac == output]
        if abf._dacSection.nWaveformEnable[output] and abf._dacSection.nWaveformSource[output] == 1:
            other = sorted(set(kinds) - set(PLAYED_EPOCHS))
            why = f"a protocol with epochs of another kind (number {other[0]})" if other else None
    if why is not None:
        instead = f" (recorded instead: current_channel={known[recorded[0]].split()[0]})" if recorded else ""
        raise FileError(f"{path}: expected a commanded waveform that can be known; found {why}{instead}")


def _command(path: Path, pyabf: Any, abf: Any, output: int, sweep: int) -> np.ndarray:
    waveform = np.array(pyabf.stimulus.Stimulus(abf, output).stimulusWaveform(sweep), np.float64)
    if not np.isfinite(waveform).all():
        raise FileError(
            f"{path}: expected the commanded waveform; found that it lies in a stimulus file of its own, which is not "
            "there"
        )
    return waveform
