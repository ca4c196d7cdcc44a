"""Lists that Google's APIs give page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from receiver.google.client import GoogleClient


async def every_page(
    client: GoogleClient, url: str, field: str, size: int, retries: int
) -> list[dict[str, Any]]:
    """What all pages of a list hold under `field`. `size` is asked for; Google may give less, an empty page too."""
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        params = {"pageSize": str(size)} | ({"pageToken": token} if token else {})
        page = await client.request("GET", url, params=params, retries=retries)
        found += page.get(field, [])
        token = page.get("nextPageToken", "")
        if not token:
            return found
