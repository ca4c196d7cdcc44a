"""`receiver serve`: the service itself."""

from __future__ import annotations

import os

import click

from receiver.errors import SettingError
from receiver.hosts import LOOPBACK, is_loopback
from receiver.serving.instance import Service
from receiver.serving.process import run
from receiver.settings import Settings
from receiver.tasks import registry as registries
from receiver.telemetry import logs, uncaught
from receiver.telemetry.events import Emit, Event, ReceiverTrouble

MEND = "use --host 127.0.0.1, or set TASKS_PUSH_AUTH_OFF_ANYWHERE=on"

LONGEST_TIMEOUT = 3600.0
"""Seconds: the longest timeout that a route may have."""


@click.command("serve")
@click.option("--host", help="Address to listen on.  [default: 0.0.0.0; 127.0.0.1 with TASKS_PUSH_AUTH=off]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: $PORT, or 8080]")
@click.option(
    "--no-deadlines", is_flag=True, hidden=True, help="Give every task an hour; for receiver dev --debug."
)
def command(host: str | None, port: int | None, *, no_deadlines: bool) -> None:
    """Receive pushes and run tasks, until SIGTERM."""
    settings = Settings.from_environ(os.environ)
    host = _host(host, settings)
    emit = logs.configure(settings)
    uncaught.watch(emit)
    registry = registries.load(settings)
    if no_deadlines:
        registry = registry.with_timeout(LONGEST_TIMEOUT)
        emit = _undisturbed(emit)
    service = Service(settings, registry, emit=emit)
    run(service, host=host, port=settings.port if port is None else port)


def _host(asked: str | None, settings: Settings) -> str:
    """Where to listen: everywhere, as in a container; on loopback while pushes need no token.

    Raises:
        SettingError: the address is not loopback, and they need none.
    """
    if not settings.on_loopback_only:
        return asked or "0.0.0.0"  # noqa: S104 - a container's
    if asked is not None and not is_loopback(asked):
        raise SettingError("TASKS_PUSH_AUTH", "off", f"everybody who reaches {asked} could run tasks: {MEND}")
    return asked or LOOPBACK


def _undisturbed(emit: Emit) -> Emit:
    """Leaves out the watchdog's warnings: at a breakpoint() the loop stands still on purpose."""

    def quieter(event: Event) -> None:
        if not (isinstance(event, ReceiverTrouble) and event.what == "event loop blocked"):
            emit(event)

    return quieter
