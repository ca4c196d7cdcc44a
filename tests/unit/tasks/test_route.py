from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from receiver.errors import DeclarationError, SettingError
from receiver.tasks.route import TaskRoute
from receiver.tasks.task import TaskContext, task


def send_welcome_email(user_id: str) -> None: ...


async def sync_stock(ctx: TaskContext) -> None: ...


def clean_up(ctx: TaskContext, batch: int = 100, *labels: str, dry: bool = False, **more: object) -> None: ...


def bill(ctx: TaskContext, /, user_id: str) -> None: ...


def notify(*, user_id: str) -> None: ...


@task
async def decorated(user_id: str) -> None: ...


@dataclasses.dataclass(frozen=True)
class DjangoTask:
    """The part of a Django Task that matters here."""

    func: Callable[..., Any]
    priority: int = 0


def refusal(func: Any = send_welcome_email, **values: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        TaskRoute(func, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_the_references() -> None:
    route = TaskRoute(send_welcome_email)
    assert (route.ack_deadline, route.min_retry_delay, route.max_retry_delay) == (300, 10, 600)
    assert (route.schedule, route.schedule_timezone, route.is_scheduled) == (None, "UTC", False)
    assert (route.kill_switch, route.max_attempts, route.timeout, route.aliases) == (None, None, None, ())


@pytest.mark.parametrize(
    "func", [send_welcome_email, task(send_welcome_email), DjangoTask(send_welcome_email)]
)
def test_a_function_and_the_tasks_around_it_are_the_same_route(func: Any) -> None:
    route = TaskRoute(func)
    assert route.function is send_welcome_email
    assert route.name == "send_welcome_email"
    assert route.path == f"{__name__}.send_welcome_email"
    assert route.names == {route.name, route.path}
    assert not route.is_async
    assert not route.takes_context


def test_an_async_function_and_its_context_are_recognised() -> None:
    assert TaskRoute(sync_stock).is_async
    assert TaskRoute(sync_stock).takes_context
    assert TaskRoute(decorated).is_async


def test_a_nested_function_is_allowed() -> None:
    def inner() -> None: ...

    assert "<locals>" in TaskRoute(inner).path
    assert "_locals_" in TaskRoute(inner).topic_name


def test_resource_names_read_the_environment_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    route = TaskRoute(sync_stock, schedule="0 3 * * *")
    for environment in ("staging", "prod"):
        monkeypatch.setenv("TASKS_ENVIRONMENT", environment)
        monkeypatch.setenv("TASKS_NAMESPACE", "shop")
        path = f"{__name__}.sync_stock"
        assert route.topic_name == f"{environment}--shop.tasks--{path}"
        assert route.subscription_name == f"{environment}--shop.tasks--{path}-sub"
        assert route.scheduler_job_name == f"{environment}--shop-scheduler--{path.replace('.', '-')}"
    monkeypatch.setenv("TASKS_ENVIRONMENT", "no spaces")
    with pytest.raises(SettingError, match="TASKS_ENVIRONMENT"):
        assert route.topic_name


def test_the_references_example_names_come_out_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_ENVIRONMENT", "prod")
    monkeypatch.delenv("TASKS_NAMESPACE", raising=False)

    def welcome() -> None: ...

    def cleanup() -> None: ...

    for function, name in ((welcome, "send_welcome_email"), (cleanup, "cleanup_old_data")):
        function.__module__, function.__qualname__, function.__name__ = "gyrinx.core.tasks", name, name
    route = TaskRoute(welcome)
    assert route.topic_name == "prod--gyrinx.tasks--gyrinx.core.tasks.send_welcome_email"
    assert route.subscription_name == "prod--gyrinx.tasks--gyrinx.core.tasks.send_welcome_email-sub"
    job = TaskRoute(cleanup, schedule="0 3 * * *").scheduler_job_name
    assert job == "prod--gyrinx-scheduler--gyrinx-core-tasks-cleanup_old_data"


@pytest.mark.parametrize("func", [send_welcome_email, decorated, bill, notify])
def test_what_is_scheduled_can_be_called_without_arguments(func: Any) -> None:
    """A firing brings none: each would be a 400, and nobody would know before the first night."""
    assert "schedule: a firing brings no arguments" in refusal(func, schedule="0 3 * * *")
    assert "'user_id'" in refusal(func, schedule="0 3 * * *")
    assert TaskRoute(func).schedule is None


@pytest.mark.parametrize("func", [sync_stock, clean_up])
def test_defaults_and_the_context_are_no_arguments_of_a_firing(func: Any) -> None:
    assert TaskRoute(func, schedule="0 3 * * *").is_scheduled


def test_a_route_without_schedule_has_no_job_name() -> None:
    with pytest.raises(ValueError, match="no schedule configured"):
        assert TaskRoute(send_welcome_email).scheduler_job_name


@pytest.mark.parametrize(
    ("ack_deadline", "timeout", "effective"),
    [
        (10, None, 8.0),
        (20, None, 18.0),
        (300, None, 270.0),
        (600, None, 540.0),
        (300, 900, 900.0),
        (300, 0.5, 0.5),
    ],
)
def test_the_timeout_leaves_time_for_the_answer(
    ack_deadline: int, timeout: float | None, effective: float
) -> None:
    route = TaskRoute(send_welcome_email, ack_deadline=ack_deadline, timeout=timeout)
    assert route.effective_timeout == effective


@pytest.mark.parametrize(
    ("value", "enabled"),
    [
        (None, True), ("true", True), ("1", True), ("", True), ("anything", True), ("0", False), ("false", False),
        ("FALSE", False), ("No", False), ("off", False), ("OFF\n", False), ("disabled", False), ("None", False),
        ("n", False), ("F", False), ("enabled", True),
    ],
)  # fmt: skip
def test_the_kill_switch_is_read_at_every_question(value: str | None, enabled: bool) -> None:  # noqa: FBT001
    route = TaskRoute(send_welcome_email, kill_switch="ENABLE_MAIL")
    assert route.is_enabled({} if value is None else {"ENABLE_MAIL": value}) is enabled
    assert TaskRoute(send_welcome_email).is_enabled({"ENABLE_MAIL": "off"})


@pytest.mark.parametrize(
    ("value", "doubted"),
    [(None, False), ("", False), ("On", False), ("disabled", False), ("maybe", True), ("of", True)],
)
def test_a_kill_switch_that_is_not_understood_is_said(value: str | None, doubted: bool) -> None:  # noqa: FBT001
    route = TaskRoute(send_welcome_email, kill_switch="ENABLE_MAIL")
    environ = {} if value is None else {"ENABLE_MAIL": value}
    said = f"ENABLE_MAIL is {value!r}, which counts as on; use on or off"
    assert route.doubt(environ) == (said if doubted else None)
    assert TaskRoute(send_welcome_email).doubt(environ) is None


def test_aliases_are_further_names() -> None:
    route = TaskRoute(send_welcome_email, aliases=["old.path.mail", "mail"])
    assert route.aliases == ("old.path.mail", "mail")
    assert route.paths == {route.path, "old.path.mail", "mail", f"{__name__}.mail"}
    assert route.names == route.paths | {"send_welcome_email"}
    assert hash(route) == hash(TaskRoute(send_welcome_email, aliases=("old.path.mail", "mail")))


def test_a_route_never_changes() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TaskRoute(send_welcome_email).ack_deadline = 20  # type: ignore[misc]


EDGES: list[tuple[str, list[Any], list[Any]]] = [
    ("ack_deadline", [10, 600], [9, 601, -1, True, "10", 10.0, None]),
    ("min_retry_delay", [0, 600], [-1, 601, False, "0", 0.0, None]),
    ("max_retry_delay", [10, 600], [9, 601, True, "600", None]),
    ("max_attempts", [1, 2**31 - 1, None], [0, 2**31, -1, True, 1.0, "1"]),
    ("timeout", [0.001, 3600, 3600.0, None], [0, -1, 3600.1, float("nan"), float("inf"), True, "60"]),
    ("schedule", ["0 3 * * *", None], ["", "@daily", "0 3 * *", 3, "0 0 31 2 *"]),
    ("schedule_timezone", ["UTC", "Europe/London"], ["", "Europe/Lundon", None, 3]),
    ("kill_switch", ["ENABLE_MAIL", "_x", None], ["", "1X", "ENABLE MAIL", "A=B", "É", "X\n", 1]),
    (
        "aliases",
        [[], ("a",), ["a" * 500]],
        ["abc", None, [""], ["a" * 501], ["a\x00"], [1], {"a"}, ["\udcff"]],
    ),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, good, _ in EDGES for value in good])
def test_a_value_at_the_edge_is_accepted(field: str, value: Any) -> None:
    expected = tuple(value) if field == "aliases" else value
    assert getattr(TaskRoute(sync_stock, **{field: value}), field) == expected


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, _, bad in EDGES for value in bad])
def test_a_value_past_the_edge_is_refused_in_one_line_naming_task_and_field(field: str, value: Any) -> None:
    message = refusal(**{field: value})
    assert f"{__name__}.send_welcome_email" in message
    assert (field if field != "max_retry_delay" else "retry_delay") in message


