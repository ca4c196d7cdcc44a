"""Who this process is to Google: an access token, refreshed ahead of its end.

google-auth finds the credentials (a key file, `gcloud auth application-default login`, workload identity, the metadata
server) and refreshes them. It blocks while it waits, so it runs in a thread.

Invariants: one refresh at a time, and a waiter that is cancelled does not end it. A token that is still good is never waited
for. No error and no log line has a part of a token.

Next: `receiver.google.client` asks for headers before every request.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import google.auth
from google.auth import exceptions
from google.auth.credentials import TokenState

from receiver.errors import GoogleUnavailable, NoCredentials

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests
    from google.auth.credentials import Credentials as GoogleCredentials
    from google.auth.transport.requests import Request

CLOUD_PLATFORM: Final = "https://www.googleapis.com/auth/cloud-platform"

TOKEN_TIMEOUT: Final = 20.0
"""Seconds to wait for a token. Without credentials google-auth looks for the metadata server for up to 12 s."""

HINT: Final = (
    "run `gcloud auth application-default login`, name a key file in GOOGLE_APPLICATION_CREDENTIALS, "
    "or give the service a service account"
)


class Credentials:
    """Headers that say who we are, for one event loop.

    Args:
        find: finds the credentials; called in a thread.
    """

    def __init__(self, find: Callable[[], GoogleCredentials] | None = None) -> None:
        self._find = find or partial(_default, CLOUD_PLATFORM)
        self._found: GoogleCredentials | None = None
        self._refresh: asyncio.Task[GoogleCredentials] | None = None

    async def headers(self) -> dict[str, str]:
        """`authorization`, and the project that pays where the credentials name one.

        A stale token (less than 225 s left, as google-auth defines it) is used, and replaced in the background.

        Raises:
            NoCredentials: there are none here, or they are refused.
            GoogleUnavailable: the token server does not answer.
        """
        found = self._found
        if found is None or found.token_state is not TokenState.FRESH:
            refresh = self._start()
            if found is None or found.token_state is TokenState.INVALID:
                try:
                    found = await asyncio.wait_for(asyncio.shield(refresh), TOKEN_TIMEOUT)
                except TimeoutError:
                    raise GoogleUnavailable(f"no access token within {TOKEN_TIMEOUT:g} s") from None
        headers: dict[str, str] = {}
        found.apply(headers)
        return headers

    def forget(self) -> None:
        """The token was refused: the next request gets a new one."""
        if self._found is not None:
            self._found.token = None

    async def close(self) -> None:
        """Ends the wait for a refresh under way."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait({self._refresh})

    def _start(self) -> asyncio.Task[GoogleCredentials]:
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._run(), name="refresh Google credentials")
            # Nobody may wait for it. If it fails, the next request starts another one.
            self._refresh.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._refresh

    async def _run(self) -> GoogleCredentials:
        self._found = await asyncio.to_thread(_refreshed, self._found, self._find)
        return self._found


class AccessToken:
    """A token with one scope, for servers that are not Google's APIs. Threads may share it.

    Args:
        scope: what the token is for.
        find: as for `Credentials`.
    """

    def __init__(self, scope: str, find: Callable[[], GoogleCredentials] | None = None) -> None:
        self._find = find or partial(_default, scope)
        self._found: GoogleCredentials | None = None

    def fetch(self) -> tuple[str, str | None]:
        """The token, and the service account's address where it is known. Blocks.

        It is kept until shortly before its end (225 s, as google-auth defines it), or to its end while no other can be had.

        Raises:
            NoCredentials, GoogleUnavailable: as `Credentials.headers`.
        """
        found = self._found
        if found is None or found.token_state is not TokenState.FRESH:
            try:
                found = self._found = _refreshed(found, self._find)
            except GoogleUnavailable:
                if found is None or found.token_state is TokenState.INVALID:
                    raise
        return str(found.token), getattr(found, "service_account_email", None)

    def forget(self) -> None:
        """The token was refused: the next one is new."""
        self._found = None


def _refreshed(found: GoogleCredentials | None, find: Callable[[], GoogleCredentials]) -> GoogleCredentials:
    """The credentials, with a new token; in a thread."""
    try:
        found = found or find()
        found.refresh(_request())
    except exceptions.DefaultCredentialsError as error:
        raise NoCredentials(f"there are no Google credentials here; {HINT}") from error
    except exceptions.GoogleAuthError as error:
        # The metadata server's outage is a RefreshError around the TransportError, and not called retryable.
        away = isinstance(error, exceptions.TransportError) or isinstance(
            error.__cause__, exceptions.TransportError
        )
        if away or getattr(error, "retryable", False):
            raise GoogleUnavailable(f"no access token ({_line(error)})") from error
        raise NoCredentials(f"Google refuses the credentials ({_line(error)}); {HINT}") from error
    return found


def _request() -> Request:
    """How google-auth sends its requests. Plain http is the metadata server's: no proxy of the environment may see it."""
    import requests  # noqa: PLC0415 - a slow import: off the loop, and never for an emulator
    from google.auth.transport.requests import Request  # noqa: PLC0415 - as above
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 - as above

    class Direct(HTTPAdapter):
        def send(self, *args: Any, **options: Any) -> requests.Response:
            return super().send(*args, **options | {"proxies": None})

    session = requests.Session()
    session.mount("http://", Direct())
    return Request(session)


def _default(scope: str) -> GoogleCredentials:
    # Without this, a laptop without credentials logs three warnings before the error: no metadata server answers there.
    logging.getLogger("google.auth.compute_engine._metadata").setLevel(logging.ERROR)
    found: GoogleCredentials
    found, _ = google.auth.default(scopes=[scope], request=_request())
    return found


def _line(error: exceptions.GoogleAuthError) -> str:
    """What went wrong, in one line: the first argument. The others hold whole answers."""
    text = str(error.args[0]) if error.args else type(error).__name__
    return " ".join(text.split())[:200]
