"""Whether what was measured is flat: by the slope of a straight line through the second half, so that no single sample decides.

The first half is left out: connections are opened when they are first needed, caches fill, the allocator finds its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: seconds since the beginning, and what the receiver held."""

    at: float
    memory: int
    connections: int
    files: int
    threads: int
    done: int
    slowest: float


BOUNDS: Final = {"memory": 8 * MIB, "connections": 2.0, "files": 2.0, "threads": 2.0}
"""By how much each may have grown from the beginning of the second half to its end, by the line.

Memory: 8 MiB are 25 bytes for each of 330 000 deliveries (ten minutes at 550 a second), less than the smallest object that
could be forgotten, and more than the allocator wanders. The others: two, because a pool may open its last connection, and
start its last thread, at any time; what is lost once a minute would be ten.
"""


def grown(samples: Sequence[Sample], what: str) -> float:
    """By how much it grew over the second half, by the line of least squares."""
    half = [sample for sample in samples if sample.at >= samples[-1].at / 2]
    times = [sample.at for sample in half]
    values = [float(getattr(sample, what)) for sample in half]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - middle) ** 2 for time in times)
    slope = sum((time - middle) * (value - mean) for time, value in zip(times, values, strict=True)) / spread
    return slope * (times[-1] - times[0])


def uneven(samples: Sequence[Sample]) -> list[str]:
    """What is not flat, a line each."""
    return [
        f"{what} grew by {_shown(what, growth)} in the second half; {_shown(what, bound)} are the bound"
        for what, bound in BOUNDS.items()
        if (growth := grown(samples, what)) > bound
    ]


def _shown(what: str, value: float) -> str:
    return f"{value / MIB:.1f} MiB" if what == "memory" else f"{value:.1f}"
