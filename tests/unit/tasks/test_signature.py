"""What `describe` finds out, and that `mismatch` agrees with a real call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import receiver
import receiver.tasks.task
from receiver.tasks.signature import describe
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
        ("def f(ctx: 'list[TaskContext]'): ...", {}, False),
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


def test_a_decorated_function_keeps_its_signature_and_context() -> None:
    def inner(ctx: TaskContext, user_id: str) -> None: ...

    @functools.wraps(inner)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    found = describe(wrapper)
    assert found.takes_context
    assert found.shape.mismatch(["1"], {}) is None
    assert found.shape.mismatch([], {}) is not None


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
    assert describe(Decorator(inner)).shape.mismatch([], {}) is not None


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


class Mailer:
    def send(self, user_id: str, **more: Any) -> None: ...

    def post(self, /, **more: Any) -> None: ...


def test_the_object_of_a_bound_method_cannot_be_given_by_keyword() -> None:
    assert describe(Mailer().send).shape.mismatch(["1"], {"x": 1}) is None
    assert describe(Mailer().send).shape.mismatch(["1"], {"self": 1}) is not None
    assert describe(Mailer().post).shape.mismatch([], {"self": 1}) is None
