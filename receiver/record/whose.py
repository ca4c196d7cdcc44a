"""Whose rows a statement touches: those of one receiver (`TASKS_NAMESPACE`) in one environment (`TASKS_ENVIRONMENT`).

Invariant: every statement that publishes, claims, shows, counts, replays or prunes rows names both. A copy of production's
database that staging uses holds production's rows, and staging must not publish them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from receiver.settings import Settings

OWNER: Final = "((namespace || '/') || environment)"
"""Both in one text, in SQL: what the indexes by age begin with. Two columns would also fit the guards of claims and settlements: where
PostgreSQL knew nothing of the table, it took that index instead of the primary key, and a delivery cost twice as much."""

OURS: Final = f"{OWNER} = $1::text || '/' || $2::text"
"""The rows of one receiver and environment, where they are looked for by age."""


class Whose(NamedTuple):
    """The receiver and the environment that rows belong to."""

    namespace: str
    environment: str

    @classmethod
    def of(cls, settings: Settings) -> Whose:
        """This process's."""
        return cls(settings.namespace, settings.environment)

    def __str__(self) -> str:
        """In the words of the variables, as an operator sets them."""
        return f"TASKS_NAMESPACE={self.namespace} TASKS_ENVIRONMENT={self.environment}"
