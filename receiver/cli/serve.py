"""`receiver serve`: the service itself."""

from __future__ import annotations

import os
import sys

import click

from receiver.server import run
from receiver.service import Service
from receiver.settings import Settings
from receiver.telemetry import logs


@click.command("serve")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104 - a container's
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: $PORT, or 8080]")
def command(host: str, port: int | None) -> None:
    """Receive pushes and run tasks, until SIGTERM."""
    settings = Settings.from_environ(os.environ)
    service = Service(settings, emit=logs.configure(settings))
    sys.exit(run(service, host=host, port=settings.port if port is None else port))
