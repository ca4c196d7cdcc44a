"""What a task logs: its execution, its trace, and all that the log call gave, on one line each."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.tasks.running import Running, running
from receiver.telemetry import formats
from receiver.telemetry.extras import MOST_TEXT
from tests.unit.telemetry.conftest import CLOUD, Lines

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LABELS = "logging.googleapis.com/labels"
MAIL = Running("t-1", "mail", 2, f"00-{TRACE}-{SPAN}-01", {"tenant": "acme"})
log = logging.getLogger("shop.mail")


@pytest.fixture
def mail() -> Iterator[None]:
    """The code of a test is a task's."""
    before = running.set(MAIL)
    yield
    running.reset(before)


@pytest.mark.usefixtures("mail")
def test_a_line_of_a_task_names_its_execution_and_its_trace(cloud: Lines) -> None:
    log.info("sent %d", 3)
    line = cloud.object()
    assert line.pop("time")
    source = line.pop("logging.googleapis.com/sourceLocation")
    assert (source["file"], source["function"]) == (
        __file__,
        "test_a_line_of_a_task_names_its_execution_and_its_trace",
    )
    assert line == {
        "severity": "INFO",
        "message": "sent 3",
        LABELS: {"instance": "host-1-abcd", "namespace": "shop"},
        "logger": "shop.mail",
        "task_name": "mail",
        "task_id": "t-1",
        "attempt": 2,
        "metadata": {"tenant": "acme"},
        "logging.googleapis.com/trace": f"projects/shop-prod/traces/{TRACE}",
        "logging.googleapis.com/spanId": SPAN,
        "logging.googleapis.com/trace_sampled": True,
    }


@pytest.mark.usefixtures("mail")
async def test_child_tasks_and_threads_belong_to_it_too(cloud: Lines) -> None:
    async def child() -> None:
        log.info("child")

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        group.create_task(asyncio.to_thread(log.info, "to_thread"))
    await asyncio.get_running_loop().run_in_executor(None, copy_context().run, log.info, "executor")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(copy_context().run, log.info, "pool").result()
    assert sorted((line["message"], line["task_id"]) for line in cloud.objects()) == [
        ("child", "t-1"),
        ("executor", "t-1"),
        ("pool", "t-1"),
        ("to_thread", "t-1"),
    ]


def test_outside_of_a_task_there_is_no_execution(cloud: Lines) -> None:
    thread = threading.Thread(target=log.info, args=("alone",))
    thread.start()
    thread.join()
    assert not {"task_id", "task_name", "attempt", "logging.googleapis.com/trace"} & cloud.object().keys()


# --- as with google-cloud-logging -------------------------------------------------------------------------------


def test_extras_are_fields_of_the_line(cloud: Lines) -> None:
    log.info("x", extra={"order": 17, "items": ["a", {"b": None}], "rate": 0.5, "paid": True})
    line = cloud.object()
    assert (line["order"], line["items"], line["rate"], line["paid"]) == (17, ["a", {"b": None}], 0.5, True)


def test_json_fields_are_fields_of_the_line(cloud: Lines) -> None:
    log.info("x", extra={"json_fields": {"order": 17, "labels": "a word"}, "user": "u1"})
    line = cloud.object()
    assert (line["order"], line["labels"], line["user"]) == (17, "a word", "u1")
    assert "json_fields" not in line


@pytest.mark.parametrize("extra", [{"labels": {"tenant": 7}}, {"json_fields": {LABELS: {"tenant": 7}}}])
def test_labels_join_ours_and_are_text(cloud: Lines, extra: dict[str, Any]) -> None:
    log.info("x", extra=extra)
    assert cloud.object()[LABELS] == {"tenant": "7", "instance": "host-1-abcd", "namespace": "shop"}
    cloud.clear()
    log.info("the next line has none of them")
    assert cloud.object()[LABELS] == {"instance": "host-1-abcd", "namespace": "shop"}


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("http_request", {"requestMethod": "GET", "status": 404}, "httpRequest"),
        ("httpRequest", {"requestMethod": "GET", "status": 404}, "httpRequest"),
        ("operation", {"id": "import-7", "producer": "shop"}, "logging.googleapis.com/operation"),
        (
            "source_location",
            {"file": "a.py", "line": "7", "function": "f"},
            "logging.googleapis.com/sourceLocation",
        ),
        ("trace", "projects/other/traces/1", "logging.googleapis.com/trace"),
        ("span_id", "00000000000000ff", "logging.googleapis.com/spanId"),
        ("trace_sampled", False, "logging.googleapis.com/trace_sampled"),
    ],
)
@pytest.mark.usefixtures("mail")
def test_what_cloud_logging_has_a_place_for_is_there(
    cloud: Lines, name: str, value: object, place: str
) -> None:
    log.info("x", extra={name: value})
    line = cloud.object()
    assert line[place] == value
    assert name == place or name not in line


@pytest.mark.usefixtures("mail")
def test_another_trace_is_not_given_our_span(cloud: Lines) -> None:
    log.info("x", extra={"trace": "projects/other/traces/1"})
    assert (
        not {"logging.googleapis.com/spanId", "logging.googleapis.com/trace_sampled"} & cloud.object().keys()
    )


@pytest.mark.parametrize("name", ["operation", "labels", "http_request"])
def test_a_word_with_the_name_of_a_place_is_a_field(cloud: Lines, name: str) -> None:
    log.info("x", extra={name: "import"})
    assert cloud.object()[name] == "import"


