from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from receiver import doctor
from receiver.cli import COMMANDS
from receiver.doctor.findings import Check, Diagnosis, Finding, Severity, Unseen
from receiver.doctor.google_look import Roles
from receiver.doctor.record_look import Sweeps, Waiting
from receiver.doctor.record_rules import judge_record
from receiver.doctor.resource_rules import DRIFT, judge_roles
from receiver.doctor.task_rules import Declared, judge_tasks
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
        judge_tasks(Declared(failure="x")),
        judge_roles(Roles((Grant("t", PUBLISHER, "m"),))),
    ]
    named = {one.mend.split()[1] for found in everything for one in found if one.mend.startswith("receiver ")}
    assert {"executions", "provision", "check", "dead-letters", "migrate", "rejected", "sweep"} <= named
    assert named <= {*COMMANDS}


def codes_in(source: str) -> Iterator[str]:
    """The codes that rules add to what they have found."""
    places = {"error": 0, "warning": 0, "note": 0, "add": 1}
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="found"), attr=adding)) if adding in places:
                code = node.args[places[adding]]
                if isinstance(code, ast.Constant):  # the table of drift has the others
                    yield str(code.value)


def test_every_code_is_on_the_page_and_nothing_else(project_root: Path) -> None:
    sources = [path.read_text() for path in Path(doctor.__file__).parent.glob("*.py")]
    said = {code for source in sources for code in codes_in(source)} | {code for _, code, *_ in DRIFT}
    page = (project_root / "docs" / "reference" / "findings.md").read_text()
    assert sorted(said) == sorted(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))
