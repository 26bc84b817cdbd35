"""What several commands share: the option that chooses a backend, and a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ENVIRONMENT = "BLOCKSIM_BACKEND"


def backend_option(**settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--backend, from the environment variable BLOCKSIM_BACKEND where the flag is not given."""
    return click.option("--backend", envvar=ENVIRONMENT, show_envvar=True, metavar="NAME", **settings)


def progress(unit: str) -> Progress:
    """A progress bar on stderr; silent where that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
