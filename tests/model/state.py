"""What a state of the model is made of. Everything is small, because each field multiplies the states.

Times are not numbers. A lease lives or has ended, a row is due or not, and `until` is the name of the time that somebody set.
A token is the smallest number that nobody knows any more: only whether two are equal counts.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeVar

from tests.model.shared import Value, number

T = TypeVar("T")

Status = Literal["absent", "READY", "RUNNING", "SUCCESSFUL", "FAILED"]
Stage = Literal["sent", "seen", "held", "cut"]

DEAD: Final = 9
"""The owner of what a process that has died left behind: no living process has its name."""

POSTPONED: Final = 9
"""The time until which a refused message waits: nobody's mark names it."""


@dataclass(frozen=True, slots=True, eq=False)
class Row(Value):
    """A version of a row of `task_executions`.

    Attributes:
        owner: `lease_owner`, an instance's number; 0 is NULL.
        lives: its lease has not ended.
        tidy: `ran_on` was cleared: the takeover is no crash.
        until: which time `publishing_until` is; 0 is NULL.
        free: that time is over.
        given_up: Pub/Sub has given a message of it up (`dead_letters`).
        why: who made it FAILED: its own run, or `exhaust`.
        effects: how often the task's writes through `ctx` have committed.
    """

    status: Status = "absent"
    final: bool = False
    fence: int = 0
    token: int = 0
    owner: int = 0
    lives: bool = False
    tidy: bool = False
    attempt: int = 0
    crashes: int = 0
    published: bool = False
    until: int = 0
    free: bool = False
    due: bool = True
    given_up: bool = False
    why: Literal["", "run", "exhausted"] = ""
    effects: int = 0

    @property
    def is_owed(self) -> bool:
        """Whether a sweep publishes it, now or when its time has come."""
        return self.status != "absent" and not self.final and not self.published


@dataclass(frozen=True, slots=True, eq=False)
class Messages(Value):
    """What Pub/Sub has for one execution: `waiting` may be delivered, `dead` were given up."""

    waiting: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Known(Value):
    """What is true of one execution, though no row says so.

    Attributes:
        acked: Pub/Sub, or who enqueued it, was told that it is safe.
        began: its code has begun.
        killed: a process that had it has died, or stood still for longer than a lease.
        set_aside: its message is kept among the rejected ones.
    """

    acked: bool = False
    began: bool = False
    killed: bool = False
    set_aside: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Actor(Value):
    """Somebody at a place of a program, or a statement that is still under way after its client has gone.

    Attributes:
        role: whose program it follows.
        instance: the process that it is part of; 0: none.
        row: the execution that it is about; -1: all.
        place: where it is; `tests.model.model` knows what happens there.
        stage: of its statement: sent, seen (it has its snapshot), held (it has its locks), cut (no answer will come).
        rows: those that its snapshot found; then those that it has locked.
        carries: it holds a message that Pub/Sub waits for.
        past: its lease has ended, by its own clock.
        outcome: how its code ended.
        seen: what its statement has read, and not locked.
        late: its client has gone.
    """

    role: str
    place: str
    instance: int = 0
    row: int = -1
    stage: Stage = "sent"
    rows: tuple[int, ...] = ()
    fence: int = 0
    token: int = 0
    attempt: int = 0
    until: int = 0
    carries: bool = False
    past: bool = False
    suspect: bool = False
    outcome: str = ""
    seen: Hashable = None
    late: bool = False

    def __str__(self) -> str:
        name = self.role if self.row < 0 else f"{self.role} of {'abc'[self.row]}"
        where = f" at {self.instance}" if self.instance else ""
        return f"{name}{where}{', late' if self.late else ''}"


@dataclass(frozen=True, slots=True, eq=False)
class Left(Value):
    """How often each of these may still happen: each field is a kind of fault, or of work that could go on for ever."""

    deliveries: int = 0
    silences: int = 0
    crashes: int = 0
    expiries: int = 0
    failovers: int = 0
    restarts: int = 0
    redeliveries: int = 0
    dead_letters: int = 0
    sweeps: int = 0
    patrols: int = 0
    replays: int = 0
    brownouts: int = 0
    hand_backs: int = 0
    exits: int = 0
    beats: int = 0
    rejections: int = 0


class World(NamedTuple):
    """A state. `rows` is what the primary shows, `standby` what its standby has; by execution where there is one for each."""

    rows: tuple[Row, ...]
    standby: tuple[Row, ...]
    messages: tuple[Messages, ...]
    known: tuple[Known, ...]
    actors: tuple[Actor, ...]
    left: Left

    def with_actor(self, old: Actor | None, new: Actor | None) -> World:
        """With another one in its place; None: nobody. Actors are a set: their order says nothing of how they came."""
        actors = [actor for actor in self.actors if actor is not old]
        if new is not None:
            actors.append(new)
            actors.sort(key=number)
        return World(self.rows, self.standby, self.messages, self.known, tuple(actors), self.left)

    def with_rows(self, rows: tuple[Row, ...], standby: tuple[Row, ...]) -> World:
        """With other versions of the rows."""
        return World(rows, standby, self.messages, self.known, self.actors, self.left)

    def with_messages(self, row: int, messages: Messages) -> World:
        """With other messages of an execution."""
        changed = put(self.messages, row, messages)
        return World(self.rows, self.standby, changed, self.known, self.actors, self.left)

    def with_known(self, row: int, known: Known) -> World:
        """With other facts of an execution."""
        changed = put(self.known, row, known)
        return World(self.rows, self.standby, self.messages, changed, self.actors, self.left)

    def spend(self, kind: str) -> World:
        """With one less left of this kind."""
        left = self.left.but(**{kind: getattr(self.left, kind) - 1})
        return World(self.rows, self.standby, self.messages, self.known, self.actors, left)

    def locked(self, but: Actor) -> set[int]:
        """The rows that others have locked."""
        return {
            row for actor in self.actors if actor.stage == "held" and actor is not but for row in actor.rows
        }


class Step(NamedTuple):
    """One step of the model: who does what, and the state that it leads to. `what` names nobody: places are counted by it.

    `sends`: it only sends a statement. Nobody sees that, so a statement that was sent is as one that is not yet sent.
    """

    who: Actor | str
    what: str
    world: World
    sends: bool = False


def put(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    """The tuple with another value there."""
    return (*values[:place], value, *values[place + 1 :])
