"""Cloud Scheduler's jobs as resources: listed, read, made, changed and deleted.

Bodies are Cloud Scheduler's own REST resources, without the name. Next: `receiver.provision.cloud` asks here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from receiver.google.pages import every_page
from receiver.provision.admin import PATIENCE

if TYPE_CHECKING:
    from receiver.google.client import GoogleClient

PAGE: Final = 500
"""Jobs a page: Cloud Scheduler's limit."""


class SchedulerJobs:
    """Scheduler jobs. Names are full: `projects/{project}/locations/{location}/jobs/{job}`."""

    def __init__(self, client: GoogleClient, base: str) -> None:
        self._client = client
        self._base = base

    async def listed(self, parent: str) -> list[dict[str, Any]]:
        """All jobs of a location, `projects/{project}/locations/{location}`. Raises GoogleMissing: no such location."""
        return await every_page(self._client, f"{self._url(parent)}/jobs", "jobs", PAGE, PATIENCE)

    async def get(self, name: str) -> dict[str, Any]:
        """One job. Raises GoogleMissing."""
        found: dict[str, Any] = await self._client.request("GET", self._url(name), retries=PATIENCE)
        return found

    async def create(self, name: str, body: Mapping[str, Any]) -> None:
        """Makes one. Raises GoogleConflict, also when an answer was lost and the repeated request finds it made."""
        parent = name.rpartition("/jobs/")[0]
        await self._client.request(
            "POST",
            f"{self._url(parent)}/jobs",
            body={"name": name, **body},
            retries=PATIENCE,
            repeatable=True,
        )

    async def update(self, name: str, body: Mapping[str, Any], mask: Sequence[str]) -> None:
        """Changes the fields that the mask names. Whether it is paused stays as it is."""
        await self._client.request(
            "PATCH",
            self._url(name),
            params={"updateMask": ",".join(mask)},
            body={"name": name, **body},
            retries=PATIENCE,
        )

    async def delete(self, name: str) -> None:
        """Deletes one. Raises GoogleMissing."""
        await self._client.request("DELETE", self._url(name), retries=PATIENCE)

    def _url(self, name: str) -> str:
        return f"{self._base}/{quote(name, safe='/:')}"
