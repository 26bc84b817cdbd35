"""The page and the pictures of networks.py, from its JSON files alone: what `networks.py report` writes.

Pictures have a white ground, so that they read the same on light and dark pages; lines differ by marker and dash too.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pages import table  # beside this script

from blocksim._array_io import written
from blocksim.plotting import GRID, RATE, SPIKE, confusion, require_matplotlib, save

HERE = Path(__file__).resolve().parent
TITLES = {"spoken_digits": "Spoken digits", "nmnist": "N-MNIST"}
THIRD = "#3f7d4e"
# (method, gradient): name, colour, marker, dash
STYLES = {
    ("blocks", "standard"): ("blocks", SPIKE, "o", "-"),
    ("standard", "standard"): ("standard, step by step", RATE, "s", "--"),
    ("blocks", "paper"): ("blocks, the paper's gradient", THIRD, "^", ":"),
}
Rows = list[dict[str, Any]]

# what was tried by hand before a configuration was settled, beside the stage `choose`
NOTES = {
    "spoken_digits": """How the configurations after the first were chosen, on the training file alone: three speakers train, 120 of their samples
are held out, and the fourth speaker is never heard. One seed each; accuracies in per cent. The second, with nicolas and with
jackson as the fourth:

| configuration | epochs | held-out samples | fourth speaker |
| --- | --- | --- | --- |
| the first: samples blended, masked, a fifth of the events dropped | 50 | 90.8, 90.0 | 65.0, 47.7 |
| input weights in inverse proportion to the root of a channel's events | 25 | 88.3, 87.5 | 50.7, 49.7 |
| channels stretched by up to 12 % and equalised (0.7), no masks | 60 | 91.7, 86.7 | 67.0, 50.0 |
| the same, averaged over 6 variations | 60 | 89.2, 90.0 | 71.0, 55.0 |
| much as the second (masks of 60 ms and 5 bands, times by up to 30 %) | 60 | 86.7, 81.7 | 58.0, 57.0 |
| the same, averaged over 24 variations | 60 | 94.2, 87.5 | 72.0, 59.7 |

The third, averaged over 16 variations, 40 epochs, with george, jackson, lucas and nicolas as the fourth:

| configuration | held-out samples | fourth speaker |
| --- | --- | --- |
| the second | -, 85.8, -, 92.5 | -, 57.3, -, 69.3 |
| each channel by lines of 0, 40 and 80 ms delay | -, 86.7, -, 92.5 | -, 64.0, -, 73.0 |
| of 0, 20, ... 100 ms | 88.3, 90.0, 89.2, 92.5 | 49.0, 61.0, 46.0, 75.0 |
| the same, 100 epochs | -, 89.2, -, 94.2 | -, 62.7, -, 71.7 |
| the same, a box car (width 0.5) for the surrogate | -, 85.8, -, 90.8 | -, 57.0, -, 70.7 |
| silence before a sample trimmed | 86.7, 88.3, 89.2, 92.5 | 48.7, 59.0, 67.3, 72.7 |
| and blended with partners brought to the same mean and spread | 84.2, 85.8, 85.8, 93.3 | 55.7, 56.7, 63.3, 70.0 |
| tempo made equal | 85.0, 85.8, 87.5, 93.3 | 56.7, 63.7, 71.7, 70.3 |
| and channels shifted by up to 4 and stretched by up to 12 % | 77.5, -, 75.8, - | 53.0, -, 69.3, - |
| and times stretched by up to 5 % in place of 15: as configured | 86.7, 86.7, 93.3, 95.0 | 54.3, 65.3, 67.7, 71.0 |
| the same, a box car (width 1) for the surrogate | -, 80.0, -, 93.3 | -, 59.7, -, 70.0 |

