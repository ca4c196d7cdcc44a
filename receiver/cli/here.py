"""The `receiver dev` of the working folder: every command that may ask it finds it, by `.receiver/env`.

Its variables are added to this process's where nothing says which place is meant. So a terminal with the variables of another
place never works on a mixture of the two.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from receiver.dev.folder import Folder
from receiver.errors import ConfigurationError, DatabaseUnavailable, GoogleUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.errors import ReceiverError

NOT_HERE: Final = frozenset({"demo", "dev", "init", "provision"})
"""Commands that never look: they start what they need, or are for the cloud. `serve` does not even import this."""

PLACE: Final = (
    "CLOUD_RUN_SERVICE_URL",
    "DATABASE_URL",
    "GCP_PROJECT_ID",
    "K_SERVICE",
    "PUBSUB_EMULATOR_HOST",
    "TASKS_SCHEDULER_ENDPOINT",
)
"""Variables that say which place is meant. One of them is enough."""

RECEIVER: Final = (
    "CLOUD_RUN_SERVICE_URL",
    "PORT",
    "TASKS_OIDC_CERTS_URL",
    "TASKS_PUSH_AUTH",
    "TASKS_SERVICE_ACCOUNT",
)
"""The same for `receiver push`: they say which receiver, and whose tokens it accepts."""


def adopt(command: str) -> None:
    """Adds the variables of `.receiver/env` for this command. What is set already wins."""
    deciding = RECEIVER if command == "push" else PLACE
    if command in NOT_HERE or any(os.environ.get(name, "").strip() for name in deciding):
        return
    try:
        found = _environ()
    except ConfigurationError as error:
        click.echo(f"note: {error}", err=True)
        return
    for name, value in found.items():
        if not os.environ.get(name, "").strip():
            os.environ[name] = value


def is_dev(environ: Mapping[str, str]) -> bool:
    """Whether these variables are those of this folder's `receiver dev`."""
    try:
        found = _environ().get("PUBSUB_EMULATOR_HOST")
    except ConfigurationError:
        return False
    return found is not None and environ.get("PUBSUB_EMULATOR_HOST") == found


def told(error: ReceiverError) -> str:
    """The line of an error. It says so when the `receiver dev` that was asked is not running."""
    away = isinstance(error, DatabaseUnavailable | GoogleUnavailable)
    if away and is_dev(os.environ) and not Folder(Path.cwd()).is_running:
        return f"{error}; that is the `receiver dev` of this folder (.receiver/env), which is not running"
    return str(error)


def _environ() -> Mapping[str, str]:
    """What `.receiver/env` says; nothing in a folder that is gone."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return {}
    return Folder(here).environ()
