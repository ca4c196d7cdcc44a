"""`receiver serve`: the service itself."""

from __future__ import annotations

import os
from dataclasses import replace

import click

from receiver.serving.instance import Service
from receiver.serving.process import run
from receiver.settings import Settings
from receiver.tasks import registry as registries
from receiver.tasks.registry import Registry
from receiver.telemetry import logs, uncaught
from receiver.telemetry.events import Emit, Event, ReceiverTrouble

LONGEST_TIMEOUT = 3600.0
"""Seconds: the longest timeout that a route may have."""


@click.command("serve")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104 - a container's
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: $PORT, or 8080]")
@click.option(
    "--no-deadlines", is_flag=True, hidden=True, help="Give every task an hour; for receiver dev --debug."
)
def command(host: str, port: int | None, *, no_deadlines: bool) -> None:
    """Receive pushes and run tasks, until SIGTERM."""
    settings = Settings.from_environ(os.environ)
    emit = logs.configure(settings)
    uncaught.watch(emit)
    registry = registries.load(settings)
    if no_deadlines:
        registry = Registry(
            [replace(route, timeout=LONGEST_TIMEOUT) for route in registry.declared], registry.modules
        )
        emit = _undisturbed(emit)
    service = Service(settings, registry, emit=emit)
    run(service, host=host, port=settings.port if port is None else port)


def _undisturbed(emit: Emit) -> Emit:
    """Leaves out the watchdog's warnings: at a breakpoint() the loop stands still on purpose."""

    def quieter(event: Event) -> None:
        if not (isinstance(event, ReceiverTrouble) and event.what == "event loop blocked"):
            emit(event)

    return quieter
