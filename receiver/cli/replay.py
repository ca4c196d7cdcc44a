"""`receiver replay`: publishes failed executions and rejected messages again, on an operator's word."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from receiver.cli import arguments, terminal
from receiver.errors import ConfigurationError, RejectionReason
from receiver.record.connections import RecordConnection
from receiver.record.sql import rejected, replaying
from receiver.record.whose import Whose
from receiver.sweep import replays, sweeper
from receiver.tasks.call import TaskResultStatus
from receiver.text import is_storable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.record.database import Executor
    from receiver.sweep.sweeper import Sweeper


@dataclass
class Told:
    """What a replay did, and the ids that it could not replay, each with the reason."""

    executions: int = 0
    messages: int = 0
    owed: int = 0
    failures: dict[str, str] = field(default_factory=dict)


@click.command("replay")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--reason",
    type=click.Choice([reason.value for reason in RejectionReason]),
    help="Every message that was rejected for this and never replayed.",
)
@click.option("--task", metavar="NAME", help="With --reason: only those that named this task.")
def command(*, ids: tuple[str, ...], reason: str | None, task: str | None) -> None:
    """Publish failed executions (by task id) or rejected messages (by message id) again; exit 1 when one cannot be.

    An execution keeps its id, and its count of attempts starts again. An execution that succeeded never runs again:
    enqueue another.
    """
    if bool(ids) == bool(reason):
        raise ConfigurationError("give the ids of executions or messages, or --reason; not both")
    if task is not None and reason is None:
        raise ConfigurationError("--task goes with --reason")
    tell(asyncio.run(_replayed(ids, reason, task)))


def named(ids: Sequence[str]) -> Told:
    """Replays the executions and messages of these ids."""
    return asyncio.run(_replayed(ids, None, None))


def tell(told: Told) -> None:
    """Prints what a replay did; exit 1 when something could not be replayed."""
    for name, count in (("execution", told.executions), ("rejected message", told.messages)):
        if count:
            click.echo(f"{count} {name}{'' if count == 1 else 's'} published again")
    if told.owed:
        click.echo(
            f"{told.owed} READY but not published yet; the sweeper does it when Pub/Sub can be reached"
        )
    for id_, why in told.failures.items():
        click.echo(f"error: {terminal.clean(id_)}: {terminal.clean(why)}", err=True)
    if not (told.executions or told.messages or told.owed or told.failures):
        click.echo("there is nothing to replay")
    if told.failures:
        sys.exit(1)


async def _replayed(ids: Sequence[str], reason: str | None, task: str | None) -> Told:
    around = arguments.surroundings(lambda _: None)
    connection = RecordConnection(arguments.database(around.settings), "receiver replay")
    try:
        async with sweeper.sweeping(around) as made:
            whose = Whose.of(around.settings)
            if reason is not None:
                return await _for(made, connection, reason, task, whose)
            return await _named(made, connection, list(dict.fromkeys(ids)), whose)
    finally:
        await connection.close()


async def _named(made: Sweeper, connection: Executor, ids: list[str], whose: Whose) -> Told:
    """Each id is an execution's, or else a rejected message's."""
    told = Told()
    known = [id_ for id_ in ids if is_storable(id_)]
    states = await replaying.find_states(connection, known, whose=whose)
    moved = await replaying.replay(connection, [id_ for id_ in known if id_ in states], whose=whose)
    given = await made.owed.publish_these(sorted(moved))
    told.executions, told.owed = given.published, len(moved) - given.published
    rest = [id_ for id_ in known if id_ not in states]
    found = await rejected.find_rejected(connection, rest, whose=whose) if rest else []
    replayed = await made.replays.replay(found)
    told.messages = len(replayed.keys)
    told.failures |= replayed.failures
    seen = {name for one in found for name in (one.key, one.key.rpartition(" ")[2])}
    for id_ in ids:
        if id_ in states and id_ not in moved:
            told.failures[id_] = WHY.get(states[id_], f"it is {states[id_]}")
        elif id_ not in states and id_ not in seen:
            told.failures[id_] = "there is no execution and no rejected message with this id"
    return told


async def _for(made: Sweeper, connection: Executor, reason: str, task: str | None, whose: Whose) -> Told:
    told, after = Told(), ""
    while found := await rejected.find_rejected_for(
        connection,
        reason,
        whose=whose,
        task_name=task,
        after=after,
        limit=replays.REPLAY_MESSAGES,
        size=replays.REPLAY_BYTES,
    ):
        after = found[-1].key
        replayed = await made.replays.replay(found)
        told.messages += len(replayed.keys)
        told.failures |= replayed.failures
    return told


WHY: dict[str, str] = {
    TaskResultStatus.SUCCESSFUL: "it succeeded, and never runs again; enqueue another",
    TaskResultStatus.READY: "it is READY, and will be delivered",
    TaskResultStatus.RUNNING: "it is running; if it fails, Pub/Sub delivers it again",
}
