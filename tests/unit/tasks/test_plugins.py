"""Loading real plugin modules from a real folder."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.errors import PluginError
from receiver.settings import Settings
from receiver.tasks.registry import Registry, load, undeclared

Write = Callable[..., str]
numbers = itertools.count()

HEAD = "from receiver.tasks.route import TaskRoute\nfrom receiver.tasks.task import task\n"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of a unique name into a folder on the import path and returns the name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str, name: str = "", head: str = HEAD) -> str:
        name = name or f"plugin_{next(numbers)}"
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + source)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]


def loaded(*modules: str, setup: str | None = None, around: tuple[str, ...] = ()) -> Registry:
    return load(Settings(modules=modules, setup=setup, around=around))


def refusal(*modules: str, setup: str | None = None, around: tuple[str, ...] = ()) -> str:
    with pytest.raises(PluginError) as caught:
        loaded(*modules, setup=setup, around=around)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["tasks", "task_routes"])
@pytest.mark.parametrize("value", ["[TaskRoute(run)]", "(TaskRoute(run),)"])
def test_a_module_declares_its_routes_in_a_list(plugin: Write, name: str, value: str) -> None:
    module = plugin(f"def run(): ...\n{name} = {value}\n")
    assert [route.path for route in loaded(module).declared] == [f"{module}.run"]


def test_modules_load_in_their_order_and_once(plugin: Write) -> None:
    one = plugin("def one(): ...\ntasks = [TaskRoute(one)]\n")
    two = plugin("def two(): ...\ntasks = [TaskRoute(two)]\n")
    registry = loaded(two, one, two)
    assert [route.name for route in registry.declared] == ["two", "one"]
    assert registry.modules == (two, one)


def test_a_list_passed_on_from_another_module_declares_its_routes_once(plugin: Write) -> None:
    inner = plugin("def run(): ...\ntasks = [TaskRoute(run)]\n")
    outer = plugin(f"from {inner} import tasks\n")
    assert len(loaded(inner, outer).declared) == 1


def test_two_plugins_with_tasks_of_one_name_are_refused(plugin: Write) -> None:
    source = "def run(): ...\ntasks = [TaskRoute(run)]\n"
    one, two = plugin(source), plugin(source)
    assert f"{one}.run and {two}.run are both known as 'run'" in refusal(one, two)


def test_without_modules_and_entry_points_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    message = refusal()
    assert "set TASKS_MODULES" in message
    assert "receiver.tasks" in message


LISTS = [
    ("", "has no tasks or task_routes list of TaskRoute"),
    ("tasks = []\ntask_routes = []\n", "has both a tasks and a task_routes list"),
    ("def run(): ...\ntasks = TaskRoute(run)\n", ".tasks is of type TaskRoute; write a list"),
    ("tasks = {}\n", ".tasks is of type dict"),
    ("def run(): ...\ntasks = [TaskRoute(run), run]\n", ".tasks[1] is of type function; wrap each task"),
    ("@task\ndef run(): ...\ntask_routes = [run]\n", ".task_routes[0] is the task run; wrap each task"),
    ("tasks = [TaskRoute]\n", ".tasks[0] is the class TaskRoute"),
    ("tasks = ['run']\n", ".tasks[0] is of type str"),
]


@pytest.mark.parametrize(("source", "says"), LISTS)
def test_a_list_that_is_none_is_refused(plugin: Write, source: str, says: str) -> None:
    module = plugin(source)
    message = refusal(module)
    assert message.startswith(f"TASKS_MODULES: {module}")
    assert says in message


def test_a_submodule_called_tasks_is_no_list_but_named_as_a_guess(plugin: Write) -> None:
    package = plugin("", name=f"plugin_package_{next(numbers)}.__init__").removesuffix(".__init__")
    plugin("def run(): ...\ntasks = [TaskRoute(run)]\n", name=f"{package}.tasks")
    assert len(loaded(f"{package}.tasks").declared) == 1
    assert refusal(package).endswith(f"did you mean {package}.tasks?")


FAILURES = [
    ("def run(:\n", 3, "SyntaxError: "),
    ("\nimport plugin_nowhere\n", 4, "ModuleNotFoundError: No module named 'plugin_nowhere'"),
    ("from receiver.tasks.route import Nothing\n", 3, "ImportError: cannot import name 'Nothing'"),
    ("def stop():\n    raise SystemExit(3)\nstop()\n", 4, "SystemExit: 3"),
    ("import sys\nsys.exit()\n", 4, "SystemExit"),
    ("raise RuntimeError('two\\nlines')\n", 3, "RuntimeError: two lines"),
    ("def run(): ...\ntasks = [TaskRoute(run, ack_deadline=5)]\n", 4, "DeclarationError: TaskRoute("),
    (
        "class Mute(Exception):\n    def __str__(self):\n        raise ValueError\nraise Mute\n",
        6,
        "Mute",
    ),
]


@pytest.mark.parametrize(("source", "line", "says"), FAILURES)
def test_a_plugin_that_fails_is_named_with_its_error_and_place(
    plugin: Write, tmp_path: Path, source: str, line: int, says: str
) -> None:
    module = plugin(source)
    message = refusal(module)
    assert message.startswith(f"TASKS_MODULES: cannot import {module}: {says}")
    assert message.endswith(f"({tmp_path / module}.py:{line})")


def test_an_error_outside_of_the_plugin_is_placed_where_the_plugin_asked_for_it(
    plugin: Write, tmp_path: Path
) -> None:
    module = plugin("import json\njson.loads('{')\n")
    assert refusal(module).endswith(f"({tmp_path / module}.py:4)")


def test_a_module_that_is_not_there_is_said_to_be_missing(plugin: Write) -> None:
    assert refusal("plugin_absent") == ("TASKS_MODULES: there is no module plugin_absent on the import path")
    assert "plugin_absent.tasks (there is no plugin_absent)" in refusal("plugin_absent.tasks")
    file = plugin("")
    assert f"no module {file}.tasks" in refusal(f"{file}.tasks")


def test_an_error_without_a_place_is_still_one_line(plugin: Write) -> None:
    module = plugin("raise ModuleNotFoundError\n")
    assert f"cannot import {module}: ModuleNotFoundError (" in refusal(module)
    null = plugin("", head="\x00")
    assert f"cannot import {null}: SyntaxError: source code" in refusal(null)


def test_an_interrupt_is_not_taken_for_a_plugins_error(plugin: Write) -> None:
    module = plugin("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        loaded(module)


def test_setup_runs_once_before_the_plugins(plugin: Write) -> None:
    record = plugin(
        "calls = []\nclass App:\n    @staticmethod\n    def setup(): calls.append('setup')\n", head=""
    )
    modules = [plugin(f"import {record}\n{record}.calls.append('plugin')\ntasks = []\n") for _ in range(2)]
    loaded(*modules, setup=f"{record}:App.setup")
    assert sys.modules[record].calls == ["setup", "plugin", "plugin"]


@pytest.mark.parametrize(
    ("source", "attribute", "says"),
    [
        ("", "setup", "has no setup"),
        ("setup = 3\n", "setup", "is no plain function"),
        ("async def setup(): ...\n", "setup", "is no plain function"),
        ("def setup(arg): ...\n", "setup", "failed: TypeError: "),
        ("def setup():\n    raise LookupError('no apps')\n", "setup", "failed: LookupError: no apps ("),
        ("raise SystemExit('no settings')\n", "setup", "cannot import"),
    ],
)
def test_a_setup_that_fails_is_one_line(plugin: Write, source: str, attribute: str, says: str) -> None:
    module = plugin(source)
    message = refusal(module, setup=f"{module}:{attribute}")
    assert message.startswith("TASKS_SETUP: ")
    assert module in message
    assert says in message


MANAGER = """
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

