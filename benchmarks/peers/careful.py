"""The endpoint that a careful team writes: FastAPI and pydantic, google-auth for every token, an ORM session a request."""

from __future__ import annotations

import base64
import json
import os
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import uvicorn
from fastapi import FastAPI, Header, HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from google.auth import jwt
from pydantic import BaseModel
from sqlalchemy import JSON, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LEASE = timedelta(seconds=60)
Moment = DateTime(timezone=True)


class Base(DeclarativeBase):
    """The tables."""


class Execution(Base):
    """A run of a task."""

    __tablename__ = "executions"
    task_id: Mapped[str] = mapped_column(primary_key=True)
    task_name: Mapped[str]
    args: Mapped[list[Any]] = mapped_column(JSON)
    kwargs: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str]
    attempt: Mapped[int]
    lease_until: Mapped[datetime | None] = mapped_column(Moment)
    result: Mapped[Any | None] = mapped_column(JSON)
    error: Mapped[str | None]
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)


class Message(BaseModel):
    """As Pub/Sub wraps it."""

    data: str
    messageId: str  # noqa: N815 - Pub/Sub's name
    attributes: dict[str, str] = {}


class Envelope(BaseModel):
    """The body of a push."""

    message: Message
    subscription: str


class Payload(BaseModel):
    """What a task is called with."""

    task_id: str
    task_name: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


async def add(*parts: Any) -> int:
    """The task."""
    return len(parts)


TASKS = {"add": add}
engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"), pool_size=5, max_overflow=5
)
sessions = async_sessionmaker(engine, expire_on_commit=False)
certs: dict[str, str] = {}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The table and the certificates."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with httpx.AsyncClient() as client:
        certs.update((await client.get(os.environ["CERTS_URL"])).json())
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


def verify(token: str) -> None:
    """Raises ValueError for a token that is not ours."""
    claims = jwt.decode(token, certs=certs, audience=os.environ["AUDIENCE"])
    if claims["email"] != os.environ["EMAIL"] or not claims["email_verified"]:
        raise ValueError("not ours")


@app.post("/tasks/pubsub/")
async def push(envelope: Envelope, authorization: Annotated[str, Header()]) -> Response:
    """One delivery."""
    try:
        await run_in_threadpool(verify, authorization.removeprefix("Bearer "))
    except ValueError:
        raise HTTPException(403) from None
    task = Payload.model_validate(json.loads(base64.b64decode(envelope.message.data)))
    async with sessions() as session:
        row = await session.scalar(
            select(Execution).where(Execution.task_id == task.task_id).with_for_update()
        )
        now = datetime.now(UTC)
        if row is None:
            row = Execution(
                task_id=task.task_id, task_name=task.task_name, args=task.args, kwargs=task.kwargs, attempt=0
            )
            session.add(row)
        elif row.status == "SUCCESSFUL":
            return Response("ok")
        elif row.status == "RUNNING" and row.lease_until is not None and row.lease_until > now:
            raise HTTPException(429)
        row.status, row.attempt, row.lease_until, row.started_at = (
            "RUNNING",
            row.attempt + 1,
            now + LEASE,
            now,
        )
        try:
            await session.commit()
        except IntegrityError:  # another delivery was quicker
            raise HTTPException(429) from None
        try:
            row.result = await TASKS[task.task_name](*task.args, **task.kwargs)
            row.status = "SUCCESSFUL"
        except Exception as error:  # noqa: BLE001 - whatever a task raises is its failure
            row.status, row.error = "FAILED", repr(error)
        row.finished_at, row.lease_until = datetime.now(UTC), None
        await session.commit()
    return Response(
        "ok" if row.status == "SUCCESSFUL" else "failed", 200 if row.status == "SUCCESSFUL" else 500
    )


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="warning",
    )
