from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from receiver.tasks import naming

parts = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,39}", fullmatch=True).filter(
    lambda part: "--" not in part and not part.lower().startswith("goog")
)
identifiers = st.from_regex(r"[a-c_.\-0-9é<]{1,12}", fullmatch=True)
paths = st.one_of(
    identifiers,
    st.text(min_size=1, max_size=30),
    st.builds(lambda stem, length: stem * length, identifiers, st.integers(1, 60)),
)
triples = st.tuples(parts, parts, paths)


def test_the_references_names_come_out_exactly() -> None:
    topic = naming.topic_name("prod", "gyrinx", "gyrinx.core.tasks.send_welcome_email")
    assert topic == "prod--gyrinx.tasks--gyrinx.core.tasks.send_welcome_email"
    assert naming.subscription_name(topic) == "prod--gyrinx.tasks--gyrinx.core.tasks.send_welcome_email-sub"
    assert (
        naming.scheduler_job_name("prod", "gyrinx", "gyrinx.core.tasks.cleanup_old_data")
        == "prod--gyrinx-scheduler--gyrinx-core-tasks-cleanup_old_data"
    )
    assert naming.dead_letter_topic_name("prod", "gyrinx") == "prod--gyrinx.dead-letters"
    assert naming.foreign_subscription_name("prod", "gyrinx", "m.f") == "prod--gyrinx.foreign--m.f-sub"


@given(triples)
@example(("a" * 40, "b" * 40, "c" * 1000))
@example(("a", "b", "\udcff"))
def test_every_name_is_one_that_google_accepts(triple: tuple[str, str, str]) -> None:
    topic = naming.topic_name(*triple)
    foreign = naming.foreign_subscription_name(*triple)
    for name in (topic, naming.subscription_name(topic), foreign, naming.dead_letter_topic_name(*triple[:2])):
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.~+%-]{2,254}", name)
        assert not name.lower().startswith("goog")
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,500}", naming.scheduler_job_name(*triple))


@given(triples, triples)
@example(("a", "b", "m.f"), ("a", "b", "m-f"))
@example(("a", "b.c", "m.f"), ("a", "b-c", "m.f"))
@example(("a.b", "c", "m.f"), ("a-b", "c", "m.f"))
@example(("a", "b", "é"), ("a", "b", "ü"))
@example(("a", "b", "c" * 300), ("a", "b", "c" * 301))
def test_two_tasks_never_share_a_name(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assume(one != other)
    assert naming.topic_name(*one) != naming.topic_name(*other)
    assert naming.scheduler_job_name(*one) != naming.scheduler_job_name(*other)


@pytest.mark.parametrize("path", ["café.tasks.run", "m" * 300, "shop.<locals>.run"])
def test_a_plain_path_cannot_imitate_the_shortened_name_of_another(path: str) -> None:
    topic = naming.topic_name("dev", "shop", path)
    imitation = topic.removeprefix("dev--shop.tasks--")
    assert naming.topic_name("dev", "shop", imitation) != topic
    job = naming.scheduler_job_name("dev", "shop", path)
    head, _, digest = job.removeprefix("dev--shop-scheduler--").rpartition("-")
    assert naming.scheduler_job_name("dev", "shop", f"{head}.{digest}") != job


def test_a_name_is_cut_only_past_its_limit_and_ends_with_the_paths_digest() -> None:
    room = naming.TOPIC_LIMIT - len("dev--shop.tasks--")
    assert naming.topic_name("dev", "shop", "m" * room) == "dev--shop.tasks--" + "m" * room
    path = "m" * (room + 1)
    cut = naming.topic_name("dev", "shop", path)
    assert len(cut) == naming.TOPIC_LIMIT
    assert cut.endswith(f"mm-{hashlib.sha256(path.encode()).hexdigest()[:10]}")
    room = naming.JOB_LIMIT - len("dev--shop-scheduler--")
    assert naming.scheduler_job_name("dev", "shop", "m" * room).endswith("mm")
    assert len(naming.scheduler_job_name("dev", "shop", "m" * (room + 1))) == naming.JOB_LIMIT


def test_a_name_with_odd_characters_stays_readable() -> None:
    assert re.fullmatch(
        r"dev--shop\.tasks--shop\.make\._locals_\.run-[0-9a-f]{10}",
        naming.topic_name("dev", "shop", "shop.make.<locals>.run"),
    )
