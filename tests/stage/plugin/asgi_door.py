"""A library that watches requests: it replaces Starlette's `__call__`, as Sentry's does, so that pushes come by ASGI."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send


def watch() -> None:
    """TASKS_SETUP."""
    unwatched = Starlette.__call__

    async def watched(app: Starlette, scope: Scope, receive: Receive, send: Send) -> None:
        await unwatched(app, scope, receive, send)

    Starlette.__call__ = watched  # type: ignore[assignment]  # as such libraries do