@pytest.mark.parametrize(
    "message", [{"message": "paid", "order": 17}, '{"message": "paid", "order": 17}'], ids=["dict", "text"]
)
def test_a_dict_as_message_is_fields(cloud: Lines, message: object) -> None:
    log.info(message)
    line = cloud.object()
    assert (line["message"], line["order"]) == ("paid", 17)


@pytest.mark.parametrize("text", ["{", "{}x", "[1]", '{"a": 1' + " " * 20, "{" * 100_000])
def test_text_that_only_begins_like_json_is_text(cloud: Lines, text: str) -> None:
    log.info(text)
    assert cloud.object()["message"].startswith(text[:20])


# --- structlog --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "last",
    [
        structlog.stdlib.render_to_log_kwargs,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        structlog.processors.JSONRenderer(),
    ],
    ids=["kwargs", "formatter", "json"],
)
@pytest.mark.usefixtures("mail")
def test_structlogs_fields_are_kept(cloud: Lines, last: Any) -> None:
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level, last],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    try:
        with structlog.contextvars.bound_contextvars(tenant="acme"):
            structlog.get_logger("shop").bind(order=17).warning("paid", amount=3)
    finally:
        structlog.reset_defaults()
    line = cloud.object()
    assert (line["severity"], line["message"], line["task_id"]) == ("WARNING", "paid", "t-1")
    assert (line["tenant"], line["order"], line["amount"]) == ("acme", 17, 3)
    assert not [key for key in line if key.startswith("_")]


# --- whatever the values are ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mail")
def test_a_key_of_ours_is_not_replaced(cloud: Lines) -> None:
    log.info("x", extra={"task_id": "other", "json_fields": {"severity": "EMERGENCY", "message": "y"}})
    line = cloud.object()
    assert (line["severity"], line["message"], line["task_id"]) == ("INFO", "x", "t-1")
    assert line["extra"] == {"task_id": "other", "severity": "EMERGENCY", "message": "y"}


class Raises:
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


@dataclasses.dataclass
class Login:
    user: str
    password: str = dataclasses.field(repr=False)


endless: list[Any] = []
endless.append(endless)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        (ValueError("no"), "ValueError('no')"),
        (Login("ada", "s3cret"), "Login(user='ada')"),
        (b"\xff", "b'\\xff'"),
        (2**70, str(2**70)),
        (float("nan"), None),
        ((1, 2), [1, 2]),
        ({1: {2}}, {"1": [2]}),
        (Raises(), "<SystemExit>"),
        ("\ud800\0", "\\ud800\\x00"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_not_json_is_its_text(cloud: Lines, value: object, shown: object) -> None:
    """Of a class that hides a secret in its `repr`, not the secret."""
    log.info("x", extra={"value": value})
    assert cloud.object()["value"] == shown


@pytest.mark.parametrize(
    "value",
    [
        endless,
        "x" * 10_000_000,
        ["x" * 1000] * 1000,
        {str(n): n for n in range(100_000)},
        [[[]] * 1000] * 1000,
    ],
    ids=["endless", "text", "list", "dict", "nested"],
)
def test_a_line_is_bounded(cloud: Lines, value: object) -> None:
    log.info("x", extra={"value": value, "json_fields": {"a": value, "b": value, "c": value}})
    assert cloud.object()["message"] == "x"
    assert len(cloud.text) < 3 * MOST_TEXT
    cloud.clear()
    log.info("x", extra={"json_fields": {str(n): "y" for n in range(100_000)}})
    assert len(cloud.text) < 3 * MOST_TEXT
    assert cloud.object()["extra"] == {"cut": f"more than {MOST_TEXT} characters"}


TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=9)
ANYTHING = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60)
@given(message=ANYTHING, extra=st.dictionaries(TEXT, ANYTHING, max_size=3))
def test_any_extras_are_one_json_object_on_one_line(message: object, extra: dict[str, Any]) -> None:
    given = {"json_fields": extra, "labels": extra, "v": extra}
    record = logging.makeLogRecord({"msg": message, "name": "shop", "levelno": 30} | given)
    line = formats.JsonFormatter(CLOUD).format(record)
    assert json.loads(line)["severity"] == "WARNING"
    assert "\n" not in line
    assert len(formats.TerminalFormatter().format(record).splitlines()) == 1


@pytest.mark.usefixtures("mail")
def test_a_logged_exception_keeps_its_extras_and_its_execution(cloud: Lines) -> None:
    try:
        int("nowhere")
    except ValueError:
        log.exception("it broke", extra={"order": 17, "stack_trace": "mine"}, stack_info=True)
    line = cloud.object()
    assert (line["order"], line["task_id"], line["@type"]) == (17, "t-1", formats.ERROR_EVENT)
    assert line["stack_trace"].endswith(": 'nowhere'\n")
    assert line["extra"] == {"stack_trace": "mine"}
    assert line["stack_info"].startswith("Stack (most recent call last)")


@pytest.mark.usefixtures("mail")
def test_a_terminal_shows_the_task_and_the_extras(terminal: Lines) -> None:
    log.info("sent", extra={"order": 17, "who": "a\nb", "labels": {"tenant": "acme"}})
    assert terminal.text.endswith(" INFO    [mail] sent labels={'tenant': 'acme'} order=17 who=a\\nb\n")
