"""`receiver executions list` and `show`. `COLUMNS` has the columns of the listing; `receiver.reading.queries` reads them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
import msgspec

from receiver import maintenance
from receiver.cli import arguments, listing, terminal
from receiver.reading import cloud_logging, newest, queries, redacted
from receiver.reading.history import Transition, history
from receiver.reading.newest import Listing
from receiver.reading.queries import NEWEST, Attempt, Execution
from receiver.record.whose import Whose
from receiver.tasks.call import TaskResultStatus
from receiver.text import is_storable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.text import Text
    from sqlalchemy.ext.asyncio import AsyncConnection

STYLES = {
    TaskResultStatus.SUCCESSFUL: "green",
    TaskResultStatus.FAILED: "red",
    TaskResultStatus.RUNNING: "cyan",
    TaskResultStatus.READY: "",
}

BRIEF = 100
"""A listing shows this many characters of a result or an error."""


@click.group("executions")
def command() -> None:
    """List executions, or show one with its attempts and history."""


@command.command("list")
@click.option(
    "--status",
    type=click.Choice([status.value for status in TaskResultStatus], case_sensitive=False),
    help="Only these.",
)
@click.option("--task", metavar="NAME", help="Only of this task: its name or its path.")
@click.option("--since", metavar="DURATION", help="Only those enqueued within 90s, 15m, 2h, 30d.")
@click.option("--group", metavar="KEY", help="Only those with this group key.")
@click.option("--label", metavar="TEXT", help="Only those with this label.")
@click.option(
    "--error",
    metavar="TYPE",
    callback=arguments.error_type,
    help="Only those that failed so, such as ValueError or shop.OutOfStock.",
)
@click.option("--all", "all_", is_flag=True, help="The receiver's own sweeps as well.")
@listing.options
def list_(
    *,
    status: str | None,
    since: str | None,
    all_: bool,
    as_json: bool,
    wide: bool,
    namespace: str | None,
    **options: Any,
) -> None:
    """List executions, the newest first.

    Without --since or --group the newest 50000 are looked at, and with --status READY also the 50000 longest due of what is not
    published yet. A line on stderr says so where that was not all.
    """
    # A sweep a minute would bury everything else. Naming the task shows them.
    besides = () if all_ or options["task"] else tuple(route.path for route in maintenance.ROUTES)
    wanted = TaskResultStatus(status.upper()) if status else None
    within = None if since is None else arguments.duration("--since", since)

    async def query(connection: AsyncConnection, whose: Whose) -> tuple[Listing, int, str]:
        seen = await newest.executions(
            connection, whose, status=wanted, since=within, besides=besides, **options
        )
        none = "" if seen.executions else await _none(connection, whose)
        return seen, await queries.rejected_count(connection, whose), none

    seen, rejected, none = listing.read(query, namespace=namespace)
    found = seen.executions
    if seen.back_to is not None:
        is_ready = wanted is TaskResultStatus.READY
        but = f", except the {NEWEST} longest due of what is not published" if is_ready else ""
        unseen = f"what was enqueued until {seen.back_to:%Y-%m-%d %H:%M:%S} UTC{but}; add --since, such as --since 2d"
        click.echo(f"not looked at: {unseen}", err=True)
    if as_json:
        declared = arguments.declared() if found else None
        terminal.print_json([redacted.execution(each, declared) for each in found])
        return
    if found:
        COLUMNS.show(found, wide=wide)
    else:
        click.echo(none)
    if rejected:
        least = "at least " if rejected == NEWEST else ""
        click.echo(
            f"{least}{rejected} rejected message{'' if rejected == 1 else 's'} kept in rejected_messages"
        )


@command.command("show")
@click.argument("task_id")
@listing.as_json
def show(*, task_id: str, as_json: bool) -> None:
    """Show one execution, its attempts and its history.

    Of the attempts the newest 1000 are shown, 100 of them with their traceback.
    """

    async def query(connection: AsyncConnection, whose: Whose) -> tuple[Execution | None, list[Attempt]]:
        found = await queries.execution(connection, task_id)
        if found is not None and (other := Whose(found.namespace, found.environment)) != whose:
            terminal.fail(f"execution {task_id!r} is not of {whose}: it is of {other}")
        return found, await queries.attempts(connection, task_id)

    found, attempts = listing.read(query) if is_storable(task_id) else (None, [])
    if found is None:
        terminal.fail(f"there is no execution {task_id!r}")
    found = redacted.execution(found, arguments.declared())
    steps = history(found, attempts)
    logs = _logs(found)
    if as_json:
        columns = msgspec.to_builtins(found)
        told = {"attempts": attempts, "history": [step.as_json() for step in steps], "logs": logs}
        terminal.print_json(columns | told)
        return
    console = terminal.console()
    listing.show_values(_known(found))
    console.print()
    console.print(listing.table(steps, STEPS))
    if logs is not None:
        console.print()
        console.print(f"Cloud Logging: {logs['link']}\n{logs['query']}", soft_wrap=True)
    for text in [attempt.error_traceback for attempt in attempts if attempt.error_traceback][-1:]:
        console.print()
        console.print(terminal.clean(text.rstrip()), soft_wrap=True)


def _logs(execution: Execution) -> dict[str, str] | None:
    """The query in Cloud Logging and the link to it; None where GCP_PROJECT_ID is not set or Pub/Sub is a local one."""
    settings = arguments.settings()
    if settings.project_id is None or os.environ.get("PUBSUB_EMULATOR_HOST"):
        return None
    query = cloud_logging.query_of(execution)
    return {"query": query, "link": cloud_logging.link_to(query, settings.project_id)}


async def _none(connection: AsyncConnection, whose: Whose) -> str:
    """What an empty listing says. Somebody who has not set TASKS_ENVIRONMENT looks into the default one."""
    others = await newest.others(connection, whose)
    return "no executions" + (
        f" of {whose}; there are some of {', '.join(map(str, others))}" if others else ""
    )


def _known(execution: Execution) -> dict[str, Any]:
    """The columns that have a value; JSON as JSON, and the traceback left to the end."""
    shown = {}
    for name in Execution.__dataclass_fields__:
        value = getattr(execution, name)
        if value is not None and name != "error_traceback":
            is_json = name in {"args", "kwargs", "return_value", "metadata", "attributes"}
            shown[name] = msgspec.json.encode(value).decode() if is_json else value
    return shown


def _result(execution: Execution) -> Text:
    if execution.error_type is not None:
        text = failure(execution.error_type, execution.error_message)
    elif execution.skipped_by is not None:
        text = f"not run: {execution.skipped_by} is off"
    elif execution.status == TaskResultStatus.SUCCESSFUL:
        text = msgspec.json.encode(execution.return_value).decode()
    else:
        text = "" if execution.run_after is None else f"not before {execution.run_after:%Y-%m-%d %H:%M:%S}"
    if execution.dead_letters and execution.status != TaskResultStatus.SUCCESSFUL:
        text = f"dead letter; {text}"
    return terminal.cell(brief(text))


def failure(error_type: str, message: str | None) -> str:
    """An error in a listing: without its module."""
    return f"{error_type.rpartition('.')[2]}: {message or ''}"


def brief(text: str) -> str:
    """A result or an error on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= BRIEF else line[: BRIEF - 3] + "..."


