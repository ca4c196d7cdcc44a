"""Pub/Sub's topics and subscriptions as resources: listed, read, made, changed and deleted.

Bodies are Pub/Sub's own REST resources, without the name. Publishing is `receiver.google.pubsub`'s.
Next: `receiver.provision.cloud` asks here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from receiver.google.pages import every_page

if TYPE_CHECKING:
    from receiver.google.client import GoogleClient

PAGE: Final = 1000
"""Resources a page: Pub/Sub's limit."""

PATIENCE: Final = 8
"""Tries after the first: about half a minute, for a quota that is counted by the minute."""

_KINDS: Final = {"topics": "topic", "subscriptions": "subscription"}


class PubsubResources:
    """Topics and subscriptions. Names are full: `projects/{project}/topics/{topic}`."""

    def __init__(self, client: GoogleClient, base: str) -> None:
        self._client = client
        self._base = base

    async def listed(self, project: str, kind: str) -> list[dict[str, Any]]:
        """All `topics` or `subscriptions` of a project, a request for each thousand."""
        url = f"{self._base}/projects/{quote(project, safe=':')}/{kind}"
        return await every_page(self._client, url, kind, PAGE, PATIENCE)

    async def get(self, name: str) -> dict[str, Any]:
        """One of them. Raises GoogleMissing."""
        found: dict[str, Any] = await self._client.request("GET", self._url(name), retries=PATIENCE)
        return found

    async def create(self, name: str, body: Mapping[str, Any]) -> None:
        """Makes one. Raises GoogleConflict, also when an answer was lost and the repeated request finds it made."""
        await self._client.request("PUT", self._url(name), body=dict(body), retries=PATIENCE)

    async def update(self, name: str, body: Mapping[str, Any], mask: Sequence[str]) -> None:
        """Changes the fields that the mask names to what the body says of them; absent there is absent then."""
        kind = _KINDS[name.split("/")[2]]
        update = {kind: {"name": name, **body}, "updateMask": ",".join(mask)}
        await self._client.request("PATCH", self._url(name), body=update, retries=PATIENCE)

    async def delete(self, name: str) -> None:
        """Deletes one. Raises GoogleMissing."""
        await self._client.request("DELETE", self._url(name), retries=PATIENCE)

    def _url(self, name: str) -> str:
        return f"{self._base}/{quote(name, safe='/:')}"
