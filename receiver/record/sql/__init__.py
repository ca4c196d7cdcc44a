"""Every statement that changes an execution: each is a transition, with its guard in its WHERE.

Whoever owns an execution knows its fence; whoever does not changes nothing. A function here returns what moved.
Statements over several rows take arrays, lock their rows in `task_id` order before they change any, and are one
round trip and one transaction. They lock FOR NO KEY UPDATE, which a foreign key of the application's that refers to
the row does not hold up. All times are `clock_timestamp()`: `now()` would stand still in the task's transaction.

Next: `receiver.record.ledger` decides which of them to call, and what a lost answer means.
"""

from __future__ import annotations

from receiver.record.sql.claims import ClaimItem, ClaimRow, claim, defer, exhaust, find_claimed, is_done
from receiver.record.sql.executor import Executor
from receiver.record.sql.leases import hand_back, renew, shorten_leases
from receiver.record.sql.outbox import Inserted, NewRow, OutboxRow, find_owed, insert, mark_published
from receiver.record.sql.pruning import Outdated, finalise, find_firings, find_outdated, prune, prune_rejected
from receiver.record.sql.replaying import (
    RejectedMessage,
    find_known_now,
    find_rejected,
    find_rejected_for,
    find_states,
    mark_replayed,
    replay,
)
from receiver.record.sql.settlements import SettleItem, find_status, settle, settle_with_effects
from receiver.record.sql.sweeping import (
    Held,
    Taken,
    find_blocks,
    load,
    mark_swept,
    postpone,
    take_lost,
    take_named,
    take_owed,
)

__all__ = [
    "ClaimItem",
    "ClaimRow",
    "Executor",
    "Held",
    "Inserted",
    "NewRow",
    "OutboxRow",
    "Outdated",
    "RejectedMessage",
    "SettleItem",
    "Taken",
    "claim",
    "defer",
    "exhaust",
    "finalise",
    "find_blocks",
    "find_claimed",
    "find_firings",
    "find_known_now",
    "find_outdated",
    "find_owed",
    "find_rejected",
    "find_rejected_for",
    "find_states",
    "find_status",
    "hand_back",
    "insert",
    "is_done",
    "load",
    "mark_published",
    "mark_replayed",
    "mark_swept",
    "postpone",
    "prune",
    "prune_rejected",
    "renew",
    "replay",
    "settle",
    "settle_with_effects",
    "shorten_leases",
    "take_lost",
    "take_named",
    "take_owed",
]
