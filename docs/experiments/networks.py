"""The paper's experiment with networks, on spoken digits and N-MNIST; see networks.md, which it writes.

    python docs/experiments/networks.py STAGE ... --data FOLDER -o FOLDER [--quick] [--jobs N] [--epochs N]

Stages, each with a JSON file of its results in the output folder; what is finished is not done again:

choose   the configurations (spoken_digits.toml, nmnist.toml) against variations of them (variations.toml)
figure4  accuracy over the refractory period, by method and gradient
times    seconds an epoch over the refractory period, in this process alone, and that both methods agree
final    the configurations, trained with several seeds; the test files are read here, once, and nowhere else; a second
         time, for another configuration or the same, only with --again REASON, and the page says so
report   networks.md and its pictures, from the JSON files alone

Accuracies of the first two are those of a share held out of the training file.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import blocksim
from blocksim._array_io import written
from blocksim.cli.info import machine
from blocksim.errors import BlocksimError
from blocksim.executors import open_executor, run_tasks
from blocksim.losses import cross_entropy
from blocksim.models import load_model
from blocksim.training import evaluate, fit
from blocksim.training._settings import described
from blocksim.training.experiment import (
    DataChoices,
    Experiment,
    experiment_of,
    first_network,
    grid_of,
    open_samples,
    read_config,
    run_experiment,
    variations_of,
)

HERE = Path(__file__).resolve().parent
STAGES = ("choose", "figure4", "times", "final")
# training and test file below the folder of data
FILES = {
    "spoken_digits": ("spoken_digits/train.h5", "spoken_digits/test.h5"),
    "nmnist": ("nmnist/train800.npz", "nmnist/test100.npz"),
}
ARPS = (2.0, 10.0, 20.0, 40.0, 80.0)  # ms
# method and gradient; by step with the paper's gradient would be the third once more
WAYS = (("blocks", "standard"), ("standard", "standard"), ("blocks", "paper"))
AS_CONFIGURED = "as configured"
ROUNDS = 3
# what a layer begins with at most, of the rate that its refractory period allows: more may be out of reach
SHARE_OF_RATE = 0.25
# a smoke run: that everything works, and no result
QUICK = {"data": {"dt": 10.0}, "network": {"hidden": [32]}, "training": {"epochs": 1}}
QUICK_ARPS = (20.0, 40.0)
TEST = "test.json"  # in the folder of a training: how it did on the test file
KEPT = ("loss", "accuracy", "validation_loss", "validation_accuracy")


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    files: dict[str, tuple[Path, Path]]
    output: Path
    configurations: Path
    quick: bool
    jobs: int
    seeds: int
    backend: str
    epochs: int | None  # of choose and figure4, where not those of the configurations
    again: str | None  # why test files that were used already are used again

    def config(self, name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """The configuration of a data set, with changes, and those of a smoke run last."""
        config = read_config(self.configurations / f"{name}.toml")
        for part in (changes or {}, QUICK if self.quick else {}):
            for table, values in part.items():
                config[table] = config.get(table, {}) | values
        return config

    def shorter(self) -> dict[str, Any]:
        """What choose and figure4 change in every configuration."""
        return {} if self.epochs is None else {"training": {"epochs": self.epochs}}

    def experiment(self, name: str, changes: dict[str, Any] | None = None) -> Experiment:
        path = str(self.files[name][0].absolute())
        return experiment_of(self.config(name, changes), path, "", self.backend)

    def placed(self, name: str, experiment: Experiment) -> Experiment:
        """The experiment in a folder of its own: two that are the same share it, whichever stages they belong to."""
        text = json.dumps(described(replace(experiment, folder="")), sort_keys=True)
        folder = self.output / "runs" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return replace(experiment, folder=str(folder.absolute()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=[*STAGES, "report"], metavar="STAGE")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--data", type=Path, help="folder with " + ", ".join(sum(FILES.values(), ())))
    for name in FILES:
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, nargs=2, type=Path, metavar=("TRAIN", "TEST"), help="files that lie elsewhere")
    parser.add_argument("--only", choices=list(FILES), help="one of the data sets")
    parser.add_argument("--configurations", type=Path, default=HERE, help="folder of the TOML files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on one thread if several")
    parser.add_argument("--epochs", type=int, help="of choose and figure4, in place of the configurations'")
    parser.add_argument("--again", metavar="REASON", help="use test files again, whatever the configuration")
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--quick", action="store_true", help="one epoch of a small network: no result")
    parser.add_argument("--page", type=Path, default=HERE / "networks.md", help="what report writes")
    parser.add_argument("--images", type=Path, default=HERE.parent / "images", help="where report draws")
    given = parser.parse_args(arguments)
    files = {}
    for name, paths in FILES.items():
        apart = getattr(given, name)
        if given.only in (None, name) and (apart or given.data):
            files[name] = tuple(apart) if apart else tuple(given.data / path for path in paths)
    stages = [stage for stage in STAGES if stage in given.stages]
    if stages and not files:
        parser.error("expected --data, or the files of a data set")
    given.output.mkdir(parents=True, exist_ok=True)
    options = Options(
        files, given.output, given.configurations, given.quick, given.jobs, 1 if given.quick else given.seeds,
        given.backend, given.epochs, given.again,
    )  # fmt: skip
    for stage in stages:
        if _read(given.output / f"{stage}.json").get("quick", given.quick) is not given.quick:
            parser.error(f"{given.output}: expected another folder; smoke runs and real ones are kept apart")
    try:
        for stage in stages:
            {"choose": choose, "figure4": figure4, "times": times, "final": final}[stage](options)
        if "report" in given.stages:
            report(given.output, given.page, given.images)
    except BlocksimError as error:
        raise SystemExit(str(error)) from error


# -- trainings ---------------------------------------------------------------------------------------------------------


def choose(options: Options) -> None:
    variations = read_config(options.configurations / "variations.toml")
    work = []
    for name in options.files:
        for label, changes in [(AS_CONFIGURED, {}), *variations.get(name, {}).items()]:
            training = changes.get("training", {}) | options.shorter().get("training", {})
            common = options.experiment(name, changes | ({"training": training} if training else {}))
            work += [(name, label, each) for each in grid_of(common, options.seeds)]
    _train("choose", options, work)


def figure4(options: Options) -> None:
    work = []
    for name in options.files:
        common = options.experiment(name, options.shorter())
        for method, gradient in WAYS:
            axes = {"refractory": _arps(options), "method": [method], "gradient": [gradient]}
            work += [(name, AS_CONFIGURED, each) for each in _over_arps(common, options.seeds, axes)]
    _train("figure4", options, work)


def final(options: Options) -> None:
    path = options.output / "final.json"
    stage = _read(path)
    for name in options.files:
        before = stage.get("configurations", {}).get(name)
        if before is None or (options.again is None and before == options.config(name)):
            continue
        if options.again is None:
            raise SystemExit(
                f"{path}: the test file of {name} was used already, for another configuration; what is chosen after "
                "that is no clean test any more (--again REASON uses it nevertheless, and the page will say so)"
            )
        mine = [row for row in stage["rows"] if row["data"] == name]
        stage["rows"] = [row for row in stage["rows"] if row["data"] != name]
        stage.setdefault("earlier", {}).setdefault(name, []).append(
            {"date": stage["date"], "configuration": before, "rows": mine, "used again": options.again}
        )
        for row in mine:
            (options.output / "runs" / row["folder"] / TEST).unlink(missing_ok=True)
        del stage["configurations"][name]
        _write(path, stage)
    work = []
    for name in options.files:
        # every choice is made: all training samples train, and the last epoch is what is tested
        whole = options.experiment(name, {"training": {"validation": 0.0}})
        work += [(name, AS_CONFIGURED, each) for each in grid_of(whole, options.seeds)]

    def tested(name: str, row: dict[str, Any], folder: Path) -> dict[str, Any]:
        return row | {"test": _test(options, name, folder, row["held_out"])}

    _train("final", options, work, tested)


def _test(options: Options, name: str, folder: Path, held_out: bool) -> dict[str, Any]:
    """How the model of a folder does on the test file; read from there if it was looked at before."""
    path = folder / TEST
    if path.exists():
        return _read(path)
    training_file, test_file = options.files[name]
    # without held-out samples there is no best epoch but the last
    model = load_model(folder / ("best.npz" if held_out else "last.npz"))
    choices = DataChoices(**model.info["data"])
    samples, varied = open_samples(test_file, choices), variations_of(model.info)
    found = evaluate(model, samples, variations=varied, backend=options.backend)
    averaged = found.averaged and {
        "passes": found.averaged.passes, "accuracy": found.averaged.accuracy, "loss": found.averaged.loss,
        "by_group": found.averaged.by_group, "confusion": found.averaged.confusion.tolist(),
    }  # fmt: skip
    result = {
        "samples": len(found.predicted), "passes": found.passes, "accuracy": found.accuracy, "loss": found.loss,
        "rates_hz": list(found.rates), "by_group": found.by_group, "confusion": found.confusion.tolist(),
        "class_names": model.info["class_names"], "averaged": averaged,
    }  # fmt: skip
    training = open_samples(training_file, choices)
    if found.by_group and training.groups is not None and training.group_names is not None:
        known = {training.group_names[group] for group in np.unique(training.groups)}
        result["seen_groups"] = sorted(known & set(found.by_group))
    _write(path, result)
    return result


def _arps(options: Options) -> Sequence[float]:
    return QUICK_ARPS if options.quick else ARPS


def _over_arps(common: Experiment, seeds: int, axes: dict[str, Any]) -> list[Experiment]:
    """A grid with refractory periods; where one allows the configured rate only just or not at all, with a lower."""
    made = []
    for each in grid_of(common, seeds, **axes):
        most = SHARE_OF_RATE * 1000 / (each.network.refractory + each.data.dt)
        made.append(replace(each, network=replace(each.network, rate=min(each.network.rate, most))))
    return made


def _train(
    stage: str,
    options: Options,
    work: Sequence[tuple[str, str, Experiment]],
    then: Callable[[str, dict[str, Any], Path], dict[str, Any]] | None = None,
) -> None:
    """Train what is not trained yet; after each, write all that is there."""
    work = [(name, label, options.placed(name, each)) for name, label, each in work]
    # variations may come out the same
    folders = list(dict.fromkeys(each.folder for _, _, each in work))
    experiments = [next(each for _, _, each in work if each.folder == folder) for folder in folders]
    (options.output / "runs").mkdir(exist_ok=True)
    rows: dict[int, dict[str, Any]] = {}
    failed = []
    with open_executor(options.jobs) as executor:
        run = partial(run_experiment, resume=True, progress=options.jobs == 1)
        for outcome in run_tasks(run, experiments, executor):
            folder = folders[outcome.index]
            if outcome.error is not None:
                failed.append(f"{folder}: {outcome.error.rstrip().splitlines()[-1]}")
                print(failed[-1], flush=True)
                continue
            for place, (name, label, each) in enumerate(work):
                if each.folder == folder:
                    row = _row(name, label, outcome.value)
                    rows[place] = last = row if then is None else then(name, row, Path(folder))
            _write_stage(stage, options, [rows[place] for place in sorted(rows)])
            print(f"{stage} {len(rows)}/{len(work)}  {_short(last)}", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(experiments)} trainings failed; the others are in {options.output}")


def _row(name: str, label: str, result: dict[str, Any]) -> dict[str, Any]:
    experiment = result["experiment"]
    training = experiment["training"]
    with Path(experiment["folder"], "history.csv").open() as file:
        records = list(csv.DictReader(file))
    names = [column for column in records[0] if column in KEPT or column.startswith("rate_")]
    history = {column: [_number(float(record[column])) for record in records] for column in names}
    return {
        "data": name, "label": label, "arp_ms": experiment["network"]["refractory"], "method": training["method"],
        "gradient": training["gradient"], "seed": training["seed"], "held_out": training["validation"] > 0,
        "epochs": result["epochs"], "best_epoch": result["best_epoch"], **{column: result[column] for column in KEPT},
        "folder": Path(experiment["folder"]).name, "history": history,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _short(row: dict[str, Any]) -> str:
    accuracy = row["validation_accuracy"] if row["held_out"] else row["accuracy"]
    parts = [row["data"], row["label"], f"ARP {row['arp_ms']:g} ms", row["method"], f"{row['gradient']} gradient"]
    test = f", test {100 * row['test']['accuracy']:.1f} %" if "test" in row else ""
    return f"{', '.join(parts)}, seed {row['seed']}: {100 * accuracy:.1f} %{test}"


# -- times, and agreement ----------------------------------------------------------------------------------------------


def times(options: Options) -> None:
    """An epoch of all training samples from the first weights on, every way in every round."""
    rows = []
    rounds = 1 if options.quick else ROUNDS
    for name in options.files:
        common = options.experiment(name)
        data = open_samples(common.path, common.data)
        axes = {"refractory": _arps(options), "method": ["blocks", "standard"]}
        plan = []
        for each in _over_arps(common, 1, axes):
            training = replace(each.training, epochs=1, validation=0.0)
            plan.append((each, first_network(data, each), training))
        some = data.subset(np.arange(min(64, len(data))))
        for _, network, training in plan:  # compiles; the samples are read and binned
            fit(network, some, training, backend=options.backend, progress=False)
        data.batch(np.arange(len(data)))
        seconds: list[list[float]] = [[] for _ in plan]
        for _ in range(rounds):
            for found, (_, network, training) in zip(seconds, plan, strict=True):
                trained = fit(network, data, training, backend=options.backend, progress=False)
                found.append(float(trained.history["seconds"][0]))
        for found, (experiment, network, training) in zip(seconds, plan, strict=True):
            row = {"data": name, "arp_ms": experiment.network.refractory, "method": training.method,
                   "samples": len(data), "seconds": found}  # fmt: skip
            if training.method == "blocks":
                row["agreement"] = _agreement(network, data, experiment)
            rows.append(row)
            _write_stage("times", options, rows)
            print(f"times {name}, ARP {row['arp_ms']:g} ms, {row['method']}: {np.median(found):.3g} s", flush=True)


def _agreement(network: blocksim.Network, data: Any, experiment: Experiment) -> dict[str, float]:
    """Blocks and standard on the first batch: largest differences, of spikes and outputs, and of gradients by norm."""
    training = experiment.training
    batch = data.batch(np.arange(min(training.batch_size, len(data))))
    spikes, outputs, gradients = [], [], []
    for method in ("blocks", "standard"):
        run = blocksim.simulate(
            network, batch.x, experiment.backend, method, tape=True, surrogate=training.surrogate,
            gradient=training.gradient, detach=training.detach,
        )  # fmt: skip
        spikes.append(np.concatenate([np.ravel(counts) for counts in run.counts]))
        outputs.append(np.asarray(run.output, np.float64))
        slopes = run.backward(cross_entropy(run.output, batch.labels).gradient).parameters()
        weights = [np.ravel(slopes[key]) for key in slopes if key.rpartition(".")[2] in ("weights", "recurrent")]
        gradients.append(np.concatenate(weights).astype(np.float64))
    return {
        "counts": float(np.abs(spikes[0] - spikes[1]).max()),
        "outputs": float(np.abs(outputs[0] - outputs[1]).max()),
        "gradients": float(np.linalg.norm(gradients[0] - gradients[1]) / np.linalg.norm(gradients[1])),
    }


# -- results -----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, value: Any) -> None:
    with written(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n")


def _write_stage(stage: str, options: Options, rows: list[dict[str, Any]]) -> None:
    """What a stage found; of data sets that are not looked at now, what stands there."""
    path = options.output / f"{stage}.json"
    before = _read(path)
    others = [row for row in before.get("rows", ()) if row["data"] not in options.files]
    configurations = before.get("configurations", {}) | {name: options.config(name) for name in options.files}
    today = datetime.date.today().isoformat()
    dates = {row["data"]: before.get("dates", {}).get(row["data"], before["date"]) for row in others}
    _write(path, {
        "stage": stage, "quick": options.quick, "date": today, "dates": dates | dict.fromkeys(options.files, today),
        "machine": machine(), "jobs": options.jobs, "backend": options.backend, "configurations": configurations,
        "rows": others + rows, "earlier": before.get("earlier", {}),
    })  # fmt: skip


def report(folder: Path, page: Path, images: Path) -> None:
    from networks_report import write_report  # beside this script

    write_report({stage: _read(folder / f"{stage}.json") for stage in STAGES}, page, images)
    print(page)


if __name__ == "__main__":
    main()
