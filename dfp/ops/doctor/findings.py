"""What a check finds, and how it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal, NamedTuple

from rich.table import Table
from rich.text import Text

Level = Literal["ok", "warning", "error"]
COLORS: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "red"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check. Every finding but an ``ok`` has a reason and a remedy."""

    check: str  #: which check: versions, simulator, rendering, disk, data, device, slurm, test job
    level: Level
    what: str
    why: str = ""  #: why it matters
    command: str = ""  #: what to type


class Counts(NamedTuple):
    """How many findings there are of each kind that is not ``ok``."""

    errors: int
    warnings: int


def count(findings: Iterable[Finding]) -> Counts:
    """How many errors and warnings there are."""
    levels = [finding.level for finding in findings]
    return Counts(levels.count("error"), levels.count("warning"))


def summary(findings: Iterable[Finding]) -> str:
    """One line that sums up the findings."""
    counts = count(findings)._asdict().items()
    said = [f"{count} {name if count != 1 else name.removesuffix('s')}" for name, count in counts if count]
    return ", ".join(said) or "everything is in order"


def table(findings: Iterable[Finding]) -> Table:
    """The findings as a table, for a terminal."""
    shown = Table("check", "", "what", "why it matters", "what to type", show_lines=True)
    for one in findings:
        level = Text(one.level, COLORS[one.level])
        shown.add_row(one.check, level, Text(one.what), Text(one.why), Text(one.command, "bold"))
    return shown


def lines(finding: Finding) -> list[str]:
    """A finding as lines, for a pipe or a log. Its reason and remedy are below it, indented."""
    first = f"{finding.level:7} {finding.check}: {finding.what}"
    rest = [f"        why: {finding.why}"] if finding.why else []
    return [first, *rest, *([f"        type: {finding.command}"] if finding.command else [])]
