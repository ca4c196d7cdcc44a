"""What the doctor says: findings, what could not be seen, and how bad it is altogether.

Invariant: a finding's `code` is for programs and keeps its meaning; the sentences are for people and may get better.
Next: `receiver.doctor.rendering`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Check(StrEnum):
    """What is looked at. Each can be left out, save the first two, on which the others stand."""

    CONFIGURATION = "configuration"
    TASKS = "tasks"
    DATABASE = "database"
    CERTIFICATES = "certificates"
    PUBSUB = "pubsub"
    SCHEDULER = "scheduler"
    ROLES = "roles"
    SERVICE = "service"


class Severity(IntEnum):
    """How bad a finding is; its number is the exit code that it asks for."""

    NOTE = 0
    """Worth knowing; nothing fails of it."""
    WARNING = 1
    """Something works worse than it looks, or will fail later."""
    ERROR = 2
    """Something does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        code: the kind of finding, for programs; `docs/doctor.md` lists them.
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


@dataclass(frozen=True, slots=True)
class Unseen:
    """What could not be looked at, or only in part, and why."""

    check: Check
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the doctor has to say.

    Attributes:
        findings: the worst first.
        skipped: what was left out on request, or because a stand-in has no such thing.
    """

    findings: tuple[Finding, ...]
    unseen: tuple[Unseen, ...] = ()
    skipped: tuple[Check, ...] = ()

    @classmethod
    def of(
        cls, findings: Sequence[Finding], unseen: Sequence[Unseen] = (), skipped: Sequence[Check] = ()
    ) -> Report:
        """In order: by severity, then by check."""
        order = list(Check)
        ranked = sorted(findings, key=lambda one: (-one.severity, order.index(one.check)))
        return cls(tuple(ranked), tuple(unseen), tuple(one for one in order if one in skipped))

    @property
    def exit_code(self) -> int:
        """2 with an error, 1 with a warning or something that could not be seen, else 0."""
        worst = max((int(one.severity) for one in self.findings), default=0)
        return max(worst, int(Severity.WARNING) if self.unseen else 0)

    def count(self, severity: Severity) -> int:
        """How many findings of that severity."""
        return sum(one.severity is severity for one in self.findings)
