"""What Pub/Sub is answered for each ending of a delivery.

The table is complete: mypy refuses an ending without a status. 200 acks; everything else is a nack, and the message comes again.
Bodies are one constant sentence each: no task names, no values, nothing of a token.

Next: `receiver.serving.push_door` sends the reply.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from receiver.endings import outcomes


class Reply(msgspec.Struct, frozen=True):
    """An HTTP status and the one sentence sent with it."""

    status: int
    body: str


def reply(ending: outcomes.Ending) -> Reply:  # noqa: C901, PLR0911, PLR0912 - a table: one line an ending
    """The answer to Pub/Sub for an ending."""
    match ending:
        case outcomes.Succeeded():
            return Reply(200, "The task completed.")
        case outcomes.Skipped():
            return Reply(200, "The task is switched off.")
        case outcomes.Done():
            return Reply(200, "The task was already completed.")
        case outcomes.NotDue():
            return Reply(200, "The task is not due yet and will be delivered later.")
        case outcomes.Exhausted(crashed=True):
            return Reply(200, "The task ended its process repeatedly and will not be retried.")
        case outcomes.Exhausted():
            return Reply(200, "The task has no attempts left.")
        case outcomes.Failed(final=True):
            return Reply(200, "The task failed and will not be retried.")
        case outcomes.Refused(acked=True):
            return Reply(200, "The message was rejected repeatedly and has been set aside.")
        case outcomes.Refused():
            return Reply(400, "The message was rejected.")
        case outcomes.DeadLettered():
            return Reply(200, "The dead letter is recorded.")
        case outcomes.Oversized():
            return Reply(400, "The message is too large.")
        case outcomes.Disconnected():
            return Reply(400, "The message did not arrive whole.")
        case outcomes.Denied():
            return Reply(403, "Forbidden.")
        case outcomes.Busy():
            return Reply(429, "The task is already running.")
        case outcomes.Full():
            return Reply(429, "The service is at capacity.")
        case outcomes.Failed():
            return Reply(500, "The task failed.")
        case outcomes.Abandoned():
            return Reply(500, "The task ran out of time.")
        case outcomes.HandedBack(resource=str()):
            return Reply(429, "The service is at capacity.")
        case outcomes.HandedBack():
            return Reply(500, "The task was handed back.")
        case outcomes.Lost():
            return Reply(500, "The task's lease was lost.")
        case outcomes.Unrecorded():
            return Reply(500, "The outcome could not be recorded.")
        case outcomes.Broken():
            return Reply(500, "Internal error.")
        case _ as never:
            assert_never(never)
