"""A short storm, for `make test-all`; `make storm` is the long one."""

from __future__ import annotations

import random

import pytest

from tests.storm.plan import SHORT
from tests.storm.storm import storm


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_storm_leaves_the_books_balanced() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails, to repeat it
    report = await storm(SHORT, seed)
    assert not report.balance.wrong, report.balance.wrong[:20]
    assert set(report.exits) <= {0, -9, 1, 2}, report.exits
