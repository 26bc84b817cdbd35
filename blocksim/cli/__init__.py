"""The command line: `blocksim info`, `simulate`, `data`, `train`, `evaluate`, `fit`, `demo`, `compile`.

Owns how commands are found and how errors end: what the caller can mend is one line on stderr and exit code 2.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any

import click

import blocksim
from blocksim.cli.compile import compile_
from blocksim.cli.data import data
from blocksim.cli.demo import demo
from blocksim.cli.evaluate import evaluate
from blocksim.cli.fit import fit
from blocksim.cli.info import info
from blocksim.cli.signals import Stopped, stoppable
from blocksim.cli.simulate import simulate
from blocksim.cli.train import train
from blocksim.errors import BlocksimError


class _WrongInput(click.ClickException):
    exit_code = 2


def _as_options(message: str) -> str:
    """A library's message, with its keywords as the options of a command: overwrite=True is --overwrite."""

    def option(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')}" + ("" if found[2] == "True" else f" {found[2]}")

    return re.sub(r"(?<![\w.])([a-z_]+)=(True|NAME)\b", option, message)


class _Notices(logging.Handler):
    """Prints what the library reports, such as that it compiles kernels, as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(record.getMessage(), err=True)


@contextlib.contextmanager
def _noticed() -> Iterator[None]:
    logger, handler = logging.getLogger("blocksim"), _Notices()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Commands(click.Group):
    def invoke(self, context: click.Context) -> Any:
        try:
            with stoppable(), _noticed():
                return super().invoke(context)
        except Stopped as stopped:
            click.echo(f"Error: stopped by {stopped.name}", err=True)
            raise
        except BlocksimError as error:
            raise _WrongInput(_as_options(str(error))) from error
        except MemoryError as error:
            raise click.ClickException(
                f"not enough memory: {error} (pass a smaller --chunk, or record fewer traces)"
            ) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(blocksim.__version__, prog_name="blocksim")
def main() -> None:
    """Simulate integrate-and-fire neurons exactly, in blocks of time; train networks; fit neurons to recordings."""


for _command in (info, simulate, data, train, evaluate, fit, demo, compile_):
    main.add_command(_command)
