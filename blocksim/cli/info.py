"""`blocksim info`: what is installed, and why a backend is missing."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

import blocksim
from blocksim.cli.options import console

LIBRARIES = ("numpy", "numba", "cupy", "cupy-cuda12x", "cupy-cuda13x", "scipy", "matplotlib", "h5py")


def machine() -> dict[str, str]:
    """This machine and the versions that matter, for reports."""
    found = {"blocksim": blocksim.__version__, "python": platform.python_version(), "system": platform.platform()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found["cpu"] = f"{_processor()}, {cores} cores available"
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _described(name: str) -> dict[str, str]:
    """What a backend says of itself; a diagnosis survives what it reports."""
    try:
        return blocksim.get_backend(name).describe()
    except Exception as error:
        return {"fault": f"{type(error).__name__}: {' '.join(str(error).split())}"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Show versions, backends (and why one is missing), threads and CPU."""
    backends = {
        name: {"status": status, **(_described(name) if status == "ready" else {})}
        for name, status in blocksim.available_backends().items()
    }
    if as_json:
        click.echo(json.dumps({**machine(), "backends": backends}, indent=2))
        return
    screen = console()
    known = machine()
    width = max(map(len, known)) + 1
    for name, value in known.items():
        screen.print(Text.assemble((f"{name:{width}}", "bold"), value))
    table = Table("backend", "status", "details", title="Backends", title_justify="left")
    for name, details in backends.items():
        status = details["status"]
        rest = "\n".join(f"{key}: {value}" for key, value in details.items() if key != "status")
        table.add_row(name, Text(status, "green" if status == "ready" else "yellow"), rest)
    screen.print(table)
