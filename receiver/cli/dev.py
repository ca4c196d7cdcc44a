"""`receiver dev`: everything on one laptop; `--tick` fires a schedule in the running one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import httpx
import msgspec

from receiver.dev.folder import Folder
from receiver.dev.local_routes import load_routes
from receiver.dev.processes import ParentPipe
from receiver.dev.scheduler import scheduled_message
from receiver.errors import ConfigurationError
from receiver.local_postgres.files import LocalPostgresError

if TYPE_CHECKING:
    from types import FrameType


@click.command("dev")
@click.option(
    "--modules", metavar="A,B", help="Plugin modules.  [default: $TASKS_MODULES, or installed plugins]"
)
@click.option("--debug", is_flag=True, help="No deadlines, and the terminal is breakpoint()'s.")
@click.option(
    "--tick", metavar="NAME", help="Fire a scheduled task now, in the `receiver dev` that runs here."
)
def command(*, modules: str | None, debug: bool, tick: str | None) -> None:
    """Run PostgreSQL, a local Pub/Sub, a scheduler and the receiver, until Ctrl-C; plugins reload on change."""
    if tick is not None:
        fire(tick)
        return
    signal.signal(signal.SIGTERM, _terminated)
    try:
        run(modules, debug=debug)
    except KeyboardInterrupt:  # before or after the loop, which handles Ctrl-C itself
        sys.exit(130)


def run(modules: str | None, *, debug: bool) -> None:
    """Everything, until Ctrl-C or SIGTERM."""
    try:
        from receiver.dev.session import DevSession  # noqa: PLC0415 - needs what only the extra `local` installs
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"receiver dev needs {error.name}: pip install 'pubsub-task-receiver[local]'"
        ) from error
    from receiver.dev.prepare import prepared  # noqa: PLC0415 - as above

    environ = {**os.environ, **({} if modules is None else {"TASKS_MODULES": modules})}
    try:
        with prepared(Path.cwd(), environ) as ready:
            for line in ready.lines:
                click.echo(line)

            async def live() -> None:
                await DevSession(ready, debug=debug, say=click.echo).run()

            asyncio.run(live())
    except LocalPostgresError as error:
        raise ConfigurationError(str(error)) from error


def fire(name: str) -> None:
    """Publishes one firing of a scheduled task to the local Pub/Sub of the running `receiver dev`."""
    environ = Folder(Path.cwd()).environ()
    if "PUBSUB_EMULATOR_HOST" not in environ:
        raise ConfigurationError("no receiver dev has run in this folder; start it with `receiver dev`")
    with closing(ParentPipe()) as parent:
        loaded = load_routes(Path.cwd(), {**os.environ, **environ}, parent)
    routes = {route.name: route for route in loaded.routes}
    route = routes.get(name)
    if route is None:
        raise ConfigurationError(f"there is no task {name}; there are: {', '.join(sorted(routes)) or 'none'}")
    if route.schedule is None:
        raise ConfigurationError(f"{name} has no schedule; send it with `receiver push {name}`")
    host = environ["PUBSUB_EMULATOR_HOST"]
    url = f"http://{host}/v1/projects/{environ['GCP_PROJECT_ID']}/topics/{route.topic_name}:publish"
    message = msgspec.to_builtins(scheduled_message(name))
    try:
        answer = httpx.post(url, json={"messages": [message]}, timeout=10, trust_env=False)
    except httpx.TransportError as error:
        raise ConfigurationError(
            f"no receiver dev runs here ({type(error).__name__} at {host.partition('/')[0]})"
        ) from error
    if answer.status_code != httpx.codes.OK:
        raise ConfigurationError(f"the local Pub/Sub refuses it: {answer.text}")
    click.echo(f"fired {name}, message {answer.json()['messageIds'][0]}")


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
