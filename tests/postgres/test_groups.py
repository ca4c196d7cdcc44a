"""Groups: counts of one snapshot, and what anybody who knows a key may be told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from receiver.reading.groups import FIND_GROUP, Unit, find_group
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.serving import group_status as status_room
from receiver.serving.app import create_app
from receiver.serving.instance import Service
from receiver.settings import PushAuth, Settings
from receiver.tasks.registry import Registry
from tests.postgres.record import NAMESPACE, WHOSE, Look, route
from tests.stage.proxy import Proxy

KEY = "0190f5c4-import"


def served(url: str, **options: Any) -> Service:
    settings = Settings(
        database_url=url, namespace=NAMESPACE, push_auth=PushAuth.OFF, **{"status": True, **options}
    )
    return Service(settings, Registry([route()]), emit=lambda _: None)


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    made = served(database_url)
    yield made
    await made.ledger.close()


async def ask(service: Service, *keys: str) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(service=service))
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as http:
        return await http.get("/tasks/status", params={"group": list(keys)} if keys else {})


async def seed(look: Look, key: str = KEY) -> None:
    at = datetime.now(UTC) - timedelta(hours=1)
    members: list[tuple[str, dict[str, Any]]] = [
        ("SUCCESSFUL", {"return_value": '"a secret"', "args": '["a secret"]'}),
        ("FAILED", {"error_message": "a secret", "error_traceback": "a secret"}),
        ("FAILED", {"final": True}),
        ("RUNNING", {}),
        ("READY", {}),
    ]
    for number, (status, columns) in enumerate(members):
        given = {"label": f"part {number}" if number else None} | columns
        await look.seed(
            f"{key}-{9 - number}", status, group_key=key, enqueued_at=at + timedelta(seconds=number), **given
        )
    await look.seed(f"{key}-elsewhere", group_key=key, namespace="elsewhere")
    await look.seed(f"{key}-other", group_key=f"{key}x")
    await look.seed(f"{key}-none")


async def test_a_group_is_counts_labels_and_states_and_nothing_else(service: Service, look: Look) -> None:
    await seed(look)
    answer = await ask(service, KEY)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "total": 5,
        "ready": 1,
        "running": 1,
        "successful": 1,
        "failed": 2,
        "complete": False,
        "units": [
            {"label": None, "status": "SUCCESSFUL"},
            {"label": "part 1", "status": "FAILED"},
            {"label": "part 2", "status": "FAILED"},
            {"label": "part 3", "status": "RUNNING"},
            {"label": "part 4", "status": "READY"},
        ],
    }
    assert "secret" not in answer.text


async def test_it_is_complete_when_every_execution_is_final(database_url: str, look: Look) -> None:
    connection = RecordConnection(Database.of(database_url), "test")
    nobody = await find_group(connection, KEY, whose=WHOSE)
    assert (nobody.total, nobody.complete, nobody.units) == (0, False, [])
    await look.seed("a", "SUCCESSFUL", group_key=KEY)
    await look.seed("b", "FAILED", group_key=KEY)
    assert not (await find_group(connection, KEY, whose=WHOSE)).complete, "it may be tried again"
    await look.execute("UPDATE task_executions SET final = true")
    assert (await find_group(connection, KEY, whose=WHOSE)).complete
    few = await find_group(connection, KEY, whose=WHOSE, units=1)
    assert (few.total, few.units) == (2, [Unit(None, "SUCCESSFUL")])
    await connection.close()


async def test_an_unknown_key_is_an_empty_group_and_none_at_all_a_400(service: Service, look: Look) -> None:
    answer = await ask(service, "nobody's")
    assert (answer.status_code, answer.json()["total"], answer.json()["complete"]) == (200, 0, False)
    for keys in ((), ("",), ("k" * 256,), ("é" * 128,), ("a\0b",)):
        refused = await ask(service, *keys)
        assert (refused.status_code, refused.text[:11]) == (400, "Give ?group"), keys
    assert (await ask(service, "é" * 127)).status_code == 200


async def test_it_is_not_there_unless_it_is_turned_on(database_url: str) -> None:
    service = served(database_url, status=False)
    assert (await ask(service, KEY)).status_code == 404
    await service.ledger.close()


async def test_an_answer_stands_for_a_while_and_many_askers_cost_one_look(
    service: Service, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_room, "GIVEN_AGAIN_FOR", 3600.0)
    transport = httpx.ASGITransport(create_app(service=service))
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as http:
        asked = [http.get("/tasks/status", params={"group": KEY}) for _ in range(90)]
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {200}
        await look.seed("late", group_key=KEY)
        assert (await http.get("/tasks/status", params={"group": KEY})).json()["total"] == 0
        other = await http.get("/tasks/status", params={"group": "other"})
        assert other.json()["total"] == 0
        monkeypatch.setattr(status_room, "GIVEN_AGAIN_FOR", 0.0)
        assert (await http.get("/tasks/status", params={"group": KEY})).json()["total"] == 1
    assert await look.others("receiver ledger") == 1


async def test_a_flood_is_told_to_come_again(
    service: Service, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for what is known gets it nevertheless."""
    monkeypatch.setattr(status_room, "MOST_WAITING", 5)
    monkeypatch.setattr(status_room, "GIVEN_AGAIN_FOR", 60.0)
    transport = httpx.ASGITransport(create_app(service=service))
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as http:
        known = await http.get("/tasks/status", params={"group": KEY})
        async with other.transaction():
            await other.execute("LOCK TABLE task_executions IN ACCESS EXCLUSIVE MODE")
            asked = [http.get("/tasks/status", params={"group": f"key-{n}"}) for n in range(8)]
            *answers, again = await asyncio.gather(*asked, http.get("/tasks/status", params={"group": KEY}))
    assert sorted(answer.status_code for answer in answers) == [429] * 3 + [503] * 5
    assert (again.status_code, again.content) == (200, known.content)


async def test_a_database_that_is_away_is_a_503(proxy: Proxy) -> None:
    service = served(proxy.url)
    proxy.refuse()
    answer = await ask(service, KEY)
    assert (answer.status_code, answer.text) == (503, "The database does not answer.")
    await service.ledger.close()


async def test_a_group_is_found_by_its_index(database_url: str, look: Look) -> None:
    connection = RecordConnection(Database.of(database_url), "receiver ledger")
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {FIND_GROUP}", KEY, *WHOSE, 10))
    assert "task_executions_group_key" in plan, plan
    await connection.close()
