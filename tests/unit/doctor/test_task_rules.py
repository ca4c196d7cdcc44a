from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from receiver import TaskRoute
from receiver.doctor.cloud_run import CloudRunService
from receiver.doctor.task_rules import Declared
from tests.unit.doctor.judging import SERVICE, codes, declared, slow


class TestTasks:
    @pytest.mark.parametrize(
        ("options", "there", "expected"),
        [
            ({}, None, {}),
            ({"ack_deadline": 600}, None, {}),
            ({"ack_deadline": 600}, SERVICE, {"timeout-over-request": "ERROR"}),
            ({"ack_deadline": 300}, SERVICE, {}),
            ({"ack_deadline": 600}, replace(SERVICE, timeout=timedelta(seconds=540)), {}),
            (
                {"ack_deadline": 600},
                replace(SERVICE, timeout=timedelta(seconds=539)),
                {"timeout-over-request": "ERROR"},
            ),
            ({"ack_deadline": 600}, replace(SERVICE, cpu_always=True), {"timeout-over-request": "WARNING"}),
            ({"ack_deadline": 60, "timeout": 900}, None, {"timeout-over-ack-deadline": "WARNING"}),
            ({"ack_deadline": 60, "timeout": 900}, SERVICE, {"timeout-over-ack-deadline": "WARNING"}),
            ({"ack_deadline": 60, "timeout": 900}, replace(SERVICE, cpu_always=True), {}),
        ],
    )
    def test_timeouts(
        self, options: dict[str, Any], there: CloudRunService | None, expected: dict[str, str]
    ) -> None:
        assert codes(declared(TaskRoute(slow, **options), service=there)) == expected

    def test_the_timeout_that_is_proposed_is_one_that_cloud_run_has(self) -> None:
        (found,) = declared(TaskRoute(slow, ack_deadline=600), service=SERVICE)
        assert found.mend.endswith("--region europe-west2 --project shop-prod --timeout 540")

    def test_a_kill_switch_is_the_services_where_that_is_known(self) -> None:
        route = TaskRoute(slow, kill_switch="ENABLE_SLOW")
        assert codes(declared(route, environ={"ENABLE_SLOW": "off"})) == {"kill-switch-off": "WARNING"}
        assert declared(route, environ={"ENABLE_SLOW": "off"}, service=SERVICE) == []
        off = replace(SERVICE, environment={"ENABLE_SLOW": "No"})
        assert codes(declared(route, service=off)) == {"kill-switch-off": "WARNING"}

    def test_a_kill_switch_that_is_not_understood_is_a_warning(self) -> None:
        route = TaskRoute(slow, kill_switch="ENABLE_SLOW")
        assert codes(declared(route, environ={"ENABLE_SLOW": "of"})) == {"kill-switch-unclear": "WARNING"}
        there = replace(SERVICE, environment={"ENABLE_SLOW": "perhaps"})
        (found,) = declared(route, environ={"ENABLE_SLOW": "of"}, service=there)
        assert found.what == "ENABLE_SLOW is 'perhaps', which counts as on; use on or off"

    def test_a_task_without_a_route_is_named(self) -> None:
        (found,) = declared(undeclared=("shop.tasks.forgotten",))
        assert (found.code, "TaskRoute(forgotten)" in found.mend) == ("task-undeclared", True)


def test_each_service_is_judged_by_its_own_tasks() -> None:
    """The heavy one has an hour for a request, the main one does not need it."""
    main = SERVICE
    heavy = replace(main, name=main.name.replace(main.id, "heavy"), timeout=timedelta(hours=1))
    routes = (TaskRoute(slow, ack_deadline=600, service="heavy"),)
    both = Declared(routes, ("m.lost",), environ={}).by_service({None: main, "heavy": heavy})
    assert [(part.routes, part.undeclared, part.service) for part in both] == [
        ((), ("m.lost",), main),
        (routes, (), heavy),
    ]
