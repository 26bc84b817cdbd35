"""Draws modules.png of docs/contributing.md from the code: python docs/images/modules.py (needs the extra `plot`).

Rows say which modules belong together; a module imports only from its own row and from those below. tests/test_structure.py
holds the code to that, and the picture to the code.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from blocksim.plotting import GRID, RATE, SPIKE

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_name("modules.png")
BACKENDS = ("backends.numpy_reference", "backends.numba_cpu", "backends.cupy_cuda")
# from top to bottom; a folder that is one name here is one box
ROWS = {
    "command line": ("cli",),
    "training and fits": ("training", "ephys"),
    "for them": ("data", "initialisers", "models", "interop", "losses", "testing", "executors", "_array_io",
                 "_containers"),
    "a run": ("_simulation", "_options", "_inputs", "_layers", "_layer_pass", "_checkpoints", "_readout",
              "_network_run", "_run"),
    "what is simulated": ("_network", "_layer", "_layer_arrays", "_connections", "_linear_neurons",
                          "_presets", "_state"),
    "backends": BACKENDS,
    "computing": ("_distances", "_imposed", "_poisson", "backend", "_linear", "_blocks", "_neurons", "arrays", "_escape",
                  "_parameters", "_milliseconds", "numerics"),
    "apart from neurons": ("_events", "trains", "metrics", "classification", "surrogates", "transforms", "optimisers",
                           "schedules", "plotting", "_notebook"),
    "files, checks, errors": ("_atomic_io", "_npy", "_settings", "_libraries", "_validation", "_units", "errors"),
}  # fmt: skip
# the way of the data, forward and back
WAY = ("_simulation", "_options", "_inputs", "_layers", "_layer_pass", "backend", "_blocks")


def modules() -> dict[str, Path]:
    """Every module by its name after `blocksim.`."""
    found = {}
    for folder, prefix in ((ROOT / "blocksim", ""), (ROOT / "backends", "backends.")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = prefix + ".".join(part for part in parts if part != "__init__")
            if name and name not in ("__main__", "backends."):
                found[name] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that a module imports, when it is imported or later; not those it needs for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in for_types:
            continue
        module = node.module or ""
        if node.level:
            base = ".".join([*package[: len(package) - node.level + 1], *([module] if module else [])])
        elif module == "blocksim" or module.startswith("blocksim."):
            base = module.removeprefix("blocksim").removeprefix(".")
        else:
            continue
        for item in node.names:
            inner = f"{base}.{item.name}".lstrip(".")
            found.add(inner if inner in known else base)
    return {each for each in found if each in known} - {name}


def box_of(name: str) -> str:
    """The box a module lies in."""
    for backend in BACKENDS:
        if name.startswith(backend):
            return backend
    return name.split(".")[0]


def graph() -> dict[str, set[str]]:
    """Which box imports from which."""
    known = modules()
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        box = box_of(name)
        edges.setdefault(box, set()).update(box_of(each) for each in imports(name, path, known))
    return {box: targets - {box} for box, targets in edges.items()}


def digest() -> str:
    """Of everything that the picture shows."""
    shown = {box: sorted(targets) for box, targets in sorted(graph().items())}
    return hashlib.sha256(json.dumps([shown, ROWS, WAY]).encode()).hexdigest()


def direct(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Edges that follow from no others."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = list(edges.get(start, ()))
        while waiting:
            box = waiting.pop()
            if box not in found:
                found.add(box)
                waiting += edges.get(box, ())
        return found

    below = {box: reached(box) for box in edges}
    return [
        (box, target)
        for box, targets in edges.items()
        for target in targets
        if not any(target in below[other] for other in targets - {target})
    ]


def half(box: str) -> float:
    """Half the width of a box."""
    return 0.045 * len(box.removeprefix("backends.")) + 0.1


def draw() -> Figure:
    """The picture."""
    edges = graph()
    figure = Figure(figsize=(13, 9.6), dpi=130, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 13), ylim=(-0.3, 2 * len(ROWS) + 1.2))
    axes.axis("off")
    places: dict[str, tuple[float, float]] = {}
    for number, (title, boxes) in enumerate(ROWS.items()):
        y = 2 * (len(ROWS) - number) - 0.5
        axes.axhspan(y - 0.62, y + 0.75, color="#f4f6f8", linewidth=0)
        axes.text(0.05, y + 0.72, title, fontsize=9, va="top", color="#5a6570")
        widths = [2 * half(box) for box in boxes]
        gap = (12.9 - sum(widths)) / len(boxes)
        left = 0.05 + gap / 2
        for box, width in zip(boxes, widths, strict=True):
            places[box] = left + width / 2, y - 0.12
            left += width + gap
    for box, target in direct(edges):
        if target in ROWS["files, checks, errors"] and box not in ROWS["files, checks, errors"]:
            continue
        axes.add_patch(FancyArrowPatch(places[box], places[target], arrowstyle="-|>", mutation_scale=8, shrinkA=13,
                                       shrinkB=13, color="#9aa4ae", linewidth=0.7, connectionstyle="arc3,rad=0.08"))  # fmt: skip
    for first, second in itertools.pairwise(WAY):
        bend = -0.35 if places[first][1] == places[second][1] else -0.12  # over what stands between them
        axes.add_patch(FancyArrowPatch(places[first], places[second], arrowstyle="-|>", mutation_scale=13, shrinkA=14,
                                       shrinkB=14, color=RATE, linewidth=2, alpha=0.8, connectionstyle=f"arc3,rad={bend}",
                                       zorder=3))  # fmt: skip
    for box, (x, y) in places.items():
        text = box.removeprefix("backends.")
        edge = SPIKE if not text.startswith("_") else GRID
        axes.add_patch(FancyBboxPatch((x - half(box), y - 0.2), 2 * half(box), 0.4, boxstyle="round,pad=0.04", facecolor="white",
                                      edgecolor=edge, linewidth=1, zorder=4))  # fmt: skip
        axes.text(x, y, text, ha="center", va="center", fontsize=8.5, zorder=5)
    return figure


if __name__ == "__main__":
    draw().savefig(PICTURE, facecolor="white", metadata={"Description": digest()})
