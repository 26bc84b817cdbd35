"""Tables of the pages that scripts write: how they look, and how they get onto a page between its marks.

A page holds `<!-- table: NAME -->`, the table, and `<!-- end -->`; what stands between is a script's to write, the rest
is written by people. Owns nothing of what is measured.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blocksim._array_io import written
from blocksim.cli.info import machine

MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def fill(page: Path, tables: Mapping[str, str]) -> str:
    """The text of a page with these tables between its marks; it is not written.

    A table that the page has no marks for is an error, so that none is made in vain; marks without a table stay as they
    are.
    """
    text = page.read_text()
    names = [name for _, name, _, _ in MARKED.findall(text)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SystemExit(f"{page}: expected each table once; found {', '.join(twice)} more often")
    if missing := sorted(set(tables) - set(names)):
        raise SystemExit(f"{page}: expected <!-- table: {missing[0]} --> ... <!-- end -->; found no such marks")

    def put(match: re.Match[str]) -> str:
        head, name, _, tail = match.groups()
        return f"{head}\n{tables[name]}\n{tail}" if name in tables else match.group()

    return MARKED.sub(put, text)


def write(page: Path, tables: Mapping[str, str]) -> None:
    """Put tables between the marks of a page."""
    text = fill(page, tables)
    with written(page) as part:
        part.write_text(text)


def result(rows: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """What a script writes as JSON: rows, and when and where they were measured."""
    return {"date": datetime.date.today().isoformat(), "machine": machine(), **more, "rows": list(rows)}


def write_json(path: Path, value: Any) -> None:
    with written(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n")


def where(found: Mapping[str, Any]) -> str:
    """Machine, versions and date of a result, in words."""
    kept = {name: value for name, value in found["machine"].items() if name not in ("system", "cpu")}
    versions = ", ".join(f"{name} {value}" for name, value in kept.items() if isinstance(value, str))
    return f"{found['date']}, {found['machine']['cpu']}; {versions}"


def origins(found: Mapping[str, Mapping[str, Any]], *more: str) -> str:
    """A table of where parts were measured, one line for those that agree; `more` names other entries to show."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for name, part in found.items():
        lines.setdefault((*(str(part[key]) for key in more), where(part)), []).append(name)
    return table(
        ["parts", *more, "date, machine, versions"], [[", ".join(names), *line] for line, names in lines.items()]
    )


def spread(median: float, low: float, high: float) -> str:
    """A median and its quartiles, to three digits of the median."""
    digits = decimals(median)
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def decimals(value: float) -> int:
    """How many decimals show three digits of a number; none from 100 on."""
    return max(0, 3 - len(str(int(abs(value))))) if abs(value) >= 1 else 3
