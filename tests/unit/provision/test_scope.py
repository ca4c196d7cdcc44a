from __future__ import annotations

import pytest

from receiver.errors import SettingError
from receiver.provision.scope import Scope
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
