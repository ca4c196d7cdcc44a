"""Books that balance whatever happened would prove nothing: each breach is forged once, and must be found."""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from receiver.contract.encode import encode_payload, scheduled_payload
from receiver.emulator.backlog import PubsubMessage
from receiver.maintenance import SWEEP
from tests.stage.record import Record
from tests.storm import table
from tests.storm.acks import Acks
from tests.storm.application import Application
from tests.storm.books import STAGE, Balance, Expected, Run, balance, runs_of
from tests.storm.deck import Deck
from tests.storm.plan import Report

ROW = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, final, attempt, fence,
    return_value, error_type, error_message, error_traceback, enqueued_at, started_at, finished_at)
VALUES ($1, $2, 'storm_tasks.' || $2, 'gyrinx', $3, '{}', $4, true, $5::bigint, $5::bigint,
    CASE WHEN $4 = 'SUCCESSFUL' THEN to_jsonb($5::bigint) END,
    CASE WHEN $4 = 'FAILED' THEN 'RuntimeError' END, CASE WHEN $4 = 'FAILED' THEN $5::bigint::text END,
    CASE WHEN $4 = 'FAILED' THEN '' END, clock_timestamp(), clock_timestamp(), clock_timestamp())
"""
EXPECTED = [
    Expected("t", "transactional", succeeds=True),
    Expected("x", "hopeless", succeeds=False),
    Expected("p", "plain", succeeds=True),
    Expected("parent", "parent", succeeds=True),
]
RUN = """
UPDATE task_executions SET status = 'RUNNING', final = false, return_value = NULL, finished_at = NULL, claim_token = gen_random_uuid(),
    lease_owner = 'one', lease_expires_at = clock_timestamp() + interval '{lease} s' WHERE task_id = 't'
"""
OWED = """
UPDATE task_executions SET status = 'READY', final = false, return_value = NULL, started_at = NULL, finished_at = NULL
WHERE task_id = '0198'
"""
RAISED = "UPDATE task_executions SET fence = 3 WHERE task_id = 't'"
READY = """
UPDATE task_executions SET status = 'READY', fence = 3, lease_owner = NULL, lease_expires_at = NULL, claim_token = NULL,
    started_at = NULL
