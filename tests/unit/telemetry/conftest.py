"""Logging as a process of its own has it, and what it writes."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from receiver.settings import Settings
from receiver.telemetry import logs
from receiver.telemetry.formats import LOGGER_NAME

CLOUD = Settings(
    project_id="shop-prod",
    namespace="shop",
    service_name="receiver-blue",
    revision="receiver-blue-00042",
    instance="host-1-abcd",
)


class Lines:
    """What is written, through the very handler that `configure` installs."""

    def __init__(self, settings: Settings) -> None:
        self.stream = io.StringIO()
        self.emit = logs.configure(settings, self.stream)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def objects(self) -> list[dict[str, Any]]:
        lines = self.text.split("\n")
        assert lines.pop() == ""
        return [json.loads(line) for line in lines]

    def object(self) -> dict[str, Any]:
        (one,) = self.objects()
        return one

    def clear(self) -> None:
        self.stream.seek(0)
        self.stream.truncate()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Our handler is alone, as in production: pytest adds its own to every logger that does not propagate."""
    ours = logging.getLogger(LOGGER_NAME)
    ours.handlers[:] = [each for each in ours.handlers if not type(each).__module__.startswith("_pytest")]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    known = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    before = [
        (one, list(one.handlers), one.level, one.propagate, one.disabled) for one in [logging.root, *known]
    ]
    yield
    logging.disable(logging.NOTSET)
    for one, handlers, level, propagate, disabled in before:
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate, one.disabled = propagate, disabled


@pytest.fixture
def cloud() -> Lines:
    return Lines(CLOUD)


@pytest.fixture
def terminal() -> Lines:
    return Lines(Settings())
