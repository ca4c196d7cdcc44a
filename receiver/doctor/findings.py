"""Findings, the rules that lead to them, and the diagnosis for people and programs.

Invariant: the `code` of a finding and the names in the JSON are for programs and keep their meaning; sentences may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final, Generic, TypeVar

S = TypeVar("S")


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
    """Worth knowing; nothing fails because of it."""
    WARNING = 1
    """Something works worse than it looks, or will fail later."""
    ERROR = 2
    """Something does not work."""


_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
_WIDTH: Final = len("warning")


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem.

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
class Rule(Generic[S]):
    """The condition of a finding, and its words.

    Args:
        severity: or how it follows from what was seen and the item.
        code: of the finding.
        when: whether it is a finding; or the items that are one finding each.
        what, why, mend: texts of the finding, with `{seen}` and `{item}` and their attributes filled in.
    """

    severity: Severity | Callable[[S, Any], Severity]
    code: str
    when: Callable[[S], bool | Iterable[object]]
    what: str
    why: str
    mend: str

    def findings(self, check: Check, seen: S) -> Iterator[Finding]:
        """The findings of this rule."""
        found = self.when(seen)
        items = [None] * found if isinstance(found, bool) else found
        for item in items:
            severity = self.severity if isinstance(self.severity, Severity) else self.severity(seen, item)
            what, why, mend = (text.format(seen=seen, item=item) for text in (self.what, self.why, self.mend))
            yield Finding(check, severity, self.code, what, why, mend)


def judged(check: Check, rules: Iterable[Rule[S]], seen: S) -> list[Finding]:
    """The findings of the rules, in the rules' order."""
    return [finding for rule in rules for finding in rule.findings(check, seen)]


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
