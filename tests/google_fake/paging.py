"""Lists in pages, with tokens that say nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from tests.google_fake.discovery import Refused


def page(kind: str, found: Sequence[Any], query: Mapping[str, str], limit: int) -> dict[str, Any]:
    """The page that the query asks for; nothing at all of an empty list, as proto3's JSON has it."""
    size = min(int(query.get("pageSize", "0")) or 100, limit)
    try:
        start = int(base64.b64decode(query.get("pageToken", "")) or b"0")
    except ValueError:
        raise Refused(400, "INVALID_ARGUMENT", "Invalid page token.") from None
    rest = found[start + size :]
    token = {"nextPageToken": base64.b64encode(str(start + size).encode()).decode()} if rest else {}
    shown = list(found[start : start + size])
    return ({kind: shown} if shown else {}) | token
