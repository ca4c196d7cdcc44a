"""Pages of a browser have no business with the local Pub/Sub: a site that a developer visits could publish tasks.

A page may post text to any port of the machine that it runs on, without asking anybody. Browsers mark such requests
with `Origin` or `Sec-Fetch-Site`, which no page can leave out; and a name that was bent to this machine stands in
`Host`. Clients of Pub/Sub send neither mark, and name the loopback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

from receiver.parsers import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MARKS: Final = frozenset({b"origin", b"sec-fetch-site"})


class NoBrowsers:
    """ASGI around an app: 403 for what a page of a browser sends, and for any name but this machine's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        app = self._app
        if scope["type"] == "http" and not _is_a_client(scope["headers"]):
            app = PlainTextResponse("Only programs on this machine may ask.", 403)
        await app(scope, receive, send)


def _is_a_client(headers: list[tuple[bytes, bytes]]) -> bool:
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    return MARKS.isdisjoint(name for name, _ in headers) and all(_is_here(host) for host in hosts)


def _is_here(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
