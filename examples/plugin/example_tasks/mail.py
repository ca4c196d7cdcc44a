"""Mail: an `async def` task."""

from __future__ import annotations

import logging
from typing import TypedDict

from receiver import task

logger = logging.getLogger(__name__)


class Sent(TypedDict):
    user_id: str
    subject: str


@task
async def send_welcome_email(user_id: str, language: str = "en") -> Sent:
    """What it returns is stored as the execution's result: keep it small, and free of secrets."""
    subject = {"de": "Willkommen", "fr": "Bienvenue"}.get(language, "Welcome")
    logger.info("sending %r to user %s", subject, user_id)  # here a real shop would await its mail provider
    return {"user_id": user_id, "subject": subject}
