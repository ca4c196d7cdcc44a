"""`GET /tasks/status?group=KEY`: the progress of a group, for everybody who knows its key. Served with `TASKS_STATUS=on`.

Anybody may ask, so requests must not slow the claims: one statement at a time, and an answer is kept for a
second. The key is the only password, so the answer has no arguments, no results and no errors.

Next: `receiver.reading.groups` reads the record.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from receiver.errors import DatabaseUnavailable
from receiver.reading.groups import find_group
from receiver.record.database import Executor
from receiver.record.whose import Whose
from receiver.text import MAX_KEY_BYTES, is_key

STATUS_PATH: Final = "/tasks/status"

GIVEN_AGAIN_FOR: Final = 1.0
"""Seconds for which an answer is given again."""

MOST_ANSWERS: Final = 256
"""Answers that are kept. With a thousand units each they take 15 MB."""

MOST_WAITING: Final = 100
"""Requests that may wait for the database; others get 429."""

HEADERS: Final = {"cache-control": "no-store"}


class GroupStatus:
    """The endpoint of one receiver's groups."""

    def __init__(self, executor: Executor, whose: Whose) -> None:
        self._executor = executor
        self._whose = whose
        self._looking = asyncio.Lock()
        self._waiting = 0
        self._seen: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._failed = -GIVEN_AGAIN_FOR

    async def answer(self, request: Request) -> Response:
        """200 with the group; 400 without a key, 429 when too many ask, 503 when the database does not answer."""
        key = request.query_params.get("group", "")
        if not is_key(key):
            return _text(f"Give ?group= the key of a group, of 1 to {MAX_KEY_BYTES} bytes.", 400)
        known = self._known(key)  # however many ask for others
        if known is not None:
            return _found(known)
        if self._waiting >= MOST_WAITING:
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
        return _found(body)

    def _known(self, key: str) -> bytes | None:
        at, body = self._seen.get(key, (0.0, b""))
        return body if body and time.monotonic() - at <= GIVEN_AGAIN_FOR else None

    async def _look(self, key: str) -> bytes:
        known = self._known(key)
        if known is not None:
            return known
        # A request that waited behind a failure does not wait for another one.
        if time.monotonic() - self._failed < GIVEN_AGAIN_FOR:
            raise DatabaseUnavailable("it did not answer a moment ago")
        body = msgspec.json.encode(await find_group(self._executor, key, whose=self._whose))
        self._seen[key] = (time.monotonic(), body)
        self._seen.move_to_end(key)
        if len(self._seen) > MOST_ANSWERS:
            self._seen.popitem(last=False)
        return body


def _found(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers=HEADERS)


def _text(sentence: str, status: int) -> Response:
    return PlainTextResponse(sentence, status, headers=HEADERS)
