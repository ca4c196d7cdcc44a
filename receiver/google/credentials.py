"""Who this process is to Google: an access token, refreshed ahead of its end.

google-auth finds and refreshes the credentials (a service account's file, `gcloud auth application-default login`, workload
identity), in a thread, because it waits for its answers. On Cloud Run it is the metadata server that knows; google-auth's own
client for it needs the library `requests`, so that the two requests it takes are made here.

Invariants: one refresh at a time, and no waiter's cancellation ends it; a token that is still good is never waited for. Nothing
of a token is in an error or a log.

Next: `receiver.google.client` asks for headers before every request.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import google.auth
import httpx
from google.auth import credentials as google_credentials
from google.auth import exceptions, transport

from receiver.errors import GoogleUnavailable, NoCredentials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"

STALE: Final = 225.0
"""Seconds before its end at which a token is replaced in the background. The metadata server hands out the old one until it
has less than 5 minutes left, so that earlier would be in vain."""

MARGIN: Final = 15.0
"""Seconds before its end from which a token is not used any more: a request takes its time, and clocks differ."""

REFRESH_INTERVAL: Final = 10.0
"""Seconds between two refreshes in the background."""

ANSWER_TIMEOUT: Final = 10.0
"""Seconds for each answer of a token server, unless google-auth says otherwise."""

METADATA_TIMEOUT: Final = 3.0
"""Seconds for the metadata server, which is on the same machine; elsewhere its name is not known."""

HINT: Final = (
    "run `gcloud auth application-default login`, name a key file in GOOGLE_APPLICATION_CREDENTIALS, "
    "or give the service a service account"
)


class Credentials:
    """Headers that say who we are, for one event loop.

    Args:
        find: finds the credentials; called in a thread, and its refresh too.
    """

    def __init__(self, find: Callable[[], google_credentials.Credentials] | None = None) -> None:
        self._find = find or found
        self._found: google_credentials.Credentials | None = None
        self._headers: dict[str, str] = {}
        self._ends = 0.0
        self._refreshed_at = 0.0
        self._refresh: asyncio.Task[None] | None = None

    async def headers(self) -> Mapping[str, str]:
        """`authorization`, and the project that pays where the credentials name one.

        Raises:
            NoCredentials: there are none here, or they are refused.
            GoogleUnavailable: whoever makes the tokens does not answer.
        """
        now = time.time()
        if now >= self._ends - MARGIN:
            await asyncio.shield(self._start())
        elif now >= self._ends - STALE and now - self._refreshed_at >= REFRESH_INTERVAL:
            self._start()
        return self._headers

    def forget(self) -> None:
        """The token was refused: the next request gets a new one."""
        self._ends = 0.0

    async def close(self) -> None:
        """Ends the wait for a refresh under way."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait({self._refresh})

    def _start(self) -> asyncio.Task[None]:
        if self._refresh is None:
            self._refreshed_at = time.time()
            self._refresh = asyncio.create_task(self._run(), name="refresh Google credentials")
            self._refresh.add_done_callback(_heard)
        return self._refresh

    async def _run(self) -> None:
        try:
            self._headers, self._ends = await asyncio.to_thread(self._renewed)
        finally:
            self._refresh = None

    def _renewed(self) -> tuple[dict[str, str], float]:
        """New headers, and when they end; in a thread."""
        try:
            if self._found is None:
                self._found = self._find()
            self._found.refresh(Request())
        except exceptions.DefaultCredentialsError as error:
            raise NoCredentials(f"there are no Google credentials here; {HINT}") from error
        except exceptions.TransportError as error:
            raise GoogleUnavailable(f"no access token ({_line(error)})") from error
        except exceptions.GoogleAuthError as error:
            if getattr(error, "retryable", False):
                raise GoogleUnavailable(f"no access token ({_line(error)})") from error
            raise NoCredentials(f"Google refuses the credentials ({_line(error)}); {HINT}") from error
        headers: dict[str, str] = {}
        self._found.apply(headers)
        return headers, _timestamp(self._found.expiry)


