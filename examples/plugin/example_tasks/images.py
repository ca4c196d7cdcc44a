"""Images: a plain `def` task, which runs in a thread."""

from __future__ import annotations

import zlib
from typing import TypedDict

from receiver import TaskContext, task


class Resized(TypedDict):
    image: str
    widths: list[int]
    checksum: int


@task
def resize_image(ctx: TaskContext, image: str, widths: list[int]) -> Resized:
    """One copy a width. Nothing can stop a thread from outside, so it looks at `ctx.cancelled` between two steps."""
    checksum = 0
    for width in widths:
        if ctx.cancelled:
            raise TimeoutError(f"{image} was not finished in time")
        checksum = zlib.crc32(f"{image}@{width}".encode(), checksum)  # stands in for the work
    return {"image": image, "widths": widths, "checksum": checksum}
