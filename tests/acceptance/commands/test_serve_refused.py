"""A start that is refused: one line that names what to change, exit code 2, no traceback."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path

from receiver.emulator.signer import Signer
from tests.stage.receivers import new_instance
from tests.stage.slow import some_quick

OUT_OF_REACH = "postgresql://nobody:topsecret@127.0.0.1:1/nothing"

# name: (variables, None to unset one; what the line must say)
MISTAKES: Mapping[str, tuple[Mapping[str, str | None], tuple[str, ...]]] = {
    "no project": ({"GCP_PROJECT_ID": None}, ("GCP_PROJECT_ID", "not set")),
    "a project that is none": ({"GCP_PROJECT_ID": "My Project"}, ("GCP_PROJECT_ID", "My Project")),
    "no address of its own": ({"CLOUD_RUN_SERVICE_URL": None}, ("CLOUD_RUN_SERVICE_URL", "not set")),
    "plain http": ({"CLOUD_RUN_SERVICE_URL": "http://tasks.example"}, ("CLOUD_RUN_SERVICE_URL", "https")),
    "no push account": ({"TASKS_SERVICE_ACCOUNT": None}, ("TASKS_SERVICE_ACCOUNT", "not set")),
    "an account that is none": ({"TASKS_SERVICE_ACCOUNT": "pusher"}, ("TASKS_SERVICE_ACCOUNT", "pusher")),
    "no database": ({"DATABASE_URL": None}, ("DATABASE_URL", "not set")),
    "another database": ({"DATABASE_URL": "mysql://root:topsecret@db/shop"}, ("DATABASE_URL", "postgresql://")),
    "no plugins": ({"TASKS_MODULES": None}, ("TASKS_MODULES", "no plugins")),
    "a plugin that is not there": ({"TASKS_MODULES": "shop.tasks"}, ("TASKS_MODULES", "shop.tasks")),
    "a number that is none": ({"TASKS_MAX_CONCURRENCY": "many"}, ("TASKS_MAX_CONCURRENCY", "many", "1 to 1000")),
    "a misspelt name": ({"TASKS_MAX_CONCURENCY": "9"}, ("TASKS_MAX_CONCURENCY", "TASKS_MAX_CONCURRENCY")),
    "no authentication on Cloud Run": (
        {"TASKS_PUSH_AUTH": "off", "K_SERVICE": "tasks"},
        ("TASKS_PUSH_AUTH", "Cloud Run"),
    ),
    "the emulator on Cloud Run": (
        {"PUBSUB_EMULATOR_HOST": "localhost:8085", "K_SERVICE": "tasks"},
        ("PUBSUB_EMULATOR_HOST", "Cloud Run"),
    ),
}  # fmt: skip


async def refusal(
    signer: Signer, folder: Path, *, database_url: str = OUT_OF_REACH, port: int | None = None,
    env: Mapping[str, str | None] | None = None,
) -> str:  # fmt: skip
    """The one line of a start that is refused."""
    instance = new_instance(database_url, signer, "https://127.0.0.1:1/certs", folder)
    if port is not None:
        instance.port = port
    for name, value in (env or {}).items():
        if value is None:
            del instance.environ[name]
        else:
            instance.environ[name] = value
    try:
        instance.launch()
        code = await asyncio.to_thread(instance.process.wait, 30)
        lines = instance.log().splitlines()
    finally:
        instance.close()
    assert code == 2
    assert len(lines) == 1, lines
    line: str = lines[0]
    if (
        "K_SERVICE" in instance.environ
    ):  # the log of Cloud Run is one JSON object a line, from the first to the last
        entry = json.loads(line)
        assert entry["severity"] == "CRITICAL"
        line = entry["message"]
    assert line.startswith("error: ")
    assert "topsecret" not in line
    return line


@some_quick(
    "mistake",
    sorted(MISTAKES, key=lambda mistake: mistake not in {"no plugins", "the emulator on Cloud Run"}),
    quick=2,
)
async def test_a_mistake_in_the_environment_is_one_line(signer: Signer, folder: Path, mistake: str) -> None:
    env, parts = MISTAKES[mistake]
    line = await refusal(signer, folder, env=env)
    assert all(part in line for part in parts), line


async def test_a_port_that_is_taken_is_named(signer: Signer, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = await refusal(signer, folder, port=port)
    assert "PORT" in line
    assert str(port) in line


async def test_a_database_without_tables_asks_for_a_migration(
    signer: Signer, folder: Path, empty_database_url: str
) -> None:
    assert "receiver migrate" in await refusal(signer, folder, database_url=empty_database_url)
