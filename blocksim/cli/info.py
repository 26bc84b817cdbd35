"""`blocksim info`: what is installed, and why a backend is missing."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import blocksim

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


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Versions, backends (and why one is missing), threads, CPU."""
    backends = {
        name: {"status": status, **(blocksim.get_backend(name).describe() if status == "ready" else {})}
        for name, status in blocksim.available_backends().items()
    }
    if as_json:
        click.echo(json.dumps({**machine(), "backends": backends}, indent=2))
        return
    console = Console()
    for name, value in machine().items():
        console.print(f"[bold]{name:11}[/bold]{value}", highlight=False, soft_wrap=True)
    table = Table("backend", "status", "details", title="Backends", title_justify="left")
    for name, details in backends.items():
        status = escape(details["status"])
        rest = escape("\n".join(f"{key}: {value}" for key, value in details.items() if key != "status"))
        table.add_row(name, f"[green]{status}[/green]" if status == "ready" else f"[yellow]{status}[/yellow]", rest)
    console.print(table)
