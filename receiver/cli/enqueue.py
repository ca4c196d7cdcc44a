"""`receiver enqueue`: one task, enqueued as an application would, and followed to its end.

The task is one of the plugins', so its arguments are checked here.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import click
import httpx
import msgspec
from rich.console import Console

from receiver import maintenance
from receiver.cli import arguments, here, terminal
from receiver.contract.convert import Unfit
from receiver.enqueue import PubSubBackend
from receiver.errors import ConfigurationError, DatabaseUnavailable
from receiver.google.endpoints import Endpoints
from receiver.settings import Settings
from receiver.tasks import naming
from receiver.tasks.call import TaskResult, TaskResultStatus
from receiver.tasks.registry import load
from receiver.tasks.task import Task
from receiver.tasks.waiting import pauses

if TYPE_CHECKING:
    from receiver.tasks.call import Entry

FAILED, UNFINISHED = 1, 3
INTERRUPTED = 130
"""Exit codes. Others are 0 for success, and 2 when nothing was enqueued."""

RELOAD_TIMEOUT = 15.0
"""Seconds to wait for a `receiver dev` that reloads; two are usual."""


@click.command("enqueue")
@click.argument("name")
@click.option("--args", "args", metavar="JSON", default="[]", help="Positional arguments, as a JSON array.")
@click.option("--kwargs", "kwargs", metavar="JSON", default="{}", help="Keyword arguments, as a JSON object.")
@click.option("--run-after", metavar="DURATION", help="Not before 90s, 15m, 2h, 30d from now.")
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(0, 86400),
    help="Wait for its end, at most so long.",
)
def command(*, name: str, args: str, kwargs: str, run_after: str | None, wait: float | None) -> None:
    """Enqueue a task, by its name or path, and print its id.

    Exit code 0 once it is enqueued, or with --wait once it has succeeded; 1 when it has failed and is not tried again; 2 when
    nothing was enqueued; 3 when it has not finished in time.
    """
    positional, keywords = arguments.positional(args), arguments.keywords(kwargs)
    delay = None if run_after is None else arguments.duration("--run-after", run_after)
    settings = arguments.settings()
    backend = PubSubBackend(settings)
    try:
        task, positional, keywords = _found(settings, name, positional, keywords)
        entry = (task if delay is None else task.using(run_after=delay)).entry(*positional, **keywords)
        if here.is_dev(os.environ):
            _await_topic(settings, task.path)
        sys.exit(asyncio.run(_enqueue(backend, entry, wait)))
    except TypeError as error:
        raise ConfigurationError(str(error)) from None
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _found(
    settings: Settings, name: str, args: list[Any], kwargs: dict[str, Any]
) -> tuple[Task[..., Any], list[Any], dict[str, Any]]:
    """The task, and the arguments as its function takes them."""
    registry = load(settings).including(maintenance.ROUTES)
    route = registry.find(name)
    if route is None:
        known = ", ".join(sorted(route.name for route in registry.routes))
        raise ConfigurationError(f"no task is called {terminal.clean(name[:80])!r}; there are {known}")
    try:
        return Task(route.function), *route.forms.received(args, kwargs)
    except Unfit as error:
        raise ConfigurationError(f"{route.path}: {error}") from None


def _await_topic(settings: Settings, path: str) -> None:
    """Waits while `receiver dev` reloads: it has no topic yet for a task that was just saved."""
    topic = naming.topic_name(settings.environment, settings.namespace, path)
    url = f"{Endpoints.of(settings).pubsub}/projects/{settings.project_id}/topics/{topic}"
    end = time.monotonic() + RELOAD_TIMEOUT
    with httpx.Client(trust_env=False) as client, suppress(httpx.TransportError):
        while client.get(url).status_code == httpx.codes.NOT_FOUND and time.monotonic() < end:
            time.sleep(0.1)


async def _enqueue(backend: PubSubBackend, entry: Entry, wait: float | None) -> int:
    result = await backend.aenqueue(entry)
    click.echo(result.id)
    try:
        return 0 if wait is None else await _follow(result, wait)
    finally:
        await backend.aclose()  # publishes what it has not published yet


async def _follow(result: TaskResult, wait: float) -> int:
    """Polls the record until the execution or the time (seconds) has ended; prints the status to standard error."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    began = time.monotonic()
    with console.status(result.status.value) if console.is_terminal else nullcontext() as status:
        for pause in pauses(wait):
            if status is not None:
                status.update(_line(result))
            await asyncio.sleep(pause)
            with suppress(DatabaseUnavailable):  # it may be back before the time is over
                await result.arefresh()
            if result.is_finished:
                break
    console.print(f"{_line(result)} ({time.monotonic() - began:.1f} s)", soft_wrap=True)
    if not result.is_finished:
        return UNFINISHED
    return 0 if result.status is TaskResultStatus.SUCCESSFUL else FAILED


def _line(result: TaskResult) -> str:
    """Where it stands, in one line."""
    words = [result.status.value]
    if result.attempts > 1:
        words.append(f"in attempt {result.attempts}")
    match result.status:
        case TaskResultStatus.SUCCESSFUL:
            words.append(msgspec.json.encode(result.value).decode())
        case TaskResultStatus.FAILED:
            words.append(result.errors[-1].exception_class_path)
            words.append("" if result.is_finished else "and will be tried again")
        case TaskResultStatus.READY if result.run_after is not None:
            words.append(f"not before {result.run_after:%Y-%m-%d %H:%M:%S} UTC")
        case _:
            pass
    return terminal.clean(" ".join(filter(None, words))[:500])
