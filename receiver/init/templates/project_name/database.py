"""The database: that of the record. The receiver's tables are beside yours."""

from __future__ import annotations

import os

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def engine() -> AsyncEngine:
    """Its address is in DATABASE_URL, its password may be in DATABASE_PASSWORD."""
    address = os.environ["DATABASE_URL"]  # beside `receiver dev`: set -a; . .receiver/env; set +a
    url = make_url(address).set(drivername="postgresql+asyncpg")
    if mode := url.query.get("sslmode"):  # libpq's name for it; asyncpg calls it ssl
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": str(mode)})
    if password := os.environ.get("DATABASE_PASSWORD"):
        url = url.set(password=password)
    return create_async_engine(url, pool_pre_ping=True)
