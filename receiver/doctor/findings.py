"""What a finding is, and how a diagnosis is shown to people and programs. The `*_rules` make the findings.

Invariant: the `code` of a finding and the names in the JSON are for programs and keep their meaning; sentences may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final


class Check(StrEnum):
    """The parts that the doctor looks at."""

    CONFIGURATION = "configuration"
    TASKS = "tasks"
    DATABASE = "database"
    CERTIFICATES = "certificates"
    PUBSUB = "pubsub"
    SCHEDULER = "scheduler"
    ROLES = "roles"
    SERVICE = "service"


SKIPPABLE: Final = tuple(check for check in Check if check not in {Check.CONFIGURATION, Check.TASKS})
"""The checks that may be left out. The others need configuration and tasks."""


class Severity(IntEnum):
    """How bad a finding is; its number is the exit code."""

    NOTE = 0
    WARNING = 1
    ERROR = 2


_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
_WIDTH: Final = len("warning")


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem.

    Attributes:
        code: the kind of finding, for programs; `docs/reference/findings.md` lists them.
        what: what is so, in one line.
        why: why that matters.
        mend: the command or change that mends it.
    """

    check: Check
    severity: Severity
    code: str
    what: str
    why: str
    mend: str


class Findings(list[Finding]):
    """The findings of one check, in the order of its rules: each rule is a condition, and the words that it adds here."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self._check = check

    def add(self, severity: Severity, code: str, what: str, why: str, mend: str) -> None:
        """Adds a finding."""
        self.append(Finding(self._check, severity, code, what, why, mend))

    def error(self, code: str, what: str, why: str, mend: str) -> None:
        """Something does not work."""
        self.add(Severity.ERROR, code, what, why, mend)

    def warning(self, code: str, what: str, why: str, mend: str) -> None:
        """Something works worse than it looks, or will fail later."""
        self.add(Severity.WARNING, code, what, why, mend)

    def note(self, code: str, what: str, why: str, mend: str) -> None:
        """Worth knowing; nothing fails because of it."""
        self.add(Severity.NOTE, code, what, why, mend)


@dataclass(frozen=True, slots=True)
class Unseen:
    """A part that could not be looked at, at least not all of it, and why."""

    check: Check
    why: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, and the parts that were not seen.

    Attributes:
        findings: the worst first.
        skipped: what was left out on request, or because a stand-in does not have it.
    """

    findings: tuple[Finding, ...]
    unseen: tuple[Unseen, ...] = ()
    skipped: tuple[Check, ...] = ()

    @classmethod
    def of(
        cls, findings: Sequence[Finding], unseen: Sequence[Unseen] = (), skipped: Iterable[Check] = ()
    ) -> Diagnosis:
        """In order: by severity, then by check."""
        order = list(Check)
        ranked = sorted(findings, key=lambda one: (-one.severity, order.index(one.check)))
        missed = sorted(unseen, key=lambda one: order.index(one.check))
        return cls(tuple(ranked), tuple(missed), tuple(sorted(skipped, key=order.index)))

    @property
    def exit_code(self) -> int:
        """2 with an error, 1 with a warning or a part that could not be seen, else 0."""
        worst = max((one.severity for one in self.findings), default=Severity.NOTE)
        return max(worst, Severity.WARNING if self.unseen else Severity.NOTE)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Two lines for each finding, then what could not be seen, then how many of each; each line with its style."""
        for one in self.findings:
            severity = f"{one.severity.name.lower():{_WIDTH}}"
            yield f"{severity}  {one.check}: {_flat(one.what)}; {_flat(one.why)}", _STYLES[one.severity]
            yield f"{'':{_WIDTH}}  -> {_flat(one.mend)}", ""
        for unseen in self.unseen:
            yield f"{'unseen':{_WIDTH}}  {unseen.check}: {_flat(unseen.why)}", "cyan"
        if self.skipped:
            yield f"{'skipped':{_WIDTH}}  {', '.join(self.skipped)}", "dim"
        yield self._summary(), ""

    def as_json(self) -> dict[str, Any]:
        """As JSON values: `severity` is error, warning or note; `exit_code` is the command's."""
        counts = {f"{severity.name.lower()}s": self._count(severity) for severity in reversed(Severity)}
        return {
            "exit_code": self.exit_code,
            **counts,
            "findings": [asdict(one) | {"severity": one.severity.name.lower()} for one in self.findings],
            "unseen": [asdict(one) for one in self.unseen],
            "skipped": list(self.skipped),
        }

    def _count(self, severity: Severity) -> int:
        return sum(one.severity is severity for one in self.findings)

    def _summary(self) -> str:
        if not self.findings and not self.unseen:
            return "nothing to mend"
        counts = [(self._count(severity), severity.name.lower()) for severity in reversed(Severity)]
        parts = [f"{number} {name}{'' if number == 1 else 's'}" for number, name in counts]
        return ", ".join([*parts, *([f"{len(self.unseen)} not seen"] if self.unseen else [])])


def _flat(text: str) -> str:
    return " ".join(text.split())
