"""What several commands share: the option that chooses a backend, options of several values, and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ENVIRONMENT = "BLOCKSIM_BACKEND"


def backend_option(**settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--backend, from the environment variable BLOCKSIM_BACKEND where the flag is not given."""
    return click.option("--backend", envvar=ENVIRONMENT, show_envvar=True, metavar="NAME", **settings)


class Several(click.ParamType[Any, Any]):
    """Values apart by commas."""

    def __init__(self, kind: Any, what: str, allowed: Sequence[str] = ()) -> None:
        self.kind, self.name, self.allowed = kind, what, allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of the values."""
        try:
            values = tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"expected {self.name} apart by commas; found {value!r}", param, ctx)
        if self.allowed and not set(values) <= set(self.allowed):
            self.fail(f"expected some of {', '.join(self.allowed)}; found {value!r}", param, ctx)
        return values


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
