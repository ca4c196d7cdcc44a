"""What is public, a line each: what docs/operate/promises.md says that stays.

`tests/wheels/` keeps that of earlier commits:

PYTHONPATH=FOLDER_OF_THE_WHEEL python -P tests/stage/surface.py > tests/wheels/COMMIT/public.txt
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from receiver.cli import receiver as command
from receiver.contract.encode import encode_payload, scheduled_payload
from receiver.contract.failure import Failure
from receiver.endings.outcomes import Failed, Succeeded
from receiver.models import metadata
from receiver.settings import PUSH_PATH, VARIABLES, Settings
from receiver.tasks.plugins import GROUP
from receiver.telemetry import logs
from receiver.telemetry.events import Delivered, ReceiverTrouble, ServiceState
from receiver.telemetry.formats import JsonFormatter

MODULES = ("receiver", "receiver.app", "receiver.errors", "receiver.models", "receiver.testing")

BESIDE = (
    "receiver.enqueue.PubSubBackend",
    "receiver.settings.Settings.from_environ",
    "receiver.tasks.call.Backend",
    "receiver.tasks.call.TaskError",
    "receiver.tasks.call.TaskResultStatus",
    "receiver.telemetry.formats.JsonFormatter",
)
"""What pages of the API list from other modules, because a how-to uses it: its name, and how it is called."""

MADE_BY_USERS = ("receiver.TaskRoute", "receiver.PermanentError")
"""The classes of which the call is what people write; of the others it is the members."""


def surface() -> set[str]:
    """Every line of today's code."""
    return {
        *(line for name in MODULES for line in _module(name)),
        *(
            line
            for path in BESIDE
            for line in (f"name {path}", *_parameters(path, pkgutil.resolve_name(path)))
        ),
        *_command("receiver", command),
        *(f"variable {one.name}" for one in VARIABLES),
        *(
            f"column {table.name}.{column.name}"
            for table in metadata.tables.values()
            for column in table.columns
        ),
        *_wire(),
        *_log(),
    }


def _module(name: str) -> Iterator[str]:
    """The names of a module, and how they are called."""
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None) or [
        each
        for each, value in vars(module).items()
        if getattr(value, "__module__", "") == name and each[0] != "_"
    ]
    for each in names:
        yield f"name {name}.{each}"
        yield from _value(f"{name}.{each}", getattr(module, each))


def _value(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, type) and issubclass(value, enum.Enum):
        yield from (f"value {path}.{member.name} = {member.value}" for member in value)
    elif isinstance(value, type):
        if path in MADE_BY_USERS:
            yield from _parameters(path, value)
            return
        for ours in (each for each in value.__mro__ if each.__module__.startswith("receiver.")):
            for name in {*vars(ours), *inspect.get_annotations(ours)}:
                if name[0] != "_":
                    yield f"name {path}.{name}"
                    yield from _parameters(f"{path}.{name}", getattr(ours, name, None))
    elif callable(value):
        yield from _parameters(path, value)


def _parameters(path: str, value: Any) -> Iterator[str]:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # no function, or one that is made in C
        return
    yield from (
        f"parameter {path}({one.name})" for one in parameters if one.name not in {"self", "args", "kwargs"}
    )


def _command(path: str, found: click.Command) -> Iterator[str]:
    """A command with its options, and those below it."""
    yield f"command {path}"
    for one in found.params:
        yield from (f"option {path} {name}" for name in (*one.opts, *one.secondary_opts))
    if isinstance(found, click.Group):
        context = click.Context(found)
        for name in found.list_commands(context):
            below = found.get_command(context, name)
            assert below is not None
            yield from _command(f"{path} {name}", below)


def _wire() -> Iterator[str]:
    """What other programs write, and where."""
    yield f"path {PUSH_PATH}"
    yield f"entry point {GROUP}"
    payload = encode_payload("id", "task", [], {}, datetime.now(UTC))
    yield from (
        f"field of a message {name}" for name in json.loads(payload) | json.loads(scheduled_payload("task"))
    )


def _log() -> Iterator[str]:
    """The fields of the lines of each kind of event."""
    settings = Settings.from_environ({"GCP_PROJECT_ID": "project", "K_SERVICE": "receiver"})
    form = JsonFormatter(settings)
    failed = Failed(Failure("shop.OutOfStock", "sold out", "Traceback"))
    known: dict[str, Any] = {
        "task_name": "a",
        "task_id": "a",
        "attempt": 1,
        "message_id": "a",
        "metadata": {"a": "a"},
    }
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    succeeded = Delivered(Succeeded("1"), 200, 0.1, trace=trace, **known)
    lines = [form.succeeded(succeeded, 0.0)]
    for event in (
        Delivered(failed, 500, 0.1, trace=trace, **known),
        ReceiverTrouble("a", "a", "a", LookupError("a"), "a"),
        ServiceState("a"),
    ):
        level, message, fields = logs._rendered(event)
        lines.append(form.line(level, message, 0.0, fields))
    yield from (f"field of the log {name}" for line in lines for name in json.loads(line))


def main() -> None:
    """Prints the lines in order."""
    sys.stdout.write("".join(f"{line}\n" for line in sorted(surface())))


if __name__ == "__main__":
    main()
