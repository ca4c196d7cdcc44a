from __future__ import annotations

import re

from hypothesis import assume, example, given
from hypothesis import strategies as st

from receiver.provision.ownership import (
    LABEL_LIMIT,
    Belongs,
    Owner,
    label,
    owner_of_description,
    owner_of_labels,
)

parts = st.from_regex(r"[A-Za-z](?:(?!--)[A-Za-z0-9_.-]){0,39}", fullmatch=True)
hosts = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,250}(:[0-9]{1,5})?", fullmatch=True)
owners = st.builds(Owner, parts, parts, hosts)

SHOP = Owner("prod", "shop", "shop-abc-ew.a.run.app")


@given(owners)
@example(Owner("P.rod", "Shop", "a" * 253))
def test_labels_follow_googles_rules(owner: Owner) -> None:
    for key, value in owner.labels.items():
        assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key)
        assert re.fullmatch(r"[a-z0-9_-]{1,63}", value)
    assert len(owner.description) <= 500


@given(parts, parts)
@example("Shop", "shop")
@example("a.b", "a-b")
@example("a.b", label("a.b"))
def test_two_values_never_share_a_label(one: str, other: str) -> None:
    assume(one != other)
    assert label(one) != label(other)


def test_a_plain_value_is_its_own_label_and_one_that_looks_shortened_is_not() -> None:
    assert label("prod-2_a") == "prod-2_a"
    assert label("a" * LABEL_LIMIT) == "a" * LABEL_LIMIT
    assert label("a" * (LABEL_LIMIT + 1)) != "a" * LABEL_LIMIT
    assert label("prod-0123456789") != "prod-0123456789"


@given(owners, owners)
@example(Owner("a-", "b", "h"), Owner("a", "b", "h"))
@example(Owner("a", "b", "h"), Owner("a", "b", "h:1"))
def test_an_owner_knows_its_own_and_nobody_elses(one: Owner, other: Owner) -> None:
    assert one.of_labels({"team": "core", **one.labels}) is Belongs.OURS
    assert one.of_description(one.description) is Belongs.OURS
    if one == other:
        return
    same_receiver = (one.environment, one.namespace) == (other.environment, other.namespace)
    verdict = Belongs.FORMER_SERVICES if same_receiver else Belongs.OTHERS
    assert one.of_labels(other.labels) is verdict
    assert one.of_description(other.description) is verdict


def test_what_carries_no_mark_is_nobodys() -> None:
    assert SHOP.of_labels({}) is Belongs.NOBODYS
    assert SHOP.of_labels({"team": "core"}) is Belongs.NOBODYS
    assert SHOP.of_description("") is Belongs.NOBODYS
    assert SHOP.of_description("receiver of mail") is Belongs.NOBODYS


def test_an_owner_is_named_for_people() -> None:
    assert owner_of_description(SHOP.description) == "prod--shop of shop-abc-ew.a.run.app"
    assert owner_of_labels(SHOP.labels).startswith("prod--shop of shop-abc-ew-a-run-app-")
