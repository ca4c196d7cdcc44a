"""One event, one line: Cloud Logging's JSON on Cloud Run, readable on a terminal, whatever the text is."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sys
import typing
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.contract.failure import Failure
from receiver.delivery.replies import reply
from receiver.endings.outcomes import (
    Abandoned,
    Broken,
    Busy,
    DeadLettered,
    Denied,
    Disconnected,
    Done,
    Ending,
    Exhausted,
    Failed,
    Full,
    HandedBack,
    Lost,
    NotDue,
    Oversized,
    Refused,
    Skipped,
    Succeeded,
    Unrecorded,
)
from receiver.errors import RejectionReason
from receiver.settings import Settings
from receiver.telemetry import formats, logs
from receiver.telemetry.events import Delivered, Event, ReceiverTrouble, ServiceState
from tests.unit.telemetry.conftest import CLOUD, Lines

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
ANYTHING = st.text(st.characters(exclude_categories=()))
FAILURE = Failure(
    "shop.OutOfStock", "sold out", "Traceback (most recent call last):\nshop.OutOfStock: sold out\n"
)


def lookup(message: str = "nowhere") -> None:
    raise LookupError(message)


def delivered(ending: Ending, **known: Any) -> Delivered:
    return Delivered(ending, reply(ending).status, 0.25, **known)


# --- Cloud Logging ----------------------------------------------------------------------------------------------


def test_a_delivery_is_one_line_in_cloud_loggings_form(cloud: Lines) -> None:
    cloud.emit(
        delivered(
            Succeeded("1"),
            task_name="ship",
            task_id="t-1",
            attempt=2,
            message_id="m-1",
            trace=f"00-{TRACE}-{SPAN}-01",
        )
    )
    line = cloud.object()
    at = datetime.fromisoformat(line.pop("time"))
    assert at.utcoffset() == timedelta(0)
    assert line == {
        "severity": "INFO",
        "message": "200 ship: Succeeded",
        "logging.googleapis.com/labels": {"instance": "host-1-abcd", "namespace": "shop"},
        "logging.googleapis.com/trace": f"projects/shop-prod/traces/{TRACE}",
        "logging.googleapis.com/spanId": SPAN,
        "logging.googleapis.com/trace_sampled": True,
        "status": 200,
        "ending": "Succeeded",
        "task_name": "ship",
        "task_id": "t-1",
        "attempt": 2,
        "message_id": "m-1",
        "seconds": 0.25,
    }


def test_what_is_not_known_is_left_out(cloud: Lines) -> None:
    cloud.emit(delivered(Denied("no token")))
    line = cloud.object()
    assert line["message"] == "403 push: Denied (no token)"
    assert not {"task_name", "task_id", "attempt", "message_id", "stack_trace", "@type"} & line.keys()
    assert None not in line.values()


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("03", True), ("02", False)])
def test_the_trace_says_whether_it_is_sampled(cloud: Lines, flags: str, sampled: bool) -> None:  # noqa: FBT001 - a table's column
    cloud.emit(delivered(Done(), trace=f"00-{TRACE}-{SPAN}-{flags}"))
    assert cloud.object()["logging.googleapis.com/trace_sampled"] is sampled


@pytest.mark.parametrize(
    "trace", [None, "", "00", f"00-{TRACE}-{SPAN}", f"00-{TRACE.upper()}-{SPAN}-01", "x" * 9_999]
)
def test_a_trace_that_is_none_is_left_out(cloud: Lines, trace: str | None) -> None:
    cloud.emit(delivered(Done(), trace=trace))
    assert not [key for key in cloud.object() if "trace" in key or "span" in key]


def test_without_a_project_there_is_no_trace() -> None:
    lines = Lines(Settings(service_name="receiver-blue"))
    lines.emit(delivered(Done(), trace=f"00-{TRACE}-{SPAN}-01"))
    assert "logging.googleapis.com/trace" not in lines.object()


def test_a_failure_is_an_event_for_error_reporting(cloud: Lines) -> None:
    cloud.emit(delivered(Failed(FAILURE), task_name="ship"))
    line = cloud.object()
    assert line["@type"] == (
        "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
    )
    assert line["serviceContext"] == {"service": "receiver-blue", "version": "receiver-blue-00042"}
    assert line["stack_trace"] == FAILURE.traceback
    assert line["error_type"] == "shop.OutOfStock"
    assert line["message"] == "500 ship: Failed (shop.OutOfStock: sold out)"


def test_a_failure_that_could_not_be_recorded_is_told_all_the_same(cloud: Lines) -> None:
    cloud.emit(delivered(Unrecorded(), task_name="ship", ran=Failed(FAILURE)))
    line = cloud.object()
    assert (line["severity"], line["message"]) == ("ERROR", "500 ship: Unrecorded")
    assert (line["error_type"], line["stack_trace"]) == ("shop.OutOfStock", FAILURE.traceback)


def test_what_needs_no_operator_at_once_is_a_warning(cloud: Lines) -> None:
    cloud.emit(ReceiverTrouble("kill switch not understood", "ENABLE_X is 'maybe'", is_error=False))
    assert cloud.object()["severity"] == "WARNING"


def test_a_stack_on_a_terminal_is_readable_lines(terminal: Lines) -> None:
    stack = '  File "shop.py", line 7, in wait\n    time.sleep(9)\n'
    terminal.emit(ReceiverTrouble("event loop blocked", "for 5 s by ship, in wait (shop.py:7)", stack=stack))
    first, *rest = terminal.text.splitlines()
    assert first.endswith(" ERROR   event loop blocked: for 5 s by ship, in wait (shop.py:7)")
    assert rest == ['      File "shop.py", line 7, in wait', "        time.sleep(9)"]


def test_trouble_of_the_service_carries_its_traceback(cloud: Lines) -> None:
    try:
        lookup()
    except LookupError as error:
        cloud.emit(ReceiverTrouble("internal error", "LookupError", task_id="t-1", error=error))
    line = cloud.object()
    assert (line["severity"], line["message"], line["task_id"]) == (
        "ERROR",
        "internal error: LookupError",
        "t-1",
    )
    assert line["stack_trace"].endswith("LookupError: nowhere\n")
    assert line["@type"] == formats.ERROR_EVENT


def test_trouble_without_an_exception_is_no_event_for_error_reporting(cloud: Lines) -> None:
    cloud.emit(ReceiverTrouble("database unavailable", "refused"))
    line = cloud.object()
    assert line["severity"] == "ERROR"
    assert not {"@type", "stack_trace", "serviceContext", "task_id"} & line.keys()


def test_a_state_is_one_line(cloud: Lines) -> None:
    cloud.emit(ServiceState("stopped"))
    assert (cloud.object()["severity"], cloud.object()["message"]) == ("INFO", "stopped")


LEVELS: list[tuple[Ending, str, str]] = [
    (Succeeded("1"), "INFO", ""),
    (Skipped("ENABLE_IT"), "INFO", "ENABLE_IT is off"),
    (Done(), "INFO", ""),
    (Busy(), "INFO", ""),
    (NotDue(), "INFO", ""),
    (Full("threads"), "INFO", "no threads"),
    (Disconnected(), "INFO", ""),
    (HandedBack(), "INFO", ""),
    (HandedBack("connection for the task"), "INFO", "no connection for the task"),
    (Exhausted(), "WARNING", ""),
    (Exhausted(crashed=True), "WARNING", "its process died under it again and again"),
    (DeadLettered("id: owed again"), "WARNING", "id: owed again"),
    (Denied("expired"), "WARNING", "expired"),
    (Oversized(), "WARNING", ""),
    (Refused(RejectionReason.UNKNOWN_TASK, "no 'x'", acked=False), "WARNING", "unknown_task: no 'x'"),
    (Refused(RejectionReason.UNKNOWN_TASK, "no 'x'", acked=True), "WARNING", "unknown_task: no 'x'"),
    (Failed(FAILURE), "ERROR", "shop.OutOfStock: sold out"),
    (Failed(FAILURE, final=True), "ERROR", "shop.OutOfStock: sold out"),
    (Abandoned(), "WARNING", ""),
    (Lost(), "ERROR", ""),
    (Unrecorded(), "WARNING", ""),
    (Broken(), "WARNING", ""),
]


@pytest.mark.parametrize(("ending", "severity", "why"), LEVELS, ids=lambda value: type(value).__name__)
def test_an_ending_has_its_level_and_its_reason(
    cloud: Lines, ending: Ending, severity: str, why: str
) -> None:
    cloud.emit(delivered(ending, task_name="ship"))
    line = cloud.object()
    assert line["severity"] == severity
    name = type(ending).__name__
    assert line["message"] == f"{reply(ending).status} ship: {name}" + (f" ({why})" if why else "")


def test_every_ending_has_a_level() -> None:
    assert {type(ending) for ending, _, _ in LEVELS} == set(typing.get_args(Ending))


# --- whatever the text is ---------------------------------------------------------------------------------------


@given(text=ANYTHING, other=ANYTHING)
def test_any_text_is_one_json_object_on_one_line(text: str, other: str) -> None:
    cloud = Lines(CLOUD)
    events: list[Event] = [
        delivered(Denied(text), task_name=other, task_id=text, message_id=other, trace=text),
        delivered(Failed(Failure(text, other, text)), task_name=other),
        ReceiverTrouble(text, other, task_id=text, error=ValueError(text)),
        ServiceState(text),
    ]
    for event in events:
        cloud.emit(event)
    logging.getLogger("library").warning("%s", text)
    lines = cloud.objects()
    assert len(lines) == len(events) + 1
    assert all({"severity", "message", "time"} <= line.keys() for line in lines)
    if text.isprintable():
        assert text in lines[0]["message"]


@given(text=ANYTHING)
def test_any_text_on_a_terminal_is_one_line_without_control_characters(text: str) -> None:
    terminal = Lines(Settings())
    terminal.emit(ServiceState(text))
    assert terminal.text.endswith("\n")
    line = terminal.text[:-1]
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", line)
    line.encode()
    if text.isprintable():
        assert line.endswith(text)


@given(text=ANYTHING)
def test_a_traceback_on_a_terminal_holds_no_control_characters_either(text: str) -> None:
    terminal = Lines(Settings())
    terminal.emit(delivered(Failed(Failure("ValueError", "x", f"first\n{text}\nlast\n"))))
    for line in terminal.text[:-1].split("\n"):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", line)
    assert terminal.text.endswith("\n    last\n")


def test_a_huge_message_of_a_library_is_cut(cloud: Lines) -> None:
    logging.getLogger("library").error("x" * 10_000_000)
    assert len(cloud.text) < 100_000
    assert "10000000 characters in all" in cloud.object()["message"]


# --- a terminal -------------------------------------------------------------------------------------------------


def test_a_terminal_shows_time_level_message_and_traceback(terminal: Lines) -> None:
    terminal.emit(delivered(Failed(FAILURE), task_name="ship"))
    first, *trail = terminal.text.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d ERROR   500 ship: Failed \(shop\.OutOfStock: sold out\)", first)
    assert trail == ["    Traceback (most recent call last):", "    shop.OutOfStock: sold out"]


def test_a_terminal_shows_escape_sequences_and_does_not_obey_them(terminal: Lines) -> None:
    terminal.emit(ServiceState("\x1b[31mred\r\n\x9bfake"))
    assert "\\x1b[31mred\\r\\n\\x9bfake" in terminal.text


def test_a_logged_exception_shows_its_traceback_on_a_terminal(terminal: Lines) -> None:
    try:
        lookup()
    except LookupError:
        logging.getLogger("library").exception("it broke")
    assert "it broke\n    Traceback (most recent call last):\n" in terminal.text
    assert terminal.text.endswith("    LookupError: nowhere\n")


# --- records of others ------------------------------------------------------------------------------------------


def test_a_record_of_a_library_names_its_logger(cloud: Lines) -> None:
    logging.getLogger("library.part").warning("slow: %d s", 3)
    line = cloud.object()
    assert (line["severity"], line["message"], line["logger"]) == ("WARNING", "slow: 3 s", "library.part")


@pytest.mark.parametrize(
    ("level", "severity"),
    [
        (20, "INFO"),
        (25, "INFO"),
        (30, "WARNING"),
        (35, "WARNING"),
        (40, "ERROR"),
        (50, "CRITICAL"),
        (60, "CRITICAL"),
    ],
)
def test_a_level_of_a_librarys_own_has_a_severity_that_cloud_logging_knows(
    cloud: Lines, level: int, severity: str
) -> None:
    logging.getLogger("library").log(level, "x")
    assert cloud.object()["severity"] == severity


@pytest.mark.parametrize(("level", "severity"), [(5, "DEBUG"), (10, "DEBUG"), (0, "DEFAULT")])
def test_what_is_below_info_is_debug_or_nothing(level: int, severity: str) -> None:
    record = logging.LogRecord("library", level, "file.py", 1, "x", None, None)
    assert json.loads(formats.JsonFormatter(CLOUD).format(record))["severity"] == severity


def test_a_logged_exception_is_an_event_for_error_reporting(cloud: Lines) -> None:
    try:
        lookup("nowhere\n\ud800")
    except LookupError:
        logging.getLogger("library").exception("it broke")
    line = cloud.object()
    assert line["message"] == "it broke"
    assert line["stack_trace"].startswith("Traceback (most recent call last):\n")
    assert line["stack_trace"].endswith("LookupError: nowhere\n\\ud800\n")
    assert line["@type"] == formats.ERROR_EVENT
    assert line["serviceContext"]["service"] == "receiver-blue"


def test_exc_info_without_an_exception_adds_nothing(cloud: Lines) -> None:
    assert sys.exc_info() == (None, None, None)
    logging.getLogger("library").error("x", exc_info=True)  # noqa: LOG014 - that is the point
    assert not {"stack_trace", "@type"} & cloud.object().keys()


def test_arguments_that_do_not_fit_cost_neither_the_line_nor_its_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cloud = Lines(CLOUD)  # here, because pytest's own handler, put up for the call, takes offence
    logging.getLogger("library").warning("%d apples", "many")
    assert cloud.object()["message"].startswith("%d apples (cannot be formatted: ")
    assert capsys.readouterr() == ("", "")


def test_a_message_that_cannot_be_shown_costs_neither_the_line_nor_its_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cloud = Lines(CLOUD)  # as above

    class Hostile:
        def __str__(self) -> str:
            raise LookupError("no")

    logging.getLogger("library").warning(Hostile())
    assert cloud.object()["message"] == "<LookupError> (cannot be formatted: no)"
    assert capsys.readouterr() == ("", "")


def test_an_extra_of_another_library_is_not_taken_for_ours(cloud: Lines) -> None:
    logging.getLogger("library").warning("x", extra={"fields": object()})
    logging.getLogger("library").warning("x", extra={"fields": {"severity": "EMERGENCY"}})
    assert [line["severity"] for line in cloud.objects()] == ["WARNING", "WARNING"]


# --- the set-up -------------------------------------------------------------------------------------------------


def test_nothing_is_printed_twice_however_often_it_is_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Lines(CLOUD), Lines(CLOUD)
    second.emit(ServiceState("once"))
    logging.getLogger("library").warning("once")
    assert first.text == ""
    assert [line["message"] for line in second.objects()] == ["once", "once"]
    assert capsys.readouterr() == ("", "")


def test_lines_go_to_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(CLOUD)(ServiceState("here"))
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["message"] == "here"


def test_a_request_that_a_task_sends_by_httpx_is_no_line(cloud: Lines) -> None:
    logging.getLogger("httpx").info("HTTP Request: GET ...")
    assert cloud.text == ""


SUCCESS = delivered(
    Succeeded("1"),
    task_name="pay",
    task_id="17",
    attempt=2,
    message_id="m-1",
    trace=f"00-{TRACE}-{SPAN}-01",
    metadata={"tenant": "acme"},
)
"""It has a short way to its line."""


@pytest.mark.parametrize("settings", [CLOUD, Settings()], ids=["cloud", "terminal"])
@pytest.mark.parametrize(
    "event",
    [
        delivered(Failed(FAILURE), task_name="pay", task_id="17", trace=f"00-{TRACE}-{SPAN}-01"),
        SUCCESS,
        delivered(Succeeded("1"), task_name="pay\x1b[31m", task_id="17", trace="00"),
    ],
    ids=["a failure", "a success", "a success with less"],
)
def test_a_line_is_the_same_when_somebody_else_listens_too(settings: Settings, event: Delivered) -> None:
    """Alone, it is written without a LogRecord; a plugin's own handler is given one, with everything that we know."""
    heard: list[logging.LogRecord] = []

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record)

    lines = Lines(settings)
    lines.emit(event)
    logging.getLogger("receiver").addHandler(Other())
    lines.emit(event)
    shown = re.sub(r"[0-9-]*T?[0-9]{2}:[0-9:.]+Z?", "", lines.text).splitlines()
    assert shown[: len(shown) // 2] == shown[len(shown) // 2 :]
    assert [record.__dict__["task_id"] for record in heard] == ["17"]


def test_a_terminals_clock_goes_on() -> None:
    form, at = formats.TerminalFormatter(), 1_764_300_000.0
    moments = (at, at + 0.9, at + 1, at + 1.5, at - 7, at + 3600)
    shown = [form.succeeded(SUCCESS, moment)[:8] for moment in moments]
    assert shown == [f"{datetime.fromtimestamp(moment):%H:%M:%S}" for moment in moments]  # noqa: DTZ006 - local, as shown


class Counted(io.StringIO):
    """Counts its writes; refuses them once it is full."""

    writes = 0
    full = False

    def write(self, text: str) -> int:
        self.writes += 1
        if self.full and "log record lost" not in text:
            raise OSError(28, "No space left on device")
        return super().write(text)


async def test_the_lines_of_one_turn_of_the_loop_are_written_together_and_in_order() -> None:
    stream = Counted()
    emit = logs.configure(CLOUD, stream)
    for name in ("a", "b", "c"):
        emit(delivered(Succeeded("1"), task_name=name))
    assert stream.writes == 0
    await asyncio.sleep(0)
    assert stream.writes == 1
    emit(delivered(Succeeded("1"), task_name="d"))
    logging.getLogger("library").warning("in between")
    emit(delivered(Succeeded("1"), task_name="e"))
    emit(ServiceState("stopped"))
    said = [
        json.loads(line)["message"].removesuffix(": Succeeded") for line in stream.getvalue().splitlines()
    ]
    assert said == ["200 a", "200 b", "200 c", "200 d", "in between", "200 e", "stopped"]


async def test_what_waits_is_written_when_the_process_ends() -> None:
    stream = Counted()
    logs.configure(CLOUD, stream)(delivered(Succeeded("1")))
    logging.getLogger().handlers[0].flush()  # as `logging.shutdown` does
    assert json.loads(stream.getvalue())["status"] == 200


async def test_a_stream_that_is_full_costs_lines_and_nothing_else() -> None:
    stream, caught = Counted(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
    emit = logs.configure(CLOUD, stream)
    stream.full = True
    emit(delivered(Succeeded("1")))
    await asyncio.sleep(0)
    stream.full = False
    emit(delivered(Succeeded("1"), task_name="after"))
    await asyncio.sleep(0)
    lines = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert lines == ["log record lost: OSError", "200 after: Succeeded"]
    assert caught == []


def test_a_stream_that_fails_when_it_is_flushed_costs_lines_and_nothing_else() -> None:
    """A full disk behind a buffer: to say so would fail in the same way."""

    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    logs.configure(CLOUD, Full())(ServiceState("unheard"))


@pytest.mark.parametrize("event", [SUCCESS, ServiceState("filtered")], ids=["a success", "a state"])
@pytest.mark.parametrize("where", ["the logger", "the handler"])
def test_a_plugins_filter_is_asked(cloud: Lines, where: str, event: Event) -> None:
    def nothing(_: logging.LogRecord) -> bool:
        return False

    target = logging.getLogger("receiver") if where == "the logger" else logging.getLogger().handlers[0]
    target.addFilter(nothing)
    try:
        cloud.emit(event)
    finally:
        target.removeFilter(nothing)
    assert cloud.text == ""


def test_who_listens_without_a_handler_hears_events_too(
    cloud: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Sentry does: it takes the place of a method of the standard library's."""
    heard: list[str] = []

    def listening(_: logging.Logger, record: logging.LogRecord) -> None:
        heard.append(record.getMessage())

    monkeypatch.setattr(logging.Logger, "callHandlers", listening)
    cloud.emit(ServiceState("started"))
    cloud.emit(SUCCESS)
    assert heard == ["started", "200 pay: Succeeded"]


def test_a_stream_that_is_closed_costs_the_line_and_nothing_else(cloud: Lines) -> None:
    cloud.stream.close()
    cloud.emit(ServiceState("unheard"))


def test_an_event_below_the_level_of_our_logger_is_not_written(cloud: Lines) -> None:
    logging.getLogger("receiver").setLevel(logging.ERROR)
    cloud.emit(ServiceState("quiet"))
    cloud.emit(SUCCESS)
    assert cloud.text == ""