Averaging over variations is worth most where training thins the events: a test sample as it is has more of them than
the network has learned to expect. Averaging over three networks is worth nothing (within a percentage point): what is
wrong about an unknown speaker is wrong in all of them. So what helps is what makes speakers alike (silence, tempo), and
what shows the network how sound changes in time (delays). In the test, of the two speakers never heard, 80 % of theo's
samples are recognised and 69 % of yweweler's; with averaging, 83 % and 71 %. Averaging gains 6 points on the speakers
that were heard (though nothing on one of them, george), and 3 points on the two that were not.
""",
}

HEAD = """# Networks on spoken digits and N-MNIST

The paper's second experiment (its figure 4): two recurrent layers of adaptive neurons, trained on events, over absolute
refractory periods (ARP). `blocks` and `standard` are the same model by two ways of working off time; `gradient="paper"`
is the surrogate gradient of the paper's code, without recurrence and adaptation. These commands
train the networks and write this page:

```bash
python docs/experiments/networks.py choose figure4 times --data FOLDER -o results   # training files only
python docs/experiments/networks.py final --data FOLDER -o results                  # once, at the end: the test files
python docs/experiments/networks.py report -o results                               # this page, from results/*.json
```

FOLDER holds `spoken_digits/train.h5`, `spoken_digits/test.h5` (layout of the Spiking Heidelberg Digits),
`nmnist/train800.npz` and `nmnist/test100.npz` ([formats](../data.md#formats)); files that lie elsewhere are named by
`--spoken-digits TRAIN TEST`, `--nmnist TRAIN TEST`. `--quick` checks in a minute that everything works; `--jobs N`
trains N networks at a time. A run that was stopped goes on where it stood. [spoken_digits.toml](spoken_digits.toml) and
[nmnist.toml](nmnist.toml) are what is trained; `blocksim train --config` takes them too. Layers begin with the rate
that stands there, or, over refractory periods, with a quarter of what the period allows where that is less.
"""


def write_report(found: dict[str, dict[str, Any]], page: Path, images: Path) -> None:
    """Write the page, and the pictures it shows.

    Parameters
    ----------
    found : dict
        The content of each stage's JSON file; empty for a stage that was not run.
    page : Path
    images : Path
        A folder.
    """
    require_matplotlib()
    images.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = [HEAD]
    if any(stage.get("quick") for stage in found.values()):
        parts.append("**A smoke run (`--quick`): one epoch of a small network. Nothing below is a result.**\n")
    rows: dict[str, Rows] = {stage: part.get("rows", []) for stage, part in found.items()}
    if not any(rows.values()):
        parts.append("Not run yet: no results are in the folder that this page was written from.\n")
    link = Path(os.path.relpath(images, page.parent)).as_posix()
    for name, title in TITLES.items():
        own = {stage: [row for row in part if row["data"] == name] for stage, part in rows.items()}
        if not any(own.values()):
            continue
        parts.append(f"## {title}\n")
        if own["figure4"]:
            picture = f"networks-{name.replace('_', '-')}.png"
            save(_figure(own["figure4"], own["times"]), images / picture)
            parts.append(f"![{_alt(title, own['figure4'], own['times'])}]({link}/{picture})\n")
            parts += _accuracies(own["figure4"])
        if own["times"]:
            parts += _times(own["times"])
        if own["choose"]:
            parts += _choices(own["choose"], own["final"])
        if own["final"]:
            configuration = found["final"].get("configurations", {}).get(name, {})
            parts += _tests(own["final"], configuration, found["final"].get("earlier", {}).get(name, []))
            picture = f"networks-{name.replace('_', '-')}-confusion.png"
            test = [row["test"] for row in own["final"]]
            matrix = np.sum([each["confusion"] for each in test], axis=0)
            save(confusion(matrix, test[0]["class_names"]), images / picture)
            right = f"{int(np.trace(matrix))} of {int(matrix.sum())} right"
            alt = f"{title}: confusion matrix of {_runs(own['final'])} on the test file, {right}"
            parts.append(f"![{alt}]({link}/{picture})\n")
            if "earlier" in found["final"] and name in found["final"]["earlier"]:
                parts.append(NOTES.get(name, ""))
    parts += _origin(found)
    with written(page) as part:
        part.write_text("\n".join(parts))


def _percent(values: Sequence[float]) -> str:
    """Mean in per cent, and the sample standard deviation of several."""
    shares = 100 * np.asarray(values, float)
    return f"{shares.mean():.1f}" + (f" ± {shares.std(ddof=1):.1f}" if len(shares) > 1 else "")


def _runs(rows: Rows) -> str:
    count = len({row["seed"] for row in rows})
    epochs = " or ".join(str(number) for number in sorted({row["epochs"] for row in rows}))
    return f"{count} seed" + ("s" if count > 1 else "") + f" of {epochs} epochs"


def _arps(rows: Rows) -> list[float]:
    return sorted({row["arp_ms"] for row in rows})


def _of(rows: Rows, **wanted: Any) -> Rows:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _ways(rows: Rows) -> list[tuple[str, str]]:
    return [way for way in STYLES if _of(rows, method=way[0], gradient=way[1])]


def _accuracies(rows: Rows) -> list[str]:
    ways = _ways(rows)
    lines = []
    for arp in _arps(rows):
        at = [_of(rows, arp_ms=arp, method=method, gradient=gradient) for method, gradient in ways]
        lines.append([f"{arp:g}", *(_percent([row["validation_accuracy"] for row in each]) if each else "-"
                                    for each in at)])  # fmt: skip
    text = [
        f"Accuracy in per cent on the held-out share of the training file, at the best epoch; mean over {_runs(rows)}, "
        "± their standard deviation.\n",
        table(["ARP (ms)", *(STYLES[way][0] for way in ways)], lines),
    ]
    pairs = []
    for row in _of(rows, method="blocks", gradient="standard"):
        pairs += [(row, other) for other in _of(rows, method="standard", gradient="standard", arp_ms=row["arp_ms"],
                                                seed=row["seed"])]  # fmt: skip
    if pairs:
        first = max(abs(one["history"]["loss"][0] / other["history"]["loss"][0] - 1) for one, other in pairs)
        gaps = [100 * (one["validation_accuracy"] - other["validation_accuracy"]) for one, other in pairs]
        text.append(
            f"Blocks against standard, same ARP and seed, {len(pairs)} pairs: the loss of the first epoch differs by "
            f"at most {first:.1e} of itself. Rounding errors then grow, because one spike more or less changes "
            f"everything that follows: at the best epoch accuracies differ by {np.mean(gaps):+.2f} points on average, from {min(gaps):+.1f} to "
            f"{max(gaps):+.1f}.\n"
        )
    return text


def _times(rows: Rows) -> list[str]:
    lines = []
    for arp in _arps(rows):
        blocks, standard = (_of(rows, arp_ms=arp, method=method) for method in ("blocks", "standard"))
        if not blocks or not standard:
            continue
        ratio = np.median(np.divide(standard[0]["seconds"], blocks[0]["seconds"]))
        same = blocks[0]["agreement"]
        lines.append([
            f"{arp:g}", f"{np.median(blocks[0]['seconds']):.2f}", f"{np.median(standard[0]['seconds']):.2f}",
            f"{ratio:.2f}", f"{same['counts']:g}", f"{same['outputs']:.1e}", f"{same['gradients']:.1e}",
        ])  # fmt: skip
    header = ["ARP (ms)", "blocks, s an epoch", "standard, s an epoch", "standard / blocks", "spike counts differ by",
              "outputs by", "gradients by"]  # fmt: skip
    first = rows[0]
    return [
        f"An epoch of all {first['samples']} training samples, from the first weights on, augmentation included; "
        f"medians of {len(first['seconds'])} rounds, ratios within a round. Agreement is that of the first batch: "
        "the largest difference of a neuron's spike count and of an output, and the gradients' difference by norm.\n",
        table(header, lines),
    ]


def _choices(rows: Rows, tested: Rows) -> list[str]:
    labels = list(dict.fromkeys(row["label"] for row in rows))
    scores = {label: [row["validation_accuracy"] for row in _of(rows, label=label)] for label in labels}
    losses = {label: [row["validation_loss"] for row in _of(rows, label=label)] for label in labels}
    order = sorted(labels, key=lambda label: -float(np.mean(scores[label])))
    lines = [[label, _percent(scores[label]), f"{np.mean(losses[label]):.3f}"] for label in order]
    after = "" if tested else " The test file was not read for it."
    return [
        f"Variations of the configuration, each of one choice, on the held-out share; mean over {_runs(rows)}."
        f"{after}\n",
        table(["variation", "held-out accuracy (%)", "held-out loss"], lines),
    ]


def _tests(rows: Rows, configuration: dict[str, Any], earlier: Rows) -> list[str]:
    """Accuracies on the test file, plain ones first; `earlier`: what it was used for before."""
    lines = []
    averaged = any(row["test"].get("averaged") for row in rows)
    for row in rows:
        test = row["test"]
        seen, unseen = _by_known(test)
        lines.append([
            str(row["seed"]), "-" if row["validation_accuracy"] is None else _percent([row["validation_accuracy"]]),
            _percent([test["accuracy"]]), seen, unseen,
            *([_percent([test["averaged"]["accuracy"]])] if averaged else []), ", ".join(f"{rate:.1f}" for rate in test["rates_hz"]),
        ])  # fmt: skip
    uses = "used once" if not earlier else f"**used {len(earlier) + 1} times**"
    return [
        f"**Test file: {_tested(rows, configuration)}, mean of {_runs(rows)}, {rows[0]['test']['samples']} samples, "
        f"{uses}.{_averaged(rows)}\n",
        *(f"Used before, on {use['date']}: {_tested(use['rows'], use['configuration']).replace('**', '')}, mean of "
          f"{_runs(use['rows'])}.{_averaged(use['rows'])} Used again: {use['used again']}.\n" for use in earlier),
        table(["seed", "held-out (%)", "test (%)", *(f"groups {word} training (%)" for word in ("in", "not in")),
                *(["test, averaged (%)"] if averaged else []), "rates (Hz)"], lines),
    ]  # fmt: skip


def _tested(rows: Rows, configuration: dict[str, Any]) -> str:
    """The accuracy, and what it is the accuracy of: one pass of each sample, unless an older row averaged."""
    passes = rows[0]["test"].get("passes", 1 + configuration.get("variations", {}).get("rounds", 0))
    how = "one pass of each sample" if passes == 1 else f"averaged over {passes} passes of each sample"
    return f"{_percent([row['test']['accuracy'] for row in rows])} %**, {how}"


def _averaged(rows: Rows) -> str:
    """What averaging over random variations of the test samples makes of it."""
    found = [row["test"]["averaged"] for row in rows if row["test"].get("averaged")]
    if not found:
        return ""
    return (
        f" Averaged over {found[0]['passes']} passes, of each sample as it is and of random variations of it: "
        f"{_percent([each['accuracy'] for each in found])} %."
    )


def _by_known(test: dict[str, Any]) -> tuple[str, str]:
    """Mean accuracy over the groups (speakers) that are in the training file, and over those that are not."""
    seen = set(test.get("seen_groups", ()))
    parts = [
        [share for group, share in test["by_group"].items() if (group in seen) is known] for known in (True, False)
    ]
    return tuple(_percent([float(np.mean(part))]) if part and seen else "-" for part in parts)  # type: ignore[return-value]


def _origin(found: dict[str, dict[str, Any]]) -> list[str]:
    stages = {stage: part for stage, part in found.items() if part.get("rows")}
    if not stages:
        return []
    lines = []
    for stage, part in stages.items():
        machine = part["machine"]
        said = ", ".join(f"{key} {value}" for key, value in machine.items() if isinstance(value, (str, int, float)))
        dates = part.get("dates", {})
        date = part["date"]
        if len(set(dates.values())) > 1:
            date = ", ".join(f"{each} ({TITLES[name]})" for name, each in sorted(dates.items()))
        lines.append([stage, date, str(part["jobs"]), part["backend"], said])
    now = {name: _configuration(HERE / f"{name}.toml") for name in TITLES}
    changed = sorted({
        f"{stage} ({TITLES[name]})" for stage, part in stages.items() if not part.get("quick")
        for name, config in part["configurations"].items() if now.get(name) not in (None, config)
    })  # fmt: skip
    text = ["## Where and when\n", table(["stage", "date", "jobs", "backend", "machine"], lines)]
    if changed:
        text.append(f"Run with other values than those now in the TOML files: {', '.join(changed)}.\n")
    return text


def _configuration(path: Path) -> dict[str, Any] | None:
    return tomllib.loads(path.read_text()) if path.exists() else None


def _alt(title: str, rows: Rows, times: Rows) -> str:
    arps = _arps(rows)
    said = []
    for method, gradient in _ways(rows):
        at = [_of(rows, arp_ms=arp, method=method, gradient=gradient) for arp in arps]
        means = [np.mean([row["validation_accuracy"] for row in each]) for each in at if each]
        said.append(f"{STYLES[method, gradient][0]} from {100 * min(means):.0f} to {100 * max(means):.0f} %")
    text = f"{title}, refractory periods of {arps[0]:g} to {arps[-1]:g} ms. Held-out accuracy: {'; '.join(said)}."
    seconds = {
        method: [np.median(row["seconds"]) for row in _of(times, method=method)] for method in ("blocks", "standard")
    }
    spans = [f"{method} {min(each):.2g} to {max(each):.2g}" for method, each in seconds.items() if each]
    return text + (f" Right: seconds an epoch, {'; '.join(spans)}." if spans else "")


def _figure(rows: Rows, times: Rows) -> Any:
    from matplotlib.figure import Figure

    panels = 2 if times else 1
    figure = Figure(figsize=(4.5 * panels, 3.4), dpi=130, layout="constrained", facecolor="white")
    left, *rest = figure.subplots(1, panels, squeeze=False)[0]
    arps = sorted({*_arps(rows), *_arps(times)})
    places = {arp: float(place) for place, arp in enumerate(arps)}
    ways = _ways(rows)
    for number, (method, gradient) in enumerate(ways):
        name, colour, marker, dash = STYLES[method, gradient]
        own = _of(rows, method=method, gradient=gradient)
        # side by side: equal accuracies would hide one another
        aside = 0.08 * (number - (len(ways) - 1) / 2)
        scores = [100 * np.array([row["validation_accuracy"] for row in _of(own, arp_ms=arp)]) for arp in _arps(own)]
        means = np.array([each.mean() for each in scores])
        spread = np.abs([[each.min() for each in scores], [each.max() for each in scores]] - means)
        left.errorbar([places[arp] + aside for arp in _arps(own)], means, spread, color=colour, marker=marker,
                      linestyle=dash, capsize=3, label=name)  # fmt: skip
    for method in ("blocks", "standard"):
        name, colour, marker, dash = STYLES[method, "standard"]
        own = _of(times, method=method)
        for right in rest if own else ():
            right.plot([places[row["arp_ms"]] for row in own], [np.median(row["seconds"]) for row in own], color=colour,
                       marker=marker, linestyle=dash, label=name)  # fmt: skip
    left.set_ylabel("held-out accuracy (%)")
    for right in rest:
        right.set_ylabel("time of an epoch (s)")
        right.set_ylim(bottom=0)
    for axes in (left, *rest):
        axes.set_xticks(range(len(arps)), [f"{arp:g}" for arp in arps])
        axes.set_xlabel("absolute refractory period (ms)")
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    return figure
