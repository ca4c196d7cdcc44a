"""`receiver rejected list` and `show`: messages that could not become an execution."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
import msgspec

from receiver.cli import arguments, terminal
from receiver.contract.envelope import open_envelope
from receiver.errors import Rejected, RejectionReason
from receiver.reading import queries
from receiver.reading.rejected import Rejection, rejection, rejections
from receiver.text import is_storable

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 4000
"""Characters of a message that are shown; `--json` has all of it."""


@click.group("rejected")
def command() -> None:
    """List the messages that could not become an execution, or show one; `receiver replay` publishes them again."""


@command.command("list")
@click.option("--reason", type=click.Choice([reason.value for reason in RejectionReason]), help="Only these.")
@click.option("--task", metavar="NAME", help="Only those that named this task.")
@click.option("--namespace", help="Only those of this receiver, where several share a database.")
@click.option(
    "--limit",
    type=click.IntRange(1, arguments.LONG),
    default=queries.LIMIT,
    show_default=True,
    help="How many at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(*, reason: str | None, task: str | None, namespace: str | None, limit: int, as_json: bool) -> None:
    """List rejected messages, those seen last first."""
    database = arguments.database()

    async def read() -> list[Rejection]:
        async with queries.reading(database) as connection:
            return await rejections(connection, reason=reason, task=task, namespace=namespace, limit=limit)

    found = asyncio.run(read())
    if as_json:
        terminal.print_json(found)
    elif found:
        terminal.console().print(_listing(found))
    else:
        click.echo("no rejected messages")


@command.command("show")
@click.argument("id_", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(*, id_: str, as_json: bool) -> None:
    """Show a rejected message: its message id, or its whole key."""
    database = arguments.database()
    if not is_storable(id_):
        terminal.fail("there is no rejected message with such an id")

    async def read() -> list[tuple[Rejection, bytes]]:
        async with queries.reading(database) as connection:
            return await rejection(connection, id_)

    found = asyncio.run(read())
    if not found:
        terminal.fail(f"there is no rejected message {id_!r}")
    if as_json:
        terminal.print_json([msgspec.to_builtins(one) | {"body": _text(body)} for one, body in found])
        return
    for one, body in found:
        made = terminal.table("COLUMN", "VALUE")
        for name in Rejection.__dataclass_fields__:
            value = getattr(one, name)
            made.add_row(terminal.cell(name), terminal.shown(value))
        console = terminal.console()
        console.print(made)
        console.print()
        for title, text in _parts(body):
            cut = text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
            console.print(f"{title}: {terminal.clean(cut)}")


def _listing(found: list[Rejection]) -> Table:
    made = terminal.table(
        "MESSAGE", "REASON", "TASK", "COUNT", "FIRST SEEN", "LAST SEEN", "REPLAYED", "DETAIL"
    )
    for one in found:
        made.add_row(
            terminal.cell(one.message_id),
            terminal.cell(one.reason),
            terminal.cell(one.task_name),
            terminal.cell(one.count),
            terminal.moment(one.first_seen),
            terminal.moment(one.last_seen),
            terminal.moment(one.replayed_at),
            terminal.cell(one.detail),
        )
    return made


def _parts(body: bytes) -> list[tuple[str, str]]:
    """The message, opened as far as it goes: the payload and the attributes, or the bare body."""
    try:
        message = open_envelope(body).message
    except Rejected:
        return [("body", _text(body))]
    attributes: dict[str, Any] = dict(message.attributes or {})
    opened = [("data", _text(bytes(message.data or b"")))]
    return [*opened, ("attributes", msgspec.json.encode(attributes).decode())] if attributes else opened


def _text(data: bytes) -> str:
    """Bytes as text; what is no UTF-8 is written out."""
    return data.decode("utf-8", "backslashreplace")
