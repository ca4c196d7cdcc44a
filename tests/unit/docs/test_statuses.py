"""docs/reference/statuses.md has every status, ending, error type and reason that the code has."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import get_args

import receiver
from receiver.delivery.verifier import TokenFault
from receiver.endings.outcomes import AttemptEnding, Ending
from receiver.errors import RejectionReason
from receiver.tasks.call import TaskResultStatus
from receiver.telemetry.logs import _LEVELS
from tests.stage.pages import DOCS

PAGE = (DOCS / "reference" / "statuses.md").read_text()
CODE = {path: path.read_text() for path in Path(receiver.__file__).parent.rglob("*.py")}


def rows(section: str) -> list[list[str]]:
    """The cells of the section's table, below its head."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]


def named(section: str) -> list[str]:
    return [row[0].strip("`") for row in rows(section)]


def test_every_status_is_on_the_page() -> None:
    assert sorted(named("Statuses of an execution")) == sorted(TaskResultStatus)


def test_every_ending_of_an_attempt_is_on_the_page() -> None:
    assert sorted(named("Endings of an attempt")) == sorted(AttemptEnding)


def test_every_reason_of_rejection_is_on_the_page() -> None:
    assert sorted(named("Reasons of rejection")) == sorted(RejectionReason)


def test_every_reason_of_a_denial_is_on_the_page() -> None:
    assert sorted(named("Why a push is denied")) == sorted(TokenFault)


def test_every_error_type_of_ours_is_on_the_page() -> None:
    in_python = {name for text in CODE.values() for name in re.findall(r'\bFailure\(\s*"(\w+)"', text)}
    in_sql = {
        name
        for path, text in CODE.items()
        if path.parent.name == "sql"
        for name in re.findall(r"'([A-Z][a-z]+[A-Za-z]*)'", text)
    }
    assert in_python
    assert in_sql
    assert sorted(named("Error types of ours")) == sorted(in_python | in_sql)


def test_every_outcome_is_on_the_page_with_the_severity_of_its_line() -> None:
    assert {row[0].strip("`"): row[1] for row in rows("Outcomes of a delivery")} == {
        each.__name__: logging.getLevelName(_LEVELS.get(each, logging.INFO)) for each in get_args(Ending)
    }
