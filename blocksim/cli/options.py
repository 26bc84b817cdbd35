"""What several commands share: the option that chooses a backend, options of several values, the console, and a
progress bar."""

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
    """Comma-separated values."""

    def __init__(self, kind: Any, what: str, allowed: Sequence[Any] = ()) -> None:
        self.kind, self.name, self.allowed = kind, what, allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of the values."""
        try:
            values = tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"expected {self.name}, comma-separated; found {value!r}", param, ctx)
        if self.allowed and not set(values) <= set(self.allowed):
            self.fail(f"expected some of {', '.join(map(str, self.allowed))}; found {value!r}", param, ctx)
        return values


def console(stderr: bool = False) -> Console:
    """Where commands print. Text is printed as it is, for brackets in a path are no markup.

    Tables are cut to the width of a terminal, and where there is none, not at all.
    """
    settings: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False, "soft_wrap": True}
    settings["stderr"] = stderr
    made = Console(**settings)
    return made if made.is_terminal else Console(width=10_000, **settings)


def progress(unit: str) -> Progress:
    """A progress bar on stderr; silent where that is no terminal."""
    screen = console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    )
