"""What plugins declare, judged: tasks that nobody can reach, tasks that are switched off, timeouts that Cloud Run would not keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from receiver.doctor.findings import Check, Finding, Severity

if TYPE_CHECKING:
    from receiver.doctor.cloud_run import CloudRunService
    from receiver.tasks.route import TaskRoute

LONGEST_REQUEST: Final = 3600
"""Seconds: the longest request timeout that Cloud Run has."""

_finding = partial(Finding, Check.TASKS)


def broken(line: str) -> Finding:
    """Plugins that cannot be loaded."""
    return _finding(Severity.ERROR, "plugins-broken", line, "the service refuses to start", "receiver check")


def judge(
    routes: Sequence[TaskRoute],
    undeclared: Sequence[str],
    environ: Mapping[str, str],
    service: CloudRunService | None = None,
) -> list[Finding]:
    """Findings about the tasks.

    Args:
        undeclared: paths of tasks without a route.
        environ: of this process; kill switches are read from the service's where that is known.
        service: as it is deployed, if it could be seen.
    """
    return [
        *(_undeclared(path) for path in undeclared),
        *_switched_off(routes, environ, service),
        *(finding for route in routes for finding in _timeouts(route, service)),
    ]


def _undeclared(path: str) -> Finding:
    return _finding(
        Severity.WARNING,
        "task-undeclared",
        f"{path} is a task without a route",
        "it has no topic, and a message for it is rejected",
        f"add TaskRoute({path.rpartition('.')[2]}) to the module's list, or remove @task",
    )


def _switched_off(
    routes: Sequence[TaskRoute], environ: Mapping[str, str], service: CloudRunService | None
) -> list[Finding]:
    if service is None:
        there, where = environ, "here"
    else:
        there = {name: value for name, value in service.environment.items() if value is not None}
        where = f"in the service {service.id}"
    off: dict[str, list[str]] = {}
    for route in routes:
        if route.kill_switch is not None and not route.is_enabled(there):
            off.setdefault(route.kill_switch, []).append(route.name)
    return [
        _finding(
            Severity.WARNING,
            "kill-switch-off",
            f"{switch} is off {where}: {', '.join(names)}",
            "deliveries are acked and recorded as skipped, the work is not done",
            f"unset {switch}"
            if service is None
            else f"gcloud run services update {service.flags} --remove-env-vars {switch}",
        )
        for switch, names in off.items()
    ]


def _timeouts(route: TaskRoute, service: CloudRunService | None) -> list[Finding]:
    found = []
    seconds = route.effective_timeout
    if seconds > route.ack_deadline and not (service is not None and service.cpu_always):
        name = "SERVICE --region REGION" if service is None else service.flags
        found.append(
            _finding(
                Severity.WARNING,
                "timeout-over-ack-deadline",
                f"{route.name} may take {seconds:g} s, its ack deadline is {route.ack_deadline} s",
                "past it there is no request, and with request-based billing no CPU",
                f"gcloud run services update {name} --no-cpu-throttling",
            )
        )
    if service is None:
        return found
    # Past the ack deadline nobody waits for the answer, whatever Cloud Run allows.
    waited = min(seconds, route.ack_deadline)
    if timedelta(seconds=waited) > service.timeout:
        longer = min(LONGEST_REQUEST, math.ceil(waited / 60) * 60)
        found.append(
            _finding(
                Severity.WARNING if service.cpu_always else Severity.ERROR,
                "timeout-over-request",
                f"{route.name} may take {waited:g} s, Cloud Run ends a request after {service.timeout.total_seconds():g} s",
                "Pub/Sub is told 504 and delivers again, while the task goes on or loses its CPU",
                f"gcloud run services update {service.flags} --timeout {longer}",
            )
        )
    return found
