"""Every ending of a delivery has one status and one constant sentence."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing

import pytest

from receiver.contract.failure import Failure
from receiver.delivery import replies
from receiver.delivery.replies import Reply, reply
from receiver.endings.outcomes import (
    Abandoned,
    AttemptEnding,
    Broken,
    Busy,
    DeadLettered,
    Denied,
    Disconnected,
    Done,
    Ending,
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
from receiver.errors import RejectionReason

SECRET = "s3cret"  # whatever an ending carries
FAILURE = Failure(SECRET, SECRET, SECRET)

TABLE: list[tuple[Ending, int, str]] = [
    (Succeeded(f'"{SECRET}"'), 200, "The task completed."),
    (Skipped(SECRET), 200, "The task is switched off."),
    (Done(), 200, "The task was already completed."),
    (NotDue(), 200, "The task is not due yet and will be delivered later."),
    (Exhausted(), 200, "The task has no attempts left."),
    (Exhausted(crashed=True), 200, "The task ended its process repeatedly and will not be retried."),
    (Failed(FAILURE, final=True), 200, "The task failed and will not be retried."),
    (
        Refused(RejectionReason.UNKNOWN_TASK, SECRET, acked=True),
        200,
        "The message was rejected repeatedly and has been set aside.",
    ),
    (DeadLettered(SECRET), 200, "The dead letter is recorded."),
    (Refused(RejectionReason.BAD_ARGUMENTS, SECRET, acked=False), 400, "The message was rejected."),
    (Oversized(), 400, "The message is too large."),
    (Disconnected(), 400, "The message did not arrive whole."),
    (Denied(SECRET), 403, "Forbidden."),
    (Busy(), 429, "The task is already running."),
    (Full(SECRET), 429, "The service is at capacity."),
    (Failed(FAILURE), 500, "The task failed."),
    (Abandoned(), 500, "The task ran out of time."),
    (HandedBack(), 500, "The task was handed back."),
    (HandedBack("connection for the task"), 429, "The service is at capacity."),
    (Lost(), 500, "The task's lease was lost."),
    (Unrecorded(), 500, "The outcome could not be recorded."),
    (Broken(), 500, "Internal error."),
]


@pytest.mark.parametrize(("ending", "status", "body"), TABLE, ids=lambda value: type(value).__name__)
def test_an_ending_has_its_status_and_its_sentence(ending: Ending, status: int, body: str) -> None:
    assert reply(ending) == Reply(status, body)


def test_every_ending_stands_in_the_table() -> None:
    assert {type(ending) for ending, _, _ in TABLE} == set(typing.get_args(Ending))


@pytest.mark.parametrize("ending", AttemptEnding)
def test_how_an_attempt_ended_does_not_change_the_reply(ending: AttemptEnding) -> None:
    for final in (True, False):
        assert reply(Failed(FAILURE, ending, final=final)) == reply(Failed(FAILURE, final=final))


@pytest.mark.parametrize("reason", RejectionReason)
def test_why_a_message_is_rejected_is_not_told(reason: RejectionReason) -> None:
    for acked in (True, False):
        expected = reply(Refused(RejectionReason.UNKNOWN_TASK, "", acked=acked))
        assert reply(Refused(reason, SECRET, acked=acked)) == expected


def test_a_body_is_a_literal_sentence_and_holds_nothing_variable() -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(replies.reply)))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Reply"
    ]
    assert len(calls) == len(TABLE)
    for call in calls:
        assert all(isinstance(argument, ast.Constant) for argument in call.args), ast.unparse(call)
    for _, _, body in TABLE:
        assert body.endswith(".")
        assert len(body) < 80
        assert SECRET not in body


def test_only_an_ack_is_a_success_and_only_five_statuses_are_used() -> None:
    statuses = {reply(ending).status for ending, _, _ in TABLE}
    assert statuses == {200, 400, 403, 429, 500}


def test_an_ending_cannot_be_changed() -> None:
    for ending, _, _ in TABLE:
        with pytest.raises((AttributeError, TypeError)):
            ending.status = 200  # type: ignore[union-attr] # that is the point
