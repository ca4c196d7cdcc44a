from __future__ import annotations

import json

from receiver.provision import rendering
from receiver.provision.applying import ChangeDone, ChangeFailed
from receiver.provision.observed import Observed
from receiver.provision.planning import ChangeRefused, Give, Plan, plan
from receiver.provision.resources import Grant, Kind
from tests.unit.provision.test_planning import OLD_JOB, OLD_TOPIC, job, paused, topic, with_
from tests.unit.provision.world import HERE, MAIL, SCOPE, changed, settled, wanted


def mixed() -> Plan:
    observed = settled(MAIL)
    name = next(name for name in observed.by_name if name.endswith("send_mail-sub"))
    drifted = changed(observed.by_name[name], ackDeadlineSeconds=10, expirationPolicy=None)
    there = with_(observed, drifted, job(OLD_JOB), topic(OLD_TOPIC))
    return plan(wanted(), there, SCOPE)


def test_a_plan_is_a_line_a_change_and_the_unchanged_are_counted() -> None:
    made = mixed()
    assert [text for text, _ in rendering.lines(made)] == [
        f"+ topic prod--shop.tasks--{HERE}.clean_up",
        f"~ subscription prod--shop.tasks--{HERE}.send_mail-sub",
        "    ackDeadlineSeconds: 10 → 60",
        "    expirationPolicy: after 31 idle days (default) → never",
        f"+ subscription prod--shop.tasks--{HERE}.clean_up-sub",
        f"+ scheduler job prod--shop-scheduler--{HERE.replace('.', '-')}-clean_up",
        "- scheduler job prod--shop-scheduler--old-gone (no task has this schedule)",
        "= topic prod--shop.tasks--old.gone: no task uses it; --prune deletes it",
    ]
    assert rendering.summary(made) == "3 to create, 1 to change, 1 to delete, 3 unchanged, 1 kept"


def test_each_kind_of_change_has_its_colour() -> None:
    styles = {text[0]: style for text, style in rendering.lines(mixed()) if text[0] != " "}
    assert styles == {"+": "green", "~": "yellow", "-": "red", "=": "dim"}


def test_a_grant_and_a_refusal_say_what_they_are() -> None:
    give = Give(Grant("projects/p/topics/t", "roles/pubsub.publisher", "serviceAccount:a@b"))
    refused = ChangeRefused(topic(OLD_TOPIC), "it belongs to somebody")
    made = Plan((give, refused))
    assert [text for text, _ in rendering.lines(made)] == [
        "+ grant roles/pubsub.publisher on t to serviceAccount:a@b",
        "! topic prod--shop.tasks--old.gone: it belongs to somebody",
    ]
    assert rendering.summary(made) == "1 to create, 0 to change, 0 to delete, 0 unchanged, 1 refused"


def test_a_pause_is_shown_with_the_way_out() -> None:
    made = plan(wanted(), paused(), SCOPE)
    [(line, style)] = rendering.lines(made)
    assert style == "yellow"
    assert line == (
        f"= subscription prod--shop.tasks--{HERE}.send_mail-sub: paused: it has no push endpoint, and its messages "
        "wait; --resume gives it one again"
    )
    assert rendering.summary(made) == "0 to create, 0 to change, 0 to delete, 6 unchanged, 1 paused"
    [shown] = rendering.as_json(made, SCOPE)["paused"]
    assert shown["action"] == "paused"


def test_progress_counts_and_says_what_failed() -> None:
    change = mixed().changes[0]
    name = f"topic prod--shop.tasks--{HERE}.clean_up"
    assert rendering.progress(ChangeDone(change), 3, 12)[0] == f"[ 3/12] + {name}"
    assert rendering.progress(ChangeDone(change, "as it was"), 3, 12)[0] == f"[ 3/12] + {name}: as it was"
    assert rendering.progress(ChangeFailed(change, "no"), 12, 12)[0] == f"[12/12] + {name}: failed: no"


def test_as_json_a_plan_has_every_field() -> None:
    shown = json.loads(json.dumps(rendering.as_json(mixed(), SCOPE)))
    assert {key: shown[key] for key in ("project", "location", "environment", "namespace", "service")} == {
        "project": "shop-prod",
        "location": "europe-west2",
        "environment": "prod",
        "namespace": "shop",
        "service": "shop-abc-ew.a.run.app",
    }
    assert (shown["settled"], shown["unchanged"]) == (False, 3)
    assert [change["action"] for change in shown["changes"]] == [
        "create",
        "update",
        "create",
        "create",
        "delete",
    ]
    assert shown["changes"][0]["body"]["labels"]["receiver-namespace"] == "shop"
    assert shown["changes"][1]["fields"][0] == {"field": "ackDeadlineSeconds", "old": "10", "new": "60"}
    assert shown["kept"][0]["name"] == OLD_TOPIC
    assert rendering.as_json(plan(wanted(), settled(), SCOPE), SCOPE)["settled"] is True


def test_as_json_results_say_what_became_of_each_change() -> None:
    change = plan(wanted(), Observed(), SCOPE).changes[0]
    name = SCOPE.dead_letter_topic
    assert rendering.results_as_json([ChangeDone(change), ChangeFailed(change, "no")]) == [
        {"action": "create", "kind": Kind.TOPIC.value, "name": name, "done": True, "note": ""},
        {"action": "create", "kind": Kind.TOPIC.value, "name": name, "done": False, "note": "no"},
    ]
