"""What Pub/Sub is answered for each ending of a delivery.

The table is complete: mypy refuses an ending without a status. 200 acks; everything else is a nack, and the message comes again.
Bodies are one constant sentence each: no task names, no values, nothing of a token.

Next: `receiver.serving.app` sends the reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from receiver.endings.outcomes import (
    Abandoned,
    Broken,
    Busy,
    DeadLettered,
    Denied,
    Disconnected,
    Done,
    Exhausted,
    Failed,
    Full,
    HandedBack,
    Lost,
    NotDue,
    Oversized,
    Refused,
    Skipped,
    Succeeded,
    Unrecorded,
)

if TYPE_CHECKING:
    from receiver.endings.outcomes import Ending


class Reply(msgspec.Struct, frozen=True):
    """An HTTP status and the one sentence sent with it."""

    status: int
    body: str


def reply(ending: Ending) -> Reply:  # noqa: C901, PLR0911, PLR0912 - a table: one line an ending
    """The answer to Pub/Sub for an ending."""
    match ending:
        case Succeeded():
            return Reply(200, "The task completed.")
        case Skipped():
            return Reply(200, "The task is switched off.")
        case Done():
            return Reply(200, "The task was already completed.")
        case NotDue():
            return Reply(200, "The task is not due yet and will be delivered later.")
        case Exhausted(crashed=True):
            return Reply(200, "The task ended its process repeatedly and will not be retried.")
        case Exhausted():
            return Reply(200, "The task has no attempts left.")
        case Failed(final=True):
            return Reply(200, "The task failed and will not be retried.")
        case Refused(acked=True):
            return Reply(200, "The message was rejected repeatedly and has been set aside.")
        case Refused():
            return Reply(400, "The message was rejected.")
        case DeadLettered():
            return Reply(200, "The dead letter is recorded.")
        case Oversized():
            return Reply(400, "The message is too large.")
        case Disconnected():
            return Reply(400, "The message did not arrive whole.")
        case Denied():
            return Reply(403, "Forbidden.")
        case Busy():
            return Reply(429, "The task is already running.")
        case Full():
            return Reply(429, "The service is at capacity.")
        case Failed():
            return Reply(500, "The task failed.")
        case Abandoned():
            return Reply(500, "The task ran out of time.")
        case HandedBack(resource=str()):
            return Reply(429, "The service is at capacity.")
        case HandedBack():
            return Reply(500, "The task was handed back.")
        case Lost():
            return Reply(500, "The task's lease was lost.")
        case Unrecorded():
            return Reply(500, "The outcome could not be recorded.")
        case Broken():
            return Reply(500, "Internal error.")
        case _ as never:
            assert_never(never)
