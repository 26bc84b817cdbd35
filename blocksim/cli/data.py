"""`blocksim data`: fetch public data sets, and say what a file of events holds."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from blocksim.cli.options import console
from blocksim.data import open_dataset
from blocksim.data.public import ENVIRONMENT, PUBLIC
from blocksim.data.public import download as fetch_public


@click.group()
def data() -> None:
    """List and download public event data sets; inspect files."""


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_data(as_json: bool) -> None:
    """List the public data sets that can be downloaded."""
    if as_json:
        items = {name: {"url": item.url, "md5": item.md5, "about": item.about} for name, item in PUBLIC.items()}
        click.echo(json.dumps(items, indent=2))
        return
    table = Table("name", "what it is", box=None, pad_edge=False)
    for name, item in PUBLIC.items():
        table.add_row(name, item.about)
    console().print(table)


@data.command()
@click.argument("name")
@click.option("-o", "--output", default="blocksim-data", type=click.Path(path_type=Path), help="Download folder.")
@click.option("--unpack", is_flag=True, help="Unpack the archive after the download.")
@click.option(
    "--base-url", envvar=ENVIRONMENT, show_envvar=True, help="Mirror that serves the files under the same names."
)
def download(name: str, output: Path, unpack: bool, base_url: str | None) -> None:
    """Download a public data set; resume an interrupted download, and verify its checksum."""
    screen = console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        path = fetch_public(
            name,
            output,
            unpack=unpack,
            base_url=base_url,
            progress=lambda there, total: bar.update(task, completed=there, total=total),
        )
    console().print(str(path))


@data.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dt", type=click.FloatRange(min=0, min_open=True), default=1.0, help="Time step in ms.")
@click.option("--steps", type=click.IntRange(min=1), help="Number of steps of every sample.  [default: its own]")
@click.option(
    "--pool", type=click.IntRange(min=1), default=1, help="Number of neighbouring channels, or pixels, to merge."
)
@click.option("--clip", is_flag=True, help="Count at most one spike per channel and step.")
@click.option("--trim", type=float, help="Fraction of events to skip at the start of a sample.")
@click.option("--span", type=float, help="Rescale time so that the events of a sample last this many ms.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(
    path: Path,
    dt: float,
    steps: int | None,
    pool: int,
    clip: bool,
    trim: float | None,
    span: float | None,
    as_json: bool,
) -> None:
    """Describe a file or folder of events; every sample is read and checked."""
    # nothing needs to be kept
    dataset = open_dataset(path, dt, steps, pool=pool, clip=clip, trim=trim, span=span, cache_bytes=0)
    click.echo(json.dumps(dataset.statistics(), indent=2) if as_json else dataset.summary())
