"""An application with Django's logging and Sentry: what it logs, and what Sentry is told, on a real receiver."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from receiver.emulator import push_client
from tests.acceptance.conftest import Start
from tests.stage import sentry as sentry_server
from tests.stage.instance import Instance
from tests.stage.receivers import Marks, new_label
from tests.stage.sentry import Sentry
from tests.stage.waiting import eventually
from tests.stage.wire import push

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def sentry() -> Iterator[Sentry]:
    with sentry_server.listening() as listening:
        yield listening


@pytest.fixture(scope="module")
def instance(begin_shared: Start, shared_database_url: str, sentry: Sentry) -> Instance:
    return begin_shared(
        shared_database_url,
        {"K_SERVICE": "tasks", "TASKS_SETUP": "observed_tasks:set_up", "SENTRY_DSN": sentry.dsn},
        modules="observed_tasks",
    )


async def run(instance: Instance, task: str, label: str, **kwargs: object) -> int:
    """The status of one push."""
    attributes = {
        "googclient_traceparent": f"00-{TRACE}-{SPAN}-01",
        "receiver_metadata": '{"tenant": "acme"}',
    }
    body = push_client.message(task, kwargs={"label": label, **kwargs}, task_id=label, attributes=attributes)
    return (await push(instance, body)).status


async def events(
    instance: Instance, marks: Marks, sentry: Sentry, *labels: str
) -> list[list[dict[str, Any]]]:
    """All events of these executions: the SDK sends in order, so that those of another that follows are the last."""
    last = new_label()
    marks.let_go(last)
    await run(instance, "buy", last)
    await eventually(lambda: sentry.of(last))
    return [sentry.of(label) for label in labels]


def entries(instance: Instance, label: str) -> dict[str, dict[str, Any]]:
    """The lines of one execution, by their message."""
    lines = [json.loads(line) for line in instance.log().splitlines() if line.startswith("{")]
    return {line["message"]: line for line in lines if line.get("task_id") == label}


def exceptions(event: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["type"], each["value"]) for each in event["exception"]["values"]]


def functions(event: dict[str, Any]) -> list[str]:
    """The functions of the tasks' module in all stacks of an event."""
    stacks = [each["stacktrace"]["frames"] for each in event["exception"]["values"] if each.get("stacktrace")]
    return [frame["function"] for stack in stacks for frame in stack if frame["module"] == "observed_tasks"]


# --- what it logs -----------------------------------------------------------------------------------------------


async def test_what_a_task_logs_is_attributed_wherever_its_code_is(instance: Instance) -> None:
    label = new_label()
    assert await run(instance, "speak", label) == 200
    await eventually(lambda: "200 speak: Succeeded" in entries(instance, label))
    lines = entries(instance, label)
    assert lines.keys() == {"child", "thread", "executor", "callback", "spoken", "200 speak: Succeeded"}
    for line in lines.values():
        assert (line["task_name"], line["attempt"]) == ("speak", 1)
        assert line["metadata"] == {"tenant": "acme"}
        assert line["logging.googleapis.com/trace"] == f"projects/local/traces/{TRACE}"
        assert line["logging.googleapis.com/spanId"] == SPAN
    assert lines["child"]["order"] == 17
    assert lines["child"]["logging.googleapis.com/labels"]["tenant"] == "acme"
    assert lines["spoken"]["httpRequest"] == {"status": 404}
    assert lines["spoken"]["logging.googleapis.com/operation"] == {"id": label}


async def test_a_task_in_a_thread_is_attributed_too(instance: Instance) -> None:
    label = new_label()
    assert await run(instance, "speak_in_thread", label) == 200
    (line,) = [line for text, line in entries(instance, label).items() if text == "spoken"]
    assert (line["task_name"], line["logger"]) == ("speak_in_thread", "shop")


async def test_an_application_has_its_own_form_and_our_lines_still_come(instance: Instance) -> None:
    """`django.setup()` in TASKS_SETUP has disabled every logger that was there."""
    label = new_label()
    assert await run(instance, "speak", label) == 200
    assert "own formatted" in instance.log().splitlines()
    assert "receiving pushes for 8 tasks" in instance.log()


# --- what Sentry is told ----------------------------------------------------------------------------------------


