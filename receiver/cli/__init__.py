"""The command `receiver`: one module a command, loaded only when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from contextlib import suppress

import click

from receiver.cli import streams
from receiver.errors import OutputLost, PipeClosed, ReceiverError

PIPE_EXIT_CODE = 128 + signal.SIGPIPE
"""The exit code that a shell reports for a program that wrote to a pipe without a reader."""

COMMANDS = {
    "init": "Make a folder a project that runs, with tests and deployment.",
    "serve": "Receive pushes and run tasks, until SIGTERM.",
    "dev": "Run everything on one laptop, with no cloud; plugins reload on change.",
    "migrate": "Bring the database's tables up to date.",
    "check": "Load every plugin and list its tasks.",
    "provision": "Show what must change in Pub/Sub and Cloud Scheduler, and apply the changes.",
    "doctor": "Say what would fail in production, and how to mend it.",
    "enqueue": "Enqueue a task, and follow it to its end.",
    "executions": "List executions, or show one with its attempts and history.",
    "group": "Follow the executions of a group until all are done.",
    "rejected": "List the messages that could not become an execution, or show one.",
    "dead-letters": "List what Pub/Sub has given up, or publish it again.",
    "replay": "Publish failed executions or rejected messages again.",
    "sweep": "Publish due executions and prune, now; in the cloud this happens every minute.",
    "prune": "Remove final executions that are older than the retention.",
    "push": "Send one signed push to a receiver on this machine.",
    "demo": "Show every ending of a delivery; needs no setup.",
}
"""Each command with its line in the help; its module is `receiver.cli.<name>`, its function `command`."""


class Lazy(click.Group):
    """A group that imports a command only when it is called, so that `serve` loads no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All commands, in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"receiver.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pubsub-task-receiver")
@click.pass_context
def receiver(context: click.Context) -> None:
    """Runs the tasks that Google Pub/Sub pushes, once, and records each in PostgreSQL."""
    if context.invoked_subcommand == "serve":
        return  # it is for the cloud, never asks the `receiver dev` of this folder, and starts sooner without it
    from receiver.cli.here import adopt  # noqa: PLC0415 - not for --help and --version

    adopt(context.invoked_subcommand or "")


def main() -> None:
    """The entry point. Every `ReceiverError` is one line and exit code 2.

    A reader that closes the pipe (`| head -1`) is no error: the command ends silently with exit code 141, as by SIGPIPE.
    """
    streams.prepare()
    try:
        try:
            receiver(prog_name="receiver")
        finally:
            sys.stdout.flush()  # an output that is lost must be known before the exit code is chosen
    except PipeClosed:
        streams.abandon_output()
        sys.exit(PIPE_EXIT_CODE)
    except ReceiverError as error:
        if isinstance(error, OutputLost):
            streams.abandon_output()
        with suppress(OSError):  # standard error may be closed too; then only the exit code tells
            click.echo(_told(error), err=True)
        sys.exit(2)


def _told(error: ReceiverError) -> str:
    """The line of an error; on Cloud Run as a line of the log."""
    # Only the end of a command that failed needs these.
    if not os.environ.get("K_SERVICE"):
        from receiver.cli.here import told  # noqa: PLC0415 - as above
        from receiver.cli.terminal import line  # noqa: PLC0415 - as above

        return f"error: {line(told(error))}"
    from receiver.telemetry.logs import refused  # noqa: PLC0415 - as above

    return refused(f"error: {error}")
