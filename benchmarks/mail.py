"""The task that is enqueued: in a module, because a script's own has no name that a receiver knows."""

from __future__ import annotations

from receiver import task


@task
def send_mail(user: str, *, language: str = "en") -> None:
    """Is never run."""
