"""The transitions of `receiver.record.sql`, by the names that they have on docs/reference/transitions.md.

A statement takes three steps: its snapshot, its locks, its commit. `guard` is asked of the snapshot, and again of the newest
version once the lock is there, as PostgreSQL does in READ COMMITTED. `change` is what the row becomes.

To add one: write its guard and its change, put it into `STATEMENTS`, and name it in the place of a program.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from tests.model.rules import Rules
from tests.model.state import POSTPONED, Actor, Row, World

Guard = Callable[[Row, Actor, Rules], bool]
Change = Callable[[Row, Actor, Rules], Row]


@dataclass(frozen=True, eq=False)
class Statement:
    """A transition.

    Attributes:
        name: as on docs/reference/transitions.md.
        waits: for a lock; otherwise it skips locked rows.
        owners: only the owner of a row may change it.
        operators: may change what is final.
        sees: what it reads and does not lock. Guard and change find it in `actor.seen`, as old as the snapshot.
    """

    name: str
    guard: Guard
    change: Change
    waits: bool = False
    owners: bool = False
    operators: bool = False
    sees: Callable[[World], Hashable] | None = None


def is_open(row: Row) -> bool:
    """Not final, and nothing runs it."""
    return row.status != "absent" and not row.final and not (row.status == "RUNNING" and row.lives)


def is_free(row: Row) -> bool:
    """Nobody publishes it now."""
    return not row.until or row.free


def is_owners(row: Row, actor: Actor, rules: Rules) -> bool:
    """The row is RUNNING, and this is the actor's run."""
    same = row.status == "RUNNING" and row.fence == actor.fence
    return same and (row.token == actor.token or not rules.has("tokens"))


def counted(row: Row, rules: Rules) -> int:
    """The attempts that count."""
    taken_over = row.status == "RUNNING" and rules.has("takeovers_count_nothing")
    return row.attempt - taken_over


def crashes(row: Row, actor: Actor) -> int:
    """The crashes, with that of the run that this actor takes over."""
    return row.crashes + (row.status == "RUNNING" and not row.tidy and row.owner != actor.instance)


def is_used_up(row: Row, actor: Actor, rules: Rules) -> bool:
    """No attempt is left, or it has crashed too often."""
    out = rules.max_attempts is not None and counted(row, rules) >= rules.max_attempts
    return out or crashes(row, actor) >= rules.crashed


# --- enqueue ----------------------------------------------------------------------------------------------------


def _absent(row: Row, actor: Actor, rules: Rules) -> bool:
    return row.status == "absent"


def _insert(row: Row, actor: Actor, rules: Rules) -> Row:
    return Row(status="READY", until=actor.until)


def _keep_message(row: Row, actor: Actor, rules: Rules) -> Row:
    return Row(status="READY", published=True)


def _publishers(row: Row, actor: Actor, rules: Rules) -> bool:
    if not rules.has("marks_name_the_time"):
        return row.status != "absent" and not row.final
    return not row.final and row.until != 0 and row.until == actor.until


def _mark(row: Row, actor: Actor, rules: Rules) -> Row:
    return row.but(published=True, until=0, free=False)


# --- delivery ---------------------------------------------------------------------------------------------------


def _claimable(row: Row, actor: Actor, rules: Rules) -> bool:
    if row.status == "absent":
        return True
    limit = rules.crashed if actor.suspect else rules.suspect
    out = rules.max_attempts is not None and counted(row, rules) >= rules.max_attempts
    return is_open(row) and row.due and not out and crashes(row, actor) < limit


def _claim(row: Row, actor: Actor, rules: Rules) -> Row:
    ours = {"status": "RUNNING", "token": actor.token, "owner": actor.instance, "lives": True}
    if row.status == "absent":
        return Row(**ours, fence=1, attempt=1, published=True)  # type: ignore[arg-type]  # each is the field's
    claimed = row.but(**ours, fence=row.fence + 1, attempt=counted(row, rules) + 1, tidy=False, why="")
    claimed = claimed.but(crashes=crashes(row, actor))
    if (row.fence or row.given_up) and rules.has("strays_mark_nothing"):
        return claimed
    return claimed.but(until=0, free=False, published=True)


def _not_due(row: Row, actor: Actor, rules: Rules) -> bool:
    return row.status == "READY" and not row.due


def _defer(row: Row, actor: Actor, rules: Rules) -> Row:
    return row.but(published=False, until=0, free=False)


def _exhausted(row: Row, actor: Actor, rules: Rules) -> bool:
    return is_open(row) and is_used_up(row, actor, rules)


def _exhaust(row: Row, actor: Actor, rules: Rules) -> Row:
    return ended(row, "FAILED", final=True).but(crashes=crashes(row, actor), why=row.why or "exhausted")


def ended(row: Row, status: str, *, final: bool) -> Row:
    """The row of an execution that nothing runs any more."""
    if status == "SUCCESSFUL":  # of which nothing else is ever read
        return Row(status="SUCCESSFUL", final=True, fence=row.fence, effects=row.effects)
    return row.but(status=status, final=final, token=0, owner=0, lives=False, tidy=False)


def _hand_back(row: Row, actor: Actor, rules: Rules) -> Row:
    return ended(row, "READY", final=False).but(attempt=row.attempt - 1)


def _settle(row: Row, actor: Actor, rules: Rules) -> Row:
    if actor.outcome == "succeeded":
        return ended(row, "SUCCESSFUL", final=True)
    final = rules.max_attempts is not None and actor.attempt >= rules.max_attempts
    return ended(row, "FAILED", final=final).but(why="run")


