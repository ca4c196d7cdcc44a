"""The breaker opens after a few failures, lets one probe through at a time, closes with the first answer, and says so once."""

from __future__ import annotations

from itertools import pairwise

import pytest

from receiver.enqueue.breaker import COLD, FAILURES, LONGEST_PAUSE, PROBE_LEASE, Breaker
from receiver.telemetry.events import Event, ReceiverTrouble, ServiceState


class Stage:
    """A breaker, its clock, and what it said."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.said: list[Event] = []
        self.breaker = Breaker(self.said.append, lambda: self.now)

    def open(self) -> None:
        for _ in range(FAILURES):
            self.breaker.failed("away")
        assert self.breaker.is_open


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_it_opens_after_a_few_failures_and_closes_with_the_first_answer(stage: Stage) -> None:
    breaker = stage.breaker
    was_open = []
    for _ in range(FAILURES):
        was_open.append(breaker.is_open)
        breaker.failed("away for long")
    assert [*was_open, breaker.is_open] == [False] * FAILURES + [True]
    for _ in range(5):
        breaker.failed("away still")
    (opened,) = stage.said
    assert isinstance(opened, ReceiverTrouble)
    assert opened.why.endswith("is the sweeper's: away for long")
    assert [breaker.leave(2), breaker.leave(1)] == [True, True]
    stage.now += 12
    breaker.succeeded()
    breaker.succeeded()
    assert stage.said[1:] == [
        ServiceState("Pub/Sub takes tasks again, after 12.0 s; 3 tasks were left to the sweeper")
    ]
    assert not breaker.leave(1)


def test_failures_that_an_answer_parts_do_not_open_it(stage: Stage) -> None:
    for _ in range(10):
        stage.breaker.failed("away")
        stage.breaker.failed("away")
        stage.breaker.succeeded()
    assert stage.said == []


def test_while_it_is_open_one_probe_is_sent_at_a_time(stage: Stage) -> None:
    stage.open()
    pause = stage.breaker.turn()
    assert pause > 0
    stage.now += pause
    assert stage.breaker.turn() == 0
    assert stage.breaker.turn() == pytest.approx(PROBE_LEASE)
    stage.breaker.failed("away")
    stage.now += stage.breaker.turn()
    assert stage.breaker.turn() == 0
    stage.breaker.succeeded()
    assert [stage.breaker.turn() for _ in range(3)] == [0, 0, 0]


def test_a_probe_whose_loop_has_gone_stands_in_nobodys_way_for_long(stage: Stage) -> None:
    stage.open()
    stage.now += stage.breaker.turn()
    assert stage.breaker.turn() == 0
    stage.now += PROBE_LEASE
    assert stage.breaker.turn() == 0


def test_a_turn_that_is_given_back_is_the_next_ones(stage: Stage) -> None:
    stage.open()
    stage.now += stage.breaker.turn()
    assert stage.breaker.turn() == 0
    stage.breaker.unused()
    assert stage.breaker.turn() == 0


def test_its_pauses_grow_up_to_a_bound(stage: Stage) -> None:
    pauses = []
    for _ in range(12):
        stage.breaker.failed("away")
        pauses.append(stage.breaker.turn())
        stage.now += pauses[-1]
    assert pauses[0] <= 0.1
    assert all(later > earlier * 0.99 for earlier, later in pairwise(pauses[:7]))
    assert LONGEST_PAUSE / 2 <= max(pauses) <= LONGEST_PAUSE


def test_an_outage_of_hours_is_probed_as_often_as_one_of_minutes(stage: Stage) -> None:
    for _ in range(2000):
        stage.breaker.failed("away")
    assert LONGEST_PAUSE / 2 <= stage.breaker.turn() <= LONGEST_PAUSE


def test_callers_who_wait_in_vain_open_it(stage: Stage) -> None:
    stage.breaker.succeeded()
    stage.now += 1
    for _ in range(FAILURES):
        assert not stage.breaker.is_open
        stage.breaker.waited_in_vain(stage.now - 0.25)
    assert stage.breaker.is_open


def test_callers_whose_turn_did_not_come_while_others_were_answered_do_not(stage: Stage) -> None:
    for _ in range(10):
        began = stage.now
        stage.now += 0.2
        stage.breaker.succeeded()
        stage.now += 0.05
        stage.breaker.waited_in_vain(began)
    assert stage.said == []


def test_a_process_that_has_only_started_is_given_a_second(stage: Stage) -> None:
    """Its first request fetches a token and opens TLS."""
    assert stage.breaker.turn() == 0
    for _ in range(20):
        stage.breaker.waited_in_vain(stage.now)
    assert not stage.breaker.is_open
    stage.now += COLD
    for _ in range(FAILURES):
        stage.breaker.waited_in_vain(stage.now - 0.25)
    assert stage.breaker.is_open
