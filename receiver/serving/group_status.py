"""`GET /tasks/status?group=KEY`: how far a group has come, for whoever knows its key. Served with `TASKS_STATUS=on`.

Anybody may ask, so that asking takes nothing from the claims: one look at a time, each of one statement, and an answer stands for a
second. A key is as good as a password to what it shows, which is why that is little: no arguments, no results, no errors.

Next: `receiver.reading.groups` looks.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import PlainTextResponse, Response

from receiver.errors import DatabaseUnavailable
from receiver.reading.groups import find_group
from receiver.text import MAX_KEY_BYTES, is_key

if TYPE_CHECKING:
    from starlette.requests import Request

    from receiver.record.database import Executor

PATH: Final = "/tasks/status"

AGE: Final = 1.0
"""Seconds for which an answer is given again."""

REMEMBERED: Final = 256
"""Answers that are kept: pages that many people look at. Of a thousand units each they are 15 MB."""

WAITING: Final = 100
"""Requests that may wait for their look; a flood is told to come again."""

HEADERS: Final = {"cache-control": "no-store"}


class GroupStatus:
    """The endpoint of one receiver's groups."""

    def __init__(self, executor: Executor, namespace: str) -> None:
        self._executor = executor
        self._namespace = namespace
        self._looking = asyncio.Lock()
        self._waiting = 0
        self._seen: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._failed = -AGE

    async def __call__(self, request: Request) -> Response:
        """200 with the group; 400 without a key, 429 when too many ask, 503 when the database does not answer."""
        key = request.query_params.get("group", "")
        if not is_key(key):
            return _text(f"Give ?group= the key of a group, of 1 to {MAX_KEY_BYTES} bytes.", 400)
        if self._waiting >= WAITING:
            return _text("Too many are asking. Ask again in a second.", 429)
        self._waiting += 1
        try:
            async with self._looking:
                body = await self._look(key)
        except DatabaseUnavailable:
            self._failed = time.monotonic()
            return _text("The database does not answer.", 503)
        finally:
            self._waiting -= 1
        return Response(body, media_type="application/json", headers=HEADERS)

    async def _look(self, key: str) -> bytes:
        now = time.monotonic()
        at, body = self._seen.get(key, (0.0, b""))
        if not body or now - at > AGE:
            if now - self._failed < AGE:  # who waited behind a look that failed need not wait for another
                raise DatabaseUnavailable("it did not answer a moment ago")
            group = await find_group(self._executor, key, namespace=self._namespace)
            body = msgspec.json.encode(group)
            self._seen[key] = (time.monotonic(), body)
            self._seen.move_to_end(key)
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return body


def _text(sentence: str, status: int) -> Response:
    return PlainTextResponse(sentence, status, headers=HEADERS)
