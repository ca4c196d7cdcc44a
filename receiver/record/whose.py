"""Whose rows a statement touches: those of one receiver (`TASKS_NAMESPACE`) in one environment (`TASKS_ENVIRONMENT`).

Invariant: every statement that publishes, claims, shows, counts, replays or prunes rows names both. A copy of production's
database that staging uses holds production's rows, and staging must not publish them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from receiver.settings import Settings


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
