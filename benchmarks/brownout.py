"""A web application while Pub/Sub is away: beside the same load with `TASKS_PUBLISH=sweeper`, which never asks Pub/Sub.

The application is one of `tests.stage.brownout_web`: uvicorn, Starlette and SQLAlchemy with a pool of five. Sixty requests at a
time, of which every third enqueues nothing. Both processes stand on one database, and take turns.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.rivals import new_database
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from tests.stage.brownout import HANDLERS, Load, Manner, Peer, peer, press, shop

if TYPE_CHECKING:
    from benchmarks.ground import Ground

Rows = list[dict[str, Any]]

MODES = ("sweeper", "inline", "background")


def rows(ground: Ground, *, requests: int, rounds: int) -> Rows:
    """One row a way in which Pub/Sub can be, and one for each mode."""
    url = new_database(ground, "brownout")
    upgrade(Database.of(url))
    found: Rows = []
    for manner in (Manner.TAKE, Manner.REFUSE, Manner.FAIL, Manner.SILENT):
        with ExitStack() as stack:
            webs: dict[str, str] = {}
            peers: dict[str, Peer] = {}
            for mode in MODES:
                peers[mode], behave = stack.enter_context(peer())
                webs[mode] = stack.enter_context(shop(url, peers[mode].host, TASKS_PUBLISH=mode))
                asyncio.run(press(webs[mode]))  # connections, imports
                behave(manner)
            found += _measured(manner, peers, webs, requests=requests, rounds=rounds)
    return found


def _measured(
    manner: Manner, peers: dict[str, Peer], webs: dict[str, str], *, requests: int, rounds: int
) -> Rows:
    first: dict[str, Load] = {}
    then: dict[str, list[Load]] = {mode: [] for mode in webs}
    asked: dict[str, int] = {}
    for mode, web in webs.items():
        before = peers[mode].requests
        first[mode] = asyncio.run(press(web))
        asked[mode] = peers[mode].requests - before
    for number in range(rounds):
        turns = list(webs.items())
        for mode, web in turns if number % 2 == 0 else reversed(turns):
            then[mode].append(asyncio.run(press(web, requests)))
    least = median(load.seconds for load in then["sweeper"])
    return [
        {
            "Pub/Sub": manner.value,
            "TASKS_PUBLISH": mode,
            f"first {HANDLERS}, s": first[mode].seconds,
            "their longest, s": first[mode].longest,
            "asked of Pub/Sub": asked[mode],
            f"{requests} later, s": median(load.seconds for load in then[mode]),
            "of sweeper": f"{median(load.seconds for load in then[mode]) / least:.2f} x",
            "longest, s": max(load.longest for load in then[mode]),
        }
        for mode in webs
    ]
