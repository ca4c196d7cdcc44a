"""`receiver check`: everything that can be known about plugins before anything is deployed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any, Final

import click

from receiver import maintenance
from receiver.cli import listing, terminal
from receiver.errors import PluginError
from receiver.init.source import DISTRIBUTION
from receiver.settings import Settings, Subscriptions
from receiver.tasks import plugins
from receiver.tasks.registry import Registry
from receiver.tasks.schedule import clock_changes

if TYPE_CHECKING:
    from rich.text import Text

    from receiver.tasks.route import TaskRoute


FIELDS = (
    "name", "path", "aliases", "is_async", "takes_context", "schedule", "ack_deadline", "min_retry_delay",
    "max_retry_delay", "max_attempts", "kill_switch", "topic_name", "former_topic_names",
    "subscription_name", "topic", "topic_filter",
    "foreign_subscription_name", "service",
)  # fmt: skip
"""The fields of a route in `--json`."""

SAID = ("findings", "undeclared", "tolerated", "warnings", "notes")
"""What is said of all routes, likewise."""

WHO_RUNS: Final = {
    Subscriptions.ANY: "who may publish to one topic can run every task",
    Subscriptions.OWN: "a task runs by its own subscriptions only",
}
"""What the setting means, for people."""


@dataclass(frozen=True, slots=True)
class Report:
    """The routes of the plugins, and their problems.

    Attributes:
        routes: the plugins' routes, then the receiver's own.
        findings: to be mended before a deployment.
        undeclared: those of the findings that a @task has no TaskRoute.
        tolerated: those of the findings with which `serve` still starts.
        warnings: what is probably meant otherwise, and stops nothing.
        notes: good to know.
    """

    routes: tuple[TaskRoute, ...]
    findings: tuple[str, ...]
    undeclared: tuple[str, ...]
    tolerated: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


@click.command("check")
@listing.wide
@listing.as_json
def command(*, wide: bool, as_json: bool) -> None:
    """Load every plugin and list its tasks; exit 1 when something must be mended."""
    settings = Settings.from_environ(os.environ)
    report = inspect(settings)
    if as_json:
        routes = {"routes": [_as_json(route) for route in report.routes]}
        said = {name: getattr(report, name) for name in SAID}
        terminal.print_json({**routes, **said, "subscriptions": settings.subscriptions})
    else:
        _print(report, settings.subscriptions, wide=wide)
    for finding in report.findings:
        click.echo(f"error: {terminal.line(finding)}", err=True)
    if report.findings:
        sys.exit(1)


def inspect(settings: Settings) -> Report:
    """Loads the plugins as `serve` does, but goes on after an error, to find everything at once."""
    found, findings = _collected(settings)
    findings[:0] = _others()
    kept: list[TaskRoute] = []
    for route in found.routes:
        try:
            Registry([*kept, route], built_in=maintenance.ROUTES)
        except PluginError as clash:
            findings.append(str(clash))
        else:
            kept.append(route)
    declared = frozenset(route.path for route in found.routes)
    forgotten = plugins.undeclared(found.modules, declared)
    undeclared = tuple(
        f"{path} is a @task that no TaskRoute declares; add it to the list, or remove the decorator"
        for path in forgotten
    )
    homes = sorted({route.function.__module__ for route in found.routes})
    beside = (
        f"{path} is a @task that no TaskRoute declares; add it to the list if this project serves it"
        for path in plugins.undeclared(homes, declared)
        if path not in forgotten
    )
    problems = [
        (f"{route.path}: {line}", needed) for route in found.routes for line, needed in route.forms.problems()
    ]
    doubts = dict.fromkeys(filter(None, (route.doubt(os.environ) for route in found.routes)))
    tolerated = (*undeclared, *(line for line, needed in problems if needed))
    return Report(
        routes=(*found.routes, *maintenance.ROUTES),
        findings=(*findings, *tolerated),
        undeclared=undeclared,
        tolerated=tolerated,
        warnings=(
            *beside,
            *doubts,
            *_clock_changes(found.routes),
            *(line for line, needed in problems if not needed),
        ),
        notes=tuple(_notes(found.routes, settings)),
    )


def _others() -> Iterator[str]:
    """A line for each other distribution with a package `receiver`: pip lets one overwrite the files of the other."""
    # The lists of files as text: to parse those of a hundred distributions takes a quarter of a second.
    owners = {each.name for each in distributions() if "\nreceiver/" in f"\n{each.read_text('RECORD')}"}
    for other in sorted(owners - {DISTRIBUTION}):
        yield (
            f"the distribution {other} is installed too, and has a package `receiver` as well: one has overwritten files of "
            f"the other; run `pip uninstall {other} {DISTRIBUTION}`, then install {DISTRIBUTION} again"
        )


def _collected(settings: Settings) -> tuple[plugins.Plugins, list[str]]:
    """The plugins that can be loaded, and a line for each module that cannot."""
    try:
        return plugins.collect(settings), []
    except PluginError as error:
        first = str(error)
    if len(settings.modules) < 2 or first.startswith(("TASKS_SETUP", "TASKS_AROUND")):  # noqa: PLR2004 - others to look at
        return plugins.Plugins((), ()), [first]
    routes: dict[int, TaskRoute] = {}
    modules: list[str] = []
    findings: list[str] = []
    for module in dict.fromkeys(settings.modules):
        try:
            one = plugins.collect(replace(settings, modules=(module,), setup=None, around=()))
        except PluginError as error:
            findings.append(str(error))
        else:
            routes |= {id(route): route for route in one.routes}
            modules.append(module)
    return plugins.Plugins(tuple(routes.values()), tuple(modules)), findings


def _clock_changes(routes: tuple[TaskRoute, ...]) -> Iterator[str]:
    """A warning for each schedule that the year's clock changes hit."""
    now = datetime.now(UTC)
    for route in routes:
        when = route.schedule and clock_changes(route.schedule, route.schedule_timezone, now)
        if when:
            yield (
                f"{route.path}: {when} in {route.schedule_timezone}: Cloud Scheduler may leave a firing out or fire "
                "twice; choose another hour, or UTC"
            )


