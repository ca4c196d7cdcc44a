"""Rules for what plugins declare: tasks without a route, tasks that are switched off, timeouts that Cloud Run does not keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from receiver import maintenance
from receiver.doctor.cloud_run import UNKNOWN_SERVICE
from receiver.doctor.findings import Check, Findings, Severity
from receiver.errors import PluginError
from receiver.tasks import registry

if TYPE_CHECKING:
    from receiver.doctor.cloud_run import CloudRunService
    from receiver.settings import Settings
    from receiver.tasks.route import TaskRoute

LONGEST_REQUEST: Final = 3600
"""Seconds: the longest request timeout that Cloud Run has."""


@dataclass(frozen=True, slots=True)
class Declared:
    """The tasks of the plugins.

    Attributes:
        undeclared: paths of tasks without a route.
        failure: why the plugins cannot be loaded; there are no routes then.
        environ: of this process; kill switches are read from the service where that is known.
        service: as it is deployed, if it could be seen.
    """

    routes: tuple[TaskRoute, ...] = ()
    undeclared: tuple[str, ...] = ()
    failure: str | None = None
    environ: Mapping[str, str] | None = None
    service: CloudRunService | None = None

    @classmethod
    def load(cls, settings: Settings, environ: Mapping[str, str]) -> Declared:
        """Loads the plugins."""
        try:
            known = registry.load(settings).including(maintenance.ROUTES)
        except PluginError as error:
            return cls(failure=str(error))
        return cls(known.routes, tuple(registry.undeclared(known)), environ=environ)

    def by_service(self, services: Mapping[str | None, CloudRunService]) -> Iterator[Declared]:
        """The tasks of each service. Undeclared tasks and broken plugins are told with the main service only."""
        names: dict[str | None, None] = dict.fromkeys([None, *(route.service for route in self.routes)])
        for name in names:
            routes = tuple(route for route in self.routes if route.service == name)
            part = replace(self, routes=routes, service=services.get(name))
            yield part if name is None else replace(part, undeclared=(), failure=None)

    @property
    def flags(self) -> str:
        """The arguments that name the service to gcloud."""
        return UNKNOWN_SERVICE if self.service is None else self.service.flags

    @property
    def there(self) -> Mapping[str, str]:
        """The variables of the service, or of this process where that is not known."""
        if self.service is None:
            return self.environ or {}
        return {name: value for name, value in self.service.environment.items() if value is not None}


def judge_tasks(seen: Declared) -> Findings:
    """What is wrong with the plugins, with kill switches and with timeouts."""
    found = Findings(Check.TASKS)
    if seen.failure is not None:
        found.error("plugins-broken", seen.failure, "the service refuses to start", "receiver check")
    for path in seen.undeclared:
        found.warning(
            "task-undeclared",
            f"{path} is a task without a route",
            "it has no topic, and a message for it is rejected",
            f"add TaskRoute({path.rpartition('.')[2]}) to the module's list, or remove @task",
        )
    _judge_switches(found, seen)
    _judge_timeouts(found, seen)
    return found


def _judge_switches(found: Findings, seen: Declared) -> None:
    off: dict[str, list[str]] = {}
    for route in seen.routes:
        if route.kill_switch is not None and not route.is_enabled(seen.there):
            off.setdefault(route.kill_switch, []).append(route.name)
    for switch, names in off.items():
        unset = f"gcloud run services update {seen.flags} --remove-env-vars {switch}"
        found.warning(
            "kill-switch-off",
            f"{switch} is off {'here' if seen.service is None else f'in the service {seen.service.id}'}: {', '.join(names)}",
            "deliveries are acked and recorded as skipped, the work is not done",
            f"unset {switch}" if seen.service is None else unset,
        )
    for doubt in dict.fromkeys(filter(None, (route.doubt(seen.there) for route in seen.routes))):
        why = "whoever set it may believe that its tasks are off"
        found.warning("kill-switch-unclear", doubt, why, "set it to off, or unset it")


def _judge_timeouts(found: Findings, seen: Declared) -> None:
    has_cpu_always = seen.service is not None and seen.service.cpu_always
    for route in seen.routes:
        if route.effective_timeout > route.ack_deadline and not has_cpu_always:
            found.warning(
                "timeout-over-ack-deadline",
                f"{route.name} may take {route.effective_timeout:g} s, its ack deadline is {route.ack_deadline} s",
                "after the deadline there is no request, and with request-based billing no CPU",
                f"gcloud run services update {seen.flags} --no-cpu-throttling",
            )
    most = math.inf if seen.service is None else seen.service.timeout.total_seconds()
    for route in seen.routes:
        # Pub/Sub waits for an answer only until the ack deadline.
        waited = min(route.effective_timeout, route.ack_deadline)
        if waited > most:
            longer = min(LONGEST_REQUEST, math.ceil(waited / 60) * 60)
            found.add(
                Severity.WARNING if has_cpu_always else Severity.ERROR,
                "timeout-over-request",
                f"{route.name} may take {waited:g} s, Cloud Run ends a request after {most:g} s",
                "Pub/Sub gets 504 and delivers again, while the task goes on or loses its CPU",
                f"gcloud run services update {seen.flags} --timeout {longer}",
            )
