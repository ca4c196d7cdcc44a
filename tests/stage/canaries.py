"""Secrets that sing: each stands in one place only, so that whoever finds one knows where it came from.

`Canary` names the places, `sung` finds them in a text. `guarded` is a PostgreSQL that asks the canary role for its
password, so that there is a password to be lost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import asyncpg

from receiver.record.database import Database
from receiver.record.migrations import upgrade
from tests.stage.servers import LocalServer


class Canary(StrEnum):
    """What must not be found, by where it was put. Letters only: nothing escapes or encodes them."""

    USER = "canaryUserFqzv"
    PASSWORD = "canaryPasswordQkxw"
    STALE_PASSWORD = "canaryStalePasswordJzvy"  # in DATABASE_URL, where DATABASE_PASSWORD wins over it
    TOKEN = "canaryTokenWqpf"
    HEADER = "canaryHeaderXvkj"
    ARGUMENT = "canaryArgumentYjwz"
    KEY = "canaryKeyBvqx"  # of an object among the arguments
    ATTRIBUTE = "canaryAttributeGwkq"
    RESULT = "canaryResultPzxj"
    RAISED = "canaryRaisedTqvw"


CREDENTIALS = frozenset({Canary.USER, Canary.PASSWORD, Canary.STALE_PASSWORD})


def sung(text: str) -> set[str]:
    """The canaries in a text."""
    return {canary for canary in Canary if canary in text}


def entries(log: str) -> list[dict[str, Any]]:
    """The lines of a log of Cloud Run, each one JSON object. What is not yet a whole line is left out."""
    found = [json.loads(line) for line in log.split("\n")[:-1]]
    assert all({"severity", "message", "time"} <= entry.keys() for entry in found)
    return found


def out_of_place(entry: Mapping[str, Any]) -> dict[str, set[str]]:
    """The fields of a line of the log that hold a canary which is not meant for them.

    What a task raised is meant for the message and the stack trace of its failure, and for nothing else.
    """
    failed = entry.get("ending") == "Failed"
    found = {}
    for name, value in entry.items():
        allowed = {Canary.RAISED} if failed and name in {"message", "stack_trace"} else set()
        if heard := sung(json.dumps(value)) - allowed:
            found[name] = heard
    return found


def address(server: LocalServer, *, user: str = Canary.USER, password: str = Canary.PASSWORD) -> str:
    """The guarded database, for this user."""
    return f"postgresql://{user}:{password}@127.0.0.1:{server.port}/postgres"


@contextmanager
def guarded() -> Iterator[LocalServer]:
    """A server of one's own with the tables of the canary role, which has to say its password."""
    with LocalServer(settings={"max_connections": "20", "autovacuum": "off"}) as server:
        rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (server.folder / "pg_hba.conf").write_text(rules)

        async def prepare() -> None:
            connection = await asyncpg.connect(server.url())
            try:
                await connection.execute(f"CREATE ROLE \"{Canary.USER}\" LOGIN PASSWORD '{Canary.PASSWORD}'")
                await connection.execute(f'ALTER DATABASE postgres OWNER TO "{Canary.USER}"')
                await connection.execute("SELECT pg_reload_conf()")
            finally:
                await connection.close()

        asyncio.run(prepare())
        upgrade(Database.of(address(server)))
        yield server
