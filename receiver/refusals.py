"""What the environment must not say although each value may be read: misspelt names, contradictions, laptop settings on Cloud Run.

Next: `receiver.settings` asks these after it has read everything.
"""

from __future__ import annotations

import difflib
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from receiver import hosts
from receiver.errors import SettingError
from receiver.variables import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.settings import Settings

CLOUD_RUN_GRACE: Final = timedelta(seconds=8)
"""Cloud Run kills 10 s after SIGTERM; handing back what has stopped takes its part of the rest."""

SUBSCRIPTION_RETENTION: Final = timedelta(days=7)
"""How long Pub/Sub keeps a message that nobody acks: its default."""

DEAD_LETTER_RETENTION: Final = timedelta(days=7)
"""How long it keeps the message after that, as a dead letter."""

LEAST_RETENTION: Final = SUBSCRIPTION_RETENTION + DEAD_LETTER_RETENTION + timedelta(days=1)
"""How long the record must know what is final."""

_NAMES: Final = frozenset(variable.name for variable in VARIABLES)
_FAULT: Final = "TASKS_FAULT_"
_LOCAL_ONLY: Final = ("TASKS_SCHEDULER_ENDPOINT", "PUBSUB_EMULATOR_HOST")
_HIDDEN: Final = "(hidden)"


def typos(environ: Mapping[str, str]) -> None:
    """Refuses a `TASKS_` variable that is nearly one of ours, or a fault that does not exist."""
    ours = sorted(name for name in _NAMES if name.startswith("TASKS_"))
    for name in sorted(environ):
        if name in _NAMES or not name.startswith("TASKS_"):
            continue
        close = difflib.get_close_matches(name, ours, n=1, cutoff=0.8)
        if close:
            raise SettingError(name, _HIDDEN, f"there is no such variable: did you mean {close[0]}?")
        if name.startswith(_FAULT):
            known = ", ".join(known.removeprefix(_FAULT) for known in ours if known.startswith(_FAULT))
            raise SettingError(name, _HIDDEN, f"there is no such fault: {_FAULT}* can be {known}")


def local_only(environ: Mapping[str, str], settings: Settings) -> None:
    """Refuses on Cloud Run what is for laptops and tests, and a grace that Cloud Run does not give."""
    if settings.push_auth == "off":
        raise SettingError("TASKS_PUSH_AUTH", "off", "on Cloud Run (K_SERVICE is set) only oidc is allowed")
    for name in sorted(environ):
        if (name in _LOCAL_ONLY or name.startswith(_FAULT)) and environ[name].strip():
            raise SettingError(
                name,
                shown(environ[name].strip()),
                "it is for local use and tests: unset it on Cloud Run (K_SERVICE is set)",
            )
    if settings.shutdown_grace > CLOUD_RUN_GRACE:
        seconds = f"{settings.shutdown_grace.total_seconds():g}"
        raise SettingError(
            "TASKS_SHUTDOWN_GRACE", seconds, "use 8 or less: Cloud Run kills 10 s after SIGTERM"
        )


def contradictions(settings: Settings) -> None:
    """Refuses settings that are fine each and not together."""
    url = urlsplit(settings.service_url or "")
    if (
        url.scheme == "http"
        and not hosts.is_loopback(url.hostname or "")
        and settings.pubsub_emulator is None
    ):
        raise SettingError(
            "CLOUD_RUN_SERVICE_URL",
            settings.service_url,
            "use https://host, or http://host on loopback; only an emulator (PUBSUB_EMULATOR_HOST) pushes elsewhere",
        )
    if settings.max_inflight_bytes < settings.max_body_bytes:
        raise SettingError(
            "TASKS_MAX_INFLIGHT_BYTES",
            str(settings.max_inflight_bytes),
            f"it must be TASKS_MAX_BODY_BYTES ({settings.max_body_bytes}) or more, or a large message never fits",
        )
    if settings.retention < LEAST_RETENTION:
        raise SettingError("TASKS_RETENTION", _days(settings.retention), retention_too_short())


def retention_too_short() -> str:
    """What is allowed instead, and why."""
    return (
        f"use {_days(LEAST_RETENTION)} or more: Pub/Sub keeps a message for {_days(SUBSCRIPTION_RETENTION)} and its dead "
        f"letter for {_days(DEAD_LETTER_RETENTION)} more, and what comes back after its record was pruned would run again"
    )


def _days(time: timedelta) -> str:
    return f"{time / timedelta(days=1):.3g}d"


def shown(value: str) -> str:
    """The value as a message may carry it: without credentials of an address, at most 80 characters."""
    safe = re.sub(r"//[^/]*@", "//...@", value)
    return safe if len(safe) <= 80 else safe[:77] + "..."  # noqa: PLR2004 - the number the docstring says
