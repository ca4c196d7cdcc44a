"""The addresses of Google's APIs, or of stand-ins for laptops and tests.

Invariant: an address is https at googleapis.com, or plain http on this machine (for Pub/Sub also on a private network, as in a
compose file). `receiver.google.client` sends a token only to the first kind. `Settings` refuses stand-ins on Cloud Run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.settings import Settings


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The base address of each API, its version included, without a slash at the end."""

    pubsub: str = "https://pubsub.googleapis.com/v1"
    scheduler: str = "https://cloudscheduler.googleapis.com/v1"
    resource_manager: str = "https://cloudresourcemanager.googleapis.com/v3"
    iam: str = "https://iam.googleapis.com/v1"
    run: str = "https://run.googleapis.com/v2"

    @classmethod
    def of(cls, settings: Settings) -> Endpoints:
        """Google's. `PUBSUB_EMULATOR_HOST` replaces Pub/Sub, and `TASKS_SCHEDULER_ENDPOINT` all the others."""
        pubsub = f"http://{settings.pubsub_emulator}/v1" if settings.pubsub_emulator else cls().pubsub
        elsewhere = settings.scheduler_endpoint
        if elsewhere is None:
            return cls(pubsub)
        return cls(pubsub, f"{elsewhere}/v1", f"{elsewhere}/v3", f"{elsewhere}/v1", f"{elsewhere}/v2")
