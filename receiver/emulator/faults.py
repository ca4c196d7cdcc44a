"""Faults on request: duplicates, failures, late deliveries and latency, at given rates, repeatable by their seed.

Off by default, refused on Cloud Run. A new fault is a field here, and its name in `receiver.settings`. A dropped delivery is
late, never lost: it comes after its backoff, and no message is dropped twice.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from receiver.parsers import Unreadable, integer
from receiver.variables import FAULT, Variable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

FAILED: Final = 503
"""The status of an injected failure."""


@dataclass(frozen=True, slots=True)
class FaultSettings:
    """Shares from 0 to 1, and seconds. `seed` makes the same faults happen again in the same order."""

    duplicate_rate: float = 0.0
    failure_rate: float = 0.0
    drop_rate: float = 0.0
    latency_seconds: float = 0.0
    latency_jitter: float = 0.0
    seed: int | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> FaultSettings:
        """Reads `TASKS_FAULT_*`.

        Raises:
            SettingError: a value is not allowed.
        """
        parsers = {
            **dict.fromkeys(("duplicate_rate", "failure_rate", "drop_rate"), _up_to(1)),
            **dict.fromkeys(("latency_seconds", "latency_jitter"), _up_to(600)),
            "seed": integer(0, 10**15 - 1),
        }
        read = {
            name: Variable(FAULT + name.upper(), None, each).read(environ) for name, each in parsers.items()
        }
        return cls(**{name: value for name, value in read.items() if value is not None})

    @property
    def any(self) -> bool:
        """Whether anything is on."""
        return self != FaultSettings(seed=self.seed)


class Faults:
    """Applies the settings to deliveries."""

    def __init__(self, settings: FaultSettings) -> None:
        self._settings = settings
        self._random = random.Random(settings.seed)  # noqa: S311 - chance, not secrecy

    async def around(self, deliver: Callable[[], Awaitable[int]], *, late_before: bool = False) -> int | None:
        """Delivers once, with the faults that the random numbers give it.

        A failure replaces the answer after the delivery. A duplicate is delivered at the same time as the first.

        Args:
            deliver: one push; its status, 0 for no answer.
            late_before: this message was dropped before, and is not dropped again.

        Returns:
            The status that Pub/Sub acts on; None when the delivery was dropped.
        """
        settings = self._settings
        if not settings.any:
            return await deliver()
        # Always four numbers: other rates do not change which deliveries a seed chooses.
        dropped, failed, doubled, jitter = (self._random.random() for _ in range(4))
        if dropped < settings.drop_rate and not late_before:
            return None
        await asyncio.sleep(settings.latency_seconds + settings.latency_jitter * jitter)
        if doubled < settings.duplicate_rate:
            status, _ = await asyncio.gather(deliver(), deliver())
        else:
            status = await deliver()
        return FAILED if failed < settings.failure_rate else status


def _up_to(most: float) -> Callable[[str], float]:
    """A parser for a number from 0."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if 0 <= float(text) <= most:
                return float(text)
        raise Unreadable(f"use a number from 0 to {most}")

    return parse
