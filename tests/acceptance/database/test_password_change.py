"""The database's password changes while instances serve: one reads its file again, one without a file makes way for another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Start
from tests.stage import canaries
from tests.stage.canaries import Canary, guarded
from tests.stage.receivers import message
from tests.stage.record import Record
from tests.stage.servers import LocalServer
from tests.stage.waiting import eventually
from tests.stage.wire import push, until_acked

SECOND = "second"


@pytest.fixture(scope="module")
def postgres() -> Iterator[LocalServer]:
    with guarded() as server:
        yield server


async def change(server: LocalServer, password: str) -> None:
    """Changes the role's password, and ends its connections."""
    record = Record(server.url())
    await record.fetch(f"ALTER ROLE \"{Canary.USER}\" PASSWORD '{password}'")
    await record.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", str(Canary.USER)
    )


async def test_a_changed_password_is_read_from_its_file(
    begin: Start, postgres: LocalServer, label: str, tmp_path: Path
) -> None:
    await change(postgres, Canary.PASSWORD)
    file = tmp_path / "password"
    file.write_text(Canary.PASSWORD)
    url = canaries.address(postgres, password=Canary.STALE_PASSWORD)
    instance = begin(url, {"DATABASE_PASSWORD_FILE": str(file)})
    await until_acked(instance, message("plain", f"{label}-1"))
    await change(postgres, SECOND)
    file.write_text(SECOND)
    await until_acked(instance, message("plain", f"{label}-2"))
    assert (await asyncio.to_thread(instance.get, "/ready")).json()["database"] == "ok"


async def test_an_instance_whose_password_stays_refused_leaves_in_order_and_says_why(
    begin: Start, postgres: LocalServer, label: str
) -> None:
    await change(postgres, Canary.PASSWORD)
    instance = begin(canaries.address(postgres), {"TASKS_SETUP": "impatient:hurry", "K_SERVICE": "receiver"})
    await until_acked(instance, message("plain", f"{label}-1"))
    await change(postgres, SECOND)
    assert (await asyncio.to_thread(instance.get, "/ready")).status_code == 503
    ready = (await asyncio.to_thread(instance.get, "/ready")).json()
    assert (ready["database"], ready["schema"]) == ("login refused", "unknown")

    async def gone() -> bool:
        if instance.process.poll() is None:
            answer = await push(instance, message("plain", f"{label}-2"))
            assert answer.status in {0, 429, 500}  # 0: it has just ended
        return instance.process.poll() is not None

    await eventually(gone)
    assert instance.process.returncode == 1
    lines = [json.loads(line) for line in instance.log().splitlines()]
    [why] = [each["message"] for each in lines if "instance gives up" in each["message"]]
    assert why.endswith(
        "refused the login for a minute; a new instance reads DATABASE_PASSWORD or DATABASE_URL again"
    )
    assert lines[-1]["message"] == "stopped"
    await change(postgres, Canary.PASSWORD)
    other = begin(canaries.address(postgres))
    await until_acked(other, message("plain", f"{label}-2"))
