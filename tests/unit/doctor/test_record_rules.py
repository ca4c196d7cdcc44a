from __future__ import annotations

from dataclasses import replace

import pytest

from receiver.doctor.record_look import RecordSeen, Sweeps, Waiting
from receiver.doctor.record_rules import judge_record, judge_unavailable
from receiver.errors import DatabaseUnavailable, SchemaError
from receiver.record.sqlstates import NotConnected
from tests.unit.doctor.judging import FLEET, HOUR, MINUTE, WELL, codes


class TestDatabase:
    @pytest.mark.parametrize(
        ("seen", "expected"),
        [
            (WELL, {}),
            (replace(WELL, read_only=True), {"read-only": "ERROR"}),
            (replace(WELL, schema=SchemaError("it is old; run `receiver migrate`")), {"schema": "ERROR"}),
            (replace(WELL, synchronous_commit="off"), {"synchronous-commit": "WARNING"}),
            (replace(WELL, synchronous_commit="local"), {"synchronous-commit": "WARNING"}),
            (replace(WELL, synchronous_commit="remote_write"), {}),
            (replace(WELL, version=130011), {"postgresql-version": "ERROR"}),
            (
                replace(WELL, undeletable=("task_attempts",)),
                {"privileges": "WARNING"},
            ),
            (replace(WELL, invalid=["task_executions_due"]), {"invalid-index": "WARNING"}),
            (replace(WELL, connections=90), {}),
            (replace(WELL, connections=89), {"connections": "WARNING"}),
            (replace(WELL, connections=9), {"connections": "ERROR"}),
            (replace(WELL, owed=Waiting(3, HOUR)), {"owed": "WARNING"}),
            (replace(WELL, expired=Waiting(3, HOUR)), {"expired-leases": "WARNING"}),
            (
                replace(WELL, sweeps=Sweeps(untouched=False, ended=MINUTE, stranded=2)),
                {"expired-leases": "WARNING"},
            ),
            (replace(WELL, crashed=Waiting(2, HOUR)), {"crashed": "WARNING"}),
            (replace(WELL, given_up={False: Waiting(3, HOUR)}), {"given-up": "WARNING"}),
            (replace(WELL, given_up={True: Waiting(1, HOUR)}), {"given-up": "WARNING"}),
            (replace(WELL, rejected={"unknown_task": Waiting(1, HOUR)}), {"rejected": "WARNING"}),
            (replace(WELL, sweeps=Sweeps(untouched=False, ended=None)), {"sweeper": "WARNING"}),
            (replace(WELL, sweeps=Sweeps(untouched=False, ended=11 * MINUTE)), {"sweeper": "WARNING"}),
            (replace(WELL, sweeps=Sweeps(untouched=True, ended=None)), {"sweeper": "NOTE"}),
            (replace(WELL, others=["production"]), {"environments": "NOTE"}),
            (
                replace(WELL, others=["production"], sweeps=Sweeps(untouched=True, ended=MINUTE)),
                {"environments": "WARNING"},
            ),
            (replace(WELL, unkept={"unknown_task": 7}), {"rejected-not-kept": "WARNING"}),
            (replace(WELL, sweeps=None), {}),
        ],
    )
    def test_what_is_said(self, seen: RecordSeen, expected: dict[str, str]) -> None:
        assert codes(judge_record(seen, FLEET)) == expected

    def test_what_was_not_counted_to_the_end_is_said_to_be_at_least_so_many(self) -> None:
        [whole] = judge_record(replace(WELL, crashed=Waiting(2, HOUR)), FLEET)
        [cut] = judge_record(replace(WELL, crashed=Waiting(2, HOUR, at_least=True)), FLEET)
        assert cut.what == f"at least {whole.what}"

    def test_a_database_that_cannot_be_asked_is_one_finding(self) -> None:
        for error, code in (
            (DatabaseUnavailable("no answer"), "database-unreachable"),
            (NotConnected("no such role"), "database-refuses"),
        ):
            (found,) = judge_unavailable(error)
            assert (found.code, str(error) in found.what) == (code, True)

    def test_what_is_proposed_fits(self) -> None:
        seen = replace(WELL, connections=47)
        (found,) = judge_record(seen, replace(FLEET, instances=100, known=False))
        assert "100 instances (Cloud Run's default) of 10 connections each need 1000" in found.what
        assert found.mend.endswith("--max-instances 4")
