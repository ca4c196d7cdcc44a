"""The web application: it enqueues in the transaction of its own writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from project_name.database import engine
from project_name.tasks import send_welcome_email
from receiver.errors import TaskResultMissing

CREATE = text("CREATE TABLE IF NOT EXISTS users (name text PRIMARY KEY)")  # your migrations will own it
INSERT = text("INSERT INTO users (name) VALUES (:name)")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.engine = engine()
    async with app.state.engine.begin() as connection:
        await connection.execute(CREATE)
    yield
    await app.state.engine.dispose()


app = FastAPI(title="project_name", lifespan=lifespan)


@app.post("/users/{name}", status_code=201)
async def sign_up(name: str, language: str = "en") -> dict[str, str]:
    """A user and the mail: both are there, or neither."""
    try:
        async with AsyncSession(app.state.engine) as session, session.begin():
            await session.execute(INSERT, {"name": name})
            result = await send_welcome_email.using(connection=session).aenqueue(name, language=language)
    except IntegrityError:
        raise HTTPException(409, f"there is a user {name}") from None
    return {"task": result.id}


@app.get("/mails/{task_id}")
async def mail(task_id: str) -> dict[str, str | int]:
    """What became of it."""
    try:
        result = await send_welcome_email.aget_result(task_id)
    except TaskResultMissing:
        raise HTTPException(404, "there is no such mail") from None
    return {"status": result.status, "attempts": result.attempts}