def _metadata(execution: Execution) -> Text:
    return terminal.cell(" ".join(f"{key}={value}" for key, value in (execution.metadata or {}).items()))


def _took(execution: Execution) -> Text:
    if execution.started_at is None or execution.finished_at is None:
        return terminal.cell(None)
    return terminal.cell(f"{(execution.finished_at - execution.started_at).total_seconds():.3f} s")


def status(name: str | None, *, final: bool = False) -> Text:
    """The cell of a status, in its colour."""
    if name is None:
        return terminal.cell(None)
    shown = f"{name}, final" if final and name == TaskResultStatus.FAILED else name
    return terminal.cell(shown, STYLES[TaskResultStatus(name)])


COLUMNS = listing.Columns[Execution](
    {
        "TASK ID": lambda execution: terminal.cell(execution.task_id),
        "TASK": lambda execution: terminal.cell(execution.task_name),
        "STATUS": lambda execution: status(execution.status, final=execution.final),
        "ATTEMPT": lambda execution: terminal.cell(execution.attempt),
        "ENQUEUED": lambda execution: terminal.moment(execution.enqueued_at),
        "TOOK": _took,
        "METADATA": _metadata,
        "RESULT OR ERROR": _result,
    },
    cut=("TASK", "RESULT OR ERROR"),
    spare=("METADATA", "TOOK", "ENQUEUED", "ATTEMPT"),
    rare=("METADATA",),
)
"""The listing of executions; a new column is a line here."""

STEPS: dict[str, Callable[[Transition], Text]] = {
    "AT": lambda step: terminal.moment(step.at),
    "FROM": lambda step: status(step.from_),
    "TO": lambda step: status(step.to),
    "WHY": lambda step: terminal.cell(step.why),
}
