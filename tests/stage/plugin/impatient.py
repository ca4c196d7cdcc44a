"""For `TASKS_SETUP`: an instance that does not wait a minute."""

from __future__ import annotations

from receiver.record import logins


def hurry() -> None:
    """Gives up on refused logins after half a second."""
    logins.LASTING = 0.5  # type: ignore[misc]  # a constant of the product's
