"""`receiver push`: one signed push to a receiver on this machine, as Pub/Sub would send it.

The token is signed with a key of this folder (`.receiver/signing-key.pem`). The receiver accepts it because its
`TASKS_OIDC_CERTS_URL` is an address on this machine where that key's certificate is; when nobody serves it there, this
command does while it sends. A receiver that checks with Google's certificates cannot be pushed to from here.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import httpx

from receiver import maintenance, parsers
from receiver.cli import arguments, terminal
from receiver.dev.folder import FOLDER_NAME, KEY_FILE, Folder
from receiver.emulator.push_client import SUBSCRIPTION, Pusher, message
from receiver.emulator.signer import CERTS_PATH, Signer
from receiver.errors import ConfigurationError, SettingError
from receiver.hosts import is_loopback
from receiver.settings import PushAuth, Settings, Subscriptions
from receiver.tasks import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

SUGGESTION = "http://127.0.0.1:8081/certs"
COLD_RETRY = 1.1
"""Seconds until a receiver that found no certificates looks for them again (it waits 1 s)."""

LONGEST = 3700.0
"""Seconds to wait for an answer: no task may take longer than 3600."""
POLL = 0.1
"""Seconds between two looks for a receiver that is still starting."""


@click.command("push")
@click.argument("name")
@click.option("--args", "args", metavar="JSON", default="[]", help="Positional arguments, as a JSON array.")
@click.option("--kwargs", "kwargs", metavar="JSON", default="{}", help="Keyword arguments, as a JSON object.")
@click.option("--task-id", metavar="ID", help="The execution's id.  [default: a new one]")
@click.option(
    "--url",
    metavar="URL",
    help="The receiver, on this machine.  [default: its CLOUD_RUN_SERVICE_URL, or http://127.0.0.1:$PORT]",
)
@click.option(
    "--wait",
    type=click.FloatRange(0, 600),
    default=10.0,
    show_default=True,
    help="Seconds to wait for a receiver that is still starting.",
)
def command(*, name: str, args: str, kwargs: str, task_id: str | None, url: str | None, wait: float) -> None:
    """Send one signed push to a receiver on this machine; exit 0 when it answers 200."""
    positional, keywords = arguments.positional(args), arguments.keywords(kwargs)
    settings = arguments.settings()
    target = _target(url or _default(settings))
    try:
        body = message(
            name, positional, keywords, task_id=task_id, subscription=_subscription(settings, name)
        )
    except UnicodeEncodeError:
        raise ConfigurationError("name, id and arguments must be UTF-8 text") from None
    with httpx.Client(trust_env=False) as client, _signer(settings, client) as (signer, serving):
        pusher = Pusher(
            client, target, settings.service_url or target, settings.service_account or "", signer
        )
        answer = _send(pusher, body, wait)
        if answer.status_code == httpx.codes.FORBIDDEN and serving:
            time.sleep(COLD_RETRY)
            answer = _send(pusher, body)
    click.echo(f"{answer.status_code} {terminal.line(answer.text)}")
    if answer.status_code == httpx.codes.FORBIDDEN:
        click.echo(
            "hint: give receiver and push the same CLOUD_RUN_SERVICE_URL, TASKS_SERVICE_ACCOUNT and "
            "TASKS_OIDC_CERTS_URL; the receiver's log says what it missed",
            err=True,
        )
    if answer.status_code == httpx.codes.BAD_REQUEST:
        click.echo("hint: `receiver rejected list` says why", err=True)
    sys.exit(0 if answer.status_code == httpx.codes.OK else 1)


def _subscription(settings: Settings, name: str) -> str:
    """The subscription that the message says. With `TASKS_SUBSCRIPTIONS=own` it must be its task's own."""
    if settings.subscriptions is not Subscriptions.OWN:
        return SUBSCRIPTION
    route = registry.load(settings).including(maintenance.ROUTES).find(name)
    if route is None:
        return SUBSCRIPTION
    return f"projects/{settings.project_id}/subscriptions/{route.subscription_name}"


def _send(pusher: Pusher, body: bytes, wait: float = 0.0) -> httpx.Response:
    """The answer. Tries again only while no receiver listens, because then nothing was sent."""
    end = time.monotonic() + wait
    while True:
        try:
            return pusher.send(body, timeout=LONGEST)
        except httpx.ConnectError:
            if time.monotonic() >= end:
                terminal.fail(
                    f"no receiver answers at {pusher.url}; start one with `receiver serve`, or name it with --url"
                )
            time.sleep(POLL)
        except httpx.HTTPError as error:
            terminal.fail(f"no answer from {pusher.url} ({type(error).__name__})")


@contextmanager
def _signer(settings: Settings, client: httpx.Client) -> Iterator[tuple[Signer | None, bool]]:
    """The signer (None with push authentication off), and whether this command serves its certificate."""
    if settings.push_auth is PushAuth.OFF:
        yield None, False
        return
    for value, variable in (
        (settings.service_url, "CLOUD_RUN_SERVICE_URL"),
        (settings.service_account, "TASKS_SERVICE_ACCOUNT"),
    ):
        if value is None:
            raise SettingError(variable, None, "set it as the receiver has it: the token must say the same")
    host, port, path = _certificates_address(settings)
    folder = Folder(Path.cwd())
    folder.make()
    signer = Signer.load_or_create(folder.path / KEY_FILE)
    from receiver.emulator.in_thread import serve_certificates  # noqa: PLC0415 - loads a web server

    with ExitStack() as stack:
        serving = False
        if path == CERTS_PATH:
            with suppress(OSError):  # the port is in use: somebody serves there
                stack.enter_context(serve_certificates(signer, host, port))
                serving = True
        if not serving:
            _check_served(client, settings.certs_url, signer)
        yield signer, serving


def _certificates_address(settings: Settings) -> tuple[str, int, str]:
    parts = urlsplit(settings.certs_url)
    host = parts.hostname or ""
    if not is_loopback(host):
        raise SettingError(
            "TASKS_OIDC_CERTS_URL",
            settings.certs_url,
            f"nothing here can sign for it: set it to {SUGGESTION} for the receiver and for push",
        )
    if parts.scheme != "http":
        raise SettingError("TASKS_OIDC_CERTS_URL", settings.certs_url, f"to push from here use {SUGGESTION}")
    return host, parts.port or 80, parts.path


def _check_served(client: httpx.Client, url: str, signer: Signer) -> None:
    """What another process serves must contain this folder's key."""
    try:
        known = client.get(url, timeout=5).text
    except httpx.HTTPError:
        known = ""
    if signer.kid not in known:
        raise SettingError(
            "TASKS_OIDC_CERTS_URL",
            url,
            f"it does not know the key in {FOLDER_NAME}/{KEY_FILE}; start what does (`receiver dev`), or use {SUGGESTION} "
            "or another free port, for receiver and push",
        )


def _default(settings: Settings) -> str:
    """The address of the receiver: its CLOUD_RUN_SERVICE_URL, if that is on this machine."""
    parts = urlsplit(settings.service_url or "")
    is_here = parts.scheme == "http" and parts.port and is_loopback(parts.hostname or "")
    return settings.service_url if is_here and settings.service_url else f"http://127.0.0.1:{settings.port}"


def _target(url: str) -> str:
    """The receiver's address: http(s), on loopback, nothing after the port."""
    try:
        target = parsers.service_url(url)
    except parsers.Unreadable:
        target = ""
    if not is_loopback(urlsplit(target).hostname or ""):
        raise ConfigurationError(
            f"--url is {url!r}; push only goes to this machine: write it without path or query, such as "
            "http://127.0.0.1:8080"
        )
    return target