UPLOADS = "projects/shop-prod/topics/uploads"


@pytest.mark.parametrize(
    "topic", ["uploads", "projects/p/topics/goog-x", "projects/p/subscriptions/s", 1, ""]
)
def test_a_foreign_topic_has_its_full_name(topic: Any) -> None:
    assert "topic is" in refusal(topic=topic)
    assert TaskRoute(send_welcome_email, topic=UPLOADS).topic == UPLOADS


def test_a_foreign_topics_task_takes_the_data_and_nothing_else() -> None:
    assert "as its one argument (too many positional arguments)" in refusal(sync_stock, topic=UPLOADS)
    assert "as its one argument" in refusal(notify, topic=UPLOADS)


@pytest.mark.parametrize("words", ["", "é" * 129, 1])
def test_a_filter_is_pubsubs_and_stands_beside_a_topic(words: Any) -> None:
    assert "topic_filter is" in refusal(topic=UPLOADS, topic_filter=words)
    assert "beside a topic" in refusal(topic_filter="attributes:x")


@pytest.mark.parametrize("service", ["Heavy", "", 1, "a=b", "a" * 41])
def test_a_service_has_a_name_that_settings_can_hold(service: Any) -> None:
    assert "service is" in refusal(service=service)
    assert TaskRoute(send_welcome_email, service="heavy-2").service == "heavy-2"


