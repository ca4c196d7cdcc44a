"""`receiver demo`: a real PostgreSQL, a real receiver with OIDC on, and a local Pub/Sub.

First tasks are enqueued and followed: publish → push → record, a retry, a dead letter, a scheduled firing. Then one push is
sent for each ending of the contract.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx
from rich.live import Live

from receiver.cli import listing, terminal
from receiver.cli.executions import COLUMNS
from receiver.demo.every_ending import Endings, Record, Shown, environ
from receiver.demo.journeys import Journey, follow
from receiver.dev.processes import EMAIL, serving
from receiver.emulator.in_thread import running
from receiver.emulator.push_client import Pusher
from receiver.emulator.signer import Signer
from receiver.errors import ConfigurationError
from receiver.hosts import LOOPBACK
from receiver.local_postgres.files import LocalPostgresError
from receiver.local_postgres.server import Postgres, free_port
from receiver.record.database import Database
from receiver.record.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from rich.console import Console
    from rich.text import Text

NEXT = (
    "Write a plugin of your own:     a module with `tasks = [TaskRoute(your_function)]`, named in TASKS_MODULES",
    "See that it can be deployed:    receiver check",
    "Run it on your own PostgreSQL:  receiver migrate && receiver serve, then receiver push your_function",
)


def _end(journey: Journey) -> Text:
    style = "green" if journey.as_expected else "bold red" if journey.end else "yellow"
    return terminal.cell(journey.end or "on its way", style)


JOURNEYS: dict[str, Callable[[Journey], Text]] = {
    "MESSAGE": lambda journey: terminal.cell(journey.shows),
    "TASK": lambda journey: terminal.cell(journey.task),
    "PUSHES": lambda journey: terminal.cell(" ".join(map(str, journey.pushes))),
    "END": _end,
}
PUSHES: dict[str, Callable[[Shown], Text]] = {
    "ENDING": lambda push: terminal.cell(push.ending),
    "EXPECTED": lambda push: terminal.cell(push.expected),
    "GOT": lambda push: terminal.cell(push.status, "green" if push.status == push.expected else "bold red"),
    "ANSWER": lambda push: terminal.cell(push.body),
}


@click.command("demo")
def command() -> None:
    """Show every ending of a delivery; needs no setup. Exit 0 when each is as the contract says."""
    stop_at_signals()
    console = terminal.console()
    began = time.monotonic()
    try:
        journeys, shown, record = _play(console)
    except Stopped:
        click.echo("stopped; nothing is left running", err=True)
        raise
    except LocalPostgresError as error:
        raise ConfigurationError(str(error)) from error
    except httpx.HTTPError as error:
        terminal.fail(f"the receiver did not answer ({type(error).__name__})")
    _print(console, shown, record, time.monotonic() - began)
    good = all(journey.as_expected for journey in journeys)
    sys.exit(0 if good and all(push.status == push.expected for push in shown) else 1)


def _play(console: Console) -> tuple[list[Journey], list[Shown], Record]:
    """Sets the stage, sends everything, and takes it down again."""
    with ExitStack() as stack:
        waiting = console.status("starting PostgreSQL, a local Pub/Sub and the receiver ...")
        waiting.start()
        stack.callback(waiting.stop)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="receiver-demo-")))
        postgres = stack.enter_context(Postgres())
        database_url = postgres.url()
        upgrade(Database.of(database_url))
        signer = Signer.create()
        answers = queue.SimpleQueue[tuple[str, int]]()
        pubsub = stack.enter_context(
            running(signer, observe=lambda subscription, _, status: answers.put((subscription.name, status)))
        )
        url = f"http://{LOOPBACK}:{free_port()}"
        settings = environ(url, database_url, pubsub.certs_url)
        # Its working folder is ours, so that it runs from a checkout as from an installation.
        stack.enter_context(serving(url, settings, Path.cwd(), folder / "receiver.log"))
        client = stack.enter_context(httpx.Client(trust_env=False))
        waiting.stop()
        journeys = _show(console, follow(pubsub, answers, url, database_url))
        with console.status("pushing what ends in every other way ..."):
            pusher = Pusher(client, url, url, EMAIL, signer)
            shown, record = Endings(pusher, postgres, database_url, folder).all()
        return journeys, shown, record


def _show(console: Console, travelling: Iterator[Journey]) -> list[Journey]:
    """Shows the journeys while they happen: a live table on a terminal, a line for each step in a pipe. Returns their ends."""
    console.print("Tasks are enqueued, and go through a local Pub/Sub, which signs a token for each push:\n")
    journeys: dict[str, Journey] = {}
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        for journey in travelling:
            journeys[journey.task] = journey
            if live is not None:
                live.update(listing.table(journeys.values(), JOURNEYS), refresh=True)
            else:
                came = f"push {len(journey.pushes)}: {journey.pushes[-1]}" if journey.pushes else "published"
                console.print(f"{journey.shows}: {journey.task} {came} {journey.end}".rstrip())
    console.print()
    return list(journeys.values())


def _print(console: Console, shown: list[Shown], record: Record, seconds: float) -> None:
    console.print("Each push is an HTTP request with a signed token, to a receiver in its own process.\n")
    console.print(listing.table(shown, PUSHES))
    console.print("\nThe record after that (task_executions, the newest first):\n")
    COLUMNS.show(record.executions)
    console.print(f"\n{record.rejected} rejected messages are kept in rejected_messages.")
    console.print(
        f"Written through ctx.connection(): {', '.join(record.orders)}. The write of the task that raised is not there."
    )
    wrong = sum(push.status != push.expected for push in shown)
    came = "each as the contract says" if not wrong else f"{wrong} NOT as the contract says"
    console.print(f"{len(shown)} pushes, {came}, in {seconds:.1f} s.\n")
    for line in NEXT:
        console.print(line)


class Stopped(SystemExit):
    """A signal ends the demo, which unwinds. The exit code is a shell's for that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def stop_at_signals() -> None:
    """Lets SIGINT and SIGTERM raise `Stopped`.

    Python drops what is raised while it collects an object. It says so to a hook, and the signal is sent again.
    """

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        raise Stopped(number)

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, Stopped):
            threading.Timer(0.01, os.kill, (os.getpid(), what.exc_value.number)).start()
        else:
            sys.__unraisablehook__(what)

    sys.unraisablehook = dropped
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