def _notes(routes: tuple[TaskRoute, ...], settings: Settings) -> list[str]:
    late = [
        f"{route.path}: timeout {route.timeout:g} s is longer than ack_deadline {route.ack_deadline} s: redeliveries "
        "get 429 until it is done, and the instance needs CPU outside requests (instance-based billing)"
        for route in routes
        if route.timeout is not None and route.timeout > route.ack_deadline
    ]
    foreign = [f"{route.path}: also takes the messages of {route.topic}" for route in routes if route.topic]
    urls = dict(settings.service_urls)
    elsewhere = [
        f"{route.path}: runs in the service {route.service}, "
        + urls.get(route.service, "whose URL TASKS_SERVICE_URLS lacks: `receiver provision` needs it")
        for route in routes
        if route.service is not None
    ]
    return [*late, *foreign, *elsewhere]


def _print(report: Report, subscriptions: Subscriptions, *, wide: bool) -> None:
    console = terminal.console()
    count = sum(not maintenance.is_built_in(route) for route in report.routes)
    if count:
        COLUMNS.show(report.routes, wide=wide)
    for kind, lines in (("warning", report.warnings), ("note", report.notes)):
        for line in lines:
            console.print(f"{kind}: {terminal.clean(line)}", soft_wrap=True)
    if not report.findings:
        console.print(f"TASKS_SUBSCRIPTIONS is {subscriptions}: {WHO_RUNS[subscriptions]}", soft_wrap=True)
        console.print(f"{count} task{'' if count == 1 else 's'}, nothing to mend")


def _as_json(route: TaskRoute) -> Mapping[str, Any]:
    return {name: getattr(route, name) for name in FIELDS} | {
        "built_in": maintenance.is_built_in(route),
        "timeout": route.effective_timeout,
        "keep": None if route.keep is None else route.keep.total_seconds(),
        "enabled": route.is_enabled(os.environ),
        "schedule_timezone": route.schedule_timezone if route.is_scheduled else None,
        "scheduler_job_name": route.scheduler_job_name if route.is_scheduled else None,
    }


def _name(route: TaskRoute) -> Text:
    ours = maintenance.is_built_in(route)
    return terminal.cell("(built in)" if ours else route.name, "dim" if ours else "")


def _switch(route: TaskRoute) -> Text:
    enabled = route.is_enabled(os.environ)
    state = "on" if enabled else "OFF"
    return terminal.cell(route.kill_switch and f"{route.kill_switch} ({state})", "" if enabled else "yellow")


COLUMNS = listing.Columns["TaskRoute"](
    {
        "NAME": _name,
        "PATH": lambda route: terminal.cell(route.path),
        "SCHEDULE": lambda route: terminal.cell(
            f"{route.schedule} {route.schedule_timezone}" if route.is_scheduled else None
        ),
        "TIMEOUT": lambda route: terminal.cell(f"{route.effective_timeout:g} s"),
        "ATTEMPTS": lambda route: terminal.cell(route.max_attempts or "no limit"),
        "KILL SWITCH": _switch,
        "TOPIC": lambda route: terminal.cell(route.topic_name),
    },
    cut=("SCHEDULE", "KILL SWITCH"),
    spare=("TOPIC", "PATH"),
)
"""The listing of tasks; a new column is a line here."""