def test_the_shortest_delay_is_not_above_the_longest() -> None:
    assert TaskRoute(send_welcome_email, min_retry_delay=20, max_retry_delay=20).min_retry_delay == 20
    assert "use at most max_retry_delay (20)" in refusal(min_retry_delay=21, max_retry_delay=20)


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Callable_:  # noqa: N801 - a stand-in for an object without a name
    def __call__(self) -> None: ...


def late(user_id: str, ctx: TaskContext) -> None: ...


def by_keyword(*, ctx: TaskContext) -> None: ...


@pytest.mark.parametrize(
    ("func", "says"),
    [
        (lambda: None, "is a lambda"),
        (functools.partial(send_welcome_email, "1"), "is a partial"),
        (DjangoTask(functools.partial(send_welcome_email, "1")), "wraps a partial"),
        (generator, "is a generator"),
        (async_generator, "is a generator"),
        (Callable_(), "has no name of its own"),
        (Callable_, "is not a function"),
        ("shop.tasks.run", "is not a function"),
        (None, "is not a function"),
        (DjangoTask("nothing"), "is not a function"),  # type: ignore[arg-type]
        (late, "TaskContext in the wrong place (ctx)"),
        (by_keyword, "TaskContext in the wrong place (ctx)"),
        (max, "has no signature"),
    ],
)
def test_what_cannot_be_a_task_is_refused(func: Any, says: str) -> None:
    message = refusal(func)
    assert message.startswith("TaskRoute: func ")
    assert says in message


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        (
            timedelta(days=14),
            "use 15d or more: Pub/Sub keeps a message for 7d and its dead letter for 7d more",
        ),
        (timedelta(days=3651), "use at most 3650d"),
        (30, "use a timedelta"),
    ],
)
def test_how_long_executions_are_kept_is_checked(keep: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(says)):
        TaskRoute(send_welcome_email, keep=keep)
    assert TaskRoute(send_welcome_email, keep=timedelta(days=15)).keep == timedelta(days=15)


@pytest.mark.parametrize("names", [["emial"], ["ctx"], "user_id", [""], ["user_id", "emial"]])
def test_what_is_redacted_is_a_parameter(names: Any) -> None:
    assert "use a list of its parameters: user_id" in refusal(redact=names)
    assert "use a list of its parameters: none" in refusal(sync_stock, redact=["ctx"])
    assert TaskRoute(bill, redact=["user_id"]).redact == ("user_id",)


@pytest.mark.parametrize(
    ("names", "args", "kwargs", "shown"),
    [
        (["batch"], [7, "a"], {}, (["[redacted]", "a"], {})),
        (["batch"], [], {"batch": 7, "dry": True}, ([], {"batch": "[redacted]", "dry": True})),
        (["labels"], [7, "a", "b"], {"x": 1}, ([7, "[redacted]", "[redacted]"], {"x": 1})),
        (["more"], [7, "a"], {"dry": True, "x": 1, "y": 2}, ([7, "a"], {"dry": True, "x": "[redacted]", "y": "[redacted]"})),
        (["dry"], [7], {"dry": {"deep": [1]}}, ([7], {"dry": "[redacted]"})),
        ([], [7], {"x": 1}, ([7], {"x": 1})),
    ],
)  # fmt: skip
def test_the_values_of_sensitive_parameters_are_hidden_however_they_come(
    names: list[str], args: Any, kwargs: Any, shown: Any
) -> None:
    assert TaskRoute(clean_up, redact=names).shown(args, kwargs) == shown


@pytest.mark.parametrize(
    ("args", "kwargs"), [([1, 2], {}), ([], {}), ([], {"other": 1}), ("x", {}), ([1], None)]
)
def test_arguments_that_do_not_fit_are_hidden_altogether(args: Any, kwargs: Any) -> None:
    """Nobody can say which is which: an older signature may have had them in another order."""
    assert TaskRoute(send_welcome_email, redact=["user_id"]).shown(args, kwargs) == (
        "[redacted]",
        "[redacted]",
    )
