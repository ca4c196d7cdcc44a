"""`receiver rejected list` and `show`: messages that could not become an execution."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
import msgspec

from receiver.cli import arguments, listing, terminal
from receiver.contract.envelope import open_envelope
from receiver.errors import Rejected, RejectionReason
from receiver.reading import redacted
from receiver.reading.rejected import Rejection, rejection, rejections
from receiver.text import is_storable

SHOWN = 4000
"""This many characters of a message are shown; `--json` has all of it. Sensitive arguments are in neither."""


@click.group("rejected")
def command() -> None:
    """List the messages that could not become an execution, or show one; `receiver replay` publishes them again."""


@command.command("list")
@click.option("--reason", type=click.Choice([reason.value for reason in RejectionReason]), help="Only these.")
@click.option("--task", metavar="NAME", help="Only those that named this task.")
@listing.options
def list_(*, as_json: bool, wide: bool, namespace: str | None, **options: Any) -> None:
    """List rejected messages, those seen last first."""
    found = listing.read(partial(rejections, **options), namespace=namespace)
    COLUMNS.answer(found, as_json=as_json, wide=wide, none="no rejected messages")


@command.command("show")
@click.argument("id_", metavar="ID")
@listing.as_json
def show(*, id_: str, as_json: bool) -> None:
    """Show a rejected message: its message id, or its whole key."""
    found = listing.read(partial(rejection, key=id_)) if is_storable(id_) else []
    if not found:
        terminal.fail(f"there is no rejected message {id_!r}")
    declared = arguments.declared()
    found = [(one, redacted.message(body, one.task_name, declared)) for one, body in found]
    if as_json:
        terminal.print_json([msgspec.to_builtins(one) | {"body": _text(body)} for one, body in found])
        return
    console = terminal.console()
    for one, body in found:
        listing.show_values({name: getattr(one, name) for name in Rejection.__dataclass_fields__})
        console.print()
        for title, text in _parts(body):
            cut = text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
            console.print(f"{title}: {terminal.clean(cut)}")


COLUMNS = listing.Columns[Rejection](
    {
        "MESSAGE": lambda one: terminal.cell(one.message_id),
        "REASON": lambda one: terminal.cell(one.reason),
        "TASK": lambda one: terminal.cell(one.task_name),
        "COUNT": lambda one: terminal.cell(one.count),
        "FIRST SEEN": lambda one: terminal.moment(one.first_seen),
        "LAST SEEN": lambda one: terminal.moment(one.last_seen),
        "REPLAYED": lambda one: terminal.moment(one.replayed_at),
        "DETAIL": lambda one: terminal.cell(one.detail),
    },
    cut=("REASON", "TASK", "DETAIL"),
    spare=("FIRST SEEN", "REPLAYED", "LAST SEEN", "COUNT"),
)
"""The listing of rejected messages; a new column is a line here."""


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
    """Bytes as text; bytes that are not UTF-8 are escaped."""
    return data.decode("utf-8", "backslashreplace")
