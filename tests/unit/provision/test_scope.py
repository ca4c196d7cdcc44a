from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from receiver.errors import SettingError
from receiver.provision.resources import Kind, Resource
from receiver.provision.scope import LABEL_LIMIT, Belongs, Scope, label, owner_of
from receiver.settings import Settings
from tests.unit.provision.world import SCOPE

P = "projects/shop-prod"


@pytest.mark.parametrize(
    "name",
    [
        f"{P}/topics/prod--shop.tasks--a.b",
        f"{P}/subscriptions/prod--shop.tasks--a.b-sub",
        f"{P}/topics/prod--shop.dead-letters",
        f"{P}/subscriptions/prod--shop.dead-letters-sub",
        f"{P}/locations/europe-west2/jobs/prod--shop-scheduler--a-b",
    ],
)
def test_its_own_names_are_inside(name: str) -> None:
    assert SCOPE.contains(name)


@pytest.mark.parametrize(
    "name",
    [
        f"{P}/topics/staging--shop.tasks--a.b",
        f"{P}/topics/prod--shops.tasks--a.b",
        f"{P}/topics/prod--shop.tasks-.tasks--a.b",
        f"{P}/topics/prod--shop.dead-letters-2",
        f"{P}/topics/prod--shop.dead-letters-sub",
        f"{P}/topics/orders",
        "projects/shop-prod2/topics/prod--shop.tasks--a.b",
        f"{P}/locations/us-central1/jobs/prod--shop-scheduler--a-b",
        f"{P}/locations/europe-west2/jobs/prod--shop-scheduled--a-b",
        f"{P}/schemas/prod--shop.tasks--a.b",
    ],
)
def test_whatever_else_a_project_holds_is_outside(name: str) -> None:
    assert not SCOPE.contains(name)


def test_it_follows_from_the_settings_and_names_what_is_missing() -> None:
    environ = {
        "GCP_PROJECT_ID": "shop-prod",
        "CLOUD_RUN_SERVICE_URL": "https://shop-abc-ew.a.run.app",
        "TASKS_ENVIRONMENT": "prod",
        "TASKS_NAMESPACE": "shop",
    }
    assert Scope.of(Settings.from_environ(environ)) == SCOPE
    for name in ("GCP_PROJECT_ID", "CLOUD_RUN_SERVICE_URL"):
        rest = {key: value for key, value in environ.items() if key != name}
        with pytest.raises(SettingError, match=f"^{name} is not set"):
            Scope.of(Settings.from_environ(rest))


def owner(environment: str, namespace: str, service: str) -> Scope:
    return replace(SCOPE, environment=environment, namespace=namespace, service=service)


def topic(labels: dict[str, str]) -> Resource:
    return Resource(Kind.TOPIC, SCOPE.topic("a.b"), {"labels": labels})


def job(description: str) -> Resource:
    return Resource(Kind.JOB, SCOPE.job("a.b"), {"description": description})


parts = st.from_regex(r"[A-Za-z](?:(?!--)[A-Za-z0-9_.-]){0,39}", fullmatch=True)
hosts = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,250}(:[0-9]{1,5})?", fullmatch=True)
owners = st.builds(Scope, st.just("p"), st.just("l"), parts, parts, hosts)


@given(owners)
@example(owner("P.rod", "Shop", "a" * 253))
def test_labels_follow_googles_rules(owner: Scope) -> None:
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
@example(owner("a-", "b", "h"), owner("a", "b", "h"))
@example(owner("a", "b", "h"), owner("a", "b", "h:1"))
def test_an_owner_knows_its_own_and_nobody_elses(one: Scope, other: Scope) -> None:
    assert one.whose(topic({"team": "core", **one.labels})) is Belongs.OURS
    assert one.whose(job(one.description)) is Belongs.OURS
    if one == other:
        return
    same_receiver = (one.environment, one.namespace) == (other.environment, other.namespace)
    verdict = Belongs.FORMER_SERVICES if same_receiver else Belongs.OTHERS
    assert one.whose(topic(other.labels)) is verdict
    assert one.whose(job(other.description)) is verdict


def test_what_carries_no_mark_is_nobodys() -> None:
    assert SCOPE.whose(topic({})) is Belongs.UNOWNED
    assert SCOPE.whose(topic({"team": "core"})) is Belongs.UNOWNED
    assert SCOPE.whose(job("")) is Belongs.UNOWNED
    assert SCOPE.whose(job("receiver of mail")) is Belongs.UNOWNED


def test_an_owner_is_named_for_people() -> None:
    assert owner_of(job(SCOPE.description)) == "prod--shop of shop-abc-ew.a.run.app"
    assert owner_of(job("")) == "nobody"
    assert owner_of(topic(SCOPE.labels)).startswith("prod--shop of shop-abc-ew-a-run-app-")
