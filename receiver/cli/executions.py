"""`receiver executions list` and `show`: the record, for people and for scripts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click
import msgspec
from rich.text import Text

from receiver import maintenance
from receiver.cli import arguments, terminal
from receiver.reading import queries
from receiver.reading.history import history
from receiver.reading.queries import Attempt, Execution, Status
from receiver.text import is_storable

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {Status.SUCCESSFUL: "green", Status.FAILED: "red", Status.RUNNING: "cyan", Status.READY: ""}


@click.group("executions")
def command() -> None:
    """List executions, or show one with its attempts and history."""


@command.command("list")
@click.option(
    "--status",
    type=click.Choice([status.value for status in Status], case_sensitive=False),
    help="Only these.",
)
@click.option("--task", metavar="NAME", help="Only of this task: its name or its path.")
@click.option("--since", metavar="DURATION", help="Only those enqueued within 90s, 15m, 2h, 30d.")
@click.option("--namespace", help="Only those of this receiver, where several share a database.")
@click.option(
    "--limit",
    type=click.IntRange(1, arguments.LONG),
    default=queries.LIMIT,
    show_default=True,
    help="How many at most.",
)
@click.option("--all", "all_", is_flag=True, help="The receiver's own sweeps as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(
    *,
    status: str | None,
    task: str | None,
    since: str | None,
    namespace: str | None,
    limit: int,
    all_: bool,
    as_json: bool,
) -> None:
    """List executions, the newest first."""
    # A sweep a minute would bury everything else. Who names the task wants it.
    besides = () if all_ or task else tuple(route.path for route in maintenance.ROUTES)
    within = None if since is None else arguments.duration("--since", since)
    database = arguments.database()

    async def read() -> tuple[list[Execution], int]:
        async with queries.reading(database) as connection:
            wanted = Status(status.upper()) if status else None
            found = await queries.executions(
                connection,
                status=wanted,
                task=task,
                since=within,
                namespace=namespace,
                besides=besides,
                limit=limit,
            )
            return found, await queries.rejected_count(connection, namespace=namespace)

    found, rejected = asyncio.run(read())
    if as_json:
        terminal.print_json(found)
        return
    console = terminal.console()
    if found:
        console.print(listing(found))
    else:
        console.print("no executions")
    if rejected:
        console.print(f"{rejected} rejected message{'' if rejected == 1 else 's'} kept in rejected_messages")


@command.command("show")
@click.argument("task_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(*, task_id: str, as_json: bool) -> None:
    """Show one execution, its attempts and its history."""
    database = arguments.database()
    if not is_storable(task_id):
        terminal.fail("there is no execution with such an id")

    async def read() -> tuple[Execution | None, list[Attempt]]:
        async with queries.reading(database) as connection:
            return await queries.execution(connection, task_id), await queries.attempts(connection, task_id)

    found, attempts = asyncio.run(read())
    if found is None:
        terminal.fail(f"there is no execution {task_id!r}")
    steps = history(found, attempts)
    if as_json:
        columns = msgspec.to_builtins(found)
        terminal.print_json(columns | {"attempts": attempts, "history": [step.as_json() for step in steps]})
        return
    console = terminal.console()
    console.print(_columns(found))
    told = terminal.table("AT", "FROM", "TO", "WHY")
    for step in steps:
        told.add_row(terminal.moment(step.at), _status(step.from_), _status(step.to), terminal.cell(step.why))
    console.print()
    console.print(told)
    for text in [attempt.error_traceback for attempt in attempts if attempt.error_traceback][-1:]:
        console.print()
        console.print(terminal.clean(text.rstrip()))


def listing(found: list[Execution]) -> Table:
    """A line an execution."""
    made = terminal.table("TASK ID", "TASK", "STATUS", "ATTEMPT", "ENQUEUED", "TOOK", "RESULT OR ERROR")
    for execution in found:
        made.add_row(
            terminal.cell(execution.task_id),
            terminal.cell(execution.task_name),
            _status(execution.status, final=execution.final),
            terminal.cell(execution.attempt),
            terminal.moment(execution.enqueued_at),
            terminal.cell(_took(execution)),
            terminal.cell(_brief(_came_to(execution))),
        )
    return made


def _columns(execution: Execution) -> Table:
    made = terminal.table("COLUMN", "VALUE")
    for name in Execution.__dataclass_fields__:
        value = getattr(execution, name)
        if value is None or name == "error_traceback":
            continue
        if name in {"args", "kwargs", "return_value"}:
            value = msgspec.json.encode(value).decode()
        made.add_row(terminal.cell(name), terminal.shown(value))
    return made


def _came_to(execution: Execution) -> str:
    if execution.error_type is not None:
        return f"{execution.error_type}: {execution.error_message or ''}"
    if execution.skipped_by is not None:
        return f"not run: {execution.skipped_by} is off"
    if execution.status == Status.SUCCESSFUL:
        return msgspec.json.encode(execution.return_value).decode()
    return f"not before {execution.run_after:%Y-%m-%d %H:%M:%S}" if execution.run_after is not None else ""


def _took(execution: Execution) -> str | None:
    if execution.started_at is None or execution.finished_at is None:
        return None
    return f"{(execution.finished_at - execution.started_at).total_seconds():.3f} s"


def _status(status: str | None, *, final: bool = False) -> Text:
    if status is None:
        return terminal.cell(None)
    shown = f"{status}, final" if final and status == Status.FAILED else status
    return terminal.cell(shown, STYLES[Status(status)])


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:97] + "..."  # noqa: PLR2004 - a cell of the table