@asynccontextmanager
async def good(ctx):
    yield

class Good:
    def __init__(self, ctx): ...
    async def __aenter__(self): ...
    async def __aexit__(self, *_): ...

async def coroutine(ctx): ...

async def undecorated(ctx):
    yield

@contextmanager
def plain(ctx):
    yield

@asynccontextmanager
async def wants_more(ctx, other):
    yield

class NoManager:
    def __init__(self, ctx): ...

def factory(ctx) -> AbstractAsyncContextManager[None]:
    return good(ctx)

def exact(ctx) -> Good:
    return Good(ctx)

def elsewhere(ctx) -> "NotImported":
    return Good(ctx)

def forgets(ctx):
    good(ctx)

def returns_nothing(ctx) -> None:
    good(ctx)

number = 3
tasks = []
"""


def test_what_encloses_each_run_is_loaded_in_its_order(plugin: Write) -> None:
    module = plugin(MANAGER)
    names = ["Good", "good", "factory", "exact", "elsewhere"]
    registry = loaded(module, around=tuple(f"{module}:{name}" for name in names))
    assert [each.__name__ for each in registry.around] == names  # type: ignore[attr-defined]  # functions and classes have names
    assert registry.including(()).around == registry.around
    assert loaded(module).around == ()


@pytest.mark.parametrize(
    "attribute",
    ["number", "coroutine", "undecorated", "plain", "wants_more", "NoManager", "forgets", "returns_nothing"],
)
def test_what_cannot_enclose_a_run_is_one_line(plugin: Write, attribute: str) -> None:
    module = plugin(MANAGER)
    message = refusal(module, around=(f"{module}:{attribute}",))
    assert message.startswith(f"TASKS_AROUND: {module}:{attribute} makes no async context manager")
    assert "decorated with contextlib.asynccontextmanager" in message
    assert "has no missing" in refusal(module, around=(f"{module}:missing",))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a distribution whose entry points in our group are the given lines, and nothing else's."""

    def install(lines: str) -> None:
        folder = tmp_path / "shop_plugin-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-plugin\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[receiver.tasks]\n{lines}\n")
        others = [entry for entry in sys.path if "site-packages" not in entry]
        monkeypatch.setattr(sys, "path", [*others, str(tmp_path)])

    return install