def _settle_with_effects(row: Row, actor: Actor, rules: Rules) -> Row:
    return ended(row.but(effects=row.effects + 1), "SUCCESSFUL", final=True)


def _ready(row: Row, actor: Actor, rules: Rules) -> bool:
    return row.status == "READY"


def _fail_ready(row: Row, actor: Actor, rules: Rules) -> Row:
    return row.but(status="FAILED", fence=row.fence + 1, why="run")


# --- leases -----------------------------------------------------------------------------------------------------


def _renewable(row: Row, actor: Actor, rules: Rules) -> bool:
    return is_owners(row, actor, rules) and (row.lives or not rules.has("ended_leases_stay_ended"))


def _renew(row: Row, actor: Actor, rules: Rules) -> Row:
    return row.but(lives=True)


def _shorten(row: Row, actor: Actor, rules: Rules) -> Row:
    return row.but(tidy=True)


# --- sweep, dead letters, operators -----------------------------------------------------------------------------


def _owed(row: Row, actor: Actor, rules: Rules) -> bool:
    return is_open(row) and not row.published and row.due and is_free(row)


def _take(row: Row, actor: Actor, rules: Rules) -> Row:
    return row.but(until=actor.until, free=False)


def _lost(row: Row, actor: Actor, rules: Rules) -> bool:
    return is_open(row) and row.status in ("RUNNING", "READY") and row.published and row.due and is_free(row)


def _undelivered(row: Row, actor: Actor, rules: Rules) -> bool:
    return is_open(row) and row.published and row.due and is_free(row)


def _take_undelivered(row: Row, actor: Actor, rules: Rules) -> Row:
    return row.but(published=False, until=actor.until, free=False, fence=max(row.fence, 1))


def _taken(row: Row, actor: Actor, rules: Rules) -> bool:
    return not row.final and row.until != 0 and row.until == actor.until


def _postpone(row: Row, actor: Actor, rules: Rules) -> Row:
    return row.but(until=POSTPONED, free=False)


def _there(row: Row, actor: Actor, rules: Rules) -> bool:
    return row.status != "absent" and not row.final


def _take_back(row: Row, actor: Actor, rules: Rules) -> Row:
    if row.status == "RUNNING":
        return row.but(published=False, until=0, free=False, due=False, given_up=True)
    left = rules.max_attempts is not None and row.attempt < rules.max_attempts
    if row.status == "FAILED" and not left:
        return row.but(final=True)
    return row.but(status="READY", published=False, until=0, free=False, due=False, why="", given_up=True)


def _stands_still(row: Row, actor: Actor, rules: Rules) -> bool:
    return is_open(row) or row.status == "FAILED"


def _replay(row: Row, actor: Actor, rules: Rules) -> Row:
    again = row.but(published=False, until=0, free=False, final=False, due=True, why="", given_up=False)
    again = again.but(crashes=min(row.crashes, rules.suspect), fence=max(row.fence, 1))
    return again if row.status == "RUNNING" else again.but(status="READY", attempt=0)


def _failed(row: Row, actor: Actor, rules: Rules) -> bool:
    return row.status == "FAILED" and not row.final


def _finalise(row: Row, actor: Actor, rules: Rules) -> Row:
    return row.but(final=True)


INSERT = Statement("outbox.insert", _absent, _insert, waits=True)
INSERT_ON = Statement("caller.insert_on", _absent, _insert, waits=True)
KEEP_MESSAGE = Statement("foreign.keep_message", _absent, _keep_message, waits=True)
MARK_PUBLISHED = Statement("outbox.mark_published", _publishers, _mark)
CLAIM = Statement("claims.claim", _claimable, _claim)
DEFER = Statement("claims.defer", _not_due, _defer)
EXHAUST = Statement("crashes.exhaust", _exhausted, _exhaust)
RENEW = Statement("leases.renew", _renewable, _renew, owners=True)
SHORTEN_LEASES = Statement("leases.shorten_leases", is_owners, _shorten, owners=True)
HAND_BACK = Statement("leases.hand_back", is_owners, _hand_back, waits=True, owners=True)
SETTLE = Statement("settlements.settle", is_owners, _settle, owners=True)
SETTLE_WITH_EFFECTS = Statement(
    "settlements.settle_with_effects", is_owners, _settle_with_effects, waits=True, owners=True
)
FAIL_READY = Statement("rejected.fail_ready", _ready, _fail_ready)
TAKE_OWED = Statement("sweeping.take_owed", _owed, _take)
TAKE_UNDELIVERED = Statement("replaying.take_undelivered", _undelivered, _take_undelivered)
TAKE_LOST = Statement("sweeping.take_lost", _lost, _take)
POSTPONE = Statement("sweeping.postpone", _taken, _postpone)
TAKE_BACK = Statement("dead_letters.take_back", _there, _take_back)
REPLAY = Statement("replaying.replay", _stands_still, _replay, waits=True, operators=True)
FINALISE = Statement("pruning.finalise", _failed, _finalise)

STATEMENTS: Final = {each.name: each for each in list(globals().values()) if isinstance(each, Statement)}
"""Every transition of the model, by its name."""

LEFT_OUT: Final = {
    "leases.disown": "the test kit's alone; here a process dies itself",
    "pruning.prune": "deletes what is long final; a message that comes after that starts anew, as docs/operate/retention.md says",
    "rejected.keep": "a table of its own; that a message is kept stands in `Known.set_aside`",
    "rejected.mark_replayed": "as rejected.keep",
    "rejected.prune_rejected": "as rejected.keep",
}
"""The transitions of the record that the model does not have, each with its reason."""
