"""Plays a case of the contract, and compares all that can be seen of it: the answer, the row, the attempts, the calls."""

from __future__ import annotations

from tests.acceptance.delivery import contract
from tests.acceptance.delivery.contract import Case
from tests.stage.receivers import Stage


async def plays_out(case: Case, stage: Stage) -> None:
    """Asserts that the case ends on this stage as the contract says."""
    record = stage.record
    sent = await case.scenario(stage)

    assert (sent.answer.status, sent.answer.text) == (case.ending.status, case.text)
    row = await record.row(sent.task_id)
    if case.row is None:
        assert row is None
    else:
        assert row is not None
        assert {name: row[name] for name in case.row} == case.row
    assert tuple(attempt["ending"] for attempt in await record.attempts(sent.task_id)) == case.attempts
    assert stage.calls() == case.calls
    kept = await record.rejected(sent.body)
    if case.rejected or case.ending in (contract.REJECTED, contract.SET_ASIDE):
        assert kept is not None
        assert bytes(kept["body"]) == sent.body
        assert case.count in (None, kept["count"])
        assert case.rejected in (None, kept["reason"])
    else:
        assert kept is None
