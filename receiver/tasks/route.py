"""TaskRoute: a plugin's declaration of one task.

All values are checked when the route is made, against the limits of Pub/Sub and Cloud Scheduler. So every route can be
provisioned and served. A route never changes. Only its resource names and its kill switch read the environment, at each
use.

Next: `receiver.tasks.registry` collects the routes; `receiver.delivery.calling` calls `function`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

from receiver import parsers, settings
from receiver.errors import DeclarationError
from receiver.tasks import naming
from receiver.tasks.forms import Forms
from receiver.tasks.schedule import ScheduleError, check_schedule, check_timezone
from receiver.tasks.shape import Shape
from receiver.tasks.signature import NotATask, describe
from receiver.tasks.task import Task
from receiver.text import is_storable
from receiver.variables import shown

_OFF: Final = frozenset({"0", "false", "n", "no", "f", "off", "none", "disabled"})
_ON: Final = frozenset({"", "1", "true", "y", "yes", "t", "on", "enabled"})
_ATTEMPTS_LIMIT: Final = 2**31 - 1  # the attempt is an integer column
_TIMEOUT_LIMIT: Final = 3600  # seconds; Cloud Run's limit for a request
_NAME_LIMIT: Final = 500  # the longest task_name that a message may carry
_FILTER_LIMIT: Final = 256  # bytes; Pub/Sub's
_TOPIC: Final = re.compile(r"projects/[a-z0-9][a-z0-9.:-]*/topics/(?!goog)[A-Za-z][A-Za-z0-9_.~+%-]{2,254}")


@dataclass(frozen=True)
class TaskRoute:
    """How one task is delivered, retried and scheduled.

        tasks = [
            TaskRoute(send_mail, ack_deadline=60, max_attempts=5),
            TaskRoute(clean_up, schedule="0 3 * * *", schedule_timezone="Europe/London"),
        ]

    Args:
        func: the task: decorated with `@task`, a Django Task, or a plain function. Not a lambda, partial or generator.
        ack_deadline: seconds before Pub/Sub retries without an answer, 10-600.
        min_retry_delay: shortest backoff in seconds, 0-600.
        max_retry_delay: longest backoff in seconds, 0-600, not below `min_retry_delay`.
        schedule: five cron fields in Cloud Scheduler's grammar, or None. A firing calls the task without arguments.
        schedule_timezone: IANA time zone of the schedule.
        kill_switch: environment variable that turns the task off, read at every delivery: `0`, `false`, `f`, `no`, `n`,
            `off`, `none`, `disabled`, in any case. Everything else is on.
        max_attempts: runs that end before FAILED is final; None: as long as Pub/Sub delivers. One that its process did not
            survive does not count.
        timeout: seconds from the arrival of the request, at most 3600 (Cloud Run's limit for a request);
            None: `ack_deadline` less 10 % (at least 2 s), so that Pub/Sub still waits for the answer.
        aliases: former names and paths that messages may still carry.
        keep: how long its final executions are kept, 15 days at least; None: `TASKS_RETENTION` and `TASKS_RETENTION_FAILED`.
        topic: a topic that is not the task's own, `projects/{project}/topics/{name}`; the function gets the data of its messages.
        topic_filter: of those messages, in Pub/Sub's filter language; it cannot be changed later.
        redact: parameters whose values are shown nowhere; they are stored as they are.
        service: the name of the service that runs the task, as in `TASKS_SERVICE_URLS`; None: the one of `CLOUD_RUN_SERVICE_URL`.

    Raises:
        DeclarationError: a value that Pub/Sub, Cloud Scheduler or the receiver would refuse, naming task and field.
    """

    func: Callable[..., Any]
    ack_deadline: int = 300
    min_retry_delay: int = 10
    max_retry_delay: int = 600
    schedule: str | None = None
    schedule_timezone: str = "UTC"
    kill_switch: str | None = None
    max_attempts: int | None = None
    timeout: float | None = None
    aliases: Sequence[str] = ()
    keep: timedelta | None = None
    topic: str | None = None
    topic_filter: str | None = None
    service: str | None = None
    redact: Sequence[str] = ()

    function: Callable[..., Any] = field(init=False, repr=False, compare=False)
    """The plain function of `func`."""
    is_async: bool = field(init=False, repr=False, compare=False)
    """True for `async def`: it runs in the loop, otherwise in a thread."""
    takes_context: bool = field(init=False, repr=False, compare=False)
    """True when the first positional parameter is annotated `TaskContext`."""
    shape: Shape = field(init=False, repr=False, compare=False)
    """The arguments that a message must have, without the context."""
    forms: Forms = field(init=False, repr=False, compare=False)
    """How they are read from JSON, and how the result is."""

    def __post_init__(self) -> None:
        try:
            description = describe(self.func)
        except NotATask as error:
            raise DeclarationError(f"TaskRoute: func {_called(self.func)} {error}") from None
        for name in ("function", "is_async", "takes_context", "shape", "forms"):
            object.__setattr__(self, name, getattr(description, name))
        self._check_delivery()
        self._check_schedule()
        self._check_names()
        self._check_topic()
        for name in ("aliases", "redact"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.func, Task):
            self.func.former_paths = self.former_paths

    @cached_property
    def name(self) -> str:
        """The function's name, such as `send_welcome_email`."""
        return self.function.__name__

    @cached_property
    def path(self) -> str:
        """The full path, such as `gyrinx.core.tasks.send_welcome_email`."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @cached_property
    def paths(self) -> frozenset[str]:
        """The path and the former ones: the values that a row's `task_path` may have."""
        return self.former_paths | {self.path}

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that a message may use for this task."""
        return self.paths | {self.name}

    @cached_property
    def former_paths(self) -> frozenset[str]:
        """Its aliases, and for a bare one, which most likely was a function of the same module, that function's path."""
        bare = {f"{self.function.__module__}.{alias}" for alias in self.aliases if "." not in alias}
        return frozenset({*self.aliases, *bare}) - {self.path}

    @property
    def topic_name(self) -> str:
        """The Pub/Sub topic, by the present environment."""
        return naming.topic_name(*settings.environment_and_namespace(os.environ), self.path)

    @property
    def former_topic_names(self) -> tuple[str, ...]:
        """The topics that `former_paths` may have had, by the present environment."""
        prefix = settings.environment_and_namespace(os.environ)
        return tuple(naming.topic_name(*prefix, path) for path in sorted(self.former_paths))

    @property
    def subscription_name(self) -> str:
        """The push subscription of `topic_name`."""
        return naming.subscription_name(self.topic_name)

    @property
    def foreign_subscription_name(self) -> str | None:
        """The push subscription of `topic`, by the present environment; None without one."""
        if self.topic is None:
            return None
        return naming.foreign_subscription_name(*settings.environment_and_namespace(os.environ), self.path)

    @property
    def scheduler_job_name(self) -> str:
        """The Cloud Scheduler job, by the present environment. Raises ValueError when the route has no schedule."""
        if not self.is_scheduled:
            raise ValueError(f"Task {self.name} has no schedule configured")
        return naming.scheduler_job_name(*settings.environment_and_namespace(os.environ), self.path)

    @property
    def is_scheduled(self) -> bool:
        """True when a schedule is configured."""
        return self.schedule is not None

    @cached_property
    def effective_timeout(self) -> float:
        """Seconds from the arrival of the request until the task is cancelled."""
        if self.timeout is not None:
            return float(self.timeout)
        return self.ack_deadline - max(2.0, self.ack_deadline / 10)

    def shown(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The JSON of arguments as people may see it."""
        return self.shape.hidden(self.redact, args, kwargs) if self.redact else (args, kwargs)

    def is_enabled(self, environ: Mapping[str, str]) -> bool:
        """False when the value of the kill switch means off. Unset means on, and so does what is not understood."""
        return self.kill_switch is None or environ.get(self.kill_switch, "").strip().lower() not in _OFF

    def doubt(self, environ: Mapping[str, str]) -> str | None:
        """One line when the value of the kill switch says neither on nor off."""
        value = environ.get(self.kill_switch or "", "")
        if self.kill_switch is None or value.strip().lower() in _ON | _OFF:
            return None
        return f"{self.kill_switch} is {shown(value)!r}, which counts as on; use on or off"

    def _check_delivery(self) -> None:
        self._whole("ack_deadline", self.ack_deadline, 10, 600)
        self._whole("min_retry_delay", self.min_retry_delay, 0, 600)
        self._whole("max_retry_delay", self.max_retry_delay, 0, 600)
        if self.min_retry_delay > self.max_retry_delay:
            raise self._refusal(
                "min_retry_delay",
                self.min_retry_delay,
                f"use at most max_retry_delay ({self.max_retry_delay})",
            )
        if self.max_attempts is not None:
            self._whole("max_attempts", self.max_attempts, 1, _ATTEMPTS_LIMIT)
        if self.keep is not None and (why := settings.no_retention(self.keep)) is not None:
            raise self._refusal("keep", str(self.keep), why)
        timeout: object = self.timeout
        if timeout is not None and not _is_timeout(timeout):
            raise self._refusal("timeout", timeout, f"use seconds, more than 0 and at most {_TIMEOUT_LIMIT}")

    def _check_schedule(self) -> None:
        for name, check in (("schedule", check_schedule), ("schedule_timezone", check_timezone)):
            value: object = getattr(self, name)
            if value is None and name == "schedule":
                continue
            if not isinstance(value, str):
                raise self._refusal(name, value, "use text")
            try:
                check(value)
            except ScheduleError as error:
                raise DeclarationError(f"TaskRoute({self.path}): {name}: {error}") from None
        # A firing has no arguments. A task that needs some would be answered 400 each time, and never run.
        if self.is_scheduled and (why := self.shape.mismatch((), {})) is not None:
            raise DeclarationError(
                f"TaskRoute({self.path}): schedule: a firing brings no arguments ({why}); give the argument a default"
            )

    def _check_names(self) -> None:
        switch: object = self.kill_switch
        if switch is not None and not (
            isinstance(switch, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", switch)
        ):
            raise self._refusal(
                "kill_switch", switch, "use the name of an environment variable, such as ENABLE_CLEANUP"
            )
        aliases: object = self.aliases
        if isinstance(aliases, str | bytes) or not isinstance(aliases, Sequence):
            raise self._refusal("aliases", aliases, "use a list of former names and paths")
        for alias in aliases:
            if not isinstance(alias, str) or not 0 < len(alias) <= _NAME_LIMIT or not is_storable(alias):
                raise self._refusal(
                    "aliases", alias, f"use names and paths of 1-{_NAME_LIMIT} characters, without NUL"
                )

        if isinstance(self.redact, str) or not set(self.redact) <= set(self.shape.names):
            known = ", ".join(self.shape.names)
            raise self._refusal("redact", self.redact, f"use a list of its parameters: {known or 'none'}")

    def _check_topic(self) -> None:
        topic: object = self.topic
        if topic is not None and not (isinstance(topic, str) and _TOPIC.fullmatch(topic)):
            raise self._refusal("topic", topic, "use the full name, projects/{project}/topics/{name}")
        if topic is not None and (why := self.shape.mismatch((b"",), {})) is not None:
            raise DeclarationError(
                f"TaskRoute({self.path}): topic: the function gets the data of a message as its one argument ({why})"
            )
        words: object = self.topic_filter
        if words is not None and not (
            topic and isinstance(words, str) and 0 < len(words.encode()) <= _FILTER_LIMIT
        ):
            raise self._refusal(
                "topic_filter", words, f"use a filter of 1-{_FILTER_LIMIT} bytes, beside a topic"
            )
        try:
            _ = self.service is None or parsers.service_name(self.service)
        except (parsers.Unreadable, TypeError):
            raise self._refusal(
                "service", self.service, "use a name of TASKS_SERVICE_URLS, such as heavy"
            ) from None

    def _whole(self, name: str, value: object, low: int, high: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._refusal(name, value, f"use a whole number from {low} to {high}")

    def _refusal(self, name: str, value: object, allowed: str) -> DeclarationError:
        return DeclarationError(f"TaskRoute({self.path}): {name} is {_brief(value)}; {allowed}")


def _is_timeout(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 < value <= _TIMEOUT_LIMIT  # false for NaN


def _brief(value: object) -> str:
    return " ".join(repr(value).split())[:80]


def _called(func: object) -> str:
    module, name = getattr(func, "__module__", None), getattr(func, "__qualname__", None)
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else _brief(func)
