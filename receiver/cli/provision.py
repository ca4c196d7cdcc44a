"""`receiver provision`: topics, subscriptions, dead letters and scheduler jobs as the registry needs them."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import click

from receiver import maintenance
from receiver.cli import terminal
from receiver.errors import ConfigurationError, SettingError
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.provision import rendering
from receiver.provision.applying import ChangeFailed, Result
from receiver.provision.desired import PushTarget
from receiver.provision.google_admin import QUOTA_RETRIES, GoogleAdmin
from receiver.provision.observed import ALL_KINDS
from receiver.provision.patience import Patience
from receiver.provision.provisioning import ProvisionOptions, ProvisionRun, needed_by_record, wanted_by
from receiver.provision.resources import Kind
from receiver.provision.scope import Scope
from receiver.settings import Settings
from receiver.tasks import registry

if TYPE_CHECKING:
    from rich.console import Console

    from receiver.provision.planning import Plan
    from receiver.tasks.registry import Registry

PUBSUB = frozenset({Kind.TOPIC, Kind.SUBSCRIPTION})


@click.command("provision")
@click.option(
    "--plan", "only_plan", is_flag=True, help="Show what would change, and change nothing.  [default]"
)
@click.option("--apply", "applies", is_flag=True, help="Make the changes, after asking.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--only", metavar="NAME", multiple=True, help="Only this task's resources (may be repeated).")
@click.option("--skip-scheduler", is_flag=True, help="Leave Cloud Scheduler alone.")
@click.option("--skip-pubsub", is_flag=True, help="Leave topics and subscriptions alone.")
@click.option("--grant", is_flag=True, help="Also give Pub/Sub's own account the roles that it needs.")
@click.option("--prune", is_flag=True, help="Also delete topics and subscriptions that no task uses.")
@click.option("--resume", is_flag=True, help="Also let subscriptions push again that somebody has paused.")
@click.option(
    "--take-over", is_flag=True, help="What belongs to another service of this environment is ours: it moved."
)
@click.option("--no-wait", is_flag=True, help="Do not wait until new accounts and roles are known.")
@click.option(
    "--destroy", is_flag=True, help="Delete everything of this environment, after asking for its name."
)
def command(
    *,
    only_plan: bool,
    applies: bool,
    yes: bool,
    as_json: bool,
    only: tuple[str, ...],
    skip_scheduler: bool,
    skip_pubsub: bool,
    grant: bool,
    prune: bool,
    resume: bool,
    take_over: bool,
    no_wait: bool,
    destroy: bool,
) -> None:
    """Show what has to change in Pub/Sub and Cloud Scheduler; with --apply, make these changes.

    Exit code 0: the plan is shown, or everything is as it should be now. 1: it is not.
    """
    changes = (applies or destroy) and not only_plan
    if applies and only_plan:
        raise click.UsageError("--plan and --apply exclude each other")
    if destroy and (only or grant or prune or resume):
        raise click.UsageError(
            "--destroy deletes a whole environment; it goes with no --only, --grant, --prune or --resume"
        )
    if skip_pubsub and (skip_scheduler or grant or prune or resume):
        raise click.UsageError(
            "--skip-pubsub leaves nothing to do for --skip-scheduler, --grant, --prune or --resume"
        )
    if prune and only:
        raise click.UsageError("--prune looks at all tasks; it goes with no --only")
    if as_json and changes and not yes:
        raise click.UsageError("--json cannot ask; add --yes")
    settings = Settings.from_environ(os.environ)
    scope = Scope.of(settings)
    kinds = _kinds(settings, skip_scheduler=skip_scheduler, skip_pubsub=skip_pubsub, grant=grant)
    options = ProvisionOptions(kinds, only, grant, take_over, prune, resume)
    push = None if destroy else PushTarget.of(settings)
    # Outside the loop: plugins may query while they are imported, and Django refuses that inside a running loop.
    tasks = None if destroy else registry.load(settings).including(maintenance.ROUTES)
    session = _Session(settings, scope, options, changes, not no_wait, yes, as_json)
    sys.exit(0 if asyncio.run(session.run(push, tasks)) else 1)


@dataclass(frozen=True, slots=True)
class _Session:
    """One call of the command."""

    settings: Settings
    scope: Scope
    options: ProvisionOptions
    changes: bool
    waits: bool
    yes: bool
    as_json: bool
    console: Console = field(default_factory=terminal.console)

    async def run(self, push: PushTarget | None, tasks: Registry | None) -> bool:
        """Plans, asks, applies, looks again. True: no change is left. Without tasks the environment is removed."""
        client = GoogleClient(retries=QUOTA_RETRIES)
        try:
            endpoints = Endpoints.of(self.settings)
            admin = GoogleAdmin(
                client,
                endpoints,
                is_emulated=self.settings.pubsub_emulator is not None,
                patience=Patience(_note) if self.changes and self.waits else None,
            )
            wanted = None
            if push is not None and tasks is not None:
                wanted = await wanted_by(tasks, admin, self.scope, push, self.options)
            ask = partial(needed_by_record, self.settings, self.scope)
            run = ProvisionRun(admin, self.scope, self.options, wanted, ask)
            plan = await run.plan()
            if not self.changes:
                self._show(plan)
                return True
            return await self._carry_out(run, plan, destroy=tasks is None)
        finally:
            await client.close()

    async def _carry_out(self, run: ProvisionRun, plan: Plan, *, destroy: bool) -> bool:
        if not self.as_json:
            self._show(plan)
        total = len(plan.changes)
        if total and not self.yes:
            self._ask(plan, destroy=destroy)
        results: list[Result] = []

        def tell(result: Result) -> None:
            results.append(result)
            if not self.as_json:
                self._print(rendering.progress(result, len(results), total))

        left = plan
        if total:
            await run.apply(plan, tell)
            left = await run.remaining()
        failed = [result for result in results if isinstance(result, ChangeFailed)]
        if self.as_json:
            shown = rendering.as_json(left, self.scope)
            terminal.print_json({**shown, "results": rendering.results_as_json(results)})
        else:
            self._conclude(left, len(failed), total)
        return left.is_settled

    def _conclude(self, left: Plan, failed: int, total: int) -> None:
        if total and not left.is_settled:
            self.console.print("some resources still differ:")
            for line in rendering.lines(left):
                self._print(line)
        if failed:
            self.console.print(f"{failed} of {total} failed")
        if left.is_settled:
            self.console.print("everything is as it should be")

    def _show(self, plan: Plan) -> None:
        if self.as_json:
            terminal.print_json(rendering.as_json(plan, self.scope))
            return
        for line in rendering.lines(plan):
            self._print(line)
        self.console.print(rendering.summary(plan))

    def _ask(self, plan: Plan, *, destroy: bool) -> None:
        if not sys.stdin.isatty():
            terminal.fail("no terminal to confirm on, so nothing was changed; add --yes")
        count = f"{len(plan.changes)} change{'' if len(plan.changes) == 1 else 's'}"
        place = f"environment {self.scope.environment} of {self.scope.namespace} in {self.scope.project}"
        if not destroy:
            if not click.confirm(f"Make {count} in {place}?"):
                terminal.fail("nothing was changed")
            return
        typed = click.prompt(f"This deletes {place}. Type the environment's name to go on", default="")
        if typed != self.scope.environment:
            terminal.fail("that is not its name; nothing was changed")

    def _print(self, line: rendering.Line) -> None:
        text, style = line
        self.console.print(terminal.line(text), style=style, soft_wrap=True)


def _note(text: str) -> None:
    click.echo(terminal.line(text), err=True)


def _kinds(settings: Settings, *, skip_scheduler: bool, skip_pubsub: bool, grant: bool) -> frozenset[Kind]:
    """Which kinds to look at. An emulator of one API is never used together with the real other one."""
    emulated, stood_in = settings.pubsub_emulator is not None, settings.scheduler_endpoint is not None
    if grant and emulated and not stood_in:
        raise ConfigurationError(
            "--grant: Pub/Sub is an emulator (PUBSUB_EMULATOR_HOST), and has no roles to give"
        )
    if skip_pubsub and emulated and not stood_in:
        raise ConfigurationError(
            "--skip-pubsub leaves nothing to do: Pub/Sub is an emulator (PUBSUB_EMULATOR_HOST), so Cloud Scheduler "
            "is left alone"
        )
    if stood_in and not emulated and not (skip_scheduler or skip_pubsub):
        raise SettingError(
            "PUBSUB_EMULATOR_HOST",
            None,
            "TASKS_SCHEDULER_ENDPOINT is a stand-in, so set this as well, or use --skip-pubsub or --skip-scheduler",
        )
    if skip_pubsub:
        return frozenset({Kind.JOB})
    if emulated and not stood_in and not skip_scheduler:
        click.echo("note: Pub/Sub is an emulator, so Cloud Scheduler is left alone", err=True)
        return PUBSUB
    return PUBSUB if skip_scheduler else ALL_KINDS
