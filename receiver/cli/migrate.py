"""`receiver migrate`: brings the tables up to date."""

from __future__ import annotations

import os
import sys

import click

from receiver.record import migrations, schema_check
from receiver.record.database import Database
from receiver.settings import Settings


@click.command("migrate")
@click.option(
    "--check", is_flag=True, help="Change nothing; exit 1 when the tables are older than this code."
)
def command(*, check: bool) -> None:
    """Bring the database's tables up to date."""
    settings = Settings.from_environ(os.environ)
    database = Database.configured(settings)
    environment = settings.environment if os.environ.get("TASKS_ENVIRONMENT", "").strip() else None
    found = migrations.current(database)
    if found == schema_check.HEAD:
        mended = [] if check else migrations.upgrade(database)
        for index in mended:
            click.echo(f"mended the index {index}, which was not valid")
        click.echo(f"up to date at {found}")
    elif found is not None and found not in schema_check.KNOWN:
        # A deployment that goes back: the steps are additive, so that older code works on newer tables.
        click.echo(f"at {found}, newer than this code's {schema_check.HEAD}; nothing to do")
    elif check:
        click.echo(f"behind: {_named(found)} → {schema_check.HEAD}; run `receiver migrate`")
        sys.exit(1)
    else:
        migrations.upgrade(database, environment=environment)
        now = migrations.current(database)
        click.echo(f"migrated: {_named(found)} → {now}")


def _named(version: str | None) -> str:
    return version or "nothing"
