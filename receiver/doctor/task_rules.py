"""Rules for what plugins declare: tasks without a route, tasks that are switched off, timeouts that Cloud Run does not keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from receiver import maintenance
from receiver.doctor.cloud_run import UNKNOWN_SERVICE
from receiver.doctor.findings import Rule, Severity
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
        """The tasks of each service with what is known of it; what is undeclared or broken is the main one's."""
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
    def has_cpu_always(self) -> bool:
        """Whether the service is known to have CPU outside requests."""
        return self.service is not None and self.service.cpu_always

    @property
    def there(self) -> Mapping[str, str]:
        """The variables of the service, or of this process where that is not known."""
        if self.service is None:
            return self.environ or {}
        return {name: value for name, value in self.service.environment.items() if value is not None}

    def doubted(self) -> list[str]:
        """The kill switches that say neither on nor off."""
        return list(dict.fromkeys(filter(None, (route.doubt(self.there) for route in self.routes))))

    def switched_off(self) -> Iterator[Mapping[str, str]]:
        """The kill switches that are off, each with its tasks."""
        where = "here" if self.service is None else f"in the service {self.service.id}"
        off: dict[str, list[str]] = {}
        for route in self.routes:
            if route.kill_switch is not None and not route.is_enabled(self.there):
                off.setdefault(route.kill_switch, []).append(route.name)
        for switch, names in off.items():
            unset = f"gcloud run services update {self.flags} --remove-env-vars {switch}"
            yield {
                "switch": switch,
                "where": where,
                "tasks": ", ".join(names),
                "mend": f"unset {switch}" if self.service is None else unset,
            }

    def outlasting_requests(self) -> Iterator[Mapping[str, object]]:
        """The tasks whose requests Cloud Run ends too early. Pub/Sub waits for an answer only until the ack deadline."""
        if self.service is None:
            return
        most = self.service.timeout.total_seconds()
        for route in self.routes:
            waited = min(route.effective_timeout, route.ack_deadline)
            if waited > most:
                longer = min(LONGEST_REQUEST, math.ceil(waited / 60) * 60)
                yield {"task": route.name, "waited": waited, "most": most, "longer": longer}


TASK_RULES: Final[tuple[Rule[Declared], ...]] = (
    Rule(
        Severity.ERROR,
        "plugins-broken",
        lambda seen: seen.failure is not None,
        "{seen.failure}",
        "the service refuses to start",
        "receiver check",
    ),
    Rule(
        Severity.WARNING,
        "task-undeclared",
        lambda seen: [{"path": path, "name": path.rpartition(".")[2]} for path in seen.undeclared],
        "{item[path]} is a task without a route",
        "it has no topic, and a message for it is rejected",
        "add TaskRoute({item[name]}) to the module's list, or remove @task",
    ),
    Rule(
        Severity.WARNING,
        "kill-switch-off",
        Declared.switched_off,
        "{item[switch]} is off {item[where]}: {item[tasks]}",
        "deliveries are acked and recorded as skipped, the work is not done",
        "{item[mend]}",
    ),
    Rule(
        Severity.WARNING,
        "kill-switch-unclear",
        Declared.doubted,
        "{item}",
        "whoever set it may believe that its tasks are off",
        "set it to off, or unset it",
    ),
    Rule(
        Severity.WARNING,
        "timeout-over-ack-deadline",
        lambda seen: [
            route
            for route in seen.routes
            if route.effective_timeout > route.ack_deadline and not seen.has_cpu_always
        ],
        "{item.name} may take {item.effective_timeout:g} s, its ack deadline is {item.ack_deadline} s",
        "after the deadline there is no request, and with request-based billing no CPU",
        "gcloud run services update {seen.flags} --no-cpu-throttling",
    ),
    Rule(
        lambda seen, _: Severity.WARNING if seen.has_cpu_always else Severity.ERROR,
        "timeout-over-request",
        Declared.outlasting_requests,
        "{item[task]} may take {item[waited]:g} s, Cloud Run ends a request after {item[most]:g} s",
        "Pub/Sub gets 504 and delivers again, while the task goes on or loses its CPU",
        "gcloud run services update {seen.flags} --timeout {item[longer]}",
    ),
)
