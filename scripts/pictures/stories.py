"""What the pictures tell: the life of a delivery, an instance that dies, an enqueue in a transaction, and the states of a row."""

from __future__ import annotations

from typing import Final

from scripts.pictures.recording import RECORDED
from scripts.pictures.screen import screen
from scripts.pictures.sequence import Die, Pass, Tell, sequence
from scripts.pictures.storms import storm
from scripts.pictures.svg import Picture

PUBSUB: Final = "Pub/Sub"
RECORD: Final = "PostgreSQL"


def delivery() -> Picture:
    """docs/concepts/delivery.md."""
    receiver, task = "receiver", "your task"
    return sequence(
        "The life of a delivery: a push, a claim that is committed, the task, a settlement that is committed, and 200",
        [PUBSUB, receiver, RECORD, task],
        [
            Tell(PUBSUB, receiver, "push, with a token"),
            Tell(receiver, receiver, "who sent it? which task?", "line"),
            Tell(receiver, RECORD, "claim: RUNNING", "blue"),
            Tell(RECORD, receiver, "committed", "blue", dashed=True),
            Tell(receiver, task, "the call, once"),
            Tell(task, RECORD, "its own writes, by ctx", "green"),
            Tell(task, receiver, "the result", dashed=True),
            Tell(receiver, RECORD, "settlement: SUCCESSFUL", "green"),
            Tell(RECORD, receiver, "committed, with those writes", "green", dashed=True),
            Tell(receiver, PUBSUB, "200: forget the message", "green"),
        ],
    )


def crash() -> Picture:
    """docs/concepts/lease.md."""
    first, second = "instance A", "instance B"
    return sequence(
        "What happens when an instance dies: its lease ends within a minute, and another instance takes the execution over",
        [PUBSUB, first, RECORD, second],
        [
            Tell(PUBSUB, first, "push"),
            Tell(first, RECORD, "claim: lease 60 s, fence 1", "blue"),
            Tell(first, first, "the task runs", "line"),
            Die(first, "killed"),
            Tell(PUBSUB, second, "push, again"),
            Tell(second, RECORD, "claim?", "yellow"),
            Tell(second, PUBSUB, "429: it is running elsewhere", "yellow"),
            Pass("nobody renews the lease: after 60 s at most it has ended"),
            Tell(PUBSUB, second, "push, again"),
            Tell(second, RECORD, "claim: fence 2", "blue"),
            Tell(second, second, "the task runs", "line"),
            Tell(second, RECORD, "settlement, by fence 2", "green"),
            Tell(second, PUBSUB, "200", "green"),
        ],
    )


def outbox() -> Picture:
    """docs/concepts/outbox.md."""
    handler, sweeper = "your handler", "sweeper"
    return sequence(
        "The outbox: order and task are committed together, published after the commit, and by the sweeper if the process dies",
        [handler, RECORD, PUBSUB, sweeper],
        [
            Tell(handler, RECORD, "INSERT the order"),
            Tell(handler, RECORD, "INSERT the task: READY"),
            Tell(handler, RECORD, "COMMIT: both, or neither", "blue"),
            Tell(handler, PUBSUB, "publish", "green"),
            Tell(handler, RECORD, "mark: published", "line"),
            Pass("or the process dies right after its COMMIT"),
            Tell(sweeper, RECORD, "what is due, and not published?", "yellow"),
            Tell(sweeper, PUBSUB, "publish", "green"),
            Tell(sweeper, RECORD, "mark: published", "line"),
        ],
    )


def states() -> Picture:
    """docs/concepts/states.md."""
    picture = Picture(
        780,
        310,
        "The states of an execution: READY, RUNNING, SUCCESSFUL and FAILED, and what leads from one to another",
    )
    places = {"READY": (60, 120), "RUNNING": (330, 120), "SUCCESSFUL": (610, 50), "FAILED": (610, 190)}
    colours = {"READY": "blue", "RUNNING": "yellow", "SUCCESSFUL": "green", "FAILED": "red"}
    for name, (x, y) in places.items():
        picture.box(x, y, 120, 48, line=colours[name])
        picture.words(x + 60, y + 29, name, colour=colours[name], bold=True)
    picture.words(120, 92, "enqueued: the row is there", colour="dim", size=12)
    picture.line([(180, 136), (326, 136)], head=True)
    picture.words(254, 128, "claimed", size=12)
    picture.line([(330, 156), (184, 156)], head=True, dashed=True)
    picture.words(257, 173, "handed back", colour="dim", size=12)
    picture.line([(450, 134), (606, 84)], colour="green", head=True)
    picture.words(505, 98, "it returned", size=12, at="end")
    picture.line([(450, 154), (606, 204)], colour="red", head=True)
    picture.words(560, 170, "it raised", size=12, at="start")
    picture.line([(610, 222), (390, 222), (390, 172)], head=True, dashed=True)
    picture.words(480, 240, "a redelivery tries again", colour="dim", size=12)
    picture.line([(420, 120), (420, 84), (360, 84), (360, 116)], head=True, dashed=True)
    picture.words(390, 74, "lease over: taken over", colour="dim", size=12)
    picture.words(670, 40, "always final", colour="dim", size=12)
    for number, text in enumerate(
        ("final after PermanentError,", "max_attempts, five crashes,", "or when it was given up")
    ):
        picture.words(670, 258 + 16 * number, text, colour="dim", size=12)
    return picture


def dev() -> Picture:
    """docs/howto/local.md."""
    return screen(
        "receiver dev in a terminal: it starts, and runs a task that succeeds, one that fails and is tried again, and one by its schedule",
        RECORDED.read_text(),
    )


STORIES: Final = {
    "delivery": delivery,
    "crash": crash,
    "outbox": outbox,
    "states": states,
    "dev": dev,
    "storm": storm,
}
"""Each picture's name, and who draws it."""
