"""Applications configure logging for themselves. Our lines are written all the same, and theirs in the form they chose."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import re
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest

from receiver.contract.failure import Failure
from receiver.endings.outcomes import Failed, Raised
from receiver.tasks.running import Running, running
from receiver.telemetry.events import Delivered, ReceiverTrouble, ServiceState
from tests.unit.telemetry.conftest import CLOUD, Lines

DISABLING: dict[str, Any] = {"version": 1, "disable_existing_loggers": True}


def plain(stream: io.StringIO, **more: Any) -> dict[str, Any]:
    """An application's own form for all that is logged."""
    return DISABLING | {
        "formatters": {"own": {"format": "own %(name)s %(message)s"}},
        "handlers": {"own": {"class": "logging.StreamHandler", "stream": stream, "formatter": "own"}},
        "root": {"handlers": ["own"], "level": "WARNING"},
        **more,
    }


@pytest.mark.parametrize(
    "silence",
    [
        lambda: logging.config.dictConfig(DISABLING),
        lambda: logging.config.dictConfig(plain(io.StringIO())),
        lambda: logging.config.dictConfig(DISABLING | {"loggers": {"receiver": {"level": "INFO"}}}),
        lambda: logging.disable(logging.CRITICAL),
        logging.getLogger().handlers.clear,
        lambda: logging.getLogger().setLevel(logging.CRITICAL),
    ],
    ids=["disables", "has its own root", "gives us a level", "disable", "no handlers", "root's level"],
)
def test_our_lines_are_written_whatever_an_application_configures(
    cloud: Lines, silence: Callable[[], None]
) -> None:
    silence()
    cloud.emit(ServiceState("heard"))
    assert cloud.object()["message"] == "heard"


def test_our_lines_are_written_after_file_config(cloud: Lines, tmp_path: Path) -> None:
    file = tmp_path / "logging.ini"
    file.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=none\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=ERROR\nhandlers=none\n[handler_none]\nclass=NullHandler\nargs=()\n"
    )
    logging.config.fileConfig(file)
    cloud.emit(ServiceState("heard"))
    assert cloud.object()["message"] == "heard"


def test_an_application_has_its_own_form_for_its_own_loggers(cloud: Lines) -> None:
    theirs = io.StringIO()
    logging.config.dictConfig(plain(theirs))
    logging.getLogger("shop.new").warning("sold out")
    cloud.emit(ServiceState("heard"))
    assert theirs.getvalue() == "own shop.new sold out\n"
    assert cloud.object()["message"] == "heard"


def test_an_application_may_have_our_lines_in_its_form(cloud: Lines) -> None:
    theirs = io.StringIO()
    logging.config.dictConfig(plain(theirs, loggers={"receiver": {"handlers": ["own"], "level": "INFO"}}))
    cloud.emit(ServiceState("heard"))
    assert theirs.getvalue() == "own receiver heard\n"
    assert cloud.text == ""


def test_an_application_may_use_our_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCP_PROJECT_ID", "shop-prod")
    theirs = io.StringIO()
    form = {"own": {"()": "receiver.telemetry.formats.JsonFormatter"}}
    logging.config.dictConfig(plain(theirs, formatters=form))
    before = running.set(Running("t-1", "mail", 1))
    logging.getLogger("shop.newer").warning("sold out", extra={"order": 17})
    running.reset(before)
    line = json.loads(theirs.getvalue())
    assert (line["message"], line["task_id"], line["order"]) == ("sold out", "t-1", 17)


# --- who listens beside us --------------------------------------------------------------------------------------


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record)


def test_a_listener_is_given_the_exception_once_and_in_the_context_of_its_task(cloud: Lines) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []
    listener = Listener()

    def note(_: logging.LogRecord) -> bool:
        seen.append(user.get())
        return True

    listener.addFilter(note)
    logging.getLogger("receiver").addHandler(listener)

    def task() -> Raised:
        user.set("ada")
        return Raised(LookupError("nowhere"), copy_context())

    raised = copy_context().run(task)
    failed = Failed(Failure("LookupError", "nowhere", "Traceback ..."), raised=raised)
    cloud.emit(Delivered(failed, 500, 0.1, task_name="ship", task_id="t-1"))
    (record,) = listener.heard
    assert record.exc_info is not None
    assert record.exc_info[1] is raised.error
    assert (vars(record)["task_id"], vars(record)["final"]) == ("t-1", False)
    assert seen == ["ada"]
    assert cloud.object()["stack_trace"] == "LookupError: nowhere\n"


def test_a_listener_is_given_the_exception_of_trouble(cloud: Lines) -> None:
    listener = Listener()
    logging.getLogger("receiver").addHandler(listener)
    error = LookupError("nowhere")
    cloud.emit(ReceiverTrouble("internal error", "LookupError", error=error))
    assert [record.exc_info and record.exc_info[1] for record in listener.heard] == [error]


def test_a_listener_that_fails_costs_nothing_but_says_so(cloud: Lines) -> None:
    def failing(_: logging.LogRecord) -> bool:
        raise LookupError("no")

    listener = Listener()
    listener.addFilter(failing)
    logging.getLogger("receiver").addHandler(listener)
    cloud.emit(ServiceState("heard"))
    assert [line["message"] for line in cloud.objects()] == ["heard", "log record lost: LookupError"]


def test_what_a_root_handler_hears_is_not_ours(cloud: Lines) -> None:
    """Ours are on standard error already: an application's console handler would write them twice."""
    listener = Listener()
    logging.getLogger().addHandler(listener)
    cloud.emit(ServiceState("heard"))
    assert listener.heard == []
    assert cloud.object()["message"] == "heard"


def test_set_up_again_it_is_the_newest_that_writes() -> None:
    first, second = Lines(CLOUD), Lines(CLOUD)
    second.emit(ServiceState("once"))
    assert (first.text, second.object()["message"]) == ("", "once")


# --- docs/operate/logs.md and sentry.md --------------------------------------------------------------------------------------------


def documented(page: str, start: str) -> dict[str, Any]:
    """What a snippet of the page defines."""
    text = (Path(__file__).parents[3] / "docs" / "operate" / page).read_text()
    (snippet,) = [
        one for one in re.findall(r"```python[^\n]*\n(.*?)```", text, re.DOTALL) if one.startswith(start)
    ]
    found: dict[str, Any] = {}
    exec(snippet, found)  # noqa: S102 - the page's own code
    return found


def test_the_documented_configuration_is_ours_for_all_lines(
    cloud: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.config.dictConfig(documented("logs.md", "LOGGING = ")["LOGGING"])
    logging.getLogger("shop.newest").info("sold out", extra={"order": 17})
    assert json.loads(capsys.readouterr().err)["order"] == 17
    cloud.emit(ServiceState("heard"))
    assert cloud.object()["message"] == "heard"


@pytest.mark.parametrize("final", [True, False])
def test_the_documented_filter_for_sentry_leaves_out_what_is_tried_again(
    cloud: Lines,
    final: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    listener = Listener()
    logging.getLogger("receiver").addHandler(listener)
    cloud.emit(Delivered(Failed(Failure("LookupError", "nowhere"), final=final), 500, 0.1))
    cloud.emit(ReceiverTrouble("internal error", "LookupError"))
    keep = documented("sentry.md", "def before_send")["before_send"]
    assert [keep({"a": 1}, {"log_record": each}) is not None for each in listener.heard] == [final, True]
    assert keep({"a": 1}, {}) is not None
