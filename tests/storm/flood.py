"""Ten times as many pushes as there are places, while instances die; and who watches that they bear it.

The crowd is a deliverer of its own, with Pub/Sub's rule and without its manners: whatever is not 200 is sent again, and no
window grows or shrinks. Each of its members has one message at a time and waits a moment after a nack.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from receiver.emulator import push_client as pusher
from tests.stage import wire as stage_wire
from tests.storm import wire
from tests.storm.acks import Acks
from tests.storm.books import Balance, Expected
from tests.storm.cast import Life, Place

TIMES: Final = 10
"""As many as there are places (`TASKS_MAX_CONCURRENCY` of each receiver)."""
ANSWER_WITHIN: Final = 10.0
"""Seconds: the ack deadline of the storm's subscriptions."""
RECOVERY: Final = 10.0
"""Seconds from the end of the crowd until each receiver has answered 200 to a fresh delivery."""
HEALTHY_WITHIN: Final = 5.0
SILENCES: Final = 2
"""Seconds that /health may take on an instance that lives, and how often in a row it may take longer. It asks nobody: only its
own loop can delay it, and two CPUs carry the whole storm. Cloud Run's probe restarts an instance after three failures."""
LOOK_EVERY: Final = 0.4
MEMORY: Final = 256 * 2**20
"""Bytes that a receiver may have resident. It begins with about 85 MiB, and a few deliveries of some hundred bytes are
nothing beside it: what would grow is what is kept of those that were turned away."""


@dataclass(slots=True)
class Crowd:
    """Presses, and remembers what it sent. `token` is good for all the time."""

    places: Sequence[Place]
    token: str
    chance: random.Random
    acks: Acks = field(default_factory=Acks)
    sent: list[Expected] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    pressing: bool = False
    recovered: float = 0.0
    _members: list[asyncio.Task[None]] = field(default_factory=list)
    _turns: Iterator[int] = field(default_factory=itertools.count)

    async def press(self, seconds: float, slots: int) -> None:
        """Presses for so long, ten times as many as `slots` a receiver. Its members finish what they have begun, however long that takes: `settled` waits for them."""
        self.pressing = True
        self._members = [
            asyncio.create_task(self._member(number)) for number in range(TIMES * slots * len(self.places))
        ]
        await asyncio.sleep(seconds)
        self.pressing = False

    async def recover(self, found: Balance) -> None:
        """How long until every receiver has answered a fresh delivery; a promise is broken when that is too long."""
        begun = time.monotonic()
        found.wrong += await self.fresh(RECOVERY, "after the crowd")
        self.recovered = time.monotonic() - begun

    async def fresh(self, seconds: float, when: str) -> list[str]:
        """A new delivery to every receiver. What is wrong when one is not answered 200 in time."""
        turn = next(self._turns)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(self._fresh(place, turn) for place in self.places))
        except TimeoutError:
            return [f"no fresh delivery was answered within {seconds:g} s {when}"]
        return []

    async def settled(self, patience: float, found: Balance) -> None:
        """Returns once every member has had its 200."""
        done, late = await asyncio.wait(self._members, timeout=patience)
        for member in done:
            member.result()
        for member in late:
            member.cancel()
        found.check(not late, f"{len(late)} of the crowd have had no 200")

    async def _fresh(self, place: Place, turn: int) -> None:
        label = self._expect("plain", f"fresh-{turn}-{place.name}")
        body = pusher.message("plain", [label], task_id=label)
        while await push(place, self.token, body) != 200:  # noqa: ASYNC110 - what is awaited is an answer
            await asyncio.sleep(0.1)
        self.acks.note(label)

    async def beside(self, task: str, label: str, times: int, slots: int) -> Counter[int]:
        """Pushes a message to every receiver so many times, with neighbours that fill its places: how those were answered at first."""
        first: Counter[int] = Counter()
        body = pusher.message(task, [label], task_id=label)
        for _ in range(times):
            for place in self.places:
                pushes = [
                    self._neighbour(place, f"beside-{next(self._turns)}", first) for _ in range(slots - 1)
                ]
                # The first is written at once, the others are the next batch.
                await asyncio.gather(pushes[0], push(place, self.token, body), *pushes[1:])
        return first

    async def _neighbour(self, place: Place, label: str, first: Counter[int]) -> None:
        self._expect("plain", label)
        body = pusher.message("plain", [label], task_id=label)
        first[status := await push(place, self.token, body)] += 1
        while status != 200:
            await asyncio.sleep(0.1)
            status = await push(place, self.token, body)
        self.acks.note(label)

    async def _member(self, number: int) -> None:
        await asyncio.sleep(self.chance.random())
        turn = 0
        while self.pressing:
            label = self._expect("crowd", f"crowd-{number:04d}-{turn}")
            turn += 1
            body = pusher.message("crowd", [label], task_id=label)
            while True:
                status = await push(self.chance.choice(self.places), self.token, body)
                self.answers[status] += 1
                if status == 200:
                    self.acks.note(label)
                    break
                await asyncio.sleep(self.chance.uniform(*self._pause()))

    def _pause(self) -> tuple[float, float]:
        """Once the crowd is over, what is owed backs off as Pub/Sub has it."""
        return (0.5, 1.5) if self.pressing else (1.0, 8.0)

    def _expect(self, task: str, label: str) -> str:
        self.sent.append(Expected(label, task, succeeds=True))
        return label


@dataclass(slots=True)
class Watch:
    """Asks every receiver for /health, again and again, and looks at its memory."""

    places: Sequence[Place]
    asked: int = 0
    slowest: float = 0.0
    memory: int = 0
    sick: list[str] = field(default_factory=list)

    async def keep(self) -> None:
        """Until cancelled."""
        await asyncio.gather(*(self._look(place) for place in self.places))

    def check(self, found: Balance) -> None:
        """Notes what was amiss."""
        found.wrong += self.sick
        found.check(
            self.memory <= MEMORY,
            f"a receiver had {self.memory / 2**20:.0f} MiB; {MEMORY / 2**20:.0f} are the bound",
        )

    async def _look(self, place: Place) -> None:
        while True:
            life = place.life
            if life is not None and not life.frozen:
                await self._ask(place, life)
            await asyncio.sleep(LOOK_EVERY)

    async def _ask(self, place: Place, life: Life) -> None:
        freezes, begun = life.freezes, time.monotonic()
        status = await status_of(place, stage_wire.HEALTH, within=HEALTHY_WITHIN)
        took = time.monotonic() - begun
        self.memory = max(self.memory, resident(life.pid))
        if status == 200:
            life.answered = True
            self.asked += 1
            self.slowest = max(self.slowest, took)
            life.silences = 0
        elif life.answered and life.freezes == freezes:
            try:  # it may have died, and nobody has said so yet
                await asyncio.wait_for(life.over.wait(), 1.0)
            except TimeoutError:
                life.silences += 1
                if status or life.silences >= SILENCES:
                    self.sick.append(f"/health of {place.name} was {status or 'silent'} after {took:.1f} s")


async def push(place: Place, token: str, body: bytes) -> int:
    """One push, as Pub/Sub sends it; 0 when there is no answer."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    return await status_of(place, stage_wire.request(body, headers), within=ANSWER_WITHIN)


async def status_of(place: Place, request: bytes, *, within: float) -> int:
    """Of one request; 0 when there is none in time."""
    try:
        async with asyncio.timeout(within):
            return await wire.exchange(place.port, request)
    except (OSError, TimeoutError):
        return 0


def resident(pid: int) -> int:
    """Bytes that a process has resident; 0 where nobody says so, or it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
