"""What commands have in common in reading their arguments and the environment."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from receiver import registry, variables
from receiver.errors import ConfigurationError, PluginError
from receiver.executions.dsn import Database
from receiver.maintenance import Surroundings
from receiver.registry import Registry
from receiver.settings import Settings, require_database
from receiver.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Callable

LONG = 10_000
"""The longest listing: more is a question for SQL."""


def duration(option: str, text: str) -> timedelta:
    """`90s`, `15m`, `2h`, `30d` or plain seconds.

    Raises:
        ConfigurationError: it is something else; names the option.
    """
    try:
        return variables.duration(timedelta(0), timedelta(days=36500))(text)
    except variables.Unreadable as error:
        raise ConfigurationError(f"{option} is {text!r}; {error}") from None


def is_text(text: str) -> bool:
    """Whether PostgreSQL can hold it: valid UTF-8, without NUL. No row has another id."""
    return not any("\ud800" <= character <= "\udfff" or character == "\0" for character in text)


def settings() -> Settings:
    """The environment's."""
    return Settings.from_environ(os.environ)


def database(given: Settings | None = None) -> Database:
    """The record's database."""
    known = given or settings()
    return Database.of(require_database(known), prepared_statements=known.db_prepared_statements)


def surroundings(note: Callable[[str], None]) -> Surroundings:
    """What maintenance needs. Without plugins it goes on, knowing no tasks, and `note` is told what that means."""
    known = settings()
    emit = logs.configure(known)
    try:
        paths = registry.load(known).paths
    except PluginError as error:
        note(f"messages that were rejected as unknown are left alone: {error}")
        paths = Registry([]).paths
    return Surroundings(known, paths, emit)
