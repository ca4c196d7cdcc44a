from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from receiver.cli import COMMANDS
from receiver.doctor.examination import CERTIFICATE_RULES
from receiver.doctor.findings import Check, Diagnosis, Finding, Severity, Unseen, judged
from receiver.doctor.google_look import Roles
from receiver.doctor.record_look import Sweeps, Waiting
from receiver.doctor.record_rules import RECORD_RULES, UNAVAILABLE_RULES, judge_record
from receiver.doctor.resource_rules import RESOURCE_RULES, ROLE_RULES
from receiver.doctor.service_rules import SERVICE_RULES
from receiver.doctor.setting_rules import SETTING_RULES
from receiver.doctor.task_rules import TASK_RULES, Declared
from receiver.errors import SchemaError
from receiver.provision.desired import PUBLISHER
from receiver.provision.resources import Grant
from tests.unit.doctor.judging import FLEET, WELL


class TestDiagnosis:
    @pytest.mark.parametrize(
        ("severities", "unseen", "code"),
        [
            ([], 0, 0),
            ([Severity.NOTE], 0, 0),
            ([], 1, 1),
            ([Severity.WARNING], 0, 1),
            ([Severity.ERROR], 1, 2),
        ],
    )
    def test_the_exit_code_is_that_of_the_worst(
        self, severities: list[Severity], unseen: int, code: int
    ) -> None:
        findings = [Finding(Check.TASKS, severity, "c", "what", "why", "mend") for severity in severities]
        assert Diagnosis.of(findings, [Unseen(Check.ROLES, "why")] * unseen).exit_code == code

    def test_the_worst_comes_first(self) -> None:
        order = [(Check.SERVICE, Severity.NOTE), (Check.ROLES, Severity.ERROR), (Check.TASKS, Severity.ERROR)]
        diagnosis = Diagnosis.of([Finding(check, severity, "c", "", "", "") for check, severity in order])
        assert [one.check for one in diagnosis.findings] == [Check.TASKS, Check.ROLES, Check.SERVICE]


def test_mends_name_commands_that_there_are() -> None:
    """Whatever `receiver ...` a mend proposes can be typed."""
    everything = [
        judge_record(
            replace(
                WELL,
                schema=SchemaError("a; b"),
                owed=Waiting(1),
                expired=Waiting(1),
                rejected={"r": Waiting(1)},
                given_up={True: Waiting(1)},
                sweeps=Sweeps(untouched=False, ended=None),
            ),
            FLEET,
        ),
        judged(Check.TASKS, TASK_RULES, Declared(failure="x")),
        judged(Check.ROLES, ROLE_RULES, Roles((Grant("t", PUBLISHER, "m"),))),
    ]
    named = {one.mend.split()[1] for found in everything for one in found if one.mend.startswith("receiver ")}
    assert {"executions", "provision", "check", "dead-letters", "migrate", "rejected", "sweep"} <= named
    assert named <= {*COMMANDS}


TABLES = (
    SETTING_RULES,
    TASK_RULES,
    UNAVAILABLE_RULES,
    RECORD_RULES,
    CERTIFICATE_RULES,
    RESOURCE_RULES,
    ROLE_RULES,
    SERVICE_RULES,
)


def test_every_code_is_on_the_page_and_nothing_else(project_root: Path) -> None:
    said = {rule.code for table in TABLES for rule in table}
    page = (project_root / "docs" / "doctor.md").read_text()
    assert sorted(said) == sorted(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))
