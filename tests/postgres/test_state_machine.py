"""The record against a model: two owners claim, renew, settle, hand back and overtake each other in any order.

The model is a few lines of Python; the record is real statements on a real PostgreSQL. Whatever an owner that lost its
lease still tries must change nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from receiver.contract.failure import Failure
from receiver.endings.calls import Claimed
from receiver.endings.outcomes import Busy, Done, Exhausted, HandedBack, Lost, NotStarted, Outcome, Succeeded
from receiver.errors import Rejected, RejectionReason, Saturated
from receiver.record import claimer
from receiver.record.connections import RecordConnection
from receiver.record.rejections import Rejections
from receiver.record.sql import crashes, dead_letters, leases, outbox, replaying
from tests.postgres.record import WHOSE, Instance, Look, call, connect, identity, keeper, route
from tests.postgres.sweeps import take_due, take_lost
from tests.stage.slow import some_quick

T = TypeVar("T")

MAX_ATTEMPTS = 3
LEASE = timedelta(hours=1)
"""None runs out by itself, however busy the machine is."""
TASK_IDS = st.sampled_from(["a", "b"])
OWNERS = st.sampled_from([0, 1])
DECLARED = route(max_attempts=MAX_ATTEMPTS)


@dataclass
class Model:
    """What one row should be."""

    status: str = ""
    final: bool = False
    attempt: int = 0
    fence: int = 0
    owner: int | None = None
    expired: bool = False
    crashes: int = 0
    left: bool = False
    endings: list[str] = field(default_factory=list)


class Record(RuleBasedStateMachine):
    """Two instances, two executions."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.models = {"a": Model(), "b": Model()}
        self.claims: list[tuple[int, Claimed]] = []
        self.held: dict[
            tuple[int, str], int
        ] = {}  # what an owner has not settled: its code may still run there
        self.suspects: set[tuple[int, str]] = set()  # those of them that were claimed as suspects
        self.neighbours = itertools.count()
        self.do(self._open())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs one step in this machine's loop."""
        return self.loop.run_until_complete(work)

    async def _open(self) -> None:
        self.look = Look(await connect(self.url))
        await self.look.execute("TRUNCATE task_executions, task_attempts, rejected_messages")
        self.owners = [Instance(self.url, f"owner-{number}", lease=LEASE) for number in range(2)]
        self.connection = RecordConnection(self.owners[0].database, "machine")
        self.rejections = Rejections(
            self.owners[0].ledger.pool,
            keeper(self.owners[0].ledger.pool),
            whose=WHOSE,
            instance="x",
            most=5,
            grace=timedelta(0),
        )

    async def in_company(self, owner: int, work: Coroutine[Any, Any, T], *, claims: bool) -> T:
        """Does it in one batch with the claim, or the settlement, of an execution that is nobody's business else."""
        neighbour = self.owners[owner]
        task_id = f"neighbour-{next(self.neighbours)}"
        claim = neighbour.claim(task_id)
        beside: Any = claim if claims else neighbour.settle(await claim, Succeeded("1"))
        results: tuple[T, object] = await asyncio.gather(work, beside)
        return results[0]

    async def _close(self) -> None:
        for owner in self.owners:
            await owner.close()
        await self.connection.close()
        await self.look.connection.close()

    def teardown(self) -> None:
        self.do(self._close())
        self.loop.close()

    # --- what happens ---------------------------------------------------------------------------------------------

    @rule(task_id=TASK_IDS)
    def enqueue(self, task_id: str) -> None:
        model = self.models[task_id]
        if not model.status:
            self.do(self.look.seed(task_id))
            model.status = "READY"

    @rule(task_id=TASK_IDS, owner=OWNERS, alone=st.booleans())
    def claim(self, task_id: str, owner: int, *, alone: bool) -> None:
        model = self.models[task_id]
        here = (owner, task_id)
        died = model.status == "RUNNING" and not model.left and model.owner != owner
        expected = Busy() if here in self.held else self._expected(model, died=died)
        is_suspect = expected is None and model.crashes + died >= crashes.SUSPECT
        if is_suspect and any(one == owner for one, _ in self.suspects):
            with pytest.raises(Saturated):
                self.do(self.owners[owner].ledger.claim(call(task_id, DECLARED)))
            return
        work = self.owners[owner].ledger.claim(call(task_id, DECLARED))
        got = self.do(work if alone else self.in_company(owner, work, claims=True))
        match expected:
            case None:
                assert isinstance(got, Claimed), got
                if model.status == "RUNNING":
                    model.endings.append("LEASE_EXPIRED")
                else:
                    model.attempt += 1
                model.status, model.owner, model.expired, model.left = "RUNNING", owner, False, False
                model.crashes += died
                model.fence += 1
                if is_suspect:
                    self.suspects.add(here)
                assert (got.attempt, got.fence) == (model.attempt, model.fence)
                self.claims.append((owner, got))
                self.held[owner, task_id] = got.fence
            case Exhausted():
                assert got == expected
                if model.status == "RUNNING":
                    model.endings.append("LEASE_EXPIRED")
                model.crashes += died
                model.status, model.final, model.owner = "FAILED", True, None
            case _:
                assert got == expected

    @staticmethod
    def _expected(model: Model, *, died: bool) -> NotStarted | None:
        if model.final:
            return Done()
        if model.status == "RUNNING" and not model.expired:
            return Busy()
        if model.crashes + died >= crashes.CRASHED:
            return Exhausted(crashed=True)
        return Exhausted() if model.attempt - (model.status == "RUNNING") >= MAX_ATTEMPTS else None

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        kind=st.sampled_from(["succeeded", "failed", "permanent", "handed back", "unstorable"]),
        alone=st.booleans(),
    )
    def settle(self, data: st.DataObject, kind: str, *, alone: bool) -> None:
        """By whoever ever claimed, however long ago, however often."""
        owner, claimed = data.draw(st.sampled_from(self.claims))
        model = self.models[claimed.task_id]
        ours = model.status == "RUNNING" and model.fence == claimed.fence
        outcomes: dict[str, Outcome] = {
            "succeeded": Succeeded('"value"'),
            "failed": claimed.failed(Failure("E", "no")),
            "permanent": claimed.failed(Failure("E", "no"), final=True),
            "handed back": HandedBack(),
            "unstorable": Succeeded("no JSON"),
        }
        work = self.owners[owner].settle(claimed, outcomes[kind])
        ending = self.do(work if alone else self.in_company(owner, work, claims=False))
        if self.held.get((owner, claimed.task_id)) == claimed.fence:
            del self.held[owner, claimed.task_id]
            self.suspects.discard((owner, claimed.task_id))
        if not ours:
            # Nothing moves (see the invariant); only what this owner wrote before may be confirmed to it.
            same = model.status == ("SUCCESSFUL" if isinstance(ending, Succeeded) else "FAILED")
            assert isinstance(ending, Lost | HandedBack) or (same and model.fence == claimed.fence)
            return
        model.owner, model.expired = None, False
        match kind:
            case "succeeded":
                model.status, model.final = "SUCCESSFUL", True
            case "handed back":
                model.status, model.attempt = "READY", model.attempt - 1
                model.endings.append("HANDED_BACK")
            case "failed":
                model.status, model.final = "FAILED", model.attempt >= MAX_ATTEMPTS
                model.endings.append("FAILED")
            case _:
                model.status, model.final = "FAILED", True
                model.endings.append("FAILED")

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        _, claimed = data.draw(st.sampled_from(self.claims))
        model = self.models[claimed.task_id]
        ours = model.status == "RUNNING" and model.fence == claimed.fence and not model.expired
        moved = self.do(leases.renew(self.connection, [claimed.key], lease=LEASE))
        assert moved == ({claimed.key} if ours else set())

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        _, claimed = data.draw(st.sampled_from(self.claims))
        model = self.models[claimed.task_id]
        overdue = [claimed.key] if data.draw(st.booleans()) else []
        left = LEASE / 2
        self.do(leases.shorten_leases(self.connection, [claimed.key], left=left, overdue=overdue))
        if model.status == "RUNNING" and model.fence == claimed.fence and not overdue:
            model.left = True

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """The code is gone without a settlement, as when the process was killed and another has its name."""
        owner, task_id = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[owner, task_id]
        self.suspects.discard((owner, task_id))
        lease = self.owners[owner].heartbeat.find(task_id)
        assert lease is not None
        lease.give_back()

    @rule(task_id=TASK_IDS)
    def expire(self, task_id: str) -> None:
        model = self.models[task_id]
        self.do(self.look.expire(task_id))
        model.expired = model.status == "RUNNING"

    @rule(task_id=TASK_IDS)
    def reject(self, task_id: str) -> None:
        model = self.models[task_id]
        rejected = Rejected(RejectionReason.BAD_ARGUMENTS, "no")
        got = self.do(self.rejections.reject(task_id.encode(), rejected, identity(task_id)))
        assert isinstance(got, Done) is model.final
        if model.status == "READY":
            model.status, model.fence = "FAILED", model.fence + 1
            model.endings.append("REJECTED")

    @rule()
    def sweep(self) -> None:
        """Publishing, again or for the first time, moves nothing that the model knows of."""
        any_age = timedelta(0)
        taken = self.do(take_due(self.connection, lease=any_age))
        lost = self.do(take_lost(self.connection, age=any_age, lease=any_age))
        for row in (*taken, *lost):
            model = self.models[row.task_id]
            assert not model.final
            assert model.status != "RUNNING" or model.expired
        self.do(outbox.mark_published(self.connection, [*taken, *lost]))

    @rule(task_id=TASK_IDS)
    def become_a_dead_letter(self, task_id: str) -> None:
        """Whatever it does, it touches neither attempt nor fence nor lease."""
        model = self.models[task_id]
        terms: dict[str, Any] = {
            "whose": WHOSE,
            "max_attempts": MAX_ATTEMPTS,
            "known": True,
            "published": None,
        }
        found = self.do(dead_letters.take_back(self.connection, [task_id], list(DECLARED.names), **terms))
        if model.final:
            verdict = "done"
        elif model.status == "FAILED" and model.attempt >= MAX_ATTEMPTS:
            verdict, model.final = "ended", True
        elif model.status == "RUNNING":
            verdict = "running"
        else:
            verdict, model.status = "owed", model.status and "READY"
        assert found == ({task_id: verdict} if model.status else {})
        self.do(self.look.execute("UPDATE task_executions SET run_after = NULL WHERE task_id = $1", task_id))

    @rule(task_id=TASK_IDS)
    def replay(self, task_id: str) -> None:
        model = self.models[task_id]
        moved = self.do(replaying.replay(self.connection, [task_id], whose=WHOSE))
        stands_still = model.status in ("READY", "FAILED") or (model.status == "RUNNING" and model.expired)
        assert moved == ({task_id} if stands_still else set())
        if moved:
            model.crashes = min(model.crashes, crashes.SUSPECT)
            model.fence = max(model.fence, 1)
        if moved and model.status != "RUNNING":
            model.status, model.final, model.attempt = "READY", False, 0

    # --- what holds -----------------------------------------------------------------------------------------------

    @invariant()
    def the_record_is_the_model(self) -> None:
        for task_id, model in self.models.items():
            row = self.do(self.look.find(task_id))
            if row is None:
                assert not model.status
                continue
            seen = (row["status"], row["final"], row["attempt"], row["fence"], row["crashes"])
            known = (model.status, model.final, model.attempt, model.fence, model.crashes)
            assert seen == known, task_id
            owner = None if model.owner is None else f"owner-{model.owner}"
            assert row["lease_owner"] == owner
            if owner is not None:
                assert (row["lease_expires_at"] <= datetime.now(UTC)) is model.expired
            assert self.do(self.look.endings(task_id)) == model.endings


@pytest.mark.timeout(100)
@some_quick("examples", [10, 40])
def test_the_record_behaves_as_its_model(
    database_url: str, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    monkeypatch.setattr(claimer, "SUSPECT_WAIT", 0.001)
    machine = type("Record", (Record,), {"url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