async def test_one_tasks_user_and_tags_never_reach_another(
    instance: Instance, sentry: Sentry, marks: Marks
) -> None:
    """All wait at their gates at the same time, two in the loop and two in threads."""
    users = {new_label(): (user, task) for user, task in zip(
        ("ada", "bob", "eve", "joe"), ("buy", "buy", "buy_in_thread", "buy_in_thread"), strict=True
    )}  # fmt: skip
    nobody = {new_label(): task for task in ("buy", "buy_in_thread")}
    pushes = [run(instance, task, label, user=user) for label, (user, task) in users.items()]
    under_way = [asyncio.create_task(one) for one in pushes]
    await marks.called(*users)
    marks.let_go(*users, *nobody)
    assert await asyncio.gather(*under_way) == [500] * 4
    assert [await run(instance, task, label) for label, task in nobody.items()] == [500, 500]
    found = await events(instance, marks, sentry, *users, *nobody)
    assert [len(each) for each in found] == [1] * 6
    for (user, _), (event,) in zip(users.values(), found[:4], strict=True):
        assert event["user"] == {"id": user}
        assert event["tags"] == {f"tag-{user}": "yes"}
    assert [(event.get("user"), event.get("tags")) for (event,) in found[4:]] == [(None, None)] * 2


async def test_an_event_has_the_exception_and_its_stack(
    instance: Instance, sentry: Sentry, marks: Marks
) -> None:
    label = new_label()
    marks.let_go(label)
    assert await run(instance, "buy", label) == 500
    ((event,),) = await events(instance, marks, sentry, label)
    assert exceptions(event) == [("LookupError", "a book is sold out")]
    assert functions(event) == ["buy", "sold_out"]
    assert (event["level"], event["logger"]) == ("error", "receiver")
    assert (event["extra"]["task_name"], event["extra"]["attempt"]) == ("buy", 1)
    assert event["extra"]["metadata"] == {"tenant": "acme"}
    assert event["request"]["headers"]["authorization"] == "[Filtered]"


async def test_each_attempt_is_one_event_and_the_last_is_final(
    instance: Instance, sentry: Sentry, marks: Marks
) -> None:
    label = new_label()
    marks.let_go(label)
    assert [await run(instance, "buy", label) for _ in range(3)] == [500, 200, 200]
    (found,) = await events(instance, marks, sentry, label)
    assert [(event["extra"]["attempt"], event["extra"]["final"]) for event in found] == [
        (1, False),
        (2, True),
    ]


async def test_a_permanent_error_and_an_exception_that_was_logged_are_one_event(
    instance: Instance, sentry: Sentry, marks: Marks
) -> None:
    permanent, logged = new_label(), new_label()
    marks.let_go(permanent)
    assert await run(instance, "buy", permanent, permanent=True) == 200
    assert await run(instance, "note_error", logged) == 500
    (first,), (second,) = await events(instance, marks, sentry, permanent, logged)
    assert exceptions(first) == [("PermanentError", "no such article")]
    assert exceptions(second) == [("LookupError", "a book is sold out")]


@pytest.mark.parametrize(
    ("task", "cause"), [("wait", "CancelledError"), ("wait_in_thread", "InterruptedError")]
)
async def test_a_timeout_is_one_event_that_says_where_the_task_was(
    instance: Instance, sentry: Sentry, marks: Marks, task: str, cause: str
) -> None:
    label = new_label()
    assert await run(instance, task, label) == 500
    ((event,),) = await events(instance, marks, sentry, label)
    assert [kind for kind, _ in exceptions(event)] == [cause, "TimeoutError"]
    assert exceptions(event)[-1][1] == "the task did not end within 1 s"
    assert functions(event) == [task]


async def test_with_the_asyncio_integration_users_stay_apart_too(
    begin: Start, shared_database_url: str, marks: Marks
) -> None:
    with sentry_server.listening() as sentry:
        instance = begin(
            shared_database_url,
            {"K_SERVICE": "tasks", "TASKS_SETUP": "observed_tasks:set_up", "SENTRY_DSN": sentry.dsn},
            modules="observed_tasks",
        )
        assert await run(instance, "watch_child_tasks", new_label()) == 200
        users = {new_label(): user for user in ("ada", "bob")}
        under_way = [
            asyncio.create_task(run(instance, "buy", label, user=user)) for label, user in users.items()
        ]
        await marks.called(*users)
        marks.let_go(*users)
        assert await asyncio.gather(*under_way) == [500, 500]
        found = await events(instance, marks, sentry, *users)
        assert [[event["user"]["id"] for event in each] for each in found] == [["ada"], ["bob"]]
