"""`receiver dead-letters list` and `replay`: what Pub/Sub has given up, from the record."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from receiver.cli import executions, listing, replay, terminal
from receiver.errors import ConfigurationError
from receiver.reading.dead_letters import GivenUp, given_up


@click.group("dead-letters")
def command() -> None:
    """List what Pub/Sub has given up after too many deliveries, or publish it again."""


@command.command("list")
@click.option("--task", metavar="NAME", help="Only of this task: its name or its path.")
@listing.options
def list_(*, as_json: bool, wide: bool, namespace: str | None, **options: Any) -> None:
    """List executions that were given up and have not succeeded since, and messages without one; the newest first."""
    found = listing.read(partial(given_up, **options), namespace=namespace)
    COLUMNS.answer(found, as_json=as_json, wide=wide, none="no dead letters")


@command.command("replay")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that `list` shows.")
@click.option("--task", metavar="NAME", help="All of this task.")
def replay_(*, ids: tuple[str, ...], all_: bool, task: str | None) -> None:
    """Publish executions or messages that were given up again, now; exit 1 when one cannot be.

    It is `receiver replay` of these ids: an execution keeps its id, and its count of attempts starts again.
    """
    if bool(ids) + all_ + (task is not None) != 1:
        raise ConfigurationError("give the ids of executions or messages, or --all, or --task")
    if not ids:
        found = listing.read(partial(given_up, task=task, limit=listing.LONGEST))
        ids = tuple(one.id for one in found if one.status != "RUNNING")
    replay.tell(replay.named(ids))


def _now(one: GivenUp) -> str | None:
    if one.error_type is not None:
        return executions.failure(one.error_type, one.error_message)
    if one.status is None:
        return "no execution is known"
    return None if one.run_after is None else f"not before {one.run_after:%Y-%m-%d %H:%M:%S}"


COLUMNS = listing.Columns[GivenUp](
    {
        "ID": lambda one: terminal.cell(one.id),
        "TASK": lambda one: terminal.cell(one.task_name),
        "STATUS": lambda one: executions.status(one.status, final=one.final),
        "COUNT": lambda one: terminal.cell(one.count),
        "GIVEN UP": lambda one: terminal.moment(one.at),
        "NEXT OR ERROR": lambda one: terminal.cell(executions.brief(_now(one) or "")),
    },
    cut=("TASK", "NEXT OR ERROR"),
    spare=("GIVEN UP", "COUNT"),
)
"""The listing of dead letters; a new column is a line here."""
