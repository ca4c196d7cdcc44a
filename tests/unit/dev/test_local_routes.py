"""The local Pub/Sub has what the routes need, and leaves what is not theirs alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from receiver.dev.local_routes import Loaded, LocalProject, load_routes, provision
from receiver.dev.processes import ParentPipe
from receiver.emulator.broker import Broker
from receiver.emulator.subscriptions import DeadLetterPolicy, OidcToken
from receiver.errors import PluginError
from tests.unit.dev.test_scheduler import route

PROJECT = LocalProject("p", "dev", "gyrinx", "http://127.0.0.1:8080", "push@p")
NAME = "projects/p/subscriptions/dev--gyrinx.tasks--m.cleanup-sub"


@pytest.fixture
def parent() -> Iterator[ParentPipe]:
    with closing(ParentPipe()) as made:
        yield made


def test_every_route_has_its_topic_and_its_push_subscription() -> None:
    broker = Broker()
    provision(broker, [route()], PROJECT)
    subscription = broker.subscriptions[NAME].settings
    assert subscription.topic in broker.topics
    assert subscription.push_config.push_endpoint == "http://127.0.0.1:8080/tasks/pubsub/"
    assert subscription.push_config.oidc_token == OidcToken("push@p", "http://127.0.0.1:8080")
    assert (subscription.ack_deadline, subscription.backoff(1)) == (60, 10)
    dead_letters = "projects/p/topics/dev--gyrinx.dead-letters"
    assert subscription.dead_letter_policy == DeadLetterPolicy(dead_letters, 5)
    letters = broker.subscriptions["projects/p/subscriptions/dev--gyrinx.dead-letters-sub"].settings
    assert letters.topic == dead_letters
    assert letters.push_config == subscription.push_config


def test_a_route_that_is_gone_pushes_no_more_and_what_is_not_ours_goes_on() -> None:
    broker = Broker()
    provision(broker, [route(), route(name="other")], PROJECT)
    foreign = {"topic": "projects/p/topics/x", "pushConfig": {"pushEndpoint": "http://elsewhere"}}
    broker.put_subscription("projects/p/subscriptions/x", foreign)
    provision(broker, [route(name="other")], PROJECT)
    assert broker.subscriptions[NAME].settings.push_config.push_endpoint == ""
    assert broker.subscriptions[NAME.replace("cleanup", "other")].settings.push_config.push_endpoint
    assert (
        broker.subscriptions["projects/p/subscriptions/x"].settings.push_config.push_endpoint
        == "http://elsewhere"
    )


def test_a_renamed_task_is_pushed_what_waits_under_its_former_name() -> None:
    """Also where that pushes no more, because the receiver ran without the alias in between."""
    broker = Broker()
    provision(broker, [route()], PROJECT)
    provision(broker, [route(name="tidy")], PROJECT)
    assert broker.subscriptions[NAME].settings.push_config.push_endpoint == ""
    provision(broker, [route(name="tidy", former=["cleanup", "never"])], PROJECT)
    assert (
        broker.subscriptions[NAME].settings.push_config.push_endpoint == "http://127.0.0.1:8080/tasks/pubsub/"
    )
    assert not [name for name in broker.topics if name.endswith("never")]
    taken = [route(name="tidy", former=["cleanup"]), route()]
    provision(broker, taken, PROJECT)
    assert broker.subscriptions[NAME].settings.ack_deadline == 60


def loaded(folder: Path, code: str, parent: ParentPipe) -> Loaded:
    (folder / "plug.py").write_text("from receiver import TaskRoute, task\n" + code)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKS_")}
    root = str(Path(__file__).parents[3])
    return load_routes(folder, environ | {"TASKS_MODULES": "plug", "PYTHONPATH": root}, parent)


def test_plugins_are_loaded_in_a_process_of_their_own(tmp_path: Path, parent: ParentPipe) -> None:
    """What they print is not taken for the report, and a task that was forgotten, or that no message can call, only warns, as does what is doubtful."""
    code = (
        "print('{')\n@task\nasync def greet(on: complex = 1j): ...\n@task\nasync def forgotten(): ...\n"
        "@task\nasync def wants(it: complex): ...\n"
        "tasks = [TaskRoute(greet, schedule='0 3 * * *', aliases=['hello']), TaskRoute(wants)]\n"
    )
    found = loaded(tmp_path, code, parent)
    assert [(one.name, one.schedule) for one in found.routes if not one.built_in] == [
        ("greet", "0 3 * * *"),
        ("wants", None),
    ]
    assert "dev--gyrinx.tasks--plug.hello" in found.routes[0].former_topic_names
    assert [one.name for one in found.routes if one.built_in] == ["receiver.maintenance.sweep"]
    forgotten, wants, spare = found.warnings
    assert forgotten.startswith("plug.forgotten is a @task that no TaskRoute declares")
    assert wants.startswith("plug.wants: parameter it has a complex, which no message can carry")
    assert spare.startswith("plug.greet: parameter on has a complex")


def test_a_task_that_was_forgotten_beside_a_declared_one_warns(tmp_path: Path, parent: ParentPipe) -> None:
    """The list is in one module, the tasks are in another, as in a project of `receiver init`."""
    books = "from receiver import task\n@task\nasync def lend(): ...\n@task\nasync def remind(): ...\n"
    (tmp_path / "books.py").write_text(books)
    found = loaded(tmp_path, "from books import lend\ntasks = [TaskRoute(lend)]\n", parent)
    (forgotten,) = found.warnings
    assert forgotten.startswith("books.remind is a @task that no TaskRoute declares; add it to the list")


@pytest.mark.parametrize(
    ("code", "said"),
    [("x = (", "SyntaxError"), ("import os; os._exit(3)", "exit code 3"), ("tasks = 7", "plug")],
)
def test_a_broken_plugin_is_one_line(tmp_path: Path, parent: ParentPipe, code: str, said: str) -> None:
    with pytest.raises(PluginError, match=said) as error:
        loaded(tmp_path, code, parent)
    assert "\n" not in str(error.value)


def test_a_foreign_topic_is_there_with_a_push_subscription_until_its_route_is_gone() -> None:
    broker = Broker()
    name, topic = "projects/p/subscriptions/dev--gyrinx.foreign--m.cleanup-sub", "projects/q/topics/uploads"
    taking = replace(route(), topic=topic, foreign_subscription_name=name.rpartition("/")[2])
    provision(broker, [taking], PROJECT)
    assert topic in broker.topics
    assert broker.subscriptions[name].settings.topic == topic
    assert broker.subscriptions[name].settings.push_config == broker.subscriptions[NAME].settings.push_config
    dead_letters = DeadLetterPolicy("projects/p/topics/dev--gyrinx.dead-letters", 5)
    assert broker.subscriptions[name].settings.dead_letter_policy == dead_letters
    provision(broker, [route()], PROJECT)
    assert broker.subscriptions[name].settings.push_config.push_endpoint == ""
