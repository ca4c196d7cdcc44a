"""What an exception wraps, read without asking the exception."""

from __future__ import annotations

import pytest
import tenacity

from receiver import PermanentError
from receiver.delivery.chain import MOST, chain, is_final


def with_slots(cause: BaseException | None = None, context: BaseException | None = None) -> BaseException:
    error = KeyError("outer")
    error.__cause__, error.__context__ = cause, context
    return error


def test_causes_contexts_and_members_of_groups_are_found() -> None:
    inner = ValueError("inner")
    hidden = with_slots(context=inner)
    hidden.__suppress_context__ = True  # `raise ... from None`
    for error in (with_slots(cause=inner), hidden, ExceptionGroup("all", [KeyError("first"), inner])):
        assert list(chain(error))[-1] is inner


def test_an_exception_alone_is_its_chain() -> None:
    error = ValueError()
    assert list(chain(error)) == [error]


def test_a_ring_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(chain(first)) == [first, second]


def test_a_long_chain_is_cut() -> None:
    last = first = ValueError()
    for _ in range(2 * MOST):
        last.__cause__ = last = ValueError()
    assert len(list(chain(first))) == MOST


def test_an_exception_that_lies_about_its_attributes_is_not_asked() -> None:
    class Liar(Exception):
        def __getattribute__(self, name: str) -> object:
            raise SystemExit(name)

    assert [type(each) for each in chain(Liar())] == [Liar]


def members(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("several", errors)


@tenacity.retry(stop=tenacity.stop_after_attempt(2))
def given_up(error: BaseException) -> None:
    """Retried by the real tenacity, whose `RetryError` follows."""
    raise error


def raised(error: BaseException) -> BaseException:
    with pytest.raises(tenacity.RetryError) as caught:
        given_up(error)
    return caught.value


def again(error: BaseException) -> BaseException:
    """The same error without its cause, as `raise error from None` makes it."""
    error.__cause__ = None
    return error


class Stopped(PermanentError):
    """A kind of it."""


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (PermanentError(), True),
        (Stopped(), True),
        (members(Stopped()), True),
        (members(ValueError(), PermanentError()), True),
        (members(ValueError(), members(KeyError(), PermanentError())), True),
        (BaseExceptionGroup("several", [KeyboardInterrupt(), PermanentError()]), True),
        (raised(PermanentError()), True),
        (raised(members(ValueError(), PermanentError())), True),
        (members(raised(PermanentError())), True),
        (again(raised(PermanentError())), True),
        (raised(raised(PermanentError())), True),
        (raised(ValueError()), False),
        (members(ValueError(), raised(ValueError())), False),
        (with_slots(cause=PermanentError()), False),
        (with_slots(context=PermanentError()), False),
        (ValueError(), False),
    ],
)
def test_a_permanent_error_is_final_in_a_group_and_behind_tenacity(
    error: BaseException, *, final: bool
) -> None:
    assert is_final(error) is final


def test_a_group_of_groups_of_itself_is_looked_at_once() -> None:
    error: BaseException = ValueError()
    for _ in range(2 * MOST):
        error = members(error)
    assert not is_final(error)
