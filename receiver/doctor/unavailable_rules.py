"""Rules for a record that could not be looked at: is it away, or does it refuse us?"""

from __future__ import annotations

from typing import Final

from receiver.doctor.findings import Rule, Severity
from receiver.errors import DatabaseUnavailable
from receiver.record.sqlstates import NotConnected

UNAVAILABLE_RULES: Final[tuple[Rule[DatabaseUnavailable], ...]] = (
    Rule(
        Severity.ERROR,
        "database-refuses",
        lambda seen: isinstance(seen, NotConnected),
        "the database refuses the connection: {seen}",
        "a service with the same address and password is refused as well",
        "check DATABASE_URL and DATABASE_PASSWORD",
    ),
    Rule(
        Severity.ERROR,
        "database-unreachable",
        lambda seen: not isinstance(seen, NotConnected),
        "the database cannot be reached from here: {seen}",
        "a service in the same place answers every push 500",
        "check DATABASE_URL; where the database is private, run this as a job in its network (docs/deploy.md)",
    ),
)
