from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from receiver import maintenance
from receiver.errors import PluginError, Rejected, RejectionReason
from receiver.maintenance import SWEEP
from receiver.sweep.pruning import SWEEP_PATH
from receiver.tasks.registry import Registry
from receiver.tasks.route import TaskRoute
from receiver.tasks.task import Task, TaskContext


def send(user_id: str, *, copies: int = 1) -> None: ...


async def tidy(ctx: TaskContext, depth: int = 1) -> None: ...


def other() -> None: ...


def test_a_route_is_found_by_name_path_and_alias() -> None:
    route = TaskRoute(send, aliases=["old.send"])
    registry = Registry([route, TaskRoute(tidy)])
    for name in ("send", f"{__name__}.send", "old.send"):
        assert registry.find(name) is route
    assert registry.find("Send") is None
    assert registry.find("") is None


def test_routes_keep_their_order() -> None:
    routes = [TaskRoute(tidy), TaskRoute(send)]
    assert Registry(routes).declared == tuple(routes)
    assert Registry([]).declared == ()
    assert repr(Registry(routes)) == "<Registry of 2 routes>"


def test_the_receivers_own_routes_come_after_the_declared_ones() -> None:
    registry = Registry([TaskRoute(send)]).including(maintenance.ROUTES)
    assert registry.declared == (TaskRoute(send),)
    assert registry.routes == (TaskRoute(send), SWEEP)
    assert registry.find("receiver.maintenance.sweep") is SWEEP
    assert (
        registry.paths["receiver.maintenance.sweep"]
        == SWEEP.name
        == SWEEP.path
        == "receiver.maintenance.sweep"
    )
    assert registry.paths["send"] == f"{__name__}.send"


def test_a_debugged_task_has_another_timeout_and_is_enclosed_all_the_same() -> None:
    registry = Registry([TaskRoute(send)], ["shop.tasks"], around=[nullcontext]).with_timeout(3600.0)
    assert [route.timeout for route in registry.declared] == [3600.0]
    assert (registry.modules, registry.around) == (("shop.tasks",), (nullcontext,))


def test_a_plugin_may_call_its_task_as_the_receivers_own_is_called() -> None:
    def sweep() -> None: ...

    route = TaskRoute(sweep)
    registry = Registry([route], built_in=maintenance.ROUTES)
    assert registry.find("sweep") is route
    assert registry.find("receiver.maintenance.sweep") is SWEEP
    assert SWEEP.path == SWEEP_PATH
    # What is published says the path, or the plugin's task would be given it.
    assert Task(SWEEP.function).name == maintenance.sweep.name == SWEEP.path


def test_the_path_of_the_receivers_own_is_refused_with_what_to_do() -> None:
    with pytest.raises(PluginError, match=r"receiver's own receiver.maintenance.sweep; rename the function"):
        Registry([TaskRoute(send, aliases=[SWEEP.path])], built_in=maintenance.ROUTES)


def clashing() -> list[tuple[list[TaskRoute], str]]:
    def send() -> None: ...

    return [
        ([TaskRoute(other), TaskRoute(other)], "two routes declare"),
        ([TaskRoute(globals()["send"]), TaskRoute(send)], "are both known as 'send'"),
        ([TaskRoute(tidy), TaskRoute(other, aliases=["tidy"])], "are both known as 'tidy'"),
        ([TaskRoute(tidy, aliases=["x"]), TaskRoute(other, aliases=["x"])], "are both known as 'x'"),
        ([TaskRoute(tidy), TaskRoute(other, aliases=[f"{__name__}.tidy"])], "are both known as"),
    ]


@pytest.mark.parametrize(("routes", "says"), clashing())
def test_two_routes_never_share_a_name(routes: list[TaskRoute], says: str) -> None:
    with pytest.raises(PluginError) as caught:
        Registry(routes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_alias_may_repeat_the_routes_own_name() -> None:
    assert Registry([TaskRoute(send, aliases=["send", "send"])]).find("send") is not None


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [("send", ["1"], {}), ("send", [], {"user_id": "1", "copies": 2}), ("tidy", [], {}), ("tidy", [2], {})],
)
def test_arguments_that_fit_are_bound_without_calling(
    name: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    registry = Registry([TaskRoute(send), TaskRoute(tidy)])
    route = registry.find(name)
    assert route is not None
    registry.bind(route, args, kwargs)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("send", [], {}),
        ("send", ["1", "2"], {}),
        ("send", ["1"], {"user_id": "1"}),
        ("send", ["1"], {"nul\x00 and \udcff": 1}),
        ("tidy", [1, 2], {}),
        ("tidy", [], {"ctx": {}}),
    ],
)
def test_arguments_that_do_not_fit_are_rejected_with_a_storable_reason(
    name: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    registry = Registry([TaskRoute(send), TaskRoute(tidy)])
    route = registry.find(name)
    assert route is not None
    with pytest.raises(Rejected) as caught:
        registry.bind(route, args, kwargs)
    assert caught.value.reason is RejectionReason.BAD_ARGUMENTS
    assert caught.value.detail.startswith(f"{name}: ")
    assert "\x00" not in caught.value.detail
    assert caught.value.detail.encode()
