"""What several commands read alike: JSON arguments, durations, and whose environment is meant."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from receiver import variables
from receiver.errors import ConfigurationError
from receiver.local.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = timedelta(days=3650)


def positional(text: str) -> list[Any]:
    """`--args`: a JSON array."""
    value: list[Any] = _json("--args", text, list, "a JSON array, such as '[1, \"two\"]'")
    return value


def keywords(text: str) -> dict[str, Any]:
    """`--kwargs`: a JSON object."""
    value: dict[str, Any] = _json("--kwargs", text, dict, 'a JSON object, such as \'{"user_id": "u1"}\'')
    return value


def duration(option: str, text: str) -> timedelta:
    """`90s`, `15m`, `2h`, `30d` or plain seconds."""
    try:
        return variables.duration(timedelta(0), LONGEST)(text)
    except variables.Unreadable as error:
        raise ConfigurationError(f"{option} is {text[:80]!r}; {error}") from None


def environ(telling: Iterable[str]) -> dict[str, str]:
    """This process's variables; where none of `telling` is set, those of this folder's `receiver dev` are the rest."""
    if any(os.environ.get(name, "").strip() for name in telling):
        return dict(os.environ)
    return {**os.environ, **Folder(Path.cwd()).environ()}


def _json(option: str, text: str, kind: type[list[Any] | dict[str, Any]], allowed: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ConfigurationError(f"{option} is {text[:80]!r}; use {allowed}")
    return value
