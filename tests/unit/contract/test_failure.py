"""Whatever a task raises, its failure is text that PostgreSQL stores, bounded, and soon there."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, Never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.contract.failure import MESSAGE_LIMIT, NAME_LIMIT, TRACEBACK_LIMIT, Failure, error_type
from receiver.text import clean

HUGE = 50_000_000
SOON = 15.0
"""Seconds. It takes milliseconds; formatted whole, these would take many seconds and gigabytes."""


class HostileText(str):
    """Lies about everything that text can be asked."""

    __slots__ = ()

    def __len__(self) -> int:
        return 3

    def __getitem__(self, _: Any) -> Never:
        raise KeyboardInterrupt

    def replace(self, *_: Any) -> str:
        return "\0" * 1_000_000

    def encode(self, *_: Any) -> Never:
        raise KeyboardInterrupt


class Unprintable:
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class RaisingStr(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class NoStr(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307 - it lies


class LyingStr(Exception):
    def __str__(self) -> str:
        return HostileText("evil\0" * 100_000)


class RecursiveStr(Exception):
    def __str__(self) -> str:
        return str(self)


def liar(attribute: str) -> type[Exception]:
    def lie(self: Exception) -> Never:
        raise SystemExit(attribute)

    return type("Liar", (Exception,), {attribute: property(lie)})


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise SystemExit(name)


def of_a_hostile_class() -> BaseException:
    class HostileClass(Exception, metaclass=Meta):  # not where pytest would ask it for its attributes
        pass

    return raised(HostileClass("x"))


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301 - for its traceback
    except BaseException as caught:  # noqa: BLE001 - some of them are no Exceptions
        return caught


def recursion() -> BaseException:
    def again(n: int) -> int:
        return again(n + 1)

    try:
        again(0)
    except RecursionError as error:
        return error
    raise AssertionError


def recursion_with_a_context_each() -> BaseException:
    def again(n: int) -> None:
        try:
            again(n + 1)
        except RecursionError:
            raise ValueError(n) from None
        finally:
            raise KeyError(n)

    try:
        again(0)
    except KeyError as error:
        return error
    raise AssertionError


def chain(length: int) -> BaseException:
    error = ValueError("the first")
    for number in range(length):
        following = ValueError(f"number {number}")
        following.__cause__ = error
        error = following
    return error


def circle() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def nested_groups(depth: int) -> BaseException:
    error: Exception = ValueError("the innermost")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


def unfolding_groups() -> BaseException:
    """Thirteen objects; walked as a tree they are 10 ** 12."""
    error: Exception = ValueError("x")
    for _ in range(12):
        error = ExceptionGroup("group", [error] * 10)
    return error


def woven() -> BaseException:
    """Chains within groups within chains."""
    error: Exception = ValueError("x")
    for _ in range(50):
        following = ExceptionGroup("group", [error] * 5)
        following.__cause__ = error
        error = following
    return error


def with_notes(notes: Any) -> BaseException:
    error = ValueError("x")
    error.__dict__["__notes__"] = notes
    return raised(error)


def syntax_error() -> BaseException:
    return SyntaxError("bad", ("f.py", 1, 1, "x" * HUGE))


def endless() -> Iterator[str]:
    while True:
        yield "note"


HOSTILE: dict[str, Callable[[], BaseException]] = {
    "__str__ raises SystemExit": lambda: raised(RaisingStr()),
    "__str__ returns a number": lambda: raised(NoStr()),
    "__str__ returns lying text": lambda: raised(LyingStr()),
    "__str__ recurses": lambda: raised(RecursiveStr()),
    "arguments cannot be shown": lambda: raised(ValueError(Unprintable())),
    "NUL": lambda: raised(ValueError("a\0b")),
    "lone surrogates": lambda: raised(ValueError("\ud800 \udfff")),
    "ANSI": lambda: raised(ValueError("\x1b[31mred\x1b]0;title\x07")),
    "a message of 50 MB": lambda: raised(ValueError("x" * HUGE)),
    "a message of 25 million lines": lambda: raised(ValueError("x\n" * (HUGE // 2))),
    "a message of 50 million NUL": lambda: raised(ValueError("\0" * HUGE)),
    "recursion": recursion,
    "recursion with contexts": recursion_with_a_context_each,
    "100 000 causes": lambda: chain(100_000),
    "a circle of causes": circle,
    "groups 1 000 deep": lambda: nested_groups(1_000),
    "groups 50 000 deep": lambda: nested_groups(50_000),
    "a group 10 000 wide": lambda: raised(ExceptionGroup("group", [ValueError("x" * 9_000)] * 10_000)),
    "groups that unfold": unfolding_groups,
    "groups and causes woven": woven,
    "a note of 50 MB": lambda: with_notes(["n" * HUGE]),
    "a million notes": lambda: with_notes(["n"] * 1_000_000),
    "endless notes": lambda: with_notes(endless()),
    "notes that cannot be shown": lambda: with_notes([Unprintable(), "\0"]),
    "notes that lie": lambda: with_notes([HostileText("evil")]),
    "__class__ lies": lambda: raised(liar("__class__")()),
    "__cause__ lies": lambda: raised(liar("__cause__")()),
    "__context__ lies": lambda: raised(liar("__context__")()),
    "__traceback__ lies": lambda: raised(liar("__traceback__")()),
    "__notes__ lies": lambda: raised(liar("__notes__")()),
    "__dict__ lies": lambda: raised(liar("__dict__")()),
    "the class lies": of_a_hostile_class,
    "a class without a module": lambda: raised(type("Homeless", (Exception,), {"__module__": None})("x")),
    "a class with a long name": lambda: raised(type("A" * 100_000, (Exception,), {})("x")),
    "a class from a long module": lambda: raised(
        type("A", (Exception,), {"__module__": "m\0" * 99_999})("x")
    ),
    "a syntax error in a line of 50 MB": syntax_error,
}


def assert_storable(text: str, limit: int) -> None:
    assert type(text) is str
    assert len(text) <= limit
    assert "\0" not in text
    text.encode()


@pytest.mark.parametrize("name", HOSTILE)
def test_the_failure_of_any_exception_is_storable_bounded_and_soon_there(name: str) -> None:
    error = HOSTILE[name]()
    began = time.perf_counter()
    failure = Failure.of(error)
    assert time.perf_counter() - began < SOON
    assert_storable(failure.error_type, NAME_LIMIT)
    assert_storable(failure.message, MESSAGE_LIMIT)
    assert failure.traceback is not None
    assert_storable(failure.traceback, TRACEBACK_LIMIT)
    assert failure.error_type


@pytest.mark.parametrize(
    "name", ["a message of 25 million lines", "groups that unfold", "groups and causes woven"]
)
def test_a_failure_is_made_without_copying_what_is_huge(name: str) -> None:
    error = HOSTILE[name]()
    tracemalloc.start()
    try:
        Failure.of(error)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


@given(text=st.text(st.characters(exclude_categories=()), max_size=3_000), limit=st.integers(100, 1_000))
def test_clean_text_is_storable_and_within_its_limit(text: str, limit: int) -> None:
    assert_storable(clean(text, limit), limit)


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=500))
def test_text_that_can_be_stored_is_left_alone(text: str) -> None:
    assert clean(text, 500) == text


@given(text=st.text(st.characters(exclude_categories=())), note=st.text(st.characters(exclude_categories=())))
def test_any_message_and_note_can_be_recorded(text: str, note: str) -> None:
    error = ValueError(text)
    error.add_note(note)
    failure = Failure.of(error)
    assert failure.message == clean(text, MESSAGE_LIMIT)
    assert failure.traceback is not None
    assert clean(note, MESSAGE_LIMIT) in failure.traceback


def test_a_text_that_is_cut_keeps_both_ends_and_says_how_long_it_was() -> None:
    cut = clean("a" * 300 + "b" * 300, 200)
    assert cut.startswith("aaa")
    assert cut.endswith("bbb")
    assert "[cut: 600 characters in all]" in cut


def test_an_escape_counts_as_what_it_is_written_as() -> None:
    assert clean("\0\ud800", 100) == "\\x00\\ud800"
    assert len(clean("\0" * 100, 100)) <= 100


class OutOfStock(Exception):
    pass


def test_a_type_is_named_as_it_is_imported() -> None:
    assert error_type(ValueError()) == "ValueError"
    assert error_type(OutOfStock()) == f"{__name__}.OutOfStock"


def test_a_message_that_cannot_be_read_says_why() -> None:
    failure = Failure.of(RaisingStr())
    assert failure.message == "<the message could not be read: SystemExit>"


def test_a_traceback_reads_as_pythons_own() -> None:
    def ship() -> None:
        raise OutOfStock("sold out")

    def order() -> None:
        try:
            ship()
        except OutOfStock as error:
            raise ValueError("cannot order") from error

    with pytest.raises(ValueError, match="cannot order") as caught:
        order()
    caught.value.add_note("asked for 3")
    trail = Failure.of(caught.value).traceback
    assert trail is not None
    first, second = trail.split("\nThe above exception was the direct cause of the following exception:\n\n")
    assert first.startswith("Traceback (most recent call last):\n  File ")
    assert 'raise OutOfStock("sold out")' in first
    assert first.endswith(f"{__name__}.OutOfStock: sold out\n")
    assert second.endswith("ValueError: cannot order\nasked for 3\n")


def test_a_context_is_shown_unless_it_was_hidden() -> None:
    def wrong(*, hidden: bool) -> None:
        try:
            raise KeyError("first")  # noqa: TRY301 - it is the context
        except KeyError:
            if hidden:
                raise ValueError("second") from None
            raise ValueError("second")  # noqa: B904 - the context is what is tested

    for hidden in (True, False):
        with pytest.raises(ValueError, match="second") as caught:
            wrong(hidden=hidden)
        trail = Failure.of(caught.value).traceback
        assert trail is not None
        assert ("KeyError: 'first'" in trail) is not hidden
        assert ("During handling of the above exception" in trail) is not hidden


def test_the_members_of_a_group_are_shown() -> None:
    trail = Failure.of(ExceptionGroup("some", [ValueError(f"number {n}") for n in range(20)])).traceback
    assert trail is not None
    assert "ExceptionGroup: some (20 sub-exceptions)\n" in trail
    assert "ValueError: number 14\n" in trail
    assert "and 5 more exceptions" in trail


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (chain(200), "ValueError: number 199\n"),
        (unfolding_groups(), "ExceptionGroup: group (10 sub-exceptions)\n"),
        (woven(), "ExceptionGroup: group (5 sub-exceptions)\n"),
        (with_notes(["n"] * 1_000_000), "ValueError: x\n"),
    ],
    ids=["causes", "groups", "both", "notes"],
)
def test_of_too_many_exceptions_the_first_is_shown_and_the_cut_is_marked(
    error: BaseException, shown: str
) -> None:
    trail = Failure.of(error).traceback
    assert trail is not None
    assert trail.startswith("... [causes, members and notes are left out: there are too many]\n")
    assert trail.endswith(shown)


def test_a_source_that_cannot_be_looked_up_costs_only_the_traceback() -> None:
    class Loader:
        def get_source(self, name: str) -> str:
            raise SystemExit(name)

    scope: dict[str, Any] = {"__loader__": Loader(), "__name__": "hostile"}
    exec(compile("def f():\n    raise ValueError('x')\n", "hostile.py", "exec"), scope)  # noqa: S102 - this test's own
    with pytest.raises(ValueError, match="x") as caught:
        scope["f"]()
    failure = Failure.of(caught.value)
    assert failure.message == "x"
    assert failure.traceback == "<the traceback could not be formatted: SystemExit>"


def test_a_message_that_lies_about_itself_is_read_as_what_it_is() -> None:
    assert Failure.of(LyingStr()).message.startswith("evil\\x00evil\\x00")


def test_a_circle_of_causes_is_walked_once() -> None:
    trail = Failure.of(circle()).traceback
    assert trail is not None
    assert trail.count("ValueError: first") == trail.count("ValueError: second") == 1


@pytest.mark.parametrize("attribute", ["__class__", "__cause__", "__context__", "__traceback__", "__notes__"])
def test_an_exception_that_lies_about_itself_has_its_traceback_all_the_same(attribute: str) -> None:
    trail = Failure.of(raised(liar(attribute)("x"))).traceback
    assert trail is not None
    assert trail.startswith("Traceback (most recent call last):\n")
    assert trail.endswith("Liar: x\n")