WHERE task_id = 't'
"""


@dataclass
class Notes:
    """What the tasks noted beside the record."""

    marks: Counter[str] = field(default_factory=lambda: Counter({"p": 1}))
    runs: list[Run] = field(
        default_factory=lambda: [
            Run("t", 1, 10.0, 11.0),
            Run("t", 2, 12.0, 13.0),
            Run("p", 1, 10.0, 10.5),
            Run("x", 1, 10.0, 10.5),
        ]
    )
    acks: dict[str, float] = field(default_factory=lambda: {"t": 20.0, "p": 20.0})


@pytest.fixture
async def record(database_url: str) -> Record:
    """The record of four messages that all came to their good end: one was taken over, one had a child."""
    connection = await asyncpg.connect(database_url)
    try:
        await _write(connection)
    finally:
        await connection.close()
    return Record(database_url)


async def _write(connection: Any) -> None:
    await connection.execute(STAGE)
    for task_id, name, args, status, fence in (
        ("t", "transactional", '["t"]', "SUCCESSFUL", 2),
        ("x", "hopeless", '["x"]', "FAILED", 1),
        ("p", "plain", '["p"]', "SUCCESSFUL", 1),
        ("parent", "parent", '["parent"]', "SUCCESSFUL", 1),
        ("0198", "transactional", '["parent-child"]', "SUCCESSFUL", 1),
    ):
        await connection.execute(ROW, task_id, name, args, status, fence)
    for label, fence in (("t", 2), ("parent", 1), ("parent-child", 1)):
        await connection.execute("INSERT INTO effects VALUES ($1, $2)", label, fence)


async def found(record: Record, notes: Notes) -> Balance:
    return await balance(record, EXPECTED, notes.marks, notes.runs, notes.acks)


async def test_good_books_balance(record: Record) -> None:
    balanced = await found(record, Notes())
    assert balanced.wrong == []
    assert balanced.statuses == {"SUCCESSFUL": 3, "FAILED": 1}
    assert (balanced.children, balanced.retried, balanced.runs) == (1, 1, 4)


@pytest.mark.parametrize(
    ("breach", "said"),
    [
        ("DELETE FROM task_executions WHERE task_id = 'p'", "lost: plain p has no row"),
        ("UPDATE task_executions SET final = false WHERE task_id = 'x'", "hopeless x is FAILED, attempt 1"),
        ("INSERT INTO effects VALUES ('t', 2)", "transactional t: SUCCESSFUL with 2 effects"),
        ("DELETE FROM effects WHERE label = 't'", "transactional t: SUCCESSFUL with 0 effects"),
        ("INSERT INTO effects VALUES ('x', 1)", "hopeless x: FAILED with 1 effects"),
        ("UPDATE effects SET fence = 1 WHERE label = 't'", "transactional t: effect of fence [1], settled by 2"),
        ("UPDATE task_executions SET return_value = '1' WHERE task_id = 't'", "stale: transactional t has the outcome of fence 1"),
        ("UPDATE task_executions SET error_message = '7' WHERE task_id = 'x'", "stale: hopeless x has the outcome of fence 7"),
        ("UPDATE task_executions SET return_value = '1' WHERE task_id = 't'", "a final row changed: t"),
        ("UPDATE task_executions SET fence = 1, attempt = 1 WHERE task_id = 't'", "a fence fell: t"),
        (f"{RUN.format(lease=60)}; {RAISED}", "two live leases: t"),
        (
            f"{RUN.format(lease=-1)}; {READY}",
            "settled by a stale owner: t",
        ),
        (RUN.format(lease=-1), "stuck: t is RUNNING past its lease"),
        ("DELETE FROM task_executions WHERE task_id = '0198'", "parent parent has 0 children"),
        (OWED, "child parent-child is READY"),
        ("INSERT INTO effects VALUES ('parent-child', 1)", "child parent-child: SUCCESSFUL with 2 effects"),
        ("UPDATE task_executions SET args = '[\"else\"]' WHERE task_id = '0198'", "nobody sent ['[\"else\"]']"),
    ],
)  # fmt: skip
async def test_a_breach_in_the_record_is_found(record: Record, breach: str, said: str) -> None:
    connection = await record.connect()
    try:
        await connection.execute(breach)
    finally:
        await connection.close()
    wrong = (await found(record, Notes())).wrong
    assert any(line.startswith(said) for line in wrong), wrong


@pytest.mark.parametrize(
    ("breach", "said"),
    [
        (lambda notes: notes.marks.clear(), "plain p never ran"),
        (lambda notes: notes.runs.append(Run("t", 2, 14.0, 15.0)), "overlap: t ran twice under fence 2"),
        (
            lambda notes: notes.runs.append(Run("p", 2, 10.4, 10.6)),
            "overlap: p ran under fences 1 and 2 at once",
        ),
        (lambda notes: notes.runs.pop(), "hopeless x failed, and never ran"),
        (
            lambda notes: notes.runs.append(Run("t", 3, 20.1, 20.2)),
            "again: t began under fence 3 after it was answered 200",
        ),
        (
            lambda notes: notes.runs.append(Run("p", 0, 10.9, 11.0)),
            "overlap: p ran under fences 0 and 1 at once",
        ),
    ],
    ids=["lost", "twice", "beside", "unrun", "again", "late"],
)
async def test_a_breach_in_the_notes_is_found(
    record: Record, breach: Callable[[Notes], None], said: str
) -> None:
    notes = Notes()
    breach(notes)
    wrong = (await found(record, notes)).wrong
    assert wrong == [said]


async def test_code_whose_lease_had_run_out_may_overlap_and_is_counted(record: Record) -> None:
    await record.fetch(
        "INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending)"
        " VALUES ('t', 1, 1, clock_timestamp(), clock_timestamp(), 'LEASE_EXPIRED')"
    )
    notes = Notes(runs=[Run("t", 1, 10.0, 12.5), Run("t", 2, 12.0, 13.0), Run("x", 1, 10.0, 10.5)])
    balanced = await found(record, notes)
    assert (balanced.wrong, balanced.overlapped, balanced.expired) == ([], 1, 1)


async def test_an_answer_that_a_new_primary_does_not_have_is_found(record: Record) -> None:
    acks = Acks()
    for task_id in ("t", "x", "0198", "gone"):
        acks.note(task_id)
    assert await acks.lost(record) == ["gone was answered 200, and is nowhere"]
    await record.fetch(OWED)
    assert await acks.lost(record) == ["gone was answered 200, and is nowhere"]
    await record.fetch("UPDATE task_executions SET published_at = clock_timestamp() WHERE task_id = '0198'")
    assert sorted(await acks.lost(record)) == [
        "0198 was answered 200, and is READY",
        "gone was answered 200, and is nowhere",
    ]


def test_of_the_answers_to_firings_those_of_sweeps_are_not_noted() -> None:
    acks = Acks()
    for payload in (
        scheduled_payload("nightly"),
        scheduled_payload(SWEEP.name),
        encode_payload("t", "plain"),
    ):
        acks.delivered(PubsubMessage(base64.b64encode(payload).decode(), message_id="7"))
    assert set(acks.first) == {"scheduled-nightly-7", "t"}


async def test_an_enqueue_that_returned_and_is_gone_is_found(record: Record) -> None:
    application = Application(record.url)
    application.returned = [
        Expected("t", "transactional", succeeds=True),
        Expected("app-1", "plain", succeeds=True),
    ]
    application.unknown = [Expected("p", "plain", succeeds=True), Expected("app-2", "plain", succeeds=True)]
    assert await application.lost(record) == ["the enqueue of app-1 returned, and it is nowhere"]
    assert [one.task_id for one in await application.expected(record)] == ["t", "app-1", "p"]


def test_a_run_ends_with_its_process() -> None:
    lines = ["begun a 1 7 1.0", "begun b 1 7 2.0", "ended b 1 7 3.0", "begun a 2 8 6.0", "begun c 1 9 7.0"]
    assert runs_of(lines, {7: 5.0, 8: 6.5}, now=9.0) == [
        Run("b", 1, 2.0, 3.0),
        Run("a", 1, 1.0, 5.0),
        Run("a", 2, 6.0, 6.5),
        Run("c", 1, 7.0, 9.0),
    ]


def test_every_point_kills_as_often_as_it_should_though_lives_end_otherwise() -> None:
    deck = Deck({"often": 4, "seldom": 1}, 5, 100.0, random.Random(1), lambda: 50.0)
    died: Counter[str] = Counter()
    moments = []
    lives = 0
    while (death := deck.draw()) is not None:
        lives += 1
        if lives % 3:
            deck.died(death)
            died[death.point] += 1
            moments.append(death.not_before)
        else:
            deck.put_back(death)
    assert died == {"often": 5, "seldom": 5}
    assert deck.left == 0
    assert moments == [50.0 + 10 * n for n in range(10)]


def test_the_table_of_several_storms_is_written_between_its_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "RESULTS", tmp_path / "storms")
    for seed in (11, 22):
        table.keep(Report(seed, exits=Counter({-9: seed}), kills=Counter({"before the claim": seed - 1})))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- storm -->\nold\n<!-- /storm -->\nafter\n")
    table.write(page)
    lines = page.read_text().splitlines()
    assert (lines[:2], lines[-2:]) == (["before", "<!-- storm -->"], ["<!-- /storm -->", "after"])
    assert "| seed | 11 | 22 |" in lines
    assert "| **SIGKILLs** | **11** | **22** |" in lines
    assert "| — before the claim | 10 | 21 |" in lines
    page.write_text("no place for it")
    with pytest.raises(ValueError, match="no <!-- storm --> block"):
        table.write(page)
