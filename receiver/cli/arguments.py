"""How commands read their arguments and the environment."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
import msgspec

from receiver import maintenance, parsers
from receiver.errors import ConfigurationError, PluginError
from receiver.settings import Settings
from receiver.sweep.sweeper import Surroundings
from receiver.tasks import registry
from receiver.tasks.registry import Registry
from receiver.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Callable


def duration(option: str, text: str) -> timedelta:
    """`90s`, `15m`, `2h`, `30d` or plain seconds.

    Raises:
        ConfigurationError: it is something else; names the option.
    """
    try:
        return parsers.duration(timedelta(0), timedelta(days=36500))(text)
    except parsers.Unreadable as error:
        raise ConfigurationError(f"{option} is {text!r}; {error}") from None


def error_type(_context: object, _option: object, name: str | None) -> str | None:
    """`--error`: the record has Python's own errors without their module, `TaskError.exception_class_path` with it."""
    return name and name.removeprefix("builtins.")


def positional(text: str) -> list[Any]:
    """`--args`: a JSON array."""
    value: list[Any] = _json("--args", text, list, "a JSON array, such as '[1, \"two\"]'")
    return value


def keywords(text: str) -> dict[str, Any]:
    """`--kwargs`: a JSON object."""
    value: dict[str, Any] = _json("--kwargs", text, dict, 'a JSON object, such as \'{"user_id": "u1"}\'')
    return value


def settings() -> Settings:
    """The environment's."""
    return Settings.from_environ(os.environ)


def surroundings(note: Callable[[str], None]) -> Surroundings:
    """What a sweep needs. If plugins cannot be loaded, it goes on without them, and `note` is told what that means."""
    known = settings()
    emit = logs.configure(known)
    try:
        routes = registry.load(known)
    except PluginError as error:
        note(f"nothing is deleted, and messages that were rejected as unknown are left alone: {error}")
        return Surroundings(known, Registry([], built_in=maintenance.ROUTES), emit, complete=False)
    return Surroundings(known, routes.including(maintenance.ROUTES), emit)


def declared() -> Registry | None:
    """The routes of the plugins, for what they hide. If they cannot be loaded, a note says that all arguments are hidden.

    What plugins print while they are imported goes to standard error: standard output may be JSON.
    """
    try:
        with redirect_stdout(sys.stderr):
            return registry.load(settings()).including(maintenance.ROUTES)
    except ConfigurationError as error:
        click.echo(
            f"note: arguments are hidden, because the plugins say which may be shown: {error}", err=True
        )
        return None


def _json(option: str, text: str, kind: type[list[Any] | dict[str, Any]], allowed: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ConfigurationError(f"{option} is {text[:80]!r}; use {allowed}")
    return value
