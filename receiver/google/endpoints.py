"""The addresses of Google's APIs, or of stand-ins for laptops and tests.

Invariant: an address is https at googleapis.com, or plain http on this machine (for Pub/Sub also on a private network, as in a
compose file). `receiver.google.client` sends a token only to the first kind. `Settings` refuses stand-ins on Cloud Run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from receiver.settings import Settings


PUBSUB: Final = "https://pubsub.googleapis.com/v1"
SCHEDULER: Final = "https://cloudscheduler.googleapis.com/v1"
RESOURCE_MANAGER: Final = "https://cloudresourcemanager.googleapis.com/v3"
IAM: Final = "https://iam.googleapis.com/v1"
RUN: Final = "https://run.googleapis.com/v2"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The base address of each API, its version included, without a slash at the end."""

    pubsub: str = PUBSUB
    scheduler: str = SCHEDULER
    resource_manager: str = RESOURCE_MANAGER
    iam: str = IAM
    run: str = RUN

    @classmethod
    def of(cls, settings: Settings) -> Endpoints:
        """Google's. `PUBSUB_EMULATOR_HOST` replaces Pub/Sub, and `TASKS_SCHEDULER_ENDPOINT` all the others."""
        pubsub = f"http://{settings.pubsub_emulator}/v1" if settings.pubsub_emulator else PUBSUB
        elsewhere = settings.scheduler_endpoint
        if elsewhere is None:
            return cls(pubsub=pubsub)
        return cls(pubsub, f"{elsewhere}/v1", f"{elsewhere}/v3", f"{elsewhere}/v1", f"{elsewhere}/v2")
