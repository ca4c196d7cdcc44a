"""`receiver demo`: a real PostgreSQL, a real receiver with OIDC on, and a push for every ending of the contract."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx

from receiver.cli import terminal
from receiver.cli.executions import listing
from receiver.errors import ConfigurationError
from receiver.executions.migrations import upgrade
from receiver.local.endings import ENVIRONMENT, MODULE, Endings, Record, Shown
from receiver.local.instance import Instance
from receiver.local.postgres import LocalPostgresError, Postgres
from receiver.local.signer import Signer, serve_certificates

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console

DATABASE = "demo"
NEXT = (
    "Write a plugin of your own:     a module with `tasks = [TaskRoute(your_function)]`, named in TASKS_MODULES",
    "See that it can be deployed:    receiver check",
    "Run it on your own PostgreSQL:  receiver migrate && receiver serve, then receiver push your_function",
)


@click.command("demo")
def command() -> None:
    """Show every ending of a delivery, with nothing set up; exit 0 when each is as the contract says."""
    signal.signal(signal.SIGTERM, _terminated)
    console = terminal.console()
    began = time.monotonic()
    try:
        with console.status("starting PostgreSQL and the receiver ..."):
            shown, record = _play()
    except KeyboardInterrupt:
        click.echo("stopped; nothing is left running", err=True)
        sys.exit(130)
    except LocalPostgresError as error:
        raise ConfigurationError(str(error)) from error
    except httpx.HTTPError as error:
        terminal.fail(f"the receiver did not answer ({type(error).__name__})")
    _print(console, shown, record, time.monotonic() - began)
    sys.exit(0 if all(push.status == push.expected for push in shown) else 1)


def _play() -> tuple[list[Shown], Record]:
    """Sets the stage, sends every push, and takes everything down again."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="receiver-demo-")))
        postgres = stack.enter_context(Postgres())
        postgres.create_database(DATABASE)
        url = postgres.url(DATABASE)
        upgrade(url)
        signer = Signer.create()
        certs_url = stack.enter_context(serve_certificates(signer))
        # Its working folder is ours, so that it runs from a checkout as from an installation.
        receiver = Instance(
            database_url=url,
            modules=MODULE,
            signer=signer,
            certs_url=certs_url,
            folder=Path.cwd(),
            env=ENVIRONMENT,
        )
        stack.enter_context(receiver)
        return Endings(receiver, postgres, url, folder).all()


def _print(console: Console, shown: list[Shown], record: Record, seconds: float) -> None:
    pushes = terminal.table("ENDING", "EXPECTED", "GOT", "ANSWER")
    for push in shown:
        style = "green" if push.status == push.expected else "bold red"
        pushes.add_row(
            terminal.cell(push.ending),
            terminal.cell(push.expected),
            terminal.cell(push.status, style),
            terminal.cell(push.body),
        )
    console.print(
        "Each push is an HTTP request with a signed token, to a receiver in a process of its own.\n"
    )
    console.print(pushes)
    console.print("\nWhat the record held then (task_executions, the newest first):\n")
    console.print(listing(record.executions))
    console.print(f"\n{record.rejected} rejected messages are kept in rejected_messages.")
    console.print(
        f"Written through ctx.connection(): {', '.join(record.orders)}. The write of the task that raised is not there."
    )
    wrong = sum(push.status != push.expected for push in shown)
    came = "each as the contract says" if not wrong else f"{wrong} NOT as the contract says"
    console.print(f"{len(shown)} pushes, {came}, in {seconds:.1f} s.\n")
    for line in NEXT:
        console.print(line)


def _terminated(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    """SIGTERM unwinds as Ctrl-C does, so that nothing is left running."""
    sys.exit(128 + signum)
