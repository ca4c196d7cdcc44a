"""Every way in which a delivery can end, against a real process: status, sentence, row, and what was really run."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import pytest

from receiver.delivery import replies
from receiver.emulator.signer import Signer
from receiver.endings.outcomes import Ending
from tests.acceptance.delivery import contract
from tests.acceptance.delivery.contract import CASES, ENDINGS, ENVIRONMENTS, Case, Profile
from tests.acceptance.delivery.playing import plays_out
from tests.stage.instance import Instance
from tests.stage.receivers import Stage, new_instance
from tests.stage.record import Record
from tests.stage.servers import LocalServer


class Receivers(Mapping[Profile, tuple[Instance, LocalServer]]):
    """One process a profile, started when the first case needs it."""

    def __init__(self, stack: ExitStack, request: pytest.FixtureRequest, door: Mapping[str, str]) -> None:
        self._stack = stack
        self._request = request
        self._door = door
        self._running: dict[Profile, tuple[Instance, LocalServer]] = {}

    def __getitem__(self, profile: Profile) -> tuple[Instance, LocalServer]:
        if profile not in self._running:
            self._running[profile] = self._started(profile)
        return self._running[profile]

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._running)

    def __len__(self) -> int:
        return len(self._running)

    def _started(self, profile: Profile) -> tuple[Instance, LocalServer]:
        ask = self._request.getfixturevalue
        fragile = profile is Profile.FRAGILE
        server: LocalServer = ask("own_postgres")
        url: str = server.url() if fragile else ask("shared_database_url")
        signer: Signer = ask("signer")
        env = {**ENVIRONMENTS[profile], **self._door}
        instance = new_instance(url, signer, ask("certs_url"), ask("folder"), env)
        return self._stack.enter_context(instance), server


@pytest.fixture(scope="module")
def receivers(request: pytest.FixtureRequest, door: Mapping[str, str]) -> Iterator[Receivers]:
    with ExitStack() as stack:
        yield Receivers(stack, request, door)


def is_slow(number: int, case: Case) -> bool:
    """The unit tests go through every malformed body and every bad token; `make test` sends each twelfth to a process."""
    return case.name.startswith(("malformed: ", "token: ")) and number % 12 > 0


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if is_slow(number, case) else ())
        for number, case in enumerate(CASES)
    ],
    ids=lambda case: f"{case.ending.status}-{case.name}",
)
async def test_a_delivery_ends_as_the_contract_says(
    case: Case, receivers: Receivers, folder: Path, label: str
) -> None:
    instance, postgres = await asyncio.to_thread(receivers.__getitem__, case.profile)
    record = Record(instance.environ["DATABASE_URL"])
    await plays_out(case, Stage(instance, record, folder, postgres, label))


def test_every_ending_has_a_case() -> None:
    assert {case.ending for case in CASES} == set(ENDINGS)


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_page_on_answers_shows_exactly_this_contract(project_root: Path) -> None:
    """`tests/acceptance/delivery/contract.py` is the source: print(markdown()) between the markers."""
    page = (project_root / "docs" / "reference" / "answers.md").read_text()
    shown = page[page.index(contract.OPENING) : page.index(contract.CLOSING) + len(contract.CLOSING)]
    assert shown == contract.markdown()


def test_the_page_on_answers_has_every_sentence_that_is_sent(project_root: Path) -> None:
    page = (project_root / "docs" / "reference" / "answers.md").read_text()
    shown = re.findall(r"^\| (\d+) \| ([^|]+) \| `(\w+)` \| [^|]+ \|$", page, re.MULTILINE)
    sent = re.findall(
        r'case outcomes\.(\w+)\(.*\):\n\s+return Reply\((\d+), "(.*)"\)', inspect.getsource(replies.reply)
    )
    assert sorted(shown) == sorted((status, body, name) for name, status, body in sent)
    assert {name for _, _, name in shown} == {each.__name__ for each in get_args(Ending)}