class Request(transport.Request):
    """How google-auth makes its requests: with httpx, which is a dependency already."""

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Response:
        """One request; errors of the transport as google-auth knows them."""
        try:
            answer = httpx.request(
                method, url, content=body, headers=headers, timeout=timeout or ANSWER_TIMEOUT
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise exceptions.TransportError(f"{type(error).__name__} at {httpx.URL(url).host}") from error
        return Response(answer)


class Response(transport.Response):
    """An answer, as google-auth reads one."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._answer.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, found whatever their case."""
        return self._answer.headers

    @property
    def data(self) -> bytes:
        """Its body."""
        return self._answer.content


class MetadataCredentials(google_credentials.Credentials):
    """The service account that the platform runs this process as, by the metadata server."""

    def refresh(self, request: Callable[..., Any]) -> None:
        """Fetches the account's token.

        Raises:
            RefreshError: it has no account, or answered something else than a token.
            TransportError: the metadata server does not answer.
        """
        answer = request(
            f"{_metadata_server()}/computeMetadata/v1/instance/service-accounts/default/token?scopes={SCOPE}",
            headers={"metadata-flavor": "Google"},
            timeout=METADATA_TIMEOUT,
        )
        if answer.status != httpx.codes.OK:
            retryable = answer.status >= httpx.codes.INTERNAL_SERVER_ERROR
            raise exceptions.RefreshError(f"the metadata server answers {answer.status}", retryable=retryable)
        try:
            told = json.loads(answer.data)
            self.token = str(told["access_token"])
            left = timedelta(seconds=float(told["expires_in"]))
        except (ValueError, KeyError, TypeError) as error:
            raise exceptions.RefreshError("the metadata server answers no token", retryable=True) from error
        self.expiry = datetime.now(UTC).replace(tzinfo=None) + left


def found() -> google_credentials.Credentials:
    """Application default credentials.

    Raises:
        DefaultCredentialsError: there are none.
    """
    request = Request()
    # On Cloud Run nobody has logged in: what google-auth would look for first is not there, and it would warn.
    if not _on_cloud_run():
        try:
            credentials, _ = google.auth.default(scopes=[SCOPE], request=request)
        except exceptions.DefaultCredentialsError:
            if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or not _metadata_answers(request):
                raise
        else:
            assert isinstance(credentials, google_credentials.Credentials)  # noqa: S101 - the library does not say so
            return credentials
    return MetadataCredentials()


def _on_cloud_run() -> bool:
    named = bool(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"))
    return not named and any(os.environ.get(name) for name in ("K_SERVICE", "CLOUD_RUN_JOB"))


def _metadata_answers(request: Request) -> bool:
    if os.environ.get("NO_GCE_CHECK") == "true":
        return False
    try:
        answer = request(_metadata_server(), headers={"metadata-flavor": "Google"}, timeout=METADATA_TIMEOUT)
    except exceptions.TransportError:
        return False
    return answer.headers.get("metadata-flavor") == "Google"


def _metadata_server() -> str:
    """Its address; the variable is google-auth's own."""
    return f"http://{os.environ.get('GCE_METADATA_HOST') or 'metadata.google.internal'}"


def _timestamp(expiry: datetime | None) -> float:
    """Seconds since 1970; google-auth's times are in UTC without saying so."""
    if expiry is None:
        return float("inf")
    return (expiry if expiry.tzinfo else expiry.replace(tzinfo=UTC)).timestamp()


def _heard(refresh: asyncio.Task[None]) -> None:
    """A refresh in the background that failed is tried again; who needs its token by then is told."""
    if not refresh.cancelled():
        refresh.exception()


def _line(error: exceptions.GoogleAuthError) -> str:
    """What went wrong, in one line: the first argument, the others hold whole answers."""
    text = str(error.args[0]) if error.args else type(error).__name__
    return " ".join(text.split())[:200]
