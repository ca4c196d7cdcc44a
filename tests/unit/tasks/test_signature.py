"""What `describe` finds out, and that `mismatch` agrees with a real call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

import receiver
import receiver.tasks.task
from receiver import TaskRoute
from receiver.tasks.signature import NotATask, describe
from receiver.tasks.task import TaskContext
from receiver.tasks.task import TaskContext as Context

if TYPE_CHECKING:
    from receiver.tasks import task as only_checked
    from receiver.tasks.task import TaskContext as TypedOnly


def written(source: str, **scope: Any) -> Callable[..., Any]:
    """The function `f` of a source text, as a plugin without future annotations would have it."""
    scope["__name__"] = "plugin"
    exec(source, scope)  # noqa: S102 - the source is this test's own
    function: Callable[..., Any] = scope["f"]
    return function


FOREIGN = type("TaskContext", (), {"__module__": "django.tasks"})


@pytest.mark.parametrize(
    ("source", "scope", "expected"),
    [
        ("def f(ctx: TaskContext): ...", {"TaskContext": TaskContext}, True),
        ("def f(ctx: 'TaskContext'): ...", {"TaskContext": TaskContext}, True),
        ("def f(ctx: 'TaskContext'): ...", {}, True),
        ("def f(ctx: 'receiver.TaskContext'): ...", {}, True),
        ("def f(ctx: 'r.tasks.context.TaskContext'): ...", {"r": receiver}, True),
        ("def f(ctx: 'x.TaskContext'): ...", {}, True),
        ("def f(ctx: Ctx): ...", {"Ctx": TaskContext}, True),
        ("def f(ctx: 'Ctx'): ...", {"Ctx": TaskContext}, True),
        ("def f(ctx: TaskContext, /, n=1): ...", {"TaskContext": TaskContext}, True),
        ("from __future__ import annotations\ndef f(ctx: 'TaskContext'): ...", {}, True),
        ("def f(ctx: TaskContext): ...", {"TaskContext": FOREIGN}, False),
        ("def f(ctx: 'TaskContext'): ...", {"TaskContext": FOREIGN}, False),
        ("def f(ctx: 'r.Nothing.TaskContext'): ...", {"r": receiver}, False),
        ("def f(ctx: 'MyTaskContext'): ...", {}, False),
        ("def f(ctx: str): ...", {}, False),
        ("def f(ctx): ...", {}, False),
        ("def f(): ...", {}, False),
    ],
)
def test_the_context_is_recognised_by_its_annotation(
    source: str,
    scope: dict[str, Any],
    expected: bool,  # noqa: FBT001 - an expectation
) -> None:
    assert describe(written(source, **scope)).takes_context is expected


def test_the_context_is_recognised_under_postponed_annotations() -> None:
    def renamed(ctx: Context) -> None: ...

    def qualified(ctx: receiver.tasks.context.TaskContext) -> None: ...

    def checked(ctx: only_checked.TaskContext) -> None: ...

    def unknown(ctx: TypedOnly) -> None: ...

    assert describe(renamed).takes_context
    assert describe(qualified).takes_context
    assert describe(checked).takes_context
    assert not describe(unknown).takes_context, "a renamed import that exists only for the type checker"


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[TaskContext, "injected"],
        TaskContext | None,
        Optional["TaskContext"],
        Annotated[TaskContext | None, "injected"],
        "Annotated[TaskContext, Depends(get_context)]",
        "TaskContext | None",
        "Optional[receiver.TaskContext]",
    ],
)
def test_the_context_may_be_annotated_further_or_optional(annotation: Any) -> None:
    function = written("def f(ctx: A, n=1): ...", A=annotation)
    function.__annotations__["ctx"] = annotation
    assert describe(function).takes_context
    assert describe(function).shape.mismatch([1], {}) is None
    assert describe(function).shape.mismatch([1, 2], {}) is not None


class MyContext(TaskContext):
    """The receiver makes none of these."""


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def f(n, ctx: TaskContext): ...", "wrong place (ctx)"),
        ("def f(*, ctx: TaskContext): ...", "wrong place (ctx)"),
        ("def f(*ctx: TaskContext): ...", "wrong place (ctx)"),
        ("def f(ctx: TaskContext, other: TaskContext): ...", "wrong place (other)"),
        ("def f(n, ctx: 'TaskContext | None' = None): ...", "wrong place (ctx)"),
        (
            "def f(ctx: 'TaskContext | str'): ...",
            "a parameter ctx that is annotated with something else than a plain",
        ),
        (
            "def f(ctx: list[TaskContext]): ...",
            "a parameter ctx that is annotated with something else than a plain",
        ),
        ("def f(ctx: MyContext): ...", "a parameter ctx that is annotated with something else than a plain"),
        ("class Mailer:\n    def send(self, n): ...\nf = Mailer.send", "is a method"),
        ("class Mailer:\n    def send(self, n): ...\nf = Mailer().send", "is a method"),
        ("class Mailer:\n    @classmethod\n    def send(cls, n): ...\nf = Mailer.send", "is a method"),
        ("class f: ...", "is not a function"),
        ("f = lambda: 1", "is a lambda"),
        ("def f(): yield 1", "is a generator"),
        ("async def f(): yield 1", "is a generator"),
    ],
)
def test_what_cannot_be_called_with_a_message_is_refused_in_one_line(source: str, says: str) -> None:
    with pytest.raises(NotATask) as refused:
        describe(written(source, TaskContext=TaskContext, MyContext=MyContext))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_function_of_a_function_or_of_a_class_without_its_object_is_a_task() -> None:
    def nested(n: int) -> None: ...

    static = written("class Mailer:\n    @staticmethod\n    def send(n): ...\nf = Mailer.send")
    for function in (nested, static):
        assert describe(function).shape.mismatch([1], {}) is None


def with_db(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the function a connection."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function("the database", *args, **kwargs)

    return wrapper


def test_a_decorator_that_takes_anything_may_supply_arguments() -> None:
    """Nobody can read from it what it passes on: what it is called with is its own."""

    def save(db: object, user_id: int, *, name: str = "") -> None: ...

    shape = describe(with_db(save)).shape
    assert shape.mismatch([7], {}) is None
    assert shape.mismatch([], {"user_id": 7}) is None
    assert shape.mismatch([7], {"name": "x"}) is None
    TaskRoute(with_db(written("def f(db): ...")), schedule="0 3 * * *")


def test_a_decorator_with_parameters_of_its_own_is_called_with_those() -> None:
    def save(db: object, user_id: int) -> None: ...

    @functools.wraps(save)
    def wrapper(user_id: int) -> None:
        save("the database", user_id)

    shape = describe(wrapper).shape
    assert shape.mismatch([7], {}) is None
    assert shape.mismatch([], {}) is not None
    assert shape.mismatch(["db", 7], {}) is not None
    wrapper.__signature__ = inspect.signature(lambda order: None)  # type: ignore[attr-defined]  # as wrapt and others set it
    assert describe(wrapper).shape.mismatch([], {"order": 1}) is None


def test_a_decorator_in_c_passes_everything_on() -> None:
    cached = functools.cache(written("def f(n): ..."))
    assert describe(cached).shape.mismatch([1], {}) is None
    assert describe(cached).shape.mismatch([], {}) is not None


def test_a_decorated_function_keeps_its_context() -> None:
    def inner(ctx: TaskContext, user_id: str) -> None: ...

    @functools.wraps(inner)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    @functools.wraps(inner)
    def named(ctx: TaskContext, *args: Any, **kwargs: Any) -> None: ...

    for decorated in (wrapper, named):
        assert describe(decorated).takes_context
        assert describe(decorated).shape.mismatch(["1"], {}) is None
        assert describe(decorated).shape.mismatch([], {"ctx": 1}) is not None


def test_a_decorated_function_means_the_context_of_its_own_module() -> None:
    inner = written("def f(ctx: 'Ctx'): ...", Ctx=TaskContext)

    @functools.wraps(inner)
    def wrapper(*args: Any) -> None: ...

    assert describe(wrapper).takes_context


def test_a_keyword_may_be_called_as_a_positional_only_parameter_is() -> None:
    assert describe(written("def f(a, /, **more): ...")).shape.mismatch([1], {"a": 1}) is None


def test_a_decorator_that_is_a_class_may_be_async() -> None:
    class Decorator:
        def __init__(self, function: Callable[..., Any]) -> None:
            functools.update_wrapper(self, function)

        async def __call__(self, *args: Any) -> None: ...

    def inner(user_id: str) -> None: ...

    assert describe(Decorator(inner)).is_async
    assert describe(Decorator(inner)).shape.mismatch([], {"user_id": 1}) is not None


@pytest.mark.parametrize(
    ("source", "args", "kwargs", "says"),
    [
        ("def f(a): ...", [], {}, "missing a required argument: 'a'"),
        ("def f(a): ...", [1, 2], {}, "too many positional arguments"),
        ("def f(a): ...", [1], {"a": 1}, "multiple values for argument 'a'"),
        ("def f(a): ...", [1], {"b": 1}, "unexpected keyword argument 'b'"),
        ("def f(*, k): ...", [], {}, "missing a required"),
        ("def f(a, /): ...", [], {"a": 1}, "positional"),
        ("def f(ctx: 'TaskContext', a): ...", [], {}, "missing a required argument: 'a'"),
        ("def f(ctx: 'TaskContext', **kw): ...", [], {"ctx": 1}, "the receiver fills in"),
    ],
)
def test_a_mismatch_says_why(source: str, args: list[Any], kwargs: dict[str, Any], says: str) -> None:
    assert says in str(describe(written(source)).shape.mismatch(args, kwargs))


HEADS = ["", "ctx: 'TaskContext'", "ctx: 'TaskContext', /"]
ONLY = ["", "a, /", "a, b=1, /", "a=0, b=1, /"]
NAMED = ["", "c", "c, d=1", "c=0, d=1"]
VARIADIC = ["", "*rest"]
KEYWORD = ["", "k", "k, l=1", "k=0"]
EXTRA = ["", "**more"]


@st.composite
def functions(draw: st.DrawFn) -> str:
    """The parameter lists of functions of every kind, with and without a context."""
    head, only, named, variadic, keyword, extra = (
        draw(st.sampled_from(choices)) for choices in (HEADS, ONLY, NAMED, VARIADIC, KEYWORD, EXTRA)
    )
    if only and head.endswith("/"):
        head = HEADS[1]
    if "=0" in only and named in {"c", "c, d=1"}:
        named = NAMED[3]
    if "=1" in only and named in {"c", "c, d=1"}:
        named = NAMED[3]
    star = variadic or ("*" if keyword else "")
    return ", ".join(part for part in (head, only, named, star, keyword, extra) if part)


@given(
    functions(),
    st.lists(st.integers(), max_size=6),
    st.dictionaries(
        st.sampled_from(["a", "b", "c", "d", "k", "l", "ctx", "rest", "more", "x", "self"]), st.none()
    ),
)
def test_arguments_fit_exactly_when_the_call_succeeds(
    parameters: str, args: list[int], kwargs: dict[str, None]
) -> None:
    function = written(f"def f({parameters}): ...")
    found = describe(function)
    context = ["ctx"] if found.takes_context else []
    try:
        function(*context, *args, **kwargs)
    except TypeError:
        fits = False
    else:
        fits = True
    assert (found.shape.mismatch(args, kwargs) is None) is fits
