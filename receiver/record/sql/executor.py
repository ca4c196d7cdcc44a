"""What a statement needs of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Executor(Protocol):
    """A connection, or something that has one: `Lane`, `Lanes`, asyncpg's own, or the task's transaction."""

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]:
        """The rows of one statement, its arguments in the order of $1, $2, ..."""
