"""A process that enqueues one task in one of the ways there are, and says so: `enqueuer.py WAY LABEL`."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from receiver import enqueue_many
from receiver.enqueue import publications

URL = os.environ["DATABASE_URL"]
# SQLAlchemy hands the address on to asyncpg, which has another word for `sslmode`.
ASYNCPG = URL.replace("postgresql://", "postgresql+asyncpg://").replace("sslmode=", "ssl=")
# The second try must end well, whatever CPU is left: what is asked here is not how long a loop's end waits.
publications.LOOP_END = publications.FLUSH
succeed = importlib.import_module("acceptance_tasks").succeed


def plain(label: str) -> Any:
    """A thread without a loop."""
    return succeed.enqueue(label)


def many(label: str) -> Any:
    """Several at once."""
    return enqueue_many([succeed.entry(label), succeed.entry(f"{label}-2")])[0]


def coroutine(label: str) -> Any:
    """An event loop."""
    return asyncio.run(succeed.aenqueue(label))


def connection(label: str, *, until_told: bool = False) -> Any:
    """In a transaction of an event loop."""

    async def work() -> Any:
        engine = create_async_engine(ASYNCPG)
        async with engine.begin() as connection:
            result = await succeed.using(connection=connection).aenqueue(label)
        await engine.dispose()
        if until_told:
            await asyncio.to_thread(os.read, 0, 1)
        return result

    return asyncio.run(work())


def connection_until_told(label: str) -> Any:
    """The same; the loop ends when standard input does."""
    return connection(label, until_told=True)


def session(label: str) -> Any:
    """In a transaction of a thread."""
    engine = create_engine(URL.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as session:
        result = succeed.using(connection=session).enqueue(label)
        session.commit()
    return result


if __name__ == "__main__":
    done = globals()[sys.argv[1]](sys.argv[2])
    sys.stdout.write(f"enqueued {done.id}\n")
    sys.stdout.flush()