def test_without_modules_the_entry_points_are_loaded(plugin: Write, installed: Callable[[str], None]) -> None:
    one = plugin("def one(): ...\ntasks = [TaskRoute(one)]\n")
    two = plugin("def two(): ...\nmine = [TaskRoute(two)]\ntasks = 'not read'\n")
    installed(f"a = {one}\nb = {two}:mine\nc = {one}:tasks")
    registry = loaded()
    assert sorted(route.name for route in registry.declared) == ["one", "two"]
    assert sorted(registry.modules) == sorted([one, two])


def test_with_modules_the_entry_points_are_not_loaded(
    plugin: Write, installed: Callable[[str], None]
) -> None:
    installed("a = plugin_absent")
    assert loaded(plugin("tasks = []\n")).declared == ()


def test_an_entry_point_that_fails_is_one_line(plugin: Write, installed: Callable[[str], None]) -> None:
    module = plugin("")
    installed(f"a = {module}:mine")
    assert refusal() == f"entry points receiver.tasks: {module} has no mine list of TaskRoute"


def test_an_entry_point_that_is_no_module_is_named(installed: Callable[[str], None]) -> None:
    installed("shop = not/a:module:at all")
    assert "entry point 'shop'" in refusal()


def test_tasks_that_no_route_declares_are_found(plugin: Write) -> None:
    helper = plugin("@task\ndef elsewhere(): ...\n")
    module = plugin(
        f"from {helper} import elsewhere\n"
        "@task\ndef declared(): ...\n@task\ndef forgotten(): ...\nagain = forgotten\n"
        "def plain(): ...\ntasks = [TaskRoute(declared)]\n"
    )
    assert undeclared(loaded(module)) == [f"{module}.forgotten"]


def test_a_forgotten_task_of_the_plugins_own_package_is_found(plugin: Write) -> None:
    package = f"plugin_package_{next(numbers)}"
    plugin(f"from {package}.jobs import forgotten\ntasks = []\n", name=f"{package}.__init__")
    plugin("@task\ndef forgotten(): ...\n", name=f"{package}.jobs")
    assert undeclared(loaded(package)) == [f"{package}.jobs.forgotten"]


def test_a_registry_without_modules_has_nothing_undeclared() -> None:
    assert undeclared(Registry([], ["plugin_absent"])) == []
