"""A report, for people (two lines a finding) and for programs (JSON-able values, whose names stay)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from receiver.doctor.findings import Finding, Report, Severity

_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
_WIDTH: Final = len("warning")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text, and the style that it has on a terminal."""

    text: str
    style: str = ""


def lines(report: Report) -> Iterator[Line]:
    """Each finding in a line with what mends it below; then what could not be seen; then how many of each."""
    for finding in report.findings:
        yield from _finding(finding)
    for unseen in report.unseen:
        yield Line(f"{'unseen':{_WIDTH}}  {unseen.check}: {_flat(unseen.why)}", "cyan")
    if report.skipped:
        yield Line(f"{'skipped':{_WIDTH}}  {', '.join(report.skipped)}", "dim")
    yield Line(summary(report))


def summary(report: Report) -> str:
    """How it is altogether."""
    if not report.findings and not report.unseen:
        return "nothing to mend"
    parts = [
        _count(report.count(Severity.ERROR), "error"),
        _count(report.count(Severity.WARNING), "warning"),
        _count(report.count(Severity.NOTE), "note"),
    ]
    if report.unseen:
        parts.append(f"{len(report.unseen)} not seen")
    return ", ".join(parts)


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values: `severity` is error, warning or note; `exit_code` is the command's."""
    return {
        "exit_code": report.exit_code,
        "errors": report.count(Severity.ERROR),
        "warnings": report.count(Severity.WARNING),
        "notes": report.count(Severity.NOTE),
        "findings": [
            {
                "check": one.check.value,
                "severity": one.severity.name.lower(),
                "code": one.code,
                "what": one.what,
                "why": one.why,
                "mend": one.mend,
            }
            for one in report.findings
        ],
        "unseen": [{"check": one.check.value, "why": one.why} for one in report.unseen],
        "skipped": [one.value for one in report.skipped],
    }


def _finding(finding: Finding) -> Iterator[Line]:
    style = _STYLES[finding.severity]
    name = finding.severity.name.lower()
    yield Line(f"{name:{_WIDTH}}  {finding.check}: {_flat(finding.what)}; {_flat(finding.why)}", style)
    yield Line(f"{'':{_WIDTH}}  -> {_flat(finding.mend)}")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _count(number: int, one: str) -> str:
    return f"{number} {one}{'' if number == 1 else 's'}"
